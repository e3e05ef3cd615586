//! One page of an ordered union of index streams: a merge of cursors, each of which reads a few
//! rows at a time and seeks again for more, so that a union of many streams costs a seek each and
//! not a page each.

use super::{ReadRows, Table, applied, find_id, loc_row};
use crate::effect::{
    IndexPage, IndexRow, Kinds, Position, ScanRequest, Source, Stream, WorldError,
};
use crate::key::{Tail, hash_kind_prefix, id4, tie_end};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Index rows that one page looks at, live or not; it ends early beyond that.
pub const PAGE_ROWS_EXAMINED_MAX: usize = 4_096;
/// Kinds of one author or tag that are merged; with more, the page goes by time alone.
const KINDS_MERGED_MAX: usize = 64;
/// Rows that a cursor reads at a time, at least and at most.
const CHUNK_ROWS: std::ops::RangeInclusive<usize> = 2..=256;

/// Rows under one prefix within a window.
struct Cursor {
    table: Table,
    prefix: Vec<u8>,
    /// Where the next chunk begins; `None` when the rest is in `rows`.
    next: Option<Vec<u8>>,
    /// Complement of the window's beginning: the greatest time field inside it.
    oldest: u32,
    rows: VecDeque<Tail>,
    chunk_rows: usize,
}

impl Cursor {
    fn fill(&mut self, from: &dyn ReadRows) -> Result<(), WorldError> {
        while self.rows.is_empty()
            && let Some(start) = self.next.take()
        {
            let (rows, next) = (&mut self.rows, &mut self.next);
            let (prefix, oldest, chunk_rows) = (&self.prefix, self.oldest, self.chunk_rows);
            from.walk(self.table, &start, &mut |key, _| {
                let tail = if key.starts_with(prefix) { Tail::read(key) } else { None };
                let Some(tail) = tail.filter(|tail| tail.newest_first <= oldest) else {
                    return false;
                };
                rows.push_back(tail);
                if rows.len() < chunk_rows {
                    return true;
                }
                let mut after = key.to_vec();
                after.push(0);
                *next = Some(after);
                false
            })?;
            self.chunk_rows = (self.chunk_rows * 4).min(*CHUNK_ROWS.end());
        }
        Ok(())
    }
}

/// Time and id prefix of a row and which cursor it came from.
type Head = Reverse<(u32, u32, usize)>;

struct Merge<'a> {
    rows: &'a dyn ReadRows,
    cursors: Vec<Cursor>,
    heads: BinaryHeap<Head>,
}

impl Merge<'_> {
    fn push_head(&mut self, index: usize) -> Result<(), WorldError> {
        let cursor = &mut self.cursors[index];
        cursor.fill(self.rows)?;
        if let Some(tail) = cursor.rows.front() {
            self.heads.push(Reverse((tail.newest_first, tail.id4, index)));
        }
        Ok(())
    }

    /// The rows that share the next time and id prefix, in no order, with repeats.
    fn next_tie(&mut self) -> Result<Option<(u32, u32, Vec<Tail>)>, WorldError> {
        let Some(Reverse((newest_first, id4, _))) = self.heads.peek().copied() else {
            return Ok(None);
        };
        let mut tie = Vec::new();
        while let Some(Reverse((time, id, index))) = self.heads.peek().copied()
            && (time, id) == (newest_first, id4)
        {
            self.heads.pop();
            tie.extend(self.cursors[index].rows.pop_front());
            self.push_head(index)?;
        }
        Ok(Some((newest_first, id4, tie)))
    }
}

pub(super) fn scan(rows: &dyn ReadRows, request: &ScanRequest) -> Result<IndexPage, WorldError> {
    let mut page = IndexPage { applied: applied(rows)?, rows: Vec::new(), complete_to: None };
    let rows_max = request.rows_max.max(1) as usize;
    let cursors = Cursors::open(rows, request)?.cursors;
    let mut merge = Merge { rows, heads: BinaryHeap::with_capacity(cursors.len()), cursors };
    for index in 0..merge.cursors.len() {
        merge.push_head(index)?;
    }
    let mut examined = 0;
    while let Some((newest_first, id4, tie)) = merge.next_tie()? {
        examined += tie.len();
        take_tie(rows, tie, request.after, &mut page.rows)?;
        let is_full = page.rows.len() >= rows_max || examined >= PAGE_ROWS_EXAMINED_MAX;
        if is_full && !merge.heads.is_empty() {
            page.complete_to = Some(tie_end(!newest_first, id4));
            break;
        }
    }
    Ok(page)
}

