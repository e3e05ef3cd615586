//! Requests to vanish, one thing at a time: what they cost, what they leave, what interrupts them.
#![allow(clippy::unwrap_used)]

mod common;

use common::naive::{decide_as, submit};
use common::{Draft, World, author, config};
use proto::nip::nip62;
use proto::{Event, EventId, Filter, Reason};
use store::file::FileSegments;
use store::index::Table;
use store::lmdb::LmdbIndex;
use store::mem::{MemIndex, MemSegments};
use store::replace::Arrival;
use store::vanish::{PURGE_KILLS_MAX, VANISH_JOBS_MAX};
use store::{Index, StoreConfig, StoreEffect, StoreInput, StoreOutput, WorldError};

type MemWorld = World<MemIndex, MemSegments>;

fn world(config: StoreConfig) -> MemWorld {
    World::open(config, MemIndex::new(common::SECRET), MemSegments::default())
}

fn request(who: u64, at: u32) -> Event {
    Draft::new(who, nip62::KIND, at).tag("relay", "ALL_RELAYS").pack()
}

/// Events of key 1 of many kinds, gift wraps to it, and as many that stay.
fn fill(world: &mut MemWorld, count: u64) -> usize {
    let mut kept = 0;
    for number in 0..count {
        let at = 100 + number as u32 % 50;
        let drafts = [
            Draft::new(1, 1 + (number % 100) as u16, at),
            Draft::new(500 + number, 1059, 900).tag("p", &author(1).to_hex()),
            Draft::new(2, 1, at).tag("p", &author(1).to_hex()),
        ];
        for draft in drafts {
            let event = draft.content(number).pack();
            let is_kept = event.view().pubkey() == author(2);
            // Kinds 5, 0 and the like have rules of their own; here everything is stored.
            world.put(&event);
            kept += usize::from(is_kept);
        }
        if number % 64 == 63 {
            world.commit();
        }
    }
    world.commit();
    kept
}

#[test]
fn nothing_is_seen_at_once_and_the_removal_lets_ordinary_writes_go_on() {
    for checkpoint_events in [500, 100_000] {
        // Upkeep would be among the effects that are counted here.
        let generation_events = 100_000;
        let config = StoreConfig { checkpoint_events, generation_events, ..config() };
        let mut world = world(StoreConfig { hot_bytes_max: 9_000, ..config });
        let kept = fill(&mut world, 700);
        let vanish = request(1, 1_000);
        submit(&mut world, &vanish).unwrap();
        world.flush();
        let is_log = |effect: &StoreEffect| matches!(effect, StoreEffect::Log(_));
        assert_eq!(world.query(&Filter::default(), 500).len(), 3 * 700, "not durable, not said");
        while world.store.durable() < world.store.appended() {
            let at = world.effects.iter().position(is_log).unwrap();
            world.perform(at);
        }
        assert_eq!(world.store.stats().vanished, 0, "nothing has been removed yet");
        assert_eq!(world.query(&Filter::default(), 500).len(), kept + 1);
        let (mut batches, mut others, mut removed) = (0, 0, 0);
        while world.store.is_purging() {
            assert!(!world.effects.is_empty(), "the removal goes on by itself");
            if world.effects.len() == 1 && others < 20 {
                others += 1;
                world.put(&Draft::new(3, 1, 5_000).content(others).pack());
                world.flush();
            }
            world.perform(0);
            let now = world.store.stats().vanished;
            assert!(now - removed <= PURGE_KILLS_MAX as u64);
            batches += usize::from(now > removed);
            removed = now;
        }
        world.commit();
        assert_eq!(removed, 1_400);
        assert!(batches >= 1_400 / PURGE_KILLS_MAX, "{batches} batches");
        assert!(others > 5, "{others} ordinary events were taken meanwhile");
        assert_eq!(world.query(&Filter::default(), 500).len(), kept + 1 + others as usize);
        world.close();
        assert_eq!(world.index.rows(Table::Purge), 0);
        assert_eq!(world.index.rows(Table::Loc), kept + 1 + others as usize);
    }
}

