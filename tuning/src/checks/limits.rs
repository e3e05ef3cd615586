//! What a process may have: descriptors and locked memory.

use super::{Subject, find, of_setting};
use crate::host::{self, Unreadable};
use crate::report::{Finding, Verdict};
use crate::settings::Setting;

/// What the rings of one executor take of the locked memory of its user. Measured: 152 KiB on Linux
/// 6.18, rounded up to whole pages of what a later kernel may add.
const RING_BYTES: u64 = 160 << 10;

pub(super) fn check(subject: &Subject<'_>, settings: &[Setting]) -> Vec<Finding> {
    let mut findings = vec![nofile(subject)];
    if let Some(setting) = find(settings, "fs.nr_open") {
        findings.push(of_setting(
            "limit.nr_open",
            "descriptors, kernel",
            setting,
            Verdict::Problem,
        ));
    }
    if let Some(setting) = find(settings, "fs.file-max") {
        findings.push(of_setting(
            "limit.file_max",
            "descriptors, machine",
            setting,
            Verdict::Problem,
        ));
    }
    findings.push(memlock(subject));
    findings
}

/// The hard limit of the process that counts: the relay raises its own to it.
fn hard_limit(subject: &Subject<'_>, name: &str) -> Result<u64, Unreadable> {
    let path = subject.process("limits");
    let text = host::text(subject.host, &path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let hard = line.and_then(|rest| rest.split_whitespace().nth(1));
    match hard {
        Some("unlimited") => Ok(u64::MAX),
        Some(number) => number.parse().map_err(|_| Unreadable::odd(&path, number)),
        None => Err(Unreadable::odd(&path, &format!("no {name}"))),
    }
}

fn nofile(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("limit.nofile", "open files");
    let wanted = subject.needs.descriptors();
    let connections = subject.needs.connections_max;
    let should = format!("at least {wanted} ({connections} connections and the store)");
    let why = "each connection is a descriptor; without one left the relay accepts nobody. It \
               raises the soft limit to the hard one by itself";
    let hard = match hard_limit(subject, "Max open files") {
        Ok(hard) => hard,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let verdict = match hard {
        hard if hard >= wanted => Verdict::Ok,
        hard if hard >= connections => Verdict::Advice,
        _ => Verdict::Problem,
    };
    let is = if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() };
    Finding {
        id,
        title,
        verdict,
        is: format!("{is} ({})", subject.whose()),
        should,
        why: why.into(),
        commands: vec![
            format!(
                "# in turnpike.service: LimitNOFILE={wanted} (turnpike tune --apply writes it)"
            ),
            format!("ulimit -Hn {wanted}   # as root, for a relay that is started by hand"),
        ],
    }
}

fn memlock(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("limit.memlock", "locked memory");
    let executors = subject.layout.executors.len();
    let needed = executors as u64 * RING_BYTES;
    let should = format!(
        "at least {}, and as much again to spare ({})",
        crate::text::bytes(needed),
        crate::text::count(executors, "executor")
    );
    let why = "kernels before 5.12 and recent ones count the rings of io_uring against it, of all \
               processes of a user together: with too little the relay does not start. Root is \
               exempt, and so is epoll";
    let hard = match hard_limit(subject, "Max locked memory") {
        Ok(hard) => hard,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let is = match hard {
        u64::MAX => "unlimited".to_owned(),
        hard => crate::text::bytes(hard),
    };
    Finding {
        id,
        title,
        verdict: match hard {
            hard if hard >= needed.saturating_mul(2) => Verdict::Ok,
            hard if hard >= needed => Verdict::Advice,
            _ => Verdict::Problem,
        },
        is: format!("{is} ({})", subject.whose()),
        should,
        why: why.into(),
        commands: vec![
            "# in turnpike.service: LimitMEMLOCK=64M (turnpike tune --apply writes it)".into(),
        ],
    }
}
