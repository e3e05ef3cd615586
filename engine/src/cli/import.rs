//! `turnpike import`: JSON lines into the store, decided and verified by the shards on all cores.
//!
//! A file resumes where an earlier import was cut off: the offset up to which every line has its
//! outcome is kept in the data directory. Standard input cannot be named, so it relies on known
//! events being recognised before their signatures are checked.

use super::offline::{choose_runtime, open_cluster, open_directory};
use super::{Failure, Global, Outcome, configure};
use crate::admin;
use crate::control::Control;
use crate::runtime::signals::{self, Asked};
use crate::runtime::{clock, threads};
use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use proto::{Event, EventId, Limits, Reason};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shards::message::Client;
use shards::{HomeInput, Reply};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long the cores may take to end after the last outcome.
const END_MS: u64 = 120_000;
/// How often the offset of a file is written down.
const OFFSET_EVERY_MS: u64 = 2_000;
/// How long a refused store is left alone before it is asked again.
const BEHIND_MS: u64 = 20;
/// Lines longer than this are skipped without being kept.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes asked for in one read of the input.
const READ_BYTES: usize = 1 << 20;
/// The one client of the control core.
const CLIENT: Client = Client { slot: 0, generation: 0 };

#[derive(Debug, Args)]
pub(super) struct Import {
    /// Files of JSON lines, one event each; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Take signatures on trust: events are flagged, and verified before they are first served
    #[arg(long)]
    no_verify: bool,
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
    malformed: u64,
    rejected: BTreeMap<&'static str, u64>,
    resumed_bytes: u64,
}

/// How far an earlier import of a file came.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    path: String,
    bytes: u64,
    modified_ns: i128,
    offset: u64,
}

pub(super) fn run(global: &Global, command: &Import) -> Outcome {
    for path in command.files.iter().filter(|path| path.as_os_str() != "-") {
        // Nothing is opened, let alone made, for files that are not there.
        File::open(path)
            .map_err(|error| Failure::Failed(anyhow!("cannot read {}: {error}", path.display())))?;
    }
    let config = Arc::new(configure(global)?);
    let chosen = choose_runtime(&config)?;
    let directory = open_directory(&config, true)?;
    let mut cluster = open_cluster(&config, directory, &chosen)?;
    let asked = signals::listen(cluster.control.wake().clone()).context("signal handlers")?;
    cluster.start_offline()?;
    let started_us = clock::monotonic_us();
    let data_dir = cluster.directory().path().to_owned();
    let mut importer = Importer {
        control: &mut cluster.control,
        command,
        asked: &asked,
        limits: admin::operator_limits(&config),
        in_flight: BTreeMap::new(),
        offsets: BTreeMap::new(),
        behind: Vec::new(),
        is_parked: false,
        tally: Tally::default(),
    };
    let imported = command.files.iter().try_for_each(|path| importer.file(&data_dir, path));
    let tally = importer.tally;
    let was_cut = asked.to_end();
    let ended = cluster.end(END_MS);
    imported?;
    summarise(&tally, clock::monotonic_us() - started_us, command.json)?;
    if !ended {
        return Err(Failure::Failed(anyhow!("the store did not close in time")));
    }
    if was_cut {
        return Err(Failure::Failed(anyhow!("cut off; the same command goes on from here")));
    }
    Ok(())
}

fn summarise(tally: &Tally, duration_us: u64, as_json: bool) -> io::Result<()> {
    let seconds = duration_us as f64 / 1e6;
    let rejected: u64 = tally.rejected.values().sum();
    let mut out = io::stdout().lock();
    if as_json {
        let summary = json!({
            "imported": tally.imported,
            "duplicates": tally.duplicates,
            "malformed": tally.malformed,
            "rejected": rejected,
            "rejected_by_reason": tally.rejected,
            "resumed_bytes": tally.resumed_bytes,
            "seconds": seconds,
        });
        return writeln!(out, "{summary}");
    }
    let per_second = tally.imported as f64 / seconds.max(0.001);
    writeln!(
        out,
        "{} imported, {} known already, {rejected} rejected, {} malformed, in {seconds:.1} s \
         ({per_second:.0} a second)",
        tally.imported, tally.duplicates, tally.malformed
    )?;
    for (reason, count) in &tally.rejected {
        writeln!(out, "  rejected {reason}: {count}")?;
    }
    Ok(())
}

