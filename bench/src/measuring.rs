//! The commands that measure costs: `budgets`, `floor`, `runtime`, `instructions`.

use bench::budgets::table::Verdict;
use bench::budgets::{self, EVENTS_PER_SHARD, Options};
use bench::instructions::{self, Recorded};
use bench::measure::cpu;
use bench::{floor, runtime};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Command {
    /// Measure what the relay costs against its budgets.
    ///
    /// Starts the relay on the loopback device over directories that it fills first, gives it work in
    /// slices of about a second, and measures the units V (one signature verified) and S (one frame
    /// written to one of many sockets) in slices between. The first run signs and imports millions of
    /// events, which takes minutes; with --keep later runs use the same directories.
    #[command(after_help = "Examples:\n  \
        turnpike-bench budgets --events 300000 --keep\n  \
        turnpike-bench budgets --only ingest --only req --data-dir /fast/disk/budgets --keep\n  \
        turnpike-bench budgets --only req-kind --profile profiles\n  \
        turnpike-bench budgets --json > budgets.json\n\n\
        Exit codes: 0 measured and all budgets met, 1 failed, 2 wrong usage, 3 budgets missed.")]
    Budgets(BudgetsArgs),
    /// Measure what stands below the relay: V, S, and a skeleton that only writes and syncs.
    ///
    /// The skeleton takes a message on a socket, hands it from a home thread to an owner thread, writes
    /// and syncs it there, and answers. V is one signature verified, S one frame written to one of a
    /// thousand sockets. Everything is measured in slices of a second, one after the other.
    #[command(after_help = "Examples:\n  \
        turnpike-bench floor\n  \
        turnpike-bench floor --dir /fast/disk --rounds 10 --json\n\n\
        Exit codes: 0 measured, 1 failed, 2 wrong usage.")]
    Floor(FloorArgs),
    /// Measure what the choice of a runtime costs.
    ///
    /// The same tiny server on io_uring, epoll, tokio and glommio (the last two in builds with the
    /// feature `runtimes`), each one thread on one core, with the same client on another, in turns; then
    /// the relay itself on each of its backends with the same events.
    #[command(after_help = "Examples:\n  \
        cargo build --release -p bench --features runtimes\n  \
        turnpike-bench runtime\n  \
        turnpike-bench runtime --rounds 9 --json > runtime.json\n\n\
        Exit codes: 0 measured, 1 failed, 2 wrong usage.")]
    Runtime(RuntimeArgs),
    /// Count the instructions of the relay's inner paths, and hold them against the recorded counts.
    ///
    /// Runs each path under valgrind's callgrind. On the processor that the counts were recorded on, a
    /// path that grew by more than the tolerance fails; on another one the counts are printed only.
    #[command(after_help = "Examples:\n  \
        cargo build --release -p bench --example instructions\n  \
        turnpike-bench instructions\n  \
        turnpike-bench instructions --update --reason \"ids are hashed once\"\n\n\
        Exit codes: 0 nothing grew (or another processor), 1 failed, 2 wrong usage, 3 a path grew.")]
    Instructions(InstructionsArgs),
}

#[derive(Args)]
pub struct FloorArgs {
    /// Where the skeleton writes; should be on the disk that the relay will use
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Rounds of about five seconds
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Slices of a tenth of a second: to see that it works
    #[arg(long)]
    quick: bool,
}

#[derive(Args)]
pub struct RuntimeArgs {
    /// The relay to start
    #[arg(long, default_value = "target/release/turnpike", value_name = "FILE")]
    binary: PathBuf,
    /// Where its directories are made
    #[arg(long, default_value = "bench-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Rounds; the table has their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Leave the relay out
    #[arg(long)]
    no_relay: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// A tenth of every duration and count: to see that it works
    #[arg(long)]
    quick: bool,
}

#[derive(Args)]
pub struct InstructionsArgs {
    /// The program with the paths
    #[arg(long, default_value = "target/release/examples/instructions", value_name = "FILE")]
    program: PathBuf,
    /// The recorded counts
    #[arg(long, default_value = "bench/instructions.toml", value_name = "FILE.toml")]
    file: PathBuf,
    /// Record the counts of this build
    #[arg(long, requires = "reason")]
    update: bool,
    /// Why they changed
    #[arg(long, value_name = "TEXT", requires = "update")]
    reason: Option<String>,
}

/// Growth of a path that passes when nothing else is recorded.
const TOLERANCE_PERCENT: f64 = 3.0;
/// Events that the relay is given on each backend in each round.
const RUNTIME_EVENTS: u64 = 40_000;

