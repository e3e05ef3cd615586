//! Bodies of the fuzz targets, so that the fuzzer, the committed corpus and the property tests run
//! the same code. Each panics when a promise is broken.
//!
//! The first bytes of the input say where to cut the rest: a length, then as many cut distances.

use crate::config::ConnConfig;
use crate::conn::{Conn, ConnCore, ConnEvent, Teardown};
use crate::counters::CloseCause;
use crate::proxy::Cidr;
use crate::ws::{Decoder, DecoderLimits, Incoming, InputBudget, Violation};
use core::net::{IpAddr, Ipv4Addr};
use proto::Now;
use proto::verify::{Verifier, VerifyItem};

/// Limits small enough for a fuzzer to reach.
const LIMITS: DecoderLimits = DecoderLimits { message_bytes_max: 4_096, fragments_max: 8 };
const INPUT_BYTES_MAX: usize = 1 << 20;

/// An upgrade request that every [`Conn`] accepts.
pub const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: relay.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Everything a peer can observe of a connection, and everything the engine can.
#[derive(Debug, PartialEq)]
pub struct Observed {
    /// Events in order.
    pub events: Vec<ConnEvent>,
    /// Bytes sent.
    pub output: Vec<u8>,
    /// How it ended, if it did.
    pub cause: Option<CloseCause>,
    /// What is to be done with the socket.
    pub teardown: Teardown,
}

/// Takes no signature; AUTH then fails by a rule that does not depend on cuts.
struct NoSignature;

impl Verifier for NoSignature {
    fn verify(&mut self, _: &VerifyItem) -> bool {
        false
    }
}

/// A core whose verifier refuses every signature.
pub fn core(config: ConnConfig) -> ConnCore {
    ConnCore::new(config, Box::new(NoSignature))
}

/// Cuts `bytes` at the distances that the input's own head names.
fn pieces(input: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let Some((count, rest)) = input.split_first() else { return (&[], Vec::new()) };
    let count = usize::from(*count % 32).min(rest.len());
    let (distances, bytes) = rest.split_at(count);
    let mut left = bytes;
    let mut pieces = Vec::new();
    for distance in distances {
        let (piece, rest) = left.split_at(usize::from(*distance).min(left.len()));
        pieces.push(piece);
        left = rest;
    }
    pieces.push(left);
    (bytes, pieces)
}

fn decode(pieces: &[&[u8]]) -> (Vec<(Incoming, Vec<u8>)>, Option<Violation>) {
    let mut decoder = Decoder::default();
    let mut budget = InputBudget::new(INPUT_BYTES_MAX);
    let mut scratch = Vec::new();
    let mut seen = Vec::new();
    for piece in pieces {
        let mut data = *piece;
        loop {
            match decoder.next(0, &mut data, &mut scratch, &LIMITS, &mut budget) {
                Ok(None) => break,
                Ok(Some(incoming)) => seen.push((incoming, scratch.clone())),
                Err(violation) => {
                    decoder.clear(&mut budget);
                    assert_eq!(budget.held_bytes(), 0, "a failed decoder holds nothing");
                    return (seen, Some(violation));
                }
            }
        }
        assert!(data.is_empty(), "bytes were left while nothing was reported");
    }
    decoder.clear(&mut budget);
    assert_eq!(budget.held_bytes(), 0, "a cleared decoder holds nothing");
    (seen, None)
}

/// Fuzz target `ws_frames`: any bytes into the decoder. It must not panic, must see the same
/// however the bytes are cut, keeps to the limits, and passes on only valid text.
pub fn ws_frames(input: &[u8]) {
    let (bytes, pieces) = pieces(input);
    let whole = decode(&[bytes]);
    assert_eq!(decode(&pieces), whole, "cuts changed what was decoded");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(decode(&single), whole, "single bytes changed what was decoded");
    for (incoming, payload) in &whole.0 {
        assert!(payload.len() <= LIMITS.message_bytes_max);
        assert!(*incoming != Incoming::Text || std::str::from_utf8(payload).is_ok());
    }
}

/// Runs a connection over `pieces`, first from `peer`, and says what was observed.
pub fn observe(pieces: &[&[u8]], config: &ConnConfig) -> Observed {
    let mut core = core(config.clone());
    let now = Now { monotonic_ms: 1_000, unix_s: 1_700_000_000 };
    let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let mut conn = Conn::new(now, peer, [7; 16], &core);
    let mut events = Vec::new();
    for piece in pieces {
        let mut data = *piece;
        while let Some(event) = conn.next(now, &mut data, &mut core) {
            if matches!(event, ConnEvent::HttpHealth | ConnEvent::HttpMetrics) {
                conn.respond_http(now, 200, "text/plain", b"well\n", &mut core);
            }
            events.push(event);
        }
        assert!(data.is_empty(), "bytes were left while nothing was reported");
    }
    let mut output = Vec::new();
    while let Some(chunk) = conn.take_chunk() {
        output.extend_from_slice(&chunk);
        conn.chunk_sent(chunk, &mut core);
    }
    assert_eq!(conn.outbox().pending_bytes(), 0, "a written outbox is empty");
    let (cause, teardown) = (conn.close_cause(), conn.teardown());
    conn.release(&mut core);
    assert_eq!(core.input.held_bytes(), 0, "a released connection holds no input");
    assert_eq!(core.outboxes.held_bytes(), 0, "a released connection holds no output");
    Observed { events, output, cause, teardown }
}

/// Fuzz target `ws_conn`: any bytes into a connection after a valid upgrade. It must not panic,
/// must behave the same however the bytes are cut, and gives back all memory.
pub fn ws_conn(input: &[u8]) {
    let (bytes, pieces) = pieces(input);
    let config = ConnConfig::default();
    let whole = observe(&[&[UPGRADE, bytes].concat()], &config);
    let mut cut = vec![UPGRADE];
    cut.extend(pieces);
    assert_eq!(observe(&cut, &config), whole, "cuts changed what was observed");
}

/// Fuzz target `http_request`: any bytes as the beginning of a connection.
pub fn http_request(input: &[u8]) {
    let (bytes, pieces) = pieces(input);
    let mut config = ConnConfig::default();
    config.trusted_proxies.0.extend("192.0.2.0/24".parse::<Cidr>());
    let whole = observe(&[bytes], &config);
    assert_eq!(observe(&pieces, &config), whole, "cuts changed what was observed");
}
