//! A damaged log: the start refuses it and says why, or the store holds exactly what was alive at a
//! moment that the log knows; never a panic. Without its index and with it; and after
//! `accept_loss` a log can be opened. With the checksums made true over the damage, every decoder
//! behind them is reached.

use crate::bytes::Bytes;
use crate::image::{Image, image_config, readable};
use crate::store_world::{SECRET, World};
use proto::Filter;
use store::mem::MemIndex;
use store::{OpenError, RecoveryError, scrub};

/// An index that holds everything that the image does.
fn full_index(image: &Image) -> MemIndex {
    let index = MemIndex::new(SECRET);
    let mut world = World::open(image_config(), index.clone(), image.disk());
    world.close();
    index
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let flags = bytes.byte();
    let (has_index, is_repaired) = (flags & 1 == 1, flags & 2 == 2);
    let mut image = Image::base().clone();
    let whole = image.clone();
    let index = if has_index { full_index(&image) } else { MemIndex::new(SECRET) };
    image.damage(&mut bytes);
    if is_repaired {
        image.repair();
    }
    match World::try_open(image_config(), index.clone(), image.disk()) {
        Ok(mut world) if is_repaired => drop(readable(&mut world)),
        // What the index has seen is not read again, so damage there shows when it is read.
        Ok(mut world) if has_index => {
            let events = readable(&mut world);
            let is_known = |event| whole.events().any(|have| have == event);
            assert!(events.iter().all(is_known), "an event is made up");
        }
        Ok(mut world) => {
            let through = world.store.durable();
            if image.holds_the_end_of(&whole) {
                assert_eq!(through, whole.records(), "rot is taken for a tear");
            }
            whole.check_state(&world.query(&Filter::default(), 50), through);
        }
        Err(OpenError::World(_)) => {}
        Err(OpenError::Recovery(error)) => {
            let disk = image.disk();
            if !scrub::is_curable(&error) {
                return;
            }
            if scrub::accept_loss(&image_config(), &index, &disk).is_err() {
                return;
            }
            let mut world = match World::try_open(image_config(), index, disk) {
                Ok(world) => world,
                // Lives that run backwards, for one, are no rot.
                Err(_) if is_repaired => return,
                // A rewritten segment that rotted beside an index that is lost: the error says so.
                Err(OpenError::Recovery(RecoveryError::Unindexed { .. })) => return,
                // Nor are files under names of their own that somebody put between the segments.
                Err(_) if image.has_more_files_than(&whole) => return,
                Err(after) => panic!("{error}; its loss accepted, {after}"),
            };
            let events = readable(&mut world);
            let is_known = |event| is_repaired || whole.events().any(|have| have == event);
            assert!(events.iter().all(is_known), "an event is made up");
        }
    }
}
