//! Ingest: the stages of one event, cheapest refusal first.
//!
//! 1. *Triage*: recent ids; room in the store; keys that memory cannot answer go into one lookup.
//! 2. *Decide*: duplicates, deletion markers, the slot (a pure rule of `store::replace`).
//! 3. *Id hash.* From here on only the signature can be wrong, so from here on the event is *in
//!    flight*: a second copy waits for the first, and is looked at anew if the first fails.
//! 4. *Signature*, in slices, so that readers get their turns, or by a ticket; see
//!    [`super::tickets`].
//! 5. *Policy door*, if the home wants it asked; see [`super::door`].
//! 6. *Append*: decided once more against what was appended meanwhile, then one batch of effects.
//! 7. *Durable*: recent ids, live ring, outcome.
//!
//! No refusal is remembered by id: whoever sends an id with a wrong signature first must not be
//! able to keep the real event out.

use super::door::AtDoor;
use super::recent::RecentIds;
use super::tickets::Tickets;
use super::{Shard, ShardConfig, ShardEffects, Waiting};
use crate::door;
use crate::message::{CoreId, Origin, Role, Ticket, ToHome};
use proto::nip::nip01::{KindClass, class};
use proto::nip::{nip09, nip62};
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

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing about it is known to be right.
    Arrived,
    /// Id and signature are right; the policy is to be asked.
    Verified,
    /// Nothing but the decision stands between it and the log.
    Cleared,
}

/// An event on its way.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) core: CoreId,
    pub(super) ticket: Ticket,
    pub(super) event: Event,
    pub(super) origin: Origin,
    role: Role,
    /// Who sent it, if the policy door is to be asked.
    pub(super) source: Option<Arc<door::Source>>,
    pub(super) stage: Stage,
    /// What the rules need of the event; `None` for ephemeral events, which meet none.
    pub(super) arrival: Option<Box<Arrival>>,
    /// What the index said, or that it need not be asked. Set with `arrival`: the pin in it keeps
    /// what memory said at triage in memory until the last decision about this event, or until the
    /// event waits at the policy door.
    pub(super) answers: Option<Arc<Answers>>,
    /// Bodies of events that a deletion names.
    pub(super) victims: Vec<(EventId, Option<Event>)>,
}

/// What to do with a candidate now.
enum Decision {
    Accept(Accepted),
    Refuse(Reason),
    /// What makes it a duplicate may not be durable yet: the same event, or a newer one.
    Join(Reason),
    NeedBodies(Vec<(EventId, Loc)>),
}

/// An answer that waits for durability.
#[derive(Debug)]
struct Awaiting {
    seq: Seq,
    core: CoreId,
    answer: ToHome,
}

/// Events of one shard between submission and outcome. Owned by the shard; at most
/// [`crate::message::SUBMIT_CREDIT`] events per home.
#[derive(Debug)]
pub(super) struct Ingest {
    inbox: VecDeque<Candidate>,
    pub(super) looking: SeededMap<Token, Vec<Candidate>>,
    fetching: SeededMap<Token, (Candidate, Vec<EventId>)>,
    pub(super) unverified: VecDeque<Candidate>,
    pub(super) tickets: Tickets,
    /// Ids of `unverified`, of events whose signature is checked elsewhere and of events at the door,
    /// each with the copies that wait for its verdict.
    pub(super) in_flight: SeededMap<EventId, Vec<Candidate>>,
    pub(super) door: AtDoor,
    awaiting: VecDeque<Awaiting>,
    /// Appended without a look at the signature, not yet durable.
    unproven: SeededSet<Seq>,
    pub(super) recent: RecentIds,
    /// Requests to vanish that are appended and not yet durable.
    vanishing: VecDeque<(Seq, PublicKey, u32)>,
    /// Something was appended or passed on since the last turn, and waits for the next one.
    pub(super) is_turn_due: bool,
}

