//! The highest load that a relay sustains: steady slices at rates chosen by bisection, each judged
//! by its 99th percentile, its errors, and whether it kept up. The raw material of a statement of
//! capacity.
#![allow(clippy::disallowed_methods, reason = "signs on threads of its own")]

use super::RunOptions;
use crate::corpus::prepared::Prepared;
use crate::load::{
    Action, Actions, Arrivals, Fleet, FleetOptions, Ledger, LoadError, Metric, Op, Outcome, Plan,
    Rate, Requests, SECOND_NS, Target, Work,
};
use crate::report::{Machine, Relay};
use crate::rng::Rng;
use crate::{Corpus, CorpusOptions, Shape};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Share of a slice's load that has to be answered by its end: a relay that falls behind is not
/// sustaining it, however patient the client.
const KEPT_UP: f64 = 0.97;
/// Events of one query for the bandwidth.
const QUERY_LIMIT: u32 = 500;
/// Events stored before queries are measured.
const STORED: u32 = 10_000;
/// Bisection ends when the bounds are this close.
const CLOSE: f64 = 1.08;
/// Slices after which it ends in any case.
const SLICES_MAX: u32 = 14;

/// What is asked of a probe.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProbeOptions {
    /// Latency that 99 % of the answers have to keep, in milliseconds.
    pub p99_ms: f64,
    /// Length of a slice, in seconds.
    pub slice_s: f64,
    /// Connections.
    pub connections: u32,
    /// Rate of events to begin with.
    pub start_per_s: f64,
    /// Seed of events and plans.
    pub seed: u64,
    /// `created_at` of the newest events.
    pub base_time: u32,
}

/// One slice.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// Offered rate.
    pub per_s: f64,
    /// Answered within the slice, per second.
    pub answered_per_s: f64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 99 %, milliseconds.
    pub p99_ms: f64,
    /// Refused, lost or never answered.
    pub failed: u64,
    /// CPU of the busiest client core, in percent.
    pub client_busy_percent: f64,
    /// Whether the relay sustained it.
    pub is_sustained: bool,
    /// Whether the client was the bottleneck, which says nothing about the relay.
    pub is_client_bound: bool,
}

/// One searched limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Highest rate that was sustained.
    pub per_s: f64,
    /// Whether the client was the bottleneck above it: the relay may do more.
    pub is_client_bound: bool,
    /// All slices, in order.
    pub slices: Vec<Slice>,
}

/// What a probe found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capacity {
    /// Version of the tool.
    pub tool: String,
    /// When it began, unix seconds.
    pub started_s: u64,
    /// What was asked.
    pub options: ProbeOptions,
    /// Where the load came from.
    pub machine: Machine,
    /// The relay.
    pub relay: Relay,
    /// Events per second.
    pub events: Limit,
    /// Queries per second, of [`QUERY_LIMIT`] events each.
    pub queries: Limit,
    /// Bandwidth of stored events at that rate, in Mbit/s.
    pub query_mbps: f64,
    /// Bytes on disk that an event costs, from the growth of the relay's directory; `None` unless
    /// the directory is here and was named.
    pub disk_bytes_per_event: Option<f64>,
    /// Free space of the relay's file system in GB, the same.
    pub storage_headroom_gb: Option<f64>,
}

struct Search<'a> {
    target: &'a Target,
    options: ProbeOptions,
    run: &'a RunOptions,
    observe: &'a mut dyn FnMut(&str, &Slice),
    round: u64,
    published: u64,
}

