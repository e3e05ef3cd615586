//! `turnpike import`: JSON lines into the store, decided and verified by the shards on all cores; into
//! a store that a relay holds, through that relay's local socket.
//!
//! A file resumes where an earlier import was cut off: the offset up to which every line has its
//! outcome is kept in the data directory. Standard input cannot be named, so it relies on known
//! events being recognised before their signatures are checked.

mod intake;
mod lines;
mod strfry;

use super::offline::{choose_runtime, no_answer, open_cluster, open_directory};
use super::{Failure, Global, Outcome, configure};
use crate::admin;
use crate::cluster::RELAY_SOCKET;
use crate::config::Config;
use crate::runtime::input::Input;
use crate::runtime::signals::{self, Asked};
use crate::runtime::uplink::Uplink;
use crate::runtime::wake::Wake;
use crate::runtime::{clock, threads};
use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use intake::{Direct, Intake, Online, Verdict};
use lines::{Kept, Progress, read_line};
use proto::nip::nip01::{KindClass, class};
use proto::{Event, EventId, Limits, Reason};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::file::directory;

/// How long the cores may take to end after the last outcome.
const END_MS: u64 = 120_000;
/// How often the offset of a file is written down.
const OFFSET_EVERY_MS: u64 = 2_000;
/// How long a refused store is left alone before it is asked again.
const BEHIND_MS: u64 = 20;
/// How long outcomes are waited for after the wish to end.
const LAST_OUTCOMES_MS: u64 = 10_000;
/// Bytes asked for in one read of the input.
const READ_BYTES: usize = 1 << 20;

const HELP: &str = "\
Each line is one event as JSON. Lines that are no event, and events that are
refused, are counted by reason and passed over; --show-rejected names each. An
archive is taken as it is: limits on the time of an event and on proof of work
do not apply, signatures and ids are checked.

While a relay runs on the data directory, its events are handed to it, and its
subscribers see them as they come. Otherwise the store is opened by this
command, on all cores.

An import that is cut off (Ctrl-C, kill, power) has lost nothing that it had
counted. The same command goes on where it stopped; from standard input it
begins anew, and passes quickly over what is known.

--from-strfry reads what `strfry export` writes, also with --fried: the packed
copies are taken off, lines of strfry's log are passed over, and ids that only
strfry computes that way (U+007F in the content) are counted under a name of
their own.

Examples:
  turnpike import dump.jsonl more.jsonl
  zstdcat dump.jsonl.zst | turnpike import -
  strfry export | turnpike import --from-strfry -

Exit codes: 0 done (whatever was refused), 1 failed or cut off, 2 wrong usage,
3 the relay that holds the store does not answer.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Import {
    /// Files of JSON lines, one event each; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Take signatures on trust: events are flagged, and verified before they are first served. Only
    /// while no relay runs
    #[arg(long)]
    no_verify: bool,
    /// The lines come from `strfry export`
    #[arg(long)]
    from_strfry: bool,
    /// Name every line that is not taken, on standard error
    #[arg(long)]
    show_rejected: bool,
    /// Print the summary as a JSON object
    #[arg(long)]
    json: bool,
}

/// What has become of the lines so far.
#[derive(Debug, Default)]
struct Tally {
    imported: u64,
    duplicates: u64,
    /// Lines that are no event, by reason.
    malformed: BTreeMap<&'static str, u64>,
    /// Events that nobody would keep, by reason.
    skipped: BTreeMap<&'static str, u64>,
    rejected: BTreeMap<&'static str, u64>,
    resumed_bytes: u64,
}

pub(super) fn run(global: &Global, command: &Import) -> Outcome {
    for path in command.files.iter().filter(|path| path.as_os_str() != "-") {
        // Nothing is opened, let alone made, for files that are not there.
        File::open(path)
            .map_err(|error| Failure::Failed(anyhow!("cannot read {}: {error}", path.display())))?;
    }
    let config = Arc::new(configure(global)?);
    let path = PathBuf::from(&config.store.data_dir);
    match directory::holder(&path).context("data directory")? {
        Some(pid) => online(&config, command, &path, &pid),
        None => offline(&config, command),
    }
}

