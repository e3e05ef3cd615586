//! The admin socket: a unix socket in the data directory, for the owner of the directory only.

use super::threads;
use super::wake::Wake;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Requests that may wait; the next connection waits in the kernel's queue.
const WAITING_MAX: usize = 16;
/// Bytes of a request.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one attempt to write waits before it is looked whether the process is to end.
const WRITE_ATTEMPT: Duration = Duration::from_millis(200);

/// A request of a command, and the stream to answer on.
#[derive(Debug)]
pub struct Request {
    /// One line, without its end.
    pub line: String,
    stream: UnixStream,
}

/// Listens at `path`, replacing what a dead process left there (the directory's lock is held).
/// Requests come through the receiver; `wake` is rung for each.
///
/// # Errors
/// What the system refuses.
pub fn listen(path: &Path, wake: Wake) -> io::Result<Receiver<Request>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (requests, receiver) = sync_channel(WAITING_MAX);
    threads::spawn("admin".into(), move || accept(&listener, &requests, &wake))?;
    Ok(receiver)
}

fn accept(listener: &UnixListener, requests: &SyncSender<Request>, wake: &Wake) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // No descriptors: the others are given back before long.
            threads::sleep_ms(100);
            continue;
        };
        let Ok(line) = read_line(&stream) else { continue };
        if requests.send(Request { line, stream }).is_err() {
            return;
        }
        wake.wake();
    }
}

fn read_line(stream: &UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(WRITE_ATTEMPT))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Writes an answer, looking between attempts whether the process is to end.
pub struct Answer<'a> {
    stream: UnixStream,
    should_stop: &'a dyn Fn() -> bool,
}

impl Request {
    /// The way back.
    pub fn answer(self, should_stop: &dyn Fn() -> bool) -> Answer<'_> {
        Answer { stream: self.stream, should_stop }
    }
}

impl Write for Answer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if (self.should_stop)() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Sends a request to the process that listens at `path`; the lines of the answer can be read from
/// what is returned.
///
/// # Errors
/// When nobody listens there.
pub fn ask(path: &Path, line: &str) -> io::Result<impl BufRead> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    Ok(BufReader::with_capacity(1 << 16, stream))
}