/// Finds the limits of a relay. `data_dir` is its directory, if it is here; `observe` hears of
/// every slice.
///
/// # Errors
/// If the relay does not take the connections.
pub fn probe(
    target: &Target,
    options: ProbeOptions,
    run: &RunOptions,
    data_dir: Option<&std::path::Path>,
    started_s: u64,
    observe: &mut dyn FnMut(&str, &Slice),
) -> Result<Capacity, LoadError> {
    let server = super::server(target, run);
    let relay = Relay::ask(target, server.as_ref());
    let mut search = Search { target, options, run, observe, round: 0, published: 0 };
    let disk_before = data_dir.map(directory_bytes);
    let events = search.limit("events/s", options.start_per_s, &mut Search::publish_slice)?;
    let published = search.published;
    let disk_after = data_dir.map(directory_bytes);
    let stored = search.store()?;
    let mut mbps = BestMbps::default();
    let queries = search.limit("queries/s", options.start_per_s / 10.0, &mut |search, per_s| {
        let (slice, rate) = search.query_slice(per_s, &stored)?;
        if slice.is_sustained {
            mbps.keep(per_s, rate);
        }
        Ok(slice)
    })?;
    let grown = disk_before.zip(disk_after).map(|(before, after)| after.saturating_sub(before));
    Ok(Capacity {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        started_s,
        options,
        machine: Machine::here(),
        relay,
        events,
        queries,
        query_mbps: mbps.best.1,
        disk_bytes_per_event: grown
            .filter(|_| published > 0)
            .map(|bytes| bytes as f64 / published as f64),
        storage_headroom_gb: data_dir.and_then(free_gb),
    })
}

/// Bandwidth of the highest sustained rate of queries.
#[derive(Default)]
struct BestMbps {
    best: (f64, f64),
}

impl BestMbps {
    fn keep(&mut self, per_s: f64, mbps: f64) {
        if per_s >= self.best.0 {
            self.best = (per_s, mbps);
        }
    }
}

type SliceOf<'s, 'a> = &'s mut dyn FnMut(&mut Search<'a>, f64) -> Result<Slice, LoadError>;

impl<'a> Search<'a> {
    /// Doubles or halves the rate until the limit is between two, then bisects.
    fn limit(
        &mut self,
        name: &str,
        start_per_s: f64,
        slice: SliceOf<'_, 'a>,
    ) -> Result<Limit, LoadError> {
        let (mut good, mut bad) = (0.0_f64, f64::INFINITY);
        let mut per_s = start_per_s.max(1.0);
        let mut slices: Vec<Slice> = Vec::new();
        let mut is_client_bound = false;
        while slices.len() < SLICES_MAX as usize && bad / good.max(1.0) > CLOSE && per_s >= 1.0 {
            let seen = slice(self, per_s)?;
            (self.observe)(name, &seen);
            slices.push(seen);
            if seen.is_sustained {
                good = good.max(per_s);
            } else {
                bad = bad.min(per_s);
                is_client_bound = seen.is_client_bound;
            }
            per_s = if bad.is_infinite() {
                per_s * 2.0
            } else if good == 0.0 {
                per_s / 4.0
            } else {
                (good * bad).sqrt()
            };
        }
        Ok(Limit { per_s: good, is_client_bound, slices })
    }

    fn fleet(&self) -> Result<Fleet, LoadError> {
        let mut options = FleetOptions::new(self.options.connections);
        options.threads = self.run.threads;
        options.pin.clone_from(&self.run.pin);
        Ok(Fleet::open(self.target, &options)?.0)
    }

    /// Events that no slice has sent before.
    fn fresh(&mut self, count: u64) -> Prepared {
        self.round += 1;
        let seed = self.options.seed.wrapping_add(self.round << 32);
        let options = CorpusOptions {
            base_time: self.options.base_time.saturating_sub(3_600),
            span_s: 3_600,
            ..CorpusOptions::default()
        };
        let corpus = Corpus::new(Shape::Uniform { event_bytes: 500 }, seed, count, options);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Prepared::sign(corpus, seed, "probe", threads, &mut |_| {})
    }

    fn rate(&self, per_s: f64) -> Rate {
        Rate::level(per_s, (self.options.slice_s * SECOND_NS as f64) as u64)
    }