#[test]
fn ordinary_events_need_no_look_into_the_index_for_the_watermarks() {
    let mut world = world(StoreConfig { checkpoint_events: 1, ..config() });
    submit(&mut world, &request(1, 1_000)).unwrap();
    world.commit();
    let mut world = world.restart();
    let keys = |who: u64| Arrival::of(&Draft::new(who, 1, 9).pack().view(), &common::SECRET);
    let unanswered = world.store.unanswered((100..1_100).flat_map(|who| keys(who).unwrap().keys()));
    assert!(unanswered.len() < 50, "{} of 4,000 questions", unanswered.len());
    assert_eq!(world.store.unanswered(keys(1).unwrap().keys()).len(), 1, "only that of the key");
    assert_eq!(submit(&mut world, &Draft::new(1, 1, 1_000).pack()), Err(Reason::Vanished));
    assert_eq!(submit(&mut world, &Draft::new(1, 1, 1_001).pack()), Ok(()));
}

#[test]
fn another_shard_takes_only_the_effects_and_calls_them_known_the_second_time() {
    let mut world = world(config());
    let wrap = Draft::new(1, 1059, 10).tag("p", &author(2).to_hex()).pack();
    submit(&mut world, &wrap).unwrap();
    world.commit();
    let vanish = request(1, 1_000);
    let arrival = Arrival::vanish_elsewhere(&vanish.view());
    let accepted = decide_as(&mut world, &arrival).unwrap();
    assert_eq!(accepted.vanish, Some((author(1), 1_000)));
    world.store.vanish(author(1), 1_000);
    assert_eq!(decide_as(&mut world, &arrival), Err(Reason::Duplicate), "pending");
    world.commit();
    assert_eq!(world.query(&Filter::default(), 10), [], "a wrap that the key made for another");
    assert_eq!(world.store.stats().vanished, 1);
    assert_eq!(decide_as(&mut world, &arrival), Err(Reason::Duplicate));
    let older = Arrival::vanish_elsewhere(&request(1, 999).view());
    assert_eq!(decide_as(&mut world, &older), Err(Reason::Duplicate));
    assert_eq!(submit(&mut world, &wrap), Err(Reason::Vanished));
}

#[test]
fn no_more_removals_wait_than_the_bound_and_one_key_may_ask_again() {
    let mut world = world(config());
    for who in 0..VANISH_JOBS_MAX as u64 {
        submit(&mut world, &request(who, 1_000)).unwrap();
    }
    let late = request(9_999, 1_000);
    assert_eq!(submit(&mut world, &late), Err(Reason::VanishBusy));
    assert_eq!(submit(&mut world, &request(3, 2_000)), Ok(()), "its removal waits already");
    assert_eq!(world.store.stats().purges, VANISH_JOBS_MAX);
    world.commit();
    assert_eq!(world.store.stats().purges, 0);
    assert_eq!(submit(&mut world, &late), Ok(()));
}

#[test]
fn a_read_that_fails_puts_the_removal_off_and_the_key_stays_hidden() {
    let mut world = world(StoreConfig { checkpoint_events: 1, hot_bytes_max: 0, ..config() });
    let event = Draft::new(1, 1, 10).pack();
    submit(&mut world, &event).unwrap();
    world.commit();
    submit(&mut world, &request(1, 1_000)).unwrap();
    world.flush();
    // The question to the index fails first, the fetch of the body after it.
    for _ in 0..2 {
        let is_read = |effect: &StoreEffect| {
            matches!(effect, StoreEffect::Ask { .. } | StoreEffect::Fetch { .. })
        };
        while !world.effects.iter().any(is_read) || world.store.stats().reads_failed == 1 {
            if let Some(StoreEffect::Fetch { .. }) = world.effects.front() {
                break;
            }
            world.perform(0);
        }
        let at = world.effects.iter().position(is_read).unwrap();
        let error = WorldError::Index("gone".to_owned());
        let input = match world.effects.remove(at).unwrap() {
            StoreEffect::Ask { token, .. } => StoreInput::Answered { token, answer: Err(error) },
            StoreEffect::Fetch { token, .. } => StoreInput::Fetched { token, bodies: Err(error) },
            other => panic!("{other:?}"),
        };
        let mut fx = Vec::new();
        world.store.step(world.now, input, &mut fx, &mut world.outputs);
        world.effects.extend(fx);
        world.settle();
        assert!(world.store.is_purging(), "it waits");
        assert_eq!(world.query(&Filter::default(), 10), [request(1, 1_000)]);
        world.now.monotonic_ms += 10_000;
        world.tick();
    }
    world.settle();
    assert_eq!(world.store.stats().reads_failed, 2);
    assert!(!world.store.is_purging());
    assert_eq!(world.query(&Filter::default(), 10), [request(1, 1_000)]);
    assert_eq!(world.store.stats().vanished, 1);
}

