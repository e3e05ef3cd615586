//! One page of an ordered union of index streams: a merge of cursors, each of which reads a few
//! rows at a time and seeks again for more, so that a union of many streams costs a seek each and
//! not a page each.
//!
//! Every generation that is open to the merge has cursors of its own. One is opened only when the
//! merge has come down to its newest event, and not at all when its oldest is too young: a page of
//! what arrived as it was made looks into one or two, however many there are.

use super::generations::{Generations, IndexGeneration, Lies};
use super::{ReadRows, Table, applied, damaged, find_id, loc_row};
use crate::effect::{
    IndexPage, IndexRow, Kinds, Position, ScanRequest, Seq, Source, Stream, WorldError,
};
use crate::key::{LocRow, Tail, hash_kind_prefix, id4, loc_key, read_seq, tie_end};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Index rows that one page looks at, live or not; it ends early beyond that.
pub const PAGE_ROWS_EXAMINED_MAX: usize = 4_096;
/// Kinds of one author or tag that are merged; with more, the page goes by time alone.
const KINDS_MERGED_MAX: usize = 64;
/// Cursors of one page in all its generations, and seeks to find out which. Each costs a seek
/// before the first row is known and all of them run in one go, so this many are milliseconds, while
/// thousands of authors times dozens of kinds would be seconds. A page that would need more ends
/// before the generation that is one too many, or, when it has got nowhere yet, goes through that
/// one by time alone.
const CURSORS_MAX: usize = 8_192;
/// Rows that a cursor reads at a time, at least and at most.
const CHUNK_ROWS: std::ops::RangeInclusive<usize> = 2..=256;

/// Places that stand this many rows apart at most are read in one walk: a step costs a tenth of a search
/// in an index on disk.
const PLACE_GAP_ROWS: u64 = 8;

/// Rows under one prefix within a window.
struct Cursor {
    table: Table,
    prefix: Vec<u8>,
    /// Where the next chunk begins; `None` when the rest is in `rows`.
    next: Option<Vec<u8>>,
    /// Complement of the window's beginning: the greatest time field inside it.
    oldest: u32,
    rows: VecDeque<Tail>,
    /// Places of the first of `rows`, as far as they have been read; `None` for dead events.
    places: VecDeque<Option<IndexRow>>,
    chunk_rows: usize,
}

impl Cursor {
    fn open(
        lies: Lies,
        table: Table,
        prefix: &[u8],
        window: Window,
        after: Option<Position>,
        chunk_rows: usize,
    ) -> Self {
        let (table, prefix) = (lies.table(table), lies.key(prefix));
        let mut from = prefix.clone();
        match after.filter(|after| after.created_at <= window.until) {
            // The position's own tie is read again: the full id decides which of it is left.
            Some(after) => {
                from.extend_from_slice(&(!after.created_at).to_be_bytes());
                from.extend_from_slice(&id4(&after.id).to_be_bytes());
            }
            None => from.extend_from_slice(&(!window.until).to_be_bytes()),
        }
        let (next, oldest) = (Some(from), !window.since);
        let (rows, places) = (VecDeque::new(), VecDeque::new());
        Self { table, prefix, next, oldest, rows, places, chunk_rows }
    }

    /// Rows found by id are a cursor that has nothing more to read.
    fn of_ids(mut rows: Vec<IndexRow>, after: Option<Position>) -> Self {
        let tail = |row: &IndexRow| Tail::of(row.position.created_at, &row.position.id, row.seq);
        rows.sort_unstable_by_key(tail);
        if let Some(after) = after {
            let tie = (!after.created_at, id4(&after.id));
            rows.retain(|row| (tail(row).newest_first, tail(row).id4) >= tie);
        }
        Self {
            table: Table::Id,
            prefix: Vec::new(),
            next: None,
            oldest: u32::MAX,
            rows: rows.iter().map(tail).collect(),
            places: rows.into_iter().map(Some).collect(),
            chunk_rows: 1,
        }
    }

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

