//! The `glommio` backend: its executor on the core's thread, a task for each listener and for the
//! reading of each socket, and, while a socket's kernel buffer is full, one for its writing.
//!
//! Futures do not bend the seam: [`GlommioReactor::turn`] runs the executor until something has
//! happened and then tells what its tasks have noted. What the core asks for between turns reaches
//! the tasks at the beginning of the next, since the executor's tasks are spawned, woken and dropped
//! inside it only. Its streams are unbuffered and share one scratch buffer, so a connection that
//! waits for bytes holds none. Log work goes to the core's log thread, as with epoll.
//!
//! An eventfd is no stream, but an unbuffered stream over a copy of it waits until it is readable,
//! and then fails: that is how this core is woken.

use super::epoll::send_some;
use super::listener::{is_about_connection, is_local};
use super::log_thread::{LogJob, LogThread, LogWrite};
use super::reactor::{ACCEPTS_MAX, Completion, Peer, RECEIVE_BYTES_MAX, Sending, Sink};
use super::slots::{Slots, SocketId};
use super::wake::Wake;
use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::Timer;
use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Memory that each of the executor's three rings registers. It is for file reads, which do not go
/// this way; the default of 10 MiB would be pinned for nothing.
const IO_MEMORY_BYTES: usize = 64 * 1024;
/// What the executor demands as `RLIMIT_MEMLOCK` before it starts.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// Received bytes that wait for the end of a turn; sockets that are ready then wait for the next.
const NOTED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Buffers for received bytes that are kept for re-use.
const FREE_BUFFERS_MAX: usize = 64;

/// Owned by one core. The executor (three rings, and what [`IO_MEMORY_BYTES`] says for each), one
/// scratch buffer of 64 KiB, at most [`NOTED_BYTES_MAX`] of received bytes during a turn, about 1 KiB
/// of task and sources per socket, and what a full kernel buffer did not take.
pub struct GlommioReactor {
    executor: LocalExecutor,
    state: Shared,
    wake: Wake,
    log: LogThread,
}

type Shared = Rc<RefCell<State>>;

/// What a task has seen, to be told at the end of the turn.
enum Noted {
    Accepted(SocketId, Peer),
    AcceptFailed(Errno),
    Received(SocketId, Vec<u8>),
    PeerClosed(SocketId),
    Sent(SocketId, Vec<u8>),
    Failed(SocketId, Errno),
    Woken,
}

/// What is to be started with the next turn.
enum Start {
    Listening(OwnedFd),
    Writing(SocketId),
}

struct Socket {
    stream: Rc<RefCell<TcpStream>>,
    reading: bool,
    /// Its bytes of this turn have not been told yet.
    is_told: bool,
    sending: Option<Unsent>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Unsent {
    bytes: Vec<u8>,
    at: usize,
}

/// What the core and the tasks share.
struct State {
    sockets: Slots<Socket>,
    noted: Vec<Noted>,
    noted_bytes: usize,
    scratch: Vec<u8>,
    free: Vec<Vec<u8>>,
    starts: Vec<Start>,
    /// Tasks to be woken with the next turn.
    waiting: Vec<Waker>,
    /// What is to be dropped with the next turn.
    ended: Vec<Socket>,
    /// Accepted in this turn.
    accepted: usize,
    /// No listener accepts until accepting is resumed.
    is_resting: bool,
    /// The listeners close.
    has_stopped: bool,
    acceptors: Vec<Waker>,
    watcher: Option<Waker>,
    /// The reactor is being dropped.
    is_over: bool,
    /// The turn, while it waits.
    turn: Option<Waker>,
}

impl State {
    fn note(&mut self, noted: Noted) {
        self.noted.push(noted);
        if let Some(turn) = self.turn.take() {
            turn.wake();
        }
    }
}

impl GlommioReactor {
    pub(crate) fn new(core: usize, wake: Wake) -> io::Result<Self> {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY_BYTES);
        let executor = builder.make().map_err(|error| io::Error::other(error.to_string()))?;
        let log = LogThread::start(format!("log-{core}"), wake.clone())?;
        let state = Rc::new(RefCell::new(State {
            sockets: Slots::new(),
            noted: Vec::new(),
            noted_bytes: 0,
            scratch: vec![0; RECEIVE_BYTES_MAX],
            free: Vec::new(),
            starts: Vec::new(),
            waiting: Vec::new(),
            ended: Vec::new(),
            accepted: 0,
            is_resting: false,
            has_stopped: false,
            acceptors: Vec::new(),
            watcher: None,
            is_over: false,
            turn: None,
        }));
        let (shared, watched) = (Rc::clone(&state), wake.clone());
        executor.run(async move {
            glommio::spawn_local(watch(shared, watched)).detach();
        });
        Ok(Self { executor, state, wake, log })
    }

