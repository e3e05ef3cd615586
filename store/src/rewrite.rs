//! Rewriting of sealed segments: dead events and the kills that nobody needs any more are left out,
//! small neighbours are joined.
//!
//! The order that makes it safe to be killed anywhere: the new segment is written under a temporary
//! name and synced; it gets its name, and the directory is synced; one transaction of the index
//! moves the places of its events and notes the segment; when every read that may know an old
//! place has been answered, the old segments are unlinked. What a start finds half done is settled
//! by the index's note alone (see [`layout`]).
//!
//! **What may be left out.** An event goes when the index, which has applied every kill up to a
//! sequence that the new segment names as `purged_through`, has no place for it. A kill goes only
//! when no copy of its victim is left that could be read without it: when the segment that holds
//! the victim's range is purged past the kill, or is one of those being rewritten. Markers and
//! vanish records never go. A `reindex` from any mixture of segments therefore raises nobody.
//!
//! [`perform`] blocks and belongs to the pool; at most one rewriting or checkpoint per shard runs
//! at a time, so the index does not change under it.

use crate::effect::{IndexRow, Seq, WorldError};
use crate::index::segments::{Remap, SegmentRow};
use crate::record::{PUT_HEADER_BYTES, Record};
use crate::seam::{Index, SegmentEntry, Segments};
use format::{BatchWriter, Footer, RewrittenHeader, Spanned, first_seq_of, generation_of, name_of};
use layout::{Layout, Placed, arrange};
use reader::{SegmentError, SegmentReader};
use std::collections::BTreeMap;

pub mod format;
pub mod layout;
pub mod plan;
pub mod reader;
pub mod salvage;

pub use layout::Placed as PlacedSegment;

/// Bytes of a batch of a rewritten segment, unless one record is longer.
const BATCH_BYTES: usize = 256 << 10;
/// Places that are read from the index at a time.
const LOCS_MAX: usize = 4_096;

/// A segment and what is dead in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// The segment and its range.
    pub placed: Placed,
    /// What the index knows of it.
    pub row: SegmentRow,
}

/// Lists the segments that count, with what is dead in them.
///
/// # Errors
/// [`WorldError`] when the world fails.
pub fn survey(index: &dyn Index, segments: &dyn Segments) -> Result<Vec<Surveyed>, WorldError> {
    let (layout, rows) = read_layout(index, segments)?;
    let row = |placed: &Placed| rows.get(&placed.segment).copied().unwrap_or_default();
    Ok(layout.placed.iter().map(|placed| Surveyed { placed: *placed, row: row(placed) }).collect())
}

/// The layout and the segments' rows, by what the index says alone.
pub(crate) fn read_layout(
    index: &dyn Index,
    segments: &dyn Segments,
) -> Result<(Layout, BTreeMap<Seq, SegmentRow>), WorldError> {
    let rows: BTreeMap<Seq, SegmentRow> = index.segments()?.into_iter().collect();
    let rewritten = rows.iter().filter(|(segment, _)| generation_of(**segment) > 0);
    let ranges = rewritten.map(|(segment, row)| (*segment, row.last_seq)).collect();
    Ok((arrange(&segments.list()?, &ranges), rows))
}

/// Segments to be written anew as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The shard, for the header.
    pub shard: u16,
    /// Neighbouring sealed segments, in order.
    pub sources: Vec<Seq>,
    /// The last sequence of the last of them; the index has applied it.
    pub last_seq: Seq,
}

impl Job {
    /// Name of the new segment; `None` when its range cannot be rewritten once more.
    pub fn target(&self) -> Option<Seq> {
        let first_seq = first_seq_of(*self.sources.first()?);
        let latest = self.sources.iter().map(|source| generation_of(*source)).max()?;
        Some(name_of(first_seq, latest.checked_add(1)?))
    }
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The index points into the new segment.
    Done(Done),
    /// Nothing has changed.
    Refused {
        /// The segments that were not rewritten.
        sources: Vec<Seq>,
        /// Why.
        why: Refusal,
    },
}

