//! Rewritten segments: what is left of sealed ones after their dead events were dropped.
//!
//! Layouts, little-endian. The first 36 bytes are those of a segment as it was written, so that an
//! earlier program names the version that it cannot read.
//!
//! ```text
//! segment header  magic 8 | version u16 = 2 | shard u16 | reserved u32 | name u64 | last_seq u64
//!                 | crc u32 | purged_through u64 | epoch u64 | crc u32 | zeros to 64
//! batch           magic 4 | length u32 | count u32 | crc u32 | first_seq u64 | records
//! record          seq - first_seq of the batch u32 | a record as in the log
//! footer          magic 4 | batches u32 | records u64 | bytes before the footer u32
//!                 | crc of the bytes before the footer u32 | crc of the footer u32
//! ```
//!
//! A name is the first sequence of the range and, in the highest 16 bits, the generation: 0 as
//! written, more for each time that bytes of the range were rewritten. The header names the range
//! that the segment answers for, whether or not a record of every sequence in it is left. All kills
//! up to `purged_through` have been applied to its events: what they killed is not in it.

use crate::effect::Seq;
use crate::key::{FIRST_SEQ_MASK, GENERATION_SHIFT, SEQ_MAX};
use crate::record::{
    BATCH_HEADER_BYTES, HeaderError, Reader, Record, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC,
    batch_crc, read_record,
};
use std::ops::Range;

/// Version of the format of rewritten segments.
pub const REWRITTEN_VERSION: u16 = 2;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 4 + 4 + 8 + 4 + 4 + 4;
/// Bytes that a record takes more than in the log.
pub const RECORD_SEQ_BYTES: usize = 4;

const BATCH_MAGIC: [u8; 4] = *b"\xb7TPR";
const FOOTER_MAGIC: [u8; 4] = *b"\xb7TPF";

/// How often the bytes of a segment have been rewritten.
pub fn generation_of(segment: Seq) -> u16 {
    (segment >> GENERATION_SHIFT) as u16
}

/// The first sequence of a segment's range.
pub fn first_seq_of(segment: Seq) -> Seq {
    segment & FIRST_SEQ_MASK
}

/// A segment's name.
pub fn name_of(first_seq: Seq, generation: u16) -> Seq {
    first_seq | Seq::from(generation) << GENERATION_SHIFT
}

/// What the first bytes of a rewritten segment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewrittenHeader {
    /// The shard that it belongs to.
    pub shard: u16,
    /// Its name.
    pub segment: Seq,
    /// The last sequence that it answers for.
    pub last_seq: Seq,
    /// Kills up to here have been applied to its events.
    pub purged_through: Seq,
    /// The latest life of a process that wrote any of it.
    pub epoch: u64,
}

impl RewrittenHeader {
    /// The first sequence that it answers for.
    pub fn first_seq(&self) -> Seq {
        first_seq_of(self.segment)
    }

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&REWRITTEN_VERSION.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.purged_through.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(SEGMENT_HEADER_BYTES, 0);
        out
    }

    /// Reads a header back.
    ///
    /// # Errors
    /// [`HeaderError`] when the bytes are no header of this format.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        Self::fields(bytes).ok_or(HeaderError::Damaged).and_then(|(version, header)| {
            if version == REWRITTEN_VERSION {
                return header.ok_or(HeaderError::Damaged);
            }
            Err(HeaderError::Version(version))
        })
    }

    /// The version, and the header if the bytes are one; nothing if not even the version can be
    /// trusted.
    fn fields(bytes: &[u8]) -> Option<(u16, Option<Self>)> {
        let mut read = Reader { bytes, at: 0 };
        let magic = read.take(8)?;
        let (version, shard) = (read.u16()?, read.u16()?);
        read.take(4)?;
        let (segment, last_seq) = (read.u64()?, read.u64()?);
        let covered = read.at;
        if magic != SEGMENT_MAGIC || read.u32()? != crc32c::crc32c(bytes.get(..covered)?) {
            return None;
        }
        let (purged_through, epoch) = (read.u64()?, read.u64()?);
        let covered = read.at;
        let is_whole = read.u32()? == crc32c::crc32c(bytes.get(..covered)?)
            && bytes.len() >= SEGMENT_HEADER_BYTES
            && generation_of(segment) > 0
            && first_seq_of(segment) > 0
            && last_seq >= first_seq_of(segment)
            && last_seq.max(purged_through) <= SEQ_MAX
            // Whoever starts after this life needs a number for its own.
            && epoch < u64::MAX;
        let header = Self { shard, segment, last_seq, purged_through, epoch };
        Some((version, is_whole.then_some(header)))
    }
}

