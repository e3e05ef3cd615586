//! Our two ends against those of the `negentropy` crate.

use super::ends::{Server, Sets, answer, as_set, ids, reconcile};
use super::{sizes, spreads};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use proptest::prelude::*;
use proto::EventId;
use proto::nip::nip77::{Initiator, Item, SortedItems};

/// What the foreign implementation knows; it has no limit below 4,096 but none at all.
fn foreign_frames() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, 4_096, 10_000, 60_000])
}

fn storage(items: &[Item]) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::new();
    for item in items {
        storage.insert(u64::from(item.created_at), Id::from_byte_array(item.id.0)).unwrap();
    }
    storage.seal().unwrap();
    storage
}

/// The foreign initiator with `ours` against `answer`.
fn ask_as_foreign(
    ours: &[Item],
    frame_bytes_max: u64,
    mut answer: impl FnMut(&[u8]) -> Vec<u8>,
) -> (Vec<EventId>, Vec<EventId>) {
    let mut initiator = Negentropy::owned(storage(ours), frame_bytes_max).unwrap();
    let mut message = initiator.initiate().unwrap();
    let (mut have, mut need) = (Vec::new(), Vec::new());
    for _ in 0..3_000 {
        let next = initiator.reconcile_with_ids(&answer(&message), &mut have, &mut need).unwrap();
        let Some(next) = next else {
            let set = |ids: &[Id]| as_set(ids.iter().map(|id| EventId(**id)).collect());
            return (set(&have), set(&need));
        };
        message = next;
    }
    panic!("no end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn our_initiator_reconciles_with_the_foreign_responder(
        seed in any::<u64>(), sizes in sizes(), seconds in spreads(),
        ours in prop::sample::select(vec![2_048usize, 4_096, 60_000]), theirs in foreign_frames(),
    ) {
        let sets = Sets::new(seed, sizes, seconds);
        let mut responder = Negentropy::owned(storage(&sets.theirs()), theirs).unwrap();
        let (have, need, _) =
            reconcile(sets.ours(), ours, |message| responder.reconcile(message).unwrap());
        prop_assert_eq!((have, need), sets.differences());
    }

    #[test]
    fn the_foreign_initiator_reconciles_with_our_responder(
        seed in any::<u64>(), sizes in sizes(), seconds in spreads(),
        ours in prop::sample::select(vec![2_048usize, 4_096, 60_000]), theirs in foreign_frames(),
        has_items in any::<bool>(),
    ) {
        let sets = Sets::new(seed, sizes, seconds);
        let (items, mut server) = (SortedItems::new(sets.theirs()), Server::new(sets.theirs()));
        let found = ask_as_foreign(&sets.ours(), theirs, |message| {
            if has_items { answer(&items, message, ours) } else { server.answer(message, ours) }
        });
        prop_assert_eq!(found, sets.differences());
    }

    /// Without a limit both implementations split alike, so the bytes are the same.
    #[test]
    fn messages_are_the_same_byte_for_byte_where_there_is_no_choice(
        seed in any::<u64>(), size in 0..32usize, seconds in spreads(),
    ) {
        let sets = Sets::new(seed, [size, 0, 0], seconds);
        let foreign = Negentropy::owned(storage(&sets.shared), 0).unwrap().initiate().unwrap();
        let ours = Initiator::new(SortedItems::new(sets.shared), 1 << 20).initiate();
        prop_assert_eq!(ours, foreign);
    }

    /// Sixteen parts of the same size have the same bounds and fingerprints.
    #[test]
    fn even_splits_are_the_same_byte_for_byte(
        seed in any::<u64>(), part in 2..60usize, seconds in spreads(),
    ) {
        let sets = Sets::new(seed, [part * 16, 0, 0], seconds);
        prop_assert_eq!(ids(&sets.shared).len(), part * 16);
        let foreign = Negentropy::owned(storage(&sets.shared), 0).unwrap().initiate().unwrap();
        let ours = Initiator::new(SortedItems::new(sets.shared), 1 << 20).initiate();
        prop_assert_eq!(ours, foreign);
    }
}
