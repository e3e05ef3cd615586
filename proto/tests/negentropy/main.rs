//! Negentropy: pairs of sets, an independent implementation at either end, messages of every kind.
#![allow(clippy::unwrap_used)]

#[path = "../oracle/negentropy.rs"]
mod ends;
mod foreign;
mod messages;

use ends::{Choices, Server, Sets, answer, ids, preload, reconcile, sums};
use proptest::prelude::*;
use proto::EventId;
use proto::nip::nip77::{
    Bound, BucketedItems, FRAME_BYTES_MIN, Item, ItemSet, SortedItems, Span, bucket_of,
};

/// Sizes of what is shared and what either end has alone; empty and one-sided sets are common.
fn sizes() -> impl Strategy<Value = [usize; 3]> {
    let size = || {
        prop_oneof![
            2 => Just(0usize),
            3 => 0..40usize,
            3 => 0..400usize,
            1 => 0..3_000usize
        ]
    };
    [size(), size(), size()]
}

/// Seconds over which the items are spread: from all at the same time to hardly any ties.
fn spreads() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![1, 3, 300, 40_000, 5_000_000])
}

fn frames() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![FRAME_BYTES_MIN, 4_096, 10_000, 60_000, 1 << 24])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn two_sets_of_items_are_reconciled_exactly(
        seed in any::<u64>(), sizes in sizes(), seconds in spreads(), frames in [frames(), frames()],
    ) {
        let sets = Sets::new(seed, sizes, seconds);
        let theirs = SortedItems::new(sets.theirs());
        let (have, need, _) =
            reconcile(sets.ours(), frames[0], |message| answer(&theirs, message, frames[1]));
        prop_assert_eq!((have, need), sets.differences());
    }

    /// Some of the server's buckets are loaded from the start.
    #[test]
    fn sums_of_buckets_do_as_well_as_items(
        seed in any::<u64>(), sizes in sizes(), seconds in spreads(), frames in [frames(), frames()],
        preloaded in 0..4usize,
    ) {
        let sets = Sets::new(seed, sizes, seconds);
        let mut server = Server::new(sets.theirs());
        let mut choices = Choices(seed);
        preload(&mut server, || choices.below(4) < preloaded);
        let (have, need, _) =
            reconcile(sets.ours(), frames[0], |message| server.answer(message, frames[1]));
        prop_assert_eq!((have, need), sets.differences());
    }

    /// Events come and go between the reading of the sums and that of the items.
    #[test]
    fn stale_sums_are_made_good_by_the_items(
        seed in any::<u64>(), sizes in sizes(), seconds in spreads(), frame in frames(),
    ) {
        let sets = Sets::new(seed, sizes, seconds);
        // The sums are those of what the client has; the store holds something else by now.
        let mut server = Server::new(sets.theirs());
        server.stored = sets.ours().into_iter().collect();
        let (have, need, _) =
            reconcile(sets.ours(), frame, |message| server.answer(message, frame));
        prop_assert_eq!(need, vec![]);
        // A bucket that was empty then is taken for empty still.
        let known = sums(&sets.theirs());
        let is_known = |item: &Item| known.iter().any(|(bucket, _)| *bucket == bucket_of(item.created_at));
        let missed = sets.only_ours.iter().filter(|item| !is_known(item)).copied();
        prop_assert_eq!(have, ids(&missed.collect::<Vec<_>>()));
    }

    /// A mixed set says what the full one says, wherever it says anything.
    #[test]
    fn a_mixed_set_agrees_with_the_full_one(
        seed in any::<u64>(), size in 0..600usize, seconds in spreads(), loaded in 0..5usize,
    ) {
        let mut choices = Choices(seed);
        let items = choices.items(size, 1_700_000_000, seconds);
        let full = SortedItems::new(items.clone());
        let mut server = Server::new(items.clone());
        preload(&mut server, || choices.below(4) < loaded);
        check_agreement(&full, &server, &mut choices, loaded == 4)?;
    }
}

