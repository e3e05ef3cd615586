//! Pages against a naive relay: the same random events, kills and filters over memory and LMDB,
//! before, during and after checkpoints, with ties and with small pages.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Draws, World, config, position, random_event, random_filter};
use proto::{Event, Filter};
use store::mem::{MemIndex, MemSegments};
use store::{Index, KillCause, Segments, Seq, StoreConfig, StoreEffect};

/// A relay that keeps a list.
#[derive(Default)]
struct Naive {
    events: Vec<(Seq, Event)>,
}

impl Naive {
    fn query(&self, filter: &Filter) -> Vec<Event> {
        let matching = self.events.iter().filter(|(_, event)| filter.matches(&event.view()));
        let mut found: Vec<Event> = matching.map(|(_, event)| event.clone()).collect();
        found.sort_by_key(position);
        found
    }
}

#[derive(Default)]
struct Shares {
    queries: u64,
    answered: u64,
    with_delta_and_index: u64,
    with_many_generations: u64,
}

fn small(checkpoint_events: usize) -> StoreConfig {
    StoreConfig { checkpoint_events, hot_bytes_max: 4_096, segment_bytes_max: 8_192, ..config() }
}

fn check<I: Index, S: Segments>(
    world: &mut World<I, S>,
    naive: &Naive,
    draws: &mut Draws,
    shares: &mut Shares,
) {
    let events: Vec<Event> = naive.events.iter().map(|(_, event)| event.clone()).collect();
    for _ in 0..6 {
        let filter = random_filter(draws, &events);
        let rows_max = 1 + draws.below(12) as u32;
        let expected = naive.query(&filter);
        let found = world.query(&filter, rows_max);
        assert_eq!(found, expected, "{filter:?} with pages of {rows_max}");
        shares.queries += 1;
        shares.answered += u64::from(!expected.is_empty());
        let stats = world.store.stats();
        shares.with_many_generations += u64::from(stats.generations > 2);
        shares.with_delta_and_index += u64::from(stats.applied > 0 && stats.delta_events > 0);
    }
}

/// Random puts and kills in random batches, checkpoints held back or performed at random, restarts.
fn run<I: Index, S: Segments>(mut world: World<I, S>, seed: u64, shares: &mut Shares) {
    let mut draws = Draws(seed);
    let mut naive = Naive::default();
    let (rounds, puts_max) = if cfg!(miri) { (5, 10) } else { (25, 30) };
    for round in 0..rounds {
        for number in 0..draws.below(puts_max) {
            let event = random_event(&mut draws, round * 1_000 + number);
            if naive.events.iter().any(|(_, have)| have.view().id() == event.view().id()) {
                continue;
            }
            let seq = world.put(&event);
            naive.events.push((seq, event));
            if draws.one_in(4) {
                let victim = draws.below(naive.events.len() as u64) as usize;
                let (seq, _) = naive.events.swap_remove(victim);
                world.store.kill(seq, KillCause::Deleted);
            }
        }
        world.flush();
        world.settle_without_checkpoints();
        check(&mut world, &naive, &mut draws, shares);
        if draws.one_in(2) {
            world.settle();
            check(&mut world, &naive, &mut draws, shares);
        }
        if draws.one_in(6) {
            world = world.restart();
            check(&mut world, &naive, &mut draws, shares);
        }
    }
    world.settle();
    world.close();
    let mut world = world.restart();
    assert!(world.store.stats().delta_events == 0, "a closed store has everything in its index");
    check(&mut world, &naive, &mut draws, shares);
}

fn assert_shares(shares: &Shares) {
    if cfg!(miri) {
        return; // One seed is no sample.
    }
    assert!(shares.answered * 2 > shares.queries, "too few queries find anything");
    assert!(shares.with_many_generations * 4 > shares.queries, "too few queries merge generations");
    assert!(shares.with_delta_and_index * 4 > shares.queries, "too few queries merge two sources");
}

#[test]
fn pages_equal_a_naive_relay_over_memory() {
    let mut shares = Shares::default();
    let seeds = if cfg!(miri) { 1 } else { 40 };
    for seed in 0..seeds {
        let mut draws = Draws(!seed);
        let config = StoreConfig {
            generation_events: 1 + draws.below(60),
            upkeep_rows_max: 1 + draws.below(90) as u32,
            dead_percent: [5, 30, 90][draws.below(3) as usize],
            ..small(1 + draws.below(60) as usize)
        };
        let world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
        run(world, seed, &mut shares);
    }
    assert_shares(&shares);
}

#[test]
#[cfg(not(miri))]
fn pages_equal_a_naive_relay_over_lmdb_and_files() {
    let mut shares = Shares::default();
    for seed in 100..106 {
        let directory = tempfile::tempdir().unwrap();
        let index = directory.path().join("index");
        let index = store::lmdb::LmdbIndex::open(&index, common::SECRET, 1 << 30).unwrap();
        let segments = store::file::FileSegments::open(&directory.path().join("log")).unwrap();
        run(World::open(small(60), index, segments), seed, &mut shares);
    }
    assert_shares(&shares);
}

