//! The rules of replacement, deletion and vanishing against a naive relay, in every order, with decisions made
//! over pending, durable, frozen and indexed events alike.
#![allow(clippy::unwrap_used)]

mod common;

use common::naive::{Naive, covers, decide_as, submit};
use common::{Draft, Draws, World, author, config};
use proto::nip::nip01::Slot;
use proto::nip::{nip09, nip62};
use proto::{Event, Filter, Reason};
use store::StoreConfig;
use store::mem::{MemIndex, MemSegments};
use store::replace::{Arrival, OPERATOR, Verdict, decide};

/// Events of few authors, slots and seconds, with deletions among them.
fn pool(draws: &mut Draws, deletions_by_id: bool) -> Vec<Event> {
    let mut pool: Vec<Event> = Vec::new();
    for number in 0..12 + draws.below(12) {
        let (writer, at) = (draws.below(3), 100 + draws.below(5) as u32);
        let draft = match draws.below(8) {
            0 => Draft::new(writer, 0, at),
            1 => Draft::new(writer, 10_002, at),
            2 | 3 => Draft::new(writer, 30_023, at).tag("d", &format!("d{}", draws.below(2))),
            4 => Draft::new(writer, 1, at),
            // Whether a gift wrap outlives a request of its recipient to vanish is a matter of
            // order, so the two are not mixed where order must not matter.
            5 if deletions_by_id => {
                Draft::new(100 + number, 1059, at).tag("p", &author(draws.below(3)).to_hex())
            }
            5 => Draft::new(writer, 7, at),
            6 => Draft::new(writer, nip62::KIND, at),
            _ => deletion(draws, writer, at, &pool, deletions_by_id),
        };
        // Of two requests to vanish with one time the first counts, so there is one at most.
        let content = if draft.kind == nip62::KIND { 0 } else { draws.below(4) };
        pool.push(draft.content(content).pack());
    }
    pool
}

fn deletion(draws: &mut Draws, writer: u64, at: u32, pool: &[Event], by_id: bool) -> Draft {
    let mut draft = Draft::new(writer, nip09::KIND, at);
    for _ in 0..=draws.below(2) {
        if by_id && !pool.is_empty() && draws.one_in(2) {
            let victim = &pool[draws.below(pool.len() as u64) as usize];
            draft = draft.tag("e", &victim.view().id().to_hex());
        } else {
            let key = author(if draws.one_in(4) { draws.below(3) } else { writer });
            let coordinate = match draws.below(3) {
                0 => format!("0:{key}:"),
                1 => format!("10002:{key}:"),
                _ => format!("30023:{key}:d{}", draws.below(2)),
            };
            draft = draft.tag("a", &coordinate);
        }
    }
    draft
}

fn shuffled(events: &[Event], draws: &mut Draws) -> Vec<Event> {
    let mut events = events.to_vec();
    for at in (1..events.len()).rev() {
        events.swap(at, draws.below(at as u64 + 1) as usize);
    }
    events
}

/// Submits events in order, the world doing its part at random moments; checks every step.
fn run(events: &[Event], draws: &mut Draws) -> Vec<Event> {
    let config = StoreConfig { checkpoint_events: 5, hot_bytes_max: 900, ..config() };
    let mut world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
    let mut naive = Naive::default();
    for event in events {
        assert_eq!(submit(&mut world, event), naive.submit(event), "{event:?} of {events:?}");
        match draws.below(6) {
            0 => {}
            1 => world.flush(),
            2 => {
                world.flush();
                world.settle_without_checkpoints();
            }
            3 => {
                world.commit();
                world = world.restart();
            }
            _ => world.commit(),
        }
        if world.store.is_idle() {
            assert_eq!(world.query(&Filter::default(), 7), naive.sorted());
        }
    }
    world.commit();
    let stored = world.query(&Filter::default(), 7);
    assert_eq!(stored, naive.sorted());
    check_invariants(&stored, &naive.deletions);
    stored
}

