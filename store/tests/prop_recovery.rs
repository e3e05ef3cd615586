//! Recovery of a log that was cut, torn, or rotted anywhere: what was durable is there or the store
//! refuses to open; what was in flight is there as a whole batch or not at all.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Draft, Draws, World, config, random_event};
use proto::{Event, EventId, Filter};
use store::fault::{FaultPlan, FaultSegments};
use store::mem::{MemIndex, MemSegments};
use store::recovery::RecoveryError;
use store::{Index, KillCause, OpenError, Segments, Seq, StoreConfig, StoreEffect, StoreOutput};

type Faulty = FaultSegments<MemSegments>;

/// Copies segments, so that each case begins with the same disk.
fn copy(segments: &MemSegments) -> MemSegments {
    let to = MemSegments::default();
    for entry in segments.list().unwrap() {
        to.create(entry.segment, &segments.read(entry.segment).unwrap()).unwrap();
    }
    to
}

/// A log of a few segments, with the durable horizon after each batch.
fn some_log(segment_bytes_max: u32) -> (MemSegments, Vec<Seq>) {
    let config = StoreConfig { segment_bytes_max, ..config() };
    let index = MemIndex::new(common::SECRET);
    let mut world = World::open(config, index, MemSegments::default());
    let (mut draws, mut horizons) = (Draws(77), vec![0]);
    for batch in 0..7 {
        for number in 0..=batch % 3 {
            world.put(&random_event(&mut draws, batch * 10 + number));
        }
        if batch == 4 {
            world.store.kill(2, KillCause::Deleted);
            world.store.mark_id(EventId([1; 32]), common::author(1));
        }
        world.commit();
        horizons.push(world.store.durable());
    }
    (world.segments, horizons)
}

fn reopen(segments: MemSegments) -> Result<World<MemIndex, MemSegments>, OpenError> {
    World::try_open(config(), MemIndex::new(common::SECRET), segments)
}

#[test]
fn cut_at_every_byte_of_the_last_segment_it_keeps_whole_batches() {
    let (segments, horizons) = some_log(1 << 20);
    let entries = segments.list().unwrap();
    assert_eq!(entries.len(), 1);
    let (segment, bytes) = (entries[0].segment, segments.read(entries[0].segment).unwrap());
    let mut seen = std::collections::BTreeSet::new();
    let step = if cfg!(miri) { 797 } else { 1 };
    for length in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
        let disk = copy(&segments);
        disk.seal(segment, length as u32).unwrap();
        match reopen(disk) {
            Ok(world) => {
                assert!(horizons.contains(&world.store.durable()), "half a batch at {length}");
                seen.insert(world.store.durable());
            }
            // The header was whole before the segment had its name.
            Err(error) => {
                let expected = RecoveryError::Header { segment };
                assert_eq!(error, OpenError::Recovery(expected), "cut at {length}");
                assert!(length < 64);
            }
        }
    }
    assert!(cfg!(miri) || seen.iter().eq(&horizons), "{seen:?} of {horizons:?}");
}

#[test]
fn a_flipped_bit_before_the_last_batch_is_refused_and_named() {
    let (segments, horizons) = some_log(1 << 20);
    let segment = segments.list().unwrap()[0].segment;
    let bytes = segments.read(segment).unwrap();
    let durable = *horizons.last().unwrap();
    let before_last = horizons[horizons.len() - 2];
    let (mut refused, mut torn) = (0, 0);
    let step = if cfg!(miri) { 799 } else { 3 };
    for offset in (0..bytes.len()).step_by(step) {
        let disk = FaultSegments::new(copy(&segments), FaultPlan::default());
        disk.flip(segment, offset as u32, 1 << (offset % 8)).unwrap();
        match World::try_open(config(), MemIndex::new(common::SECRET), disk) {
            Ok(world) if world.store.durable() == before_last => torn += 1,
            Ok(world) => {
                // Padding of the header carries nothing.
                assert!((36..64).contains(&offset), "the flip at {offset} went unnoticed");
                assert_eq!(world.store.durable(), durable);
            }
            Err(OpenError::Recovery(RecoveryError::Damaged { from, to, .. })) => {
                assert!(horizons.contains(&(from - 1)) && horizons.contains(&to));
                assert!(to < durable, "the range names only what is lost");
                refused += 1;
            }
            Err(OpenError::Recovery(
                RecoveryError::Header { .. } | RecoveryError::Version { .. },
            )) => assert!(offset < 36),
            Err(error) => panic!("{error} at {offset}"),
        }
    }
    assert!(refused > 0 && torn > 0, "{refused} refused, {torn} taken for a tear");
}

