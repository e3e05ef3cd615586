//! The disk below the data directory: what it is, whether a sync reaches it, and how long that takes.

use super::Subject;
use crate::host::{self, Unreadable};
use crate::needs::SyncSeries;
use crate::report::{Finding, Verdict};
use crate::text::{bytes, count, duration, thousands};

/// A sync that takes longer than this is what most of publish-to-OK is made of.
const SLOW_SYNC_NS: u64 = 2_000_000;
/// So long may one in a hundred take.
const SLOW_TAIL_NS: u64 = 20_000_000;
/// Longer than this, clients begin to give up.
const BAD_SYNC_NS: u64 = 50_000_000;
/// No device writes to stable storage faster, unless it has a battery or lies.
const IMPLAUSIBLE_SYNC_NS: u64 = 15_000;
/// Of a disk that fills up.
const FREE_PERCENT_MIN: u64 = 10;

/// File systems on which the index may be damaged or the log's syncs mean nothing, with what.
const UNFIT: [(&str, &str); 12] = [
    ("tmpfs", "it is memory: everything is gone at the next boot"),
    ("ramfs", "it is memory: everything is gone at the next boot"),
    ("overlay", "it is a container's own layer, which goes with the container; mount a volume"),
    ("aufs", "it is a container's own layer, which goes with the container; mount a volume"),
    ("nfs", "the index is a memory map, which is not safe over a network"),
    ("nfs4", "the index is a memory map, which is not safe over a network"),
    ("cifs", "the index is a memory map, which is not safe over a network"),
    ("smb3", "the index is a memory map, which is not safe over a network"),
    ("ceph", "the index is a memory map, which is not safe over a network"),
    ("9p", "the index is a memory map, which is not safe over it"),
    ("fuse.sshfs", "the index is a memory map, which is not safe over a network"),
    ("vfat", "it knows no permissions, and its files are lost easily"),
];

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let mount = mount(subject);
    vec![
        file_system(subject, &mount),
        device(subject, &mount),
        sync(subject),
        together(subject),
        space(subject),
    ]
}

/// The mount that a file is on.
struct Mount {
    point: String,
    kind: String,
    options: String,
    /// `major:minor`.
    device: String,
}

/// The mount of the data directory: the one with the longest path that begins its own, and of equals
/// the last, which hides the others.
fn mount(subject: &Subject<'_>) -> Result<Mount, Unreadable> {
    let path = subject.process("mountinfo");
    let text = host::text(subject.host, &path)?;
    let data = subject.needs.data_dir.to_string_lossy();
    let mut best: Option<Mount> = None;
    for line in text.lines() {
        let Some(mount) = parse_mount(line) else { continue };
        let point = mount.point.trim_end_matches('/');
        let rest = data.strip_prefix(point);
        let is_above = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_above && best.as_ref().is_none_or(|best| best.point.len() <= mount.point.len()) {
            best = Some(mount);
        }
    }
    best.ok_or_else(|| Unreadable::odd(&path, "no mount of the data directory"))
}

/// `27 1 254:0 / /data rw,relatime shared:1 - ext4 /dev/vda rw,discard`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let mut right = right.split(' ');
    let (kind, _, own) = (right.next()?, right.next()?, right.next().unwrap_or(""));
    Some(Mount {
        device: (*left.get(2)?).to_owned(),
        // A space in a path is written as four characters.
        point: left.get(4)?.replace("\\040", " "),
        options: format!("{},{own}", left.get(5)?),
        kind: kind.to_owned(),
    })
}

