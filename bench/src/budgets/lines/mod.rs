//! The lines of the table, each with the rows that it measures.

mod fanout;
mod ingest;

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
