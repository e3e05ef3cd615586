//! A disk without room: nothing is lost, what waits is tried again, what makes room goes on.
#![allow(clippy::unwrap_used)]

mod common;

use common::naive::submit;
use common::{Draft, World, config};
use proto::nip::nip62;
use proto::{Event, Filter};
use std::cell::Cell;
use store::mem::{MemIndex, MemSegments};
use store::seam::SegmentEntry;
use store::{
    KillCause, LogEffect, Segments, Seq, StoreConfig, StoreEffect, StoreInput, StoreOutput,
    Unwritten, WorldError,
};

type MemWorld = World<MemIndex, MemSegments>;

fn world(config: StoreConfig) -> MemWorld {
    World::open(config, MemIndex::new(common::SECRET), MemSegments::default())
}

fn give(world: &mut MemWorld, input: StoreInput) {
    let mut fx = Vec::new();
    world.store.step(world.now, input, &mut fx, &mut world.outputs);
    world.effects.extend(fx);
}

fn numbered(number: u64) -> Event {
    Draft::new(number, 1, 10).content(number).pack()
}

/// Says that the disk is full to the effect that comes next.
fn refuse(world: &mut MemWorld) {
    let unwritten = match world.effects.pop_front().unwrap() {
        StoreEffect::Log(effect) => Unwritten::Log(effect),
        StoreEffect::Checkpoint(_) => Unwritten::Checkpoint,
        other => panic!("{other:?} needs no room"),
    };
    give(world, StoreInput::NoSpace(unwritten));
}

fn later(world: &mut MemWorld) {
    world.now.monotonic_ms += 1_000;
    world.tick();
}

fn is_log(effect: Option<&StoreEffect>) -> bool {
    matches!(effect, Some(StoreEffect::Log(_)))
}

#[test]
fn log_work_that_finds_no_room_is_tried_again_and_writes_are_refused_until_it_is_done() {
    let mut world = world(config());
    let event = numbered(1);
    world.put(&event);
    world.flush();
    for step in ["create", "write"] {
        for _ in 0..3 {
            assert!(is_log(world.effects.front()), "{step}");
            refuse(&mut world);
            assert!(world.store.is_full() && !world.store.has_room() && world.effects.is_empty());
            world.tick();
            assert!(!is_log(world.effects.front()), "{step} is not tried without a pause");
            world.effects.clear();
            later(&mut world);
            assert!(world.store.is_full(), "{step} has not been done: there is no room yet");
            world.effects.retain(|effect| matches!(effect, StoreEffect::Log(_)));
            assert_eq!(world.effects.len(), 1, "{step} is tried once");
        }
        world.perform(0);
        assert!(world.store.has_room(), "{step}");
    }
    assert!(matches!(world.outputs.last(), Some(StoreOutput::Durable { through: 1, .. })));
    assert_eq!(world.store.stats().no_room, 6);
    assert_eq!(world.query(&Filter::default(), 10), [event]);
}

#[test]
fn a_seal_that_finds_no_room_is_over_when_it_is_done() {
    let mut world = world(StoreConfig { segment_bytes_max: 600, ..config() });
    let is_seal = |effect: &StoreEffect| matches!(effect, StoreEffect::Log(LogEffect::Seal { .. }));
    for number in 0.. {
        world.put(&numbered(number));
        world.flush();
        while world.effects.front().is_some_and(|effect| !is_seal(effect)) {
            world.perform(0);
        }
        if !world.effects.is_empty() {
            break;
        }
    }
    refuse(&mut world);
    assert!(world.store.is_full());
    later(&mut world);
    world.effects.retain(is_seal);
    assert_eq!(world.effects.len(), 1, "it is tried again");
    // Nothing else waits to be written: no later write tells the store that there is room.
    world.perform(0);
    assert!(!world.store.is_full() && world.store.has_room());
}

#[test]
fn a_checkpoint_that_finds_no_room_waits_and_a_store_can_close_without_it() {
    for is_closed_early in [false, true] {
        let mut world = world(StoreConfig { checkpoint_events: 3, ..config() });
        let events: Vec<Event> = (0..5).map(numbered).collect();
        for event in &events[..3] {
            world.put(event);
        }
        world.flush();
        world.settle_without_checkpoints();
        refuse(&mut world);
        assert!(world.store.is_full());
        // What is under way goes on meanwhile; the index is not touched.
        for event in &events[3..] {
            world.put(event);
        }
        world.flush();
        world.settle();
        assert_eq!(world.query(&Filter::default(), 10).len(), 5);
        if !is_closed_early {
            later(&mut world);
            assert!(world.store.is_full(), "it has not been applied yet");
            world.settle();
            assert!(world.store.has_room());
            assert_eq!(world.store.stats().applied, 3);
        }
        world.close();
        assert_eq!(world.store.stats().applied, if is_closed_early { 0 } else { 5 });
        let mut world = world.restart();
        assert_eq!(world.query(&Filter::default(), 10).len(), 5);
    }
}

