//! Ingest: the stages of one event, cheapest refusal first.
//!
//! 1. *Triage*: recent ids; room in the store; keys that memory cannot answer go into one lookup.
//! 2. *Decide*: duplicates, deletion markers, the slot (a pure rule of `store::replace`).
//! 3. *Id hash.* From here on only the signature can be wrong, so from here on the event is *in
//!    flight*: a second copy waits for the first, and is looked at anew if the first fails.
//! 4. *Signature*, in slices, so that readers get their turns.
//! 5. *Append*: decided once more against what was appended meanwhile, then one batch of effects.
//! 6. *Durable*: recent ids, live ring, outcome.
//!
//! No refusal is remembered by id: whoever sends an id with a wrong signature first must not be
//! able to keep the real event out.

use super::{Shard, ShardConfig, ShardEffects, Waiting};
use crate::message::{CoreId, Origin, Ticket, ToHome};
use proto::nip::nip01::{KindClass, class};
use proto::nip::nip09;
use proto::verify::VerifyItem;
use proto::{Event, EventId, PublicKey, Reason, SeededMap, SeededSet};
use std::collections::VecDeque;
use std::sync::Arc;
use store::effect::{Loc, Token};
use store::replace::{self, Accepted, Arrival, Verdict};
use store::{Answers, KillCause, Seq, View};

/// Events looked at in one turn.
const TRIAGE_MAX: usize = 256;
/// Copies of one event that wait for the verdict on the first.
const WAITERS_MAX: usize = 4;

/// An event on its way.
#[derive(Clone, Debug)]
struct Candidate {
    core: CoreId,
    ticket: Ticket,
    event: Event,
    origin: Origin,
    /// What the rules need of the event; `None` for ephemeral events, which meet none.
    arrival: Option<Box<Arrival>>,
    /// What the index said, or that it need not be asked. Set with `arrival`: the pin in it keeps
    /// what memory said at triage in memory until the last decision about this event.
    answers: Option<Arc<Answers>>,
    /// Bodies of events that a deletion names.
    victims: Vec<(EventId, Option<Event>)>,
}

/// What to do with a candidate now.
enum Decision {
    Accept(Accepted),
    Refuse(Reason),
    /// The same event is appended and not yet durable.
    Join,
    NeedBodies(Vec<(EventId, Loc)>),
}

/// An outcome that waits for durability.
#[derive(Debug)]
struct Awaiting {
    seq: Seq,
    core: CoreId,
    ticket: Ticket,
    id: EventId,
    result: Result<(), Reason>,
}

/// Ids that were verified and are durable (or were ephemeral), newest kept. An event that was
/// replaced or deleted is forgotten, so that its second coming meets the rule and not the ring.
#[derive(Debug)]
struct RecentIds {
    ids: SeededMap<EventId, Option<Seq>>,
    by_seq: SeededMap<Seq, EventId>,
    order: VecDeque<EventId>,
    max: usize,
}

impl RecentIds {
    fn insert(&mut self, id: EventId, seq: Option<Seq>) {
        if self.ids.insert(id, seq).is_none() {
            self.order.push_back(id);
        }
        if let Some(seq) = seq {
            self.by_seq.insert(seq, id);
        }
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
            && let Some(Some(seq)) = self.ids.remove(&oldest)
        {
            self.by_seq.remove(&seq);
        }
    }

    fn forget(&mut self, seq: Seq) {
        // The id stays in the order and falls out of it in time.
        if let Some(id) = self.by_seq.remove(&seq) {
            self.ids.remove(&id);
        }
    }
}

/// Events of one shard between submission and outcome. Owned by the shard; at most
/// [`crate::message::SUBMIT_CREDIT`] events per home.
#[derive(Debug)]
pub(super) struct Ingest {
    inbox: VecDeque<Candidate>,
    looking: SeededMap<Token, Vec<Candidate>>,
    fetching: SeededMap<Token, (Candidate, Vec<EventId>)>,
    unverified: VecDeque<Candidate>,
    /// Ids of `unverified`, each with the copies that wait for its verdict.
    in_flight: SeededMap<EventId, Vec<Candidate>>,
    awaiting: VecDeque<Awaiting>,
    /// Appended without a look at the signature, not yet durable.
    unproven: SeededSet<Seq>,
    recent: RecentIds,
}

