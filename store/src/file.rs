//! Log segments as real files, named `<first sequence, 16 hex digits>.seg`.
//!
//! A segment is written under a temporary name with its header and the first stretch of zeros,
//! synced, renamed, and its directory synced, so whatever carries a segment's name has a whole
//! header. Zeros are written ahead of the log's end in steps, because a write into blocks that the
//! file has already needs no journal commit of the file system when it is synced.
//!
//! With the feature `skip-sync` every sync here does nothing. It is fault injection: the control of
//! the durability test, which must fail with it. Never build a relay for use with it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "one of the two modules of this crate that touch the kernel"
)]

use crate::effect::{Seq, WorldError};
use crate::key::SEQ_MAX;
use crate::rewrite::format::first_seq_of;
use crate::seam::{SegmentEntry, Segments};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub mod directory;

/// Step in which zeros are written ahead of the log's end.
pub const PREWRITE_BYTES: u32 = 4 << 20;
/// Open files kept for reading bodies.
const READ_FILES_MAX: usize = 16;
/// Extension of segment files.
const EXTENSION: &str = "seg";
/// Folder beside the segments for damaged ones that were copied aside.
const QUARANTINE: &str = "quarantine";

/// The segment whose file has this name, spelt as the store spells it; `None` for what cannot be
/// one, since sequences begin at 1.
fn segment_named(name: &str) -> Option<Seq> {
    let segment = Seq::from_str_radix(name, 16).ok()?;
    let is_possible = (1..=SEQ_MAX).contains(&first_seq_of(segment));
    (is_possible && name == format!("{segment:016x}")).then_some(segment)
}

/// Makes the data of a file durable.
///
/// # Errors
/// The system's; the process must end.
pub fn sync_file(file: &File) -> io::Result<()> {
    if cfg!(feature = "skip-sync") {
        return Ok(());
    }
    file.sync_data()
}

/// Makes the data and the length of a file durable.
fn sync_file_and_length(file: &File) -> io::Result<()> {
    if cfg!(feature = "skip-sync") {
        return Ok(());
    }
    file.sync_all()
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The system's; the process must end.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(feature = "skip-sync") {
        return Ok(());
    }
    File::open(path)?.sync_all()
}

