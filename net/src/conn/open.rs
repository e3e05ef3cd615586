//! The open WebSocket: frames to messages to events, rates, AUTH, and answers to what is wrong.

use super::{Conn, ConnCore, ConnEvent, State, Trust};
use crate::auth::{self, AuthRules};
use crate::config::Rates;
use crate::counters::CloseCause;
use crate::outbox::Pushed;
use crate::skim::{self, Verb};
use crate::ws::{CloseCode, Incoming, Opcode, close};
use proto::parse::parse_client_message;
use proto::{ClientMessage, Event, MessageError, Now, Reason};

impl Conn {
    pub(super) fn next_open(
        &mut self,
        now: Now,
        data: &mut &[u8],
        core: &mut ConnCore,
    ) -> Option<ConnEvent> {
        self.has_heard |= !data.is_empty();
        let now_ms = now.monotonic_ms;
        while matches!(self.state, State::Open) {
            let (limits, mut work) = core.decoding(self.deflate.is_some());
            match self.decoder.next(now_ms, data, &limits, &mut work) {
                Ok(None) => return None,
                Ok(Some(Incoming::Text)) => {
                    if let Some(event) = self.take_text(now, core) {
                        return Some(event);
                    }
                }
                Ok(Some(Incoming::Binary)) => {
                    self.close_open(now, CloseCause::BinaryMessage, core);
                }
                Ok(Some(Incoming::Ping)) => self.answer_ping(now_ms, core),
                Ok(Some(Incoming::Pong)) => {}
                Ok(Some(Incoming::Close(code))) => self.answer_close(now, code, core),
                Err(violation) => self.close_open(now, violation.into(), core),
            }
        }
        // Behind our own Close frame the peer's is still to be found in what came.
        if !matches!(self.state, State::Closing) {
            *data = &[];
        }
        Some(ConnEvent::Closing(self.cause.unwrap_or(CloseCause::Internal)))
    }

    /// After our own Close frame: reads on for the peer's, and lets everything else pass.
    pub(super) fn await_close(&mut self, now: Now, data: &mut &[u8], core: &mut ConnCore) {
        let (limits, mut work) = core.decoding(self.deflate.is_some());
        loop {
            match self.decoder.next(now.monotonic_ms, data, &limits, &mut work) {
                Ok(None) => return,
                Ok(Some(Incoming::Close(_))) | Err(_) => break,
                Ok(Some(_)) => {}
            }
        }
        *data = &[];
        self.decoder.clear(&mut core.input);
        self.state = State::Flushing;
    }

    /// Pings count as messages; those beyond the rate stay unanswered, since RFC 6455 5.5.3 lets a
    /// Pong answer the latest Ping only.
    fn answer_ping(&mut self, now_ms: u64, core: &mut ConnCore) {
        let rate = self.rates(core).messages;
        if self.buckets.messages.take(rate, 1, now_ms) {
            self.outbox.push_control(Opcode::Pong, &core.scratch, &mut core.outboxes);
            core.counters.frames_out += 1;
        }
    }

    fn answer_close(&mut self, now: Now, code: Option<CloseCode>, core: &mut ConnCore) {
        let payload = code.map(|code| close::payload(code, "")).unwrap_or_default();
        self.outbox.push_control(Opcode::Close, &payload, &mut core.outboxes);
        core.counters.frames_out += 1;
        self.decoder.clear(&mut core.input);
        self.cause = Some(CloseCause::PeerClosed);
        self.state = State::Flushing;
        self.timer_ms = now.monotonic_ms.saturating_add(core.config.timeouts.close_ms);
    }

    /// The rates that this client is held to.
    fn rates(&self, core: &ConnCore) -> Rates {
        match self.trust {
            Trust::Public => core.config.rates,
            Trust::Operator => Rates::OFF,
        }
    }

