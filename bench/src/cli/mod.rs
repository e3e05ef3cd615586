//! The command line: what is written where, what is shown meanwhile, and the exit code.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tool's shell: it opens files, reads the clock and asks the machine for its cores"
)]

mod corpus;
mod load;
mod probe;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// A threshold of a scenario does not hold.
const EXIT_BROKEN: u8 = 3;
/// A run was spoiled by the client.
const EXIT_INVALID: u8 = 4;

/// Load tests for Nostr relays: open loop, full distributions, reports to look at.
#[derive(Parser)]
#[command(name = "turnpike-bench", version, max_term_width = 100)]
#[command(after_help = "Begin with:\n  \
    turnpike-bench run --all ws://127.0.0.1:7777\n  \
    turnpike-bench scenario list\n\n\
    Exit codes: 0 all is well, 1 failed, 2 wrong usage, 3 a threshold is broken or a budget missed, 4 a run is invalid \
    because the client was the bottleneck.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Corpus(corpus::CorpusArgs),
    Run(load::RunArgs),
    Scenario(load::ScenarioArgs),
    Report(load::ReportArgs),
    Compare(load::CompareArgs),
    Probe(probe::ProbeArgs),
    #[command(flatten)]
    Measuring(crate::measuring::Command),
}

/// Runs the command and returns the exit code of the process.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Corpus(args) => corpus::main(&args).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => load::run(&args),
        Command::Scenario(args) => load::scenario(&args).map(|()| ExitCode::SUCCESS),
        Command::Report(args) => load::report(&args).map(|()| ExitCode::SUCCESS),
        Command::Compare(args) => load::compare(&args).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => probe::main(&args),
        Command::Measuring(command) => crate::measuring::run(command),
    };
    done.unwrap_or_else(|error| {
        // The reader of a pipe has seen enough; that is its right, not our failure.
        let is_pipe = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe);
        if is_pipe {
            return ExitCode::SUCCESS;
        }
        eprintln!("turnpike-bench: {error:#}");
        ExitCode::FAILURE
    })
}

/// Threads to sign with; 0 is one per core.
fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(count: u64, template: &str) -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style =
        indicatif::ProgressStyle::with_template(template).expect("the template is a constant");
    indicatif::ProgressBar::new(count).with_style(style)
}
