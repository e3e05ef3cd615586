//! Plays a case against homes and shards.

use crate::common::{Remembering, Setup, UNIX_S, World};
use crate::script::{Case, Line};
use bench::corpus::signer::{Draft, Signer};
use proto::message::Completeness;
use proto::nip::nip77::{Initiator, Item, SortedItems};
use proto::parse::parse_client_message;
use proto::{ClientMessage, Event, EventId, Reason};
use shards::home::{HomeInput, Reply};
use shards::message::Client;
use std::collections::{BTreeMap, BTreeSet};

/// The name of live subscriptions.
const LIVE: &str = "live";

fn signer(key: &str) -> Signer {
    let seed = key.bytes().fold(1u64, |seed, byte| seed.wrapping_mul(131) + u64::from(byte));
    Signer::from_seed(seed)
}

struct Play {
    setup: Setup,
    verifier: Remembering,
    world: World,
    events: BTreeMap<String, Event>,
    clients: BTreeMap<String, u32>,
    speaker: String,
    /// Live events by client slot.
    heard: BTreeMap<u32, Vec<EventId>>,
    /// Names of queries.
    asked: u64,
}

/// Plays `case`; panics with its title and line where something else happens.
pub fn play(nip: u16, case: &Case, shards: u16, seed: u64) {
    let mut setup = Setup::new(shards, seed);
    // The windows of time that a relay starts with.
    let (past_s, future_s) = (setup.limits.created_at_past_s, setup.limits.created_at_future_s);
    let defaults = proto::Limits::default();
    setup.limits.created_at_past_s = past_s.min(defaults.created_at_past_s);
    setup.limits.created_at_future_s = future_s.min(defaults.created_at_future_s);
    setup.checkpoint_events = 3;
    for (_, line) in &case.lines {
        if let Line::Relay(setting, value) = line {
            match setting.as_str() {
                "pow" => setup.limits.pow_bits_min = value.parse().unwrap(),
                "url" => setup.public_url = Some(value.clone()),
                "limit" => {
                    setup.limits.max_limit = value.parse().unwrap();
                    setup.limits.default_limit = setup.limits.max_limit;
                }
                other => panic!("no such setting: {other}"),
            }
        }
    }
    let verifier = Remembering::new();
    let world = World::new(&setup, &verifier);
    let mut play = Play {
        setup,
        verifier,
        world,
        events: BTreeMap::new(),
        clients: BTreeMap::new(),
        speaker: "somebody".to_owned(),
        heard: BTreeMap::new(),
        asked: 0,
    };
    for (number, line) in &case.lines {
        let place = format!("NIP-{nip:02}, line {number}, \"{}\", {shards} shards", case.title);
        play.line(line, &place);
    }
}