    /// Takes the first row and reads its place.
    fn take(
        &mut self,
        from: &dyn ReadRows,
    ) -> Result<Option<(Tail, Option<IndexRow>)>, WorldError> {
        let Some(tail) = self.rows.front().copied() else { return Ok(None) };
        let is_next_near =
            self.rows.get(1).is_some_and(|next| tail.seq.abs_diff(next.seq) <= PLACE_GAP_ROWS);
        if self.places.is_empty() && is_next_near {
            self.read_places(from)?;
        }
        self.rows.pop_front();
        let place = match self.places.pop_front() {
            Some(place) => place,
            None => loc_row(from, tail.seq)?,
        };
        Ok(Some((tail, place)))
    }

    /// Reads the places of the first row and of those after it that stand close to it. Events arrive
    /// about in the order in which they were made, so most rows of a page by kind or by time do.
    fn read_places(&mut self, from: &dyn ReadRows) -> Result<(), WorldError> {
        let mut wanted: Vec<(Seq, usize)> = Vec::new();
        let (mut least, mut most): (Seq, Seq) = (Seq::MAX, 0);
        for (at, tail) in self.rows.iter().enumerate() {
            let is_near = tail.seq.saturating_add(PLACE_GAP_ROWS) >= least
                && tail.seq <= most.saturating_add(PLACE_GAP_ROWS);
            if at > 0 && !is_near {
                break;
            }
            (least, most) = (least.min(tail.seq), most.max(tail.seq));
            wanted.push((tail.seq, at));
        }
        wanted.sort_unstable();
        self.places.resize(wanted.len(), None);
        let (places, mut left, mut is_damaged) =
            (&mut self.places, wanted.iter().peekable(), false);
        from.walk(Table::Loc, &loc_key(least), &mut |key, value| {
            let Some(seq) = read_seq(key).filter(|seq| *seq <= most) else { return false };
            while left.next_if(|(wanted, _)| *wanted < seq).is_some() {}
            while let Some((_, at)) = left.next_if(|(wanted, _)| *wanted == seq) {
                let row = LocRow::decode(value);
                is_damaged |= row.is_none();
                places[*at] = row.map(|row| IndexRow { position: row.position, seq, loc: row.loc });
            }
            left.peek().is_some()
        })?;
        if is_damaged { Err(damaged(Table::Loc)) } else { Ok(()) }
    }
}

/// What a page took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Generations that were opened.
    pub opened: u32,
    /// Generations there are.
    pub generations: u32,
}

/// Time and id prefix of a row and which cursor it came from.
type Head = Reverse<(u32, u32, usize)>;

/// Rows that share time and id prefix.
struct Tie {
    newest_first: u32,
    id4: u32,
    rows: Vec<(Tail, Option<IndexRow>)>,
}

/// Whether a merge can go on.
enum Opened {
    Yes,
    /// It would take too many seeks, and what came before this position is complete.
    EndsAt(Position),
}

struct Merge<'a> {
    rows: &'a dyn ReadRows,
    request: &'a ScanRequest,
    /// Over all streams.
    window: Window,
    /// Generations that the merge has not come down to, the next one last.
    unopened: Vec<IndexGeneration>,
    cursors: Vec<Cursor>,
    heads: BinaryHeap<Head>,
    /// Cursors, and seeks to find them, that the page may still take.
    cursors_left: usize,
    seeks_left: usize,
}

impl<'a> Merge<'a> {
    fn new(
        rows: &'a dyn ReadRows,
        request: &'a ScanRequest,
        generations: &Generations,
    ) -> Result<Self, WorldError> {
        let streams = || request.streams.iter().filter(|stream| stream.since <= stream.until);
        let mut ids = Vec::new();
        let mut others: Option<Window> = None;
        for stream in streams() {
            let window = Window::of(stream);
            if let Source::Id(id) = &stream.source {
                let in_window = |row: &IndexRow| {
                    (window.since..=window.until).contains(&row.position.created_at)
                };
                ids.extend(find_id(rows, generations, id)?.filter(in_window));
            } else {
                others = Some(others.map_or(window, |have| have.widened(window)));
            }
        }
        let newest_wanted = |window: Window| match request.after {
            Some(after) => window.until.min(after.created_at),
            None => window.until,
        };
        let mut unopened = Vec::new();
        if let Some(window) = others {
            let is_wanted = |generation: &&IndexGeneration| {
                generation.oldest <= generation.newest
                    && generation.newest >= window.since
                    && generation.oldest <= newest_wanted(window)
            };
            unopened.extend(generations.list().iter().filter(is_wanted));
            // Of those that begin alike the youngest comes first: it is the likeliest to be wanted.
            unopened.sort_by_key(|generation: &IndexGeneration| generation.newest);
        }
        let mut merge = Self {
            rows,
            request,
            window: others.unwrap_or(Window { since: 1, until: 0 }),
            unopened,
            cursors: Vec::new(),
            heads: BinaryHeap::new(),
            cursors_left: CURSORS_MAX,
            seeks_left: CURSORS_MAX,
        };
        if !ids.is_empty() {
            merge.cursors.push(Cursor::of_ids(ids, request.after));
            merge.push_head(0)?;
        }
        Ok(merge)
    }

