//! Makes a damaged log readable again by giving up what cannot be read.
//!
//! A damaged segment is copied aside and written anew with every batch of it that is whole. Places
//! of lost events go, and with them the events. Lost kills need more: the index has applied them,
//! but an index rebuilt from what is left would raise their victims. Which events those are is what
//! a scrub finds as events without a place that nothing killed; for each of them a kill is written
//! into the range that was lost, where a sequence is free. Lost marks of deleted ids and slots stay
//! in the index as it is, and are gone from one that is rebuilt.

use super::{Finding, Scrub};
use crate::effect::{IndexRow, Seq, WorldError};
use crate::index::segments::{Remap, SegmentRow};
use crate::open::OpenError;
use crate::record::{KillCause, Record, write_kill};
use crate::recovery::RecoveryError;
use crate::rewrite::format::{RewrittenHeader, first_seq_of, generation_of, name_of};
use crate::rewrite::layout::{self, Layout, Placed};
use crate::rewrite::salvage::{Lost, Salvaged, Wreck};
use crate::rewrite::{Refusal, Writer, read_layout};
use crate::seam::{Index, Segments};
use crate::store::StoreConfig;
use proto::EventId;
use std::collections::BTreeMap;

/// Why a loss was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossError {
    /// The log's layout cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A new segment cannot be written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The index does not fit what is left of the log.
    #[error(
        "the index lacks {0} events that are in the log and that nothing killed: rebuild it with \
         `turnpike reindex` first"
    )]
    Index(usize),
}

impl From<WorldError> for LossError {
    fn from(error: WorldError) -> Self {
        Self::Open(error.into())
    }
}

/// What was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Ranges of records that are gone, with the segment that held them (0 if none did).
    pub ranges: Vec<(Seq, Lost)>,
    /// Ids of indexed events among them.
    pub events: Vec<EventId>,
    /// Segments that were copied aside.
    pub quarantined: Vec<Seq>,
    /// Kills that were written anew, because theirs may have been among what is gone.
    pub kills: u64,
}

/// A range to be written anew.
#[derive(Debug)]
struct Repair {
    /// What holds it, if anything does.
    placed: Option<Placed>,
    first_seq: Seq,
    last_seq: Seq,
    /// How far what holds it is purged.
    purged_through: Seq,
    /// The latest lives that wrote anything before it, and anything up to its end: the segments
    /// after it may be of earlier ones than the last.
    epochs: (u64, u64),
    lost: Vec<Lost>,
}

/// Gives up what cannot be read of a log, so that it can be opened again. The caller holds the
/// directory's lock and no store is open. May be called again if it was interrupted.
///
/// # Errors
/// [`LossError`]; what has been repaired until then stays.
pub fn accept_loss(
    config: &StoreConfig,
    index: &dyn Index,
    segments: &dyn Segments,
) -> Result<Loss, LossError> {
    // A rewritten segment that is gone altogether is taken out of the index's notes first.
    let mut loss = Loss::default();
    replace_missing(config, index, segments, &mut loss)?;
    let applied = index.applied()?;
    if applied == 0 && index.segments()?.is_empty() {
        layout::adopt(config.shard, index, segments)?;
    }
    let ground = Ground { layout: read_layout(index, segments)?, applied };
    let repairs = ground.repairs(config, segments)?;
    let mut orphans = if repairs.iter().any(|repair| repair.loses_up_to(applied)) {
        orphans(config, index, segments)?
    } else {
        Vec::new()
    };
    let room: u64 = repairs.iter().map(|repair| repair.room(applied)).sum();
    if orphans.len() as u64 > room {
        return Err(LossError::Index(orphans.len()));
    }
    for repair in &repairs {
        repair.write(config, index, segments, &mut orphans, &mut loss)?;
    }
    Ok(loss)
}

/// Empty segments take the place of rewritten ones that the index points into and that are gone or
/// have no readable header.
fn replace_missing(
    config: &StoreConfig,
    index: &dyn Index,
    segments: &dyn Segments,
    loss: &mut Loss,
) -> Result<(), LossError> {
    let entries = segments.list()?;
    for (segment, row) in index.segments()? {
        let is_there = entries.iter().any(|entry| entry.segment == segment);
        if generation_of(segment) == 0 || is_there {
            continue;
        }
        let first_seq = first_seq_of(segment);
        let lost = Lost { offset: 0, from: first_seq, to: row.last_seq };
        let placed = Placed { segment, first_seq, last_seq: Some(row.last_seq), bytes: 0 };
        let repair = Repair {
            placed: Some(placed),
            lost: vec![lost],
            ..Repair::of_gap(first_seq, row.last_seq, 0)
        };
        repair.write(config, index, segments, &mut Vec::new(), loss)?;
    }
    Ok(())
}

/// The log as the index knows it.
struct Ground {
    layout: (Layout, BTreeMap<Seq, SegmentRow>),
    applied: Seq,
}