/// Feeds lines to the shards and takes their outcomes. Bounded by the credit of the control core's
/// home: that many events are under way.
struct Importer<'a> {
    control: &'a mut Control,
    command: &'a Import,
    asked: &'a Asked,
    limits: Limits,
    /// Copies of an event under way, oldest first, with the offset of their line.
    in_flight: BTreeMap<EventId, VecDeque<(u64, Event)>>,
    /// Lines under way by offset.
    offsets: BTreeMap<u64, ()>,
    /// Events that a shard had no room for.
    behind: Vec<(u64, Event)>,
    /// The last event waits for credit.
    is_parked: bool,
    tally: Tally,
}

impl Importer<'_> {
    fn file(&mut self, data_dir: &Path, path: &Path) -> Outcome {
        if path.as_os_str() == "-" {
            let bar = spinner();
            let mut reader = BufReader::with_capacity(READ_BYTES, io::stdin().lock());
            self.lines(&mut reader, 0, &bar, None)?;
            bar.finish_and_clear();
            return Ok(());
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
        let mut line = Vec::new();
        let mut next_note_ms = 0;
        while !self.asked.to_end() {
            if !reader.buffer().contains(&b'\n') {
                self.send_all();
            }
            let read = read_line(reader, &mut line)?;
            if read.bytes == 0 {
                break;
            }
            if read.is_too_long {
                self.tally.malformed += 1;
                self.show(&format!("byte {offset}"), "the line is longer than any event");
            } else {
                self.line(offset, &line);
            }
            offset += read.bytes;
            bar.set_position(offset);
            let now_ms = clock::now().monotonic_ms;
            if now_ms >= next_note_ms {
                next_note_ms = now_ms + OFFSET_EVERY_MS;
                self.note(offset, &mut kept);
            }
        }
        while !self.in_flight.is_empty() || !self.behind.is_empty() {
            self.turn(100);
        }
        self.note(offset, &mut kept);
        Ok(())
    }

    /// Writes down up to where every line has its outcome.
    fn note(&self, offset: u64, kept: &mut Option<(&Kept, &mut Progress)>) {
        if let Some((kept, progress)) = kept {
            progress.offset = self.offsets.keys().next().copied().unwrap_or(offset);
            kept.write(progress);
        }
    }

    fn line(&mut self, offset: u64, line: &[u8]) {
        let text = line.trim_ascii();
        if text.is_empty() {
            return;
        }
        match proto::parse::parse_event(text, &self.limits) {
            Ok(event) => self.submit(offset, event),
            Err(error) => {
                self.tally.malformed += 1;
                let id = error.id.map(|id| id.to_hex()).unwrap_or_default();
                self.show(&format!("byte {offset} {id}"), error.reason.message());
            }
        }
        // Outcomes are taken while lines come; when all credit is used up, they are waited for.
        let is_full = self.in_flight.len().is_multiple_of(64);
        if is_full && !self.is_parked {
            self.turn(0);
        }
        while (self.is_parked || self.behind.len() > 64) && !self.asked.to_end() {
            self.turn(100);
        }
    }

    /// Gives the shards every line so far: the next read may wait for a long time, and what was read
    /// must not wait with it.
    fn send_all(&mut self) {
        self.turn(0);
        while !self.behind.is_empty() && !self.asked.to_end() {
            self.turn(100);
        }
        // What a shard had no room for was submitted anew after the messages went out.
        self.turn(0);
    }

    fn submit(&mut self, offset: u64, event: Event) {
        self.offsets.insert(offset, ());
        let copies = self.in_flight.entry(event.view().id()).or_default();
        copies.push_back((offset, event.clone()));
        let verify = !self.command.no_verify;
        let input = HomeInput::Import { client: CLIENT, event, verify };
        self.is_parked = self.control.step(clock::now(), input);
    }

    fn turn(&mut self, timeout_ms: u64) {
        for reply in self.control.turn(timeout_ms) {
            match reply {
                Reply::Ok { id, result, .. } => self.outcome(&id, result),
                Reply::Unpark(_) => self.is_parked = false,
                _ => {}
            }
        }
        if !self.behind.is_empty() && !self.is_parked {
            threads::sleep_ms(BEHIND_MS);
            for (offset, event) in std::mem::take(&mut self.behind) {
                if self.is_parked {
                    self.behind.push((offset, event));
                } else {
                    self.submit(offset, event);
                }
            }
        }
    }

    fn outcome(&mut self, id: &EventId, result: Result<(), Reason>) {
        let Some(copies) = self.in_flight.get_mut(id) else { return };
        // Copies were submitted in order, and so they are answered.
        let Some((offset, event)) = copies.pop_front() else { return };
        if copies.is_empty() {
            self.in_flight.remove(id);
        }
        match result {
            Err(Reason::StoreBehind) => return self.behind.push((offset, event)),
            Ok(()) => self.tally.imported += 1,
            Err(reason) if reason.is_accepted() => self.tally.duplicates += 1,
            Err(reason) => {
                *self.tally.rejected.entry(reason.label()).or_default() += 1;
                self.show(&id.to_hex(), reason.message());
            }
        }
        self.offsets.remove(&offset);
    }

    fn show(&self, what: &str, why: &str) {
        if self.command.show_rejected {
            let _ = writeln!(io::stderr().lock(), "{what}: {why}");
        }
    }
}

