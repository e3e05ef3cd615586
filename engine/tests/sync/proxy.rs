//! A relay's double: passes text messages on, both ways, and keeps all of them, as they were before
//! masks and TLS.

use super::common::PATIENCE;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// How long one attempt to read waits.
const ATTEMPT: Duration = Duration::from_millis(2);

#[derive(Default)]
pub struct Record {
    /// From the command to the relay.
    pub up: Vec<String>,
    pub down: Vec<String>,
}

/// Listens until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    record: Arc<Mutex<Record>>,
    /// Messages after which the next connection is cut off, once.
    cut_after: Arc<AtomicUsize>,
    /// The id of an event that gets another id on its way down.
    forged: Arc<Mutex<String>>,
    ended: Arc<AtomicBool>,
}

/// What one connection shares with its [`Proxy`].
#[derive(Clone)]
struct Shared {
    record: Arc<Mutex<Record>>,
    cut_after: Arc<AtomicUsize>,
    forged: Arc<Mutex<String>>,
}

pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sync").join(name)
}

fn tls_config() -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

impl Proxy {
    pub fn start(relay: SocketAddr, with_tls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            record: Arc::default(),
            cut_after: Arc::new(AtomicUsize::new(usize::MAX)),
            forged: Arc::default(),
        };
        let ended = Arc::new(AtomicBool::new(false));
        let tls = with_tls.then(tls_config);
        let (sharing, ending) = (shared.clone(), ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if ending.load(Ordering::Acquire) {
                    return;
                }
                let (shared, tls) = (sharing.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(config) => {
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        let connection = ServerConnection::new(config).unwrap();
                        let tls = StreamOwned::new(connection, stream);
                        pass(tls, |tls| &tls.sock, relay, &shared);
                    }
                    None => pass(stream, |stream| stream, relay, &shared),
                });
            }
        });
        let Shared { record, cut_after, forged } = shared;
        Self { address, record, cut_after, forged, ended }
    }

    /// Gives the event with this id under another id.
    pub fn forge(&self, id: &str) {
        *self.forged.lock().unwrap() = id.to_owned();
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Cuts the next connection off after so many messages in either direction.
    pub fn cut_after(&self, messages: usize) {
        self.cut_after.store(messages, Ordering::Release);
    }

    pub fn take(&self) -> Record {
        std::mem::take(&mut self.record.lock().unwrap())
    }

    /// Waits until `enough` holds of what has passed.
    pub fn until(&self, enough: impl Fn(&Record) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.record.lock().unwrap()) {
            assert!(Instant::now() < deadline, "it does not pass");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn pass<S: Read + Write>(
    stream: S,
    tcp: fn(&S) -> &TcpStream,
    relay: SocketAddr,
    Shared { record, cut_after, forged }: &Shared,
) {
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let Ok(mut client) = tungstenite::accept_with_config(stream, Some(config)) else { return };
    let server = TcpStream::connect(relay).unwrap();
    // The relay takes part in AUTH under the name by which it is reached here.
    let own = tcp(client.get_ref()).local_addr().unwrap();
    let request = format!("ws://{own}/");
    let (mut server, _) =
        tungstenite::client::client_with_config(request, server, Some(config)).unwrap();
    tcp(client.get_ref()).set_read_timeout(Some(ATTEMPT)).unwrap();
    server.get_ref().set_read_timeout(Some(ATTEMPT)).unwrap();
    let mut messages = 0;
    loop {
        let up = take(&mut client);
        let down = take(&mut server);
        let (Ok(up), Ok(down)) = (up, down) else { return };
        for text in up {
            record.lock().unwrap().up.push(text.clone());
            messages += 1;
            if server.send(Message::text(text)).is_err() {
                return;
            }
        }
        for mut text in down {
            let forged = forged.lock().unwrap().clone();
            if !forged.is_empty() && text.starts_with("[\"EVENT\"") {
                text = text.replace(&forged, &"e".repeat(64));
            }
            record.lock().unwrap().down.push(text.clone());
            messages += 1;
            if client.send(Message::text(text)).is_err() {
                return;
            }
        }
        if messages >= cut_after.load(Ordering::Acquire) {
            cut_after.store(usize::MAX, Ordering::Release);
            return;
        }
    }
}

/// The messages that are there, or come soon.
fn take<S: Read + Write>(socket: &mut WebSocket<S>) -> Result<Vec<String>, ()> {
    let mut messages = Vec::new();
    while messages.len() < 64 {
        match socket.read() {
            Ok(Message::Text(text)) => messages.push(text.as_str().to_owned()),
            Ok(Message::Close(_)) => return Err(()),
            Ok(_) => {}
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                break;
            }
            Err(_) => return Err(()),
        }
    }
    Ok(messages)
}
