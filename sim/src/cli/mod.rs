//! The command line.

mod mutants;
mod report;
mod shrink;
mod swarm;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use report::say;
use sim::plan::{Fault, Overrides};
use sim::pool::Pool;
use sim::run;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Runs the product in a deterministic world where everything goes wrong.
///
/// One seed decides everything that happens in a run, so a seed that fails fails again. A run that
/// breaks a promise is printed with the command that repeats it.
#[derive(Parser)]
#[command(name = "turnpike-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one seed and say what came of it.
    Run(Run),
    /// Run many seeds, one process per job.
    Swarm(swarm::Swarm),
    /// Run the seeds that failed once.
    Regressions(Regressions),
    /// Make a failing seed smaller: fewer faults, operations, clients and shards.
    Shrink(shrink::Shrink),
    /// Plant known bugs into a copy of the tree, one at a time, and see that the swarm finds each.
    Mutants(mutants::Mutants),
    /// Run seeds and print a line for each; what `swarm` starts.
    #[command(hide = true)]
    Worker(swarm::Worker),
}

/// What may be taken away from a seed.
#[derive(Args, Clone, Debug, Default)]
struct Less {
    /// Client operations, instead of what the seed says.
    #[arg(long, value_name = "COUNT")]
    ops: Option<u32>,
    /// Shards, instead of what the seed says.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=8))]
    shards: Option<u16>,
    /// Honest clients, instead of what the seed says.
    #[arg(long, value_name = "COUNT")]
    clients: Option<usize>,
    /// Faults that do not happen, separated by commas.
    #[arg(long, value_name = "FAULTS", value_delimiter = ',', value_parser = parse_fault)]
    without: Vec<Fault>,
}

impl Less {
    fn overrides(&self) -> Overrides {
        Overrides {
            ops: self.ops,
            shards: self.shards,
            clients: self.clients.map(|count| count.max(1)),
            without: self.without.clone(),
        }
    }

    /// As it is written on a command line.
    fn arguments(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut put = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("{name} {value}")));
        };
        put("--ops", self.ops.map(|count| count.to_string()));
        put("--shards", self.shards.map(|count| count.to_string()));
        put("--clients", self.clients.map(|count| count.to_string()));
        let names: Vec<&str> = self.without.iter().map(|fault| fault.name()).collect();
        put("--without", (!names.is_empty()).then(|| names.join(",")));
        words
    }
}

fn parse_fault(name: &str) -> Result<Fault, String> {
    Fault::named(name).ok_or_else(|| {
        let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        format!("there is no fault {name:?}; there are {}", names.join(", "))
    })
}

#[derive(Args)]
struct Run {
    /// Which run.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    less: Less,
    /// Print everything that happens.
    #[arg(long)]
    story: bool,
}

#[derive(Args)]
struct Regressions {
    /// A line per seed: the seed, what was taken away from it, `#` and what it was.
    #[arg(long, default_value = "sim/regressions.txt", value_name = "FILE")]
    file: PathBuf,
}

/// Parses the command line and runs it. Exits with 0 when nothing is wrong, 1 when a promise was
/// broken, 2 for a wrong call.
pub(super) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Verb::Run(run) => one(&run),
        Verb::Swarm(swarm) => swarm.run(),
        Verb::Regressions(regressions) => regress(&regressions),
        Verb::Shrink(shrink) => shrink.run(),
        Verb::Mutants(mutants) => mutants.run(),
        Verb::Worker(worker) => worker.run(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn one(asked: &Run) -> anyhow::Result<bool> {
    let pool = Pool::new();
    match run::run(asked.seed, &asked.less.overrides(), &pool, asked.story) {
        Ok(outcome) => {
            for (name, count) in &outcome.marks.0 {
                say(&format!("{count:>8} {name}"));
            }
            let (ops, seconds) = (outcome.ops, outcome.elapsed_us / 1_000_000);
            say(&format!(
                "seed {} holds: {ops} operations in {seconds} virtual seconds, trace {:016x}",
                asked.seed, outcome.trace
            ));
            Ok(true)
        }
        Err(failure) => {
            failure.story.iter().for_each(|line| say(line));
            say(&report::failure(asked.seed, &asked.less, &failure));
            Ok(false)
        }
    }
}

fn regress(asked: &Regressions) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(&asked.file)
        .with_context(|| format!("cannot read {}", asked.file.display()))?;
    let pool = Pool::new();
    let (mut held, mut failed) = (0, 0);
    for (number, line) in (1..).zip(text.lines()) {
        let words = line.split('#').next().unwrap_or_default();
        if words.trim().is_empty() {
            continue;
        }
        let call = ["turnpike-sim", "run", "--seed"].into_iter().chain(words.split_whitespace());
        let parsed = Cli::try_parse_from(call);
        let Ok(Cli { command: Verb::Run(asked_run) }) = parsed else {
            bail!("{}, line {number}: this is no seed: {words:?}", asked.file.display());
        };
        match run::run(asked_run.seed, &asked_run.less.overrides(), &pool, false) {
            Ok(_) => held += 1,
            Err(failure) => {
                failed += 1;
                say(&report::failure(asked_run.seed, &asked_run.less, &failure));
            }
        }
    }
    say(&format!("regressions: {held} passed, {failed} failed"));
    Ok(failed == 0)
}

/// The commit that is checked out, with a `+` when the tree differs from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(id) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_clean = git(&["status", "--porcelain"]).is_some_and(|text| text.is_empty());
    if is_clean { id } else { format!("{id}+") }
}
