//! Checks signatures for shards of other cores that have too many of their own.
//!
//! The owner decides about an event; whether a signature is right is a pure function that any core
//! can work out. So a hot author's shard is not bound by what one core can verify: past a backlog it
//! sends tickets to the core that has least to check, and goes on with its own meanwhile.
//!
//! **What it does not know:** events, stores, who published what.

use crate::message::{ShardId, ToShard, VerifyTicket};
use proto::verify::Verifier;
use std::collections::VecDeque;

/// The tickets that a core has been given. Owned by the core; bounded by the credit of those who send
/// them: [`crate::message::TICKET_CREDIT`] signatures of 128 bytes for each shard of other cores.
pub struct Checker {
    verifier: Box<dyn Verifier>,
    tickets: VecDeque<(ShardId, VerifyTicket)>,
    /// Signatures in `tickets`.
    waiting: usize,
}

impl Checker {
    /// A checker without tickets.
    pub fn new(verifier: Box<dyn Verifier>) -> Self {
        Self { verifier, tickets: VecDeque::new(), waiting: 0 }
    }

    /// Takes a ticket of shard `from`.
    pub fn take(&mut self, from: ShardId, ticket: VerifyTicket) {
        self.waiting += ticket.items.len();
        self.tickets.push_back((from, ticket));
    }

    /// Signatures that wait to be checked.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Checks the oldest ticket: the answer, and whom it is for.
    pub fn check_next(&mut self) -> Option<(ShardId, ToShard)> {
        let (shard, VerifyTicket { number, items }) = self.tickets.pop_front()?;
        self.waiting -= items.len();
        let mut verdicts = Vec::with_capacity(items.len());
        self.verifier.verify_batch(&items, &mut verdicts);
        Some((shard, ToShard::Verified { number, verdicts: verdicts.into() }))
    }
}
