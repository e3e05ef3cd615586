//! Sums of ids and the fingerprints made from them.

use super::wire::write_varint;
use crate::EventId;
use sha2::{Digest, Sha256};

/// First 16 bytes of the hash of a sum and a count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The ids of a set, summed modulo 2^256 as little-endian numbers, and their count. Sums of disjoint
/// sets add up, whatever the order, so the sum of a changing set is kept without seeing it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accumulator {
    /// Least significant word first.
    words: [u64; 4],
    count: u64,
}

impl Accumulator {
    /// Bytes of the stored form.
    pub const BYTES: usize = 40;

    /// The sum of no ids.
    pub const fn new() -> Self {
        Self { words: [0; 4], count: 0 }
    }

    /// Number of ids.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds an id.
    #[inline]
    pub fn add(&mut self, id: &EventId) {
        self.merge(&Self { words: words(&id.0), count: 1 });
    }

    /// Takes an id out that was added.
    #[inline]
    pub fn subtract(&mut self, id: &EventId) {
        self.remove(&Self { words: words(&id.0), count: 1 });
    }

    /// Adds all ids of a disjoint set.
    #[inline]
    pub fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (word, theirs) in self.words.iter_mut().zip(other.words) {
            (*word, carry) = word.carrying_add(theirs, carry);
        }
        self.count = self.count.wrapping_add(other.count);
    }

    /// Takes all ids of a subset out.
    #[inline]
    pub fn remove(&mut self, other: &Self) {
        let mut borrow = false;
        for (word, theirs) in self.words.iter_mut().zip(other.words) {
            (*word, borrow) = word.borrowing_sub(theirs, borrow);
        }
        self.count = self.count.wrapping_sub(other.count);
    }

    /// The fingerprint of the set.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut input = Vec::with_capacity(32 + 10);
        input.extend_from_slice(&self.to_bytes()[8..]);
        write_varint(self.count, &mut input);
        let hash: [u8; 32] = Sha256::digest(&input).into();
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        Fingerprint(first)
    }

    /// The stored form: count, then sum, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.count].into_iter().chain(self.words);
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// Reads the stored form.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut sum = Self::new();
        let words = std::iter::once(&mut sum.count).chain(&mut sum.words);
        for (word, place) in words.zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*place);
        }
        sum
    }
}

impl<'a> FromIterator<&'a EventId> for Accumulator {
    fn from_iter<I: IntoIterator<Item = &'a EventId>>(ids: I) -> Self {
        let mut sum = Self::new();
        ids.into_iter().for_each(|id| sum.add(id));
        sum
    }
}

#[inline]
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, place) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*place);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> EventId {
        EventId([byte; 32])
    }

    #[test]
    fn carries_run_through_all_words_and_off_the_end() {
        let mut one = [0; 32];
        one[0] = 1;
        let mut sum = Accumulator::new();
        sum.add(&id(0xff));
        sum.add(&EventId(one));
        assert_eq!(sum, Accumulator { words: [0; 4], count: 2 });
        sum.subtract(&EventId(one));
        assert_eq!(sum, Accumulator { words: [u64::MAX; 4], count: 1 });
        // 0x01 in every byte twice is 0x02 in every byte.
        let twice: Accumulator = [id(1), id(1)].iter().collect();
        assert_eq!(twice.words, [0x0202_0202_0202_0202; 4]);
    }

    #[test]
    fn sums_add_up_in_any_order_and_survive_storage() {
        let all: Accumulator = [id(1), id(0xfe), id(0x80)].iter().collect();
        let mut parts: Accumulator = [id(0x80)].iter().collect();
        parts.merge(&[id(0xfe), id(1)].iter().collect());
        assert_eq!(parts, all);
        parts.remove(&[id(0xfe)].iter().collect());
        parts.subtract(&id(1));
        parts.subtract(&id(0x80));
        assert_eq!(parts, Accumulator::new());

        let bytes = all.to_bytes();
        assert_eq!(bytes[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8], (0x01 + 0xfe + 0x80 - 0x100) as u8);
        assert_eq!(Accumulator::from_bytes(&bytes), all);
    }
}
