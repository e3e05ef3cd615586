//! The owner side: the one place where store, rules and (later) accounts meet.
//!
//! A shard decides about every event of its keys, keeps them, answers pages and counts, and holds
//! the ring of live events. It emits [`StoreEffect`]s and messages to homes; somebody else performs
//! the one and carries the other.

mod door;
mod ingest;
mod query;
mod recent;
mod remove;
mod tickets;

use crate::counters::ShardCounters;
use crate::door::{Answer, Question};
use crate::live::LiveRing;
use crate::message::{CoreId, QueryId, ShardStats, ToHome, ToShard, VerifyTicket};
use ingest::Ingest;
use proto::nip::nip59;
use proto::verify::Verifier;
use proto::{EventRef, Now, PublicKey, SeededMap, SeededState};
use query::OwnerQuery;
use remove::Removal;
use std::collections::VecDeque;
use store::effect::{StoreEffect, StoreInput, Token, WorldError};
use store::{Seq, Store, StoreOutput};

/// What a shard is made of.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Cores that may talk to it, the control core included.
    pub cores: usize,
    /// The directory's secret, which keys index rows.
    pub secret: proto::Secret,
    /// Seed of the maps.
    pub seed: SeededState,
    /// Signatures checked in one turn, so that a burst of events does not starve readers.
    pub verify_slice: usize,
    /// Signatures that wait here before others are sent to other cores.
    pub ticket_backlog: usize,
    /// Signatures that one other core checks at a time; [`crate::message::TICKET_CREDIT`].
    pub ticket_credit: usize,
    /// Ids of recent durable events that answer a duplicate without a look at the store.
    pub recent_ids_max: usize,
    /// Events about which the policy door is asked at once; further ones wait for an answer.
    pub door_in_flight_max: usize,
    /// Bytes of recent events kept for cores that take live events slowly.
    pub ring_bytes_max: usize,
    /// Live events that are sent to a core ahead of its grants; [`crate::message::LIVE_CREDIT`].
    pub live_credit: u32,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum ShardInput {
    /// A home sent a message.
    From(CoreId, ToShard),
    /// The world answered the store.
    Store(StoreInput),
    /// The policy door has answered a question.
    Door(Answer),
    /// Another core has time to check signatures of this shard; see [`Shard::wants_help`].
    Help {
        /// Which.
        core: CoreId,
        /// How many.
        room: usize,
    },
    /// Messages of this loop turn are in: verify a slice, let long searches read on, write a
    /// batch, send live events.
    Turn,
    /// A coarse timer: checkpoints by age, expiry.
    Tick,
    /// The disk is beyond its high-water mark, or no longer.
    LowOnSpace(bool),
    /// Write everything down and close; see [`Shard::is_closed`].
    Close,
}

/// What a step asks for.
#[derive(Debug, Default)]
pub struct ShardEffects {
    /// Messages to homes, in order.
    pub to_home: Vec<(CoreId, ToHome)>,
    /// Work for the store's world, in order.
    pub store: Vec<StoreEffect>,
    /// Signatures for other cores to check. Each is answered exactly once with [`ToShard::Verified`].
    pub tickets: Vec<(CoreId, VerifyTicket)>,
    /// Questions for the policy door. Each is answered exactly once with [`ShardInput::Door`].
    pub door: Vec<Question>,
    /// The store cannot go on: the process must end without another answer.
    pub fatal: Option<WorldError>,
}

/// Who waits for an answer of the store.
#[derive(Clone, Debug)]
enum Waiting {
    Ingest,
    Query(CoreId, QueryId),
    Sums(CoreId, QueryId),
    Removal(Removal),
}

