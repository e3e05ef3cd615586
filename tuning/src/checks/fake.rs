//! A machine made of files, for tests.
#![allow(clippy::disallowed_methods, reason = "tests write the files that the checks read")]

use crate::cpus::CpuList;
use crate::needs::{Measured, Needs, SyncSeries};
use crate::tree::Tree;
use std::path::PathBuf;

pub(crate) struct Fake {
    root: tempfile::TempDir,
}

impl Fake {
    /// Without a single file.
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// Four processors, everything as it should be.
    pub(crate) fn good() -> Self {
        let fake = Self::new();
        for (path, text) in GOOD {
            fake.write(path, text);
        }
        for cpu in 0..4 {
            let folder = format!("/sys/devices/system/cpu/cpu{cpu}");
            fake.write(&format!("{folder}/cpufreq/scaling_governor"), "performance\n");
            fake.write(&format!("{folder}/topology/core_cpus_list"), &format!("{cpu}\n"));
            let irq = 40 + cpu;
            fake.write(&format!("/sys/class/net/eth0/device/msi_irqs/{irq}"), "msix\n");
            fake.write(&format!("/proc/irq/{irq}/smp_affinity_list"), &format!("{cpu}\n"));
            fake.write(&format!("/sys/class/net/eth0/queues/rx-{cpu}/rps_cpus"), "0\n");
            let mask = CpuList::from_iter([cpu]).mask();
            fake.write(&format!("/sys/class/net/eth0/queues/tx-{cpu}/xps_cpus"), &mask);
        }
        fake
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::new(self.root.path())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let at = self.at(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, text).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let at = self.at(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, at).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        let at = self.at(path);
        let _ = std::fs::remove_file(&at);
        let _ = std::fs::remove_dir_all(&at);
    }
}

/// The files of a machine that is as it should be, beside those of its processors and queues.
const GOOD: &[(&str, &str)] = &[
    ("/proc/sys/kernel/osrelease", "6.12.1-amd64\n"),
    ("/proc/sys/kernel/io_uring_disabled", "0\n"),
    ("/proc/self/status", "Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n"),
    (
        "/proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1024                 524288               files     \n\
         Max locked memory         8388608              8388608              bytes     \n",
    ),
    ("/proc/self/cgroup", "0::/system.slice/x.service\n"),
    (
        "/proc/self/mountinfo",
        "22 1 0:21 / /proc rw - proc proc rw\n27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n",
    ),
    ("/proc/sys/fs/nr_open", "1048576\n"),
    ("/proc/sys/fs/file-max", "9223372036854775807\n"),
    ("/proc/sys/net/core/somaxconn", "4096\n"),
    ("/proc/sys/net/core/netdev_max_backlog", "16384\n"),
    ("/proc/sys/net/core/default_qdisc", "fq\n"),
    ("/proc/sys/net/ipv4/tcp_max_syn_backlog", "8192\n"),
    ("/proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "0\n"),
    ("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("/proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
    ("/proc/sys/net/ipv4/tcp_congestion_control", "bbr\n"),
    ("/proc/sys/net/ipv4/tcp_available_congestion_control", "reno cubic bbr\n"),
    ("/proc/net/softnet_stat", "00000001 00000000 00000000\n"),
    ("/proc/sys/vm/swappiness", "1\n"),
    ("/proc/sys/vm/dirty_background_bytes", "134217728\n"),
    ("/proc/sys/vm/dirty_background_ratio", "0\n"),
    ("/proc/sys/vm/dirty_bytes", "1073741824\n"),
    ("/proc/sys/vm/dirty_ratio", "0\n"),
    ("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/swap file 1 0 -2\n"),
    ("/proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n"),
    (
        "/proc/interrupts",
        " 40: 1 PCI-MSIX eth0-TxRx-0\n 41: 1 PCI-MSIX eth0-TxRx-1\n 42: 1 PCI-MSIX eth0-TxRx-2\n \
         43: 1 PCI-MSIX eth0-TxRx-3\n",
    ),
    ("/sys/class/net/eth0/operstate", "up\n"),
    ("/sys/class/net/lo/operstate", "unknown\n"),
    ("/sys/devices/system/cpu/online", "0-3\n"),
    ("/sys/devices/system/cpu/isolated", "\n"),
    ("/sys/devices/system/node/node0/cpulist", "0-3\n"),
    ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("/sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm\n"),
    ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("/sys/fs/cgroup/system.slice/x.service/cpu.max", "max 100000\n"),
    ("/sys/dev/block/254:0/queue/rotational", "0\n"),
    ("/sys/dev/block/254:0/queue/scheduler", "[none] mq-deadline\n"),
    ("/sys/dev/block/254:0/queue/write_cache", "write back\n"),
];

/// What the default configuration needs.
pub(crate) fn needs() -> Needs {
    Needs {
        connections_max: 20_000,
        backlog: 4_096,
        listen_port: 7_777,
        shards: 4,
        executors_max: 63,
        memory: Ok(2 << 30),
        data_dir: "/var/lib/turnpike/data".into(),
        insists_on_io_uring: false,
    }
}

/// Measurements of a good machine.
pub(crate) fn measured() -> Measured {
    Measured {
        io_uring: Ok(()),
        syncs: Ok(SyncSeries {
            lone_ns: vec![200_000; 100],
            shared_ns: vec![300_000; 400],
            writers: 4,
            shared_elapsed_ns: 30_000_000,
        }),
        space: Ok((800 << 30, 1_000 << 30)),
        clock: Ok((true, 400)),
        relay_pid: None,
        allowed: vec![0, 1, 2, 3],
    }
}
