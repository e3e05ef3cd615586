//! What only a try can tell about a machine: how long its disk takes for a sync, and whether its
//! clock is kept in step.

use super::threads;
use rustix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Barrier};
use tuning::SyncSeries;

/// Bytes of one write, as of a small batch of events.
const WRITE_BYTES: usize = 4_096;
/// Most syncs that one writer does, and how long it may take for them.
pub const SYNCS_MAX: usize = 200;
const SYNCS_MS_MAX: u64 = 3_000;
/// Syncs of one of several writers.
const SHARED_SYNCS_MAX: usize = 100;
const SHARED_MS_MAX: u64 = 2_000;
/// Writers beyond which more tell nothing new.
pub const WRITERS_MAX: usize = 16;
/// Bits that the kernel's clock sets while nobody keeps it in step.
const UNSYNCHRONISED: i32 = libc::STA_UNSYNC;

/// A file like a segment of the log: written once before it is used, so that a later write changes
/// no length. It has no name any more, so that nothing is left of it, however this process ends.
struct Scratch {
    file: File,
    bytes: Vec<u8>,
}

impl Scratch {
    fn open(folder: &Path, number: usize, writes: usize) -> io::Result<Self> {
        let path = folder.join(format!(".turnpike-doctor-{}-{number}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        // Something else than zeros, which some devices do not write.
        let scratch = Self { file, bytes: vec![0x5a; WRITE_BYTES] };
        for write in 0..writes {
            scratch.write(write)?;
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }

    fn write(&self, number: usize) -> io::Result<()> {
        self.file.write_all_at(&self.bytes, (number * WRITE_BYTES) as u64)
    }

    /// Writes and syncs up to `syncs` times, for `ms_max` at most; how long each took.
    fn run(&self, syncs: usize, ms_max: u64, mut each: impl FnMut()) -> io::Result<Vec<u64>> {
        let began = monotonic_ns();
        let mut took = Vec::with_capacity(syncs);
        for write in 0..syncs {
            let start = monotonic_ns();
            if start - began > ms_max * 1_000_000 {
                break;
            }
            self.write(write)?;
            self.file.sync_data()?;
            took.push(monotonic_ns() - start);
            each();
        }
        Ok(took)
    }
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Measures writes of 4 KiB, each followed by a sync, in `folder`: one after the other, then by
/// `writers` threads at once with a file each. Takes five seconds at most; `each` hears of every
/// sync of the first part.
///
/// # Errors
/// When the folder cannot be written to, or the disk fails.
pub fn measure_syncs(folder: &Path, writers: usize, each: impl FnMut()) -> io::Result<SyncSeries> {
    let lone_ns = Scratch::open(folder, 0, SYNCS_MAX)?.run(SYNCS_MAX, SYNCS_MS_MAX, each)?;
    let writers = writers.clamp(1, WRITERS_MAX);
    let mut series = SyncSeries { lone_ns, writers, ..SyncSeries::default() };
    if writers == 1 {
        return Ok(series);
    }
    let files: Vec<Scratch> = (0..writers)
        .map(|number| Scratch::open(folder, number, SHARED_SYNCS_MAX))
        .collect::<io::Result<_>>()?;
    let start = Arc::new(Barrier::new(writers + 1));
    let mut running = Vec::new();
    for (number, file) in files.into_iter().enumerate() {
        let start = Arc::clone(&start);
        running.push(threads::spawn(format!("doctor-{number}"), move || {
            start.wait();
            file.run(SHARED_SYNCS_MAX, SHARED_MS_MAX, || {})
        })?);
    }
    start.wait();
    let began = monotonic_ns();
    for thread in running {
        let took = thread.join().map_err(|_| io::Error::other("a measuring thread panicked"))?;
        series.shared_ns.extend(took?);
    }
    series.shared_elapsed_ns = monotonic_ns() - began;
    Ok(series)
}

/// Whether somebody keeps the kernel's clock in step, and the error that it estimates, in
/// microseconds.
///
/// # Errors
/// When the system does not tell.
pub fn clock_state() -> io::Result<(bool, u64)> {
    // SAFETY: all-zero bytes are a valid `timex`: it consists of integers only. `modes` of 0 asks
    // and sets nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `timex`, which the call fills and does not keep.
    let result = unsafe { libc::adjtimex(&mut state) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_kept = result != libc::TIME_ERROR && state.status & UNSYNCHRONISED == 0;
    Ok((is_kept, u64::try_from(state.esterror).unwrap_or(0)))
}

/// Free and total bytes of the disk that holds `path`.
///
/// # Errors
/// When there is no such path.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok((bytes(stat.f_bavail), bytes(stat.f_blocks)))
}

/// Whether this process may change what is the system's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_measured_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut heard = 0;
        let series = measure_syncs(folder.path(), 3, || heard += 1).unwrap();
        assert!(!series.lone_ns.is_empty() && series.lone_ns.iter().all(|ns| *ns > 0));
        assert_eq!(heard, series.lone_ns.len());
        assert!(series.shared_ns.len() >= 3 && series.shared_elapsed_ns > 0);
        assert_eq!(series.writers, 3);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let alone = measure_syncs(folder.path(), 0, || {}).unwrap();
        assert_eq!((alone.writers, alone.shared_ns.len()), (1, 0));
        assert!(measure_syncs(Path::new("/nowhere"), 1, || {}).is_err());
    }

    #[test]
    fn the_machine_tells_its_clock_and_its_disk() {
        clock_state().unwrap();
        let (free, total) = disk_space(Path::new("/")).unwrap();
        assert!(free <= total && total > 0);
        assert!(disk_space(Path::new("/nowhere")).is_err());
    }
}
