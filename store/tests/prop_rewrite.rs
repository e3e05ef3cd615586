//! Segments that are rewritten while the store lives, on a disk that fails: whatever is interrupted
//! where, the next start shows exactly what was durable and alive, an index rebuilt from any mixture
//! of old and new segments shows the same, and no read finds its bytes gone.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Draws, World, config, random_event};
use proto::{Event, EventId, Filter};
use std::collections::{BTreeMap, BTreeSet};
use store::fault::{FaultPlan, FaultSegments};
use store::mem::{MemIndex, MemSegments};
use store::rewrite::format::generation_of;
use store::seam::perform;
use store::{
    KillCause, LookupKey, OpenError, ScanRequest, Segments, Seq, StoreConfig, StoreEffect,
    StoreInput, StoreOutput, Token,
};

type Faulty = FaultSegments<MemSegments>;

/// What one record did.
#[derive(Clone, Debug)]
enum Op {
    Put(Event),
    Kill(Seq),
    Mark(EventId),
}

fn small_config() -> StoreConfig {
    StoreConfig {
        segment_bytes_max: 2_500,
        checkpoint_events: 12,
        erase_after_s: 0,
        hot_bytes_max: 0,
        ..config()
    }
}

fn copy(segments: &MemSegments) -> MemSegments {
    let to = MemSegments::default();
    for entry in segments.list().unwrap() {
        to.create(entry.segment, &segments.read(entry.segment).unwrap()).unwrap();
    }
    to
}

#[derive(Default)]
struct Counts {
    rewrites: u64,
    reclaimed: u64,
    joined: usize,
    kills_dropped: u64,
    late_bodies: usize,
    leftovers: usize,
    crashes_with_both: usize,
}

