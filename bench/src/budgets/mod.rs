//! The speed budgets, each a ratio within one run: the relay itself is started on the loopback
//! device over a directory that is filled first, given work in slices of about a second, and the
//! units V and S ([`crate::measure::units`]) are measured in slices between.
//!
//! What the relay costs is the CPU time of its threads, so a busy neighbour lengthens nothing; what
//! is a latency says so. The lines are in [`lines`], the directories in [`store`], the table in
//! [`table`].
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measuring tools read clocks, start threads and the relay, and open sockets and files"
)]

pub mod lines;
pub mod profile;
pub mod store;
pub mod table;

use crate::measure::cpu;
use crate::measure::events::{Maker, Spec};
use crate::measure::relay::{Launch, Relay};
use crate::measure::units::{Cost, Verification};
use anyhow::ensure;
use indicatif::ProgressBar;
use std::path::PathBuf;
use table::{Report, Row};

/// Events per shard that the budgets are written for.
pub const EVENTS_PER_SHARD: u64 = 4_000_000;
/// Signatures that V is measured over, so that no cache holds the answer.
const V_EVENTS: u64 = 1_000;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The relay.
    pub binary: PathBuf,
    /// Where directories are prepared.
    pub data_dir: PathBuf,
    /// Stored events per shard of the lines that ask for many.
    pub events_per_shard: u64,
    /// Everything as short as it still works: to see that it does, not to measure.
    pub is_quick: bool,
    /// Lines or rows to measure; all when empty.
    pub only: Vec<String>,
    /// Backend of the relay.
    pub runtime: String,
    /// Fill prepared directories anew.
    pub is_refill: bool,
    /// Start of every choice.
    pub seed: u64,
    /// Where profiles of the relay are written, if they are wanted.
    pub profile_dir: Option<PathBuf>,
}

/// What the lines share.
pub struct Session {
    /// As asked.
    pub options: Options,
    /// Measures V.
    pub verification: Verification,
    /// All that was measured of V.
    pub v: Cost,
    /// Shows what is going on.
    pub bar: ProgressBar,
}

impl Session {
    /// Prepares the units.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(options: Options, bar: ProgressBar) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&options.data_dir)?;
        let maker = Maker::new(Spec::uniform(options.seed ^ 0x56));
        let events = maker.in_parallel(0..V_EVENTS, Maker::event);
        let verification = Verification::new(&events)?;
        Ok(Self { options, verification, v: Cost::default(), bar })
    }

    /// How the relay is started.
    pub fn launch(&self, shards: u16) -> Launch {
        let (binary, runtime) = (self.options.binary.clone(), self.options.runtime.clone());
        Launch { binary, runtime, shards }
    }

    /// A slice of V, added to `beside` and to the run's.
    ///
    /// # Errors
    /// Never on valid signatures.
    pub fn v_slice(&mut self, beside: &mut Cost) -> anyhow::Result<()> {
        let cost = self.verification.slice(self.ms(600))?;
        beside.add(cost);
        self.v.add(cost);
        Ok(())
    }

    /// Milliseconds of a slice; a tenth of that when in a hurry.
    pub fn ms(&self, usual: u64) -> u64 {
        if self.options.is_quick { usual / 10 } else { usual }
    }

    /// A number of operations; a tenth of that when in a hurry.
    pub fn count(&self, usual: u64) -> u64 {
        if self.options.is_quick { (usual / 10).max(1) } else { usual }
    }

    /// Whether any of `keys` is asked for.
    pub fn wants(&self, keys: &[&str]) -> bool {
        let only = &self.options.only;
        only.is_empty() || only.iter().any(|name| keys.contains(&name.as_str()))
    }

    /// Samples the relay until the result is dropped, if profiles are wanted.
    ///
    /// # Errors
    /// When `perf` cannot be run.
    pub fn profile(&self, key: &str, relay: &Relay) -> anyhow::Result<Option<profile::Profile>> {
        let directory = self.options.profile_dir.as_deref();
        directory.map(|directory| profile::Profile::begin(directory, key, relay.pid())).transpose()
    }

    /// Says what is being done.
    pub fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
        self.bar.tick();
    }
}

/// Measures what is asked for.
///
/// # Errors
/// When the relay does not start or fails under the work, and when `only` names nothing.
pub fn run(options: Options, bar: ProgressBar) -> anyhow::Result<Report> {
    for name in &options.only {
        let known = lines::ALL.iter().any(|line| line.keys.contains(&name.as_str()));
        ensure!(known, "there is no line {name}; there are: {}", lines::names().join(", "));
    }
    let mut session = Session::new(options, bar)?;
    let mut rows: Vec<Row> = Vec::new();
    for line in lines::ALL.iter().filter(|line| session.wants(line.keys)).collect::<Vec<_>>() {
        session.say(line.keys[0]);
        match (line.run)(&mut session) {
            Ok(measured) => rows.extend(measured),
            // The other lines still say something, and the exit code says that this one failed.
            Err(error) => rows.push(Row::unmeasured(
                line.keys[0],
                &format!("{} could not be measured", line.keys.join(", ")),
                format!("{error:#}"),
            )),
        }
    }
    if session.v.operations == 0 {
        session.v_slice(&mut Cost::default())?;
    }
    Ok(Report { setup: setup(&session), rows })
}

fn setup(session: &Session) -> Vec<(String, String)> {
    let options = &session.options;
    let mut stored = format!("{} events per shard", options.events_per_shard);
    if options.events_per_shard < EVENTS_PER_SHARD {
        stored += &format!(
            " (SMALLER than the {EVENTS_PER_SHARD} that the budgets are written for: what grows with \
             the store is flattered)"
        );
    }
    if options.is_quick {
        stored += "; QUICK: shows that everything works, figures mean nothing";
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("machine", format!("{} x {}", cpu::cores(), cpu::model())),
        pair("load", format!("{load} (1, 5, 15 minutes; the measurement is in it)")),
        pair("relay", format!("{} on {}", options.binary.display(), options.runtime)),
        pair("stored", stored),
        pair("V", format!("{:.2} us of CPU, all cores at once", session.v.each_ns() / 1_000.0)),
    ]
}
