//! Reads a sealed segment of either kind from its beginning to its end, a batch at a time, and
//! accepts nothing but what was written.

use super::format::{
    FOOTER_BYTES, Footer, RewrittenBatch, RewrittenHeader, Spanned, batch_length, first_seq_of,
    generation_of,
};
use crate::effect::{Seq, WorldError};
use crate::record::{BATCH_HEADER_BYTES, Batch, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::seam::{SegmentEntry, Segments};

/// Bytes that are read at a time, unless one batch is longer.
const WINDOW_BYTES: usize = 1 << 20;

/// Why a segment is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The world failed.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The header is damaged.
    #[error("the header is damaged")]
    Header,
    /// The header is that of a newer program.
    #[error("format version {0} is newer than this program")]
    Version(u16),
    /// The header is that of another shard or range than the file's name.
    #[error("the header belongs to another segment")]
    Foreign,
    /// A batch is damaged, or does not continue the one before.
    #[error("damaged at byte {offset}, from record {from} on")]
    Batch {
        /// Where.
        offset: u32,
        /// The first sequence that cannot be read.
        from: Seq,
    },
    /// The end is damaged or missing.
    #[error("the footer is damaged")]
    Footer,
}

/// The header of a segment of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// As the log wrote it.
    Written(SegmentHeader),
    /// As a rewriting wrote it.
    Rewritten(RewrittenHeader),
}

impl Head {
    /// Reads the header of the segment named so.
    ///
    /// # Errors
    /// [`SegmentError`] when the bytes are no header, or not of this segment.
    pub fn decode(shard: u16, segment: Seq, bytes: &[u8]) -> Result<Self, SegmentError> {
        let wrong = |error| match error {
            HeaderError::Damaged => SegmentError::Header,
            HeaderError::Version(version) => SegmentError::Version(version),
        };
        let (head, is_own) = if generation_of(segment) == 0 {
            let header = SegmentHeader::decode(bytes).map_err(wrong)?;
            (Self::Written(header), header.shard == shard && header.first_seq == segment)
        } else {
            let header = RewrittenHeader::decode(bytes).map_err(wrong)?;
            (Self::Rewritten(header), header.shard == shard && header.segment == segment)
        };
        if is_own { Ok(head) } else { Err(SegmentError::Foreign) }
    }

    /// The life that wrote it, or the latest that wrote any of it.
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Written(header) => header.epoch,
            Self::Rewritten(header) => header.epoch,
        }
    }

    /// The records of the valid batch at the start of `bytes`, with its length.
    fn batch<'b>(&self, bytes: &'b [u8], next: Seq) -> Option<(Vec<Spanned<'b>>, usize)> {
        match self {
            Self::Written(header) => {
                let batch = Batch::read(bytes, header.first_seq, header.epoch)
                    .filter(|batch| batch.first_seq == next)?;
                let seqs = batch.first_seq..;
                let spans = batch.spans()?.into_iter();
                let records = seqs.zip(spans).map(|(seq, (record, span))| (seq, record, span));
                Some((records.collect(), batch.bytes.len()))
            }
            Self::Rewritten(header) => {
                let batch = RewrittenBatch::read(bytes, header)?;
                let records = batch.spans()?;
                let is_next = records.first().is_some_and(|(seq, ..)| *seq >= next)
                    && records.last().is_some_and(|(seq, ..)| *seq <= header.last_seq);
                is_next.then_some((records, batch.bytes.len()))
            }
        }
    }
}

/// A batch of a segment.
#[derive(Clone, Debug)]
pub struct ReadBatch<'b> {
    /// Where it begins in the segment.
    pub offset: u32,
    /// All its bytes.
    pub bytes: &'b [u8],
    /// Its records, each with its sequence and its place in `bytes`.
    pub records: Vec<Spanned<'b>>,
}

