//! The processors of a machine: which of them share a core, and where their memory is.

use crate::cpus::CpuList;
use crate::host::{self, Host, Unreadable};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Folder of all processors.
pub(crate) const CPUS: &str = "/sys/devices/system/cpu";
/// Folder of all memory nodes.
pub(crate) const NODES: &str = "/sys/devices/system/node";

/// One processor as the kernel counts them: a hardware thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: usize,
    /// The memory node that is near to it.
    pub node: usize,
    /// All hardware threads of its core, itself among them.
    pub core: CpuList,
}

/// All processors that are switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// By number.
    pub cpus: Vec<Cpu>,
}

impl Machine {
    /// What `/sys` says; where it says nothing, as within some containers, each processor of
    /// `allowed` is a core of its own.
    pub fn read(host: &dyn Host, allowed: &[usize]) -> Self {
        let online = match cpu_list(host, &format!("{CPUS}/online")) {
            Ok(online) if !online.is_empty() => online,
            _ => allowed.iter().copied().collect(),
        };
        let node_of = nodes(host);
        let cpus = online.iter().map(|id| {
            let core =
                siblings(host, id).map_or_else(|| [id].into_iter().collect(), |s| s.and(&online));
            Cpu { id, node: node_of.get(&id).copied().unwrap_or(0), core }
        });
        Self { cpus: cpus.collect() }
    }

    /// A machine of `cores` cores with one hardware thread each and one memory node.
    pub fn plain(cores: usize) -> Self {
        let cpu = |id| Cpu { id, node: 0, core: [id].into_iter().collect() };
        Self { cpus: (0..cores).map(cpu).collect() }
    }

