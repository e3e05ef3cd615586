//! NIP-45 HyperLogLog: how many authors are behind a count, in 256 registers that several relays can
//! merge. The registers depend on public keys only, so any relay computes the same for an event.

use crate::id::write_hex;
use crate::{Filter, PublicKey};
use sha2::{Digest, Sha256};

/// Registers of a counter.
pub const REGISTERS: usize = 256;
/// Hex digit of the tag value's identifier that the offset is read from.
const OFFSET_DIGIT: usize = 32;
/// Added to that digit.
const OFFSET_BASE: u8 = 8;

/// 256 one-byte registers.
#[derive(Clone, PartialEq, Eq)]
pub struct Hll([u8; REGISTERS]);

impl Default for Hll {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Hll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hll(about {})", self.estimate())
    }
}

impl Hll {
    /// A counter that has seen nobody.
    pub fn new() -> Self {
        Self([0; REGISTERS])
    }

    /// Where in a public key the counter of `filter` begins to read: 8 to 23, drawn from the value
    /// that is counted, so that nobody can grind one key that is rare for every target. `None`
    /// unless the filter has exactly one tag attribute with exactly one value: of several values
    /// NIP-45 takes the one that was written first, and a [`Filter`] keeps its lists sorted.
    pub fn offset_of(filter: &Filter) -> Option<u8> {
        let [tag] = filter.tags.as_slice() else { return None };
        let [value] = tag.values.as_slice() else { return None };
        let digit = target_digit(value);
        Some(OFFSET_BASE + (digit as char).to_digit(16)? as u8)
    }

    /// Counts the author of one event. An `offset` behind the end of a key counts nothing.
    pub fn add(&mut self, offset: u8, author: &PublicKey) {
        let Some((index, rest)) = author.0.get(usize::from(offset)..).and_then(<[u8]>::split_first)
        else {
            return;
        };
        let zeros: u32 = match rest.iter().position(|byte| *byte != 0) {
            Some(at) => at as u32 * 8 + rest[at].leading_zeros(),
            None => rest.len() as u32 * 8,
        };
        let register = &mut self.0[usize::from(*index)];
        // At most 31 bytes follow the offset.
        *register = (*register).max(zeros as u8 + 1);
    }

    /// Counts everybody that `other` has counted; both have to be of one target.
    pub fn merge(&mut self, other: &Self) {
        for (register, theirs) in self.0.iter_mut().zip(&other.0) {
            *register = (*register).max(*theirs);
        }
    }

    /// Appends the registers as 512 hex digits.
    pub fn write_hex(&self, out: &mut Vec<u8>) {
        write_hex(&self.0, out);
    }

    /// The registers as 512 hex digits.
    pub fn to_hex(&self) -> String {
        let mut hex = Vec::with_capacity(REGISTERS * 2);
        self.write_hex(&mut hex);
        hex.into_iter().map(char::from).collect()
    }

    /// Reads what [`Hll::to_hex`] writes.
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        crate::id::read_hex(hex).map(Self)
    }

    /// About how many authors were counted: the harmonic mean of the registers, and linear counting
    /// while many are still empty. Off by 6.5 % in the mean.
    pub fn estimate(&self) -> u64 {
        let registers = REGISTERS as f64;
        let sum: f64 = self.0.iter().map(|register| (-f64::from(*register)).exp2()).sum();
        let bias = 0.7213 / (1.0 + 1.079 / registers);
        let raw = bias * registers * registers / sum;
        let empty = self.0.iter().filter(|register| **register == 0).count();
        if raw <= 2.5 * registers && empty > 0 {
            return (registers * (registers / empty as f64).ln()).round() as u64;
        }
        raw.round() as u64
    }
}

/// The hex digit that decides the offset of a tag value: of an id or key itself, of the key in an
/// address, of the hash of anything else.
fn target_digit(value: &[u8]) -> u8 {
    if PublicKey::from_hex(value).is_some() {
        return value[OFFSET_DIGIT];
    }
    let bytes = address_key(value).map_or_else(|| Sha256::digest(value).into(), |key| key.0);
    let byte = bytes[OFFSET_DIGIT / 2];
    let mut hex = Vec::with_capacity(2);
    write_hex(&[byte], &mut hex);
    hex[OFFSET_DIGIT % 2]
}

/// The key in `<kind>:<key>:<d>`.
fn address_key(value: &[u8]) -> Option<PublicKey> {
    let mut parts = value.splitn(3, |byte| *byte == b':');
    let kind = crate::json::read_integer(parts.next()?)?;
    let key = PublicKey::from_hex(parts.next()?)?;
    parts.next().filter(|_| kind <= u64::from(u16::MAX)).map(|_| key)
}
