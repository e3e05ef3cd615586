//! Many connections that are only read from, by one thread: subscribers of a fan-out, idle clients.

use super::client::upgraded;
use anyhow::{Context, ensure};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Readiness taken from the kernel at once.
const READY_MAX: usize = 1_024;
/// Bytes read from one socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Length of the header and of the payload of the frame that `bytes` begin with; `None` while its
/// header is incomplete.
fn frame_lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? & 0x7f {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)))),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            Some((10, usize::try_from(length).ok()?))
        }
        length => Some((2, usize::from(length))),
    }
}

/// Counts the frames in a stream of bytes that is cut anywhere.
#[derive(Debug, Default)]
pub struct FrameCounter {
    /// Begin of a header that is not complete.
    head: [u8; 10],
    head_bytes: usize,
    /// Bytes of payload still to come.
    payload_left: usize,
}

impl FrameCounter {
    /// Takes more bytes; how many frames ended in them.
    pub fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut frames = 0;
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let taken = self.payload_left.min(bytes.len());
                self.payload_left -= taken;
                bytes = &bytes[taken..];
                frames += u64::from(self.payload_left == 0);
                continue;
            }
            self.head[self.head_bytes] = bytes[0];
            self.head_bytes += 1;
            bytes = &bytes[1..];
            if let Some((_, length)) = frame_lengths(&self.head[..self.head_bytes]) {
                self.head_bytes = 0;
                self.payload_left = length;
                frames += u64::from(length == 0);
            }
        }
        frames
    }
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    counter: FrameCounter,
}

/// The connections. Owned by the thread that drains them.
#[derive(Debug)]
pub struct Swarm {
    epoll: OwnedFd,
    members: Vec<Member>,
    scratch: Vec<u8>,
}

impl Swarm {
    /// Without members.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            members: Vec::new(),
            scratch: vec![0; READ_BYTES],
        })
    }

    /// `count` clients of the relay at `address`, each of which has said `greeting`.
    ///
    /// # Errors
    /// When the relay does not take them all.
    pub fn connect(address: SocketAddr, count: usize, greeting: &[u8]) -> anyhow::Result<Self> {
        let mut swarm = Self::new()?;
        for number in 0..count {
            let mut stream = upgraded(address)
                .with_context(|| format!("connection {} of {count}", number + 1))?;
            stream.write_all(greeting)?;
            swarm.add(stream)?;
        }
        Ok(swarm)
    }

    /// Takes in a connection.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add(&mut self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(self.members.len() as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        self.members.push(Member { stream, counter: FrameCounter::default() });
        Ok(())
    }

    /// Members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Reads what is there, waiting up to `timeout_ms` for the first of it; how many frames ended.
    ///
    /// # Errors
    /// When a connection ends.
    pub fn drain(&mut self, timeout_ms: u32) -> anyhow::Result<u64> {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::from(timeout_ms / 1_000),
            tv_nsec: i64::from(timeout_ms % 1_000) * 1_000_000,
        };
        let mut buffer = [std::mem::MaybeUninit::<epoll::Event>::uninit(); READY_MAX];
        let ready = match epoll::wait(&self.epoll, &mut buffer, Some(&timeout)) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        let mut frames = 0;
        for event in ready.iter() {
            let member = &mut self.members[event.data.u64() as usize];
            match member.stream.read(&mut self.scratch) {
                Ok(0) => anyhow::bail!("a connection was closed by the other side"),
                Ok(count) => frames += member.counter.feed(&self.scratch[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(frames)
    }

    /// Reads until `frames` frames more have ended.
    ///
    /// # Errors
    /// When they do not come within a minute, or too many do.
    pub fn expect(&mut self, frames: u64) -> anyhow::Result<()> {
        let give_up_ns = super::cpu::monotonic_ns() + 60_000_000_000;
        let mut seen = 0;
        while seen < frames {
            seen += self.drain(100)?;
            ensure!(
                super::cpu::monotonic_ns() < give_up_ns,
                "only {seen} of {frames} messages came within a minute"
            );
        }
        ensure!(seen == frames, "{seen} messages came, {frames} were expected");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        for length in [0_usize, 5, 125, 126, 300, 70_000, 0] {
            stream.push(0x81);
            match length {
                0..=125 => stream.push(length as u8),
                126..=65_535 => {
                    stream.push(126);
                    stream.extend_from_slice(&(length as u16).to_be_bytes());
                }
                _ => {
                    stream.push(127);
                    stream.extend_from_slice(&(length as u64).to_be_bytes());
                }
            }
            stream.resize(stream.len() + length, b'x');
        }
        for step in [1, 2, 3, 7, 1_000, stream.len()] {
            let mut counter = FrameCounter::default();
            let frames: u64 = stream.chunks(step).map(|part| counter.feed(part)).sum();
            assert_eq!(frames, 7, "cut every {step} bytes");
        }
    }
}
