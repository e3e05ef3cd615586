//! The connections of a core and their home: bytes in, messages to shards and bytes out.

use crate::machine::Machine;
use crate::socket::{Peer, Sending, SocketId};
use crate::timers::Timers;
use crate::timings::Timings;
use net::admission::Admitted;
use net::{
    Admission, CloseCause, Conn, ConnCore, ConnEvent, Pushed, Teardown, Trust, TrustedProxies,
};
use proto::{ClientMessage, EventId, Now, SeededMap, SeededState};
use shards::message::Client;
use shards::{Home, HomeEffects, HomeInput, Reply};
use std::net::IpAddr;
use std::rc::Rc;

/// Live events that a reader gets in one turn before it is given the time to take them: a fraction
/// of what makes a reader slow.
const BURST_BYTES_MAX: usize = 64 * 1024;
/// Requests whose duration is being measured, per core; more go unmeasured.
const MEASURED_MAX: usize = 16 * 1024;
/// One event in so many is timed: that is enough for a distribution, and costs two looks at a clock and
/// two at a map.
const TIMED_ONE_IN: u8 = 8;
/// Requests of clients that left before the answer are forgotten after this long.
const MEASURED_US_MAX: u64 = 60_000_000;

/// One connection and what the loop knows about its socket.
struct Entry {
    socket: SocketId,
    conn: Conn,
    /// How admission counts it; `None` if it was refused, or came through the local socket.
    admitted: Option<Admitted>,
    /// A chunk is with the machine.
    is_sending: bool,
    is_half_closed: bool,
    /// The peer sends no more: it is closed when it has been told everything.
    has_ended: bool,
    /// The home gives it no stored rows until its outbox is low again.
    is_paused: bool,
    is_dirty: bool,
    /// Bytes of live events since its output was last handed to the machine.
    burst_bytes: usize,
    /// The earliest deadline in the timers.
    armed_ms: u64,
}

/// Owned by one core. Bounded by admission (connections), the outbox and input budgets of
/// [`ConnCore`], and the home's own bounds.
pub struct Clients {
    entries: Vec<Option<Entry>>,
    /// What the connections share.
    pub net: ConnCore,
    /// Who may connect.
    pub admission: Admission,
    /// Their home.
    pub home: Home,
    pub(crate) effects: HomeEffects,
    /// What is measured.
    pub timings: Timings,
    /// Who may read the metrics.
    pub metrics_allow: TrustedProxies,
    scrapers: Vec<SocketId>,
    /// Microseconds of a monotonic clock, for `timings` and nothing else.
    stopwatch: fn() -> u64,
    is_crowded: bool,
    timers: Timers,
    dirty: Vec<SocketId>,
    is_behind: bool,
    pauses: Vec<(SocketId, bool)>,
    unparked: Vec<SocketId>,
    events_since_us: SeededMap<(u32, EventId), u64>,
    queries_since_us: SeededMap<(u32, Rc<str>), u64>,
    json: Vec<u8>,
    open: usize,
    is_draining: bool,
}

fn client_of(socket: SocketId) -> Client {
    Client { slot: socket.index, generation: socket.generation }
}

fn socket_of(client: Client) -> SocketId {
    SocketId { index: client.slot, generation: client.generation }
}

/// Whether this event is one of those that are timed; ids are spread evenly.
fn is_timed(id: &EventId) -> bool {
    id.0[31].is_multiple_of(TIMED_ONE_IN)
}

/// The entry of `socket`, if that is still its user's.
fn find(entries: &mut [Option<Entry>], socket: SocketId) -> Option<&mut Entry> {
    let entry = entries.get_mut(socket.index as usize)?.as_mut()?;
    (entry.socket == socket).then_some(entry)
}

/// The entry is to be looked at when the turn's output is written.
fn mark_dirty(entry: &mut Entry, dirty: &mut Vec<SocketId>) {
    if !entry.is_dirty {
        entry.is_dirty = true;
        dirty.push(entry.socket);
    }
}