    /// Takes the message in the scratch buffer. `None` when it was answered here.
    fn take_text(&mut self, now: Now, core: &mut ConnCore) -> Option<ConnEvent> {
        core.counters.messages += 1;
        let (verb, rest) = skim::verb(&core.scratch);
        if let Some(reason) = self.refused_by_rate(now.monotonic_ms, verb, core) {
            let error = unparsed(verb, rest, reason);
            self.refuse(now, &error, core);
            return None;
        }
        let parsed = parse_client_message(&core.scratch, &core.config.limits)
            .and_then(|message| self.charge_late(now.monotonic_ms, verb, message, core));
        let refused = match parsed {
            Ok(ClientMessage::Auth(event)) => return self.take_auth(now, &event, core),
            Ok(message) => match self.refused_by_connection(now.monotonic_ms, &message, core) {
                None => return Some(ConnEvent::Message(message)),
                Some(error) => error,
            },
            Err(error) => error,
        };
        self.refuse(now, &refused, core);
        None
    }

    /// What is decided before the parser is asked.
    fn refused_by_rate(&mut self, now_ms: u64, verb: Verb, core: &ConnCore) -> Option<Reason> {
        let rates = self.rates(core);
        if !self.buckets.messages.take(rates.messages, 1, now_ms) {
            return Some(Reason::RateMessages);
        }
        match verb {
            // AUTH costs a verified signature as an event does, also when the key is known.
            Verb::Event | Verb::Auth if !self.buckets.events.take(rates.events, 1, now_ms) => {
                Some(Reason::RateEvents)
            }
            Verb::Query | Verb::Negentropy
                if !self.buckets.queries.has_token(rates.queries, now_ms) =>
            {
                Some(Reason::RateQueries)
            }
            _ => None,
        }
    }

    /// A verb that is written with escapes is known only after parsing; its event is charged then.
    fn charge_late(
        &mut self,
        now_ms: u64,
        verb: Verb,
        message: ClientMessage,
        core: &ConnCore,
    ) -> Result<ClientMessage, MessageError> {
        if let (Verb::Other, ClientMessage::Event(event) | ClientMessage::Auth(event)) =
            (verb, &message)
            && !self.buckets.events.take(self.rates(core).events, 1, now_ms)
        {
            return Err(MessageError::Event(event.view().id(), Reason::RateEvents));
        }
        Ok(message)
    }

    /// What the connection alone can refuse about a well-formed message.
    fn refused_by_connection(
        &mut self,
        now_ms: u64,
        message: &ClientMessage,
        core: &ConnCore,
    ) -> Option<MessageError> {
        let is_operator = self.trust == Trust::Operator;
        let is_anonymous = core.config.auth_required && self.keys.is_empty() && !is_operator;
        match message {
            ClientMessage::Event(event) => {
                let event = event.view();
                let verdict = if is_anonymous {
                    Err(Reason::AuthFirst)
                } else if is_operator {
                    auth::may_restore(&event)
                } else {
                    auth::may_publish(&event, &self.keys)
                };
                verdict.err().map(|reason| MessageError::Event(event.id(), reason))
            }
            ClientMessage::Req(sub, filters) | ClientMessage::Count(sub, filters) => {
                let cost = u32::try_from(filters.len()).unwrap_or(u32::MAX);
                self.refused_as_query(now_ms, cost, is_anonymous, core)
                    .map(|reason| MessageError::Subscription(sub.clone(), reason))
            }
            // Each message of a session costs as much as a filter: it is answered from as many rows.
            ClientMessage::NegOpen(sub, ..) | ClientMessage::NegMsg(sub, _) => {
                let refused = if core.config.negentropy {
                    self.refused_as_query(now_ms, 1, is_anonymous, core)
                } else {
                    Some(Reason::NegOff)
                };
                refused.map(|reason| MessageError::Negentropy(sub.clone(), reason))
            }
            ClientMessage::Close(_) | ClientMessage::Auth(_) | ClientMessage::NegClose(_) => None,
        }
    }

