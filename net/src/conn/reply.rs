//! Relay messages, serialised straight into the outbox.

use super::{Conn, ConnCore, State};
use crate::counters::CloseCause;
use crate::outbox::{Class, Pushed};
use proto::message::{self, Completeness};
use proto::{EventId, Now, Reason};

impl Conn {
    /// `["OK",id,accepted,message]`. A [`Reason`] that NIP-01 counts as accepted (a duplicate) is
    /// answered with `true`. Every reason is counted, and one invalid event too many closes the
    /// connection ([`Pushed::Closed`]).
    pub fn reply_ok(
        &mut self,
        now: Now,
        id: &EventId,
        verdict: Result<(), Reason>,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        let reason = verdict.err();
        let is_accepted = reason.is_none_or(Reason::is_accepted);
        let text = reason.map_or("", Reason::message);
        message::write_ok(id, is_accepted, text, &mut core.reply);
        self.push_refusal(now, reason, core)
    }

    /// `["CLOSED",sub,reason]`, counted like [`Conn::reply_ok`].
    pub fn reply_closed(
        &mut self,
        now: Now,
        sub: &str,
        reason: Reason,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        message::write_closed(sub, reason.message(), &mut core.reply);
        self.push_refusal(now, Some(reason), core)
    }

    /// `["NEG-ERR",sub,reason]`, counted like [`Conn::reply_ok`].
    pub fn reply_neg_err(
        &mut self,
        now: Now,
        sub: &str,
        reason: Reason,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        message::write_neg_err(sub, reason.message(), None, &mut core.reply);
        self.push_refusal(now, Some(reason), core)
    }

    /// `["NOTICE",reason]`, counted like [`Conn::reply_ok`].
    pub fn reply_notice(&mut self, now: Now, reason: Reason, core: &mut ConnCore) -> Pushed {
        core.reply.clear();
        message::write_notice(reason.message(), &mut core.reply);
        self.push_refusal(now, Some(reason), core)
    }

    /// `["EOSE",sub,["finish"|"more"]]`.
    pub fn reply_eose(
        &mut self,
        sub: &str,
        completeness: Completeness,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        message::write_eose(sub, completeness, &mut core.reply);
        self.push_reply(core)
    }

    /// `["COUNT",sub,{"count":n}]`.
    pub fn reply_count(
        &mut self,
        sub: &str,
        count: u64,
        approximate: bool,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        message::write_count(sub, count, approximate, None, &mut core.reply);
        self.push_reply(core)
    }

    /// `["AUTH",challenge]`; the same one for the life of the connection.
    pub(super) fn send_challenge(&mut self, core: &mut ConnCore) -> Pushed {
        core.reply.clear();
        message::write_auth(&self.challenge.to_text(), &mut core.reply);
        self.push_reply(core)
    }

    /// A live event: refused over the soft limit, whereupon the engine closes the subscription
    /// with [`Reason::SlowReader`]. `event_json` is the rendered event, shared by all readers.
    pub fn deliver(&mut self, sub: &str, event_json: &[u8], core: &mut ConnCore) -> Pushed {
        self.push_event(Class::Live, sub, event_json, core)
    }

    /// A stored event: part of an answer, refused only over the hard limit. The engine pulls
    /// pages only while [`crate::outbox::Outbox::is_below_low_water`].
    pub fn deliver_stored(&mut self, sub: &str, event_json: &[u8], core: &mut ConnCore) -> Pushed {
        self.push_event(Class::Reply, sub, event_json, core)
    }

    fn push_event(
        &mut self,
        class: Class,
        sub: &str,
        event_json: &[u8],
        core: &mut ConnCore,
    ) -> Pushed {
        if !matches!(self.state, State::Open) {
            return Pushed::Closed;
        }
        core.reply.clear();
        message::write_event_prefix(sub, &mut core.reply);
        let parts: [&[u8]; 3] = [&core.reply, event_json, b"]"];
        let limits = &core.config.outbox;
        let pushed = self.outbox.push_text_frame(&parts, class, limits, &mut core.outboxes);
        self.note_pushed(pushed, core)
    }

    fn push_reply(&mut self, core: &mut ConnCore) -> Pushed {
        if !matches!(self.state, State::Open) {
            return Pushed::Closed;
        }
        let limits = &core.config.outbox;
        let parts: [&[u8]; 1] = [&core.reply];
        let pushed = self.outbox.push_text_frame(&parts, Class::Reply, limits, &mut core.outboxes);
        self.note_pushed(pushed, core)
    }

    fn push_refusal(&mut self, now: Now, reason: Option<Reason>, core: &mut ConnCore) -> Pushed {
        let pushed = self.push_reply(core);
        match reason.and_then(|reason| self.note_refused(now, reason, core)) {
            Some(_) => Pushed::Closed,
            None => pushed,
        }
    }

    fn note_pushed(&mut self, pushed: Pushed, core: &mut ConnCore) -> Pushed {
        match pushed {
            Pushed::Ok => core.counters.frames_out += 1,
            Pushed::OverSoft => core.counters.over_soft += 1,
            Pushed::OverHard => self.abort(CloseCause::OutboxFull, core),
            Pushed::Closed => {}
        }
        pushed
    }
}
