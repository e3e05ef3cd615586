//! The set of a session that was read as a whole.
//!
//! Shards answer newest first, and within a second by ascending id; the protocol's order is
//! ascending in both. So the set is kept backwards: items are appended as they come, and only those
//! of one second are turned round when it is complete. Nothing is ever sorted or moved as a whole,
//! so taking a page costs what the page has (and, once, what its fullest second has).

use proto::nip::nip77::{Accumulator, Bound, Item, ItemSet, Span};
use std::ops::Range;

/// Items in one piece of memory: the set grows without being copied.
const CHUNK_ITEMS: usize = 4096;
/// Items between two stored sums: what the sum of any range costs at each of its ends.
const STRIDE_ITEMS: usize = 128;

/// The items. 36 bytes each, and 40 for every 128 of them. Owned by its session.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// Greatest item first; every chunk but the last one is full.
    chunks: Vec<Vec<Item>>,
    len: usize,
    /// Items before this index are in their final places; those behind it are of one second.
    settled: usize,
    /// Sum of the first `index * STRIDE_ITEMS` settled items.
    sums: Vec<Accumulator>,
    /// Sum of all settled items.
    total: Accumulator,
}

impl Items {
    /// Appends the next item in the order of an answer: newest first, then lowest id.
    pub(super) fn push(&mut self, item: Item) {
        if self.settled < self.len && self.at(self.settled).created_at != item.created_at {
            self.settle();
        }
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_ITEMS => chunk.push(item),
            _ => self.chunks.push(vec![item]),
        }
        self.len += 1;
    }

    /// Puts the last second in order. The set can be used from here on, until the next
    /// [`Items::push`].
    pub(super) fn settle(&mut self) {
        let (mut low, mut high) = (self.settled, self.len);
        while low + 1 < high {
            high -= 1;
            let (one, other) = (self.at(low), self.at(high));
            *self.at_mut(low) = other;
            *self.at_mut(high) = one;
            low += 1;
        }
        for index in self.settled..self.len {
            if index % STRIDE_ITEMS == 0 {
                self.sums.push(self.total);
            }
            self.total.add(&self.at(index).id);
        }
        self.settled = self.len;
    }

    fn at(&self, index: usize) -> Item {
        self.chunks[index / CHUNK_ITEMS][index % CHUNK_ITEMS]
    }

    fn at_mut(&mut self, index: usize) -> &mut Item {
        &mut self.chunks[index / CHUNK_ITEMS][index % CHUNK_ITEMS]
    }

    /// The item at a position of the protocol's order.
    fn item(&self, position: usize) -> Option<Item> {
        let index = self.len.checked_sub(position + 1)?;
        Some(self.at(index))
    }

    /// Sum of the `count` greatest items.
    fn greatest(&self, count: usize) -> Accumulator {
        let stride = count / STRIDE_ITEMS;
        let Some(sum) = self.sums.get(stride) else { return self.total };
        let mut sum = *sum;
        (stride * STRIDE_ITEMS..count).for_each(|index| sum.add(&self.at(index).id));
        sum
    }
}

impl ItemSet for Items {
    fn len(&self) -> usize {
        self.len
    }

    fn lower_bound(&self, bound: &Bound) -> Result<usize, Span> {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if bound.is_above(&self.at(middle)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(self.len - low)
    }

    fn cut_near(&self, position: usize) -> usize {
        position
    }

    fn bound_at(&self, position: usize) -> Bound {
        let below = position.checked_sub(1).and_then(|position| self.item(position));
        match (below, self.item(position)) {
            (Some(below), Some(above)) => Bound::between(&below, &above),
            (None, _) => Bound::START,
            (_, None) => Bound::INFINITY,
        }
    }

    fn sum(&self, positions: Range<usize>) -> Accumulator {
        let end = positions.end.min(self.len);
        let start = positions.start.min(end);
        if end - start <= STRIDE_ITEMS {
            let mut sum = Accumulator::new();
            (start..end).filter_map(|at| self.item(at)).for_each(|item| sum.add(&item.id));
            return sum;
        }
        let mut sum = self.greatest(self.len - start);
        sum.remove(&self.greatest(self.len - end));
        sum
    }

    fn unloaded(&self, _: Range<usize>, _: &mut Vec<Span>) {}

    fn write_ids(&self, positions: Range<usize>, out: &mut Vec<u8>) {
        let items = positions.filter_map(|position| self.item(position));
        items.for_each(|item| out.extend_from_slice(&item.id.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::EventId;
    use proto::nip::nip77::SortedItems;

    fn item(number: u32) -> Item {
        let mut id = [(number % 251) as u8; 32];
        id[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
        // Some seconds have one item, some have many.
        let created_at = if number.is_multiple_of(3) { number } else { number / 700 };
        Item { created_at, id: EventId(id) }
    }

    #[test]
    fn it_is_the_sorted_set_of_what_was_appended() {
        for count in [0, 1, 2, 127, 128, 129, 4_095, 4_096, 9_999] {
            let mut in_order: Vec<Item> = (0..count).map(item).collect();
            in_order.sort_by_key(|item| (std::cmp::Reverse(item.created_at), item.id));
            let mut items = Items::default();
            in_order.iter().for_each(|item| items.push(*item));
            items.settle();
            let sorted = SortedItems::new(in_order);
            assert_eq!(items.len(), sorted.len());
            let ids = |set: &dyn Fn(&mut Vec<u8>)| {
                let mut out = Vec::new();
                set(&mut out);
                out
            };
            let all = 0..sorted.len();
            let ours = ids(&|out| items.write_ids(all.clone(), out));
            assert_eq!(ours, ids(&|out| sorted.write_ids(all.clone(), out)), "{count}");
            for step in 0..60 {
                let start = sorted.len() * step / 90;
                let end = (start + step * step * 3).min(sorted.len());
                assert_eq!(items.sum(start..end), sorted.sum(start..end), "{start}..{end}");
                let bound = sorted.bound_at(start);
                assert_eq!(items.bound_at(start), bound);
                assert_eq!(items.lower_bound(&bound), sorted.lower_bound(&bound));
            }
        }
    }
}
