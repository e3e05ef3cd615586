//! What the log holds: effects of decisions, one sequence each, in batches with one checksum.
//!
//! Layouts, little-endian.
//!
//! ```text
//! segment header  magic 8 | version u16 | shard u16 | reserved u32 | first_seq u64 | epoch u64
//!                 | crc u32 | zeros to 64
//! batch           magic 4 | length u32 | count u32 | crc u32 | first_seq u64 | records
//! Put             1 | flags u8 | length u32 | crc u32 | packed event
//! Kill            2 | why u8 | victim u64
//! MarkId          3 | id 32 | by 32
//! MarkSlot        4 | kind u16 | pubkey 32 | until u32 | d_bytes u32 | d
//! Vanish          5 | pubkey 32 | until u32
//! Purged          6 | pubkey 32 | until u32
//! ```
//!
//! The batch checksum is CRC-32C over the segment's name, the epoch (the life of the process that
//! wrote it), the batch's other header fields and its records, so that neither bytes of another
//! segment nor bytes of an earlier life can pass for a batch. The checksum of a packed event is
//! there for cold reads, which see the event but not its batch.
//!
//! Sequences are not written per record: the batch names its first one and they are contiguous.

use crate::effect::{Loc, Seq};
use crate::key::SEQ_MAX;
use proto::nip::nip01::Slot;
use proto::{Event, EventId, EventRef, PublicKey};
use std::ops::Range;

/// Bytes of a segment's header; the first batch follows it.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 24;
/// Bytes of a `Put` before the packed event.
pub const PUT_HEADER_BYTES: usize = 10;
/// Bytes directly before a packed event that a cold read takes along: length and checksum.
pub const BODY_GUARD_BYTES: usize = 8;
/// Version of the segment format.
pub const SEGMENT_VERSION: u16 = 1;

pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"TPSEGMNT";
const BATCH_MAGIC: [u8; 4] = *b"\xb7TPB";

const TAG_PUT: u8 = 1;
const TAG_KILL: u8 = 2;
const TAG_MARK_ID: u8 = 3;
const TAG_MARK_SLOT: u8 = 4;
const TAG_VANISH: u8 = 5;
const TAG_PURGED: u8 = 6;

/// Why a stored event is no longer served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KillCause {
    /// A newer version took its slot.
    Replaced,
    /// Its author or recipient asked for it (NIP-09).
    Deleted,
    /// Its expiration passed (NIP-40).
    Expired,
    /// The operator asked for it.
    Operator,
    /// Its author or recipient asked to vanish (NIP-62).
    Vanished,
}

impl KillCause {
    /// Whether somebody asked for the event to be gone, so that its bytes must go too and before
    /// long; a newer version or the passing of time alone do not.
    pub fn demands_erasure(self) -> bool {
        match self {
            Self::Deleted | Self::Operator | Self::Vanished => true,
            Self::Replaced | Self::Expired => false,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Replaced => 1,
            Self::Deleted => 2,
            Self::Expired => 3,
            Self::Operator => 4,
            Self::Vanished => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Replaced),
            2 => Some(Self::Deleted),
            3 => Some(Self::Expired),
            4 => Some(Self::Operator),
            5 => Some(Self::Vanished),
            _ => None,
        }
    }
}

/// One effect, as replay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An event was stored.
    Put {
        /// [`Loc::UNVERIFIED`] and later flags.
        flags: u8,
        /// The event.
        event: EventRef<'a>,
        /// Where the packed event begins, counted from the start of the batch.
        at: u32,
    },
    /// A stored event is no longer served.
    Kill {
        /// Its sequence.
        victim: Seq,
        /// Why.
        why: KillCause,
    },
    /// An id was deleted by a key, whether or not the event is here.
    MarkId {
        /// The id.
        id: EventId,
        /// Who asked.
        by: PublicKey,
    },
    /// A slot was deleted up to a time.
    MarkSlot {
        /// The slot.
        slot: Slot,
        /// Unix seconds, inclusive.
        until: u32,
    },
    /// A key asked to vanish: nothing that it made up to a time is served or taken again.
    Vanish {
        /// The key.
        key: PublicKey,
        /// Unix seconds, inclusive.
        until: u32,
    },
    /// Everything that a [`Record::Vanish`] of this key and time, or an earlier one, covers has
    /// been killed.
    Purged {
        /// The key.
        key: PublicKey,
        /// Unix seconds, inclusive.
        until: u32,
    },
}

/// Appends a `Put`; returns where the packed event begins in `out`.
pub fn write_put(out: &mut Vec<u8>, flags: u8, event: &Event) -> usize {
    let packed = event.packed();
    out.reserve(PUT_HEADER_BYTES + packed.len());
    out.extend_from_slice(&[TAG_PUT, flags]);
    out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(packed).to_le_bytes());
    let at = out.len();
    out.extend_from_slice(packed);
    at
}

