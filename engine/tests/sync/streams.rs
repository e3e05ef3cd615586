//! `turnpike stream`: both ways, without echoes, across a relay that goes away.

use super::common::{PATIENCE, Relay, RelayOptions, draft, turnpike_bin};
use super::proxy::Proxy;
use super::{SETUP, common::client::id_of};
use bench::Signer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A stream that runs.
struct Streaming {
    child: Child,
    lines: Receiver<String>,
}

impl Streaming {
    fn start(data_dir: &Path, url: &str, words: &[&str]) -> Self {
        let mut child = Command::new(turnpike_bin())
            .args(["stream", url, "--json", "--data-dir"])
            .arg(data_dir)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Self { child, lines }
    }

    fn until(&self, says: &str) {
        while !self.lines.recv_timeout(PATIENCE).expect("it says so").contains(says) {}
    }

    /// Ctrl-C; returns the totals.
    fn end(mut self) -> Value {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        serde_json::from_str(&text).unwrap()
    }
}

/// Publishes notes until one of them has come through: a subscription is made some time after the
/// connection is.
fn until_through(from: &Relay, to: &Relay, signer: &Signer) -> u64 {
    let (mut writer, mut reader) = (from.connect(), to.connect());
    let sub = reader.open(&[json!({"#t": ["through"], "limit": 0})]);
    assert!(reader.stored(&sub).unwrap().events.is_empty());
    reader.set_patience(std::time::Duration::from_millis(100));
    for number in 1..600 {
        let note = draft(1).tag(&["t", "through"]).content(&format!("{number}"));
        writer.post(signer, &note);
        if reader.has_message() {
            return number;
        }
    }
    panic!("nothing comes through");
}

#[test]
fn events_flow_both_ways_once_and_private_ones_stay() {
    let root = tempfile::tempdir().unwrap();
    let a = RelayOptions::new(SETUP).data_dir(&root.path().join("a")).start();
    let b = RelayOptions::new(SETUP).data_dir(&root.path().join("b")).start();
    let proxy = Proxy::start(b.address, false);
    let signer = |seed: u64| Signer::from_seed(4_000 + seed);
    let stored = a.connect().post(&signer(0), &draft(1).content("stored before"));
    let stream = Streaming::start(&a.data_dir, &proxy.url(), &["--dir", "both"]);
    stream.until("connected");
    until_through(&a, &b, &signer(1));
    until_through(&b, &a, &signer(2));
    let (mut at_a, mut at_b) = (a.connect(), b.connect());
    let sub_a = at_a.open(&[json!({"kinds": [7], "limit": 0})]);
    let sub_b = at_b.open(&[json!({"kinds": [7], "limit": 0})]);
    at_a.stored(&sub_a).unwrap();
    at_b.stored(&sub_b).unwrap();
    let to = signer(9).pubkey().to_hex();
    let mut private = Vec::new();
    for number in 0..50 {
        let wrap = draft(1059).tag(&["p", &to]).content(&format!("sealed {number}"));
        private.push(id_of(&at_a.post(&signer(10 + number), &wrap)));
        let up = at_a.post(&signer(3), &draft(7).content(&format!("up {number}")));
        assert_eq!(at_b.live(&sub_b)["id"], id_of(&up).as_str());
        assert_eq!(at_a.live(&sub_a)["id"], id_of(&up).as_str());
        let down = at_b.post(&signer(4), &draft(7).content(&format!("down {number}")));
        assert_eq!(at_a.live(&sub_a)["id"], id_of(&down).as_str());
        assert_eq!(at_b.live(&sub_b)["id"], id_of(&down).as_str());
    }
    let totals = stream.end();
    assert_eq!((totals["refused_here"].as_u64(), totals["dropped"].as_u64()), (Some(0), Some(0)));
    assert_eq!(totals["known"], 0, "nothing goes back to where it came from: {totals}");
    assert!(totals["uploaded"].as_u64().unwrap() > 50, "{totals}");
    let record = proxy.take();
    for id in private.iter().chain([&id_of(&stored)]) {
        assert!(!record.up.iter().chain(&record.down).any(|text| text.contains(id)), "{id}");
    }
}

#[test]
fn a_relay_that_goes_away_is_found_again() {
    let root = tempfile::tempdir().unwrap();
    let a = RelayOptions::new(SETUP).data_dir(&root.path().join("a")).start();
    let b = RelayOptions::new(SETUP).data_dir(&root.path().join("b")).start();
    let proxy = Proxy::start(b.address, false);
    let stream = Streaming::start(&a.data_dir, &proxy.url(), &["--filter", r#"{"kinds":[1]}"#]);
    stream.until("connected");
    until_through(&b, &a, &Signer::from_seed(5_001));
    proxy.cut_after(0);
    stream.until("trying again");
    stream.until("connected");
    until_through(&b, &a, &Signer::from_seed(5_002));
    let totals = stream.end();
    assert_eq!(totals["connections"], 2, "{totals}");
    assert_eq!(totals["uploaded"], 0, "{totals}");
}

#[test]
fn a_store_without_a_relay_takes_what_comes() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a");
    let b = RelayOptions::new(SETUP).data_dir(&root.path().join("b")).start();
    let stream = Streaming::start(&dir, &b.url, &[]);
    stream.until("connected");
    let proxy_signer = Signer::from_seed(6_001);
    let mut writer = b.connect();
    let mut last = String::new();
    for number in 0..40 {
        last = id_of(&writer.post(&proxy_signer, &draft(1).content(&format!("{number}"))));
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    // A subscription is made in time for the last of them, or the stream's totals say otherwise.
    let totals = stream.end();
    assert!(totals["downloaded"].as_u64().unwrap() > 0, "{totals}");
    assert!(super::public_ids(&dir).contains(&last));
}
