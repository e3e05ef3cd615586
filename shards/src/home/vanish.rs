//! Requests to vanish (NIP-62) across shards.
//!
//! What a key has to lose lies with its owner and, as gift wraps that it authored, anywhere. The
//! owner decides first, with all its rules and the policy door; when it has said yes, every other
//! shard is told to verify the request and to take note. The client hears yes when all have done so.
//! One that cannot now (its disk is full, its store is behind) is told again after a pause: the owner
//! has stored the request, so nobody may be told no any more. A relay that ends meanwhile says
//! nothing; the client asks again, the owner answers that it has the request already, and the others
//! are told once more. So a request that was refused leaves no trace in any shard, and one that was
//! answered has effect in all of them.
//!
//! No deadlock: a request that waits for the credit of one shard holds none of another.

use super::publish::Outcome;
use super::{Home, HomeEffects, Reply};
use crate::message::{Client, Origin, QueryId, Role, ShardId, Ticket, ToShard};
use proto::nip::{nip59, nip62};
use proto::{Event, Now, PublicKey, Reason};

/// Requests to vanish under way in one home.
const VANISHES_MAX: usize = 64;
/// Pause before a shard that could not take note is told again.
const WITNESS_RETRY_MS: u64 = 250;

/// A request to vanish that has not been answered. Owned by the home.
#[derive(Debug)]
pub(super) struct Vanish {
    client: Client,
    event: Event,
    origin: Origin,
    owner: ShardId,
    /// What the owner said.
    decided: Option<Outcome>,
    /// Other shards that have not taken note.
    waiting: usize,
    /// Those of them that are to be told again, and when.
    failed: Vec<ShardId>,
    retry_ms: u64,
    /// Why one of them will never take note: it looked closer than the owner, who took the request
    /// for a copy of what he has, or the operator has banned it since.
    refused: Option<Reason>,
}

impl Home {
    /// Enters a request that is about to be submitted to its owner.
    ///
    /// # Errors
    /// [`Reason::VanishBusy`] when too many are under way.
    pub(super) fn begin_vanish(
        &mut self,
        client: Client,
        owner: ShardId,
        event: &Event,
        origin: Origin,
    ) -> Result<u32, Reason> {
        if self.vanishes.len() >= VANISHES_MAX {
            return Err(Reason::VanishBusy);
        }
        self.generation = self.generation.wrapping_add(1);
        let vanish = Vanish {
            client,
            event: event.clone(),
            origin,
            owner,
            decided: None,
            waiting: 0,
            failed: Vec::new(),
            retry_ms: u64::MAX,
            refused: None,
        };
        self.vanishes.insert(self.generation, vanish);
        Ok(self.generation)
    }

    /// A shard has dealt with its part.
    pub(super) fn vanish_outcome(
        &mut self,
        now: Now,
        shard: ShardId,
        number: u32,
        outcome: Outcome,
        fx: &mut HomeEffects,
    ) {
        let Some(vanish) = self.vanishes.get_mut(&number) else { return };
        let is_accepted = outcome.is_accepted();
        if shard == vanish.owner {
            let goes_on = is_accepted && !outcome.is_shadowed;
            vanish.decided = Some(outcome);
            if goes_on {
                return self.call_witnesses(number, fx);
            }
        } else if is_accepted || !outcome.is_temporary() {
            vanish.waiting -= 1;
            vanish.refused = vanish.refused.or(outcome.result.err().filter(|_| !is_accepted));
        } else if self.draining {
            // Nobody may be told no, and there is no time to wait for a yes.
            self.vanishes.remove(&number);
        } else {
            vanish.failed.push(shard);
            vanish.retry_ms = now.monotonic_ms.saturating_add(WITNESS_RETRY_MS);
            self.witness_retry_ms = self.witness_retry_ms.min(vanish.retry_ms);
        }
        self.end_vanish(number, fx);
    }