    fn refused_as_query(
        &mut self,
        now_ms: u64,
        cost: u32,
        is_anonymous: bool,
        core: &ConnCore,
    ) -> Option<Reason> {
        let rate = self.rates(core).queries;
        if is_anonymous {
            Some(Reason::AuthFirst)
        } else if !self.buckets.queries.take(rate, cost, now_ms) {
            Some(Reason::RateQueries)
        } else {
            None
        }
    }

    fn take_auth(&mut self, now: Now, event: &Event, core: &mut ConnCore) -> Option<ConnEvent> {
        let event = event.view();
        let rules = AuthRules {
            challenge: self.challenge,
            relay: core.config.public_url.as_deref().unwrap_or(&self.host),
            unix_s: now.unix_s,
            keys: &self.keys,
            keys_max: core.config.auth_keys_max,
        };
        match auth::check(&event, &rules, core.verifier.as_mut()) {
            Ok(key) => {
                if !self.keys.contains(&key) {
                    self.keys.reserve_exact(1);
                    self.keys.push(key);
                    core.counters.authenticated += 1;
                }
                match self.reply_ok(now, &event.id(), Ok(()), None, core) {
                    Pushed::Ok => Some(ConnEvent::Authenticated(key)),
                    Pushed::OverSoft | Pushed::OverHard | Pushed::Closed => None,
                }
            }
            Err(reason) => {
                self.refuse(now, &MessageError::Event(event.id(), reason), core);
                None
            }
        }
    }

    /// Answers, counts, and closes at the limit of invalid messages. The caller looks at the state.
    fn refuse(&mut self, now: Now, error: &MessageError, core: &mut ConnCore) {
        // What became of the answer shows in the state: nothing else is done about it here.
        let _ = match error {
            MessageError::Event(id, reason) => self.reply_ok(now, id, Err(*reason), None, core),
            MessageError::Subscription(sub, reason) => {
                self.reply_closed(now, sub, *reason, None, core)
            }
            MessageError::Negentropy(sub, reason) => {
                self.reply_neg_err(now, sub, *reason, None, None, core)
            }
            MessageError::Notice(reason) => self.reply_notice(now, *reason, core),
        };
    }

    /// Counts a refusal that was answered otherwise, and closes the connection when it was one
    /// invalid message too many. The `reply_*` functions do this by themselves.
    pub fn note_refused(
        &mut self,
        now: Now,
        reason: Reason,
        core: &mut ConnCore,
    ) -> Option<CloseCause> {
        core.counters.refuse(reason);
        let rate = self.rates(core).invalid;
        if is_abuse(reason)
            && matches!(self.state, State::Open)
            && !self.buckets.invalid.take(rate, 1, now.monotonic_ms)
        {
            self.close_open(now, CloseCause::InvalidLimit, core);
            return Some(CloseCause::InvalidLimit);
        }
        None
    }
}

/// The answer to a message that was not parsed.
fn unparsed(verb: Verb, rest: &[u8], reason: Reason) -> MessageError {
    let known = match verb {
        Verb::Event | Verb::Auth => skim::event_id(rest).map(|id| MessageError::Event(id, reason)),
        Verb::Query => {
            skim::subscription(rest).map(|sub| MessageError::Subscription(sub.into(), reason))
        }
        Verb::Negentropy => {
            skim::subscription(rest).map(|sub| MessageError::Negentropy(sub.into(), reason))
        }
        Verb::Other => None,
    };
    known.unwrap_or(MessageError::Notice(reason))
}

/// Whether a refusal counts towards the limit of invalid messages: what no client sends that means
/// well. A limit of this relay, a clock that is off and an expired event are honest mistakes, and
/// a mirror of old events meets them by the thousand.
pub fn is_abuse(reason: Reason) -> bool {
    use Reason as R;
    let is_honest = matches!(
        reason,
        R::TooOld
            | R::TooNew
            | R::Expired
            | R::TooManyTags
            | R::TooManyTagElements
            | R::EventTooLarge
            | R::DeletionTooLarge
            | R::TooManyFilters
            | R::TooManyFilterValues
    );
    reason.prefix() == proto::Prefix::Invalid && !is_honest
}
