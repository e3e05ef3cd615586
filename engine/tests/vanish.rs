//! A request to vanish (NIP-62), seen from outside: nothing of the key is served from the moment the
//! request is accepted, nothing comes back, and after a compaction its bytes are in no segment file;
//! all of it across `kill -9` and restart.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

mod common;

use bench::{Draft, Signer};
use common::client::{Client, id_of};
use common::{Relay, RelayOptions, Runtime, Setup, now_s, turnpike};
use proto::{Event, Reason};
use serde_json::json;
use std::cell::Cell;
use std::path::Path;

/// In the content of everything that has to go.
const MARK: &str = "these-bytes-have-to-go";
/// In the content of everything that stays.
const KEPT: &str = "these-bytes-stay";

struct Cast {
    leaver: Signer,
    others: Vec<Signer>,
    /// Events that go, with the reason that their second coming is refused with.
    going: Vec<(Event, Reason)>,
    kept: Vec<Event>,
    request: Event,
    /// How often somebody has looked whether anything comes back.
    looks: Cell<u64>,
}

/// A wrap by a throw-away key for `recipient`.
fn wrap(author: &Signer, recipient: &Signer, at: u32, content: &str) -> Event {
    author.sign(&Draft::new(1_059, at).tag(&["p", &recipient.pubkey().to_hex()]).content(content))
}

fn cast() -> Cast {
    let at = now_s() - 1_000;
    let leaver = Signer::from_seed(1);
    let others: Vec<Signer> = (2..12).map(Signer::from_seed).collect();
    let mut going = Vec::new();
    let mut kept = Vec::new();
    for index in 0..200_u32 {
        let text = format!("{MARK} {index}");
        going.push((leaver.sign(&Draft::new(1, at + index).content(&text)), Reason::Vanished));
        let other = &others[index as usize % others.len()];
        let text = format!("{KEPT} {index}");
        kept.push(other.sign(&Draft::new(1, at + index).content(&text)));
    }
    let profile = Draft::new(0, at).content(MARK);
    let article = Draft::new(30_023, at).tag(&["d", "x"]).content(MARK);
    let deletion = Draft::new(5, at).tag(&["e", &"ab".repeat(32)]).content(MARK);
    for draft in [profile, article, deletion] {
        going.push((leaver.sign(&draft), Reason::Vanished));
    }
    for (index, other) in others.iter().enumerate() {
        let throw_away = Signer::from_seed(100 + index as u64);
        // To the leaver: gone, and its id marked by the leaver.
        going.push((wrap(&throw_away, &leaver, at, MARK), Reason::Deleted));
        // By the leaver, in the shards of all others.
        going.push((wrap(&leaver, other, at, MARK), Reason::Vanished));
        kept.push(wrap(&throw_away, other, at, KEPT));
    }
    let request = Draft::new(62, now_s() - 100).tag(&["relay", "ALL_RELAYS"]).content("good bye");
    let request = leaver.sign(&request);
    Cast { leaver, others, going, kept, request, looks: Cell::new(0) }
}

/// Whether any log segment under `directory` holds `needle`.
fn is_on_disk(directory: &Path, needle: &str) -> bool {
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "seg") {
                let bytes = std::fs::read(&path).unwrap();
                if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                    return true;
                }
            }
        }
    }
    false
}

impl Cast {
    /// Authenticated as everyone, so that wraps would be served if there were any.
    fn reader(&self, relay: &Relay) -> Client {
        let mut client = relay.connect();
        client.auth(&self.leaver);
        for other in &self.others {
            client.auth(other);
        }
        client
    }

    fn everything_is_served(&self, client: &mut Client) {
        for (event, _) in &self.going {
            assert_eq!(client.query_ids(&json!({"ids": [id_of(event)]})).len(), 1);
        }
    }

    fn nothing_is_served(&self, client: &mut Client) {
        let key = self.leaver.pubkey().to_hex();
        // What the key publishes after its request is another life.
        let until = self.request.view().created_at();
        let of_key = json!({"authors": [key], "until": until});
        assert_eq!(client.query_ids(&of_key), [id_of(&self.request)]);
        assert_eq!(client.count(&[of_key]), Ok(1));
        let ids: Vec<String> = self.going.iter().map(|(event, _)| id_of(event)).collect();
        for part in ids.chunks(100) {
            assert!(client.query_ids(&json!({"ids": part})).is_empty());
            assert_eq!(client.count(&[json!({"ids": part})]), Ok(0));
        }
        let kept: Vec<String> = self.kept.iter().map(id_of).collect();
        for part in kept.chunks(100) {
            assert_eq!(client.query_ids(&json!({"ids": part})).len(), part.len());
        }
    }

