//! One life of a process over the data directory: it opens the store, goes on with the plan where the
//! disk says it stands, says what it does, and ends in order, abruptly, or by a failure.

use crate::marks::{Mark, Marks};
use crate::oracle::States;
use crate::plan::Plan;
use crate::world::{self, Flaw, Shard, Shards};
use anyhow::bail;
use proto::nip::nip62;
use proto::{Event, Now, PublicKey, SeededState};
use std::path::{Path, PathBuf};
use store::file::directory::{DataDirectory, Entropy, Format};
use store::replace::{Accepted, Arrival, Verdict, decide};
use store::{Bodies, LookupKey, offline, reshard};

/// The directory that a plan works on, below the root that is traced.
pub const DATA: &str = "data";

/// What a life does.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Work {
    /// Hands in entries, then ends in order.
    Steps {
        /// The last step has at least this many entries before its end.
        until: usize,
        /// Leaves without closing the store.
        #[arg(long)]
        abrupt: bool,
    },
    /// Rewrites what has anything dead in it, and the index.
    Compact,
    /// Rebuilds the index from the log.
    Reindex,
    /// Copies everything into another number of shards.
    Reshard {
        /// How many.
        shards: u16,
    },
}

impl Work {
    /// As it stands on the command line.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Steps { until, abrupt } => {
                let mut words = vec!["steps".to_owned(), until.to_string()];
                if *abrupt {
                    words.push("--abrupt".to_owned());
                }
                words
            }
            Self::Compact => vec!["compact".to_owned()],
            Self::Reindex => vec!["reindex".to_owned()],
            Self::Reshard { shards } => vec!["reshard".to_owned(), shards.to_string()],
        }
    }
}

/// How a life is lived.
#[derive(Clone, Debug, clap::Args)]
pub struct LifeOptions {
    /// Folder that holds the data directory.
    #[arg(long)]
    pub root: PathBuf,
    /// File for what the life says.
    #[arg(long)]
    pub marks: PathBuf,
    /// Seed of the plan.
    #[arg(long)]
    pub seed: u64,
    /// Steps of the plan.
    #[arg(long)]
    pub steps: usize,
    /// Entries that have been acknowledged.
    #[arg(long, default_value_t = 0)]
    pub acked: usize,
    /// Entries that have been handed in.
    #[arg(long, default_value_t = 0)]
    pub sent: usize,
    /// Checkpoints have a thread of their own.
    #[arg(long)]
    pub threaded: bool,
    /// What is left out on purpose.
    #[arg(long, value_enum, default_value_t)]
    pub flaw: Flaw,
    /// What to do.
    #[command(subcommand)]
    pub work: Work,
}

/// The entropy of the directory of a plan.
pub fn entropy(seed: u64) -> Entropy {
    let mut rng = bench::rng::Rng::new(seed ^ 0xd1ce);
    let mut drawn = || {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
        bytes
    };
    Entropy { node_id: drawn(), secret: drawn() }
}

/// The clocks when a plan's wall clock stands at `unix_s`.
pub fn now_at(unix_s: u64) -> Now {
    Now { monotonic_ms: (unix_s - crate::plan::BEGIN_S) * 1_000 + 1_000_000, unix_s }
}

/// Makes the directory if there is none, as a start of the relay does.
///
/// # Errors
/// When it cannot be made.
pub fn make_if_missing(path: &Path, seed: u64, shards: u16) -> anyhow::Result<()> {
    if !DataDirectory::exists(path) {
        DataDirectory::create(path, &Format::new(shards, entropy(seed))?)?;
    }
    Ok(())
}

/// Lives one life. What went wrong in the world has been said in the marks when this returns.
///
/// # Errors
/// When a write, a sync or a commit failed: nobody may be answered any more.
pub fn live(options: &LifeOptions) -> anyhow::Result<()> {
    let mut marks = Marks::open(&options.marks)?;
    let lived = Life::begin(options, &mut marks).and_then(|life| life.work());
    match &lived {
        Ok(()) => marks.say(&Mark::Done)?,
        Err(error) => marks.say(&Mark::Failed(format!("{error:#}")))?,
    }
    lived
}

struct Life<'a> {
    options: &'a LifeOptions,
    marks: &'a mut Marks,
    plan: Plan,
    states: States,
    path: PathBuf,
    now: Now,
}