impl Clients {
    /// Without connections yet; `stopwatch` tells microseconds for the timings.
    pub fn new(
        (net, admission, home): (ConnCore, Admission, Home),
        metrics_allow: TrustedProxies,
        seed: SeededState,
        stopwatch: fn() -> u64,
    ) -> Self {
        Self {
            entries: Vec::new(),
            stopwatch,
            is_crowded: false,
            net,
            admission,
            home,
            effects: HomeEffects::default(),
            timings: Timings::default(),
            metrics_allow,
            scrapers: Vec::new(),
            timers: Timers::default(),
            dirty: Vec::new(),
            is_behind: false,
            pauses: Vec::new(),
            unparked: Vec::new(),
            events_since_us: SeededMap::with_hasher(seed),
            queries_since_us: SeededMap::with_hasher(seed),
            json: Vec::new(),
            open: 0,
            is_draining: false,
        }
    }

    /// Gives the home something to do; its replies wait for the turn's deliveries.
    pub fn step(&mut self, now: Now, input: HomeInput) {
        self.home.step(now, input, &mut self.effects);
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Whether a turn would get anything done.
    pub(crate) fn has_work(&self) -> bool {
        self.is_behind
            || !(self.dirty.is_empty()
                && self.unparked.is_empty()
                && self.pauses.is_empty()
                && self.effects.replies.is_empty()
                && self.effects.to_shard.is_empty()
                && self.effects.door.is_empty())
    }

    fn entry(&mut self, socket: SocketId) -> Option<&mut Entry> {
        find(&mut self.entries, socket)
    }

    /// Takes an entry out while its connection and the home are worked on together.
    fn take(&mut self, socket: SocketId) -> Option<Entry> {
        self.entry(socket)?;
        self.entries[socket.index as usize].take()
    }

    /// Puts an entry back, to be looked at when the turn's output is written.
    fn put(&mut self, mut entry: Entry) {
        mark_dirty(&mut entry, &mut self.dirty);
        let place = entry.socket.index as usize;
        self.entries[place] = Some(entry);
    }

    fn mark(&mut self, socket: SocketId) {
        if let Some(entry) = find(&mut self.entries, socket) {
            mark_dirty(entry, &mut self.dirty);
        }
    }

    /// A connection was accepted; reading has begun. `entropy` becomes its AUTH challenge and must
    /// not be predictable.
    pub fn accepted(&mut self, now: Now, socket: SocketId, peer: Peer, entropy: [u8; 16]) {
        let place = socket.index as usize;
        if self.entries.len() <= place {
            self.entries.resize_with(place + 1, || None);
        }
        let (mut conn, admitted) = match peer {
            Peer::Remote(address) => self.admit(now, address.ip().to_canonical(), entropy),
            // The operator's own: above the limits on strangers.
            Peer::Local => {
                let input = HomeInput::Trusted(client_of(socket));
                self.home.step(now, input, &mut self.effects);
                (Conn::of_operator(now, entropy, &self.net), None)
            }
        };
        if self.is_draining {
            conn.begin_close(now, CloseCause::ShuttingDown, &mut self.net);
        }
        self.open += 1;
        self.put(Entry {
            socket,
            conn,
            admitted,
            is_sending: false,
            is_half_closed: false,
            has_ended: false,
            is_paused: false,
            is_dirty: false,
            burst_bytes: 0,
            armed_ms: u64::MAX,
        });
        self.is_crowded |= self.admission.take_warning().is_some();
    }

    fn admit(&mut self, now: Now, address: IpAddr, entropy: [u8; 16]) -> (Conn, Option<Admitted>) {
        let mut conn = Conn::new(now, address, entropy, &self.net);
        let trusted = &self.net.config.trusted_proxies;
        match self.admission.admit(now.monotonic_ms, address, trusted) {
            Ok(admitted) => (conn, Some(admitted)),
            Err(refusal) => {
                conn.refuse_admission(now, refusal, &mut self.net);
                (conn, None)
            }
        }
    }

    /// Whether one address has used up its connections since the last call, which the operator
    /// should hear of.
    pub fn take_crowded(&mut self) -> bool {
        std::mem::take(&mut self.is_crowded)
    }

    /// Whether anybody waits for the figures of all cores.
    pub fn has_scrapers(&self) -> bool {
        !self.scrapers.is_empty()
    }

    /// Bytes arrived.
    pub fn received(&mut self, now: Now, socket: SocketId, bytes: &[u8]) {
        let Some(mut entry) = self.take(socket) else { return };
        if entry.conn.is_parked() {
            // Was under way when reading stopped; bounded by what the kernel had received.
            entry.conn.stash(bytes, &mut self.net);
        } else {
            self.feed(now, &mut entry, bytes);
        }
        self.put(entry);
    }

    /// Gives bytes to the connection and what comes of them to the home, until they are used up or
    /// the home parks the client.
    fn feed(&mut self, now: Now, entry: &mut Entry, mut bytes: &[u8]) {
        while let Some(event) = entry.conn.next(now, &mut bytes, &mut self.net) {
            match event {
                ConnEvent::ClientAddress(address) => self.readmit(now, entry, address),
                ConnEvent::Message(message) => {
                    if self.message(now, entry, message) {
                        entry.conn.stash(bytes, &mut self.net);
                        self.pauses.push((entry.socket, true));
                        return;
                    }
                }
                ConnEvent::Authenticated(key) => {
                    let input = HomeInput::Authenticated(client_of(entry.socket), key);
                    self.home.step(now, input, &mut self.effects);
                }
                ConnEvent::HttpHealth => {
                    let (status, body): (u16, &[u8]) =
                        if self.is_draining { (503, b"shutting down\n") } else { (200, b"ok\n") };
                    let kind = "text/plain; charset=utf-8";
                    entry.conn.respond_http(now, status, kind, body, &mut self.net);
                }
                ConnEvent::HttpMetrics => self.metrics_asked(now, entry),
                // It takes nothing more: the home need not fan out to it while it says goodbye.
                ConnEvent::Closing(_) => {
                    let input = HomeInput::Gone(client_of(entry.socket));
                    self.home.step(now, input, &mut self.effects);
                }
                ConnEvent::Opened => self.opened(now, entry),
            }
        }
    }

    /// The policy door is told where a client comes from; of the operator's own it is told nothing.
    fn opened(&mut self, now: Now, entry: &Entry) {
        if entry.conn.trust() == Trust::Public {
            let input = HomeInput::Address(client_of(entry.socket), entry.conn.address());
            self.home.step(now, input, &mut self.effects);
        }
    }

    /// Hands a message to the home; `true` when the client is to be parked.
    fn message(&mut self, now: Now, entry: &Entry, message: ClientMessage) -> bool {
        let slot = entry.socket.index;
        match &message {
            ClientMessage::Event(event) if self.events_since_us.len() < MEASURED_MAX => {
                let id = event.view().id();
                if is_timed(&id) {
                    self.events_since_us.insert((slot, id), (self.stopwatch)());
                }
            }
            ClientMessage::Req(sub, _) if self.queries_since_us.len() < MEASURED_MAX => {
                let sub = Rc::from(&**sub);
                self.queries_since_us.insert((slot, sub), (self.stopwatch)());
            }
            _ => {}
        }
        let client = client_of(entry.socket);
        let before = self.effects.replies.len();
        self.home.step(now, HomeInput::Message(client, message), &mut self.effects);
        let mut new = self.effects.replies[before..].iter();
        new.any(|reply| matches!(reply, Reply::Park(parked) if *parked == client))
    }

    fn readmit(&mut self, now: Now, entry: &mut Entry, address: IpAddr) {
        let Some(admitted) = &mut entry.admitted else { return };
        if let Err(refusal) = self.admission.rename(now.monotonic_ms, admitted, address) {
            entry.conn.refuse_admission(now, refusal, &mut self.net);
        }
    }

    fn metrics_asked(&mut self, now: Now, entry: &mut Entry) {
        if self.metrics_allow.contains(entry.conn.address()) {
            self.scrapers.push(entry.socket);
        } else {
            let kind = "text/plain; charset=utf-8";
            entry.conn.respond_http(now, 403, kind, b"forbidden\n", &mut self.net);
        }
    }

    /// Answers those who wait for the metrics.
    pub fn answer_scrapers(&mut self, now: Now, text: &str) {
        for socket in std::mem::take(&mut self.scrapers) {
            let Some(mut entry) = self.take(socket) else { continue };
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            entry.conn.respond_http(now, 200, kind, text.as_bytes(), &mut self.net);
            self.put(entry);
        }
    }

    /// The peer sends no more.
    pub fn peer_closed(&mut self, socket: SocketId) {
        let Some(entry) = self.entry(socket) else { return };
        entry.has_ended = true;
        self.mark(socket);
    }

    /// A socket is of no further use.
    pub fn failed(&mut self, socket: SocketId) {
        let Some(mut entry) = self.take(socket) else { return };
        entry.conn.abort(CloseCause::PeerGone, &mut self.net);
        self.put(entry);
    }

    /// All of `chunk` is sent.
    pub fn sent(&mut self, now: Now, socket: SocketId, chunk: Vec<u8>) {
        let Some(entry) = find(&mut self.entries, socket) else {
            self.net.outboxes.recycle(chunk);
            return;
        };
        entry.is_sending = false;
        entry.conn.chunk_sent(chunk, &mut self.net);
        mark_dirty(entry, &mut self.dirty);
        self.resume_if_low(now, socket);
    }

    fn resume_if_low(&mut self, now: Now, socket: SocketId) {
        let limits = &self.net.config.outbox;
        let Some(entry) = find(&mut self.entries, socket) else { return };
        if entry.is_paused && entry.conn.outbox().is_below_low_water(limits) {
            entry.is_paused = false;
            let input = HomeInput::Paused(client_of(socket), false);
            self.home.step(now, input, &mut self.effects);
        }
    }

    /// Writes the home's replies into outboxes, until a reader has got so many live events that it
    /// must be let read: events that come faster than the turns of this core would make everybody
    /// look slow. What is left comes first in the next turn; see [`Clients::is_behind`].
    pub(crate) fn deliver(&mut self, now: Now) {
        self.is_behind = false;
        let mut replies = std::mem::take(&mut self.effects.replies);
        let mut waiting = Vec::new();
        for reply in replies.drain(..) {
            match self.is_behind {
                true => waiting.push(reply),
                false => self.reply(now, reply),
            }
        }
        // A step caused by a reply may have added some; the vector keeps its memory otherwise.
        if !waiting.is_empty() {
            waiting.append(&mut self.effects.replies);
            self.effects.replies = waiting;
        } else if self.effects.replies.is_empty() {
            self.effects.replies = replies;
        }
    }

    /// Whether live events wait because readers were not asked to take what they have got: no more
    /// is to be taken from the shards meanwhile.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    fn reply(&mut self, now: Now, reply: Reply) {
        match reply {
            Reply::Ok { client, id, result, note } => {
                if is_timed(&id)
                    && let Some(since_us) = self.events_since_us.remove(&(client.slot, id))
                {
                    self.timings.ingest.record_us((self.stopwatch)() - since_us);
                }
                let note = note.as_deref();
                self.with_conn(client, |conn, net| conn.reply_ok(now, &id, result, note, net));
            }
            // Both come at the reader's own pace: the home waits when its outbox is full.
            Reply::Stored { client, sub, event } | Reply::Held { client, sub, event } => {
                self.stored(now, client, &sub, &event);
            }
            Reply::Live { event, to } => self.live(now, &event, to),
            Reply::Eose { client, sub, completeness } => {
                self.query_done(client, &sub);
                self.with_conn(client, |conn, net| conn.reply_eose(&sub, completeness, net));
            }
            Reply::Closed { client, sub, reason, note } => {
                self.queries_since_us.remove(&(client.slot, Rc::clone(&sub)));
                let note = note.as_deref();
                self.with_conn(client, |conn, net| conn.reply_closed(now, &sub, reason, note, net));
            }
            Reply::NegErr { client, sub, reason, note, records_max } => {
                let note = note.as_deref();
                self.with_conn(client, |conn, net| {
                    conn.reply_neg_err(now, &sub, reason, note, records_max, net)
                });
            }
            Reply::Count { client, sub, count, approximate, hll } => {
                let hll = hll.as_deref();
                self.with_conn(client, |conn, net| {
                    conn.reply_count(&sub, count, approximate, hll, net)
                });
            }
            Reply::NegMsg { client, sub, message } => {
                self.with_conn(client, |conn, net| conn.reply_neg_msg(&sub, &message, net));
                self.pause_if_full(now, client);
            }
            Reply::Unpark(client) => self.unparked.push(socket_of(client)),
            // Parking was acted upon when the message was handed over; only the control core asks
            // for statistics and removes.
            Reply::Park(_) | Reply::Stats { .. } | Reply::Removed { .. } => {}
        }
    }

