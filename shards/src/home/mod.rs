//! The home side of a core: what its clients have open, what it has asked of shards, and the
//! merging of their answers.
//!
//! A home knows clients as numbers, not as sockets; it never sees a frame. It takes messages that
//! are already parsed and answers with [`Reply`]s that the engine turns into bytes.
//!
//! **No deadlock by construction.** Submissions need credit per shard, query replies need slots
//! that the home counts and takes all or none; a client whose command must wait is parked (the
//! engine stops reading its connection), so at most one command per client waits here. Replies
//! from shards are always taken.

mod credit;
mod door;
#[doc(hidden)]
pub mod fuzzing;
mod merge;
mod neg;
mod publish;
mod query;
mod remove;
mod slots;
mod subscription;
mod vanish;

use crate::counters::HomeCounters;
use crate::door::{Answer, Asks, ReadQuestion, Source};
use crate::message::{
    Client, CoreId, LiveIndex, QueryId, Reader, ShardId, ShardStats, ToHome, ToShard,
};
use crate::subindex::{SubIndex, SubscriptionKey};
use credit::Credit;
use door::AtDoor;
use merge::{Merge, Tally};
pub use neg::NegConfig;
use proto::message::Completeness;
use proto::nip::nip45::Hll;
use proto::{
    ClientMessage, Event, EventId, Filter, Limits, Now, Placement, PublicKey, Reason, SeededMap,
    SeededState, SubscriptionId,
};
use publish::Outcome;
use remove::Removing;
use slab::Slab;
use slots::Slots;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use subscription::Subscription;
use vanish::Vanish;

/// Longest time that a shard may work on one page or count before it answers with what it has.
pub const PAGE_DEADLINE_MS: u64 = 5_000;
/// Live events held for one subscription until its stored ones are sent.
pub const HELD_EVENTS_MAX: usize = 1024;
/// Bytes of stored rows that one turn hands to one client, whatever it has open, before others get
/// theirs and the engine has had a look at its outbox.
const EMIT_BYTES_MAX: usize = 64 * 1024;

/// What a home is made of; one per core.
#[derive(Clone, Debug)]
pub struct HomeConfig {
    /// This core.
    pub core: CoreId,
    /// Who owns which key.
    pub placement: Placement,
    /// Protocol limits.
    pub limits: Limits,
    /// Open subscriptions per client.
    pub subscriptions_max: usize,
    /// Clients must authenticate before anything else.
    pub auth_required: bool,
    /// This relay's URL, if it knows it: a request to vanish may name it.
    pub public_url: Option<String>,
    /// Bytes of pages held for clients that read slowly, and as many again of live events held
    /// for them.
    pub page_bytes_max: usize,
    /// Bytes of open filters and of their index entries; a client may have an eighth.
    pub filter_bytes_max: usize,
    /// NIP-77.
    pub neg: NegConfig,
    /// What the policy door is asked about.
    pub door: Asks,
    /// Events under way to one shard; [`crate::message::SUBMIT_CREDIT`], or more if that many are to
    /// wait at the policy door.
    pub submit_credit: u32,
    /// Query replies under way; [`crate::message::QUERY_SLOTS`].
    pub query_slots: u32,
    /// Seed of the maps.
    pub seed: SeededState,
}