/// Through the relay that holds the store.
fn online(config: &Config, command: &Import, data_dir: &Path, pid: &str) -> Outcome {
    if command.no_verify {
        return Err(Failure::Usage(anyhow!(
            "process {pid} serves {}, and a relay that serves verifies what it takes in; leave \
             --no-verify out, or stop the relay first",
            data_dir.display()
        )));
    }
    let socket = data_dir.join(RELAY_SOCKET);
    let uplink =
        Uplink::connect(&socket).map_err(|error| no_answer(data_dir, pid, &socket, &error))?;
    let asked = signals::listen(Wake::new()?).context("signal handlers")?;
    let started_us = clock::monotonic_us();
    let mut intake = Online::new(uplink);
    let (tally, imported) = import(config, command, &asked, &mut intake, data_dir);
    conclude(&tally, imported, clock::monotonic_us() - started_us, command.json, &asked)
}

fn offline(config: &Arc<Config>, command: &Import) -> Outcome {
    let chosen = choose_runtime(config)?;
    let directory = open_directory(config, true)?;
    let mut cluster = open_cluster(config, directory, &chosen)?;
    let asked = signals::listen(cluster.control.wake().clone()).context("signal handlers")?;
    cluster.start_offline()?;
    let started_us = clock::monotonic_us();
    let data_dir = cluster.directory().path().to_owned();
    let verify = !command.no_verify;
    let mut intake = Direct { control: &mut cluster.control, verify, is_parked: false };
    let (tally, imported) = import(config, command, &asked, &mut intake, &data_dir);
    let ended = cluster.end(END_MS);
    conclude(&tally, imported, clock::monotonic_us() - started_us, command.json, &asked)?;
    if !ended {
        return Err(Failure::Failed(anyhow!("the store did not close in time")));
    }
    Ok(())
}

fn import(
    config: &Config,
    command: &Import,
    asked: &Asked,
    intake: &mut dyn Intake,
    data_dir: &Path,
) -> (Tally, Outcome) {
    let mut importer = Importer {
        intake,
        command,
        asked,
        limits: admin::operator_limits(config),
        in_flight: BTreeMap::new(),
        offsets: BTreeMap::new(),
        behind: Vec::new(),
        tally: Tally::default(),
    };
    let imported = command.files.iter().try_for_each(|path| importer.file(data_dir, path));
    (importer.tally, imported)
}

/// The summary, whatever the end.
fn conclude(
    tally: &Tally,
    imported: Outcome,
    duration_us: u64,
    as_json: bool,
    asked: &Asked,
) -> Outcome {
    summarise(tally, duration_us, as_json)?;
    imported?;
    if asked.to_end() {
        return Err(Failure::Failed(anyhow!("cut off; the same command goes on from here")));
    }
    Ok(())
}

fn summarise(tally: &Tally, duration_us: u64, as_json: bool) -> io::Result<()> {
    let seconds = duration_us as f64 / 1e6;
    let sum = |counts: &BTreeMap<&str, u64>| counts.values().sum::<u64>();
    let mut out = io::stdout().lock();
    if as_json {
        let summary = json!({
            "imported": tally.imported,
            "duplicates": tally.duplicates,
            "malformed": sum(&tally.malformed),
            "malformed_by_reason": tally.malformed,
            "skipped": sum(&tally.skipped),
            "skipped_by_reason": tally.skipped,
            "rejected": sum(&tally.rejected),
            "rejected_by_reason": tally.rejected,
            "resumed_bytes": tally.resumed_bytes,
            "seconds": seconds,
        });
        return writeln!(out, "{summary}");
    }
    let per_second = tally.imported as f64 / seconds.max(0.001);
    writeln!(
        out,
        "{} imported, {} known already, {} rejected, {} skipped, {} malformed, in {seconds:.1} s \
         ({per_second:.0} a second)",
        tally.imported,
        tally.duplicates,
        sum(&tally.rejected),
        sum(&tally.skipped),
        sum(&tally.malformed),
    )?;
    let kinds = [
        ("rejected", &tally.rejected),
        ("skipped", &tally.skipped),
        ("malformed", &tally.malformed),
    ];
    for (what, counts) in kinds {
        for (reason, count) in counts {
            writeln!(out, "  {what} {reason}: {count}")?;
        }
    }
    Ok(())
}

