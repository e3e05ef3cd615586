//! A WebSocket client for commands that speak to two relays at once: one elsewhere (`ws://`, `wss://`)
//! and the one on this machine, through its local socket. Nothing waits but [`wait`], which waits for
//! all of them.

use super::listener::connect_local;
use super::uplink::Gone;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tungstenite::client::{IntoClientRequest, client_with_config};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

/// Bytes of a message of a relay.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes of output that are collected before they are written.
const OUTPUT_BYTES: usize = 64 << 10;
/// How long the relay on this machine may take to answer the upgrade.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL names no relay.
    #[error("{0:?} is no URL of a relay: it begins with ws:// or wss:// and names a host")]
    Url(String),
    /// Nothing is known by that name.
    #[error("cannot find {host}: {error}")]
    Unknown {
        /// The name.
        host: String,
        /// What the system says.
        error: io::Error,
    },
    /// No address of the host takes a connection, or TLS fails.
    #[error("cannot connect to {host}: {error}")]
    Refused {
        /// The host.
        host: String,
        /// What the system says.
        error: io::Error,
    },
    /// What answers is no relay.
    #[error("{host} does not open a WebSocket: {why}")]
    NoRelay {
        /// The host.
        host: String,
        /// What it answered.
        why: String,
    },
}

/// What a connection runs over.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Local(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
            Self::Local(stream) => stream.read(bytes),
        })
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Local(stream) => stream.write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        uninterrupted(|| match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::Local(stream) => stream.flush(),
        })
    }
}

/// Repeats what was interrupted: a socket with a time-out is not restarted by the system, and a ring
/// of this process, or a signal, may interrupt it at any time.
fn uninterrupted<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.sock.as_fd(),
            Self::Local(stream) => stream.as_fd(),
        }
    }
}

/// One connection. Owned by the command's thread. What it holds is bounded by one message of the
/// relay and by what the command sends before it waits for answers.
pub struct Client {
    socket: WebSocket<Stream>,
    has_output: bool,
}

impl Client {
    /// Connects to the relay at `url`; each step takes at most `timeout_ms`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(url: &str, timeout_ms: u64) -> Result<Self, ConnectError> {
        let bad_url = || ConnectError::Url(url.to_owned());
        let request = url.into_client_request().map_err(|_| bad_url())?;
        let uri = request.uri();
        let is_tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(bad_url()),
        };
        let host = uri.host().ok_or_else(bad_url)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let timeout = Duration::from_millis(timeout_ms.max(1));
        let tcp = connect_tcp(&host, port, timeout)?;
        let refused = |error| ConnectError::Refused { host: host.clone(), error };
        tcp.set_nodelay(true).map_err(refused)?;
        tcp.set_read_timeout(Some(timeout)).map_err(refused)?;
        tcp.set_write_timeout(Some(timeout)).map_err(refused)?;
        let waiting = tcp.try_clone().map_err(refused)?;
        let stream = match is_tls {
            true => Stream::Tls(Box::new(tls(&host, tcp).map_err(refused)?)),
            false => Stream::Plain(tcp),
        };
        let no_relay = |why| ConnectError::NoRelay { host: host.clone(), why };
        let socket = upgrade(request, stream).map_err(no_relay)?;
        waiting.set_nonblocking(true).map_err(refused)?;
        Ok(Self { socket, has_output: false })
    }

    /// Connects to the local socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there, or what listens is no relay.
    pub fn connect_local(path: &Path) -> io::Result<Self> {
        let stream = connect_local(path)?;
        stream.set_read_timeout(Some(LOCAL_TIMEOUT))?;
        stream.set_write_timeout(Some(LOCAL_TIMEOUT))?;
        let waiting = stream.try_clone()?;
        let request = "ws://localhost/".into_client_request().map_err(io::Error::other)?;
        let socket = upgrade(request, Stream::Local(stream)).map_err(io::Error::other)?;
        waiting.set_nonblocking(true)?;
        Ok(Self { socket, has_output: false })
    }

    /// Gives a message to be sent; it goes out with the next [`wait`] at the latest.
    ///
    /// # Errors
    /// When the relay is gone.
    pub fn send(&mut self, text: String) -> Result<(), Gone> {
        self.has_output = true;
        // A write that would have to wait has kept the message.
        unless_waiting(self.socket.write(Message::text(text))).map(drop)
    }

    /// The next message, if one is here.
    ///
    /// # Errors
    /// [`Gone`] when there will be none.
    pub fn read(&mut self) -> Result<Option<String>, Gone> {
        loop {
            match unless_waiting(self.socket.read())? {
                None => return Ok(None),
                Some(Message::Text(text)) => return Ok(Some(text.as_str().to_owned())),
                Some(Message::Close(frame)) => {
                    let why = frame.map(|frame| format!("{} {}", frame.code, frame.reason));
                    return Err(Gone(why.unwrap_or_else(|| "the connection is closed".into())));
                }
                // The answer to a ping waits to be written.
                Some(_) => self.has_output = true,
            }
        }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.has_output {
            self.has_output = unless_waiting(self.socket.flush())?.is_none();
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A last word, as far as it goes without waiting.
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
    }
}

