//! Generations of the index: sealing that is interrupted anywhere, events that die in sealed
//! generations, and what a page looks into.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Draft, Draws, World, config, position, random_event, random_filter};
use proto::{Event, Filter};
use store::index::generations::Lies;
use store::index::{Did, Table};
use store::key::EventKeys;
use store::lmdb::LmdbIndex;
use store::mem::{MemIndex, MemSegments};
use store::{Index, KillCause, LookupKey, Segments, Seq, StoreConfig, StoreEffect};

/// What a store must answer.
#[derive(Default)]
struct Alive(Vec<(Seq, Event)>);

impl Alive {
    fn query(&self, filter: &Filter) -> Vec<Event> {
        let matching = self.0.iter().filter(|(_, event)| filter.matches(&event.view()));
        let mut found: Vec<Event> = matching.map(|(_, event)| event.clone()).collect();
        found.sort_by_key(position);
        found
    }

    fn put<I: Index, S: Segments>(&mut self, world: &mut World<I, S>, event: Event) {
        if self.0.iter().all(|(_, have)| have.view().id() != event.view().id()) {
            self.0.push((world.put(&event), event));
        }
    }

    fn kill<I: Index, S: Segments>(&mut self, world: &mut World<I, S>, at: usize) {
        let (seq, _) = self.0.swap_remove(at);
        world.store.kill(seq, KillCause::Deleted);
    }

    /// Every kind of question has the right answer, and no row is missing.
    fn check<I: Index, S: Segments>(&self, world: &mut World<I, S>, draws: &mut Draws) {
        let events: Vec<Event> = self.0.iter().map(|(_, event)| event.clone()).collect();
        assert_eq!(world.query(&Filter::default(), 17), self.query(&Filter::default()));
        let filter = random_filter(draws, &events);
        assert_eq!(world.query(&filter, 5), self.query(&filter), "{filter:?}");
        let applied = world.index.applied().unwrap();
        let indexed = self.0.iter().filter(|(seq, _)| *seq <= applied);
        let keys: Vec<(Seq, EventKeys)> = indexed
            .map(|(seq, event)| (*seq, EventKeys::of(&event.view(), &common::SECRET)))
            .collect();
        let missing = world.index.missing_rows(&keys).unwrap();
        // Nobody decides here, so that several may want one slot.
        let is_slot = |tables: &Vec<Table>| tables.iter().all(|table| *table == Table::Slot);
        assert!(missing.iter().all(is_slot), "{missing:?}");
        let keys: Vec<LookupKey> = keys.iter().map(|(_, keys)| LookupKey::Id(keys.id)).collect();
        let found = world.index.lookup(&keys).unwrap();
        assert!(found.iter().all(|found| matches!(found, store::Found::Row(_))), "{found:?}");
    }
}

/// Brings upkeep to its end, whatever the store knows of it.
fn keep_up(world: &World<MemIndex, MemSegments>) {
    while world.index.upkeep(&world.config.upkeep()).unwrap().did != Did::Nothing {}
}

fn is_upkeep(effect: &StoreEffect) -> bool {
    matches!(effect, StoreEffect::Upkeep(_))
}

/// Performs everything but upkeep; whether a step of that waits.
fn settle_before_upkeep<I: Index, S: Segments>(world: &mut World<I, S>) -> bool {
    while let Some(at) = world.effects.iter().position(|effect| !is_upkeep(effect)) {
        world.perform(at);
    }
    !world.effects.is_empty()
}

fn tiny(seed: u64) -> StoreConfig {
    StoreConfig {
        checkpoint_events: 12,
        generation_events: 20,
        upkeep_rows_max: 1 + (seed as u32 % 5) * 9,
        segment_bytes_max: 9_000,
        ..config()
    }
}

