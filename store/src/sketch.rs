//! What the shard may hold: blocked Bloom filters over ids, slots, markers and the values of `e`,
//! `a`, `E` and `A` tags, so that most new events and most queries by reference never touch the
//! index. "No" is exact; "maybe" is always allowed.
//!
//! Marks (deletions, bans, keys that vanished) have filters of their own. Every arriving event asks
//! about two or three of them, and they are few: theirs stay in the processor's caches, while a
//! question about an id is a walk to memory.
//!
//! Owned by the shard's core, which sets a key before the effect that needs it is appended. Bounded
//! by [`Sketch::new`]'s `bytes_max`: filters that may not grow answer "maybe" to everything.

use crate::bloom::{BITS_PER_KEY, Bloom};
use crate::effect::LookupKey;
use crate::seam::Sketched;
use proto::hash::domain;
use proto::{EventId, PublicKey, Secret};

/// Keys of the first layer; each further one holds as many as all before it together.
const FIRST_LAYER_KEYS: usize = 1 << 15;
/// Keys below which a last layer is not worth having.
const LAYER_KEYS_MIN: usize = 1 << 10;

/// About how many keys a sketch is to have room for from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SketchedCount {
    /// Ids, slots and tags.
    pub events: usize,
    /// Marks.
    pub marks: usize,
}

/// The sketch of one shard.
#[derive(Debug)]
pub struct Sketch {
    secret: Secret,
    events: Layers,
    marks: Layers,
    bytes_max: usize,
}

/// A filter that grows: layers, the last of which is being filled.
#[derive(Debug, Default)]
struct Layers {
    layers: Vec<Bloom>,
    is_saturated: bool,
}

impl Layers {
    /// Adds a layer, as large as wanted or as there is room for; when no room is left, all is
    /// "maybe" for good.
    fn grow(&mut self, keys_wanted: usize, bytes_left: usize) {
        let keys_max = keys_wanted.max(FIRST_LAYER_KEYS).min(bytes_left / BITS_PER_KEY * 8);
        if keys_max < LAYER_KEYS_MIN {
            self.is_saturated = true;
            self.layers = Vec::new();
        } else {
            self.layers.push(Bloom::new(keys_max));
        }
    }

    fn bytes_held(&self) -> usize {
        self.layers.iter().map(Bloom::bytes_held).sum()
    }

    /// `bytes_left`: what a new layer may take.
    fn add(&mut self, hash: u64, bytes_left: usize) {
        if self.may_hold(hash) {
            return;
        }
        if self.layers.last().is_none_or(|layer| layer.is_full()) {
            let keys: usize = self.layers.iter().map(|layer| layer.keys_max()).sum();
            self.grow(keys, bytes_left);
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.set(hash);
        }
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.is_saturated || self.layers.iter().rev().any(|layer| layer.holds(hash))
    }
}

/// A tag's hash as a key. Its first bit says that the sketch covers the tag, and is therefore the
/// same for all of them; left in its place it would choose the upper half of the blocks for all.
fn spread(tag_hash: u64) -> u64 {
    tag_hash.rotate_left(1)
}

fn is_mark(key: &LookupKey) -> bool {
    match key {
        LookupKey::Id(_) | LookupKey::Slot(_) => false,
        LookupKey::DeletedId(..) | LookupKey::DeletedSlot(_) | LookupKey::Vanished(_) => true,
    }
}

impl Sketch {
    /// An empty sketch of at most `bytes_max` bytes.
    pub fn new(secret: Secret, bytes_max: usize) -> Self {
        Self { secret, events: Layers::default(), marks: Layers::default(), bytes_max }
    }

    /// An empty sketch whose first layers have room for that many, so that a question about a store
    /// that has just been opened touches one cache line and not one per doubling.
    pub fn with_room(secret: Secret, bytes_max: usize, keys: SketchedCount) -> Self {
        let mut sketch = Self::new(secret, bytes_max);
        if keys.marks > 0 {
            sketch.marks.grow(keys.marks, sketch.bytes_left());
        }
        sketch.events.grow(keys.events, sketch.bytes_left());
        sketch
    }

