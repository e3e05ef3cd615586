//! One client connection: the request, then the WebSocket, then the end.

mod open;
mod reply;
mod request;
mod shared;
mod timer;

pub use self::shared::ConnCore;

use crate::auth::Challenge;
use crate::counters::{CloseCause, Refusal};
use crate::http::response::{Response, Status, refusal};
use crate::outbox::{Outbox, OutboxBudget};
use crate::rate::Bucket;
use crate::ws::{Decoder, Opcode, WindowBits, close};
use core::net::{IpAddr, Ipv4Addr};
use proto::{ClientMessage, Now, PublicKey};
use request::Request;

/// What the engine has to know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnEvent {
    /// A trusted proxy named the client. Admission moves the connection to this address, and
    /// [`Conn::refuse_admission`] ends it if the address is refused. Comes before `Opened`.
    ClientAddress(IpAddr),
    /// The WebSocket is open; the AUTH challenge is queued.
    Opened,
    /// EVENT, REQ, COUNT or CLOSE, within the rates. Never AUTH.
    Message(ClientMessage),
    /// This key authenticated; OK is queued.
    Authenticated(PublicKey),
    /// `/health` was asked for: [`Conn::respond_http`] answers.
    HttpHealth,
    /// `/metrics` was asked for: [`Conn::respond_http`] answers, with 403 for strangers.
    HttpMetrics,
    /// The connection begins to end. Nothing follows.
    Closing(CloseCause),
}

/// Who stands behind a connection, as far as the socket that it came by tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody.
    Public,
    /// The operator, by a socket that only the operator can open: no rates, no AUTH, no proxies in
    /// between, and protected events of others are taken, as a restored backup holds them. Sizes,
    /// deadlines and the limits on output stay.
    Operator,
}

/// What is to be done with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// Nothing yet: read, write and tick as before.
    None,
    /// Everything is written: shut down the writing half and read on until the peer closes or
    /// [`Conn::tick`] ends it. Closing at once while received bytes lie unread would reset the
    /// connection, and the peer might never see our last words.
    HalfClose,
    /// Close the socket and [`Conn::release`].
    Close,
}

/// Where the connection stands.
#[derive(Debug)]
enum State {
    /// Before the WebSocket: reading the request, or waiting for the engine's answer.
    Request(Box<Request>),
    /// A WebSocket.
    Open,
    /// Our Close frame is queued; the peer's is awaited.
    Closing,
    /// The last bytes are queued; input is discarded until the peer closes.
    Lingering,
    /// The last bytes are queued, and the peer has said everything or will not be heard.
    Flushing,
    /// Nothing more is sent.
    Dead,
}

/// Token buckets of a connection.
#[derive(Debug, Default)]
struct Buckets {
    messages: Bucket,
    events: Bucket,
    queries: Bucket,
    invalid: Bucket,
}

/// One client connection. Owned by its home core; at most 300 bytes while idle, plus 32 for each
/// authenticated key. Half-received messages and queued output are bounded by [`ConnCore`]'s
/// budgets and given back when they are done with.
#[derive(Debug)]
pub struct Conn {
    state: State,
    outbox: Outbox,
    decoder: Decoder,
    /// Authenticated keys.
    keys: Vec<PublicKey>,
    /// `Host` of the upgrade request.
    host: Box<str>,
    /// Received and not yet consumed while parked.
    stash: Vec<u8>,
    /// Handshake deadline, next ping or close deadline, by state.
    timer_ms: u64,
    buckets: Buckets,
    challenge: Challenge,
    /// The peer, or the client that a trusted proxy named.
    address: IpAddr,
    /// Why it ends; set once.
    cause: Option<CloseCause>,
    /// Set when permessage-deflate was agreed: the window that our side may use.
    deflate: Option<WindowBits>,
    trust: Trust,
    pings_unanswered: u8,
    /// Whether bytes came, or a backlog moved, since the last ping.
    has_heard: bool,
    is_parked: bool,
}

