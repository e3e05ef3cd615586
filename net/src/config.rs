//! What an operator sets about connections. One copy per core, replaced as a whole on reload.

use crate::http::Pages;
use crate::outbox::OutboxLimits;
use crate::proxy::TrustedProxies;
use crate::rate::Rate;
use proto::Limits;

/// Fragments of one message.
pub const FRAGMENTS_MAX: u32 = 64;
/// Keys that one connection may authenticate.
pub const AUTH_KEYS_MAX: usize = 16;
/// Bytes that unfinished messages and parked input of one core may hold.
pub const INPUT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Messages shorter than this are sent as they are.
pub const COMPRESSION_THRESHOLD_BYTES: usize = 512;
/// Effort of the deflater. Level 1 halves the time and finds next to nothing in an event, higher
/// ones find no more.
pub const COMPRESSION_LEVEL: u8 = 3;

/// Deadlines of a connection, in milliseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to a finished upgrade request.
    pub handshake_ms: u64,
    /// From the first byte of a message to its last.
    pub message_ms: u64,
    /// Silence after which a ping is sent, and again after each ping.
    pub ping_ms: u64,
    /// Pings in a row that may go unanswered; one more interval ends the connection.
    pub pings_missed_max: u8,
    /// From our Close frame, or an HTTP answer, to the end of the socket.
    pub close_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake_ms: 5_000,
            message_ms: 30_000,
            ping_ms: 30_000,
            pings_missed_max: 2,
            close_ms: 5_000,
        }
    }
}

/// Rates per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Messages of any kind; pings count, too.
    pub messages: Rate,
    /// EVENT messages.
    pub events: Rate,
    /// Cost of REQ and COUNT, one token per filter, and of NEG-OPEN and NEG-MSG, one token each.
    pub queries: Rate,
    /// Malformed messages and invalid events; beyond it the connection is closed.
    pub invalid: Rate,
}

impl Rates {
    /// No limits.
    pub const OFF: Self =
        Self { messages: Rate::OFF, events: Rate::OFF, queries: Rate::OFF, invalid: Rate::OFF };
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            messages: Rate::per_second(100),
            events: Rate::per_second(50),
            queries: Rate::per_second(200),
            invalid: Rate::per_minute(20),
        }
    }
}

/// Compression of messages (permessage-deflate). Off by default: a stored event costs a thousand
/// times as much time to send (`sim/conformance/README.md` has the figures).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionConfig {
    /// Whether it is agreed to when a client offers it. Switched off by a reload, nothing is
    /// compressed any more; who agreed before may still send compressed messages.
    pub enabled: bool,
    /// Shorter messages are sent as they are.
    pub threshold_bytes: usize,
    /// 1 (fast) to 9 (small).
    pub level: u8,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            threshold_bytes: COMPRESSION_THRESHOLD_BYTES,
            level: COMPRESSION_LEVEL,
        }
    }
}

/// The configuration of the connections of a core.
#[derive(Clone, Debug)]
pub struct ConnConfig {
    /// Limits of the protocol.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Rates.
    pub rates: Rates,
    /// Output limits of one connection.
    pub outbox: OutboxLimits,
    /// Compression.
    pub compression: CompressionConfig,
    /// Bytes that all outboxes of the core may hold.
    pub outbox_total_bytes_max: usize,
    /// Bytes of request heads, unfinished messages and parked input of the core beyond which
    /// unfinished messages may not grow past 16 KiB.
    pub input_bytes_max: usize,
    /// Fragments of one message.
    pub fragments_max: u32,
    /// Keys that one connection may authenticate.
    pub auth_keys_max: usize,
    /// Whether a client must authenticate before anything else.
    pub auth_required: bool,
    /// Whether NEG-OPEN is passed on (NIP-77).
    pub negentropy: bool,
    /// The URL that clients know this relay by. While unset, the `Host` of the upgrade request
    /// counts.
    pub public_url: Option<String>,
    /// Whose word about the client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// The NIP-11 document and the landing page, as bytes.
    pub pages: Pages,
}

impl Default for ConnConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            rates: Rates::default(),
            outbox: OutboxLimits::default(),
            compression: CompressionConfig::default(),
            outbox_total_bytes_max: crate::outbox::TOTAL_BYTES_MAX,
            input_bytes_max: INPUT_BYTES_MAX,
            fragments_max: FRAGMENTS_MAX,
            auth_keys_max: AUTH_KEYS_MAX,
            auth_required: false,
            negentropy: false,
            public_url: None,
            trusted_proxies: TrustedProxies::default(),
            pages: Pages::render(&crate::info::RelayDocument::default(), None),
        }
    }
}
