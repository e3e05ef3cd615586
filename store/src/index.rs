//! The index as ordered tables: what a checkpoint writes and what a page reads, the same for LMDB
//! and for memory, which supply ordered rows and nothing else.
//!
//! Rows end in the event's sequence; table `loc` alone knows where bytes are, so a row whose `loc`
//! is gone belongs to a dead event and is skipped. See [`crate::key`] for the layouts, and
//! [`generations`] for how the rows are split by the arrival of their events.

use crate::delta::Vanish;
use crate::effect::{
    Answer, Found, IndexPage, IndexRow, LookupKey, Question, ScanRequest, Seq, WorldError,
};
use crate::key::{self, LocRow, MARK_ID, MARK_SLOT, SKETCHED_BIT, read_seq};
use crate::seam::Sketched;
use crate::sketch::SketchedCount;
use crate::vanish::Purge;
use generations::{Generations, Lies};
use proto::nip::nip01::SlotKey;
use proto::{EventId, PublicKey};

pub mod changes;
pub mod filter;
pub mod generations;
mod scan;
pub mod segments;
pub mod sums;
pub mod upkeep;
mod walk;

pub use changes::{Rows, missing_rows, write_generation};
pub use scan::{PAGE_ROWS_EXAMINED_MAX, Scanned};
pub use upkeep::{Did, UpkeepDone, UpkeepRequest, upkeep};

/// A table of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Sequence to place and position.
    Loc,
    /// First bytes of the id; this table and the next four hold the runs of sealed generations.
    Id,
    /// Every event by time.
    Time,
    /// By kind.
    Kind,
    /// By author and kind.
    Author,
    /// By tag and kind.
    Tag,
    /// [`Table::Id`] of a generation in the first half.
    IdA,
    /// [`Table::Time`] of a generation in the first half.
    TimeA,
    /// [`Table::Kind`] of a generation in the first half.
    KindA,
    /// [`Table::Author`] of a generation in the first half.
    AuthorA,
    /// [`Table::Tag`] of a generation in the first half.
    TagA,
    /// [`Table::Id`] of a generation in the second half.
    IdB,
    /// [`Table::Time`] of a generation in the second half.
    TimeB,
    /// [`Table::Kind`] of a generation in the second half.
    KindB,
    /// [`Table::Author`] of a generation in the second half.
    AuthorB,
    /// [`Table::Tag`] of a generation in the second half.
    TagB,
    /// Slot to sequence.
    Slot,
    /// Deleted ids and slots.
    Marker,
    /// Keys that asked to vanish, and up to when.
    Vanish,
    /// Keys of table `vanish` whose events have not all been removed.
    Purge,
    /// By expiration.
    Expiry,
    /// Sums of sync sets.
    Sum,
    /// Log segments with dead events or rewritten ones.
    Segment,
    /// What the index holds.
    Meta,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 24] = [
        Self::Loc,
        Self::Id,
        Self::Time,
        Self::Kind,
        Self::Author,
        Self::Tag,
        Self::IdA,
        Self::TimeA,
        Self::KindA,
        Self::AuthorA,
        Self::TagA,
        Self::IdB,
        Self::TimeB,
        Self::KindB,
        Self::AuthorB,
        Self::TagB,
        Self::Slot,
        Self::Marker,
        Self::Vanish,
        Self::Purge,
        Self::Expiry,
        Self::Sum,
        Self::Segment,
        Self::Meta,
    ];

    /// Those whose rows are split into generations.
    pub const SPLIT: [Self; 5] = [Self::Id, Self::Time, Self::Kind, Self::Author, Self::Tag];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loc => "loc",
            Self::Id => "id",
            Self::Time => "time",
            Self::Kind => "kind",
            Self::Author => "author",
            Self::Tag => "tag",
            Self::IdA => "id.a",
            Self::TimeA => "time.a",
            Self::KindA => "kind.a",
            Self::AuthorA => "author.a",
            Self::TagA => "tag.a",
            Self::IdB => "id.b",
            Self::TimeB => "time.b",
            Self::KindB => "kind.b",
            Self::AuthorB => "author.b",
            Self::TagB => "tag.b",
            Self::Slot => "slot",
            Self::Marker => "marker",
            Self::Vanish => "vanish",
            Self::Purge => "purge",
            Self::Expiry => "expiry",
            Self::Sum => "sum",
            Self::Segment => "segment",
            Self::Meta => "meta",
        }
    }
}

