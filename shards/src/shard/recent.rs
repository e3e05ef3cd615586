//! Ids of recent events, which answer a copy without a look at the store.

use proto::{EventId, SeededMap, SeededState};
use std::collections::VecDeque;
use store::Seq;

/// Ids that were verified and are durable (or were ephemeral), newest kept. An event that was
/// replaced or deleted is forgotten, so that its second coming meets the rule and not the ring.
///
/// Owned by its shard; bounded by the number of ids that it was made for.
#[derive(Debug)]
pub(super) struct RecentIds {
    ids: SeededMap<EventId, Option<Seq>>,
    by_seq: SeededMap<Seq, EventId>,
    order: VecDeque<EventId>,
    max: usize,
}

impl RecentIds {
    pub(super) fn new(max: usize, seed: SeededState) -> Self {
        Self {
            ids: SeededMap::with_hasher(seed),
            by_seq: SeededMap::with_hasher(seed),
            order: VecDeque::new(),
            max,
        }
    }

    pub(super) fn contains(&self, id: &EventId) -> bool {
        self.ids.contains_key(id)
    }

    /// Enters an event; `seq` is `None` for an ephemeral one.
    pub(super) fn insert(&mut self, id: EventId, seq: Option<Seq>) {
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

    pub(super) fn forget(&mut self, seq: Seq) {
        // The id stays in the order and falls out of it in time.
        if let Some(id) = self.by_seq.remove(&seq) {
            self.ids.remove(&id);
        }
    }

    /// Forgets every stored event: a rule has come that may end any of them.
    pub(super) fn forget_stored(&mut self) {
        self.by_seq.clear();
        self.ids.retain(|_, seq| seq.is_none());
        let ids = &self.ids;
        self.order.retain(|id| ids.contains_key(id));
    }
}
