//! The byte search that every JSON string goes through, in portable safe code: in the parser, and
//! in the tags of packed events, where it meets no control characters.
//!
//! Blocks of 32 bytes are tested without a branch per byte, which compilers turn into vector
//! compares; the exact place of a hit comes from word arithmetic.

const BLOCK_BYTES: usize = 32;
const WORD_BYTES: usize = 8;
const ONES: u64 = u64::from_ne_bytes([0x01; WORD_BYTES]);
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; WORD_BYTES]);

/// Index of the first quote, backslash or byte below 0x20 in `text`, at or after `from`.
#[inline]
pub(crate) fn find_special(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    let mut rest = text.get(at..)?;
    // Keys and tag names end within the first word; they need no block.
    if let Some(word) = rest.first_chunk::<WORD_BYTES>() {
        if let Some(hit) = first_special(*word) {
            return Some(at + hit);
        }
        at += WORD_BYTES;
        rest = &rest[WORD_BYTES..];
    }
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK_BYTES>() {
        if holds_special(block) {
            break;
        }
        at += BLOCK_BYTES;
        rest = after;
    }
    while let Some((word, after)) = rest.split_first_chunk::<WORD_BYTES>() {
        if let Some(hit) = first_special(*word) {
            return Some(at + hit);
        }
        at += WORD_BYTES;
        rest = after;
    }
    rest.iter().position(|byte| is_special(*byte)).map(|hit| at + hit)
}

#[inline]
fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

/// One verdict per byte first and their union last: in this order compilers use vector compares.
#[inline]
fn holds_special(block: &[u8; BLOCK_BYTES]) -> bool {
    let mut hits = [0u8; BLOCK_BYTES];
    for (hit, byte) in hits.iter_mut().zip(block) {
        *hit = u8::from(*byte == b'"') | u8::from(*byte == b'\\') | u8::from(*byte < 0x20);
    }
    hits.iter().fold(0, |any, hit| any | hit) != 0
}

/// Index of the first special byte of a word. Subtraction borrows only towards later bytes, so a
/// false mark can only stand behind a true one and the first mark is exact.
#[inline]
fn first_special(word: [u8; WORD_BYTES]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    let quote = word ^ (ONES * u64::from(b'"'));
    let backslash = word ^ (ONES * u64::from(b'\\'));
    let borrows =
        quote.wrapping_sub(ONES) | backslash.wrapping_sub(ONES) | word.wrapping_sub(ONES * 0x20);
    // None of the specials has its high bit set, so one mask takes out every byte that has.
    let marks = borrows & !word & HIGH_BITS;
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_byte_loop_finds_at_every_offset_and_length() {
        for special in [b'"', b'\\', 0, 9, 31] {
            for length in (0..100).step_by(if cfg!(miri) { 33 } else { 1 }) {
                for place in (0..=length).step_by(if cfg!(miri) { 5 } else { 1 }) {
                    let mut text: Vec<u8> = (0..length).map(|i| 0x20 + (i % 2) as u8).collect();
                    text.iter_mut().skip(1).step_by(3).for_each(|byte| *byte = 0xff);
                    if let Some(byte) = text.get_mut(place) {
                        *byte = special;
                    }
                    for from in [0, 1, length / 2] {
                        let expected = text
                            .get(from..)
                            .and_then(|rest| rest.iter().position(|byte| is_special(*byte)))
                            .map(|hit| from + hit);
                        assert_eq!(find_special(&text, from), expected, "{text:?} from {from}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_byte_value_is_classified_alike_by_word_block_and_byte() {
        for byte in 0..=255u8 {
            assert_eq!(first_special([byte; 8]).is_some(), is_special(byte), "{byte}");
            assert_eq!(holds_special(&[byte; 32]), is_special(byte), "{byte}");
        }
    }
}
