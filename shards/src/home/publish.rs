//! Publishing: credit per shard, and what comes back.

use super::{Command, Home, HomeEffects, Reply};
use crate::message::{Client, Origin, Role, ShardId, Ticket, ToShard};
use crate::policy;
use proto::nip::nip62;
use proto::{Event, EventId, Now, Reason};
use std::sync::Arc;

/// What a shard says became of an event.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<(), Reason>,
    pub(super) note: Option<Arc<str>>,
    pub(super) is_shadowed: bool,
}

impl Outcome {
    /// Whether the shard could do later what it cannot do now.
    pub(super) fn is_temporary(&self) -> bool {
        use Reason::{ReadFailed, StorageFull, StoreBehind, VanishBusy};
        matches!(self.result, Err(ReadFailed | StorageFull | StoreBehind | VanishBusy))
    }

    /// Whether the client hears `OK true`.
    pub(super) fn is_accepted(&self) -> bool {
        self.result.map_or_else(Reason::is_accepted, |()| true)
    }
}

impl Home {
    pub(super) fn publish(&mut self, now: Now, client: Client, event: Event, fx: &mut HomeEffects) {
        if self.draining {
            return self.refuse_event(client, event.view().id(), Reason::ShuttingDown, fx);
        }
        let origin = if self.is_trusted(client) { Origin::Import } else { Origin::Client };
        self.submit(now, client, event, origin, fx);
    }

    pub(super) fn import(
        &mut self,
        now: Now,
        client: Client,
        event: Event,
        verify: bool,
        fx: &mut HomeEffects,
    ) {
        let origin = if verify { Origin::Import } else { Origin::ImportUnverified };
        self.submit(now, client, event, origin, fx);
    }

    fn submit(
        &mut self,
        now: Now,
        client: Client,
        event: Event,
        origin: Origin,
        fx: &mut HomeEffects,
    ) {
        let view = event.view();
        let keys = self.clients.get(&client).and_then(|state| state.keys.as_deref());
        let (limits, public_url) = (&self.config.limits, self.config.public_url.as_deref());
        let admitted =
            policy::admit(now, &view, origin, keys.unwrap_or_default(), limits, public_url);
        if let Err(reason) = admitted {
            return self.refuse_event(client, view.id(), reason, fx);
        }
        self.counters.events += 1;
        let shard = self.config.placement.owner(&view);
        let is_asked_about = match origin {
            Origin::Client => self.config.door.writes,
            Origin::Import | Origin::ImportUnverified => self.config.door.imports,
        };
        let source = is_asked_about.then(|| self.source(client, origin));
        let bytes = event.packed().len() as u32;
        let mut ticket = Ticket { client, bytes, vanish: None };
        if view.kind() == nip62::KIND && self.credit.len() > 1 {
            match self.begin_vanish(client, shard, &event, origin) {
                Ok(number) => ticket.vanish = Some(number),
                Err(reason) => return self.refuse_event(client, view.id(), reason, fx),
            }
        }
        let role = Role::Owner;
        let message = ToShard::Submit { ticket, event, origin, role, source };
        let credit = &mut self.credit[usize::from(shard)];
        if !credit.is_left() {
            return self.park(client, Command::Submit(shard, message), fx);
        }
        credit.take(bytes);
        fx.to_shard.push((shard, message));
    }

    pub(super) fn refuse_event(
        &mut self,
        client: Client,
        id: EventId,
        reason: Reason,
        fx: &mut HomeEffects,
    ) {
        self.counters.refused.add(reason);
        fx.replies.push(Reply::Ok { client, id, result: Err(reason), note: None });
    }

    pub(super) fn outcome(
        &mut self,
        now: Now,
        shard: ShardId,
        ticket: Ticket,
        id: EventId,
        outcome: Outcome,
        fx: &mut HomeEffects,
    ) {
        match ticket.vanish {
            Some(number) => self.vanish_outcome(now, shard, number, outcome, fx),
            None => {
                let Outcome { result, note, .. } = outcome;
                fx.replies.push(Reply::Ok { client: ticket.client, id, result, note });
            }
        }
        self.credit[usize::from(shard)].give_back(ticket.bytes);
        self.spend_credit(shard, fx);
    }

    /// Sends what waits for credit of `shard`: requests to vanish that others have accepted, then
    /// the commands of parked clients.
    pub(super) fn spend_credit(&mut self, shard: ShardId, fx: &mut HomeEffects) {
        let at = usize::from(shard);
        while self.credit[at].is_left()
            && let Some(number) = self.waiting_witness[at].pop_front()
        {
            self.send_witness(shard, number, fx);
        }
        while self.credit[at].is_left() {
            let Some(client) = self.waiting_submit[at].pop_front() else { return };
            // A client that is gone has left the map; one that reconnected has another generation.
            let Some(state) = self.clients.get_mut(&client) else { continue };
            let Some(Command::Submit(shard, message)) = state.take_parked() else { continue };
            if let ToShard::Submit { ticket, .. } = &message {
                self.credit[at].take(ticket.bytes);
            }
            fx.to_shard.push((shard, message));
            fx.replies.push(Reply::Unpark(client));
        }
    }
}