/// The end of a rewritten segment, which proves that all of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Number of batches.
    pub batches: u32,
    /// Number of records.
    pub records: u64,
    /// Bytes before the footer.
    pub bytes: u32,
    /// Checksum of them.
    pub crc: u32,
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.batches.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a footer back; `None` if the bytes are not exactly one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut read = Reader { bytes, at: 0 };
        let magic = read.take(4)?;
        let footer = Self {
            batches: read.u32()?,
            records: read.u64()?,
            bytes: read.u32()?,
            crc: read.u32()?,
        };
        let covered = read.at;
        let is_whole = magic == FOOTER_MAGIC
            && bytes.len() == FOOTER_BYTES
            && read.u32()? == crc32c::crc32c(bytes.get(..covered)?);
        is_whole.then_some(footer)
    }
}

/// A batch of a rewritten segment whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub struct RewrittenBatch<'a> {
    /// The sequence that its records count from.
    pub first_seq: Seq,
    /// Number of its records.
    pub count: u32,
    /// All bytes, header included.
    pub bytes: &'a [u8],
}

/// A record with its sequence and where it lies in its batch.
pub type Spanned<'a> = (Seq, Record<'a>, Range<usize>);

impl<'a> RewrittenBatch<'a> {
    /// The batch at the start of `bytes`, if there is a valid one.
    pub fn read(bytes: &'a [u8], header: &RewrittenHeader) -> Option<Self> {
        if bytes.len() < BATCH_HEADER_BYTES || bytes[0..4] != BATCH_MAGIC {
            return None;
        }
        let mut read = Reader { bytes, at: 4 };
        let (length, count, crc) = (read.u32()?, read.u32()?, read.u32()?);
        let first_seq = read.u64()?;
        let end = BATCH_HEADER_BYTES.checked_add(length as usize)?;
        let bytes = bytes.get(..end)?;
        let is_whole = crc == batch_crc(bytes, header.segment, header.purged_through);
        is_whole.then_some(Self { first_seq, count, bytes })
    }

    /// The records in order; `None` if the bytes are not exactly `count` well-formed records of
    /// rising sequence, which a valid checksum leaves to a bug or another format.
    pub fn spans(&self) -> Option<Vec<Spanned<'a>>> {
        let mut read = Reader { bytes: self.bytes, at: BATCH_HEADER_BYTES };
        let mut records: Vec<Spanned<'a>> = Vec::with_capacity(self.count.min(65_536) as usize);
        while read.at < self.bytes.len() {
            let seq = self.first_seq.checked_add(Seq::from(read.u32()?))?;
            if seq == 0 || seq > SEQ_MAX {
                return None;
            }
            if records.last().is_some_and(|(last, ..)| *last >= seq) {
                return None;
            }
            let from = read.at;
            let record = read_record(&mut read)?;
            records.push((seq, record, from..read.at));
        }
        (records.len() == self.count as usize && self.count > 0).then_some(records)
    }
}

/// Gathers records into a batch of a rewritten segment.
#[derive(Debug)]
pub struct BatchWriter {
    bytes: Vec<u8>,
    first_seq: Seq,
    count: u32,
}

impl Default for BatchWriter {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH_HEADER_BYTES], first_seq: 0, count: 0 }
    }
}

impl BatchWriter {
    /// Whether a record of this sequence can still be counted from the batch's first one.
    pub fn has_room(&self, seq: Seq, bytes_max: usize) -> bool {
        self.count == 0
            || (self.bytes.len() < bytes_max && u32::try_from(seq - self.first_seq).is_ok())
    }

    /// Number of records.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds a record's bytes; returns where they begin in the batch.
    pub fn push(&mut self, seq: Seq, record: &[u8]) -> usize {
        if self.count == 0 {
            self.first_seq = seq;
        }
        self.count += 1;
        self.bytes.extend_from_slice(&((seq - self.first_seq) as u32).to_le_bytes());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(record);
        at
    }

    /// The finished batch; another one begins.
    pub fn finish(&mut self, header: &RewrittenHeader) -> Vec<u8> {
        let mut batch = std::mem::take(self).bytes_with_header();
        let crc = batch_crc(&batch, header.segment, header.purged_through);
        batch[12..16].copy_from_slice(&crc.to_le_bytes());
        batch
    }

