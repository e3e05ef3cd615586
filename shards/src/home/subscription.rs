//! Live subscriptions: their table, their horizons, and the fan-out of live events to them.

use super::{EMIT_BYTES_MAX, HELD_EVENTS_MAX, Home, HomeEffects, Reply, query};
use crate::message::{Client, LiveIndex, QueryId, ShardId, ToShard};
use crate::route::Targets;
use crate::subindex::{self, SubscriptionKey};
use proto::nip::{nip17, nip40};
use proto::{Event, Filter, Now, Reason};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// One client's part of the bytes that open filters may have: one in this many.
pub const FILTER_BYTES_SHARE: usize = 8;

/// What open filters cost.
pub(super) fn filter_bytes(filters: &[Filter]) -> usize {
    filters.iter().map(subindex::filter_bytes).sum()
}

/// One live subscription.
pub(super) struct Subscription {
    pub(super) generation: u32,
    pub(super) client: Client,
    pub(super) name: Rc<str>,
    pub(super) filters: Arc<[Filter]>,
    pub(super) targets: Targets,
    /// By shard, the first live index that is this subscription's; `None` while the shard has not
    /// installed it. Dropped once every shard's stream has passed it.
    pub(super) live_from: Option<Box<[Option<LiveIndex>]>>,
    /// The stored phase, while it lasts.
    pub(super) query: Option<QueryId>,
    /// Live events that wait for the end of the stored phase, or for the client to read what was
    /// held, in order of arrival.
    pub(super) held: VecDeque<Event>,
    held_bytes: usize,
    /// What its filters were charged with.
    filter_bytes: usize,
    /// The last event that was matched against this subscription.
    stamp: u64,
}

impl Subscription {
    fn takes(&self, shard: ShardId, index: LiveIndex) -> bool {
        match &self.live_from {
            Some(live_from) => live_from[usize::from(shard)].is_some_and(|from| index >= from),
            None => self.targets.contains(shard),
        }
    }

    pub(super) fn is_installed(&self, shards: u16) -> bool {
        self.live_from.as_ref().is_none_or(|live_from| {
            self.targets.iter(shards).all(|shard| live_from[usize::from(shard)].is_some())
        })
    }
}

impl Home {
    /// Enters a subscription; its stored phase is `query`.
    pub(super) fn add_subscription(
        &mut self,
        request: &query::Request,
        filters: Arc<[Filter]>,
        targets: Targets,
    ) -> SubscriptionKey {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let shards = usize::from(self.config.placement.shards());
        let filter_bytes = filter_bytes(&filters);
        self.charge_filters(request.client, filter_bytes);
        let slot = self.subscriptions.insert(Subscription {
            generation,
            client: request.client,
            name: request.sub.clone(),
            filters: filters.clone(),
            targets,
            live_from: Some(vec![None; shards].into()),
            query: None,
            held: VecDeque::new(),
            held_bytes: 0,
            filter_bytes,
            stamp: 0,
        });
        let key = SubscriptionKey { slot: slot as u32, generation };
        self.index.insert(key, &filters);
        self.clients.entry(request.client).or_default().subscriptions.push(key);
        key
    }

    /// Whether `client` may keep `filters` open: the core's budget has room, and so has the
    /// client's share of it.
    pub(super) fn has_room_for_filters(&self, client: Client, filters: &[Filter]) -> bool {
        let bytes = filter_bytes(filters);
        let bytes_max = self.config.filter_bytes_max;
        let of_client = self.clients.get(&client).map_or(0, |state| state.filter_bytes);
        self.filter_bytes + bytes <= bytes_max
            && of_client + bytes <= bytes_max / FILTER_BYTES_SHARE
    }

    pub(super) fn charge_filters(&mut self, client: Client, bytes: usize) {
        self.filter_bytes += bytes;
        self.clients.entry(client).or_default().filter_bytes += bytes;
    }

    /// What is open no longer costs nothing; the client may be gone already.
    pub(super) fn release_filters(&mut self, client: Client, bytes: usize) {
        self.filter_bytes -= bytes;
        if let Some(state) = self.clients.get_mut(&client) {
            state.filter_bytes -= bytes;
        }
    }

    pub(super) fn subscription(&mut self, key: SubscriptionKey) -> Option<&mut Subscription> {
        self.subscriptions
            .get_mut(key.slot as usize)
            .filter(|subscription| subscription.generation == key.generation)
    }

