//! Waking a parked reactor from another thread: an eventfd.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::Arc;

/// The handle to wake one reactor; clones wake the same one.
#[derive(Clone, Debug)]
pub struct Wake(Arc<OwnedFd>);

impl Wake {
    /// A new eventfd, non-blocking: a wake never waits for the woken.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Wakes the reactor, now or at its next turn. Costs a system call: the caller makes sure that
    /// the other side is parked.
    pub fn wake(&self) {
        // The only failure of a write of 1 is EAGAIN, when the counter is about to overflow: then
        // the reactor has wakes enough.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Waits until somebody wakes, or the time has passed, and takes the wakes back. For threads
    /// that have no reactor.
    pub fn wait(&self, timeout_ms: u64) {
        let timeout = rustix::event::Timespec {
            tv_sec: (timeout_ms / 1_000) as i64,
            tv_nsec: (timeout_ms % 1_000 * 1_000_000) as i64,
        };
        let mut fds = [rustix::event::PollFd::new(&*self.0, rustix::event::PollFlags::IN)];
        // A signal ends the wait early, which is as good as a wake.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        self.drain();
    }

    /// Takes back all wakes so far.
    pub(crate) fn drain(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.0, &mut count);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
