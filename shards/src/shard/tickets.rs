//! Signatures of this shard that other cores check.
//!
//! Nothing waits for a ticket: the shard goes on with the signatures that it has kept. When a ticket
//! comes back, each of its events is decided about once more, as it would be if it had been verified
//! here; the store has moved on meanwhile. Until then copies wait for it as for any event in flight.
//!
//! The newest events go out, so that what is checked elsewhere comes back at about the time at which
//! its turn would have come here.

use super::ingest::Candidate;
use super::{Shard, ShardConfig, ShardEffects};
use crate::message::{CoreId, TICKET_ITEMS_MAX, VerifyTicket};
use proto::SeededMap;
use proto::verify::VerifyItem;

/// A ticket that is out.
#[derive(Debug)]
struct Out {
    core: CoreId,
    candidates: Vec<Candidate>,
}

/// The tickets of one shard that are out. Owned by the shard; at most `credit` signatures for each
/// other core, and none that is not among the events that homes have credit for.
#[derive(Debug)]
pub(super) struct Tickets {
    out: SeededMap<u64, Out>,
    /// Signatures that are out, by core.
    with: Box<[usize]>,
    credit: usize,
    last_number: u64,
}

impl Tickets {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self {
            out: SeededMap::with_hasher(config.seed),
            with: vec![0; config.cores].into(),
            credit: config.ticket_credit,
            last_number: 0,
        }
    }

    /// Events whose signature is being checked elsewhere.
    pub(super) fn depth(&self) -> usize {
        self.with.iter().sum()
    }
}

impl Shard {
    /// Signatures that this shard has to check.
    pub fn unverified(&self) -> usize {
        self.ingest.unverified.len()
    }

    /// Events whose signature other cores are checking for this shard.
    pub fn tickets_out(&self) -> usize {
        self.ingest.tickets.depth()
    }

    /// Whether it would rather have some of them checked elsewhere.
    pub fn wants_help(&self) -> bool {
        self.unverified() > self.config.ticket_backlog
    }

    /// `core` has time for `room` signatures.
    pub(super) fn send_tickets(&mut self, core: CoreId, room: usize, fx: &mut ShardEffects) {
        let (ingest, config) = (&mut self.ingest, &self.config);
        let with = &mut ingest.tickets.with[usize::from(core)];
        let spare = ingest.unverified.len().saturating_sub(config.ticket_backlog);
        let mut left = room.min(spare).min(ingest.tickets.credit.saturating_sub(*with));
        while left > 0 {
            let count = left.min(TICKET_ITEMS_MAX);
            left -= count;
            let newest = ingest.unverified.len() - count;
            let candidates: Vec<Candidate> = ingest.unverified.drain(newest..).collect();
            let items = candidates.iter().map(|one| VerifyItem::of(&one.event.view())).collect();
            *with += count;
            ingest.tickets.last_number += 1;
            let number = ingest.tickets.last_number;
            ingest.tickets.out.insert(number, Out { core, candidates });
            fx.tickets.push((core, VerifyTicket { number, items }));
        }
    }

    /// A ticket has come back.
    pub(super) fn verified(&mut self, number: u64, verdicts: &[bool], fx: &mut ShardEffects) {
        let Some(Out { core, candidates }) = self.ingest.tickets.out.remove(&number) else {
            return;
        };
        assert_eq!(
            candidates.len(),
            verdicts.len(),
            "a core answers for each signature of a ticket"
        );
        self.ingest.tickets.with[usize::from(core)] -= candidates.len();
        self.counters.verified += candidates.len() as u64;
        self.counters.ticketed += candidates.len() as u64;
        for (candidate, is_valid) in candidates.into_iter().zip(verdicts) {
            self.judged(candidate, *is_valid, fx);
        }
    }
}
