//! Scenarios: what users do to a relay, as TOML files. Those of this crate are part of the binary;
//! others are read from a path.
//!
//! A scenario stands at its published size. [`Sizing`] fits it to a machine: rates and connections
//! shrink by one factor, durations by another, and the shape of the load stays.
//!
//! **What it does not know:** sockets. [`compile`] turns a scenario into frames, requests and a
//! plan, all of them functions of the seed, and [`crate::run`] puts them on a relay.

mod compile;
mod requests;

pub use compile::{Compiled, compile};
pub use requests::{boot_requests, client_requests};

use serde::{Deserialize, Serialize};

/// The scenarios of the binary, in the order in which `--all` runs them.
const EMBEDDED: [(&str, &str); 12] = [
    // First, because memory per connection is told from growth, and a relay that has grown reuses.
    ("idle", include_str!("../../scenarios/idle.toml")),
    ("baseline", include_str!("../../scenarios/baseline.toml")),
    ("burst", include_str!("../../scenarios/burst.toml")),
    ("large", include_str!("../../scenarios/large.toml")),
    ("broadcast", include_str!("../../scenarios/broadcast.toml")),
    ("duplicates", include_str!("../../scenarios/duplicates.toml")),
    ("req-storm", include_str!("../../scenarios/req-storm.toml")),
    ("feed-boot", include_str!("../../scenarios/feed-boot.toml")),
    ("slow-readers", include_str!("../../scenarios/slow-readers.toml")),
    ("churn", include_str!("../../scenarios/churn.toml")),
    ("spam", include_str!("../../scenarios/spam.toml")),
    ("mixed", include_str!("../../scenarios/mixed.toml")),
];

/// What users do, at its published size.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short name, as on the command line.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// What it shows and where its numbers come from.
    pub about: String,
    /// Connections open throughout.
    pub connections: u32,
    /// New connections a second while they open.
    #[serde(default = "default_connects_per_s")]
    pub connects_per_s: f64,
    /// Rise, level and fall of the load.
    pub phases: Phases,
    /// The events that are published.
    #[serde(default)]
    pub corpus: CorpusPart,
    /// Open subscriptions.
    #[serde(default)]
    pub subscriptions: Option<SubscriptionPart>,
    /// Publishing.
    #[serde(default)]
    pub publish: Option<PublishPart>,
    /// Querying.
    #[serde(default)]
    pub query: Option<QueryPart>,
    /// Connections that end and begin anew.
    #[serde(default)]
    pub churn: Option<ChurnPart>,
    /// Subscribers that read slowly.
    #[serde(default)]
    pub slow: Option<SlowPart>,
    /// Bounds on figures; one that is broken makes the run fail.
    #[serde(default)]
    pub thresholds: Vec<Threshold>,
    /// What the founding document expects of a WebSocket relay.
    #[serde(default)]
    pub expected: Vec<Expected>,
}

fn default_connects_per_s() -> f64 {
    1_000.0
}

/// Rise, level and fall, in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phases {
    /// Rise.
    pub ramp_s: f64,
    /// Level: what is measured.
    pub steady_s: f64,
    /// Fall.
    pub drop_s: f64,
}

/// What is published.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusPart {
    /// `public`, `uniform` or `articles`.
    pub shape: ShapeName,
    /// Bytes of each event, for the shapes of one size.
    pub event_bytes: usize,
    /// Keys that write in turn, for the shapes of one size.
    pub authors: u32,
    /// Submissions out of 1,000 that repeat an earlier one.
    pub duplicate_per_mille: u16,
    /// Submissions out of 1,000 whose signature does not verify.
    pub bad_signature_per_mille: u16,
    /// Events that the relay holds before the load begins.
    pub preload: u32,
}

impl Default for CorpusPart {
    fn default() -> Self {
        Self {
            shape: ShapeName::Uniform,
            event_bytes: 500,
            authors: 1_000,
            duplicate_per_mille: 0,
            bad_signature_per_mille: 0,
            preload: 0,
        }
    }
}

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShapeName {
    /// Public-relay traffic.
    Public,
    /// Notes of one size.
    Uniform,
    /// Articles of one size.
    Articles,
}

/// Subscriptions that stay open.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionPart {
    /// How many a connection has.
    pub per_connection: u32,
    /// The first connection with subscriptions, as a share of all: those before it publish only.
    #[serde(default)]
    pub from_share: f64,
    /// Authors that each of them follows; 0 follows everybody.
    pub authors: u32,
}

