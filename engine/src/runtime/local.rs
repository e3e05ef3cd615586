//! The admin socket: a unix socket in the data directory, for the owner of the directory only.

use super::listener::{bind_local, connect_local};
use super::threads;
use super::wake::Wake;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;
/// Callers that may wait; the next connection waits in the kernel's queue.
const WAITING_MAX: usize = 16;
/// Bytes of a request.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of its answer before it is given up: others may wait for its
/// place.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long one attempt to read an answer waits.
const READ_ATTEMPT: Duration = Duration::from_millis(200);
/// How long one attempt to write waits before it is looked whether the process is to end.
const WRITE_ATTEMPT: Duration = Duration::from_millis(200);

/// A command that has connected and not spoken yet.
#[derive(Debug)]
pub struct Caller {
    stream: UnixStream,
}

/// Listens at `path`, replacing what a dead process left there (the directory's lock is held).
/// Callers come through the receiver; `wake` is rung for each.
///
/// # Errors
/// What the system refuses.
pub fn listen(path: &Path, wake: Wake) -> io::Result<Receiver<Caller>> {
    let listener = UnixListener::from(bind_local(path, BACKLOG)?);
    listener.set_nonblocking(false)?;
    let (callers, receiver) = sync_channel(WAITING_MAX);
    threads::spawn("admin".into(), move || accept(&listener, &callers, &wake))?;
    Ok(receiver)
}

fn accept(listener: &UnixListener, callers: &SyncSender<Caller>, wake: &Wake) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // No descriptors: the others are given back before long.
            threads::sleep_ms(100);
            continue;
        };
        if callers.send(Caller { stream }).is_err() {
            return;
        }
        wake.wake();
    }
}

/// Reads with one deadline for everything, so that nobody holds the socket by a byte now and then.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(bytes)
    }
}

fn read_line(stream: &UnixStream, timeout: Duration) -> io::Result<String> {
    stream.set_write_timeout(Some(WRITE_ATTEMPT))?;
    let timed = Timed { stream, deadline: Instant::now() + timeout };
    let mut line = String::new();
    BufReader::new(timed.take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Writes an answer, looking between attempts whether the process is to end or the client takes
/// nothing any more.
pub struct Answer<'a> {
    stream: UnixStream,
    stall_max: Duration,
    should_stop: &'a dyn Fn() -> bool,
}

impl Caller {
    /// The request: one line, without its end. Waits for it, but not for long.
    ///
    /// # Errors
    /// When it does not come.
    pub fn read(&self) -> io::Result<String> {
        read_line(&self.stream, REQUEST_TIMEOUT)
    }

    /// The way back.
    pub fn answer(self, should_stop: &dyn Fn() -> bool) -> Answer<'_> {
        Answer { stream: self.stream, stall_max: STALL_MAX, should_stop }
    }

    /// A last word to a caller that cannot be heard, as far as it goes without waiting.
    pub fn turn_away(mut self, line: &str) {
        if self.stream.set_nonblocking(true).is_ok() {
            let _ = writeln!(self.stream, "{line}");
        }
    }
}

impl Write for Answer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let give_up = Instant::now() + self.stall_max;
        loop {
            match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if (self.should_stop)() || Instant::now() >= give_up {
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
/// what is returned. A read that waits for long fails with `WouldBlock` and may be repeated.
///
/// # Errors
/// When nobody listens there.
pub fn ask(path: &Path, line: &str) -> io::Result<impl BufRead> {
    let mut stream = connect_local(path)?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    stream.set_read_timeout(Some(READ_ATTEMPT))?;
    Ok(BufReader::with_capacity(1 << 16, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_never_finished_is_given_up() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"{\"comm").unwrap();
        let error = read_line(&server, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock));
        client.write_all(b"and\"}\n").unwrap();
        assert_eq!(read_line(&server, REQUEST_TIMEOUT).unwrap(), "and\"}");
    }

    #[test]
    fn a_client_that_takes_nothing_is_given_up() {
        let (_client, stream) = UnixStream::pair().unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
        let stall_max = Duration::from_millis(20);
        let mut answer = Answer { stream, stall_max, should_stop: &|| false };
        let error = answer.write_all(&vec![0; 64 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