    fn query_done(&mut self, client: Client, sub: &Rc<str>) {
        let since_us = self.queries_since_us.remove(&(client.slot, Rc::clone(sub)));
        if let Some(since_us) = since_us {
            self.timings.query.record_us((self.stopwatch)() - since_us);
        }
    }

    fn with_conn(
        &mut self,
        client: Client,
        write: impl FnOnce(&mut Conn, &mut ConnCore) -> Pushed,
    ) -> Option<Pushed> {
        let Self { entries, net, dirty, .. } = self;
        let entry = find(entries, socket_of(client))?;
        let pushed = write(&mut entry.conn, net);
        mark_dirty(entry, dirty);
        Some(pushed)
    }

    fn stored(&mut self, now: Now, client: Client, sub: &str, event: &proto::Event) {
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        event.view().write_json(&mut json);
        self.with_conn(client, |conn, net| conn.deliver_stored(sub, &json, net));
        self.json = json;
        self.pause_if_full(now, client);
    }

    /// What comes at the reader's own pace waits when its outbox has filled up.
    fn pause_if_full(&mut self, now: Now, client: Client) {
        let soft_bytes = self.net.config.outbox.soft_bytes;
        let Some(entry) = self.entry(socket_of(client)) else { return };
        if !entry.is_paused && entry.conn.outbox().pending_bytes() >= soft_bytes / 2 {
            entry.is_paused = true;
            self.home.step(now, HomeInput::Paused(client, true), &mut self.effects);
        }
    }

