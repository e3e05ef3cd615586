//! Reconciliation of a large set: the sum of all its ids in one pass, what a session pays to hold
//! it, and one round of answers.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::EventId;
use proto::nip::nip77::{
    Accumulator, BucketedItems, Initiator, Item, SortedItems, bucket_of, respond,
};
use std::hint::black_box;

/// Ids that a session may hold.
const ITEMS: usize = 500_000;
const FRAME_BYTES: usize = 128 * 1024;

/// SplitMix64: the same items on every machine.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Items of a year.
fn items() -> Vec<Item> {
    let mut state = 1;
    let item = |_| {
        let mut id = EventId([0; 32]);
        id.0.chunks_mut(8).for_each(|word| word.copy_from_slice(&mix(&mut state).to_be_bytes()));
        let created_at = 1_700_000_000 - (mix(&mut state) % 31_536_000) as u32;
        Item { created_at, id }
    };
    (0..ITEMS).map(item).collect()
}

fn sums(criterion: &mut Criterion) {
    let items = items();
    let mut group = criterion.benchmark_group("negentropy");
    group.throughput(Throughput::Elements(ITEMS as u64));
    group.bench_function("fingerprint-500k", |bench| {
        bench.iter(|| {
            let sum: Accumulator = black_box(&items).iter().map(|item| &item.id).collect();
            sum.fingerprint()
        });
    });
    group.bench_function("sort-and-sum-500k", |bench| {
        bench.iter(|| SortedItems::new(black_box(&items).clone()).total());
    });
    group.finish();
}

/// The first answer to a client that lacks one item of all, from items and from sums.
fn answers(criterion: &mut Criterion) {
    let mut items = items();
    let set = SortedItems::new(items.clone());
    items.swap_remove(ITEMS / 2);
    let first = Initiator::new(SortedItems::new(items), FRAME_BYTES).initiate();
    criterion.bench_function("negentropy/respond-items", |bench| {
        bench.iter(|| respond(&set, black_box(&first), FRAME_BYTES).is_ok());
    });
    let mut buckets: Vec<(u32, Accumulator)> = Vec::new();
    for item in set.items() {
        let number = bucket_of(item.created_at);
        match buckets.last_mut() {
            Some((last, sum)) if *last == number => sum.add(&item.id),
            _ => buckets.push((number, [item.id].iter().collect())),
        }
    }
    criterion.bench_function("negentropy/respond-sums", |bench| {
        bench.iter(|| {
            let set = BucketedItems::new(black_box(&buckets).iter().copied());
            respond(&set, &first, FRAME_BYTES).is_ok()
        });
    });
}

criterion_group!(benches, sums, answers);
criterion_main!(benches);