/// Key of the applied sequence in table `meta`.
pub const META_APPLIED: &[u8] = b"applied";

/// Ordered rows in one consistent snapshot.
pub trait ReadRows {
    /// Gives the value of a key to `read`, if there is one.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn row(&self, table: Table, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<(), WorldError>;

    /// Gives rows from `from` on, in order, to `visit` until it returns `false`.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn walk(
        &self,
        table: Table,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), WorldError>;

    /// Number of rows of a table.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn count(&self, table: Table) -> Result<usize, WorldError>;

    /// Whether an event with this id may be in a run; "no" is certain.
    fn may_have_id(&self, _run: u32, _id: &EventId) -> bool {
        true
    }
}

/// About how many items [`sketched`] visits: every event has an id and, on average, a reference to
/// another one that nothing else refers to.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn sketched_count(rows: &dyn ReadRows) -> Result<SketchedCount, WorldError> {
    let events = 2 * rows.count(Table::Loc)? + rows.count(Table::Slot)?;
    let marks = rows.count(Table::Marker)? + rows.count(Table::Vanish)?;
    Ok(SketchedCount { events, marks })
}

/// Ordered rows in a transaction that is committed or forgotten as a whole.
pub trait WriteRows: ReadRows {
    /// Applies sorted rows to a table.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn apply(&mut self, table: Table, rows: &Rows) -> Result<(), WorldError>;

    /// Removes every row of a table.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn clear(&mut self, table: Table) -> Result<(), WorldError>;
}

fn damaged(table: Table) -> WorldError {
    WorldError::Index(format!("table {} holds a row that makes no sense", table.name()))
}

/// The sequence up to which the rows of this snapshot are complete.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn applied(rows: &dyn ReadRows) -> Result<Seq, WorldError> {
    let mut applied = Some(0);
    rows.row(Table::Meta, META_APPLIED, &mut |value| applied = read_seq(value))?;
    applied.ok_or_else(|| damaged(Table::Meta))
}

/// A row of table `loc`.
fn loc_row(rows: &dyn ReadRows, seq: Seq) -> Result<Option<IndexRow>, WorldError> {
    let mut found = Ok(None);
    rows.row(Table::Loc, &key::loc_key(seq), &mut |value| {
        found = LocRow::decode(value)
            .map(|row| Some(IndexRow { position: row.position, seq, loc: row.loc }))
            .ok_or_else(|| damaged(Table::Loc));
    })?;
    found
}

/// A page of rows.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn scan(rows: &dyn ReadRows, request: &ScanRequest) -> Result<IndexPage, WorldError> {
    scan::scan(rows, request).map(|(page, _)| page)
}

/// A page of rows, and what it took.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn scan_telling(
    rows: &dyn ReadRows,
    request: &ScanRequest,
) -> Result<(IndexPage, Scanned), WorldError> {
    scan::scan(rows, request)
}

/// Answers in the order of the keys.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn lookup(rows: &dyn ReadRows, keys: &[LookupKey]) -> Result<Vec<Found>, WorldError> {
    let generations = Generations::read(rows)?;
    keys.iter().map(|key| lookup_one(rows, &generations, key)).collect()
}

