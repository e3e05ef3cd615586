//! The policy door as a stage of ingest: between an event's signature and its place in the log.
//!
//! The answer may take seconds, so an event that waits for it holds nothing that the store keeps
//! for decisions: no answers of the index (they pin generations of the delta) and no bodies. When
//! the answer is yes, the event is looked up and decided anew.
//!
//! Copies of an event at the door wait for the first. Its verdict speaks of its own source only: a
//! copy from elsewhere is asked about on its own if the first is refused.

use super::ingest::{Candidate, Stage};
use super::{Shard, ShardConfig, ShardEffects, Waiting};
use crate::door::{Answer, Question, Token, Verdict};
use crate::message::Origin;
use proto::{EventId, Reason, SeededMap, SeededSet};
use std::collections::VecDeque;
use std::sync::Arc;

/// Events of one shard at the policy door. Owned by the shard; bounded by what homes have submitted
/// and, where questions are concerned, by the configuration.
#[derive(Debug)]
pub(super) struct AtDoor {
    asked: SeededMap<Token, Candidate>,
    asked_max: usize,
    /// What waits until it may be asked about.
    queue: VecDeque<Candidate>,
    /// Verified events between the question and the end of their way: copies of these wait.
    ids: SeededSet<EventId>,
    last_token: Token,
}

impl AtDoor {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self {
            asked: SeededMap::with_hasher(config.seed),
            asked_max: config.door_in_flight_max.max(1),
            queue: VecDeque::new(),
            ids: SeededSet::with_hasher(config.seed),
            last_token: 0,
        }
    }

    pub(super) fn depth(&self) -> usize {
        self.asked.len() + self.queue.len()
    }

    pub(super) fn has(&self, id: &EventId) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn forget(&mut self, id: &EventId) {
        self.ids.remove(id);
    }
}

impl Shard {
    /// Takes an event to the door: one whose signature was checked, or one that is imported without.
    pub(super) fn enter_door(&mut self, mut candidate: Candidate, fx: &mut ShardEffects) {
        candidate.answers = None;
        candidate.victims = Vec::new();
        // An unchecked signature speaks for no other copy.
        if candidate.origin != Origin::ImportUnverified {
            let id = candidate.event.view().id();
            if !self.ingest.door.ids.insert(id) {
                return self.ingest.in_flight.entry(id).or_default().push(candidate);
            }
            self.ingest.in_flight.entry(id).or_default();
        }
        self.ingest.door.queue.push_back(candidate);
        self.ask_queued(fx);
    }

    fn ask_queued(&mut self, fx: &mut ShardEffects) {
        while self.ingest.door.asked.len() < self.ingest.door.asked_max
            && let Some(mut candidate) = self.ingest.door.queue.pop_front()
        {
            let Some(source) = candidate.source.clone() else {
                candidate.stage = Stage::Cleared;
                self.look_anew(candidate, fx);
                continue;
            };
            let door = &mut self.ingest.door;
            door.last_token += 1;
            self.counters.door.asked += 1;
            let event = candidate.event.clone();
            fx.door.push(Question { token: door.last_token, event, source });
            door.asked.insert(door.last_token, candidate);
        }
    }

    /// The policy program has answered.
    pub(super) fn door_answered(&mut self, answer: Answer, fx: &mut ShardEffects) {
        let Some(mut candidate) = self.ingest.door.asked.remove(&answer.token) else { return };
        self.counters.door.add(&answer.verdict);
        match answer.verdict {
            Verdict::Accept => {
                candidate.stage = Stage::Cleared;
                self.look_anew(candidate, fx);
            }
            Verdict::Reject(note) => self.turn_away(candidate, Err(Reason::Policy), Some(note), fx),
            Verdict::Unavailable => {
                self.turn_away(candidate, Err(Reason::PolicyDown), None, fx);
            }
            Verdict::ShadowReject => self.turn_away(candidate, Ok(()), None, fx),
        }
        self.ask_queued(fx);
    }

    /// What was known before the question may be out of date, and nothing has kept it.
    fn look_anew(&mut self, mut candidate: Candidate, fx: &mut ShardEffects) {
        let Some(arrival) = &candidate.arrival else { return self.append(candidate, fx) };
        let answers = self.store.memory_only();
        let keys = self.store.unanswered(arrival.keys());
        if keys.is_empty() {
            candidate.answers = Some(Arc::new(answers));
            return self.append(candidate, fx);
        }
        let token = self.store.lookup(keys, &mut fx.store);
        self.waiting.insert(token, Waiting::Ingest);
        self.ingest.looking.insert(token, vec![candidate]);
    }

    /// Ends a candidate at the door; the first of its copies that is ready for the door is asked
    /// about in its place.
    fn turn_away(
        &mut self,
        candidate: Candidate,
        result: Result<(), Reason>,
        note: Option<Arc<str>>,
        fx: &mut ShardEffects,
    ) {
        if let Err(reason) = result {
            self.counters.refused.add(reason);
        }
        self.outcome(&candidate, result, note, fx);
        if candidate.origin == Origin::ImportUnverified {
            return;
        }
        let id = candidate.event.view().id();
        let copies = self.ingest.in_flight.get_mut(&id);
        let next = copies.and_then(|copies| {
            let ready = copies.iter().position(|copy| copy.stage == Stage::Verified)?;
            Some(copies.remove(ready))
        });
        match next {
            // It stands in for the first, in the place that the first had.
            Some(next) => self.ingest.door.queue.push_front(next),
            None => {
                self.ingest.door.forget(&id);
                self.release_copies(&id);
            }
        }
    }
}
