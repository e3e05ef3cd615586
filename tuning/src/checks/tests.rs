//! Each check with a machine that is as it should be, one that is not, and one that does not say.

use super::fake::{Fake, measured, needs};
use super::*;
use crate::needs::SyncSeries;
use crate::report::COLUMNS;

fn report_of(fake: &Fake, needs: &Needs, measured: &Measured) -> Report {
    let tree = fake.tree();
    let machine = Machine::read(&tree, &measured.allowed);
    let layout = Layout::new(&machine, &measured.allowed, needs.shards, needs.executors_max);
    run(&Subject { host: &tree, machine: &machine, layout: &layout, needs, measured })
}

fn finding(fake: &Fake, id: &str) -> Finding {
    find_in(report_of(fake, &needs(), &measured()), id)
}

fn find_in(report: Report, id: &str) -> Finding {
    let found = report.findings.into_iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("there is no check {id}"))
}

#[test]
fn a_good_machine_is_found_good_by_every_check() {
    let report = report_of(&Fake::good(), &needs(), &measured());
    let bad: Vec<_> =
        report.findings.iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(report.findings.len() >= 30, "{}", report.findings.len());
    let mut ids: Vec<_> = report.findings.iter().map(|finding| finding.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), report.findings.len(), "ids name one check each");
}

#[test]
fn a_machine_that_says_nothing_is_no_panic_and_no_verdict_without_a_reason() {
    let nothing = Measured {
        io_uring: Err("not tried".into()),
        syncs: Err("no such folder".into()),
        space: Err("no such folder".into()),
        clock: Err("not permitted".into()),
        relay_pid: Some(1),
        allowed: vec![0],
    };
    let report = report_of(&Fake::new(), &needs(), &nothing);
    assert_eq!(report.count(Verdict::Problem), 0, "{}", report.table(false));
    assert!(report.count(Verdict::Unknown) >= 20, "{}", report.table(false));
    for finding in &report.findings {
        let says_why = finding.is.contains(": ") || finding.verdict != Verdict::Unknown;
        assert!(says_why, "{finding:?}");
    }
}

/// Words in backticks that look like the name of a check or of a key.
fn named(text: &str) -> Vec<&str> {
    let words = text.split('`').skip(1).step_by(2);
    words.filter(|word| word.split('.').count() == 2 && !word.contains([' ', '/'])).collect()
}

#[test]
fn the_checks_that_the_manual_names_exist() {
    let manual = include_str!("../../../docs/tuning.md");
    let (_, section) = manual.split_once("## What matters most").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let report = report_of(&Fake::good(), &needs(), &measured());
    let names = named(section);
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        assert!(report.findings.iter().any(|finding| finding.id == name), "{name}");
    }
}

#[test]
fn every_table_fits_its_columns() {
    let bad = Fake::good();
    for (_, path, text, _) in BAD {
        bad.write(path, text);
    }
    for fake in [&Fake::good(), &bad, &Fake::new()] {
        let table = report_of(fake, &needs(), &measured()).table(true);
        for line in table.lines() {
            let is_command = line.trim_start().starts_with("$ ");
            assert!(is_command || line.chars().count() <= COLUMNS, "{line}");
        }
    }
}

