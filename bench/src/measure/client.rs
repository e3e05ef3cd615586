//! One connection that sends bytes made beforehand and waits for what they are answered with.

use crate::load::frame::{self, Opcode};
use crate::load::{Target, read_upgrade};
use anyhow::{Context, bail, ensure};
use proto::{Event, EventId};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a relay may stay silent before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes asked of the kernel at once.
const READ_BYTES: usize = 256 * 1024;
/// The frame of `["EVENT",<event>]`.
pub fn event_frame(event: &Event) -> Vec<u8> {
    let mut json = Vec::new();
    event.view().write_json(&mut json);
    let mut frame = Vec::with_capacity(json.len() + 20);
    frame::write_text(&[b"[\"EVENT\",", &json, b"]"], &mut frame);
    frame
}

/// The frame of `["REQ",<sub>,<filter>]`.
pub fn req_frame(sub: &str, filter: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::write_text(&[format!("[\"REQ\",\"{sub}\",{filter}]").as_bytes()], &mut frame);
    frame
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
    let target = Target::parse(&format!("ws://{address}"))?;
    stream.write_all(&target.upgrade())?;
    let mut head = Vec::new();
    // Byte by byte, so that no frame is taken with it; it happens once per connection.
    while read_upgrade(&head).map_err(|why| anyhow::anyhow!("{address}: {why}"))?.is_none() {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "{address} closes instead of upgrading");
        head.push(byte[0]);
    }
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
            if let Some(next) = frame::read(&self.read[self.at..])? {
                let (opcode, length) = (next.opcode, next.payload.len());
                self.at += next.bytes;
                let payload = self.at - length..self.at;
                match opcode {
                    Opcode::Data => return Ok(&self.read[payload]),
                    Opcode::Close => {
                        bail!(
                            "the relay closes: {:?}",
                            String::from_utf8_lossy(&self.read[payload])
                        )
                    }
                    Opcode::Ping => {
                        let mut pong = Vec::new();
                        frame::write_pong(&self.read[payload], &mut pong);
                        self.stream.write_all(&pong)?;
                    }
                    Opcode::Continuation | Opcode::Pong => {}
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
