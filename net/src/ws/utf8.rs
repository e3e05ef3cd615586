//! UTF-8 validation of text that arrives in pieces: at memory speed inside a piece, exact at the
//! seams, and failing with the first byte that cannot be right.

/// Longest UTF-8 sequence.
const SEQUENCE_BYTES_MAX: usize = 4;

/// The begun sequence at the end of what was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Stream {
    begun: [u8; SEQUENCE_BYTES_MAX],
    begun_bytes: u8,
}

/// The text is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8;

impl Utf8Stream {
    /// Checks the next piece.
    ///
    /// # Errors
    /// [`NotUtf8`] as soon as no continuation can make the text valid.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.begun_bytes > 0 {
            let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            let used = usize::from(self.begun_bytes);
            // A begun sequence has at most three bytes: four would be whole or wrong.
            self.begun[used] = *byte;
            match std::str::from_utf8(&self.begun[..=used]) {
                Ok(_) => self.begun_bytes = 0,
                Err(error) if error.error_len().is_none() => self.begun_bytes += 1,
                Err(_) => return Err(NotUtf8),
            }
        }
        let Err(error) = simdutf8::compat::from_utf8(piece) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let begun = &piece[error.valid_up_to()..];
        self.begun[..begun.len()].copy_from_slice(begun);
        self.begun_bytes = begun.len() as u8;
        Ok(())
    }

    /// Whether the text may end here.
    pub fn is_complete(&self) -> bool {
        self.begun_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pieces: &[&[u8]]) -> bool {
        let mut stream = Utf8Stream::default();
        pieces.iter().all(|piece| stream.feed(piece).is_ok()) && stream.is_complete()
    }

    #[test]
    fn sequences_may_be_cut_anywhere() {
        let text = "κόσμε 😀 ‰";
        for cut in 0..=text.len() {
            let (head, tail) = text.as_bytes().split_at(cut);
            assert!(check(&[head, &[], tail]), "cut at {cut}");
        }
    }

    #[test]
    fn invalid_sequences_fail_with_their_first_wrong_byte() {
        for (good, wrong) in [
            (&b"\xce"[..], b'\x20'),
            (b"\xf4", b'\x90'),
            (b"\xed", b'\xa0'),
            (b"\xe0", b'\x80'),
            (b"\xf0\x9f\x98", b'\xff'),
            (b"", b'\xc0'),
            (b"", b'\x80'),
        ] {
            let mut stream = Utf8Stream::default();
            assert_eq!(stream.feed(good), Ok(()));
            assert_eq!(stream.feed(&[wrong]), Err(NotUtf8), "{good:x?} {wrong:x}");
        }
        assert!(!check(&[b"\xe2\x82"]), "unfinished");
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..0xc0, 0xe0u8..0xf5], 0..40), cuts in prop::collection::vec(0usize..40, 0..4)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut start = 0;
            for cut in cuts {
                pieces.push(&bytes[start..cut]);
                start = cut;
            }
            pieces.push(&bytes[start..]);
            prop_assert_eq!(check(&pieces), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