fn check_agreement(
    full: &SortedItems,
    server: &Server,
    choices: &mut Choices,
    is_all_loaded: bool,
) -> Result<(), TestCaseError> {
    let mixed = &server.set;
    prop_assert_eq!(mixed.len(), full.len());
    let mut positions = vec![0, full.len()];
    for _ in 0..40 {
        let at = choices.below(full.len() + 1);
        let bounds = [full.bound_at(at), Bound::time(1_700_000_000 - choices.next() % 6_000_000)];
        for bound in bounds.into_iter().chain([Bound::START, Bound::INFINITY]) {
            let position = mixed.lower_bound(&bound);
            prop_assert!(position.is_ok() || !is_all_loaded);
            if let Ok(position) = position {
                prop_assert_eq!(Ok(position), full.lower_bound(&bound));
                positions.push(position);
            }
        }
        let cut = mixed.cut_near(at);
        positions.push(cut);
        if (1..full.len()).contains(&cut) {
            let bound = mixed.bound_at(cut);
            prop_assert!(
                bound.is_above(&full.items()[cut - 1]) && !bound.is_above(&full.items()[cut])
            );
            prop_assert_eq!(mixed.lower_bound(&bound), Ok(cut));
        }
    }
    for _ in 0..60 {
        let one = positions[choices.below(positions.len())];
        let other = positions[choices.below(positions.len())];
        let range = one.min(other)..one.max(other);
        prop_assert_eq!(mixed.sum(range.clone()), full.sum(range.clone()));
        let mut unloaded = Vec::new();
        mixed.unloaded(range.clone(), &mut unloaded);
        let wanted = |item: &&Item| {
            unloaded.iter().any(|span| (span.since..=span.until).contains(&item.created_at))
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        if unloaded.is_empty() {
            full.write_ids(range.clone(), &mut theirs);
            mixed.write_ids(range.clone(), &mut ours);
            prop_assert_eq!(ours, theirs);
        } else {
            prop_assert!(full.items()[range].iter().any(|item| wanted(&item)));
        }
    }
    Ok(())
}

#[test]
fn a_set_that_lacks_one_of_many_items_is_found_with_few_of_them_loaded() {
    let mut choices = Choices(7);
    let mut items = choices.items(100_000, 1_700_000_000, 100_000_000);
    let mut server = Server::new(items.clone());
    let missing = items.swap_remove(choices.below(100_000));
    let (have, need, rounds) = reconcile(items, 60_000, |message| server.answer(message, 60_000));
    assert_eq!((have, need), (vec![], vec![missing.id]));
    // 24,000 buckets of four items each; two hundred are touched by the bounds of the way there.
    assert!(server.set.loaded_items() < 1_000, "{} loaded", server.set.loaded_items());
    assert!(rounds <= 5, "{rounds} rounds");

    // Equal sets: only what the bounds of the first message fall into.
    let stored: Vec<Item> = server.stored.iter().copied().collect();
    let mut server = Server::new(stored.clone());
    let (have, need, rounds) = reconcile(stored, 60_000, |message| server.answer(message, 60_000));
    assert!(have.is_empty() && need.is_empty() && rounds == 1);
    assert!(server.set.loaded_items() < 150, "{} loaded", server.set.loaded_items());
}

#[test]
fn an_empty_client_makes_the_server_load_a_frame_at_a_time() {
    let items = Choices(9).items(5_000, 1_700_000_000, 50_000_000);
    let mut server = Server::new(items.clone());
    let mut most = 0;
    let (have, need, rounds) = reconcile(vec![], 10_000, |message| {
        let answer = server.answer(message, 10_000);
        most = most.max(server.set.loaded_items());
        server.set.unload();
        answer
    });
    assert_eq!((have, need), (vec![], ids(&items)));
    assert!(rounds > 10 && most < 1_000, "{rounds} rounds with {most} items");
}

#[test]
fn loading_corrects_sums_adds_buckets_and_empties_others() {
    let item = |created_at, byte| Item { created_at, id: EventId([byte; 32]) };
    let old = [item(5, 1), item(9_000, 2), item(9_001, 3), item(20_000, 4)];
    let mut set = BucketedItems::new(sums(&old));
    assert_eq!((set.len(), set.loaded_items()), (4, 0));
    assert_eq!(set.items_in(Span { since: 0, until: 9_000 }), 3);

    // The whole of buckets 1 to 3, where now something else is.
    let new = vec![item(12_287, 9), item(4_096, 8), item(100_000, 7)];
    set.load(Span { since: 4_096, until: 16_383 }, new);
    assert_eq!((set.len(), set.loaded_items()), (4, 2));
    let full = SortedItems::new(vec![item(5, 1), item(4_096, 8), item(12_287, 9), item(20_000, 4)]);
    assert_eq!(set.sum(0..4), full.total());
    assert_eq!(set.lower_bound(&Bound::time(12_287)), Ok(2));
    assert_eq!(set.sum(1..3), full.sum(1..3));
    assert_eq!(set.lower_bound(&Bound::time(20_000)), Err(Span { since: 16_384, until: 20_479 }));

    set.load(Span { since: 4_096, until: 8_191 }, vec![]);
    assert_eq!((set.len(), set.loaded_items()), (3, 1));
    assert_eq!(set.lower_bound(&Bound::time(5_000)), Ok(1));
    set.load(Span { since: u32::MAX, until: u32::MAX }, vec![item(u32::MAX, 5)]);
    assert_eq!((set.len(), bucket_of(u32::MAX)), (4, (1 << 20) - 1));
    set.unload();
    assert_eq!((set.len(), set.loaded_items()), (4, 0));
}

#[test]
fn sums_that_do_not_ascend_or_count_nothing_are_left_out() {
    let [one, two] = [1, 2].map(|byte| [EventId([byte; 32])].iter().collect());
    let sums = [(5, one), (5, two), (4, two), (6, Default::default()), (7, two), (1 << 20, two)];
    let set = BucketedItems::new(sums);
    assert_eq!(set.len(), 2);
    assert_eq!(set.sum(1..2), two);
}