impl Conn {
    /// A connection that was just accepted from `peer`. `entropy` becomes the AUTH challenge and
    /// must not be predictable.
    pub fn new(now: Now, peer: IpAddr, entropy: [u8; 16], core: &ConnCore) -> Self {
        Self {
            state: State::Request(Box::default()),
            outbox: Outbox::default(),
            decoder: Decoder::default(),
            keys: Vec::new(),
            host: Box::default(),
            stash: Vec::new(),
            timer_ms: now.monotonic_ms.saturating_add(core.config.timeouts.handshake_ms),
            buckets: Buckets::default(),
            challenge: Challenge(entropy),
            address: peer.to_canonical(),
            cause: None,
            deflate: None,
            trust: Trust::Public,
            pings_unanswered: 0,
            has_heard: false,
            is_parked: false,
        }
    }

    /// A connection that was just accepted on the operator's own socket. It is no business of
    /// [`crate::Admission`].
    pub fn of_operator(now: Now, entropy: [u8; 16], core: &ConnCore) -> Self {
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { trust: Trust::Operator, ..Self::new(now, peer, entropy, core) }
    }

    /// Who stands behind it.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Consumes bytes from `data` until something happened that the engine has to know about.
    /// `None` means that all of `data` is consumed; the engine calls until then, also with empty
    /// `data` after an event, or parks the connection with the rest.
    pub fn next(&mut self, now: Now, data: &mut &[u8], core: &mut ConnCore) -> Option<ConnEvent> {
        match self.state {
            State::Request(_) => self.next_request(now, data, core),
            State::Open => self.next_open(now, data, core),
            State::Closing => {
                self.await_close(now, data, core);
                None
            }
            State::Lingering | State::Flushing | State::Dead => {
                *data = &[];
                None
            }
        }
    }

    /// Keeps `rest`, the bytes that [`Conn::next`] did not consume, while the engine reads no
    /// further from this connection. Time does not run against a parked client.
    pub fn stash(&mut self, rest: &[u8], core: &mut ConnCore) {
        core.input.take_anyway(rest.len());
        self.stash.extend_from_slice(rest);
        self.is_parked = true;
    }

    /// Ends parking and hands back what was kept, to be given to [`Conn::next`].
    pub fn take_stash(&mut self, core: &mut ConnCore) -> Vec<u8> {
        self.is_parked = false;
        let rest = std::mem::take(&mut self.stash);
        core.input.give(rest.len());
        rest
    }

    /// Whether [`Conn::stash`] was called and [`Conn::take_stash`] not yet.
    pub fn is_parked(&self) -> bool {
        self.is_parked
    }

    /// The client's address, as far as it is known.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The keys that authenticated on this connection, oldest first.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Whether this is a WebSocket that messages may be sent on.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Why the connection ends, once it does.
    pub fn close_cause(&self) -> Option<CloseCause> {
        self.cause
    }

    /// The output queue, to be looked at.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The next bytes to write. They count against the outbox until [`Conn::chunk_sent`].
    pub fn take_chunk(&mut self) -> Option<Vec<u8>> {
        self.outbox.take()
    }

    /// Takes back a chunk, unchanged, that was written whole. A chunk whose connection is gone
    /// goes to [`OutboxBudget::recycle`].
    pub fn chunk_sent(&mut self, chunk: Vec<u8>, core: &mut ConnCore) {
        self.outbox.sent(chunk, &mut core.outboxes);
        // A slow reader whose Pong waits behind what it has not read yet is alive: the kernel took
        // a chunk because the peer made room. A chunk that leaves nothing behind says nothing, it
        // may rest in the kernel's buffer for good.
        self.has_heard |= self.outbox.has_queued();
    }

    /// What is to be done with the socket; to be asked after every call that may end the
    /// connection or empty its outbox.
    pub fn teardown(&self) -> Teardown {
        let is_flushed = self.outbox.pending_bytes() == 0;
        match self.state {
            State::Dead => Teardown::Close,
            State::Flushing if is_flushed => Teardown::Close,
            State::Lingering if is_flushed => Teardown::HalfClose,
            _ => Teardown::None,
        }
    }

    /// Begins to end the connection: Close frame, then the peer's, then the end; at once where the
    /// cause has no frame. Does nothing to a connection that is ending.
    pub fn begin_close(&mut self, now: Now, cause: CloseCause, core: &mut ConnCore) {
        match self.state {
            State::Request(_) if cause == CloseCause::ShuttingDown => {
                self.clear_request(core);
                let response = refusal(Status::Unavailable, cause.text(), false);
                let deadline_ms = now.monotonic_ms.saturating_add(core.config.timeouts.close_ms);
                self.respond(deadline_ms, &response, cause, &mut core.outboxes);
            }
            State::Request(_) => self.abort(cause, core),
            State::Open => self.close_open(now, cause, core),
            State::Closing | State::Lingering | State::Flushing | State::Dead => {}
        }
    }

