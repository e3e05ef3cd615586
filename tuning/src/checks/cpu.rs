//! Processors: which ones the relay gets, how fast they run, and who shares them.

use super::Subject;
use crate::cpus::CpuList;
use crate::host::{self, Unreadable};
use crate::machine::{CPUS, cpu_list};
use crate::report::{Finding, Verdict};
use crate::text::count;

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![layout(subject), isolated(subject), governor(subject), threads(subject), quota(subject)]
}

fn layout(subject: &Subject<'_>) -> Finding {
    let layout = subject.layout;
    let advice = layout.advice(subject.machine);
    let shards: usize = layout.executors.iter().map(|executor| executor.shards.len()).sum();
    Finding {
        id: "cpu.layout",
        title: "executors",
        verdict: if advice.is_empty() { Verdict::Ok } else { Verdict::Advice },
        is: format!(
            "{} with {} on processors {}",
            count(layout.executors.len(), "executor"),
            count(shards, "shard"),
            layout.pinned().words()
        ),
        should: "as many shards on every core".into(),
        why: match advice.is_empty() {
            true => "each shard is owned by one core; turnpike topology shows which".into(),
            false => format!("{}. Measure before and after (turnpike-bench)", advice.join(". ")),
        },
        commands: vec!["turnpike topology   # shows it in full; --shards N shows another".into()],
    }
}

