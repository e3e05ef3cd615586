//! Network cards: how many queues they have, and which processors do their work.

use super::Subject;
use crate::cpus::CpuList;
use crate::host;
use crate::nics::{self, INTERFACES, Nic};
use crate::report::{Finding, Verdict};
use crate::text::count;

/// Processors up to which one queue does.
const CPUS_FOR_ONE_QUEUE: usize = 2;
/// Queues beyond which more do not help a relay.
const QUEUES_ENOUGH: usize = 8;
/// Commands that are shown for one card; the pattern is clear by then.
const COMMANDS_MAX: usize = 8;

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let cards = match nics::read(subject.host) {
        Ok(cards) => cards,
        Err(error) => {
            let should = "a queue per processor, up to 8";
            let why = "each queue is looked after by one processor";
            return vec![Finding::unknown("net.queues", "card queues", &error, should, why)];
        }
    };
    if cards.is_empty() {
        return vec![Finding {
            id: "net.queues",
            title: "card queues",
            verdict: Verdict::Ok,
            is: "no network card here (a container, or loopback only)".into(),
            should: "a queue per processor, up to 8".into(),
            why: "the host of this container looks after its cards; run turnpike doctor there"
                .into(),
            commands: Vec::new(),
        }];
    }
    vec![queues(subject, &cards), interrupts(subject, &cards), steering(subject, &cards)]
}

/// Queues that a card should have on this machine.
fn queues_wanted(subject: &Subject<'_>) -> usize {
    match subject.machine.cpus.len() {
        cpus if cpus <= CPUS_FOR_ONE_QUEUE => 1,
        _ => subject.layout.interrupts(subject.machine).len().min(QUEUES_ENOUGH),
    }
}

fn join(parts: Vec<String>) -> String {
    parts.join("; ")
}

fn queues(subject: &Subject<'_>, cards: &[Nic]) -> Finding {
    let wanted = queues_wanted(subject);
    let few: Vec<&Nic> = cards.iter().filter(|card| card.rx_queues < wanted).collect();
    let of = |card: &Nic| {
        format!("{}: {} to receive, {} to send", card.name, card.rx_queues, card.tx_queues)
    };
    Finding {
        id: "net.queues",
        title: "card queues",
        verdict: if few.is_empty() { Verdict::Ok } else { Verdict::Advice },
        is: join(cards.iter().map(of).collect()),
        should: format!("{} or more to receive", count(wanted, "queue")),
        why: "one processor looks after each queue; with one queue, all packets wait for the same \
              one, while others are idle"
            .into(),
        commands: few
            .iter()
            .flat_map(|card| {
                [
                    format!("ethtool -l {0}; ethtool -L {0} combined {wanted}", card.name),
                    format!(
                        "# where the card has no more: packet steering, see net.steering ({})",
                        card.name
                    ),
                ]
            })
            .collect(),
    }
}

fn interrupts(subject: &Subject<'_>, cards: &[Nic]) -> Finding {
    let target = subject.layout.interrupts(subject.machine);
    let is_apart = !subject.layout.free(subject.machine).is_empty();
    let mut is = Vec::new();
    let mut commands = Vec::new();
    let mut verdict = Verdict::Ok;
    for card in cards {
        if card.irqs.is_empty() {
            is.push(format!("{}: its interrupts cannot be told from others", card.name));
            verdict = verdict.max(Verdict::Unknown);
            continue;
        }
        let does: CpuList =
            card.irqs.iter().flat_map(|irq| irq.does.iter().collect::<Vec<_>>()).collect();
        is.push(format!(
            "{}: {} on processors {}",
            card.name,
            count(card.irqs.len(), "interrupt"),
            does.words()
        ));
        let spread_wanted = card.irqs.len().min(target.len());
        let is_good = match is_apart {
            true => does.is_within(&target),
            false => does.len() >= spread_wanted,
        };
        if !is_good {
            verdict = Verdict::Advice;
            commands.extend(placement(card, &target));
        }
    }
    if verdict == Verdict::Advice {
        commands.push(format!(
            "# irqbalance would move them again: IRQBALANCE_BANNED_CPULIST={} keeps it off these",
            subject.layout.pinned()
        ));
    }
    let should = match is_apart {
        true => format!("on processors without an executor: {}", target.words()),
        false => format!("spread over processors {}", target.words()),
    };
    Finding {
        id: "net.irq",
        title: "card interrupts",
        verdict,
        is: join(is),
        should,
        why:
            "the processor that takes a queue's interrupt does the kernel's work for its packets, \
              which is about as much as the relay's own"
                .into(),
        commands,
    }
}

