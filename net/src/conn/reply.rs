//! Relay messages, serialised straight into the outbox.

use super::{Conn, ConnCore, State};
use crate::counters::CloseCause;
use crate::note;
use crate::outbox::{Class, Pushed};
use crate::ws::{Form, WindowBits};
use proto::message::{self, Completeness};
use proto::nip::nip45::Hll;
use proto::{EventId, Now, Reason};

impl Conn {
    /// `["OK",id,accepted,message]`. A [`Reason`] that NIP-01 counts as accepted (a duplicate) is
    /// answered with `true`. Every reason is counted, and one invalid event too many closes the
    /// connection ([`Pushed::Closed`]). A policy's `note` stands in place of the reason's own text
    /// ([`note::text`]).
    pub fn reply_ok(
        &mut self,
        now: Now,
        id: &EventId,
        verdict: Result<(), Reason>,
        note: Option<&str>,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        let reason = verdict.err();
        let is_accepted = reason.is_none_or(Reason::is_accepted);
        let text = reason.map(|reason| note::text(reason, note)).unwrap_or_default();
        message::write_ok(id, is_accepted, &text, &mut core.reply);
        self.push_refusal(now, reason, core)
    }

    /// `["CLOSED",sub,reason]`, counted and with a note like [`Conn::reply_ok`].
    pub fn reply_closed(
        &mut self,
        now: Now,
        sub: &str,
        reason: Reason,
        note: Option<&str>,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        message::write_closed(sub, &note::text(reason, note), &mut core.reply);
        self.push_refusal(now, Some(reason), core)
    }

    /// `["NEG-ERR",sub,reason]`, counted and with a note like [`Conn::reply_ok`], and with the
    /// number of records that a session may hold where that is what was overstepped.
    pub fn reply_neg_err(
        &mut self,
        now: Now,
        sub: &str,
        reason: Reason,
        note: Option<&str>,
        records_max: Option<u64>,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        message::write_neg_err(sub, &note::text(reason, note), records_max, &mut core.reply);
        self.push_refusal(now, Some(reason), core)
    }

    /// `["NEG-MSG",sub,message]`, the message in hex.
    pub fn reply_neg_msg(&mut self, sub: &str, message: &[u8], core: &mut ConnCore) -> Pushed {
        core.reply.clear();
        message::write_neg_msg(sub, message, &mut core.reply);
        self.push_reply(core)
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

    /// `["COUNT",sub,{"count":n}]`, with what NIP-45 says about counts that are estimated and about
    /// registers.
    pub fn reply_count(
        &mut self,
        sub: &str,
        count: u64,
        approximate: bool,
        hll: Option<&Hll>,
        core: &mut ConnCore,
    ) -> Pushed {
        core.reply.clear();
        message::write_count(sub, count, approximate, hll, &mut core.reply);
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
        let plain_bytes = core.reply.len() + event_json.len() + 1;
        let window = self.deflate_window(plain_bytes, core);
        let ConnCore { config, outboxes, reply, deflater, counters, .. } = core;
        let mut header = [0; 5];
        let deflated = match (window, deflater) {
            (Some(window), Some(codec)) => codec.event(reply, event_json, window, &mut header),
            _ => None,
        };
        let (form, parts) = match deflated {
            Some(parts) => (Form::Deflated, parts),
            None => (Form::Plain, [&**reply, event_json, b"]"]),
        };
        let limits = &config.outbox;
        let pushed = self.outbox.push_text_frame(form, &parts, class, limits, outboxes);
        if form == Form::Deflated && pushed == Pushed::Ok {
            counters.note_deflated(plain_bytes, parts.iter().map(|part| part.len()).sum());
        }
        self.note_pushed(pushed, core)
    }

    /// The window to compress with, if a message of `plain_bytes` is to be compressed at all; the
    /// core's codec is there then.
    fn deflate_window(&self, plain_bytes: usize, core: &mut ConnCore) -> Option<WindowBits> {
        let window = self.deflate?;
        let compression = &core.config.compression;
        let is_worth_it = compression.enabled && plain_bytes >= compression.threshold_bytes;
        is_worth_it.then(|| {
            core.ready_deflater();
            window
        })
    }

    fn push_reply(&mut self, core: &mut ConnCore) -> Pushed {
        if !matches!(self.state, State::Open) {
            return Pushed::Closed;
        }
        let window = self.deflate_window(core.reply.len(), core);
        let ConnCore { config, outboxes, reply, deflater, counters, .. } = core;
        let deflated = match (window, deflater) {
            (Some(window), Some(codec)) => codec.message(&[reply], window),
            _ => None,
        };
        let (form, payload) = match deflated {
            Some(payload) => (Form::Deflated, payload),
            None => (Form::Plain, &**reply),
        };
        let limits = &config.outbox;
        let pushed = self.outbox.push_text_frame(form, &[payload], Class::Reply, limits, outboxes);
        if form == Form::Deflated && pushed == Pushed::Ok {
            counters.note_deflated(reply.len(), payload.len());
        }
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
