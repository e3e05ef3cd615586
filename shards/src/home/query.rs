//! Queries: scatter with slots taken all or none, pages pulled as the client reads, one ordered
//! answer.

use super::merge::{Merge, Next, Part, Purpose, Tally};
use super::slots::Turn;
use super::{Command, EMIT_BYTES_MAX, Home, HomeEffects, PAGE_DEADLINE_MS, Reply, name, neg};
use crate::message::{
    Client, PAGE_ROWS_MAX, Page, Query, QueryId, QueryMode, Reader, ShardId, ToShard,
};
use crate::route::Targets;
use proto::message::Completeness;
use proto::nip::nip17;
use proto::nip::nip45::Hll;
use proto::{Filter, Now, Reason, SubscriptionId};
use std::rc::Rc;
use std::sync::Arc;

/// A query as it was asked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) client: Client,
    pub(super) sub: Rc<str>,
    pub(super) filters: Vec<Filter>,
    pub(super) reader: Reader,
    pub(super) purpose: Purpose,
}

impl Request {
    pub(super) fn req(
        client: Client,
        sub: SubscriptionId,
        filters: Vec<Filter>,
        reader: Reader,
    ) -> Self {
        Self { client, sub: name(sub), filters, reader, purpose: Purpose::Subscription }
    }

    pub(super) fn count(
        client: Client,
        sub: SubscriptionId,
        filters: Vec<Filter>,
        reader: Reader,
    ) -> Self {
        Self { client, sub: name(sub), filters, reader, purpose: Purpose::Count }
    }

    pub(super) fn scan(client: Client, filters: Vec<Filter>) -> Self {
        let sub = Rc::from("");
        Self { client, sub, filters, reader: Reader::Operator, purpose: Purpose::Scan }
    }

    pub(super) fn scan_count(client: Client, filters: Vec<Filter>) -> Self {
        let purpose = Purpose::Count;
        Self { client, sub: Rc::from(""), filters, reader: Reader::Operator, purpose }
    }

    /// Where the registers of NIP-45 begin to read keys, if this is a COUNT that has them.
    fn hll_offset(&self) -> Option<u8> {
        match (self.purpose, self.filters.as_slice()) {
            (Purpose::Count, [filter]) => Hll::offset_of(filter),
            _ => None,
        }
    }

    /// Rows that `filter` may contribute, after clamping.
    fn limit(&self, filter: &Filter, limits: &proto::Limits) -> u64 {
        match (self.purpose, filter.limit) {
            (Purpose::Subscription, Some(limit)) => limit.min(u64::from(limits.max_limit)),
            (Purpose::Subscription, None) => u64::from(limits.default_limit),
            (Purpose::Scan, limit) => limit.unwrap_or(u64::MAX),
            (Purpose::Count, _) => u64::MAX,
        }
    }
}

impl Home {
    pub(super) fn start(&mut self, now: Now, mut request: Request, fx: &mut HomeEffects) {
        let asks_private = |filter: &Filter| nip17::asks_private_only(filter);
        if request.reader == Reader::Client(Arc::default())
            && request.filters.iter().any(asks_private)
        {
            let (client, sub) = (request.client, request.sub);
            return self.refuse_query(client, sub, Reason::PrivateNeedsAuth, fx);
        }
        let open = self.clients.get(&request.client).map_or(0, |state| state.subscriptions.len());
        if request.purpose == Purpose::Subscription && open >= self.config.subscriptions_max {
            let (client, sub) = (request.client, request.sub);
            return self.refuse_query(client, sub, Reason::TooManySubscriptions, fx);
        }
        request.filters.retain(|filter| !filter.matches_nothing());
        let targets = self.targets(&request);
        // Whoever waits for the slots of all shards is not overtaken by those who need one.
        if !self.slots.admits(targets.count(self.config.placement.shards()) as u32) {
            return self.park(request.client, Command::Query(request), fx);
        }
        self.scatter(now, request, targets, fx);
    }