/// What happens to a home.
#[derive(Debug)]
pub enum HomeInput {
    /// A client sent a message (AUTH is dealt with before).
    Message(Client, ClientMessage),
    /// A client proved that it holds a key.
    Authenticated(Client, PublicKey),
    /// Where a client connects from; tells the policy door, nothing else.
    Address(Client, IpAddr),
    /// This client is the operator: it reads everything, and what it publishes is taken as imported.
    Trusted(Client),
    /// The policy door has answered a question of this home.
    Door(Answer),
    /// What the policy door is asked about from now on (a reloaded configuration).
    Asks(Asks),
    /// A client is gone.
    Gone(Client),
    /// The client's output is full (`true`) or has room again.
    Paused(Client, bool),
    /// A live delivery did not fit: the subscription ends.
    SlowReader(Client, Rc<str>),
    /// The operator imports an event.
    Import {
        /// The control task.
        client: Client,
        /// Shape checked.
        event: Event,
        /// Whether the signature is checked now.
        verify: bool,
    },
    /// The operator reads everything that matches, without limit unless the filter has one.
    Scan {
        /// The control task.
        client: Client,
        /// OR-ed.
        filters: Vec<Filter>,
    },
    /// The operator counts.
    ScanCount {
        /// The control task.
        client: Client,
        /// OR-ed.
        filters: Vec<Filter>,
    },
    /// The operator removes events.
    Remove {
        /// The control task.
        client: Client,
        /// Which.
        ids: Vec<EventId>,
        /// Whether they may never come back.
        ban: bool,
    },
    /// The operator asks every shard to rewrite what anything is dead in.
    Compact,
    /// What do the shards hold?
    Stats(Client),
    /// A shard answered.
    From(ShardId, ToHome),
    /// Go on with what a step left unfinished; see [`Home::has_work`].
    Turn,
    /// From now on every event is refused.
    Drain,
    /// New limits (a reloaded configuration).
    Reconfigure(Box<(Limits, usize, bool)>),
}

/// What a home says to its clients.
#[derive(Debug)]
pub enum Reply {
    /// The outcome of an event.
    Ok {
        /// Who published.
        client: Client,
        /// What.
        id: EventId,
        /// `Ok` or why not.
        result: Result<(), Reason>,
        /// What the client reads instead of the reason's own text.
        note: Option<Arc<str>>,
    },
    /// A stored row.
    Stored {
        /// Whose.
        client: Client,
        /// Which subscription.
        sub: Rc<str>,
        /// The row.
        event: Event,
    },
    /// A live event that was held until the stored rows were sent, or until the client had read
    /// the ones before it.
    Held {
        /// Whose.
        client: Client,
        /// Which subscription.
        sub: Rc<str>,
        /// The event.
        event: Event,
    },
    /// One live event to many subscriptions.
    Live {
        /// The event.
        event: Event,
        /// Who gets it.
        to: Vec<(Client, Rc<str>)>,
    },
    /// The stored phase is over.
    Eose {
        /// Whose.
        client: Client,
        /// Which subscription.
        sub: Rc<str>,
        /// NIP-67.
        completeness: Completeness,
    },
    /// A subscription or query ends.
    Closed {
        /// Whose.
        client: Client,
        /// Which.
        sub: Rc<str>,
        /// Why.
        reason: Reason,
        /// What the client reads instead of the reason's own text.
        note: Option<Arc<str>>,
    },
    /// An answer of a NIP-77 session.
    NegMsg {
        /// Whose.
        client: Client,
        /// Which.
        sub: Rc<str>,
        /// The bytes, not yet hex.
        message: Vec<u8>,
    },
    /// A NIP-77 session cannot go on.
    NegErr {
        /// Whose.
        client: Client,
        /// Which.
        sub: Rc<str>,
        /// Why.
        reason: Reason,
        /// What the client reads instead of the reason's own text.
        note: Option<Arc<str>>,
        /// The limit that the reason speaks of.
        records_max: Option<u64>,
    },
    /// A count.
    Count {
        /// Whose.
        client: Client,
        /// Which query.
        sub: Rc<str>,
        /// Matching events.
        count: u64,
        /// A shard stopped before its end: there may be more.
        approximate: bool,
        /// The authors, for a filter that NIP-45 gives registers to.
        hll: Option<Box<Hll>>,
    },
    /// Answer to [`HomeInput::Stats`]: one entry per shard.
    Stats {
        /// Who asked.
        client: Client,
        /// By shard.
        shards: Vec<ShardStats>,
    },
    /// Answer to [`HomeInput::Remove`]: what was removed is gone durably.
    Removed {
        /// Who asked.
        client: Client,
        /// Events that were there and are gone.
        count: u64,
        /// Why it ended before its end; asking again goes on.
        failed: Option<Reason>,
    },
    /// Stop reading from the client.
    Park(Client),
    /// Read on.
    Unpark(Client),
}

