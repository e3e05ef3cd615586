//! Frame headers (RFC 6455 5.2): parsing those of clients, writing those of the server.

/// Longest header of a client: two bytes, eight of length, four of mask.
pub const HEADER_BYTES_MAX: usize = 14;
/// Longest header of the server: two bytes and eight of length.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Longest payload of a control frame.
pub const CONTROL_BYTES_MAX: usize = 125;

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
    /// A reserved bit without an extension.
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
    /// Mask of the payload.
    pub mask: [u8; 4],
    /// Bytes of the header itself.
    pub header_bytes: usize,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

/// Parses a client's header; `Ok(None)` while more bytes are needed. What the first two bytes
/// already show to be wrong is refused with them.
///
/// # Errors
/// [`FrameError`] says what is wrong.
pub fn parse_client_header(bytes: &[u8]) -> Result<Option<FrameHeader>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(FrameError::ReservedBit);
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(FrameError::Opcode)?;
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
    Ok(Some(FrameHeader { is_final, opcode, mask: *mask, header_bytes, payload_bytes }))
}

/// Appends the header of an unfragmented server frame.
pub fn write_server_header(opcode: Opcode, payload_bytes: usize, out: &mut Vec<u8>) {
    let first = 0x80 | opcode as u8;
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
        let header = parse_client_header(&masked_hello).unwrap().unwrap();
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
            write_server_header(opcode, payload_bytes, &mut header);
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
            assert_eq!(parse_client_header(bytes), Err(error), "{bytes:x?}");
        }
    }

    #[test]
    fn every_prefix_of_a_header_waits() {
        let header = [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4];
        for cut in 0..header.len() {
            assert_eq!(parse_client_header(&header[..cut]), Ok(None));
        }
        assert_eq!(parse_client_header(&header).unwrap().unwrap().payload_bytes, 65536);
    }
}
