//! What came of a run, as a file that can be read again: everything that the tables, the plots and
//! the comparison need, and nothing that they would have to guess.

pub mod compare;
pub mod figures;
mod hgrm;
mod html;
mod machine;
mod stats;
mod svg;
pub mod text;

pub use hgrm::write_hgrm;
pub use html::render as html;
pub use machine::{Machine, Relay};
pub use stats::Estimate;

use crate::scenario::{Scenario, Sizing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the file's form.
pub const FORMAT: u32 = 1;

/// A whole report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the tool.
    pub tool: String,
    /// When it began, unix seconds.
    pub started_s: u64,
    /// Seed of events and plans.
    pub seed: u64,
    /// `created_at` of the newest events.
    pub base_time: u32,
    /// Where the load came from.
    pub machine: Machine,
    /// The relays, one or two.
    pub relays: Vec<Relay>,
    /// The scenarios, in the order in which they ran.
    pub scenarios: Vec<ScenarioResult>,
}

/// A scenario and all its runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// What it says.
    pub scenario: Scenario,
    /// In which size it ran.
    pub sizing: Sizing,
    /// Connections in this size.
    pub connections: u32,
    /// Events stored before.
    pub preload: u32,
    /// The level, seconds after the start of the load.
    pub window_s: (f64, f64),
    /// The runs.
    pub runs: Vec<Run>,
}

/// One run of one scenario on one relay.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Which of the relays.
    pub relay: usize,
    /// Which repetition.
    pub repeat: u32,
    /// Why the client spoiled it; empty if it did not.
    pub invalid: Vec<String>,
    /// Everything counted, ramp and drop included.
    pub counts: BTreeMap<String, u64>,
    /// Everything computed, of the level alone.
    pub figures: BTreeMap<String, f64>,
    /// Latencies of the level.
    pub distributions: BTreeMap<String, Distribution>,
    /// Length of an interval, in seconds.
    pub interval_s: f64,
    /// The load over time.
    pub intervals: Vec<Point>,
    /// The relay's process over time, if it could be seen.
    pub server: Vec<ServerPoint>,
    /// CPU of the relay's threads on the level, in percent of a core, the busiest first.
    pub threads: Vec<(String, f64)>,
    /// Why the relay refused what it refused.
    pub reasons: BTreeMap<String, u64>,
}

/// A distribution of latencies.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// Values.
    pub count: u64,
    /// Least, nanoseconds.
    pub min_ns: u64,
    /// Mean, nanoseconds.
    pub mean_ns: f64,
    /// Greatest, nanoseconds.
    pub max_ns: u64,
    /// Quantiles and their values in nanoseconds, evenly spaced in the number of nines.
    pub curve: Vec<(f64, u64)>,
}

/// One interval of the load.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Point {
    /// Events sent.
    pub published: u64,
    /// Verdicts on events.
    pub answers: u64,
    /// Queries answered.
    pub answered: u64,
    /// Live events received.
    pub deliveries: u64,
    /// Stored events received.
    pub query_events: u64,
    /// Publish-to-OK of the verdicts that came in it, nanoseconds.
    pub ok_p50_ns: u64,
    /// The same, 99 %.
    pub ok_p99_ns: u64,
    /// REQ-to-EOSE of the answers that came in it, nanoseconds.
    pub eose_p50_ns: u64,
    /// The same, 99 %.
    pub eose_p99_ns: u64,
}

/// The relay's process in one stretch of time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ServerPoint {
    /// End of the stretch, seconds after the start of the load.
    pub at_s: f64,
    /// CPU, in percent of a core.
    pub cpu_percent: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open files.
    pub fds: u64,
    /// Bytes a second written to disks.
    pub disk_write_per_s: f64,
    /// Bytes a second read from disks.
    pub disk_read_per_s: f64,
    /// Bytes a second sent on all interfaces.
    pub net_out_per_s: f64,
}

/// What a threshold came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Name of the figure.
    pub figure: String,
    /// Mean over the runs; `None` if no run has the figure.
    pub value: Option<f64>,
    /// The bound, as text.
    pub bound: String,
    /// Whether it holds.
    pub holds: bool,
}

impl ScenarioResult {
    /// Runs on one relay.
    pub fn runs_of(&self, relay: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.relay == relay)
    }

    /// A figure over the repeated runs on one relay.
    pub fn estimate(&self, relay: usize, figure: &str) -> Option<Estimate> {
        let values: Vec<f64> =
            self.runs_of(relay).filter_map(|run| run.figures.get(figure).copied()).collect();
        Estimate::of(&values)
    }

    /// Names of all figures, in order.
    pub fn figures(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.runs.iter().flat_map(|run| run.figures.keys().cloned()).collect();
        names.sort_by_key(|name| figures::order(name));
        names.dedup();
        names
    }

    /// Every threshold against the runs on one relay.
    pub fn verdicts(&self, relay: usize) -> Vec<Verdict> {
        self.scenario
            .thresholds
            .iter()
            .map(|threshold| {
                let value = self.estimate(relay, &threshold.figure).map(|estimate| estimate.mean);
                let min = threshold.min.map(|min| match figures::is_rate(&threshold.figure) {
                    true => min * self.sizing.load,
                    false => min,
                });
                let mut bounds = Vec::new();
                bounds.extend(min.map(|min| format!("≥ {}", text::number(min))));
                bounds.extend(threshold.max.map(|max| format!("≤ {}", text::number(max))));
                let holds = value.is_some_and(|value| {
                    min.is_none_or(|min| value >= min)
                        && threshold.max.is_none_or(|max| value <= max)
                });
                // A relay elsewhere does not show its process; nothing can be held against it.
                let holds = holds || (value.is_none() && threshold.figure.starts_with("server_"));
                let figure = threshold.figure.clone();
                Verdict { figure, value, bound: bounds.join(", "), holds }
            })
            .collect()
    }

    /// What the founding document expects of a figure in this size.
    pub fn expected(&self, figure: &str) -> Option<f64> {
        let expected = self.scenario.expected.iter().find(|one| one.figure == figure)?;
        Some(if expected.scales { expected.value * self.sizing.load } else { expected.value })
    }
}

impl Report {
    /// Scenarios with a broken threshold.
    pub fn broken(&self) -> usize {
        self.scenarios
            .iter()
            .filter(|result| {
                (0..self.relays.len())
                    .any(|relay| result.verdicts(relay).iter().any(|verdict| !verdict.holds))
            })
            .count()
    }

    /// Runs that the client spoiled.
    pub fn invalid(&self) -> usize {
        self.scenarios
            .iter()
            .flat_map(|result| &result.runs)
            .filter(|run| !run.invalid.is_empty())
            .count()
    }
}
