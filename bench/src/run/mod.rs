//! Puts scenarios on relays: opens the fleet, stores what has to be there before, subscribes, runs
//! the plan, and watches the relay's process meanwhile.
//!
//! **What it does not know:** how to present anything. It returns [`Run`]s and histograms, and tells
//! a [`Progress`] where it is.
#![allow(clippy::disallowed_methods, reason = "reads the clock while it watches the relay")]

pub mod probe;

use crate::load::{
    Fleet, FleetOptions, Ledger, Live, LoadError, Metric, Outcome, Pipeline, SECOND_NS, Sample,
    Server, Settle, Target, Work,
};
use crate::report::Run;
use crate::report::figures::{Material, compute};
use crate::scenario::Compiled;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Instant;

/// Connections that store what has to be there before.
const PRELOAD_CONNECTIONS: u32 = 16;
/// Unanswered events on each of them.
const PRELOAD_WINDOW: u32 = 32;
/// How often the relay's process is looked at.
const SAMPLE_EVERY_S: f64 = 1.0;
/// Live events are waited for until nothing has come for this long.
const QUIET_NS: u64 = 300_000_000;
/// Intervals of the time series are shortened until a run has at least this many.
const INTERVALS_MIN: u64 = 40;

/// How a load is put on a relay.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Client cores; 0 is one per CPU.
    pub threads: usize,
    /// CPUs they are bound to.
    pub pin: Vec<usize>,
    /// The relay's process, where it cannot be found by its socket.
    pub pid: Option<u32>,
}

/// What is being done, for whoever shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Connections open.
    Connect,
    /// Events are stored that the load needs.
    Preload,
    /// Subscriptions open.
    Subscribe,
    /// The plan runs.
    Load,
}

/// Is told how far a run is, about twenty times a second.
pub trait Progress {
    /// `done` of `total` of a stage, and what has happened in it.
    fn at(&mut self, stage: Stage, done: u64, total: u64, live: &Live);
}

/// What a run came to, with its full distributions.
pub struct Finished {
    /// Everything for the report.
    pub run: Run,
    /// Everything for `.hgrm`.
    pub histograms: BTreeMap<Metric, Histogram<u64>>,
}

/// The relay's process, if it can be seen.
pub fn server(target: &Target, options: &RunOptions) -> Option<Server> {
    match options.pid {
        Some(pid) => Server::with_pid(pid),
        None => Server::find(target.address),
    }
}