    pub(crate) fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        // The ring's accept would end at once on a non-blocking socket.
        rustix::io::ioctl_fionbio(&listener, false)?;
        self.state.borrow_mut().starts.push(Start::Listening(listener));
        Ok(())
    }

    pub(crate) fn stop_listening(&mut self) {
        let state = &mut *self.state.borrow_mut();
        state.has_stopped = true;
        state.waiting.append(&mut state.acceptors);
    }

    pub(crate) fn resume_accepting(&mut self) {
        let state = &mut *self.state.borrow_mut();
        if std::mem::take(&mut state.is_resting) {
            state.waiting.append(&mut state.acceptors);
        }
    }

    pub(crate) fn turn(&mut self, timeout_ms: Option<u64>, sink: &mut Sink<'_>) -> io::Result<()> {
        self.executor.run(wait(&self.state, timeout_ms));
        let mut noted = std::mem::take(&mut self.state.borrow_mut().noted);
        for one in noted.drain(..) {
            self.tell(one, sink);
        }
        let state = &mut *self.state.borrow_mut();
        // Its memory is of use again.
        state.noted = noted;
        state.noted_bytes = 0;
        if std::mem::take(&mut state.accepted) >= ACCEPTS_MAX {
            state.waiting.append(&mut state.acceptors);
        }
        Ok(())
    }

    fn tell(&mut self, noted: Noted, sink: &mut Sink<'_>) {
        match noted {
            Noted::Accepted(socket, peer) => sink(Completion::Accepted { socket, peer }),
            Noted::AcceptFailed(error) => sink(Completion::AcceptFailed { error }),
            Noted::Received(id, bytes) => {
                sink(Completion::Received { socket: id, bytes: &bytes });
                let state = &mut *self.state.borrow_mut();
                if state.free.len() < FREE_BUFFERS_MAX {
                    state.free.push(bytes);
                }
                if let Some(socket) = state.sockets.find(id) {
                    socket.is_told = true;
                    state.waiting.extend(socket.reader.take());
                }
            }
            Noted::PeerClosed(socket) => sink(Completion::PeerClosed { socket }),
            Noted::Sent(socket, buffer) => sink(Completion::Sent { socket, buffer }),
            Noted::Failed(socket, error) => sink(Completion::Failed { socket, error }),
            Noted::Woken => {
                // Drained before the queues are read: an answer that comes later rings again.
                self.wake.drain();
                while let Some(done) = self.log.next_done() {
                    sink(Completion::Logged(done));
                }
                sink(Completion::Woken);
            }
        }
    }

    /// Every send goes at once as far as the kernel has room, whether more follows or not.
    pub(crate) fn send(&mut self, id: SocketId, bytes: Vec<u8>, _: bool) -> Sending {
        let state = &mut *self.state.borrow_mut();
        let Some(socket) = state.sockets.find(id) else { return Sending::Failed };
        assert!(socket.sending.is_none(), "one send at a time per socket");
        match send_some(socket.fd(), &bytes) {
            Ok(at) if at == bytes.len() => Sending::Done(bytes),
            Ok(at) => {
                socket.sending = Some(Unsent { bytes, at });
                state.starts.push(Start::Writing(id));
                Sending::Started
            }
            Err(_) => Sending::Failed,
        }
    }

    pub(crate) fn set_reading(&mut self, id: SocketId, reading: bool) {
        let state = &mut *self.state.borrow_mut();
        let Some(socket) = state.sockets.find(id) else { return };
        if !std::mem::replace(&mut socket.reading, reading) && reading {
            state.waiting.extend(socket.reader.take());
        }
    }

    pub(crate) fn shutdown_write(&mut self, id: SocketId) {
        if let Some(socket) = self.state.borrow_mut().sockets.find(id) {
            let _ = rustix::net::shutdown(socket.fd(), Shutdown::Write);
        }
    }

    pub(crate) fn close(&mut self, id: SocketId) {
        let state = &mut *self.state.borrow_mut();
        let Some(mut socket) = state.sockets.remove(id) else { return };
        // The tasks let go of the stream in the next turn; the peer hears of it now.
        let _ = rustix::net::shutdown(socket.fd(), Shutdown::Both);
        state.waiting.extend(socket.reader.take());
        state.waiting.extend(socket.writer.take());
        state.ended.push(socket);
    }

    pub(crate) fn log_write(&mut self, write: LogWrite) {
        self.log.write(write);
    }

    pub(crate) fn log_job(&mut self, job: LogJob) {
        self.log.job(job);
    }
}

