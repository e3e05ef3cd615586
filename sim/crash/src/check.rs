//! Judges a data directory that a crash left: it opens as a start of the relay opens it, and what is
//! in it must be what the oracle has after some number of entries between those acknowledged and those
//! handed in. Nothing less, nothing else, and the index must agree with the log.

use crate::life::{DATA, make_if_missing, now_at, verdict};
use crate::marks::Known;
use crate::oracle::States;
use crate::plan::Plan;
use crate::world::{Flaw, Shard, Shards};
use bench::rng::Rng;
use bench::{Draft, Signer};
use proto::{Event, EventId, Filter, Now, Placement, Secret, SeededMap, SeededState, TagFilter};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use store::file::directory::DataDirectory;
use store::record::{body_from, body_range};
use store::replace::Arrival;
use store::scrub::Scrub;
use store::{Loc, ScanRequest, Segments, Seq, Store};

/// Rows of one page; small enough that pages follow each other.
const ROWS_MAX: u32 = 64;
/// Bytes that a scrub looks at in one go: all.
const SCRUB_BYTES: u64 = u64::MAX;

/// Stands for an index into the plan where the event is the one that the judge itself hands in.
const BEACON: usize = usize::MAX;

/// What kind of promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Broken {
    /// The directory is there and cannot be opened.
    Unopenable,
    /// Something acknowledged is gone.
    Lost,
    /// Something is served that was replaced, deleted, refused, or never handed in.
    Served,
    /// What is served is no state between two batches.
    Torn,
    /// Bytes, or the agreement of index and log, are wrong.
    Corrupt,
    /// A decision differs from what the rules say.
    Decision,
    /// The store opened and cannot go on.
    Stuck,
    /// The process that opened it was killed by a signal.
    Signal,
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which promise.
    pub broken: Broken,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    fn new(broken: Broken, detail: impl ToString) -> Self {
        Self { broken, detail: detail.to_string() }
    }
}

fn violated<T>(broken: Broken, detail: impl ToString) -> Result<T, Violation> {
    Err(Violation::new(broken, detail))
}

/// How deep to look.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Seeds the filter and the decision that are tried.
    pub draw: u64,
    /// Whether the store is written to, closed and opened once more.
    pub goes_on: bool,
    /// Whether log and index are scrubbed.
    pub scrubs: bool,
}

/// What was found where every promise was kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// There was no data directory.
    pub is_unmade: bool,
    /// An entry that had not been acknowledged is there.
    pub is_in_flight: bool,
    /// The end of a log was torn.
    pub is_torn: bool,
}

/// A judge of one plan.
#[derive(Debug)]
pub struct Checker {
    seed: u64,
    plan: Plan,
    states: States,
    by_id: SeededMap<EventId, usize>,
    /// Bytes of bodies, with their checksums, that have been parsed and found right.
    bodies: RefCell<BTreeMap<usize, Vec<u8>>>,
    /// Handed in to a store that is to go on.
    beacon: Event,
}

impl Checker {
    /// A judge of the plan of `seed` with `steps` steps.
    pub fn new(seed: u64, steps: usize) -> Self {
        let plan = Plan::new(seed, steps);
        let states = States::of(&plan);
        let mut by_id = SeededMap::with_hasher(SeededState::new(Secret([3; 16])));
        for (at, event) in plan.events.iter().enumerate() {
            by_id.insert(event.view().id(), at);
        }
        let beacon = Draft::new(1, crate::plan::BEGIN_S as u32).content("beacon");
        let beacon = Signer::from_seed(seed ^ 0xbeac_0000_0000_0000).sign(&beacon);
        Self { seed, plan, states, by_id, bodies: RefCell::default(), beacon }
    }