/// Runs a compiled scenario once.
///
/// # Errors
/// If the relay does not take the connections or the machine does not give them.
pub fn run_once(
    compiled: &Compiled,
    target: &Target,
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<Finished, LoadError> {
    let server = server(target, options);
    let missing = preload(compiled, target, options, progress)?;
    let before = server.as_ref().and_then(Server::sample);
    let mut fleet_options = FleetOptions::new(compiled.connections);
    fleet_options.threads = options.threads;
    fleet_options.pin.clone_from(&options.pin);
    fleet_options.slow = compiled.slow.clone();
    let mut fleet = Fleet::new(target, &fleet_options)?;
    let connections = u64::from(compiled.connections);
    let connecting = fleet.connect(compiled.connects_per_s, &mut |live| {
        let done = live.connects.load(std::sync::atomic::Ordering::Relaxed);
        progress.at(Stage::Connect, done, connections, live);
    });
    let closed = fleet.closed();
    if closed == compiled.connections {
        let why = connecting.record.reasons.keys().next().cloned().unwrap_or_default();
        return Err(LoadError::Connect { failed: closed, of: compiled.connections, why });
    }
    subscribe(compiled, &mut fleet, progress);
    let opened = server.as_ref().and_then(Server::sample);
    let (outcome, samples) = load(compiled, &mut fleet, server.as_ref(), progress);
    let seconds = |ns: u64| ns as f64 / SECOND_NS as f64;
    let mut run = compute(&Material {
        outcome: &outcome,
        connecting: &connecting,
        samples: &samples,
        idle: before.zip(opened),
        connections: compiled.connections,
        window_s: (seconds(compiled.window_ns.0), seconds(compiled.window_ns.1)),
        burst_s: compiled.burst_ns.map(|(from, to)| (seconds(from), seconds(to))),
        refusals: compiled.refusals,
    });
    if missing > 0 {
        // The store is smaller than the scenario says, which whoever reads its figures has to know.
        run.figures.insert("preload_missing".to_owned(), missing as f64);
    }
    let mut histograms = outcome.record.histograms;
    if let Some(connects) = histograms.get_mut(&Metric::Connect)
        && connects.is_empty()
    {
        connects.clone_from(&connecting.record.histograms[&Metric::Connect]);
    }
    Ok(Finished { run, histograms })
}

/// Stores the events that have to be there, as fast as the relay takes them; returns how many it never
/// answered, because it closed the connection that they were to go over.
fn preload(
    compiled: &Compiled,
    target: &Target,
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<u64, LoadError> {
    if compiled.preload == 0 {
        return Ok(0);
    }
    let mut fleet_options = FleetOptions::new(PRELOAD_CONNECTIONS);
    fleet_options.threads = options.threads;
    let (mut fleet, _) = Fleet::open(target, &fleet_options)?;
    let frames = &compiled.prepared.frames;
    let ledger = Ledger::new(frames.len());
    let requests = Vec::new();
    let pipeline = Pipeline {
        items: 0..compiled.preload,
        are_queries: false,
        connections: 0..PRELOAD_CONNECTIONS,
        window: PRELOAD_WINDOW,
        stop_ns: u64::MAX / 4,
    };
    let work = Work::pipelined(frames, &ledger, &requests, pipeline);
    let mut answered = 0;
    fleet.run_observed(&work, &mut |live| {
        answered = live.answers.load(std::sync::atomic::Ordering::Relaxed);
        progress.at(Stage::Preload, answered, u64::from(compiled.preload), live);
    });
    Ok(u64::from(compiled.preload).saturating_sub(answered))
}

fn subscribe(compiled: &Compiled, fleet: &mut Fleet, progress: &mut dyn Progress) {
    use crate::load::{Action, Actions, Op, Plan};
    if compiled.subscriptions.is_empty() {
        return;
    }
    let all = std::sync::Arc::new(compiled.subscriptions.clone());
    let total = all.len() as u64;
    // Ten thousand a second: opening them is not what is measured, and not meant as an attack.
    let plan: Plan = std::sync::Arc::new(move || -> Actions {
        let all = std::sync::Arc::clone(&all);
        Box::new((0..all.len()).map(move |index| {
            let (connection, request) = all[index];
            Action { at_ns: index as u64 * 100_000, connection, op: Op::Subscribe(request) }
        }))
    });
    let frames = &compiled.prepared.frames;
    let ledger = Ledger::new(0);
    let mut work = Work::open(frames, &ledger, &compiled.requests, plan, total * 100_000);
    work.window_ns = (0, 0);
    fleet.run_observed(&work, &mut |live| {
        let done = live.queries.load(std::sync::atomic::Ordering::Relaxed);
        progress.at(Stage::Subscribe, done, total, live);
    });
}

fn load(
    compiled: &Compiled,
    fleet: &mut Fleet,
    server: Option<&Server>,
    progress: &mut dyn Progress,
) -> (Outcome, Vec<(f64, Sample)>) {
    let frames = &compiled.prepared.frames;
    let ledger = Ledger::new(frames.len());
    let plan = std::sync::Arc::clone(&compiled.plan);
    let mut work = Work::open(frames, &ledger, &compiled.requests, plan, compiled.duration_ns);
    work.window_ns = compiled.window_ns;
    work.interval_ns = interval_ns(compiled.duration_ns);
    if compiled.has_live {
        work.settle = Settle::Quiet { ns: QUIET_NS };
    }
    let mut samples: Vec<(f64, Sample)> = Vec::new();
    let began = Instant::now();
    let marks = [compiled.window_ns.0, compiled.window_ns.1].map(|ns| ns as f64 / 1e9);
    let mut outcome = fleet.run_observed(&work, &mut |live| {
        let at_s = began.elapsed().as_secs_f64();
        let last_s = samples.last().map(|(last_s, _)| *last_s);
        let crossed = |mark: &f64| last_s.is_some_and(|last_s| last_s < *mark) && at_s >= *mark;
        let is_due = last_s.is_none_or(|last_s| at_s - last_s >= SAMPLE_EVERY_S);
        if (is_due || marks.iter().any(crossed))
            && let Some(sample) = server.and_then(Server::sample)
        {
            samples.push((at_s, sample));
        }
        let done = ((at_s * 1e9) as u64).min(compiled.duration_ns);
        progress.at(Stage::Load, done, compiled.duration_ns, live);
    });
    if compiled.has_live {
        outcome.add_last_deliveries(&ledger, compiled.window_ns);
    }
    (outcome, samples)
}

/// A second, or less where a run would have too few of them to see anything.
fn interval_ns(duration_ns: u64) -> u64 {
    [SECOND_NS, SECOND_NS / 2, SECOND_NS / 4, SECOND_NS / 10]
        .into_iter()
        .find(|interval| duration_ns / interval >= INTERVALS_MIN)
        .unwrap_or(SECOND_NS / 10)
}
