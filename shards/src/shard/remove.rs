//! Removal by the operator: ids are looked up, what is found is ended, and what must not come back
//! is marked. One batch ends at most [`REMOVE_IDS_MAX`] events.

use super::{Shard, ShardEffects, Waiting};
use crate::message::{Ban, CoreId, QueryId, REMOVE_IDS_MAX, ToHome};
use proto::{EventId, Reason};
use std::collections::BTreeSet;
use std::sync::Arc;
use store::effect::LookupKey;
use store::replace::OPERATOR;
use store::{Answers, KillCause};

/// A removal on its way.
#[derive(Clone, Debug)]
pub(super) struct Removal {
    pub(super) core: CoreId,
    pub(super) query: QueryId,
    pub(super) ids: Arc<[EventId]>,
    pub(super) ban: Ban,
}

impl Shard {
    /// Begins removals, as long as the store takes their records.
    pub(super) fn start_removals(&mut self, fx: &mut ShardEffects) {
        // On a full disk a removal may go on: it is what makes room there, and it is small.
        while (self.store.has_room() || self.store.is_full())
            && let Some(removal) = self.removals.pop_front()
        {
            let ids = removal.ids.iter().take(REMOVE_IDS_MAX);
            let keys = ids.flat_map(|id| {
                let mark =
                    (removal.ban != Ban::None).then_some(LookupKey::DeletedId(*id, OPERATOR));
                [Some(LookupKey::Id(*id)), mark].into_iter().flatten()
            });
            let answers = self.store.memory_only();
            let keys = self.store.unanswered(keys);
            if keys.is_empty() {
                self.remove(&removal, &answers, fx);
            } else {
                let token = self.store.lookup(keys, &mut fx.store);
                self.waiting.insert(token, Waiting::Removal(removal));
            }
        }
    }

    /// Ends what the removal names and the shard has. The answer goes out when that is durable.
    pub(super) fn remove(&mut self, removal: &Removal, answers: &Answers, fx: &mut ShardEffects) {
        let (mut kills, mut marks) = (Vec::new(), Vec::new());
        let view = self.store.view(answers);
        let ids: BTreeSet<EventId> = removal.ids.iter().take(REMOVE_IDS_MAX).copied().collect();
        for id in ids {
            let known = view.id(&id);
            let is_banned = match removal.ban {
                Ban::None => false,
                Ban::Found => known.is_some(),
                Ban::All => true,
            };
            if is_banned && !view.deleted_id(&id, &OPERATOR) {
                marks.push(id);
            }
            if let Some(known) = known {
                kills.push((known.seq, id));
            }
        }
        self.ingest.is_turn_due = true;
        self.counters.removed += kills.len() as u64;
        for (victim, _) in &kills {
            self.ingest.recent.forget(*victim);
            self.store.kill(*victim, KillCause::Operator);
        }
        for id in marks {
            self.store.mark_id(id, OPERATOR);
        }
        let found = kills.into_iter().map(|(_, id)| id).collect();
        let answer = ToHome::Removed { query: removal.query, result: Ok(found) };
        self.answer_when_durable(removal.core, answer, fx);
    }

    /// The index could not be read.
    pub(super) fn removal_failed(&mut self, removal: &Removal, fx: &mut ShardEffects) {
        let result = Err(Reason::ReadFailed);
        fx.to_home.push((removal.core, ToHome::Removed { query: removal.query, result }));
    }
}
