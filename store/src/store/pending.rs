//! What is appended and not yet durable: seen by decisions, not by readers.

use super::hot::Hot;
use crate::delta::{Generation, Vanish};
use crate::effect::{Loc, Seq};
use crate::key::EventKeys;
use crate::log::Framed;
use crate::record::KillCause;
use crate::vanish::Purges;
use crate::view::Holder;
use proto::nip::nip01::{SlotKey, Version};
use proto::{Event, EventId, PublicKey, SeededMap, SeededState};
use std::collections::VecDeque;

/// What an entry costs besides the packed bytes: header, keys, overlay maps.
const ENTRY_BYTES: usize = 256;

#[derive(Debug)]
enum Effect {
    Put { event: Event, flags: u8, at: u32, keys: EventKeys },
    Kill { victim: Seq, why: KillCause },
    MarkId { id: EventId, by: PublicKey },
    MarkSlot { slot: SlotKey, until: u32 },
    Vanish { key: PublicKey, until: u32 },
    Purged { key: PublicKey, until: u32 },
}

/// What a put holds besides its entry.
fn put_bytes(event: &Event, keys: &EventKeys) -> usize {
    event.packed().len() + keys.tags.len() * size_of::<u64>()
}

/// Effects in order of sequence, with an overlay for decisions. Bounded by the two batches (open
/// and in flight) whose records it mirrors.
#[derive(Debug)]
pub(super) struct Pending {
    effects: VecDeque<(Seq, Effect)>,
    /// Each entry names the record that made it, so that a later one is not taken out with it.
    ids: SeededMap<EventId, (Seq, Event)>,
    slots: SeededMap<SlotKey, Holder>,
    dead: SeededMap<Seq, Seq>,
    marked_ids: SeededMap<(EventId, PublicKey), Seq>,
    marked_slots: SeededMap<SlotKey, (Seq, u32)>,
    vanished: SeededMap<PublicKey, (Seq, u32)>,
    events: usize,
    bytes: usize,
}

impl Pending {
    pub(super) fn new(seed: SeededState) -> Self {
        Self {
            effects: VecDeque::new(),
            ids: SeededMap::with_hasher(seed),
            slots: SeededMap::with_hasher(seed),
            dead: SeededMap::with_hasher(seed),
            marked_ids: SeededMap::with_hasher(seed),
            marked_slots: SeededMap::with_hasher(seed),
            vanished: SeededMap::with_hasher(seed),
            events: 0,
            bytes: 0,
        }
    }

    pub(super) fn put(&mut self, seq: Seq, event: Event, flags: u8, at: u32, keys: EventKeys) {
        self.events += 1;
        self.bytes += put_bytes(&event, &keys);
        self.ids.insert(keys.id, (seq, event.clone()));
        if let Some(slot) = keys.slot {
            let version = Version { created_at: keys.created_at, id: keys.id };
            self.slots.insert(slot, Holder { version, seq });
        }
        self.push(seq, Effect::Put { event, flags, at, keys });
    }

    pub(super) fn kill(&mut self, seq: Seq, victim: Seq, why: KillCause) {
        self.dead.insert(victim, seq);
        self.push(seq, Effect::Kill { victim, why });
    }

    pub(super) fn mark_id(&mut self, seq: Seq, id: EventId, by: PublicKey) {
        self.marked_ids.insert((id, by), seq);
        self.push(seq, Effect::MarkId { id, by });
    }

    pub(super) fn mark_slot(&mut self, seq: Seq, slot: SlotKey, until: u32) {
        let until = self.marked_slot(&slot).unwrap_or(until).max(until);
        self.marked_slots.insert(slot, (seq, until));
        self.push(seq, Effect::MarkSlot { slot, until });
    }

    pub(super) fn vanish(&mut self, seq: Seq, key: PublicKey, until: u32) {
        let until = self.vanished_until(&key).unwrap_or(until).max(until);
        self.vanished.insert(key, (seq, until));
        self.push(seq, Effect::Vanish { key, until });
    }

    pub(super) fn purged(&mut self, seq: Seq, key: PublicKey, until: u32) {
        self.push(seq, Effect::Purged { key, until });
    }

