//! Many connections for little: raw sockets, one thread, epoll. A swarm member says what it was
//! told to say and then reads or does not read; frames are counted, not parsed.

use rustix::event::epoll;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Lifts the soft limit of open files to the hard one, which ten thousand sockets need.
pub fn raise_descriptors_max() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// A text frame as a client sends it, masked with zeros.
pub fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// One connection, past its handshake.
pub struct Member {
    pub stream: TcpStream,
    /// Bytes that are not a whole frame yet.
    rest: Vec<u8>,
    /// Text frames that begin with `["EVENT"`.
    pub events: u64,
    /// Text frames that begin with `["EOSE"`.
    pub eoses: u64,
    /// Text frames that begin with `["CLOSED"`.
    pub closeds: u64,
    pub is_ended: bool,
}

impl Member {
    /// Connects and upgrades. `receive_bytes` bounds what the kernel takes ahead of the reader.
    pub fn connect(address: SocketAddr, receive_bytes: Option<usize>) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        if let Some(bytes) = receive_bytes {
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, bytes).unwrap();
        }
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "the relay answers the upgrade");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let (events, eoses, closeds) = (0, 0, 0);
        Self { stream, rest: Vec::new(), events, eoses, closeds, is_ended: false }
    }

    /// Sends one message; the socket must have room for it.
    pub fn say(&mut self, text: &str) {
        self.stream.write_all(&text_frame(text)).unwrap();
    }

    /// Takes what has come.
    fn drain(&mut self, scratch: &mut [u8]) {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => self.is_ended = true,
                Ok(count) => {
                    self.rest.extend_from_slice(&scratch[..count]);
                    self.take_frames();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_ended = true,
            }
            return;
        }
    }

    fn take_frames(&mut self) {
        let mut at = 0;
        while let Some((opcode, from, to)) = frame_at(&self.rest, at) {
            let payload = &self.rest[from..to];
            match opcode {
                1 if payload.starts_with(b"[\"EVENT\"") => self.events += 1,
                1 if payload.starts_with(b"[\"EOSE\"") => self.eoses += 1,
                1 if payload.starts_with(b"[\"CLOSED\"") => self.closeds += 1,
                9 => {
                    let mut pong = vec![0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0];
                    pong.extend_from_slice(payload);
                    let _ = self.stream.write_all(&pong);
                }
                _ => {}
            }
            at = to;
        }
        self.rest.drain(..at);
    }
}

/// Opcode and payload range of the frame at `at`, if it is there whole.
fn frame_at(bytes: &[u8], at: usize) -> Option<(u8, usize, usize)> {
    let bytes_at = |from: usize, count: usize| bytes.get(from..from + count);
    let head = bytes_at(at, 2)?;
    let (from, length) = match head[1] & 0x7f {
        126 => (at + 4, usize::from(u16::from_be_bytes(bytes_at(at + 2, 2)?.try_into().ok()?))),
        127 => (at + 10, u64::from_be_bytes(bytes_at(at + 2, 8)?.try_into().ok()?) as usize),
        length => (at + 2, usize::from(length)),
    };
    bytes_at(from, length)?;
    Some((head[0] & 0x0f, from, from + length))
}

/// Members that are read whenever something has come.
pub struct Swarm {
    pub members: Vec<Member>,
    poll: rustix::fd::OwnedFd,
    scratch: Vec<u8>,
}

impl Swarm {
    pub fn new() -> Self {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        Self { members: Vec::new(), poll, scratch: vec![0; 256 << 10] }
    }

    pub fn add(&mut self, member: Member) {
        member.stream.set_nonblocking(true).unwrap();
        let data = epoll::EventData::new_u64(self.members.len() as u64);
        epoll::add(&self.poll, member.stream.as_fd(), data, epoll::EventFlags::IN).unwrap();
        self.members.push(member);
    }

    /// Reads what has come within `patience_ms`.
    pub fn turn(&mut self, patience_ms: i64) {
        let mut ready = Vec::with_capacity(1_024);
        let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: patience_ms * 1_000_000 };
        let _ =
            epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut ready), Some(&patience));
        for event in ready {
            let member = &mut self.members[event.data.u64() as usize];
            member.drain(&mut self.scratch);
            if member.is_ended {
                let _ = epoll::delete(&self.poll, member.stream.as_fd());
            }
        }
    }

    /// Reads until `done` or until `patience` is over; says which.
    pub fn until(&mut self, patience: Duration, done: impl Fn(&[Member]) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while !done(&self.members) {
            if Instant::now() > deadline {
                return false;
            }
            self.turn(20);
        }
        true
    }
}
