//! The client of all servers: connections that each keep a window of messages on their way, or
//! subscribers that wait for what one more connection publishes.

use super::{DELIVERY_BYTES, ECHO, MESSAGE_BYTES, PUBLISH, SUBSCRIBE};
use crate::measure::cpu::monotonic_ns;
use anyhow::{bail, ensure};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

const EVENTS_MAX: usize = 1_024;
/// How long a server may be silent.
const PATIENCE_NS: u64 = 20_000_000_000;

/// Owned by one thread.
pub(super) struct Client {
    epoll: OwnedFd,
    streams: Vec<TcpStream>,
    /// Bytes of each stream's window that have not come back.
    awaited: Vec<usize>,
    window: usize,
    publisher: Option<TcpStream>,
    scratch: Vec<u8>,
}

impl Client {
    /// `window` messages on each of `connections`; 0 is a fan-out to them.
    pub(super) fn connect(
        address: SocketAddr,
        connections: usize,
        window: usize,
    ) -> anyhow::Result<Self> {
        let mut client = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            streams: Vec::with_capacity(connections),
            awaited: vec![0; connections],
            window,
            publisher: None,
            scratch: vec![0; 64 * 1024],
        };
        for number in 0..connections {
            let stream = greet(address, if window == 0 { SUBSCRIBE } else { ECHO })?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&client.epoll, &stream, data, epoll::EventFlags::IN)?;
            client.streams.push(stream);
        }
        if window == 0 {
            client.publisher = Some(greet(address, PUBLISH)?);
        }
        Ok(client)
    }

    /// Works for so long; requests answered, or deliveries.
    pub(super) fn run(&mut self, duration_ms: u64) -> anyhow::Result<u64> {
        let end_ns = monotonic_ns() + duration_ms * 1_000_000;
        if self.publisher.is_some() { self.fan_out(end_ns) } else { self.echo(end_ns) }
    }

    fn echo(&mut self, end_ns: u64) -> anyhow::Result<u64> {
        let message = vec![b'm'; MESSAGE_BYTES * self.window];
        for (stream, awaited) in self.streams.iter_mut().zip(&mut self.awaited) {
            stream.write_all(&message)?;
            *awaited = message.len();
        }
        let mut in_flight = self.streams.len();
        let mut done = 0;
        while in_flight > 0 {
            let is_over = monotonic_ns() >= end_ns;
            for number in self.wait()? {
                let count = self.read(number)?;
                ensure!(count <= self.awaited[number], "more came back than was sent");
                self.awaited[number] -= count;
                if self.awaited[number] > 0 || count == 0 {
                    continue;
                }
                done += self.window as u64;
                if is_over {
                    in_flight -= 1;
                } else {
                    self.streams[number].write_all(&message)?;
                    self.awaited[number] = message.len();
                }
            }
        }
        Ok(done)
    }

    fn fan_out(&mut self, end_ns: u64) -> anyhow::Result<u64> {
        let mut done = 0;
        while monotonic_ns() < end_ns {
            let publisher = self.publisher.as_mut().expect("a fan-out has a publisher");
            publisher.write_all(&[b'm'; MESSAGE_BYTES])?;
            let mut awaited = self.streams.len() * DELIVERY_BYTES;
            while awaited > 0 {
                for number in self.wait()? {
                    let count = self.read(number)?;
                    ensure!(count <= awaited, "more was delivered than was published");
                    awaited -= count;
                }
            }
            done += self.streams.len() as u64;
        }
        Ok(done)
    }

    fn wait(&self) -> anyhow::Result<Vec<usize>> {
        let patience =
            rustix::time::Timespec { tv_sec: (PATIENCE_NS / 1_000_000_000) as i64, tv_nsec: 0 };
        let mut buffer = [std::mem::MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        match epoll::wait(&self.epoll, &mut buffer, Some(&patience)) {
            Ok((ready, _)) => {
                ensure!(!ready.is_empty(), "the server is silent");
                Ok(ready.iter().map(|event| event.data.u64() as usize).collect())
            }
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self, number: usize) -> anyhow::Result<usize> {
        match self.streams[number].read(&mut self.scratch) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(count) => Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// Connects and says what the connection is for; the server answers with the same byte, so that
/// nothing is measured before it has understood.
fn greet(address: SocketAddr, purpose: u8) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(std::time::Duration::from_nanos(PATIENCE_NS)))?;
    stream.write_all(&[purpose])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer[0] == purpose, "the server answers something else");
    Ok(stream)
}