    /// Compares what the store decided about entries from `first` on with the oracle.
    pub fn check_decisions(&self, first: usize, stored: &[bool]) -> Option<Violation> {
        let expected = self.states.verdicts().get(first..first + stored.len());
        if expected == Some(stored) {
            return None;
        }
        let detail = format!("entries from {first}: {stored:?} instead of {expected:?}");
        Some(Violation::new(Broken::Decision, detail))
    }

    /// Judges what lies in `root`.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn check(&self, root: &Path, known: &Known, depth: Depth) -> Result<Found, Violation> {
        let path = root.join(DATA);
        let is_unmade = !DataDirectory::exists(&path);
        if is_unmade && known.is_made {
            return violated(Broken::Lost, "the data directory is gone");
        }
        let now = now_at(self.plan.unix_s(known.latest.max(known.acked_by_all())));
        let opened = make_if_missing(&path, self.seed, 1)
            .and_then(|()| Shards::open(&path, now, Flaw::None, false));
        let mut shards = match opened {
            Ok(shards) => shards,
            Err(error) => return violated(Broken::Unopenable, format!("{error:#}")),
        };
        let mut rng = Rng::new(depth.draw);
        let entries = self.judge(&mut shards, known, now, depth.scrubs, &mut rng)?;
        let is_beyond = |(number, entries): (u16, &usize)| *entries > known.acked_by(number);
        let found = Found {
            is_unmade,
            is_in_flight: (0..).zip(&entries).any(is_beyond),
            is_torn: shards.shards.iter().any(|shard| shard.store.stats().torn_bytes > 0),
        };
        if depth.goes_on {
            self.go_on(&path, shards, &entries, now)?;
        }
        Ok(found)
    }

    /// Judges open stores; returns how many entries each shard holds.
    fn judge(
        &self,
        shards: &mut Shards,
        known: &Known,
        now: Now,
        scrubs: bool,
        rng: &mut Rng,
    ) -> Result<Vec<usize>, Violation> {
        let placement = shards.placement.clone();
        let several = shards.shards.len() > 1;
        let mut held = Vec::with_capacity(shards.shards.len());
        for (number, shard) in (0..).zip(&mut shards.shards) {
            let place = several.then_some((&placement, number));
            let served = self.query(shard, &Filter::default(), now)?;
            let entries = self.identify(&served, known, number, now, place)?;
            self.probe_filter(shard, entries, now, place, rng)?;
            self.probe_decision(shard, entries, now, place, &placement, rng)?;
            if scrubs {
                scrub(shard, number, &placement)?;
            }
            held.push(entries);
        }
        Ok(held)
    }

    /// Which state of the oracle is served.
    fn identify(
        &self,
        served: &[usize],
        known: &Known,
        shard: u16,
        now: Now,
        place: Option<(&Placement, u16)>,
    ) -> Result<usize, Violation> {
        let (least, most) = (known.acked_by(shard), known.sent.max(known.acked_by(shard)));
        let expected = |entries: usize| self.states.served(&self.plan, entries, now.unix_s, place);
        for entries in least..=most {
            if expected(entries).eq(served.iter().copied()) {
                return Ok(entries);
            }
        }
        let sets: Vec<Vec<usize>> =
            (least..=most).map(|entries| expected(entries).collect()).collect();
        let range = format!("shard {shard}, between entries {least} and {most}");
        let in_all = |at: &&usize| sets.iter().all(|set| set.contains(at));
        let in_none = |at: &&usize| !sets.iter().any(|set| set.contains(at));
        if let Some(lost) = sets[0].iter().filter(in_all).find(|at| !served.contains(at)) {
            let id = self.plan.events[*lost].view().id();
            let missing = sets[0].iter().filter(|at| !served.contains(at)).count();
            return violated(
                Broken::Lost,
                format!("{range}: event {lost} ({id}) and {} more are gone", missing - 1),
            );
        }
        if let Some(wrong) = served.iter().find(in_none) {
            let name = self.plan.events.get(*wrong).unwrap_or(&self.beacon).view().id();
            return violated(Broken::Served, format!("{range}: event {wrong} ({name}) is served"));
        }
        let missing = |set: &Vec<usize>| -> Vec<usize> {
            set.iter().copied().filter(|at| !served.contains(at)).collect()
        };
        let extra = |set: &Vec<usize>| -> Vec<usize> {
            served.iter().copied().filter(|at| !set.contains(at)).collect()
        };
        let differences = sets.iter().map(|set| format!("-{:?} +{:?}", missing(set), extra(set)));
        let differences: Vec<String> = differences.collect();
        violated(Broken::Torn, format!("{range}: not one of them ({})", differences.join("; ")))
    }

    /// Everything that a filter finds, in order.
    fn query(&self, shard: &mut Shard, filter: &Filter, now: Now) -> Result<Vec<usize>, Violation> {
        let unreadable = |error: anyhow::Error| Violation::new(Broken::Corrupt, error);
        let streams = store::plan::union(std::slice::from_ref(filter), shard.store.secret());
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let request = ScanRequest { streams: Arc::clone(&streams), after, rows_max: ROWS_MAX };
            let (rows, complete_to) = shard.page(request, now).map_err(unreadable)?;
            for row in rows {
                let at = self.name(&row.position.id)?;
                let event = self.plan.events.get(at).unwrap_or(&self.beacon);
                if row.event.is_some_and(|hot| hot != *event) {
                    return violated(Broken::Corrupt, format!("event {at} is another in memory"));
                }
                self.check_body(shard, row.seq, &row.loc, at)?;
                if filter.matches(&event.view()) && !shard.store.hides(row.seq, &event.view()) {
                    found.push(at);
                }
            }
            match complete_to {
                None => return Ok(found),
                Some(end) if after.is_none_or(|after| end > after) => after = Some(end),
                Some(_) => return violated(Broken::Corrupt, "a page makes no progress"),
            }
        }
    }

    /// What stands at a place must be the event that was handed in, under its checksum.
    fn check_body(&self, shard: &Shard, seq: Seq, loc: &Loc, at: usize) -> Result<(), Violation> {
        let (offset, length) = body_range(loc);
        let bytes = shard.segments.read_at(loc.segment, offset, length);
        let bytes = bytes.map_err(|error| Violation::new(Broken::Corrupt, error))?;
        let event = self.plan.events.get(at).unwrap_or(&self.beacon);
        let mut bodies = self.bodies.borrow_mut();
        // Parsing is dear, and the bytes of an event are always the same.
        if bodies.get(&at).is_some_and(|known| *known == bytes) {
            return Ok(());
        }
        let found = body_from(&bytes, loc);
        if found.as_ref() != Some(event) {
            let detail = format!("record {seq} (event {at}) has the body {found:?}");
            return violated(Broken::Corrupt, detail);
        }
        bodies.insert(at, bytes);
        Ok(())
    }

    /// An event's place in the plan.
    fn name(&self, id: &EventId) -> Result<usize, Violation> {
        if *id == self.beacon.view().id() {
            return Ok(BEACON);
        }
        match self.by_id.get(id) {
            Some(at) => Ok(*at),
            None => violated(Broken::Served, format!("{id} was never handed in")),
        }
    }

    /// A way in other than by time.
    fn probe_filter(
        &self,
        shard: &mut Shard,
        entries: usize,
        now: Now,
        place: Option<(&Placement, u16)>,
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let event = rng.pick(&self.plan.events).view();
        let filter = match rng.below(4) {
            0 => Filter { ids: Some(vec![event.id()]), ..Filter::default() },
            1 => Filter { authors: Some(vec![event.pubkey()]), ..Filter::default() },
            2 => Filter { kinds: Some(vec![event.kind()]), ..Filter::default() },
            _ => {
                let value = *rng.pick(&["rust", "lightning", "noise"]);
                let tag = TagFilter { letter: b't', values: vec![value.as_bytes().into()] };
                Filter { tags: vec![tag], ..Filter::default() }
            }
        };
        let found = self.query(shard, &filter, now)?;
        let expected = self.states.served(&self.plan, entries, now.unix_s, place);
        let expected = expected.filter(|at| filter.matches(&self.plan.events[*at].view()));
        if expected.eq(found.iter().copied()) {
            return Ok(());
        }
        violated(Broken::Corrupt, format!("{filter:?} finds {found:?} after {entries} entries"))
    }

    /// What would be decided about an event now.
    fn probe_decision(
        &self,
        shard: &mut Shard,
        entries: usize,
        now: Now,
        place: Option<(&Placement, u16)>,
        placement: &Placement,
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let at = rng.index(self.plan.events.len());
        let event = self.plan.events[at].view();
        let is_here = place.is_none_or(|(placement, shard)| placement.owner(&event) == shard);
        if !is_here || self.states.expires(at) {
            return Ok(());
        }
        let arrival = Arrival::of(&event, &placement.secret());
        let arrival =
            arrival.map_err(|reason| Violation::new(Broken::Decision, format!("{reason:?}")))?;
        let stored = verdict(shard, &arrival, now);
        let stored = stored.map_err(|error| Violation::new(Broken::Corrupt, error))?.is_some();
        let expected = self.states.oracle(entries).clone().submit(&self.plan.events, at);
        if stored == expected {
            return Ok(());
        }
        let word = if stored { "stored" } else { "refused" };
        violated(Broken::Decision, format!("event {at} would be {word} after {entries} entries"))
    }

    /// The store takes another event, closes, opens again, and holds it.
    fn go_on(
        &self,
        path: &Path,
        mut shards: Shards,
        entries: &[usize],
        mut now: Now,
    ) -> Result<(), Violation> {
        let stuck = |error: anyhow::Error| Violation::new(Broken::Stuck, format!("{error:#}"));
        let owner = usize::from(shards.placement.owner(&self.beacon.view()));
        let shard = &mut shards.shards[owner];
        shard.store.put(self.beacon.clone(), 0);
        shard.act(|store, fx| store.flush(now, fx));
        let is_durable = |store: &Store| store.durable() == store.appended();
        shard.drive(&mut now, is_durable).map_err(stuck)?;
        shards.close(&mut now).map_err(stuck)?;
        let mut shards = Shards::open(path, now, Flaw::None, false).map_err(stuck)?;
        let placement = shards.placement.clone();
        let several = shards.shards.len() > 1;
        for (number, shard) in (0..).zip(&mut shards.shards) {
            let place = several.then_some((&placement, number));
            let mut served = self.query(shard, &Filter::default(), now)?;
            let all = served.len();
            served.retain(|at| *at != BEACON);
            if all - served.len() != usize::from(usize::from(number) == owner) {
                return violated(Broken::Lost, "an event that was stored after the crash is gone");
            }
            let known = Known { is_made: true, acked: entries.to_vec(), sent: 0, latest: 0 };
            self.identify(&served, &known, number, now, place)?;
            scrub(shard, number, &placement)?;
        }
        Ok(())
    }
}

/// Looks for damage in log and index.
fn scrub(shard: &mut Shard, number: u16, placement: &Placement) -> Result<(), Violation> {
    let corrupt = |error: store::OpenError| Violation::new(Broken::Corrupt, error);
    let (secret, seed) = (placement.secret(), SeededState::new(placement.secret()));
    let index = &*shard.index;
    let mut scrub = Scrub::begin(number, secret, seed, index, &shard.segments).map_err(corrupt)?;
    let mut findings = Vec::new();
    while !scrub
        .step(index, &shard.segments, SCRUB_BYTES, None, &mut findings)
        .map_err(corrupt)?
        .is_over
    {}
    match findings.first() {
        Some(finding) => violated(Broken::Corrupt, finding),
        None => Ok(()),
    }
}
