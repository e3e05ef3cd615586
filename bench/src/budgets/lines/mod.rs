//! The lines of the table, each with the rows that it measures.

mod bulk;
mod fanout;
mod ingest;
mod latency;
mod memory;
mod query;

use super::Session;
use super::table::Row;

/// Measures some rows that need the same directory or the same work.
pub struct Line {
    /// The rows, as `--only` names them.
    pub keys: &'static [&'static str],
    /// Measures them.
    pub run: fn(&mut Session) -> anyhow::Result<Vec<Row>>,
}

/// In the order in which they are measured and printed.
pub const ALL: &[Line] = &[
    Line { keys: ingest::KEYS, run: ingest::measure },
    Line { keys: ingest::REFUSAL_KEYS, run: ingest::measure_refusals },
    Line { keys: fanout::KEYS, run: fanout::measure },
    Line { keys: query::KEYS, run: query::measure },
    Line { keys: query::PAGE_KEYS, run: query::measure_pages },
    Line { keys: latency::KEYS, run: latency::measure },
    Line { keys: memory::KEYS, run: memory::measure },
    Line { keys: bulk::IMPORT_KEYS, run: bulk::measure_import },
    Line { keys: bulk::SHARD_KEYS, run: bulk::measure_shards },
    Line { keys: bulk::DISK_KEYS, run: bulk::measure_disk },
];

/// All names that `--only` knows.
pub fn names() -> Vec<&'static str> {
    ALL.iter().flat_map(|line| line.keys.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names = names();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