/// What a step asks for.
#[derive(Debug, Default)]
pub struct HomeEffects {
    /// Messages to shards, in order.
    pub to_shard: Vec<(ShardId, ToShard)>,
    /// Replies to clients, in order.
    pub replies: Vec<Reply>,
    /// Questions for the policy door. Each is answered exactly once with [`HomeInput::Door`].
    pub door: Vec<ReadQuestion>,
}

/// A command that waits for credit or slots.
#[derive(Debug)]
enum Command {
    Submit(ShardId, ToShard),
    Query(query::Request),
    NegOpen(Box<neg::Open>),
    /// Waits for the answer to the session's last message, or for the client to read.
    NegMsg(Rc<str>, Vec<u8>),
    /// Waits for the policy door.
    Read(Box<ClientMessage>),
}

#[derive(Debug, Default)]
struct ClientState {
    keys: Option<Arc<[PublicKey]>>,
    address: Option<IpAddr>,
    /// What the policy door is told of it, once it has been asked.
    source: Option<Arc<Source>>,
    is_trusted: bool,
    subscriptions: Vec<SubscriptionKey>,
    /// Slots of NIP-77 sessions.
    sessions: Vec<usize>,
    /// What its open filters are charged with.
    filter_bytes: usize,
    /// Boxed: most clients never wait, and there are many of them.
    parked: Option<Box<Command>>,
    paused: bool,
    /// Bytes of stored rows handed to it in the turn `emitted_in`.
    emitted: usize,
    emitted_in: u64,
}

impl ClientState {
    fn take_parked(&mut self) -> Option<Command> {
        self.parked.take().map(|command| *command)
    }
}

/// Statistics being gathered.
#[derive(Debug)]
struct Gathering {
    client: Client,
    shards: Vec<Option<ShardStats>>,
}

/// The home of one core's clients. Owned by the core.
///
/// Bound: subscriptions are limited per client, waiting commands are one per client, pages are
/// limited to `page_bytes_max` in all, held live events to as much again and to
/// [`HELD_EVENTS_MAX`] per subscription.
pub struct Home {
    config: HomeConfig,
    /// Boxed, since a map that has just grown is half empty.
    clients: SeededMap<Client, Box<ClientState>>,
    subscriptions: Slab<Subscription>,
    index: SubIndex,
    queries: Slab<(u32, Merge)>,
    gatherings: SeededMap<QueryId, Gathering>,
    generation: u32,
    /// Submissions that may still be sent, by shard.
    credit: Vec<Credit>,
    /// Reads at the policy door.
    door: AtDoor,
    /// Requests to vanish that have not been answered, and, by shard, those that wait for credit.
    vanishes: SeededMap<u32, Vanish>,
    /// No earlier is a shard to be told again that could not take note of one.
    witness_retry_ms: u64,
    waiting_witness: Vec<VecDeque<u32>>,
    removals: SeededMap<QueryId, Removing>,
    /// Clients waiting for credit, by shard.
    waiting_submit: Vec<VecDeque<Client>>,
    /// Query replies under way, and who waits for one.
    slots: Slots,
    /// Queries that can go on without an answer from a shard.
    ready: VecDeque<QueryId>,
    /// Bytes of pages held.
    page_bytes: usize,
    /// What open filters are charged with, those of sessions included.
    filter_bytes: usize,
    /// NIP-77.
    neg: neg::Sessions,
    /// Subscriptions whose held events go on in the next turn.
    releasing: VecDeque<SubscriptionKey>,
    /// Bytes of held events, counted once for every subscription that waits for them; bounded like
    /// pages.
    held_bytes: usize,
    /// Next live index by shard.
    live_next: Vec<LiveIndex>,
    /// Turns taken; see [`EMIT_BYTES_MAX`].
    turns: u64,
    /// Distinguishes the events of the live fan-out.
    live_stamp: u64,
    draining: bool,
    counters: HomeCounters,
}

