//! The reactor of one core: what all backends offer. A turn waits, then hands every completion to
//! a sink; the sink notes, and the core acts after the turn.

use super::epoll::EpollReactor;
#[cfg(feature = "glommio")]
use super::glommio::GlommioReactor;
use super::log_thread::{LogDone, LogJob, LogWrite};
use super::slots::SocketId;
use super::uring::UringReactor;
use super::wake::Wake;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
pub use serve::{Peer, Sending};
use std::io;

/// What happened, as a turn tells it.
#[derive(Debug)]
pub enum Completion<'a> {
    /// A connection was accepted; reading has begun.
    Accepted {
        /// Its name from now on.
        socket: SocketId,
        /// The other end.
        peer: Peer,
    },
    /// No connection can be accepted (no descriptors left). Accepting rests until
    /// [`Reactor::resume_accepting`].
    AcceptFailed {
        /// The system's reason.
        error: Errno,
    },
    /// Bytes arrived. They are gone after the call.
    Received {
        /// From whom.
        socket: SocketId,
        /// What.
        bytes: &'a [u8],
    },
    /// The peer sends no more.
    PeerClosed {
        /// Who.
        socket: SocketId,
    },
    /// Everything given to [`Reactor::send`] is in the kernel's hands.
    Sent {
        /// To whom.
        socket: SocketId,
        /// The bytes, as they were given.
        buffer: Vec<u8>,
    },
    /// The socket is of no further use; the core closes it.
    Failed {
        /// Which.
        socket: SocketId,
        /// The system's reason.
        error: Errno,
    },
    /// Log work is done.
    Logged(LogDone),
    /// Someone rang the core's [`Wake`].
    Woken,
}

/// Takes the completions of a turn.
pub type Sink<'s> = dyn FnMut(Completion<'_>) + 's;

/// Which backend a reactor uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `io_uring`: multishot accept and receive, batched sends, log writes on the ring.
    IoUring,
    /// `epoll` and plain system calls; log writes on a thread of their own.
    Epoll,
    /// The executor of the `glommio` crate; log writes on a thread of their own.
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Backend {
    /// As it is printed and as `--runtime` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::Epoll => "epoll",
            #[cfg(feature = "glommio")]
            Self::Glommio => "glommio",
        }
    }
}

/// Bytes that one socket may deliver in one turn, so that a busy peer cannot starve the others.
pub(crate) const RECEIVE_BYTES_MAX: usize = 64 * 1024;
/// Connections accepted in one turn.
pub(crate) const ACCEPTS_MAX: usize = 64;

/// One core's door to sockets and to its log. Owned by that core's thread, which also creates it.
pub enum Reactor {
    /// See [`Backend::IoUring`].
    IoUring(Box<UringReactor>),
    /// See [`Backend::Epoll`].
    Epoll(Box<EpollReactor>),
    /// See [`Backend::Glommio`].
    #[cfg(feature = "glommio")]
    Glommio(Box<GlommioReactor>),
}

macro_rules! each {
    ($self:expr, $reactor:ident => $call:expr) => {
        match $self {
            Self::IoUring($reactor) => $call,
            Self::Epoll($reactor) => $call,
            #[cfg(feature = "glommio")]
            Self::Glommio($reactor) => $call,
        }
    };
}

impl Reactor {
    /// Makes the reactor of core `core`, woken by `wake`. To be called on the thread that will use
    /// it.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn new(backend: Backend, core: usize, wake: Wake) -> io::Result<Self> {
        Ok(match backend {
            Backend::IoUring => Self::IoUring(Box::new(UringReactor::new(core, wake)?)),
            Backend::Epoll => Self::Epoll(Box::new(EpollReactor::new(core, wake)?)),
            #[cfg(feature = "glommio")]
            Backend::Glommio => Self::Glommio(Box::new(GlommioReactor::new(core, wake)?)),
        })
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        match self {
            Self::IoUring(_) => Backend::IoUring,
            Self::Epoll(_) => Backend::Epoll,
            #[cfg(feature = "glommio")]
            Self::Glommio(_) => Backend::Glommio,
        }
    }

    /// Begins to accept from `listener`, a non-blocking listening socket of the network or of
    /// [`super::listener::bind_local`].
    ///
    /// # Errors
    /// What the system refuses.
    pub fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        each!(self, reactor => reactor.listen(listener))
    }

    /// Closes all listeners.
    pub fn stop_listening(&mut self) {
        each!(self, reactor => reactor.stop_listening());
    }

    /// Accepts again after [`Completion::AcceptFailed`].
    pub fn resume_accepting(&mut self) {
        each!(self, reactor => reactor.resume_accepting());
    }

    /// Waits up to `timeout_ms` (`None`: until something happens; 0: not at all) and hands over
    /// what happened.
    ///
    /// # Errors
    /// Only when the backend itself is broken: the core cannot go on.
    pub fn turn(&mut self, timeout_ms: Option<u64>, sink: &mut Sink<'_>) -> io::Result<()> {
        each!(self, reactor => reactor.turn(timeout_ms, sink))
    }

    /// Sends all of `bytes`. One send at a time per socket: the next may begin when this one is
    /// done. `is_followed`: more waits for it.
    pub fn send(&mut self, socket: SocketId, bytes: Vec<u8>, is_followed: bool) -> Sending {
        each!(self, reactor => reactor.send(socket, bytes, is_followed))
    }

    /// Stops reading; what the kernel has already delivered may still arrive.
    pub fn pause_reading(&mut self, socket: SocketId) {
        each!(self, reactor => reactor.set_reading(socket, false));
    }

    /// Reads again.
    pub fn resume_reading(&mut self, socket: SocketId) {
        each!(self, reactor => reactor.set_reading(socket, true));
    }

    /// Tells the peer that nothing more will be sent; what was sent is still delivered.
    pub fn shutdown_write(&mut self, socket: SocketId) {
        each!(self, reactor => reactor.shutdown_write(socket));
    }

    /// Closes a socket. Nothing is reported about it afterwards.
    pub fn close(&mut self, socket: SocketId) {
        each!(self, reactor => reactor.close(socket));
    }

    /// Writes and syncs log bytes; answered by [`Completion::Logged`].
    pub fn log_write(&mut self, write: LogWrite) {
        each!(self, reactor => reactor.log_write(write));
    }

    /// Runs blocking log work off this thread; answered by [`Completion::Logged`].
    pub fn log_job(&mut self, job: LogJob) {
        each!(self, reactor => reactor.log_job(job));
    }
}
