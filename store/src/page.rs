//! One page of an answer: the index's page, with what only memory knows laid over it.
//!
//! The index's page says which sequence it was read at; memory adds the rows above that, and what
//! memory knows to be dead, invisible at the reader's horizon, or expired is dropped from both. A
//! page is complete up to a position that never lies inside a tie of time and id prefix.

use crate::delta::{DeltaPage, DeltaScan, Generation};
use crate::effect::{IndexPage, IndexRow, Position, ScanRequest, Seq};
use crate::key::{id4, tie_end};

/// What a page is made for.
#[derive(Clone, Copy, Debug)]
pub struct Visibility {
    /// Greatest visible sequence.
    pub horizon: Seq,
    /// Wall clock, for expirations.
    pub unix_s: u64,
}

/// A page of visible rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// In order, each event once.
    pub rows: Vec<IndexRow>,
    /// Every visible row at or before this position is in `rows` or was answered earlier; `None`
    /// when nothing is left.
    pub complete_to: Option<Position>,
    /// Rows that were looked at.
    pub scanned: u32,
}

/// Merges the index's page with the generations that may know more, given oldest first.
pub fn merge(
    request: &ScanRequest,
    page: IndexPage,
    generations: &[&Generation],
    visibility: Visibility,
) -> Merged {
    let scan = DeltaScan {
        streams: &request.streams,
        after: request.after,
        above: page.applied,
        rows_max: request.rows_max.max(1) as usize,
    };
    let deltas: Vec<DeltaPage> =
        generations.iter().map(|generation| generation.scan(&scan)).collect();
    let ends = deltas.iter().filter_map(|delta| delta.complete_to).chain(page.complete_to);
    let complete_to = ends.min();
    let mut rows = page.rows;
    for delta in deltas {
        rows.extend(delta.rows);
    }
    let scanned = rows.len() as u32;
    rows.retain(|row| {
        complete_to.is_none_or(|end| row.position <= end)
            && row.seq <= visibility.horizon
            && !row.loc.is_expired(visibility.unix_s)
            && !generations.iter().any(|generation| generation.killed(row.seq))
    });
    // Both sides are sorted already, which the sort detects and merges in linear time.
    rows.sort_by_key(|row| (row.position, row.seq));
    rows.dedup_by_key(|row| row.seq);
    let complete_to = cut(&mut rows, scan.rows_max).or(complete_to);
    Merged { rows, complete_to, scanned }
}

/// Cuts a page that several sources filled back to its size, never inside a tie; returns where.
fn cut(rows: &mut Vec<IndexRow>, rows_max: usize) -> Option<Position> {
    let last = rows.get(rows_max - 1)?.position;
    let end = tie_end(last.created_at, id4(&last.id));
    let kept = rows.partition_point(|row| row.position <= end);
    let is_cut = kept < rows.len();
    rows.truncate(kept);
    is_cut.then_some(end)
}