impl Ingest {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self {
            inbox: VecDeque::new(),
            looking: SeededMap::with_hasher(config.seed),
            fetching: SeededMap::with_hasher(config.seed),
            unverified: VecDeque::new(),
            tickets: Tickets::new(config),
            in_flight: SeededMap::with_hasher(config.seed),
            awaiting: VecDeque::new(),
            unproven: SeededSet::with_hasher(config.seed),
            recent: RecentIds::new(config.recent_ids_max, config.seed),
            door: AtDoor::new(config),
            vanishing: VecDeque::new(),
            is_turn_due: false,
        }
    }

    pub(super) fn submit(
        &mut self,
        core: CoreId,
        ticket: Ticket,
        event: Event,
        origin: Origin,
        role: Role,
        source: Option<Arc<door::Source>>,
    ) {
        self.inbox.push_back(Candidate {
            core,
            ticket,
            event,
            origin,
            role,
            source,
            stage: Stage::Arrived,
            arrival: None,
            answers: None,
            victims: Vec::new(),
        });
    }

    /// Whether a turn would get anything done; an import does not move before there is room.
    pub(super) fn has_work(&self, has_room: bool) -> bool {
        let moves = |next: &Candidate| has_room || next.origin == Origin::Client;
        self.is_turn_due || !self.unverified.is_empty() || self.inbox.front().is_some_and(moves)
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
            + self.tickets.depth()
            + waiting
            + self.door.depth()
            + self.awaiting.len()
    }
}

