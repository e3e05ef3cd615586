//! What one query may take of its shard: index rows, bytes of bodies, time before others go on.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use common::{Remembering, Setup, UNIX_S, World};
use proto::{ClientMessage, Event, Filter, TagFilter};
use shards::home::{HomeInput, Reply};
use shards::message::Client;
use store::effect::StoreEffect;

fn notes(world: &mut World, count: usize, content: &str) {
    let signer = Signer::from_seed(2);
    let at = UNIX_S as u32 + 10;
    for number in 0..count {
        let text = format!("{number} {content}");
        let note = signer.sign(&Draft::new(1, at + number as u32).content(&text));
        publish(world, &note);
        // A turn verifies sixteen.
        if number % 64 == 63 {
            world.settle();
        }
    }
    world.settle();
    world.replies.clear();
}

fn publish(world: &mut World, event: &Event) {
    let client = Client { slot: 1, generation: 1 };
    world.home(0, HomeInput::Message(client, ClientMessage::Event(event.clone())));
}

fn count(world: &mut World, slot: u32, filters: Vec<Filter>) {
    let client = Client { slot, generation: 1 };
    world.home(0, HomeInput::Message(client, ClientMessage::Count("c".into(), filters)));
}

/// Notes of the author with a topic that none of them has: every row is read and none is taken.
fn thin() -> Filter {
    let topic = TagFilter { letter: b't', values: vec![b"none".as_slice().into()] };
    let authors = Some(vec![Signer::from_seed(2).pubkey()]);
    Filter { authors, tags: vec![topic], limit: Some(1), ..Filter::default() }
}

fn rows_asked(world: &World) -> u32 {
    let work = world.work(0).map(|effect| match effect {
        StoreEffect::Scan { request, .. } => request.rows_max,
        _ => 0,
    });
    work.sum()
}

/// A query that finds little reads on in later turns, in slices: whoever came meanwhile goes first.
#[test]
fn a_long_search_lets_others_have_their_turns() {
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 3), &verifier);
    notes(&mut world, 300, "note");
    for slot in 0..300 {
        let client = Client { slot: 100 + slot, generation: 1 };
        let req = ClientMessage::Req("s".into(), vec![thin()]);
        world.home(0, HomeInput::Message(client, req));
    }
    world.deliver_mail();
    let mut turns = 0;
    loop {
        world.perform_all(0, |effect| !matches!(effect, StoreEffect::Scan { .. }));
        let asked = rows_asked(&world);
        if asked == 0 && !world.shards[0].has_work() {
            break;
        }
        assert!(turns == 0 || asked < 2 * 2048, "{asked} rows in turn {turns}");
        // Answers alone must not start further reads.
        let scans = world.work(0).count();
        let before = world.delivered;
        for _ in 0..scans {
            world.perform_one(0);
        }
        assert_eq!(rows_asked(&world), 0, "a read was followed by another in the same turn");
        assert_eq!(before, world.delivered);
        world.turn_shard(0);
        turns += 1;
        assert!(turns < 10_000);
    }
    assert!(turns > 3, "the search takes several turns");
    world.settle();
    let ended = world.replies.iter().filter(|(_, reply)| matches!(reply, Reply::Eose { .. }));
    assert_eq!(ended.count(), 300);
}

/// A filter that has had its limit is no longer searched once it is known that it has more: the
/// rare rows of the other filter are found without reading everything that lies between.
#[test]
fn a_filter_that_has_had_its_limit_costs_nothing_more() {
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 4), &verifier);
    let signer = Signer::from_seed(9);
    publish(&mut world, &signer.sign(&Draft::new(0, UNIX_S as u32).content("profile")));
    notes(&mut world, 1_200, "note");
    let before = world.shards[0].stats().counters.rows_scanned;
    let recent = Filter { kinds: Some(vec![1]), limit: Some(20), ..Filter::default() };
    let authors = Some(vec![signer.pubkey()]);
    let profile = Filter { authors, kinds: Some(vec![0]), limit: Some(1), ..Filter::default() };
    let client = Client { slot: 7, generation: 1 };
    let req = ClientMessage::Req("s".into(), vec![recent, profile]);
    world.home(0, HomeInput::Message(client, req));
    world.settle();
    let stored = world.replies.iter().filter(|(_, reply)| matches!(reply, Reply::Stored { .. }));
    assert_eq!(stored.count(), 21);
    let scanned = world.shards[0].stats().counters.rows_scanned - before;
    assert!(scanned < 200, "{scanned} rows read for 21");
}

/// Bodies are fetched in bounded portions, however many rows a read returned.
#[test]
fn large_bodies_are_not_fetched_all_at_once() {
    const FETCH_BYTES_MAX: u64 = 256 * 1024;
    const CONTENT_BYTES: usize = 100_000;
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 5), &verifier);
    notes(&mut world, 40, &"x".repeat(CONTENT_BYTES));
    count(&mut world, 8, vec![Filter::default()]);
    let mut fetches = 0;
    while world.step() {
        for effect in world.work(0) {
            if let StoreEffect::Fetch { locs, .. } = effect {
                let bytes: u64 = locs.iter().map(|loc| u64::from(loc.length)).sum();
                assert!(bytes <= FETCH_BYTES_MAX, "{bytes} bytes in one fetch");
                fetches += 1;
            }
        }
    }
    assert!(fetches >= 4);
    let counts = world.replies.iter().filter_map(|(_, reply)| match reply {
        Reply::Count { count, .. } => Some(*count),
        _ => None,
    });
    assert_eq!(counts.collect::<Vec<_>>(), [40]);
}
