//! `turnpike-bench probe`.

use super::{EXIT_INVALID, unix_s};
use anyhow::Context;
use bench::load::Target;
use bench::report::text::number;
use bench::run::RunOptions;
use bench::run::probe::{Limit, ProbeOptions, probe};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Find the highest load that a relay sustains.
///
/// Bisects over steady slices: a rate is sustained if 99 % of the answers keep --p99-ms, nothing is
/// refused or lost, and the relay keeps up with what is offered. First events of 500 bytes, then
/// queries of 500 stored events each, whose bandwidth is counted.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    turnpike-bench probe ws://127.0.0.1:7777\n  \
    turnpike-bench probe --p99-ms 50 --slice-s 10 --data-dir ./data --out capacity.json \
    ws://127.0.0.1:7777\n\n\
    Exit codes: 0 found, 1 failed, 2 wrong usage, 4 the client was the bottleneck: the relay may \
    sustain more than is said.")]
pub struct ProbeArgs {
    /// The relay
    #[arg(value_name = "URL")]
    url: String,
    /// Latency that 99 % of the answers have to keep, in milliseconds
    #[arg(long, default_value_t = 100.0)]
    p99_ms: f64,
    /// Length of a slice, in seconds
    #[arg(long, default_value_t = 5.0)]
    slice_s: f64,
    /// Connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Rate of events to begin with
    #[arg(long, default_value_t = 1_000.0)]
    start_per_s: f64,
    /// Start of the random streams
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The relay's data directory, if it is here: adds bytes on disk per event and free space
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File for the result as JSON
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Client threads; 0 is one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

pub fn main(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let mut target = Target::parse(&args.url)?;
    target.learn_limits();
    let now = unix_s();
    let options = ProbeOptions {
        p99_ms: args.p99_ms,
        slice_s: args.slice_s.max(0.5),
        connections: args.connections,
        start_per_s: args.start_per_s,
        seed: args.seed,
        base_time: now as u32,
    };
    let run = RunOptions { threads: args.threads, ..RunOptions::default() };
    let capacity =
        probe(&target, options, &run, args.data_dir.as_deref(), now, &mut |name, slice| {
            eprintln!(
                "{:>9} {name:<9} p50 {:>8} ms  p99 {:>8} ms  {}{}",
                number(slice.per_s),
                number(slice.p50_ms),
                number(slice.p99_ms),
                if slice.is_sustained { "sustained" } else { "not sustained" },
                if slice.is_client_bound { " (the client was the bottleneck)" } else { "" },
            );
        })?;
    let bound = |limit: &Limit| if limit.is_client_bound { " at least" } else { "" };
    println!("{}", capacity.relay.name());
    println!("  events      {}{} /s", number(capacity.events.per_s), bound(&capacity.events));
    println!(
        "  queries     {}{} /s, {} Mbit/s",
        number(capacity.queries.per_s),
        bound(&capacity.queries),
        number(capacity.query_mbps)
    );
    if let Some(bytes) = capacity.disk_bytes_per_event {
        println!("  on disk     {} bytes per event", number(bytes));
    }
    if let Some(gb) = capacity.storage_headroom_gb {
        println!("  free space  {} GB", number(gb));
    }
    println!("  with 99 % of the answers within {} ms", number(args.p99_ms));
    if let Some(out) = &args.out {
        let json = serde_json::to_vec_pretty(&capacity).context("the result is plain data")?;
        std::fs::write(out, json).with_context(|| format!("cannot write {}", out.display()))?;
    }
    let is_client_bound = capacity.events.is_client_bound || capacity.queries.is_client_bound;
    Ok(if is_client_bound { ExitCode::from(EXIT_INVALID) } else { ExitCode::SUCCESS })
}
