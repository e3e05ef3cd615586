//! Frame headers (RFC 6455 5.2): parsing those of clients, writing those of the server.

/// Longest header of a client: two bytes, eight of length, four of mask.
pub const HEADER_BYTES_MAX: usize = 14;
/// Longest header of the server: two bytes and eight of length.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Longest payload of a control frame.
pub const CONTROL_BYTES_MAX: usize = 125;
/// RSV1, which permessage-deflate uses.
const COMPRESSED_BIT: u8 = 0x40;
/// RSV2 and RSV3, which nothing uses.
const OTHER_RESERVED_BITS: u8 = 0x30;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment.
    Continuation = 0,
    /// Text.
    Text = 1,
    /// Binary.
    Binary = 2,
    /// Close.
    Close = 8,
    /// Ping.
    Ping = 9,
    /// Pong.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether frames of this kind may stand between fragments.
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// How a frame breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A reserved bit that no extension gives a meaning to.
    #[error("reserved bit set")]
    ReservedBit,
    /// An opcode that is not assigned.
    #[error("opcode is not assigned")]
    Opcode,
    /// A client frame without mask.
    #[error("client frame is not masked")]
    Unmasked,
    /// A control frame in fragments.
    #[error("control frame is fragmented")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("control frame is too long")]
    LongControl,
    /// A length written with more bytes than it needs, or beyond 2^63.
    #[error("payload length is not minimal")]
    Length,
    /// A continuation of nothing.
    #[error("continuation without a begun message")]
    NothingToContinue,
    /// A new message inside a fragmented one.
    #[error("new message inside a fragmented one")]
    UnfinishedMessage,
    /// A Close payload of one byte, or with a code that may not be sent.
    #[error("close payload is malformed")]
    ClosePayload,
}

/// The header of a client frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last fragment.
    pub is_final: bool,
    /// What it is.
    pub opcode: Opcode,
    /// Whether the message that it begins is compressed.
    pub is_compressed: bool,
    /// Mask of the payload.
    pub mask: [u8; 4],
    /// Bytes of the header itself.
    pub header_bytes: usize,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

/// Parses a client's header; `Ok(None)` while more bytes are needed. What the first two bytes
/// already show to be wrong is refused with them. `may_be_compressed` says whether
/// permessage-deflate was agreed: then the first reserved bit may mark the first frame of a message
/// (RFC 7692 6).
///
/// # Errors
/// [`FrameError`] says what is wrong.
pub fn parse_client_header(
    bytes: &[u8],
    may_be_compressed: bool,
) -> Result<Option<FrameHeader>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let is_compressed = first & COMPRESSED_BIT != 0;
    if first & OTHER_RESERVED_BITS != 0 || is_compressed && !may_be_compressed {
        return Err(FrameError::ReservedBit);
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(FrameError::Opcode)?;
    if is_compressed && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(FrameError::ReservedBit);
    }
    let is_final = first & 0x80 != 0;
    if second & 0x80 == 0 {
        return Err(FrameError::Unmasked);
    }
    let short = second & 0x7f;
    if opcode.is_control() {
        if !is_final {
            return Err(FrameError::FragmentedControl);
        }
        if usize::from(short) > CONTROL_BYTES_MAX {
            return Err(FrameError::LongControl);
        }
    }
    let (payload_bytes, rest) = match short {
        126 => {
            let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*length), rest)
        }
        short => (u64::from(short), rest),
    };
    let is_minimal = match short {
        126 => payload_bytes > 125,
        127 => payload_bytes > 0xffff && payload_bytes >> 63 == 0,
        _ => true,
    };
    if !is_minimal {
        return Err(FrameError::Length);
    }
    let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let header_bytes = bytes.len() - rest.len();
    let mask = *mask;
    Ok(Some(FrameHeader { is_final, opcode, is_compressed, mask, header_bytes, payload_bytes }))
}

/// How a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// Compressed, to a peer that agreed to permessage-deflate.
    Deflated,
}

/// Appends the header of an unfragmented server frame.
pub fn write_server_header(opcode: Opcode, form: Form, payload_bytes: usize, out: &mut Vec<u8>) {
    let compressed = if form == Form::Deflated { COMPRESSED_BIT } else { 0 };
    let first = 0x80 | compressed | opcode as u8;
    match payload_bytes {
        0..=125 => out.extend_from_slice(&[first, payload_bytes as u8]),
        126..=0xffff => {
            let [high, low] = (payload_bytes as u16).to_be_bytes();
            out.extend_from_slice(&[first, 126, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        let masked_hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let header = parse_client_header(&masked_hello, false).unwrap().unwrap();
        assert_eq!(header.opcode, Opcode::Text);
        assert!(header.is_final);
        assert_eq!(header.mask, [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!((header.header_bytes, header.payload_bytes), (6, 5));
        for (opcode, payload_bytes, expected) in [
            (Opcode::Text, 5, &[0x81, 0x05][..]),
            (Opcode::Ping, 125, &[0x89, 0x7d]),
            (Opcode::Binary, 126, &[0x82, 0x7e, 0x00, 0x7e]),
            (Opcode::Binary, 256, &[0x82, 0x7e, 0x01, 0x00]),
            (Opcode::Binary, 65535, &[0x82, 0x7e, 0xff, 0xff]),
            (Opcode::Binary, 65536, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut header = Vec::new();
            write_server_header(opcode, Form::Plain, payload_bytes, &mut header);
            assert_eq!(header, expected);
        }
    }

    #[test]
    fn violations_are_named() {
        for (bytes, error) in [
            (&[0xc1, 0x80][..], FrameError::ReservedBit),
            (&[0xa1, 0x80], FrameError::ReservedBit),
            (&[0x91, 0x80], FrameError::ReservedBit),
            (&[0x83, 0x80], FrameError::Opcode),
            (&[0x8f, 0x80], FrameError::Opcode),
            (&[0x81, 0x05], FrameError::Unmasked),
            (&[0x09, 0x80], FrameError::FragmentedControl),
            (&[0x89, 0xfe], FrameError::LongControl),
            (&[0x81, 0xfe, 0, 125], FrameError::Length),
            (&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameError::Length),
            (&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
        ] {
            assert_eq!(parse_client_header(bytes, false), Err(error), "{bytes:x?}");
        }
    }

    #[test]
    fn every_prefix_of_a_header_waits() {
        let header = [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4];
        for cut in 0..header.len() {
            assert_eq!(parse_client_header(&header[..cut], false), Ok(None));
        }
        assert_eq!(parse_client_header(&header, false).unwrap().unwrap().payload_bytes, 65536);
    }

    #[test]
    fn the_first_reserved_bit_marks_the_first_frame_of_an_agreed_message() {
        let parse = |first: u8, agreed| parse_client_header(&[first, 0x80, 1, 2, 3, 4], agreed);
        for first in [0xc1, 0xc2, 0x41, 0x42] {
            assert!(parse(first, true).unwrap().unwrap().is_compressed);
            assert_eq!(parse(first, false), Err(FrameError::ReservedBit));
        }
        assert!(!parse(0x81, true).unwrap().unwrap().is_compressed);
        // Continuations, control frames, and the other two bits.
        for first in [0xc0, 0x40, 0xc8, 0xc9, 0xca, 0xa1, 0x91, 0xe1, 0xd2, 0xf1, 0xb1] {
            assert_eq!(parse(first, true), Err(FrameError::ReservedBit), "{first:x}");
        }
        let mut header = Vec::new();
        write_server_header(Opcode::Text, Form::Deflated, 3, &mut header);
        assert_eq!(header, [0xc1, 3]);
    }
}
