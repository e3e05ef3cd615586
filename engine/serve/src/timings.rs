//! What the loop measures of itself.

/// Upper bounds of the histograms' buckets, in microseconds.
pub const BOUNDS_US: [u64; 15] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 5_000_000,
];

/// A distribution of durations; plain fields of one core.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// By bucket of [`BOUNDS_US`], and one above them all.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// All durations together.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record_us(&mut self, duration_us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < duration_us);
        self.buckets[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(duration_us);
    }
}

/// The distributions that a core measures.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// From an event's arrival to its OK.
    pub ingest: Histogram,
    /// From a log batch's submission to its sync.
    pub commit: Histogram,
    /// From a REQ's arrival to its EOSE.
    pub query: Histogram,
    /// From a live event's arrival at the core of its readers to their outboxes.
    pub delivery: Histogram,
}