/// Makes the disk set aside `from..to` of a file, without a change that a reader of the file could
/// see. Where the file system cannot do that, nothing is set aside.
///
/// # Errors
/// The system's; [`is_no_space`] tells a full disk apart.
pub fn reserve_file(file: &impl rustix::fd::AsFd, from: u64, to: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if to <= from {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from) {
            Err(Errno::INTR) => {}
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an error says that the disk, or what we may use of it, is full.
pub fn is_no_space(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The segment that is being written.
#[derive(Debug)]
struct Writing {
    segment: Seq,
    file: File,
    /// Zeros have been written up to here.
    prewritten: u64,
}

/// The segments of one shard. An instance belongs to one thread: the writer's owns the file being
/// written, the others read. Bounded by 16 open files.
#[derive(Debug)]
pub struct FileSegments {
    directory: PathBuf,
    prewrite_bytes: u32,
    writing: RefCell<Option<Writing>>,
    /// The rewritten segment that has no name yet.
    staging: RefCell<Option<(Seq, File)>>,
    /// Most recently used last.
    reading: RefCell<Vec<(Seq, File)>>,
}

impl FileSegments {
    /// Opens the segments in `directory`, which is made if it does not exist; what a start that
    /// died left under a temporary name is removed.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the file system fails.
    pub fn open(directory: &Path) -> Result<Self, WorldError> {
        let prepare = || {
            if !directory.exists() {
                std::fs::create_dir_all(directory)?;
                sync_directory(directory.parent().unwrap_or(Path::new(".")))?;
            }
            for entry in std::fs::read_dir(directory)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "new") {
                    std::fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        prepare().map_err(|error: io::Error| failed(0, &error))?;
        Ok(Self::reader(directory))
    }

    /// The same segments for another thread, which only reads.
    pub fn reader(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            prewrite_bytes: PREWRITE_BYTES,
            writing: RefCell::new(None),
            staging: RefCell::new(None),
            reading: RefCell::new(Vec::new()),
        }
    }

    /// The same segments, with zeros written ahead in smaller steps where a whole segment is shorter
    /// than [`PREWRITE_BYTES`]: what lies past its greatest length would only be cut off again.
    #[must_use]
    pub fn prewriting(self, segment_bytes_max: u32) -> Self {
        let prewrite_bytes = segment_bytes_max.clamp(1, PREWRITE_BYTES);
        Self { prewrite_bytes, ..self }
    }

    /// Where the segments are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of a segment.
    pub fn path(&self, segment: Seq) -> PathBuf {
        self.directory.join(format!("{segment:016x}.{EXTENSION}"))
    }

    fn read_file_at(&self, segment: Seq, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut reading = self.reading.borrow_mut();
        match reading.iter().position(|(have, _)| *have == segment) {
            Some(at) => reading[at..].rotate_left(1),
            None => {
                if reading.len() >= READ_FILES_MAX {
                    reading.remove(0);
                }
                reading.push((segment, File::open(self.path(segment))?));
            }
        }
        let (_, file) = reading.last().expect("the file was just moved or pushed to the end");
        read_full(file, offset, into)
    }

    /// Makes a segment whose name is not durable yet.
    fn create_file(&self, segment: Seq, header: &[u8]) -> io::Result<Writing> {
        let path = self.path(segment);
        let temporary = path.with_extension("new");
        let options = OpenOptions::new().write(true).create(true).truncate(true).clone();
        let file = options.open(&temporary)?;
        let prewritten = u64::from(self.prewrite_bytes).max(header.len() as u64);
        let begin = || {
            reserve_file(&file, 0, prewritten)?;
            file.write_all_at(header, 0)?;
            write_zeros(&file, header.len() as u64, prewritten)
        };
        if let Err(error) = begin() {
            // Half a segment would keep the room that is lacking; without a name it is nothing.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        sync_file_and_length(&file)?;
        std::fs::rename(&temporary, &path)?;
        Ok(Writing { segment, file, prewritten })
    }

    fn write_file(&self, segment: Seq, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let mut writing = self.writing.borrow_mut();
        let writing = writing.as_mut().filter(|writing| writing.segment == segment);
        let Some(writing) = writing else {
            // A process writes only to a segment that it created.
            return Err(io::Error::other("the segment is not the one that is being written"));
        };
        let end = u64::from(offset) + bytes.len() as u64;
        writing.file.write_all_at(bytes, u64::from(offset))?;
        if end > writing.prewritten {
            let prewritten = end.next_multiple_of(u64::from(self.prewrite_bytes));
            write_zeros(&writing.file, end, prewritten)?;
            writing.prewritten = prewritten;
        }
        Ok(())
    }

    fn sync_segment(&self, segment: Seq) -> io::Result<()> {
        let writing = self.writing.borrow();
        match writing.as_ref().filter(|writing| writing.segment == segment) {
            Some(writing) => sync_file(&writing.file),
            None => Err(io::Error::other("the segment is not the one that is being written")),
        }
    }

    fn staged_path(&self, segment: Seq) -> PathBuf {
        self.path(segment).with_extension("new")
    }

    fn stage_file(&self, segment: Seq, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let mut staging = self.staging.borrow_mut();
        if offset == 0 {
            let options = OpenOptions::new().write(true).create(true).truncate(true).clone();
            *staging = Some((segment, options.open(self.staged_path(segment))?));
        }
        match staging.as_ref().filter(|(staged, _)| *staged == segment) {
            Some((_, file)) => file.write_all_at(bytes, u64::from(offset)),
            None => Err(io::Error::other("the segment is not the one that is being rewritten")),
        }
    }

    fn discard_file(&self, segment: Seq) -> io::Result<()> {
        self.staging.borrow_mut().take();
        match std::fs::remove_file(self.staged_path(segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Syncs a staged segment and gives it its name.
    fn name_file(&self, segment: Seq) -> io::Result<()> {
        let staged = self.staging.borrow_mut().take().filter(|(staged, _)| *staged == segment);
        let Some((_, file)) = staged else {
            return Err(io::Error::other("the segment is not the one that is being rewritten"));
        };
        sync_file_and_length(&file)?;
        std::fs::rename(self.staged_path(segment), self.path(segment))
    }

    fn unlink_file(&self, segment: Seq) -> io::Result<()> {
        self.reading.borrow_mut().retain(|(have, _)| *have != segment);
        match std::fs::remove_file(self.path(segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sync_directory(&self.directory)
    }

    fn quarantine_file(&self, segment: Seq) -> io::Result<()> {
        let quarantine = self.directory.join(QUARANTINE);
        if !quarantine.exists() {
            std::fs::create_dir(&quarantine)?;
            sync_directory(&self.directory)?;
        }
        let to = quarantine.join(format!("{segment:016x}.{EXTENSION}"));
        std::fs::copy(self.path(segment), &to)?;
        sync_file_and_length(&File::open(&to)?)?;
        sync_directory(&quarantine)
    }

    /// Writes what lies between `last` and `length` once more, then seals.
    fn reseal_file(&self, segment: Seq, last: u32, length: u32) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(segment))?;
        let mut bytes = vec![0; length.saturating_sub(last) as usize];
        file.read_exact_at(&mut bytes, u64::from(last))?;
        file.write_all_at(&bytes, u64::from(last))?;
        self.seal_file(segment, length)
    }

    fn seal_file(&self, segment: Seq, length: u32) -> io::Result<()> {
        let mut writing = self.writing.borrow_mut();
        if writing.as_ref().is_some_and(|writing| writing.segment == segment) {
            *writing = None;
        }
        let file = OpenOptions::new().write(true).open(self.path(segment))?;
        file.set_len(u64::from(length))?;
        sync_file_and_length(&file)
    }
}

/// Why a segment could not be made. A full disk is found out before the segment has its name.
fn not_created(segment: Seq, error: &io::Error) -> WorldError {
    match error.kind() {
        kind if is_no_space(kind) => WorldError::NoSpace(format!("log segment {segment:016x}")),
        _ => failed(segment, error),
    }
}

fn failed(segment: Seq, error: &io::Error) -> WorldError {
    WorldError::Log { segment, what: error.to_string() }
}

/// Reads as much of `into` as the file has.
fn read_full(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = from;
    while at < to {
        let count = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

impl Segments for FileSegments {
    fn list(&self) -> Result<Vec<SegmentEntry>, WorldError> {
        let list = || {
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(&self.directory)? {
                let entry = entry?;
                let path = entry.path();
                if path.extension().is_none_or(|extension| extension != EXTENSION) {
                    continue;
                }
                let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                let segment = segment_named(name)
                    .ok_or_else(|| io::Error::other(format!("{} is no segment", path.display())))?;
                entries.push(SegmentEntry { segment, bytes: entry.metadata()?.len() });
            }
            entries.sort_unstable();
            Ok(entries)
        };
        list().map_err(|error: io::Error| failed(0, &error))
    }

    fn read(&self, segment: Seq) -> Result<Vec<u8>, WorldError> {
        std::fs::read(self.path(segment)).map_err(|error| failed(segment, &error))
    }

    fn read_at(&self, segment: Seq, offset: u32, length: usize) -> Result<Vec<u8>, WorldError> {
        let mut bytes = vec![0; length];
        let count = self
            .read_file_at(segment, u64::from(offset), &mut bytes)
            .map_err(|error| failed(segment, &error))?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn create(&self, segment: Seq, header: &[u8]) -> Result<(), WorldError> {
        // A reader may hold an earlier, empty file of this name.
        self.reading.borrow_mut().retain(|(have, _)| *have != segment);
        let writing =
            self.create_file(segment, header).map_err(|error| not_created(segment, &error))?;
        // It has its name: from here on a full disk is a failure like any other.
        sync_directory(&self.directory).map_err(|error| failed(segment, &error))?;
        *self.writing.borrow_mut() = Some(writing);
        Ok(())
    }

    fn write(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        self.write_file(segment, offset, bytes).map_err(|error| failed(segment, &error))
    }

    fn sync(&self, segment: Seq) -> Result<(), WorldError> {
        self.sync_segment(segment).map_err(|error| failed(segment, &error))
    }

    fn seal(&self, segment: Seq, length: u32) -> Result<(), WorldError> {
        self.seal_file(segment, length).map_err(|error| failed(segment, &error))
    }

    fn reseal(&self, segment: Seq, last: u32, length: u32) -> Result<(), WorldError> {
        self.reseal_file(segment, last, length).map_err(|error| failed(segment, &error))
    }

    fn stage(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        self.stage_file(segment, offset, bytes).map_err(|error| failed(segment, &error))
    }

    fn discard(&self, segment: Seq) -> Result<(), WorldError> {
        self.discard_file(segment).map_err(|error| failed(segment, &error))
    }

    fn publish(&self, segment: Seq) -> Result<(), WorldError> {
        self.name_file(segment).map_err(|error| not_created(segment, &error))?;
        sync_directory(&self.directory).map_err(|error| failed(segment, &error))
    }

    fn unlink(&self, segment: Seq) -> Result<(), WorldError> {
        self.unlink_file(segment).map_err(|error| failed(segment, &error))
    }

    fn quarantine(&self, segment: Seq) -> Result<(), WorldError> {
        self.quarantine_file(segment).map_err(|error| failed(segment, &error))
    }
}