    /// One body, many readers: rendered once, written behind each subscription's prefix.
    fn live(&mut self, now: Now, event: &proto::Event, to: Vec<(Client, Rc<str>)>) {
        let since_us = (self.stopwatch)();
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        event.view().write_json(&mut json);
        let Self { entries, net, dirty, .. } = self;
        for (client, sub) in to {
            let Some(entry) = find(entries, socket_of(client)) else { continue };
            let pushed = entry.conn.deliver(&sub, &json, net);
            mark_dirty(entry, dirty);
            if pushed == Pushed::OverSoft {
                self.home.step(now, HomeInput::SlowReader(client, sub), &mut self.effects);
            } else {
                entry.burst_bytes += json.len();
                self.is_behind |= entry.burst_bytes >= BURST_BYTES_MAX;
            }
        }
        self.json = json;
        self.timings.delivery.record_us((self.stopwatch)() - since_us);
    }

    /// Gives parked clients their rest. Returns whether any bytes were looked at.
    pub(crate) fn unpark(&mut self, now: Now) -> bool {
        let unparked = std::mem::take(&mut self.unparked);
        for socket in &unparked {
            let Some(mut entry) = self.take(*socket) else { continue };
            if entry.conn.is_parked() {
                let rest = entry.conn.take_stash(&mut self.net);
                self.pauses.push((*socket, false));
                self.feed(now, &mut entry, &rest);
            }
            self.put(entry);
        }
        !unparked.is_empty()
    }

