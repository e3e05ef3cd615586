//! A set of which only the sums of stretches of time are known, until items are asked for.

use super::{Accumulator, Bound, Item, ItemSet, SortedItems, Span};
use std::collections::BTreeMap;
use std::ops::Range;

/// Low bits of the time that do not count for the bucket: a bucket is 4,096 seconds.
pub const BUCKET_BITS: u32 = 12;

/// The bucket of a time.
pub fn bucket_of(created_at: u32) -> u32 {
    created_at >> BUCKET_BITS
}

/// Sums of buckets, and the items of those buckets that were loaded. 48 bytes for each bucket that is
/// not empty (4 MiB for ten years of a busy relay) and what [`SortedItems`] takes for each item
/// loaded. Owned by the session that reconciles it.
#[derive(Clone, Debug, Default)]
pub struct BucketedItems {
    /// In ascending order of bucket.
    buckets: Vec<Bucket>,
    total: Accumulator,
    loaded: BTreeMap<u32, SortedItems>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    number: u32,
    /// Sum of all buckets before this one.
    before: Accumulator,
}

impl Bucket {
    fn span(&self) -> Span {
        let since = self.number << BUCKET_BITS;
        Span { since, until: since | ((1 << BUCKET_BITS) - 1) }
    }

    fn start(&self) -> u64 {
        u64::from(self.number) << BUCKET_BITS
    }
}

impl BucketedItems {
    /// The set with these sums; numbers ascend, and one that does not is left out.
    pub fn new(sums: impl IntoIterator<Item = (u32, Accumulator)>) -> Self {
        let mut set = Self::default();
        for (number, sum) in sums {
            let ascends = set.buckets.last().is_none_or(|last| last.number < number);
            if ascends && number <= bucket_of(u32::MAX) && sum.count() > 0 {
                set.buckets.push(Bucket { number, before: set.total });
                set.total.merge(&sum);
            }
        }
        set
    }

    /// Takes what `span` holds now, which may be other than when its sum was read: from here on the
    /// items count. `span` is one of [`super::Answer::NeedItems`], or any that covers whole buckets.
    pub fn load(&mut self, span: Span, mut items: Vec<Item>) {
        let (first, last) = (bucket_of(span.since), bucket_of(span.until));
        items.retain(|item| (first..=last).contains(&bucket_of(item.created_at)));
        items.sort_unstable();
        let known = self.indices(first, last).map(|index| self.buckets[index].number);
        let mut numbers: Vec<u32> = known.collect();
        numbers.extend(items.iter().map(|item| bucket_of(item.created_at)));
        numbers.sort_unstable();
        numbers.dedup();
        let mut rest = items.as_slice();
        for number in numbers {
            let end = rest.partition_point(|item| bucket_of(item.created_at) <= number);
            let (items, behind) = rest.split_at(end);
            rest = behind;
            self.load_bucket(number, SortedItems::new(items.to_vec()));
        }
    }

    /// Forgets the items of every bucket; their sums stay.
    pub fn unload(&mut self) {
        self.loaded.clear();
    }

    /// Items in memory.
    pub fn loaded_items(&self) -> usize {
        self.loaded.values().map(SortedItems::len).sum()
    }

    /// Items, by the sums, of the buckets that `span` touches: what loading it will take.
    pub fn items_in(&self, span: Span) -> u64 {
        let Range { start, end } = self.indices(bucket_of(span.since), bucket_of(span.until));
        self.before(end).count() - self.before(start).count()
    }

    fn indices(&self, first: u32, last: u32) -> Range<usize> {
        let start = self.buckets.partition_point(|bucket| bucket.number < first);
        let end = self.buckets.partition_point(|bucket| bucket.number <= last);
        start..end.max(start)
    }

    fn load_bucket(&mut self, number: u32, items: SortedItems) {
        let index = self.buckets.partition_point(|bucket| bucket.number < number);
        if self.buckets.get(index).is_none_or(|bucket| bucket.number != number) {
            self.buckets.insert(index, Bucket { number, before: self.before(index) });
        }
        let old = self.bucket_sum(index);
        let new = items.total();
        if old != new {
            let later = self.buckets[index + 1..].iter_mut().map(|bucket| &mut bucket.before);
            for sum in later.chain([&mut self.total]) {
                sum.remove(&old);
                sum.merge(&new);
            }
        }
        self.loaded.insert(number, items);
    }

