//! All connections of a load, spread over client cores, and the works they are given.
#![allow(
    clippy::disallowed_methods,
    reason = "one thread per client core, started here and joined here"
)]

use super::LoadError;
use super::core::{Clock, Core, CoreUse};
use super::frames::{Frames, Ledger};
use super::plan::{Action, Actions, Arrivals, Op, Plan, Rate, SECOND_NS};
use super::record::{Metric, Record};
use super::target::Target;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// New connections per second unless told otherwise: what a listen backlog of 128 stands.
const CONNECTS_PER_S: f64 = 2_000.0;
/// How long a work waits for answers that do not come.
const PATIENCE_NS: u64 = 10 * SECOND_NS;
/// How often the observer is asked to look.
const OBSERVE_EVERY: Duration = Duration::from_millis(50);

/// Requests that connections may send: each the filters of one REQ, as JSON with commas between.
pub type Requests = Vec<Vec<u8>>;

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Connections.
    pub connections: u32,
    /// Client cores; 0 is one per CPU of the machine.
    pub threads: usize,
    /// CPUs that the client cores are bound to, in turn; empty leaves them to the kernel.
    pub pin: Vec<usize>,
    /// New connections per second while the fleet opens.
    pub connects_per_s: f64,
    /// Connections (by number) that read this many bytes a second and no more.
    pub slow: Option<(Range<u32>, u32)>,
}

impl FleetOptions {
    /// `connections` on as many threads as there are CPUs.
    pub fn new(connections: u32) -> Self {
        Self {
            connections,
            threads: 0,
            pin: Vec::new(),
            connects_per_s: CONNECTS_PER_S,
            slow: None,
        }
    }
}

/// How the actions of a work are paced.
pub enum Load {
    /// By the clock: every action at its intended time, whatever the relay does.
    Open(Plan),
    /// By the answers: each connection keeps a window full. For saturation and CPU per operation,
    /// never for latency under load.
    Pipelined(Pipeline),
}

/// A closed loop over a range of events or requests.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Indexes of frames or requests; connection `c` of `n` takes every `n`th from the `c`th on.
    pub items: Range<u32>,
    /// Whether they are requests.
    pub are_queries: bool,
    /// Connections that take part.
    pub connections: Range<u32>,
    /// Unanswered ones per connection.
    pub window: u32,
    /// When no more are sent, nanoseconds after the start.
    pub stop_ns: u64,
}

/// What has to have happened, besides every answer, before a work is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Nothing.
    Answers,
    /// Nothing has arrived for this long.
    Quiet {
        /// Nanoseconds.
        ns: u64,
    },
    /// This many live events have arrived at subscriptions.
    Deliveries {
        /// How many.
        count: u64,
    },
}

/// One stretch of load on a fleet.
pub struct Work<'a> {
    /// Events that may be published.
    pub frames: &'a Frames,
    /// Where their journeys are written down.
    pub ledger: &'a Ledger,
    /// Requests that may be sent.
    pub requests: &'a Requests,
    /// What is done when.
    pub load: Load,
    /// How long it lasts at least.
    pub duration_ns: u64,
    /// The part of it that distributions cover, from and to, after the start.
    pub window_ns: (u64, u64),
    /// Length of the intervals of the time series.
    pub interval_ns: u64,
    /// How long to wait for answers once nothing arrives any more.
    pub patience_ns: u64,
    /// When it is over.
    pub settle: Settle,
}

impl<'a> Work<'a> {
    /// A plan of actions over `duration_ns`, all of which is measured.
    pub fn open(
        frames: &'a Frames,
        ledger: &'a Ledger,
        requests: &'a Requests,
        plan: Plan,
        duration_ns: u64,
    ) -> Self {
        Self {
            frames,
            ledger,
            requests,
            load: Load::Open(plan),
            duration_ns,
            window_ns: (0, duration_ns),
            interval_ns: SECOND_NS,
            patience_ns: PATIENCE_NS,
            settle: Settle::Answers,
        }
    }

    /// A closed loop, all of which is measured.
    pub fn pipelined(
        frames: &'a Frames,
        ledger: &'a Ledger,
        requests: &'a Requests,
        pipeline: Pipeline,
    ) -> Self {
        Self {
            frames,
            ledger,
            requests,
            load: Load::Pipelined(pipeline),
            duration_ns: 0,
            window_ns: (0, u64::MAX / 4),
            interval_ns: SECOND_NS,
            patience_ns: PATIENCE_NS,
            settle: Settle::Answers,
        }
    }
}

