//! What one shard's store asks of the world, and what the world answers.
//!
//! The store never blocks and never touches a disk: it emits [`StoreEffect`]s; the engine (files,
//! LMDB, threads) or the simulator (memory, faults) performs them and feeds [`StoreInput`]s back.
//! Effects of one store that carry the same kind of token may be answered in any order; log
//! effects are performed in order, one write in flight.

use crate::delta::Generation;
use crate::index::{Table, UpkeepDone, UpkeepRequest};
use crate::rewrite;
use crate::sums::{SumsPage, SumsRequest};
use proto::nip::nip01::SlotKey;
use proto::{Event, EventId, PublicKey};
use std::sync::Arc;

/// Position of a record in a shard's history: contiguous, from 1, never reused.
pub type Seq = u64;

/// Names one outstanding read; unique within a store's life.
pub type Token = u64;

/// Where the bytes of an event lie, and what can be decided without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    /// First sequence of the segment: its name.
    pub segment: Seq,
    /// Offset of the packed event in the segment file.
    pub offset: u32,
    /// Bytes of the packed event.
    pub length: u32,
    /// [`Loc::UNVERIFIED`] and later flags.
    pub flags: u8,
    /// NIP-40 expiration in unix seconds, 0 for never.
    pub expires_at: u64,
}

impl Loc {
    /// The event was imported with `--no-verify`: verify before the first serving.
    pub const UNVERIFIED: u8 = 1;
    /// Flags that stand in the log. The others are membership in the configured sync sets (see
    /// [`crate::sums`]), known to the delta and the index only: another configuration changes them.
    pub const LOG_FLAGS: u8 = 0x0f;

    /// Whether the event has expired at `unix_s` (NIP-40).
    pub fn is_expired(&self, unix_s: u64) -> bool {
        self.expires_at != 0 && self.expires_at <= unix_s
    }
}

/// Order of the stored phase: newest first, then lowest id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Unix seconds.
    pub created_at: u32,
    /// Full id.
    pub id: EventId,
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.created_at.cmp(&self.created_at).then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Kinds that a stream covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// All of them.
    All,
    /// These, sorted.
    These(Arc<[u16]>),
}

/// One ordered run of index rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Every event.
    Time,
    /// Every event of a kind.
    Kind(u16),
    /// Events of an author (keyed hash), by kind.
    Author(u64, Kinds),
    /// Events with a tag letter and value (keyed hash of both), by kind.
    Tag(u64, Kinds),
    /// The event with this id.
    Id(EventId),
}

/// A source within a window of time, inclusive at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Which rows.
    pub source: Source,
    /// Least `created_at`.
    pub since: u32,
    /// Greatest `created_at`.
    pub until: u32,
}

/// One page of an ordered union of streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// The union's streams.
    pub streams: Arc<[Stream]>,
    /// Rows at or before this position have been answered already.
    pub after: Option<Position>,
    /// Index rows to return at most (ties of the last position excepted).
    pub rows_max: u32,
}

/// One index row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// Where it stands in the answer.
    pub position: Position,
    /// Its event.
    pub seq: Seq,
    /// Its bytes.
    pub loc: Loc,
}

/// What the index holds for a [`ScanRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexPage {
    /// The index holds every effect up to this sequence, read in the page's own snapshot.
    pub applied: Seq,
    /// Rows in order, each event once.
    pub rows: Vec<IndexRow>,
    /// How far the rows are complete: every index row at or before it is in `rows` or was answered
    /// earlier. `None` means that the streams are exhausted.
    pub complete_to: Option<Position>,
}

/// A point question to the index.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LookupKey {
    /// Is this event stored?
    Id(EventId),
    /// Who holds this slot?
    Slot(SlotKey),
    /// Did this key delete this id?
    DeletedId(EventId, PublicKey),
    /// Up to when is this slot deleted?
    DeletedSlot(SlotKey),
    /// Up to when has this key asked to vanish?
    Vanished(PublicKey),
}

/// The index's answer to a [`LookupKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The event (for `Id`) or holder (for `Slot`).
    Row(IndexRow),
    /// The deletion is recorded; for a slot or a key, up to this `created_at`, inclusive.
    DeletedUntil(u32),
}

/// Events of one key that the index holds, in no order that matters: what the removal of all of
/// them walks through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkRequest {
    /// [`Table::Author`] or [`Table::Tag`].
    pub table: Table,
    /// What the keys of the rows begin with.
    pub prefix: Vec<u8>,
    /// Greatest `created_at`.
    pub until: u32,
    /// Where the last page ended.
    pub from: Option<Vec<u8>>,
    /// Rows to return at most.
    pub rows_max: u32,
}

/// A page of a [`WalkRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalkPage {
    /// Rows whose events have a place.
    pub rows: Vec<IndexRow>,
    /// Where the next page begins; `None` when nothing is left.
    pub next: Option<Vec<u8>>,
}

/// A question to the index that is neither a page of an answer nor a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Events of one key.
    Walk(WalkRequest),
    /// Sums of a sync set.
    Sums(SumsRequest),
}

/// The answer to a [`Question`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Events of one key.
    Walk(WalkPage),
    /// Sums of a sync set.
    Sums(SumsPage),
}

/// Work that brings the index up to a frozen generation of the delta.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The rows, kills and markers to apply; the index is at `generation.first_seq() - 1`.
    pub generation: Arc<Generation>,
}