/// A finished job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The segments that nothing points into any more, in order.
    pub sources: Vec<Seq>,
    /// The new one.
    pub segment: Seq,
    /// Bytes of the sources.
    pub bytes_before: u64,
    /// Bytes of the new segment.
    pub bytes_after: u64,
    /// Events that were left out.
    pub events_dropped: u64,
    /// Kills that were left out.
    pub kills_dropped: u64,
}

/// Why a segment was not rewritten. It stays as it is, and is read as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The world failed before anything had been changed.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The log's segments are not those that the job was made for.
    #[error("the log's segments are not those that were to be rewritten")]
    Layout,
    /// A segment is damaged.
    #[error("segment {segment:016x}: {error}")]
    Damaged {
        /// Which.
        segment: Seq,
        /// How.
        error: SegmentError,
    },
    /// The index has a place for a record where no such event is.
    #[error("the index places record {0} where it is not")]
    Misplaced(Seq),
    /// What is left does not fit one segment.
    #[error("what is left of the segments does not fit into one")]
    TooLarge,
}

/// Rewrites segments and moves the index over.
///
/// # Errors
/// [`WorldError`] when the new segment could not be made durable or the index not be committed; the
/// process must end.
pub fn perform(
    index: &dyn Index,
    segments: &dyn Segments,
    job: &Job,
) -> Result<Outcome, WorldError> {
    match write(index, segments, job) {
        Ok((remap, done)) => {
            // While nothing has its name yet, a full disk leaves everything as it was.
            let reserved = index.reserve(remap.moves.len() as u64, 0);
            let published = match reserved {
                Ok(()) => segments.publish(remap.segment),
                Err(error) => return give_up(segments, job, remap.segment, error),
            };
            match published {
                Ok(()) => {}
                Err(error @ WorldError::NoSpace(_)) => {
                    return give_up(segments, job, remap.segment, error);
                }
                Err(error) => return Err(error),
            }
            index.remap(&remap)?;
            Ok(Outcome::Done(done))
        }
        Err(why) => {
            if let Some(target) = job.target() {
                segments.discard(target)?;
            }
            Ok(Outcome::Refused { sources: job.sources.clone(), why })
        }
    }
}

/// Leaves everything as it was: the new segment has no name.
fn give_up(
    segments: &dyn Segments,
    job: &Job,
    target: Seq,
    error: WorldError,
) -> Result<Outcome, WorldError> {
    segments.discard(target)?;
    Ok(Outcome::Refused { sources: job.sources.clone(), why: Refusal::World(error) })
}

/// What is known of the log when a job begins.
struct Ground {
    layout: Layout,
    rows: BTreeMap<Seq, SegmentRow>,
    applied: Seq,
    sources: Vec<Placed>,
}

impl Ground {
    fn read(index: &dyn Index, segments: &dyn Segments, job: &Job) -> Result<Self, Refusal> {
        let (layout, rows) = read_layout(index, segments)?;
        let applied = index.applied()?;
        let from =
            layout.placed.iter().position(|placed| Some(&placed.segment) == job.sources.first());
        let from = from.ok_or(Refusal::Layout)?;
        let sources: Vec<Placed> =
            layout.placed[from..].iter().take(job.sources.len()).copied().collect();
        let are_those = sources.iter().map(|placed| placed.segment).eq(job.sources.iter().copied());
        let last_seq = sources.last().and_then(|placed| placed.last_seq);
        // While an earlier copy of anything lies about, a kill of it may not be left out.
        if !are_those
            || last_seq.is_some_and(|last_seq| last_seq != job.last_seq)
            || job.last_seq > applied
            || !layout.leftovers.is_empty()
        {
            return Err(Refusal::Layout);
        }
        Ok(Self { layout, rows, applied, sources })
    }

