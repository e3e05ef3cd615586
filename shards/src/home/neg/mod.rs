//! NIP-77 sessions: sets of ids that clients reconcile with theirs.
//!
//! A session's set is what its filter matches and its reader may see, at the time it is opened: the
//! ids of all shards, collected by the same pages that REQs use. For a configured sync set and a
//! reader without keys it is only the sums of stretches of time, kept by the stores, and items are
//! read where the sums differ. Sessions stay as they are; what is stored later is for the next one.
//! Only when a key vanishes the ids that may be of its events are forgotten, and read again for the
//! next answer.
//!
//! The filter's `limit` counts, as in strfry: the set is the newest so many matches.
//!
//! **How long a step takes.** A page is merged and entered as it comes (at most
//! [`collect`]'s 16,384 ids, and at the end of the fullest second that second once more); a whole set
//! is never sorted or copied. An answer costs a search per range of the message and a few hundred
//! additions; it lists no more than fits its frame.
//!
//! **Bounds.** Sessions per client, records per session, bytes of all sessions of a core; when those
//! are used up, the client that holds most loses its largest session. One message of each session
//! waits here at most and is counted; a second one parks the client.

mod collect;
mod items;
mod session;

use super::{Command, EMIT_BYTES_MAX, Home, HomeEffects, PAGE_DEADLINE_MS, Reply};
use crate::message::{Client, Query, QueryId, QueryMode, Reader, ShardId, ToShard};
use crate::route::Targets;
use proto::nip::nip17;
use proto::nip::nip77::{Accumulator, Answer, NegError, VERSION, ranges};
use proto::{Filter, Now, PublicKey, Reason, SubscriptionId};
use session::{Asked, SESSION_BIT, Session};
use slab::Slab;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use store::effect::Position;

/// What a record of a set costs: the item and its part of the sums.
const RECORD_BYTES: usize = 37;
/// Bytes of a NEG-MSG around its message: verb, brackets, a subscription id with every character
/// escaped.
const FRAME_OVERHEAD_BYTES: usize = 512;
/// Shortest pause between two looks for idle sessions.
const LOOK_INTERVAL_MS: u64 = 1_000;

/// Limits of the sessions of one core.
#[derive(Clone, Debug)]
pub struct NegConfig {
    /// Open sessions of one client; 0 turns negentropy off.
    pub sessions_max: usize,
    /// Records of one session; the operator's may have `records_core_max`.
    pub records_max: u64,
    /// Records of all sessions of the core, each counted as 37 bytes: what waits, and what is known
    /// of sync sets, counts in the same bytes.
    pub records_core_max: u64,
    /// A session without a message for so long ends.
    pub idle_ms_max: u64,
    /// Bytes of an answer before it is written as hex; it is never longer than a message that the
    /// relay itself would take.
    pub frame_bytes_max: usize,
    /// The sync sets whose sums the stores keep: the same filters in the same order as in
    /// [`store::StoreConfig`].
    pub sync_sets: Arc<[Filter]>,
}

impl Default for NegConfig {
    fn default() -> Self {
        Self {
            sessions_max: 8,
            records_max: 500_000,
            records_core_max: 2_000_000,
            idle_ms_max: 60_000,
            frame_bytes_max: 128 * 1024,
            sync_sets: [Filter::default()].into(),
        }
    }
}

impl NegConfig {
    fn bytes_max(&self) -> usize {
        usize::try_from(self.records_core_max).unwrap_or(usize::MAX).saturating_mul(RECORD_BYTES)
    }

    /// The sync set that `filter` asks for, apart from its window of time.
    fn sync_set(&self, filter: &Filter) -> Option<u8> {
        let timeless = Filter { since: None, until: None, ..filter.clone() };
        let found = self.sync_sets.iter().position(|set| *set == timeless);
        found.and_then(|index| u8::try_from(index).ok())
    }
}

/// A NEG-OPEN that waits for slots.
#[derive(Debug)]
pub(super) struct Open {
    name: Rc<str>,
    pub(super) filter: Filter,
    message: Vec<u8>,
}

