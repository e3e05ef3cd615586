//! `turnpike doctor`, `tune` and `topology`: the machine under the relay.

mod doctor;
mod topology;
mod tune;

pub(super) use doctor::{Doctor, run as doctor};
pub(super) use topology::{TopologyCommand, run as topology};
pub(super) use tune::{Tune, run as tune};

use super::offline::{SHARDS_DEFAULT_MAX, choose_runtime};
use super::{Failure, Global};
use crate::cluster::EXECUTORS_MAX;
use crate::config::{Ceiling, Config, Machine as CeilingMachine};
use crate::runtime::machine;
use crate::runtime::probe::RuntimeChoice;
use anyhow::anyhow;
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use store::file::directory;
use tuning::Needs;
use tuning::cpus::CpuList;
use tuning::layout::Layout;
use tuning::machine::Machine;
use tuning::tree::Tree;

/// Where the machine is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Look at (and change) the files of the system below DIR, such as an image that is being built
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Place {
    /// Whether this is the machine itself.
    fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    fn tree(&self) -> Result<Tree, Failure> {
        if !self.root.is_dir() {
            let message = anyhow!("--root {}: there is no such folder", self.root.display());
            return Err(Failure::Usage(message));
        }
        Ok(Tree::new(&self.root))
    }
}

/// The machine as this relay would find it.
struct Seen {
    tree: Tree,
    machine: Machine,
    allowed: Vec<usize>,
    layout: Layout,
    needs: Needs,
    /// Bytes of memory that the relay may use at all.
    memory_bytes: u64,
    /// Where the number of shards comes from.
    shards_from: String,
    warnings: Vec<String>,
    /// The relay that runs over the data directory.
    relay_pid: Option<u32>,
}

/// Another machine than the one that is there.
#[derive(Clone, Copy, Debug, Default)]
struct Imagined {
    cores: Option<usize>,
    memory_mib: Option<u64>,
}

impl Seen {
    fn look(
        config: &Config,
        global: &Global,
        place: &Place,
        imagined: Imagined,
    ) -> Result<Self, Failure> {
        let tree = place.tree()?;
        let data_dir = absolute(Path::new(&config.store.data_dir));
        let mut warnings = Vec::new();
        let relay_pid = match imagined.cores {
            // What runs here runs on another machine.
            Some(_) => None,
            None => relay_pid(&data_dir),
        };
        let (machine, allowed) = match imagined.cores {
            Some(cores) => (Machine::plain(cores), (0..cores).collect()),
            None => {
                let allowed = allowed(&tree, place, relay_pid);
                (Machine::read(&tree, &allowed), allowed)
            }
        };
        let (shards, shards_from) = shards(config, global, &data_dir, allowed.len(), &mut warnings);
        let layout = Layout::new(&machine, &allowed, shards, EXECUTORS_MAX);
        let memory_bytes = match imagined.memory_mib {
            Some(mib) => mib << 20,
            None => machine::memory_bytes(),
        };
        let budget = CeilingMachine {
            memory_bytes,
            cores: layout.executors.len() as u64,
            shards: shards.into(),
        };
        let memory = Ceiling::compute(config, budget);
        let listen: Option<SocketAddr> = config.network.listen.parse().ok();
        let needs = Needs {
            connections_max: config.network.connections_max.into(),
            backlog: config.network.backlog.into(),
            listen_port: listen.map_or(0, |address| address.port()),
            shards,
            executors_max: EXECUTORS_MAX,
            memory: memory.map(|ceiling| ceiling.total_bytes()).map_err(|error| {
                let text = error.to_string();
                text.lines().next().unwrap_or_default().to_owned()
            }),
            data_dir,
            insists_on_io_uring: matches!(
                config.runtime.runtime,
                RuntimeChoice::IoUring | RuntimeChoice::Glommio
            ),
        };
        let seen = Self {
            tree,
            machine,
            allowed,
            layout,
            needs,
            memory_bytes,
            shards_from,
            warnings,
            relay_pid,
        };
        Ok(seen)
    }
}

/// The path from the root, as the list of mounts names it: links are followed as far as there is
/// anything.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut at = path.as_path();
    loop {
        if let Ok(real) = std::fs::canonicalize(at) {
            return missing.iter().rev().fold(real, |real, name| real.join(name));
        }
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return path };
        missing.push(name.to_owned());
        at = parent;
    }
}

/// The process that holds the data directory, if it can be told.
fn relay_pid(data_dir: &Path) -> Option<u32> {
    directory::holder(data_dir).ok().flatten()?.parse().ok()
}

/// The processors that the relay may use: those of the one that runs, else those of this process,
/// else all of a machine that is not this one.
fn allowed(tree: &Tree, place: &Place, relay_pid: Option<u32>) -> Vec<usize> {
    let of_file = |path: &str, field: &str| -> Option<Vec<usize>> {
        let text = tuning::host::text(tree, path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        let cpus: CpuList = line.trim_start_matches(':').trim().parse().ok()?;
        (!cpus.is_empty()).then(|| cpus.iter().collect())
    };
    let of_relay = relay_pid
        .filter(|_| place.is_here())
        .and_then(|pid| of_file(&format!("/proc/{pid}/status"), "Cpus_allowed_list"));
    let of_tree = || match place.is_here() {
        true => None,
        false => of_file("/sys/devices/system/cpu/online", ""),
    };
    of_relay.or_else(of_tree).unwrap_or_else(machine::allowed_cores)
}

/// The shards that the relay will have, and where that number comes from.
fn shards(
    config: &Config,
    global: &Global,
    data_dir: &Path,
    cores: usize,
    warnings: &mut Vec<String>,
) -> (u16, String) {
    if let Some(asked @ 1..) = global.shards {
        return (asked, "as asked for".into());
    }
    match directory::shards(data_dir) {
        Ok(Some(made)) => {
            let asked = config.store.shards;
            if asked != 0 && asked != made {
                warnings.push(format!(
                    "store.shards says {asked} and the data directory has {made}: the relay does \
                     not start before one of them is changed (turnpike reshard --shards {asked})"
                ));
            }
            return (made, "as the data directory has them".into());
        }
        Ok(None) => {}
        Err(error) => {
            warnings.push(format!("the shards of the data directory are not known: {error}"))
        }
    }
    match config.store.shards {
        0 => {
            let shards = cores.min(SHARDS_DEFAULT_MAX) as u16;
            (shards, format!("a new directory's: one per processor, at most {SHARDS_DEFAULT_MAX}"))
        }
        shards => (shards, "as store.shards says".into()),
    }
}

/// The runtime in words, also when there is none.
fn runtime(config: &Config, warnings: &mut Vec<String>) -> String {
    match choose_runtime(config) {
        Ok(chosen) => chosen.line,
        Err(Failure::Failed(error) | Failure::Usage(error) | Failure::Held(error)) => {
            warnings.push(format!("the relay does not start: {error:#}"));
            "no runtime".into()
        }
        Err(Failure::BrokenPipe) => "no runtime".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_is_told_from_the_last_folder_that_is() {
        let root = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(root.path()).unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(absolute(&real.join("link/a/b")), real.join("a/b"));
        assert!(absolute(Path::new("data")).is_absolute());
    }
}
