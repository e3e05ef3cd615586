//! Requests to vanish, deletions, replacements and expirations mixed with checkpoints, power cuts
//! and restarts, against a naive relay: what readers see, what comes back, what the sums say.
#![allow(clippy::unwrap_used)]

mod common;

use common::naive::{Naive, submit};
use common::{Draft, Draws, World, author, config};
use proto::nip::nip77::{Accumulator, bucket_of};
use proto::nip::{nip09, nip17, nip40, nip62};
use proto::{Event, Filter, Now};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::fault::{FaultPlan, FaultSegments};
use store::index::Table;
use store::mem::{MemIndex, MemSegments};
use store::{OpenError, Seq, StoreConfig, StoreOutput};

type Disk = FaultSegments<MemSegments>;

fn is_expired(event: &Event, unix_s: u64) -> bool {
    nip40::expires_at(&event.view()).unwrap().is_some_and(|at| at <= unix_s)
}

fn sync_filters() -> Arc<[Filter]> {
    let notes = Filter { kinds: Some(vec![1, 7]), ..Filter::default() };
    let of_one = Filter { authors: Some(vec![author(1)]), ..Filter::default() };
    [Filter::default(), notes, of_one].into()
}

/// Events of few authors over several buckets of time, with everything that ends events.
fn pool(draws: &mut Draws) -> Vec<Event> {
    let mut pool: Vec<Event> = Vec::new();
    for number in 0..30 + draws.below(20) {
        let (writer, at) = (draws.below(3), 1_000 + 3_000 * draws.below(6) as u32);
        let draft = match draws.below(12) {
            0 => Draft::new(writer, 0, at),
            1 => Draft::new(writer, 30_023, at).tag("d", &format!("d{}", draws.below(2))),
            2 => Draft::new(writer, 4, at).tag("p", &author(draws.below(3)).to_hex()),
            3 | 4 => Draft::new(100 + number, 1059, at).tag("p", &author(draws.below(3)).to_hex()),
            5 => {
                let expires_at = 1_700_000_000 + draws.below(400);
                Draft::new(writer, 1, at).tag("expiration", &expires_at.to_string())
            }
            6 => Draft::new(writer, nip62::KIND, at),
            7 if !pool.is_empty() => {
                let victim = &pool[draws.below(pool.len() as u64) as usize];
                Draft::new(writer, nip09::KIND, at).tag("e", &victim.view().id().to_hex())
            }
            _ => Draft::new(writer, 1, at).tag("p", &author(draws.below(3)).to_hex()),
        };
        pool.push(draft.content(number).pack());
    }
    pool
}

fn sums_of<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    filter: &Filter,
) -> Vec<(u32, Accumulator)> {
    let mut sums: BTreeMap<u32, Accumulator> = BTreeMap::new();
    for event in events {
        let view = event.view();
        if filter.matches(&view) && !nip17::is_private(view.kind()) {
            sums.entry(bucket_of(view.created_at())).or_default().add(&view.id());
        }
    }
    sums.into_iter().collect()
}

#[derive(Default)]
struct Seen {
    verdicts: BTreeMap<String, usize>,
    queries_while_purging: usize,
    crashes_while_purging: usize,
    crashes: usize,
    removed: u64,
}

struct Run<'a> {
    config: StoreConfig,
    index: MemIndex,
    disk: Disk,
    world: World<MemIndex, Disk>,
    now: Now,
    draws: Draws,
    pool: Vec<Event>,
    /// Accepted events in order, each with the sequence of its last effect.
    accepted: Vec<(Seq, Event)>,
    naive: Naive,
    seen: &'a mut Seen,
}

fn replay(accepted: &[(Seq, Event)], through: Seq) -> Naive {
    let mut naive = Naive::default();
    for (_, event) in accepted.iter().filter(|(seq, _)| *seq <= through) {
        naive.submit(event).unwrap();
    }
    naive
}

