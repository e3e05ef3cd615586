//! Which segments answer for which sequences, when some of them were rewritten.
//!
//! A rewritten segment and those it was made of lie side by side for a while: from the moment it
//! gets its name until the others are unlinked. Which of them counts is written in one place, the
//! index, in the transaction that moves the places: a rewritten segment that the index has a row of
//! stands for its whole range, and one that it has no row of never took effect.

use super::format::{RewrittenHeader, first_seq_of, generation_of};
use super::reader::SegmentReader;
use crate::effect::{Seq, WorldError};
use crate::index::segments::SegmentRow;
use crate::open::OpenError;
use crate::record::{HeaderError, SEGMENT_HEADER_BYTES};
use crate::recovery::RecoveryError;
use crate::seam::{Index, SegmentEntry, Segments};
use std::collections::BTreeMap;

/// A segment and the sequences that it answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its name.
    pub segment: Seq,
    /// First sequence of its range.
    pub first_seq: Seq,
    /// Last sequence of its range; `None` for the log's last segment, as it was written.
    pub last_seq: Option<Seq>,
    /// Its length.
    pub bytes: u64,
}

impl Placed {
    /// Whether its bytes are not those that the log wrote.
    pub fn is_rewritten(&self) -> bool {
        generation_of(self.segment) > 0
    }
}

/// The segments that count, and those that do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In order of their ranges, which do not overlap.
    pub placed: Vec<Placed>,
    /// Segments that others stand for, in order of their ranges.
    pub leftovers: Vec<Seq>,
    /// The latest life that wrote any of a rewritten segment; 0 if there is none.
    pub epoch: u64,
}

/// Sorts segments out: `rewritten` are the rewritten ones that count, each with the last sequence
/// of its range.
pub fn arrange(entries: &[SegmentEntry], rewritten: &BTreeMap<Seq, Seq>) -> Layout {
    let mut placed: Vec<Placed> = Vec::with_capacity(entries.len());
    let mut leftovers = Vec::new();
    let is_covered = |first_seq: Seq| {
        let mut ranges = rewritten.iter();
        ranges.any(|(segment, last)| (first_seq_of(*segment)..=*last).contains(&first_seq))
    };
    for entry in entries {
        let first_seq = first_seq_of(entry.segment);
        let last_seq = match rewritten.get(&entry.segment) {
            Some(last_seq) => Some(*last_seq),
            None if generation_of(entry.segment) > 0 || is_covered(first_seq) => {
                leftovers.push(entry.segment);
                continue;
            }
            None => None,
        };
        placed.push(Placed { segment: entry.segment, first_seq, last_seq, bytes: entry.bytes });
    }
    placed.sort_unstable_by_key(|placed| placed.first_seq);
    for at in 1..placed.len() {
        let next = placed[at].first_seq;
        placed[at - 1].last_seq.get_or_insert(next - 1);
    }
    // What a kill ended lies before it and goes first.
    leftovers.sort_unstable_by_key(|segment| (first_seq_of(*segment), *segment));
    Layout { placed, leftovers, epoch: 0 }
}

fn arrange_with(entries: &[SegmentEntry], headers: &BTreeMap<Seq, RewrittenHeader>) -> Layout {
    let ranges = headers.iter().map(|(segment, header)| (*segment, header.last_seq)).collect();
    let epoch = headers.values().map(|header| header.epoch).max().unwrap_or(0);
    Layout { epoch, ..arrange(entries, &ranges) }
}

/// Reads the headers of the rewritten segments that are wanted.
fn headers(
    shard: u16,
    segments: &dyn Segments,
    wanted: impl Iterator<Item = Seq>,
) -> Result<BTreeMap<Seq, RewrittenHeader>, OpenError> {
    let mut headers = BTreeMap::new();
    for segment in wanted {
        let bytes = segments.read_at(segment, 0, SEGMENT_HEADER_BYTES)?;
        let header = RewrittenHeader::decode(&bytes).map_err(|error| match error {
            HeaderError::Damaged => RecoveryError::Header { segment },
            HeaderError::Version(version) => RecoveryError::Version { segment, version },
        })?;
        if header.shard != shard {
            return Err(RecoveryError::OtherShard { segment, shard: header.shard }.into());
        }
        headers.insert(segment, header);
    }
    Ok(headers)
}

/// The layout as the index knows it.
///
/// # Errors
/// [`OpenError`] when a segment that counts is missing or damaged, or the world fails.
pub fn known(shard: u16, index: &dyn Index, segments: &dyn Segments) -> Result<Layout, OpenError> {
    let entries = segments.list()?;
    let rows = index.segments()?;
    let counts = rows.iter().filter(|(segment, _)| generation_of(*segment) > 0);
    for (segment, row) in counts.clone() {
        if !entries.iter().any(|entry| entry.segment == *segment) {
            let from = first_seq_of(*segment);
            return Err(RecoveryError::Missing { from, to: row.last_seq }.into());
        }
    }
    let headers = headers(shard, segments, counts.map(|(segment, _)| *segment))?;
    Ok(arrange_with(&entries, &headers))
}

