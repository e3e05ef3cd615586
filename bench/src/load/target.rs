//! Where the relay is: the URL taken apart and resolved.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "asks the resolver of the machine, and the relay who it is"
)]

use super::LoadError;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a relay may take to say who it is.
const NIP11_PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of its answer that are read.
const NIP11_BYTES_MAX: u64 = 256 << 10;

/// A relay's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As the user wrote it.
    pub url: String,
    /// Value of the `Host` header.
    pub host: String,
    /// Path and query of the request.
    pub path: String,
    /// Where to connect.
    pub address: SocketAddr,
    /// Bytes of the longest message that the relay says it takes (NIP-11); longer ones are not sent,
    /// since many relays answer them by closing the connection.
    pub message_bytes_max: Option<u64>,
}

impl Target {
    /// Takes `ws://host[:port][/path]` apart and resolves the host.
    ///
    /// # Errors
    /// If the URL is of another form or the host has no address.
    pub fn parse(url: &str) -> Result<Self, LoadError> {
        let bad = |why: &str| LoadError::Url { url: url.to_owned(), why: why.to_owned() };
        let Some(rest) = url.strip_prefix("ws://") else {
            let why = if url.starts_with("wss://") {
                "TLS would be measured with the relay; name the port behind the TLS proxy as ws://"
            } else {
                "it has to begin with ws://"
            };
            return Err(bad(why));
        };
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) if rest.as_bytes()[at] == b'/' => (&rest[..at], rest[at..].to_owned()),
            Some(at) => (&rest[..at], format!("/{}", &rest[at..])),
            None => (rest, "/".to_owned()),
        };
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
            !name.is_empty()
                && port.parse::<u16>().is_ok()
                && (!name.contains(':') || name.ends_with(']'))
        });
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = with_port
            .to_socket_addrs()
            .map_err(|error| bad(&error.to_string()))?
            // Relays that listen on `127.0.0.1` alone are the common case on a test machine.
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| bad("its host has no address"))?;
        let (url, host) = (url.to_owned(), host.to_owned());
        Ok(Self { url, host, path, address, message_bytes_max: None })
    }

    /// What the relay says about itself (NIP-11).
    pub fn information(&self) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect_timeout(&self.address, NIP11_PATIENCE).ok()?;
        stream.set_read_timeout(Some(NIP11_PATIENCE)).ok()?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: application/nostr+json\r\nConnection: close\r\n\r\n",
            self.path, self.host
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // Whoever keeps the connection open ends the read by the timeout; what came is used.
        let _ = stream.take(NIP11_BYTES_MAX).read_to_end(&mut answer);
        let from = answer.iter().position(|byte| *byte == b'{')?;
        let to = answer.iter().rposition(|byte| *byte == b'}')?;
        serde_json::from_slice(answer.get(from..=to)?).ok()
    }

    /// Learns from the relay how long a message may be.
    pub fn learn_limits(&mut self) {
        let information = self.information().unwrap_or_default();
        self.message_bytes_max = information["limitation"]["max_message_length"].as_u64();
    }

    /// The request that opens a WebSocket, with the nonce of RFC 6455's example: what it is asked
    /// for is that a proxy does not answer from a cache, and that it fits [`ACCEPT`].
    pub fn upgrade(&self) -> Vec<u8> {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             User-Agent: turnpike-bench/{}\r\n\r\n",
            self.path,
            self.host,
            env!("CARGO_PKG_VERSION"),
        )
        .into_bytes()
    }
}

/// What a server that took the upgrade answers to the nonce of [`Target::upgrade`].
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Bytes of a response head after which it is called broken.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Reads the response head at the start of `input`: its length, `None` while it is incomplete.
///
/// # Errors
/// If the relay refuses; with what it said first.
pub fn read_upgrade(input: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
        if input.len() > HEAD_BYTES_MAX {
            return Err("the response head does not end".to_owned());
        }
        return Ok(None);
    };
    let head = &input[..end];
    let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let status = String::from_utf8_lossy(status).into_owned();
    if status.split(' ').nth(1) != Some("101") {
        return Err(status);
    }
    if memchr::memmem::find(head, ACCEPT).is_none() {
        return Err("the accept key is wrong".to_owned());
    }
    Ok(Some(end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("ws://127.0.0.1:7777").unwrap();
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:7777", "/"));
        assert_eq!(target.address, "127.0.0.1:7777".parse().unwrap());
        let target = Target::parse("ws://127.0.0.1/relay?key=1").unwrap();
        assert_eq!((target.address.port(), target.path.as_str()), (80, "/relay?key=1"));
        let target = Target::parse("ws://[::1]:99?x").unwrap();
        assert_eq!((target.address.port(), target.path.as_str()), (99, "/?x"));
        assert_eq!(Target::parse("ws://[::1]/").unwrap().address.port(), 80);
        for bad in ["http://a", "wss://a", "ws://", "ws:///x"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_upgrade_is_taken_only_with_its_key() {
        let good = b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: \
            s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nrest";
        assert_eq!(read_upgrade(good), Ok(Some(good.len() - 4)));
        assert_eq!(read_upgrade(&good[..40]), Ok(None));
        assert!(read_upgrade(b"HTTP/1.1 101 OK\r\n\r\n").is_err());
        assert_eq!(read_upgrade(b"HTTP/1.1 503 Busy\r\n\r\n"), Err("HTTP/1.1 503 Busy".into()));
    }
}