/// The sessions of one home. Owned by the home; bounded by [`NegConfig`].
#[derive(Debug)]
pub(super) struct Sessions {
    table: Slab<Session>,
    /// What they hold.
    bytes: usize,
    /// When to look for idle ones.
    look_ms: u64,
    /// Sessions whose answer waits for the next turn.
    ready: VecDeque<usize>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { table: Slab::new(), bytes: 0, look_ms: u64::MAX, ready: VecDeque::new() }
    }

    pub(super) fn have_work(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn are_due(&self, now: Now) -> bool {
        now.monotonic_ms >= self.look_ms
    }

    /// The session whose read has this name.
    fn reading(&mut self, id: QueryId) -> Option<(usize, &mut Session)> {
        let slot = (id.slot & !SESSION_BIT) as usize;
        let session = self.table.get_mut(slot)?;
        let read = session.read.as_ref()?;
        (id.slot & SESSION_BIT != 0 && read.generation == id.generation).then_some((slot, session))
    }

    /// The largest session of the client that holds most.
    fn greediest(&self) -> Option<usize> {
        let all = self.table.iter().map(|(slot, session)| (session.client, session.bytes, slot));
        let mut all: Vec<(Client, usize, usize)> = all.collect();
        all.sort_unstable();
        let of_one_client = all.chunk_by(|one, other| one.0 == other.0);
        let greediest = of_one_client
            .max_by_key(|theirs| theirs.iter().map(|(_, bytes, _)| bytes).sum::<usize>());
        greediest.and_then(<[_]>::last).map(|(_, _, slot)| *slot)
    }
}

/// Whether a query is a session's read.
pub(super) fn is_session(id: QueryId) -> bool {
    id.slot & SESSION_BIT != 0 && id.slot != u32::MAX
}

impl Home {
    /// NEG-OPEN.
    pub(super) fn neg_open(
        &mut self,
        now: Now,
        client: Client,
        sub: SubscriptionId,
        (filter, message): (Filter, Vec<u8>),
        fx: &mut HomeEffects,
    ) {
        self.counters.neg_opens += 1;
        let name: Rc<str> = sub.into();
        if let Some(slot) = self.session_named(client, &name) {
            self.drop_session(slot, fx);
        }
        if let Some(reason) = self.refuses_session(client, &filter) {
            return self.refuse_neg(client, name, (reason, None), fx);
        }
        // Nothing is read for a message that cannot be answered.
        match check(&message) {
            Ok(()) => {}
            Err(NegError::OtherVersion(_)) => return say_version(client, name, fx),
            Err(error) => return self.refuse_neg(client, name, malformed(error), fx),
        }
        let open = Open { name, filter, message };
        let targets = self.neg_targets(client, &open.filter);
        if !self.slots.admits(targets.count(self.config.placement.shards()) as u32) {
            return self.park(client, Command::NegOpen(Box::new(open)), fx);
        }
        self.neg_begin(now, client, open, fx);
    }

    /// Why `client` gets no session for `filter`, if that is known before anything is read.
    fn refuses_session(&self, client: Client, filter: &Filter) -> Option<Reason> {
        let open = self.clients.get(&client).map_or(0, |state| state.sessions.len());
        let is_stranger = self.neg_reader(client) == Reader::Client(Arc::default());
        if self.config.neg.sessions_max == 0 {
            Some(Reason::NegOff)
        } else if is_stranger && nip17::asks_private_only(filter) {
            Some(Reason::PrivateNeedsAuth)
        } else if open >= self.config.neg.sessions_max {
            Some(Reason::NegSessions)
        } else {
            None
        }
    }

    fn neg_targets(&self, client: Client, filter: &Filter) -> Targets {
        if filter.matches_nothing() || filter.limit == Some(0) {
            return Targets::These([].into());
        }
        let filters = std::slice::from_ref(filter);
        Targets::of(filters, &self.neg_reader(client), &self.config.placement)
    }

    /// Slots that a parked NEG-OPEN waits for.
    pub(super) fn neg_slots(&self, client: Client, open: &Open) -> u32 {
        self.neg_targets(client, &open.filter).count(self.config.placement.shards()) as u32
    }

    /// Opens the session and begins to read; the slots are there.
    pub(super) fn neg_begin(&mut self, now: Now, client: Client, open: Open, fx: &mut HomeEffects) {
        let reader = self.neg_reader(client);
        let targets = self.neg_targets(client, &open.filter);
        let filters = std::slice::from_ref(&open.filter);
        if !self.has_room_for_filters(client, filters) {
            return self.refuse_neg(client, open.name, (Reason::FilterBudget, None), fx);
        }
        let sync_set = match &reader {
            Reader::Client(keys) if keys.is_empty() => self.config.neg.sync_set(&open.filter),
            _ => None,
        };
        let filter_bytes = super::subscription::filter_bytes(filters) + size_of::<Session>();
        self.charge_filters(client, filter_bytes);
        let generation = self.next_generation();
        let shards = targets.iter(self.config.placement.shards()).collect();
        let mut session = Session::new(client, open.name, open.filter, reader, now);
        session.filter_bytes = filter_bytes;
        session.message = Some(open.message);
        session.begin(generation, shards, sync_set);
        let slot = self.neg.table.insert(session);
        self.clients.entry(client).or_default().sessions.push(slot);
        self.neg.look_ms = self.neg.look_ms.min(now.monotonic_ms + self.config.neg.idle_ms_max);
        if self.settle_bytes(now, slot, fx) {
            self.neg_advance(now, slot, false, fx);
        }
    }

