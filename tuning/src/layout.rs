//! Which core does what: the relay starts its cores by this, and `turnpike topology` prints it.

use crate::cpus::CpuList;
use crate::machine::Machine;
use crate::text::count;

/// Processors up to which none is worth leaving out: executors everywhere.
const SMALL_CPUS: usize = 4;
/// Of this many processors one is left to interrupts, pool and logs.
const CPUS_PER_FREE: usize = 8;
/// Least threads of the store pool: one may hold a checkpoint while another reads.
const POOL_THREADS_MIN: usize = 2;

/// One executor: the thread of a core, with its connections and its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executor {
    /// Its number, as in the thread's name `core-0`.
    pub index: usize,
    /// The processor that it is pinned to.
    pub cpu: usize,
    /// The shards that it owns.
    pub shards: Vec<u16>,
}

/// Which processor does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// One per shard, as far as there are processors.
    pub executors: Vec<Executor>,
    /// Threads for work that waits for the disk; not pinned.
    pub pool_threads: usize,
    /// What the process may use: threads that are not pinned run anywhere among these.
    pub allowed: CpuList,
}

impl Layout {
    /// How a relay with `shards` shards uses the processors `allowed` of `machine`, with at most
    /// `executors_max` executors. `allowed` may not be empty, nor `shards` or `executors_max` 0.
    pub fn new(machine: &Machine, allowed: &[usize], shards: u16, executors_max: usize) -> Self {
        let pins = machine.pin_order(allowed);
        let count = pins.len().min(usize::from(shards)).min(executors_max);
        let executors = pins.iter().take(count).enumerate().map(|(index, cpu)| Executor {
            index,
            cpu: *cpu,
            shards: (index as u16..shards).step_by(count).collect(),
        });
        Self {
            executors: executors.collect(),
            pool_threads: pins.len().div_ceil(CPUS_PER_FREE).max(POOL_THREADS_MIN),
            allowed: pins.iter().copied().collect(),
        }
    }

    /// The processors of the executors.
    pub fn pinned(&self) -> CpuList {
        self.executors.iter().map(|executor| executor.cpu).collect()
    }

    /// The processors of the machine that no executor is pinned to.
    pub fn free(&self, machine: &Machine) -> CpuList {
        machine.online().without(&self.pinned())
    }

    /// Where the interrupts of network cards should go: to processors without an executor, if there
    /// are any, else to all.
    pub fn interrupts(&self, machine: &Machine) -> CpuList {
        let free = self.free(machine);
        if free.is_empty() { machine.online() } else { free }
    }

    /// Executors that share a core with another executor.
    pub fn crowded(&self, machine: &Machine) -> usize {
        let pinned = self.pinned();
        let shares = |executor: &&Executor| {
            machine.cpu(executor.cpu).is_some_and(|cpu| cpu.core.and(&pinned).len() > 1)
        };
        self.executors.iter().filter(shares).count()
    }