impl<'a> Life<'a> {
    fn begin(options: &'a LifeOptions, marks: &'a mut Marks) -> anyhow::Result<Self> {
        let plan = Plan::new(options.seed, options.steps);
        let states = States::of(&plan);
        let path = options.root.join(DATA);
        make_if_missing(&path, options.seed, 1)?;
        marks.say(&Mark::Made)?;
        let now = now_at(plan.unix_s(options.sent));
        Ok(Self { options, marks, plan, states, path, now })
    }

    fn work(mut self) -> anyhow::Result<()> {
        match self.options.work {
            Work::Steps { until, abrupt } => {
                let (mut shards, held) = self.open()?;
                let first = held.iter().min().copied().unwrap_or(0);
                let last = self.plan.step_after(until.saturating_sub(1));
                for step in self.plan.step_after(first)..self.plan.steps.len().min(last + 1) {
                    self.hand_in(&mut shards, step, &held)?;
                }
                if abrupt {
                    // Whatever is under way ends with the process.
                    std::mem::forget(shards);
                    return Ok(());
                }
                shards.close(&mut self.now)
            }
            Work::Compact => self.offline(|directory, config, now| {
                offline::compact(directory, config, &|| now, &mut |_, _| {}, &|| false).map(drop)
            }),
            Work::Reindex => self.offline(|directory, config, _| {
                offline::reindex(directory, config, &mut |_, _| {}, &|| false).map(drop)
            }),
            Work::Reshard { shards } => {
                let mut directory = DataDirectory::open(&self.path)?;
                let secret = directory.format().secret;
                let config = world::store_config(&directory, 0, SeededState::new(secret));
                let now = self.now;
                let no = || false;
                reshard::reshard(&mut directory, shards, &config, &|| now, &mut |_, _| {}, &no)?;
                Ok(())
            }
        }
    }

    fn offline(
        &self,
        work: impl Fn(&DataDirectory, &store::StoreConfig, Now) -> Result<(), offline::OfflineError>,
    ) -> anyhow::Result<()> {
        let directory = DataDirectory::open(&self.path)?;
        let seed = SeededState::new(directory.format().secret);
        for shard in 0..directory.format().shards {
            work(&directory, &world::store_config(&directory, shard, seed), self.now)?;
        }
        Ok(())
    }

    /// Opens the store and finds out how many entries each shard holds: all that were acknowledged,
    /// and some of those that were under way.
    fn open(&mut self) -> anyhow::Result<(Shards, Vec<usize>)> {
        let LifeOptions { flaw, threaded, acked, sent, .. } = *self.options;
        let mut shards = Shards::open(&self.path, self.now, flaw, threaded)?;
        let mut held = Vec::with_capacity(shards.shards.len());
        for number in 0..shards.shards.len() {
            let mut entries = acked;
            for entry in acked..sent {
                if self.holds(&mut shards, number, entry)? {
                    entries = entry + 1;
                }
            }
            held.push(entries);
        }
        self.marks.say(&Mark::Open(held.clone()))?;
        Ok((shards, held))
    }

    /// Whether a shard shows that an entry has come to it; one that was refused shows nowhere.
    fn holds(&self, shards: &mut Shards, number: usize, entry: usize) -> anyhow::Result<bool> {
        if !self.states.verdicts()[entry] {
            return Ok(false);
        }
        let event = self.plan.events[self.plan.entries[entry]].view();
        let is_here = usize::from(shards.placement.owner(&event)) == number;
        let shard = &mut shards.shards[number];
        if is_here {
            let answers = shard.answers(vec![LookupKey::Id(event.id())], self.now)?;
            return Ok(shard.store.view(&answers).id(&event.id()).is_some());
        }
        if event.kind() == nip62::KIND {
            let (key, until) = (event.pubkey(), event.created_at());
            let answers = shard.answers(vec![LookupKey::Vanished(key)], self.now)?;
            return Ok(shard.store.view(&answers).vanished_until(&key) >= Some(until));
        }
        Ok(false)
    }

