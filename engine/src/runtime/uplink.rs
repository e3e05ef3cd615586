//! A WebSocket client of the local socket, as far as a command needs one that speaks to the relay on
//! the same machine: text both ways, pings answered by a thread of its own, so that a command may
//! wait for its input without being taken for dead.

use super::listener::connect_local;
use super::threads;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Sixteen bytes in base64. The key exists to be unlike those of other connections, for the sake of
/// caches; there are none between us and a socket in our own directory.
const KEY: &str = "dHVybnBpa2UgaW1wb3J0IQ==";
/// Bytes of a message of the relay.
const MESSAGE_BYTES_MAX: u64 = 8 << 20;
/// Bytes of the answer to the upgrade.
const HEAD_BYTES_MAX: u64 = 16 << 10;
/// Messages that wait to be taken; then the relay has to wait.
const MESSAGES_MAX: usize = 4_096;
/// Bytes of output that are collected before they are written.
const OUTPUT_BYTES: usize = 64 << 10;
/// How long the relay may take to answer the upgrade.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

const TEXT: u8 = 1;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why nothing more comes from the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone(
    /// What the relay said when it closed, or what the system says.
    pub String,
);

/// One connection. Owned by the command's thread; its output is shared with the thread that answers
/// pings.
pub struct Uplink {
    writer: Arc<Mutex<UnixStream>>,
    output: Vec<u8>,
    messages: Receiver<Result<String, Gone>>,
}

impl Uplink {
    /// Connects to the local socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there, or what listens is no relay.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let mut stream = connect_local(path)?;
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )?;
        let mut reader = BufReader::with_capacity(OUTPUT_BYTES, stream.try_clone()?);
        read_head(&mut reader)?;
        stream.set_read_timeout(None)?;
        let writer = Arc::new(Mutex::new(stream));
        let (sender, messages) = sync_channel(MESSAGES_MAX);
        let answering = Arc::clone(&writer);
        threads::spawn("uplink".into(), move || read_all(&mut reader, &answering, &sender))?;
        Ok(Self { writer, output: Vec::new(), messages })
    }

    /// Sends a text message, at once or together with those that follow; see [`Uplink::flush`].
    ///
    /// # Errors
    /// When the relay is gone.
    pub fn send(&mut self, text: &[u8]) -> io::Result<()> {
        frame(TEXT, text, &mut self.output);
        if self.output.len() >= OUTPUT_BYTES { self.flush() } else { Ok(()) }
    }

    /// Sends what was collected. Waits while the relay takes nothing.
    ///
    /// # Errors
    /// When the relay is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = lock(&self.writer).write_all(&self.output);
        self.output.clear();
        written
    }

    /// The next message; `None` if none comes within `wait_ms`.
    ///
    /// # Errors
    /// [`Gone`] when there will be none.
    pub fn next(&mut self, wait_ms: u64) -> Result<Option<String>, Gone> {
        match self.messages.recv_timeout(Duration::from_millis(wait_ms)) {
            Ok(message) => message.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Gone("the connection is closed".into())),
        }
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // The reading thread ends with the socket.
        let mut close = Vec::new();
        frame(CLOSE, &1000_u16.to_be_bytes(), &mut close);
        let mut stream = lock(&self.writer);
        let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        let _ = stream.write_all(&close);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn lock(writer: &Mutex<UnixStream>) -> std::sync::MutexGuard<'_, UnixStream> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_head(reader: &mut impl BufRead) -> io::Result<()> {
    let mut head = String::new();
    let mut limited = reader.take(HEAD_BYTES_MAX);
    while !head.ends_with("\r\n\r\n") {
        if limited.read_line(&mut head)? == 0 {
            return Err(io::Error::other("the answer to the upgrade has no end"));
        }
    }
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("101") {
        return Ok(());
    }
    Err(io::Error::other(format!("the relay does not take the connection: {status}")))
}

