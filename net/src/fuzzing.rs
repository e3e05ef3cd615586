//! Bodies of the fuzz targets, so that the fuzzer, the committed corpus and the property tests run
//! the same code. Each panics when a promise is broken.
//!
//! The first bytes of the input say where to cut the rest: a length, then as many cut distances.

use crate::config::{CompressionConfig, ConnConfig};
use crate::conn::{Conn, ConnCore, ConnEvent, Teardown};
use crate::counters::CloseCause;
use crate::proxy::Cidr;
use crate::ws::utf8::Utf8Stream;
use crate::ws::{
    Decoder, DecoderLimits, Deflater, Incoming, Inflater, InputBudget, Violation, WindowBits,
    Workspace,
};
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

/// The same, with an offer of permessage-deflate.
pub const UPGRADE_DEFLATE: &[u8] = b"GET / HTTP/1.1\r\nHost: relay.example\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
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

fn decode(
    pieces: &[&[u8]],
    mut inflater: Option<&mut Inflater>,
) -> (Vec<(Incoming, Vec<u8>)>, Option<Violation>) {
    let mut decoder = Decoder::default();
    let mut budget = InputBudget::new(INPUT_BYTES_MAX);
    let mut scratch = Vec::new();
    let mut seen = Vec::new();
    for piece in pieces {
        let mut data = *piece;
        loop {
            let inflater = inflater.as_deref_mut();
            let mut work = Workspace { scratch: &mut scratch, budget: &mut budget, inflater };
            match decoder.next(0, &mut data, &LIMITS, &mut work) {
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
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let mut inflater = Inflater::default();
    for is_deflate_agreed in [false, true] {
        let mut decode =
            |pieces: &[&[u8]]| decode(pieces, is_deflate_agreed.then_some(&mut inflater));
        let whole = decode(&[bytes]);
        assert_eq!(decode(&pieces), whole, "cuts changed what was decoded");
        assert_eq!(decode(&single), whole, "single bytes changed what was decoded");
        for (incoming, payload) in &whole.0 {
            assert!(payload.len() <= LIMITS.message_bytes_max);
            assert!(*incoming != Incoming::Text || std::str::from_utf8(payload).is_ok());
        }
    }
}

/// Fuzz target `inflate_limited`: any bytes as a compressed message. The inflater must not panic,
/// never passes the limit, gives back its budget and keeps nothing from one message to the next;
/// and what our own deflater makes of the same bytes must come back.
pub fn inflate_limited(input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else { return };
    let message_bytes_max = usize::from(*first) * 256;
    let mut budget = InputBudget::new(INPUT_BYTES_MAX);
    let mut inflater = Inflater::default();
    let mut inflate = |bytes: &[u8], bytes_max: usize| {
        let mut message = bytes.to_vec();
        let inflated = inflater.inflate(&mut message, bytes_max, &mut budget);
        assert_eq!(budget.held_bytes(), 0, "an inflated message is charged no more");
        inflated.map(|()| message)
    };
    let hostile = inflate(bytes, message_bytes_max);
    if let Ok(message) = &hostile {
        assert!(message.len() <= message_bytes_max);
    }
    let window = WindowBits::new(8 + first % 8).unwrap_or(WindowBits::MAX);
    let mut deflater = Deflater::new(1 + first % 9);
    if let Some(deflated) = deflater.message(&[bytes], window) {
        let deflated = deflated.to_vec();
        assert_eq!(inflate(&deflated, bytes.len()).as_deref(), Ok(bytes));
        let too_long = inflate(&deflated, bytes.len() - 1);
        assert_eq!(too_long, Err(Violation::TooLong), "one byte more than the limit");
    }
    let prefix = &bytes[..bytes.len() / 3];
    if let Some(parts) = deflater.event(prefix, bytes, window, &mut [0; 5]) {
        let expected = [prefix, bytes, b"]"].concat();
        assert_eq!(inflate(&parts.concat(), expected.len()), Ok(expected));
    }
    assert_eq!(inflate(bytes, message_bytes_max), hostile, "messages depend on each other");
}

/// Fuzz target `utf8`: any bytes as text that comes in pieces. It is text exactly where the whole
/// is, and is refused with the first byte after which nothing can make it text.
pub fn utf8(input: &[u8]) {
    let (bytes, pieces) = pieces(input);
    let begins_text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    let (mut stream, mut seen) = (Utf8Stream::default(), 0);
    for piece in pieces {
        seen += piece.len();
        let is_fed = stream.feed(piece).is_ok();
        assert_eq!(is_fed, begins_text(&bytes[..seen]), "{:x?}", &bytes[..seen]);
        if !is_fed {
            return;
        }
        assert_eq!(stream.is_complete(), std::str::from_utf8(&bytes[..seen]).is_ok());
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
    let compression = CompressionConfig { enabled: true, ..CompressionConfig::default() };
    let config = ConnConfig { compression, negentropy: true, ..ConnConfig::default() };
    for upgrade in [UPGRADE, UPGRADE_DEFLATE] {
        let whole = observe(&[&[upgrade, bytes].concat()], &config);
        let mut cut = vec![upgrade];
        cut.extend(&pieces);
        assert_eq!(observe(&cut, &config), whole, "cuts changed what was observed");
    }
}

/// Fuzz target `http_request`: any bytes as the beginning of a connection.
pub fn http_request(input: &[u8]) {
    let (bytes, pieces) = pieces(input);
    let mut config = ConnConfig::default();
    config.trusted_proxies.0.extend("192.0.2.0/24".parse::<Cidr>());
    let whole = observe(&[bytes], &config);
    assert_eq!(observe(&pieces, &config), whole, "cuts changed what was observed");
}