    /// Tells those shards again whose pause is over; a relay that ends gives up.
    pub(super) fn retry_witnesses(&mut self, now: Now, fx: &mut HomeEffects) {
        self.witness_retry_ms = u64::MAX;
        if self.draining {
            self.vanishes.retain(|_, vanish| vanish.failed.is_empty());
            return;
        }
        let due = self.vanishes.iter().filter(|(_, vanish)| vanish.retry_ms <= now.monotonic_ms);
        let mut due: Vec<u32> = due.map(|(number, _)| *number).collect();
        due.sort_unstable();
        for number in due {
            let Some(vanish) = self.vanishes.get_mut(&number) else { continue };
            vanish.retry_ms = u64::MAX;
            for shard in std::mem::take(&mut vanish.failed) {
                self.waiting_witness[usize::from(shard)].push_back(number);
                self.spend_credit(shard, fx);
            }
        }
        let next_ms = self.vanishes.values().map(|vanish| vanish.retry_ms).min();
        self.witness_retry_ms = next_ms.unwrap_or(u64::MAX);
    }

    /// A key has vanished from a shard: what the shard sent before and no client has got yet is not
    /// handed on.
    pub(super) fn forget_vanished(&mut self, key: &PublicKey, until: u32) {
        let is_unwanted = |event: &Event| {
            let view = event.view();
            let is_request = view.kind() == nip62::KIND && view.created_at() == until;
            let is_theirs = view.pubkey() == *key && view.created_at() <= until && !is_request;
            let is_wrap = nip59::is_wrap(view.kind());
            is_theirs || is_wrap && nip59::recipient(&view).as_ref() == Some(key)
        };
        let mut touched = Vec::new();
        for (slot, (generation, merge)) in &mut self.queries {
            let bytes = merge.forget(is_unwanted);
            self.page_bytes -= bytes;
            if bytes > 0 {
                touched.push(QueryId { slot: slot as u32, generation: *generation });
            }
        }
        // A part that has nothing left asks for its next page.
        touched.into_iter().for_each(|id| self.make_ready(id));
        self.forget_held(is_unwanted);
        self.neg_vanished(key);
    }

    fn call_witnesses(&mut self, number: u32, fx: &mut HomeEffects) {
        let Some(vanish) = self.vanishes.get_mut(&number) else { return };
        let owner = vanish.owner;
        vanish.waiting = self.credit.len() - 1;
        for shard in (0..self.config.placement.shards()).filter(|shard| *shard != owner) {
            self.waiting_witness[usize::from(shard)].push_back(number);
            self.spend_credit(shard, fx);
        }
    }

    /// Tells a shard that the owner has accepted the request; the credit is there.
    pub(super) fn send_witness(&mut self, shard: ShardId, number: u32, fx: &mut HomeEffects) {
        let Some(vanish) = self.vanishes.get(&number) else { return };
        let bytes = vanish.event.packed().len() as u32;
        self.credit[usize::from(shard)].take(bytes);
        let message = ToShard::Submit {
            ticket: Ticket { client: vanish.client, bytes, vanish: Some(number) },
            event: vanish.event.clone(),
            origin: vanish.origin,
            role: Role::Witness,
            source: None,
        };
        fx.to_shard.push((shard, message));
    }

    /// Answers the client if everybody has spoken.
    fn end_vanish(&mut self, number: u32, fx: &mut HomeEffects) {
        let Some(vanish) = self.vanishes.get(&number) else { return };
        if vanish.waiting > 0 {
            return;
        }
        let Some(vanish) = self.vanishes.remove(&number) else { return };
        let Some(decided) = vanish.decided else { return };
        let (client, id) = (vanish.client, vanish.event.view().id());
        // What the owner has stored is served, so it is not refused any more.
        let result = match (decided.result, vanish.refused) {
            (Err(_), Some(reason)) => Err(reason),
            (result, _) => result,
        };
        fx.replies.push(Reply::Ok { client, id, result, note: decided.note });
    }
}