    /// Ends the client's subscription (or query) called `sub`, if there is one.
    pub(super) fn end_subscription(
        &mut self,
        client: Client,
        sub: &str,
        reason: Option<Reason>,
        fx: &mut HomeEffects,
    ) {
        let Some(state) = self.clients.get(&client) else { return };
        let found = state.subscriptions.iter().copied().find(|key| {
            self.subscriptions.get(key.slot as usize).is_some_and(|have| *have.name == *sub)
        });
        let Some(key) = found else { return };
        if let Some(state) = self.clients.get_mut(&client) {
            state.subscriptions.retain(|other| *other != key);
        }
        self.drop_subscription(key, fx);
        if let Some(reason) = reason {
            self.refuse_query(client, Rc::from(sub), reason, fx);
        }
    }

    /// Takes a subscription out of the table and the index and tells its shards. The caller takes
    /// it off its client's list.
    pub(super) fn drop_subscription(&mut self, key: SubscriptionKey, fx: &mut HomeEffects) {
        if self.subscription(key).is_none() {
            return;
        }
        let ended = self.subscriptions.remove(key.slot as usize);
        self.held_bytes -= ended.held_bytes;
        self.release_filters(ended.client, ended.filter_bytes);
        if let Some(query) = ended.query {
            self.drop_query(query, fx);
        }
        let live = &self.subscriptions;
        self.index.remove(&ended.filters, |entry| {
            live.get(entry.slot as usize).is_some_and(|have| have.generation == entry.generation)
        });
        let shards = self.config.placement.shards();
        fx.to_shard.extend(
            ended.targets.iter(shards).map(|s| (s, ToShard::Uninterest { subscriptions: 1 })),
        );
    }

    pub(super) fn installed(
        &mut self,
        now: Now,
        shard: ShardId,
        id: QueryId,
        (live_from, next): (LiveIndex, LiveIndex),
        fx: &mut HomeEffects,
    ) {
        self.live_next[usize::from(shard)] = next;
        let Some(key) = self.query(id).and_then(|merge| merge.subscription) else { return };
        if let Some(subscription) = self.subscription(key)
            && let Some(horizons) = &mut subscription.live_from
        {
            horizons[usize::from(shard)] = Some(live_from);
        }
        self.advance(now, id, fx);
    }

    /// Fans a batch of live events out and grants the shard as many again.
    pub(super) fn live(
        &mut self,
        now: Now,
        shard: ShardId,
        first: LiveIndex,
        events: &[Event],
        fx: &mut HomeEffects,
    ) {
        for (index, event) in (first..).zip(events) {
            self.live_next[usize::from(shard)] = index + 1;
            self.live_one(now, shard, index, event, fx);
        }
        fx.to_shard.push((shard, ToShard::LiveCredit { events: events.len() as u32 }));
    }

    fn live_one(
        &mut self,
        now: Now,
        shard: ShardId,
        index: LiveIndex,
        event: &Event,
        fx: &mut HomeEffects,
    ) {
        let view = event.view();
        if matches!(nip40::expires_at(&view), Ok(Some(at)) if at <= now.unix_s) {
            return;
        }
        self.live_stamp += 1;
        let stamp = self.live_stamp;
        let is_private = nip17::is_private(view.kind());
        let mut to = Vec::new();
        let mut overflowed = Vec::new();
        let bytes = event.packed().len();
        let mut held_bytes = self.held_bytes;
        let held_bytes_max = self.config.page_bytes_max;
        let (subscriptions, clients) = (&mut self.subscriptions, &self.clients);
        self.index.candidates(&view, |key| {
            let Some(subscription) = subscriptions.get_mut(key.slot as usize) else { return };
            if subscription.generation != key.generation || subscription.stamp == stamp {
                return;
            }
            subscription.stamp = stamp;
            if !subscription.takes(shard, index)
                || !subscription.filters.iter().any(|filter| filter.matches(&view))
            {
                return;
            }
            if is_private {
                let may_read = clients.get(&subscription.client).is_some_and(|state| {
                    state.is_trusted
                        || nip17::may_read(state.keys.as_deref().unwrap_or_default(), &view)
                });
                if !may_read {
                    return;
                }
            }
            if subscription.query.is_none() && subscription.held.is_empty() {
                to.push((subscription.client, subscription.name.clone()));
            } else if subscription.held.len() < HELD_EVENTS_MAX
                && held_bytes + bytes <= held_bytes_max
            {
                held_bytes += bytes;
                subscription.held_bytes += bytes;
                subscription.held.push_back(event.clone());
            } else {
                overflowed.push((subscription.client, subscription.name.clone()));
            }
        });
        self.held_bytes = held_bytes;
        if !to.is_empty() {
            self.counters.deliveries += to.len() as u64;
            fx.replies.push(Reply::Live { event: event.clone(), to });
        }
        for (client, name) in overflowed {
            self.end_subscription(client, &name, Some(Reason::LiveOverflow), fx);
        }
    }

