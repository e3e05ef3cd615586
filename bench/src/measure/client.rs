//! One connection that sends bytes made beforehand and waits for what they are answered with.

use anyhow::{Context, bail, ensure};
use proto::{Event, EventId};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a relay may stay silent before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes asked of the kernel at once.
const READ_BYTES: usize = 256 * 1024;
/// A key that masks visibly; any will do, for nobody is between us and the relay.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Appends `payload` as one masked text frame.
pub fn write_frame(payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x81);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    out.extend(masked);
}

/// The frame of `["EVENT",<event>]`.
pub fn event_frame(event: &Event) -> Vec<u8> {
    let mut payload = b"[\"EVENT\",".to_vec();
    event.view().write_json(&mut payload);
    payload.push(b']');
    let mut frame = Vec::with_capacity(payload.len() + 8);
    write_frame(&payload, &mut frame);
    frame
}

/// The frame of `["REQ",<sub>,<filter>]`.
pub fn req_frame(sub: &str, filter: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(format!("[\"REQ\",\"{sub}\",{filter}]").as_bytes(), &mut frame);
    frame
}

/// Length of the header and of the payload of the frame that `bytes` begin with; `None` while its
/// header is incomplete.
pub fn frame_lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? & 0x7f {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)))),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            Some((10, usize::try_from(length).ok()?))
        }
        length => Some((2, usize::from(length))),
    }
}

/// Connects and upgrades; what comes behind the upgrade stays in the socket.
///
/// # Errors
/// When nobody listens, or what listens is no relay.
pub fn upgraded(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    // Byte by byte, so that no frame is taken with it; it happens once per connection.
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "{address} closes instead of upgrading");
        head.push(byte[0]);
        ensure!(head.len() < 8_192, "{address} answers the upgrade without an end");
    }
    let first = String::from_utf8_lossy(&head[..head.len().min(12)]).into_owned();
    ensure!(first.ends_with(" 101"), "{address} refuses the upgrade: {first}");
    Ok(stream)
}

/// A blocking connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// What was read, of which the first `at` bytes have been handed out.
    read: Vec<u8>,
    at: usize,
}

impl Client {
    /// Connects to a relay.
    ///
    /// # Errors
    /// When there is none.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { stream: upgraded(address)?, read: Vec::new(), at: 0 })
    }

    /// Sends frames.
    ///
    /// # Errors
    /// When the relay does not take them.
    pub fn send(&mut self, frames: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(frames).context("the relay takes no more")
    }

    /// The payload of the next text frame. Pings are answered.
    ///
    /// # Errors
    /// When the relay closes, or is silent for too long.
    pub fn receive(&mut self) -> anyhow::Result<&[u8]> {
        loop {
            let unread = &self.read[self.at..];
            if let Some((head, length)) = frame_lengths(unread)
                && unread.len() >= head + length
            {
                let opcode = unread[0] & 0x0f;
                let from = self.at + head;
                self.at = from + length;
                match opcode {
                    1 => return Ok(&self.read[from..self.at]),
                    8 => bail!(
                        "the relay closes: {:?}",
                        String::from_utf8_lossy(&self.read[from..self.at])
                    ),
                    9 => self.stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0])?,
                    _ => {}
                }
                continue;
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        self.read.drain(..self.at);
        self.at = 0;
        let filled = self.read.len();
        self.read.resize(filled + READ_BYTES, 0);
        let count = loop {
            match self.stream.read(&mut self.read[filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("the relay has been silent for {} s", PATIENCE.as_secs())
                }
                result => break result?,
            }
        };
        self.read.truncate(filled + count);
        ensure!(count > 0, "the relay has closed the connection");
        Ok(())
    }

    /// Reads the answers to `count` events; how many of them were taken.
    ///
    /// # Errors
    /// When the relay closes or is silent.
    pub fn outcomes(&mut self, count: u64) -> anyhow::Result<Outcomes> {
        let mut outcomes = Outcomes::default();
        while outcomes.sum() < count {
            let message = self.receive()?;
            let Some(rest) = message.strip_prefix(b"[\"OK\",\"") else {
                ensure!(
                    !message.starts_with(b"[\"NOTICE\""),
                    "{}",
                    String::from_utf8_lossy(message)
                );
                continue;
            };
            let verdict = rest.get(66..).unwrap_or_default();
            match verdict {
                v if v.starts_with(b"true,\"duplicate") => outcomes.duplicate += 1,
                v if v.starts_with(b"true") => outcomes.accepted += 1,
                _ => {
                    if outcomes.refused == 0 {
                        outcomes.reason = String::from_utf8_lossy(verdict).into_owned();
                    }
                    outcomes.refused += 1;
                }
            }
        }
        Ok(outcomes)
    }

    /// Asks and reads to the end of what is stored: EVENT messages and their bytes.
    ///
    /// # Errors
    /// When the relay closes, is silent, or refuses.
    pub fn stored(&mut self) -> anyhow::Result<u64> {
        let mut events = 0;
        loop {
            let message = self.receive()?;
            match message.get(..5).unwrap_or_default() {
                b"[\"EVE" => events += 1,
                b"[\"EOS" => return Ok(events),
                b"[\"CLO" | b"[\"NOT" => {
                    bail!("the relay refuses: {}", String::from_utf8_lossy(message))
                }
                _ => {}
            }
        }
    }
}

/// What became of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Taken as new.
    pub accepted: u64,
    /// Known before.
    pub duplicate: u64,
    /// Refused.
    pub refused: u64,
    /// What the first refusal said.
    pub reason: String,
}

impl Outcomes {
    /// All of them.
    pub fn sum(&self) -> u64 {
        self.accepted + self.duplicate + self.refused
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.duplicate += other.duplicate;
        self.refused += other.refused;
        if self.reason.is_empty() {
            self.reason = other.reason;
        }
    }
}

/// A filter for one id.
pub fn id_filter(id: &EventId) -> String {
    format!("{{\"ids\":[\"{}\"]}}", id.to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_read_as_written() {
        for length in [0, 1, 125, 126, 500, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let mut frame = Vec::new();
            write_frame(&payload, &mut frame);
            let (head, read) = frame_lengths(&frame).unwrap();
            // A client's frames have a key of four bytes behind the header.
            assert_eq!((head + 4 + read, read), (frame.len(), length));
            let unmasked: Vec<u8> = frame[head + 4..]
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(unmasked, payload);
            for cut in 0..head {
                assert_eq!(frame_lengths(&frame[..cut]), None);
            }
        }
    }
}
