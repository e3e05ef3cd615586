//! The kernel: its release, `io_uring`, the clock that it reads.

use super::Subject;
use crate::host;
use crate::report::{Finding, Verdict};
use crate::settings;

/// The release that everything the `io_uring` backend would like came with.
const RELEASE_WANTED: (u32, u32) = (6, 1);
/// Clocks that are read without a system call.
const FAST_CLOCKS: [&str; 6] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
    "riscv_clocksource",
    "timebase",
];

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![version(subject), io_uring(subject), clocksource(subject)]
}

fn version(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("kernel.version", "kernel");
    let (major, minor) = RELEASE_WANTED;
    let should = format!("{major}.{minor} or later");
    let why = "6.0 brought io_uring what the relay cannot do without there (on an older kernel it \
               runs on epoll), and 6.1 deferred task work, which saves interrupts between cores";
    let release = match settings::value(subject.host, "kernel.osrelease") {
        Ok(release) => release,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let is_new = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= RELEASE_WANTED,
        _ => {
            let odd = host::Unreadable::odd(&settings::path_of("kernel.osrelease"), &release);
            return Finding::unknown(id, title, &odd, should, why);
        }
    };
    Finding {
        id,
        title,
        verdict: if is_new { Verdict::Ok } else { Verdict::Advice },
        is: release,
        should,
        why: why.into(),
        commands: vec![
            "# install a newer kernel from your distribution (backports) and reboot".into(),
        ],
    }
}

fn io_uring(subject: &Subject<'_>) -> Finding {
    let mut finding = Finding {
        id: "kernel.io_uring",
        title: "io_uring",
        verdict: Verdict::Ok,
        is: "works".into(),
        should: "works".into(),
        why: "one system call takes what many sockets have to say and syncs the log beside it; \
              without it the relay runs on epoll, with the same answers"
            .into(),
        commands: Vec::new(),
    };
    let Err(reason) = &subject.measured.io_uring else { return finding };
    finding.is = reason.clone();
    finding.verdict =
        if subject.needs.insists_on_io_uring { Verdict::Problem } else { Verdict::Advice };
    if subject.needs.insists_on_io_uring {
        finding.why.push_str(". runtime.runtime insists on it, so the relay does not start");
    }
    let disabled = settings::value(subject.host, "kernel.io_uring_disabled");
    match disabled.as_deref() {
        Ok("1" | "2") => {
            finding.is.push_str("; kernel.io_uring_disabled forbids it");
            finding.commands.push("sysctl -w kernel.io_uring_disabled=0".into());
            finding.commands.push(
                "turnpike tune --allow-io-uring --apply   # the same, and for the next boot".into(),
            );
        }
        _ if has_filter(subject) => {
            finding.is.push_str("; a seccomp filter is in force");
            finding.commands.push(
                "# systemd: SystemCallFilter=io_uring_setup io_uring_enter io_uring_register"
                    .into(),
            );
            finding.commands.push(
                "# a container: its seccomp profile has to allow the same three calls".into(),
            );
        }
        _ => finding
            .commands
            .push("# take a kernel of 6.1 or later, built with CONFIG_IO_URING".into()),
    }
    finding
}

/// Whether a filter of system calls is in force on the process that counts.
fn has_filter(subject: &Subject<'_>) -> bool {
    let status = host::text(subject.host, &subject.process("status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

fn clocksource(subject: &Subject<'_>) -> Finding {
    let (id, title) = ("kernel.clocksource", "clock source");
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let should = "tsc, or another that needs no system call";
    let why = "every turn of a core reads the clock; a source such as hpet or acpi_pm makes each \
               reading a system call and a slow one";
    let source = match host::text(subject.host, &format!("{folder}/current_clocksource")) {
        Ok(source) => source,
        Err(error) => return Finding::unknown(id, title, &error, should, why),
    };
    let available = host::text(subject.host, &format!("{folder}/available_clocksource"));
    let available = available.unwrap_or_default();
    let better = available.split_whitespace().find(|name| FAST_CLOCKS.contains(name));
    let is_fast = FAST_CLOCKS.contains(&source.as_str());
    let command = match better {
        Some(better) => format!("echo {better} > {folder}/current_clocksource"),
        None => "# boot with tsc=reliable, if the machine's tsc is; ask the host of a virtual one"
            .into(),
    };
    Finding {
        id,
        title,
        verdict: if is_fast { Verdict::Ok } else { Verdict::Advice },
        is: source,
        should: should.into(),
        why: why.into(),
        commands: vec![command],
    }
}
