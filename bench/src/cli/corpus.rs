//! `turnpike-bench corpus`.

use super::{progress_bar, threads};
use anyhow::Context;
use bench::corpus::jsonl;
use bench::corpus::prepared::Prepared;
use bench::{Corpus, CorpusOptions, Shape};
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

const BAR: &str = "{bar:40} {human_pos} of {human_len} events, {per_sec}, {eta} left";

/// Write signed events, the same bytes for the same seed on every machine.
///
/// The shape `public` follows what has been measured on public relays: kinds in their shares, three
/// keys in four with a single event and the rest by Zipf, a median event of 0.6 KB with follow lists
/// up to 220 KB, replies to popular threads, replaced versions, deletions, expirations, gift wraps,
/// 5 % ephemeral events.
///
/// The format `prepared` is signed and framed for `run --corpus`, with a checksum; `jsonl` is one
/// event a line. With --import, a dump of JSON lines takes the place of the generator.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    turnpike-bench corpus --count 200000 --out corpus.jsonl\n  \
    turnpike import corpus.jsonl\n\n  \
    # hostile: four repeats per event, 2 % bad signatures, straight into a relay's store\n  \
    turnpike-bench corpus --seed 7 --duplicates 800 --bad-signatures 20 | turnpike import -\n\n  \
    # signed and framed once, for many runs; and a real dump in the same form\n  \
    turnpike-bench corpus --count 1000000 --format prepared --out public.corpus\n  \
    turnpike-bench corpus --import dump.jsonl --format prepared --out dump.corpus\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage.")]
pub struct CorpusArgs {
    /// Start of the random stream
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Events to write
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// Kind of traffic
    #[arg(long, value_enum, default_value_t = ShapeArg::Public)]
    shape: ShapeArg,
    /// File to write; `-` is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    out: PathBuf,
    /// Form of the file
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Take events from this dump instead of making them
    #[arg(long, value_name = "FILE.jsonl")]
    import: Option<PathBuf>,
    /// Time of the first event, unix seconds
    #[arg(long, default_value_t = CorpusOptions::default().base_time)]
    base_time: u32,
    /// Seconds over which the events spread
    #[arg(long, default_value_t = CorpusOptions::default().span_s)]
    span_s: u32,
    /// Events of 1,000 that repeat an earlier one (500: one repeat per event, 800: four)
    #[arg(long, default_value_t = 0, value_name = "PER_MILLE")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..1000))]
    duplicates: u16,
    /// Events of 1,000 whose signature does not verify
    #[arg(long, default_value_t = 0, value_name = "PER_MILLE")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=1000))]
    bad_signatures: u16,
    /// Keys that write in turn, for the shapes of one size
    #[arg(long, default_value_t = CorpusOptions::default().authors)]
    authors: u32,
    /// Threads that sign; 0 is one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One event a line
    Jsonl,
    /// Signed, framed, checked
    Prepared,
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
    /// Kind 30023 articles of 30,000 bytes of JSON each
    #[value(name = "articles-30k")]
    Articles30k,
}

impl From<ShapeArg> for Shape {
    fn from(shape: ShapeArg) -> Self {
        match shape {
            ShapeArg::Public => Self::Public,
            ShapeArg::Uniform500 => Self::Uniform { event_bytes: 500 },
            ShapeArg::Uniform1k => Self::Uniform { event_bytes: 1_024 },
            ShapeArg::Articles30k => Self::Articles { event_bytes: 30_000 },
        }
    }
}

pub fn main(args: &CorpusArgs) -> anyhow::Result<()> {
    let mut out: Box<dyn Write> = if args.out.as_os_str() == "-" {
        Box::new(BufWriter::new(std::io::stdout().lock()))
    } else {
        let name = args.out.display();
        let file = File::create(&args.out).with_context(|| format!("cannot write {name}"))?;
        Box::new(BufWriter::new(file))
    };
    match (&args.import, args.format) {
        (Some(dump), format) => import(dump, format, &mut *out)?,
        (None, Format::Jsonl) => write_jsonl(args, &mut *out)?,
        (None, Format::Prepared) => write_prepared(args, &mut *out)?,
    }
    out.flush()?;
    Ok(())
}

fn made(args: &CorpusArgs) -> Corpus {
    let options = CorpusOptions {
        base_time: args.base_time,
        span_s: args.span_s,
        duplicate_per_mille: args.duplicates,
        bad_signature_per_mille: args.bad_signatures,
        authors: args.authors,
        ..CorpusOptions::default()
    };
    Corpus::new(args.shape.into(), args.seed, args.count, options)
}

fn write_jsonl(args: &CorpusArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let bar = progress_bar(args.count, BAR);
    let written = jsonl::write(made(args), threads(args.threads), out, &mut |written| {
        bar.set_position(written.events);
    })?;
    bar.finish_and_clear();
    eprintln!("{} events, {} bytes, seed {}", written.events, written.bytes, args.seed);
    Ok(())
}

fn write_prepared(args: &CorpusArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let bar = progress_bar(args.count, BAR);
    let shape = args.shape.to_possible_value().expect("no shape is hidden");
    let description = format!("{} from {}", shape.get_name(), args.base_time);
    let threads = threads(args.threads);
    let prepared = Prepared::sign(made(args), args.seed, &description, threads, &mut |signed| {
        bar.set_position(signed);
    });
    bar.finish_and_clear();
    prepared.write(out)?;
    let (events, bytes) = (prepared.frames.len(), prepared.frames.bytes());
    eprintln!("{events} events, {bytes} bytes framed, seed {}", args.seed);
    Ok(())
}

fn import(dump: &Path, format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    let name = dump.display().to_string();
    let file = File::open(dump).with_context(|| format!("cannot read {name}"))?;
    let description = format!("imported from {name}");
    let (prepared, refused) = Prepared::import(&mut BufReader::new(file), &description)?;
    match format {
        Format::Prepared => prepared.write(out)?,
        Format::Jsonl => {
            for index in 0..prepared.frames.len() {
                out.write_all(prepared.frames.json(index))?;
                out.write_all(b"\n")?;
            }
        }
    }
    eprintln!("{} events imported, {refused} lines that are none left out", prepared.frames.len());
    Ok(())
}
