//! Identifiers: event ids, public keys, signatures, and their lower-case hex forms (NIP-01).

use std::fmt;

/// Writes the lower-case hex form of `bytes` to `out`.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Reads exactly `N` bytes from `2 * N` lower-case hex digits; anything else is `None`.
///
/// Upper case is refused: NIP-01 fixes lower case, and two spellings of one id would be two ids to
/// every client that compares text.
pub fn read_hex<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    if hex.len() != N * 2 {
        return None;
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $size:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