fn file_system(subject: &Subject<'_>, mount: &Result<Mount, Unreadable>) -> Finding {
    let (id, title) = ("disk.filesystem", "file system");
    let should = "ext4 or xfs on a local disk";
    let why = "OK means that the event is on stable storage, and the index is a memory map";
    let mount = match mount {
        Ok(mount) => mount,
        Err(error) => return Finding::unknown(id, title, error, should, why),
    };
    let mut finding = Finding {
        id,
        title,
        verdict: Verdict::Ok,
        is: format!("{} at {}", mount.kind, mount.point),
        should: should.into(),
        why: why.into(),
        commands: vec!["# put store.data_dir on ext4 or xfs on a local disk".into()],
    };
    let has = |option: &str| mount.options.split(',').any(|one| one == option);
    let unfit = UNFIT.iter().find(|(kind, _)| *kind == mount.kind);
    if let Some((_, reason)) = unfit {
        finding.verdict = Verdict::Problem;
        finding.why = format!("{why}; {reason}");
    } else if has("nobarrier") || has("barrier=0") {
        finding.verdict = Verdict::Problem;
        finding.is.push_str(", mounted without barriers");
        finding.why = format!(
            "{why}; without barriers a sync does not reach the disk, and a power \
                               cut loses events that were acknowledged"
        );
        finding.commands =
            vec![format!("mount -o remount,barrier=1 {}   # and in /etc/fstab", mount.point)];
    } else if matches!(mount.kind.as_str(), "btrfs" | "zfs" | "bcachefs") {
        finding.verdict = Verdict::Advice;
        finding.why = format!(
            "{why}; on a file system that copies what is written, the index falls to pieces over \
             time and a sync costs several writes"
        );
        if mount.kind == "btrfs" {
            let data = subject.needs.data_dir.display();
            finding.commands.insert(0, format!("chattr +C {data}   # before the store is made"));
        }
    } else if has("ro") {
        finding.verdict = Verdict::Problem;
        finding.is.push_str(", mounted read-only");
        finding.commands = vec![format!("mount -o remount,rw {}", mount.point)];
    }
    finding
}

fn device(subject: &Subject<'_>, mount: &Result<Mount, Unreadable>) -> Finding {
    let (id, title) = ("disk.device", "disk");
    let should = "flash, without a scheduler that reorders";
    let why = "a disk that turns takes 8 ms for a sync; and a scheduler that is fair between \
               programs lets the log wait for others";
    let mount = match mount {
        Ok(mount) => mount,
        Err(error) => return Finding::unknown(id, title, error, should, why),
    };
    // A partition's queue is that of the disk it lies on.
    let places =
        ["queue", "../queue"].map(|queue| format!("/sys/dev/block/{}/{queue}", mount.device));
    let read = |file: &str| {
        places.iter().find_map(|place| {
            let path = format!("{place}/{file}");
            Some((host::text(subject.host, &path).ok()?, path))
        })
    };
    let Some((rotational, _)) = read("rotational") else {
        let unreadable = Unreadable {
            path: places[0].clone(),
            why: "not there; the file system has no disk of its own, or it is out of sight".into(),
            is_absent: true,
        };
        return Finding::unknown(id, title, &unreadable, should, why);
    };
    let (schedulers, path) = read("scheduler").unwrap_or_default();
    let scheduler = super::memory::chosen(&schedulers);
    let cache = read("write_cache").map(|(cache, _)| cache).unwrap_or_default();
    // Hosts of virtual machines leave the mark of a turning disk on whatever is below.
    let name = host::text(subject.host, &format!("/sys/dev/block/{}/uevent", mount.device));
    let name = name.unwrap_or_default();
    let name = name.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap_or_default();
    let is_virtual = name.starts_with("vd") || name.starts_with("xvd");
    let turns = rotational == "1" && !is_virtual;
    let is_fair = matches!(scheduler, "bfq" | "cfq");
    let mut is = match (turns, is_virtual) {
        (true, _) => "a disk that turns".to_owned(),
        (false, true) => "virtual".to_owned(),
        (false, false) => "flash".to_owned(),
    };
    if !name.is_empty() {
        is = format!("{name}: {is}");
    }
    if !scheduler.is_empty() {
        is.push_str(&format!(", scheduler {scheduler}"));
    }
    if !cache.is_empty() {
        is.push_str(&format!(", cache {cache}"));
    }
    let mut commands = Vec::new();
    if is_fair {
        let better = if schedulers.contains("none") { "none" } else { "mq-deadline" };
        commands.push(format!("echo {better} > {path}"));
    }
    if turns {
        commands.push("# move the data directory to flash".into());
    }
    Finding {
        id,
        title,
        verdict: if turns || is_fair { Verdict::Advice } else { Verdict::Ok },
        is,
        should: should.into(),
        why: why.into(),
        commands,
    }
}

/// The value below which `percent` of the sorted numbers lie.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or(0)
}

fn sorted(numbers: &[u64]) -> Vec<u64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted
}

fn measured<'a>(subject: &Subject<'a>) -> Result<&'a SyncSeries, Unreadable> {
    subject.measured.syncs.as_ref().map_err(|reason| Unreadable {
        path: subject.needs.data_dir.display().to_string(),
        why: reason.clone(),
        is_absent: false,
    })
}

/// The load of the last minute, if it is more than the processors can carry.
fn busy(subject: &Subject<'_>) -> Option<f64> {
    let text = host::text(subject.host, "/proc/loadavg").ok()?;
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    (load > subject.machine.cpus.len() as f64).then_some(load)
}