/// Log segments: the only bytes that the store writes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEffect {
    /// Create the file, write `header` at 0, zero-fill ahead, sync file and directory.
    /// Answer: [`StoreInput::SegmentCreated`].
    Create {
        /// The segment.
        segment: Seq,
        /// Its first bytes.
        header: Vec<u8>,
    },
    /// Write `bytes` at `offset` and `fdatasync`. Answer: [`StoreInput::LogDurable`].
    Write {
        /// The segment.
        segment: Seq,
        /// Where in the segment.
        offset: u32,
        /// The batch.
        bytes: Vec<u8>,
        /// The sequence of the last record in it.
        through: Seq,
    },
    /// The segment ends at `length`: truncate, sync. Answer: [`StoreInput::SegmentSealed`].
    Seal {
        /// The segment.
        segment: Seq,
        /// Its final length.
        length: u32,
    },
}

/// What the store asks for.
#[derive(Clone, Debug)]
pub enum StoreEffect {
    /// Log segment work, in order.
    Log(LogEffect),
    /// Read a page of index rows. Answer: [`StoreInput::Scanned`].
    Scan {
        /// Which read.
        token: Token,
        /// What of.
        request: ScanRequest,
    },
    /// Answer point questions. Answer: [`StoreInput::Looked`].
    Lookup {
        /// Which read.
        token: Token,
        /// The questions.
        keys: Vec<LookupKey>,
    },
    /// Read bodies. Answer: [`StoreInput::Fetched`].
    Fetch {
        /// Which read.
        token: Token,
        /// The places.
        locs: Vec<Loc>,
    },
    /// Ask the index something else. Answer: [`StoreInput::Answered`].
    Ask {
        /// Which read.
        token: Token,
        /// What.
        question: Question,
    },
    /// Apply a generation to the index. Answer: [`StoreInput::Checkpointed`].
    Checkpoint(Checkpoint),
    /// Take one step of the index's upkeep (see [`crate::index::upkeep`]). Never at the same time as
    /// a checkpoint or a rewriting. Answer: [`StoreInput::UpkeepDone`].
    Upkeep(UpkeepRequest),
    /// List the segments and what is dead in them. Answer: [`StoreInput::Surveyed`].
    Survey,
    /// Write what is left of segments into a new one and move the index over. Never at the same
    /// time as a checkpoint. Answer: [`StoreInput::Rewritten`].
    Rewrite(rewrite::Job),
    /// Remove segments that nobody reads any more, in this order. Answer:
    /// [`StoreInput::Unlinked`].
    Unlink {
        /// The segments.
        segments: Vec<Seq>,
    },
    /// List events that expired at or before `unix_s`, in order of expiration and sequence, past
    /// `after`. Answer: [`StoreInput::Expired`].
    Expired {
        /// Which read.
        token: Token,
        /// The wall clock.
        unix_s: u64,
        /// Expiration and sequence of the last one answered.
        after: Option<(u64, Seq)>,
        /// Events to list at most.
        rows_max: u32,
    },
}

/// Why the world could not do what the store asked. Any failure of a write or a sync ends the
/// process without an answer to anyone: the page cache cannot be trusted afterwards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// A log write or sync failed.
    #[error("log segment {segment:016x}: {what}")]
    Log {
        /// Segment name.
        segment: Seq,
        /// The system's words.
        what: String,
    },
    /// The index could not be read or committed.
    #[error("index: {0}")]
    Index(String),
    /// The disk has no room for what was about to be written; nothing has been.
    #[error("no space left on the disk: {0}")]
    NoSpace(String),
}

/// What found no room on the disk, untouched.
#[derive(Clone, Debug)]
pub enum Unwritten {
    /// Log work, given back.
    Log(LogEffect),
    /// The checkpoint of the frozen generation.
    Checkpoint,
}

/// What the world answers.
#[derive(Clone, Debug)]
pub enum StoreInput {
    /// A segment exists, durably.
    SegmentCreated {
        /// The segment.
        segment: Seq,
    },
    /// Everything up to `through` is durable.
    LogDurable {
        /// The sequence of the last record in it.
        through: Seq,
    },
    /// A segment is closed, durably.
    SegmentSealed {
        /// The segment.
        segment: Seq,
    },
    /// A page of rows; the request comes back so that the store keeps nothing per read.
    Scanned {
        /// Which read.
        token: Token,
        /// What of.
        request: ScanRequest,
        /// The page.
        page: Result<IndexPage, WorldError>,
    },
    /// Answers in the order of the keys, which come back.
    Looked {
        /// Which read.
        token: Token,
        /// The questions.
        keys: Vec<LookupKey>,
        /// The answers.
        found: Result<Vec<Found>, WorldError>,
    },
    /// Bodies in the order of the places; `None` where the bytes are not a packed event.
    Fetched {
        /// Which read.
        token: Token,
        /// The bodies.
        bodies: Result<Vec<Option<Event>>, WorldError>,
    },
    /// What was asked for.
    Answered {
        /// Which read.
        token: Token,
        /// The answer.
        answer: Result<Answer, WorldError>,
    },
    /// The index holds everything up to `applied`.
    Checkpointed {
        /// The last sequence that the index holds.
        applied: Seq,
    },
    /// A step of upkeep was taken, or none is due.
    UpkeepDone(UpkeepDone),
    /// The segments, in order of their ranges.
    Surveyed(Result<Vec<rewrite::Surveyed>, WorldError>),
    /// A rewriting was done, or not begun.
    Rewritten(rewrite::Outcome),
    /// Segments are gone, durably.
    Unlinked,
    /// The disk has no room; nothing was written.
    NoSpace(Unwritten),
    /// A log write, a sync or a checkpoint failed: nothing more may be answered.
    Failed(WorldError),
    /// Expired events.
    Expired {
        /// Which read.
        token: Token,
        /// The events.
        rows: Result<Vec<IndexRow>, WorldError>,
    },
}