#[test]
fn an_event_that_cannot_be_read_goes_too() {
    let mut world = world(StoreConfig { checkpoint_events: 1, hot_bytes_max: 0, ..config() });
    let lost = Draft::new(1, 1, 10).pack();
    let wrap = Draft::new(70, 1059, 10).tag("p", &author(1).to_hex()).pack();
    world.put(&lost);
    world.put(&wrap);
    world.commit();
    for entry in store::Segments::list(&world.segments).unwrap() {
        let length = (entry.bytes - 64) as usize;
        store::Segments::write(&world.segments, entry.segment, 64, &vec![0; length]).unwrap();
    }
    submit(&mut world, &request(1, 1_000)).unwrap();
    world.commit();
    assert_eq!(world.store.stats().vanished, 2);
    assert_eq!(world.query(&Filter::default(), 10), [request(1, 1_000)]);
    assert_eq!(submit(&mut world, &lost), Err(Reason::Vanished));
    assert_eq!(submit(&mut world, &wrap), Err(Reason::Deleted), "its id is marked");
}

#[test]
fn sums_are_made_anew_in_steps_that_can_be_interrupted() {
    let count = 40_000u64;
    let config = StoreConfig { generation_events: 15_000, upkeep_rows_max: 9_000, ..config() };
    let mut world = world(StoreConfig { checkpoint_events: 10_000, ..config });
    for number in 0..count {
        let mut id = EventId([7; 32]);
        id.0[..8].copy_from_slice(&number.to_be_bytes());
        let kind = if number % 10 == 0 { 1059 } else { 1 };
        world.put(&Draft::new(number % 9, kind, number as u32).pack_as(Some(id)));
        if number % 1_000 == 999 {
            world.commit();
        }
    }
    world.close();
    let filters = [Filter { authors: Some(vec![author(4)]), ..Filter::default() }];
    let first = world.index.resum(&filters, &world.segments).unwrap();
    assert!(0 < first.done && first.done < first.total, "{first:?}");
    let mut told = Vec::new();
    world.config.sync_filters = filters.clone().into();
    let mut fx = Vec::new();
    let store = store::open_telling(
        world.config.clone(),
        &world.index,
        &world.segments,
        world.now,
        &mut fx,
        &mut |resummed| told.push(resummed),
    );
    world.store = store.unwrap();
    assert_eq!(told.len(), 1, "one step was done before: {told:?}");
    let durable = world.store.durable();
    let mut fx = Vec::new();
    world.store.sums(0, durable, &mut fx);
    world.effects.extend(fx);
    world.settle();
    let Some(StoreOutput::Sums { sums, .. }) = world.outputs.pop() else { panic!() };
    let found: u64 = sums.iter().map(|(_, sum)| sum.count()).sum();
    let is_member = |number: &u64| number % 9 == 4 && !number.is_multiple_of(10);
    assert_eq!(found, (0..count).filter(is_member).count() as u64);
    assert!(sums.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(sums.len(), count.div_ceil(4_096) as usize);
}

#[test]
#[cfg(not(miri))]
fn on_disk_it_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (index_path, log_path) = (directory.path().join("index"), directory.path().join("log"));
    let open = |config: StoreConfig| {
        let index = LmdbIndex::open(&index_path, common::SECRET, 1 << 28).unwrap();
        World::open(config, index, FileSegments::open(&log_path).unwrap())
    };
    let config = StoreConfig { checkpoint_events: 100, hot_bytes_max: 0, ..config() };
    let mut world = open(config.clone());
    for number in 0..300 {
        let mine = Draft::new(1, 1, 100 + number as u32 * 100).content(number);
        let theirs = Draft::new(2 + number % 2, 1, 100 + number as u32 * 100).content(number);
        let wrap = Draft::new(900 + number, 1059, 5).tag("p", &author(1).to_hex());
        for draft in [mine, theirs, wrap] {
            world.put(&draft.pack());
        }
    }
    world.commit();
    submit(&mut world, &request(1, 1 << 30)).unwrap();
    world.flush();
    // The process ends in the middle of the removal.
    while world.store.stats().vanished == 0 {
        world.perform(0);
    }
    assert!(world.store.is_purging());
    drop(world);
    let mut world = open(config.clone());
    assert!(world.store.is_purging());
    world.tick();
    world.settle();
    assert!(!world.store.is_purging());
    assert_eq!(world.query(&Filter::default(), 500).len(), 301);
    assert_eq!(submit(&mut world, &Draft::new(1, 1, 7).pack()), Err(Reason::Vanished));
    world.close();
    drop(world);
    let theirs = Filter { authors: Some(vec![author(3)]), ..Filter::default() };
    let filters = [theirs, Filter::default()].into();
    let mut world = open(StoreConfig { sync_filters: filters, ..config });
    for (set, expected) in [(0, 150), (1, 301), (2, 0)] {
        let (mut fx, durable) = (Vec::new(), world.store.durable());
        world.store.sums(set, durable, &mut fx);
        world.effects.extend(fx);
        world.settle();
        let Some(StoreOutput::Sums { sums, .. }) = world.outputs.pop() else { panic!() };
        assert_eq!(sums.iter().map(|(_, sum)| sum.count()).sum::<u64>(), expected, "set {set}");
    }
    assert!(world.index.purges().unwrap().is_empty());
}