impl Home {
    /// A home without clients.
    pub fn new(config: HomeConfig) -> Self {
        let shards = usize::from(config.placement.shards());
        Self {
            clients: SeededMap::with_hasher(config.seed),
            subscriptions: Slab::new(),
            index: SubIndex::new(config.seed),
            queries: Slab::new(),
            gatherings: SeededMap::with_hasher(config.seed),
            generation: 0,
            credit: vec![Credit::new(config.submit_credit, config.placement.shards()); shards],
            door: AtDoor::new(config.seed),
            vanishes: SeededMap::with_hasher(config.seed),
            witness_retry_ms: u64::MAX,
            waiting_witness: (0..shards).map(|_| VecDeque::new()).collect(),
            removals: SeededMap::with_hasher(config.seed),
            waiting_submit: (0..shards).map(|_| VecDeque::new()).collect(),
            slots: Slots::new(config.query_slots, shards, config.seed),
            ready: VecDeque::new(),
            page_bytes: 0,
            filter_bytes: 0,
            neg: neg::Sessions::new(),
            releasing: VecDeque::new(),
            held_bytes: 0,
            live_next: vec![0; shards],
            turns: 0,
            live_stamp: 0,
            draining: false,
            counters: HomeCounters::default(),
            config,
        }
    }

    /// One step. Pure: no clock, no I/O.
    pub fn step(&mut self, now: Now, input: HomeInput, fx: &mut HomeEffects) {
        if self.neg.are_due(now) {
            self.neg_look(now, fx);
        }
        if now.monotonic_ms >= self.witness_retry_ms {
            self.retry_witnesses(now, fx);
        }
        match input {
            HomeInput::Message(client, message) => self.message(now, client, message, fx),
            HomeInput::Authenticated(client, key) => self.authenticated(client, key),
            HomeInput::Address(client, address) => {
                let state = self.clients.entry(client).or_default();
                (state.address, state.source) = (Some(address), None);
            }
            HomeInput::Trusted(client) => {
                self.clients.entry(client).or_default().is_trusted = true;
            }
            HomeInput::Door(answer) => self.door_answered(now, answer, fx),
            HomeInput::Asks(asks) => self.config.door = asks,
            HomeInput::Gone(client) => self.gone(client, fx),
            HomeInput::Paused(client, paused) => self.pause(now, client, paused, fx),
            HomeInput::SlowReader(client, sub) => {
                self.end_subscription(client, &sub, Some(Reason::SlowReader), fx);
            }
            HomeInput::Import { client, event, verify } => {
                self.import(now, client, event, verify, fx);
            }
            HomeInput::Scan { client, filters } => {
                self.start(now, query::Request::scan(client, filters), fx);
            }
            HomeInput::ScanCount { client, filters } => {
                self.start(now, query::Request::scan_count(client, filters), fx);
            }
            HomeInput::Remove { client, ids, ban } => self.remove(client, ids, ban, fx),
            HomeInput::Compact => {
                let shards = 0..self.config.placement.shards();
                fx.to_shard.extend(shards.map(|shard| (shard, ToShard::Compact)));
            }
            HomeInput::Stats(client) => self.gather(client, fx),
            HomeInput::From(shard, message) => self.shard_message(now, shard, message, fx),
            HomeInput::Turn => self.turn(now, fx),
            HomeInput::Drain => {
                self.draining = true;
                self.retry_witnesses(now, fx);
            }
            HomeInput::Reconfigure(new) => {
                (self.config.limits, self.config.subscriptions_max, self.config.auth_required) =
                    *new;
            }
        }
    }

