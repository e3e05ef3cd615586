//! Where a run took place, and against what.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reads /proc and asks the relay who it is"
)]

use crate::load::{Server, Target};
use serde::{Deserialize, Serialize};

/// The machine that the load came from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Model of its CPUs.
    pub cpu: String,
    /// CPUs.
    pub cpus: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// Kernel.
    pub kernel: String,
    /// Most open files of a process.
    pub files_max: u64,
    /// Load average of the last minute, before the run.
    pub load_average: f64,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value_of = |text: &str, name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
        };
        let memory = value_of(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let uname = rustix::system::uname();
        Self {
            cpu: value_of(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib * 1_024,
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            files_max: files.unwrap_or(u64::MAX),
            load_average: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|average| average.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

/// A relay that was loaded.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Relay {
    /// Its URL.
    pub url: String,
    /// What it says it is (NIP-11); empty if it does not.
    pub software: String,
    /// Its command line, if its process could be seen.
    pub command: String,
}

impl Relay {
    /// Asks a relay what it is.
    pub fn ask(target: &Target, server: Option<&Server>) -> Self {
        Self {
            url: target.url.clone(),
            software: nip11(target).unwrap_or_default(),
            command: server.map(Server::command).unwrap_or_default(),
        }
    }

    /// A short name: the software, else the URL.
    pub fn name(&self) -> String {
        if self.software.is_empty() { self.url.clone() } else { self.software.clone() }
    }
}

fn nip11(target: &Target) -> Option<String> {
    let document = target.information()?;
    let text = |key: &str| document.get(key).and_then(|value| value.as_str()).unwrap_or_default();
    // What has no software to name has at least a name.
    let named = if text("software").is_empty() { text("name") } else { text("software") };
    let software = named.rsplit('/').next().unwrap_or_default().trim_end_matches(".git");
    Some(format!("{software} {}", text("version")).trim().to_owned())
}
