//! Which core will do what, for people and programs.

use crate::host::Host;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::nics::{self, Nic};
use crate::report::COLUMNS;
use crate::text::{bytes, count, wrap};
use serde_json::{Value, json};
use std::fmt::Write;

/// Columns of what stands before a paragraph.
const LABEL_COLUMNS: usize = 12;

/// What is known beside processors and layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where the number of shards comes from, such as `of the data directory`.
    pub shards_from: String,
    /// The runtime, with the reason if it is not the first choice.
    pub runtime: String,
    /// Bytes of memory that the relay may use at all.
    pub memory_bytes: u64,
    /// The memory ceiling: what the budgets add up to, or why the relay would not start.
    pub memory: Result<u64, String>,
    /// What hinders a start or is not as the configuration says.
    pub warnings: Vec<String>,
}

/// Everything that is printed.
pub struct Topology<'a> {
    /// The processors.
    pub machine: &'a Machine,
    /// Which does what.
    pub layout: &'a Layout,
    /// The network cards; none on a machine that is only thought of.
    pub cards: Vec<Nic>,
    /// The rest.
    pub facts: Facts,
}

/// The network cards of a machine, for [`Topology::cards`].
pub fn cards(host: &dyn Host) -> Vec<Nic> {
    nics::read(host).unwrap_or_default()
}

/// A text beside its label.
fn write_paragraph(out: &mut String, label: &str, text: &str) {
    for (line, text) in wrap(text, COLUMNS - LABEL_COLUMNS).iter().enumerate() {
        let label = if line == 0 { label } else { "" };
        let _ = writeln!(out, "{label:<LABEL_COLUMNS$}{text}");
    }
}