/// One shard. Owned by one core.
///
/// Bound: the store's budget, the live ring's, [`crate::message::SUBMIT_CREDIT`] events per home,
/// one page per query under way.
pub struct Shard {
    config: ShardConfig,
    store: Store,
    verifier: Box<dyn Verifier>,
    ingest: Ingest,
    queries: SeededMap<(CoreId, QueryId), OwnerQuery>,
    /// Queries whose page is not full yet, in the order in which they read on.
    searching: VecDeque<(CoreId, QueryId)>,
    waiting: SeededMap<Token, Waiting>,
    live: LiveRing,
    /// Removals by the operator that wait for room in the store.
    removals: VecDeque<Removal>,
    /// Imported events whose signature was checked at their first serving.
    proven: proto::SeededSet<u64>,
    counters: ShardCounters,
    outputs: Vec<StoreOutput>,
}

impl Shard {
    /// A shard over an opened store.
    pub fn new(config: ShardConfig, store: Store, verifier: Box<dyn Verifier>) -> Self {
        Self {
            ingest: Ingest::new(&config),
            queries: SeededMap::with_hasher(config.seed),
            searching: VecDeque::new(),
            waiting: SeededMap::with_hasher(config.seed),
            live: LiveRing::new(config.cores, config.ring_bytes_max, config.live_credit),
            removals: VecDeque::new(),
            proven: proto::SeededSet::with_hasher(config.seed),
            counters: ShardCounters::default(),
            outputs: Vec::new(),
            store,
            verifier,
            config,
        }
    }

    /// One step. Pure: no clock, no I/O.
    pub fn step(&mut self, now: Now, input: ShardInput, fx: &mut ShardEffects) {
        match input {
            ShardInput::From(core, message) => self.message(now, core, message, fx),
            ShardInput::Store(input) => self.store_input(now, input, fx),
            ShardInput::Door(answer) => self.door_answered(answer, fx),
            ShardInput::Help { core, room } => self.send_tickets(core, room, fx),
            ShardInput::Turn => self.turn(now, fx),
            ShardInput::Tick => self.store.tick(now, &mut fx.store),
            ShardInput::LowOnSpace(is_low) => self.store.set_low_on_space(is_low),
            ShardInput::Close => self.store.shutdown(now, &mut fx.store),
        }
    }

    /// Whether another [`ShardInput::Turn`] has something to do.
    pub fn has_work(&self) -> bool {
        // On a full disk nobody waits: imports are refused, too.
        let moves = self.store.has_room() || self.store.is_full();
        self.ingest.has_work(moves)
            || moves && !self.removals.is_empty()
            || !self.searching.is_empty()
    }

    /// Whether every submitted event has been answered.
    pub fn is_idle(&self) -> bool {
        self.ingest.is_empty() && self.removals.is_empty() && self.store.is_idle()
    }

    /// Whether everything is written down after [`ShardInput::Close`].
    pub fn is_closed(&self) -> bool {
        self.store.is_closed()
    }

    /// What the shard holds.
    pub fn stats(&self) -> ShardStats {
        let stats = self.store.stats();
        ShardStats {
            counters: self.counters.clone(),
            durable: self.store.durable(),
            applied: stats.applied,
            store_bytes: self.store.bytes_held(),
            live_bytes: self.live.bytes(),
            ingest_depth: self.ingest.depth(),
            compaction: self.store.compaction(),
            rewritten: (stats.rewrites, stats.bytes_reclaimed),
            index_generations: stats.generations,
        }
    }

    /// Queries under way.
    pub fn open_queries(&self) -> usize {
        self.queries.len()
    }

    /// Live subscriptions of all cores that touch this shard.
    pub fn interest(&self) -> u64 {
        self.live.interest()
    }

    /// The store, for reports.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether readers must not be given the event of a row, although the row was visible when it
    /// was read: a request to vanish covers it.
    fn is_hidden(&self, seq: Seq, event: &EventRef<'_>) -> bool {
        if self.store.hides(seq, event) {
            return true;
        }
        // While the body was fetched the removal may have come to its end.
        if self.store.is_visible(seq) {
            return false;
        }
        let answers = self.store.memory_only();
        let view = self.store.view(&answers);
        let has_vanished = |key: PublicKey| view.vanished_until(&key).is_some();
        let is_wrap = nip59::is_wrap(event.kind());
        has_vanished(event.pubkey()) || is_wrap && nip59::recipient(event).is_some_and(has_vanished)
    }

