//! A set whose items are all in memory.

use super::{Accumulator, Bound, Item, ItemSet, Span};
use std::ops::Range;

/// Items between two stored sums: what the sum of any range costs at each of its ends.
const STRIDE_ITEMS: usize = 128;

/// Sorted items: 36 bytes each, and 40 for every 128 of them, so that the sum of any range is found
/// without passing through it.
#[derive(Clone, Debug)]
pub struct SortedItems {
    items: Box<[Item]>,
    /// Sum of the first `index * STRIDE_ITEMS` items.
    sums: Box<[Accumulator]>,
}

impl SortedItems {
    /// The set of `items`, which may be in any order; of equal ones, one is kept.
    pub fn new(mut items: Vec<Item>) -> Self {
        items.sort_unstable();
        items.dedup();
        let mut sum = Accumulator::new();
        let mut sums = Vec::with_capacity(items.len() / STRIDE_ITEMS + 1);
        for stride in items.chunks(STRIDE_ITEMS) {
            sums.push(sum);
            stride.iter().for_each(|item| sum.add(&item.id));
        }
        sums.push(sum);
        Self { items: items.into(), sums: sums.into() }
    }

    /// The items in their order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Sum of all items.
    pub fn total(&self) -> Accumulator {
        self.sums.last().copied().unwrap_or_default()
    }

    /// Sum of the items before `position`.
    fn sum_to(&self, position: usize) -> Accumulator {
        let position = position.min(self.items.len());
        let stride = position / STRIDE_ITEMS;
        let mut sum = self.sums[stride];
        self.items[stride * STRIDE_ITEMS..position].iter().for_each(|item| sum.add(&item.id));
        sum
    }

    fn slice(&self, positions: Range<usize>) -> &[Item] {
        self.items.get(positions).unwrap_or(&[])
    }
}

impl ItemSet for SortedItems {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn lower_bound(&self, bound: &Bound) -> Result<usize, Span> {
        Ok(self.items.partition_point(|item| bound.is_above(item)))
    }

    fn cut_near(&self, position: usize) -> usize {
        position
    }

    fn bound_at(&self, position: usize) -> Bound {
        let below = position.checked_sub(1).and_then(|position| self.items.get(position));
        match (below, self.items.get(position)) {
            (Some(below), Some(above)) => Bound::between(below, above),
            (None, _) => Bound::START,
            (_, None) => Bound::INFINITY,
        }
    }

    fn sum(&self, positions: Range<usize>) -> Accumulator {
        let mut sum = Accumulator::new();
        if positions.len() <= STRIDE_ITEMS {
            self.slice(positions).iter().for_each(|item| sum.add(&item.id));
        } else {
            sum = self.sum_to(positions.end);
            sum.remove(&self.sum_to(positions.start));
        }
        sum
    }

    fn unloaded(&self, _: Range<usize>, _: &mut Vec<Span>) {}

    fn write_ids(&self, positions: Range<usize>, out: &mut Vec<u8>) {
        self.slice(positions).iter().for_each(|item| out.extend_from_slice(&item.id.0));
    }
}
