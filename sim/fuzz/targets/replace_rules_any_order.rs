//! Replacement, deletion and vanishing against a naive relay, verdict by verdict, over pending,
//! durable, frozen and indexed events; and where the rules promise it, another order of arrival ends
//! with the same events.

use crate::bytes::Bytes;
use crate::events::ruled;
use crate::store_world::naive::{Naive, covers, submit};
use crate::store_world::{self, World, config};
use proto::nip::nip01::Slot;
use proto::{Event, Filter};
use store::StoreConfig;
use store::mem::{MemIndex, MemSegments};

fn check_invariants(stored: &[Event], deletions: &[Event]) {
    for event in stored {
        assert!(!deletions.iter().any(|deletion| covers(deletion, event)), "{event:?} is deleted");
    }
    let mut slots: Vec<Slot> = stored.iter().filter_map(|event| Slot::of(&event.view())).collect();
    let count = slots.len();
    slots.sort();
    slots.dedup();
    assert_eq!(slots.len(), count, "a slot is held twice");
}

/// Submits events in order, the world doing its part when the input says so.
fn play(events: &[Event], bytes: &mut Bytes<'_>) -> Vec<Event> {
    let config = StoreConfig { checkpoint_events: 5, hot_bytes_max: 900, ..config() };
    let (index, segments) = (MemIndex::new(store_world::SECRET), MemSegments::default());
    let mut world = World::open(config, index, segments);
    let mut naive = Naive::default();
    for event in events {
        assert_eq!(submit(&mut world, event), naive.submit(event), "{event:?} of {events:?}");
        match bytes.byte() % 6 {
            0 => {}
            1 => world.flush(),
            2 => {
                world.flush();
                world.settle_without_checkpoints();
            }
            3 => {
                world.commit();
                world = world.restart();
            }
            _ => world.commit(),
        }
    }
    world.commit();
    let stored = world.query(&Filter::default(), 5);
    assert_eq!(stored, naive.sorted());
    check_invariants(&stored, &naive.deletions);
    stored
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let by_id = bytes.one_in(2);
    let mut pool: Vec<Event> = Vec::new();
    for number in 0..4 + bytes.below(20) as u64 {
        let event = if !pool.is_empty() && bytes.one_in(8) {
            bytes.pick(&pool).clone()
        } else {
            ruled(&mut bytes, number, &pool, by_id)
        };
        pool.push(event);
    }
    let first = play(&pool, &mut bytes);
    let mut shuffled = pool.clone();
    for at in (1..shuffled.len()).rev() {
        shuffled.swap(at, bytes.below(at + 1));
    }
    let second = play(&shuffled, &mut bytes);
    if !by_id {
        assert_eq!(second, first, "the order of {pool:?} matters");
    }
}