fn sync(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("disk.sync", "sync of 4 KiB");
    let should = "p50 below 2 ms, p99 below 20 ms";
    let why = "publish-to-OK is a sync and about a tenth of a millisecond of work; events that \
               arrive meanwhile share the next one";
    let series = match measured(subject) {
        Ok(series) => series,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let sorted = sorted(&series.lone_ns);
    let (p50, p99) = (percentile(&sorted, 50), percentile(&sorted, 99));
    let mut finding = Finding {
        id,
        title,
        verdict: Verdict::Ok,
        is: format!("p50 {}, p99 {} ({} syncs)", duration(p50), duration(p99), sorted.len()),
        should: should.into(),
        why: format!(
            "{why}. Here a lone publisher waits about {} for each OK",
            duration(p50 + 100_000)
        ),
        commands: Vec::new(),
    };
    if let Some(load) = busy(subject) {
        finding.why.push_str(&format!(
            ". The processors were busy (load {load:.0}), and who waits for a sync then waits for a \
             processor, too: measure again when they are not"
        ));
    }
    let slow = "# flash with power-loss protection syncs in a tenth of a millisecond; other flash in \
                a few";
    if p50 >= BAD_SYNC_NS {
        finding.verdict = Verdict::Problem;
        finding.commands.push(slow.into());
    } else if p50 >= SLOW_SYNC_NS || p99 >= SLOW_TAIL_NS {
        finding.verdict = Verdict::Advice;
        finding.commands.push(slow.into());
        finding.commands.push("# see who else writes to it: iostat -x 1".into());
    } else if p50 < IMPLAUSIBLE_SYNC_NS {
        finding.verdict = Verdict::Advice;
        finding.why = "no device writes that fast: either its cache survives a power cut (a \
                       battery, power-loss protection), or the sync stops short of it, and a power \
                       cut loses events that were acknowledged"
            .into();
        finding
            .commands
            .push("# a virtual machine: its host's cache mode must not be `unsafe`".into());
    }
    finding
}

fn together(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("disk.shared_sync", "syncs of many shards");
    let should = "more a second than one alone";
    let why = "each shard has a log of its own; a disk that joins the flushes of several makes them \
               cheaper, one that does them in turn makes shards wait for each other";
    let series = match measured(subject) {
        Ok(series) => series,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    if series.writers < 2 || series.shared_ns.is_empty() {
        return Finding {
            id,
            title,
            verdict: Verdict::Ok,
            is: "one shard".into(),
            should: should.into(),
            why: why.into(),
            commands: Vec::new(),
        };
    }
    let per_second = |syncs: usize, elapsed_ns: u64| {
        (syncs as u64).saturating_mul(1_000_000_000) / elapsed_ns.max(1)
    };
    let alone = per_second(series.lone_ns.len(), series.lone_ns.iter().sum());
    let shared = per_second(series.shared_ns.len(), series.shared_elapsed_ns);
    let p50 = percentile(&sorted(&series.shared_ns), 50);
    Finding {
        id,
        title,
        // Below this the flushes clearly stand in line; a little less is noise.
        verdict: if shared.saturating_mul(10) < alone.saturating_mul(7) {
            Verdict::Advice
        } else {
            Verdict::Ok
        },
        is: format!(
            "{} a second with {}, p50 {} ({} alone)",
            thousands(shared),
            count(series.writers, "log"),
            duration(p50),
            thousands(alone)
        ),
        should: should.into(),
        why: why.into(),
        commands: vec!["# fewer shards: turnpike reshard --shards N; or another disk".into()],
    }
}

fn space(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("disk.space", "free space");
    let should = format!("{FREE_PERCENT_MIN} % or more");
    let why =
        "below store.free_min_mib events are refused; compact and reshard need room to work in";
    let (free, total) = match &subject.measured.space {
        Ok(space) => *space,
        Err(reason) => {
            let unreadable = Unreadable {
                path: subject.needs.data_dir.display().to_string(),
                why: reason.clone(),
                is_absent: false,
            };
            return Finding::unknown(id, title, &unreadable, should, why);
        }
    };
    let percent = free.saturating_mul(100) / total.max(1);
    Finding {
        id,
        title,
        verdict: match percent {
            FREE_PERCENT_MIN.. => Verdict::Ok,
            2.. => Verdict::Advice,
            _ => Verdict::Problem,
        },
        is: format!("{} of {} ({percent} %)", bytes(free), bytes(total)),
        should,
        why: why.into(),
        commands: vec![
            "turnpike compact   # gives back what is dead; turnpike delete --age 90d".into(),
        ],
    }
}