fn check_invariants(stored: &[Event], deletions: &[Event]) {
    for event in stored {
        assert!(!deletions.iter().any(|deletion| covers(deletion, event)), "{event:?} is deleted");
    }
    let mut slots: Vec<Slot> = stored.iter().filter_map(|event| Slot::of(&event.view())).collect();
    let count = slots.len();
    slots.sort();
    slots.dedup();
    assert_eq!(slots.len(), count, "a slot is held twice");
}

#[test]
fn every_verdict_is_the_naive_relays() {
    let mut verdicts = std::collections::BTreeMap::new();
    for seed in 0..if cfg!(miri) { 2 } else { 400 } {
        let mut draws = Draws(seed);
        let events = pool(&mut draws, true);
        let mut twice = events.clone();
        twice.extend(events);
        let order = shuffled(&twice, &mut draws);
        run(&order, &mut draws);
        let mut naive = Naive::default();
        for event in &order {
            *verdicts.entry(naive.submit(event).err()).or_insert(0) += 1;
        }
    }
    let all = [
        None,
        Some(Reason::Duplicate),
        Some(Reason::DuplicateNewer),
        Some(Reason::Deleted),
        Some(Reason::Vanished),
    ];
    for verdict in all {
        // Two seeds are no sample.
        let is_common = verdicts.get(&verdict).is_some_and(|count| *count > 10);
        assert!(is_common || cfg!(miri), "{verdict:?} is too rare");
    }
}

#[test]
fn without_deletions_by_id_the_order_does_not_matter() {
    for seed in 0..if cfg!(miri) { 1 } else { 150 } {
        let mut draws = Draws(seed);
        let events = pool(&mut draws, false);
        let first = run(&events, &mut draws);
        for _ in 0..3 {
            let order = shuffled(&events, &mut draws);
            assert_eq!(run(&order, &mut draws), first, "order {order:?}");
        }
    }
}

#[test]
fn the_table_of_orders_is_what_happens() {
    let a = Draft::new(1, 0, 10).content("a").pack();
    let b = Draft::new(1, 0, 20).content("b").pack();
    let request = |victim: &Event| {
        Draft::new(1, nip09::KIND, 30).tag("e", &victim.view().id().to_hex()).pack()
    };
    let (da, db) = (request(&a), request(&b));
    let cases: [(&[&Event], &[&Event]); 9] = [
        (&[&a, &b, &db], &[&db]),
        (&[&b, &a, &db], &[&db]),
        (&[&b, &db, &a], &[&db, &a]),
        (&[&a, &db, &b], &[&db, &a]),
        (&[&db, &a, &b], &[&db, &a]),
        (&[&db, &b, &a], &[&db, &a]),
        (&[&a, &b, &da], &[&da, &b]),
        (&[&b, &da, &a], &[&da, &b]),
        (&[&da, &a, &b], &[&da, &b]),
    ];
    for (order, expected) in cases {
        let order: Vec<Event> = order.iter().map(|event| (*event).clone()).collect();
        let mut expected: Vec<Event> = expected.iter().map(|event| (*event).clone()).collect();
        expected.sort_by_key(common::position);
        assert_eq!(run(&order, &mut Draws(1)), expected);
    }
}