    /// Kills up to here have been applied to whatever will be left of the victim's segment.
    fn purged_through(&self, victim: Seq) -> Seq {
        let placed = &self.layout.placed;
        let at = placed.partition_point(|placed| placed.first_seq <= victim);
        let Some(holder) = at.checked_sub(1).and_then(|at| placed.get(at)) else { return Seq::MAX };
        if self.sources.iter().any(|source| source.segment == holder.segment) {
            return self.applied;
        }
        self.rows.get(&holder.segment).map_or(0, |row| row.purged_through)
    }
}

/// Places of a range of the index, in order, a page at a time.
pub(crate) struct Places<'a> {
    index: &'a dyn Index,
    next: Seq,
    last: Seq,
    page: std::vec::IntoIter<IndexRow>,
    peeked: Option<IndexRow>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(index: &'a dyn Index, first: Seq, last: Seq) -> Self {
        Self { index, next: first, last, page: Vec::new().into_iter(), peeked: None }
    }

    pub(crate) fn peek(&mut self) -> Result<Option<IndexRow>, WorldError> {
        if self.peeked.is_none() {
            self.peeked = self.page.next();
        }
        if self.peeked.is_none() && self.next <= self.last {
            let page = self.index.locs(self.next, self.last, LOCS_MAX)?;
            self.next = match page.last() {
                Some(row) if page.len() >= LOCS_MAX => row.seq + 1,
                _ => self.last + 1,
            };
            self.page = page.into_iter();
            self.peeked = self.page.next();
        }
        Ok(self.peeked)
    }

    /// The place of `seq`, if it has one. Asked in rising order; a place that is passed over has no
    /// record.
    pub(crate) fn take(&mut self, seq: Seq) -> Result<Option<IndexRow>, Refusal> {
        match self.peek()? {
            Some(row) if row.seq < seq => Err(Refusal::Misplaced(row.seq)),
            Some(row) if row.seq == seq => {
                self.peeked = None;
                Ok(Some(row))
            }
            _ => Ok(None),
        }
    }
}

fn write(index: &dyn Index, segments: &dyn Segments, job: &Job) -> Result<(Remap, Done), Refusal> {
    let ground = Ground::read(index, segments, job)?;
    let target = job.target().ok_or(Refusal::Layout)?;
    let mut epoch = 0;
    for source in &ground.sources {
        epoch = epoch.max(open(job.shard, segments, source)?.head().epoch());
    }
    let header = RewrittenHeader {
        shard: job.shard,
        segment: target,
        last_seq: job.last_seq,
        purged_through: ground.applied,
        epoch,
    };
    let mut writer = Writer::begin(segments, header)?;
    let mut places = Places::new(index, header.first_seq(), job.last_seq);
    let mut done = Done { sources: job.sources.clone(), segment: target, ..Done::default() };
    for source in &ground.sources {
        done.bytes_before += source.bytes;
        let mut reader = open(job.shard, segments, source)?;
        let damaged = |error| damaged(source.segment, error);
        while let Some(batch) = reader.next_batch(segments).map_err(damaged)? {
            for spanned in &batch.records {
                let record = &batch.bytes[spanned.2.clone()];
                match fate(&ground, &mut places, source.segment, batch.offset, spanned)? {
                    Fate::Moves => writer.put(spanned.0, record)?,
                    Fate::Stays => drop(writer.push(spanned.0, record)?),
                    Fate::DeadEvent => done.events_dropped += 1,
                    Fate::SpentKill => done.kills_dropped += 1,
                }
            }
        }
    }
    if let Some(row) = places.peek()? {
        return Err(Refusal::Misplaced(row.seq));
    }
    let (moves, bytes_after) = writer.finish()?;
    done.bytes_after = bytes_after;
    let row = SegmentRow {
        last_seq: job.last_seq,
        purged_through: ground.applied,
        ..SegmentRow::default()
    };
    let remap =
        Remap { sources: job.sources.clone(), segment: target, row, moves, lost: Vec::new() };
    Ok((remap, done))
}

