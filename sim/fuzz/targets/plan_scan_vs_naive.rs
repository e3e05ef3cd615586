//! Plans and pages against a list: the same events for any filter, before, while and after the delta
//! goes into the index, across restarts and rewritings, with ties and with small pages.

use crate::bytes::Bytes;
use crate::events;
use crate::store_world::{self, World, config, position};
use proto::Event;
use store::mem::{MemIndex, MemSegments};
use store::{KillCause, Seq, StoreConfig};

fn check(world: &mut World<MemIndex, MemSegments>, alive: &[(Seq, Event)], bytes: &mut Bytes<'_>) {
    let events: Vec<Event> = alive.iter().map(|(_, event)| event.clone()).collect();
    let filter = events::filter(bytes, &events);
    let rows_max = 1 + bytes.below(9) as u32;
    let (durable, unix_s) = (world.store.durable(), world.now.unix_s);
    let is_due = |event: &Event| {
        let at = proto::nip::nip40::expires_at(&event.view()).ok().flatten();
        at.is_some_and(|at| at <= unix_s)
    };
    let mut expected: Vec<Event> = alive
        .iter()
        .filter(|(seq, event)| *seq <= durable && filter.matches(&event.view()) && !is_due(event))
        .map(|(_, event)| event.clone())
        .collect();
    expected.sort_by_key(position);
    let found = world.query(&filter, rows_max);
    assert_eq!(found, expected, "{filter:?} with pages of {rows_max}");
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let config = StoreConfig {
        checkpoint_events: 4 + bytes.below(20),
        hot_bytes_max: bytes.below(4) * 400,
        segment_bytes_max: 1_500 + u32::from(bytes.byte()) * 32,
        erase_after_s: 0,
        ..config()
    };
    let (index, segments) = (MemIndex::new(store_world::SECRET), MemSegments::default());
    let mut world = World::open(config, index, segments);
    let mut alive: Vec<(Seq, Event)> = Vec::new();
    let mut number = 0;
    while !bytes.is_over() && number < 300 {
        match bytes.byte() % 12 {
            0..=5 => {
                number += 1;
                let event = events::plain(&mut bytes, number);
                let is_new = alive.iter().all(|(_, have)| have.view().id() != event.view().id());
                if is_new {
                    alive.push((world.put(&event), event));
                }
            }
            6 if !alive.is_empty() => {
                let (victim, _) = alive.swap_remove(bytes.below(alive.len()));
                world.store.kill(victim, KillCause::Deleted);
                // What is not durable is not dead for readers, either.
                world.flush();
                world.settle_without_checkpoints();
            }
            7 => {
                world.flush();
                world.settle_without_checkpoints();
            }
            8 => world.commit(),
            9 if bytes.one_in(4) => {
                world.commit();
                let mut fx = Vec::new();
                world.store.compact(world.now, &mut fx);
                world.effects.extend(fx);
                world.settle();
            }
            10 if bytes.one_in(4) => {
                world.commit();
                world = world.restart();
            }
            _ => {
                world.flush();
                world.settle_without_checkpoints();
                check(&mut world, &alive, &mut bytes);
            }
        }
    }
    world.commit();
    check(&mut world, &alive, &mut bytes);
    check(&mut world, &alive, &mut Bytes(&[]));
    world.close();
    let mut world = world.restart();
    check(&mut world, &alive, &mut Bytes(&[]));
}