    fn close_open(&mut self, now: Now, cause: CloseCause, core: &mut ConnCore) {
        let Some(code) = cause.code() else { return self.abort(cause, core) };
        let payload = close::payload(code, cause.text());
        self.outbox.push_control(Opcode::Close, &payload, &mut core.outboxes);
        core.counters.frames_out += 1;
        // After a violation the peer's frames mean nothing; otherwise its Close frame is awaited.
        self.state = match cause {
            CloseCause::ShuttingDown | CloseCause::InvalidLimit | CloseCause::Internal => {
                State::Closing
            }
            _ => State::Lingering,
        };
        if matches!(self.state, State::Lingering) {
            self.decoder.clear(&mut core.input);
        }
        self.cause = Some(cause);
        self.timer_ms = now.monotonic_ms.saturating_add(core.config.timeouts.close_ms);
    }

    /// Ends the connection without another byte: the peer does not read, or is gone.
    pub fn abort(&mut self, cause: CloseCause, core: &mut ConnCore) {
        self.cause.get_or_insert(cause);
        self.clear_request(core);
        self.state = State::Dead;
        self.outbox.clear(&mut core.outboxes);
        self.decoder.clear(&mut core.input);
    }

    /// Answers an HTTP request that came as [`ConnEvent::HttpHealth`] or
    /// [`ConnEvent::HttpMetrics`]. Does nothing in any other state.
    pub fn respond_http(
        &mut self,
        now: Now,
        status: u16,
        content_type: &str,
        body: &[u8],
        core: &mut ConnCore,
    ) {
        let State::Request(request) = &self.state else { return };
        let is_head = request.is_head;
        let headers = "Cache-Control: no-store\r\n";
        let response = Response { status, content_type, headers, body, is_head };
        // As long as a message may take to come, an answer may take to go.
        let deadline_ms = now.monotonic_ms.saturating_add(core.config.timeouts.message_ms);
        self.respond(deadline_ms, &response, CloseCause::HttpAnswered, &mut core.outboxes);
    }

    /// Ends a connection whose client admission refused. One that was refused before anything was
    /// read is closed as soon as the answer is with the kernel: nobody counts it, so lingering for
    /// its request would let a flood hold descriptors, and the answer is a courtesy.
    pub fn refuse_admission(&mut self, now: Now, reason: Refusal, core: &mut ConnCore) {
        core.counters.not_admitted[reason as usize] += 1;
        let is_unread =
            matches!(&self.state, State::Request(request) if request.has_read_nothing());
        self.clear_request(core);
        let status = match reason {
            Refusal::CoreFull => Status::Unavailable,
            Refusal::AddressFull | Refusal::AddressRate => Status::TooManyRequests,
        };
        let deadline_ms = now.monotonic_ms.saturating_add(core.config.timeouts.close_ms);
        let response = refusal(status, reason.text(), false);
        self.respond(deadline_ms, &response, CloseCause::NotAdmitted, &mut core.outboxes);
        if is_unread {
            self.state = State::Flushing;
        }
    }

    fn respond(
        &mut self,
        deadline_ms: u64,
        response: &Response<'_>,
        cause: CloseCause,
        outboxes: &mut OutboxBudget,
    ) {
        self.outbox.push_raw(response.head().as_bytes(), outboxes);
        self.outbox.push_raw(response.body(), outboxes);
        self.cause = Some(cause);
        self.state = State::Lingering;
        self.timer_ms = deadline_ms;
    }

    /// Gives everything back and counts the end: the last call. A connection that was not ending
    /// lost its peer. Chunks in flight go to [`OutboxBudget::recycle`] when their write is over.
    pub fn release(mut self, core: &mut ConnCore) -> CloseCause {
        let cause = self.cause.unwrap_or(CloseCause::PeerGone);
        self.clear_request(core);
        self.outbox.clear(&mut core.outboxes);
        self.decoder.clear(&mut core.input);
        core.input.give(self.stash.len());
        core.counters.closed[cause as usize] += 1;
        cause
    }
}
