//! Looks for damage: every segment against its checksums and its neighbours, every event against
//! its id (and its signature, if somebody can check that), the index against the log and the log
//! against the index.
//!
//! A scrub changes nothing and works a part at a time, so that it can run beside a relay that
//! serves. It goes from the end of the log to its beginning: a kill comes after its victim, so an
//! event without a place is met when all kills of it are known. What the relay does meanwhile is
//! told from damage: a segment that was rewritten under the scrub's eyes is begun anew, and before
//! an event counts as forgotten, the kills since the beginning are looked through.
//!
//! [`accept_loss`] is the other half, for a log that a start refuses: it copies damaged segments
//! aside, writes what is whole anew, and names what is lost.

use crate::effect::{IndexRow, Seq, WorldError};
use crate::index::Table;
use crate::key::EventKeys;
use crate::open::OpenError;
use crate::record::Record;
use crate::rewrite::format::Spanned;
use crate::rewrite::layout::Placed;
use crate::rewrite::read_layout;
use crate::rewrite::reader::{SegmentError, SegmentReader};
use crate::rewrite::salvage::{Lost, Wreck};
use crate::seam::{Index, SegmentEntry, Segments};
use proto::{EventRef, Secret, SeededSet, SeededState};
use std::collections::BTreeMap;

mod loss;

pub use loss::{Loss, LossError, accept_loss, is_curable};

/// Places that are read from the index at a time.
const LOCS_MAX: usize = 4_096;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A segment's header is damaged or not its own.
    Header {
        /// The segment.
        segment: Seq,
        /// How.
        error: SegmentError,
    },
    /// Records cannot be read.
    Damaged {
        /// The segment.
        segment: Seq,
        /// Which, and where the damage begins.
        lost: Lost,
    },
    /// A rewritten segment's end is damaged; its batches may all be whole.
    Footer {
        /// The segment.
        segment: Seq,
    },
    /// No segment holds these records.
    Missing {
        /// First.
        from: Seq,
        /// Last.
        to: Seq,
    },
    /// An event's id is not the hash of it.
    WrongId {
        /// The segment.
        segment: Seq,
        /// The record.
        seq: Seq,
    },
    /// An event's signature is not its author's.
    WrongSignature {
        /// The segment.
        segment: Seq,
        /// The record.
        seq: Seq,
    },
    /// The index has a place for a record where no such event is.
    Misplaced {
        /// The record.
        seq: Seq,
    },
    /// An event that nothing killed has no place in the index.
    Unindexed {
        /// The segment.
        segment: Seq,
        /// The record.
        seq: Seq,
    },
    /// An event has a place, but cannot be found by everything that it should be found by.
    MissingRows {
        /// The record.
        seq: Seq,
        /// The tables that lack a row.
        tables: Vec<Table>,
    },
}

impl Finding {
    /// Whether rebuilding the index is the cure; else bytes of the log are lost.
    pub fn is_of_index(&self) -> bool {
        matches!(self, Self::Misplaced { .. } | Self::Unindexed { .. } | Self::MissingRows { .. })
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header { segment, error } => write!(f, "segment {segment:016x}: {error}"),
            Self::Damaged { segment, lost: Lost { offset, from, to } } => write!(
                f,
                "segment {segment:016x} is damaged at byte {offset}: records {from} to {to} are lost"
            ),
            Self::Footer { segment } => {
                write!(f, "segment {segment:016x} has a damaged end")
            }
            Self::Missing { from, to } => write!(f, "records {from} to {to} are in no segment"),
            Self::WrongId { segment, seq } => {
                write!(f, "record {seq} in segment {segment:016x} is an event with a wrong id")
            }
            Self::WrongSignature { segment, seq } => write!(
                f,
                "record {seq} in segment {segment:016x} is an event with a wrong signature"
            ),
            Self::Misplaced { seq } => {
                write!(f, "the index places record {seq} where no such event is")
            }
            Self::Unindexed { segment, seq } => write!(
                f,
                "record {seq} in segment {segment:016x} lives and the index does not have it"
            ),
            Self::MissingRows { seq, tables } => {
                let names: Vec<&str> = tables.iter().map(|table| table.name()).collect();
                write!(f, "record {seq} lacks rows in {}", names.join(", "))
            }
        }
    }
}

/// Checks a signature.
pub type CheckSignature<'a> = &'a mut dyn FnMut(&EventRef<'_>) -> bool;

/// How far a scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes of segments that have been looked at.
    pub done: u64,
    /// Bytes of the segments there were.
    pub total: u64,
    /// Nothing is left to look at.
    pub is_over: bool,
}

