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
    /// Hands in steps up to this number, then ends in order.
    Steps {
        /// Number of the last step.
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
    /// Steps that have been acknowledged.
    #[arg(long, default_value_t = 0)]
    pub acked: usize,
    /// Steps that have been handed in.
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
                for step in held..until.min(self.plan.steps.len()) {
                    self.hand_in(&mut shards, step, &|_| true)?;
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

    /// Opens the store and finds out how much of the plan each shard holds: everything that was
    /// acknowledged, and the step that was under way or not. A shard that is behind the others gets
    /// its part of that step. Returns the number of steps that all of them hold then.
    fn open(&mut self) -> anyhow::Result<(Shards, usize)> {
        let LifeOptions { flaw, threaded, acked, sent, .. } = *self.options;
        let mut shards = Shards::open(&self.path, self.now, flaw, threaded)?;
        let mut held = Vec::with_capacity(shards.shards.len());
        for number in 0..shards.shards.len() {
            let mut steps = acked;
            while steps < sent && self.holds(&mut shards, number, steps)? {
                steps += 1;
            }
            held.push(steps);
        }
        self.marks.say(&Mark::Open(held.clone()))?;
        let most = held.iter().max().copied().unwrap_or(acked);
        for step in acked..most {
            let behind = |number: usize| held[number] <= step;
            if (0..held.len()).any(behind) {
                self.hand_in(&mut shards, step, &behind)?;
            }
        }
        Ok((shards, most))
    }

    /// Whether a shard holds what a step brings it, told from the last event of it.
    fn holds(&self, shards: &mut Shards, number: usize, step: usize) -> anyhow::Result<bool> {
        let stored = self.states.verdicts(step).iter().zip(&self.plan.steps[step].events);
        let stored: Vec<&Event> =
            stored.filter(|(stored, _)| **stored).map(|(_, at)| &self.plan.events[*at]).collect();
        let here = |event: &&&Event| usize::from(shards.placement.owner(&event.view())) == number;
        let last = stored.iter().rev().find(here);
        let vanish = stored.iter().find(|event| event.view().kind() == nip62::KIND);
        let shard = &mut shards.shards[number];
        if let Some(event) = last {
            let answers = shard.answers(vec![LookupKey::Id(event.view().id())], self.now)?;
            return Ok(shard.store.view(&answers).id(&event.view().id()).is_some());
        }
        if let Some(event) = vanish {
            let (key, until) = (event.view().pubkey(), event.view().created_at());
            let answers = shard.answers(vec![LookupKey::Vanished(key)], self.now)?;
            return Ok(shard.store.view(&answers).vanished_until(&key) >= Some(until));
        }
        // It brings this shard nothing.
        Ok(true)
    }

    /// Hands a step in to the shards that `wants` names, and waits until it is durable.
    fn hand_in(
        &mut self,
        shards: &mut Shards,
        step: usize,
        wants: &dyn Fn(usize) -> bool,
    ) -> anyhow::Result<()> {
        let number = step + 1;
        self.now = now_at(self.plan.steps[step].unix_s);
        self.marks.say(&Mark::Sent(number))?;
        for shard in &mut shards.shards {
            shard.act(|store, fx| store.tick(self.now, fx));
        }
        let events = self.plan.steps[step].events.clone();
        let mut verdicts = Vec::with_capacity(events.len());
        for at in events {
            verdicts.push(self.submit(shards, at, wants)?);
        }
        if wants(0) && (1..shards.shards.len()).all(wants) {
            self.marks.say(&Mark::Decided(number, verdicts))?;
        }
        if self.options.flaw == Flaw::AckEarly {
            self.marks.say(&Mark::Acked(number))?;
        }
        for shard in &mut shards.shards {
            shard.act(|store, fx| store.flush(self.now, fx));
            shard.drive(&mut self.now, |store| store.durable() == store.appended())?;
            shard.settle(self.now)?;
        }
        if self.options.flaw != Flaw::AckEarly {
            self.marks.say(&Mark::Acked(number))?;
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
        at: usize,
        wants: &dyn Fn(usize) -> bool,
    ) -> anyhow::Result<bool> {
        let event = self.plan.events[at].clone();
        let owner = usize::from(shards.placement.owner(&event.view()));
        let secret = shards.placement.secret();
        let mut is_stored = false;
        if wants(owner) {
            let arrival = Arrival::of(&event.view(), &secret)
                .map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
            is_stored = self.decide(&mut shards.shards[owner], &arrival, Some(&event))?;
        }
        if event.view().kind() == nip62::KIND && (is_stored || !wants(owner)) {
            for number in
                (0..shards.shards.len()).filter(|number| *number != owner && wants(*number))
            {
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
