//! Reads at the policy door: a client's REQ, COUNT or NEG-OPEN waits, parked, for the program's
//! word, and then goes its ordinary way.

use super::{Command, Home, HomeEffects, Reply, name};
use crate::door::{Answer, ReadKind, ReadQuestion, Source, Token, Verdict};
use crate::message::{Client, Origin};
use proto::{ClientMessage, Filter, Now, Reason, SeededMap, SeededState};
use std::collections::VecDeque;
use std::sync::Arc;

/// Reads under way at the door. Owned by the home; at most one per client.
#[derive(Debug)]
pub(super) struct AtDoor {
    asked: SeededMap<Token, Client>,
    /// Clients whose command waits until it may be asked about.
    waiting: VecDeque<Client>,
    last_token: Token,
}

impl AtDoor {
    pub(super) fn new(seed: SeededState) -> Self {
        Self { asked: SeededMap::with_hasher(seed), waiting: VecDeque::new(), last_token: 0 }
    }
}

/// What is asked about a message; `None` for those that read nothing.
fn subject(message: &ClientMessage) -> Option<(ReadKind, &str, &[Filter])> {
    match message {
        ClientMessage::Req(sub, filters) => Some((ReadKind::Req, sub, filters)),
        ClientMessage::Count(sub, filters) => Some((ReadKind::Count, sub, filters)),
        ClientMessage::NegOpen(sub, filter, _) => {
            Some((ReadKind::NegOpen, sub, std::slice::from_ref(&**filter)))
        }
        ClientMessage::Event(_)
        | ClientMessage::Close(_)
        | ClientMessage::Auth(_)
        | ClientMessage::NegMsg(..)
        | ClientMessage::NegClose(_) => None,
    }
}

/// The same read with nothing to find.
fn emptied(message: ClientMessage) -> ClientMessage {
    let nothing = || Filter { ids: Some(Vec::new()), ..Filter::default() };
    match message {
        ClientMessage::Req(sub, _) => ClientMessage::Req(sub, vec![nothing()]),
        ClientMessage::Count(sub, _) => ClientMessage::Count(sub, vec![nothing()]),
        ClientMessage::NegOpen(sub, _, bytes) => {
            ClientMessage::NegOpen(sub, Box::new(nothing()), bytes)
        }
        other => other,
    }
}

impl Home {
    /// Whether the door has to be asked before this message is acted upon.
    pub(super) fn asks_about(&self, client: Client, message: &ClientMessage) -> bool {
        self.config.door.reads && !self.is_trusted(client) && subject(message).is_some()
    }

    /// Parks the client until the door has answered.
    pub(super) fn take_to_door(
        &mut self,
        client: Client,
        message: ClientMessage,
        fx: &mut HomeEffects,
    ) {
        // What is new takes the place of the old one of its name when it is asked for.
        match &message {
            ClientMessage::Req(sub, _) => self.end_subscription(client, sub, None, fx),
            ClientMessage::NegOpen(sub, ..) => self.neg_close(client, sub, fx),
            _ => {}
        }
        self.park(client, Command::Read(Box::new(message)), fx);
        self.door.waiting.push_back(client);
        self.ask_waiting(fx);
    }

    fn ask_waiting(&mut self, fx: &mut HomeEffects) {
        while self.door.asked.len() < self.config.door.reads_max.max(1)
            && let Some(client) = self.door.waiting.pop_front()
        {
            let source = self.source(client, Origin::Client);
            // A client that is gone has left the map; one that reconnected has another generation.
            let Some(state) = self.clients.get(&client) else { continue };
            let Some(Command::Read(message)) = state.parked.as_deref() else { continue };
            let Some((kind, sub, filters)) = subject(message) else { continue };
            self.door.last_token += 1;
            let token = self.door.last_token;
            let (sub, filters) = (sub.into(), filters.into());
            fx.door.push(ReadQuestion { token, kind, sub, filters, source });
            self.door.asked.insert(token, client);
            self.counters.door.asked += 1;
        }
    }

    /// The policy program has answered.
    pub(super) fn door_answered(&mut self, now: Now, answer: Answer, fx: &mut HomeEffects) {
        let Some(client) = self.door.asked.remove(&answer.token) else { return };
        self.counters.door.add(&answer.verdict);
        self.ask_waiting(fx);
        let Some(state) = self.clients.get_mut(&client) else { return };
        let Some(Command::Read(message)) = state.take_parked() else { return };
        match answer.verdict {
            Verdict::Accept => self.act(now, client, *message, fx),
            Verdict::ShadowReject => self.act(now, client, emptied(*message), fx),
            Verdict::Reject(note) => {
                self.refuse_read(client, *message, Reason::Policy, Some(note), fx);
            }
            Verdict::Unavailable => {
                self.refuse_read(client, *message, Reason::PolicyDown, None, fx);
            }
        }
        // It may have been parked again, now for slots.
        if self.clients.get(&client).is_some_and(|state| state.parked.is_none()) {
            fx.replies.push(Reply::Unpark(client));
        }
    }

    fn refuse_read(
        &mut self,
        client: Client,
        message: ClientMessage,
        reason: Reason,
        note: Option<Arc<str>>,
        fx: &mut HomeEffects,
    ) {
        self.counters.refused.add(reason);
        match message {
            ClientMessage::Req(sub, _) | ClientMessage::Count(sub, _) => {
                fx.replies.push(Reply::Closed { client, sub: name(sub), reason, note });
            }
            ClientMessage::NegOpen(sub, ..) => {
                let sub = name(sub);
                fx.replies.push(Reply::NegErr { client, sub, reason, note, records_max: None });
            }
            _ => {}
        }
    }

    /// Where what `client` sends comes from. Made once and shared until the client authenticates
    /// another key.
    pub(super) fn source(&mut self, client: Client, origin: Origin) -> Arc<Source> {
        let Some(state) = self.clients.get_mut(&client) else {
            return Arc::new(Source { address: None, keys: Arc::default(), origin });
        };
        if let Some(source) = &state.source
            && source.origin == origin
        {
            return Arc::clone(source);
        }
        let keys = state.keys.clone().unwrap_or_default();
        let source = Arc::new(Source { address: state.address, keys, origin });
        state.source = Some(Arc::clone(&source));
        source
    }
}
