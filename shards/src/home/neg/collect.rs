//! Ids from several shards, merged into one order while they come.

use crate::message::{PAGE_IDS_MAX, ShardId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use store::effect::Position;

/// Ids that all shards together may send ahead: what one step merges at most.
const IDS_AHEAD_MAX: u32 = 16 * 1024;
/// Least size of a page, however many shards there are.
const PAGE_IDS_MIN: u32 = 256;

/// One shard's part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shard: ShardId,
    ids: VecDeque<Position>,
    complete_to: Option<Position>,
    pub(super) is_exhausted: bool,
    /// The shard has been asked at least once.
    pub(super) is_started: bool,
    /// A reply is under way; it holds one slot.
    pub(super) is_in_flight: bool,
}

/// A read of ids from several shards. At most [`IDS_AHEAD_MAX`] ids, or a few more where there are
/// very many shards.
#[derive(Debug)]
pub(super) struct Collect {
    pub(super) parts: Vec<Part>,
    /// Ids that are still wanted.
    left: u64,
}

impl Collect {
    /// A read of the first `limit` ids.
    pub(super) fn new(shards: impl Iterator<Item = ShardId>, limit: u64) -> Self {
        let part = |shard| Part {
            shard,
            ids: VecDeque::new(),
            complete_to: None,
            is_exhausted: false,
            is_started: false,
            is_in_flight: false,
        };
        Self { parts: shards.map(part).collect(), left: limit }
    }

    /// Ids to ask one shard for.
    pub(super) fn page_ids(&self) -> u32 {
        let share = IDS_AHEAD_MAX / (self.parts.len() as u32).max(1);
        let wanted = u32::try_from(self.left).unwrap_or(u32::MAX).max(1);
        share.clamp(PAGE_IDS_MIN, PAGE_IDS_MAX).min(wanted)
    }

    /// Ids that are still wanted.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Ids held.
    pub(super) fn held(&self) -> usize {
        self.parts.iter().map(|part| part.ids.len()).sum()
    }

    /// Whether nothing more will come out.
    pub(super) fn is_done(&self) -> bool {
        let is_over = |part: &Part| part.is_exhausted && part.ids.is_empty();
        self.left == 0 || self.parts.iter().all(is_over)
    }

    /// Parts that have to be asked before anything more can come out.
    pub(super) fn wanting(&mut self) -> impl Iterator<Item = &mut Part> {
        let wants =
            |part: &&mut Part| part.ids.is_empty() && !part.is_exhausted && !part.is_in_flight;
        self.parts.iter_mut().filter(wants)
    }

    /// Takes a shard's page; a shard that was never asked is ignored.
    pub(super) fn take(
        &mut self,
        shard: ShardId,
        ids: Vec<Position>,
        complete_to: Option<Position>,
    ) {
        let asked = |part: &&mut Part| part.shard == shard && part.is_in_flight;
        let Some(part) = self.parts.iter_mut().find(asked) else { return };
        part.is_in_flight = false;
        part.is_exhausted = complete_to.is_none();
        part.complete_to = complete_to;
        part.ids.extend(ids);
    }

    /// Hands on what no shard can come before any more, in order.
    pub(super) fn drain(&mut self, mut each: impl FnMut(Position)) {
        let heads = self.parts.iter().enumerate();
        let mut heads: BinaryHeap<Reverse<(Position, usize)>> =
            heads.filter_map(|(index, part)| Some(Reverse((*part.ids.front()?, index)))).collect();
        // How far the parts that have run out are known; nothing beyond may pass.
        let mut barrier: Option<Position> = None;
        for part in self.parts.iter().filter(|part| part.ids.is_empty() && !part.is_exhausted) {
            let Some(complete_to) = part.complete_to else { return };
            barrier = Some(barrier.map_or(complete_to, |have| have.min(complete_to)));
        }
        while self.left > 0
            && let Some(Reverse((position, index))) = heads.pop()
        {
            if barrier.is_some_and(|barrier| position > barrier) {
                return;
            }
            let part = &mut self.parts[index];
            part.ids.pop_front();
            self.left -= 1;
            each(position);
            if let Some(next) = part.ids.front() {
                heads.push(Reverse((*next, index)));
            } else if !part.is_exhausted
                && let Some(complete_to) = part.complete_to
            {
                barrier = Some(barrier.map_or(complete_to, |have| have.min(complete_to)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::EventId;

    fn position(created_at: u32) -> Position {
        Position { created_at, id: EventId([created_at as u8; 32]) }
    }

    fn drained(collect: &mut Collect) -> Vec<u32> {
        let mut out = Vec::new();
        collect.drain(|position| out.push(position.created_at));
        out
    }

    fn answer(collect: &mut Collect, shard: ShardId, times: &[u32], complete_to: Option<u32>) {
        for part in collect.parts.iter_mut().filter(|part| part.shard == shard) {
            (part.is_started, part.is_in_flight) = (true, true);
        }
        let ids = times.iter().map(|at| position(*at)).collect();
        collect.take(shard, ids, complete_to.map(position));
    }

    #[test]
    fn nothing_passes_what_another_shard_may_still_send() {
        let mut collect = Collect::new([0, 1].into_iter(), u64::MAX);
        answer(&mut collect, 0, &[90, 70, 50], Some(50));
        assert!(drained(&mut collect).is_empty(), "the other shard has not spoken");
        answer(&mut collect, 1, &[80], Some(60));
        assert_eq!(drained(&mut collect), [90, 80, 70]);
        let wanting: Vec<ShardId> = collect.wanting().map(|part| part.shard).collect();
        assert_eq!(wanting, [1]);
        answer(&mut collect, 1, &[], None);
        assert_eq!(drained(&mut collect), [50]);
        assert!(!collect.is_done());
        answer(&mut collect, 0, &[40], None);
        assert_eq!(drained(&mut collect), [40]);
        assert!(collect.is_done());
    }

    #[test]
    fn it_ends_with_its_limit() {
        let mut collect = Collect::new([0].into_iter(), 2);
        assert_eq!(collect.page_ids(), 2);
        answer(&mut collect, 0, &[9, 8, 7], Some(7));
        assert_eq!(drained(&mut collect), [9, 8]);
        assert!(collect.is_done());
    }
}
