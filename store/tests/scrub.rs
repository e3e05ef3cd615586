//! Scrubbing: a sound store has nothing to report, whatever goes on meanwhile; every kind of damage
//! is reported; and a log that a start refuses opens again when the loss is accepted, with what was
//! whole and with nobody raised.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Draws, World, config};
use proto::{Event, EventId, Filter, Secret};
use std::collections::{BTreeMap, BTreeSet};
use store::fault::{FaultPlan, FaultSegments};
use store::mem::{MemIndex, MemSegments};
use store::rewrite::format::generation_of;
use store::scrub::{Finding, Loss, Scrub, accept_loss};
use store::{KillCause, OpenError, Segments, Seq, StoreConfig};

type MemWorld = World<MemIndex, MemSegments>;

fn small_config() -> StoreConfig {
    StoreConfig { segment_bytes_max: 2_500, checkpoint_events: 15, hot_bytes_max: 0, ..config() }
}

/// A store with what it should hold.
struct Run {
    world: MemWorld,
    draws: Draws,
    puts: BTreeMap<Seq, Event>,
    /// Victim to the record that killed it.
    kills: BTreeMap<Seq, Seq>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let index = MemIndex::new(common::SECRET);
        let world = World::open(small_config(), index, MemSegments::default());
        Self { world, draws: Draws(seed), puts: BTreeMap::new(), kills: BTreeMap::new() }
    }

    fn append(&mut self) {
        let number = self.draws.next();
        if self.draws.one_in(3) && self.puts.len() > self.kills.len() {
            let alive: Vec<Seq> =
                self.puts.keys().copied().filter(|seq| !self.kills.contains_key(seq)).collect();
            let victim = alive[self.draws.below(alive.len() as u64) as usize];
            self.world.store.kill(victim, KillCause::Deleted);
            self.kills.insert(victim, self.world.store.appended());
        } else if self.draws.one_in(10) {
            self.world.store.mark_id(EventId([9; 32]), common::author(number % 4));
        } else {
            let event = random_draft(&mut self.draws, number);
            let seq = self.world.put(&event);
            self.puts.insert(seq, event);
        }
        self.world.commit();
    }

    fn compact(&mut self) {
        let mut fx = Vec::new();
        self.world.store.compact(self.world.now, &mut fx);
        self.world.effects.extend(fx);
        while self.world.store.compaction().is_some() {
            self.world.settle();
            self.world.tick();
        }
        self.world.settle();
    }

    fn alive(&self) -> BTreeMap<Seq, &Event> {
        let is_alive = |(seq, _): &(&Seq, &Event)| !self.kills.contains_key(seq);
        self.puts.iter().filter(is_alive).map(|(seq, event)| (*seq, event)).collect()
    }
}

/// Its slot is its own, and its id is the hash of it, unlike some of those that other tests draw.
fn random_draft(draws: &mut Draws, number: u64) -> Event {
    let draft = common::random_draft(draws, number);
    // Nothing is decided here, so no two events may want one slot.
    draft.tag("d", &number.to_string()).pack()
}

fn scrub_with(world: &MemWorld, secret: Secret) -> Vec<Finding> {
    let (index, segments) = (&world.index, &world.segments);
    let mut scrub = Scrub::begin(0, secret, world.config.seed, index, segments).unwrap();
    let (mut findings, mut steps) = (Vec::new(), 0);
    while !scrub.step(index, segments, 700, None, &mut findings).unwrap().is_over {
        steps += 1;
        assert!(steps < 10_000, "a scrub ends");
    }
    findings
}