    /// NEG-MSG.
    pub(super) fn neg_message(
        &mut self,
        now: Now,
        client: Client,
        sub: SubscriptionId,
        message: Vec<u8>,
        fx: &mut HomeEffects,
    ) {
        self.counters.neg_messages += 1;
        self.neg_take(now, client, sub.into(), message, fx);
    }

    fn neg_take(
        &mut self,
        now: Now,
        client: Client,
        name: Rc<str>,
        message: Vec<u8>,
        fx: &mut HomeEffects,
    ) {
        let Some(slot) = self.session_named(client, &name) else {
            return self.refuse_neg(client, name, (Reason::NegUnknown, None), fx);
        };
        if self.neg.table[slot].is_busy() || self.is_paused(client) {
            return self.park(client, Command::NegMsg(name, message), fx);
        }
        match check(&message) {
            Ok(()) => {}
            Err(NegError::OtherVersion(_)) => return say_version(client, name, fx),
            Err(error) => return self.fail_session(now, slot, malformed(error), fx),
        }
        let session = &mut self.neg.table[slot];
        session.forget_items(self.config.neg.records_max / 2);
        (session.message, session.asked_ms) = (Some(message), now.monotonic_ms);
        if self.settle_bytes(now, slot, fx) {
            self.neg_advance(now, slot, false, fx);
        }
    }

    /// NEG-CLOSE.
    pub(super) fn neg_close(&mut self, client: Client, sub: &str, fx: &mut HomeEffects) {
        if let Some(slot) = self.session_named(client, sub) {
            self.drop_session(slot, fx);
        }
    }

    /// The client is gone, and so are its sessions.
    pub(super) fn neg_gone(&mut self, sessions: &[usize], fx: &mut HomeEffects) {
        sessions.iter().for_each(|slot| self.drop_session(*slot, fx));
    }

    /// A page of ids.
    pub(super) fn neg_ids(
        &mut self,
        now: Now,
        shard: ShardId,
        id: QueryId,
        (ids, complete_to): (Vec<Position>, Option<Position>),
        fx: &mut HomeEffects,
    ) {
        let Some((slot, session)) = self.neg.reading(id) else { return };
        session.take_ids(shard, ids, complete_to);
        self.took_reply(now, slot, fx);
    }

    /// A shard's sums of a sync set.
    pub(super) fn neg_sums(
        &mut self,
        now: Now,
        shard: ShardId,
        id: QueryId,
        sums: Option<&[(u32, Accumulator)]>,
        fx: &mut HomeEffects,
    ) {
        let Some((slot, session)) = self.neg.reading(id) else { return };
        session.take_sums(shard, sums);
        self.took_reply(now, slot, fx);
    }

    fn took_reply(&mut self, now: Now, slot: usize, fx: &mut HomeEffects) {
        let session = &self.neg.table[slot];
        if session.records() > self.records_max(session.client) {
            return self.fail_session(now, slot, (Reason::NegTooMany, None), fx);
        }
        if self.settle_bytes(now, slot, fx) {
            self.neg_advance(now, slot, false, fx);
        }
    }

    /// A shard cannot answer a session's read.
    pub(super) fn neg_failed(
        &mut self,
        now: Now,
        id: QueryId,
        reason: Reason,
        fx: &mut HomeEffects,
    ) {
        if let Some((slot, _)) = self.neg.reading(id) {
            self.fail_session(now, slot, (reason, None), fx);
        }
    }

    /// A slot has come back for a session's read.
    pub(super) fn neg_take_turn(&mut self, now: Now, id: QueryId, fx: &mut HomeEffects) {
        let Some((slot, session)) = self.neg.reading(id) else { return };
        if let Some(read) = &mut session.read {
            read.is_starved = false;
        }
        self.neg_advance(now, slot, true, fx);
    }

