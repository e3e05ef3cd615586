//! What the relay needs of its host, and what was measured on it.

use std::path::PathBuf;

/// The numbers of the configuration that the host has to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Open connections of the whole relay.
    pub connections_max: u64,
    /// Connections that may wait to be accepted, per core.
    pub backlog: u64,
    /// The port it listens on.
    pub listen_port: u16,
    /// Shards that the store has or will have.
    pub shards: u16,
    /// Most executors that the relay starts, whatever the machine.
    pub executors_max: usize,
    /// Bytes of anonymous memory that its budgets add up to; `None` where they do not fit, with
    /// the reason.
    pub memory: Result<u64, String>,
    /// The data directory, absolute.
    pub data_dir: PathBuf,
    /// Whether the operator insists on a backend that stands on `io_uring`.
    pub insists_on_io_uring: bool,
}

impl Needs {
    /// Descriptors for all connections, and for what else a process opens: per shard the index, the
    /// segments that are being read and written, and rings.
    pub fn descriptors(&self) -> u64 {
        self.connections_max + 1_024 + u64::from(self.shards) * 64
    }
}

/// How long syncs took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncSeries {
    /// Nanoseconds of each write of 4 KiB and the sync that followed it, one after the other.
    pub lone_ns: Vec<u64>,
    /// The same while several threads did so at once, each in a file of its own, as shards do.
    pub shared_ns: Vec<u64>,
    /// How many threads these were.
    pub writers: usize,
    /// How long all of them together took.
    pub shared_elapsed_ns: u64,
}

/// What no file says. Everything is optional: what could not be measured says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// `Ok` when `io_uring` does all that the relay wants of it; else what is missing.
    pub io_uring: Result<(), String>,
    /// Syncs of the disk that holds the data directory.
    pub syncs: Result<SyncSeries, String>,
    /// Free and total bytes of that disk.
    pub space: Result<(u64, u64), String>,
    /// Whether the kernel's clock is kept in step, and the error that it estimates, in microseconds.
    pub clock: Result<(bool, u64), String>,
    /// The relay that holds the data directory; its limits count then, not those of the shell.
    pub relay_pid: Option<u32>,
    /// Processors that this process may use.
    pub allowed: Vec<usize>,
}