#[test]
fn what_comes_after_the_horizon_is_not_in_the_page() {
    let mut world = World::open(config(), MemIndex::new(common::SECRET), MemSegments::default());
    let mut draws = Draws(3);
    let first: Vec<Event> = (0..50).map(|number| random_event(&mut draws, number)).collect();
    first.iter().for_each(|event| {
        world.put(event);
    });
    world.commit();
    let horizon = world.store.durable();
    for number in 50..100 {
        let event = random_event(&mut draws, number);
        world.put(&event);
    }
    world.commit();
    let streams = store::plan::union(&[Filter::default()], &common::SECRET);
    let request = store::ScanRequest { streams, after: None, rows_max: 1_000 };
    let (rows, _) = world.page(request, horizon);
    let mut expected: Vec<_> = first.iter().map(position).collect();
    expected.sort();
    assert_eq!(rows.iter().map(|row| row.position).collect::<Vec<_>>(), expected);
}

#[test]
fn many_streams_and_many_kinds_are_one_page() {
    let mut world = World::open(
        StoreConfig { checkpoint_events: 1, ..config() },
        MemIndex::new(common::SECRET),
        MemSegments::default(),
    );
    let mut naive = Naive::default();
    // Author 0 has more kinds than are merged; 500 others have three each.
    for kind in 0..100 {
        let event = common::Draft::new(0, 1_000 + kind, 5_000 + u32::from(kind) % 7).pack();
        naive.events.push((world.put(&event), event));
    }
    let authors = if cfg!(miri) { 20 } else { 500 };
    for number in 1..=authors {
        for kind in [1, 3, 7] {
            let event = common::Draft::new(number, kind, 5_000 + (number % 50) as u32).pack();
            naive.events.push((world.put(&event), event));
        }
    }
    world.commit();
    assert!(world.effects.iter().all(|effect| !matches!(effect, StoreEffect::Checkpoint(_))));
    assert_eq!(world.store.stats().delta_events, 0, "all of it is read from the index");
    let mut authors: Vec<_> = (0..=authors).map(common::author).collect();
    authors.sort_unstable();
    let one = Filter { authors: Some(vec![common::author(0)]), ..Filter::default() };
    let all = Filter { authors: Some(authors), ..Filter::default() };
    let some_kinds = Filter { kinds: Some(vec![1, 7, 9]), ..all.clone() };
    for filter in [one, all, some_kinds] {
        assert_eq!(world.query(&filter, 37), naive.query(&filter));
    }
}

/// Everything in the index: `events` of them, by `authors` authors in turn.
fn indexed(events: u32, authors: u64, kinds: u16) -> (World<MemIndex, MemSegments>, Naive) {
    let mut world = World::open(
        StoreConfig { checkpoint_events: 1, ..config() },
        MemIndex::new(common::SECRET),
        MemSegments::default(),
    );
    let mut naive = Naive::default();
    for number in 0..events {
        let kind = 1 + (number % u32::from(kinds)) as u16;
        let event = common::Draft::new(u64::from(number) % authors, kind, 9_000 + number).pack();
        naive.events.push((world.put(&event), event));
    }
    world.commit();
    assert_eq!(world.store.stats().delta_events, 0, "all of it is read from the index");
    (world, naive)
}

fn first_page_rows(world: &mut World<MemIndex, MemSegments>, filter: &Filter) -> usize {
    let streams = store::plan::union(std::slice::from_ref(filter), &common::SECRET);
    let horizon = world.store.durable();
    let request = store::ScanRequest { streams, after: None, rows_max: 100 };
    world.page(request, horizon).0.len()
}

#[test]
fn streams_that_all_go_by_time_share_one_cursor() {
    let (mut world, naive) = indexed(300, 200, 65);
    let authors: Vec<_> = (0..200).map(common::author).collect();
    let kinds: Vec<u16> = (1..=65).collect();
    let filter = Filter { authors: Some(authors), kinds: Some(kinds), ..Filter::default() };
    assert_eq!(first_page_rows(&mut world, &filter), 100, "repeats take no room on the page");
    assert_eq!(world.query(&filter, 100), naive.query(&filter));
}

#[test]
fn windows_of_one_prefix_are_read_as_one() {
    let (mut world, naive) = indexed(300, 3, 1);
    let of = |since, until| Filter {
        authors: Some(vec![common::author(1)]),
        kinds: Some(vec![1]),
        since: Some(since),
        until: Some(until),
        ..Filter::default()
    };
    let filters = [of(9_010, 9_050), of(9_200, 9_240), of(9_040, 9_060)];
    let streams = store::plan::union(&filters, &common::SECRET);
    let horizon = world.store.durable();
    let request = store::ScanRequest { streams, after: None, rows_max: 1_000 };
    let (rows, complete_to) = world.page(request, horizon);
    assert_eq!(complete_to, None);
    let mut found: Vec<Event> = rows.iter().map(|row| world.body(row)).collect();
    found.retain(|event| filters.iter().any(|filter| filter.matches(&event.view())));
    let mut expected: Vec<Event> = filters.iter().flat_map(|filter| naive.query(filter)).collect();
    expected.sort_by_key(position);
    expected.dedup_by_key(|event| position(event));
    assert_eq!(found, expected);
}

#[test]
fn more_cursors_than_may_be_opened_are_one_by_time() {
    let (mut world, naive) = indexed(300, 200, 64);
    let authors: Vec<_> = (0..if cfg!(miri) { 200 } else { 2_000 }).map(common::author).collect();
    let kinds = Some((1..=64).collect());
    let these = Filter { authors: Some(authors), kinds, ..Filter::default() };
    let all = Filter { kinds: None, ..these.clone() };
    for filter in [these, all] {
        assert_eq!(first_page_rows(&mut world, &filter), 100);
        assert_eq!(world.query(&filter, 100), naive.query(&filter));
    }
}
