//! What a decision sees: what is appended, over what is durable in memory, over what the index
//! answered.
//!
//! The index's answers may be older than the memory laid over them. That is right as long as no
//! generation of the delta that came after the answers is forgotten; [`Answers`] therefore hold a
//! pin, and the store keeps retired generations until the pins of their time are gone.

use crate::delta::Generation;
use crate::effect::{Found, Loc, LookupKey, Seq};
use crate::store::Store;
use proto::nip::nip01::{SlotKey, Version};
use proto::{Event, EventId, PublicKey};
use std::sync::Arc;

/// Holds back the freeing of generations that answers in flight may need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pin(Arc<()>);

impl Pin {
    /// Whether nobody else holds this pin.
    pub(crate) fn is_unique(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// What the index said to a set of keys. Keep it only while one decision is being made.
#[derive(Clone, Debug)]
pub struct Answers {
    /// In order of the keys, each once: a batch of candidates shares its answers, and each of them
    /// looks for a few among thousands.
    found: Vec<(LookupKey, Found)>,
    pins: Vec<Pin>,
}

impl Answers {
    pub(crate) fn new(mut found: Vec<(LookupKey, Found)>, pin: Pin) -> Self {
        sort_once(&mut found);
        Self { found, pins: vec![pin] }
    }

    /// Adds the answers to further keys of the same decision.
    pub fn extend(&mut self, more: Answers) {
        self.found.extend(more.found);
        sort_once(&mut self.found);
        self.pins.extend(more.pins);
    }

    fn find(&self, key: &LookupKey) -> Option<Found> {
        let at = self.found.binary_search_by(|(have, _)| have.cmp(key)).ok()?;
        self.found.get(at).map(|(_, found)| *found)
    }

    /// Whether `key` has been answered.
    pub fn has(&self, key: &LookupKey) -> bool {
        self.find(key).is_some()
    }
}

/// Sorts by key and keeps the first answer to each. The sort is a stable one, which takes two
/// sorted runs for what they are and merges them.
fn sort_once(found: &mut Vec<(LookupKey, Found)>) {
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found.dedup_by(|(later, _), (first, _)| later == first);
}

/// A stored event as a decision knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its sequence.
    pub seq: Seq,
    /// Whether it is durable; a duplicate of one that is not waits for it.
    pub durable: bool,
    /// Unix seconds.
    pub created_at: u32,
    /// Its place; `None` while it is pending.
    pub loc: Option<Loc>,
    /// Its body when that is in memory.
    pub event: Option<Event>,
}

/// Who holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Time and id.
    pub version: Version,
    /// Its sequence.
    pub seq: Seq,
}

/// Everything that is known now about the keys of a decision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) store: &'a Store,
    pub(crate) answers: &'a Answers,
}

impl View<'_> {
    /// The stored (or appended) event with this id.
    pub fn id(&self, id: &EventId) -> Option<Known> {
        if let Some(remembered) = self.store.recall_id(id) {
            return remembered;
        }
        let Some(Found::Row(row)) = self.answers.find(&LookupKey::Id(*id)) else { return None };
        (!self.store.is_dead(row.seq)).then(|| Known {
            seq: row.seq,
            durable: true,
            created_at: row.position.created_at,
            loc: Some(row.loc),
            event: self.store.hot(row.seq),
        })
    }

    /// The holder of a slot.
    pub fn holder(&self, slot: SlotKey) -> Option<Holder> {
        if let Some(remembered) = self.store.recall_slot(slot) {
            return remembered;
        }
        let Some(Found::Row(row)) = self.answers.find(&LookupKey::Slot(slot)) else { return None };
        let version = Version { created_at: row.position.created_at, id: row.position.id };
        (!self.store.is_dead(row.seq)).then_some(Holder { version, seq: row.seq })
    }

    /// Whether `by` deleted this id.
    pub fn deleted_id(&self, id: &EventId, by: &PublicKey) -> bool {
        self.store.remembers_mark(id, by)
            || matches!(
                self.answers.find(&LookupKey::DeletedId(*id, *by)),
                Some(Found::DeletedUntil(_))
            )
    }

    /// Up to when a slot is deleted, inclusive.
    pub fn deleted_until(&self, slot: SlotKey) -> Option<u32> {
        let answered = match self.answers.find(&LookupKey::DeletedSlot(slot)) {
            Some(Found::DeletedUntil(until)) => Some(until),
            _ => None,
        };
        self.store.recall_slot_mark(slot).max(answered)
    }

    /// Up to when a key asked to vanish, inclusive.
    pub fn vanished_until(&self, key: &PublicKey) -> Option<u32> {
        let answered = match self.answers.find(&LookupKey::Vanished(*key)) {
            Some(Found::DeletedUntil(until)) => Some(until),
            _ => None,
        };
        self.store.recall_vanished(key).max(answered)
    }

    /// Gift wraps to this key that were stored before this sequence are being removed.
    pub fn wraps_vanish_before(&self, key: &PublicKey) -> Option<Seq> {
        self.store.wraps_vanish_before(key)
    }

    /// Whether another request of this key to vanish can be carried out now.
    pub fn may_vanish(&self, key: &PublicKey) -> bool {
        self.store.may_vanish(key)
    }
}

/// A generation that the index holds by now, kept for answers from before it did.
#[derive(Debug)]
pub(crate) struct Retired {
    /// Nothing when only the reads of its time are waited for.
    pub(crate) generation: Option<Arc<Generation>>,
    pub(crate) pin: Pin,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> LookupKey {
        LookupKey::Id(EventId([number; 32]))
    }

    #[test]
    fn answers_are_found_whatever_their_order_and_the_first_one_counts() {
        let until = |numbers: &[(u8, u32)]| {
            let found = |(number, until): &(u8, u32)| (key(*number), Found::DeletedUntil(*until));
            Answers::new(numbers.iter().map(found).collect(), Pin::default())
        };
        let mut answers = until(&[(9, 1), (3, 2), (5, 3), (3, 4)]);
        answers.extend(until(&[(4, 5), (9, 6), (1, 7)]));
        let expected = [(9, 1), (3, 2), (5, 3), (4, 5), (1, 7)];
        for (number, until) in expected {
            assert_eq!(answers.find(&key(number)), Some(Found::DeletedUntil(until)));
        }
        assert!([0, 2, 6, 10].iter().all(|number| !answers.has(&key(*number))));
        assert_eq!((answers.found.len(), answers.pins.len()), (expected.len(), 2));
    }
}
