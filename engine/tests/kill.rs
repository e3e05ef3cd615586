//! `kill -9` under load, many times over: whatever the client was told is stored is stored, and
//! whatever it was told is refused is never served.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

mod common;

use bench::rng::Rng;
use bench::{Draft, Signer};
use common::client::{Client, event_value, id_of};
use common::{RelayOptions, Runtime, Setup, env_number, now_s, turnpike_bin};
use proto::Event;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections that write at once.
const WRITERS: u64 = 4;
/// Events that each of them has under way.
const WINDOW: usize = 48;
/// Ids per query: the greatest limit of the relay.
const IDS_PER_QUERY: usize = 500;
/// Events of earlier rounds that are looked up again after each kill; the last kill looks at all.
const SAMPLE: usize = 1_000;

/// What a client knows after its connection broke.
#[derive(Default)]
struct Knowledge {
    /// `OK true` was received, and no deletion was sent.
    stored: BTreeMap<String, Event>,
    /// `OK false` was received, or a deletion of it got `OK true`.
    absent: BTreeSet<String>,
}

impl Knowledge {
    fn merge(&mut self, other: Self) {
        self.stored.extend(other.stored);
        self.absent.extend(other.absent);
    }
}

#[derive(Clone)]
enum Sent {
    Good(Event),
    Bad(Event),
    /// The deletion of the event with this id.
    Deletion(Event, String),
}

impl Sent {
    fn event(&self) -> &Event {
        match self {
            Self::Good(event) | Self::Bad(event) | Self::Deletion(event, _) => event,
        }
    }
}

/// One connection's load: notes, reactions, addressable events, one in ten invalid, and deletions of
/// what was stored before.
struct Load {
    rng: Rng,
    signer: Signer,
    made: u64,
    knowledge: Knowledge,
    sent: BTreeMap<String, Sent>,
}

impl Load {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            signer: Signer::from_seed(seed),
            made: 0,
            knowledge: Knowledge::default(),
            sent: BTreeMap::new(),
        }
    }

    fn next(&mut self) -> Sent {
        self.made += 1;
        let bytes = self.rng.between(1, 900) as usize;
        let draft = |kind| Draft::new(kind, now_s()).tag(&["t", "load"]);
        match self.rng.below(20) {
            0 | 1 => {
                let event = self.signer.sign(&draft(1).content(&format!("bad {}", self.made)));
                let mut parts = event.view().parts();
                parts.sig.0[63] ^= 1;
                Sent::Bad(parts.pack())
            }
            2 if self.knowledge.stored.len() > 20 => {
                // Deleting a deletion has no effect.
                let notes = self.knowledge.stored.iter().filter(|(_, e)| e.view().kind() != 5);
                let Some(victim) = notes.map(|(id, _)| id.clone()).nth(self.rng.index(10)) else {
                    return self.next();
                };
                // From here on nobody can know whether it is there, until OK says that it is not.
                self.knowledge.stored.remove(&victim);
                let event = self.signer.sign(&draft(5).tag(&["e", &victim]));
                Sent::Deletion(event, victim)
            }
            3 => {
                let d = format!("{}", self.made);
                Sent::Good(self.signer.sign(&draft(30_078).tag(&["d", &d]).content(&d)))
            }
            _ => {
                let content = format!("{} {}", self.made, "x".repeat(bytes));
                Sent::Good(self.signer.sign(&draft(1).content(&content)))
            }
        }
    }

    fn learn(&mut self, ok: &Value) {
        let id = ok[1].as_str().unwrap();
        let accepted = ok[2].as_bool().unwrap();
        match self.sent.remove(id).expect("an OK for what was sent, once") {
            Sent::Good(event) => {
                assert!(accepted, "{ok}");
                self.knowledge.stored.insert(id.to_owned(), event);
            }
            Sent::Bad(_) => {
                assert!(!accepted, "{ok}");
                self.knowledge.absent.insert(id.to_owned());
            }
            Sent::Deletion(event, victim) => {
                assert!(accepted, "{ok}");
                self.knowledge.stored.insert(id.to_owned(), event);
                self.knowledge.absent.insert(victim);
            }
        }
    }

    /// Writes until the connection breaks.
    fn run(mut self, address: SocketAddr) -> Knowledge {
        let mut client = Client::connect(address);
        loop {
            while self.sent.len() < WINDOW {
                let sent = self.next();
                let text = json!(["EVENT", event_value(sent.event())]).to_string();
                self.sent.insert(id_of(sent.event()), sent);
                if client.try_send_text(&text).is_err() {
                    break;
                }
            }
            match client.try_recv() {
                Ok(message) if message[0] == "OK" => self.learn(&message),
                Ok(message) => panic!("unexpected {message}"),
                Err(_) => return self.knowledge,
            }
        }
    }
}

