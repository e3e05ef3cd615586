//! The `io_uring` backend: multishot accept and receive into one ring of lent buffers, batched
//! sends, log writes linked to their sync on the ring. One `enter` per turn.

mod buffers;
mod log_ring;

use super::listener::{is_about_connection, is_local};
use super::log_thread::{LogJob, LogThread, LogWrite};
use super::reactor::{Completion, Peer, Sending, Sink};
use super::slots::{Slots, SocketId};
use super::wake::Wake;
use buffers::{BufferRing, GROUP};
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use log_ring::LogRing;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

/// Submission entries; the completion queue has four times as many, so that it does not overflow
/// while every buffer is in use.
const SUBMISSIONS: u32 = 1_024;
/// Completions handled in one turn.
const COMPLETIONS_MAX: usize = 1_024;
/// Turns that a dropped reactor waits for the kernel to let go of its buffers.
const DRAIN_TURNS_MAX: usize = 100;

/// The operation that a completion belongs to, in the top bits of its user data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Accept = 1,
    Receive,
    Send,
    Wake,
    LogWrite,
    LogSync,
    Cancel,
}

/// Below the operation: 24 bits of generation, 32 bits of index.
fn user_data(operation: Operation, id: SocketId) -> u64 {
    (operation as u64) << 56 | u64::from(id.generation) << 32 | u64::from(id.index)
}

fn decode(data: u64) -> (Option<Operation>, SocketId) {
    let operation = match data >> 56 {
        1 => Some(Operation::Accept),
        2 => Some(Operation::Receive),
        3 => Some(Operation::Send),
        4 => Some(Operation::Wake),
        5 => Some(Operation::LogWrite),
        6 => Some(Operation::LogSync),
        _ => None,
    };
    (operation, SocketId { index: data as u32, generation: (data >> 32) as u32 & 0x00ff_ffff })
}

/// Owned by one core. Up to 4 MiB of receive buffers, the rings (about 100 KiB), and per socket the
/// buffer of the send in flight.
///
/// Invariant: `in_flight` counts operations that the kernel may still touch our memory for; a slot
/// leaves `sockets` only when none of its own is among them.
pub struct UringReactor {
    // Field order is drop order: the ring before the memory it was given.
    ring: IoUring,
    buffers: BufferRing,
    sockets: Slots<Socket>,
    listeners: Vec<Listener>,
    backlog: VecDeque<Group>,
    log_ring: LogRing,
    log_thread: LogThread,
    wake: Wake,
    wake_count: Box<[u8; 8]>,
    in_flight: usize,
    finished: Vec<(u64, i32, u32)>,
    rearm: Vec<SocketId>,
    /// A receive of this turn found no buffer.
    has_run_out: bool,
    /// The reactor is being dropped: nothing is armed again.
    is_ending: bool,
}

struct Socket {
    fd: OwnedFd,
    /// A multishot receive is with the kernel.
    receiving: bool,
    reading: bool,
    /// End of stream or failure was reported; no receive is armed again.
    ended: bool,
    closing: bool,
    sending: Option<Unsent>,
}

struct Unsent {
    bytes: Vec<u8>,
    at: usize,
}

struct Listener {
    fd: OwnedFd,
    is_local: bool,
    armed: bool,
    closing: bool,
}

/// Entries that must enter the kernel together.
enum Group {
    One(squeue::Entry),
    Linked([squeue::Entry; 2]),
}

impl UringReactor {
    pub(crate) fn new(core: usize, wake: Wake) -> io::Result<Self> {
        let ring = build_ring()?;
        let buffers = BufferRing::register(&ring)?;
        let log_thread = LogThread::start(format!("log-{core}"), wake.clone())?;
        let mut reactor = Self {
            ring,
            buffers,
            sockets: Slots::new(),
            listeners: Vec::new(),
            backlog: VecDeque::new(),
            log_ring: LogRing::default(),
            log_thread,
            wake,
            wake_count: Box::new([0; 8]),
            in_flight: 0,
            finished: Vec::with_capacity(COMPLETIONS_MAX),
            rearm: Vec::new(),
            has_run_out: false,
            is_ending: false,
        };
        reactor.arm_wake();
        Ok(reactor)
    }