    /// Forgets measurements that nothing will end, so that they do not use up the room.
    pub(crate) fn forget_unanswered(&mut self) {
        if self.events_since_us.len() + self.queries_since_us.len() > MEASURED_MAX / 2 {
            let oldest_us = (self.stopwatch)().saturating_sub(MEASURED_US_MAX);
            self.events_since_us.retain(|_, since_us| *since_us > oldest_us);
            self.queries_since_us.retain(|_, since_us| *since_us > oldest_us);
        }
    }

    /// Deadlines of connections.
    pub(crate) fn tick(&mut self, now: Now) {
        while let Some((deadline_ms, socket)) = self.timers.next_due(now.monotonic_ms) {
            let Some(mut entry) = self.take(socket) else { continue };
            if deadline_ms == entry.armed_ms {
                entry.armed_ms = u64::MAX;
            }
            entry.conn.tick(now, &mut self.net);
            self.put(entry);
        }
    }

    /// When [`Clients::tick`] has something to do.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// Ends the connection with the largest outbox while all of them hold more than they may.
    ///
    /// It ends without a Close frame: whoever does not read would not read that either, and only
    /// dropping what is queued gives memory back at once. Each round takes one connection out of
    /// those that have something queued, so this comes to an end.
    pub(crate) fn evict(&mut self) {
        while self.net.outboxes.is_over() {
            let held = self.entries.iter().flatten();
            let largest = held
                .filter(|entry| entry.conn.outbox().has_queued())
                .max_by_key(|entry| entry.conn.outbox().pending_bytes());
            let Some(socket) = largest.map(|entry| entry.socket) else { return };
            let Some(mut entry) = self.take(socket) else { return };
            let before_bytes = self.net.outboxes.held_bytes();
            entry.conn.abort(CloseCause::OutboxEvicted, &mut self.net);
            self.put(entry);
            if self.net.outboxes.held_bytes() >= before_bytes {
                return;
            }
        }
    }