/// The reader. Holds about a mebibyte, or the longest batch.
#[derive(Debug)]
pub struct SegmentReader {
    segment: Seq,
    length: u64,
    head: Head,
    at: u64,
    /// The next record has this sequence (as written) or at least this (rewritten).
    next: Seq,
    batches: u32,
    records: u64,
    crc: u32,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentReader {
    /// Opens a segment.
    ///
    /// # Errors
    /// [`SegmentError`] when its header is not its own.
    pub fn open(
        shard: u16,
        segments: &dyn Segments,
        entry: &SegmentEntry,
    ) -> Result<Self, SegmentError> {
        let bytes = segments.read_at(entry.segment, 0, SEGMENT_HEADER_BYTES)?;
        let head = Head::decode(shard, entry.segment, &bytes)?;
        Ok(Self {
            segment: entry.segment,
            length: entry.bytes,
            head,
            at: SEGMENT_HEADER_BYTES as u64,
            next: first_seq_of(entry.segment),
            batches: 0,
            records: 0,
            crc: crc32c::crc32c(&bytes),
            window: Vec::new(),
            window_at: 0,
        })
    }

    /// Reads a rewritten segment to its end; the outer error is the world's.
    ///
    /// # Errors
    /// [`SegmentError::World`] only; what is wrong with the segment is the inner error.
    pub fn verify(
        shard: u16,
        segments: &dyn Segments,
        entry: &SegmentEntry,
    ) -> Result<Result<RewrittenHeader, SegmentError>, SegmentError> {
        let read = || {
            let mut reader = SegmentReader::open(shard, segments, entry)?;
            while reader.next_batch(segments)?.is_some() {}
            match reader.head {
                Head::Rewritten(header) => Ok(header),
                Head::Written(_) => Err(SegmentError::Foreign),
            }
        };
        match read() {
            Err(SegmentError::World(error)) => Err(error.into()),
            other => Ok(other),
        }
    }

    /// The header.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The sequence that the next record has at least.
    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// Where the next batch begins.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Makes `length` bytes from the reading position on available, or what the segment has.
    fn fill(&mut self, segments: &dyn Segments, length: usize) -> Result<(), SegmentError> {
        let left = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = length.min(left);
        let have = (self.window_at + self.window.len() as u64).saturating_sub(self.at) as usize;
        if self.at < self.window_at || have < wanted {
            let offset = u32::try_from(self.at).map_err(|_| SegmentError::Header)?;
            let count = wanted.max(WINDOW_BYTES.min(left));
            self.window = segments.read_at(self.segment, offset, count)?;
            self.window_at = self.at;
        }
        Ok(())
    }

    fn ahead(&self) -> &[u8] {
        self.window.get((self.at - self.window_at) as usize..).unwrap_or(&[])
    }

    /// The next batch; `None` at the end of a segment that is whole.
    ///
    /// # Errors
    /// [`SegmentError`] when the segment is not what was written.
    pub fn next_batch(
        &mut self,
        segments: &dyn Segments,
    ) -> Result<Option<ReadBatch<'_>>, SegmentError> {
        if self.at == self.length && matches!(self.head, Head::Written(_)) {
            return Ok(None);
        }
        self.fill(segments, BATCH_HEADER_BYTES.max(FOOTER_BYTES))?;
        if self.length - self.at.min(self.length) == FOOTER_BYTES as u64
            && matches!(self.head, Head::Rewritten(_))
        {
            return self.check_footer().map(|()| None);
        }
        let damaged = SegmentError::Batch { offset: self.at as u32, from: self.next };
        let length = batch_length(self.ahead()).ok_or_else(|| damaged.clone())?;
        self.fill(segments, length)?;
        let (next, offset) = (self.next, self.at as u32);
        let from = (self.at - self.window_at) as usize;
        let ahead = self.window.get(from..).unwrap_or(&[]);
        let (records, length) = self.head.batch(ahead, next).ok_or(damaged)?;
        let bytes = &ahead[..length];
        self.next = records.last().map_or(next, |(seq, ..)| seq + 1);
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.at += length as u64;
        self.batches += 1;
        self.records += records.len() as u64;
        Ok(Some(ReadBatch { offset, bytes, records }))
    }

    fn check_footer(&self) -> Result<(), SegmentError> {
        let ahead = self.ahead().get(..FOOTER_BYTES).unwrap_or(&[]);
        let expected = Footer {
            batches: self.batches,
            records: self.records,
            bytes: self.at as u32,
            crc: self.crc,
        };
        if Footer::decode(ahead) == Some(expected) { Ok(()) } else { Err(SegmentError::Footer) }
    }
}