#[test]
fn damage_that_the_index_has_seen_past_is_refused_even_at_the_end() {
    let (segments, horizons) = some_log(1 << 20);
    let segment = segments.list().unwrap()[0].segment;
    let length = segments.read(segment).unwrap().len();
    let index = MemIndex::new(common::SECRET);
    let mut world = World::open(config(), index.clone(), segments.clone());
    world.close();
    let durable = *horizons.last().unwrap();
    assert_eq!(index.applied().unwrap(), durable);
    segments.seal(segment, length as u32 - 1).unwrap();
    let error = World::try_open(config(), index, segments).err().unwrap();
    let OpenError::Recovery(RecoveryError::Damaged { from, to, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!((from, to), (horizons[horizons.len() - 2] + 1, durable));
}

#[test]
fn damage_in_a_sealed_segment_and_a_missing_segment_are_refused() {
    let (segments, _) = some_log(900);
    let entries = segments.list().unwrap();
    assert!(entries.len() > 3, "the log has several segments");
    for pair in entries.windows(2) {
        let disk = copy(&segments);
        let length = disk.read(pair[0].segment).unwrap().len();
        disk.seal(pair[0].segment, length as u32 - 1).unwrap();
        let error = reopen(disk).err().unwrap();
        let lost = matches!(error, OpenError::Recovery(RecoveryError::Damaged { to, .. })
            if to == pair[1].segment - 1);
        assert!(lost, "{error}");
    }
    let without = MemSegments::default();
    for entry in entries.iter().filter(|entry| entry.segment != entries[1].segment) {
        without.create(entry.segment, &segments.read(entry.segment).unwrap()).unwrap();
    }
    let error = reopen(without).err().unwrap();
    assert!(matches!(error, OpenError::Recovery(RecoveryError::Damaged { from, .. })
        if from == entries[1].segment));
    let late = MemSegments::default();
    late.create(entries[2].segment, &segments.read(entries[2].segment).unwrap()).unwrap();
    let error = reopen(late).err().unwrap();
    let expected = RecoveryError::Missing { from: 1, to: entries[2].segment - 1 };
    assert_eq!(error, OpenError::Recovery(expected));
}

#[test]
fn stale_bytes_of_an_earlier_life_never_come_back() {
    // A life whose last batch was torn in its middle, its end intact on the disk.
    let (segments, horizons) = some_log(1 << 20);
    let segment = segments.list().unwrap()[0].segment;
    let bytes = segments.read(segment).unwrap();
    let torn_at = bytes.len() - 40;
    segments.write(segment, torn_at as u32, &[bytes[torn_at] ^ 1]).unwrap();
    let mut world = reopen(segments).unwrap();
    let before = world.store.durable();
    assert_eq!(before, horizons[horizons.len() - 2]);
    assert_eq!(world.put(&Draft::new(1, 1, 5).content("short").pack()), before + 1);
    world.commit();
    let segments = world.segments;
    let names: Vec<Seq> = segments.list().unwrap().iter().map(|entry| entry.segment).collect();
    assert_eq!(names, [segment, before + 1], "the old segment is not continued");
    // Even the old bytes put where a later life would read them are no batch of that life.
    let new = segments.read(before + 1).unwrap();
    segments.write(before + 1, new.len() as u32, &bytes[64..]).unwrap();
    assert_eq!(reopen(segments).unwrap().store.durable(), before + 1);
}

#[test]
fn an_empty_last_segment_is_replaced() {
    let (segments, horizons) = some_log(1 << 20);
    let mut world = reopen(segments).unwrap();
    world.put(&Draft::new(1, 1, 5).pack());
    world.flush();
    assert!(matches!(world.effects[0], StoreEffect::Log(store::LogEffect::Create { .. })));
    world.perform(0);
    world.effects.clear();
    let durable = *horizons.last().unwrap();
    let mut world = world.restart();
    assert_eq!(world.store.durable(), durable);
    let event = Draft::new(1, 1, 6).pack();
    world.put(&event);
    world.commit();
    let mut world = world.restart();
    assert_eq!(world.store.durable(), durable + 1);
    let ids = Filter { ids: Some(vec![event.view().id()]), ..Filter::default() };
    assert_eq!(world.query(&ids, 10), [event]);
}

/// One life on a failing disk: what was acknowledged, and what was in flight at the end.
fn live(
    world: &mut World<MemIndex, Faulty>,
    draws: &mut Draws,
    acknowledged: &mut Vec<Event>,
    sent: &mut Vec<Event>,
) {
    for number in 0..if cfg!(miri) { 6 } else { 60 } {
        for part in 0..=draws.below(3) {
            let event = random_event(draws, draws.0 ^ (number * 4 + part));
            sent.push(event.clone());
            world.put(&event);
        }
        world.flush();
        while !world.effects.is_empty() {
            world.perform(0);
            for output in std::mem::take(&mut world.outputs) {
                match output {
                    StoreOutput::Durable { puts, .. } => {
                        acknowledged.extend(puts.into_iter().map(|(_, event)| event));
                    }
                    StoreOutput::Fatal(_) => return,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// Lives and power cuts; returns how many acknowledged events were lost.
fn lives(seed: u64, skip_sync: bool) -> usize {
    let mut draws = Draws(seed);
    let disk = FaultSegments::new(MemSegments::default(), FaultPlan::default());
    let index = MemIndex::new(common::SECRET);
    let config = StoreConfig { segment_bytes_max: 6_000, checkpoint_events: 50, ..config() };
    let (mut acknowledged, mut sent) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let at = Some(1 + if draws.one_in(4) { 0 } else { draws.below(40) });
        let fails = draws.one_in(2);
        let plan = FaultPlan {
            seed: draws.next(),
            fail_at: at.filter(|_| fails),
            stop_at: at.filter(|_| !fails),
            survive_of_256: [0, 128, 256][draws.below(3) as usize],
            skip_sync,
        };
        disk.power_cut(plan).unwrap();
        let mut world = match World::try_open(config.clone(), index.clone(), disk.clone()) {
            Ok(world) => world,
            // The fault struck recovery itself.
            Err(OpenError::World(_)) => continue,
            Err(OpenError::Recovery(error)) => {
                assert!(skip_sync, "a disk that keeps its word is always readable: {error}");
                return acknowledged.len();
            }
        };
        live(&mut world, &mut draws, &mut acknowledged, &mut sent);
    }
    disk.power_cut(FaultPlan::default()).unwrap();
    let Ok(mut world) = World::try_open(config, index, disk) else {
        assert!(skip_sync, "a disk that keeps its word is always readable");
        return acknowledged.len();
    };
    let stored = world.query(&Filter::default(), 500);
    assert!(stored.iter().all(|event| sent.contains(event)), "nothing is made up");
    acknowledged.iter().filter(|event| !stored.contains(event)).count()
}

#[test]
fn nothing_acknowledged_is_lost_in_any_power_cut() {
    for seed in 0..if cfg!(miri) { 1 } else { 300 } {
        assert_eq!(lives(seed, false), 0, "seed {seed}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "it is about the test, not about memory")]
fn the_control_without_syncs_loses_what_it_acknowledged() {
    let lost: usize = (0..10).map(|seed| lives(seed, true)).sum();
    assert!(lost > 0, "a test that cannot see lost syncs proves nothing");
}

#[test]
fn the_index_can_be_rebuilt_from_the_log_alone_in_several_generations() {
    let config = StoreConfig { checkpoint_events: 30, segment_bytes_max: 10_000, ..config() };
    let index = MemIndex::new(common::SECRET);
    let mut world = World::open(config.clone(), index, MemSegments::default());
    let mut draws = Draws(4);
    let mut alive: Vec<Seq> = Vec::new();
    let count = if cfg!(miri) { 60 } else { 300 };
    for number in 0..count {
        alive.push(world.put(&random_event(&mut draws, number)));
        if draws.one_in(4) {
            let victim = draws.below(alive.len() as u64) as usize;
            world.store.kill(alive.swap_remove(victim), KillCause::Replaced);
        }
        world.commit();
    }
    let expected = world.query(&Filter::default(), 50);
    let index = MemIndex::new(common::SECRET);
    let mut rebuilt = World::open(config, index, world.segments);
    assert!(rebuilt.store.stats().applied > count * 2 / 3, "most of it went into the index");
    assert_eq!(rebuilt.query(&Filter::default(), 50), expected);
    assert_eq!(expected.len(), alive.len());
}

#[test]
fn a_rewritten_segment_whose_batches_are_out_of_order_or_range_is_refused() {
    use store::record::write_kill;
    use store::rewrite::format::{BatchWriter, Footer, RewrittenHeader, name_of};
    let segment = name_of(1, 1);
    let header = RewrittenHeader { shard: 0, segment, last_seq: 9, purged_through: 9, epoch: 1 };
    let open = |batches: &[&[Seq]]| {
        let mut bytes = header.encode();
        let mut records = 0;
        for seqs in batches {
            let mut writer = BatchWriter::default();
            let mut kill = Vec::new();
            write_kill(&mut kill, 1, KillCause::Deleted);
            for seq in *seqs {
                writer.push(*seq, &kill);
            }
            bytes.extend(writer.finish(&header));
            records += seqs.len() as u64;
        }
        let (length, crc) = (bytes.len() as u32, crc32c::crc32c(&bytes));
        let count = batches.len() as u32;
        bytes.extend(Footer { batches: count, records, bytes: length, crc }.encode());
        let disk = MemSegments::default();
        disk.create(segment, &bytes).unwrap();
        let index = MemIndex::new(common::SECRET);
        // The index believes in it, so that nothing but recovery looks at its bytes.
        let row = store::index::segments::SegmentRow { last_seq: 9, ..Default::default() };
        index.adopt(&[(segment, row)]).unwrap();
        World::try_open(config(), index, disk).map(|world| world.store.durable())
    };
    assert_eq!(open(&[&[2, 5], &[7, 9]]).unwrap(), 9);
    for batches in [&[&[5, 6][..], &[4, 7]][..], &[&[5], &[5]], &[&[8, 10]]] {
        let error = open(batches).unwrap_err();
        let is_named = matches!(error, OpenError::Recovery(RecoveryError::Records { .. }));
        assert!(is_named, "{batches:?}: {error}");
    }
}

#[test]
fn a_last_batch_of_nonsense_is_refused_and_can_be_given_up() {
    use store::record::{begin_batch, finish_batch, write_kill};
    let (segments, horizons) = some_log(1 << 20);
    let segment = segments.list().unwrap()[0].segment;
    let durable = *horizons.last().unwrap();
    let end = segments.read(segment).unwrap().len() as u32;
    let mut batch = Vec::new();
    begin_batch(&mut batch);
    write_kill(&mut batch, 1, KillCause::Deleted);
    finish_batch(&mut batch, segment, 1, durable + 1, 2);
    segments.write(segment, end, &batch).unwrap();
    let error = reopen(copy(&segments)).err().unwrap();
    let OpenError::Recovery(error) = error else { panic!("{error}") };
    assert_eq!(error, RecoveryError::Records { segment, offset: end });
    assert!(store::scrub::is_curable(&error));
    let index = MemIndex::new(common::SECRET);
    let loss = store::scrub::accept_loss(&config(), &index, &segments).unwrap();
    assert_eq!(loss.quarantined, [segment]);
    let world = World::open(config(), index, segments);
    assert_eq!(world.store.durable(), durable, "all that made sense is there");
}