    /// Whether [`HomeInput::Turn`] would get anything done.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.releasing.is_empty() || self.neg.have_work()
    }

    /// Counters since the start.
    pub fn counters(&self) -> &HomeCounters {
        &self.counters
    }

    /// Open subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Bytes of pages held for clients.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Whether any query is under way, a reply that nobody waits for included.
    pub fn has_queries(&self) -> bool {
        !self.queries.is_empty() || self.slots.are_in_use()
    }

    /// Whether submissions of this home are still under way.
    pub fn has_submissions(&self) -> bool {
        !self.vanishes.is_empty()
            || !self.removals.is_empty()
            || self.credit.iter().any(|credit| !credit.is_whole())
    }

    /// Bytes that open filters are charged with.
    pub fn filter_bytes(&self) -> usize {
        self.filter_bytes
    }

    fn message(&mut self, now: Now, client: Client, message: ClientMessage, fx: &mut HomeEffects) {
        let reader = self.reader(client);
        let locked = self.config.auth_required && reader == Reader::Client(Arc::default());
        match message {
            ClientMessage::Event(event) if locked => {
                self.refuse_event(client, event.view().id(), Reason::AuthFirst, fx);
            }
            ClientMessage::Req(sub, _) | ClientMessage::Count(sub, _) if locked => {
                self.refuse_query(client, sub.into(), Reason::AuthFirst, fx);
            }
            ClientMessage::NegOpen(sub, ..) if locked => self.refuse_neg_locked(client, sub, fx),
            message if self.asks_about(client, &message) => {
                self.take_to_door(client, message, fx);
            }
            message => self.act(now, client, message, fx),
        }
    }

    /// Does what an admitted message says.
    fn act(&mut self, now: Now, client: Client, message: ClientMessage, fx: &mut HomeEffects) {
        let reader = self.reader(client);
        match message {
            ClientMessage::Event(event) => self.publish(now, client, event, fx),
            ClientMessage::Req(sub, filters) => {
                self.counters.queries += 1;
                self.end_subscription(client, &sub, None, fx);
                self.start(now, query::Request::req(client, sub, filters, reader), fx);
            }
            ClientMessage::Count(sub, filters) => {
                self.counters.counts += 1;
                self.start(now, query::Request::count(client, sub, filters, reader), fx);
            }
            ClientMessage::Close(sub) => self.end_subscription(client, &sub, None, fx),
            ClientMessage::NegOpen(sub, filter, message) => {
                self.neg_open(now, client, sub, (*filter, message), fx);
            }
            ClientMessage::NegMsg(sub, message) => self.neg_message(now, client, sub, message, fx),
            ClientMessage::NegClose(sub) => self.neg_close(client, &sub, fx),
            // AUTH needs the connection's challenge and never reaches a home.
            ClientMessage::Auth(_) => {}
        }
    }

    /// As whom a client reads.
    fn reader(&self, client: Client) -> Reader {
        match self.clients.get(&client) {
            Some(state) if state.is_trusted => Reader::Operator,
            Some(state) => Reader::Client(state.keys.clone().unwrap_or_default()),
            None => Reader::Client(Arc::default()),
        }
    }

    fn is_trusted(&self, client: Client) -> bool {
        self.clients.get(&client).is_some_and(|state| state.is_trusted)
    }

    fn authenticated(&mut self, client: Client, key: PublicKey) {
        let state = self.clients.entry(client).or_default();
        let mut keys: Vec<PublicKey> = state.keys.take().unwrap_or_default().to_vec();
        if !keys.contains(&key) {
            keys.push(key);
        }
        (state.keys, state.source) = (Some(keys.into()), None);
    }

    fn gone(&mut self, client: Client, fx: &mut HomeEffects) {
        let Some(state) = self.clients.remove(&client) else { return };
        let state = *state;
        if let Some(Command::Submit(_, ToShard::Submit { ticket, .. })) = state.parked.as_deref()
            && let Some(number) = ticket.vanish
        {
            self.vanishes.remove(&number);
        }
        for key in state.subscriptions {
            self.drop_subscription(key, fx);
        }
        self.neg_gone(&state.sessions, fx);
        let queries: Vec<QueryId> = self.queries_of(client);
        for id in queries {
            self.drop_query(id, fx);
        }
    }

    fn gather(&mut self, client: Client, fx: &mut HomeEffects) {
        let shards = self.config.placement.shards();
        self.generation = self.generation.wrapping_add(1);
        let query = QueryId { slot: u32::MAX, generation: self.generation };
        let gathering = Gathering { client, shards: vec![None; usize::from(shards)] };
        self.gatherings.insert(query, gathering);
        fx.to_shard.extend((0..shards).map(|shard| (shard, ToShard::Stats { query })));
    }

    fn gathered(
        &mut self,
        shard: ShardId,
        query: QueryId,
        stats: ShardStats,
        fx: &mut HomeEffects,
    ) {
        let Some(gathering) = self.gatherings.get_mut(&query) else { return };
        gathering.shards[usize::from(shard)] = Some(stats);
        if gathering.shards.iter().all(Option::is_some)
            && let Some(whole) = self.gatherings.remove(&query)
        {
            let shards = whole.shards.into_iter().flatten().collect();
            fx.replies.push(Reply::Stats { client: whole.client, shards });
        }
    }

    fn shard_message(&mut self, now: Now, shard: ShardId, message: ToHome, fx: &mut HomeEffects) {
        match message {
            ToHome::Outcome { ticket, id, result, note, is_shadowed } => {
                let outcome = Outcome { result, note, is_shadowed };
                self.outcome(now, shard, ticket, id, outcome, fx);
            }
            ToHome::Installed { query, live_from, next } => {
                self.installed(now, shard, query, (live_from, next), fx);
            }
            ToHome::Page { query, page } => {
                self.page(now, shard, query, page, fx);
                self.slot_returned(now, query, fx);
            }
            ToHome::Counted { query, count, is_partial, hll } => {
                self.counted(shard, query, Tally { count, is_partial, hll }, fx);
                self.slot_returned(now, query, fx);
            }
            ToHome::QueryFailed { query, reason } => {
                if neg::is_session(query) {
                    self.neg_failed(now, query, reason, fx);
                } else {
                    self.fail_query(query, reason, fx);
                }
                self.slot_returned(now, query, fx);
            }
            ToHome::Ids { query, ids, complete_to } => {
                self.neg_ids(now, shard, query, (ids, complete_to), fx);
                self.slot_returned(now, query, fx);
            }
            ToHome::Sums { query, sums } => {
                self.neg_sums(now, shard, query, sums.as_deref(), fx);
                self.slot_returned(now, query, fx);
            }
            ToHome::Live { first, events } => self.live(now, shard, first, &events, fx),
            ToHome::FellBehind { resume_at } => self.fell_behind(shard, resume_at, fx),
            ToHome::Vanished { key, until } => self.forget_vanished(&key, until),
            ToHome::Removed { query, result } => self.removed(query, result, fx),
            ToHome::Stats { query, stats } => self.gathered(shard, query, *stats, fx),
        }
    }

    fn refuse_query(&mut self, client: Client, sub: Rc<str>, reason: Reason, fx: &mut HomeEffects) {
        self.counters.refused.add(reason);
        fx.replies.push(Reply::Closed { client, sub, reason, note: None });
    }

    /// Parks `command` of `client`: it goes on when credit or slots are there.
    fn park(&mut self, client: Client, command: Command, fx: &mut HomeEffects) {
        self.counters.parked += 1;
        match &command {
            Command::Submit(shard, _) => {
                self.waiting_submit[usize::from(*shard)].push_back(client);
            }
            Command::Query(_) => self.slots.wait_with_command(client),
            Command::NegOpen(_) => self.slots.wait_with_command(client),
            // Goes on with its session.
            Command::NegMsg(..) => {}
            // Stands in the queue of the door.
            Command::Read(_) => {}
        }
        self.clients.entry(client).or_default().parked = Some(Box::new(command));
        fx.replies.push(Reply::Park(client));
    }
}

/// A subscription id as homes keep it.
fn name(sub: SubscriptionId) -> Rc<str> {
    Rc::from(sub)
}
