//! Memory: how much there is, and what the kernel does with it.

use super::cpu::group_folders;
use super::{Subject, find, of_setting};
use crate::host;
use crate::report::{Finding, Verdict};
use crate::settings::{Setting, meminfo};
use crate::text::{bytes, count};

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

pub(super) fn check(subject: &Subject<'_>, settings: &[Setting]) -> Vec<Finding> {
    let mut findings = vec![limit(subject), huge_pages(subject), swap(settings)];
    let dirty = [
        ("memory.dirty_background", "unwritten, background", "vm.dirty_background_bytes"),
        ("memory.dirty", "unwritten, at most", "vm.dirty_bytes"),
    ];
    for (id, title, key) in dirty {
        if let Some(setting) = find(settings, key) {
            let mut finding = of_setting(id, title, setting, Verdict::Advice);
            let number = setting.is.as_deref().ok().and_then(|text| text.parse().ok());
            if let Some(number) = number {
                finding.is = bytes(number);
            }
            if let crate::settings::Want::AtMost(most) = setting.want {
                finding.should = format!("at most {}", bytes(most));
            }
            findings.push(finding);
        }
    }
    findings.push(nodes(subject, settings));
    findings
}

/// Bytes that the control groups of the process allow it, if they limit it at all.
fn group_limit(subject: &Subject<'_>) -> Option<u64> {
    let groups = host::text(subject.host, &subject.process("cgroup")).ok()?;
    let files = ["memory.max", "memory.limit_in_bytes"];
    let folders = group_folders(&groups, "memory");
    let paths = folders.iter().flat_map(|folder| files.map(|file| format!("{folder}/{file}")));
    let limits = paths.filter_map(|path| host::number(subject.host, &path).ok());
    // Version 1 writes a huge number where there is no limit.
    limits.filter(|limit| *limit < 1 << 60).min()
}

fn limit(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("memory.size", "memory");
    let why = "the relay's budgets (memory.memory_max_mib) bound its own memory; the index and the \
               log are read through the page cache, and sockets hold memory of the kernel's, all \
               of which a control group counts";
    let total = match meminfo(subject.host, "MemTotal") {
        Ok(total) => total,
        Err(error) => return Finding::unknown(id, title, &error, "twice the budgets", why),
    };
    let group = group_limit(subject).filter(|limit| *limit < total);
    let usable = group.unwrap_or(total);
    let mut is = bytes(usable);
    if group.is_some() {
        is.push_str(&format!(" (the control group's; the machine has {})", bytes(total)));
    }
    let commands = vec![
        "# lower memory.memory_max_mib, or give the unit or container more (MemoryMax=)".to_owned(),
    ];
    let budget = match &subject.needs.memory {
        Ok(budget) => *budget,
        Err(reason) => {
            return Finding {
                id,
                title,
                verdict: Verdict::Problem,
                is,
                should: "enough for the relay's budgets".into(),
                why: format!("the relay would not start: {reason}"),
                commands,
            };
        }
    };
    Finding {
        id,
        title,
        verdict: match usable {
            usable if usable >= budget.saturating_mul(2) => Verdict::Ok,
            usable if usable > budget => Verdict::Advice,
            _ => Verdict::Problem,
        },
        is,
        should: format!("twice the relay's budgets of {}", bytes(budget)),
        why: why.into(),
        commands,
    }
}

fn huge_pages(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("memory.thp", "transparent huge pages");
    let should = "madvise or never";
    let why = "with `always` the kernel backs small pieces of memory with pages of 2 MiB: the \
               relay then holds more than its budgets say, and waits while such pages are made";
    let text = match host::text(subject.host, THP) {
        Ok(text) => text,
        Err(error) if error.is_absent && host::list(subject.host, "/sys/kernel").is_ok() => {
            return Finding {
                id,
                title,
                verdict: Verdict::Ok,
                is: "this kernel has none".into(),
                should: should.into(),
                why: why.into(),
                commands: Vec::new(),
            };
        }
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let chosen = chosen(&text);
    Finding {
        id,
        title,
        verdict: if chosen == "always" { Verdict::Advice } else { Verdict::Ok },
        is: chosen.to_owned(),
        should: should.into(),
        why: why.into(),
        commands: vec![format!("echo madvise > {THP}")],
    }
}

/// The word in brackets of a file that lists what can be chosen.
pub(crate) fn chosen(text: &str) -> &str {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text.trim(), |(word, _)| word)
}

fn swap(settings: &[Setting]) -> Finding {
    let (id, title) = ("memory.swap", "swapping");
    match find(settings, "vm.swappiness") {
        Some(setting) => of_setting(id, title, setting, Verdict::Advice),
        None => Finding {
            id,
            title,
            verdict: Verdict::Ok,
            is: "no swap".into(),
            should: "none, or used last".into(),
            why: "a core that waits for its memory to come back from the disk serves nobody \
                  meanwhile"
                .into(),
            commands: Vec::new(),
        },
    }
}

fn nodes(subject: &Subject<'_>, settings: &[Setting]) -> Finding {
    let (id, title) = ("memory.nodes", "memory nodes");
    let nodes = subject.machine.nodes();
    let used = subject.layout.nodes(subject.machine);
    let mut finding = Finding {
        id,
        title,
        verdict: Verdict::Ok,
        is: count(nodes.len(), "node"),
        should: "executors on one node, if it has room".into(),
        why: "memory of the other node takes about twice as long, and every message between cores \
              of two nodes crosses between them"
            .into(),
        commands: Vec::new(),
    };
    if nodes.len() < 2 {
        return finding;
    }
    let list: Vec<String> = used.iter().map(ToString::to_string).collect();
    finding.is = format!("{} nodes, executors on {}", nodes.len(), list.join(" and "));
    let room = subject.machine.largest_node(&subject.layout.allowed);
    if let Some((_, cpus)) = room
        && used.len() > 1
        && cpus.len() >= subject.layout.executors.len()
    {
        finding.verdict = Verdict::Advice;
        finding.commands.push(format!("turnpike tune --cpus {cpus} --apply"));
    }
    for key in ["kernel.numa_balancing", "vm.zone_reclaim_mode"] {
        if let Some(setting) = find(settings, key)
            && setting.is_met() == Some(false)
        {
            finding.verdict = Verdict::Advice;
            finding.is.push_str(&format!("; {key} is on"));
            finding.commands.push(format!("sysctl -w {key}={}", setting.target()));
        }
    }
    finding
}