impl<'a> Run<'a> {
    fn new(seed: u64, seen: &'a mut Seen) -> Self {
        let mut draws = Draws(seed);
        let config = StoreConfig {
            checkpoint_events: 6,
            segment_bytes_max: 4_000,
            hot_bytes_max: 900,
            sync_filters: sync_filters(),
            ..config()
        };
        let index = MemIndex::new(common::SECRET);
        let disk = FaultSegments::new(MemSegments::default(), FaultPlan::default());
        let world = World::open(config.clone(), index.clone(), disk.clone());
        let (now, pool) = (world.now, pool(&mut draws));
        let (accepted, naive) = (Vec::new(), Naive::default());
        Self { config, index, disk, world, now, draws, pool, accepted, naive, seen }
    }

    fn submit(&mut self) {
        let at = self.draws.below(self.pool.len() as u64) as usize;
        self.submit_one(self.pool[at].clone());
    }

    fn submit_one(&mut self, event: Event) {
        if is_expired(&event, self.now.unix_s) {
            return;
        }
        let verdict = submit(&mut self.world, &event);
        assert_eq!(verdict, self.naive.submit(&event), "{event:?}");
        *self.seen.verdicts.entry(format!("{verdict:?}")).or_default() += 1;
        if verdict.is_ok() {
            self.accepted.push((self.world.store.appended(), event));
        }
    }

    /// The power goes; what the log has of what was accepted is what there is from now on.
    fn crash(&mut self, next: FaultPlan) {
        self.seen.crashes += 1;
        self.seen.crashes_while_purging += usize::from(self.world.store.is_purging());
        self.disk.power_cut(next).unwrap();
        loop {
            let (config, index) = (self.config.clone(), self.index.clone());
            match World::try_open(config, index, self.disk.clone()) {
                Ok(world) => self.world = world,
                Err(OpenError::World(_)) => {
                    self.disk.power_cut(FaultPlan::default()).unwrap();
                    continue;
                }
                Err(OpenError::Recovery(error)) => panic!("{error}"),
            }
            break;
        }
        self.world.now = self.now;
        let durable = self.world.store.durable();
        self.accepted.retain(|(seq, _)| *seq <= durable);
        self.naive = replay(&self.accepted, durable);
    }

    /// Performs an effect; the process ends when the disk fails it.
    fn perform(&mut self, at: usize) {
        self.world.perform(at);
        let is_fatal = |output: &StoreOutput| matches!(output, StoreOutput::Fatal(_));
        if std::mem::take(&mut self.world.outputs).iter().any(is_fatal) {
            self.crash(FaultPlan::default());
        }
    }

    fn settle(&mut self) {
        self.world.flush();
        while !self.world.effects.is_empty() {
            self.perform(0);
        }
    }

    fn tick(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.unix_s += ms / 1_000;
        self.world.now = self.now;
        self.world.tick();
    }

    fn visible(&self, naive: &Naive) -> Vec<Event> {
        let mut visible = naive.sorted();
        visible.retain(|event| !is_expired(event, self.now.unix_s));
        visible
    }

    fn check_readers(&mut self) {
        self.seen.queries_while_purging += usize::from(self.world.store.is_purging());
        let durable = replay(&self.accepted, self.world.store.durable());
        let filter = match self.draws.below(3) {
            0 => Filter::default(),
            1 => Filter { authors: Some(vec![author(self.draws.below(3))]), ..Filter::default() },
            _ => Filter { kinds: Some(vec![1, 5, 62, 1059]), ..Filter::default() },
        };
        let mut expected = self.visible(&durable);
        expected.retain(|event| filter.matches(&event.view()));
        assert_eq!(self.world.query(&filter, 5), expected);
    }

    fn sums(&mut self, set: u8) -> Vec<(u32, Accumulator)> {
        let mut fx = Vec::new();
        let durable = self.world.store.durable();
        self.world.store.sums(set, durable, &mut fx);
        self.world.effects.extend(fx);
        self.world.perform(self.world.effects.len() - 1);
        match self.world.outputs.pop() {
            Some(StoreOutput::Sums { sums, .. }) => sums,
            other => panic!("{other:?}"),
        }
    }

