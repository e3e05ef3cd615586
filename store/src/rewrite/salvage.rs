//! What can still be read of a damaged segment: every batch that is whole, wherever it lies.

use super::format::{RewrittenBatch, RewrittenHeader, Spanned, first_seq_of, generation_of};
use super::reader::{Head, SegmentError};
use crate::effect::Seq;
use crate::record::{Batch, SEGMENT_HEADER_BYTES, SegmentHeader, find_batch};

/// Lives that are tried when a segment does not say which one wrote it.
const EPOCHS_TRIED_MAX: u64 = 4_096;

/// Sequences that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where the damage begins.
    pub offset: u32,
    /// First lost sequence.
    pub from: Seq,
    /// Last lost sequence. Of a rewritten segment not every sequence of the range had a record.
    pub to: Seq,
}

/// What is left of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Its header, as it is or as it must have been; `None` when nothing fits.
    pub head: Option<Head>,
    /// Where its whole batches begin, in order of sequence.
    pub batches: Vec<u32>,
    /// What is lost between and after them.
    pub lost: Vec<Lost>,
    /// The header or the end is damaged, so that a start refuses it even if nothing is lost.
    pub is_torn: bool,
}

/// A segment to look into.
#[derive(Clone, Copy, Debug)]
pub struct Wreck<'b> {
    /// The shard that it belongs to.
    pub shard: u16,
    /// Its name.
    pub segment: Seq,
    /// The last sequence that it must hold; 0 if only its own end tells.
    pub last_seq: Seq,
    /// All its bytes.
    pub bytes: &'b [u8],
    /// How far the index says that it is purged.
    pub purged_through: Seq,
    /// The latest life that wrote anything before it.
    pub epoch_min: u64,
}

impl<'b> Wreck<'b> {
    /// Finds every batch that is whole.
    pub fn salvage(&self) -> Salvaged {
        let Some(head) = self.head() else {
            let from = first_seq_of(self.segment);
            let lost = Lost { offset: 0, from, to: self.last_seq.max(from) };
            return Salvaged { lost: vec![lost], is_torn: true, ..Salvaged::default() };
        };
        let is_torn = Head::decode(self.shard, self.segment, self.bytes).is_err();
        let mut salvaged = Salvaged { head: Some(head), is_torn, ..Salvaged::default() };
        let (mut at, mut next) = (SEGMENT_HEADER_BYTES, first_seq_of(self.segment));
        while let Some((found, first, last, length)) = self.find(&head, at, next) {
            if matches!(head, Head::Written(_)) && first > next {
                salvaged.lost.push(Lost { offset: at as u32, from: next, to: first - 1 });
            } else if found > at {
                let to = first.saturating_sub(1).max(next);
                salvaged.lost.push(Lost { offset: at as u32, from: next, to });
            }
            salvaged.batches.push(found as u32);
            (at, next) = (found + length, last + 1);
        }
        let end = match head {
            Head::Written(header) => {
                // What is left has a true checksum and no records that make sense: no tear.
                let (segment, epoch) = (header.first_seq, header.epoch);
                salvaged.is_torn |= find_batch(self.bytes, at, segment, epoch, next - 1).is_some();
                self.last_seq
            }
            // Without its end nobody can say that nothing is missing at it.
            Head::Rewritten(_) if self.has_footer(at) => 0,
            Head::Rewritten(header) => {
                salvaged.is_torn = true;
                header.last_seq
            }
        };
        if next <= end {
            salvaged.lost.push(Lost { offset: at as u32, from: next, to: end });
        }
        salvaged
    }

    /// The records of the batch at `offset`, which [`Wreck::salvage`] found.
    pub fn batch(&self, head: &Head, offset: u32) -> Option<(&'b [u8], Vec<Spanned<'b>>)> {
        let bytes = self.bytes.get(offset as usize..)?;
        match head {
            Head::Written(header) => {
                let batch = Batch::read(bytes, header.first_seq, header.epoch)?;
                let spans = batch.spans()?.into_iter();
                let records = (batch.first_seq..).zip(spans);
                let records = records.map(|(seq, (record, span))| (seq, record, span)).collect();
                Some((batch.bytes, records))
            }
            Head::Rewritten(header) => {
                let batch = RewrittenBatch::read(bytes, header)?;
                Some((batch.bytes, batch.spans()?))
            }
        }
    }

    /// The next whole batch from `at` on: where, its first and last sequence, its length.
    fn find(&self, head: &Head, at: usize, next: Seq) -> Option<(usize, Seq, Seq, usize)> {
        match head {
            Head::Written(header) => {
                let (segment, epoch) = (header.first_seq, header.epoch);
                let mut from = at;
                loop {
                    let (found, batch) = find_batch(self.bytes, from, segment, epoch, next - 1)?;
                    if batch.spans().is_some() {
                        let last_seq = batch.last_seq();
                        return Some((found, batch.first_seq, last_seq, batch.bytes.len()));
                    }
                    from = found + 1;
                }
            }
            Head::Rewritten(header) => (at..self.bytes.len()).find_map(|found| {
                let batch = RewrittenBatch::read(&self.bytes[found..], header)?;
                let records = batch.spans()?;
                let (first, last) = (records.first()?.0, records.last()?.0);
                let is_next = first >= next && last <= header.last_seq;
                is_next.then_some((found, first, last, batch.bytes.len()))
            }),
        }
    }

    fn has_footer(&self, at: usize) -> bool {
        let footer = self.bytes.get(at..).and_then(super::format::Footer::decode);
        footer.is_some_and(|footer| {
            footer.bytes as usize == at && footer.crc == crc32c::crc32c(&self.bytes[..at])
        })
    }

    fn head(&self) -> Option<Head> {
        match Head::decode(self.shard, self.segment, self.bytes) {
            Ok(head) => Some(head),
            Err(SegmentError::Header) => self.guessed_head(),
            Err(_) => None,
        }
    }

    /// A header whose first batch has a valid checksum must have been the right one.
    fn guessed_head(&self) -> Option<Head> {
        let bytes = self.bytes.get(SEGMENT_HEADER_BYTES..)?;
        if generation_of(self.segment) > 0 {
            return self.guessed_rewritten();
        }
        let first_seq = self.segment;
        let mut epochs = self.epoch_min..self.epoch_min.saturating_add(EPOCHS_TRIED_MAX);
        let epoch = epochs.find(|epoch| Batch::read(bytes, first_seq, *epoch).is_some())?;
        Some(Head::Written(SegmentHeader { shard: self.shard, first_seq, epoch }))
    }

    /// The index knows what a rewritten segment's header says.
    fn guessed_rewritten(&self) -> Option<Head> {
        let header = RewrittenHeader {
            shard: self.shard,
            segment: self.segment,
            last_seq: self.last_seq,
            purged_through: self.purged_through,
            epoch: self.epoch_min,
        };
        let bytes = self.bytes.get(SEGMENT_HEADER_BYTES..)?;
        RewrittenBatch::read(bytes, &header).map(|_| Head::Rewritten(header))
    }
}
