//! WebSocket frames from the client's side (RFC 6455 section 5): text out with a mask key of zero,
//! which the RFC permits and which lets one frame be prepared once and sent a million times; server
//! frames in without a copy.

/// Largest message that the reader accepts; beyond it the relay is at fault.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Kinds of frames that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before.
    Continuation,
    /// Text, or binary, which no relay should send.
    Data,
    /// The other side is leaving.
    Close,
    /// Answered with a pong.
    Ping,
    /// Nothing to do.
    Pong,
}

/// Why a stream of frames cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A server must not mask.
    #[error("the relay masked a frame")]
    Masked,
    /// Reserved bits or an unknown opcode.
    #[error("the relay sent a frame that this client did not negotiate")]
    Reserved,
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("the relay sent a message beyond {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
}

/// One frame at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whether the message ends with it.
    pub is_last: bool,
    /// Its kind.
    pub opcode: Opcode,
    /// What it carries.
    pub payload: &'a [u8],
    /// Bytes of header and payload together.
    pub bytes: usize,
}

/// The frame that `input` starts with; `None` if it has not fully arrived.
///
/// # Errors
/// If the relay breaks the protocol.
pub fn read(input: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let opcode = match first & 0x7f {
        0 => Opcode::Continuation,
        1 | 2 => Opcode::Data,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(FrameError::Reserved),
    };
    let (length, extra) = match (second & 0x7f, rest) {
        (126, [high, low, ..]) => (u64::from(u16::from_be_bytes([*high, *low])), 2),
        (127, bytes) if bytes.len() >= 8 => {
            let bytes: [u8; 8] = bytes[..8].try_into().expect("eight bytes");
            (u64::from_be_bytes(bytes), 8)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 0),
    };
    if length > MESSAGE_BYTES_MAX as u64 {
        return Err(FrameError::TooLong);
    }
    let start = 2 + extra;
    let end = start + length as usize;
    if input.len() < end {
        return Ok(None);
    }
    let payload = &input[start..end];
    Ok(Some(Frame { is_last: first & 0x80 != 0, opcode, payload, bytes: end }))
}

/// Appends a masked text frame whose payload is `parts` one after the other.
pub fn write_text(parts: &[&[u8]], out: &mut Vec<u8>) {
    write_header(0x81, parts.iter().map(|part| part.len()).sum(), out);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends the answer to a ping.
pub fn write_pong(payload: &[u8], out: &mut Vec<u8>) {
    write_header(0x8a, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a close frame with status 1000.
pub fn write_close(out: &mut Vec<u8>) {
    write_header(0x88, 2, out);
    out.extend_from_slice(&1000_u16.to_be_bytes());
}

fn write_header(first: u8, length: usize, out: &mut Vec<u8>) {
    out.push(first);
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        // A client frame without the mask is a server frame.
        let mut out = Vec::new();
        write_header(first, payload.len(), &mut out);
        let mask = out.len() - 4;
        out.truncate(mask);
        out[1] &= 0x7f;
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn frames_of_every_length_are_read_once_complete() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let bytes = server_frame(0x81, &payload);
            for cut in [0, 1, 2, 3, bytes.len() / 2, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(read(&bytes[..cut]), Ok(None), "{length} cut at {cut}");
                }
            }
            let frame = read(&bytes).unwrap().unwrap();
            assert_eq!(frame.payload, payload);
            assert_eq!((frame.bytes, frame.is_last), (bytes.len(), true));
        }
    }

    #[test]
    fn masked_reserved_and_huge_frames_are_refused() {
        assert_eq!(read(&[0x81, 0x80, 0, 0, 0, 0]), Err(FrameError::Masked));
        assert_eq!(read(&[0xc1, 0]), Err(FrameError::Reserved));
        assert_eq!(read(&[0x83, 0]), Err(FrameError::Reserved));
        let mut huge = vec![0x81, 127];
        huge.extend_from_slice(&(1_u64 << 40).to_be_bytes());
        assert_eq!(read(&huge), Err(FrameError::TooLong));
    }

    #[test]
    fn a_client_frame_is_masked_with_zero_and_carries_its_parts() {
        let mut out = Vec::new();
        write_text(&[b"[\"CLOSE\",\"", b"a", b"\"]"], &mut out);
        assert_eq!(&out[..6], &[0x81, 0x80 | 13, 0, 0, 0, 0]);
        assert_eq!(&out[6..], b"[\"CLOSE\",\"a\"]");
        let mut long = Vec::new();
        write_text(&[&[b'y'; 70_000]], &mut long);
        assert_eq!((long[1], long.len()), (0x80 | 127, 70_000 + 14));
    }
}