    fn bytes_left(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes_held())
    }

    /// Bytes held.
    pub fn bytes_held(&self) -> usize {
        self.events.bytes_held() + self.marks.bytes_held()
    }

    /// Whether every question about events is answered "maybe" because the bound is reached.
    pub fn is_saturated(&self) -> bool {
        self.events.is_saturated
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.events.may_hold(hash)
    }

    fn id_hash(&self, id: &EventId) -> u64 {
        self.secret.hash64(domain::SKETCH, &id.0)
    }

    fn marker_hash(&self, id: &EventId, by: &PublicKey) -> u64 {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&id.0);
        bytes[32..].copy_from_slice(&by.0);
        self.secret.hash64(domain::SKETCH, &bytes)
    }

    fn key_hash(&self, key: &LookupKey) -> u64 {
        let of_slot = |purpose: u8, slot: &[u8; 16]| {
            let mut bytes = [purpose; 17];
            bytes[1..].copy_from_slice(slot);
            self.secret.hash64(domain::SKETCH, &bytes)
        };
        match key {
            LookupKey::Id(id) => self.id_hash(id),
            LookupKey::DeletedId(id, by) => self.marker_hash(id, by),
            LookupKey::Slot(slot) => of_slot(1, &slot.0),
            LookupKey::DeletedSlot(slot) => of_slot(2, &slot.0),
            LookupKey::Vanished(key) => {
                let mut bytes = [3; 33];
                bytes[1..].copy_from_slice(&key.0);
                self.secret.hash64(domain::SKETCH, &bytes)
            }
        }
    }

    /// Remembers something that the store holds or is about to hold.
    pub fn insert(&mut self, item: &Sketched) {
        let hash = match item {
            Sketched::Id(id) => self.id_hash(id),
            Sketched::Tag(hash) => spread(*hash),
            Sketched::Key(key) => self.key_hash(key),
        };
        let bytes_left = self.bytes_left();
        match item {
            Sketched::Key(key) if is_mark(key) => self.marks.add(hash, bytes_left),
            _ => self.events.add(hash, bytes_left),
        }
    }

    /// Whether the store may have an answer other than "nothing" to `key`.
    pub fn may_know(&self, key: &LookupKey) -> bool {
        let layers = if is_mark(key) { &self.marks } else { &self.events };
        layers.may_hold(self.key_hash(key))
    }

    /// Whether an event with this id may be stored.
    pub fn may_have_id(&self, id: &EventId) -> bool {
        self.may_hold(self.id_hash(id))
    }

    /// Whether an event with this tag may be stored; always "maybe" for letters that the sketch
    /// does not cover.
    pub fn may_have_tag(&self, letter: u8, value: &[u8]) -> bool {
        let hash = crate::key::tag_hash(&self.secret, letter, value);
        hash & crate::key::SKETCHED_BIT == 0 || self.may_hold(spread(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> EventId {
        let mut id = EventId([7; 32]);
        id.0[..8].copy_from_slice(&number.to_le_bytes());
        id
    }

    fn room(events: usize) -> SketchedCount {
        SketchedCount { events, marks: 0 }
    }

    #[test]
    fn no_is_exact_and_maybe_is_rare_across_layers() {
        let mut sketch = Sketch::new(Secret([3; 16]), 1 << 20);
        let stored = 3 * FIRST_LAYER_KEYS as u64;
        for number in 0..stored {
            sketch.insert(&Sketched::Id(id(number)));
        }
        assert!(sketch.events.layers.len() > 1);
        assert!((0..stored).all(|number| sketch.may_have_id(&id(number))));
        let wrong = (stored..2 * stored).filter(|number| sketch.may_have_id(&id(*number))).count();
        assert!(wrong < stored as usize / 20, "{wrong} of {stored} unknown ids are called maybe");
    }

    #[test]
    fn room_made_ahead_is_one_layer_and_says_the_same() {
        let stored = 3 * FIRST_LAYER_KEYS as u64;
        let mut sketch = Sketch::with_room(Secret([3; 16]), 1 << 20, room(stored as usize));
        for number in 0..stored {
            sketch.insert(&Sketched::Id(id(number)));
        }
        assert_eq!(sketch.events.layers.len(), 1);
        assert!((0..stored).all(|number| sketch.may_have_id(&id(number))));
        let tight = Sketch::with_room(Secret([3; 16]), 1 << 16, room(1 << 30));
        assert!(!tight.is_saturated() && tight.bytes_held() <= 1 << 16, "room is not overdrawn");
        assert!(Sketch::with_room(Secret([3; 16]), 1 << 10, room(1 << 20)).is_saturated());
    }

    #[test]
    fn tags_use_all_blocks_and_are_rarely_taken_for_others() {
        let secret = Secret([3; 16]);
        let stored = FIRST_LAYER_KEYS as u64;
        let mut sketch = Sketch::with_room(secret, 1 << 20, room(stored as usize));
        for number in 0..stored {
            let hash = crate::key::tag_hash(&secret, b'e', &number.to_le_bytes());
            sketch.insert(&Sketched::Tag(hash));
        }
        assert_eq!(sketch.events.layers.len(), 1);
        assert!((0..stored).all(|number| sketch.may_have_tag(b'e', &number.to_le_bytes())));
        let is_wrong = |number: &u64| sketch.may_have_tag(b'e', &number.to_le_bytes());
        let wrong = (stored..2 * stored).filter(is_wrong).count();
        assert!(wrong < stored as usize / 40, "{wrong} of {stored} unknown tags are called maybe");
    }

    #[test]
    fn at_its_bound_it_says_maybe_to_everything() {
        let mut sketch = Sketch::new(Secret([3; 16]), 64 * 1024);
        for number in 0..4 * FIRST_LAYER_KEYS as u64 {
            sketch.insert(&Sketched::Id(id(number)));
        }
        assert!(sketch.is_saturated());
        assert!(sketch.may_have_id(&id(u64::MAX)));
        assert_eq!(sketch.bytes_held(), 0);
    }

    #[test]
    fn purposes_are_kept_apart() {
        let mut sketch = Sketch::new(Secret([3; 16]), 1 << 20);
        let slot = proto::nip::nip01::SlotKey([9; 16]);
        sketch.insert(&Sketched::Key(LookupKey::Slot(slot)));
        assert!(sketch.may_know(&LookupKey::Slot(slot)));
        assert!(!sketch.may_know(&LookupKey::DeletedSlot(slot)));
        assert!(!sketch.may_have_tag(b'e', &[9; 16]));
        assert!(sketch.may_have_tag(b'p', &[9; 16]), "letters it does not cover are maybe");
    }

    #[test]
    fn marks_grow_and_saturate_by_themselves_within_the_same_bound() {
        let mark = |number| LookupKey::DeletedId(id(number), PublicKey([1; 32]));
        let room = SketchedCount { events: 1 << 10, marks: 1 << 10 };
        let mut sketch = Sketch::with_room(Secret([3; 16]), 256 * 1024, room);
        for number in 0..2 * FIRST_LAYER_KEYS as u64 {
            sketch.insert(&Sketched::Key(mark(number)));
        }
        assert!((0..2 * FIRST_LAYER_KEYS as u64).all(|number| sketch.may_know(&mark(number))));
        assert!(!sketch.may_know(&mark(u64::MAX)) && !sketch.may_have_id(&id(1)));
        for number in 0..9 * FIRST_LAYER_KEYS as u64 {
            sketch.insert(&Sketched::Key(mark(number)));
            assert!(sketch.bytes_held() <= 256 * 1024);
        }
        assert!(sketch.marks.is_saturated && sketch.may_know(&mark(u64::MAX)));
        assert!(!sketch.is_saturated() && !sketch.may_have_id(&id(1)), "events have their own");
    }
}
