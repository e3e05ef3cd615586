//! The server on `io_uring`: multishot accept and receive into one ring of lent buffers, sends as
//! submissions, one `enter` per turn.
//!
//! The only `unsafe` of this crate: submissions and lent buffers name memory that the kernel uses
//! later. All of it is allocated once, never moved and never freed, because the server runs until the
//! process ends.
#![allow(unsafe_code, reason = "io_uring is given pointers; each block says why they stay valid")]

use super::{Announce, DELIVERY_BYTES, ECHO, MESSAGE_BYTES, SUBSCRIBE};
use anyhow::Context;
use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::fd::AsRawFd;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

const SUBMISSIONS: u32 = 1_024;
const COMPLETIONS: u32 = 8_192;
const BUFFERS: u16 = 2_048;
const BUFFER_BYTES: usize = 2_048;
const GROUP: u16 = 0;

/// Operations, in the top byte of the user data; below it the connection (24 bits) and the buffer
/// that a send reads from (32 bits, 0 for none, else one more than its number).
const ACCEPT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;

fn data(operation: u64, connection: usize, buffer: Option<u16>) -> u64 {
    operation << 56 | (connection as u64) << 32 | buffer.map_or(0, |buffer| u64::from(buffer) + 1)
}

/// Buffers that the kernel fills, and the ring by which they are lent to it.
#[repr(C, align(4096))]
struct Lent {
    entries: [BufRingEntry; BUFFERS as usize],
    bytes: [[u8; BUFFER_BYTES]; BUFFERS as usize],
}

struct Buffers {
    lent: *mut Lent,
    tail: u16,
}

impl Buffers {
    fn register(ring: &IoUring) -> anyhow::Result<Self> {
        // SAFETY: entries and bytes are integers, for which zero is a value.
        let lent = Box::leak(unsafe { Box::<Lent>::new_zeroed().assume_init() });
        let mut buffers = Self { lent, tail: 0 };
        // SAFETY: the entries are page-aligned, zeroed and leaked, so they outlive the ring.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(buffers.lent as u64, BUFFERS, GROUP, 0)
                .context("this kernel lends no rings of buffers")?;
        }
        for buffer in 0..BUFFERS {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    /// Where a buffer begins.
    fn address(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < BUFFERS, "the kernel names buffers of this ring");
        let lent = self.lent;
        // SAFETY: the index is within the array, which is leaked; only an address is made.
        unsafe { (&raw mut (*lent).bytes[usize::from(buffer)]).cast() }
    }

    fn give_back(&mut self, buffer: u16) {
        let address = self.address(buffer) as u64;
        let lent = self.lent;
        let place = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: the place is within the array, and the kernel does not look at an entry beyond the
        // tail, which is published below; nobody else has a reference.
        let entry = unsafe { &mut (*lent).entries[place] };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the first entry of the leaked ring holds the tail.
        let tail = unsafe { BufRingEntry::tail(lent.cast_const().cast()) };
        // SAFETY: an aligned u16 that only this thread writes and the kernel reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

#[derive(Clone, Copy)]
struct Connection {
    fd: i32,
    purpose: Option<u8>,
    /// Bytes of a published message whose rest has not come.
    begun: usize,
    is_open: bool,
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    connections: Vec<Connection>,
    delivery: &'static [u8],
}

/// Serves for as long as the process lives.
pub(super) fn serve(announce: &Announce) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)
        .context("io_uring is not allowed here")?;
    let buffers = Buffers::register(&ring)?;
    let delivery = Box::leak(vec![b'd'; DELIVERY_BYTES].into_boxed_slice());
    let mut server = Server { ring, buffers, connections: Vec::new(), delivery };
    announce.send(listener.local_addr()?)?;
    let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build();
    server.push(accept.user_data(data(ACCEPT, 0, None)))?;
    let mut finished = Vec::new();
    loop {
        server.enter()?;
        finished.extend(
            server
                .ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result(), entry.flags())),
        );
        for (data, result, flags) in finished.drain(..) {
            server.complete(data, result, flags)?;
        }
    }
}