/// Events published by the clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishPart {
    /// Events a second at the level.
    pub per_s: f64,
    /// Connections that publish, as a share of all, counted from the first.
    #[serde(default = "whole")]
    pub connections_share: f64,
    /// More of them for a while.
    #[serde(default)]
    pub burst: Option<BurstPart>,
}

fn whole() -> f64 {
    1.0
}

/// A spike on top of the level.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurstPart {
    /// Events a second on top.
    pub per_s: f64,
    /// When it begins, in seconds after the start.
    pub at_s: f64,
    /// How long it lasts, in seconds.
    pub for_s: f64,
}

/// Queries by the clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryPart {
    /// Queries (or, for `boot`, clients that start) a second.
    pub per_s: f64,
    /// What is asked.
    pub mix: QueryMix,
    /// People followed by a client that starts.
    #[serde(default)]
    pub follows: u32,
}

/// Kinds of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryMix {
    /// Feeds, profiles, threads, ids, inboxes and kinds in the shares of real clients.
    Client,
    /// What a client asks when it starts: relay lists, profiles, feed, inbox, gift wraps.
    Boot,
}

/// Connections that come and go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChurnPart {
    /// Reconnects a second.
    pub per_s: f64,
}

/// Subscribers that do not keep up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowPart {
    /// Their share of all connections, counted from the last.
    pub share: f64,
    /// Bytes a second that each of them reads.
    pub bytes_per_s: u32,
}

/// A bound on one figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Name of the figure.
    pub figure: String,
    /// It must not be more than this.
    #[serde(default)]
    pub max: Option<f64>,
    /// It must not be less than this; rates are given at published size and scale with the load.
    #[serde(default)]
    pub min: Option<f64>,
}

/// What the founding document says of one figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Name of the figure.
    pub figure: String,
    /// Its value there, at published size.
    pub value: f64,
    /// Whether the value shrinks with the load.
    #[serde(default)]
    pub scales: bool,
}

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Neither a name nor a file.
    #[error(
        "no scenario {0}; `turnpike-bench scenario list` names them, others are given as FILE.toml"
    )]
    Unknown(String),
    /// The file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The path.
        path: String,
        /// What the machine says.
        error: std::io::Error,
    },
    /// The file says something else.
    #[error("{name}: {error}")]
    Toml {
        /// Its name or path.
        name: String,
        /// What is wrong.
        error: Box<toml::de::Error>,
    },
    /// Numbers that cannot be.
    #[error("{name}: {why}")]
    Value {
        /// Its name.
        name: String,
        /// What cannot be.
        why: String,
    },
}

/// Names of the embedded scenarios.
pub fn names() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name)
}

/// The TOML of an embedded scenario.
pub fn source(name: &str) -> Option<&'static str> {
    EMBEDDED.iter().find(|(embedded, _)| *embedded == name).map(|(_, text)| *text)
}

/// The scenario of that name, or in that file.
///
/// # Errors
/// If there is none or it does not make sense.
#[allow(clippy::disallowed_methods, reason = "reads the user's file")]
pub fn load(name: &str) -> Result<Scenario, ScenarioError> {
    if let Some(text) = source(name) {
        return parse(name, text);
    }
    if std::path::Path::new(name).extension().is_none_or(|extension| extension != "toml") {
        return Err(ScenarioError::Unknown(name.to_owned()));
    }
    let text = std::fs::read_to_string(name)
        .map_err(|error| ScenarioError::File { path: name.to_owned(), error })?;
    parse(name, &text)
}

/// Reads a scenario from TOML.
///
/// # Errors
/// If the text is not one.
pub fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let scenario: Scenario = toml::from_str(text)
        .map_err(|error| ScenarioError::Toml { name: name.to_owned(), error: Box::new(error) })?;
    scenario.check()?;
    Ok(scenario)
}