/// Numbers of a work in progress, for whoever watches.
#[derive(Debug, Default)]
pub struct Live {
    /// Events sent.
    pub published: AtomicU64,
    /// OKs.
    pub answers: AtomicU64,
    /// Live events.
    pub deliveries: AtomicU64,
    /// Queries ended.
    pub queries: AtomicU64,
    /// Connections made, or failed.
    pub connects: AtomicU64,
    /// Cores that still have something to do.
    pub(super) busy: AtomicU64,
    /// Set to end the work where it stands.
    pub stop: AtomicBool,
}

/// What came of a work.
#[derive(Debug)]
pub struct Outcome {
    /// Counts, distributions, time series.
    pub record: Record,
    /// What each client core used within the window.
    pub cores: Vec<CoreUse>,
    /// From the start to the last core's end.
    pub wall_ns: u64,
    /// When it started, by the fleet's clock.
    pub started_ns: u64,
}

impl Outcome {
    /// Share of its window that the busiest client core computed.
    pub fn client_busy(&self) -> f64 {
        self.cores.iter().map(CoreUse::busy).fold(0.0, f64::max)
    }

    /// CPU time of all client cores within the window.
    pub fn client_cpu_ns(&self) -> u64 {
        self.cores.iter().map(|core| core.cpu_ns).sum()
    }

    /// A quantile of one distribution, in nanoseconds; `None` if it is empty.
    pub fn quantile_ns(&self, metric: Metric, quantile: f64) -> Option<u64> {
        let histogram = self.record.histograms.get(&metric)?;
        (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
    }

    /// Adds the way of every event of the window to its last subscriber, from the ledger.
    pub fn add_last_deliveries(&mut self, ledger: &Ledger, window_ns: (u64, u64)) {
        let from = self.started_ns + window_ns.0;
        for journey in ledger.published_in(from, self.started_ns.saturating_add(window_ns.1)) {
            if journey.deliveries > 0 {
                let latency = journey.delivered_last_ns.saturating_sub(journey.published_ns);
                self.record.add_last_delivery(latency);
            }
        }
    }
}

/// Connections to one relay. Between works nobody reads from them, so that whoever alternates
/// slices of load with other measurements is not disturbed.
pub struct Fleet {
    cores: Vec<Core>,
    clock: Clock,
    pin: Vec<usize>,
    connections: u32,
}

impl Fleet {
    /// A fleet of closed connections.
    ///
    /// # Errors
    /// If the machine gives no epoll set or too few file descriptors.
    pub fn new(target: &Target, options: &FleetOptions) -> Result<Self, LoadError> {
        raise_file_limit(u64::from(options.connections) + 256)?;
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if options.threads == 0 { available } else { options.threads };
        let threads = threads.min(options.connections.max(1) as usize).max(1) as u32;
        let clock = Clock::new();
        let mut cores = Vec::new();
        for index in 0..threads {
            let share = (options.connections + threads - 1 - index) / threads;
            let mut core =
                Core::new(index, threads, share, target, clock).map_err(LoadError::Machine)?;
            if let Some((range, bytes_per_s)) = &options.slow {
                for connection in range.clone() {
                    core.slow_down(connection, *bytes_per_s);
                }
            }
            cores.push(core);
        }
        Ok(Self { cores, clock, pin: options.pin.clone(), connections: options.connections })
    }

    /// Opens all connections, each at its time of an even schedule, and requires that they open.
    ///
    /// # Errors
    /// If the machine or the relay refuses any of them.
    pub fn open(target: &Target, options: &FleetOptions) -> Result<(Self, Outcome), LoadError> {
        let mut fleet = Self::new(target, options)?;
        let outcome = fleet.connect(options.connects_per_s, &mut |_| {});
        let failed = fleet.closed();
        if failed > 0 {
            let why = outcome.record.reasons.keys().next().cloned().unwrap_or_default();
            return Err(LoadError::Connect { failed, of: options.connections, why });
        }
        Ok((fleet, outcome))
    }

    /// Opens all connections at a rate; those that fail stay closed and are counted.
    pub fn connect(&mut self, connects_per_s: f64, observe: &mut dyn FnMut(&Live)) -> Outcome {
        let connections = self.connections;
        let duration_ns = (f64::from(connections) / connects_per_s * SECOND_NS as f64) as u64 + 1;
        let per_s = f64::from(connections) * SECOND_NS as f64 / duration_ns as f64;
        let plan: Plan = Arc::new(move || -> Actions {
            let arrivals = Arrivals::new(1, 0, Rate::level(per_s, duration_ns));
            // Rounding may cost the last arrival; it then comes at the end.
            let times = arrivals.chain(std::iter::repeat(duration_ns));
            Box::new((0..connections).zip(times).map(|(connection, at_ns)| Action {
                at_ns,
                connection,
                op: Op::Connect,
            }))
        });
        let (frames, ledger, requests) = (Frames::default(), Ledger::new(0), Requests::new());
        let mut work = Work::open(&frames, &ledger, &requests, plan, duration_ns);
        // The last arrival is intended at the very end.
        work.window_ns.1 += 1;
        self.run_observed(&work, observe)
    }