    /// From now on events are refused and new connections told to come later.
    pub(crate) fn drain(&mut self, now: Now) {
        self.is_draining = true;
        self.home.step(now, HomeInput::Drain, &mut self.effects);
    }

    /// Tells every connection that the relay is going away.
    pub(crate) fn say_goodbye(&mut self, now: Now) {
        let sockets: Vec<_> = self.entries.iter().flatten().map(|entry| entry.socket).collect();
        for socket in sockets {
            let Some(mut entry) = self.take(socket) else { continue };
            entry.conn.begin_close(now, CloseCause::ShuttingDown, &mut self.net);
            self.put(entry);
        }
    }

    /// Hands output to the machine and acts on what connections want of their sockets.
    pub(crate) fn flush(&mut self, now: Now, machine: &mut impl Machine) {
        for (socket, paused) in std::mem::take(&mut self.pauses) {
            match paused {
                true => machine.pause_reading(socket),
                false => machine.resume_reading(socket),
            }
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for socket in dirty.drain(..) {
            let Some(entry) = find(&mut self.entries, socket) else { continue };
            entry.is_dirty = false;
            entry.burst_bytes = 0;
            write_out(entry, &mut self.net, machine);
            self.resume_if_low(now, socket);
            self.settle(now, socket, machine);
        }
        // A step caused by this may have marked some; the vector keeps its memory otherwise.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Closes, half-closes or keeps a connection whose output has been looked at.
    fn settle(&mut self, now: Now, socket: SocketId, machine: &mut impl Machine) {
        let Some(entry) = find(&mut self.entries, socket) else { return };
        let is_flushed = entry.conn.outbox().pending_bytes() == 0;
        if entry.has_ended && is_flushed {
            entry.conn.abort(CloseCause::PeerGone, &mut self.net);
        }
        match entry.conn.teardown() {
            Teardown::Close => {
                let place = &mut self.entries[socket.index as usize];
                let Some(entry) = place.take() else { return };
                return self.close(now, entry, machine);
            }
            Teardown::HalfClose if !entry.is_half_closed => {
                entry.is_half_closed = true;
                machine.shutdown_write(entry.socket);
            }
            Teardown::HalfClose | Teardown::None => {}
        }
        let deadline_ms = entry.conn.next_deadline_ms(&self.net);
        if deadline_ms < entry.armed_ms {
            entry.armed_ms = deadline_ms;
            self.timers.set(deadline_ms, socket);
        }
    }

    fn close(&mut self, now: Now, entry: Entry, machine: &mut impl Machine) {
        machine.close(entry.socket);
        if entry.is_sending {
            // The reactor keeps the chunk until the kernel lets go of it and then frees it.
            self.net.outboxes.recycle(Vec::new());
        }
        if let Some(admitted) = entry.admitted {
            self.admission.release(now.monotonic_ms, admitted);
        }
        self.open -= 1;
        let client = client_of(entry.socket);
        entry.conn.release(&mut self.net);
        self.home.step(now, HomeInput::Gone(client), &mut self.effects);
    }
}

/// Hands a connection's output to the machine, as much as it takes.
fn write_out(entry: &mut Entry, net: &mut ConnCore, machine: &mut impl Machine) {
    while !entry.is_sending
        && let Some(chunk) = entry.conn.take_chunk()
    {
        let is_followed = entry.conn.outbox().has_queued();
        match machine.send(entry.socket, chunk, is_followed) {
            Sending::Done(chunk) => entry.conn.chunk_sent(chunk, net),
            Sending::Started => entry.is_sending = true,
            Sending::Failed => {
                net.outboxes.recycle(Vec::new());
                entry.conn.abort(CloseCause::PeerGone, net);
            }
        }
    }
}