/// The layout of a log without an index: of every range the copy that was rewritten last and is
/// whole, else an earlier one.
///
/// # Errors
/// [`OpenError`] when the world fails.
pub fn any_copy(shard: u16, segments: &dyn Segments) -> Result<Layout, OpenError> {
    let entries = segments.list()?;
    let mut chosen: BTreeMap<Seq, RewrittenHeader> = BTreeMap::new();
    let mut last_first: Vec<&SegmentEntry> =
        entries.iter().filter(|entry| generation_of(entry.segment) > 0).collect();
    last_first.sort_unstable_by_key(|entry| std::cmp::Reverse(generation_of(entry.segment)));
    for entry in last_first {
        let Ok(header) = SegmentReader::verify(shard, segments, entry)? else { continue };
        let overlaps = |other: &RewrittenHeader| {
            other.first_seq() <= header.last_seq && header.first_seq() <= other.last_seq
        };
        if !chosen.values().any(overlaps) {
            chosen.insert(entry.segment, header);
        }
    }
    Ok(arrange_with(&entries, &chosen))
}

/// Brings a log and its index into agreement after whatever interrupted a rewriting, and returns
/// the layout. An index that holds nothing is told which rewritten segments it will point into.
///
/// # Errors
/// [`OpenError`] when a segment that counts is missing or damaged, or the world fails.
pub fn settle(shard: u16, index: &dyn Index, segments: &dyn Segments) -> Result<Layout, OpenError> {
    let mut layout = if index.applied()? == 0 && index.segments()?.is_empty() {
        adopt(shard, index, segments)?
    } else {
        known(shard, index, segments)?
    };
    for segment in &layout.leftovers {
        check_covered(&layout, *segment)?;
    }
    for segment in std::mem::take(&mut layout.leftovers) {
        segments.unlink(segment)?;
    }
    Ok(layout)
}

/// Chooses the copies that an empty index will point into, and tells it.
///
/// # Errors
/// [`OpenError`] when the world fails.
pub fn adopt(shard: u16, index: &dyn Index, segments: &dyn Segments) -> Result<Layout, OpenError> {
    let layout = any_copy(shard, segments)?;
    let rewritten = layout.placed.iter().filter(|placed| placed.is_rewritten());
    let headers = headers(shard, segments, rewritten.map(|placed| placed.segment))?;
    let row = |header: &RewrittenHeader| SegmentRow {
        last_seq: header.last_seq,
        purged_through: header.purged_through,
        ..SegmentRow::default()
    };
    let rows: Vec<(Seq, SegmentRow)> =
        headers.iter().map(|(segment, header)| (*segment, row(header))).collect();
    if !rows.is_empty() {
        index.adopt(&rows)?;
    }
    Ok(layout)
}

/// A rewritten segment that never took effect may go only while something else holds its range.
fn check_covered(layout: &Layout, segment: Seq) -> Result<(), OpenError> {
    let first_seq = first_seq_of(segment);
    let holds = |placed: &Placed| {
        placed.first_seq <= first_seq && placed.last_seq.is_none_or(|last| first_seq <= last)
    };
    if layout.placed.iter().any(holds) {
        return Ok(());
    }
    Err(RecoveryError::Unindexed { segment }.into())
}

/// The world's failure in words of opening.
impl From<super::reader::SegmentError> for OpenError {
    fn from(error: super::reader::SegmentError) -> Self {
        match error {
            super::reader::SegmentError::World(error) => Self::World(error),
            other => Self::World(WorldError::Log { segment: 0, what: other.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::format::name_of;

    fn entries(segments: &[Seq]) -> Vec<SegmentEntry> {
        segments.iter().map(|segment| SegmentEntry { segment: *segment, bytes: 100 }).collect()
    }

    #[test]
    fn what_counts_stands_for_its_whole_range() {
        let merged = name_of(1, 2);
        let listed = entries(&[1, 10, 20, 30, name_of(1, 1), merged]);
        let layout = arrange(&listed, &[(merged, 19)].into());
        let placed: Vec<_> =
            layout.placed.iter().map(|placed| (placed.segment, placed.last_seq)).collect();
        assert_eq!(placed, [(merged, Some(19)), (20, Some(29)), (30, None)]);
        assert_eq!(layout.leftovers, [1, name_of(1, 1), 10]);
        let layout = arrange(&listed, &BTreeMap::new());
        assert_eq!(layout.leftovers, [name_of(1, 1), merged], "never took effect");
        assert!(check_covered(&layout, merged).is_ok());
        let gone = arrange(&entries(&[20, merged]), &BTreeMap::new());
        assert!(check_covered(&gone, merged).is_err(), "nothing else holds its range");
    }
}