impl Ground {
    /// Reads the whole log and says what of it must be written anew.
    fn repairs(
        &self,
        config: &StoreConfig,
        segments: &dyn Segments,
    ) -> Result<Vec<Repair>, LossError> {
        let placed = &self.layout.0.placed;
        let (mut repairs, mut next, mut epoch) = (Vec::new(), 1, 0);
        for (at, one) in placed.iter().enumerate() {
            if one.first_seq > next {
                repairs.push(Repair::of_gap(next, one.first_seq - 1, epoch));
            }
            let is_last = at + 1 == placed.len();
            let (salvaged, last_seq) = self.look(config, segments, one, epoch)?;
            let before = epoch;
            epoch = salvaged.head.map_or(epoch, |head| epoch.max(head.epoch()));
            // The end of the last segment may be torn; a start cuts it off.
            let is_tear = |lost: &Lost| is_last && !one.is_rewritten() && lost.from > last_seq;
            let is_readable = salvaged.head.is_some();
            let lost = salvaged.lost.into_iter().filter(|lost| !is_readable || !is_tear(lost));
            let lost: Vec<Lost> = lost.collect();
            // Of a segment that says nothing any more, a record at least is gone.
            let says_nothing = !is_readable || salvaged.is_torn && salvaged.batches.is_empty();
            let least = if says_nothing { last_seq.max(one.first_seq) } else { last_seq };
            next = one.last_seq.unwrap_or(least) + 1;
            let (first_seq, last_seq) = (one.first_seq, next - 1);
            // A batch that names sequences of other segments is none, whatever its checksum says.
            let is_torn = salvaged.is_torn || lost.iter().any(|lost| lost.to > last_seq);
            let lost: Vec<Lost> = lost
                .into_iter()
                .filter(|lost| lost.from <= last_seq)
                .map(|lost| Lost { to: lost.to.min(last_seq), ..lost })
                .collect();
            if !lost.is_empty() || is_torn {
                let purged_through = self.purged_through(one.segment);
                let (placed, epochs) = (Some(*one), (before, epoch));
                repairs.push(Repair { placed, first_seq, last_seq, purged_through, epochs, lost });
            }
        }
        if next <= self.applied {
            repairs.push(Repair::of_gap(next, self.applied, epoch));
        }
        Ok(repairs)
    }

    fn purged_through(&self, segment: Seq) -> Seq {
        self.layout.1.get(&segment).map_or(0, |row| row.purged_through)
    }

    /// What is whole of a segment, and the last sequence that it is known to have held.
    fn look(
        &self,
        config: &StoreConfig,
        segments: &dyn Segments,
        placed: &Placed,
        epoch_min: u64,
    ) -> Result<(Salvaged, Seq), LossError> {
        let bytes = segments.read(placed.segment)?;
        let is_indexed = self.applied >= placed.first_seq;
        let known = placed.last_seq.unwrap_or(if is_indexed { self.applied } else { 0 });
        let wreck = Wreck {
            shard: config.shard,
            segment: placed.segment,
            last_seq: known,
            purged_through: self.purged_through(placed.segment),
            bytes: &bytes,
            epoch_min,
        };
        let salvaged = wreck.salvage();
        let last_batch = salvaged.head.zip(salvaged.batches.last());
        let records = last_batch.and_then(|(head, offset)| wreck.batch(&head, *offset));
        let last = records.and_then(|(_, records)| records.last().map(|(seq, ..)| *seq));
        Ok((salvaged, last.unwrap_or(placed.first_seq - 1).max(known)))
    }
}

/// Events whose kills are lost: they have no place, and nothing that is left killed them.
fn orphans(
    config: &StoreConfig,
    index: &dyn Index,
    segments: &dyn Segments,
) -> Result<Vec<Seq>, LossError> {
    let mut scrub = Scrub::begin(config.shard, config.secret, config.seed, index, segments)?;
    let mut findings = Vec::new();
    while !scrub.step(index, segments, u64::MAX, None, &mut findings)?.is_over {}
    let orphan = |finding: &Finding| match finding {
        Finding::Unindexed { seq, .. } => Some(*seq),
        _ => None,
    };
    Ok(findings.iter().filter_map(orphan).collect())
}

impl Repair {
    /// Of a range that no segment holds, after what a life wrote.
    fn of_gap(from: Seq, to: Seq, epoch: u64) -> Self {
        let lost = vec![Lost { offset: 0, from, to }];
        let epochs = (epoch, epoch);
        Self { placed: None, first_seq: from, last_seq: to, purged_through: 0, epochs, lost }
    }

    /// Sequences of lost records that the index had applied: each may have been a kill.
    fn room(&self, applied: Seq) -> u64 {
        let up_to = |lost: &Lost| (lost.to.min(applied) + 1).saturating_sub(lost.from);
        self.lost.iter().map(up_to).sum()
    }

    fn loses_up_to(&self, applied: Seq) -> bool {
        self.room(applied) > 0
    }