    /// Hands a step in, each shard the entries that it does not hold, and waits until all is durable.
    fn hand_in(&mut self, shards: &mut Shards, step: usize, held: &[usize]) -> anyhow::Result<()> {
        let entries = self.plan.steps[step].entries.clone();
        self.now = now_at(self.plan.steps[step].unix_s);
        self.marks.say(&Mark::Sent(entries.end))?;
        for shard in &mut shards.shards {
            shard.act(|store, fx| store.tick(self.now, fx));
        }
        let is_whole = held.iter().all(|held| *held <= entries.start);
        let mut verdicts = Vec::with_capacity(entries.len());
        for entry in entries.clone() {
            verdicts.push(self.submit(shards, entry, held)?);
        }
        if is_whole {
            self.marks.say(&Mark::Decided(entries.start, verdicts))?;
        }
        if self.options.flaw == Flaw::AckEarly {
            self.marks.say(&Mark::Acked(entries.end))?;
        }
        for shard in &mut shards.shards {
            shard.act(|store, fx| store.flush(self.now, fx));
            shard.drive(&mut self.now, |store| store.durable() == store.appended())?;
            shard.settle(self.now)?;
        }
        if self.options.flaw != Flaw::AckEarly {
            self.marks.say(&Mark::Acked(entries.end))?;
        }
        if self.plan.steps[step].compacts {
            for shard in &mut shards.shards {
                shard.act(|store, fx| store.compact(self.now, fx));
                shard.drive(&mut self.now, |store| store.compaction().is_none())?;
            }
        }
        Ok(())
    }

    /// Hands an event in to its owner, and a request to vanish to everybody.
    fn submit(
        &mut self,
        shards: &mut Shards,
        entry: usize,
        held: &[usize],
    ) -> anyhow::Result<bool> {
        let event = self.plan.events[self.plan.entries[entry]].clone();
        let owner = usize::from(shards.placement.owner(&event.view()));
        let secret = shards.placement.secret();
        let mut is_stored = false;
        if held[owner] <= entry {
            let arrival = Arrival::of(&event.view(), &secret)
                .map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
            is_stored = self.decide(&mut shards.shards[owner], &arrival, Some(&event))?;
        }
        if event.view().kind() == nip62::KIND && (is_stored || held[owner] > entry) {
            let others = |number: &usize| *number != owner && held[*number] <= entry;
            for number in (0..shards.shards.len()).filter(others) {
                let arrival = Arrival::vanish_elsewhere(&event.view());
                self.decide(&mut shards.shards[number], &arrival, None)?;
            }
        }
        Ok(is_stored)
    }

    fn decide(
        &self,
        shard: &mut Shard,
        arrival: &Arrival,
        event: Option<&Event>,
    ) -> anyhow::Result<bool> {
        let Some(accepted) = verdict(shard, arrival, self.now)? else { return Ok(false) };
        let by = match event {
            Some(event) => {
                shard.store.put(event.clone(), 0);
                event.view().pubkey()
            }
            None => PublicKey([0; 32]),
        };
        apply(shard, accepted, by);
        Ok(true)
    }
}

/// What the store decides about an arrival; `None` when it is refused.
///
/// # Errors
/// When the index or a body cannot be read.
pub fn verdict(shard: &mut Shard, arrival: &Arrival, now: Now) -> anyhow::Result<Option<Accepted>> {
    let answers = shard.answers(arrival.keys(), now)?;
    let mut bodies = Vec::new();
    loop {
        match decide(arrival, &shard.store.view(&answers), &bodies) {
            Verdict::Refuse(_) => return Ok(None),
            Verdict::Accept(accepted) => return Ok(Some(accepted)),
            Verdict::NeedBodies(_) if !bodies.is_empty() => bail!("bodies are asked for once"),
            Verdict::NeedBodies(needed) => {
                for (id, loc) in needed {
                    bodies.push((id, shard.segments.body(&loc)?));
                }
            }
        }
    }
}

fn apply(shard: &mut Shard, accepted: Accepted, by: PublicKey) {
    for (victim, why) in accepted.kills {
        shard.store.kill(victim, why);
    }
    for id in accepted.mark_ids {
        shard.store.mark_id(id, by);
    }
    for (slot, until) in accepted.mark_slots {
        shard.store.mark_slot(slot, until);
    }
    if let Some((key, until)) = accepted.vanish {
        shard.store.vanish(key, until);
    }
}