#[test]
fn a_sound_store_has_nothing_to_report_while_it_lives_and_is_rewritten() {
    let (mut over, mut rewrites) = (0, 0);
    for seed in 0..30 {
        let mut run = Run::new(seed);
        for _ in 0..100 {
            run.append();
        }
        let (index, segments) = (run.world.index.clone(), run.world.segments.clone());
        let begin = || Scrub::begin(0, common::SECRET, config().seed, &index, &segments).unwrap();
        let (mut scrub, mut findings) = (begin(), Vec::new());
        for _ in 0..150 {
            run.append();
            if run.draws.one_in(30) {
                run.compact();
            }
            let step = scrub.step(&index, &segments, 300, None, &mut findings).unwrap();
            assert_eq!(findings, [], "seed {seed}");
            if step.is_over {
                over += 1;
                scrub = begin();
            }
        }
        rewrites += run.world.store.stats().rewrites;
    }
    assert!(over > 30 && rewrites > 30, "{over} scrubs over {rewrites} rewrites");
}

#[test]
fn what_the_index_and_the_log_say_differently_is_told() {
    let mut run = Run::new(3);
    for _ in 0..60 {
        run.append();
    }
    run.world.close();
    assert_eq!(scrub_with(&run.world, common::SECRET), []);
    let other = scrub_with(&run.world, Secret([1; 16]));
    let missing = |finding: &Finding| matches!(finding, Finding::MissingRows { .. });
    assert!(other.iter().all(missing) && other.len() == run.alive().len());
    // Logs that differ in one record under one index.
    let build = |variant: u64| {
        let index = MemIndex::new(common::SECRET);
        let mut world = World::open(small_config(), index, MemSegments::default());
        for number in 0..30 {
            world.put(&common::Draft::new(1, 1, 10).content(number).pack());
            world.commit();
        }
        match variant {
            0 => world.store.kill(4, KillCause::Deleted),
            _ => world.store.mark_id(EventId([9; 32]), common::author(1)),
        }
        let content = if variant == 2 { "x" } else { "y" };
        world.put(&common::Draft::new(1, 1, 10).content(content).pack());
        world.commit();
        world.close();
        world
    };
    let (killed, marked, other) = (build(0), build(1), build(2));
    let mixed = MemWorld { index: killed.index.clone(), ..build(1) };
    let findings = scrub_with(&mixed, common::SECRET);
    assert!(
        matches!(findings[..], [.., Finding::Unindexed { seq: 4, .. }])
            || findings.iter().any(|finding| matches!(finding, Finding::Unindexed { seq: 4, .. })),
        "{findings:?}"
    );
    let mixed = MemWorld { index: marked.index.clone(), ..other };
    assert_eq!(scrub_with(&mixed, common::SECRET), [Finding::Misplaced { seq: 32 }]);
    let mut forged = Run::new(1);
    let event = common::Draft::new(1, 1, 5).pack_as(Some(EventId([3; 32])));
    forged.world.put(&event);
    forged.world.commit();
    forged.world.close();
    let findings = scrub_with(&forged.world, common::SECRET);
    assert!(matches!(findings[..], [Finding::WrongId { seq: 1, .. }]), "{findings:?}");
    let (index, segments) = (&marked.index, &marked.segments);
    let mut scrub = Scrub::begin(0, common::SECRET, config().seed, index, segments).unwrap();
    let mut findings = Vec::new();
    let refuse = &mut |_: &proto::EventRef<'_>| false;
    scrub.step(index, segments, u64::MAX, Some(refuse), &mut findings).unwrap();
    let is_signature = |finding: &Finding| matches!(finding, Finding::WrongSignature { .. });
    assert_eq!(findings.iter().filter(|finding| is_signature(finding)).count(), 31);
}