impl Play {
    fn line(&mut self, line: &Line, place: &str) {
        match line {
            Line::Relay(..) => {}
            Line::Event { name, key, kind, at, json } => {
                let draft = self.draft(*kind, at, json, place);
                self.events.insert(name.clone(), signer(key).sign(&draft));
            }
            Line::Mined { name, key, kind, at, bits, committed } => {
                let event = self.mine(key, *kind, at, *bits, *committed);
                self.events.insert(name.clone(), event);
            }
            Line::Spoil { name, copy, part } => {
                let event = self.event(name, place);
                let mut parts = event.view().parts();
                match part.as_str() {
                    "id" => parts.id.0[5] ^= 1,
                    "sig" => parts.sig.0[5] ^= 1,
                    other => panic!("{place}: no part {other}"),
                }
                let spoilt = parts.pack();
                self.events.insert(copy.clone(), spoilt);
            }
            Line::Publish(name, expected) => {
                let event = self.event(name, place);
                let verdict = self.publish(&event);
                let label = verdict.err().map_or("ok", Reason::label);
                assert_eq!(label, expected, "{place}: {name}");
            }
            Line::Message(text, expected) => {
                let text = self.substitute(text, place);
                let parsed = parse_client_message(text.as_bytes(), &self.setup.limits);
                let label = parsed.err().map_or("ok", |error| error.reason().label());
                assert_eq!(label, expected, "{place}: {text}");
            }
            Line::Client(name) => self.speaker = name.clone(),
            Line::Auth(keys) => {
                let (core, client) = self.client();
                for key in keys {
                    let key = signer(key).pubkey();
                    self.world.home(core, HomeInput::Authenticated(client, key));
                }
            }
            Line::Req(filters, expected, completeness) => {
                let (found, said) = self
                    .req(filters, place)
                    .unwrap_or_else(|reason| panic!("{place}: closed with {}", reason.label()));
                assert_eq!(self.names(&found), *expected, "{place}");
                if let Some(expected) = completeness {
                    let said = if said == Completeness::More { "more" } else { "finish" };
                    assert_eq!(said, expected, "{place}");
                }
            }
            Line::Refused(filters, expected) => match self.req(filters, place) {
                Err(reason) => assert_eq!(reason.label(), expected, "{place}"),
                Ok((found, _)) => panic!("{place}: answered with {:?}", self.names(&found)),
            },
            Line::Count(filters, expected) => {
                assert_eq!(self.count(filters, place), *expected, "{place}");
            }
            Line::Live(filters) => {
                let filters = self.substitute(filters, place);
                self.say(&format!(r#"["REQ","{LIVE}",{filters}]"#), place);
                self.world.settle();
                self.take(LIVE);
            }
            Line::Hears(expected) => {
                self.world.settle();
                self.take(LIVE);
                let (_, client) = self.client();
                let heard = self.heard.remove(&client.slot).unwrap_or_default();
                assert_eq!(self.names(&heard), *expected, "{place}");
            }
            Line::Sync { filter, have, need, extra } => {
                self.sync(filter, have, need, extra, place);
            }
            Line::Clock(seconds) => {
                self.world.now.unix_s += seconds;
                self.world.now.monotonic_ms += seconds * 1_000;
            }
            Line::Restart => {
                self.world.settle();
                self.world.restart(&self.setup, &self.verifier);
                self.world.settle();
                self.clients.clear();
            }
        }
    }

    fn event(&self, name: &str, place: &str) -> Event {
        self.events.get(name).unwrap_or_else(|| panic!("{place}: no event {name}")).clone()
    }

    fn client(&mut self) -> (u16, Client) {
        let next = 10 + self.clients.len() as u32;
        let slot = *self.clients.entry(self.speaker.clone()).or_insert(next);
        let core = slot % self.world.homes.len() as u32;
        (core as u16, Client { slot, generation: 1 })
    }

    /// `@name` is the id of an event, `$name` a key.
    fn substitute(&self, text: &str, place: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['@', '$']) {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let (before, from) = rest.split_at(at);
            let name: String = from[1..].chars().take_while(|c| is_name(*c)).collect();
            out.push_str(before);
            match (from.as_bytes()[0], name.is_empty()) {
                (mark, true) => out.push(char::from(mark)),
                (b'@', _) => out.push_str(&self.event(&name, place).view().id().to_hex()),
                _ => out.push_str(&signer(&name).pubkey().to_hex()),
            }
            rest = &from[1 + name.len()..];
        }
        out + rest
    }

    fn time(&self, at: &str) -> u32 {
        let now = UNIX_S as i64;
        let at = match at.strip_prefix("now") {
            Some("") => now,
            Some(distance) => now + distance.parse::<i64>().unwrap(),
            None => at.parse().unwrap(),
        };
        u32::try_from(at).unwrap()
    }

    fn draft(&self, kind: u16, at: &str, json: &str, place: &str) -> Draft {
        let mut json = self.substitute(json, place);
        while let Some(at) = json.find("%now") {
            let distance: String =
                json[at + 4..].chars().take_while(|c| "+-0123456789".contains(*c)).collect();
            let value = self.time(&format!("now{distance}")).to_string();
            json.replace_range(at..at + 4 + distance.len(), &value);
        }
        let mut values = serde_json::Deserializer::from_str(&json).into_iter::<serde_json::Value>();
        let mut draft = Draft::new(kind, self.time(at));
        let tags = values.next().expect("tags").unwrap_or_else(|error| panic!("{place}: {error}"));
        for tag in tags.as_array().unwrap() {
            let elements: Vec<&str> =
                tag.as_array().unwrap().iter().map(|element| element.as_str().unwrap()).collect();
            draft.push_tag(&elements);
        }
        if let Some(content) = values.next() {
            draft.set_content(content.unwrap().as_str().unwrap().as_bytes());
        }
        draft
    }

    /// An event whose id begins with exactly `bits` zero bits.
    fn mine(&self, key: &str, kind: u16, at: &str, bits: u32, committed: u32) -> Event {
        let committed = committed.to_string();
        for nonce in 0u64.. {
            let draft = Draft::new(kind, self.time(at));
            let event = signer(key).sign(&draft.tag(&["nonce", &nonce.to_string(), &committed]));
            let id = event.view().id().0;
            if u32::from_be_bytes([id[0], id[1], id[2], id[3]]).leading_zeros() == bits {
                return event;
            }
        }
        unreachable!()
    }

    /// As a client sends it.
    fn publish(&mut self, event: &Event) -> Result<(), Reason> {
        let mut text = b"[\"EVENT\",".to_vec();
        event.view().write_json(&mut text);
        text.push(b']');
        let message = parse_client_message(&text, &self.setup.limits).map_err(|e| e.reason())?;
        let (core, client) = self.client();
        self.world.home(core, HomeInput::Message(client, message));
        let id = event.view().id();
        loop {
            let is_it = |reply: &(u16, Reply)| matches!(&reply.1, Reply::Ok { client: to, id: have, .. } if *to == client && *have == id);
            if let Some(at) = self.world.replies.iter().position(is_it) {
                let Reply::Ok { result, .. } = self.world.replies.remove(at).1 else {
                    unreachable!()
                };
                return result;
            }
            assert!(self.world.step(), "no outcome for {id}");
        }
    }

    fn say(&mut self, text: &str, place: &str) -> Option<Reason> {
        let message = match parse_client_message(text.as_bytes(), &self.setup.limits) {
            Ok(message) => message,
            Err(error) => return Some(error.reason()),
        };
        assert!(!matches!(message, ClientMessage::Event(_)), "{place}: events are published");
        let (core, client) = self.client();
        self.world.home(core, HomeInput::Message(client, message));
        None
    }

    /// What has been said in `sub`; live events of other subscriptions are kept.
    fn take(&mut self, sub: &str) -> Vec<Reply> {
        let mut said = Vec::new();
        for (core, reply) in std::mem::take(&mut self.world.replies) {
            match reply {
                Reply::Live { event, to } => {
                    for (client, name) in to {
                        assert_eq!(&*name, LIVE, "a query of stored events hears live ones");
                        self.heard.entry(client.slot).or_default().push(event.view().id());
                    }
                }
                Reply::Held { client, event, .. } => {
                    self.heard.entry(client.slot).or_default().push(event.view().id());
                }
                Reply::Park(_) | Reply::Unpark(_) => {}
                Reply::Stored { sub: of, .. }
                | Reply::Eose { sub: of, .. }
                | Reply::Closed { sub: of, .. }
                | Reply::Count { sub: of, .. }
                | Reply::NegMsg { sub: of, .. }
                | Reply::NegErr { sub: of, .. }
                    if *of != *sub => {}
                reply @ Reply::Ok { .. } => self.world.replies.push((core, reply)),
                reply => said.push(reply),
            }
        }
        said
    }

    fn name(&mut self) -> String {
        self.asked += 1;
        format!("q{}", self.asked)
    }

    fn req(&mut self, filters: &str, place: &str) -> Result<(Vec<EventId>, Completeness), Reason> {
        let (filters, sub) = (self.substitute(filters, place), self.name());
        if let Some(reason) = self.say(&format!(r#"["REQ","{sub}",{filters}]"#), place) {
            return Err(reason);
        }
        let mut found = Vec::new();
        loop {
            for reply in self.take(&sub) {
                match reply {
                    Reply::Stored { event, .. } => found.push(event.view().id()),
                    Reply::Eose { completeness, .. } => {
                        self.say(&format!(r#"["CLOSE","{sub}"]"#), place);
                        return Ok((found, completeness));
                    }
                    Reply::Closed { reason, .. } => return Err(reason),
                    other => panic!("{place}: {other:?}"),
                }
            }
            assert!(self.world.step(), "{place}: no EOSE");
        }
    }

    fn count(&mut self, filters: &str, place: &str) -> String {
        let (filters, sub) = (self.substitute(filters, place), self.name());
        if let Some(reason) = self.say(&format!(r#"["COUNT","{sub}",{filters}]"#), place) {
            return reason.label().to_owned();
        }
        loop {
            if let Some(reply) = self.take(&sub).into_iter().next() {
                return match reply {
                    Reply::Count { count, approximate, hll, .. } => {
                        assert!(!approximate, "{place}");
                        let estimate = hll.map(|hll| format!(" hll {}", hll.estimate()));
                        format!("{count}{}", estimate.unwrap_or_default())
                    }
                    Reply::Closed { reason, .. } => reason.label().to_owned(),
                    other => panic!("{place}: {other:?}"),
                };
            }
            assert!(self.world.step(), "{place}: no count");
        }
    }

    fn sync(
        &mut self,
        filter: &str,
        have: &[String],
        need: &[String],
        extra: &[String],
        place: &str,
    ) {
        let (filter, sub) = (self.substitute(filter, place), self.name());
        let item = |name: &String| {
            let event = self.event(name, place);
            Item { created_at: event.view().created_at(), id: event.view().id() }
        };
        let initiator = Initiator::new(SortedItems::new(have.iter().map(item).collect()), 4_096);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let first = hex(&initiator.initiate());
        self.say(&format!(r#"["NEG-OPEN","{sub}",{filter},"{first}"]"#), place);
        let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let answer = loop {
                match self.take(&sub).into_iter().next() {
                    Some(Reply::NegMsg { message, .. }) => break message,
                    Some(Reply::NegErr { reason, .. }) => {
                        assert_eq!(need, [reason.label()], "{place}");
                        return;
                    }
                    Some(other) => panic!("{place}: {other:?}"),
                    None => assert!(self.world.step(), "{place}: no answer"),
                }
            };
            let step = initiator.step(&answer).expect("the relay speaks the protocol");
            ours.extend(step.have);
            theirs.extend(step.need);
            let Some(message) = step.message else { break };
            let message = hex(&message);
            self.say(&format!(r#"["NEG-MSG","{sub}","{message}"]"#), place);
        }
        self.say(&format!(r#"["NEG-CLOSE","{sub}"]"#), place);
        let ids = |names: &[String]| -> BTreeSet<EventId> {
            names.iter().map(|name| self.event(name, place).view().id()).collect()
        };
        assert_eq!(theirs, ids(need), "{place}: needed");
        assert_eq!(ours, ids(extra), "{place}: extra");
    }

    fn names(&self, ids: &[EventId]) -> Vec<String> {
        let name = |id: &EventId| {
            let found = self.events.iter().find(|(_, event)| event.view().id() == *id);
            found.map_or_else(|| id.to_hex(), |(name, _)| name.clone())
        };
        ids.iter().map(name).collect()
    }
}