    /// The memory nodes that executors are on.
    pub fn nodes(&self, machine: &Machine) -> Vec<usize> {
        let cpus = self.executors.iter().filter_map(|executor| machine.cpu(executor.cpu));
        let mut nodes: Vec<usize> = cpus.map(|cpu| cpu.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// What could be better about it, and how.
    pub fn advice(&self, machine: &Machine) -> Vec<String> {
        let mut advice = Vec::new();
        let executors = self.executors.len();
        let shards: usize = self.executors.iter().map(|executor| executor.shards.len()).sum();
        if executors > 0 && !shards.is_multiple_of(executors) {
            advice.push(format!(
                "{shards} shards on {executors} cores are uneven: some cores carry {} shards, others \
                 {}. A multiple of {executors} is even: turnpike reshard --shards {}",
                shards.div_ceil(executors),
                shards / executors,
                shards.next_multiple_of(executors),
            ));
        }
        let better = suggested_shards(&machine.within(&self.allowed));
        let how = format!(
            "store.shards = {better} for a new directory, turnpike reshard --shards {better} for an \
             old one"
        );
        if self.allowed.len() > SMALL_CPUS && self.free(machine).is_empty() {
            let left = self.allowed.len() - usize::from(better).min(self.allowed.len());
            advice.push(format!(
                "Every processor has an executor, and interrupts, checkpoints and the log's threads \
                 take turns with them. With {} these have {} to themselves: {how}",
                count(better.into(), "shard"),
                count(left, "processor"),
            ));
        } else if executors * 4 < usize::from(better) * 3 {
            advice.push(format!(
                "{} of {} have an executor. Many writers want more shards, up to {better} here; \
                 many small queries by kind want few: {how}",
                executors,
                count(self.allowed.len(), "processor"),
            ));
        }
        if self.nodes(machine).len() > 1
            && let Some((node, cpus)) = machine.largest_node(&self.allowed)
            && cpus.len() >= executors
        {
            advice.push(format!(
                "The executors are on several memory nodes, and node {node} has room for all: \
                 turnpike tune --cpus {cpus} keeps the relay there"
            ));
        }
        advice
    }
}

/// The number of shards that leaves room for what is no executor: on a machine whose cores have two
/// hardware threads one per core, so that the second threads do the rest; else all processors but
/// one in eight.
pub fn suggested_shards(machine: &Machine) -> u16 {
    let (cpus, cores) = (machine.cpus.len(), machine.cores());
    let shards = if cpus <= SMALL_CPUS {
        cpus
    } else if cores < cpus {
        cores
    } else {
        cpus - cpus.div_ceil(CPUS_PER_FREE)
    };
    u16::try_from(shards.max(1)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::two_sockets;
    use proptest::prelude::*;

    fn all(count: usize) -> Vec<usize> {
        (0..count).collect()
    }

    proptest! {
        #[test]
        fn every_shard_has_one_owner_and_every_executor_a_processor_of_its_own(
            cpus in 1..100_usize, shards in 1..300_u16, executors_max in 1..70_usize,
        ) {
            let machine = Machine::plain(cpus);
            let layout = Layout::new(&machine, &all(cpus), shards, executors_max);
            let mut owned: Vec<u16> =
                layout.executors.iter().flat_map(|executor| executor.shards.clone()).collect();
            owned.sort_unstable();
            prop_assert_eq!(owned, (0..shards).collect::<Vec<_>>());
            prop_assert_eq!(layout.pinned().len(), layout.executors.len());
            prop_assert!(layout.executors.len() <= executors_max);
            prop_assert!(layout.executors.iter().all(|executor| !executor.shards.is_empty()));
            prop_assert!(layout.pool_threads >= 2);
            prop_assert!(!layout.interrupts(&machine).is_empty());
        }
    }

    #[test]
    fn a_small_machine_is_used_whole_and_a_large_one_leaves_room() {
        for (cpus, shards) in [(1, 1), (2, 2), (4, 4), (8, 7), (16, 14), (32, 28), (64, 56)] {
            let machine = Machine::plain(cpus);
            assert_eq!(suggested_shards(&machine), shards, "{cpus}");
            let layout = Layout::new(&machine, &all(cpus), shards, 63);
            assert_eq!(layout.advice(&machine), Vec::<String>::new(), "{cpus}");
        }
        assert_eq!(suggested_shards(&two_sockets(8, true)), 16);
    }

    #[test]
    fn uneven_full_and_spread_layouts_are_told_what_is_better() {
        let machine = Machine::plain(8);
        let full = Layout::new(&machine, &all(8), 8, 63).advice(&machine);
        assert!(
            full.len() == 1 && full[0].contains("With 7 shards these have 1 processor to"),
            "{full:?}"
        );
        let uneven = Layout::new(&machine, &all(8), 12, 63).advice(&machine);
        assert!(
            uneven[0].contains("--shards 16") && uneven[0].contains("carry 2 shards"),
            "{uneven:?}"
        );
        let sixty_four = Machine::plain(64);
        let few = Layout::new(&sixty_four, &all(64), 16, 63).advice(&sixty_four);
        assert!(few.len() == 1 && few[0].contains("16 of 64") && few[0].contains("56"), "{few:?}");
        let kept = Layout::new(&sixty_four, &all(8), 7, 63).advice(&sixty_four);
        assert!(kept.is_empty(), "what it may not have is not advised: {kept:?}");
        let sockets = two_sockets(4, false);
        let spread = Layout::new(&sockets, &all(16), 8, 63);
        assert_eq!((spread.crowded(&sockets), spread.nodes(&sockets)), (0, vec![0, 1]));
        let advice = spread.advice(&sockets);
        assert!(advice.len() == 1 && advice[0].contains("--cpus 0-3,8-11"), "{advice:?}");
        let crowded = Layout::new(&sockets, &all(16), 16, 63);
        assert_eq!(crowded.crowded(&sockets), 16);
    }

    #[test]
    fn interrupts_go_where_no_executor_is() {
        let machine = Machine::plain(8);
        let layout = Layout::new(&machine, &all(8), 7, 63);
        assert_eq!(layout.interrupts(&machine).to_string(), "7");
        let layout = Layout::new(&machine, &all(8), 8, 63);
        assert_eq!(layout.interrupts(&machine).to_string(), "0-7");
    }
}
