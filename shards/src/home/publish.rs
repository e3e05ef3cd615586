//! Publishing: credit per shard, and what comes back.

use super::{Command, Home, HomeEffects, Reply};
use crate::message::{Client, Origin, ShardId, Ticket, ToShard};
use crate::policy;
use proto::{Event, EventId, Now, Reason};

impl Home {
    pub(super) fn publish(&mut self, now: Now, client: Client, event: Event, fx: &mut HomeEffects) {
        if self.draining {
            return self.refuse_event(client, event.view().id(), Reason::ShuttingDown, fx);
        }
        self.submit(now, client, event, Origin::Client, fx);
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
        let admitted =
            policy::admit(now, &view, origin, keys.unwrap_or_default(), &self.config.limits);
        if let Err(reason) = admitted {
            return self.refuse_event(client, view.id(), reason, fx);
        }
        self.counters.events += 1;
        let shard = self.config.placement.owner(&view);
        let message = ToShard::Submit { ticket: Ticket { client }, event, origin };
        let credit = &mut self.credit[usize::from(shard)];
        if *credit == 0 {
            return self.park(client, Command::Submit(shard, message), fx);
        }
        *credit -= 1;
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
        fx.replies.push(Reply::Ok { client, id, result: Err(reason) });
    }

    pub(super) fn outcome(
        &mut self,
        shard: ShardId,
        ticket: Ticket,
        id: EventId,
        result: Result<(), Reason>,
        fx: &mut HomeEffects,
    ) {
        fx.replies.push(Reply::Ok { client: ticket.client, id, result });
        self.credit[usize::from(shard)] += 1;
        while self.credit[usize::from(shard)] > 0 {
            let Some(client) = self.waiting_submit[usize::from(shard)].pop_front() else { return };
            // A client that is gone has left the map; one that reconnected has another generation.
            let Some(state) = self.clients.get_mut(&client) else { continue };
            let Some(Command::Submit(shard, message)) = state.parked.take() else { continue };
            self.credit[usize::from(shard)] -= 1;
            fx.to_shard.push((shard, message));
            fx.replies.push(Reply::Unpark(client));
        }
    }
}