struct Run {
    draws: Draws,
    disk: MemSegments,
    faulty: Faulty,
    index: MemIndex,
    /// The record of sequence n is at n - 1.
    history: Vec<Op>,
    acknowledged: Seq,
    scans: BTreeMap<Token, ()>,
    /// Read from the index and on the way back.
    late: Vec<StoreInput>,
    counts: Counts,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = MemSegments::default();
        Self {
            draws: Draws(seed),
            faulty: FaultSegments::new(disk.clone(), FaultPlan::default()),
            disk,
            index: MemIndex::new(common::SECRET),
            history: Vec::new(),
            acknowledged: 0,
            scans: BTreeMap::new(),
            late: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn alive(&self, through: Seq) -> Vec<Event> {
        let mut alive: BTreeMap<Seq, Event> = BTreeMap::new();
        for (seq, op) in (1..=through).zip(&self.history) {
            match op {
                Op::Put(event) => drop(alive.insert(seq, event.clone())),
                Op::Kill(victim) => drop(alive.remove(victim)),
                Op::Mark(_) => {}
            }
        }
        let mut alive: Vec<Event> = alive.into_values().collect();
        alive.sort_by_key(common::position);
        alive
    }

    fn check<S: Segments>(&self, world: &mut World<MemIndex, S>, what: &str) {
        let through = world.store.durable();
        assert_eq!(world.query(&Filter::default(), 50), self.alive(through), "{what}");
        for op in &self.history[..through as usize] {
            if let Op::Mark(id) = op {
                let answers = world.answers(vec![LookupKey::DeletedId(*id, common::author(1))]);
                assert!(world.store.view(&answers).deleted_id(id, &common::author(1)), "{what}");
            }
        }
    }

    /// Starts without an index on a copy of the disk.
    fn check_rebuilt(&self, what: &str) {
        let index = MemIndex::new(common::SECRET);
        let disk = copy(&self.disk);
        store::reindex::rebuild(&small_config(), &index, &disk, &mut |_, _| {}, &|| false).unwrap();
        let mut world = World::open(small_config(), index, disk);
        assert!(world.store.durable() >= self.acknowledged, "{what}");
        self.check(&mut world, what);
        let mut adopted =
            World::open(small_config(), MemIndex::new(common::SECRET), copy(&self.disk));
        self.check(&mut adopted, what);
    }

    fn append(&mut self, world: &mut World<MemIndex, Faulty>) {
        let number = self.draws.next();
        if !world.store.has_room() {
            return;
        }
        match self.draws.below(8) {
            0..=4 => {
                let event = random_event(&mut self.draws, number);
                assert_eq!(world.put(&event), self.history.len() as u64 + 1);
                self.history.push(Op::Put(event));
            }
            5..=6 => {
                let dead: BTreeSet<Seq> = self.history.iter().filter_map(victim_of).collect();
                let is_alive = |(at, op): (usize, &Op)| {
                    let seq = at as u64 + 1;
                    (matches!(op, Op::Put(_)) && !dead.contains(&seq)).then_some(seq)
                };
                let alive: Vec<Seq> =
                    self.history.iter().enumerate().filter_map(is_alive).collect();
                if alive.is_empty() {
                    return;
                }
                let victim = alive[self.draws.below(alive.len() as u64) as usize];
                let why = [KillCause::Deleted, KillCause::Replaced][self.draws.below(2) as usize];
                world.store.kill(victim, why);
                self.history.push(Op::Kill(victim));
            }
            _ => {
                let mut id = EventId([7; 32]);
                id.0[..8].copy_from_slice(&number.to_be_bytes());
                world.store.mark_id(id, common::author(1));
                self.history.push(Op::Mark(id));
            }
        }
    }

    /// What the shard does with answers: the bodies of a page are asked for at once.
    fn take_outputs(&mut self, world: &mut World<MemIndex, Faulty>) -> bool {
        for output in std::mem::take(&mut world.outputs) {
            match output {
                StoreOutput::Durable { through, .. } => self.acknowledged = through,
                StoreOutput::Rows { token, rows, .. } => {
                    if self.scans.remove(&token).is_some() {
                        let mut fx = Vec::new();
                        world.store.fetch(&rows, &mut fx);
                        world.effects.extend(fx);
                    }
                }
                StoreOutput::Fetched { bodies, .. } => {
                    assert!(bodies.iter().all(Option::is_some), "a body is gone");
                    self.counts.late_bodies += bodies.len();
                }
                StoreOutput::Fatal(_) => return false,
                // The machine has stopped under it, or the disk reported an error.
                StoreOutput::Failed { .. } if self.faulty.is_stopped() => return false,
                other => panic!("{other:?}"),
            }
        }
        true
    }

    fn live(&mut self, world: &mut World<MemIndex, Faulty>) {
        for _ in 0..250 {
            match self.draws.below(14) {
                0..=3 => {
                    self.append(world);
                    world.flush();
                }
                4 => {
                    world.now.monotonic_ms += 10_000;
                    world.tick();
                }
                5 => {
                    let streams = store::plan::union(&[Filter::default()], &common::SECRET);
                    let request = ScanRequest { streams, after: None, rows_max: 40 };
                    let mut fx = Vec::new();
                    let token = world.store.scan(request, world.store.durable(), &mut fx);
                    self.scans.insert(token, ());
                    world.effects.extend(fx);
                }
                6 if self.draws.one_in(6) && world.store.compaction().is_none() => {
                    let mut fx = Vec::new();
                    world.store.compact(world.now, &mut fx);
                    world.effects.extend(fx);
                }
                8.. if !world.effects.is_empty() => {
                    let at = self.draws.below(world.effects.len() as u64) as usize;
                    if let StoreEffect::Unlink { segments } = &world.effects[at] {
                        self.counts.joined = self.counts.joined.max(segments.len());
                    }
                    if matches!(world.effects[at], StoreEffect::Scan { .. }) {
                        let effect = world.effects.remove(at).unwrap();
                        self.late.push(perform(&world.index, &world.segments, effect));
                    } else {
                        world.perform(at);
                    }
                }
                7 if !self.late.is_empty() => {
                    let at = self.draws.below(self.late.len() as u64) as usize;
                    let mut fx = Vec::new();
                    let late = self.late.swap_remove(at);
                    world.store.step(world.now, late, &mut fx, &mut world.outputs);
                    world.effects.extend(fx);
                }
                _ => {}
            }
            if !self.take_outputs(world) {
                return;
            }
        }
    }

    /// Lives and deaths of one store.
    fn run(mut self) -> Counts {
        for life in 0..6 {
            let at = Some(1 + self.draws.below(120)).filter(|_| self.draws.one_in(2));
            let plan = FaultPlan {
                seed: self.draws.next(),
                stop_at: at,
                survive_of_256: [0, 128, 256][self.draws.below(3) as usize],
                ..FaultPlan::default()
            };
            self.faulty.power_cut(plan).unwrap();
            self.check_rebuilt("rebuilt after a crash");
            let before = self.disk.list().unwrap().len();
            let rewritten = self.disk.list().unwrap();
            let has_new = rewritten.iter().any(|entry| generation_of(entry.segment) > 0);
            let opened = World::try_open(small_config(), self.index.clone(), self.faulty.clone());
            let mut world = match opened {
                Ok(world) => world,
                Err(OpenError::World(_)) if self.faulty.is_stopped() => continue,
                Err(error) => panic!("life {life}: {error}"),
            };
            if self.disk.list().unwrap().len() < before {
                self.counts.leftovers += 1;
                self.counts.crashes_with_both += usize::from(has_new);
            }
            let durable = world.store.durable();
            assert!(durable >= self.acknowledged, "life {life}: something durable is lost");
            self.acknowledged = durable;
            self.history.truncate(durable as usize);
            self.scans.clear();
            self.late.clear();
            self.check(&mut world, "opened after a crash");
            self.live(&mut world);
            let stats = world.store.stats();
            self.counts.rewrites += stats.rewrites;
            self.counts.reclaimed += stats.bytes_reclaimed;
            assert!(stats.rewrites_refused == 0 || self.faulty.is_stopped());
        }
        self.end()
    }

    /// Compacts what is left and looks for the bytes of the dead.
    fn end(mut self) -> Counts {
        self.faulty.power_cut(FaultPlan::default()).unwrap();
        let mut world = World::open(small_config(), self.index.clone(), self.faulty.clone());
        self.history.truncate(world.store.durable() as usize);
        let kills = |history: &[Op]| history.iter().filter_map(victim_of).count();
        let mut fx = Vec::new();
        world.store.compact(world.now, &mut fx);
        world.effects.extend(fx);
        for _ in 0..1_000 {
            world.settle();
            world.tick();
        }
        assert!(world.store.compaction().is_none(), "a compaction ends");
        world.outputs.clear();
        self.check(&mut world, "compacted");
        world.close();
        drop(world);
        self.check_rebuilt("rebuilt after a compaction");
        let mut left = 0;
        let alive = self.alive(self.history.len() as u64);
        let ids: BTreeSet<EventId> = alive.iter().map(|event| event.view().id()).collect();
        for entry in self.disk.list().unwrap() {
            let bytes = self.disk.read(entry.segment).unwrap();
            for op in &self.history {
                let Op::Put(event) = op else { continue };
                let id = event.view().id();
                let is_there = bytes.windows(32).any(|window| window == id.0);
                assert!(!is_there || ids.contains(&id), "a dead event's bytes are still there");
            }
            left += bytes.windows(10).filter(|window| is_kill(window, &self.history)).count();
        }
        self.counts.kills_dropped += (kills(&self.history) - left.min(kills(&self.history))) as u64;
        self.counts
    }
}

fn victim_of(op: &Op) -> Option<Seq> {
    match op {
        Op::Kill(victim) => Some(*victim),
        _ => None,
    }
}

/// Whether these ten bytes look like a kill of something that was killed.
fn is_kill(bytes: &[u8], history: &[Op]) -> bool {
    let victim = u64::from_le_bytes(bytes[2..10].try_into().unwrap());
    bytes[0] == 2 && bytes[1] <= 5 && history.iter().filter_map(victim_of).any(|of| of == victim)
}

#[test]
fn a_rewriting_that_is_interrupted_anywhere_loses_and_raises_nobody() {
    let mut all = Counts::default();
    for seed in 0..if cfg!(miri) { 1 } else { 150 } {
        let counts = Run::new(seed).run();
        all.rewrites += counts.rewrites;
        all.reclaimed += counts.reclaimed;
        all.joined = all.joined.max(counts.joined);
        all.kills_dropped += counts.kills_dropped;
        all.late_bodies += counts.late_bodies;
        all.leftovers += counts.leftovers;
        all.crashes_with_both += counts.crashes_with_both;
    }
    if cfg!(miri) {
        return;
    }
    assert!(all.rewrites > 100 && all.reclaimed > 0, "{} rewrites", all.rewrites);
    assert!(all.joined > 1, "neighbours are joined");
    assert!(all.kills_dropped > 100, "{} kills dropped", all.kills_dropped);
    assert!(all.late_bodies > 1_000, "{} bodies read", all.late_bodies);
    assert!(all.leftovers > 10, "{} crashes left both copies", all.leftovers);
    assert!(all.crashes_with_both > 0);
}

/// Whether a text stands in any segment.
fn has_text(segments: &MemSegments, text: &str) -> bool {
    let holds = |segment| {
        let bytes = segments.read(segment).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    segments.list().unwrap().iter().any(|entry| holds(entry.segment))
}

#[test]
fn what_somebody_asked_to_delete_is_gone_in_time_without_a_compaction() {
    let config = StoreConfig { erase_after_s: 86_400, checkpoint_events: 1, ..config() };
    let mut world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
    let draft = |number, text: &str| common::Draft::new(number, 1, 10).content(text).pack();
    let kept = world.put(&draft(1, "this stays"));
    let replaced = world.put(&draft(2, "this was replaced"));
    let deleted = world.put(&draft(3, "this was deleted"));
    world.commit();
    world.store.kill(replaced, KillCause::Replaced);
    world.commit();
    let hours = |world: &mut World<MemIndex, MemSegments>, hours: u64| {
        for _ in 0..hours * 4 {
            world.now.unix_s += 900;
            world.now.monotonic_ms += 900_000;
            world.tick();
            world.settle();
        }
    };
    hours(&mut world, 48);
    let text = "this was deleted";
    assert!(has_text(&world.segments, "this was replaced"), "nobody asked for that");
    world.store.kill(deleted, KillCause::Deleted);
    world.commit();
    hours(&mut world, 11);
    assert!(has_text(&world.segments, text), "half of the time is for more of them to gather");
    assert_eq!(world.store.stats().rewrites, 0);
    // The log's open segment holds it, and nothing else is written that would fill it.
    hours(&mut world, 2);
    assert!(!has_text(&world.segments, text), "its bytes are gone");
    assert!(!has_text(&world.segments, "this was replaced") && has_text(&world.segments, "stays"));
    let stats = world.store.stats();
    assert_eq!((stats.rewrites, stats.dead_bytes, stats.rewrites_refused), (1, 0, 0));
    hours(&mut world, 48);
    assert_eq!(world.store.stats().rewrites, 1, "and nothing is written again for it");
    assert!(stats.segments >= 1 && stats.segment_bytes > 0 && stats.bytes_reclaimed > 0);
    let mut world = world.restart();
    assert_eq!(world.query(&Filter::default(), 10).len(), 1);
    assert!(world.store.is_visible(kept));
}

#[test]
fn an_index_is_rebuilt_from_whichever_copy_of_a_range_is_whole() {
    let mut world =
        World::open(small_config(), MemIndex::new(common::SECRET), MemSegments::default());
    let mut draws = Draws(6);
    for number in 0..120 {
        let seq = world.put(&random_event(&mut draws, number));
        if draws.one_in(3) {
            world.store.kill(seq, KillCause::Deleted);
        }
        world.commit();
    }
    let mut fx = Vec::new();
    world.store.compact(world.now, &mut fx);
    world.effects.extend(fx);
    // Killed after the first rewriting, before anything is unlinked.
    while world.store.stats().rewrites == 0 {
        world.perform(0);
    }
    let disk = world.segments.clone();
    let expected = world.query(&Filter::default(), 100);
    let entries = disk.list().unwrap();
    let new = entries.iter().find(|entry| generation_of(entry.segment) > 0).unwrap().segment;
    let rebuilt = |damaged: &[Seq]| {
        let disk = FaultSegments::new(copy(&disk), FaultPlan::default());
        for segment in damaged {
            disk.flip(*segment, 150, 1).unwrap();
        }
        let index = MemIndex::new(common::SECRET);
        let quiet = &mut |_, _| {};
        store::reindex::rebuild(&small_config(), &index, &disk, quiet, &|| false)?;
        let mut world = World::open(small_config(), index, disk);
        Ok::<_, store::reindex::ReindexError>(world.query(&Filter::default(), 100))
    };
    let old = entries[0].segment;
    assert_eq!((generation_of(old), old), (0, 1));
    assert_eq!(rebuilt(&[]).unwrap(), expected);
    assert_eq!(rebuilt(&[new]).unwrap(), expected, "the old ones are whole");
    assert_eq!(rebuilt(&[old]).unwrap(), expected, "the new one is whole");
    let error = rebuilt(&[old, new]).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn a_compaction_that_begins_during_another_rewriting_leaves_nothing_out() {
    let config = StoreConfig { erase_after_s: 86_400, ..small_config() };
    let mut world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
    let mut seqs = Vec::new();
    for number in 0..60u64 {
        let draft = common::Draft::new(number, 1, 10).content(format!("text {number} ends"));
        seqs.push(world.put(&draft.pack()));
        world.commit();
    }
    // The middle waits to be erased, and the beginning does not.
    world.store.kill(seqs[0], KillCause::Replaced);
    world.store.kill(seqs[30], KillCause::Deleted);
    for number in 100..120 {
        world.put(&common::Draft::new(number, 1, 10).pack());
        world.commit();
    }
    world.now.unix_s += 50_000;
    world.now.monotonic_ms += 50_000_000;
    let is_rewriting = |effect: &StoreEffect| matches!(effect, StoreEffect::Rewrite(_));
    while !world.effects.iter().any(is_rewriting) {
        if world.effects.is_empty() {
            world.now.monotonic_ms += 10_000;
            world.tick();
        } else {
            world.perform(0);
        }
    }
    let mut fx = Vec::new();
    world.store.compact(world.now, &mut fx);
    world.effects.extend(fx);
    while world.store.compaction().is_some() {
        world.settle();
        world.tick();
    }
    assert!(!has_text(&world.segments, "text 30 ends"));
    assert!(!has_text(&world.segments, "text 0 ends"), "the beginning is compacted, too");
    assert!(has_text(&world.segments, "text 1 ends"));
    assert_eq!(world.store.stats().dead_bytes, 0);
}