    fn message(&mut self, now: Now, core: CoreId, message: ToShard, fx: &mut ShardEffects) {
        match message {
            ToShard::Submit { ticket, event, origin, role, source } => {
                self.ingest.submit(core, ticket, event, origin, role, source);
            }
            ToShard::Query(query) => self.start_query(now, core, *query, fx),
            ToShard::More { query, rows, limits, deadline_ms } => {
                self.more(now, (core, query), rows, &limits, deadline_ms, fx);
            }
            ToShard::Sums { query, set } => self.start_sums((core, query), set, fx),
            ToShard::Cancel { query } => self.cancel((core, query)),
            ToShard::Uninterest { subscriptions } => {
                self.live.remove(usize::from(core), subscriptions);
            }
            ToShard::LiveCredit { events } => self.live.grant(usize::from(core), events),
            ToShard::Remove { query, ids, ban } => {
                self.removals.push_back(Removal { core, query, ids, ban });
            }
            ToShard::Verified { number, verdicts } => self.verified(number, &verdicts, fx),
            ToShard::Compact => self.store.compact(now, &mut fx.store),
            ToShard::Stats { query } => {
                let stats = Box::new(self.stats());
                fx.to_home.push((core, ToHome::Stats { query, stats }));
            }
        }
    }

    fn store_input(&mut self, now: Now, input: StoreInput, fx: &mut ShardEffects) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.store.step(now, input, &mut fx.store, &mut outputs);
        for output in outputs.drain(..) {
            self.store_output(output, fx);
        }
        self.outputs = outputs;
    }

    fn store_output(&mut self, output: StoreOutput, fx: &mut ShardEffects) {
        match output {
            StoreOutput::Durable { through, puts } => self.durable(through, puts, fx),
            StoreOutput::Looked { token, answers } => match self.waiting.remove(&token) {
                Some(Waiting::Removal(removal)) => self.remove(&removal, &answers, fx),
                _ => self.looked(token, answers, fx),
            },
            StoreOutput::Rows { token, rows, complete_to, scanned } => {
                self.counters.rows_scanned += u64::from(scanned);
                if let Some(Waiting::Query(core, id)) = self.waiting.remove(&token) {
                    self.rows((core, id), rows, complete_to, fx);
                }
            }
            StoreOutput::Fetched { token, bodies } => match self.waiting.remove(&token) {
                Some(Waiting::Query(core, id)) => self.bodies((core, id), bodies, fx),
                Some(Waiting::Ingest) => self.victims(token, bodies, fx),
                Some(Waiting::Removal(_) | Waiting::Sums(..)) | None => {}
            },
            StoreOutput::Failed { token, .. } => match self.waiting.remove(&token) {
                Some(Waiting::Query(core, id)) => self.fail_query((core, id), fx),
                Some(Waiting::Sums(core, id)) => self.fail_sums((core, id), fx),
                Some(Waiting::Ingest) => self.lookup_failed(token, fx),
                Some(Waiting::Removal(removal)) => self.removal_failed(&removal, fx),
                None => {}
            },
            StoreOutput::Sums { token, sums } => {
                if let Some(Waiting::Sums(core, id)) = self.waiting.remove(&token) {
                    self.sums((core, id), sums, fx);
                }
            }
            StoreOutput::Fatal(error) => fx.fatal = Some(error),
        }
    }

    fn turn(&mut self, now: Now, fx: &mut ShardEffects) {
        self.ingest_turn(fx);
        self.start_removals(fx);
        self.search_slice(now, fx);
        self.store.flush(now, &mut fx.store);
        let to_home = &mut fx.to_home;
        let batches = &mut self.counters.live_batches;
        let fell_behind = &mut self.counters.fell_behind;
        self.live.pump(|core, message| {
            match message {
                ToHome::FellBehind { .. } => *fell_behind += 1,
                _ => *batches += 1,
            }
            to_home.push((core as CoreId, message));
        });
    }
}