    /// Sends the query to its shards; the slots are there.
    fn scatter(&mut self, now: Now, request: Request, targets: Targets, fx: &mut HomeEffects) {
        if request.purpose == Purpose::Subscription
            && !self.has_room_for_filters(request.client, &request.filters)
        {
            let (client, sub) = (request.client, request.sub);
            return self.refuse_query(client, sub, Reason::FilterBudget, fx);
        }
        let shards = self.config.placement.shards();
        let filters: Arc<[Filter]> = request.filters.as_slice().into();
        let clamp = |filter: &Filter| request.limit(filter, &self.config.limits);
        let limits: Vec<u64> = filters.iter().map(clamp).collect();
        let mut merge = Merge {
            client: request.client,
            sub: request.sub.clone(),
            purpose: request.purpose,
            tally: Tally { hll: request.hll_offset().map(|_| Box::default()), ..Tally::default() },
            subscription: None,
            filters: filters.clone(),
            reader: request.reader.clone(),
            limits,
            parts: targets.iter(shards).map(Part::new).collect(),
            bytes: 0,
            is_ready: false,
            is_starved: false,
            left_out: false,
        };
        if request.purpose == Purpose::Subscription {
            merge.subscription = Some(self.add_subscription(&request, filters, targets));
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let id = QueryId { slot: self.queries.vacant_key() as u32, generation };
        let rows = first_page_rows(&merge);
        let mode = match merge.purpose {
            Purpose::Count => QueryMode::Count { hll_offset: request.hll_offset() },
            Purpose::Subscription | Purpose::Scan => QueryMode::Rows { first_page_rows: rows },
        };
        let replies = merge.purpose == Purpose::Count || rows > 0;
        // Nobody looks what there is when nothing is wanted: "finish" would be a guess.
        merge.left_out = rows == 0 && !merge.filters.is_empty();
        let limits: Arc<[u64]> = merge.limits.as_slice().into();
        for part in &mut merge.parts {
            part.in_flight = replies;
            part.exhausted = !replies;
            self.slots.take(merge.client, id, u32::from(replies));
            let query = Query {
                id,
                filters: merge.filters.clone(),
                limits: limits.clone(),
                reader: merge.reader.clone(),
                mode,
                live: merge.subscription.is_some(),
                deadline_ms: deadline_ms(now, &merge.reader),
            };
            fx.to_shard.push((part.shard, ToShard::Query(Box::new(query))));
        }
        if let Some(key) = merge.subscription
            && let Some(subscription) = self.subscription(key)
        {
            subscription.query = Some(id);
        }
        self.queries.insert((generation, merge));
        self.advance(now, id, fx);
    }

    /// A reply to `id` has come, whoever waits for it: its slot goes to whose turn it is.
    pub(super) fn slot_returned(&mut self, now: Now, id: QueryId, fx: &mut HomeEffects) {
        self.slots.give_back(id);
        while let Some(turn) = self.slots.next() {
            match turn {
                Turn::Page(id) => {
                    // A query that has ended, or whose client does not read now, leaves the slot to
                    // the next.
                    self.slots.leave(turn);
                    if neg::is_session(id) {
                        self.neg_take_turn(now, id, fx);
                    } else {
                        self.take_turn(now, id, fx);
                    }
                }
                Turn::Command(client) => {
                    if !self.serve_command(now, client, fx) {
                        return;
                    }
                }
            }
        }
    }

    fn take_turn(&mut self, now: Now, id: QueryId, fx: &mut HomeEffects) {
        if let Some(merge) = self.query(id) {
            merge.is_starved = false;
            self.advance_with(now, id, true, fx);
        }
    }

    /// Starts the parked command of `client` if its slots are there; `false`: they are not yet.
    fn serve_command(&mut self, now: Now, client: Client, fx: &mut HomeEffects) -> bool {
        let parked = self.clients.get(&client).and_then(|state| state.parked.as_deref());
        let needed = match parked {
            Some(Command::Query(request)) => {
                self.targets(request).count(self.config.placement.shards()) as u32
            }
            Some(Command::NegOpen(open)) => self.neg_slots(client, open),
            // Gone, or served meanwhile.
            _ => 0,
        };
        if self.slots.free() < needed {
            return false;
        }
        self.slots.leave(Turn::Command(client));
        let Some(state) = self.clients.get_mut(&client) else { return true };
        match state.take_parked() {
            Some(Command::Query(request)) => {
                let targets = self.targets(&request);
                self.scatter(now, request, targets, fx);
            }
            Some(Command::NegOpen(open)) => self.neg_begin(now, client, *open, fx),
            other => {
                state.parked = other.map(Box::new);
                return true;
            }
        }
        fx.replies.push(Reply::Unpark(client));
        true
    }

    fn targets(&self, request: &Request) -> Targets {
        Targets::of(&request.filters, &request.reader, &self.config.placement)
    }

    pub(super) fn query(&mut self, id: QueryId) -> Option<&mut Merge> {
        let (generation, merge) = self.queries.get_mut(id.slot as usize)?;
        (*generation == id.generation).then_some(merge)
    }

    pub(super) fn queries_of(&self, client: Client) -> Vec<QueryId> {
        self.queries
            .iter()
            .filter(|(_, (_, merge))| merge.client == client)
            .map(|(slot, (generation, _))| QueryId { slot: slot as u32, generation: *generation })
            .collect()
    }

    pub(super) fn page(
        &mut self,
        now: Now,
        shard: ShardId,
        id: QueryId,
        page: Page,
        fx: &mut HomeEffects,
    ) {
        let Some(merge) = self.query(id) else { return };
        let Some(part) = merge.parts.iter().position(|part| part.shard == shard) else { return };
        let bytes = merge.take_page(part, page);
        self.page_bytes += bytes;
        if self.page_bytes > self.config.page_bytes_max {
            self.evict_largest(fx);
        }
        self.advance(now, id, fx);
    }

    /// Pages of slow readers have used up the budget: the query that holds most of it ends.
    fn evict_largest(&mut self, fx: &mut HomeEffects) {
        let largest = self.queries.iter().max_by_key(|(_, (_, merge))| merge.bytes);
        if let Some((slot, (generation, _))) = largest {
            let id = QueryId { slot: slot as u32, generation: *generation };
            self.fail_query(id, Reason::SlowReader, fx);
        }
    }

    /// One shard's count.
    pub(super) fn counted(
        &mut self,
        shard: ShardId,
        id: QueryId,
        counted: Tally,
        fx: &mut HomeEffects,
    ) {
        let Some(merge) = self.query(id) else { return };
        if let Some(part) = merge.parts.iter_mut().find(|part| part.shard == shard) {
            part.in_flight = false;
            part.exhausted = true;
        }
        merge.tally.count += counted.count;
        merge.tally.is_partial |= counted.is_partial;
        if let (Some(sum), Some(hll)) = (&mut merge.tally.hll, &counted.hll) {
            sum.merge(hll);
        }
        self.finish_count(id, fx);
    }

    /// Answers a COUNT that every shard has answered, or that no shard was asked for.
    fn finish_count(&mut self, id: QueryId, fx: &mut HomeEffects) {
        let all = |merge: &&mut Merge| merge.parts.iter().all(|part| part.exhausted);
        let Some(merge) = self.query(id).filter(all) else { return };
        let (client, sub) = (merge.client, merge.sub.clone());
        let Tally { count, is_partial, hll } = std::mem::take(&mut merge.tally);
        fx.replies.push(Reply::Count { client, sub, count, approximate: is_partial, hll });
        self.drop_query(id, fx);
    }

    /// Ends a query without an answer; a subscription ends with it.
    pub(super) fn fail_query(&mut self, id: QueryId, reason: Reason, fx: &mut HomeEffects) {
        let Some(merge) = self.query(id) else { return };
        let (client, sub) = (merge.client, merge.sub.clone());
        if merge.subscription.is_some() {
            self.end_subscription(client, &sub, Some(reason), fx);
        } else {
            self.drop_query(id, fx);
            self.refuse_query(client, sub, reason, fx);
        }
    }

    /// Forgets a query and tells the shards that still work for it. Replies under way give their
    /// slots back when they come.
    pub(super) fn drop_query(&mut self, id: QueryId, fx: &mut HomeEffects) {
        if self.query(id).is_none() {
            return;
        }
        let (_, merge) = self.queries.remove(id.slot as usize);
        self.page_bytes -= merge.bytes;
        let unfinished = merge.parts.iter().filter(|part| !part.exhausted);
        fx.to_shard.extend(unfinished.map(|part| (part.shard, ToShard::Cancel { query: id })));
    }

    pub(super) fn pause(&mut self, now: Now, client: Client, paused: bool, fx: &mut HomeEffects) {
        match self.clients.get_mut(&client) {
            Some(state) => state.paused = paused,
            None => return,
        }
        if !paused {
            self.queries_of(client).into_iter().for_each(|id| self.make_ready(id));
            self.resume_held(client);
            self.neg_resume(now, client, fx);
        }
    }

    pub(super) fn make_ready(&mut self, id: QueryId) {
        if let Some(merge) = self.query(id)
            && !merge.is_ready
        {
            merge.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Gives every ready query one turn.
    pub(super) fn turn(&mut self, now: Now, fx: &mut HomeEffects) {
        self.turns += 1;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { return };
            if let Some(merge) = self.query(id) {
                merge.is_ready = false;
                self.advance(now, id, fx);
            }
        }
        for _ in 0..self.releasing.len() {
            let Some(key) = self.releasing.pop_front() else { return };
            self.release_held(now, key, fx);
        }
        self.neg_turn(now, fx);
    }

    /// Sends what can be sent, asks for what is missing, ends what is done.
    pub(super) fn advance(&mut self, now: Now, id: QueryId, fx: &mut HomeEffects) {
        self.advance_with(now, id, false, fx);
    }

    /// `is_its_turn`: a slot has come back for it.
    fn advance_with(&mut self, now: Now, id: QueryId, is_its_turn: bool, fx: &mut HomeEffects) {
        let shards = self.config.placement.shards();
        let Some(merge) = self.query(id) else { return };
        let client = merge.client;
        if merge.purpose == Purpose::Count {
            return self.finish_count(id, fx);
        }
        if self.is_paused(client) {
            return;
        }
        if self.emitted(client, 0) >= EMIT_BYTES_MAX {
            return self.make_ready(id);
        }
        loop {
            let Some(merge) = self.query(id) else { return };
            let before = merge.bytes;
            let step = merge.next();
            let released = before - merge.bytes;
            let sub = merge.sub.clone();
            self.page_bytes -= released;
            match step {
                Next::Row(event) => {
                    self.counters.stored_rows += 1;
                    let bytes = event.packed().len();
                    fx.replies.push(Reply::Stored { client, sub, event });
                    if self.emitted(client, bytes) >= EMIT_BYTES_MAX {
                        return self.make_ready(id);
                    }
                }
                Next::Wait(blocked) => return self.ask(now, id, &blocked, is_its_turn, fx),
                Next::Done(nothing_left) => {
                    let key = self.query(id).and_then(|merge| merge.subscription);
                    let installed = key.and_then(|key| self.subscription(key));
                    if installed.is_some_and(|sub| !sub.is_installed(shards)) {
                        return;
                    }
                    return self.finish(now, id, nothing_left, fx);
                }
            }
        }
    }

    pub(super) fn is_paused(&self, client: Client) -> bool {
        self.clients.get(&client).is_some_and(|state| state.paused)
    }

    /// Counts `bytes` of stored rows for the client; returns what it has got in this turn.
    pub(super) fn emitted(&mut self, client: Client, bytes: usize) -> usize {
        let state = self.clients.entry(client).or_default();
        if state.emitted_in != self.turns {
            (state.emitted_in, state.emitted) = (self.turns, 0);
        }
        state.emitted += bytes;
        state.emitted
    }

    /// Asks the blocked parts for their next page, as far as slots go; a query that gets too few
    /// goes on when a slot comes back.
    fn ask(
        &mut self,
        now: Now,
        id: QueryId,
        blocked: &[usize],
        is_its_turn: bool,
        fx: &mut HomeEffects,
    ) {
        let Some(client) = self.query(id).map(|merge| merge.client) else { return };
        let slots = self.slots.for_pages(client, is_its_turn);
        let mut taken = 0;
        let Some(merge) = self.query(id) else { return };
        let limits: Arc<[u64]> = merge.limits.as_slice().into();
        let rows = page_rows(merge.remaining(), merge.parts.len());
        let deadline_ms = deadline_ms(now, &merge.reader);
        let mut starved = false;
        for index in blocked {
            let part = &mut merge.parts[*index];
            if part.in_flight {
                continue;
            }
            if taken == slots {
                starved = true;
                break;
            }
            taken += 1;
            part.in_flight = true;
            let more = ToShard::More { query: id, rows, limits: limits.clone(), deadline_ms };
            fx.to_shard.push((part.shard, more));
        }
        let is_new = starved && !std::mem::replace(&mut merge.is_starved, starved);
        self.slots.take(client, id, taken);
        if is_new {
            self.slots.wait_for_page(client, id);
        }
    }

    fn finish(&mut self, now: Now, id: QueryId, nothing_left: bool, fx: &mut HomeEffects) {
        let Some(merge) = self.query(id) else { return };
        let (client, sub, key) = (merge.client, merge.sub.clone(), merge.subscription);
        let completeness = if nothing_left { Completeness::Finish } else { Completeness::More };
        fx.replies.push(Reply::Eose { client, sub, completeness });
        self.drop_query(id, fx);
        if let Some(key) = key {
            self.end_stored_phase(now, key, fx);
        }
    }
}

/// Rows to ask one shard for: one beyond the limit tells whether anything is left.
fn page_rows(remaining: u64, parts: usize) -> u32 {
    let share = match parts {
        0 | 1 => remaining.saturating_add(1),
        // What a shard has of the newest rows spreads like chance: twice the root beyond the mean is
        // enough nearly always, and a shard that has more is asked again.
        parts => {
            let mean = remaining / parts as u64;
            mean.saturating_add(2 * mean.isqrt()).max(8).saturating_add(1)
        }
    };
    share.min(u64::from(PAGE_ROWS_MAX)) as u32
}

fn first_page_rows(merge: &Merge) -> u32 {
    if merge.remaining() == 0 { 0 } else { page_rows(merge.remaining(), merge.parts.len()) }
}

/// An operator's export may take the time it takes.
fn deadline_ms(now: Now, reader: &Reader) -> u64 {
    match reader {
        Reader::Operator => u64::MAX,
        Reader::Client(_) => now.monotonic_ms + PAGE_DEADLINE_MS,
    }
}
