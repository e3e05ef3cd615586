//! Metrics: one table of names, one set of cells per core, text on request.
//!
//! A core counts in plain fields of its own and publishes them into its [`Cells`] when somebody
//! asks; each cell has one writer. No label comes from a peer.

use crate::policy::runner::FIGURES;
use net::{CloseCause, NetCounters, Refusal};
use proto::Reason;
use serve::{BOUNDS_US, Timings};
use shards::counters::{DoorCounts, HomeCounters, ReasonCounts, ShardCounters};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// A level.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Without the prefix.
    pub name: &'static str,
    /// What it is.
    pub kind: Type,
    /// What a person reads; the unit is in the name.
    pub help: &'static str,
    /// The label's name, if it has one.
    pub label: Option<&'static str>,
}

const fn metric(
    name: &'static str,
    kind: Type,
    label: Option<&'static str>,
    help: &'static str,
) -> Metric {
    Metric { name, kind, help, label }
}

/// Every metric of the relay.
pub const TABLE: &[Metric] = &[
    metric("events_total", Type::Counter, Some("outcome"), "Events by what became of them."),
    metric("refused_total", Type::Counter, Some("reason"), "Refusals told to clients."),
    metric(
        "evicted_total",
        Type::Counter,
        Some("reason"),
        "Connections ended by the relay or lost.",
    ),
    metric("not_admitted_total", Type::Counter, Some("reason"), "Connections refused at the door."),
    metric("messages_total", Type::Counter, None, "Client messages received whole."),
    metric("frames_out_total", Type::Counter, None, "WebSocket frames queued."),
    metric("http_requests_total", Type::Counter, None, "HTTP requests, upgrades included."),
    metric("queries_total", Type::Counter, None, "REQ messages taken."),
    metric("counts_total", Type::Counter, None, "COUNT messages taken."),
    metric("stored_rows_total", Type::Counter, None, "Stored events sent to clients."),
    metric("live_deliveries_total", Type::Counter, None, "Live events sent to subscriptions."),
    metric("rows_scanned_total", Type::Counter, None, "Index rows looked at for queries."),
    metric("verified_total", Type::Counter, None, "Signatures of events checked."),
    metric(
        "ticketed_total",
        Type::Counter,
        None,
        "Signatures that a core checked for a shard of another core.",
    ),
    metric(
        "fell_behind_total",
        Type::Counter,
        None,
        "Times a core fell off a ring of live events.",
    ),
    metric("submitted_total", Type::Counter, None, "Events that homes have sent to shards."),
    metric("neg_opens_total", Type::Counter, None, "NEG-OPEN messages taken."),
    metric("neg_messages_total", Type::Counter, None, "NEG-MSG messages taken."),
    metric("sums_total", Type::Counter, None, "Sums of sync sets read for NIP-77."),
    metric(
        "parked_total",
        Type::Counter,
        None,
        "Commands whose client had to wait for credit, slots or the policy door.",
    ),
    metric("vanishes_total", Type::Counter, None, "Requests to vanish, once for every shard."),
    metric("removed_total", Type::Counter, None, "Events removed by the operator."),
    metric(
        "live_refused_total",
        Type::Counter,
        None,
        "Live events that found an outbox too full, which ends the subscription.",
    ),
    metric("deflated_total", Type::Counter, None, "Messages sent compressed."),
    metric(
        "deflate_saved_bytes_total",
        Type::Counter,
        None,
        "Bytes that were not sent because of compression.",
    ),
    metric(
        "policy_asked_total",
        Type::Counter,
        Some("door"),
        "Questions to the policy plug-ins, about events and about reads.",
    ),
    metric(
        "policy_write_answers_total",
        Type::Counter,
        Some("answer"),
        "What was answered about events, defaults included.",
    ),
    metric(
        "policy_read_answers_total",
        Type::Counter,
        Some("answer"),
        "What was answered about reads, defaults included.",
    ),
    metric(
        "policy_timed_out_total",
        Type::Counter,
        Some("door"),
        "Questions that got the default because no answer came in time.",
    ),
    metric(
        "policy_unreachable_total",
        Type::Counter,
        Some("door"),
        "Questions that got the default because the plug-in did not run.",
    ),
    metric(
        "policy_malformed_total",
        Type::Counter,
        Some("door"),
        "Lines of the plug-ins that are no answer.",
    ),
    metric(
        "policy_unmatched_total",
        Type::Counter,
        Some("door"),
        "Answers of the plug-ins to nothing that waits, late ones above all.",
    ),
    metric(
        "policy_restarts_total",
        Type::Counter,
        Some("door"),
        "Times a policy plug-in was started again.",
    ),
    metric(
        "policy_in_flight",
        Type::Gauge,
        Some("door"),
        "Questions that wait for a policy plug-in.",
    ),
    metric("connections", Type::Gauge, None, "Open connections."),
    metric("subscriptions", Type::Gauge, None, "Open subscriptions."),
    metric("neg_sessions", Type::Gauge, None, "Open NIP-77 sessions."),
    metric(
        "mailbox_depth",
        Type::Gauge,
        Some("core"),
        "Events waiting for a decision or for disk.",
    ),
    metric("bytes_held", Type::Gauge, Some("budget"), "Bytes held by each budget."),
    metric(
        "ingest_seconds",
        Type::Histogram,
        None,
        "From an event's arrival to its OK; one event in eight.",
    ),
    metric("commit_seconds", Type::Histogram, None, "From a log batch's submission to its sync."),
    metric("query_seconds", Type::Histogram, None, "From a REQ's arrival to its EOSE."),
    metric(
        "delivery_seconds",
        Type::Histogram,
        None,
        "From a live event's arrival at the core of its readers to their outboxes.",
    ),
];

