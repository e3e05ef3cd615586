//! Directories that are filled once and used by many runs. Events that a run publishes into one
//! are counted in a note beside it before they are sent, so that no later run sends them again.

use super::Session;
use crate::measure::cpu;
use crate::measure::events::{Maker, Spec};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What must be the same for a directory to be used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    seed: u64,
    kind: u16,
    authors: usize,
    event_bytes: usize,
    topics: u64,
    shards: u16,
    /// Filled by import.
    events: u64,
    /// The first index that no run has published.
    next: u64,
}

/// A directory full of the events `0..events` of `maker`, and maybe more.
#[derive(Debug)]
pub struct Prepared {
    /// The data directory.
    pub directory: PathBuf,
    /// What made the events.
    pub maker: Maker,
    /// Events that are there for certain.
    pub events: u64,
    note_path: PathBuf,
    note: Note,
}

impl Prepared {
    /// Takes `count` indexes that nobody will use again.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn take(&mut self, count: u64) -> anyhow::Result<std::ops::Range<u64>> {
        let first = self.note.next;
        self.note.next += count;
        self.write_note()?;
        Ok(first..self.note.next)
    }

    /// Reads all files once, so that what is measured is the relay and not the disk: a directory that
    /// was filled some time ago may be half out of the page cache.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn warm(&self) -> anyhow::Result<()> {
        warm(&self.directory)
    }

    fn write_note(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string(&self.note)?;
        std::fs::write(&self.note_path, text)
            .with_context(|| format!("cannot write {}", self.note_path.display()))
    }
}

/// The directory `name` with `events` events of `spec` in `shards` shards: the one that is there if
/// it was made so, else filled now.
///
/// # Errors
/// When the relay does not take the events.
pub fn prepare(
    session: &Session,
    name: &str,
    spec: Spec,
    events: u64,
    shards: u16,
) -> anyhow::Result<Prepared> {
    let directory = session.options.data_dir.join(name);
    let note_path = session.options.data_dir.join(format!("{name}.json"));
    let note = Note {
        seed: spec.seed,
        kind: spec.kind,
        authors: spec.authors,
        event_bytes: spec.event_bytes,
        topics: spec.topics,
        shards,
        events,
        next: events,
    };
    let mut prepared = Prepared { directory, maker: Maker::new(spec), events, note_path, note };
    if !session.options.is_refill
        && let Some(found) = read_note(&prepared.note_path)
        && (Note { next: events, ..found.clone() }) == prepared.note
    {
        prepared.note = found;
        return Ok(prepared);
    }
    remove(&prepared.directory)?;
    let _ = std::fs::remove_file(&prepared.note_path);
    fill(session, &prepared, shards)?;
    prepared.write_note()?;
    Ok(prepared)
}

fn warm(directory: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            warm(&entry.path())?;
        } else {
            std::io::copy(&mut std::fs::File::open(entry.path())?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

fn read_note(path: &Path) -> Option<Note> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn fill(session: &Session, prepared: &Prepared, shards: u16) -> anyhow::Result<()> {
    let (events, bar) = (prepared.events, &session.bar);
    bar.set_length(events);
    bar.set_position(0);
    session.say(format!("filling {}", prepared.directory.display()));
    session.launch(shards).run(&prepared.directory, &["import", "-"], |out| {
        let mut progress = |written| bar.set_position(written);
        prepared.maker.write_lines(0..events, cpu::cores(), out, &mut progress).map(drop)
    })?;
    bar.set_length(0);
    Ok(())
}

/// An empty directory `name`, whatever was there.
///
/// # Errors
/// When what was there cannot be removed.
pub fn empty(session: &Session, name: &str) -> anyhow::Result<PathBuf> {
    let directory = session.options.data_dir.join(name);
    remove(&directory)?;
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Removes a directory with all that is in it, if it is there.
///
/// # Errors
/// When it stays.
pub fn remove(directory: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Bytes of disk that a directory's files take: blocks, not lengths, for indexes are sparse files.
///
/// # Errors
/// When it cannot be read.
pub fn disk_bytes(directory: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => metadata.blocks() * 512,
        };
    }
    Ok(bytes)
}