fn lookup_one(
    rows: &dyn ReadRows,
    generations: &Generations,
    key: &LookupKey,
) -> Result<Found, WorldError> {
    match key {
        LookupKey::Id(id) => Ok(find_id(rows, generations, id)?.map_or(Found::Nothing, Found::Row)),
        LookupKey::Slot(slot) => {
            let mut seq = None;
            rows.row(Table::Slot, &slot.0, &mut |value| seq = read_seq(value))?;
            let Some(seq) = seq else { return Ok(Found::Nothing) };
            Ok(loc_row(rows, seq)?.map_or(Found::Nothing, Found::Row))
        }
        LookupKey::DeletedId(id, by) => {
            let mut found = Found::Nothing;
            rows.row(Table::Marker, &key::mark_id_key(id, by), &mut |_| {
                found = Found::DeletedUntil(u32::MAX);
            })?;
            Ok(found)
        }
        LookupKey::DeletedSlot(slot) => {
            Ok(slot_mark(rows, slot)?.map_or(Found::Nothing, Found::DeletedUntil))
        }
        LookupKey::Vanished(key) => {
            Ok(vanish_mark(rows, key)?.map_or(Found::Nothing, Found::DeletedUntil))
        }
    }
}

/// Up to when a slot is deleted.
fn slot_mark(rows: &dyn ReadRows, slot: &SlotKey) -> Result<Option<u32>, WorldError> {
    let mut until = Ok(None);
    rows.row(Table::Marker, &key::mark_slot_key(slot), &mut |value| {
        let bytes: Result<[u8; 4], _> = value.try_into();
        until =
            bytes.map(|bytes| Some(u32::from_be_bytes(bytes))).map_err(|_| damaged(Table::Marker));
    })?;
    until
}

/// Up to when a key asked to vanish.
fn vanish_mark(rows: &dyn ReadRows, key: &PublicKey) -> Result<Option<u32>, WorldError> {
    let mut until = Ok(None);
    rows.row(Table::Vanish, &key.0, &mut |value| {
        let bytes: Result<[u8; 4], _> = value.try_into();
        until =
            bytes.map(|bytes| Some(u32::from_be_bytes(bytes))).map_err(|_| damaged(Table::Vanish));
    })?;
    until
}

/// The request of a key to vanish whose removal has not ended.
fn purge_mark(rows: &dyn ReadRows, key: &PublicKey) -> Result<Option<Vanish>, WorldError> {
    let mut vanish = Ok(None);
    rows.row(Table::Purge, &key.0, &mut |value| {
        vanish = key::read_purge(value).map(Some).ok_or_else(|| damaged(Table::Purge));
    })?;
    vanish
}

/// Requests to vanish whose removals have not ended.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn purges(rows: &dyn ReadRows) -> Result<Vec<Purge>, WorldError> {
    let (mut purges, mut is_damaged) = (Vec::new(), false);
    rows.walk(Table::Purge, &[], &mut |key, value| {
        let key: Result<[u8; 32], _> = key.try_into();
        match (key, key::read_purge(value)) {
            (Ok(key), Some(vanish)) => purges.push(Purge { key: PublicKey(key), vanish }),
            _ => is_damaged = true,
        }
        true
    })?;
    if is_damaged { Err(damaged(Table::Purge)) } else { Ok(purges) }
}