    /// Does a work from beginning to end.
    pub fn run(&mut self, work: &Work<'_>) -> Outcome {
        self.run_observed(work, &mut |_| {})
    }

    /// Does a work; `observe` sees it about twenty times a second, from this thread.
    pub fn run_observed(&mut self, work: &Work<'_>, observe: &mut dyn FnMut(&Live)) -> Outcome {
        let live = Live::default();
        live.busy.store(self.cores.len() as u64, Ordering::Release);
        let pin = &self.pin;
        let clock = self.clock;
        // All cores begin together, so that none is late for the first actions.
        let start_ns = clock.now_ns() + 5_000_000;
        let results: Vec<(Record, CoreUse)> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .cores
                .iter_mut()
                .enumerate()
                .map(|(index, core)| {
                    let live = &live;
                    scope.spawn(move || {
                        if !pin.is_empty() {
                            bind_to(pin[index % pin.len()]);
                        }
                        core.run(work, live, start_ns)
                    })
                })
                .collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                observe(&live);
                // Short works end between two looks.
                let mut slept = Duration::ZERO;
                let step = Duration::from_millis(2);
                while slept < OBSERVE_EVERY && threads.iter().any(|thread| !thread.is_finished()) {
                    std::thread::sleep(step);
                    slept += step;
                }
            }
            observe(&live);
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a client core does not panic"))
                .collect()
        });
        let wall_ns = clock.now_ns() - start_ns;
        let mut results = results.into_iter();
        let (mut record, first) = results.next().expect("a fleet has a core");
        let mut cores = vec![first];
        for (other, used) in results {
            record.merge(&other);
            cores.push(used);
        }
        Outcome { record, cores, wall_ns, started_ns: start_ns }
    }

    /// Publishes `events` over all connections, `window` unanswered per connection at a time.
    pub fn publish(
        &mut self,
        frames: &Frames,
        ledger: &Ledger,
        events: Range<u32>,
        window: u32,
        settle: Settle,
    ) -> Outcome {
        let requests = Requests::new();
        let pipeline = Pipeline {
            items: events,
            are_queries: false,
            connections: 0..self.connections,
            window,
            stop_ns: u64::MAX / 4,
        };
        let mut work = Work::pipelined(frames, ledger, &requests, pipeline);
        work.settle = settle;
        self.run(&work)
    }

    /// Sends `requests` over all connections, `window` unanswered per connection at a time.
    pub fn query(&mut self, requests: &Requests, window: u32) -> Outcome {
        let (frames, ledger) = (Frames::default(), Ledger::new(0));
        let pipeline = Pipeline {
            items: 0..requests.len() as u32,
            are_queries: true,
            connections: 0..self.connections,
            window,
            stop_ns: u64::MAX / 4,
        };
        self.run(&Work::pipelined(&frames, &ledger, requests, pipeline))
    }

    /// Opens subscription `requests[i % len]` on the `i`th of `connections`, and waits for EOSE.
    pub fn subscribe(&mut self, requests: &Requests, connections: Range<u32>) -> Outcome {
        let (frames, ledger) = (Frames::default(), Ledger::new(0));
        let count = requests.len() as u32;
        let plan: Plan = Arc::new(move || -> Actions {
            Box::new(connections.clone().enumerate().map(move |(index, connection)| Action {
                at_ns: 0,
                connection,
                op: Op::Subscribe(index as u32 % count),
            }))
        });
        self.run(&Work::open(&frames, &ledger, requests, plan, 1))
    }

    /// Connections that are not open.
    pub fn closed(&self) -> u32 {
        let is_closed = |connection: &u32| {
            self.cores.iter().filter_map(|core| core.is_open(*connection)).all(|is_open| !is_open)
        };
        (0..self.connections).filter(is_closed).count() as u32
    }

    /// The clock of all times in outcomes and ledgers.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Connections, open or not.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// Client cores.
    pub fn threads(&self) -> usize {
        self.cores.len()
    }
}

/// Binds this thread to a CPU; a CPU that is not there leaves it where it is.
fn bind_to(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Raises the soft limit of open files as far as the hard one lets it.
fn raise_file_limit(needed: u64) -> Result<(), LoadError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < needed) {
        if hard < needed {
            return Err(LoadError::Files { needed, hard });
        }
        let raised = Rlimit { current: Some(hard), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| LoadError::Machine(error.into()))?;
    }
    Ok(())
}
