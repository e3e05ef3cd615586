//! Bounds and secrets of one shard's store.

use crate::index::UpkeepRequest;
use proto::{Filter, Secret, SeededState};
use std::sync::Arc;

/// Bounds and secrets of one shard's store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The shard's number, written into segment headers.
    pub shard: u16,
    /// Bytes of the delta (open, frozen and retired generations) past which writes are refused.
    pub delta_bytes_max: usize,
    /// Records (events, removals, marks) of the open generation that start a checkpoint.
    pub checkpoint_events: usize,
    /// Age of the open generation that starts a checkpoint.
    pub checkpoint_after_ms: u64,
    /// Greatest length of a log segment.
    pub segment_bytes_max: u32,
    /// Bytes of the open batch past which writes are refused.
    pub batch_bytes_max: usize,
    /// Bytes of recent bodies kept in memory.
    pub hot_bytes_max: usize,
    /// Bytes of the sketch, past which it answers "maybe" to everything.
    pub sketch_bytes_max: usize,
    /// Share of a segment or of a generation of the index, in percent, that is dead when it is
    /// rewritten.
    pub dead_percent: u8,
    /// Time within which the bytes of deleted and vanished events are gone.
    pub erase_after_s: u64,
    /// Events of a generation of the index; see [`crate::index::generations`].
    pub generation_events: u64,
    /// Rows of the index that one step of its upkeep copies or removes.
    pub upkeep_rows_max: u32,
    /// Filters of the sync sets, [`crate::sums::SETS_MAX`] at most; see [`crate::sums`].
    pub sync_filters: Arc<[Filter]>,
    /// Keys the hashes in the index.
    pub secret: Secret,
    /// Seeds the maps in memory.
    pub seed: SeededState,
}

impl StoreConfig {
    /// What a step of the index's upkeep goes by.
    pub fn upkeep(&self) -> UpkeepRequest {
        UpkeepRequest {
            generation_events: self.generation_events,
            rows_max: self.upkeep_rows_max,
            dead_percent: self.dead_percent,
        }
    }

    /// The defaults, for a directory's secret and a process's seed.
    pub fn new(shard: u16, secret: Secret, seed: SeededState) -> Self {
        Self {
            shard,
            delta_bytes_max: 64 << 20,
            checkpoint_events: 65_536,
            checkpoint_after_ms: 300_000,
            segment_bytes_max: 64 << 20,
            batch_bytes_max: 4 << 20,
            hot_bytes_max: 16 << 20,
            sketch_bytes_max: 64 << 20,
            generation_events: 512 << 10,
            upkeep_rows_max: 128 << 10,
            sync_filters: [Filter::default()].into(),
            dead_percent: 30,
            erase_after_s: 86_400,
            secret,
            seed,
        }
    }
}