/// A line that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// Consumed, its end included; 0 at the end of the input.
    bytes: u64,
    /// It was beyond the limit, and nothing of it was kept.
    is_too_long: bool,
}

/// Reads one line with its end.
fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let bytes = reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', line)? as u64;
    if bytes < LINE_BYTES_MAX as u64 || line.ends_with(b"\n") {
        return Ok(Line { bytes, is_too_long: false });
    }
    line.clear();
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        let is_done = end.is_some() || used == 0;
        reader.consume(used);
        skipped += used as u64;
        if is_done {
            return Ok(Line { bytes: bytes + skipped, is_too_long: true });
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

/// The file in the data directory that says how far an import came.
struct Kept {
    path: PathBuf,
}

impl Kept {
    fn new(data_dir: &Path, progress: &Progress) -> Self {
        // Not placement, not a map: only a name that two paths do not share.
        let key = proto::Secret(*b"import progress!").hash64(0, progress.path.as_bytes());
        Self { path: data_dir.join(format!("import-{key:016x}.json")) }
    }

    /// The offset, if it is about the same, unchanged file.
    fn read(&self, now: &Progress) -> Option<u64> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let before: Progress = serde_json::from_str(&text).ok()?;
        let is_same = before.path == now.path
            && before.bytes == now.bytes
            && before.modified_ns == now.modified_ns
            && before.offset <= now.bytes;
        (is_same && before.offset > 0).then_some(before.offset)
    }

    /// Losing this costs time and nothing else, so failures are let go and nothing is synced.
    fn write(&self, progress: &Progress) {
        let temporary = self.path.with_extension("new");
        let text = serde_json::to_string(progress).unwrap_or_default();
        if std::fs::write(&temporary, text).is_ok() {
            let _ = std::fs::rename(&temporary, &self.path);
        }
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_to_the_byte_and_monsters_are_skipped() {
        let mut text = b"one\n\ntwo\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 5));
        text.extend_from_slice(b"\nlast");
        let mut reader = io::Cursor::new(&text);
        let mut line = Vec::new();
        let mut lines = Vec::new();
        let mut total = 0;
        loop {
            let read = read_line(&mut reader, &mut line).unwrap();
            if read.bytes == 0 {
                break;
            }
            total += read.bytes;
            assert_eq!(read.is_too_long, read.bytes > LINE_BYTES_MAX as u64);
            lines.push(line.clone());
        }
        assert_eq!(total, text.len() as u64);
        let expected: [&[u8]; 5] = [b"one\n", b"\n", b"two\n", b"", b"last"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_offset_counts_for_the_same_unchanged_file_only() {
        let root = tempfile::tempdir().unwrap();
        let progress =
            |bytes, offset| Progress { path: "/x".into(), bytes, modified_ns: 1, offset };
        let kept = Kept::new(root.path(), &progress(10, 0));
        assert_eq!(kept.read(&progress(10, 0)), None);
        kept.write(&progress(10, 7));
        assert_eq!(kept.read(&progress(10, 0)), Some(7));
        assert_eq!(kept.read(&progress(11, 0)), None);
        kept.forget();
        assert_eq!(kept.read(&progress(10, 0)), None);
    }
}