/// Appends a `Kill`.
pub fn write_kill(out: &mut Vec<u8>, victim: Seq, why: KillCause) {
    out.extend_from_slice(&[TAG_KILL, why.code()]);
    out.extend_from_slice(&victim.to_le_bytes());
}

/// Appends a `MarkId`.
pub fn write_mark_id(out: &mut Vec<u8>, id: &EventId, by: &PublicKey) {
    out.push(TAG_MARK_ID);
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&by.0);
}

/// Appends a `MarkSlot`.
pub fn write_mark_slot(out: &mut Vec<u8>, slot: &Slot, until: u32) {
    out.push(TAG_MARK_SLOT);
    out.extend_from_slice(&slot.kind.to_le_bytes());
    out.extend_from_slice(&slot.pubkey.0);
    out.extend_from_slice(&until.to_le_bytes());
    out.extend_from_slice(&(slot.d.len() as u32).to_le_bytes());
    out.extend_from_slice(&slot.d);
}

/// Appends a `Vanish`.
pub fn write_vanish(out: &mut Vec<u8>, key: &PublicKey, until: u32) {
    out.push(TAG_VANISH);
    out.extend_from_slice(&key.0);
    out.extend_from_slice(&until.to_le_bytes());
}

/// Appends a `Purged`.
pub fn write_purged(out: &mut Vec<u8>, key: &PublicKey, until: u32) {
    out.push(TAG_PURGED);
    out.extend_from_slice(&key.0);
    out.extend_from_slice(&until.to_le_bytes());
}

/// What a segment's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The shard that wrote it.
    pub shard: u16,
    /// Its name: the sequence of its first record.
    pub first_seq: Seq,
    /// The life of the process that created it; rises with every start.
    pub epoch: u64,
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.first_seq.to_le_bytes());
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
        let mut read = Reader { bytes, at: 0 };
        let magic = read.take(8).ok_or(HeaderError::Damaged)?;
        let version = read.u16().ok_or(HeaderError::Damaged)?;
        let shard = read.u16().ok_or(HeaderError::Damaged)?;
        read.take(4).ok_or(HeaderError::Damaged)?;
        let first_seq = read.u64().ok_or(HeaderError::Damaged)?;
        let epoch = read.u64().ok_or(HeaderError::Damaged)?;
        let covered = read.at;
        let crc = read.u32().ok_or(HeaderError::Damaged)?;
        if magic != SEGMENT_MAGIC
            || bytes.len() < SEGMENT_HEADER_BYTES
            || crc != crc32c::crc32c(&bytes[..covered])
        {
            return Err(HeaderError::Damaged);
        }
        if version != SEGMENT_VERSION {
            return Err(HeaderError::Version(version));
        }
        Ok(Self { shard, first_seq, epoch })
    }
}

/// Why a segment's header is not readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Too short, wrong magic or wrong checksum.
    #[error("segment header is damaged")]
    Damaged,
    /// Written by a newer program.
    #[error("segment has format version {0}, this program reads version {SEGMENT_VERSION}")]
    Version(u16),
}

/// Starts a batch: room for the header, which [`finish_batch`] fills in.
pub fn begin_batch(out: &mut Vec<u8>) {
    out.clear();
    out.resize(BATCH_HEADER_BYTES, 0);
}