impl Ingest {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self {
            inbox: VecDeque::new(),
            looking: SeededMap::with_hasher(config.seed),
            fetching: SeededMap::with_hasher(config.seed),
            unverified: VecDeque::new(),
            in_flight: SeededMap::with_hasher(config.seed),
            awaiting: VecDeque::new(),
            unproven: SeededSet::with_hasher(config.seed),
            recent: RecentIds {
                ids: SeededMap::with_hasher(config.seed),
                by_seq: SeededMap::with_hasher(config.seed),
                order: VecDeque::new(),
                max: config.recent_ids_max,
            },
        }
    }

    pub(super) fn submit(&mut self, core: CoreId, ticket: Ticket, event: Event, origin: Origin) {
        let (arrival, answers, victims) = (None, None, Vec::new());
        self.inbox.push_back(Candidate { core, ticket, event, origin, arrival, answers, victims });
    }

    /// Whether a turn would get anything done; an import does not move before there is room.
    pub(super) fn has_work(&self, has_room: bool) -> bool {
        let moves = |next: &Candidate| has_room || next.origin == Origin::Client;
        !self.unverified.is_empty() || self.inbox.front().is_some_and(moves)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.depth() == 0
    }

    pub(super) fn depth(&self) -> usize {
        let looking: usize = self.looking.values().map(Vec::len).sum();
        let waiting: usize = self.in_flight.values().map(Vec::len).sum();
        self.inbox.len()
            + looking
            + self.fetching.len()
            + self.unverified.len()
            + waiting
            + self.awaiting.len()
    }
}

impl Shard {
    pub(super) fn ingest_turn(&mut self, fx: &mut ShardEffects) {
        self.triage(fx);
        self.verify_slice(fx);
    }

    fn triage(&mut self, fx: &mut ShardEffects) {
        if self.ingest.inbox.is_empty() {
            return;
        }
        let mut keys = Vec::new();
        let mut batch = Vec::new();
        let memory_only = Arc::new(self.store.memory_only());
        for _ in 0..TRIAGE_MAX {
            let Some(candidate) = self.ingest.inbox.front() else { break };
            if !self.store.has_room() && candidate.origin != Origin::Client {
                // An import has all the time there is; it waits for the checkpoint.
                break;
            }
            let Some(mut candidate) = self.ingest.inbox.pop_front() else { break };
            if let Some(reason) = self.cheap_refusal(&candidate) {
                self.refuse(&candidate, reason, fx);
                continue;
            }
            let view = candidate.event.view();
            if let Some(waiters) = self.ingest.in_flight.get_mut(&view.id())
                && waiters.len() < WAITERS_MAX
            {
                waiters.push(candidate);
                continue;
            }
            let mut unanswered = Vec::new();
            if class(view.kind()) != KindClass::Ephemeral {
                match Arrival::of(&view, &self.config.secret) {
                    Ok(arrival) => {
                        unanswered = self.store.unanswered(arrival.keys());
                        candidate.arrival = Some(Box::new(arrival));
                        candidate.answers = Some(Arc::clone(&memory_only));
                    }
                    Err(reason) => {
                        self.refuse(&candidate, reason, fx);
                        continue;
                    }
                }
            }
            if unanswered.is_empty() {
                self.decide(candidate, fx);
            } else {
                keys.extend(unanswered);
                batch.push(candidate);
            }
        }
        if !batch.is_empty() {
            let token = self.store.lookup(keys, &mut fx.store);
            self.waiting.insert(token, Waiting::Ingest);
            self.ingest.looking.insert(token, batch);
        }
    }

    fn cheap_refusal(&self, candidate: &Candidate) -> Option<Reason> {
        if self.ingest.recent.ids.contains_key(&candidate.event.view().id()) {
            return Some(Reason::Duplicate);
        }
        (!self.store.has_room()).then_some(Reason::StoreBehind)
    }

    pub(super) fn looked(&mut self, token: Token, answers: Answers, fx: &mut ShardEffects) {
        self.waiting.remove(&token);
        let answers = Arc::new(answers);
        for mut candidate in self.ingest.looking.remove(&token).unwrap_or_default() {
            candidate.answers = Some(answers.clone());
            self.decide(candidate, fx);
        }
    }

    /// The index could not be read. Nothing was stored, so nothing is lost by saying so.
    pub(super) fn lookup_failed(&mut self, token: Token, fx: &mut ShardEffects) {
        let looking = self.ingest.looking.remove(&token).unwrap_or_default();
        let fetching = self.ingest.fetching.remove(&token).map(|(candidate, _)| candidate);
        for candidate in looking.into_iter().chain(fetching) {
            self.refuse(&candidate, Reason::ReadFailed, fx);
        }
    }

