//! The epoll backend: level-triggered readiness, one read per ready socket and turn, direct sends,
//! log work on the core's log thread.

use super::listener::{is_about_connection, is_local};
use super::log_thread::{LogJob, LogThread, LogWrite};
use super::reactor::{ACCEPTS_MAX, Completion, Peer, RECEIVE_BYTES_MAX, Sending, Sink};
use super::slots::{Slots, SocketId};
use super::wake::Wake;
use rustix::event::epoll;
use rustix::event::{Timespec, epoll::EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use std::io;
use std::net::SocketAddr;

/// Readiness events taken per turn.
const EVENTS_MAX: usize = 1_024;

/// `user data` of everything that is no socket; sockets use `index << 32 | generation`, whose
/// index never reaches these.
const WAKE: u64 = u64::MAX;
const LISTENER_BASE: u64 = u64::MAX - 1_024;

/// Owned by one core. Holds one 64 KiB read buffer, and per socket what a full kernel buffer did
/// not take.
pub struct EpollReactor {
    epoll: OwnedFd,
    sockets: Slots<Socket>,
    listeners: Vec<Listener>,
    accepting: bool,
    wake: Wake,
    log: LogThread,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
}

struct Socket {
    fd: OwnedFd,
    reading: bool,
    /// The peer has closed or the socket failed: no readiness is of interest any more, but a
    /// level-triggered epoll would report it for ever.
    deaf: bool,
    sending: Option<Unsent>,
}

struct Unsent {
    bytes: Vec<u8>,
    at: usize,
}

struct Listener {
    fd: OwnedFd,
    is_local: bool,
}

impl EpollReactor {
    pub(crate) fn new(core: usize, wake: Wake) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), EventFlags::IN)?;
        let log = LogThread::start(format!("log-{core}"), wake.clone())?;
        Ok(Self {
            epoll,
            sockets: Slots::new(),
            listeners: Vec::new(),
            accepting: true,
            wake,
            log,
            events: Vec::with_capacity(EVENTS_MAX),
            scratch: vec![0; RECEIVE_BYTES_MAX],
        })
    }

    pub(crate) fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        let data = epoll::EventData::new_u64(LISTENER_BASE + self.listeners.len() as u64);
        epoll::add(&self.epoll, &listener, data, EventFlags::IN)?;
        let is_local = is_local(&listener);
        self.listeners.push(Listener { fd: listener, is_local });
        Ok(())
    }

    pub(crate) fn stop_listening(&mut self) {
        // Closing the last descriptor of a socket takes it out of the epoll set.
        self.listeners.clear();
    }

    pub(crate) fn resume_accepting(&mut self) {
        self.set_accepting(true);
    }

    fn set_accepting(&mut self, accepting: bool) {
        if self.accepting == accepting {
            return;
        }
        self.accepting = accepting;
        let flags = if accepting { EventFlags::IN } else { EventFlags::empty() };
        for (index, listener) in self.listeners.iter().enumerate() {
            let data = epoll::EventData::new_u64(LISTENER_BASE + index as u64);
            let _ = epoll::modify(&self.epoll, &listener.fd, data, flags);
        }
    }

    pub(crate) fn turn(&mut self, timeout_ms: Option<u64>, sink: &mut Sink<'_>) -> io::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let timeout = timeout_ms.map(|wait_ms| Timespec {
            tv_sec: (wait_ms / 1_000) as i64,
            tv_nsec: (wait_ms % 1_000 * 1_000_000) as i64,
        });
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                WAKE => self.woken(sink),
                listener if listener >= LISTENER_BASE => {
                    self.accept((listener - LISTENER_BASE) as usize, sink);
                }
                socket => self.ready(socket_of(socket), event.flags, sink),
            }
        }
        self.events = events;
        Ok(())
    }

    fn woken(&mut self, sink: &mut Sink<'_>) {
        // Drained before the queues are read: an answer that comes later rings again.
        self.wake.drain();
        while let Some(done) = self.log.next_done() {
            sink(Completion::Logged(done));
        }
        sink(Completion::Woken);
    }

    fn accept(&mut self, listener: usize, sink: &mut Sink<'_>) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = self.listeners.get(listener) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let is_local = listener.is_local;
            match rustix::net::acceptfrom_with(&listener.fd, flags) {
                Ok((fd, _)) if is_local => self.accepted(fd, Peer::Local, sink),
                // A peer that is gone already has no name; its socket closes here.
                Ok((fd, peer)) => {
                    if let Some(Ok(peer)) = peer.map(SocketAddr::try_from) {
                        self.accepted(fd, Peer::Remote(peer), sink);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(error) if !is_about_connection(error) => {
                    self.set_accepting(false);
                    sink(Completion::AcceptFailed { error });
                    return;
                }
                // The connection was gone before it was accepted, or a signal came: try the next.
                Err(_) => {}
            }
        }
    }

    fn accepted(&mut self, fd: OwnedFd, peer: Peer, sink: &mut Sink<'_>) {
        let socket = self.sockets.insert(Socket { fd, reading: true, deaf: false, sending: None });
        let Some(state) = self.sockets.find(socket) else { return };
        let data = epoll::EventData::new_u64(data_of(socket));
        if epoll::add(&self.epoll, &state.fd, data, EventFlags::IN).is_err() {
            self.sockets.remove(socket);
            return;
        }
        sink(Completion::Accepted { socket, peer });
    }

    fn ready(&mut self, id: SocketId, flags: EventFlags, sink: &mut Sink<'_>) {
        let Some(socket) = self.sockets.find(id) else { return };
        if flags.contains(EventFlags::OUT) {
            continue_sending(&self.epoll, id, socket, sink);
        }
        if socket.deaf {
            return;
        }
        if flags.contains(EventFlags::IN) && socket.reading {
            receive(&self.epoll, id, socket, &mut self.scratch, sink);
        } else if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            deafen(&self.epoll, socket);
            let error = rustix::net::sockopt::socket_error(&socket.fd);
            let error = error.ok().and_then(Result::err).unwrap_or(Errno::CONNRESET);
            sink(Completion::Failed { socket: id, error });
        }
    }

    /// Every send goes at once as far as the kernel has room, whether more follows or not.
    pub(crate) fn send(&mut self, id: SocketId, bytes: Vec<u8>, _: bool) -> Sending {
        let Some(socket) = self.sockets.find(id) else { return Sending::Failed };
        assert!(socket.sending.is_none(), "one send at a time per socket");
        match send_some(&socket.fd, &bytes) {
            Ok(sent) if sent == bytes.len() => Sending::Done(bytes),
            Ok(sent) => {
                socket.sending = Some(Unsent { bytes, at: sent });
                register(&self.epoll, id, socket);
                Sending::Started
            }
            Err(_) => Sending::Failed,
        }
    }

    pub(crate) fn set_reading(&mut self, id: SocketId, reading: bool) {
        let Some(socket) = self.sockets.find(id) else { return };
        if socket.reading != reading {
            socket.reading = reading;
            register(&self.epoll, id, socket);
        }
    }

    pub(crate) fn shutdown_write(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.find(id) {
            let _ = rustix::net::shutdown(&socket.fd, Shutdown::Write);
        }
    }

    pub(crate) fn close(&mut self, id: SocketId) {
        self.sockets.remove(id);
    }

    pub(crate) fn log_write(&mut self, write: LogWrite) {
        self.log.write(write);
    }

    pub(crate) fn log_job(&mut self, job: LogJob) {
        self.log.job(job);
    }
}