    /// Lets everything that is under way come to its end.
    fn quiesce(&mut self) {
        self.settle();
        for _ in 0..20 {
            self.tick(400_000);
            self.settle();
            self.tick(20_000);
            self.settle();
            if !self.world.store.is_purging() && self.world.store.is_idle() {
                break;
            }
        }
        assert!(!self.world.store.is_purging() && self.world.store.is_idle());
        self.tick(20_000);
        self.settle();
    }

    fn check_all(&mut self) {
        let expected = self.visible(&self.naive.clone());
        assert_eq!(self.world.query(&Filter::default(), 7), expected);
        for (set, filter) in (0..).zip(sync_filters().iter()) {
            assert_eq!(self.sums(set), sums_of(&expected, filter), "set {set}");
        }
        assert_eq!(self.sums(3), []);
    }

    fn step(&mut self) {
        match self.draws.below(16) {
            0..=5 => self.submit(),
            6 | 7 => self.world.flush(),
            8..=11 => {
                let waiting = self.world.effects.len() as u64;
                if waiting > 0 {
                    let at = self.draws.below(waiting) as usize;
                    self.perform(at);
                }
            }
            12 => {
                let ms = self.draws.below(9_000);
                self.tick(ms);
            }
            13 | 14 => self.check_readers(),
            _ if self.draws.one_in(3) => {
                let at = Some(1 + self.draws.below(20));
                let fails = self.draws.one_in(3);
                let plan = FaultPlan {
                    seed: self.draws.next(),
                    fail_at: at.filter(|_| fails),
                    stop_at: at.filter(|_| !fails && self.draws.one_in(2)),
                    survive_of_256: [0, 128, 256][self.draws.below(3) as usize],
                    skip_sync: false,
                };
                self.crash(plan);
            }
            _ if self.draws.one_in(4) => {
                self.quiesce();
                self.check_all();
            }
            _ => self.settle(),
        }
    }

    fn finish(mut self) {
        self.crash(FaultPlan::default());
        self.quiesce();
        self.check_all();
        for event in self.pool.clone() {
            self.submit_one(event);
        }
        self.quiesce();
        self.check_all();
        self.seen.removed += self.world.store.stats().vanished;
        self.world.close();
        let visible = self.visible(&self.naive);
        assert_eq!(self.index.rows(Table::Purge), 0, "no removal is left over");
        assert_eq!(self.index.rows(Table::Loc), visible.len(), "and nothing to remove");
        assert_eq!(self.index.rows(Table::Vanish), self.naive.vanished.len());
        // The log alone says the same, and so do the sums of another configuration.
        self.index = MemIndex::new(common::SECRET);
        self.crash(FaultPlan::default());
        self.check_all();
        let turned: Vec<Filter> = sync_filters().iter().rev().cloned().collect();
        self.config.sync_filters = turned.clone().into();
        self.quiesce();
        self.crash(FaultPlan::default());
        for (set, filter) in (0..).zip(&turned) {
            assert_eq!(self.sums(set), sums_of(&visible, filter), "turned set {set}");
        }
    }
}

#[test]
fn a_key_that_vanished_is_gone_whatever_happens_meanwhile() {
    let mut seen = Seen::default();
    for seed in 0..if cfg!(miri) { 1 } else { 200 } {
        let mut run = Run::new(seed, &mut seen);
        for _ in 0..300 {
            run.step();
        }
        run.finish();
    }
    for verdict in ["Ok(())", "Duplicate", "DuplicateNewer", "Deleted", "Vanished"] {
        let count: usize = seen
            .verdicts
            .iter()
            .filter(|(is, _)| is.contains(verdict))
            .map(|(_, count)| count)
            .sum();
        assert!(count > 20, "{verdict} is too rare: {:?}", seen.verdicts);
    }
    assert!(seen.queries_while_purging > 100, "{}", seen.queries_while_purging);
    assert!(seen.crashes_while_purging > 100, "{} of {}", seen.crashes_while_purging, seen.crashes);
    assert!(seen.removed > 100, "{}", seen.removed);
}