/// A file that is not as it should be, which check finds it, and what it says.
const BAD: &[(&str, &str, &str, Verdict)] = &[
    ("kernel.version", "/proc/sys/kernel/osrelease", "5.15.0-91-generic\n", Verdict::Advice),
    ("kernel.version", "/proc/sys/kernel/osrelease", "six\n", Verdict::Unknown),
    (
        "kernel.clocksource",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        "hpet\n",
        Verdict::Advice,
    ),
    ("limit.nr_open", "/proc/sys/fs/nr_open", "1024\n", Verdict::Problem),
    ("limit.file_max", "/proc/sys/fs/file-max", "1024\n", Verdict::Problem),
    ("net.somaxconn", "/proc/sys/net/core/somaxconn", "128\n", Verdict::Advice),
    ("net.syn_backlog", "/proc/sys/net/ipv4/tcp_max_syn_backlog", "256\n", Verdict::Advice),
    ("net.syncookies", "/proc/sys/net/ipv4/tcp_syncookies", "0\n", Verdict::Problem),
    ("net.slow_start", "/proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n", Verdict::Advice),
    ("net.backlog_packets", "/proc/sys/net/core/netdev_max_backlog", "1000\n", Verdict::Advice),
    ("net.ports", "/proc/sys/net/ipv4/ip_local_port_range", "40000\t50000\n", Verdict::Advice),
    ("net.ports", "/proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n", Verdict::Advice),
    ("net.congestion", "/proc/sys/net/ipv4/tcp_congestion_control", "cubic\n", Verdict::Advice),
    ("net.congestion", "/proc/sys/net/core/default_qdisc", "pfifo_fast\n", Verdict::Advice),
    ("net.conntrack", "/proc/sys/net/netfilter/nf_conntrack_max", "16384\n", Verdict::Problem),
    ("net.steering", "/sys/class/net/eth0/queues/tx-0/xps_cpus", "0\n", Verdict::Ok),
    ("cpu.isolated", "/sys/devices/system/cpu/isolated", "0-3\n", Verdict::Advice),
    (
        "cpu.governor",
        "/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
        "powersave\n",
        Verdict::Advice,
    ),
    (
        "cpu.quota",
        "/sys/fs/cgroup/system.slice/x.service/cpu.max",
        "200000 100000\n",
        Verdict::Problem,
    ),
    ("cpu.quota", "/sys/fs/cgroup/system.slice/cpu.max", "399999 100000\n", Verdict::Problem),
    ("memory.size", "/proc/meminfo", "MemTotal: 3145728 kB\n", Verdict::Advice),
    ("memory.size", "/proc/meminfo", "MemTotal: 1048576 kB\n", Verdict::Problem),
    ("memory.size", "/sys/fs/cgroup/memory.max", "2147483648\n", Verdict::Problem),
    (
        "memory.thp",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "[always] madvise never\n",
        Verdict::Advice,
    ),
    ("memory.swap", "/proc/sys/vm/swappiness", "60\n", Verdict::Advice),
    ("memory.dirty", "/proc/sys/vm/dirty_bytes", "99999999999\n", Verdict::Advice),
    (
        "memory.dirty_background",
        "/proc/sys/vm/dirty_background_bytes",
        "9999999999\n",
        Verdict::Advice,
    ),
    ("disk.device", "/sys/dev/block/254:0/queue/rotational", "1\n", Verdict::Advice),
    ("disk.device", "/sys/dev/block/254:0/queue/scheduler", "none [bfq]\n", Verdict::Advice),
];

#[test]
fn each_file_that_is_not_as_it_should_be_is_found() {
    for (id, path, text, verdict) in BAD {
        let fake = Fake::good();
        fake.write(path, text);
        let found = finding(&fake, id);
        assert_eq!(found.verdict, *verdict, "{path} = {text:?}: {found:#?}");
        if *verdict > Verdict::Unknown {
            assert!(!found.commands.is_empty() && !found.why.is_empty(), "{found:#?}");
        }
    }
}