    /// Writes the range anew and moves the index over.
    fn write(
        &self,
        config: &StoreConfig,
        index: &dyn Index,
        segments: &dyn Segments,
        orphans: &mut Vec<Seq>,
        loss: &mut Loss,
    ) -> Result<(), LossError> {
        let applied = index.applied()?;
        let source = self.placed.map(|placed| placed.segment);
        let generation = source.map_or(0, generation_of);
        let target = generation.checked_add(1).ok_or(Refusal::Layout)?;
        let target = name_of(self.first_seq, target);
        let bytes = match self.placed.filter(|placed| placed.bytes > 0) {
            Some(placed) => {
                segments.quarantine(placed.segment)?;
                loss.quarantined.push(placed.segment);
                segments.read(placed.segment)?
            }
            None => Vec::new(),
        };
        let wreck = Wreck {
            shard: config.shard,
            segment: source.unwrap_or(target),
            last_seq: self.last_seq,
            purged_through: self.purged_through,
            bytes: &bytes,
            epoch_min: self.epochs.0,
        };
        let salvaged = if bytes.is_empty() { Salvaged::default() } else { wreck.salvage() };
        let header = RewrittenHeader {
            shard: config.shard,
            segment: target,
            last_seq: self.last_seq,
            purged_through: applied,
            epoch: self.epochs.1,
        };
        let mut places = self.places(index, applied)?;
        let mut records = self.kept(&wreck, &salvaged, applied, &mut places);
        loss.kills += self.fill(&mut records, applied, orphans);
        let mut writer = Writer::begin(segments, header)?;
        for (seq, (record, is_placed)) in &records {
            if *is_placed {
                writer.put(*seq, record)?;
            } else {
                writer.push(*seq, record)?;
            }
        }
        let (moves, _) = writer.finish()?;
        segments.publish(target)?;
        let row = SegmentRow {
            last_seq: self.last_seq,
            purged_through: applied,
            ..SegmentRow::default()
        };
        loss.events.extend(places.values().map(|row| row.position.id));
        let lost = places.into_keys().collect();
        let sources = source.into_iter().collect();
        index.remap(&Remap { sources, segment: target, row, moves, lost })?;
        if let Some(source) = source {
            segments.unlink(source)?;
        }
        let name = source.unwrap_or(0);
        loss.ranges.extend(self.lost.iter().map(|lost| (name, *lost)));
        Ok(())
    }

    /// The places of the range.
    fn places(
        &self,
        index: &dyn Index,
        applied: Seq,
    ) -> Result<BTreeMap<Seq, IndexRow>, WorldError> {
        let last_seq = self.last_seq.min(applied);
        if last_seq < self.first_seq {
            return Ok(BTreeMap::new());
        }
        let rows = index.locs(self.first_seq, last_seq, usize::MAX)?;
        Ok(rows.into_iter().map(|row| (row.seq, row)).collect())
    }

    /// The records that stay, each with whether the index has a place for it. Places that a record
    /// claims are taken out.
    fn kept(
        &self,
        wreck: &Wreck<'_>,
        salvaged: &Salvaged,
        applied: Seq,
        places: &mut BTreeMap<Seq, IndexRow>,
    ) -> BTreeMap<Seq, (Vec<u8>, bool)> {
        let mut kept = BTreeMap::new();
        let Some(head) = &salvaged.head else { return kept };
        for offset in &salvaged.batches {
            let Some((bytes, records)) = wreck.batch(head, *offset) else { continue };
            for (seq, record, span) in records {
                if !(self.first_seq..=self.last_seq).contains(&seq) {
                    continue;
                }
                let is_placed = match &record {
                    Record::Put { event, .. } if seq <= applied => {
                        let claimed = places.get(&seq).map(|row| row.position.id);
                        if claimed != Some(event.id()) {
                            continue;
                        }
                        places.remove(&seq).is_some()
                    }
                    _ => false,
                };
                if let Some(record) = bytes.get(span) {
                    kept.insert(seq, (record.to_vec(), is_placed));
                }
            }
        }
        kept
    }

    /// Writes kills of orphans where a sequence is free and greater than the victim's.
    fn fill(
        &self,
        records: &mut BTreeMap<Seq, (Vec<u8>, bool)>,
        applied: Seq,
        orphans: &mut Vec<Seq>,
    ) -> u64 {
        orphans.sort_unstable_by(|one, other| other.cmp(one));
        let mut written = 0;
        for lost in &self.lost {
            for seq in lost.from..=lost.to.min(applied) {
                // The last one is the lowest, so if it does not lie before, none does.
                let Some(victim) = orphans.last().copied().filter(|victim| *victim < seq) else {
                    break;
                };
                if records.contains_key(&seq) {
                    continue;
                }
                orphans.pop();
                let mut record = Vec::new();
                write_kill(&mut record, victim, KillCause::Operator);
                records.insert(seq, (record, false));
                written += 1;
            }
        }
        written
    }
}

/// The words of a refusal to open that accepting the loss can cure.
pub fn is_curable(error: &RecoveryError) -> bool {
    !matches!(error, RecoveryError::Version { .. } | RecoveryError::OtherShard { .. })
}