    pub(super) fn victims(
        &mut self,
        token: Token,
        bodies: Vec<Option<Event>>,
        fx: &mut ShardEffects,
    ) {
        let Some((mut candidate, ids)) = self.ingest.fetching.remove(&token) else { return };
        candidate.victims.extend(ids.into_iter().zip(bodies));
        self.decide(candidate, fx);
    }

    fn decision(&self, candidate: &Candidate) -> Decision {
        let (Some(arrival), Some(answers)) = (&candidate.arrival, &candidate.answers) else {
            return Decision::Accept(Accepted::default());
        };
        let view = self.store.view(answers);
        match replace::decide(arrival, &view, &candidate.victims) {
            Verdict::Accept(accepted) => Decision::Accept(accepted),
            Verdict::NeedBodies(rows) => Decision::NeedBodies(rows),
            Verdict::Refuse(Reason::Duplicate) => self.duplicate(candidate, &view),
            Verdict::Refuse(reason) => Decision::Refuse(reason),
        }
    }

    /// What "stored already" means: durable; or about to be; or imported without a look at its
    /// signature, in which case the copy at hand takes its place once verified.
    fn duplicate(&self, candidate: &Candidate, view: &View<'_>) -> Decision {
        let Some(known) = view.id(&candidate.event.view().id()) else {
            return Decision::Refuse(Reason::Duplicate);
        };
        if !known.durable {
            return Decision::Join;
        }
        let is_unproven = known.loc.is_some_and(|loc| loc.flags & Loc::UNVERIFIED != 0)
            && !self.proven.contains(&known.seq);
        if is_unproven && candidate.origin != Origin::ImportUnverified {
            let kills = vec![(known.seq, KillCause::Operator)];
            return Decision::Accept(Accepted { kills, ..Accepted::default() });
        }
        Decision::Refuse(Reason::Duplicate)
    }

    /// Stages 2 and 3.
    fn decide(&mut self, candidate: Candidate, fx: &mut ShardEffects) {
        match self.decision(&candidate) {
            Decision::Refuse(reason) => self.refuse(&candidate, reason, fx),
            Decision::Join => self.await_durable(&candidate, Err(Reason::Duplicate)),
            Decision::NeedBodies(rows) => self.fetch_victims(candidate, rows, fx),
            Decision::Accept(_) => {
                if !candidate.event.view().id_is_valid() {
                    return self.refuse(&candidate, Reason::IdMismatch, fx);
                }
                if candidate.origin == Origin::ImportUnverified && ends_nothing(&candidate.event) {
                    return self.append(candidate, fx);
                }
                self.ingest.in_flight.entry(candidate.event.view().id()).or_default();
                self.ingest.unverified.push_back(candidate);
            }
        }
    }

    fn fetch_victims(
        &mut self,
        candidate: Candidate,
        rows: Vec<(EventId, Loc)>,
        fx: &mut ShardEffects,
    ) {
        let (ids, locs) = rows.into_iter().unzip();
        let token = self.store.fetch_locs(locs, &mut fx.store);
        self.waiting.insert(token, Waiting::Ingest);
        self.ingest.fetching.insert(token, (candidate, ids));
    }

    /// Stage 4.
    fn verify_slice(&mut self, fx: &mut ShardEffects) {
        let count = self.ingest.unverified.len().min(self.config.verify_slice);
        if count == 0 {
            return;
        }
        let slice: Vec<Candidate> = self.ingest.unverified.drain(..count).collect();
        let items: Vec<VerifyItem> =
            slice.iter().map(|candidate| VerifyItem::of(&candidate.event.view())).collect();
        let mut verdicts = Vec::with_capacity(count);
        self.verifier.verify_batch(&items, &mut verdicts);
        self.counters.verified += count as u64;
        for (mut candidate, is_valid) in slice.into_iter().zip(verdicts) {
            let id = candidate.event.view().id();
            let waiters = self.ingest.in_flight.remove(&id).unwrap_or_default();
            if is_valid {
                if candidate.origin == Origin::ImportUnverified {
                    candidate.origin = Origin::Import;
                }
                self.append(candidate, fx);
            } else {
                self.refuse(&candidate, Reason::BadSignature, fx);
            }
            // Whatever became of the first copy, the others are looked at anew: as duplicates of
            // what is pending now, or on their own.
            waiters.into_iter().rev().for_each(|waiter| self.ingest.inbox.push_front(waiter));
        }
    }