    /// Answers what waited for the next turn.
    pub(super) fn neg_turn(&mut self, now: Now, fx: &mut HomeEffects) {
        for _ in 0..self.neg.ready.len() {
            let Some(slot) = self.neg.ready.pop_front() else { return };
            let is_ready = |session: &mut Session| std::mem::take(&mut session.is_ready);
            if self.neg.table.get_mut(slot).is_some_and(is_ready) {
                self.neg_advance(now, slot, false, fx);
            }
        }
    }

    /// The client reads again.
    pub(super) fn neg_resume(&mut self, now: Now, client: Client, fx: &mut HomeEffects) {
        let Some(state) = self.clients.get(&client) else { return };
        for slot in state.sessions.clone() {
            // Answering one may have ended another.
            if self.neg.table.get(slot).is_some_and(|session| session.client == client) {
                self.neg_advance(now, slot, false, fx);
            }
        }
        self.release_parked(now, client, fx);
    }

    /// Ends the sessions that nobody has used for a while.
    pub(super) fn neg_look(&mut self, now: Now, fx: &mut HomeEffects) {
        let idle_ms_max = self.config.neg.idle_ms_max;
        let idle = self.neg.table.iter().filter(|(_, session)| !session.is_busy());
        let deadlines = idle.map(|(slot, session)| (session.answered_ms + idle_ms_max, slot));
        let (due, later): (Vec<_>, Vec<_>) =
            deadlines.partition(|(deadline_ms, _)| *deadline_ms <= now.monotonic_ms);
        for (_, slot) in due {
            self.fail_session(now, slot, (Reason::NegTimeout, None), fx);
        }
        self.neg.look_ms = if self.neg.table.is_empty() {
            u64::MAX
        } else {
            let next_ms = later.into_iter().map(|(deadline_ms, _)| deadline_ms).min();
            let soon_ms = now.monotonic_ms + LOOK_INTERVAL_MS;
            next_ms.unwrap_or(now.monotonic_ms + idle_ms_max).max(soon_ms)
        };
    }

    /// Reads what is missing, then answers.
    fn neg_advance(&mut self, now: Now, slot: usize, is_its_turn: bool, fx: &mut HomeEffects) {
        loop {
            let Some(session) = self.neg.table.get_mut(slot) else { return };
            let client = session.client;
            if let Some(read) = &session.read {
                if !read.collect.is_done() {
                    return self.neg_ask(now, slot, is_its_turn, fx);
                }
                fx.to_shard.extend(session.cancels(slot));
                session.finish_read();
                if session.lacks_sums() {
                    self.neg_read_all(slot);
                    continue;
                }
                if !self.settle_bytes(now, slot, fx) {
                    return;
                }
                continue;
            }
            if session.has_more_to_load() {
                let shards = self.neg_shards(slot);
                let generation = self.next_generation();
                self.neg.table[slot].begin_loading(generation, shards);
                continue;
            }
            let is_stale = session.is_stale();
            if session.message.is_none() || self.is_paused(client) {
                return;
            }
            if is_stale {
                if self.neg_refresh(now, slot, fx) {
                    continue;
                }
                return;
            }
            if self.emitted(client, 0) >= EMIT_BYTES_MAX {
                return self.neg_make_ready(slot);
            }
            if !self.neg_answer(now, slot, fx) {
                return;
            }
        }
    }

    fn neg_shards(&self, slot: usize) -> Vec<ShardId> {
        let session = &self.neg.table[slot];
        let filters = std::slice::from_ref(&session.filter);
        let targets = Targets::of(filters, &session.reader, &self.config.placement);
        targets.iter(self.config.placement.shards()).collect()
    }

    /// A key has vanished from a shard: sessions that may hold ids of it do not tell them any more.
    pub(super) fn neg_vanished(&mut self, key: &PublicKey) {
        self.neg.table.iter_mut().for_each(|(_, session)| session.key_vanished(key));
    }

    /// Brings a set up to date that a vanished key may have had events in. `false`: the session is
    /// over, since keys have been vanishing all the time that its message has been waiting.
    fn neg_refresh(&mut self, now: Now, slot: usize, fx: &mut HomeEffects) -> bool {
        let session = &mut self.neg.table[slot];
        if now.monotonic_ms >= session.asked_ms + self.config.neg.idle_ms_max {
            self.fail_session(now, slot, (Reason::NegTimeout, None), fx);
            return false;
        }
        if session.refresh() {
            self.neg_read_all(slot);
        }
        self.settle_bytes(now, slot, fx)
    }

