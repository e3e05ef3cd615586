//! Log writes on the ring: a write and, linked to it, the sync that covers it.

use super::super::log_thread::{LogDone, LogWrite};
use super::{Group, Operation, user_data};
use crate::runtime::slots::SocketId;
use io_uring::{opcode, squeue, types};
use rustix::fd::AsRawFd;
use std::io;

/// Log writes in flight: one per shard of the core, so a handful. Owned by the core's reactor.
///
/// Invariant: an entry's bytes stay where they are until both of its operations have completed.
#[derive(Default)]
pub(super) struct LogRing {
    writes: Vec<Option<InFlight>>,
}

struct InFlight {
    write: LogWrite,
    at: usize,
    /// Operations that the kernel still has.
    outstanding: u8,
    /// The sync under way does not prove anything about the write: sync again when it is back.
    distrusted: bool,
    synced: bool,
    error: Option<io::Error>,
}

/// What follows from a completion.
#[derive(Default)]
pub(super) struct Step {
    pub(super) submit: Option<Group>,
    pub(super) done: Option<LogDone>,
}

impl LogRing {
    pub(super) fn begin(&mut self, write: LogWrite) -> Step {
        let index = self.writes.iter().position(Option::is_none).unwrap_or_else(|| {
            self.writes.push(None);
            self.writes.len() - 1
        });
        let place = &mut self.writes[index];
        let in_flight = place.insert(InFlight {
            write,
            at: 0,
            outstanding: 0,
            distrusted: false,
            synced: false,
            error: None,
        });
        Step { submit: Some(write_and_sync(index, in_flight)), done: None }
    }

    /// Every sync that is under way now is no proof.
    pub(super) fn distrust(&mut self) {
        for in_flight in self.writes.iter_mut().flatten() {
            in_flight.distrusted = true;
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.writes.iter().all(Option::is_none)
    }

    pub(super) fn written(&mut self, index: u32, result: i32) -> Step {
        let Some(in_flight) = self.entry(index) else { return Step::default() };
        in_flight.outstanding -= 1;
        match result {
            1.. => in_flight.at += result as usize,
            0 => in_flight.fail(io::ErrorKind::WriteZero.into()),
            _ if result == -libc::EINTR || result == -libc::EAGAIN => {}
            _ => in_flight.fail(io::Error::from_raw_os_error(-result)),
        }
        self.advance(index)
    }

    pub(super) fn synced(&mut self, index: u32, result: i32) -> Step {
        let Some(in_flight) = self.entry(index) else { return Step::default() };
        in_flight.outstanding -= 1;
        match result {
            0 => in_flight.synced = true,
            // The write before it was short or failed; its own completion says which.
            _ if result == -libc::ECANCELED => {}
            _ => in_flight.fail(io::Error::from_raw_os_error(-result)),
        }
        self.advance(index)
    }

    fn entry(&mut self, index: u32) -> Option<&mut InFlight> {
        self.writes.get_mut(index as usize)?.as_mut()
    }

    fn advance(&mut self, index: u32) -> Step {
        let Some(in_flight) = self.entry(index) else { return Step::default() };
        if in_flight.outstanding > 0 {
            return Step::default();
        }
        let written = in_flight.at >= in_flight.write.bytes.len();
        if in_flight.error.is_none() && !written {
            // A short write breaks the link, so the sync was cancelled: go on with the rest.
            in_flight.synced = false;
            return Step { submit: Some(write_and_sync(index as usize, in_flight)), done: None };
        }
        if in_flight.error.is_none() && (!in_flight.synced || in_flight.distrusted) {
            in_flight.distrusted = false;
            in_flight.synced = false;
            in_flight.outstanding = 1;
            return Step { submit: Some(Group::One(sync(index as usize, in_flight))), done: None };
        }
        let Some(finished) = self.writes[index as usize].take() else { return Step::default() };
        let result = finished.error.map_or(Ok(()), Err);
        Step { submit: None, done: Some(LogDone { tag: finished.write.tag, result }) }
    }
}

impl InFlight {
    fn fail(&mut self, error: io::Error) {
        self.error.get_or_insert(error);
    }
}

fn id_of(index: usize) -> SocketId {
    SocketId { index: index as u32, generation: 0 }
}

fn sync(index: usize, in_flight: &InFlight) -> squeue::Entry {
    let data = user_data(Operation::LogSync, id_of(index));
    if cfg!(feature = "skip-sync") {
        return opcode::Nop::new().build().user_data(data);
    }
    let fd = types::Fd(in_flight.write.file.as_raw_fd());
    let flags = types::FsyncFlags::DATASYNC;
    opcode::Fsync::new(fd).flags(flags).build().user_data(data)
}

fn write_and_sync(index: usize, in_flight: &mut InFlight) -> Group {
    in_flight.outstanding = 2;
    let fd = types::Fd(in_flight.write.file.as_raw_fd());
    let rest = &in_flight.write.bytes[in_flight.at..];
    let bytes_max = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let write = opcode::Write::new(fd, rest.as_ptr(), bytes_max)
        .offset(in_flight.write.offset + in_flight.at as u64)
        .build()
        .flags(squeue::Flags::IO_LINK)
        .user_data(user_data(Operation::LogWrite, id_of(index)));
    Group::Linked([write, sync(index, in_flight)])
}