pub(crate) fn damaged(segment: Seq, error: SegmentError) -> Refusal {
    match error {
        SegmentError::World(error) => Refusal::World(error),
        error => Refusal::Damaged { segment, error },
    }
}

fn open(shard: u16, segments: &dyn Segments, placed: &Placed) -> Result<SegmentReader, Refusal> {
    let entry = SegmentEntry { segment: placed.segment, bytes: placed.bytes };
    SegmentReader::open(shard, segments, &entry).map_err(|error| damaged(placed.segment, error))
}

/// What becomes of a record.
enum Fate {
    /// An event that lives.
    Moves,
    /// Another record that is needed.
    Stays,
    DeadEvent,
    SpentKill,
}

fn fate(
    ground: &Ground,
    places: &mut Places<'_>,
    source: Seq,
    batch_at: u32,
    (seq, record, _): &Spanned<'_>,
) -> Result<Fate, Refusal> {
    match record {
        Record::Put { event, at, .. } => {
            let Some(row) = places.take(*seq)? else { return Ok(Fate::DeadEvent) };
            let is_there = row.loc.segment == source
                && row.loc.offset == batch_at + at
                && row.loc.length as usize == event.packed().len()
                && row.position.id == event.id();
            if is_there { Ok(Fate::Moves) } else { Err(Refusal::Misplaced(*seq)) }
        }
        Record::Kill { victim, .. } if *seq <= ground.purged_through(*victim) => {
            Ok(Fate::SpentKill)
        }
        _ => Ok(Fate::Stays),
    }
}

/// Writes a segment under its temporary name, a batch at a time.
pub(crate) struct Writer<'a> {
    segments: &'a dyn Segments,
    header: RewrittenHeader,
    batch: BatchWriter,
    at: u32,
    crc: u32,
    batches: u32,
    records: u64,
    moves: Vec<(Seq, u32)>,
}

impl<'a> Writer<'a> {
    pub(crate) fn begin(
        segments: &'a dyn Segments,
        header: RewrittenHeader,
    ) -> Result<Self, Refusal> {
        let bytes = header.encode();
        segments.stage(header.segment, 0, &bytes)?;
        Ok(Self {
            segments,
            header,
            batch: BatchWriter::default(),
            at: bytes.len() as u32,
            crc: crc32c::crc32c(&bytes),
            batches: 0,
            records: 0,
            moves: Vec::new(),
        })
    }

    /// Adds an event that the index has a place for.
    pub(crate) fn put(&mut self, seq: Seq, record: &[u8]) -> Result<(), Refusal> {
        let at = self.push(seq, record)?;
        self.moves.push((seq, at + PUT_HEADER_BYTES as u32));
        Ok(())
    }

    /// Adds a record; returns where it begins in the segment.
    pub(crate) fn push(&mut self, seq: Seq, record: &[u8]) -> Result<u32, Refusal> {
        if !self.batch.has_room(seq, BATCH_BYTES) {
            self.flush()?;
        }
        let at = self.batch.push(seq, record);
        self.records += 1;
        u32::try_from(at).ok().and_then(|at| self.at.checked_add(at)).ok_or(Refusal::TooLarge)
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        let bytes = self.batch.finish(&self.header);
        self.batches += 1;
        self.append(&bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let length = u32::try_from(bytes.len()).map_err(|_| Refusal::TooLarge)?;
        let end = self.at.checked_add(length).ok_or(Refusal::TooLarge)?;
        self.segments.stage(self.header.segment, self.at, bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.at = end;
        Ok(())
    }

    /// Writes the end; returns where the events lie and how long the segment is.
    pub(crate) fn finish(mut self) -> Result<(Vec<(Seq, u32)>, u64), Refusal> {
        if self.batch.count() > 0 {
            self.flush()?;
        }
        let footer =
            Footer { batches: self.batches, records: self.records, bytes: self.at, crc: self.crc };
        self.append(&footer.encode())?;
        Ok((self.moves, u64::from(self.at)))
    }
}