fn data_of(id: SocketId) -> u64 {
    u64::from(id.index) << 32 | u64::from(id.generation)
}

fn socket_of(data: u64) -> SocketId {
    SocketId { index: (data >> 32) as u32, generation: data as u32 }
}

/// Tells epoll what the socket now waits for.
fn register(epoll: &OwnedFd, id: SocketId, socket: &Socket) {
    if socket.deaf && socket.sending.is_none() {
        return;
    }
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, socket.reading && !socket.deaf);
    flags.set(EventFlags::OUT, socket.sending.is_some());
    let data = epoll::EventData::new_u64(data_of(id));
    if epoll::modify(epoll, &socket.fd, data, flags) == Err(Errno::NOENT) {
        let _ = epoll::add(epoll, &socket.fd, data, flags);
    }
}

/// Takes the socket out of the set: it would be reported in every turn until it is closed.
fn deafen(epoll: &OwnedFd, socket: &mut Socket) {
    socket.deaf = true;
    let _ = epoll::delete(epoll, &socket.fd);
}

fn receive(
    epoll: &OwnedFd,
    id: SocketId,
    socket: &mut Socket,
    scratch: &mut [u8],
    sink: &mut Sink<'_>,
) {
    match rustix::net::recv(&socket.fd, &mut *scratch, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => {
            deafen(epoll, socket);
            if socket.sending.is_some() {
                register(epoll, id, socket);
            }
            sink(Completion::PeerClosed { socket: id });
        }
        Ok((_, count)) => {
            let bytes = &scratch[..count.min(scratch.len())];
            sink(Completion::Received { socket: id, bytes });
        }
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(error) => {
            deafen(epoll, socket);
            sink(Completion::Failed { socket: id, error });
        }
    }
}

fn continue_sending(epoll: &OwnedFd, id: SocketId, socket: &mut Socket, sink: &mut Sink<'_>) {
    let Some(unsent) = &mut socket.sending else { return };
    match send_some(&socket.fd, &unsent.bytes[unsent.at..]) {
        Ok(sent) => unsent.at += sent,
        Err(error) => {
            socket.sending = None;
            deafen(epoll, socket);
            sink(Completion::Failed { socket: id, error });
            return;
        }
    }
    if unsent.at == unsent.bytes.len() {
        let buffer = std::mem::take(&mut unsent.bytes);
        socket.sending = None;
        register(epoll, id, socket);
        if socket.deaf {
            let _ = epoll::delete(epoll, &socket.fd);
        }
        sink(Completion::Sent { socket: id, buffer });
    }
}

/// Sends what the kernel takes without waiting; 0 when it takes nothing now.
pub(super) fn send_some(fd: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match rustix::net::send(&fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

impl std::fmt::Debug for EpollReactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpollReactor").finish_non_exhaustive()
    }
}
