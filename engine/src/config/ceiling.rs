//! The memory ceiling: the sum of all budgets, computed before anything is opened. What it promises
//! is anonymous memory; the page cache of log and index is the kernel's.

use super::Config;
use shards::live::RING_BYTES_MAX;
use std::fmt;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Code, stacks, the allocator's slack, the command line.
const PROCESS_BYTES: u64 = 40 * MIB;
/// One core: receive buffers, scratch buffers, caches of keys and addresses, free chunks, and
/// events under way to the shards ([`shards::message::SUBMIT_BYTES`]).
const CORE_BYTES: u64 = 20 * MIB;
/// One shard beside its budgets: the sketch, recent ids, batches under way.
const SHARD_BYTES: u64 = 8 * MIB;
/// Least that a shard's live ring gets: enough for a burst of the largest events.
const RING_BYTES_MIN: u64 = 4 * MIB;
/// Share of the whole that all live rings get together, unless that is too little or too much.
const RINGS_PERCENT: u64 = 10;
/// One connection: its state, its place in tables, its share of subscriptions, and the beginning of
/// a message that the input budget grants everyone.
const CONNECTION_BYTES: u64 = 6 * KIB;
/// Greatest automatic share of each budget.
const OUTBOX_SHARE_MAX: u64 = 256 * MIB;
const SMALL_SHARE_MAX: u64 = 64 * MIB;
const SYNC_SHARE_MAX: u64 = 72 * MIB;
const FILTERS_SHARE_MAX: u64 = 16 * MIB;
/// Beyond this the filters over the ids of sealed generations cover 22 million events.
const IDS_SHARE_MAX: u64 = store::index::filter::FILTER_BYTES_MAX as u64;

/// What the relay runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory that the process may use at all.
    pub memory_bytes: u64,
    /// Executors.
    pub cores: u64,
    /// Shards.
    pub shards: u64,
}

/// Every budget in bytes, and what they may sum up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// What the sum may reach.
    pub memory_bytes_max: u64,
    /// Code and stacks.
    pub process_bytes: u64,
    /// Fixed cost of all cores and shards.
    pub fixed_bytes: u64,
    /// All connections.
    pub connections_bytes: u64,
    /// Outboxes of one core.
    pub outbox_core_bytes: u64,
    /// Unfinished input of one core.
    pub input_core_bytes: u64,
    /// Query answers held by one core.
    pub pages_core_bytes: u64,
    /// Negentropy sessions of one core.
    pub sync_core_bytes: u64,
    /// Open filters of one core.
    pub filters_core_bytes: u64,
    /// Live ring of one shard.
    pub ring_shard_bytes: u64,
    /// Delta of one shard.
    pub delta_shard_bytes: u64,
    /// Hot bodies of one shard.
    pub hot_shard_bytes: u64,
    /// Filters over the ids of one shard's sealed generations; past it, lookups cost a search more.
    pub ids_shard_bytes: u64,
    machine: Machine,
}

/// The budgets do not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the memory budgets add up to {} MiB and memory.memory_max_mib allows {} MiB; raise it, or \
     lower network.connections_max or the budgets in [memory]\n{ceiling}",
    .ceiling.total_bytes() / MIB, .ceiling.memory_bytes_max / MIB
)]
pub struct CeilingError {
    /// The sum that was refused.
    pub ceiling: Box<Ceiling>,
}