impl Socket {
    fn fd(&self) -> BorrowedFd<'_> {
        let raw = self.stream.borrow().as_raw_fd();
        // SAFETY: the stream owns the descriptor and lives at least as long as this socket, which
        // holds it; nobody replaces or closes it meanwhile.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}

/// The turn as the executor sees it: what has been asked for since the last one, then a wait for
/// anything to be noted.
async fn wait(state: &Shared, timeout_ms: Option<u64>) {
    begin(state);
    // Those who have been woken are heard before anybody sleeps.
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    let has_noted = poll_fn(|cx| {
        let state = &mut *state.borrow_mut();
        if !state.noted.is_empty() {
            return Poll::Ready(());
        }
        state.turn = Some(cx.waker().clone());
        Poll::Pending
    });
    match timeout_ms {
        Some(0) => {}
        None => has_noted.await,
        Some(timeout_ms) => {
            let mut timer = pin!(Timer::new(Duration::from_millis(timeout_ms)));
            let mut has_noted = pin!(has_noted);
            poll_fn(|cx| match has_noted.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => timer.as_mut().poll(cx).map(|_| ()),
            })
            .await;
        }
    }
    // A waker is dropped where it was made: inside the executor.
    state.borrow_mut().turn = None;
}

fn begin(state: &Shared) {
    let (starts, waiting, ended) = {
        let state = &mut *state.borrow_mut();
        let starts = std::mem::take(&mut state.starts);
        (starts, std::mem::take(&mut state.waiting), std::mem::take(&mut state.ended))
    };
    drop(ended);
    for start in starts {
        match start {
            Start::Listening(listener) => {
                glommio::spawn_local(accept(Rc::clone(state), listener)).detach();
            }
            Start::Writing(id) => {
                glommio::spawn_local(write(Rc::clone(state), id)).detach();
            }
        }
    }
    waiting.into_iter().for_each(Waker::wake);
}

/// The task that hears when the core is woken.
async fn watch(state: Shared, wake: Wake) {
    loop {
        let Ok(copy) = wake.as_fd().try_clone_to_owned() else { return };
        // SAFETY: the copy is ours alone, and the stream owns it from now on.
        let mut stream = unsafe { TcpStream::from_raw_fd(copy.into_raw_fd()) };
        let is_over = poll_fn(|cx| {
            let state = &mut *state.borrow_mut();
            if state.is_over {
                return Poll::Ready(true);
            }
            keep(&mut state.watcher, cx);
            // It says that this is no socket, once it has something to say.
            Pin::new(&mut stream).poll_read(cx, &mut [0; 8]).map(|_| false)
        });
        if is_over.await {
            return;
        }
        state.borrow_mut().note(Noted::Woken);
        // It is drained when it is told; until then it would be readable still.
        next_turn(&state).await;
    }
}