/// A file that is absent, which check asks it, and what it says then.
const ABSENT: &[(&str, &str, Verdict)] = &[
    ("kernel.version", "/proc/sys/kernel/osrelease", Verdict::Unknown),
    (
        "kernel.clocksource",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        Verdict::Unknown,
    ),
    ("limit.nofile", "/proc/self/limits", Verdict::Unknown),
    ("limit.memlock", "/proc/self/limits", Verdict::Unknown),
    ("limit.nr_open", "/proc/sys/fs/nr_open", Verdict::Unknown),
    ("limit.file_max", "/proc/sys/fs/file-max", Verdict::Unknown),
    ("net.somaxconn", "/proc/sys/net/core/somaxconn", Verdict::Unknown),
    ("net.syn_backlog", "/proc/sys/net/ipv4/tcp_max_syn_backlog", Verdict::Unknown),
    ("net.syncookies", "/proc/sys/net/ipv4/tcp_syncookies", Verdict::Unknown),
    ("net.slow_start", "/proc/sys/net/ipv4/tcp_slow_start_after_idle", Verdict::Unknown),
    ("net.backlog_packets", "/proc/sys/net/core/netdev_max_backlog", Verdict::Unknown),
    ("net.ports", "/proc/sys/net/ipv4/ip_local_port_range", Verdict::Unknown),
    ("net.congestion", "/proc/sys/net/ipv4/tcp_congestion_control", Verdict::Unknown),
    ("net.conntrack", "/proc/sys/net/netfilter", Verdict::Ok),
    ("net.queues", "/sys/class/net", Verdict::Unknown),
    ("net.queues", "/sys/class/net/eth0", Verdict::Ok),
    ("net.irq", "/proc/irq", Verdict::Unknown),
    ("cpu.isolated", "/sys/devices/system/cpu/isolated", Verdict::Unknown),
    ("cpu.governor", "/sys/devices/system/cpu", Verdict::Unknown),
    ("cpu.governor", "/sys/devices/system/cpu/cpu0/cpufreq", Verdict::Ok),
    ("cpu.quota", "/proc/self/cgroup", Verdict::Unknown),
    ("cpu.quota", "/sys/fs/cgroup", Verdict::Ok),
    ("memory.size", "/proc/meminfo", Verdict::Unknown),
    ("memory.thp", "/sys/kernel/mm/transparent_hugepage", Verdict::Ok),
    ("memory.thp", "/sys/kernel", Verdict::Unknown),
    ("memory.swap", "/proc/sys/vm/swappiness", Verdict::Unknown),
    ("memory.dirty", "/proc/sys/vm/dirty_bytes", Verdict::Unknown),
    ("memory.dirty_background", "/proc/sys/vm/dirty_background_bytes", Verdict::Unknown),
    ("disk.filesystem", "/proc/self/mountinfo", Verdict::Unknown),
    ("disk.device", "/sys/dev/block", Verdict::Unknown),
];

#[test]
fn each_file_that_is_absent_is_told() {
    for (id, path, verdict) in ABSENT {
        let fake = Fake::good();
        fake.remove(path);
        let found = finding(&fake, id);
        assert_eq!(found.verdict, *verdict, "{path}: {found:#?}");
        let names =
            found.is.contains("/sys") || found.is.contains("/proc") || found.is.contains("eth0");
        assert!(*verdict != Verdict::Unknown || names, "it names the file: {found:#?}");
    }
}

#[test]
fn io_uring_that_is_forbidden_is_told_with_what_forbids_it() {
    let fake = Fake::good();
    let of = |fake: &Fake, insists| {
        let measured = Measured { io_uring: Err("Operation not permitted".into()), ..measured() };
        let needs = Needs { insists_on_io_uring: insists, ..needs() };
        find_in(report_of(fake, &needs, &measured), "kernel.io_uring")
    };
    assert_eq!(of(&fake, false).verdict, Verdict::Advice);
    assert_eq!(of(&fake, true).verdict, Verdict::Problem);
    fake.write("/proc/self/status", "Seccomp:\t2\n");
    let filtered = of(&fake, false);
    assert!(filtered.is.contains("seccomp") && filtered.commands[0].contains("SystemCallFilter"));
    fake.write("/proc/sys/kernel/io_uring_disabled", "2\n");
    assert_eq!(of(&fake, false).commands[0], "sysctl -w kernel.io_uring_disabled=0");
}

#[test]
fn limits_are_those_of_the_relay_that_runs() {
    let fake = Fake::good();
    let limits = |nofile: &str, memlock: &str| {
        format!(
            "Max open files            1024                 {nofile}                files     \n\
             Max locked memory         65536                {memlock}               bytes     \n"
        )
    };
    fake.write("/proc/77/limits", &limits("20480", "65536"));
    let of = |id| {
        let measured = Measured { relay_pid: Some(77), ..measured() };
        find_in(report_of(&fake, &needs(), &measured), id)
    };
    let nofile = of("limit.nofile");
    assert_eq!(nofile.verdict, Verdict::Advice, "{nofile:?}");
    assert!(nofile.is.contains("process 77") && nofile.should.contains("21280"), "{nofile:?}");
    assert_eq!(of("limit.memlock").verdict, Verdict::Problem, "four rings do not fit into 64 KiB");
    fake.write("/proc/77/limits", &limits("20480", "1000000"));
    assert_eq!(of("limit.memlock").verdict, Verdict::Advice, "they fit, and nothing else");
    fake.write("/proc/77/limits", &limits("4096", "unlimited"));
    assert_eq!(of("limit.nofile").verdict, Verdict::Problem);
    assert_eq!(of("limit.memlock").verdict, Verdict::Ok);
    fake.write("/proc/77/limits", "Max processes 1 2\n");
    assert_eq!(of("limit.nofile").verdict, Verdict::Unknown);
}