/// One command per interrupt, each queue on a processor of its own as far as there are any. The
/// interrupts that receive and send for one queue go together.
fn placement(card: &Nic, target: &CpuList) -> Vec<String> {
    let cpus: Vec<usize> = target.iter().collect();
    let queue = |name: &str| {
        let digits: String = name
            .chars()
            .rev()
            .take_while(char::is_ascii_digit)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        digits.parse::<usize>().ok()
    };
    let mut commands: Vec<String> = card
        .irqs
        .iter()
        .enumerate()
        .map(|(index, irq)| {
            let cpu = cpus[queue(&irq.name).unwrap_or(index) % cpus.len()];
            format!("echo {cpu} > /proc/irq/{}/smp_affinity_list   # {}", irq.number, irq.name)
        })
        .collect();
    let left_out = commands.len().saturating_sub(COMMANDS_MAX);
    if left_out > 0 {
        commands.truncate(COMMANDS_MAX);
        commands.push(format!("# and so on for the other {left_out} interrupts of {}", card.name));
    }
    commands
}

fn steering(subject: &Subject<'_>, cards: &[Nic]) -> Finding {
    let cpus = subject.machine.cpus.len();
    let target = subject.layout.interrupts(subject.machine);
    let mut finding = Finding {
        id: "net.steering",
        title: "packet steering",
        verdict: Verdict::Ok,
        is: String::new(),
        should: "on where one queue serves many processors".into(),
        why:
            "a card with one queue gives all its packets to one processor; receive steering (RPS) \
              hands them on, and send steering (XPS) keeps a processor on a queue of its own"
                .into(),
        commands: Vec::new(),
    };
    let mut is = Vec::new();
    for card in cards {
        let folder = format!("{INTERFACES}/{}/queues", card.name);
        let masks = |kind: &str, file: &str, queues: usize| {
            let paths = (0..queues).map(|queue| format!("{folder}/{kind}-{queue}/{file}"));
            let set = paths.filter(|path| {
                host::text(subject.host, path)
                    .is_ok_and(|mask| mask.chars().any(|digit| !matches!(digit, '0' | ',')))
            });
            set.count()
        };
        let rps = masks("rx", "rps_cpus", card.rx_queues);
        let xps = masks("tx", "xps_cpus", card.tx_queues);
        is.push(format!(
            "{}: receive {}, send {}",
            card.name,
            if rps > 0 { "on" } else { "off" },
            if xps > 0 { "on" } else { "off" }
        ));
        let needs_rps = card.rx_queues == 1 && cpus > CPUS_FOR_ONE_QUEUE && rps == 0;
        if needs_rps {
            finding.verdict = Verdict::Advice;
            let mask = target.mask();
            finding.commands.push(format!("echo {mask} > {folder}/rx-0/rps_cpus"));
        }
        if card.tx_queues > 1 && xps == 0 {
            finding.verdict = Verdict::Advice;
            let all: Vec<usize> = subject.machine.online().iter().collect();
            for queue in 0..card.tx_queues.min(COMMANDS_MAX) {
                let own = all.iter().skip(queue).step_by(card.tx_queues).copied();
                let mask = own.collect::<CpuList>().mask();
                finding.commands.push(format!("echo {mask} > {folder}/tx-{queue}/xps_cpus"));
            }
        }
    }
    finding.is = join(is);
    finding
}
