//! The clients' half of RFC 6455, written for them alone: masked frames out, server frames in.

/// A text frame as a client sends it; the mask follows from `salt`.
pub fn text_frame(text: &[u8], salt: u32) -> Vec<u8> {
    frame(0x81, text, salt)
}

/// Any client frame with this first byte.
pub fn frame(first: u8, payload: &[u8], salt: u32) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = salt.to_be_bytes();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// The text of a frame made by [`text_frame`], for who reads along.
pub fn unmask(frame: &[u8]) -> Option<String> {
    let head = match frame.get(1)? & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let mask = frame.get(head..head + 4)?;
    let payload = frame.get(head + 4..)?;
    let text = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    if frame[0] == 0x81 { String::from_utf8(text).ok() } else { None }
}

/// A request that opens a WebSocket.
pub const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: sim.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What came out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The answer to the upgrade request: its status.
    Response(u16),
    /// A message.
    Text(Vec<u8>),
    /// A ping, to be answered.
    Ping(Vec<u8>),
    /// The relay closes, with this code.
    Close(u16),
}

/// Bytes from the relay, cut anywhere. Bounded by what the simulated network carries.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    is_open: bool,
}

impl Reader {
    /// Takes bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether the upgrade was answered with 101.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The next thing that is there whole.
    ///
    /// # Errors
    /// What no server may send.
    pub fn take(&mut self) -> Result<Option<Received>, String> {
        if !self.is_open {
            return Ok(self.response());
        }
        let Some(&[first, second]) = self.bytes.first_chunk::<2>() else { return Ok(None) };
        if second & 0x80 != 0 {
            return Err("a server frame is masked".to_owned());
        }
        let (length, head) = match second & 0x7f {
            126 => match self.bytes.get(2..4) {
                Some(bytes) => (usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), 4),
                None => return Ok(None),
            },
            127 => match self.bytes.get(2..10).and_then(|bytes| bytes.first_chunk::<8>()) {
                Some(bytes) => (u64::from_be_bytes(*bytes) as usize, 10),
                None => return Ok(None),
            },
            length => (usize::from(length), 2),
        };
        if self.bytes.len() < head + length {
            return Ok(None);
        }
        let payload = self.bytes[head..head + length].to_vec();
        self.bytes.drain(..head + length);
        match first {
            0x81 => Ok(Some(Received::Text(payload))),
            0x88 => {
                let code =
                    payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                Ok(Some(Received::Close(code)))
            }
            0x89 => Ok(Some(Received::Ping(payload))),
            0x8a => self.take(),
            other => Err(format!("a server frame begins with {other:02x}")),
        }
    }

    fn response(&mut self) -> Option<Received> {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        self.bytes.drain(..end);
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        self.is_open = status == 101;
        Some(Received::Response(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_whole_however_they_are_cut() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        stream.extend_from_slice(&[0x81, 2, b'h', b'i', 0x89, 1, b'p', 0x81, 126, 0, 200]);
        stream.extend_from_slice(&[b'x'; 200]);
        stream.extend_from_slice(&[0x88, 2, 0x03, 0xe9]);
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        for byte in stream {
            reader.feed(&[byte]);
            while let Some(received) = reader.take().expect("the stream is right") {
                seen.push(received);
            }
        }
        assert_eq!(
            seen,
            [
                Received::Response(101),
                Received::Text(b"hi".to_vec()),
                Received::Ping(b"p".to_vec()),
                Received::Text(vec![b'x'; 200]),
                Received::Close(1001),
            ]
        );
        let mut reader = Reader { is_open: true, ..Reader::default() };
        reader.feed(&frame(0x81, b"masked", 7));
        assert!(reader.take().is_err());
    }
}