impl Shard {
    pub(super) fn ingest_turn(&mut self, fx: &mut ShardEffects) {
        self.triage(fx);
        self.verify_slice(fx);
        self.ingest.is_turn_due = false;
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
            let is_behind = !self.store.has_room() && !self.store.is_full();
            if is_behind && candidate.origin != Origin::Client {
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
            if !is_ephemeral(&candidate.event) {
                let arrival = match candidate.role {
                    Role::Owner => Arrival::of(&view, &self.config.secret),
                    Role::Witness => Ok(Arrival::vanish_elsewhere(&view)),
                };
                match arrival {
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
        let is_owner = candidate.role == Role::Owner;
        if is_owner && self.ingest.recent.contains(&candidate.event.view().id()) {
            return Some(Reason::Duplicate);
        }
        match self.store.has_room() {
            true => None,
            false if self.store.is_full() => Some(Reason::StorageFull),
            false => Some(Reason::StoreBehind),
        }
    }

    pub(super) fn looked(&mut self, token: Token, answers: Answers, fx: &mut ShardEffects) {
        let answers = Arc::new(answers);
        for mut candidate in self.ingest.looking.remove(&token).unwrap_or_default() {
            candidate.answers = Some(answers.clone());
            self.go_on(candidate, fx);
        }
    }

    /// The index could not be read. Nothing was stored, so nothing is lost by saying so.
    pub(super) fn lookup_failed(&mut self, token: Token, fx: &mut ShardEffects) {
        let looking = self.ingest.looking.remove(&token).unwrap_or_default();
        let fetching = self.ingest.fetching.remove(&token).map(|(candidate, _)| candidate);
        for candidate in looking.into_iter().chain(fetching) {
            self.refuse(&candidate, Reason::ReadFailed, fx);
            self.settled(&candidate);
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
        self.go_on(candidate, fx);
    }

    /// What a candidate asked the store for is there.
    fn go_on(&mut self, candidate: Candidate, fx: &mut ShardEffects) {
        match candidate.stage {
            Stage::Arrived | Stage::Verified => self.decide(candidate, fx),
            Stage::Cleared => self.append(candidate, fx),
        }
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
            Verdict::Refuse(reason) if reason.is_accepted() => Decision::Join(reason),
            Verdict::Refuse(reason) => Decision::Refuse(reason),
        }
    }

    /// What "stored already" means: durable; or about to be; or imported without a look at its
    /// signature, in which case the copy at hand takes its place once verified.
    fn duplicate(&self, candidate: &Candidate, view: &View<'_>) -> Decision {
        if candidate.role == Role::Witness {
            // The key has vanished here already, or is about to have.
            return Decision::Join(Reason::Duplicate);
        }
        let Some(known) = view.id(&candidate.event.view().id()) else {
            return Decision::Refuse(Reason::Duplicate);
        };
        if !known.durable {
            return Decision::Join(Reason::Duplicate);
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
            Decision::Join(reason) => self.await_durable(&candidate, Err(reason), fx),
            Decision::NeedBodies(rows) => self.fetch_victims(candidate, rows, fx),
            Decision::Accept(_) if candidate.stage == Stage::Verified => {
                self.enter_door(candidate, fx);
            }
            Decision::Accept(_) => {
                if !candidate.event.view().id_is_valid() {
                    return self.refuse(&candidate, Reason::IdMismatch, fx);
                }
                if candidate.origin == Origin::ImportUnverified && ends_nothing(&candidate.event) {
                    return self.ask_or_append(candidate, fx);
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
        for (candidate, is_valid) in slice.into_iter().zip(verdicts) {
            self.judged(candidate, is_valid, fx);
        }
    }

    /// It is known whether the signature is right.
    pub(super) fn judged(
        &mut self,
        mut candidate: Candidate,
        is_valid: bool,
        fx: &mut ShardEffects,
    ) {
        if is_valid {
            if candidate.origin == Origin::ImportUnverified {
                candidate.origin = Origin::Import;
            }
            self.ask_or_append(candidate, fx);
        } else {
            self.refuse(&candidate, Reason::BadSignature, fx);
            self.settled(&candidate);
        }
    }

    fn ask_or_append(&mut self, mut candidate: Candidate, fx: &mut ShardEffects) {
        if candidate.source.is_some() {
            candidate.stage = Stage::Verified;
            return self.enter_door(candidate, fx);
        }
        candidate.stage = Stage::Cleared;
        self.append(candidate, fx);
    }

    /// A candidate that copies may be waiting for has come to its end. Whatever became of it, they
    /// are looked at anew: as duplicates of what is pending now, or on their own.
    fn settled(&mut self, candidate: &Candidate) {
        let id = candidate.event.view().id();
        let was_asked = candidate.stage == Stage::Cleared
            && candidate.source.is_some()
            && candidate.origin != Origin::ImportUnverified;
        if was_asked {
            self.ingest.door.forget(&id);
        }
        // While a copy with a right signature is at the door the others wait for that one.
        if !self.ingest.door.has(&id) {
            self.release_copies(&id);
        }
    }

    pub(super) fn release_copies(&mut self, id: &EventId) {
        let copies = self.ingest.in_flight.remove(id).unwrap_or_default();
        copies.into_iter().rev().for_each(|copy| self.ingest.inbox.push_front(copy));
    }

    /// Stage 6.
    pub(super) fn append(&mut self, candidate: Candidate, fx: &mut ShardEffects) {
        self.ingest.is_turn_due = true;
        // Between the decision and now other events of the same slot may have come.
        match self.decision(&candidate) {
            Decision::NeedBodies(rows) => return self.fetch_victims(candidate, rows, fx),
            Decision::Refuse(reason) => self.refuse(&candidate, reason, fx),
            Decision::Join(reason) => self.await_durable(&candidate, Err(reason), fx),
            Decision::Accept(_) if is_ephemeral(&candidate.event) => {
                self.counters.ephemeral += 1;
                self.ingest.recent.insert(candidate.event.view().id(), None);
                self.outcome(&candidate, Ok(()), None, fx);
                self.live.push(candidate.event.clone());
            }
            Decision::Accept(accepted) => self.store_event(&candidate, accepted, fx),
        }
        self.settled(&candidate);
    }

    fn store_event(&mut self, candidate: &Candidate, accepted: Accepted, fx: &mut ShardEffects) {
        let by = candidate.event.view().pubkey();
        if candidate.role == Role::Witness {
            self.apply(accepted, by);
            return self.await_durable(candidate, Ok(()), fx);
        }
        let flags = match candidate.origin {
            Origin::ImportUnverified => Loc::UNVERIFIED,
            Origin::Client | Origin::Import => 0,
        };
        let seq = self.store.put(candidate.event.clone(), flags);
        if flags & Loc::UNVERIFIED != 0 {
            self.ingest.unproven.insert(seq);
        }
        self.apply(accepted, by);
        self.await_durable(candidate, Ok(()), fx);
    }

    fn apply(&mut self, accepted: Accepted, by: PublicKey) {
        for (victim, why) in accepted.kills {
            self.ingest.recent.forget(victim);
            match why {
                KillCause::Replaced => self.counters.replaced += 1,
                KillCause::Deleted
                | KillCause::Expired
                | KillCause::Operator
                | KillCause::Vanished => self.counters.deleted += 1,
            }
            self.store.kill(victim, why);
        }
        for id in accepted.mark_ids {
            self.store.mark_id(id, by);
        }
        for (slot, until) in accepted.mark_slots {
            self.store.mark_slot(slot, until);
        }
        if let Some((key, until)) = accepted.vanish {
            self.counters.vanishes += 1;
            self.store.vanish(key, until);
            self.ingest.vanishing.push_back((self.store.appended(), key, until));
            // Any of them may be the key's; a copy has to meet the rule from now on.
            self.ingest.recent.forget_stored();
        }
    }

    fn await_durable(
        &mut self,
        candidate: &Candidate,
        result: Result<(), Reason>,
        fx: &mut ShardEffects,
    ) {
        let (ticket, id) = (candidate.ticket, candidate.event.view().id());
        let answer = ToHome::Outcome { ticket, id, result, note: None, is_shadowed: false };
        self.answer_when_durable(candidate.core, answer, fx);
    }

    /// The answer goes out when everything appended so far is durable.
    pub(super) fn answer_when_durable(
        &mut self,
        core: CoreId,
        answer: ToHome,
        fx: &mut ShardEffects,
    ) {
        let seq = self.store.appended();
        if seq <= self.store.durable() {
            return self.tell(core, answer, fx);
        }
        self.ingest.awaiting.push_back(Awaiting { seq, core, answer });
    }

    fn tell(&mut self, core: CoreId, answer: ToHome, fx: &mut ShardEffects) {
        if let ToHome::Outcome { result: Err(reason), .. } = &answer {
            self.counters.refused.add(*reason);
        }
        fx.to_home.push((core, answer));
    }

    /// Stage 7.
    pub(super) fn durable(&mut self, through: Seq, puts: Vec<(Seq, Event)>, fx: &mut ShardEffects) {
        while self.ingest.vanishing.front().is_some_and(|(seq, ..)| *seq <= through)
            && let Some((_, key, until)) = self.ingest.vanishing.pop_front()
        {
            let cores = 0..self.config.cores as CoreId;
            fx.to_home.extend(cores.map(|core| (core, ToHome::Vanished { key, until })));
            // What waits to be sent was stored before the request, whatever its sequence was.
            let store = &self.store;
            self.live.forget(|event| store.hides(0, &event.view()));
        }
        for (seq, event) in puts {
            self.counters.accepted += 1;
            if self.ingest.unproven.remove(&seq) {
                continue;
            }
            // What a later effect, not yet durable, is about to end may not answer duplicates any
            // more: its second coming must meet the rule that ends it.
            let view = event.view();
            if !self.store.is_dead(seq) && !self.store.is_vanishing(seq, &view) {
                self.ingest.recent.insert(view.id(), Some(seq));
            }
            // Subscribers get what readers could see; an event that its own batch ended never was.
            if self.store.is_visible(seq) && !self.store.hides(seq, &view) {
                self.live.push(event);
            }
        }
        while self.ingest.awaiting.front().is_some_and(|awaiting| awaiting.seq <= through) {
            let Some(Awaiting { core, answer, .. }) = self.ingest.awaiting.pop_front() else {
                return;
            };
            self.tell(core, answer, fx);
        }
    }

    fn refuse(&mut self, candidate: &Candidate, reason: Reason, fx: &mut ShardEffects) {
        self.counters.refused.add(reason);
        self.outcome(candidate, Err(reason), None, fx);
    }

    /// Says what became of a candidate of which nothing was stored.
    pub(super) fn outcome(
        &mut self,
        candidate: &Candidate,
        result: Result<(), Reason>,
        note: Option<Arc<str>>,
        fx: &mut ShardEffects,
    ) {
        let (ticket, id) = (candidate.ticket, candidate.event.view().id());
        let is_shadowed = result.is_ok() && !is_ephemeral(&candidate.event);
        let outcome = ToHome::Outcome { ticket, id, result, note, is_shadowed };
        fx.to_home.push((candidate.core, outcome));
    }
}

fn is_ephemeral(event: &Event) -> bool {
    class(event.view().kind()) == KindClass::Ephemeral
}

/// Whether storing `event` leaves all other events as they are. Only such an event may be imported
/// with its signature unchecked: a lie is found out when it is served, but a real event that it had
/// replaced or deleted would be gone.
fn ends_nothing(event: &Event) -> bool {
    let kind = event.view().kind();
    class(kind) == KindClass::Regular && !matches!(kind, nip09::KIND | nip62::KIND)
}