/// Levels of one core.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    /// Open connections.
    pub connections: u64,
    /// Open subscriptions.
    pub subscriptions: u64,
    /// Open NIP-77 sessions.
    pub neg_sessions: u64,
    /// Events waiting in the core's shards.
    pub mailbox_depth: u64,
    /// Bytes of the core's outboxes.
    pub outbox_bytes: u64,
    /// Bytes of unfinished input.
    pub input_bytes: u64,
    /// Bytes of pages held for slow readers.
    pub pages_bytes: u64,
    /// Bytes of the core's stores.
    pub store_bytes: u64,
    /// Bytes of the rings of live events.
    pub live_bytes: u64,
    /// Bytes of open filters.
    pub filter_bytes: u64,
    /// Bytes of NIP-77 sessions.
    pub neg_bytes: u64,
}

const BUDGETS: [&str; 7] = ["outbox", "input", "pages", "store", "live", "filters", "negentropy"];
const OUTCOMES: [&str; 6] =
    ["accepted", "rejected", "duplicate", "replaced", "ephemeral", "deleted"];
const DOORS: [&str; 2] = ["write", "read"];
const ANSWERS: [&str; 4] = ["accepted", "rejected", "shadow_rejected", "unavailable"];
const POLICY: usize = DOORS.len() * (1 + ANSWERS.len() + FIGURES);
const REASONS: usize = Reason::ALL.len();
const CLOSES: usize = CloseCause::ALL.len();
const REFUSALS: usize = Refusal::ALL.len();
const PLAIN: usize = 21;
const LEVELS: usize = 4 + BUDGETS.len();
const HISTOGRAM_CELLS: usize = BOUNDS_US.len() + 2;
const HISTOGRAMS: usize = 4;
const CELLS: usize = OUTCOMES.len()
    + REASONS
    + CLOSES
    + REFUSALS
    + PLAIN
    + POLICY
    + LEVELS
    + HISTOGRAMS * HISTOGRAM_CELLS;

/// The published figures of one core, in the order of the table. Written by that core only.
pub struct Cells {
    values: Box<[AtomicU64]>,
    published: AtomicU64,
}

impl Default for Cells {
    fn default() -> Self {
        let values = (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Self { values, published: AtomicU64::new(0) }
    }
}

/// What a core publishes.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// Of its connections; the control core has none.
    pub net: Option<&'a NetCounters>,
    /// Of its home.
    pub home: &'a HomeCounters,
    /// Of its shards, summed.
    pub shards: &'a ShardCounters,
    /// Of the plug-ins, by door. They are the whole relay's, so only one core says them.
    pub policy: [[u64; FIGURES]; 2],
    /// Measured by the loop.
    pub timings: &'a Timings,
    /// Levels.
    pub levels: Levels,
}