/// Writes what is to be written, and waits until a message may be there or the time has passed.
///
/// # Errors
/// [`Gone`] with the place of the client whose relay is gone.
pub fn wait<const N: usize>(
    clients: [&mut Client; N],
    timeout_ms: u64,
) -> Result<(), (usize, Gone)> {
    let mut fds = Vec::with_capacity(N);
    for (index, client) in clients.into_iter().enumerate() {
        client.flush().map_err(|gone| (index, gone))?;
        let output = if client.has_output { PollFlags::OUT } else { PollFlags::empty() };
        let fd = client.socket.get_ref().as_fd();
        fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN | output));
    }
    let timeout = Timespec {
        tv_sec: (timeout_ms / 1_000) as i64,
        tv_nsec: (timeout_ms % 1_000 * 1_000_000) as i64,
    };
    // A signal ends the wait early, which is as good as a message.
    let _ = poll(&mut fds, Some(&timeout));
    Ok(())
}

fn connect_tcp(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let unknown = |error| ConnectError::Unknown { host: host.to_owned(), error };
    let mut failed = io::Error::from(ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs().map_err(unknown)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(ConnectError::Refused { host: format!("{host}:{port}"), error: failed })
}

/// TLS over `tcp`, with the authorities that this machine trusts (or `SSL_CERT_FILE` names).
fn tls(host: &str, tcp: TcpStream) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this machine has no certificate authorities to trust; install ca-certificates, or name a \
             file of them in SSL_CERT_FILE",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?,
        tcp,
    );
    while stream.conn.is_handshaking() {
        uninterrupted(|| stream.conn.complete_io(&mut stream.sock))?;
    }
    Ok(stream)
}

fn upgrade(
    request: tungstenite::handshake::client::Request,
    stream: Stream,
) -> Result<WebSocket<Stream>, String> {
    let config = WebSocketConfig::default()
        .read_buffer_size(OUTPUT_BYTES)
        .write_buffer_size(OUTPUT_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    match client_with_config(request, stream, Some(config)) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Interrupted(_)) => Err("it did not answer in time".into()),
        Err(HandshakeError::Failure(Error::Http(response))) => {
            Err(format!("it answers {}", response.status()))
        }
        Err(HandshakeError::Failure(error)) => Err(error.to_string()),
    }
}

/// `None` for what would have to wait.
fn unless_waiting<T>(result: Result<T, Error>) -> Result<Option<T>, Gone> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
            Err(Gone("the connection is closed".into()))
        }
        Err(error) => Err(Gone(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_a_relay_is_told_apart_from_a_relay_that_does_not_answer() {
        for url in ["", "relay", "http://127.0.0.1/", "ws://", "wss:///x"] {
            let refused = Client::connect(url, 1_000).map(drop);
            assert!(matches!(refused, Err(ConnectError::Url(_))), "{url}: {refused:?}");
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let refused = Client::connect(&format!("ws://127.0.0.1:{port}"), 1_000).map(drop);
        assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
    }
}