#[test]
fn the_table_of_orders_with_a_request_to_vanish_is_what_happens() {
    let of = |order: &[&Event]| -> Vec<Event> {
        let order: Vec<Event> = order.iter().map(|event| (*event).clone()).collect();
        run(&order, &mut Draws(1))
    };
    let wrap = Draft::new(50, 1059, 10).tag("p", &author(1).to_hex()).pack();
    let vanish = Draft::new(1, nip62::KIND, 20).tag("relay", "ALL_RELAYS").pack();
    let alone = std::slice::from_ref(&vanish);
    assert_eq!(of(&[&wrap, &vanish]), alone);
    assert_eq!(of(&[&wrap, &vanish, &wrap]), alone, "its id is marked");
    assert_eq!(of(&[&vanish, &wrap]), [vanish.clone(), wrap.clone()], "wraps are back-dated");
    let later = Draft::new(1, 1, 30).pack();
    let id = later.view().id().to_hex();
    let request = Draft::new(1, nip09::KIND, 15).tag("e", &id).pack();
    assert_eq!(of(&[&request, &vanish, &later]), alone, "its mark stays");
    assert_eq!(of(&[&vanish, &request, &later]), [later.clone(), vanish.clone()]);
    let older = Draft::new(1, nip62::KIND, 12).tag("relay", "ALL_RELAYS").pack();
    assert_eq!(of(&[&older, &vanish]), alone);
    assert_eq!(of(&[&vanish, &older]), alone);
    let by_id = Draft::new(1, nip09::KIND, 40).tag("e", &vanish.view().id().to_hex()).pack();
    assert_eq!(of(&[&vanish, &by_id]), [by_id.clone(), vanish.clone()], "nobody deletes it");
}

#[test]
fn what_the_operator_bans_is_refused_whatever_it_is() {
    let config = StoreConfig { checkpoint_events: 1, ..config() };
    for kind in [1, nip09::KIND, nip62::KIND, 0, 1059] {
        let index = MemIndex::new(common::SECRET);
        let mut world = World::open(config.clone(), index, MemSegments::default());
        let draft = Draft::new(1, kind, 10).tag("e", &"0".repeat(64));
        let event = draft.tag("p", &author(2).to_hex()).pack();
        world.store.mark_id(event.view().id(), OPERATOR);
        assert_eq!(submit(&mut world, &event), Err(Reason::Banned), "pending, kind {kind}");
        world.put(&Draft::new(9, 1, 10).pack());
        world.commit();
        let mut world = world.restart();
        assert_eq!(submit(&mut world, &event), Err(Reason::Banned), "indexed, kind {kind}");
        if kind == nip62::KIND {
            let elsewhere = Arrival::vanish_elsewhere(&event.view());
            assert_eq!(decide_as(&mut world, &elsewhere), Err(Reason::Banned));
        }
    }
}

#[test]
fn a_wrap_is_deleted_by_its_recipient_before_and_after_it_comes() {
    let wrap = Draft::new(50, 1059, 10).tag("p", &author(2).to_hex()).pack();
    let by = |who: u64| Draft::new(who, nip09::KIND, 5).tag("e", &wrap.view().id().to_hex()).pack();
    for order in [[wrap.clone(), by(2)], [by(2), wrap.clone()]] {
        assert_eq!(run(&order, &mut Draws(1)), [by(2)]);
    }
    let mut kept = vec![wrap.clone(), by(3)];
    kept.sort_by_key(common::position);
    assert_eq!(run(&[by(3), wrap.clone()], &mut Draws(1)), kept);
    assert_eq!(run(&[wrap.clone(), by(3)], &mut Draws(1)), kept);
}

#[test]
fn a_victim_that_cannot_be_read_is_marked_and_stays() {
    let config = StoreConfig { checkpoint_events: 1, hot_bytes_max: 0, ..config() };
    let mut world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
    let victim = Draft::new(1, 1, 10).pack();
    world.put(&victim);
    world.commit();
    let id = victim.view().id();
    let request = Draft::new(1, nip09::KIND, 30).tag("e", &id.to_hex()).pack();
    let arrival = Arrival::of(&request.view(), &common::SECRET).unwrap();
    let answers = world.answers(arrival.keys());
    let view = world.store.view(&answers);
    let Verdict::NeedBodies(needed) = decide(&arrival, &view, &[]) else {
        panic!("the victim is neither pending nor hot");
    };
    assert_eq!(needed.len(), 1);
    let Verdict::Accept(accepted) = decide(&arrival, &view, &[(id, None)]) else {
        panic!("a damaged victim does not keep its deletion from being stored");
    };
    assert_eq!(accepted.mark_ids, [id]);
    assert_eq!(accepted.kills, []);
}