    /// Reads the whole set, since there are no sums of it now.
    fn neg_read_all(&mut self, slot: usize) {
        let shards = self.neg_shards(slot);
        let generation = self.next_generation();
        self.neg.table[slot].begin(generation, shards, None);
    }

    /// Answers the waiting message; `true` if more has to be loaded before that.
    fn neg_answer(&mut self, now: Now, slot: usize, fx: &mut HomeEffects) -> bool {
        let frame_bytes_max = self.frame_bytes_max();
        let session = &mut self.neg.table[slot];
        let (client, sub) = (session.client, session.name.clone());
        match session.answer(frame_bytes_max) {
            Err(error) => self.fail_session(now, slot, malformed(error), fx),
            Ok(Answer::NeedItems(spans)) => {
                let records = session.will_load(spans);
                if records <= self.records_max(client) {
                    return true;
                }
                self.fail_session(now, slot, (Reason::NegTooMany, None), fx);
            }
            Ok(Answer::Message(message)) => {
                session.message = None;
                session.answered_ms = now.monotonic_ms;
                self.emitted(client, message.len() * 2);
                fx.replies.push(Reply::NegMsg { client, sub, message });
                self.settle_bytes(now, slot, fx);
                self.release_parked(now, client, fx);
            }
        }
        false
    }

    fn neg_make_ready(&mut self, slot: usize) {
        let session = &mut self.neg.table[slot];
        if !std::mem::replace(&mut session.is_ready, true) {
            self.neg.ready.push_back(slot);
        }
    }

    /// Asks the shards that nothing can go on without, as far as slots go.
    fn neg_ask(&mut self, now: Now, slot: usize, is_its_turn: bool, fx: &mut HomeEffects) {
        let session = &mut self.neg.table[slot];
        let client = session.client;
        let slots = self.slots.for_pages(client, is_its_turn);
        let deadline_ms = match &session.reader {
            Reader::Operator => u64::MAX,
            Reader::Client(_) => now.monotonic_ms + PAGE_DEADLINE_MS,
        };
        let reader = session.reader.clone();
        let Some(read) = &mut session.read else { return };
        let id = read.id(slot);
        let ids = read.collect.page_ids();
        let sync_set = if let Asked::Stretch(_) = read.asked { session.sync_set } else { None };
        let limits: Arc<[u64]> = vec![read.collect.left(); read.filters.len()].into();
        let mut taken = 0;
        let mut is_starved = false;
        for part in read.collect.wanting() {
            if taken == slots {
                is_starved = true;
                break;
            }
            taken += 1;
            part.is_in_flight = true;
            let message = match &read.asked {
                Asked::Sums(set) => ToShard::Sums { query: id, set: *set },
                Asked::Ids | Asked::Stretch(_) if part.is_started => {
                    ToShard::More { query: id, rows: ids, limits: limits.clone(), deadline_ms }
                }
                Asked::Ids | Asked::Stretch(_) => ToShard::Query(Box::new(Query {
                    id,
                    filters: read.filters.clone(),
                    limits: limits.clone(),
                    reader: reader.clone(),
                    mode: QueryMode::Ids { first_page_ids: ids, sync_set },
                    live: false,
                    deadline_ms,
                })),
            };
            part.is_started = true;
            fx.to_shard.push((part.shard, message));
        }
        let is_new = is_starved && !std::mem::replace(&mut read.is_starved, is_starved);
        self.slots.take(client, id, taken);
        if is_new {
            self.slots.wait_for_page(client, id);
        }
    }