/// A page is read before the request and its bodies come after the removal has ended and is in the
/// index: they are hidden all the same.
#[test]
fn bodies_that_come_after_the_end_of_the_removal_are_hidden() {
    let mut world = world(StoreConfig { checkpoint_events: 2, hot_bytes_max: 0, ..config() });
    let gone = Draft::new(1, 1, 10).pack();
    let stays = Draft::new(2, 1, 11).pack();
    for event in [&gone, &stays] {
        world.put(event);
        world.commit();
    }
    let streams = store::plan::union(&[Filter::default()], &common::SECRET);
    let request_rows = store::ScanRequest { streams, after: None, rows_max: 10 };
    let (rows, _) = world.page(request_rows, world.store.durable());
    let mut fx = Vec::new();
    world.store.fetch(&rows, &mut fx);
    let late = store::seam::perform(&world.index, &world.segments, fx.remove(0));
    submit(&mut world, &request(1, 1_000)).unwrap();
    world.commit();
    for number in 0..4 {
        world.put(&Draft::new(3, 1, 12).content(number).pack());
        world.commit();
    }
    assert!(!world.store.is_purging() && world.store.stats().vanished == 1);
    assert!(world.store.stats().applied > rows[1].seq + 2, "the removal is in the index");
    let mut fx = Vec::new();
    world.store.step(world.now, late, &mut fx, &mut world.outputs);
    let Some(StoreOutput::Fetched { bodies, .. }) = world.outputs.pop() else {
        panic!("no bodies")
    };
    for (row, body) in rows.iter().zip(bodies) {
        let body = body.unwrap();
        assert_eq!(world.store.hides(row.seq, &body.view()), body == gone);
    }
}
