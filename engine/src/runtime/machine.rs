//! What the machine offers: cores, memory, descriptors; and what this thread has cost it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::{Path, PathBuf};
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

/// Bytes of memory that this process may use: the machine's, or less if a control group that it is
/// in, directly or through its parents, allows less.
pub fn memory_bytes() -> u64 {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&groups)
        .iter()
        // Without a limit the file says `max`, or does not exist, as in the root group.
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .fold(total_memory_bytes(), u64::min)
}

/// The files that may limit a process whose `/proc/self/cgroup` reads `groups`: of its group and
/// of every group above it, up to the root of what is mounted here. Within a container the path
/// may be the host's; then only the root's file exists, and it is the container's own.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            v1 if v1.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| Path::new(root).join(group).join(file)));
    }
    files
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

/// Bytes of the disk that holds `path` which this process may still use.
pub fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
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
    #[test]
    fn a_group_and_all_groups_above_it_limit_the_memory() {
        let files = |groups| {
            let files = limit_files(groups);
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            files("0::/system.slice/turnpike.service\n"),
            [
                "/sys/fs/cgroup/system.slice/turnpike.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            files("9:memory:/a\n8:cpu,cpuacct:/b\n"),
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        assert!(files("").is_empty() && files("damaged").is_empty());
    }
}
