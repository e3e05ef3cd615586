//! Merging the shards' ordered answers into one: a union over all filters, each with its own
//! limit.
//!
//! A row may go out when no shard can still come up with one that belongs before it. A shard whose
//! buffer is empty has either said that it is exhausted, or how far its answer is complete; a row
//! beyond that waits for the shard's next page.

use crate::message::{Client, Page, PageRow, Reader, ShardId};
use crate::subindex::SubscriptionKey;
use proto::nip::nip45::Hll;
use proto::{Event, Filter};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use store::effect::Position;

/// What a query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// REQ: rows, then live events.
    Subscription,
    /// The operator's export or scan: rows only.
    Scan,
    /// COUNT: a number.
    Count,
}

/// What the shards have counted so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) count: u64,
    /// A shard stopped before its end.
    pub(super) is_partial: bool,
    /// The authors, if the filter is one that NIP-45 gives registers to.
    pub(super) hll: Option<Box<Hll>>,
}

/// One shard's part in a query.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shard: ShardId,
    rows: VecDeque<PageRow>,
    complete_to: Option<Position>,
    pub(super) exhausted: bool,
    /// A reply is under way; it holds one slot.
    pub(super) in_flight: bool,
}

/// One query in its home.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) client: Client,
    pub(super) sub: Rc<str>,
    pub(super) purpose: Purpose,
    pub(super) tally: Tally,
    pub(super) subscription: Option<SubscriptionKey>,
    pub(super) filters: Arc<[Filter]>,
    pub(super) reader: Reader,
    /// Rows each filter may still contribute.
    pub(super) limits: Vec<u64>,
    pub(super) parts: Vec<Part>,
    /// Bytes of buffered rows.
    pub(super) bytes: usize,
    /// Whether the query stands in the ready list.
    pub(super) is_ready: bool,
    /// Whether the query stands in the list of those that found no slot.
    pub(super) is_starved: bool,
    /// Something matches that a limit keeps out.
    pub(super) left_out: bool,
}

/// What the merge can do next.
#[derive(Debug)]
pub(super) enum Next {
    /// This row goes out.
    Row(Event),
    /// These parts (by index) have to send a page first.
    Wait(Vec<usize>),
    /// Nothing more to send; `true`: nothing at all is left.
    Done(bool),
}

pub(super) fn position(row: &PageRow) -> Position {
    let view = row.event.view();
    Position { created_at: view.created_at(), id: view.id() }
}

impl Part {
    pub(super) fn new(shard: ShardId) -> Self {
        Self { shard, rows: VecDeque::new(), complete_to: None, exhausted: false, in_flight: false }
    }

    /// Whether a row at `position` may overtake whatever this part still has to send.
    fn allows(&self, position: &Position) -> bool {
        !self.rows.is_empty()
            || self.exhausted
            || self.complete_to.is_some_and(|complete| *position <= complete)
    }
}

impl Merge {
    /// Takes a page of the part with index `part`; returns its bytes.
    pub(super) fn take_page(&mut self, part: usize, page: Page) -> usize {
        let bytes: usize = page.rows.iter().map(|row| row.event.packed().len()).sum();
        let part = &mut self.parts[part];
        part.in_flight = false;
        part.exhausted = page.complete_to.is_none();
        part.complete_to = page.complete_to;
        self.left_out |= page.left_out;
        part.rows.extend(page.rows);
        self.bytes += bytes;
        bytes
    }

    /// Takes out rows that may not be sent any more; returns their bytes.
    pub(super) fn forget(&mut self, is_unwanted: impl Fn(&Event) -> bool) -> usize {
        let before = self.bytes;
        for part in &mut self.parts {
            part.rows.retain(|row| {
                let is_unwanted = is_unwanted(&row.event);
                self.bytes -= if is_unwanted { row.event.packed().len() } else { 0 };
                !is_unwanted
            });
        }
        before - self.bytes
    }

    /// Rows that may still be sent in all.
    pub(super) fn remaining(&self) -> u64 {
        self.limits.iter().fold(0u64, |sum, limit| sum.saturating_add(*limit))
    }

    fn active(&self) -> u128 {
        let bits = self.limits.iter().enumerate().filter(|(_, limit)| **limit > 0);
        bits.fold(0, |mask, (index, _)| mask | 1 << index)
    }

    fn is_exhausted(&self) -> bool {
        self.parts.iter().all(|part| part.exhausted && part.rows.is_empty())
    }

    /// The next thing to do.
    pub(super) fn next(&mut self) -> Next {
        loop {
            let active = self.active();
            if active == 0 || self.is_exhausted() {
                return Next::Done(self.is_exhausted() && !self.left_out);
            }
            let heads = self.parts.iter().enumerate();
            let best = heads
                .filter_map(|(index, part)| Some((position(part.rows.front()?), index)))
                .min_by_key(|(position, _)| *position);
            let blocks = |part: &Part| match &best {
                Some((position, _)) => !part.allows(position),
                None => !part.exhausted && part.rows.is_empty(),
            };
            let blocked: Vec<usize> =
                (0..self.parts.len()).filter(|index| blocks(&self.parts[*index])).collect();
            let Some((_, index)) = best.filter(|_| blocked.is_empty()) else {
                return Next::Wait(blocked);
            };
            let Some(row) = self.parts[index].rows.pop_front() else { continue };
            self.bytes -= row.event.packed().len();
            let wanted = row.matched & active;
            if wanted == 0 {
                // All filters that match it have had their rows.
                self.left_out = true;
                continue;
            }
            for (bit, limit) in self.limits.iter_mut().enumerate() {
                if wanted >> bit & 1 == 1 {
                    *limit = limit.saturating_sub(1);
                }
            }
            return Next::Row(row.event);
        }
    }
}
