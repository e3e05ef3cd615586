//! `turnpike-bench`: workloads for relays, from the command line.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tool's shell: it opens files and asks the machine for its cores"
)]

mod measuring;

use anyhow::Context;
use bench::corpus::jsonl;
use bench::{Corpus, CorpusOptions, Shape};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;

/// Workloads for Nostr relays.
#[derive(Parser)]
#[command(name = "turnpike-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write signed events as JSON lines, the same bytes for the same seed on every machine.
    ///
    /// The shape `public` follows what has been measured on public relays: kinds in their shares,
    /// three keys in four with a single event and the rest by Zipf, a median event of 0.6 KB with
    /// follow lists up to 220 KB, replies to popular threads, replaced versions, deletions,
    /// expirations, gift wraps, 5 % ephemeral events.
    #[command(after_help = "Examples:\n  \
        turnpike-bench corpus --count 200000 --out corpus.jsonl\n  \
        turnpike import corpus.jsonl\n\n  \
        # hostile: four repeats per event, 2 % bad signatures, straight into a relay's store\n  \
        turnpike-bench corpus --seed 7 --duplicates 800 --bad-signatures 20 | turnpike import -\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage.")]
    Corpus(CorpusArgs),
    #[command(flatten)]
    Measuring(measuring::Command),
}

#[derive(Args)]
struct CorpusArgs {
    /// Start of the random stream
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Lines to write
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// Kind of traffic
    #[arg(long, value_enum, default_value_t = ShapeArg::Public)]
    shape: ShapeArg,
    /// File to write; `-` is standard output
    #[arg(long, default_value = "-", value_name = "FILE.jsonl")]
    out: PathBuf,
    /// Time of the first event, unix seconds
    #[arg(long, default_value_t = CorpusOptions::default().base_time)]
    base_time: u32,
    /// Seconds over which the events spread
    #[arg(long, default_value_t = CorpusOptions::default().span_s)]
    span_s: u32,
    /// Lines of 1,000 that repeat an earlier event (500: one repeat per event, 800: four)
    #[arg(long, default_value_t = 0, value_name = "PER_MILLE")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..1000))]
    duplicates: u16,
    /// Lines of 1,000 whose signature does not verify
    #[arg(long, default_value_t = 0, value_name = "PER_MILLE")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=1000))]
    bad_signatures: u16,
    /// Threads that sign; 0 is one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeArg {
    /// Public-relay traffic
    Public,
    /// Kind 1 notes of 500 bytes of JSON each
    #[value(name = "uniform-500")]
    Uniform500,
    /// Kind 1 notes of 1,024 bytes of JSON each
    #[value(name = "uniform-1k")]
    Uniform1k,
}

impl From<ShapeArg> for Shape {
    fn from(shape: ShapeArg) -> Self {
        match shape {
            ShapeArg::Public => Self::Public,
            ShapeArg::Uniform500 => Self::Uniform { event_bytes: 500 },
            ShapeArg::Uniform1k => Self::Uniform { event_bytes: 1_024 },
        }
    }
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Cli::parse().command {
        Command::Corpus(args) => corpus(&args).map(|()| std::process::ExitCode::SUCCESS),
        Command::Measuring(command) => measuring::run(command),
    }
}

fn corpus(args: &CorpusArgs) -> anyhow::Result<()> {
    let options = CorpusOptions {
        base_time: args.base_time,
        span_s: args.span_s,
        duplicate_per_mille: args.duplicates,
        bad_signature_per_mille: args.bad_signatures,
        ..CorpusOptions::default()
    };
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let corpus = Corpus::new(args.shape.into(), args.seed, args.count, options);
    let to_stdout = args.out.as_os_str() == "-";
    let mut out: Box<dyn Write> = if to_stdout {
        Box::new(BufWriter::new(std::io::stdout().lock()))
    } else {
        let name = args.out.display();
        let file = File::create(&args.out).with_context(|| format!("cannot write {name}"))?;
        Box::new(BufWriter::new(file))
    };
    let bar = progress_bar(args.count);
    let written = jsonl::write(corpus, threads, &mut *out, &mut |written| {
        bar.set_position(written.events);
    });
    let written = match written.and_then(|written| out.flush().map(|()| written)) {
        // The reader of a pipe has seen enough; that is its right, not our failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        result => result.context("cannot write the corpus")?,
    };
    bar.finish_and_clear();
    eprintln!("{} events, {} bytes, seed {}", written.events, written.bytes, args.seed);
    Ok(())
}

fn progress_bar(count: u64) -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = "{bar:40} {human_pos} of {human_len} events, {per_sec}, {eta} left";
    let style = indicatif::ProgressStyle::with_template(style).expect("the template is a constant");
    indicatif::ProgressBar::new(count).with_style(style)
}
