//! NIP-77: set reconciliation by the negentropy protocol, version 1.
//!
//! Two ends hold sets of items (time, id). One of them, the [`Initiator`], sends fingerprints of
//! ranges of its set; the other one answers with finer fingerprints or with ids where they differ
//! ([`respond`]), and so on until the initiator knows what either end lacks. The responder keeps
//! nothing between two messages but its set.
//!
//! A set need not be held item by item: [`BucketedItems`] knows only the sum of the ids in each
//! stretch of time, and [`respond`] says which stretches it has to see ([`Answer::NeedItems`]).
//!
//! **What it does not know:** filters, events, sessions, hex, who may see what.

mod bucketed;
mod initiate;
mod respond;
mod sorted;
mod sum;
mod wire;

pub use bucketed::{BUCKET_BITS, BucketedItems, bucket_of};
pub use initiate::{Initiator, Step};
pub use respond::{Answer, respond};
pub use sorted::SortedItems;
pub use sum::{Accumulator, Fingerprint};
pub use wire::{Mode, Range, Ranges, message, ranges};

use crate::EventId;
use std::cmp::Ordering;

/// First byte of every message: version 1 of the protocol.
pub const VERSION: u8 = 0x61;
/// Least limit of a message, in bytes, under which two ends always come to a conclusion: a list of
/// ids or a split of one range has to fit beside what is said about the rest. Smaller limits are
/// taken as this one.
pub const FRAME_BYTES_MIN: usize = 2_048;

/// Parts that a range is split into when the fingerprints differ.
const PARTS: usize = 16;
/// A range with fewer items is answered with their ids.
const LISTED_ITEMS_MAX: usize = PARTS * 2;

/// One element of a set, in the order of the protocol: by time, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Unix seconds.
    pub created_at: u32,
    /// Id.
    pub id: EventId,
}

/// An end of a range: the least item that is not below it, of which the wire carries only as many
/// bytes of the id as are needed.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    timestamp: u64,
    /// Zero behind the bytes that the wire carries.
    id: EventId,
    id_bytes: u8,
}

impl Bound {
    /// Below every item.
    pub const START: Self = Self::time(0);
    /// Above every item.
    pub const INFINITY: Self = Self::time(u64::MAX);

    /// The start of a second.
    pub const fn time(timestamp: u64) -> Self {
        Self { timestamp, id: EventId([0; 32]), id_bytes: 0 }
    }

    /// Seconds; `u64::MAX` is infinity.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// Whether `item` is below this bound.
    pub fn is_above(&self, item: &Item) -> bool {
        (u64::from(item.created_at), &item.id) < (self.timestamp, &self.id)
    }

    /// The shortest bound that parts two neighbours.
    pub fn between(below: &Item, above: &Item) -> Self {
        let mut bound = Self::time(u64::from(above.created_at));
        if below.created_at == above.created_at {
            let pairs = below.id.0.iter().zip(&above.id.0);
            let shared = pairs.take_while(|(one, other)| one == other).count();
            let length = (shared + 1).min(above.id.0.len());
            bound.id.0[..length].copy_from_slice(&above.id.0[..length]);
            bound.id_bytes = length as u8;
        }
        bound
    }

    /// The bytes of the id that the wire carries.
    fn id_prefix(&self) -> &[u8] {
        &self.id.0[..usize::from(self.id_bytes)]
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Bound {}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.timestamp, &self.id).cmp(&(other.timestamp, &other.id))
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A stretch of time, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// First second.
    pub since: u32,
    /// Last second.
    pub until: u32,
}

/// A set that can be reconciled. Positions count the items from the first one.
///
/// The responder asks [`ItemSet::lower_bound`] and [`ItemSet::cut_near`] for positions and uses no
/// others, but for those between two of which [`ItemSet::unloaded`] found nothing. At any other
/// position the answers of the remaining methods mean nothing, and they do not panic.
pub trait ItemSet {
    /// Number of items.
    fn len(&self) -> usize;

    /// Whether there is no item.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position of the first item that is not below `bound`.
    ///
    /// # Errors
    /// The [`Span`] whose items have to be seen to answer that.
    fn lower_bound(&self, bound: &Bound) -> Result<usize, Span>;

    /// The position nearest to `position` at which the set can be cut in two.
    fn cut_near(&self, position: usize) -> usize;

    /// A bound between the item at `position` and the one before it.
    fn bound_at(&self, position: usize) -> Bound;

    /// Sum of the items at `positions`.
    fn sum(&self, positions: std::ops::Range<usize>) -> Accumulator;

    /// Appends the spans of those items at `positions` whose ids are not known.
    fn unloaded(&self, positions: std::ops::Range<usize>, out: &mut Vec<Span>);

    /// Appends the ids at `positions`.
    fn write_ids(&self, positions: std::ops::Range<usize>, out: &mut Vec<u8>);
}

/// Why bytes are not a message that can be taken..
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegError {
    /// No byte at all.
    #[error("message is empty")]
    Empty,
    /// The first byte names no version of the protocol.
    #[error("message does not begin with a protocol version")]
    NotNegentropy,
    /// A version that this implementation does not speak.
    #[error("protocol version {0:#x} is not supported")]
    OtherVersion(u8),
    /// The message ends inside a range.
    #[error("message ends inside a range")]
    Truncated,
    /// An integer does not fit 64 bits.
    #[error("an integer exceeds 64 bits")]
    IntegerTooLarge,
    /// The id of a bound is longer than an id.
    #[error("the id prefix of a bound is longer than 32 bytes")]
    PrefixTooLong,
    /// A range ends below its start.
    #[error("bounds do not ascend")]
    NotAscending,
    /// A range of none of the three modes.
    #[error("a range has an unknown mode")]
    UnknownMode,
}
