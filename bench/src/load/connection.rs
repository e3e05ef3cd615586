//! One WebSocket to the relay: its socket, what waits to be sent, and what is waited for.
#![allow(clippy::disallowed_types, reason = "the client's own sockets")]

use super::frame;
use super::target::{self, Target};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

/// Connections from one loopback address before the next one is used: a port range holds 28,000.
const CONNECTIONS_PER_ADDRESS: u32 = 20_000;
/// An output vector larger than this is given back once it is empty.
const OUT_BYTES_KEPT: usize = 64 << 10;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Connecting,
    Upgrading,
    Open,
}

/// An event that waits for its OK.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) key: u64,
    pub(super) intended_ns: u64,
}

/// A subscription that waits for its EOSE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) intended_ns: u64,
    /// Whether it stays open afterwards.
    pub(super) is_standing: bool,
}

/// Owned by one client core. About 300 bytes, what is not yet sent (bounded by the core's budget)
/// and at most one incomplete message.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    pub(super) socket: Option<TcpStream>,
    /// Intended time of the attempt to connect.
    pub(super) intended_ns: u64,
    out: Vec<u8>,
    out_sent: usize,
    hello: Vec<u8>,
    /// The start of a frame whose end has not arrived.
    pub(super) partial: Vec<u8>,
    /// Fragments of a message whose last one has not arrived.
    pub(super) message: Vec<u8>,
    pub(super) pending: VecDeque<Pending>,
    pub(super) asked: Vec<Asked>,
    /// Number of the next subscription.
    pub(super) next_number: u32,
    /// Requests that stay open, for the next connection.
    pub(super) standing: Vec<u32>,
    pub(super) is_dirty: bool,
    pub(super) waits_to_write: bool,
    /// Bytes a second that it reads; 0 is all there is.
    pub(super) read_bytes_per_s: u32,
    /// Next index of a pipelined work.
    pub(super) cursor: u32,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            state: State::Closed,
            socket: None,
            intended_ns: 0,
            out: Vec::new(),
            out_sent: 0,
            hello: Vec::new(),
            partial: Vec::new(),
            message: Vec::new(),
            pending: VecDeque::new(),
            asked: Vec::new(),
            next_number: 0,
            standing: Vec::new(),
            is_dirty: false,
            waits_to_write: false,
            read_bytes_per_s: 0,
            cursor: 0,
        }
    }

    /// Begins to connect; `number` chooses the source address where there is a choice.
    pub(super) fn connect(&mut self, target: &Target, number: u32) -> io::Result<()> {
        let family =
            if target.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if self.read_bytes_per_s > 0 {
            // A small window, so that slowness reaches the relay and not our kernel's memory.
            sockopt::set_socket_recv_buffer_size(&socket, 4_096)?;
        }
        let block = number / CONNECTIONS_PER_ADDRESS;
        if block > 0 && target.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let source = Ipv4Addr::new(127, 0, 0, (1 + block).min(254) as u8);
            rustix::net::bind(&socket, &SocketAddr::new(IpAddr::V4(source), 0))?;
        }
        match rustix::net::connect(&socket, &target.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.socket = Some(TcpStream::from(socket));
        self.state = State::Connecting;
        self.hello = target.upgrade();
        self.waits_to_write = true;
        Ok(())
    }

    /// The socket is writable for the first time: it is connected, or it has failed.
    pub(super) fn connected(&mut self) -> io::Result<()> {
        let socket = self.socket.as_mut().expect("it is connecting");
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        // A fresh socket's buffer takes the few hundred bytes of the request whole.
        socket.write_all(&self.hello)?;
        self.hello = Vec::new();
        self.state = State::Upgrading;
        Ok(())
    }

    /// Forgets the socket; what waited for answers is left to the caller.
    pub(super) fn close(&mut self) -> usize {
        let unsent = self.unsent();
        if self.state == State::Open
            && unsent == 0
            && let Some(socket) = &mut self.socket
        {
            let mut bytes = Vec::new();
            frame::write_close(&mut bytes);
            // Politeness; the relay sees the end of the stream anyway.
            let _ = socket.write(&bytes);
        }
        self.socket = None;
        self.state = State::Closed;
        self.out = Vec::new();
        self.out_sent = 0;
        self.partial = Vec::new();
        self.message = Vec::new();
        self.waits_to_write = false;
        unsent
    }

    /// Bytes that wait to be sent.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.out_sent
    }

    /// Where frames to be sent are appended.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Sends what the socket takes; returns how much that was.
    pub(super) fn send(&mut self) -> io::Result<usize> {
        let Some(socket) = &mut self.socket else { return Ok(0) };
        let before = self.out_sent;
        while self.out_sent < self.out.len() {
            match socket.write(&self.out[self.out_sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.out_sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let sent = self.out_sent - before;
        if self.out_sent == self.out.len() {
            self.out_sent = 0;
            if self.out.capacity() > OUT_BYTES_KEPT {
                self.out = Vec::new();
            } else {
                self.out.clear();
            }
        } else if self.out_sent > OUT_BYTES_KEPT && self.out_sent > self.out.len() / 2 {
            self.out.drain(..self.out_sent);
            self.out_sent = 0;
        }
        Ok(sent)
    }

    /// Reads into `buffer`: bytes, 0 at the end of the stream, `None` if there is nothing now.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(socket) = &mut self.socket else { return Ok(None) };
        loop {
            match socket.read(buffer) {
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the response head off `input`: how long it was, once it is complete.
    pub(super) fn upgraded(&mut self, input: &[u8]) -> Result<Option<usize>, String> {
        let head = target::read_upgrade(input)?;
        if head.is_some() {
            self.state = State::Open;
        }
        Ok(head)
    }

    /// Answers waited for.
    pub(super) fn outstanding(&self) -> usize {
        self.pending.len() + self.asked.len()
    }
}
