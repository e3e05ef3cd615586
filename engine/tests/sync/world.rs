//! Two stores with gaps, a deletion, a replacement and private events, and what a sync makes of them.

use super::common::client::{event_value, id_of};
use super::common::{now_s, turnpike};
use bench::{Draft, Signer};
use proto::Event;
use proto::nip::nip17;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// Seconds between two notes.
const STEP_S: u32 = 60;

pub struct World {
    pub a: Vec<Event>,
    pub b: Vec<Event>,
    /// The victim of a deletion that only `b` has, and a profile that `b` has a newer one of.
    gone: BTreeSet<String>,
    /// Date of the first note.
    pub base_s: u32,
}

pub fn is_private(event: &Event) -> bool {
    nip17::is_private(event.view().kind())
}

impl World {
    pub fn new(notes: u32) -> Self {
        let base_s = now_s() - notes * STEP_S - 10_000;
        let signers: Vec<Signer> = (0..16).map(|seed| Signer::from_seed(900 + seed)).collect();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for number in 0..notes {
            let at = base_s + number * STEP_S;
            let signer = &signers[number as usize % signers.len()];
            let note = signer.sign(&Draft::new(1, at).content(&format!("note {number}")));
            if number % 5 != 0 {
                a.push(note.clone());
            }
            if number % 7 != 0 {
                b.push(note);
            }
        }
        let end = base_s + notes * STEP_S;
        let alice = &signers[0];
        let victim = alice.sign(&Draft::new(1, end).content("a mistake"));
        let deletion = alice.sign(&Draft::new(5, end + 10).tag(&["e", &id_of(&victim)]));
        let profile = |at| alice.sign(&Draft::new(0, at).content(r#"{"name":"alice"}"#));
        let (old, new) = (profile(end), profile(end + 20));
        let gone = [id_of(&victim), id_of(&old)].into();
        a.extend([victim, old]);
        b.extend([deletion, new]);
        let to = alice.pubkey().to_hex();
        for (number, events) in [&mut a, &mut b].into_iter().enumerate() {
            for copy in 0..10 {
                let one_time = Signer::from_seed(7_000 + 100 * number as u64 + copy);
                let at = end - 500 + copy as u32;
                let kind = if copy % 2 == 0 { 4 } else { 1059 };
                let draft = Draft::new(kind, at).tag(&["p", &to]).content("cipher?iv=AA==");
                events.push(one_time.sign(&draft));
            }
        }
        Self { a, b, gone, base_s }
    }

    pub fn private_ids(&self) -> BTreeSet<String> {
        let all = self.a.iter().chain(&self.b);
        let ids: BTreeSet<String> = all.filter(|event| is_private(event)).map(id_of).collect();
        assert_eq!(ids.len(), 20);
        ids
    }

    fn public(events: &[Event]) -> BTreeSet<String> {
        events.iter().filter(|event| !is_private(event)).map(id_of).collect()
    }

    /// How many public events only the one and only the other has.
    pub fn differences(&self) -> (u64, u64) {
        let (a, b) = (Self::public(&self.a), Self::public(&self.b));
        (a.difference(&b).count() as u64, b.difference(&a).count() as u64)
    }

    /// What both have of public events after a sync.
    pub fn public_after(&self) -> BTreeSet<String> {
        let mut all = Self::public(&self.a);
        all.extend(Self::public(&self.b));
        &all - &self.gone
    }
}

/// `events` as JSON lines.
pub fn write_lines(path: &Path, events: &[Event]) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    for event in events {
        writeln!(file, "{}", event_value(event)).unwrap();
    }
    file.flush().unwrap();
}

/// A store that holds `events`.
pub fn seed(data_dir: &Path, events: &[Event]) {
    let lines = data_dir.with_extension("jsonl");
    write_lines(&lines, events);
    turnpike(data_dir, &["import", lines.to_str().unwrap(), "--shards", "2"]).success();
}

/// Ids of the public events of a store, whether a relay holds it or not.
pub fn public_ids(data_dir: &Path) -> BTreeSet<String> {
    let lines = turnpike(data_dir, &["export"]).success();
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let public = events.filter(|event| {
        let kind = event["kind"].as_u64().unwrap();
        !nip17::is_private(u16::try_from(kind).unwrap())
    });
    public.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}