    pub(crate) fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        // Multishot accept on a non-blocking socket would end at once with EAGAIN.
        rustix::io::ioctl_fionbio(&listener, false)?;
        let is_local = is_local(&listener);
        self.listeners.push(Listener { fd: listener, is_local, armed: false, closing: false });
        self.resume_accepting();
        Ok(())
    }

    pub(crate) fn stop_listening(&mut self) {
        for index in 0..self.listeners.len() {
            self.listeners[index].closing = true;
            if self.listeners[index].armed {
                let data = user_data(Operation::Accept, listener_id(index));
                self.cancel(data);
            }
        }
    }

    pub(crate) fn resume_accepting(&mut self) {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.armed || listener.closing {
                continue;
            }
            listener.armed = true;
            let fd = types::Fd(listener.fd.as_raw_fd());
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let entry = opcode::AcceptMulti::new(fd).flags(flags).build();
            self.push(entry.user_data(user_data(Operation::Accept, listener_id(index))));
        }
    }

    pub(crate) fn turn(&mut self, timeout_ms: Option<u64>, sink: &mut Sink<'_>) -> io::Result<()> {
        self.submit_backlog();
        self.enter(timeout_ms)?;
        self.take_completions(sink);
        if std::mem::take(&mut self.has_run_out) {
            self.buffers.lend_more();
        }
        for id in std::mem::take(&mut self.rearm) {
            self.arm_receive(id);
        }
        Ok(())
    }

    /// Submits everything and waits for one completion, or for the time to pass.
    fn enter(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        let queued = self.ring.submission().len();
        let timeout_ms = if self.backlog.is_empty() { timeout_ms } else { Some(0) };
        let result = match timeout_ms {
            None => self.ring.submitter().submit_and_wait(1),
            Some(wait_ms) => {
                let time =
                    Timespec::new().sec(wait_ms / 1_000).nsec((wait_ms % 1_000) as u32 * 1_000_000);
                let args = SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        if !matches!(result, Ok(taken) if taken == queued) && queued > 0 {
            // Not everything entered the kernel at once: a write and the sync linked to it may
            // have been parted, so no sync under way proves anything about its write.
            self.log_ring.distrust();
        }
        match result {
            Ok(_) => Ok(()),
            // Time has passed; a signal came; or completions must be taken before more fits.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn take_completions(&mut self, sink: &mut Sink<'_>) {
        let mut finished = std::mem::take(&mut self.finished);
        finished.clear();
        let completions = self.ring.completion().take(COMPLETIONS_MAX);
        finished.extend(completions.map(|done| (done.user_data(), done.result(), done.flags())));
        for (data, result, flags) in &finished {
            if !cqueue::more(*flags) {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            match decode(*data) {
                (Some(Operation::Accept), id) => self.accepted(id, *result, *flags, sink),
                (Some(Operation::Receive), id) => self.received(id, *result, *flags, sink),
                (Some(Operation::Send), id) => self.sent(id, *result, sink),
                (Some(Operation::Wake), _) => self.woken(sink),
                (Some(Operation::LogWrite), id) => {
                    let step = self.log_ring.written(id.index, *result);
                    self.log_step(step, sink);
                }
                (Some(Operation::LogSync), id) => {
                    let step = self.log_ring.synced(id.index, *result);
                    self.log_step(step, sink);
                }
                (Some(Operation::Cancel) | None, _) => {}
            }
        }
        self.finished = finished;
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.push_group(Group::One(entry));
    }

    fn push_group(&mut self, group: Group) {
        self.in_flight += match &group {
            Group::One(_) => 1,
            Group::Linked(_) => 2,
        };
        self.backlog.push_back(group);
        self.submit_backlog();
    }

    /// Moves what fits from the backlog to the submission queue; `enter` takes it from there.
    fn submit_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(group) = self.backlog.front() {
            let pushed = match group {
                // SAFETY: the memory that the entry points to (a send's bytes in its slot, log
                // bytes in the log ring, the wake counter) is kept until the entry's completion,
                // see the invariant of `UringReactor`.
                Group::One(entry) => unsafe { queue.push(entry) },
                // SAFETY: as above.
                Group::Linked(entries) => unsafe { queue.push_multiple(entries) },
            };
            if pushed.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    fn cancel(&mut self, target: u64) {
        let data = user_data(Operation::Cancel, listener_id(0));
        self.push(opcode::AsyncCancel::new(target).build().user_data(data));
    }

    fn arm_wake(&mut self) {
        let fd = types::Fd(self.wake.as_fd().as_raw_fd());
        let read = opcode::Read::new(fd, self.wake_count.as_mut_ptr(), 8).build();
        self.push(read.user_data(user_data(Operation::Wake, listener_id(0))));
    }

    fn woken(&mut self, sink: &mut Sink<'_>) {
        if !self.is_ending {
            self.arm_wake();
        }
        while let Some(done) = self.log_thread.next_done() {
            sink(Completion::Logged(done));
        }
        sink(Completion::Woken);
    }

    fn accepted(&mut self, id: SocketId, result: i32, flags: u32, sink: &mut Sink<'_>) {
        let mut failure = None;
        if result >= 0 {
            // SAFETY: the kernel has just made this descriptor for us and nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            let listener = self.listeners.get(id.index as usize);
            self.admit(fd, listener.is_some_and(|listener| listener.is_local), sink);
        } else {
            failure = Some(Errno::from_raw_os_error(-result));
        }
        if cqueue::more(flags) {
            return;
        }
        if let Some(listener) = self.listeners.get_mut(id.index as usize) {
            listener.armed = false;
        }
        match failure {
            // Accepting goes on with the core's next tick: armed now, it would fail again at once.
            Some(error) if !is_about_connection(error) => {
                sink(Completion::AcceptFailed { error });
            }
            _ => self.resume_accepting(),
        }
        if self.listeners.iter().all(|listener| listener.closing && !listener.armed) {
            self.listeners.clear();
        }
    }

    fn admit(&mut self, fd: OwnedFd, is_local: bool, sink: &mut Sink<'_>) {
        let peer = if is_local {
            Peer::Local
        } else {
            // A peer that is gone already has no name; its socket closes here.
            let peer = rustix::net::getpeername(&fd).ok().flatten();
            let Some(Ok(peer)) = peer.map(SocketAddr::try_from) else { return };
            Peer::Remote(peer)
        };
        let socket = self.sockets.insert(Socket {
            fd,
            receiving: false,
            reading: true,
            ended: false,
            closing: false,
            sending: None,
        });
        self.arm_receive(socket);
        sink(Completion::Accepted { socket, peer });
    }

    fn arm_receive(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.find(id) else { return };
        if socket.receiving || !socket.reading || socket.ended || socket.closing {
            return;
        }
        socket.receiving = true;
        let fd = types::Fd(socket.fd.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        self.push(entry.user_data(user_data(Operation::Receive, id)));
    }

    fn received(&mut self, id: SocketId, result: i32, flags: u32, sink: &mut Sink<'_>) {
        let open = self.sockets.find(id).is_some_and(|socket| !socket.closing);
        if let Some(buffer) = cqueue::buffer_select(flags) {
            if open && result > 0 {
                let bytes = self.buffers.bytes(buffer, result as usize);
                sink(Completion::Received { socket: id, bytes });
            }
            self.buffers.give_back(buffer);
        }
        let Some(socket) = self.sockets.find(id) else { return };
        if !cqueue::more(flags) {
            socket.receiving = false;
        }
        if !open {
            self.release(id);
            return;
        }
        match result {
            0 => {
                socket.ended = true;
                sink(Completion::PeerClosed { socket: id });
            }
            1.. => {
                if !socket.receiving {
                    self.rearm.push(id);
                }
            }
            // No buffer was free; they are now, at the turn's end, and perhaps there are more.
            _ if result == -libc::ENOBUFS => {
                self.has_run_out = true;
                self.rearm.push(id);
            }
            // Reading was paused.
            _ if result == -libc::ECANCELED || result == -libc::EINTR => self.rearm.push(id),
            _ => {
                socket.ended = true;
                sink(Completion::Failed { socket: id, error: Errno::from_raw_os_error(-result) });
            }
        }
    }

    pub(crate) fn send(&mut self, id: SocketId, bytes: Vec<u8>, is_followed: bool) -> Sending {
        let Some(socket) = self.sockets.find(id) else { return Sending::Failed };
        if socket.closing {
            return Sending::Failed;
        }
        assert!(socket.sending.is_none(), "one send at a time per socket");
        if bytes.is_empty() {
            return Sending::Done(bytes);
        }
        // What is followed by more goes at once, as far as the kernel has room: one operation a turn
        // would be slower than what one turn may queue, and a healthy reader would look slow.
        let at = match is_followed {
            true => super::epoll::send_some(&socket.fd, &bytes),
            false => Ok(0),
        };
        match at {
            Ok(at) if at == bytes.len() => return Sending::Done(bytes),
            Ok(at) => socket.sending = Some(Unsent { bytes, at }),
            Err(_) => return Sending::Failed,
        }
        self.continue_sending(id);
        Sending::Started
    }

    fn continue_sending(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.find(id) else { return };
        let Some(unsent) = &socket.sending else { return };
        let rest = &unsent.bytes[unsent.at..];
        // MSG_WAITALL: the kernel itself goes on after a partial send.
        let entry = opcode::Send::new(
            types::Fd(socket.fd.as_raw_fd()),
            rest.as_ptr(),
            u32::try_from(rest.len()).unwrap_or(u32::MAX),
        )
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build();
        self.push(entry.user_data(user_data(Operation::Send, id)));
    }

    fn sent(&mut self, id: SocketId, result: i32, sink: &mut Sink<'_>) {
        let Some(socket) = self.sockets.find(id) else { return };
        if socket.closing {
            socket.sending = None;
            self.release(id);
            return;
        }
        let Some(unsent) = &mut socket.sending else { return };
        if result >= 0 {
            unsent.at = (unsent.at + result as usize).min(unsent.bytes.len());
        } else if result != -libc::EINTR && result != -libc::EAGAIN {
            socket.sending = None;
            sink(Completion::Failed { socket: id, error: Errno::from_raw_os_error(-result) });
            return;
        }
        if unsent.at < unsent.bytes.len() {
            self.continue_sending(id);
        } else if let Some(unsent) = socket.sending.take() {
            sink(Completion::Sent { socket: id, buffer: unsent.bytes });
        }
    }

    pub(crate) fn set_reading(&mut self, id: SocketId, reading: bool) {
        let Some(socket) = self.sockets.find(id) else { return };
        if socket.reading == reading {
            return;
        }
        socket.reading = reading;
        if reading {
            // If the cancelled receive is still on its way back, its completion arms the next.
            self.arm_receive(id);
        } else if socket.receiving {
            self.cancel(user_data(Operation::Receive, id));
        }
    }

    pub(crate) fn shutdown_write(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.find(id) {
            let _ = rustix::net::shutdown(&socket.fd, Shutdown::Write);
        }
    }

    pub(crate) fn close(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.find(id) else { return };
        if socket.closing {
            return;
        }
        socket.closing = true;
        // Ends the receive and the send that the kernel has; their completions free the slot.
        let _ = rustix::net::shutdown(&socket.fd, Shutdown::Both);
        self.release(id);
    }

    /// Frees the slot of a closing socket when the kernel has nothing of it any more.
    fn release(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.find(id) else { return };
        if socket.closing && !socket.receiving && socket.sending.is_none() {
            self.sockets.remove(id);
        }
    }

    pub(crate) fn log_write(&mut self, write: LogWrite) {
        let step = self.log_ring.begin(write);
        if let Some(group) = step.submit {
            self.push_group(group);
        }
    }

    pub(crate) fn log_job(&mut self, job: LogJob) {
        self.log_thread.job(job);
    }

    fn log_step(&mut self, step: log_ring::Step, sink: &mut Sink<'_>) {
        if let Some(group) = step.submit {
            self.push_group(group);
        }
        if let Some(done) = step.done {
            sink(Completion::Logged(done));
        }
    }
}

fn listener_id(index: usize) -> SocketId {
    SocketId { index: index as u32, generation: 0 }
}

/// The ring with the cheapest way of running completions that this kernel has.
fn build_ring() -> io::Result<IoUring> {
    let preferred = IoUring::builder()
        .setup_cqsize(SUBMISSIONS * 4)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .build(SUBMISSIONS);
    match preferred {
        // Kernels before 6.1 do not know deferred task work.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_cqsize(SUBMISSIONS * 4).setup_submit_all().build(SUBMISSIONS)
        }
        other => other,
    }
}

/// Whether this kernel lets us use everything the backend needs; the error is the reason why not.
///
/// # Errors
/// The system's refusal, or the name of what is missing.
pub(crate) fn probe() -> io::Result<()> {
    let ring = build_ring()?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        ("accept", opcode::Accept::CODE),
        ("recv", opcode::Recv::CODE),
        ("send", opcode::Send::CODE),
        ("read", opcode::Read::CODE),
        ("write", opcode::Write::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("async cancel", opcode::AsyncCancel::CODE),
    ];
    for (name, code) in needed {
        if !probe.is_supported(code) {
            return Err(io::Error::other(format!("the kernel has no {name} operation")));
        }
    }
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(io::Error::other("the kernel is too old (waits with timeouts are missing)"));
    }
    check_multishot_receive()?;
    // Registered for good: the ring, and with it the registration, ends before the memory does.
    let buffers = BufferRing::register(&ring);
    drop(ring);
    buffers.map(drop)
}

/// Multishot receive came with Linux 6.0 and cannot be asked for by a probe: it is a flag of an
/// operation that is older. Rings of a single issuer came with the same release, and can.
fn check_multishot_receive() -> io::Result<()> {
    let built: io::Result<IoUring> = IoUring::builder().setup_single_issuer().build(8);
    match built {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(io::Error::other("the kernel is older than 6.0 (multishot receive is missing)"))
        }
        Err(error) => Err(error),
    }
}

impl Drop for UringReactor {
    fn drop(&mut self) {
        for id in self.sockets.ids() {
            self.close(id);
        }
        self.stop_listening();
        // The wake read ends by being woken, and is not armed again.
        self.is_ending = true;
        self.wake.wake();
        for _ in 0..DRAIN_TURNS_MAX {
            if self.in_flight == 0 && self.log_ring.is_idle() {
                return;
            }
            if self.turn(Some(10), &mut |_| {}).is_err() {
                break;
            }
        }
        // The kernel may still write to this memory: it must never be given to anyone else.
        std::mem::forget(std::mem::replace(&mut self.sockets, Slots::new()));
        std::mem::forget(std::mem::take(&mut self.log_ring));
        std::mem::forget(std::mem::take(&mut self.wake_count));
        self.buffers.leak();
    }
}

impl std::fmt::Debug for UringReactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringReactor").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}