    fn is_over(&self) -> bool {
        self.heads.is_empty() && self.unopened.is_empty()
    }

    fn push_head(&mut self, index: usize) -> Result<(), WorldError> {
        let cursor = &mut self.cursors[index];
        cursor.fill(self.rows)?;
        if let Some(tail) = cursor.rows.front() {
            self.heads.push(Reverse((tail.newest_first, tail.id4, index)));
        }
        Ok(())
    }

    /// Opens every generation that may have a row before the next one that is known.
    fn open_reached(&mut self) -> Result<Opened, WorldError> {
        while let Some(next) = self.unopened.last().copied() {
            let is_reached = self
                .heads
                .peek()
                .is_none_or(|Reverse((newest_first, ..))| *newest_first >= !next.newest);
            if !is_reached {
                break;
            }
            let mut opening = Opening::new(self.rows, next.lies, self.seeks_left);
            let is_within_bounds = opening.add_all(self.request, self.cursors_left)?;
            if !is_within_bounds && let Some(end) = self.ends_above(&next) {
                return Ok(Opened::EndsAt(end));
            }
            self.unopened.pop();
            let windows = match is_within_bounds {
                true => opening.windows,
                false => BTreeMap::from([((Table::Time, Vec::new()), self.window)]),
            };
            self.seeks_left = opening.seeks_left;
            self.cursors_left = self.cursors_left.saturating_sub(windows.len());
            self.open(next.lies, windows)?;
        }
        Ok(Opened::Yes)
    }

    /// The end of a page that stops above a generation; `None` if it would have got nowhere.
    fn ends_above(&self, next: &IndexGeneration) -> Option<Position> {
        if self.cursors.is_empty() {
            return None;
        }
        let end = tie_end(next.newest.checked_add(1)?, u32::MAX);
        self.request.after.is_none_or(|after| end > after).then_some(end)
    }

    fn open(&mut self, lies: Lies, windows: Windows) -> Result<(), WorldError> {
        let share = self.request.rows_max as usize / windows.len().max(1) + 1;
        let chunk_rows = share.clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end());
        for ((table, prefix), window) in windows {
            let after = self.request.after;
            self.cursors.push(Cursor::open(lies, table, &prefix, window, after, chunk_rows));
            self.push_head(self.cursors.len() - 1)?;
        }
        Ok(())
    }

    /// The rows that share the next time and id prefix, in no order, with repeats.
    fn next_tie(&mut self) -> Result<Option<Tie>, WorldError> {
        let Some(Reverse((newest_first, id4, _))) = self.heads.peek().copied() else {
            return Ok(None);
        };
        let mut tie = Vec::new();
        while let Some(Reverse((time, id, index))) = self.heads.peek().copied()
            && (time, id) == (newest_first, id4)
        {
            self.heads.pop();
            tie.extend(self.cursors[index].take(self.rows)?);
            self.push_head(index)?;
        }
        Ok(Some(Tie { newest_first, id4, rows: tie }))
    }
}

