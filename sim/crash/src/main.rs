//! `turnpike-crash`: proofs that what the relay acknowledged survives whatever ends it.
//!
//! **What it does not know:** how the relay serves. Of the product it links `store` and `proto`; the
//! relay itself is a program that it starts and speaks to over its wire.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool that starts programs, reads clocks and breaks files on purpose"
)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod check;
mod inspect;
mod kill;
mod life;
mod marks;
mod oracle;
mod plan;
mod syscalls;
mod trace;
mod world;

use anyhow::Context;
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// A promise was broken, or a flaw not found.
const EXIT_BROKEN: u8 = 1;
/// A life ended because a write, a sync or a commit failed.
const EXIT_FAILED_LIFE: u8 = 3;
/// Nothing can be judged here.
const EXIT_UNABLE: u8 = 4;

/// Proofs that what a relay acknowledged survives whatever ends it.
#[derive(Debug, Parser)]
#[command(name = "turnpike-crash", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 everything held, 1 a promise was broken or a flaw was not \
                        found, 2 wrong usage, 4 nothing can be judged here.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trace a workload over the real store, and judge what a power cut after any system call leaves.
    ///
    /// Processes live one after another over one data directory: they store, replace, delete,
    /// checkpoint, roll and rewrite segments; they are killed at system calls and see syncs fail. Every
    /// call is traced with strace. The replayer first shows that replaying the whole trace gives every
    /// file byte for byte. Then, after each call, it lays out images of what was synced with parts of
    /// what was not (torn at 512 B or 4 KiB, names and lengths on their own), opens each as a start
    /// does, and demands exactly what was acknowledged, or that and the step in flight.
    #[command(after_help = "Examples:\n  \
        turnpike-crash trace --states 100000\n  \
        turnpike-crash trace --control --states 20000 --json")]
    Trace(trace::TraceOptions),
    /// Let every system call of a workload fail once, and judge what is left.
    ///
    /// A life over the real store is lived once for each call on its files, in which that call fails:
    /// with EIO, ENOSPC or EINTR, half done, or on a disk that is full from then on. The first life,
    /// a start after a kill, compact, reindex and reshard are gone through, each until a run passes
    /// without reaching the call. A process may go on or end without another answer; then a clean
    /// start must find everything that was acknowledged, and nothing else.
    #[command(after_help = "Examples:\n  \
        turnpike-crash syscalls\n  \
        turnpike-crash syscalls --steps 20 --calls sync,write --json")]
    Syscalls(syscalls::SyscallsOptions),
    /// Kill a built relay under load again and again, and ask it for everything that it owes.
    ///
    /// Writers send at a fixed rate over several connections: notes, versions, deletions, requests to
    /// vanish, expiring, repeated and invalid events; what they are told they log before they send
    /// anything that depends on it. A subscriber listens. At a random moment the relay is killed with
    /// SIGKILL, sometimes once more while it starts, and started again. Then everything acknowledged or
    /// seen must be served, unless something stored ended it, and nothing else; at the end the log is
    /// scrubbed and exported.
    #[command(after_help = "Examples:\n  \
        turnpike-crash kill --binary target/release/turnpike\n  \
        turnpike-crash kill --binary target/release/turnpike --kills 1000 --max-ms 5000 --json")]
    Kill(kill::KillOptions),
    /// Judges folders; started by `syscalls`.
    #[command(hide = true)]
    Inspect(inspect::InspectOptions),
    /// One life of a workload over the real store; started by the other commands.
    #[command(hide = true)]
    Life(life::LifeOptions),
    /// The judge of images; started by `trace`, and by hand to repeat what it found.
    #[command(hide = true)]
    Judge(trace::JudgeOptions),
}

/// A bar for long work.
fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = "{bar:30} {pos}/{len} {per_sec} {msg}";
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

/// A folder to work in that is removed at the end.
fn work_folder(asked: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = match asked {
        Some(asked) => asked.to_owned(),
        None if memory.is_dir() => memory.to_owned(),
        None => std::env::temp_dir(),
    };
    let folder = tempfile::Builder::new().prefix("turnpike-crash-").tempdir_in(&parent);
    folder.with_context(|| format!("cannot work in {}", parent.display()))
}

/// Prints a result and turns it into an exit code.
fn conclude<T: Serialize>(
    result: anyhow::Result<T>,
    json: bool,
    describe: impl Fn(&T) -> String,
    holds: impl Fn(&T) -> bool,
) -> ExitCode {
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(EXIT_UNABLE);
        }
    };
    match (json, serde_json::to_string_pretty(&report)) {
        (true, Ok(text)) => println!("{text}"),
        _ => print!("{}", describe(&report)),
    }
    if holds(&report) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_BROKEN) }
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Trace(options) => {
            conclude(trace::run(&options), options.json, trace::describe, trace::TraceReport::holds)
        }
        Command::Syscalls(options) => conclude(
            syscalls::run(&options),
            options.json,
            syscalls::describe,
            syscalls::SyscallsReport::holds,
        ),
        Command::Kill(options) => {
            conclude(kill::run(&options), options.json, kill::describe, kill::KillReport::holds)
        }
        Command::Inspect(options) => {
            conclude(inspect::inspect(&options), false, |()| String::new(), |()| true)
        }
        Command::Life(options) => match life::live(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::from(EXIT_FAILED_LIFE)
            }
        },
        Command::Judge(options) => conclude(
            trace::judge(&options),
            false,
            |violation| match violation {
                Some(violation) => format!("{:?}: {}\n", violation.broken, violation.detail),
                None => "held\n".to_owned(),
            },
            Option::is_none,
        ),
    }
}
