//! The relay seen from outside: what its process uses, read from `/proc` when it runs on this
//! machine. The process is found by the socket that listens on the target's port.
#![allow(clippy::disallowed_methods, reason = "reads /proc")]

use rustix::param::{clock_ticks_per_second, page_size};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The process of a relay.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its process id.
    pub pid: u32,
    directory: PathBuf,
}

/// What it had used at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// CPU time of each thread since it began: by thread id, with the thread's name.
    pub threads: BTreeMap<u32, (String, u64)>,
    /// CPU time of the whole process, user and system, ended threads included, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// The part of it that no file backs.
    pub anon_bytes: u64,
    /// Open file descriptors.
    pub fds: u64,
    /// Bytes it caused to be read from disks.
    pub disk_read_bytes: u64,
    /// Bytes it caused to be written to disks.
    pub disk_write_bytes: u64,
    /// Bytes received on all interfaces of its network namespace.
    pub net_in_bytes: u64,
    /// Bytes sent on all interfaces of its network namespace.
    pub net_out_bytes: u64,
}

impl Server {
    /// The process that listens on `address`, if it runs here and may be looked at.
    pub fn find(address: SocketAddr) -> Option<Self> {
        if !address.ip().is_loopback() && !is_own_address(address) {
            return None;
        }
        Self::find_in(Path::new("/proc"), address.port())
    }

    fn find_in(proc: &Path, port: u16) -> Option<Self> {
        let inodes = listening_inodes(proc, port);
        for entry in fs::read_dir(proc).ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(fds) = fs::read_dir(entry.path().join("fd")) else { continue };
            for fd in fds.flatten() {
                if let Ok(link) = fs::read_link(fd.path())
                    && let Some(inode) = link.to_str().and_then(inode_of)
                    && inodes.contains(&inode)
                {
                    return Some(Self { pid, directory: entry.path() });
                }
            }
        }
        None
    }

    /// The process `pid`.
    pub fn with_pid(pid: u32) -> Option<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        directory.is_dir().then_some(Self { pid, directory })
    }

    /// What it has used until now; `None` once it has ended.
    pub fn sample(&self) -> Option<Sample> {
        let stat = self.read("stat")?;
        let status = self.read("status").unwrap_or_default();
        let io = self.read("io").unwrap_or_default();
        let mut sample = Sample {
            cpu_ns: cpu_of_stat(&stat)?,
            rss_bytes: field_kib(&status, "VmRSS:")
                .unwrap_or_else(|| resident_of_stat(&stat).unwrap_or(0)),
            anon_bytes: field_kib(&status, "RssAnon:").unwrap_or(0),
            fds: fs::read_dir(self.directory.join("fd")).map_or(0, |fds| fds.count() as u64),
            disk_read_bytes: field(&io, "read_bytes:").unwrap_or(0),
            disk_write_bytes: field(&io, "write_bytes:").unwrap_or(0),
            ..Sample::default()
        };
        (sample.net_in_bytes, sample.net_out_bytes) =
            interfaces(&self.read("net/dev").unwrap_or_default());
        for task in fs::read_dir(self.directory.join("task")).ok()?.flatten() {
            let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if let Some(cpu_ns) = task_cpu_ns(&task.path()) {
                sample.threads.insert(tid, (name.trim_end().to_owned(), cpu_ns));
            }
        }
        // Ticks are 10 ms; the sum of the threads is exact while none has ended.
        let exact: u64 = sample.threads.values().map(|(_, cpu)| cpu).sum();
        sample.cpu_ns = sample.cpu_ns.max(exact);
        Some(sample)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(name)).ok()
    }

    /// Its command line, for the report.
    pub fn command(&self) -> String {
        let bytes = fs::read(self.directory.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = bytes
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        words.join(" ")
    }
}

impl Sample {
    /// CPU time since `before` by name of thread, the busiest first.
    pub fn threads_since(&self, before: &Self) -> Vec<(String, u64)> {
        let mut used: Vec<(String, u64)> = self
            .threads
            .iter()
            .map(|(tid, (name, cpu_ns))| {
                let earlier = before.threads.get(tid).map_or(0, |(_, cpu_ns)| *cpu_ns);
                (name.clone(), cpu_ns.saturating_sub(earlier))
            })
            .collect();
        used.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        used
    }
}

/// Whether this machine has the address: only then can a socket be bound to it.
fn is_own_address(address: SocketAddr) -> bool {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let Ok(probe) = socket(family, SocketType::DGRAM, None) else { return false };
    bind(&probe, &SocketAddr::new(address.ip(), 0)).is_ok()
}

/// Inodes of the sockets that listen on `port`.
fn listening_inodes(proc: &Path, port: u16) -> Vec<u64> {
    let mut inodes = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(proc.join(table)).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = words[..] else { continue };
            let local_port =
                local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
            if local_port == Some(port)
                && let Ok(inode) = inode.parse()
            {
                inodes.push(inode);
            }
        }
    }
    inodes
}

fn inode_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The fields of a `stat` file from the state on: a thread's name may contain spaces.
fn stat_fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace().collect())
}

fn cpu_of_stat(stat: &str) -> Option<u64> {
    let fields = stat_fields(stat)?;
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 1_000_000_000 / clock_ticks_per_second().max(1))
}

fn resident_of_stat(stat: &str) -> Option<u64> {
    Some(stat_fields(stat)?.get(21)?.parse::<u64>().ok()? * page_size() as u64)
}

fn task_cpu_ns(task: &Path) -> Option<u64> {
    let exact = fs::read_to_string(task.join("schedstat"))
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok());
    exact.or_else(|| cpu_of_stat(&fs::read_to_string(task.join("stat")).ok()?))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    Some(field(text, name)? * 1_024)
}

/// Bytes received and sent on all interfaces.
fn interfaces(dev: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in dev.lines().skip(2) {
        let Some((_, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> =
            numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if let [received, _, _, _, _, _, _, _, sent, ..] = numbers[..] {
            sum = (sum.0 + received, sum.1 + sent);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    #[allow(clippy::disallowed_types)]
    use std::net::TcpListener;

    #[test]
    fn the_process_that_listens_is_found_and_its_use_grows() {
        #[allow(clippy::disallowed_types)]
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::find(listener.local_addr().unwrap()).unwrap();
        assert_eq!(server.pid, std::process::id());
        let before = server.sample().unwrap();
        let mut sum = 0_u64;
        while server.sample().unwrap().cpu_ns == before.cpu_ns {
            sum = (0..1_000_000_u64).fold(sum, |sum, number| sum.wrapping_mul(31) ^ number);
        }
        let after = server.sample().unwrap();
        assert!(before.rss_bytes > 0 && before.fds > 2, "{before:?} {sum}");
        assert!(after.threads_since(&before).iter().any(|(_, cpu_ns)| *cpu_ns > 0));
        assert!(!server.command().is_empty());
    }

    #[test]
    fn files_of_proc_are_read_as_they_are() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 99 1000 25 18446744";
        let ticks = clock_ticks_per_second();
        assert_eq!(cpu_of_stat(stat), Some(200 * 1_000_000_000 / ticks));
        assert_eq!(resident_of_stat(stat), Some(25 * page_size() as u64));
        let dev =
            "h\nh\n lo: 10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0\neth0: 1 1 0 0 0 0 0 0 2 2 0 0 0 0 0 0\n";
        assert_eq!(interfaces(dev), (11, 22));
        assert_eq!(field_kib("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12 * 1_024));
    }
}
