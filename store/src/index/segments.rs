//! What the index knows of each log segment: how much in it is dead, since when a deletion waits
//! for its bytes to go, and which rewritten segments its places point into.
//!
//! The counts are kept by the checkpoint that applies the kills, in the same transaction: it reads
//! the place of every victim anyway, so they cost one small row per segment that it touched, and
//! they can never differ from the rows of table `loc`.

use super::generations::{Generations, Half, Lies};
use super::sums::SumChanges;
use super::{ReadRows, Rows, Table, WriteRows, loc_row};
use crate::effect::{IndexRow, Loc, Seq, WorldError};
use crate::key::{self, LocRow, push_segment, push_seq, read_segment, read_seq};
use crate::record::KillCause;
use std::collections::BTreeMap;

/// No deletion waits.
pub const NEVER_S: u64 = u64::MAX;

/// The row of a segment. A segment as it was written has none while nothing in it is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// The last sequence of its range, if it was rewritten; else 0.
    pub last_seq: Seq,
    /// Kills up to here have been applied to its events.
    pub purged_through: Seq,
    /// Bytes of packed events in it that are dead.
    pub dead_bytes: u64,
    /// How many they are.
    pub dead_events: u32,
    /// Unix seconds at which the first deletion, vanish or removal by the operator was applied to
    /// an event whose bytes are still in it, or [`NEVER_S`].
    pub erase_since_s: u64,
}

impl Default for SegmentRow {
    fn default() -> Self {
        Self {
            last_seq: 0,
            purged_through: 0,
            dead_bytes: 0,
            dead_events: 0,
            erase_since_s: NEVER_S,
        }
    }
}

impl SegmentRow {
    const BYTES: usize = 5 + 5 + 8 + 4 + 8;

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        push_seq(&mut out, self.last_seq);
        push_seq(&mut out, self.purged_through);
        out.extend_from_slice(&self.dead_bytes.to_be_bytes());
        out.extend_from_slice(&self.dead_events.to_be_bytes());
        out.extend_from_slice(&self.erase_since_s.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let long = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            last_seq: read_seq(&bytes[0..5])?,
            purged_through: read_seq(&bytes[5..10])?,
            dead_bytes: long(10)?,
            dead_events: u32::from_be_bytes(bytes[18..22].try_into().ok()?),
            erase_since_s: long(22)?,
        })
    }

    /// Counts an event of the segment that died at `unix_s`.
    fn bury(&mut self, length: u32, why: KillCause, unix_s: u64) {
        self.dead_bytes += u64::from(length);
        self.dead_events = self.dead_events.saturating_add(1);
        if why.demands_erasure() {
            self.erase_since_s = self.erase_since_s.min(unix_s);
        }
    }
}

/// Key of a segment's row.
fn row_key(segment: Seq) -> Vec<u8> {
    let mut key = Vec::with_capacity(key::SEGMENT_BYTES);
    push_segment(&mut key, segment);
    key
}

fn segment_row(rows: &dyn ReadRows, segment: Seq) -> Result<Option<SegmentRow>, WorldError> {
    let mut found = Ok(None);
    rows.row(Table::Segment, &row_key(segment), &mut |value| {
        found = SegmentRow::decode(value).map(Some).ok_or_else(|| super::damaged(Table::Segment));
    })?;
    found
}

/// The rows of all segments.
///
/// # Errors
/// [`WorldError::Index`] when the world fails or a row makes no sense.
pub fn segments(rows: &dyn ReadRows) -> Result<Vec<(Seq, SegmentRow)>, WorldError> {
    let mut found = Some(Vec::new());
    rows.walk(Table::Segment, &[], &mut |key, value| {
        let row = read_segment(key).zip(SegmentRow::decode(value));
        match (&mut found, row) {
            (Some(found), Some(row)) => found.push(row),
            _ => found = None,
        }
        found.is_some()
    })?;
    found.ok_or_else(|| super::damaged(Table::Segment))
}

/// Places of events with sequences `from..=to`, the first `rows_max` of them.
///
/// # Errors
/// [`WorldError::Index`] when the world fails or a row makes no sense.
pub fn locs(
    rows: &dyn ReadRows,
    from: Seq,
    to: Seq,
    rows_max: usize,
) -> Result<Vec<IndexRow>, WorldError> {
    let mut found = Vec::new();
    let mut is_damaged = false;
    rows.walk(Table::Loc, &key::loc_key(from), &mut |key, value| {
        match (read_seq(key), LocRow::decode(value)) {
            (Some(seq), _) if seq > to => return false,
            (Some(seq), Some(row)) => {
                found.push(IndexRow { position: row.position, seq, loc: row.loc });
            }
            _ => is_damaged = true,
        }
        !is_damaged && found.len() < rows_max
    })?;
    if is_damaged { Err(super::damaged(Table::Loc)) } else { Ok(found) }
}

/// The dead of one checkpoint, by segment.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    segments: BTreeMap<Seq, SegmentRow>,
}