/// Fetches `ids` and returns what the relay serves of them.
fn served(client: &mut Client, ids: &[&String]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for part in ids.chunks(IDS_PER_QUERY) {
        for event in client.query(&json!({"ids": part})).events {
            found.insert(event["id"].as_str().unwrap().to_owned(), event);
        }
    }
    found
}

fn check(client: &mut Client, stored: &[(&String, &Event)], absent: &[&String], round: u64) {
    let ids: Vec<&String> = stored.iter().map(|(id, _)| *id).collect();
    let found = served(client, &ids);
    for (id, event) in stored {
        let served = found.get(*id);
        assert!(served.is_some(), "round {round}: {event:?} was acknowledged and is lost");
        assert_eq!(served, Some(&event_value(event)), "round {round}");
    }
    let wrong = served(client, absent);
    assert!(wrong.is_empty(), "round {round}: refused or deleted, yet served: {wrong:?}");
}

fn sample<T>(rng: &mut Rng, mut list: Vec<T>) -> Vec<T> {
    while list.len() > SAMPLE {
        let index = rng.index(list.len());
        list.swap_remove(index);
    }
    list
}

/// Kills a relay `kills` times under load, on one directory, with the runtimes in turn.
fn kill_loop(binary: &Path, kills: u64) {
    let seed = env_number("TURNPIKE_SEED", u64::from(now_s()));
    println!("TURNPIKE_SEED={seed}");
    let mut rng = Rng::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let setups: Vec<Setup> = [Runtime::Epoll, Runtime::IoUring]
        .map(|runtime| Setup::new(runtime, 2))
        .into_iter()
        .filter(Setup::is_enabled)
        .collect();
    // Small segments and frequent checkpoints, so that kills fall into their making, too.
    let start = |round: u64| {
        RelayOptions::new(setups[round as usize % setups.len()])
            .binary(binary)
            .data_dir(&data_dir)
            .config("[store]\nsegment_mib = 4\ncheckpoint_events = 1500\n")
            .start()
    };
    let mut all = Knowledge::default();
    for round in 0..kills {
        let mut relay = start(round);
        let mut client = relay.connect();
        let stored = sample(&mut rng, all.stored.iter().collect());
        let absent = sample(&mut rng, all.absent.iter().collect());
        check(&mut client, &stored, &absent, round);
        let address = relay.address;
        let pause = Duration::from_millis(rng.between(30, 400));
        let round_seed = rng.next_u64();
        let learned = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| scope.spawn(move || Load::new(round_seed ^ writer).run(address)))
                .collect();
            std::thread::sleep(pause);
            relay.kill();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        // What this round was told is looked up in full at once.
        let again = start(round + 1);
        let mut client = again.connect();
        for knowledge in learned {
            let stored: Vec<_> = knowledge.stored.iter().collect();
            let absent: Vec<_> = knowledge.absent.iter().collect();
            check(&mut client, &stored, &absent, round);
            all.merge(knowledge);
        }
    }
    let relay = start(0);
    let stored: Vec<_> = all.stored.iter().collect();
    let absent: Vec<_> = all.absent.iter().collect();
    check(&mut relay.connect(), &stored, &absent, kills);
    println!("{kills} kills, {} events acknowledged, {} refused", stored.len(), absent.len());
    // A loop that killed before anything was under way would prove nothing.
    assert!(stored.len() as u64 > 20 * kills, "{} events in {kills} kills", stored.len());
    assert!(absent.len() as u64 > kills);
}

#[test]
fn what_was_acknowledged_survives_every_kill() {
    kill_loop(&turnpike_bin(), env_number("TURNPIKE_KILLS", 50));
}

/// A kill leaves the page cache alone, so it cannot see a missing sync: the build that skips them
/// passes here and fails in `durability`, which shows what each of the two tests is worth.
#[test]
fn a_build_without_syncs_survives_kills_too() {
    let Some(binary) = std::env::var_os("TURNPIKE_BIN_SKIP_SYNC").map(PathBuf::from) else {
        eprintln!("not run: TURNPIKE_BIN_SKIP_SYNC names no build with the syncs skipped");
        return;
    };
    kill_loop(&binary, env_number("TURNPIKE_KILLS", 50).min(10));
}
