//! CPU time: of this thread by its own clock, of another process by what the scheduler keeps for
//! each of its threads. Both count nanoseconds on a processor, so a busy neighbour lengthens no
//! measurement (but for what it does to the caches).

use anyhow::{Context, bail};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Time that all processes agree on and that nobody sets, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU time of each thread of a process, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// By thread id: name and nanoseconds.
    by_id: BTreeMap<u32, (String, u64)>,
}

impl Threads {
    /// Reads `/proc/<pid>/task`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let directory = format!("/proc/{pid}/task");
        let mut by_id = BTreeMap::new();
        for entry in
            std::fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?
        {
            let path = entry?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            // A thread may end between the two reads; what it cost is then lost, and small.
            let Ok(stat) = std::fs::read_to_string(path.join("schedstat")) else { continue };
            let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
            by_id.insert(id, (name.trim_end().to_owned(), schedstat_ns(&stat)?));
        }
        Ok(Self { by_id })
    }

    /// Nanoseconds of all threads since `earlier`.
    pub fn since(&self, earlier: &Self) -> Spent {
        let mut by_name = BTreeMap::new();
        for (id, (name, ns)) in &self.by_id {
            let before = earlier.by_id.get(id).map_or(0, |(_, ns)| *ns);
            *by_name.entry(name.clone()).or_insert(0) += ns.saturating_sub(before);
        }
        Spent { by_name }
    }
}

/// First field of a `schedstat`: nanoseconds on a processor.
fn schedstat_ns(text: &str) -> anyhow::Result<u64> {
    match text.split_ascii_whitespace().next().map(str::parse) {
        Some(Ok(ns)) => Ok(ns),
        _ => bail!("this kernel keeps no schedstat of threads (it says {text:?})"),
    }
}

/// CPU time by the name of the thread that spent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    by_name: BTreeMap<String, u64>,
}

impl Spent {
    /// All threads.
    pub fn total_ns(&self) -> u64 {
        self.by_name.values().sum()
    }

    /// Threads whose name begins with `prefix`.
    pub fn named_ns(&self, prefix: &str) -> u64 {
        let named = self.by_name.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(_, ns)| ns).sum()
    }

    /// Each thread name that begins with `prefix`, with its time.
    pub fn each<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        let named = self.by_name.iter().filter(move |(name, _)| name.starts_with(prefix));
        named.map(|(name, ns)| (name.as_str(), *ns))
    }

    /// Adds what another stretch cost.
    pub fn add(&mut self, other: &Self) {
        for (name, ns) in &other.by_name {
            *self.by_name.entry(name.clone()).or_insert(0) += ns;
        }
    }

    /// The time per operation of each group of threads that spent any, the largest first: numbers at
    /// the end of names are left out, so that `core-0` and `core-1` are one group.
    pub fn per_operation(&self, operations: u64) -> String {
        let mut groups: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, ns) in &self.by_name {
            let group = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
            *groups.entry(group).or_insert(0) += ns;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
        let parts = groups.iter().map(|(name, ns)| (name, *ns as f64 / operations.max(1) as f64));
        let parts = parts.filter(|(_, ns)| *ns >= 5.0);
        parts.map(|(name, ns)| format!("{name} {:.2}", ns / 1_000.0)).collect::<Vec<_>>().join(", ")
    }
}

/// Anonymous memory of a process: what it allocated, without mapped files and without kernel
/// memory.
///
/// # Errors
/// When the process is gone.
pub fn anonymous_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    status_kib(&status, "RssAnon:").map(|kib| kib * 1024).context("the kernel tells no RssAnon")
}

fn status_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The processors that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the processor calls itself.
pub fn model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    model_in(&info)
}

fn model_in(info: &str) -> String {
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().map(str::trim) == Some(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| "unknown".to_owned());
    match (field("cpu family"), field("model"), field("stepping")) {
        // Virtual machines often hide the name; family and model still tell generations apart.
        (Some(family), Some(model), Some(stepping)) => {
            format!("{name} (family {family}, model {model}, stepping {stepping})")
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(list: &[(u32, &str, u64)]) -> Threads {
        let by_id = list.iter().map(|(id, name, ns)| (*id, ((*name).to_owned(), *ns))).collect();
        Threads { by_id }
    }

    #[test]
    fn schedstat_is_read_and_its_absence_told() {
        assert_eq!(schedstat_ns("123456789 22 7\n").unwrap(), 123_456_789);
        assert!(schedstat_ns("").is_err());
        assert!(schedstat_ns("off").is_err());
    }

    #[test]
    fn spent_counts_threads_that_began_and_forgets_what_was_before() {
        let before = threads(&[(1, "core-0", 1_000), (2, "core-1", 500), (3, "gone", 9)]);
        let after = threads(&[(1, "core-0", 4_000), (2, "core-1", 1_500), (4, "pool-0", 200)]);
        let mut spent = after.since(&before);
        assert_eq!(spent.total_ns(), 4_200);
        assert_eq!(spent.named_ns("core-"), 4_000);
        assert_eq!(spent.each("core-").collect::<Vec<_>>(), [("core-0", 3_000), ("core-1", 1_000)]);
        spent.add(&after.since(&before));
        assert_eq!(spent.total_ns(), 8_400);
        assert_eq!(spent.per_operation(8), "core 1.00, pool 0.05");
    }

    #[test]
    fn the_clocks_of_this_thread_and_of_its_process_agree() {
        let pid = std::process::id();
        let (before, own) = (Threads::of(pid).unwrap(), thread_ns());
        let mut word = 1_u64;
        while thread_ns() - own < 30_000_000 {
            word = std::hint::black_box(word.wrapping_mul(3));
        }
        // The scheduler's figure of a running thread may lag by a tick.
        let spent = Threads::of(pid).unwrap().since(&before).total_ns();
        assert!(spent > 15_000_000, "{spent}");
        assert!(anonymous_bytes(pid).unwrap() > 4_096);
        assert!(monotonic_ns() > 0);
    }

    #[test]
    fn status_and_cpuinfo_are_read_field_by_field() {
        let status = "Name:\tx\nVmRSS:\t 9 kB\nRssAnon:\t  4321 kB\n";
        assert_eq!(status_kib(status, "RssAnon:"), Some(4_321));
        assert_eq!(status_kib(status, "RssFile:"), None);
        let info = "cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: A CPU\nstepping\t: 8\n";
        assert_eq!(model_in(info), "A CPU (family 6, model 143, stepping 8)");
        assert_eq!(model_in(""), "unknown");
    }
}