/// The segment being looked at.
#[derive(Debug)]
struct Current {
    placed: Placed,
    reader: Option<SegmentReader>,
    /// Places of its range that no record has claimed.
    places: BTreeMap<Seq, IndexRow>,
    places_from: Seq,
    /// Events without a place.
    suspects: Vec<Seq>,
    lost: Vec<Lost>,
    findings: Vec<Finding>,
}

/// A scrub of one shard. Bounded by a part of a segment, plus sixteen bytes for every kill whose
/// victim lies before what has been looked at.
#[derive(Debug)]
pub struct Scrub {
    shard: u16,
    secret: Secret,
    /// Everything up to here was in the index at the beginning.
    horizon: Seq,
    /// Everything from here on has been looked at.
    below: Seq,
    current: Option<Current>,
    killed: SeededSet<Seq>,
    /// Events that seem to be forgotten, with their segments.
    unindexed: Vec<(Seq, Seq)>,
    done: u64,
    total: u64,
}

impl Scrub {
    /// Begins a scrub of what the index holds now.
    ///
    /// # Errors
    /// [`OpenError`] when the layout of the log cannot be read.
    pub fn begin(
        shard: u16,
        secret: Secret,
        seed: SeededState,
        index: &dyn Index,
        segments: &dyn Segments,
    ) -> Result<Self, OpenError> {
        let horizon = index.applied()?;
        let layout = read_layout(index, segments)?.0;
        let mut scrub = Self {
            shard,
            secret,
            horizon,
            below: horizon + 1,
            current: None,
            killed: SeededSet::with_hasher(seed),
            unindexed: Vec::new(),
            done: 0,
            total: 0,
        };
        let in_scope = layout.placed.iter().filter(|placed| placed.first_seq <= horizon);
        scrub.total = in_scope.map(|placed| placed.bytes).sum();
        scrub.collect_kills(&layout.placed, horizon, segments)?;
        Ok(scrub)
    }

    /// Remembers what the records after `above` killed, as far as they can be read: the segment
    /// that is being written ends where it ends.
    fn collect_kills(
        &mut self,
        placed: &[Placed],
        above: Seq,
        segments: &dyn Segments,
    ) -> Result<(), WorldError> {
        let is_later = |placed: &&Placed| placed.last_seq.is_none_or(|last_seq| last_seq > above);
        for placed in placed.iter().filter(is_later) {
            let entry = SegmentEntry { segment: placed.segment, bytes: placed.bytes };
            let opened = SegmentReader::open(self.shard, segments, &entry);
            let mut reader = match opened {
                Ok(reader) => reader,
                Err(SegmentError::World(error)) => return Err(error),
                Err(_) => continue,
            };
            loop {
                match reader.next_batch(segments) {
                    Ok(Some(batch)) => {
                        for (seq, record, _) in &batch.records {
                            if let Record::Kill { victim, .. } = record
                                && *seq > above
                            {
                                self.killed.insert(*victim);
                            }
                        }
                    }
                    Err(SegmentError::World(error)) => return Err(error),
                    Ok(None) | Err(_) => break,
                }
            }
        }
        Ok(())
    }