    /// The client's parked NEG-MSG goes on, if it has one.
    fn release_parked(&mut self, now: Now, client: Client, fx: &mut HomeEffects) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        if !matches!(state.parked.as_deref(), Some(Command::NegMsg(..))) {
            return;
        }
        let Some(Command::NegMsg(name, message)) = state.take_parked() else { return };
        self.neg_take(now, client, name, message, fx);
        if self.clients.get(&client).is_some_and(|state| state.parked.is_none()) {
            fx.replies.push(Reply::Unpark(client));
        }
    }

    fn session_named(&self, client: Client, name: &str) -> Option<usize> {
        let sessions = &self.clients.get(&client)?.sessions;
        sessions.iter().copied().find(|slot| *self.neg.table[*slot].name == *name)
    }

    /// Ends a session and says why.
    fn fail_session(
        &mut self,
        now: Now,
        slot: usize,
        why: (Reason, Option<Arc<str>>),
        fx: &mut HomeEffects,
    ) {
        let Some(session) = self.neg.table.get(slot) else { return };
        let (client, name) = (session.client, session.name.clone());
        self.drop_session(slot, fx);
        self.refuse_neg(client, name, why, fx);
        self.release_parked(now, client, fx);
    }

    fn refuse_neg(
        &mut self,
        client: Client,
        sub: Rc<str>,
        (reason, note): (Reason, Option<Arc<str>>),
        fx: &mut HomeEffects,
    ) {
        self.counters.refused.add(reason);
        let records_max = (reason == Reason::NegTooMany).then(|| self.records_max(client));
        fx.replies.push(Reply::NegErr { client, sub, reason, note, records_max });
    }

    /// Answers NEG-OPEN or NEG-MSG of a client that has to authenticate first.
    pub(super) fn refuse_neg_locked(
        &mut self,
        client: Client,
        sub: SubscriptionId,
        fx: &mut HomeEffects,
    ) {
        self.refuse_neg(client, sub.into(), (Reason::AuthFirst, None), fx);
    }

    /// Takes a session out of all tables and tells the shards that read for it.
    fn drop_session(&mut self, slot: usize, fx: &mut HomeEffects) {
        let Some(ended) = self.neg.table.try_remove(slot) else { return };
        self.neg.bytes -= ended.bytes;
        self.release_filters(ended.client, ended.filter_bytes);
        if let Some(state) = self.clients.get_mut(&ended.client) {
            state.sessions.retain(|other| *other != slot);
        }
        fx.to_shard.extend(ended.cancels(slot));
    }

    /// Enters what the session holds now. `false`: the core's budget was overstepped, and this is
    /// the session that had to go.
    fn settle_bytes(&mut self, now: Now, slot: usize, fx: &mut HomeEffects) -> bool {
        let session = &mut self.neg.table[slot];
        let bytes = session.bytes_held();
        let before = std::mem::replace(&mut session.bytes, bytes);
        self.neg.bytes = self.neg.bytes - before + bytes;
        while self.neg.bytes > self.config.neg.bytes_max()
            && let Some(greediest) = self.neg.greediest()
        {
            self.fail_session(now, greediest, (Reason::NegTooMany, None), fx);
        }
        // Whoever ended may have had a message waiting, and that may have ended others.
        self.neg.table.contains(slot)
    }

    fn records_max(&self, client: Client) -> u64 {
        match self.is_trusted(client) {
            true => self.config.neg.records_core_max,
            false => self.config.neg.records_max,
        }
    }

    /// As whom a client reconciles. The operator's own sessions are those of a stranger, too: what
    /// they say is handed on to relays elsewhere, and ids of private events are nobody's business
    /// there.
    fn neg_reader(&self, client: Client) -> Reader {
        match self.reader(client) {
            Reader::Operator => Reader::Client(Arc::default()),
            reader @ Reader::Client(_) => reader,
        }
    }

    fn frame_bytes_max(&self) -> usize {
        let message_bytes =
            self.config.limits.message_bytes_max.saturating_sub(FRAME_OVERHEAD_BYTES);
        self.config.neg.frame_bytes_max.min(message_bytes / 2)
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// When [`super::HomeInput::Turn`] has something to do although nothing else happens: sessions
    /// that may be idle for too long, shards that could not take note of a request to vanish.
    /// `u64::MAX` if there are none.
    pub fn deadline_ms(&self) -> u64 {
        self.neg.look_ms.min(self.witness_retry_ms)
    }

    /// Open NIP-77 sessions.
    pub fn neg_sessions(&self) -> usize {
        self.neg.table.len()
    }

    /// Bytes that they hold.
    pub fn neg_bytes(&self) -> usize {
        self.neg.bytes
    }
}

/// Whether every byte of `message` can be taken.
fn check(message: &[u8]) -> Result<(), NegError> {
    ranges(message)?.try_for_each(|range| range.map(|_| ()))
}

/// To who speaks another version: ours, and nothing else.
fn say_version(client: Client, sub: Rc<str>, fx: &mut HomeEffects) {
    fx.replies.push(Reply::NegMsg { client, sub, message: vec![VERSION] });
}

fn malformed(error: NegError) -> (Reason, Option<Arc<str>>) {
    let reason = Reason::NegMalformed;
    (reason, Some(format!("{}: {error}", reason.prefix().word()).into()))
}
