//! The store as a state machine: what is seen when, in whatever order the world answers.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Draft, Draws, World, config, position, random_event};
use proto::{Event, EventId, Filter, Now};
use store::fault::{FaultPlan, FaultSegments};
use store::index::Table;
use store::index::segments::{Remap, SegmentRow};
use store::mem::{MemIndex, MemSegments};
use store::seam::perform;
use store::{
    Bodies, Found, Index, IndexPage, IndexRow, KillCause, Loc, LogEffect, LookupKey, ScanRequest,
    Segments, Seq, StoreConfig, StoreEffect, StoreInput, StoreOutput, WorldError,
};

type MemWorld = World<MemIndex, MemSegments>;

fn world(config: StoreConfig) -> MemWorld {
    World::open(config, MemIndex::new(common::SECRET), MemSegments::default())
}

fn all(after: Option<store::Position>) -> ScanRequest {
    let streams = store::plan::union(&[Filter::default()], &common::SECRET);
    ScanRequest { streams, after, rows_max: 10_000 }
}

fn give<I: Index, S: Segments>(world: &mut World<I, S>, input: StoreInput) {
    let mut fx = Vec::new();
    world.store.step(world.now, input, &mut fx, &mut world.outputs);
    world.effects.extend(fx);
}

fn rows_of(outputs: &mut Vec<StoreOutput>) -> Vec<store::Row> {
    match outputs.pop() {
        Some(StoreOutput::Rows { rows, .. }) => rows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_replacement_leaves_no_moment_without_a_version() {
    let mut world = world(config());
    let old = Draft::new(1, 0, 10).content("old").pack();
    let new = Draft::new(1, 0, 20).content("new").pack();
    let old_seq = world.put(&old);
    world.commit();
    let new_seq = world.put(&new);
    world.store.kill(old_seq, KillCause::Replaced);
    world.flush();
    assert_eq!(world.query(&Filter::default(), 10), std::slice::from_ref(&old));
    assert!(world.store.is_dead(old_seq) && world.store.is_visible(old_seq));
    let answers = world.store.memory_only();
    let slot = proto::nip::nip01::Slot::of(&new.view()).unwrap().key(&common::SECRET);
    let holder = world.store.view(&answers).holder(slot).unwrap();
    assert_eq!(holder.seq, new_seq, "decisions see the new version before readers do");
    assert!(!world.store.view(&answers).id(&new.view().id()).unwrap().durable);
    assert_eq!(world.store.pending_events(), 1);
    world.settle();
    assert_eq!(world.query(&Filter::default(), 10), std::slice::from_ref(&new));
    assert!(!world.store.is_visible(old_seq) && world.store.is_visible(new_seq));
    assert!(world.store.view(&answers).id(&new.view().id()).unwrap().durable);
    assert!(world.store.is_idle());
}

#[test]
fn a_page_read_before_a_checkpoint_and_answered_after_it_is_whole() {
    let mut world = world(StoreConfig { checkpoint_events: 20, ..config() });
    let mut draws = Draws(8);
    let mut events: Vec<Event> = Vec::new();
    for number in 0..20 {
        events.push(random_event(&mut draws, number));
        world.put(&events[number as usize]);
    }
    world.flush();
    world.settle_without_checkpoints();
    assert!(matches!(world.effects[0], StoreEffect::Checkpoint(_)));
    // The scan reads the index while it is empty; its answer is on the way for a long time.
    let mut fx = Vec::new();
    world.store.scan(all(None), world.store.durable(), &mut fx);
    let late = perform(&world.index, &world.segments, fx.remove(0));
    world.perform(0);
    assert_eq!(world.index.applied().unwrap(), 20);
    for number in 20..60 {
        events.push(random_event(&mut draws, number));
        world.put(&events[number as usize]);
        world.commit();
    }
    assert!(world.store.stats().applied >= 40);
    assert!(world.store.stats().delta_events >= 60 - 20, "what the late page needs is kept");
    give(&mut world, late);
    let rows = rows_of(&mut world.outputs);
    let mut expected: Vec<_> = events[..20].iter().map(position).collect();
    expected.sort();
    assert_eq!(rows.iter().map(|row| row.position).collect::<Vec<_>>(), expected);
    assert!(world.store.stats().delta_events < 40, "and freed when the page has been answered");
}

#[test]
fn answers_stay_right_while_they_are_held() {
    let mut world = world(StoreConfig { checkpoint_events: 1, ..config() });
    let event = Draft::new(1, 0, 10).pack();
    let id = event.view().id();
    let slot = proto::nip::nip01::Slot::of(&event.view()).unwrap().key(&common::SECRET);
    let answers = world.answers(vec![LookupKey::Id(id), LookupKey::Slot(slot)]);
    let seq = world.put(&event);
    world.commit();
    assert_eq!(world.store.stats().applied, seq);
    assert_eq!(world.store.view(&answers).id(&id).unwrap().seq, seq);
    assert_eq!(world.store.view(&answers).holder(slot).unwrap().seq, seq);
    world.store.kill(seq, KillCause::Operator);
    assert!(world.store.view(&answers).id(&id).is_none(), "a pending kill counts at once");
    world.commit();
    assert!(world.store.view(&answers).id(&id).is_none());
    assert!(world.store.view(&answers).holder(slot).is_none());
    drop(answers);
    world.tick();
    assert_eq!(world.store.stats().delta_events, 0, "nobody needs the generations any more");
    let answers = world.answers(vec![LookupKey::Id(id), LookupKey::Slot(slot)]);
    assert!(world.store.view(&answers).id(&id).is_none());
}

#[test]
fn what_is_not_there_needs_no_lookup_and_what_is_does_after_a_restart() {
    let mut world = world(config());
    let event = Draft::new(1, 30_023, 10).tag("d", "x").tag("e", "y").pack();
    world.put(&event);
    world.store.mark_id(EventId([8; 32]), common::author(1));
    world.close();
    let world = world.restart();
    let slot = proto::nip::nip01::Slot::of(&event.view()).unwrap().key(&common::SECRET);
    let known = [
        LookupKey::Id(event.view().id()),
        LookupKey::Slot(slot),
        LookupKey::DeletedId(EventId([8; 32]), common::author(1)),
    ];
    assert_eq!(world.store.unanswered(known.clone()), known);
    let unknown: Vec<LookupKey> = (0..100)
        .flat_map(|number| {
            let id = EventId([number; 32]);
            [LookupKey::Id(id), LookupKey::DeletedId(id, common::author(2))]
        })
        .collect();
    assert!(world.store.unanswered(unknown).len() < 20);
    assert!(world.store.may_have_id(&event.view().id()));
    assert!(world.store.may_have_tag(b'e', b"y") && !world.store.may_have_tag(b'e', b"z"));
    assert!(world.store.may_have_tag(b'p', b"z"), "letters that are not sketched are maybe");
}

#[test]
fn one_write_is_in_flight_and_segments_follow_one_another() {
    let mut world = world(StoreConfig { segment_bytes_max: 3_000, ..config() });
    let (mut draws, mut open, mut next) = (Draws(5), None::<(Seq, u32)>, 1);
    for number in 0..120 {
        for part in 0..draws.below(4) {
            world.put(&random_event(&mut draws, number * 4 + part));
        }
        world.flush();
        let logs = |effect: &&StoreEffect| matches!(effect, StoreEffect::Log(_));
        assert!(world.effects.iter().filter(logs).count() <= 1, "log effects overlap");
        if draws.one_in(3) && !world.effects.is_empty() {
            match &world.effects[0] {
                StoreEffect::Log(LogEffect::Create { segment, .. }) => {
                    assert_eq!((open, *segment), (None, next));
                    open = Some((*segment, 64));
                }
                StoreEffect::Log(LogEffect::Write { segment, offset, bytes, through }) => {
                    assert_eq!(open, Some((*segment, *offset)));
                    open = Some((*segment, offset + bytes.len() as u32));
                    next = through + 1;
                }
                StoreEffect::Log(LogEffect::Seal { segment, length }) => {
                    assert_eq!(open, Some((*segment, *length)));
                    open = None;
                }
                other => panic!("{other:?}"),
            }
            world.perform(0);
        }
    }
    assert!(world.segments.list().unwrap().len() > 3);
}

#[test]
fn a_full_store_refuses_writes_and_goes_on_reading() {
    let mut world = world(StoreConfig { delta_bytes_max: 40_000, ..config() });
    let mut draws = Draws(6);
    let mut count = 0;
    while world.store.has_room() {
        world.put(&random_event(&mut draws, count));
        count += 1;
        world.flush();
        world.settle_without_checkpoints();
        assert!(count < 1_000, "the bound is never reached");
    }
    assert_eq!(world.query(&Filter::default(), 100).len() as u64, count);
    world.settle();
    assert!(world.store.has_room(), "a checkpoint makes room");
    assert!(world.store.bytes_held() < 300_000);
    let mut world = common::World::open(
        StoreConfig { batch_bytes_max: 1_000, ..config() },
        MemIndex::new(common::SECRET),
        MemSegments::default(),
    );
    (0..10).for_each(|number| {
        world.put(&random_event(&mut draws, number));
    });
    assert!(!world.store.has_room(), "the open batch is full");
    world.commit();
    assert!(world.store.has_room());
}

#[test]
fn a_failed_write_is_fatal_and_a_failed_read_is_not() {
    for fail_at in 1..=2 {
        let plan = FaultPlan { fail_at: Some(fail_at), ..FaultPlan::default() };
        let segments = FaultSegments::new(MemSegments::default(), plan);
        let mut world = World::open(config(), MemIndex::new(common::SECRET), segments);
        world.put(&Draft::new(1, 1, 1).pack());
        world.commit();
        assert!(matches!(world.outputs[..], [StoreOutput::Fatal(WorldError::Log { .. })]));
        assert_eq!(world.store.durable(), 0);
    }
    let mut world = World::open(config(), BrokenIndex, MemSegments::default());
    world.put(&Draft::new(1, 1, 1).pack());
    world.commit();
    world.outputs.clear();
    let mut fx = Vec::new();
    let scan = world.store.scan(all(None), 1, &mut fx);
    let lookup = world.store.lookup(vec![LookupKey::Id(EventId([0; 32]))], &mut fx);
    world.effects.extend(fx);
    world.settle();
    let failed = |output: &StoreOutput| match output {
        StoreOutput::Failed { token, .. } => *token,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.outputs.iter().map(failed).collect::<Vec<_>>(), [scan, lookup]);
    assert_eq!(world.store.stats().reads_failed, 2);
    world.tick();
    world.settle();
    world.outputs.clear();
    world.now.monotonic_ms += 1_000_000;
    world.tick();
    world.settle();
    assert!(matches!(world.outputs[..], [StoreOutput::Fatal(WorldError::Index(_))]));
}

/// An index whose disk is gone, though it opened.
struct BrokenIndex;

fn broken<T>() -> Result<T, WorldError> {
    Err(WorldError::Index("gone".to_owned()))
}

impl Index for BrokenIndex {
    fn applied(&self) -> Result<Seq, WorldError> {
        Ok(0)
    }

    fn scan(&self, _: &ScanRequest) -> Result<IndexPage, WorldError> {
        broken()
    }

    fn lookup(&self, _: &[LookupKey]) -> Result<Vec<Found>, WorldError> {
        broken()
    }

    fn expired(&self, _: u64, _: Option<(u64, Seq)>, _: u32) -> Result<Vec<IndexRow>, WorldError> {
        broken()
    }

    fn checkpoint(&self, _: &store::delta::Generation, _: &dyn Bodies) -> Result<Seq, WorldError> {
        broken()
    }

    fn ask(&self, _: &store::effect::Question) -> Result<store::effect::Answer, WorldError> {
        broken()
    }

    fn purges(&self) -> Result<Vec<store::vanish::Purge>, WorldError> {
        Ok(Vec::new())
    }

    fn resum(&self, _: &[Filter], _: &dyn Bodies) -> Result<store::sums::Resummed, WorldError> {
        Ok(store::sums::Resummed::default())
    }

    fn upkeep(
        &self,
        _: &store::index::UpkeepRequest,
    ) -> Result<store::index::UpkeepDone, WorldError> {
        Ok(store::index::UpkeepDone::default())
    }

    fn generations(&self) -> Result<Vec<store::index::generations::IndexGeneration>, WorldError> {
        broken()
    }

    fn segments(&self) -> Result<Vec<(Seq, SegmentRow)>, WorldError> {
        Ok(Vec::new())
    }

    fn locs(&self, _: Seq, _: Seq, _: usize) -> Result<Vec<IndexRow>, WorldError> {
        broken()
    }

    fn remap(&self, _: &Remap) -> Result<(), WorldError> {
        broken()
    }

    fn adopt(&self, _: &[(Seq, SegmentRow)]) -> Result<(), WorldError> {
        broken()
    }

    fn missing_rows(
        &self,
        _: &[(Seq, store::key::EventKeys)],
    ) -> Result<Vec<Vec<Table>>, WorldError> {
        broken()
    }

    fn sketched(&self, _: &mut dyn FnMut(store::seam::Sketched)) -> Result<(), WorldError> {
        Ok(())
    }

    fn sketched_count(&self) -> Result<store::sketch::SketchedCount, WorldError> {
        Ok(store::sketch::SketchedCount::default())
    }
}

#[test]
fn expired_events_are_hidden_at_once_and_removed_in_small_batches() {
    let mut world = world(StoreConfig { checkpoint_events: 100, ..config() });
    let expires_at = world.now.unix_s + 100;
    for number in 0..600 {
        let expiration = expires_at + number % 2;
        let draft = Draft::new(number, 1, 10).tag("expiration", &expiration.to_string());
        world.put(&draft.pack());
        world.commit();
    }
    let kept = Draft::new(1, 1, 9).pack();
    world.put(&kept);
    world.commit();
    assert_eq!(world.query(&Filter::default(), 500).len(), 601);
    world.now.unix_s = expires_at;
    assert_eq!(world.query(&Filter::default(), 500).len(), 301, "a clock is enough to hide");
    world.now.unix_s = expires_at + 1;
    assert_eq!(world.query(&Filter::default(), 500), std::slice::from_ref(&kept));
    world.settle();
    let mut removed = Vec::new();
    for _ in 0..400 {
        let before = world.store.stats().expired;
        world.now.monotonic_ms += 1_000;
        world.tick();
        world.settle();
        removed.push(world.store.stats().expired - before);
    }
    assert_eq!(removed.iter().sum::<u64>(), 600);
    assert!(removed.iter().all(|count| *count <= 256), "{removed:?}");
    world.close();
    assert_eq!(world.index.rows(Table::Expiry), 0);
    assert_eq!(world.index.rows(Table::Loc), 1);
    assert_eq!(world.query(&Filter::default(), 500), [kept]);
}

#[test]
fn killed_events_leave_no_row_behind() {
    // What dies in a closed generation leaves rows that only a rewriting removes.
    let generation_events = 1_000;
    let config = StoreConfig { generation_events, checkpoint_events: 30, ..config() };
    let mut world = world(StoreConfig { hot_bytes_max: 0, ..config });
    let mut draws = Draws(11);
    let mut seqs = Vec::new();
    for number in 0..100 {
        let mut draft = common::random_draft(&mut draws, number);
        if draws.one_in(3) {
            draft = draft.tag("expiration", "4000000000");
        }
        if draws.one_in(3) {
            draft.kind = 10_002;
            draft.author = number;
        }
        seqs.push(world.put(&draft.pack()));
        world.commit();
    }
    for seq in seqs {
        world.store.kill(seq, KillCause::Operator);
        if draws.one_in(5) {
            world.commit();
        }
    }
    world.close();
    for table in Table::ALL {
        // What is left is how much of the one segment is dead, what the index holds, which sync
        // sets it sums, and an open generation with nothing in it.
        let expected = match table {
            Table::Segment => 1,
            Table::Meta => 3,
            _ => 0,
        };
        assert_eq!(world.index.rows(table), expected, "table {}", table.name());
    }
}

#[test]
fn bodies_are_hot_or_fetched_and_damage_is_never_served() {
    let inner = MemSegments::default();
    let segments = FaultSegments::new(inner, FaultPlan::default());
    let config = StoreConfig { hot_bytes_max: 1_200, ..config() };
    let mut world = World::open(config, MemIndex::new(common::SECRET), segments);
    let events: Vec<Event> =
        (0..10).map(|at| Draft::new(1, 1, at).content("x".repeat(200)).pack()).collect();
    for event in &events {
        world.store.put(event.clone(), Loc::UNVERIFIED);
        world.commit();
    }
    let (rows, end) = world.page(all(None), 10);
    assert_eq!((rows.len(), end), (10, None));
    let hot = rows.iter().filter(|row| row.event.is_some()).count();
    assert!((1..10).contains(&hot), "{hot} bodies are hot");
    assert!(rows.iter().all(|row| row.loc.flags & Loc::LOG_FLAGS == Loc::UNVERIFIED));
    assert!(rows[0].event.is_some(), "the newest is");
    let cold = rows.last().unwrap().clone();
    world.segments.flip(cold.loc.segment, cold.loc.offset + 100, 4).unwrap();
    let mut fx = Vec::new();
    let wanted = world.store.fetch(&rows, &mut fx);
    world.effects.extend(fx);
    world.settle();
    let Some(StoreOutput::Fetched { token, bodies }) = world.outputs.pop() else { panic!() };
    assert_eq!(token, wanted);
    assert_eq!(bodies[9], None, "the flipped bit is in the signature");
    for (row, body) in rows.iter().zip(&bodies).take(9) {
        assert_eq!(position(body.as_ref().unwrap()), row.position);
    }
}

#[test]
fn age_starts_a_checkpoint_and_the_end_leaves_nothing_in_memory() {
    let mut world = world(config());
    let event = Draft::new(1, 1, 10).pack();
    world.put(&event);
    world.commit();
    world.tick();
    world.settle();
    assert_eq!(world.store.stats().applied, 0);
    world.now = Now { monotonic_ms: world.now.monotonic_ms + 300_000, ..world.now };
    world.tick();
    world.settle();
    assert_eq!((world.store.stats().applied, world.store.stats().checkpoints), (1, 1));
    world.put(&Draft::new(1, 1, 11).pack());
    let mut fx = Vec::new();
    world.store.shutdown(world.now, &mut fx);
    assert!(!world.store.has_room() && !world.store.is_closed());
    world.effects.extend(fx);
    world.settle();
    assert!(world.store.is_closed());
    assert_eq!(world.index.applied().unwrap(), 2);
    let last = world.segments.list().unwrap()[0];
    let bytes = world.segments.read(last.segment).unwrap();
    assert_ne!(bytes.last(), Some(&0), "the segment ends where its last batch does");
}