/// Waits until the core begins another turn.
async fn next_turn(state: &Shared) {
    let mut has_waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        state.borrow_mut().waiting.push(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Remembers who waits.
fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    if place.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

/// The task of a listener.
async fn accept(state: Shared, listener: OwnedFd) {
    let is_local = is_local(&listener);
    // SAFETY: the descriptor is ours alone, and the listener owns it from now on.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    loop {
        let mut accepting = pin!(listener.shared_accept());
        let accepted = poll_fn(|cx| {
            {
                let state = &mut *state.borrow_mut();
                if state.has_stopped {
                    return Poll::Ready(None);
                }
                state.acceptors.retain(|waker| !waker.will_wake(cx.waker()));
                state.acceptors.push(cx.waker().clone());
                if state.is_resting || state.accepted >= ACCEPTS_MAX {
                    return Poll::Pending;
                }
            }
            accepting.as_mut().poll(cx).map(Some)
        });
        match accepted.await {
            None => return,
            Some(Ok(accepted)) => {
                let stream = accepted.bind_to_executor();
                admit(&state, stream, is_local);
            }
            Some(Err(error)) => {
                let error = errno_of(&error);
                if !is_about_connection(error) {
                    let state = &mut *state.borrow_mut();
                    state.is_resting = true;
                    state.note(Noted::AcceptFailed(error));
                }
            }
        }
    }
}

fn errno_of(error: &GlommioError<()>) -> Errno {
    let error = match error {
        GlommioError::IoError(error) | GlommioError::EnhancedIoError { source: error, .. } => error,
        _ => return Errno::IO,
    };
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn admit(shared: &Shared, stream: TcpStream, is_local: bool) {
    // SAFETY: the stream owns the descriptor and lives until the end of this function at least.
    let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let peer = if is_local {
        Peer::Local
    } else {
        // A peer that is gone already has no name; its socket closes here.
        let peer = rustix::net::getpeername(fd).ok().flatten();
        let Some(Ok(peer)) = peer.map(SocketAddr::try_from) else { return };
        Peer::Remote(peer)
    };
    let stream = Rc::new(RefCell::new(stream));
    let id = {
        let state = &mut *shared.borrow_mut();
        state.accepted += 1;
        let id = state.sockets.insert(Socket {
            stream: Rc::clone(&stream),
            reading: true,
            is_told: true,
            sending: None,
            reader: None,
            writer: None,
        });
        state.note(Noted::Accepted(id, peer));
        id
    };
    // The task takes its first look at once, so nothing may be borrowed here.
    let shared = Rc::clone(shared);
    let reading = async move { poll_fn(|cx| read(&shared, id, &stream, cx)).await };
    glommio::spawn_local(reading).detach();
}

/// One look of the task that reads a socket; the task ends with the stream.
fn read(
    shared: &Shared,
    id: SocketId,
    stream: &RefCell<TcpStream>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let state = &mut *shared.borrow_mut();
    let Some(socket) = state.sockets.find(id) else { return Poll::Ready(()) };
    keep(&mut socket.reader, cx);
    if !socket.reading || !socket.is_told {
        return Poll::Pending;
    }
    if state.noted_bytes > NOTED_BYTES_MAX {
        state.waiting.push(cx.waker().clone());
        return Poll::Pending;
    }
    match Pin::new(&mut *stream.borrow_mut()).poll_read(cx, &mut state.scratch) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(0)) => {
            state.note(Noted::PeerClosed(id));
            Poll::Ready(())
        }
        Poll::Ready(Ok(count)) => {
            socket.is_told = false;
            let mut bytes = state.free.pop().unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(&state.scratch[..count]);
            state.noted_bytes += count;
            state.note(Noted::Received(id, bytes));
            Poll::Pending
        }
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Ready(Err(error)) => {
            state.note(Noted::Failed(id, Errno::from_io_error(&error).unwrap_or(Errno::IO)));
            Poll::Ready(())
        }
    }
}

/// The task that sends what the kernel had no room for.
async fn write(state: Shared, id: SocketId) {
    poll_fn(|cx| {
        let state = &mut *state.borrow_mut();
        loop {
            let Some(socket) = state.sockets.find(id) else { return Poll::Ready(()) };
            keep(&mut socket.writer, cx);
            let Some(unsent) = &mut socket.sending else { return Poll::Ready(()) };
            let rest = &unsent.bytes[unsent.at..];
            let mut stream = socket.stream.borrow_mut();
            match Pin::new(&mut *stream).poll_write(cx, rest) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => unsent.at += count,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    drop(stream);
                    socket.sending = None;
                    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                    state.note(Noted::Failed(id, errno));
                    return Poll::Ready(());
                }
            }
            if unsent.at == unsent.bytes.len() {
                let buffer = std::mem::take(&mut unsent.bytes);
                drop(stream);
                socket.sending = None;
                state.note(Noted::Sent(id, buffer));
                return Poll::Ready(());
            }
        }
    })
    .await;
}

impl Drop for GlommioReactor {
    fn drop(&mut self) {
        self.stop_listening();
        let ids = self.state.borrow().sockets.ids();
        ids.into_iter().for_each(|id| self.close(id));
        {
            let state = &mut *self.state.borrow_mut();
            state.is_over = true;
            let watcher = state.watcher.take();
            state.waiting.extend(watcher);
        }
        // The tasks end in the executor, and take with them what is its own.
        for _ in 0..2 {
            self.executor.run(wait(&self.state, Some(0)));
            self.state.borrow_mut().noted.clear();
        }
    }
}

impl std::fmt::Debug for GlommioReactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GlommioReactor").finish_non_exhaustive()
    }
}

/// Whether an executor can be made here: the executor itself does not say, it panics.
///
/// # Errors
/// What is missing.
pub(crate) fn probe() -> io::Result<()> {
    drop(io_uring::IoUring::new(8)?);
    let memlock = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    match memlock.current {
        Some(bytes) if bytes < MEMLOCK_BYTES_MIN => Err(io::Error::other(format!(
            "RLIMIT_MEMLOCK is {} KiB and has to be {} KiB at least",
            bytes / 1024,
            MEMLOCK_BYTES_MIN / 1024
        ))),
        _ => Ok(()),
    }
}