#[test]
fn a_listening_port_that_is_reserved_is_no_outgoing_one() {
    let fake = Fake::good();
    fake.write("/proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n");
    fake.write("/proc/sys/net/ipv4/ip_local_reserved_ports", "80,7000-8000\n");
    assert_eq!(finding(&fake, "net.ports").verdict, Verdict::Ok);
    fake.write("/proc/sys/net/ipv4/ip_local_reserved_ports", "80,8000\n");
    let found = finding(&fake, "net.ports");
    assert!(found.commands.iter().any(|command| command.contains("reserved_ports=7777")));
}

#[test]
fn packets_that_were_dropped_are_counted() {
    let fake = Fake::good();
    fake.write("/proc/net/softnet_stat", "00000001 0000000a 0\n00000001 00000010 0\n");
    assert!(finding(&fake, "net.backlog_packets").is.contains("26 dropped"));
}

#[test]
fn a_card_whose_interrupts_crowd_on_one_processor_is_told_where_they_should_go() {
    let fake = Fake::good();
    for irq in 40..44 {
        fake.write(&format!("/proc/irq/{irq}/smp_affinity_list"), "0\n");
    }
    let found = finding(&fake, "net.irq");
    assert_eq!(found.verdict, Verdict::Advice);
    assert_eq!(found.commands[2], "echo 2 > /proc/irq/42/smp_affinity_list   # eth0-TxRx-2");
    // With an idle processor, all of them belong there.
    let needs = Needs { shards: 3, ..needs() };
    let found = find_in(report_of(&fake, &needs, &measured()), "net.irq");
    assert!(found.should.ends_with("without an executor: 3"), "{found:?}");
    assert_eq!(found.commands[0], "echo 3 > /proc/irq/40/smp_affinity_list   # eth0-TxRx-0");
}

#[test]
fn one_queue_on_many_processors_wants_more_or_steering() {
    let fake = Fake::good();
    for queue in 1..4 {
        fake.remove(&format!("/sys/class/net/eth0/queues/rx-{queue}"));
        fake.remove(&format!("/sys/class/net/eth0/queues/tx-{queue}"));
    }
    let queues = finding(&fake, "net.queues");
    assert!(queues.verdict == Verdict::Advice && queues.commands[0].contains("ethtool -L eth0"));
    let steering = finding(&fake, "net.steering");
    assert_eq!(steering.commands, ["echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus"]);
    fake.write("/sys/class/net/eth0/queues/rx-0/rps_cpus", "f\n");
    assert_eq!(finding(&fake, "net.steering").verdict, Verdict::Ok);
}