impl Cells {
    /// The scrape that these figures answer.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Publishes a core's figures for scrape `epoch`.
    pub fn publish(&self, snapshot: &Snapshot<'_>, epoch: u64) {
        let mut values = Vec::with_capacity(CELLS);
        values.extend(outcomes(snapshot.shards, snapshot.home));
        let no_net = NetCounters::default();
        let net = snapshot.net.unwrap_or(&no_net);
        values.extend_from_slice(&net.refused);
        values.extend_from_slice(&net.closed);
        values.extend_from_slice(&net.not_admitted);
        values.extend([
            net.messages,
            net.frames_out,
            net.http_requests,
            snapshot.home.queries,
            snapshot.home.counts,
            snapshot.home.stored_rows,
            snapshot.home.deliveries,
            snapshot.shards.rows_scanned,
            snapshot.shards.verified,
            snapshot.shards.ticketed,
            snapshot.shards.fell_behind,
            snapshot.home.events,
            snapshot.home.neg_opens,
            snapshot.home.neg_messages,
            snapshot.shards.sums,
            snapshot.home.parked,
            snapshot.shards.vanishes,
            snapshot.shards.removed,
            net.over_soft,
            net.deflated,
            net.deflate_saved_bytes,
        ]);
        let doors = [&snapshot.shards.door, &snapshot.home.door];
        values.extend(doors.map(|door| door.asked));
        values.extend(doors.into_iter().flat_map(answers));
        let [write, read] = &snapshot.policy;
        values.extend(write.iter().zip(read).flat_map(|(write, read)| [*write, *read]));
        let levels = &snapshot.levels;
        values.extend([
            levels.connections,
            levels.subscriptions,
            levels.neg_sessions,
            levels.mailbox_depth,
            levels.outbox_bytes,
            levels.input_bytes,
            levels.pages_bytes,
            levels.store_bytes,
            levels.live_bytes,
            levels.filter_bytes,
            levels.neg_bytes,
        ]);
        let Timings { ingest, commit, query, delivery } = snapshot.timings;
        for histogram in [ingest, commit, query, delivery] {
            values.extend_from_slice(&histogram.buckets);
            values.push(histogram.sum_us);
        }
        assert_eq!(values.len(), CELLS, "every metric has its cells");
        for (cell, value) in self.values.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
        self.published.store(epoch, Ordering::Release);
    }
}

fn answers(door: &DoorCounts) -> [u64; ANSWERS.len()] {
    [door.accepted, door.rejected, door.shadowed, door.unavailable]
}

fn outcomes(shards: &ShardCounters, home: &HomeCounters) -> [u64; OUTCOMES.len()] {
    let both = |count: fn(&ReasonCounts, Reason) -> u64, wanted: fn(Reason) -> bool| -> u64 {
        let wanted = Reason::ALL.iter().filter(|reason| wanted(**reason));
        wanted.map(|reason| count(&shards.refused, *reason)).sum()
    };
    let duplicates = both(ReasonCounts::of, Reason::is_accepted);
    let at_shards = both(ReasonCounts::of, |reason| !reason.is_accepted());
    let at_home: u64 = Reason::ALL.iter().map(|reason| home.refused.of(*reason)).sum();
    let rejected = at_shards + at_home;
    [shards.accepted, rejected, duplicates, shards.replaced, shards.ephemeral, shards.deleted]
}

/// The text exposition of all cores' figures.
pub fn render(cores: &[Cells]) -> String {
    let columns: Vec<Vec<u64>> = cores
        .iter()
        .map(|cells| cells.values.iter().map(|cell| cell.load(Ordering::Relaxed)).collect())
        .collect();
    let sums: Vec<u64> =
        (0..CELLS).map(|cell| columns.iter().map(|column| column[cell]).sum()).collect();
    let mut out = String::with_capacity(16 * 1024);
    let mut at = 0;
    for metric in TABLE {
        let kind = match metric.kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        let name = metric.name;
        let _ = writeln!(out, "# HELP turnpike_{name} {}", metric.help);
        let _ = writeln!(out, "# TYPE turnpike_{name} {kind}");
        at += match (metric.kind, labels_of(metric)) {
            (Type::Histogram, _) => render_histogram(&mut out, name, &sums[at..]),
            (_, Labels::None) => {
                let _ = writeln!(out, "turnpike_{name} {}", sums[at]);
                1
            }
            (_, Labels::Core) => {
                for (core, column) in columns.iter().enumerate() {
                    let _ = writeln!(out, "turnpike_{name}{{core=\"{core}\"}} {}", column[at]);
                }
                1
            }
            (_, Labels::Named(values)) => {
                let label = metric.label.unwrap_or_default();
                for (value, sum) in values.iter().zip(&sums[at..]) {
                    let _ = writeln!(out, "turnpike_{name}{{{label}=\"{value}\"}} {sum}");
                }
                values.len()
            }
        };
    }
    out
}

