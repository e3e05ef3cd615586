//! The bytes of a message: varints, bounds and ranges, read with every length checked and written
//! under a limit.

use super::{Bound, Fingerprint, NegError, VERSION};
use crate::EventId;

const MODE_SKIP: u64 = 0;
const MODE_FINGERPRINT: u64 = 1;
const MODE_IDS: u64 = 2;

/// Versions of the protocol that there may ever be.
const VERSIONS: std::ops::RangeInclusive<u8> = 0x60..=0x6f;

/// What a range says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode<'a> {
    /// Nothing.
    Skip,
    /// The fingerprint of the sender's items.
    Fingerprint(Fingerprint),
    /// The ids of the sender's items.
    Ids(&'a [[u8; 32]]),
}

/// One range of a message, `lower` included, `upper` not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    /// Lower end.
    pub lower: Bound,
    /// Upper end.
    pub upper: Bound,
    /// What is said about it.
    pub mode: Mode<'a>,
}

/// The ranges of a message, in their order; the first error ends them. What stands behind the last
/// one is a skip to infinity.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    rest: &'a [u8],
    lower: Bound,
}

/// The ranges of `message`.
///
/// # Errors
/// [`NegError`] when the message does not begin with [`VERSION`].
pub fn ranges(message: &[u8]) -> Result<Ranges<'_>, NegError> {
    match message.split_first() {
        None => Err(NegError::Empty),
        Some((&VERSION, rest)) => Ok(Ranges { rest, lower: Bound::START }),
        Some((other, _)) if VERSIONS.contains(other) => Err(NegError::OtherVersion(*other)),
        Some(_) => Err(NegError::NotNegentropy),
    }
}

impl<'a> Iterator for Ranges<'a> {
    type Item = Result<Range<'a>, NegError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let range = self.read_range();
        if range.is_err() {
            self.rest = &[];
        }
        Some(range)
    }
}