pub(super) fn scan(
    rows: &dyn ReadRows,
    request: &ScanRequest,
) -> Result<(IndexPage, Scanned), WorldError> {
    let mut page = IndexPage { applied: applied(rows)?, rows: Vec::new(), complete_to: None };
    let rows_max = request.rows_max.max(1) as usize;
    let generations = Generations::read(rows)?;
    let mut merge = Merge::new(rows, request, &generations)?;
    let unopened = merge.unopened.len();
    let mut examined = 0;
    loop {
        if let Opened::EndsAt(end) = merge.open_reached()? {
            page.complete_to = Some(end);
            break;
        }
        let Some(Tie { newest_first, id4, rows: tie }) = merge.next_tie()? else { break };
        examined += take_tie(tie, request.after, &mut page.rows);
        let is_full = page.rows.len() >= rows_max || examined >= PAGE_ROWS_EXAMINED_MAX;
        if is_full && !merge.is_over() {
            page.complete_to = Some(tie_end(!newest_first, id4));
            break;
        }
    }
    let scanned = Scanned {
        opened: (unopened - merge.unopened.len()) as u32,
        generations: generations.list().len() as u32,
    };
    Ok((page, scanned))
}

/// Adds the rows of a tie in the order of their full ids, each event once, dead ones left out;
/// returns how many different rows the tie had.
fn take_tie(
    mut tie: Vec<(Tail, Option<IndexRow>)>,
    after: Option<Position>,
    page: &mut Vec<IndexRow>,
) -> usize {
    tie.sort_unstable_by_key(|(tail, _)| *tail);
    tie.dedup_by_key(|(tail, _)| *tail);
    let (from, examined) = (page.len(), tie.len());
    let rows = tie.into_iter().filter_map(|(_, row)| row);
    page.extend(rows.filter(|row| after.is_none_or(|after| row.position > after)));
    page[from..].sort_unstable_by_key(|row| (row.position, row.seq));
    examined
}

/// Seconds from and until which rows are wanted, both inclusive.
#[derive(Clone, Copy)]
struct Window {
    since: u32,
    until: u32,
}

impl Window {
    fn of(stream: &Stream) -> Self {
        Self { since: stream.since, until: stream.until }
    }

    fn widened(self, other: Self) -> Self {
        Self { since: self.since.min(other.since), until: self.until.max(other.until) }
    }
}

/// What a cursor is over, and within which times.
type Windows = BTreeMap<(Table, Vec<u8>), Window>;

/// What a request opens in one generation. Streams that share a table and a prefix share a cursor
/// over all of their windows: a page is a superset anyway, and a row that comes once per stream
/// would eat the page.
struct Opening<'a> {
    rows: &'a dyn ReadRows,
    lies: Lies,
    windows: Windows,
    /// Seeks left to find the kinds of authors and tags.
    seeks_left: usize,
}

impl<'a> Opening<'a> {
    fn new(rows: &'a dyn ReadRows, lies: Lies, seeks_left: usize) -> Self {
        Self { rows, lies, windows: BTreeMap::new(), seeks_left }
    }

