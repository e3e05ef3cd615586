//! What the machine offers: cores, memory, descriptors; and what this thread has cost it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::OnceLock;

/// Raises the limit of open descriptors to what the system allows, and returns it.
pub fn raise_descriptors_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What the process was given before any of its threads was pinned.
static ALLOWED: OnceLock<CpuSet> = OnceLock::new();

fn allowed() -> Option<&'static CpuSet> {
    if ALLOWED.get().is_none() {
        let _ = ALLOWED.set(sched_getaffinity(None).ok()?);
    }
    ALLOWED.get()
}

/// The cores that this process may run on, in order. To be asked once before threads are pinned.
pub fn allowed_cores() -> Vec<usize> {
    allowed().map_or_else(
        || vec![0],
        |set| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
    )
}

/// Lets the calling thread run anywhere again: a thread inherits the pin of the one that starts it,
/// and a log thread should not wait for its core.
pub fn unpin_thread() {
    if let Some(set) = allowed() {
        let _ = sched_setaffinity(None, set);
    }
}

/// Pins the calling thread to `core`; a refusal only costs speed.
pub fn pin_thread(core: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).is_ok()
}

/// Bytes of memory that this process may use: the machine's, or its control group's if less.
pub fn memory_bytes() -> u64 {
    let machine = total_memory_bytes();
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .fold(machine, u64::min)
}

fn total_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit.max(1)) * info.totalram as u64
}

/// Resident anonymous memory of this process, as `/proc/self/status` counts it.
pub fn anonymous_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Major page faults of the calling thread so far: reads of mapped files that had to wait for the
/// disk.
pub fn thread_major_faults() -> u64 {
    // SAFETY: all-zero bytes are a valid `rusage`: it consists of integers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `rusage`, which the call fills and does not keep.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    if result == 0 { usage.ru_majflt as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_cores_memory_and_descriptors() {
        assert!(!allowed_cores().is_empty());
        assert!(memory_bytes() > 1 << 26);
        assert!(raise_descriptors_max() >= 64);
        assert!(anonymous_bytes() > 0);
        assert!(thread_major_faults() < u64::MAX);
    }
}