    /// All of them.
    pub fn online(&self) -> CpuList {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// The part of it that is within `cpus`.
    #[must_use]
    pub fn within(&self, cpus: &CpuList) -> Self {
        let part = self.cpus.iter().filter(|cpu| cpus.contains(cpu.id));
        Self { cpus: part.map(|cpu| Cpu { core: cpu.core.and(cpus), ..cpu.clone() }).collect() }
    }

    /// One of them.
    pub fn cpu(&self, id: usize) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// Cores, not hardware threads.
    pub fn cores(&self) -> usize {
        let mut cores: Vec<Option<usize>> =
            self.cpus.iter().map(|cpu| cpu.core.iter().next()).collect();
        cores.sort_unstable();
        cores.dedup();
        cores.len()
    }

    /// The memory nodes, each with its processors.
    pub fn nodes(&self) -> BTreeMap<usize, CpuList> {
        let mut nodes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for cpu in &self.cpus {
            nodes.entry(cpu.node).or_default().push(cpu.id);
        }
        nodes.into_iter().map(|(node, cpus)| (node, cpus.into_iter().collect())).collect()
    }

    /// The processors of `allowed` in the order in which threads are pinned to them: first one
    /// hardware thread of every core, node by node, then the second ones. Clouds number the two
    /// threads of a core one after the other, and a relay with fewer executors than processors
    /// would otherwise crowd onto half of the cores.
    pub fn pin_order(&self, allowed: &[usize]) -> Vec<usize> {
        let usable: CpuList = allowed.iter().copied().collect();
        let rank = |id: usize| match self.cpu(id) {
            Some(cpu) => {
                (cpu.core.and(&usable).iter().take_while(|sibling| *sibling < id).count(), cpu.node)
            }
            None => (0, 0),
        };
        let mut order: Vec<usize> = usable.iter().collect();
        order.sort_by_key(|id| (rank(*id), *id));
        order
    }

    /// The node with most processors of `allowed`, and these; of equals the first.
    pub fn largest_node(&self, allowed: &CpuList) -> Option<(usize, CpuList)> {
        let nodes = self.nodes().into_iter().map(|(node, cpus)| (node, cpus.and(allowed)));
        nodes.min_by_key(|(node, cpus)| (Reverse(cpus.len()), *node))
    }
}

/// A file that holds a list of processors.
pub(crate) fn cpu_list(host: &dyn Host, path: &str) -> Result<CpuList, Unreadable> {
    let text = host::text(host, path)?;
    // `isolated` says `(null)` on some kernels when there is none.
    let text = if text == "(null)" { String::new() } else { text };
    text.parse().map_err(|_| Unreadable::odd(path, &text))
}

fn siblings(host: &dyn Host, cpu: usize) -> Option<CpuList> {
    let names = ["core_cpus_list", "thread_siblings_list"];
    let lists = names.iter().map(|name| format!("{CPUS}/cpu{cpu}/topology/{name}"));
    lists.filter_map(|path| cpu_list(host, &path).ok()).find(|list| list.contains(cpu))
}

fn nodes(host: &dyn Host) -> BTreeMap<usize, usize> {
    let mut node_of = BTreeMap::new();
    for name in host::list(host, NODES).unwrap_or_default() {
        let Some(node) = name.strip_prefix("node").and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        let cpus = cpu_list(host, &format!("{NODES}/{name}/cpulist")).unwrap_or_default();
        node_of.extend(cpus.iter().map(|cpu| (cpu, node)));
    }
    node_of
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine of two sockets with `cores` cores each and two threads per core, numbered as
    /// clouds do (`neighbours`) or as bare metal does.
    pub(crate) fn two_sockets(cores: usize, neighbours: bool) -> Machine {
        let all = 2 * cores;
        let core_of = |id: usize| if neighbours { id / 2 } else { id % all };
        let cpus = (0..2 * all).map(|id| Cpu {
            id,
            node: core_of(id) / cores,
            core: (0..2 * all).filter(|other| core_of(*other) == core_of(id)).collect(),
        });
        Machine { cpus: cpus.collect() }
    }

    #[test]
    fn every_core_gets_one_thread_before_any_gets_two() {
        for neighbours in [true, false] {
            let machine = two_sockets(4, neighbours);
            assert_eq!((machine.cpus.len(), machine.cores()), (16, 8));
            let all: Vec<usize> = (0..16).collect();
            let order = machine.pin_order(&all);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, all);
            let cores = |ids: &[usize]| {
                let cores: std::collections::BTreeSet<_> = ids
                    .iter()
                    .map(|id| machine.cpu(*id).unwrap().core.iter().next().unwrap())
                    .collect();
                cores.len()
            };
            assert_eq!(cores(&order[..8]), 8, "{order:?}");
            let first_node = order[..4].iter().all(|id| machine.cpu(*id).unwrap().node == 0);
            assert!(first_node, "{order:?}");
        }
        let machine = two_sockets(4, true);
        assert_eq!(machine.pin_order(&[1, 0, 6]), [0, 6, 1], "of what is allowed only");
        assert_eq!(machine.pin_order(&[1, 3]), [1, 3], "a lone thread is the first of its core");
        assert_eq!(Machine::plain(3).pin_order(&[0, 1, 2, 9]), [0, 1, 2, 9], "unknown ones, too");
    }

    #[test]
    fn what_the_files_say_is_read_and_absence_is_one_core_each() {
        let fake = crate::checks::fake::Fake::new();
        fake.write("/sys/devices/system/cpu/online", "0-3\n");
        for (cpu, siblings) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")] {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            fake.write(&path, siblings);
        }
        fake.write("/sys/devices/system/node/node0/cpulist", "0,2");
        fake.write("/sys/devices/system/node/node1/cpulist", "1,3");
        fake.write("/sys/devices/system/node/possible", "0-1");
        let machine = Machine::read(&fake.tree(), &[0, 1]);
        assert_eq!((machine.cpus.len(), machine.cores()), (4, 2));
        assert_eq!(machine.nodes()[&1].to_string(), "1,3");
        assert_eq!(machine.pin_order(&[0, 1, 2, 3]), [0, 1, 2, 3]);
        let bare = crate::checks::fake::Fake::new();
        assert_eq!(Machine::read(&bare.tree(), &[0, 1]), Machine::plain(2));
    }
}