#[test]
fn past_the_high_water_mark_what_makes_room_goes_on() {
    let mut world = world(config());
    for number in 0..3 {
        world.put(&numbered(number));
        let at = world.now.unix_s - 10;
        let expiring = Draft::new(9, 1, 10).tag("expiration", &at.to_string());
        world.put(&expiring.content(number).pack());
    }
    world.commit();
    let request = Draft::new(1, nip62::KIND, 1_000).tag("relay", "ALL_RELAYS").pack();
    submit(&mut world, &request).unwrap();
    world.close();
    let mut world = world.restart();
    world.store.set_low_on_space(true);
    assert!(!world.store.has_room());
    for _ in 0..10 {
        later(&mut world);
        world.settle();
    }
    let stats = world.store.stats();
    assert!(!world.store.has_room());
    assert_eq!((stats.expired, stats.vanished), (3, 1));
    assert!(!world.store.is_purging());
}

#[test]
fn removals_count_towards_a_checkpoint_like_events() {
    let mut world = world(StoreConfig { checkpoint_events: 40, ..config() });
    for number in 0..40 {
        world.put(&numbered(number));
    }
    world.commit();
    assert_eq!(world.store.stats().checkpoints, 1);
    for victim in 1..=40 {
        world.store.kill(victim, KillCause::Operator);
    }
    world.commit();
    assert_eq!(world.store.stats().checkpoints, 2, "each of them costs the index as much");
}

/// Finds out only at the last moment that there is no room.
struct Late {
    inner: MemSegments,
    refusals: Cell<u32>,
}

impl Segments for Late {
    fn list(&self) -> Result<Vec<SegmentEntry>, WorldError> {
        self.inner.list()
    }

    fn read(&self, segment: Seq) -> Result<Vec<u8>, WorldError> {
        self.inner.read(segment)
    }

    fn read_at(&self, segment: Seq, offset: u32, length: usize) -> Result<Vec<u8>, WorldError> {
        self.inner.read_at(segment, offset, length)
    }

    fn create(&self, segment: Seq, header: &[u8]) -> Result<(), WorldError> {
        self.inner.create(segment, header)
    }

    fn write(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        self.inner.write(segment, offset, bytes)
    }

    fn sync(&self, segment: Seq) -> Result<(), WorldError> {
        self.inner.sync(segment)
    }

    fn seal(&self, segment: Seq, length: u32) -> Result<(), WorldError> {
        self.inner.seal(segment, length)
    }

    fn stage(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        self.inner.stage(segment, offset, bytes)
    }

    fn publish(&self, segment: Seq) -> Result<(), WorldError> {
        if let Some(left) = self.refusals.get().checked_sub(1) {
            self.refusals.set(left);
            return Err(WorldError::NoSpace("a full disk".to_owned()));
        }
        self.inner.publish(segment)
    }

    fn discard(&self, segment: Seq) -> Result<(), WorldError> {
        self.inner.discard(segment)
    }

    fn unlink(&self, segment: Seq) -> Result<(), WorldError> {
        self.inner.unlink(segment)
    }

    fn quarantine(&self, segment: Seq) -> Result<(), WorldError> {
        self.inner.quarantine(segment)
    }
}

#[test]
fn a_rewriting_whose_sync_finds_no_room_is_refused_and_ends_nobody() {
    let segments = Late { inner: MemSegments::default(), refusals: Cell::new(1) };
    let index = MemIndex::new(common::SECRET);
    let mut world = World::open(config(), index, segments);
    for number in 0..20 {
        world.put(&numbered(number));
    }
    world.store.kill(7, KillCause::Operator);
    world.commit();
    for expected in [(0, 1), (1, 1)] {
        let mut fx = Vec::new();
        world.store.compact(world.now, &mut fx);
        world.effects.extend(fx);
        while world.store.compaction().is_some() {
            world.settle();
            world.tick();
            let fatal = |output: &StoreOutput| matches!(output, StoreOutput::Fatal(_));
            assert!(!world.outputs.iter().any(fatal), "{:?}", world.outputs);
        }
        let stats = world.store.stats();
        assert_eq!((stats.rewrites, stats.rewrites_refused), expected);
        assert_eq!(world.query(&Filter::default(), 100).len(), 19);
    }
}

#[test]
fn a_compaction_carries_out_the_requests_to_vanish_first() {
    let mut world = world(StoreConfig { hot_bytes_max: 0, ..config() });
    for number in 0..600 {
        let text = format!("text {number} ends");
        world.put(&Draft::new(number % 2, 1, 10).content(text).pack());
    }
    world.commit();
    let request = Draft::new(1, nip62::KIND, 1_000).tag("relay", "ALL_RELAYS").pack();
    submit(&mut world, &request).unwrap();
    world.flush();
    while world.store.durable() < world.store.appended() {
        let at = world.effects.iter().position(|effect| is_log(Some(effect))).unwrap();
        world.perform(at);
    }
    assert_eq!(world.store.stats().vanished, 0, "the removal has hardly begun");
    let mut fx = Vec::new();
    world.store.compact(world.now, &mut fx);
    world.effects.extend(fx);
    let mut turns = 0;
    while world.store.compaction().is_some() {
        world.settle();
        world.tick();
        turns += 1;
        assert!(turns < 10_000, "a compaction ends");
    }
    let has = |text: &str| {
        let entries = world.segments.list().unwrap();
        entries.iter().any(|entry| {
            let bytes = world.segments.read(entry.segment).unwrap();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    };
    assert!(has("text 0 ends") && has("text 598 ends"));
    assert!(!has("text 1 ends") && !has("text 599 ends"), "the bytes are gone");
}