impl Ceiling {
    /// Computes the budgets of `config` on `machine`.
    ///
    /// # Errors
    /// [`CeilingError`] when they do not fit; the relay must not start.
    pub fn compute(config: &Config, machine: Machine) -> Result<Self, CeilingError> {
        let memory = &config.memory;
        let memory_bytes_max = match memory.memory_max_mib {
            0 => machine.memory_bytes / 4,
            mib => mib * MIB,
        };
        // Compression can be switched on while the relay runs.
        let codecs_bytes = net::ws::deflate::core_bytes_max(config.limits.message_bytes_max);
        let core_bytes = CORE_BYTES + codecs_bytes as u64;
        let fixed_bytes = machine.cores * core_bytes + machine.shards * SHARD_BYTES;
        let connections_bytes = u64::from(config.network.connections_max) * CONNECTION_BYTES;
        let ring_shard_bytes = (memory_bytes_max / 100 * RINGS_PERCENT / machine.shards)
            .clamp(RING_BYTES_MIN, RING_BYTES_MAX as u64);
        let rings_bytes = machine.shards * ring_shard_bytes;
        let taken = PROCESS_BYTES + fixed_bytes + connections_bytes + rings_bytes;
        let free = memory_bytes_max.saturating_sub(taken);
        // The shares add up to 96 %; the rest is left for what was counted too low.
        let share = |mib: u64, percent: u64, among: u64, share_max: u64| match mib {
            0 => (free * percent / 100 / among).min(share_max),
            mib => mib * MIB,
        };
        let ceiling = Self {
            memory_bytes_max,
            process_bytes: PROCESS_BYTES,
            fixed_bytes,
            connections_bytes,
            outbox_core_bytes: share(memory.outbox_total_mib, 30, machine.cores, OUTBOX_SHARE_MAX),
            input_core_bytes: share(memory.input_total_mib, 9, machine.cores, SMALL_SHARE_MAX),
            pages_core_bytes: share(memory.pages_total_mib, 9, machine.cores, SMALL_SHARE_MAX),
            sync_core_bytes: share(memory.sync_total_mib, 8, machine.cores, SYNC_SHARE_MAX),
            filters_core_bytes: share(
                memory.filters_total_mib,
                4,
                machine.cores,
                FILTERS_SHARE_MAX,
            ),
            ring_shard_bytes,
            delta_shard_bytes: share(memory.delta_mib, 22, machine.shards, SMALL_SHARE_MAX),
            hot_shard_bytes: share(memory.hot_mib, 10, machine.shards, SMALL_SHARE_MAX),
            ids_shard_bytes: share(0, 4, machine.shards, IDS_SHARE_MAX),
            machine,
        };
        let smallest = [
            ceiling.outbox_core_bytes,
            ceiling.input_core_bytes,
            ceiling.pages_core_bytes,
            ceiling.sync_core_bytes,
            ceiling.filters_core_bytes,
            ceiling.delta_shard_bytes,
            ceiling.hot_shard_bytes,
        ];
        let is_workable = smallest.iter().all(|bytes| *bytes >= MIB);
        if ceiling.total_bytes() > memory_bytes_max || !is_workable {
            return Err(CeilingError { ceiling: Box::new(ceiling) });
        }
        Ok(ceiling)
    }

    /// The sum.
    pub fn total_bytes(&self) -> u64 {
        let core = self.outbox_core_bytes
            + self.input_core_bytes
            + self.pages_core_bytes
            + self.sync_core_bytes
            + self.filters_core_bytes;
        let shard = self.ring_shard_bytes
            + self.delta_shard_bytes
            + self.hot_shard_bytes
            + self.ids_shard_bytes;
        self.process_bytes
            + self.fixed_bytes
            + self.connections_bytes
            + self.machine.cores * core
            + self.machine.shards * shard
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        let Machine { cores, shards, .. } = self.machine;
        write!(
            f,
            "memory ceiling {} of {} MiB: process {} + cores and shards {} + connections {} + \
             outboxes {cores} x {} + input {cores} x {} + pages {cores} x {} + sync {cores} x {} + \
             filters {cores} x {} + live rings {shards} x \
             {} + delta {shards} x {} + hot events {shards} x {} + ids {shards} x {}",
            mib(self.total_bytes()),
            mib(self.memory_bytes_max),
            mib(self.process_bytes),
            mib(self.fixed_bytes),
            mib(self.connections_bytes),
            mib(self.outbox_core_bytes),
            mib(self.input_core_bytes),
            mib(self.pages_core_bytes),
            mib(self.sync_core_bytes),
            mib(self.filters_core_bytes),
            mib(self.ring_shard_bytes),
            mib(self.delta_shard_bytes),
            mib(self.hot_shard_bytes),
            mib(self.ids_shard_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(memory_mib: u64, cores: u64, shards: u64) -> Machine {
        Machine { memory_bytes: memory_mib * MIB, cores, shards }
    }

    #[test]
    fn automatic_budgets_fit_whatever_the_memory() {
        for (max_mib, cores, shards) in [(512, 2, 2), (512, 2, 8), (1_024, 4, 4), (65_536, 16, 16)]
        {
            let mut config = Config::default();
            config.memory.memory_max_mib = max_mib;
            let ceiling = Ceiling::compute(&config, machine(1 << 20, cores, shards)).unwrap();
            assert!(ceiling.total_bytes() <= max_mib * MIB, "{ceiling}");
            assert!(ceiling.outbox_core_bytes <= OUTBOX_SHARE_MAX);
            let rings = RING_BYTES_MIN..=RING_BYTES_MAX as u64;
            assert!(rings.contains(&ceiling.ring_shard_bytes), "{ceiling}");
        }
    }

    #[test]
    fn a_quarter_of_the_machine_is_the_default() {
        let ceiling = Ceiling::compute(&Config::default(), machine(8_192, 4, 4)).unwrap();
        assert_eq!(ceiling.memory_bytes_max, 2_048 * MIB);
    }

    #[test]
    fn budgets_that_do_not_fit_are_refused_with_the_sum() {
        let mut config = Config::default();
        config.memory.memory_max_mib = 512;
        config.memory.outbox_total_mib = 256;
        let error = Ceiling::compute(&config, machine(8_192, 2, 2)).unwrap_err().to_string();
        assert!(error.contains("allows 512 MiB") && error.contains("outboxes 2 x 256"), "{error}");
        config.memory.outbox_total_mib = 0;
        config.memory.memory_max_mib = 64;
        assert!(Ceiling::compute(&config, machine(8_192, 2, 2)).is_err());
    }
}