/// A frame of a client. Masks keep what a browser sends from being taken for a request by a proxy
/// that knows no WebSockets; nothing stands in between here, so the mask is zero.
fn frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// Hands messages on until the connection ends.
fn read_all(
    reader: &mut impl Read,
    writer: &Mutex<UnixStream>,
    messages: &SyncSender<Result<String, Gone>>,
) {
    let gone = loop {
        match read_message(reader, writer) {
            Ok(Ok(text)) => {
                if messages.send(Ok(text)).is_err() {
                    return;
                }
            }
            Ok(Err(gone)) => break gone,
            Err(error) => break Gone(error.to_string()),
        }
    };
    let _ = messages.send(Err(gone));
}

/// The next text; pings on the way are answered.
fn read_message(
    reader: &mut impl Read,
    writer: &Mutex<UnixStream>,
) -> io::Result<Result<String, Gone>> {
    let mut text = Vec::new();
    loop {
        let mut head = [0; 2];
        reader.read_exact(&mut head)?;
        let (is_final, opcode) = (head[0] & 0x80 != 0, head[0] & 0x0f);
        let payload = read_payload(reader, head[1], text.len() as u64)?;
        match opcode {
            TEXT | CONTINUATION => {
                text.extend_from_slice(&payload);
                if is_final {
                    return String::from_utf8(text).map(Ok).map_err(io::Error::other);
                }
            }
            PING => {
                let mut pong = Vec::new();
                frame(PONG, &payload, &mut pong);
                lock(writer).write_all(&pong)?;
            }
            CLOSE => {
                let reason = payload.get(2..).unwrap_or_default();
                return Ok(Err(Gone(String::from_utf8_lossy(reason).into_owned())));
            }
            _ => {}
        }
    }
}

fn read_payload(reader: &mut impl Read, short: u8, before_bytes: u64) -> io::Result<Vec<u8>> {
    let length = match short & 0x7f {
        126 => {
            let mut long = [0; 2];
            reader.read_exact(&mut long)?;
            u64::from(u16::from_be_bytes(long))
        }
        127 => {
            let mut long = [0; 8];
            reader.read_exact(&mut long)?;
            u64::from_be_bytes(long)
        }
        short => short.into(),
    };
    if before_bytes.saturating_add(length) > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("the relay sends a message that is too long"));
    }
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload)?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut masked = Vec::new();
        frame(first & 0x0f, payload, &mut masked);
        masked[0] = first;
        masked[1] &= 0x7f;
        let mask_at = masked.len() - payload.len() - 4;
        masked.drain(mask_at..mask_at + 4);
        masked
    }

    #[test]
    fn fragments_are_joined_pings_are_answered_and_the_last_word_is_kept() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let long = "x".repeat(70_000);
        let mut bytes = server_frame(TEXT, b"hel");
        bytes.extend(server_frame(0x80 | PING, b"?"));
        bytes.extend(server_frame(0x80, b"lo"));
        bytes.extend(server_frame(0x80 | TEXT, long.as_bytes()));
        bytes.extend(server_frame(0x80 | CLOSE, b"\x03\xe9bye"));
        let writer = Mutex::new(ours);
        let mut reader = &bytes[..];
        assert_eq!(read_message(&mut reader, &writer).unwrap(), Ok("hello".into()));
        assert_eq!(read_message(&mut reader, &writer).unwrap(), Ok(long));
        assert_eq!(read_message(&mut reader, &writer).unwrap(), Err(Gone("bye".into())));
        let mut pong = [0; 7];
        theirs.read_exact(&mut pong).unwrap();
        assert_eq!(pong, [0x8a, 0x81, 0, 0, 0, 0, b'?']);
    }

    #[test]
    fn what_is_no_upgrade_is_told_with_its_status() {
        let error = read_head(&mut &b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..]).unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        assert!(read_head(&mut &b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n"[..]).is_err());
        assert!(read_head(&mut &b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n"[..]).is_ok());
    }
}
