//! The accept key of the opening handshake (RFC 6455 4.2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Length of a `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_CHARACTERS: usize = 24;

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`; `None` unless the key is the
/// base64 form of 16 bytes.
pub fn accept_key(key: &[u8]) -> Option<String> {
    // A buffer of the decoded size alone is refused by the decoder's conservative estimate.
    let mut nonce = [0; 18];
    if key.len() != KEY_CHARACTERS || STANDARD.decode_slice(key, &mut nonce) != Ok(16) {
        return None;
    }
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    Some(STANDARD.encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let accept = accept_key(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_that_are_not_sixteen_bytes_are_refused() {
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZTEy",
            "!!!!IHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub24=",
        ] {
            assert_eq!(accept_key(key.as_bytes()), None, "{key}");
        }
    }
}