    fn bytes_with_header(mut self) -> Vec<u8> {
        let length = (self.bytes.len() - BATCH_HEADER_BYTES) as u32;
        self.bytes[0..4].copy_from_slice(&BATCH_MAGIC);
        self.bytes[4..8].copy_from_slice(&length.to_le_bytes());
        self.bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        self.bytes
    }
}

/// First bytes of a batch, of either kind of segment.
pub(crate) fn batch_length(bytes: &[u8]) -> Option<usize> {
    let mut read = Reader { bytes, at: 4 };
    BATCH_HEADER_BYTES.checked_add(read.u32()? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{KillCause, SegmentHeader, write_kill};

    const HEADER: RewrittenHeader = RewrittenHeader {
        shard: 3,
        segment: 7 | 2 << GENERATION_SHIFT,
        last_seq: 900,
        purged_through: 1_000,
        epoch: 5,
    };

    #[test]
    fn headers_are_read_back_and_told_from_those_of_other_versions() {
        let bytes = HEADER.encode();
        assert_eq!(RewrittenHeader::decode(&bytes), Ok(HEADER));
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Version(REWRITTEN_VERSION)));
        let written = SegmentHeader { shard: 3, first_seq: 7, epoch: 5 }.encode();
        assert_eq!(RewrittenHeader::decode(&written), Err(HeaderError::Version(1)));
        for at in 0..56 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            assert!(RewrittenHeader::decode(&bytes).is_err(), "the flip at {at} went unnoticed");
        }
        assert!(RewrittenHeader::decode(&bytes[..63]).is_err());
    }

    #[test]
    fn what_no_log_can_hold_is_refused_though_its_checksum_is_true() {
        let far = RewrittenHeader { last_seq: SEQ_MAX + 1, ..HEADER };
        let purged = RewrittenHeader { purged_through: Seq::MAX, ..HEADER };
        let last_life = RewrittenHeader { epoch: u64::MAX, ..HEADER };
        for header in [far, purged, last_life] {
            assert_eq!(RewrittenHeader::decode(&header.encode()), Err(HeaderError::Damaged));
        }
        for first_seq in [SEQ_MAX, Seq::MAX - 1] {
            let mut writer = BatchWriter::default();
            let mut kill = Vec::new();
            write_kill(&mut kill, 2, KillCause::Deleted);
            writer.push(first_seq, &kill);
            writer.push(first_seq + 1, &kill);
            let bytes = writer.finish(&HEADER);
            let batch = RewrittenBatch::read(&bytes, &HEADER).unwrap();
            assert!(batch.spans().is_none(), "{first_seq}");
        }
    }

    #[test]
    fn batches_carry_their_sequences_and_belong_to_their_segment() {
        let mut writer = BatchWriter::default();
        let mut kill = Vec::new();
        write_kill(&mut kill, 2, KillCause::Deleted);
        for seq in [10, 11, 500] {
            assert!(writer.has_room(seq, 1_000));
            writer.push(seq, &kill);
        }
        assert!(!writer.has_room(501, 10));
        assert!(!writer.has_room(10 + (1 << 32), 1_000));
        let mut bytes = writer.finish(&HEADER);
        assert_eq!(writer.count(), 0);
        assert_eq!(batch_length(&bytes), Some(bytes.len()));
        let batch = RewrittenBatch::read(&bytes, &HEADER).unwrap();
        let seqs: Vec<Seq> = batch.spans().unwrap().into_iter().map(|(seq, ..)| seq).collect();
        assert_eq!(seqs, [10, 11, 500]);
        let other = RewrittenHeader { purged_through: 999, ..HEADER };
        assert!(RewrittenBatch::read(&bytes, &other).is_none());
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(RewrittenBatch::read(&bytes, &HEADER).is_none());
    }

    #[test]
    fn a_footer_is_whole_or_none() {
        let footer = Footer { batches: 1, records: 2, bytes: 3, crc: 4 };
        let bytes = footer.encode();
        assert_eq!((bytes.len(), Footer::decode(&bytes)), (FOOTER_BYTES, Some(footer)));
        assert!(Footer::decode(&bytes[1..]).is_none());
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(Footer::decode(&bytes).is_none());
        }
    }
}