    /// Stage 5.
    fn append(&mut self, candidate: Candidate, fx: &mut ShardEffects) {
        let view = candidate.event.view();
        if class(view.kind()) == KindClass::Ephemeral {
            self.counters.ephemeral += 1;
            self.ingest.recent.insert(view.id(), None);
            self.outcome(&candidate, Ok(()), fx);
            return self.live.push(candidate.event);
        }
        // Between the decision and the signature other events of the same slot may have come.
        match self.decision(&candidate) {
            Decision::Refuse(reason) => self.refuse(&candidate, reason, fx),
            Decision::Join => self.await_durable(&candidate, Err(Reason::Duplicate)),
            Decision::NeedBodies(rows) => self.fetch_victims(candidate, rows, fx),
            Decision::Accept(accepted) => {
                let flags = match candidate.origin {
                    Origin::ImportUnverified => Loc::UNVERIFIED,
                    Origin::Client | Origin::Import => 0,
                };
                let seq = self.store.put(candidate.event.clone(), flags);
                if flags & Loc::UNVERIFIED != 0 {
                    self.ingest.unproven.insert(seq);
                }
                self.apply(accepted, view.pubkey());
                self.await_durable(&candidate, Ok(()));
            }
        }
    }

    fn apply(&mut self, accepted: Accepted, by: PublicKey) {
        for (victim, why) in accepted.kills {
            self.ingest.recent.forget(victim);
            match why {
                KillCause::Replaced => self.counters.replaced += 1,
                KillCause::Deleted | KillCause::Expired | KillCause::Operator => {
                    self.counters.deleted += 1;
                }
            }
            self.store.kill(victim, why);
        }
        for id in accepted.mark_ids {
            self.store.mark_id(id, by);
        }
        for (slot, until) in accepted.mark_slots {
            self.store.mark_slot(slot, until);
        }
    }

    /// The outcome goes out when everything appended so far is durable.
    fn await_durable(&mut self, candidate: &Candidate, result: Result<(), Reason>) {
        self.ingest.awaiting.push_back(Awaiting {
            seq: self.store.appended(),
            core: candidate.core,
            ticket: candidate.ticket,
            id: candidate.event.view().id(),
            result,
        });
    }

    /// Stage 6.
    pub(super) fn durable(&mut self, through: Seq, puts: Vec<(Seq, Event)>, fx: &mut ShardEffects) {
        for (seq, event) in puts {
            self.counters.accepted += 1;
            if self.ingest.unproven.remove(&seq) {
                continue;
            }
            // What a later effect, not yet durable, is about to end may not answer duplicates any
            // more: its second coming must meet the rule that ends it.
            if !self.store.is_dead(seq) {
                self.ingest.recent.insert(event.view().id(), Some(seq));
            }
            // Subscribers get what readers could see; an event that its own batch ended never was.
            if self.store.is_visible(seq) {
                self.live.push(event);
            }
        }
        while self.ingest.awaiting.front().is_some_and(|awaiting| awaiting.seq <= through) {
            let Some(Awaiting { core, ticket, id, result, .. }) = self.ingest.awaiting.pop_front()
            else {
                return;
            };
            if let Err(reason) = result {
                self.counters.refused.add(reason);
            }
            fx.to_home.push((core, ToHome::Outcome { ticket, id, result }));
        }
    }

    fn refuse(&mut self, candidate: &Candidate, reason: Reason, fx: &mut ShardEffects) {
        self.counters.refused.add(reason);
        self.outcome(candidate, Err(reason), fx);
    }

    fn outcome(
        &mut self,
        candidate: &Candidate,
        result: Result<(), Reason>,
        fx: &mut ShardEffects,
    ) {
        let (ticket, id) = (candidate.ticket, candidate.event.view().id());
        fx.to_home.push((candidate.core, ToHome::Outcome { ticket, id, result }));
    }
}

/// Whether storing `event` leaves all other events as they are. Only such an event may be imported
/// with its signature unchecked: a lie is found out when it is served, but a real event that it had
/// replaced or deleted would be gone.
fn ends_nothing(event: &Event) -> bool {
    let kind = event.view().kind();
    class(kind) == KindClass::Regular && kind != nip09::KIND
}
