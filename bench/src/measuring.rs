//! The commands that measure costs: `budgets`.

use bench::budgets::table::Verdict;
use bench::budgets::{self, EVENTS_PER_SHARD, Options};
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
        turnpike-bench budgets --json > budgets.json\n\n\
        Exit codes: 0 measured and all budgets met, 1 failed, 2 wrong usage, 3 budgets missed.")]
    Budgets(BudgetsArgs),
}

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
}

pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Budgets(args) => run_budgets(args),
    }
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