enum Labels {
    None,
    Core,
    Named(Vec<&'static str>),
}

fn labels_of(metric: &Metric) -> Labels {
    match (metric.name, metric.label) {
        (_, None) => Labels::None,
        (_, Some("core")) => Labels::Core,
        (_, Some("outcome")) => Labels::Named(OUTCOMES.to_vec()),
        (_, Some("door")) => Labels::Named(DOORS.to_vec()),
        (_, Some("answer")) => Labels::Named(ANSWERS.to_vec()),
        (_, Some("budget")) => Labels::Named(BUDGETS.to_vec()),
        ("refused_total", _) => Labels::Named(Reason::ALL.iter().map(|r| r.label()).collect()),
        ("not_admitted_total", _) => {
            Labels::Named(Refusal::ALL.iter().map(|refusal| refusal.label()).collect())
        }
        _ => Labels::Named(CloseCause::ALL.iter().map(|cause| cause.label()).collect()),
    }
}

fn render_histogram(out: &mut String, name: &str, cells: &[u64]) -> usize {
    let mut count = 0;
    for (bound_us, bucket) in BOUNDS_US.iter().zip(cells) {
        count += bucket;
        let bound_s = *bound_us as f64 / 1e6;
        let _ = writeln!(out, "turnpike_{name}_bucket{{le=\"{bound_s}\"}} {count}");
    }
    count += cells[BOUNDS_US.len()];
    let sum_s = cells[BOUNDS_US.len() + 1] as f64 / 1e6;
    let _ = writeln!(out, "turnpike_{name}_bucket{{le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "turnpike_{name}_sum {sum_s}\nturnpike_{name}_count {count}");
    HISTOGRAM_CELLS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_rendered_under_its_own_name() {
        let mut net = NetCounters::default();
        net.refuse(Reason::ALL[REASONS - 1]);
        net.messages = 7;
        (net.over_soft, net.deflated, net.deflate_saved_bytes) = (21, 22, 23);
        let door = DoorCounts { unavailable: 19, ..DoorCounts::default() };
        let home = HomeCounters {
            deliveries: 5,
            events: 24,
            neg_opens: 25,
            neg_messages: 26,
            parked: 27,
            door,
            ..HomeCounters::default()
        };
        let door = DoorCounts { asked: 17, ..DoorCounts::default() };
        let shard = ShardCounters {
            accepted: 3,
            fell_behind: 9,
            vanishes: 28,
            removed: 29,
            sums: 30,
            ticketed: 34,
            door,
            ..ShardCounters::default()
        };
        let mut shards = ShardCounters::default();
        serve::add_counters(&mut shards, &shard);
        let mut timings = Timings::default();
        timings.ingest.record_us(50);
        timings.ingest.record_us(51);
        timings.delivery.record_us(10_000_000);
        let levels = Levels {
            connections: 11,
            neg_sessions: 31,
            live_bytes: 13,
            filter_bytes: 32,
            neg_bytes: 33,
            ..Levels::default()
        };
        let cores = [Cells::default(), Cells::default()];
        for (epoch, core) in cores.iter().enumerate() {
            let (net, home, shards) = (Some(&net), &home, &shards);
            let mut policy = [[0; FIGURES]; 2];
            policy[1][FIGURES - 1] = 15;
            let snapshot = Snapshot { net, home, shards, policy, timings: &timings, levels };
            core.publish(&snapshot, epoch as u64);
        }
        let text = render(&cores);
        let last = Reason::ALL[REASONS - 1].label();
        for line in [
            "turnpike_events_total{outcome=\"accepted\"} 6",
            &format!("turnpike_refused_total{{reason=\"{last}\"}} 2"),
            "turnpike_messages_total 14",
            "turnpike_live_deliveries_total 10",
            "turnpike_fell_behind_total 18",
            "turnpike_ticketed_total 68",
            "turnpike_submitted_total 48",
            "turnpike_neg_opens_total 50",
            "turnpike_neg_messages_total 52",
            "turnpike_sums_total 60",
            "turnpike_parked_total 54",
            "turnpike_vanishes_total 56",
            "turnpike_removed_total 58",
            "turnpike_live_refused_total 42",
            "turnpike_deflated_total 44",
            "turnpike_deflate_saved_bytes_total 46",
            "turnpike_neg_sessions 62",
            "turnpike_bytes_held{budget=\"filters\"} 64",
            "turnpike_bytes_held{budget=\"negentropy\"} 66",
            "turnpike_policy_asked_total{door=\"write\"} 34",
            "turnpike_policy_read_answers_total{answer=\"unavailable\"} 38",
            "turnpike_policy_in_flight{door=\"read\"} 30",
            "turnpike_connections 22",
            "turnpike_mailbox_depth{core=\"1\"} 0",
            "turnpike_bytes_held{budget=\"live\"} 26",
            "turnpike_ingest_seconds_bucket{le=\"0.00005\"} 2",
            "turnpike_ingest_seconds_bucket{le=\"0.0001\"} 4",
            "turnpike_ingest_seconds_count 4",
            "turnpike_delivery_seconds_bucket{le=\"5\"} 0",
            "turnpike_delivery_seconds_bucket{le=\"+Inf\"} 2",
            "turnpike_delivery_seconds_sum 20",
        ] {
            assert!(text.lines().any(|have| have == line), "no line {line} in\n{text}");
        }
        assert_eq!(cores[1].published(), 1);
    }
}