impl Server {
    fn enter(&mut self) -> anyhow::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn push(&mut self, entry: squeue::Entry) -> anyhow::Result<()> {
        loop {
            // SAFETY: every entry names a descriptor that stays open until its completions have
            // come, and memory that is leaked.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    fn complete(&mut self, data: u64, result: i32, flags: u32) -> anyhow::Result<()> {
        let connection = (data >> 32) as usize & 0x00ff_ffff;
        match data >> 56 {
            ACCEPT => self.accepted(result),
            RECEIVE => self.received(connection, result, flags),
            _ => {
                if let Some(buffer) = (data as u32).checked_sub(1) {
                    self.buffers.give_back(buffer as u16);
                }
                // A client that is gone; its receive says so, too.
                Ok(())
            }
        }
    }

    fn accepted(&mut self, fd: i32) -> anyhow::Result<()> {
        anyhow::ensure!(fd >= 0, "accept failed: {}", std::io::Error::from_raw_os_error(-fd));
        // SAFETY: the kernel has just handed this descriptor to us; it is only borrowed here.
        let borrowed = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) };
        rustix::net::sockopt::set_tcp_nodelay(borrowed, true)?;
        self.connections.push(Connection { fd, purpose: None, begun: 0, is_open: true });
        self.receive(self.connections.len() - 1)
    }

    fn receive(&mut self, connection: usize) -> anyhow::Result<()> {
        let fd = types::Fd(self.connections[connection].fd);
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        self.push(entry.user_data(data(RECEIVE, connection, None)))
    }

    fn received(&mut self, connection: usize, result: i32, flags: u32) -> anyhow::Result<()> {
        if result > 0 {
            let buffer = cqueue::buffer_select(flags).context("a receive names its buffer")?;
            self.take(connection, buffer, result as usize)?;
        }
        if cqueue::more(flags) {
            return Ok(());
        }
        // Out of buffers is no end: they come back with the sends.
        if result > 0 || result == -libc::ENOBUFS {
            return self.receive(connection);
        }
        let ended = &mut self.connections[connection];
        if std::mem::take(&mut ended.is_open) {
            // SAFETY: the descriptor is ours, and is_open says that it has not been closed.
            drop(unsafe { <rustix::fd::OwnedFd as rustix::fd::FromRawFd>::from_raw_fd(ended.fd) });
        }
        Ok(())
    }

    fn take(&mut self, connection: usize, buffer: u16, count: usize) -> anyhow::Result<()> {
        let address = self.buffers.address(buffer);
        let taken = &mut self.connections[connection];
        match taken.purpose {
            Some(ECHO) => {}
            None => {
                // SAFETY: the kernel has written at least one byte and lets go of the buffer until
                // it is given back.
                taken.purpose = Some(unsafe { *address });
            }
            Some(_) => {
                taken.begun += count;
                let whole = taken.begun / MESSAGE_BYTES;
                taken.begun %= MESSAGE_BYTES;
                self.buffers.give_back(buffer);
                return (0..whole).try_for_each(|_| self.deliver());
            }
        }
        let entry = opcode::Send::new(types::Fd(taken.fd), address, count as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry.user_data(data(SEND, connection, Some(buffer))))
    }

    fn deliver(&mut self) -> anyhow::Result<()> {
        for connection in 0..self.connections.len() {
            let to = self.connections[connection];
            if !to.is_open || to.purpose != Some(SUBSCRIBE) {
                continue;
            }
            let (bytes, length) = (self.delivery.as_ptr(), self.delivery.len() as u32);
            let entry = opcode::Send::new(types::Fd(to.fd), bytes, length)
                .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build();
            self.push(entry.user_data(data(SEND, connection, None)))?;
        }
        Ok(())
    }
}