/// Events come and die; after every step of upkeep the process ends with the chance one in three.
fn interrupt<I: Index, S: Segments>(
    mut world: World<I, S>,
    seed: u64,
    reopen: &dyn Fn(World<I, S>) -> World<I, S>,
) -> (u64, usize) {
    let (mut draws, mut alive, mut ends, mut most) = (Draws(seed), Alive::default(), 0, 0);
    for round in 0..24 {
        for number in 0..8 {
            alive.put(&mut world, random_event(&mut draws, round * 100 + number));
        }
        while alive.0.len() > 60 || (!alive.0.is_empty() && draws.one_in(3)) {
            let at = draws.below(alive.0.len() as u64) as usize;
            alive.kill(&mut world, at);
        }
        world.flush();
        while settle_before_upkeep(&mut world) {
            alive.check(&mut world, &mut draws);
            world.perform(0);
            most = most.max(world.index.generations().unwrap().len());
            if draws.one_in(3) {
                ends += 1;
                world = reopen(world);
            }
        }
        alive.check(&mut world, &mut draws);
    }
    world.close();
    let mut world = reopen(world);
    alive.check(&mut world, &mut draws);
    (ends, most)
}

#[test]
fn sealing_goes_on_where_a_process_ended() {
    let (mut ends, mut most) = (0, 0);
    for seed in 0..if cfg!(miri) { 1 } else { 60 } {
        let index = MemIndex::new(common::SECRET);
        let world = World::open(tiny(seed), index, MemSegments::default());
        let (ended, had) = interrupt(world, seed, &World::restart);
        (ends, most) = (ends + ended, most.max(had));
    }
    assert!(cfg!(miri) || (ends > 500 && most > 3), "{ends} ends, {most} generations");
}

#[test]
#[cfg(not(miri))]
fn sealing_goes_on_where_a_process_ended_over_lmdb() {
    let (mut ends, mut most) = (0, 0);
    for seed in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let open = || LmdbIndex::open(&path, common::SECRET, 1 << 28).unwrap();
        let world = World::open(tiny(seed), open(), MemSegments::default());
        let reopen = |world: World<LmdbIndex, MemSegments>| {
            world.index.close();
            World::open(world.config, open(), world.segments)
        };
        let (ended, had) = interrupt(world, seed, &reopen);
        (ends, most) = (ends + ended, most.max(had));
    }
    assert!(ends > 20 && most > 2, "{ends} ends, {most} generations");
}

/// In order of time, everything in the index and sealed but for what is left over.
fn in_order(events: u64, generation_events: u64) -> (World<MemIndex, MemSegments>, Alive) {
    let config = StoreConfig { checkpoint_events: 10, generation_events, ..config() };
    let mut world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
    let mut alive = Alive::default();
    for number in 0..events {
        let draft = Draft::new(number % 7, 1, 1_000 + number as u32);
        alive.put(&mut world, draft.tag("e", &format!("{}", number % 5)).pack());
        world.commit();
    }
    world.close();
    let world = world.restart();
    keep_up(&world);
    (world, alive)
}

#[test]
fn a_page_opens_the_generations_that_it_comes_down_to() {
    let (mut world, alive) = in_order(400, 40);
    let generations = world.index.generations().unwrap();
    assert!(generations.len() >= 10);
    assert!(generations.iter().rev().skip(1).all(|have| matches!(have.lies, Lies::Run(_))));
    let mut opened = |filter: &Filter, rows_max| {
        let streams = store::plan::union(std::slice::from_ref(filter), &common::SECRET);
        let horizon = world.store.durable();
        let request = store::ScanRequest { streams, after: None, rows_max };
        let rows = world.page(request, horizon).0.len();
        (rows, world.index.last_scanned().opened)
    };
    let newest = opened(&Filter::default(), 20);
    assert!(newest.0 >= 20 && newest.1 <= 2, "{newest:?}");
    let past = Filter { until: Some(1_060), since: Some(1_045), ..Filter::default() };
    assert_eq!(opened(&past, 100), (16, 1));
    let author = Filter { authors: Some(vec![common::author(3)]), ..Filter::default() };
    assert!(opened(&author, 8).1 <= 3, "an author who writes in all of them");
    let id = Filter { ids: Some(vec![alive.0[7].1.view().id()]), ..Filter::default() };
    assert_eq!(opened(&id, 8), (1, 0));
    for filter in [past, author, id, Filter::default()] {
        assert_eq!(world.query(&filter, 9), alive.query(&filter));
    }
}

