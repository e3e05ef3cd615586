//! Sockets and packets, as the kernel's settings have them.

use super::{Subject, find, of_setting};
use crate::host;
use crate::report::{Finding, Verdict};
use crate::settings::{self, Setting, span};

/// More connections than there are ports from one address to another.
const PORTS_OF_ONE_ADDRESS: u64 = 55_000;

pub(super) fn check(subject: &Subject<'_>, settings: &[Setting]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut push = |id, title, key, unmet| {
        if let Some(setting) = find(settings, key) {
            findings.push(of_setting(id, title, setting, unmet));
        }
    };
    push("net.somaxconn", "accept queue", "net.core.somaxconn", Verdict::Advice);
    push("net.syn_backlog", "half-open queue", "net.ipv4.tcp_max_syn_backlog", Verdict::Advice);
    push("net.syncookies", "syn cookies", "net.ipv4.tcp_syncookies", Verdict::Problem);
    push(
        "net.slow_start",
        "slow start after idle",
        "net.ipv4.tcp_slow_start_after_idle",
        Verdict::Advice,
    );
    findings.push(packets(subject, settings));
    findings.push(ports(subject, settings));
    findings.push(congestion(subject, settings));
    findings.push(conntrack(settings));
    findings
}

/// Packets that found no room, from the second column of `softnet_stat`.
fn dropped(subject: &Subject<'_>) -> u64 {
    let text = host::text(subject.host, "/proc/net/softnet_stat").unwrap_or_default();
    let of_line = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(of_line).sum()
}

fn packets(subject: &Subject<'_>, settings: &[Setting]) -> Finding {
    let setting = find(settings, "net.core.netdev_max_backlog").expect("it is always in the table");
    let mut finding = of_setting("net.backlog_packets", "packet queue", setting, Verdict::Advice);
    if let (dropped @ 1.., true) = (dropped(subject), setting.is.is_ok()) {
        finding.is.push_str(&format!(", {dropped} dropped since boot"));
    }
    finding
}

fn ports(subject: &Subject<'_>, settings: &[Setting]) -> Finding {
    let setting =
        find(settings, "net.ipv4.ip_local_port_range").expect("it is always in the table");
    let mut finding = of_setting("net.ports", "outgoing ports", setting, Verdict::Advice);
    let Some((low, high)) = setting.is.as_deref().ok().and_then(span) else { return finding };
    finding.is = format!("{low} to {high}, {} ports", high - low + 1);
    finding.should = finding.should.replace("numbers", "ports");
    if setting.is_met() == Some(false) && subject.needs.connections_max > PORTS_OF_ONE_ADDRESS {
        finding.why.push_str(
            "; for so many connections a proxy needs several addresses to connect from or to",
        );
    }
    let port = u64::from(subject.needs.listen_port);
    let reserved = settings::value(subject.host, "net.ipv4.ip_local_reserved_ports");
    let is_reserved = reserved.is_ok_and(|list| holds(&list, port));
    if port != 0 && (low..=high).contains(&port) && !is_reserved {
        finding.verdict = finding.verdict.max(Verdict::Advice);
        finding.is.push_str(&format!("; {port}, where the relay listens, is among them"));
        finding.why.push_str(
            "; and while the relay is down, an outgoing connection may take the port that it \
             listens on",
        );
        finding.commands.push(format!("sysctl -w net.ipv4.ip_local_reserved_ports={port}"));
    }
    finding
}

/// Whether a list such as `7777,8000-8010` holds `port`.
fn holds(list: &str, port: u64) -> bool {
    list.split(',').any(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        match (low.trim().parse::<u64>(), high.trim().parse::<u64>()) {
            (Ok(low), Ok(high)) => (low..=high).contains(&port),
            _ => false,
        }
    })
}

fn congestion(subject: &Subject<'_>, settings: &[Setting]) -> Finding {
    let (id, title) = ("net.congestion", "congestion control");
    match find(settings, "net.ipv4.tcp_congestion_control") {
        Some(setting) => {
            let mut finding = of_setting(id, title, setting, Verdict::Advice);
            if finding.verdict == Verdict::Ok {
                finding.commands.clear();
            }
            let qdisc = find(settings, "net.core.default_qdisc");
            if let Some(qdisc) = qdisc
                && let Ok(is) = &qdisc.is
                && finding.verdict != Verdict::Unknown
            {
                finding.is.push_str(&format!(" over {is}"));
                finding.should.push_str(" over fq");
                if qdisc.is_met() == Some(false) {
                    finding.verdict = Verdict::Advice;
                    finding.commands.insert(0, "sysctl -w net.core.default_qdisc=fq".into());
                }
            }
            finding
        }
        None => Finding {
            id,
            title,
            verdict: Verdict::Ok,
            is: settings::value(subject.host, "net.ipv4.tcp_congestion_control")
                .unwrap_or_else(|error| error.to_string()),
            should: "bbr, where the kernel has it; this one does not".into(),
            why: "clients on phones lose packets without congestion, and cubic takes each loss \
                  for it"
                .into(),
            commands: vec!["# a kernel with CONFIG_TCP_CONG_BBR".into()],
        },
    }
}

fn conntrack(settings: &[Setting]) -> Finding {
    let (id, title) = ("net.conntrack", "connection tracking");
    match find(settings, "net.netfilter.nf_conntrack_max") {
        Some(setting) => of_setting(id, title, setting, Verdict::Problem),
        None => Finding {
            id,
            title,
            verdict: Verdict::Ok,
            is: "not loaded".into(),
            should: "none, or room for all".into(),
            why: "a firewall that tracks connections drops new ones when its table is full".into(),
            commands: Vec::new(),
        },
    }
}