impl Scenario {
    fn check(&self) -> Result<(), ScenarioError> {
        let refuse =
            |why: &str| Err(ScenarioError::Value { name: self.name.clone(), why: why.to_owned() });
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let rates = [
            self.publish.as_ref().map_or(0.0, |publish| publish.per_s),
            self.query.as_ref().map_or(0.0, |query| query.per_s),
            self.churn.map_or(0.0, |churn| churn.per_s),
            self.phases.ramp_s,
            self.phases.drop_s,
        ];
        if self.connections == 0 {
            return refuse("it needs a connection");
        }
        if rates.iter().any(|rate| !rate.is_finite() || *rate < 0.0) {
            return refuse("rates and durations are not negative");
        }
        if self.phases.steady_s.is_nan()
            || self.phases.steady_s <= 0.0
            || self.connects_per_s <= 0.0
        {
            return refuse("steady_s and connects_per_s are above zero");
        }
        let shares = [
            self.subscriptions.as_ref().map_or(0.0, |part| part.from_share),
            self.publish.as_ref().map_or(0.0, |part| part.connections_share),
            self.slow.map_or(0.0, |part| part.share),
        ];
        if !shares.iter().all(|share| is_share(*share)) {
            return refuse("shares lie between 0 and 1");
        }
        if self.query.is_some() && self.corpus.preload == 0 {
            return refuse("queries need events to ask for: corpus.preload");
        }
        if self
            .query
            .as_ref()
            .is_some_and(|query| query.mix == QueryMix::Boot && query.follows == 0)
        {
            return refuse("a client that boots follows somebody: query.follows");
        }
        for threshold in &self.thresholds {
            if threshold.min.is_none() && threshold.max.is_none() {
                return refuse("a threshold has a min or a max");
            }
        }
        Ok(())
    }
}

/// How a scenario is fitted to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizing {
    /// Factor on rates, connections and stored events.
    pub load: f64,
    /// Factor on durations.
    pub time: f64,
}

/// CPUs of a machine that the published sizes are meant for.
const PUBLISHED_CPUS: f64 = 8.0;
/// Length of the level that automatic durations aim at, in seconds.
const AUTO_STEADY_S: f64 = 15.0;
/// The level is never shorter than this, in seconds.
const STEADY_S_MIN: f64 = 3.0;

impl Sizing {
    /// The published size.
    pub const PUBLISHED: Self = Self { load: 1.0, time: 1.0 };

    /// What fits `cpus` CPUs, shared by the relay and its load, and `files` open files.
    pub fn auto(scenario: &Scenario, cpus: usize, files: u64) -> Self {
        let by_cpus = cpus as f64 / PUBLISHED_CPUS;
        // The relay has as many files open as we have, and a few of its own.
        let by_files = files.saturating_sub(512) as f64 / f64::from(scenario.connections);
        Self {
            load: by_cpus.min(by_files).clamp(0.001, 1.0),
            time: (AUTO_STEADY_S / scenario.phases.steady_s).min(1.0),
        }
    }

    /// A number of connections or events, at least `least`.
    fn count(self, published: u32, least: u32) -> u32 {
        ((f64::from(published) * self.load).round() as u32).max(least.min(published))
    }

    /// Phases of the scenario in this size.
    fn phases(self, phases: Phases) -> Phases {
        Phases {
            ramp_s: (phases.ramp_s * self.time).max(if phases.ramp_s > 0.0 { 1.0 } else { 0.0 }),
            steady_s: (phases.steady_s * self.time).max(STEADY_S_MIN.min(phases.steady_s)),
            drop_s: (phases.drop_s * self.time).max(if phases.drop_s > 0.0 { 1.0 } else { 0.0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_scenario_is_valid_and_named_as_it_says() {
        for name in names() {
            let scenario = load(name).unwrap();
            assert_eq!(scenario.name, name);
            assert!(!scenario.thresholds.is_empty(), "{name} would pass whatever happened");
        }
        assert!(matches!(load("none"), Err(ScenarioError::Unknown(_))));
        assert!(matches!(load("none.toml"), Err(ScenarioError::File { .. })));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = source("baseline").unwrap();
        assert!(parse("x", &good.replace("connections = 1000", "connections = 0")).is_err());
        assert!(parse("x", &format!("surprise = 1\n{good}")).is_err());
        assert!(parse("x", &good.replace("steady_s = ", "steady_s = -")).is_err());
        assert!(parse("x", "").is_err());
    }

    #[test]
    fn sizes_shrink_and_keep_a_minimum() {
        let scenario = load("baseline").unwrap();
        let sizing = Sizing::auto(&scenario, 2, 20_000);
        assert_eq!(sizing.load, 0.25);
        assert_eq!(sizing.count(1_000, 8), 250);
        assert_eq!(sizing.count(10, 8), 8);
        assert_eq!(sizing.count(4, 8), 4);
        assert!((sizing.phases(scenario.phases).steady_s - AUTO_STEADY_S).abs() < 1e-9);
        assert_eq!(Sizing::auto(&scenario, 64, 1 << 20).load, 1.0);
        assert!(Sizing::auto(&load("idle").unwrap(), 64, 1_012).load < 0.1);
    }
}
