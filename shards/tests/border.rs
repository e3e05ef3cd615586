//! The border between stored and live events: while events commit, every subscription gets every
//! matching event exactly once, as a stored row or live, whatever the order in which messages,
//! reads, writes and checkpoints happen.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use bench::rng::Rng;
use common::{Remembering, Setup, World};
use proto::{ClientMessage, Event, EventId, Filter, Reason};
use shards::home::{HomeInput, Reply};
use shards::message::Client;
use std::collections::{BTreeMap, BTreeSet};

const COMMITS_BEFORE_EOSE: usize = 1_000;

/// What one subscription has seen.
#[derive(Default)]
struct Seen {
    stored: Vec<EventId>,
    live: Vec<EventId>,
    eose: bool,
    closed: Option<Reason>,
}

#[derive(Default)]
struct Log {
    seen: BTreeMap<Client, Seen>,
    accepted: BTreeSet<EventId>,
}

impl Log {
    fn take(&mut self, world: &mut World) {
        for (_, reply) in world.replies.drain(..) {
            match reply {
                Reply::Ok { id, result, .. } => {
                    assert_eq!(result, Ok(()));
                    self.accepted.insert(id);
                }
                Reply::Stored { client, event, .. } => {
                    let seen = self.seen.entry(client).or_default();
                    assert!(!seen.eose, "a stored row after EOSE");
                    seen.stored.push(event.view().id());
                }
                Reply::Live { event, to } => {
                    for (client, _) in to {
                        let seen = self.seen.entry(client).or_default();
                        assert!(seen.eose, "a live event before EOSE");
                        seen.live.push(event.view().id());
                    }
                }
                Reply::Held { client, event, .. } => {
                    let seen = self.seen.entry(client).or_default();
                    assert!(seen.eose, "a held event before EOSE");
                    seen.live.push(event.view().id());
                }
                Reply::Eose { client, .. } => self.seen.entry(client).or_default().eose = true,
                Reply::Closed { client, reason, .. } => {
                    self.seen.entry(client).or_default().closed = Some(reason);
                }
                Reply::Park(_) | Reply::Unpark(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

fn notes(count: usize) -> Vec<Event> {
    let signers: Vec<Signer> = (0..40).map(Signer::from_seed).collect();
    (0..count)
        .map(|number| {
            let kind = if number % 4 == 0 { 7 } else { 1 };
            let at = common::UNIX_S as u32 + (number as u32 % 50);
            let draft = Draft::new(kind, at).content(&format!("note {number}"));
            signers[number % signers.len()].sign(&draft)
        })
        .collect()
}

fn reactions() -> Vec<Filter> {
    let limit = Some(500);
    vec![Filter { kinds: Some(vec![7]), limit, ..Filter::default() }]
}

fn run(shards: u16, seed: u64, events: &[Event], verifier: &Remembering) {
    let mut setup = Setup::new(shards, seed);
    setup.cores = shards.min(3);
    let mut world = World::new(&setup, verifier);
    let mut rng = Rng::new(seed ^ 0xb0de);
    let mut log = Log::default();
    let mut clients = Vec::new();
    let mut committed_at_req = BTreeMap::new();
    let mut most_commits = 0;
    for (number, event) in events.iter().enumerate() {
        let core = rng.index(world.homes.len()) as u16;
        let publisher = World::client(core);
        world.home(core, HomeInput::Message(publisher, ClientMessage::Event(event.clone())));
        for _ in 0..rng.index(12) {
            world.step();
        }
        log.take(&mut world);
        if number % 150 == 20 {
            let client = Client { slot: 500 + number as u32, generation: 9 };
            let core = rng.index(world.homes.len()) as u16;
            // The first one does not read for a long time, so that a thousand commits fall between
            // its REQ and its EOSE.
            world.home(core, HomeInput::Authenticated(client, Signer::from_seed(1).pubkey()));
            let pauses = clients.is_empty();
            if pauses {
                world.home(core, HomeInput::Paused(client, true));
            }
            let req = ClientMessage::Req("s".into(), reactions());
            world.home(core, HomeInput::Message(client, req));
            committed_at_req.insert(client, log.accepted.len());
            clients.push((client, core));
        }
        if let Some((client, core)) = clients.first()
            && log.accepted.len() >= committed_at_req[client] + COMMITS_BEFORE_EOSE
            && most_commits == 0
        {
            assert!(!log.seen.get(client).is_some_and(|seen| seen.eose));
            most_commits = log.accepted.len() - committed_at_req[client];
            world.home(*core, HomeInput::Paused(*client, false));
        }
    }
    world.settle();
    log.take(&mut world);
    assert!(most_commits >= COMMITS_BEFORE_EOSE, "only {most_commits} commits before EOSE");
    assert_eq!(log.accepted.len(), events.len());
    let wanted: BTreeSet<EventId> = events
        .iter()
        .filter(|event| event.view().kind() == 7)
        .map(|event| event.view().id())
        .collect();
    for (client, _) in clients {
        let seen = &log.seen[&client];
        assert_eq!(seen.closed, None);
        assert!(seen.eose);
        let all: Vec<EventId> = seen.stored.iter().chain(&seen.live).copied().collect();
        let distinct: BTreeSet<EventId> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len(), "an event came twice (shards {shards} seed {seed})");
        assert_eq!(distinct, wanted, "shards {shards} seed {seed}");
    }
}

#[test]
fn every_event_comes_once_on_either_side_of_the_border() {
    let events = notes(1_600);
    let verifier = Remembering::new();
    for shards in [1, 2, 3, 8] {
        for seed in 0..6 {
            run(shards, seed, &events, &verifier);
        }
    }
}

#[test]
fn a_core_that_falls_off_the_ring_is_told_and_its_subscriptions_end() {
    use shards::live::{LiveRing, RING_BYTES_MAX, RING_EVENTS_MAX};
    use shards::message::{LIVE_CREDIT, ToHome};
    let mut ring = LiveRing::new(2, RING_BYTES_MAX, LIVE_CREDIT);
    let event = Signer::from_seed(3).sign(&Draft::new(1, 5).content("x"));
    ring.push(event.clone());
    let (from, next) = ring.install(1);
    assert_eq!((from, next), (1, 1), "what was pushed before is not this reader's");
    for _ in 0..RING_EVENTS_MAX + 2_000 {
        ring.push(event.clone());
        // The reader has its first credit and never grants more.
        ring.pump(|core, message| {
            assert_eq!(core, 1);
            assert!(matches!(message, ToHome::Live { .. } | ToHome::FellBehind { .. }));
        });
    }
    let mut told = 0;
    for _ in 0..20_000 {
        ring.push(event.clone());
        ring.pump(|_, message| told += u32::from(matches!(message, ToHome::FellBehind { .. })));
    }
    assert!(told >= 1, "no word about what was lost");
    let head = ring.head();
    ring.grant(1, 10);
    ring.remove(1, 1);
    assert_eq!(ring.install(0).0, head);
}

/// What was held goes out like stored rows, a portion a turn, so that a reader who keeps up is not
/// taken for a slow one.
#[test]
fn held_events_follow_at_the_readers_pace() {
    const PORTION_BYTES: usize = 64 * 1024;
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 3), &verifier);
    let client = Client { slot: 9, generation: 1 };
    world.home(0, HomeInput::Authenticated(client, Signer::from_seed(1).pubkey()));
    world.home(0, HomeInput::Paused(client, true));
    world.home(0, HomeInput::Message(client, ClientMessage::Req("s".into(), reactions())));
    let text = "x".repeat(1_000);
    for number in 0..400 {
        let at = common::UNIX_S as u32 + number;
        let event = Signer::from_seed(2).sign(&Draft::new(7, at).content(&text));
        assert_eq!(world.publish(0, event), Ok(()));
    }
    world.settle();
    world.replies.clear();
    world.home(0, HomeInput::Paused(client, false));
    let mut held = 0;
    let mut turns = 0;
    while world.homes[0].has_work() {
        world.home(0, HomeInput::Turn);
        let mut bytes = 0;
        for (_, reply) in world.replies.drain(..) {
            if let Reply::Held { event, .. } = reply {
                held += 1;
                bytes += event.packed().len();
            }
        }
        assert!(bytes <= PORTION_BYTES + 2_000, "{bytes} bytes in one turn");
        turns += 1;
    }
    assert_eq!(held, 400);
    assert!(turns >= 6, "{turns} turns for 400 kB");
}

#[test]
fn a_ring_keeps_to_the_bytes_it_was_given() {
    use shards::live::LiveRing;
    use shards::message::LIVE_CREDIT;
    let event = Signer::from_seed(3).sign(&Draft::new(1, 5).content("x"));
    let bytes_max = 10 * event.packed().len();
    let mut ring = LiveRing::new(1, bytes_max, LIVE_CREDIT);
    ring.install(0);
    for _ in 0..100 {
        ring.push(event.clone());
    }
    assert_eq!(ring.bytes(), bytes_max);
    assert_eq!(ring.head(), 100);
}