    fn nothing_comes_back(&self, client: &mut Client) {
        for (event, reason) in &self.going {
            assert_eq!(client.publish(event), (false, reason.message().to_owned()));
        }
        // A wrap that is new is none of those that were there, nor one of an earlier look in this second.
        let looks = self.looks.replace(self.looks.get() + 1);
        let throw_away = Signer::from_seed(999 + looks);
        let again = wrap(&throw_away, &self.leaver, now_s() - 500, KEPT);
        let answer = client.publish(&again);
        assert!(answer.0, "{answer:?}");
        let deletion = Draft::new(5, now_s()).tag(&["e", &id_of(&again)]);
        assert!(client.publish(&self.leaver.sign(&deletion)).0);
    }
}

fn vanishes(setup: Setup) {
    if !setup.is_enabled() {
        return;
    }
    let cast = cast();
    let mut relay = setup.start();
    let directory = relay.data_dir.clone();
    {
        let mut client = cast.reader(&relay);
        for event in cast.going.iter().map(|(event, _)| event).chain(&cast.kept) {
            client.accept(event);
        }
        cast.everything_is_served(&mut client);
        // A request that names others changes nothing, and says so.
        let elsewhere = Draft::new(62, now_s()).tag(&["relay", "wss://elsewhere.example"]);
        let refused = (false, Reason::VanishOtherRelay.message().to_owned());
        assert_eq!(client.publish(&cast.leaver.sign(&elsewhere)), refused);
        cast.everything_is_served(&mut client);
        client.accept(&cast.request);
        cast.nothing_is_served(&mut client);
    }
    assert!(is_on_disk(&directory, MARK), "the removal itself is a matter of compaction");
    // In the middle of the removal, or before it has begun.
    relay.kill();
    let mut relay = RelayOptions::new(setup).data_dir(&directory).start();
    let mut client = cast.reader(&relay);
    cast.nothing_is_served(&mut client);
    cast.nothing_comes_back(&mut client);
    let compacted = relay.command(&["compact"]);
    assert_eq!(compacted.code, Some(0), "{}", compacted.stderr);
    assert!(!is_on_disk(&directory, MARK), "bytes of the key are in a segment");
    assert!(is_on_disk(&directory, KEPT));
    let mut client = cast.reader(&relay);
    cast.nothing_is_served(&mut client);
    relay.kill();
    let mut relay = RelayOptions::new(setup).data_dir(&directory).start();
    let mut client = cast.reader(&relay);
    cast.nothing_is_served(&mut client);
    cast.nothing_comes_back(&mut client);
    assert!(relay.terminate().success(), "{}", relay.stderr());
    // The same when the index is built again from what the log still holds.
    assert_eq!(turnpike(&directory, &["reindex"]).code, Some(0));
    let relay = RelayOptions::new(setup).data_dir(&directory).start();
    let mut client = cast.reader(&relay);
    cast.nothing_is_served(&mut client);
    cast.nothing_comes_back(&mut client);
    assert!(!is_on_disk(&directory, MARK));
}

#[test]
fn a_key_vanishes_epoll_1() {
    vanishes(Setup::new(Runtime::Epoll, 1));
}

#[test]
fn a_key_vanishes_epoll_8() {
    vanishes(Setup::new(Runtime::Epoll, 8));
}

#[test]
fn a_key_vanishes_io_uring_2() {
    vanishes(Setup::new(Runtime::IoUring, 2));
}

/// While requests to vanish are being carried out, the process is killed again and again.
#[test]
fn a_removal_that_is_interrupted_is_completed() {
    let setup = Setup::new(Runtime::Epoll, 2);
    if !setup.is_enabled() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let leavers: Vec<Signer> = (1..6).map(Signer::from_seed).collect();
    let at = now_s() - 10_000;
    let mut relay = RelayOptions::new(setup).data_dir(&data_dir).start();
    let mut client = relay.connect();
    for index in 0..3_000_u32 {
        let signer = &leavers[index as usize % leavers.len()];
        let draft = Draft::new(1, at + index).content(&format!("{MARK} {index}"));
        client.send(&json!(["EVENT", common::client::event_value(&signer.sign(&draft))]));
    }
    for _ in 0..3_000 {
        let answer = client.recv_where(|value| value[0] == "OK");
        assert_eq!(answer[2], true, "{answer}");
    }
    for (round, leaver) in leavers.iter().enumerate() {
        let request = Draft::new(62, now_s()).tag(&["relay", "ALL_RELAYS"]);
        client.accept(&leaver.sign(&request));
        std::thread::sleep(std::time::Duration::from_millis(round as u64 * 7));
        relay.kill();
        relay = RelayOptions::new(setup).data_dir(&data_dir).start();
        client = relay.connect();
        for gone in &leavers[..=round] {
            let left = client.count(&[json!({"authors": [gone.pubkey().to_hex()]})]);
            assert_eq!(left, Ok(1), "only the request is left");
        }
    }
    assert_eq!(relay.command(&["compact"]).code, Some(0));
    assert!(!is_on_disk(&data_dir, MARK));
    assert_eq!(client.count(&[json!({})]), Ok(leavers.len() as u64));
}