/// Completes a batch that [`begin_batch`] started and the `write_*` functions filled.
pub fn finish_batch(batch: &mut [u8], segment: Seq, epoch: u64, first_seq: Seq, count: u32) {
    assert!(batch.len() >= BATCH_HEADER_BYTES, "a batch begins with room for its header");
    let length = (batch.len() - BATCH_HEADER_BYTES) as u32;
    batch[0..4].copy_from_slice(&BATCH_MAGIC);
    batch[4..8].copy_from_slice(&length.to_le_bytes());
    batch[8..12].copy_from_slice(&count.to_le_bytes());
    batch[16..24].copy_from_slice(&first_seq.to_le_bytes());
    let crc = batch_crc(batch, segment, epoch);
    batch[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Checksum of a batch, its own field left out.
pub(crate) fn batch_crc(batch: &[u8], segment: Seq, epoch: u64) -> u32 {
    let crc = crc32c::crc32c(&segment.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &epoch.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &batch[..12]);
    crc32c::crc32c_append(crc, &batch[16..])
}

/// A batch whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Sequence of its first record.
    pub first_seq: Seq,
    /// Number of its records.
    pub count: u32,
    /// All bytes, header included.
    pub bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch at the start of `bytes`, if there is a valid one.
    pub fn read(bytes: &'a [u8], segment: Seq, epoch: u64) -> Option<Self> {
        if bytes.len() < BATCH_HEADER_BYTES || bytes[0..4] != BATCH_MAGIC {
            return None;
        }
        let mut read = Reader { bytes, at: 4 };
        let (length, count, crc) = (read.u32()?, read.u32()?, read.u32()?);
        let first_seq = read.u64()?;
        let end = BATCH_HEADER_BYTES.checked_add(length as usize)?;
        let bytes = bytes.get(..end)?;
        (crc == batch_crc(bytes, segment, epoch)).then_some(Self { first_seq, count, bytes })
    }

    /// Sequence of its last record.
    pub fn last_seq(&self) -> Seq {
        self.first_seq + u64::from(self.count) - 1
    }

    /// The records; `None` if the bytes are not exactly `count` well-formed records, which a valid
    /// checksum leaves to a bug or another format.
    pub fn records(&self) -> Option<Vec<Record<'a>>> {
        Some(self.spans()?.into_iter().map(|(record, _)| record).collect())
    }

    /// The records and where each of them lies in the batch; `None` as in [`Batch::records`].
    pub fn spans(&self) -> Option<Vec<(Record<'a>, Range<usize>)>> {
        let end = self.first_seq.checked_add(u64::from(self.count))?;
        if self.first_seq == 0 || end > SEQ_MAX + 1 {
            return None;
        }
        let mut read = Reader { bytes: self.bytes, at: BATCH_HEADER_BYTES };
        let mut records = Vec::with_capacity(self.count.min(65_536) as usize);
        while read.at < self.bytes.len() {
            let from = read.at;
            let record = read_record(&mut read)?;
            records.push((record, from..read.at));
        }
        (records.len() == self.count as usize && self.count > 0).then_some(records)
    }
}

/// The first valid batch at or after `from` whose sequence is above `above`, at any byte.
pub fn find_batch(
    bytes: &[u8],
    from: usize,
    segment: Seq,
    epoch: u64,
    above: Seq,
) -> Option<(usize, Batch<'_>)> {
    let mut at = from;
    while at + BATCH_HEADER_BYTES <= bytes.len() {
        if bytes[at] == BATCH_MAGIC[0]
            && let Some(batch) = Batch::read(&bytes[at..], segment, epoch)
            && batch.first_seq > above
        {
            return Some((at, batch));
        }
        at += 1;
    }
    None
}

pub(crate) fn read_record<'a>(read: &mut Reader<'a>) -> Option<Record<'a>> {
    match read.take(1)?[0] {
        TAG_PUT => {
            let flags = read.take(1)?[0];
            let length = read.u32()? as usize;
            read.u32()?;
            let at = read.at as u32;
            let event = EventRef::from_packed(read.take(length)?).ok()?;
            Some(Record::Put { flags, event, at })
        }
        TAG_KILL => {
            let why = KillCause::from_code(read.take(1)?[0])?;
            let victim = read.u64().filter(|victim| *victim <= SEQ_MAX)?;
            Some(Record::Kill { victim, why })
        }
        TAG_MARK_ID => {
            let id = EventId(read.array()?);
            Some(Record::MarkId { id, by: PublicKey(read.array()?) })
        }
        TAG_MARK_SLOT => {
            let kind = read.u16()?;
            let pubkey = PublicKey(read.array()?);
            let until = read.u32()?;
            let d_bytes = read.u32()? as usize;
            let d = read.take(d_bytes)?.into();
            Some(Record::MarkSlot { slot: Slot { pubkey, kind, d }, until })
        }
        TAG_VANISH => Some(Record::Vanish { key: PublicKey(read.array()?), until: read.u32()? }),
        TAG_PURGED => Some(Record::Purged { key: PublicKey(read.array()?), until: read.u32()? }),
        _ => None,
    }
}

/// Which bytes of its segment a cold read of `loc` takes: offset and length.
pub fn body_range(loc: &Loc) -> (u32, usize) {
    let offset = loc.offset.saturating_sub(BODY_GUARD_BYTES as u32);
    (offset, loc.length as usize + BODY_GUARD_BYTES)
}

/// The event in bytes read from [`body_range`]; `None` if they are not what was written.
pub fn body_from(bytes: &[u8], loc: &Loc) -> Option<Event> {
    let mut read = Reader { bytes, at: 0 };
    let (length, crc) = (read.u32()?, read.u32()?);
    let packed = bytes.get(BODY_GUARD_BYTES..)?;
    if length != loc.length || packed.len() != length as usize || crc32c::crc32c(packed) != crc {
        return None;
    }
    Event::from_packed(packed).ok()
}

/// Bounds-checked reading of little-endian fields.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