    fn push(&mut self, seq: Seq, effect: Effect) {
        assert!(self.effects.back().is_none_or(|(last, _)| last + 1 == seq), "sequences are dense");
        self.bytes += ENTRY_BYTES;
        self.effects.push_back((seq, effect));
    }

    pub(super) fn find_id(&self, id: &EventId) -> Option<(Seq, &Event)> {
        self.ids.get(id).map(|(seq, event)| (*seq, event))
    }

    pub(super) fn find_slot(&self, slot: &SlotKey) -> Option<Holder> {
        self.slots.get(slot).copied()
    }

    pub(super) fn is_dead(&self, seq: Seq) -> bool {
        self.dead.contains_key(&seq)
    }

    pub(super) fn marked_id(&self, id: &EventId, by: &PublicKey) -> bool {
        self.marked_ids.contains_key(&(*id, *by))
    }

    pub(super) fn marked_slot(&self, slot: &SlotKey) -> Option<u32> {
        self.marked_slots.get(slot).map(|(_, until)| *until)
    }

    pub(super) fn vanished_until(&self, key: &PublicKey) -> Option<u32> {
        self.vanished.get(key).map(|(_, until)| *until)
    }

    pub(super) fn events(&self) -> usize {
        self.events
    }

    pub(super) fn bytes_held(&self) -> usize {
        self.bytes
    }

    /// Moves what became durable into the open generation, the ring of bodies and the purges;
    /// returns the events and the bytes of their bodies.
    pub(super) fn settle(
        &mut self,
        framed: Framed,
        open: &mut Generation,
        hot: &mut Hot,
        purges: &mut Purges,
    ) -> (Vec<(Seq, Event)>, u64) {
        let (mut puts, mut body_bytes) = (Vec::new(), 0);
        while let Some((seq, _)) = self.effects.front()
            && *seq <= framed.through
            && let Some((seq, effect)) = self.effects.pop_front()
        {
            self.bytes -= ENTRY_BYTES;
            match effect {
                Effect::Put { event, flags, at, keys } => {
                    self.forget_put(seq, &keys, &event);
                    body_bytes += event.packed().len() as u64;
                    let loc = Loc {
                        segment: framed.segment,
                        offset: framed.offset + at,
                        length: event.packed().len() as u32,
                        flags,
                        expires_at: keys.expires_at,
                    };
                    open.put(seq, loc, &keys);
                    hot.push(seq, event.clone());
                    puts.push((seq, event));
                }
                Effect::Kill { victim, why } => {
                    if self.dead.get(&victim) == Some(&seq) {
                        self.dead.remove(&victim);
                    }
                    open.kill(seq, victim, why);
                }
                Effect::MarkId { id, by } => {
                    if self.marked_ids.get(&(id, by)) == Some(&seq) {
                        self.marked_ids.remove(&(id, by));
                    }
                    open.mark_id(seq, id, by);
                }
                Effect::MarkSlot { slot, until } => {
                    if self.marked_slots.get(&slot).is_some_and(|(by, _)| *by == seq) {
                        self.marked_slots.remove(&slot);
                    }
                    open.mark_slot(seq, slot, until);
                }
                Effect::Vanish { key, until } => {
                    if self.vanished.get(&key).is_some_and(|(by, _)| *by == seq) {
                        self.vanished.remove(&key);
                    }
                    open.vanish(seq, key, until);
                    purges.begin(key, Vanish { until, seq });
                }
                Effect::Purged { key, until } => {
                    open.end_purge(seq, key, until);
                    purges.end(&key, until);
                }
            }
        }
        (puts, body_bytes)
    }

    fn forget_put(&mut self, seq: Seq, keys: &EventKeys, event: &Event) {
        self.events -= 1;
        self.bytes -= put_bytes(event, keys);
        if self.ids.get(&keys.id).is_some_and(|(have, _)| *have == seq) {
            self.ids.remove(&keys.id);
        }
        if let Some(slot) = keys.slot
            && self.slots.get(&slot).is_some_and(|holder| holder.seq == seq)
        {
            self.slots.remove(&slot);
        }
    }
}