    /// Looks at about `budget_bytes` more.
    ///
    /// # Errors
    /// [`OpenError`] when the world fails.
    pub fn step(
        &mut self,
        index: &dyn Index,
        segments: &dyn Segments,
        budget_bytes: u64,
        mut signatures: Option<CheckSignature<'_>>,
        findings: &mut Vec<Finding>,
    ) -> Result<Scrubbed, OpenError> {
        let mut spent = 0;
        while spent < budget_bytes {
            let Some(mut current) = self.take_or_open(index, segments, findings)? else {
                self.finish(index, segments, findings)?;
                return Ok(Scrubbed { is_over: true, ..self.progress() });
            };
            let read = self.read(&mut current, index, segments, &mut signatures);
            match read {
                Ok(0) => {
                    self.below = current.placed.first_seq;
                    self.done += current.placed.bytes;
                    self.close(current, index, findings)?;
                }
                Ok(bytes) => {
                    spent += bytes;
                    self.current = Some(current);
                }
                // It was rewritten and is gone: what stands for its range now is looked at.
                Err(_) if !self.still_counts(&current.placed, index, segments)? => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.progress())
    }

    fn progress(&self) -> Scrubbed {
        Scrubbed { done: self.done.min(self.total), total: self.total, is_over: false }
    }

    fn still_counts(
        &self,
        placed: &Placed,
        index: &dyn Index,
        segments: &dyn Segments,
    ) -> Result<bool, OpenError> {
        let now = read_layout(index, segments)?.0;
        Ok(now.placed.iter().any(|other| other.segment == placed.segment))
    }

    /// The segment being looked at, or the one before what has been looked at.
    fn take_or_open(
        &mut self,
        index: &dyn Index,
        segments: &dyn Segments,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<Current>, OpenError> {
        if let Some(current) = self.current.take() {
            return Ok(Some(current));
        }
        let layout = read_layout(index, segments)?.0;
        let before = layout.placed.iter().rev().find(|placed| placed.first_seq < self.below);
        let last = before.map_or(0, |placed| placed.last_seq.unwrap_or(self.horizon));
        if last + 1 < self.below {
            findings.push(Finding::Missing { from: last + 1, to: self.below - 1 });
        }
        let Some(placed) = before.copied() else {
            self.below = 1;
            return Ok(None);
        };
        let entry = SegmentEntry { segment: placed.segment, bytes: placed.bytes };
        let mut current = Current {
            placed,
            reader: None,
            places: BTreeMap::new(),
            places_from: placed.first_seq,
            suspects: Vec::new(),
            lost: Vec::new(),
            findings: Vec::new(),
        };
        match SegmentReader::open(self.shard, segments, &entry) {
            Ok(reader) => current.reader = Some(reader),
            Err(SegmentError::World(error)) => return Err(error.into()),
            Err(error) => {
                let segment = placed.segment;
                current.findings.push(Finding::Header { segment, error });
                self.salvage(&mut current, index, segments, &mut None)?;
            }
        }
        Ok(Some(current))
    }

    /// Reads a batch of the segment; 0 at its end.
    fn read(
        &mut self,
        current: &mut Current,
        index: &dyn Index,
        segments: &dyn Segments,
        signatures: &mut Option<CheckSignature<'_>>,
    ) -> Result<u64, WorldError> {
        let Some(mut reader) = current.reader.take() else { return Ok(0) };
        let damage = match reader.next_batch(segments) {
            Ok(Some(batch)) => {
                let bytes = batch.bytes.len() as u64;
                self.records(current, index, batch.offset, &batch.records, signatures)?;
                current.reader = Some(reader);
                return Ok(bytes);
            }
            Ok(None) => None,
            Err(SegmentError::World(error)) => return Err(error),
            Err(error) => Some(error),
        };
        let last_seq = current.placed.last_seq.unwrap_or(self.horizon);
        let (offset, from) = (reader.offset() as u32, reader.next_seq());
        match damage {
            None if !current.placed.is_rewritten() && from <= last_seq => {
                self.lose(current, Lost { offset, from, to: last_seq });
            }
            None => {}
            // What is being written ends in zeros, and with what the index has not seen yet.
            Some(_) if current.placed.last_seq.is_none() && from > self.horizon => {}
            Some(error) => {
                if matches!(error, SegmentError::Footer) {
                    let segment = current.placed.segment;
                    current.findings.push(Finding::Footer { segment });
                }
                self.salvage(current, index, segments, signatures)?;
            }
        }
        Ok(0)
    }

    fn lose(&self, current: &mut Current, lost: Lost) {
        if lost.from <= self.horizon {
            let segment = current.placed.segment;
            let lost = Lost { to: lost.to.min(self.horizon), ..lost };
            current.findings.push(Finding::Damaged { segment, lost });
            current.lost.push(lost);
        }
    }

    /// Looks at what is whole of a damaged segment, from its beginning.
    fn salvage(
        &mut self,
        current: &mut Current,
        index: &dyn Index,
        segments: &dyn Segments,
        signatures: &mut Option<CheckSignature<'_>>,
    ) -> Result<(), WorldError> {
        let placed = current.placed;
        let bytes = segments.read(placed.segment)?;
        let rows = read_layout(index, segments)?.1;
        let purged_through = rows.get(&placed.segment).map_or(0, |row| row.purged_through);
        let wreck = Wreck {
            shard: self.shard,
            segment: placed.segment,
            last_seq: placed.last_seq.unwrap_or(self.horizon),
            bytes: &bytes,
            purged_through,
            epoch_min: 0,
        };
        let salvaged = wreck.salvage();
        current.places.clear();
        current.places_from = placed.first_seq;
        current.suspects.clear();
        let is_seen =
            |finding: &Finding| matches!(finding, Finding::Header { .. } | Finding::Footer { .. });
        current.findings.retain(is_seen);
        if let Some(head) = &salvaged.head {
            for offset in &salvaged.batches {
                if let Some((_, records)) = wreck.batch(head, *offset) {
                    self.records(current, index, *offset, &records, signatures)?;
                }
            }
        }
        salvaged.lost.into_iter().for_each(|lost| self.lose(current, lost));
        Ok(())
    }

    /// Looks at the records of a batch.
    fn records(
        &mut self,
        current: &mut Current,
        index: &dyn Index,
        offset: u32,
        records: &[Spanned<'_>],
        signatures: &mut Option<CheckSignature<'_>>,
    ) -> Result<(), WorldError> {
        let segment = current.placed.segment;
        let last = records.last().map_or(0, |(seq, ..)| *seq).min(self.horizon);
        current.load_places(index, last)?;
        let mut live: Vec<(Seq, EventKeys)> = Vec::new();
        for (seq, record, _) in records {
            match record {
                Record::Kill { victim, .. } => drop(self.killed.insert(*victim)),
                Record::Put { event, at, .. } => {
                    if !event.id_is_valid() {
                        current.findings.push(Finding::WrongId { segment, seq: *seq });
                    } else if signatures.as_mut().is_some_and(|check| !check(event)) {
                        current.findings.push(Finding::WrongSignature { segment, seq: *seq });
                    }
                    if *seq > self.horizon {
                        continue;
                    }
                    let Some(row) = current.places.remove(seq) else {
                        current.suspects.push(*seq);
                        continue;
                    };
                    let is_there = row.loc.segment == segment
                        && row.loc.offset == offset + at
                        && row.loc.length as usize == event.packed().len()
                        && row.position.id == event.id();
                    if is_there {
                        live.push((*seq, EventKeys::of(event, &self.secret)));
                    } else {
                        current.findings.push(Finding::Misplaced { seq: *seq });
                    }
                }
                _ => {}
            }
        }
        let missing = index.missing_rows(&live)?;
        for ((seq, _), tables) in live.iter().zip(missing) {
            // A checkpoint may have removed the event between the two looks.
            if !tables.is_empty() && !index.locs(*seq, *seq, 1)?.is_empty() {
                current.findings.push(Finding::MissingRows { seq: *seq, tables });
            }
        }
        Ok(())
    }

    /// A segment has been looked at: what it says of the index counts if it still stands for its
    /// range.
    fn close(
        &mut self,
        mut current: Current,
        index: &dyn Index,
        findings: &mut Vec<Finding>,
    ) -> Result<(), OpenError> {
        let placed = current.placed;
        let last_seq = placed.last_seq.unwrap_or(self.horizon).min(self.horizon);
        current.load_places(index, last_seq)?;
        let is_lost =
            |seq: Seq| current.lost.iter().any(|lost| (lost.from..=lost.to).contains(&seq));
        let unclaimed: Vec<Seq> = current.places.keys().copied().collect();
        for seq in unclaimed.into_iter().filter(|seq| !is_lost(*seq)) {
            current.findings.push(Finding::Misplaced { seq });
        }
        for seq in &current.suspects {
            if !self.killed.remove(seq) {
                self.unindexed.push((*seq, placed.segment));
            }
        }
        // A rewriting or a checkpoint may have moved or removed what did not fit.
        for finding in current.findings {
            let still_holds = match &finding {
                Finding::Misplaced { seq } => {
                    let row = index.locs(*seq, *seq, 1)?.pop();
                    row.is_some_and(|row| {
                        row.loc.segment == placed.segment || !is_newer(row.loc.segment, &placed)
                    })
                }
                _ => true,
            };
            if still_holds {
                findings.push(finding);
            }
        }
        Ok(())
    }

    /// Everything has been looked at: events without a place that were killed meanwhile are none.
    fn finish(
        &mut self,
        index: &dyn Index,
        segments: &dyn Segments,
        findings: &mut Vec<Finding>,
    ) -> Result<(), OpenError> {
        if self.unindexed.is_empty() {
            return Ok(());
        }
        let layout = read_layout(index, segments)?.0;
        self.collect_kills(&layout.placed, self.horizon, segments)?;
        for (seq, segment) in std::mem::take(&mut self.unindexed) {
            // A segment that was rewritten meanwhile has lost its dead, and the log their kills.
            let stands = layout.placed.iter().any(|placed| placed.segment == segment);
            if stands && !self.killed.contains(&seq) {
                findings.push(Finding::Unindexed { segment, seq });
            }
        }
        Ok(())
    }
}

/// Whether a place in `segment` can be one that a rewriting made of what stood at `placed`.
fn is_newer(segment: Seq, placed: &Placed) -> bool {
    use crate::rewrite::format::{first_seq_of, generation_of};
    generation_of(segment) > generation_of(placed.segment)
        && first_seq_of(segment) <= placed.first_seq
}

impl Current {
    /// Reads the places of the segment's range up to `last_seq`.
    fn load_places(&mut self, index: &dyn Index, last_seq: Seq) -> Result<(), WorldError> {
        while self.places_from <= last_seq {
            let page = index.locs(self.places_from, last_seq, LOCS_MAX)?;
            self.places_from = match page.last() {
                Some(row) if page.len() >= LOCS_MAX => row.seq + 1,
                _ => last_seq + 1,
            };
            self.places.extend(page.into_iter().map(|row| (row.seq, row)));
        }
        Ok(())
    }
}
