//! Identifiers: event ids, public keys, signatures, and their lower-case hex forms (NIP-01).

use std::cmp::Ordering;
use std::fmt;

/// Bytes that [`write_hex`] turns into text at a time.
const HEX_BLOCK_BYTES: usize = 32;

/// Writes the lower-case hex form of `bytes` to `out`.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() * 2);
    for block in bytes.chunks(HEX_BLOCK_BYTES) {
        let mut text = [0; HEX_BLOCK_BYTES * 2];
        for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(block) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 15)];
        }
        out.extend_from_slice(&text[..block.len() * 2]);
    }
}

/// The digit of a value below 16; arithmetic, because a table would keep it out of vector registers.
#[inline]
fn hex_digit(value: u8) -> u8 {
    value + if value < 10 { b'0' } else { b'a' - 10 }
}

/// Reads exactly `N` bytes from `2 * N` lower-case hex digits; anything else is `None`.
///
/// Upper case is refused: NIP-01 fixes lower case, and two spellings of one id would be two ids to
/// every client that compares text.
#[inline]
pub fn read_hex<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    read_hex_into(hex, &mut out).then_some(out)
}

/// Reads any even number of hex digits of either case; anything else is `None`. For bytes that are
/// compared as bytes only.
pub fn read_hex_any_case(hex: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_chunks::<2>() else { return None };
    let mut faults = 0;
    let bytes = pairs.iter().map(|[high, low]| {
        let (high, low) = (HEX_VALUES[usize::from(*high)], HEX_VALUES[usize::from(*low)]);
        faults |= high | low;
        high << 4 | low
    });
    let bytes = bytes.collect();
    (faults < 16).then_some(bytes)
}

/// Values of the hex digits; 0xff for bytes that are none.
const HEX_VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        values[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// [`read_hex`] to a place of the caller's, which spares the parser a copy of every identifier. What
/// `out` holds after a failure means nothing.
#[inline]
pub(crate) fn read_hex_into<const N: usize>(hex: &[u8], out: &mut [u8; N]) -> bool {
    if hex.len() != N * 2 {
        return false;
    }
    let mut faults = 0;
    let (words, digits) = hex.as_chunks::<8>();
    let (quads, bytes) = out.as_chunks_mut::<4>();
    for (quad, word) in quads.iter_mut().zip(words) {
        *quad = read_hex_word(u64::from_le_bytes(*word), &mut faults);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let word = u64::from_le_bytes([pair[0], pair[1], b'0', b'0', b'0', b'0', b'0', b'0']);
        *byte = read_hex_word(word, &mut faults)[0];
    }
    faults == 0
}

/// The four bytes of eight hex digits, computed for all digits at once. Sets bits in `faults` if one
/// of them is no lower-case hex digit.
#[inline]
fn read_hex_word(digits: u64, faults: &mut u64) -> [u8; 4] {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES * 0x80;
    // Seven bits plus at most 0x7f never carry into the next byte; the high bit of a sum says
    // whether the digit reaches the limit that was subtracted from 0x80.
    let low = digits & !HIGH_BITS;
    let reaches = |limit: u8| low + ONES * u64::from(0x80 - limit);
    let numeral = reaches(b'0') & !reaches(b'9' + 1);
    let letter = reaches(b'a') & !reaches(b'f' + 1);
    *faults |= (digits | !(numeral | letter)) & HIGH_BITS;
    let values = (low & (ONES * 15)) + ((letter >> 7) & ONES) * 9;
    // The first digit of a pair is the lower byte of its 16 bits and the higher half of the result.
    let pairs = (values << 4 | values >> 8) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    ((quads | quads >> 16) as u32).to_le_bytes()
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $size:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// Reads the lower-case hex form; `None` for any other text.
            pub fn from_hex(hex: &[u8]) -> Option<Self> {
                read_hex(hex).map(Self)
            }

            /// The lower-case hex form.
            pub fn to_hex(&self) -> String {
                self.to_string()
            }

            #[inline]
            fn head(&self) -> u64 {
                self.0.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
            }
        }

        impl Ord for $name {
            /// Order of the bytes. Identifiers differ in their first eight bytes unless somebody
            /// worked for it, so one integer comparison decides.
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                self.head().cmp(&other.head()).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

identifier!(
    /// SHA-256 of an event's canonical form (NIP-01).
    EventId,
    32
);
identifier!(
    /// An x-only secp256k1 public key (BIP-340), not known to be on the curve.
    PublicKey,
    32
);
identifier!(
    /// A BIP-340 signature over an event id, not known to be valid.
    Signature,
    64
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_way_to_hex_and_back() {
        let bytes: [u8; 256] = std::array::from_fn(|index| index as u8);
        let mut hex = Vec::new();
        write_hex(&bytes, &mut hex);
        let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.as_bytes());
        assert_eq!(read_hex::<256>(&hex), Some(bytes));
        // Lengths that are no multiple of a word.
        assert_eq!(read_hex::<1>(b"9f"), Some([0x9f]));
        assert_eq!(read_hex::<7>(b"00010203a0b0c0"), Some([0, 1, 2, 3, 0xa0, 0xb0, 0xc0]));
        assert_eq!(read_hex::<2>(b"abc"), None);
        assert_eq!(read_hex::<0>(b""), Some([]));
    }

    #[test]
    fn only_lower_case_digits_are_read_at_every_place() {
        for place in (0..18).step_by(if cfg!(miri) { 5 } else { 1 }) {
            for byte in 0..=255u8 {
                let mut hex = *b"0123456789abcdef01";
                hex[place] = byte;
                let is_digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                assert_eq!(read_hex::<9>(&hex).is_some(), is_digit, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn bytes_are_read_from_digits_of_either_case_and_from_nothing_else() {
        assert_eq!(read_hex_any_case(b"00fFAb19"), Some(vec![0, 0xff, 0xab, 0x19]));
        assert_eq!(read_hex_any_case(b""), Some(vec![]));
        assert_eq!(read_hex_any_case(b"abc"), None);
        for place in 0..4 {
            for byte in 0..=255u8 {
                let mut hex = *b"0aF9";
                hex[place] = byte;
                assert_eq!(read_hex_any_case(&hex).is_some(), byte.is_ascii_hexdigit(), "{byte}");
            }
        }
    }

    #[test]
    fn identifiers_are_ordered_as_their_bytes() {
        let mut ids: Vec<EventId> = Vec::new();
        for place in [0, 7, 8, 31] {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = [5; 32];
                bytes[place] = value;
                ids.push(EventId(bytes));
            }
        }
        for left in &ids {
            for right in &ids {
                assert_eq!(left.cmp(right), left.0.cmp(&right.0));
            }
        }
    }
}