    fn plan(&self, rate: Rate, op: impl Fn(u64) -> Op + Send + Sync + Clone + 'static) -> Plan {
        let (seed, connections) =
            (self.options.seed ^ self.round, u64::from(self.options.connections));
        Arc::new(move || -> Actions {
            let mut rng = Rng::new(seed);
            let op = op.clone();
            Box::new(Arrivals::new(seed, 0, rate).enumerate().map(move |(index, at_ns)| Action {
                at_ns,
                connection: rng.below(connections) as u32,
                op: op(index as u64),
            }))
        })
    }

    fn publish_slice(&mut self, per_s: f64) -> Result<Slice, LoadError> {
        let rate = self.rate(per_s);
        let prepared = self.fresh(rate.count());
        let mut fleet = self.fleet()?;
        let plan = self.plan(rate, |index| Op::Publish(index as u32));
        let (ledger, requests) = (Ledger::new(prepared.frames.len()), Requests::new());
        let work = Work::open(&prepared.frames, &ledger, &requests, plan, rate.duration_ns());
        let outcome = fleet.run(&work);
        self.published += outcome.record.totals.accepted;
        Ok(self.judge(&outcome, per_s, Metric::PublishOk))
    }

    /// Stores events to ask for; returns requests over them.
    fn store(&mut self) -> Result<Requests, LoadError> {
        let prepared = self.fresh(u64::from(STORED));
        let ledger = Ledger::new(prepared.frames.len());
        let mut fleet = self.fleet()?;
        fleet.publish(&prepared.frames, &ledger, 0..STORED, 16, crate::load::Settle::Answers);
        let newest = self.options.base_time;
        // Windows at different times, so that no two of a slice are the same answer.
        let requests = (0..256_u32).map(|index| {
            let until = newest.saturating_sub(index * 12);
            format!(r#"{{"kinds":[1],"until":{until},"limit":{QUERY_LIMIT}}}"#).into_bytes()
        });
        Ok(requests.collect())
    }

    fn query_slice(&mut self, per_s: f64, requests: &Requests) -> Result<(Slice, f64), LoadError> {
        self.round += 1;
        let rate = self.rate(per_s);
        let mut fleet = self.fleet()?;
        let count = requests.len() as u64;
        let plan = self.plan(rate, move |index| Op::Query((index % count) as u32));
        let (frames, ledger) = (crate::load::Frames::default(), Ledger::new(0));
        let work = Work::open(&frames, &ledger, requests, plan, rate.duration_ns());
        let outcome = fleet.run(&work);
        let bytes = outcome.record.totals.query_bytes as f64;
        let mbps = bytes * 8.0 / 1e6 / (outcome.wall_ns as f64 / 1e9);
        Ok((self.judge(&outcome, per_s, Metric::QueryEose), mbps))
    }

    fn judge(&self, outcome: &Outcome, per_s: f64, metric: Metric) -> Slice {
        let totals = outcome.record.totals;
        let answered = totals.accepted + totals.answered;
        let failed =
            totals.rejected + totals.unanswered + totals.lost + totals.closed + totals.overflows;
        let offered = (totals.published + totals.queries).max(1);
        // Answers that came after the end belong to a queue that had grown.
        let seconds = (outcome.wall_ns as f64 / 1e9).max(self.options.slice_s);
        let answered_per_s = answered as f64 / seconds;
        let ms = |quantile| outcome.quantile_ns(metric, quantile).unwrap_or(0) as f64 / 1e6;
        let busy = outcome.client_busy();
        let lag_ms = outcome.quantile_ns(Metric::ClientLag, 0.99).unwrap_or(0) as f64 / 1e6;
        let is_sustained = ms(0.99) <= self.options.p99_ms
            && failed == 0
            && answered_per_s >= KEPT_UP * (offered as f64 / self.options.slice_s);
        Slice {
            per_s,
            answered_per_s,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            failed,
            client_busy_percent: busy * 100.0,
            is_sustained,
            is_client_bound: !is_sustained && (busy > 0.9 || lag_ms > self.options.p99_ms / 2.0),
        }
    }
}

/// Bytes that the files below a directory occupy.
fn directory_bytes(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn free_gb(path: &std::path::Path) -> Option<f64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail as f64 * stat.f_frsize as f64 / 1e9)
}