fn isolated(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("cpu.isolated", "isolated processors");
    let should = "none, or all within reach of the relay";
    let why = "executors are pinned already, so isolation is no must. The scheduler moves nothing \
               onto isolated processors by itself: a relay that is not told of them leaves them \
               idle, and one that has no others crowds its unpinned threads onto one of them";
    let isolated = match cpu_list(subject.host, &format!("{CPUS}/isolated")) {
        Ok(isolated) => isolated,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let ticks = cpu_list(subject.host, &format!("{CPUS}/nohz_full")).unwrap_or_default();
    let mut is = match isolated.is_empty() {
        true => "none".to_owned(),
        false => isolated.words(),
    };
    if !ticks.is_empty() {
        is.push_str(&format!(", without a tick: {ticks}"));
    }
    let allowed = &subject.layout.allowed;
    let idle = isolated.without(allowed);
    let mut finding = Finding {
        id,
        title,
        verdict: Verdict::Ok,
        is,
        should: should.into(),
        why: why.into(),
        commands: Vec::new(),
    };
    if !idle.is_empty() {
        finding.verdict = Verdict::Advice;
        finding.is.push_str(&format!("; out of reach: {}", idle.words()));
        let all: CpuList = allowed.iter().chain(isolated.iter()).collect();
        finding.commands.push(format!("turnpike tune --cpus {all} --apply   # CPUAffinity={all}"));
    } else if !isolated.is_empty() && allowed.is_within(&isolated) {
        finding.verdict = Verdict::Advice;
        finding.is.push_str("; the relay has no others");
        let all = subject.machine.online();
        finding.commands.push(format!("turnpike tune --cpus {all} --apply   # CPUAffinity={all}"));
    }
    finding
}

fn governor(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("cpu.governor", "frequency governor");
    let should = "performance";
    let why = "a core that sleeps between messages is clocked down and takes its first ones slowly";
    let mut governors: Vec<(String, Vec<usize>)> = Vec::new();
    let mut unreadable = None;
    for cpu in subject.layout.allowed.iter() {
        let path = format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor");
        match host::text(subject.host, &path) {
            Ok(governor) => match governors.iter_mut().find(|(name, _)| *name == governor) {
                Some((_, cpus)) => cpus.push(cpu),
                None => governors.push((governor, vec![cpu])),
            },
            Err(error) => unreadable = unreadable.or(Some(error)),
        }
    }
    let has_cpus = host::list(subject.host, CPUS).is_ok();
    match unreadable {
        Some(error) if !(error.is_absent && has_cpus) => {
            return Finding::unknown(id, title, &error, should, why);
        }
        _ => {}
    }
    if governors.is_empty() {
        return Finding {
            id,
            title,
            verdict: Verdict::Ok,
            is: "not set from here (a virtual machine, or the firmware)".into(),
            should: "performance, where it can be set".into(),
            why: why.into(),
            commands: Vec::new(),
        };
    }
    let is_fast = governors.iter().all(|(name, _)| name == "performance");
    let is = governors.iter().map(|(name, cpus)| {
        let cpus: CpuList = cpus.iter().copied().collect();
        format!("{name} on {}", cpus.words())
    });
    Finding {
        id,
        title,
        verdict: if is_fast { Verdict::Ok } else { Verdict::Advice },
        is: is.collect::<Vec<_>>().join(", "),
        should: should.into(),
        why: why.into(),
        commands: vec![format!("echo performance | tee {CPUS}/cpu*/cpufreq/scaling_governor")],
    }
}

fn threads(subject: &Subject<'_>) -> Finding {
    let machine = subject.machine;
    let crowded = subject.layout.crowded(machine);
    let (cpus, cores) = (machine.cpus.len(), machine.cores());
    let is = match cpus == cores {
        true => format!("{}, one thread each", count(cores, "core")),
        false if crowded == 0 => format!(
            "{} threads on {}, an executor on each core at most",
            cpus,
            count(cores, "core")
        ),
        false => {
            format!("{cpus} threads on {}, {crowded} executors share one", count(cores, "core"))
        }
    };
    let spare = cores > subject.layout.executors.len();
    Finding {
        id: "cpu.smt",
        title: "hardware threads",
        // Executors fill one thread of every core first, so this takes an affinity that leaves
        // them no other choice.
        verdict: if crowded > 0 && spare { Verdict::Advice } else { Verdict::Ok },
        is,
        should: "no two executors on a core while another is free".into(),
        why: "two threads of a core share its arithmetic, and checking signatures is nothing but: \
              together they do little more than one"
            .into(),
        commands: vec![format!("turnpike tune --cpus {} --apply", machine.online())],
    }
}

/// Processors' worth of time that the control groups of a process allow: the least of its own and
/// of all above it.
fn quota_of(subject: &Subject<'_>) -> Result<Option<f64>, Unreadable> {
    let groups = host::text(subject.host, &subject.process("cgroup"))?;
    let mut least: Option<f64> = None;
    let mut note = |quota: Option<f64>| {
        if let Some(quota) = quota {
            least = Some(least.map_or(quota, |least| least.min(quota)));
        }
    };
    for folder in group_folders(&groups, "cpu") {
        // `max 100000` or `200000 100000`.
        if let Ok(text) = host::text(subject.host, &format!("{folder}/cpu.max")) {
            let mut numbers = text.split_whitespace().map(str::parse::<f64>);
            if let (Some(Ok(quota)), Some(Ok(period))) = (numbers.next(), numbers.next()) {
                note(Some(quota / period));
            }
        }
        let number = |file: &str| {
            host::text(subject.host, &format!("{folder}/{file}")).ok()?.parse::<f64>().ok()
        };
        let old = number("cpu.cfs_quota_us").filter(|quota| *quota > 0.0);
        note(old.and_then(|quota| Some(quota / number("cpu.cfs_period_us")?)));
    }
    Ok(least)
}

/// The folders of a process's control groups that may hold limits of `controller`, its own first,
/// each followed by those above it. Within a container the path may be the host's; then only the
/// root's files exist, and they are the container's own.
pub(super) fn group_folders(groups: &str, controller: &str) -> Vec<String> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let root = match controllers {
            "" => GROUPS.to_owned(),
            v1 if v1.split(',').any(|one| one == controller) => format!("{GROUPS}/{controller}"),
            _ => continue,
        };
        let mut group = group.trim_matches('/');
        while !group.is_empty() {
            folders.push(format!("{root}/{group}"));
            group = group.rsplit_once('/').map_or("", |(above, _)| above);
        }
        folders.push(root);
    }
    folders
}

fn quota(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("cpu.quota", "processor quota");
    let executors = subject.layout.executors.len();
    let should = format!("none, or {executors} and more");
    let why = "when the quota of a control group is used up, all its threads stand still for the \
               rest of a tenth of a second; give a container whole processors instead";
    let quota = match quota_of(subject) {
        Ok(quota) => quota,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let is_enough = quota.is_none_or(|quota| quota >= executors as f64);
    let cpus = subject.layout.allowed.len();
    Finding {
        id,
        title,
        verdict: if is_enough { Verdict::Ok } else { Verdict::Problem },
        is: quota
            .map_or_else(|| "none".to_owned(), |quota| format!("{quota:.1} of {cpus} processors")),
        should,
        why: why.into(),
        commands: vec![
            "# a unit: CPUQuota= with no value, and AllowedCPUs= or CPUAffinity= instead".into(),
            "# a container: --cpuset-cpus 0-3 in place of --cpus 4".into(),
        ],
    }
}