impl Deaths {
    pub(super) fn bury(&mut self, loc: &Loc, why: KillCause, unix_s: u64) {
        self.segments.entry(loc.segment).or_default().bury(loc.length, why, unix_s);
    }

    /// The changed rows.
    pub(super) fn rows(&self, before: &dyn ReadRows, rows: &mut Rows) -> Result<(), WorldError> {
        for (segment, dead) in &self.segments {
            let mut row = segment_row(before, *segment)?.unwrap_or_default();
            row.dead_bytes += dead.dead_bytes;
            row.dead_events = row.dead_events.saturating_add(dead.dead_events);
            row.erase_since_s = row.erase_since_s.min(dead.erase_since_s);
            rows.put(&row_key(*segment), &row.encode());
        }
        Ok(())
    }
}

/// Where the events of a rewritten segment lie now. Applied in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remap {
    /// The segments that were rewritten.
    pub sources: Vec<Seq>,
    /// The segment that holds what is left of them.
    pub segment: Seq,
    /// Its row.
    pub row: SegmentRow,
    /// Sequence of every event in it that the index knows, and where it begins, in order.
    pub moves: Vec<(Seq, u32)>,
    /// Events whose bytes are lost: their places go, and with them every other row becomes void.
    pub lost: Vec<Seq>,
}

/// Moves places and notes the new segment.
///
/// # Errors
/// [`WorldError::Index`] when the world fails, or when a place in a rewritten segment would be left
/// behind.
pub fn remap(to: &mut dyn WriteRows, remap: &Remap) -> Result<(), WorldError> {
    let mut changes = Rows::default();
    for (seq, offset) in &remap.moves {
        let Some(row) = loc_row(to, *seq)? else {
            return Err(WorldError::Index(format!("record {seq} was moved and is not indexed")));
        };
        let loc = Loc { segment: remap.segment, offset: *offset, ..row.loc };
        changes.put(&key::loc_key(*seq), &LocRow { loc, position: row.position }.encode());
    }
    to.apply(Table::Loc, &changes)?;
    forget(to, &remap.lost)?;
    let mut rows = Rows::default();
    for source in &remap.sources {
        rows.remove(&row_key(*source));
    }
    rows.put(&row_key(remap.segment), &remap.row.encode());
    rows.sort();
    to.apply(Table::Segment, &rows)
}

/// Removes what a place alone tells of lost events.
fn forget(to: &mut dyn WriteRows, lost: &[Seq]) -> Result<(), WorldError> {
    let mut generations = Generations::read(to)?;
    let mut sums = SumChanges::default();
    let (mut places, mut expirations) = (Rows::default(), Rows::default());
    let (mut ids, mut times) = (Rows::default(), Rows::default());
    for seq in lost {
        let Some(row) = loc_row(to, *seq)? else { continue };
        sums.remove(&row);
        places.remove(&key::loc_key(*seq));
        if row.loc.expires_at != 0 {
            expirations.remove(&key::expiry_key(row.loc.expires_at, *seq));
        }
        if generations.bury(*seq) {
            let tail = key::Tail::of(row.position.created_at, &row.position.id, *seq);
            ids.remove(&key::id_key(&row.position.id, *seq));
            times.remove(&key::ordered(&[], tail));
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    // Only those of the open generation were gathered.
    let open = generations.list().last().map_or(Lies::Half(Half::A), |open| open.lies);
    let tables = [
        (Table::Loc, places),
        (open.table(Table::Id), ids),
        (open.table(Table::Time), times),
        (Table::Expiry, expirations),
    ];
    for (table, mut rows) in tables {
        rows.sort();
        to.apply(table, &rows)?;
    }
    generations.write(to)?;
    let mut rows = Rows::default();
    sums.rows(to, &mut rows)?;
    to.apply(Table::Sum, &rows)
}

/// Notes the rewritten segments that a rebuilt index will point into.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn adopt(to: &mut dyn WriteRows, segments: &[(Seq, SegmentRow)]) -> Result<(), WorldError> {
    let mut rows = Rows::default();
    for (segment, row) in segments {
        rows.put(&row_key(*segment), &row.encode());
    }
    rows.sort();
    to.apply(Table::Segment, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_and_deletions_are_told_from_replacements() {
        let mut row = SegmentRow { last_seq: 9, purged_through: 12, ..SegmentRow::default() };
        row.bury(100, KillCause::Replaced, 50);
        assert_eq!(row.erase_since_s, NEVER_S, "nobody asked for the bytes to go");
        row.bury(30, KillCause::Deleted, 70);
        row.bury(1, KillCause::Operator, 60);
        assert_eq!((row.dead_bytes, row.dead_events, row.erase_since_s), (131, 3, 60));
        assert_eq!(SegmentRow::decode(&row.encode()), Some(row));
        assert_eq!(SegmentRow::decode(&row.encode()[1..]), None);
    }
}