#[test]
fn more_seeks_than_a_page_may_take_end_it_above_a_generation() {
    let (mut world, alive) = in_order(240, 10);
    let generations = world.index.generations().unwrap().len();
    assert!(generations > 12);
    // Many authors of whom few are here: every generation takes all these seeks.
    let authors: Vec<_> = (0..1_500).map(common::author).collect();
    let filter = Filter { authors: Some(authors), kinds: Some(vec![1]), ..Filter::default() };
    let streams = store::plan::union(std::slice::from_ref(&filter), &common::SECRET);
    let horizon = world.store.durable();
    let request = store::ScanRequest { streams, after: None, rows_max: 10_000 };
    let (rows, complete_to) = world.page(request, horizon);
    assert!(complete_to.is_some() && !rows.is_empty() && rows.len() < 240, "{}", rows.len());
    assert!((world.index.last_scanned().opened as usize) < generations);
    assert_eq!(world.query(&filter, 10_000), alive.query(&filter));
}

#[test]
fn runs_that_lost_their_events_are_merged_and_their_rows_go() {
    let (mut world, mut alive) = in_order(400, 40);
    let before = world.index.generations().unwrap();
    assert!(world.index.rows(Table::Time) > 300);
    let mut draws = Draws(3);
    while alive.0.len() > 60 {
        let at = draws.below(alive.0.len() as u64) as usize;
        alive.kill(&mut world, at);
        if draws.one_in(40) {
            world.commit();
            alive.check(&mut world, &mut draws);
        }
    }
    world.commit();
    world.close();
    let mut world = world.restart();
    keep_up(&world);
    let after = world.index.generations().unwrap();
    assert!(after.len() * 3 < before.len(), "{} of {} are left", after.len(), before.len());
    let rows = world.index.rows(Table::Time) + world.index.rows(Table::TimeA);
    let rows = rows + world.index.rows(Table::TimeB);
    assert!(rows < 100, "{rows} rows of {} events", alive.0.len());
    alive.check(&mut world, &mut draws);
    // One that lost everything is no more.
    while !alive.0.is_empty() {
        alive.kill(&mut world, 0);
    }
    world.commit();
    world.close();
    let mut world = world.restart();
    keep_up(&world);
    assert!(world.index.generations().unwrap().len() <= 2);
    assert_eq!(world.query(&Filter::default(), 10), []);
}

#[test]
fn a_disk_without_room_lets_the_open_generation_grow() {
    let config = StoreConfig { checkpoint_events: 10, generation_events: 20, ..config() };
    let mut world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
    let (mut draws, mut alive) = (Draws(9), Alive::default());
    let mut refused = 0;
    for number in 0..150 {
        alive.put(&mut world, random_event(&mut draws, number));
        world.flush();
        while settle_before_upkeep(&mut world) {
            refused += 1;
            world.effects.remove(0);
            let done = store::index::UpkeepDone { did: Did::NoRoom, ..Default::default() };
            let mut fx = Vec::new();
            let input = store::StoreInput::UpkeepDone(done);
            world.store.step(world.now, input, &mut fx, &mut world.outputs);
            world.effects.extend(fx);
        }
    }
    assert_eq!(refused, 1, "it is not tried again at once");
    assert_eq!(world.index.generations().unwrap().len(), 1);
    alive.check(&mut world, &mut draws);
    world.now.monotonic_ms += 20_000;
    world.tick();
    world.settle();
    assert!(world.index.generations().unwrap().len() > 1);
    alive.check(&mut world, &mut draws);
}