#[derive(Args)]
pub struct BudgetsArgs {
    /// The relay to start
    #[arg(long, default_value = "target/release/turnpike", value_name = "FILE")]
    binary: PathBuf,
    /// Stored events per shard; the budgets are written for the default
    #[arg(long, default_value_t = EVENTS_PER_SHARD)]
    events: u64,
    /// Measure only this line, by the name in brackets; may be given again
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Where directories are prepared; should be on the disk that the relay will use
    #[arg(long, default_value = "bench-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Leave the prepared directories for the next run (about 0.9 KB per stored event)
    #[arg(long)]
    keep: bool,
    /// Fill directories anew that are there already
    #[arg(long)]
    refill: bool,
    /// Backend of the relay
    #[arg(long, default_value = "auto", value_name = "RUNTIME")]
    runtime: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// A tenth of every duration and count: to see that everything works, not to measure
    #[arg(long)]
    quick: bool,
    /// Start of the random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Sample the relay with perf (cpu-clock) and write what it found for each line here; the
    /// sampling is in the figures
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
}

pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Budgets(args) => run_budgets(args),
        Command::Floor(args) => run_floor(&args),
        Command::Runtime(args) => run_runtime(&args),
        Command::Instructions(args) => run_instructions(&args),
    }
}

fn run_floor(args: &FloorArgs) -> anyhow::Result<ExitCode> {
    let bar = status_bar();
    let slice_ms = if args.quick { 100 } else { 1_000 };
    let report = floor::report::measure(&args.dir, args.rounds, slice_ms, &mut |what| {
        bar.set_message(what.to_owned());
    });
    bar.finish_and_clear();
    let report = report?;
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        false => write!(out, "{}", report.text())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_runtime(args: &RuntimeArgs) -> anyhow::Result<ExitCode> {
    let bar = status_bar();
    let (slice_ms, events) =
        if args.quick { (60, RUNTIME_EVENTS / 10) } else { (600, RUNTIME_EVENTS) };
    let mut say = |what: &str| bar.set_message(what.to_owned());
    let table = runtime::measure(args.rounds, slice_ms, &mut say)?;
    let was_there = args.data_dir.exists();
    let backends = match args.no_relay {
        true => Vec::new(),
        false => {
            runtime::relay::measure(&args.binary, &args.data_dir, args.rounds, events, &mut say)?
        }
    };
    if !was_there {
        budgets::store::remove(&args.data_dir)?;
    }
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    if args.json {
        let all = serde_json::json!({ "cpu": cpu::model(), "servers": table, "relay": backends });
        writeln!(out, "{all:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "machine  {} x {}\n\n{}", cpu::cores(), cpu::model(), table.text())?;
    if !backends.is_empty() {
        write!(out, "{}", runtime::relay::text(&backends))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_instructions(args: &InstructionsArgs) -> anyhow::Result<ExitCode> {
    let recorded = match Recorded::read(&args.file) {
        Err(_) if args.update && !args.file.exists() => {
            Recorded { tolerance_percent: TOLERANCE_PERCENT, ..Recorded::default() }
        }
        recorded => recorded?,
    };
    let bar = status_bar();
    let counts = instructions::count(&args.program, &mut |name| bar.set_message(name.to_owned()));
    bar.finish_and_clear();
    let counts = counts?;
    let (table, grew) = instructions::table(&recorded, &counts);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<16} {:>12}  {:>12}", "path", "instructions", "recorded")?;
    write!(out, "{table}")?;
    let cpu = cpu::model();
    if let Some(reason) = args.reason.clone().filter(|_| args.update) {
        let tolerance_percent = recorded.tolerance_percent;
        Recorded { cpu, tolerance_percent, reason, paths: counts }.write(&args.file)?;
        writeln!(out, "recorded in {}", args.file.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    if cpu != recorded.cpu {
        writeln!(out, "recorded on {}, this is {cpu}: nothing is held against it", recorded.cpu)?;
        return Ok(ExitCode::SUCCESS);
    }
    if grew.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "more than {} % grown: {}", recorded.tolerance_percent, grew.join(", "))?;
    Ok(ExitCode::from(3))
}

fn run_budgets(args: BudgetsArgs) -> anyhow::Result<ExitCode> {
    let was_there = args.data_dir.exists();
    let data_dir = args.data_dir.clone();
    let options = Options {
        binary: args.binary,
        data_dir: args.data_dir,
        events_per_shard: args.events,
        is_quick: args.quick,
        only: args.only,
        runtime: args.runtime,
        is_refill: args.refill,
        seed: args.seed,
        profile_dir: args.profile,
    };
    let bar = status_bar();
    let report = budgets::run(options, bar.clone());
    bar.finish_and_clear();
    if !args.keep && !was_there {
        budgets::store::remove(&data_dir)?;
    }
    let report = report?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        write!(out, "{}", report.text())?;
    }
    Ok(match (report.count(Verdict::Unmeasured), report.count(Verdict::Missed)) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    })
}

/// One line that says what is being done, and how far it is where that is known.
fn status_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{spinner} {elapsed} {msg} {wide_bar} {human_pos}/{human_len}",
    );
    let bar = ProgressBar::new(0).with_style(style.expect("the template is a constant"));
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