/// Feeds lines to the shards and takes their outcomes. Bounded by what the intake lets be under way.
struct Importer<'a> {
    intake: &'a mut dyn Intake,
    command: &'a Import,
    asked: &'a Asked,
    limits: Limits,
    /// Copies of an event under way, oldest first, with the offset of their line.
    in_flight: BTreeMap<EventId, VecDeque<(u64, Event)>>,
    /// Lines under way by offset.
    offsets: BTreeMap<u64, ()>,
    /// Events that a shard had no room for.
    behind: Vec<(u64, Event)>,
    tally: Tally,
}

impl Importer<'_> {
    fn file(&mut self, data_dir: &Path, path: &Path) -> Outcome {
        if path.as_os_str() == "-" {
            let bar = spinner();
            let asked = self.asked;
            let should_stop = || asked.to_end();
            let input = Input::standard(&should_stop).context("standard input")?;
            let mut reader = BufReader::with_capacity(READ_BYTES, input);
            let result = self.lines(&mut reader, 0, &bar, None);
            bar.finish_and_clear();
            return result;
        }
        let name = path.display().to_string();
        let mut file = File::open(path).with_context(|| name.clone())?;
        let metadata = file.metadata().with_context(|| name.clone())?;
        let modified_ns =
            i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let full = full.display().to_string();
        let mut progress = Progress { path: full, bytes: metadata.len(), modified_ns, offset: 0 };
        let kept = Kept::new(data_dir, &progress);
        if let Some(offset) = kept.read(&progress) {
            io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).with_context(|| name.clone())?;
            progress.offset = offset;
            self.tally.resumed_bytes += offset;
            let _ = writeln!(io::stderr(), "{name}: going on at byte {offset}");
        }
        let bar = file_bar(&progress, &name);
        let offset = progress.offset;
        let mut reader = BufReader::with_capacity(READ_BYTES, file);
        let result = self.lines(&mut reader, offset, &bar, Some((&kept, &mut progress)));
        bar.finish_and_clear();
        result?;
        if !self.asked.to_end() {
            kept.forget();
        }
        Ok(())
    }

    fn lines(
        &mut self,
        reader: &mut BufReader<impl Read>,
        mut offset: u64,
        bar: &ProgressBar,
        mut kept: Option<(&Kept, &mut Progress)>,
    ) -> Outcome {
        let result = self.all_lines(reader, &mut offset, bar, &mut kept);
        // Also when it failed: what has its outcome need not come again.
        self.note(offset, &mut kept);
        result
    }

    fn all_lines(
        &mut self,
        reader: &mut BufReader<impl Read>,
        offset: &mut u64,
        bar: &ProgressBar,
        kept: &mut Option<(&Kept, &mut Progress)>,
    ) -> Outcome {
        let mut line = Vec::new();
        let mut next_note_ms = 0;
        while !self.asked.to_end() {
            if !reader.buffer().contains(&b'\n') {
                self.send_all()?;
            }
            let read = read_line(reader, &mut line)?;
            let is_cut_off = self.asked.to_end() && !read.is_too_long && !line.ends_with(b"\n");
            if read.bytes == 0 || is_cut_off {
                break;
            }
            if read.is_too_long {
                self.malformed(*offset, "line_too_long", "the line is longer than any event");
            } else {
                self.line(*offset, &line)?;
            }
            *offset += read.bytes;
            bar.set_position(*offset);
            let now_ms = clock::now().monotonic_ms;
            if now_ms >= next_note_ms {
                next_note_ms = now_ms + OFFSET_EVERY_MS;
                self.note(*offset, kept);
            }
        }
        self.last_outcomes()
    }

    /// Waits for what is under way; not for ever once the command is to end.
    fn last_outcomes(&mut self) -> Outcome {
        let mut give_up_ms = u64::MAX;
        while !self.in_flight.is_empty() || !self.behind.is_empty() {
            self.turn(100)?;
            let now_ms = clock::now().monotonic_ms;
            if self.asked.to_end() {
                give_up_ms = give_up_ms.min(now_ms + LAST_OUTCOMES_MS);
            }
            if now_ms >= give_up_ms {
                break;
            }
        }
        Ok(())
    }

    /// Writes down up to where every line has its outcome.
    fn note(&self, offset: u64, kept: &mut Option<(&Kept, &mut Progress)>) {
        if let Some((kept, progress)) = kept {
            progress.offset = self.offsets.keys().next().copied().unwrap_or(offset);
            kept.write(progress);
        }
    }

    fn line(&mut self, offset: u64, line: &[u8]) -> Outcome {
        let trimmed = line.trim_ascii();
        if trimmed.is_empty() {
            return Ok(());
        }
        let text = match self.command.from_strfry {
            true => strfry::event_of(trimmed),
            false => Some(trimmed.into()),
        };
        let Some(text) = text else {
            self.malformed(offset, "no_event", "the line is no JSON object");
            return Ok(());
        };
        match proto::parse::parse_event(&text, &self.limits) {
            Ok(event) if class(event.view().kind()) == KindClass::Ephemeral => {
                *self.tally.skipped.entry("ephemeral").or_default() += 1;
                self.show(&event.view().id().to_hex(), "ephemeral events are not stored");
            }
            Ok(event) => self.submit(offset, event)?,
            Err(error) => {
                let id = error.id.map(|id| id.to_hex()).unwrap_or_default();
                *self.tally.malformed.entry(error.reason.label()).or_default() += 1;
                self.show(&format!("byte {offset} {id}"), error.reason.message());
                return Ok(());
            }
        }
        // Outcomes are taken while lines come; when nothing more may be under way, they are waited
        // for.
        if self.in_flight.len().is_multiple_of(64) && !self.intake.is_full() {
            self.turn(0)?;
        }
        while (self.intake.is_full() || self.behind.len() > 64) && !self.asked.to_end() {
            self.turn(100)?;
        }
        Ok(())
    }

    fn malformed(&mut self, offset: u64, label: &'static str, why: &str) {
        *self.tally.malformed.entry(label).or_default() += 1;
        self.show(&format!("byte {offset}"), why);
    }

    /// Gives the shards every line so far: the next read may wait for a long time, and what was read
    /// must not wait with it.
    fn send_all(&mut self) -> Outcome {
        self.turn(0)?;
        while !self.behind.is_empty() && !self.asked.to_end() {
            self.turn(100)?;
        }
        // What a shard had no room for was submitted anew after the messages went out.
        self.turn(0)
    }

    fn submit(&mut self, offset: u64, event: Event) -> Outcome {
        self.offsets.insert(offset, ());
        let copies = self.in_flight.entry(event.view().id()).or_default();
        copies.push_back((offset, event.clone()));
        self.intake.submit(event)
    }

    fn turn(&mut self, wait_ms: u64) -> Outcome {
        for (id, verdict) in self.intake.verdicts(wait_ms)? {
            self.outcome(&id, verdict);
        }
        if !self.behind.is_empty() && !self.intake.is_full() {
            threads::sleep_ms(BEHIND_MS);
            for (offset, event) in std::mem::take(&mut self.behind) {
                if self.intake.is_full() {
                    self.behind.push((offset, event));
                } else {
                    self.submit(offset, event)?;
                }
            }
        }
        Ok(())
    }

    fn outcome(&mut self, id: &EventId, verdict: Verdict) {
        let Some(copies) = self.in_flight.get_mut(id) else { return };
        // Copies were submitted in order, and so they are answered.
        let Some((offset, event)) = copies.pop_front() else { return };
        if copies.is_empty() {
            self.in_flight.remove(id);
        }
        match verdict {
            Verdict::Later => return self.behind.push((offset, event)),
            Verdict::Stored => self.tally.imported += 1,
            Verdict::Known => self.tally.duplicates += 1,
            Verdict::Rejected(reason, text) => {
                let label = self.label(&event, reason);
                *self.tally.rejected.entry(label).or_default() += 1;
                self.show(&id.to_hex(), &text);
            }
        }
        self.offsets.remove(&offset);
    }

    fn label(&self, event: &Event, reason: Reason) -> &'static str {
        if self.command.from_strfry { strfry::label(event, reason) } else { reason.label() }
    }

    fn show(&self, what: &str, why: &str) {
        if self.command.show_rejected {
            let _ = writeln!(io::stderr().lock(), "{what}: {why}");
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{bytes} read, {bytes_per_sec}, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

fn file_bar(progress: &Progress, name: &str) -> ProgressBar {
    let bar = ProgressBar::new(progress.bytes);
    let template = "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(name.to_owned());
    bar.set_position(progress.offset);
    bar.reset_eta();
    bar
}