#[test]
fn send_queues_without_a_processor_each_are_told() {
    let fake = Fake::good();
    for queue in 0..4 {
        fake.write(&format!("/sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), "0\n");
    }
    let found = finding(&fake, "net.steering");
    assert_eq!(found.verdict, Verdict::Advice);
    assert_eq!(found.commands[1], "echo 2 > /sys/class/net/eth0/queues/tx-1/xps_cpus");
}

#[test]
fn isolated_processors_out_of_reach_are_told() {
    let fake = Fake::good();
    fake.write("/sys/devices/system/cpu/online", "0-5\n");
    fake.write("/sys/devices/system/cpu/isolated", "4-5\n");
    fake.write("/sys/devices/system/cpu/nohz_full", "4-5\n");
    let found = finding(&fake, "cpu.isolated");
    assert_eq!(found.verdict, Verdict::Advice);
    assert!(
        found.is.contains("out of reach: 4-5") && found.is.contains("without a tick"),
        "{found:?}"
    );
    assert!(found.commands[0].contains("--cpus 0-5"), "{found:?}");
    fake.write("/sys/devices/system/cpu/isolated", "(null)\n");
    assert_eq!(finding(&fake, "cpu.isolated").verdict, Verdict::Ok);
}

#[test]
fn uneven_shards_and_crowded_cores_are_told() {
    let fake = Fake::good();
    let needs_of = |shards| Needs { shards, ..needs() };
    let found = find_in(report_of(&fake, &needs_of(6), &measured()), "cpu.layout");
    assert!(found.verdict == Verdict::Advice && found.why.contains("uneven"), "{found:?}");
    fake.write("/sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0-1\n");
    fake.write("/sys/devices/system/cpu/cpu1/topology/core_cpus_list", "0-1\n");
    let crowded = Measured { allowed: vec![0, 1], ..measured() };
    let found = find_in(report_of(&fake, &needs_of(2), &crowded), "cpu.smt");
    assert_eq!(found.verdict, Verdict::Advice, "{found:?}");
    let found = find_in(report_of(&fake, &needs_of(2), &measured()), "cpu.smt");
    assert_eq!(found.verdict, Verdict::Ok, "the second thread is left for last: {found:?}");
}

#[test]
fn a_quota_of_the_first_version_of_control_groups_counts() {
    let fake = Fake::good();
    fake.write("/proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n");
    fake.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    fake.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_eq!(finding(&fake, "cpu.quota").verdict, Verdict::Ok);
    fake.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
    assert!(finding(&fake, "cpu.quota").is.starts_with("1.5 of 4"));
    fake.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
    assert_eq!(finding(&fake, "memory.size").verdict, Verdict::Problem);
    fake.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!(finding(&fake, "memory.size").verdict, Verdict::Ok);
}

#[test]
fn budgets_that_do_not_fit_are_a_problem() {
    let needs = Needs { memory: Err("the budgets add up to more".into()), ..needs() };
    let found = find_in(report_of(&Fake::good(), &needs, &measured()), "memory.size");
    assert!(found.verdict == Verdict::Problem && found.why.contains("add up"), "{found:?}");
}

#[test]
fn executors_on_two_memory_nodes_are_told_if_one_has_room() {
    let fake = Fake::good();
    fake.write("/sys/devices/system/node/node0/cpulist", "0-1\n");
    fake.write("/sys/devices/system/node/node1/cpulist", "2-3\n");
    fake.write("/proc/sys/kernel/numa_balancing", "0\n");
    fake.write("/proc/sys/vm/zone_reclaim_mode", "0\n");
    let of = |shards, fake: &Fake| {
        find_in(report_of(fake, &Needs { shards, ..needs() }, &measured()), "memory.nodes")
    };
    assert_eq!(of(4, &fake).verdict, Verdict::Ok, "no node has room for four");
    assert_eq!(of(2, &fake).verdict, Verdict::Ok, "two are on one node");
    fake.write("/proc/sys/kernel/numa_balancing", "1\n");
    let found = of(4, &fake);
    assert!(found.commands.contains(&"sysctl -w kernel.numa_balancing=0".to_owned()), "{found:?}");
}

#[test]
fn the_data_directory_is_on_the_mount_that_is_nearest_and_last() {
    let fake = Fake::good();
    let root = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
    let of = |lines: &str| {
        fake.write("/proc/self/mountinfo", &format!("{root}{lines}"));
        finding(&fake, "disk.filesystem")
    };
    for (lines, verdict, said) in [
        ("30 27 8:1 / /var/lib/turnpike rw shared:1 - xfs /dev/sda1 rw\n", Verdict::Ok, "xfs at"),
        ("30 27 8:1 / /var/lib/turn rw - tmpfs t rw\n", Verdict::Ok, "ext4 at /"),
        (
            "30 27 8:1 / /var rw - xfs a rw\n31 27 0:9 / /var rw - tmpfs t rw\n",
            Verdict::Problem,
            "tmpfs",
        ),
        ("30 27 0:9 / / rw - overlay overlay rw\n", Verdict::Problem, "overlay"),
        ("30 27 0:9 / /var/lib rw - nfs4 host:/x rw\n", Verdict::Problem, "nfs4"),
        ("30 27 0:9 / /var/lib rw - btrfs /dev/sda rw\n", Verdict::Advice, "btrfs"),
        ("30 27 0:9 / /var/lib rw - ext4 /dev/sda rw,nobarrier\n", Verdict::Problem, "barriers"),
        ("30 27 0:9 / /var/lib ro - ext4 /dev/sda ro\n", Verdict::Problem, "read-only"),
        ("damaged\n30 27\n", Verdict::Ok, "ext4"),
    ] {
        let found = of(lines);
        assert_eq!(found.verdict, verdict, "{lines}: {found:?}");
        assert!(found.is.contains(said), "{lines}: {found:?}");
    }
}

#[test]
fn a_partition_has_the_queue_of_its_disk() {
    let fake = Fake::good();
    fake.remove("/sys/dev/block/254:0");
    fake.write("/sys/devices/vda/queue/rotational", "1\n");
    fake.write("/sys/devices/vda/vda1/partition", "1\n");
    fake.link("/sys/dev/block/254:0", "../../devices/vda/vda1");
    assert_eq!(finding(&fake, "disk.device").verdict, Verdict::Advice);
    fake.write("/sys/devices/vda/vda1/uevent", "MAJOR=254\nDEVNAME=vda1\n");
    let found = finding(&fake, "disk.device");
    assert_eq!(found.verdict, Verdict::Ok, "a virtual disk may say that it turns");
    assert!(found.is.starts_with("vda1: virtual"), "{found:?}");
}

#[test]
fn syncs_are_judged_by_what_they_mean_for_a_publisher() {
    let fake = Fake::good();
    let of = |lone_ns: Vec<u64>, id| {
        let series = SyncSeries { lone_ns, ..measured().syncs.unwrap() };
        find_in(report_of(&fake, &needs(), &Measured { syncs: Ok(series), ..measured() }), id)
    };
    for (ns, verdict) in [
        (200_000, Verdict::Ok),
        (2_000, Verdict::Advice),
        (3_000_000, Verdict::Advice),
        (60_000_000, Verdict::Problem),
    ] {
        let found = of(vec![ns; 50], "disk.sync");
        assert_eq!(found.verdict, verdict, "{found:?}");
    }
    let mut tail = vec![200_000; 95];
    tail.extend([30_000_000; 5]);
    let found = of(tail, "disk.sync");
    assert_eq!(found.verdict, Verdict::Advice, "{found:?}");
    assert!(found.is.contains("p50 200 us, p99 30 ms"), "{found:?}");
    assert!(found.why.contains("waits about 300 us"), "{found:?}");
    assert!(!found.why.contains("busy"), "{found:?}");
    fake.write("/proc/loadavg", "12.10 13.18 12.11 13/220 21762\n");
    assert!(of(vec![3_000_000; 50], "disk.sync").why.contains("busy (load 12)"));
    fake.write("/proc/loadavg", "0.50 0.1 0.1 1/220 1\n");
    let unmeasured = Measured { syncs: Err("denied".into()), ..measured() };
    assert_eq!(
        find_in(report_of(&fake, &needs(), &unmeasured), "disk.sync").verdict,
        Verdict::Unknown
    );
}

#[test]
fn a_disk_that_does_flushes_in_turn_is_told() {
    let of = |shared_elapsed_ns, writers| {
        let series = SyncSeries { shared_elapsed_ns, writers, ..measured().syncs.unwrap() };
        let measured = Measured { syncs: Ok(series), ..measured() };
        find_in(report_of(&Fake::good(), &needs(), &measured), "disk.shared_sync")
    };
    assert_eq!(of(30_000_000, 4).verdict, Verdict::Ok);
    let slow = of(200_000_000, 4);
    assert_eq!(slow.verdict, Verdict::Advice);
    assert_eq!(slow.is, "2,000 a second with 4 logs, p50 300 us (5,000 alone)");
    assert_eq!(of(200_000_000, 1).verdict, Verdict::Ok);
}

#[test]
fn a_disk_that_fills_up_is_told() {
    for (free, verdict) in [(500, Verdict::Ok), (50, Verdict::Advice), (5, Verdict::Problem)] {
        let measured = Measured { space: Ok((free << 30, 1_000 << 30)), ..measured() };
        let found = find_in(report_of(&Fake::good(), &needs(), &measured), "disk.space");
        assert_eq!(found.verdict, verdict, "{found:?}");
    }
}

#[test]
fn a_clock_that_nobody_keeps_is_told() {
    for (clock, verdict) in [
        (Ok((true, 300)), Verdict::Ok),
        (Ok((false, 16_000_000)), Verdict::Advice),
        (Err("not permitted".to_owned()), Verdict::Unknown),
    ] {
        let found = find_in(
            report_of(&Fake::good(), &needs(), &Measured { clock, ..measured() }),
            "clock.sync",
        );
        assert_eq!(found.verdict, verdict, "{found:?}");
    }
}