/// The event with this id; eight bytes find candidates, the full id decides. The sealed generations
/// come first: their filters tell which of them is worth a search, while the open one has none and is
/// searched every time.
fn find_id(
    rows: &dyn ReadRows,
    generations: &Generations,
    id: &EventId,
) -> Result<Option<IndexRow>, WorldError> {
    let newest_first = || generations.list().iter().rev().map(|generation| generation.lies);
    let is_run = |lies: &Lies| matches!(lies, Lies::Run(_));
    let sealed = newest_first().filter(is_run);
    for lies in sealed.chain(newest_first().filter(|lies| !is_run(lies))) {
        if matches!(lies, Lies::Run(run) if !rows.may_have_id(run, id)) {
            continue;
        }
        if let Some(row) = find_id_in(rows, lies, id)? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

fn find_id_in(
    rows: &dyn ReadRows,
    lies: Lies,
    id: &EventId,
) -> Result<Option<IndexRow>, WorldError> {
    let mut candidates: Vec<Seq> = Vec::new();
    let prefix = lies.key(&id.0[..8]);
    rows.walk(lies.table(Table::Id), &prefix, &mut |key, _| {
        let is_candidate = key.starts_with(&prefix);
        if is_candidate {
            candidates.extend(read_seq(&key[prefix.len()..]));
        }
        is_candidate
    })?;
    for seq in candidates {
        if let Some(row) = loc_row(rows, seq)?
            && row.position.id == *id
        {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Events that expired at or before `unix_s`, past `after`.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn expired(
    rows: &dyn ReadRows,
    unix_s: u64,
    after: Option<(u64, Seq)>,
    rows_max: u32,
) -> Result<Vec<IndexRow>, WorldError> {
    let from = after.map(|(expires_at, seq)| key::expiry_key(expires_at, seq)).unwrap_or_default();
    let mut seqs: Vec<Seq> = Vec::new();
    rows.walk(Table::Expiry, &from, &mut |key, _| {
        if key == from {
            return true;
        }
        let (expires_at, seq) = key.split_at(key::SEQ_BYTES.min(key.len()));
        let is_due = read_seq(expires_at).is_some_and(|expires_at| expires_at <= unix_s);
        if is_due {
            seqs.extend(read_seq(seq));
        }
        is_due && seqs.len() < rows_max as usize
    })?;
    let mut found = Vec::with_capacity(seqs.len());
    for seq in seqs {
        found.extend(loc_row(rows, seq)?);
    }
    Ok(found)
}

/// Visits everything that the sketch must know.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn sketched(rows: &dyn ReadRows, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError> {
    rows.walk(Table::Loc, &[], &mut |_, value| {
        if let Some(row) = LocRow::decode(value) {
            visit(Sketched::Id(row.position.id));
        }
        true
    })?;
    for generation in Generations::read(rows)?.list() {
        let (lies, mut last) = (generation.lies, None);
        let from = lies.key(&SKETCHED_BIT.to_be_bytes());
        rows.walk(lies.table(Table::Tag), &from, &mut |key, _| {
            let Some(hash) = lies.strip(key).and_then(<[u8]>::first_chunk) else { return false };
            let hash = u64::from_be_bytes(*hash);
            if last != Some(hash) {
                last = Some(hash);
                visit(Sketched::Tag(hash));
            }
            true
        })?;
    }
    rows.walk(Table::Slot, &[], &mut |key, _| {
        if let Ok(slot) = key.try_into() {
            visit(Sketched::Key(LookupKey::Slot(SlotKey(slot))));
        }
        true
    })?;
    rows.walk(Table::Marker, &[], &mut |key, _| {
        if let Some(mark) = read_marker(key) {
            visit(Sketched::Key(mark));
        }
        true
    })?;
    rows.walk(Table::Vanish, &[], &mut |key, _| {
        if let Ok(key) = key.try_into() {
            visit(Sketched::Key(LookupKey::Vanished(PublicKey(key))));
        }
        true
    })
}

/// Answers a question.
///
/// # Errors
/// [`WorldError::Index`] when the world fails.
pub fn ask(rows: &dyn ReadRows, question: &Question) -> Result<Answer, WorldError> {
    match question {
        Question::Walk(request) => walk::walk(rows, request).map(Answer::Walk),
        Question::Sums(request) => sums::page(rows, request).map(Answer::Sums),
    }
}

fn read_marker(key: &[u8]) -> Option<LookupKey> {
    match key.split_first()? {
        (&MARK_ID, rest) => {
            let (id, by) = rest.split_at_checked(32)?;
            Some(LookupKey::DeletedId(EventId(id.try_into().ok()?), PublicKey(by.try_into().ok()?)))
        }
        (&MARK_SLOT, rest) => Some(LookupKey::DeletedSlot(SlotKey(rest.try_into().ok()?))),
        _ => None,
    }
}
