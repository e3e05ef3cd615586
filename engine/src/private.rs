//! A relay without a network: all cores over a data directory that nobody else holds, and only the
//! local socket to reach them by. Commands that speak to a relay as clients do start one in their own
//! process when none runs.

use crate::cluster::{Cluster, StartError};
use crate::config::Config;
use crate::runtime::machine;
use crate::runtime::probe::Chosen;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::file::directory::DataDirectory;

/// A relay that serves the local socket only. Owned by the thread of the command; to be ended with
/// [`Private::end`], or events that were not answered yet are lost with the process.
pub struct Private {
    cluster: Cluster,
    socket: PathBuf,
}

/// Opens all shards of `directory` and serves them on its local socket; `progress` hears how many of
/// how many shards are open.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn run_private(
    config: Arc<Config>,
    directory: DataDirectory,
    chosen: &Chosen,
    progress: impl FnMut(u16, u16),
) -> Result<Private, StartError> {
    machine::raise_descriptors_max();
    let mut cluster = Cluster::open(config, directory, chosen, progress)?;
    let socket = cluster.listen_locally()?;
    Ok(Private { cluster, socket })
}

impl Private {
    /// Where a WebSocket client connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends in order: answers out, connections closed, stores written down. `false` when that took
    /// longer than `timeout_ms`.
    pub fn end(self, timeout_ms: u64) -> bool {
        self.cluster.end(timeout_ms)
    }
}