/// Damages a log, accepts the loss and looks at what is left; returns what was lost.
fn lose(seed: u64) -> Loss {
    let mut run = Run::new(seed);
    for _ in 0..40 + run.draws.below(80) {
        run.append();
        if run.draws.one_in(40) {
            run.compact();
        }
        // Another life goes on with the log.
        if run.draws.one_in(25) {
            let Run { world, draws, puts, kills } = run;
            run = Run { world: world.restart(), draws, puts, kills };
        }
    }
    if run.draws.one_in(2) {
        run.world.close();
    }
    let (index, segments) = (run.world.index.clone(), run.world.segments.clone());
    let applied = store::Index::applied(&index).unwrap();
    let disk = FaultSegments::new(segments.clone(), FaultPlan::default());
    let entries = segments.list().unwrap();
    let hit = entries[run.draws.below(entries.len() as u64) as usize];
    let what = match run.draws.below(5) {
        0 => {
            segments.unlink(hit.segment).unwrap();
            "unlinked"
        }
        1 => {
            segments.seal(hit.segment, run.draws.below(hit.bytes) as u32).unwrap();
            "cut"
        }
        2 => {
            disk.flip(hit.segment, run.draws.below(36) as u32, 2).unwrap();
            "header flipped"
        }
        _ => {
            let offset = 64 + run.draws.below(hit.bytes.saturating_sub(64).max(1));
            disk.flip(hit.segment, offset.min(hit.bytes - 1) as u32, 4).unwrap();
            "flipped"
        }
    };
    let what = format!("seed {seed}: {what} {:x}", hit.segment);
    let loss = accept_loss(&small_config(), &index, &segments)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let again = accept_loss(&small_config(), &index, &segments).unwrap();
    assert_eq!(again, Loss::default(), "{what}: nothing is lost twice");
    let mut world = World::try_open(small_config(), index, segments.clone())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let visible = world.query(&Filter::default(), 100);
    let shown: BTreeSet<EventId> = visible.iter().map(|event| event.view().id()).collect();
    let durable = world.store.durable();
    let is_lost = |seq: Seq| {
        let mut ranges = loss.ranges.iter();
        seq > durable || ranges.any(|(_, lost)| (lost.from..=lost.to).contains(&seq))
    };
    for (seq, event) in run.alive() {
        let is_there = shown.contains(&event.view().id());
        assert!(is_there || is_lost(seq), "{what}: record {seq} is gone and not named");
        assert!(!loss.events.contains(&event.view().id()) || !is_there);
    }
    for (victim, kill) in &run.kills {
        let is_back = shown.contains(&run.puts[victim].view().id());
        // A kill that was lost before the index had it is lost.
        assert!(!is_back || (*kill > applied && is_lost(*kill)), "{what}: {victim} was raised");
    }
    assert_eq!(scrub_with(&world, common::SECRET), [], "{what}");
    world.close();
    let rebuilt = MemIndex::new(common::SECRET);
    store::reindex::rebuild(&small_config(), &rebuilt, &segments, &mut |_, _| {}, &|| false)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut world = World::open(small_config(), rebuilt, segments);
    assert_eq!(world.query(&Filter::default(), 100), visible, "{what}: rebuilt");
    loss
}

#[test]
fn a_log_that_lost_something_opens_again_and_raises_nobody() {
    let (mut lost, mut kills, mut rewritten) = (0, 0, 0);
    for seed in 0..if cfg!(miri) { 1 } else { 400 } {
        let loss = lose(seed);
        lost += usize::from(!loss.ranges.is_empty());
        kills += loss.kills;
        rewritten += loss.ranges.iter().filter(|(name, _)| generation_of(*name) > 0).count();
    }
    if !cfg!(miri) {
        assert!(lost > 100 && kills > 50 && rewritten > 20, "{lost} {kills} {rewritten}");
    }
}

#[test]
fn an_undamaged_log_loses_nothing() {
    let mut run = Run::new(8);
    for _ in 0..100 {
        run.append();
    }
    run.compact();
    let (index, segments) = (run.world.index.clone(), run.world.segments.clone());
    let before = segments.list().unwrap();
    assert_eq!(accept_loss(&small_config(), &index, &segments).unwrap(), Loss::default());
    assert_eq!(segments.list().unwrap(), before);
    let opened: Result<MemWorld, OpenError> = World::try_open(small_config(), index, segments);
    assert!(opened.is_ok());
}
