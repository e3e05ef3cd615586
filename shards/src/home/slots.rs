//! Slots: how many query replies may be under way to this home, who holds them, and who is next.
//!
//! **The rule.** While slots are free everybody takes what he needs. Once somebody waits, a client
//! that holds its share, a quarter of all slots, gets a further one only when nobody waits who
//! holds less. Among those who hold less, queries under way come before new ones, since they hold
//! pages and end sooner; within each of the two the order is that of arrival. A new query waits
//! until it gets the slots of all its shards at once, and no other new query overtakes it then.
//!
//! Nobody waits for ever: a slot comes back with every reply, and a client that holds none is below
//! its share.

use crate::message::{Client, QueryId};
use proto::{SeededMap, SeededState};
use std::collections::VecDeque;

/// One client's part of the slots while others wait: one in this many.
const SHARE: u32 = 4;

/// Who gets the next slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A query under way, for its next page.
    Page(QueryId),
    /// A client's parked command, which needs all its slots at once.
    Command(Client),
}

/// The slots of one home. Owned by the home.
///
/// Bound: the maps have an entry per slot that is taken at most; waiting are one command per client
/// and each query under way once.
#[derive(Debug)]
pub(super) struct Slots {
    total: u32,
    free: u32,
    /// Replies under way, by query; the query itself may have ended.
    owed: SeededMap<QueryId, (Client, u32)>,
    /// The same, by client.
    held: SeededMap<Client, u32>,
    pages: VecDeque<(Client, QueryId)>,
    commands: VecDeque<Client>,
}

impl Slots {
    /// `total` slots, but as many as one query needs in any case.
    pub(super) fn new(total: u32, shards: usize, seed: SeededState) -> Self {
        let total = total.max(shards as u32);
        Self {
            total,
            free: total,
            owed: SeededMap::with_hasher(seed),
            held: SeededMap::with_hasher(seed),
            pages: VecDeque::new(),
            commands: VecDeque::new(),
        }
    }

    /// Whether a reply is under way, one that nobody waits for included.
    pub(super) fn are_in_use(&self) -> bool {
        self.free < self.total
    }

    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// Whether a new query that needs `count` slots may have them now.
    pub(super) fn admits(&self, count: u32) -> bool {
        count == 0 || (self.free >= count && self.commands.is_empty())
    }

    /// Slots that a query under way may take for its next pages. `is_its_turn`: [`Slots::next`] has
    /// named it, so at least one is its own.
    pub(super) fn for_pages(&self, client: Client, is_its_turn: bool) -> u32 {
        if self.pages.is_empty() && self.commands.is_empty() {
            return self.free;
        }
        let rest = self.share().saturating_sub(self.held_by(client));
        self.free.min(rest.max(u32::from(is_its_turn)))
    }

    pub(super) fn take(&mut self, client: Client, query: QueryId, count: u32) {
        assert!(count <= self.free, "slots are taken by those who have asked");
        if count == 0 {
            return;
        }
        self.free -= count;
        self.owed.entry(query).or_insert((client, 0)).1 += count;
        *self.held.entry(client).or_insert(0) += count;
    }

    /// A reply to `query` has come.
    pub(super) fn give_back(&mut self, query: QueryId) {
        let Some((client, owed)) = self.owed.get_mut(&query) else { return };
        let client = *client;
        *owed -= 1;
        if *owed == 0 {
            self.owed.remove(&query);
        }
        self.free += 1;
        if let Some(held) = self.held.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&client);
            }
        }
    }

    /// A query under way found too few slots; it must not stand here already.
    pub(super) fn wait_for_page(&mut self, client: Client, query: QueryId) {
        self.pages.push_back((client, query));
    }

    /// The client's command is parked.
    pub(super) fn wait_with_command(&mut self, client: Client) {
        self.commands.push_back(client);
    }

    /// Who is next, if a slot is free and somebody waits. He stands in the queue until
    /// [`Slots::leave`].
    pub(super) fn next(&self) -> Option<Turn> {
        if self.free == 0 {
            return None;
        }
        let page = |(_, query): &(Client, QueryId)| Turn::Page(*query);
        let modest_page = self.pages.iter().find(|(client, _)| self.is_modest(*client)).map(page);
        let modest_command = || self.commands.iter().find(|client| self.is_modest(**client));
        modest_page
            .or_else(|| modest_command().map(|client| Turn::Command(*client)))
            .or_else(|| self.pages.front().map(page))
            .or_else(|| self.commands.front().map(|client| Turn::Command(*client)))
    }

    /// Takes him out of the queue whom [`Slots::next`] has named.
    pub(super) fn leave(&mut self, turn: Turn) {
        match turn {
            Turn::Page(query) => {
                if let Some(at) = self.pages.iter().position(|(_, have)| *have == query) {
                    self.pages.remove(at);
                }
            }
            Turn::Command(client) => {
                if let Some(at) = self.commands.iter().position(|have| *have == client) {
                    self.commands.remove(at);
                }
            }
        }
    }

    fn share(&self) -> u32 {
        (self.total / SHARE).max(1)
    }

    fn held_by(&self, client: Client) -> u32 {
        self.held.get(&client).copied().unwrap_or(0)
    }

    fn is_modest(&self, client: Client) -> bool {
        self.held_by(client) < self.share()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QUERY_SLOTS;
    use proto::Secret;

    fn client(slot: u32) -> Client {
        Client { slot, generation: 1 }
    }

    fn query(slot: u32) -> QueryId {
        QueryId { slot, generation: 1 }
    }

    fn slots() -> Slots {
        Slots::new(QUERY_SLOTS, 2, SeededState::new(Secret([1; 16])))
    }

    #[test]
    fn whoever_holds_his_share_comes_after_those_who_hold_less() {
        let mut slots = slots();
        slots.take(client(1), query(1), QUERY_SLOTS / SHARE);
        slots.take(client(2), query(2), QUERY_SLOTS / SHARE - 1);
        assert_eq!(slots.next(), None, "nobody waits");
        slots.wait_for_page(client(1), query(3));
        slots.wait_with_command(client(1));
        assert_eq!(slots.next(), Some(Turn::Page(query(3))), "nobody else wants it");
        slots.wait_with_command(client(3));
        assert_eq!(slots.next(), Some(Turn::Command(client(3))));
        slots.wait_for_page(client(2), query(4));
        assert_eq!(slots.next(), Some(Turn::Page(query(4))));
        assert_eq!(slots.for_pages(client(2), true), 1, "up to the share and no further");
        assert_eq!(slots.for_pages(client(1), false), 0);
        slots.leave(Turn::Page(query(4)));
        slots.leave(Turn::Command(client(3)));
        assert_eq!(slots.next(), Some(Turn::Page(query(3))));
        slots.leave(Turn::Page(query(3)));
        slots.give_back(query(1));
        assert_eq!(slots.next(), Some(Turn::Command(client(1))));
    }

    #[test]
    fn every_slot_comes_back_whatever_has_become_of_its_query() {
        let mut slots = slots();
        slots.take(client(1), query(1), 3);
        slots.take(client(1), query(2), 1);
        (0..3).for_each(|_| slots.give_back(query(1)));
        assert!(slots.are_in_use());
        assert_eq!(slots.held_by(client(1)), 1);
        slots.give_back(query(2));
        slots.give_back(query(2));
        assert!(!slots.are_in_use(), "and no more than were taken");
        assert_eq!(slots.free(), QUERY_SLOTS);
        assert!(slots.owed.is_empty() && slots.held.is_empty());
    }
}