    /// Adds what every stream needs; `false` when that is too much.
    fn add_all(&mut self, request: &ScanRequest, cursors_left: usize) -> Result<bool, WorldError> {
        for stream in request.streams.iter().filter(|stream| stream.since <= stream.until) {
            if !self.add(stream)? || self.windows.len() > cursors_left {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds what a stream needs; `false` when finding that out took too many seeks.
    fn add(&mut self, stream: &Stream) -> Result<bool, WorldError> {
        let window = Window::of(stream);
        match &stream.source {
            Source::Time => self.want(Table::Time, &[], window),
            Source::Kind(kind) => self.want(Table::Kind, &kind.to_be_bytes(), window),
            Source::Author(hash, kinds) => return self.hashed(Table::Author, *hash, kinds, window),
            Source::Tag(hash, kinds) => return self.hashed(Table::Tag, *hash, kinds, window),
            Source::Id(_) => {}
        }
        Ok(true)
    }

    fn want(&mut self, table: Table, prefix: &[u8], window: Window) {
        self.windows
            .entry((table, prefix.to_vec()))
            .and_modify(|have| *have = have.widened(window))
            .or_insert(window);
    }

    fn hashed(
        &mut self,
        table: Table,
        hash: u64,
        kinds: &Kinds,
        window: Window,
    ) -> Result<bool, WorldError> {
        let found;
        let kinds = match kinds {
            Kinds::These(kinds) => &kinds[..],
            Kinds::All => match self.kinds_of(table, hash)? {
                Some(kinds) => {
                    found = kinds;
                    &found[..]
                }
                None => return Ok(false),
            },
        };
        if kinds.len() > KINDS_MERGED_MAX {
            self.want(Table::Time, &[], window);
            return Ok(true);
        }
        for kind in kinds {
            self.want(table, &hash_kind_prefix(hash, *kind), window);
        }
        Ok(true)
    }

    /// The kinds under a hash, found by seeking past each; one more than can be merged at most.
    /// `None` when no seeks are left.
    fn kinds_of(&mut self, table: Table, hash: u64) -> Result<Option<Vec<u16>>, WorldError> {
        let mut kinds: Vec<u16> = Vec::new();
        let mut from = Some(0);
        while let Some(kind) = from.take()
            && kinds.len() <= KINDS_MERGED_MAX
        {
            let Some(seeks_left) = self.seeks_left.checked_sub(1) else { return Ok(None) };
            self.seeks_left = seeks_left;
            let lies = self.lies;
            let start = lies.key(&hash_kind_prefix(hash, kind));
            self.rows.walk(lies.table(table), &start, &mut |key, _| {
                if let Some(prefix) = lies.strip(key).and_then(<[u8]>::first_chunk::<10>)
                    && prefix[..8] == hash.to_be_bytes()
                {
                    let kind = u16::from_be_bytes([prefix[8], prefix[9]]);
                    kinds.push(kind);
                    from = kind.checked_add(1);
                }
                false
            })?;
        }
        Ok(Some(kinds))
    }
}

#[cfg(test)]
mod tests {
    use super::super::generations::META_GENERATIONS;
    use super::*;
    use std::cell::Cell;

    /// An index that holds nothing and counts how often it is sought in.
    #[derive(Default)]
    struct Empty {
        seeks: Cell<usize>,
    }

    impl ReadRows for Empty {
        fn row(
            &self,
            table: Table,
            key: &[u8],
            read: &mut dyn FnMut(&[u8]),
        ) -> Result<(), WorldError> {
            if (table, key) == (Table::Meta, META_GENERATIONS) {
                let mut generations = Generations::default();
                generations.open(1).0.add(1_000);
                read(&generations.encode());
            }
            Ok(())
        }

        fn walk(
            &self,
            _: Table,
            _: &[u8],
            _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
        ) -> Result<(), WorldError> {
            self.seeks.set(self.seeks.get() + 1);
            Ok(())
        }

        fn count(&self, _: Table) -> Result<usize, WorldError> {
            Ok(0)
        }
    }

    fn seeks_of(streams: Vec<Stream>) -> usize {
        let rows = Empty::default();
        scan(&rows, &ScanRequest { streams: streams.into(), after: None, rows_max: 100 }).unwrap();
        rows.seeks.get()
    }

    fn stream(hash: u64, kinds: Kinds) -> Stream {
        Stream { source: Source::Author(hash, kinds), since: 0, until: u32::MAX }
    }

    #[test]
    fn the_seeks_of_a_page_are_bounded() {
        let kinds = |count: u16| Kinds::These((0..count).collect());
        let few = (0..100).map(|author| stream(author, kinds(3))).collect();
        assert_eq!(seeks_of(few), 300, "a cursor costs a seek");
        let many = (0..5_000).map(|author| stream(author, kinds(64))).collect();
        assert_eq!(seeks_of(many), 1, "too many are one by time");
        let by_time = (0..5_000).map(|author| stream(author, kinds(65))).collect();
        assert_eq!(seeks_of(by_time), 1, "they all go by time");
        let any = (0..CURSORS_MAX as u64 + 10).map(|author| stream(author, Kinds::All)).collect();
        assert_eq!(seeks_of(any), CURSORS_MAX + 1, "what cannot be found out goes by time");
        let same = (0..1_000).map(|_| stream(7, kinds(2))).collect();
        assert_eq!(seeks_of(same), 2, "streams over the same rows are one");
    }
}