    /// Sum of everything before bucket `index`.
    fn before(&self, index: usize) -> Accumulator {
        self.buckets.get(index).map_or(self.total, |bucket| bucket.before)
    }

    fn bucket_sum(&self, index: usize) -> Accumulator {
        let mut sum = self.before(index + 1);
        sum.remove(&self.before(index));
        sum
    }

    /// Index of the bucket that holds the item at `position`; of the last one behind the end.
    fn index_at(&self, position: usize) -> Option<usize> {
        let position = position as u64;
        let after = self.buckets.partition_point(|bucket| bucket.before.count() <= position);
        after.checked_sub(1)
    }

    /// The bucket that holds the item at `position`, its items if they are loaded, and the position
    /// in it.
    fn locate(&self, position: usize) -> Option<(usize, Option<&SortedItems>, usize)> {
        let index = self.index_at(position)?;
        let bucket = self.buckets.get(index)?;
        let inside = position - bucket.before.count() as usize;
        Some((index, self.loaded.get(&bucket.number), inside))
    }

    /// Sum of the items before `position`.
    fn sum_to(&self, position: usize) -> Accumulator {
        let Some((index, items, inside)) = self.locate(position) else {
            return Accumulator::new();
        };
        if inside as u64 >= self.bucket_sum(index).count() {
            return self.before(index + 1);
        }
        let mut sum = self.before(index);
        if let Some(items) = items {
            sum.merge(&items.sum(0..inside));
        }
        sum
    }
}

impl ItemSet for BucketedItems {
    fn len(&self) -> usize {
        self.total.count() as usize
    }

    fn lower_bound(&self, bound: &Bound) -> Result<usize, Span> {
        let number = bound.timestamp() >> BUCKET_BITS;
        let index = self.buckets.partition_point(|bucket| u64::from(bucket.number) < number);
        let before = self.before(index).count() as usize;
        let Some(bucket) = self.buckets.get(index) else { return Ok(before) };
        if *bound <= Bound::time(bucket.start()) || self.bucket_sum(index).count() == 0 {
            return Ok(before);
        }
        let items = self.loaded.get(&bucket.number).ok_or(bucket.span())?;
        Ok(before + items.lower_bound(bound)?)
    }

    fn cut_near(&self, position: usize) -> usize {
        match self.locate(position) {
            Some((index, None, inside)) => {
                let count = self.bucket_sum(index).count() as usize;
                let start = position - inside;
                if inside * 2 < count { start } else { start + count }
            }
            _ => position,
        }
    }

    fn bound_at(&self, position: usize) -> Bound {
        match self.locate(position) {
            Some((index, _, 0)) => Bound::time(self.buckets[index].start()),
            Some((_, Some(items), inside)) => items.bound_at(inside),
            _ => Bound::INFINITY,
        }
    }

    fn sum(&self, positions: Range<usize>) -> Accumulator {
        let mut sum = self.sum_to(positions.end);
        sum.remove(&self.sum_to(positions.start));
        sum
    }

    fn unloaded(&self, positions: Range<usize>, out: &mut Vec<Span>) {
        if positions.is_empty() {
            return;
        }
        let first = self.index_at(positions.start).unwrap_or(0);
        for (index, bucket) in self.buckets.iter().enumerate().skip(first) {
            if bucket.before.count() >= positions.end as u64 {
                break;
            }
            let is_empty = self.bucket_sum(index).count() == 0;
            if !is_empty && !self.loaded.contains_key(&bucket.number) {
                out.push(bucket.span());
            }
        }
    }

    fn write_ids(&self, positions: Range<usize>, out: &mut Vec<u8>) {
        let mut from = positions.start;
        while from < positions.end {
            let Some((_, Some(items), inside)) = self.locate(from) else { return };
            let end = items.len().min(inside + (positions.end - from));
            if end <= inside {
                return;
            }
            items.write_ids(inside..end, out);
            from += end - inside;
        }
    }
}