impl Topology<'_> {
    /// A table with its explanations, at most 100 columns wide.
    pub fn table(&self) -> String {
        let mut out = String::new();
        write_paragraph(&mut out, "Machine", &self.machine_text());
        write_paragraph(&mut out, "Relay", &self.relay_text());
        write_paragraph(&mut out, "Memory", &self.memory_text());
        out.push('\n');
        self.write_executors(&mut out);
        out.push('\n');
        write_paragraph(&mut out, "Not pinned", &self.unpinned_text());
        write_paragraph(&mut out, "Interrupts", &self.interrupts_text());
        for warning in &self.facts.warnings {
            write_paragraph(&mut out, "Warning", warning);
        }
        for advice in self.layout.advice(self.machine) {
            write_paragraph(&mut out, "Advice", &advice);
        }
        out
    }

    fn machine_text(&self) -> String {
        let (cpus, cores) = (self.machine.cpus.len(), self.machine.cores());
        let threads = match cpus == cores {
            true => String::new(),
            false => format!(" on {}", count(cores, "core")),
        };
        let nodes = count(self.machine.nodes().len(), "memory node");
        let memory = bytes(self.facts.memory_bytes);
        format!("{}{threads}, {nodes}, {memory} of memory", count(cpus, "processor"))
    }

    fn relay_text(&self) -> String {
        let shards: usize = self.layout.executors.iter().map(|one| one.shards.len()).sum();
        format!(
            "{} ({}) on {}, may use processors {}, over {}",
            count(shards, "shard"),
            self.facts.shards_from,
            count(self.layout.executors.len(), "executor"),
            self.layout.allowed.words(),
            self.facts.runtime
        )
    }

    fn memory_text(&self) -> String {
        match &self.facts.memory {
            Ok(total) => {
                format!("budgets add up to {}; the page cache comes on top", bytes(*total))
            }
            Err(reason) => format!("the relay does not start: {reason}"),
        }
    }

    fn write_executors(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "{:<12}{:<11}{:<6}{:<15}shards",
            "thread", "processor", "node", "shares core"
        );
        let pinned = self.layout.pinned();
        for executor in &self.layout.executors {
            let cpu = self.machine.cpu(executor.cpu);
            let mates = cpu.map(|cpu| cpu.core.clone()).unwrap_or_default();
            let mates: Vec<String> = mates
                .iter()
                .filter(|mate| *mate != executor.cpu)
                .map(|mate| match pinned.contains(mate) {
                    true => format!("{mate} (busy)"),
                    false => mate.to_string(),
                })
                .collect();
            let shards: Vec<String> = executor.shards.iter().map(ToString::to_string).collect();
            let shards = wrap(&shards.join(" "), COLUMNS - 44);
            let mates = if mates.is_empty() { "-".to_owned() } else { mates.join(",") };
            let name = format!("core-{}", executor.index);
            let node = cpu.map_or(0, |cpu| cpu.node);
            let row = format!("{name:<12}{:<11}{node:<6}{mates:<15}", executor.cpu);
            for (line, shards) in shards.iter().enumerate() {
                let row = if line == 0 { row.as_str() } else { "" };
                let _ = writeln!(out, "{row:<44}{shards}");
            }
        }
    }

    /// Threads that run anywhere, by the names that `ps -L` shows.
    fn unpinned(&self) -> Vec<String> {
        let range = |name: &str, number: usize| match number {
            1 => format!("{name}-0"),
            _ => format!("{name}-0 to {name}-{}", number - 1),
        };
        vec![
            "the control thread".into(),
            range("store-pool", self.layout.pool_threads),
            range("log", self.layout.executors.len()),
            "signals".into(),
            "admin".into(),
        ]
    }

    fn unpinned_text(&self) -> String {
        let idle = self.layout.allowed.without(&self.layout.pinned());
        let place = match idle.is_empty() {
            true => "where they take turns with the executors".to_owned(),
            false => format!("of which {} have no executor", idle.words()),
        };
        let all = self.layout.allowed.words();
        format!("{}; anywhere in {all}, {place}", self.unpinned().join(", "))
    }

    fn interrupts_text(&self) -> String {
        let target = self.layout.interrupts(self.machine).words();
        let mut text = match self.layout.free(self.machine).is_empty() {
            true => format!("of network cards should be spread over processors {target}"),
            false => format!("of network cards should go to processors {target}"),
        };
        let now = self.cards.iter().map(|card| {
            let queues = count(card.rx_queues, "queue");
            let does: Vec<usize> = card.irqs.iter().flat_map(|irq| irq.does.iter()).collect();
            let does: crate::cpus::CpuList = does.into_iter().collect();
            let (is_known, does) = (!does.is_empty(), does.words());
            let node = card.node.map(|node| format!(", node {node}")).unwrap_or_default();
            match is_known {
                false => format!("{} ({queues}{node})", card.name),
                true => format!("{} ({queues}{node}), now on {does}", card.name),
            }
        });
        let now: Vec<String> = now.collect();
        if !now.is_empty() {
            text.push_str(&format!(": {}", now.join("; ")));
        }
        text.push_str(". turnpike doctor has the commands");
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let executors: Vec<Value> = self
            .layout
            .executors
            .iter()
            .map(|executor| {
                let cpu = self.machine.cpu(executor.cpu);
                let core = cpu.map(|cpu| cpu.core.iter().collect::<Vec<_>>());
                json!({
                    "executor": executor.index,
                    "processor": executor.cpu,
                    "node": cpu.map(|cpu| cpu.node),
                    "core": core,
                    "shards": executor.shards,
                })
            })
            .collect();
        let list = |cpus: &crate::cpus::CpuList| cpus.iter().collect::<Vec<_>>();
        let cards: Vec<Value> = self
            .cards
            .iter()
            .map(|card| {
                json!({
                    "name": card.name,
                    "rx_queues": card.rx_queues,
                    "tx_queues": card.tx_queues,
                    "node": card.node,
                    "irqs": card.irqs.iter().map(|irq| json!({
                        "number": irq.number,
                        "name": irq.name,
                        "processors": list(&irq.does),
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "processors": self.machine.cpus.len(),
            "cores": self.machine.cores(),
            "nodes": self.machine.nodes().values().map(list).collect::<Vec<_>>(),
            "memory_bytes": self.facts.memory_bytes,
            "budget_bytes": self.facts.memory.as_ref().ok(),
            "runtime": self.facts.runtime,
            "allowed": list(&self.layout.allowed),
            "shards": self.layout.executors.iter().map(|one| one.shards.len()).sum::<usize>(),
            "shards_from": self.facts.shards_from,
            "executors": executors,
            "unpinned": self.unpinned(),
            "pool_threads": self.layout.pool_threads,
            "interrupts": list(&self.layout.interrupts(self.machine)),
            "cards": cards,
            "warnings": self.facts.warnings,
            "advice": self.layout.advice(self.machine),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fake::Fake;
    use crate::machine::tests::two_sockets;

    fn facts() -> Facts {
        Facts {
            shards_from: "of the data directory".into(),
            runtime: "io-uring".into(),
            memory_bytes: 64 << 30,
            memory: Ok(16 << 30),
            warnings: vec!["something is not as it should be".into()],
        }
    }

    #[test]
    fn every_executor_has_its_row_and_the_table_fits() {
        let machine = two_sockets(16, true);
        let all: Vec<usize> = (0..64).collect();
        for shards in [1, 16, 32, 63, 256] {
            let layout = Layout::new(&machine, &all, shards, 63);
            let cards = cards(&Fake::good().tree());
            let topology = Topology { machine: &machine, layout: &layout, cards, facts: facts() };
            let table = topology.table();
            for line in table.lines() {
                assert!(line.chars().count() <= COLUMNS && line == line.trim_end(), "{line:?}");
            }
            for executor in &layout.executors {
                let row = format!("\ncore-{:<7}{:<11}", executor.index, executor.cpu);
                assert!(table.contains(&row), "{table}");
            }
            let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains("Warning something is not"), "{table}");
            assert!(words.contains("eth0 (4 queues), now on 0-3"), "{table}");
            let json = topology.json();
            assert_eq!(json["executors"].as_array().unwrap().len(), layout.executors.len());
            assert_eq!(json["shards"], shards);
        }
    }

    #[test]
    fn a_core_that_two_executors_share_is_seen() {
        let machine = two_sockets(1, true);
        let layout = Layout::new(&machine, &[0, 1], 2, 63);
        let topology =
            Topology { machine: &machine, layout: &layout, cards: vec![], facts: facts() };
        assert!(topology.table().contains("1 (busy)"), "{}", topology.table());
    }
}
