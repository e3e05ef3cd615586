//! Bodies of fuzz targets that need what a home keeps to itself. Each panics when a promise is
//! broken.

use super::merge::{Merge, Next, Part, Purpose, Tally, position};
use crate::message::{Client, Page, PageRow, Reader};
use proto::{Event, EventId, EventParts, Filter, PublicKey, Signature};
use std::collections::VecDeque;
use std::sync::Arc;
use store::effect::Position;

/// Choices read off an input; zeros when it has ended.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.next()) % end
    }
}

fn row(choices: &mut Choices<'_>, number: u8, filters: usize) -> PageRow {
    let mut id = EventId([number; 32]);
    id.0[0] = choices.next() & 3;
    let parts = EventParts {
        id,
        pubkey: PublicKey([1; 32]),
        sig: Signature([0; 64]),
        created_at: 10 + u32::from(choices.next() & 7),
        kind: 1,
        tags_json: b"[]",
        content_json: b"\"\"",
    };
    PageRow { event: parts.pack(), matched: u128::from(choices.next()) & ((1 << filters) - 1) }
}

/// What one shard still has to send, cut into pages as the input says.
struct Source {
    rows: VecDeque<PageRow>,
    /// Up to here everything has been sent.
    complete_to: Option<Position>,
}

impl Source {
    fn page(&mut self, choices: &mut Choices<'_>) -> Page {
        // What was complete up to the next row goes on with that row.
        let first = self.rows.front().map(position);
        let is_due = first.is_some_and(|first| self.complete_to == Some(before(&first)));
        let count = choices.below(4).max(usize::from(is_due)).min(self.rows.len());
        let rows: Vec<PageRow> = self.rows.drain(..count).collect();
        let last = rows.last().map(position).or(self.complete_to);
        // A page may be complete to anywhere before the next row, and must get somewhere.
        let complete_to = match self.rows.front().map(position) {
            None => None,
            Some(next) if last.is_none() || choices.next() & 1 == 1 => Some(before(&next)),
            Some(next) if rows.is_empty() => Some(before(&next)),
            Some(_) => last,
        };
        self.complete_to = complete_to;
        Page { rows, complete_to, left_out: false }
    }
}

/// The position just before `position`.
fn before(position: &Position) -> Position {
    let mut id = position.id;
    for byte in id.0.iter_mut().rev() {
        let (less, has_borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !has_borrowed {
            return Position { created_at: position.created_at, id };
        }
    }
    Position { created_at: position.created_at + 1, id: EventId([0xff; 32]) }
}

/// Fuzz target `merge_vs_sort`: pages of up to four shards, cut anywhere, give the rows that sorting
/// all of them gives, each filter within its limit, and say "finish" only when nothing is left.
pub fn merge_vs_sort(input: &[u8]) {
    let mut choices = Choices(input);
    let shards = 1 + choices.below(4);
    let filters = 1 + choices.below(4);
    let limits: Vec<u64> = (0..filters).map(|_| choices.below(12) as u64).collect();
    let mut all: Vec<PageRow> = Vec::new();
    let mut sources: Vec<Source> = Vec::new();
    for shard in 0..shards {
        let count = choices.below(16);
        let numbers = (0..count).map(|number| (shard * 16 + number) as u8);
        let mut rows: Vec<PageRow> =
            numbers.map(|number| row(&mut choices, number, filters)).collect();
        // A shard sends what matches.
        rows.retain(|row| row.matched != 0);
        rows.sort_by_key(position);
        all.extend(rows.iter().cloned());
        sources.push(Source { rows: rows.into(), complete_to: None });
    }
    all.sort_by_key(position);

    let mut left = limits.clone();
    let mut expected: Vec<Event> = Vec::new();
    for row in &all {
        let wanting = (0..filters).filter(|bit| row.matched >> bit & 1 == 1 && left[*bit] > 0);
        let wanting: Vec<usize> = wanting.collect();
        wanting.iter().for_each(|bit| left[*bit] -= 1);
        if !wanting.is_empty() {
            expected.push(row.event.clone());
        }
    }

    let mut merge = Merge {
        client: Client { slot: 0, generation: 0 },
        sub: "s".into(),
        purpose: Purpose::Subscription,
        tally: Tally::default(),
        subscription: None,
        filters: Arc::from([Filter::default()]),
        reader: Reader::Operator,
        limits,
        parts: (0..shards).map(|shard| Part::new(shard as u16)).collect(),
        bytes: 0,
        is_ready: false,
        is_starved: false,
        left_out: false,
    };
    let mut found: Vec<Event> = Vec::new();
    let is_finished = loop {
        match merge.next() {
            Next::Row(event) => found.push(event),
            Next::Done(is_finished) => break is_finished,
            Next::Wait(parts) => {
                assert!(!parts.is_empty(), "it waits for nothing");
                for part in parts {
                    assert!(!merge.parts[part].exhausted, "it waits for one that has said all");
                    let page = sources[part].page(&mut choices);
                    merge.take_page(part, page);
                }
            }
        }
        let held = merge.bytes;
        assert!(held < 64 * 300, "more is held than was sent");
    };
    assert_eq!(found, expected);
    assert!(!is_finished || found.len() == all.len(), "\"finish\" with rows left");
}

#[cfg(test)]
mod tests {
    use super::merge_vs_sort;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_of_several_shards_are_one_sorted_list(
            input in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            merge_vs_sort(&input);
        }
    }
}