    /// The stored phase of `key` is over: what was held follows as the client reads, and then
    /// events go straight through.
    pub(super) fn end_stored_phase(
        &mut self,
        now: Now,
        key: SubscriptionKey,
        fx: &mut HomeEffects,
    ) {
        let passed: Vec<LiveIndex> = self.live_next.clone();
        let Some(subscription) = self.subscription(key) else { return };
        subscription.query = None;
        let settled = subscription.live_from.as_ref().is_some_and(|live_from| {
            live_from.iter().zip(&passed).all(|(from, next)| from.is_none_or(|from| *next >= from))
        });
        if settled {
            subscription.live_from = None;
        }
        self.release_held(now, key, fx);
    }

    /// Hands on what was held, as much as the client takes in one turn. A paused client's rest goes
    /// on with [`Home::resume_held`].
    pub(super) fn release_held(&mut self, now: Now, key: SubscriptionKey, fx: &mut HomeEffects) {
        loop {
            let Some(subscription) = self.subscription(key) else { return };
            let (client, sub) = (subscription.client, subscription.name.clone());
            if subscription.held.is_empty() || self.is_paused(client) {
                return;
            }
            if self.emitted(client, 0) >= EMIT_BYTES_MAX {
                return self.releasing.push_back(key);
            }
            let Some(subscription) = self.subscription(key) else { return };
            let Some(event) = subscription.held.pop_front() else { return };
            let bytes = event.packed().len();
            subscription.held_bytes -= bytes;
            self.held_bytes -= bytes;
            self.emitted(client, bytes);
            if matches!(nip40::expires_at(&event.view()), Ok(Some(at)) if at <= now.unix_s) {
                continue;
            }
            self.counters.deliveries += 1;
            fx.replies.push(Reply::Held { client, sub, event });
        }
    }

    /// Takes out held events that may not be sent any more.
    pub(super) fn forget_held(&mut self, is_unwanted: impl Fn(&Event) -> bool) {
        for (_, subscription) in &mut self.subscriptions {
            let before = subscription.held_bytes;
            let bytes = &mut subscription.held_bytes;
            subscription.held.retain(|event| {
                let is_unwanted = is_unwanted(event);
                *bytes -= if is_unwanted { event.packed().len() } else { 0 };
                !is_unwanted
            });
            self.held_bytes -= before - subscription.held_bytes;
        }
    }

    /// The client reads again: what was held for it goes on in the next turn.
    pub(super) fn resume_held(&mut self, client: Client) {
        let Some(state) = self.clients.get(&client) else { return };
        let has_held = |key: &SubscriptionKey| {
            let subscription = self.subscriptions.get(key.slot as usize);
            subscription.is_some_and(|have| have.query.is_none() && !have.held.is_empty())
        };
        let is_queued = |key: &SubscriptionKey| self.releasing.contains(key);
        let waiting: Vec<SubscriptionKey> = state
            .subscriptions
            .iter()
            .copied()
            .filter(|key| has_held(key) && !is_queued(key))
            .collect();
        self.releasing.extend(waiting);
    }

    /// This core fell off a shard's ring: every subscription that touches the shard ends, since
    /// events are missing in it.
    pub(super) fn fell_behind(
        &mut self,
        shard: ShardId,
        resume_at: LiveIndex,
        fx: &mut HomeEffects,
    ) {
        self.live_next[usize::from(shard)] = resume_at;
        let touched: Vec<(Client, Rc<str>)> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.targets.contains(shard))
            .map(|(_, subscription)| (subscription.client, subscription.name.clone()))
            .collect();
        for (client, name) in touched {
            self.end_subscription(client, &name, Some(Reason::FellBehind), fx);
        }
    }
}