impl<'a> Ranges<'a> {
    fn read_range(&mut self) -> Result<Range<'a>, NegError> {
        let upper = self.read_bound()?;
        if upper < self.lower {
            return Err(NegError::NotAscending);
        }
        let mode = match self.read_varint()? {
            MODE_SKIP => Mode::Skip,
            MODE_FINGERPRINT => {
                let (fingerprint, rest) =
                    self.rest.split_first_chunk().ok_or(NegError::Truncated)?;
                self.rest = rest;
                Mode::Fingerprint(Fingerprint(*fingerprint))
            }
            MODE_IDS => {
                let count = usize::try_from(self.read_varint()?).unwrap_or(usize::MAX);
                Mode::Ids(self.take(count.saturating_mul(32))?.as_chunks().0)
            }
            _ => return Err(NegError::UnknownMode),
        };
        let lower = std::mem::replace(&mut self.lower, upper);
        Ok(Range { lower, upper, mode })
    }

    fn read_bound(&mut self) -> Result<Bound, NegError> {
        let timestamp = match self.read_varint()? {
            0 => u64::MAX,
            more => self.lower.timestamp.saturating_add(more - 1),
        };
        let length = self.read_varint()?;
        if length > 32 {
            return Err(NegError::PrefixTooLong);
        }
        let prefix = self.take(length as usize)?;
        let mut id = EventId([0; 32]);
        id.0[..prefix.len()].copy_from_slice(prefix);
        Ok(Bound { timestamp, id, id_bytes: length as u8 })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], NegError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(NegError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn read_varint(&mut self) -> Result<u64, NegError> {
        let mut value = 0u64;
        loop {
            let (byte, rest) = self.rest.split_first().ok_or(NegError::Truncated)?;
            self.rest = rest;
            if value > u64::MAX >> 7 {
                return Err(NegError::IntegerTooLarge);
            }
            value = value << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }
}

/// The message that says `ranges`, ascending and disjoint, and nothing about what lies between; and how
/// many of them are in it. Those behind the first one are left out once they would make it longer than
/// `bytes_max`.
pub fn message(ranges: &[Range<'_>], bytes_max: usize) -> (Vec<u8>, usize) {
    let mut writer = Writer::new(bytes_max);
    let mut last = Bound::START;
    for (index, range) in ranges.iter().enumerate() {
        let mark = writer.mark();
        if range.lower > last {
            writer.skip(&range.lower);
        }
        match range.mode {
            Mode::Skip => writer.skip(&range.upper),
            Mode::Fingerprint(fingerprint) => writer.fingerprint(&range.upper, fingerprint),
            Mode::Ids(ids) => writer.ids(&range.upper, ids.len(), |out| {
                out.extend_from_slice(ids.as_flattened());
            }),
        }
        last = range.upper;
        if index > 0 && writer.out.len() > bytes_max {
            writer.go_back(&mark);
            return (writer.finish(), index);
        }
    }
    (writer.finish(), ranges.len())
}

/// Appends `value` in base 128, most significant digit first.
pub(super) fn write_varint(value: u64, out: &mut Vec<u8>) {
    let digits = (64 - (value | 1).leading_zeros()).div_ceil(7);
    for digit in (0..digits).rev() {
        let more = if digit > 0 { 0x80 } else { 0 };
        out.push((value >> (7 * digit)) as u8 & 0x7f | more);
    }
}

/// Bytes of the longest integer.
const VARINT_BYTES_MAX: usize = 10;
/// Bytes of the longest bound.
const BOUND_BYTES_MAX: usize = VARINT_BYTES_MAX + 1 + 32;
/// Bytes that are always kept free: a skip up to here and a fingerprint of everything behind it.
const REMAINDER_BYTES_MAX: usize = BOUND_BYTES_MAX + 1 + 2 + 1 + 16;

/// A message under way. Ranges that follow each other are written one by one; those that have
/// nothing to say are gathered into one skip, which is left out at the end.
pub(super) struct Writer {
    out: Vec<u8>,
    bytes_max: usize,
    /// Time of the last bound written; the next one is relative to it.
    last_timestamp: u64,
    /// End of the ranges that were skipped since.
    skipped_to: Option<Bound>,
}

/// A state of a [`Writer`] to come back to.
pub(super) struct Mark {
    length: usize,
    last_timestamp: u64,
    skipped_to: Option<Bound>,
}

impl Writer {
    pub(super) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.max(super::FRAME_BYTES_MIN);
        Self { out: vec![VERSION], bytes_max, last_timestamp: 0, skipped_to: None }
    }

    pub(super) fn skip(&mut self, upper: &Bound) {
        self.skipped_to = Some(*upper);
    }

    pub(super) fn fingerprint(&mut self, upper: &Bound, fingerprint: Fingerprint) {
        self.write_header(upper, MODE_FINGERPRINT);
        self.out.extend_from_slice(&fingerprint.0);
    }

    /// A list of `count` ids, which `write` appends.
    pub(super) fn ids(&mut self, upper: &Bound, count: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.write_header(upper, MODE_IDS);
        write_varint(count as u64, &mut self.out);
        self.out.reserve(count * 32);
        write(&mut self.out);
    }

    /// How many ids a list may have that is written next.
    pub(super) fn ids_max(&self) -> usize {
        let skip = self.skipped_to.map_or(0, |_| BOUND_BYTES_MAX + 1);
        let header = BOUND_BYTES_MAX + 1 + VARINT_BYTES_MAX;
        self.bytes_max.saturating_sub(self.out.len() + skip + header + REMAINDER_BYTES_MAX) / 32
    }

    /// Whether a remainder still fits behind what was written.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() + REMAINDER_BYTES_MAX <= self.bytes_max
    }

    /// The last range: the fingerprint of everything above what was written or skipped.
    pub(super) fn remainder(&mut self, fingerprint: Fingerprint) {
        self.fingerprint(&Bound::INFINITY, fingerprint);
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            length: self.out.len(),
            last_timestamp: self.last_timestamp,
            skipped_to: self.skipped_to,
        }
    }

    pub(super) fn go_back(&mut self, mark: &Mark) {
        self.out.truncate(mark.length);
        self.last_timestamp = mark.last_timestamp;
        self.skipped_to = mark.skipped_to;
    }

    /// Whether nothing was written that asks for an answer.
    pub(super) fn says_nothing(&self) -> bool {
        self.out.len() == 1
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    fn write_header(&mut self, upper: &Bound, mode: u64) {
        if let Some(skipped_to) = self.skipped_to.take() {
            self.write_bound(&skipped_to);
            write_varint(MODE_SKIP, &mut self.out);
        }
        self.write_bound(upper);
        write_varint(mode, &mut self.out);
    }

    fn write_bound(&mut self, bound: &Bound) {
        if bound.timestamp == u64::MAX {
            write_varint(0, &mut self.out);
        } else {
            let more = bound.timestamp.saturating_sub(self.last_timestamp);
            write_varint(more + 1, &mut self.out);
        }
        self.last_timestamp = bound.timestamp;
        write_varint(u64::from(bound.id_bytes), &mut self.out);
        self.out.extend_from_slice(bound.id_prefix());
    }
}