/// Adds the rows of a tie in the order of their full ids, each event once, dead ones left out.
fn take_tie(
    rows: &dyn ReadRows,
    mut tie: Vec<Tail>,
    after: Option<Position>,
    page: &mut Vec<IndexRow>,
) -> Result<(), WorldError> {
    tie.sort_unstable();
    tie.dedup();
    let from = page.len();
    for tail in tie {
        if let Some(row) = loc_row(rows, tail.seq)?
            && after.is_none_or(|after| row.position > after)
        {
            page.push(row);
        }
    }
    page[from..].sort_unstable_by_key(|row| (row.position, row.seq));
    Ok(())
}

/// The cursors of a request.
struct Cursors<'a> {
    rows: &'a dyn ReadRows,
    after: Option<Position>,
    cursors: Vec<Cursor>,
    chunk_rows: usize,
}

impl<'a> Cursors<'a> {
    fn open(rows: &'a dyn ReadRows, request: &ScanRequest) -> Result<Self, WorldError> {
        let share = request.rows_max as usize / request.streams.len().max(1) + 1;
        let chunk_rows = share.clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end());
        let mut open = Self { rows, after: request.after, cursors: Vec::new(), chunk_rows };
        let mut ids = Vec::new();
        for stream in request.streams.iter().filter(|stream| stream.since <= stream.until) {
            match &stream.source {
                Source::Time => open.push(Table::Time, &[], stream),
                Source::Kind(kind) => open.push(Table::Kind, &kind.to_be_bytes(), stream),
                Source::Author(hash, kinds) => open.hashed(Table::Author, *hash, kinds, stream)?,
                Source::Tag(hash, kinds) => open.hashed(Table::Tag, *hash, kinds, stream)?,
                Source::Id(id) => ids.extend(find_id(rows, id)?.filter(|row| {
                    (stream.since..=stream.until).contains(&row.position.created_at)
                })),
            }
        }
        open.push_ids(ids);
        Ok(open)
    }

    fn push(&mut self, table: Table, prefix: &[u8], stream: &Stream) {
        let mut from = prefix.to_vec();
        match self.after.filter(|after| after.created_at <= stream.until) {
            // The position's own tie is read again: the full id decides which of it is left.
            Some(after) => {
                from.extend_from_slice(&(!after.created_at).to_be_bytes());
                from.extend_from_slice(&id4(&after.id).to_be_bytes());
            }
            None => from.extend_from_slice(&(!stream.until).to_be_bytes()),
        }
        self.cursors.push(Cursor {
            table,
            prefix: prefix.to_vec(),
            next: Some(from),
            oldest: !stream.since,
            rows: VecDeque::new(),
            chunk_rows: self.chunk_rows,
        });
    }

    fn hashed(
        &mut self,
        table: Table,
        hash: u64,
        kinds: &Kinds,
        stream: &Stream,
    ) -> Result<(), WorldError> {
        let found;
        let kinds = match kinds {
            Kinds::These(kinds) => &kinds[..],
            Kinds::All => {
                found = self.kinds_of(table, hash)?;
                &found[..]
            }
        };
        if kinds.len() > KINDS_MERGED_MAX {
            self.push(Table::Time, &[], stream);
            return Ok(());
        }
        for kind in kinds {
            self.push(table, &hash_kind_prefix(hash, *kind), stream);
        }
        Ok(())
    }

    /// The kinds under a hash, found by seeking past each; one more than can be merged at most.
    fn kinds_of(&self, table: Table, hash: u64) -> Result<Vec<u16>, WorldError> {
        let mut kinds: Vec<u16> = Vec::new();
        let mut from = Some(0);
        while let Some(kind) = from.take()
            && kinds.len() <= KINDS_MERGED_MAX
        {
            self.rows.walk(table, &hash_kind_prefix(hash, kind), &mut |key, _| {
                if let Some(prefix) = key.first_chunk::<10>()
                    && prefix[..8] == hash.to_be_bytes()
                {
                    let kind = u16::from_be_bytes([prefix[8], prefix[9]]);
                    kinds.push(kind);
                    from = kind.checked_add(1);
                }
                false
            })?;
        }
        Ok(kinds)
    }

    /// Rows found by id are a cursor that has nothing more to read.
    fn push_ids(&mut self, rows: Vec<IndexRow>) {
        let tail = |row: &IndexRow| Tail::of(row.position.created_at, &row.position.id, row.seq);
        let mut tails: Vec<Tail> = rows.iter().map(tail).collect();
        tails.sort_unstable();
        if let Some(after) = self.after {
            let tie = (!after.created_at, id4(&after.id));
            tails.retain(|tail| (tail.newest_first, tail.id4) >= tie);
        }
        self.cursors.push(Cursor {
            table: Table::Id,
            prefix: Vec::new(),
            next: None,
            oldest: u32::MAX,
            rows: tails.into(),
            chunk_rows: 1,
        });
    }
}
