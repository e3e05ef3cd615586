//! Clients: honest ones that publish and read, slow ones, and ones that mean harm. Each checks what
//! it is told against what it knows, at once where that takes constant time.

use crate::check;
use crate::fact::{Class, Wish};
use crate::history::{Answer, History, Micros, Violation};
use crate::network::LinkId;
use crate::pool::{EventIndex, Pool};
use crate::wire::{self, Reader, Received};
use crate::world::Dice;
use bench::rng::Rng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a client is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Reads at once.
    Honest,
    /// Reads little and late.
    Slow,
    /// Sends what it should not.
    Malicious,
}

/// What a client does next.
#[derive(Debug)]
pub enum Deed {
    /// Opens a connection.
    Connect,
    /// Sends bytes.
    Send(Vec<u8>),
    /// Closes its half.
    Close,
}

/// One subscription of a client.
#[derive(Debug)]
pub struct Subscription {
    /// The REQ's filters.
    pub wishes: Vec<Wish>,
    /// When the REQ left.
    pub sent_us: Micros,
    /// Rows per filter that the relay gave by then.
    pub max_limit: u64,
    /// Keys that the client had authenticated by then.
    pub keys: Vec<String>,
    /// Stored rows, in the order in which they came.
    pub rows: Vec<EventIndex>,
    /// Live events.
    pub live: Vec<EventIndex>,
    /// When EOSE came, and whether it said that nothing is left.
    pub eose: Option<(Micros, bool)>,
    /// An earlier subscription of this name was open: what comes may be meant for that one.
    pub is_heir: bool,
    /// The wishes of the one before.
    pub inherited: Vec<Wish>,
    /// The relay has ended it.
    pub is_closed: bool,
}

/// An EVENT message without an answer.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    event: EventIndex,
    sent_us: Micros,
    /// A forged twin is under way as well, so nobody can tell whose answer is whose.
    is_ambiguous: bool,
}

/// A connection as its client sees it.
#[derive(Debug)]
pub struct Session {
    /// The link.
    pub link: LinkId,
    reader: Reader,
    challenge: Option<String>,
    /// Keys whose AUTH was answered with OK.
    keys: Vec<String>,
    /// Keys whose AUTH was sent.
    asked_keys: Vec<String>,
    /// EVENT messages without an answer, by id, oldest first.
    pub waiting: BTreeMap<String, Vec<Waiting>>,
    /// Open subscriptions.
    pub subscriptions: BTreeMap<String, Subscription>,
    /// COUNT queries without an answer: the filters, when they left, the keys by then.
    pub counts: BTreeMap<String, (Vec<Wish>, Micros, Vec<String>)>,
    auths: BTreeMap<String, String>,
    is_closing: bool,
}

impl Session {
    /// Whether the WebSocket is open.
    pub fn is_open(&self) -> bool {
        self.reader.is_open() && !self.is_closing
    }
}

/// One client. Owned by the world.
#[derive(Debug)]
pub struct Client {
    /// Its place.
    pub index: usize,
    /// What it is like.
    pub nature: Nature,
    /// Its connection.
    pub session: Option<Session>,
    /// What it draws from.
    pub rng: Rng,
    /// Events that it may publish.
    events: Vec<EventIndex>,
    /// Families whose keys it holds.
    families: Vec<usize>,
    /// Operations that are left.
    pub ops: u32,
    next_name: u32,
}

impl Client {
    /// A client that publishes events of `families`.
    pub fn new(index: usize, nature: Nature, pool: &Pool, families: &[usize], rng: Rng) -> Self {
        let events = families.iter().flat_map(|family| pool.families[*family].clone()).collect();
        Self {
            index,
            nature,
            session: None,
            rng,
            events,
            families: families.to_vec(),
            ops: 0,
            next_name: 0,
        }
    }

    /// Whether anything that it has asked for is still to come.
    pub fn is_waiting(&self) -> Option<String> {
        let session = self.session.as_ref()?;
        if let Some((id, _)) = session.waiting.iter().find(|(_, list)| !list.is_empty()) {
            return Some(format!("an OK for {id}"));
        }
        let open =
            session.subscriptions.iter().find(|(_, sub)| sub.eose.is_none() && !sub.is_closed);
        if let Some((name, _)) = open {
            return Some(format!("an EOSE for {name}"));
        }
        session.counts.keys().next().map(|name| format!("a COUNT for {name}"))
    }

    /// The connection is gone. What was not answered stays unknown.
    pub fn lost(&mut self) {
        self.session = None;
    }

    /// A connection is there.
    pub fn connected(&mut self, link: LinkId) -> Vec<u8> {
        self.session = Some(Session {
            link,
            reader: Reader::default(),
            challenge: None,
            keys: Vec::new(),
            asked_keys: Vec::new(),
            waiting: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            counts: BTreeMap::new(),
            auths: BTreeMap::new(),
            is_closing: false,
        });
        wire::UPGRADE.to_vec()
    }

    fn frame(&mut self, text: &str) -> Deed {
        let salt = self.rng.next_u64() as u32;
        Deed::Send(wire::text_frame(text.as_bytes(), salt))
    }

    /// The next operation.
    pub fn act(
        &mut self,
        pool: &Pool,
        history: &mut History,
        now_us: Micros,
        dice: &mut Dice,
    ) -> Deed {
        let Some(session) = &mut self.session else { return Deed::Connect };
        if !session.reader.is_open() {
            // Nothing may be sent before the answer, except by those who do not care.
            return Deed::Send(Vec::new());
        }
        if self.nature == Nature::Malicious && self.rng.chance(1, 2) {
            return crate::malice::misbehave(self, pool, history, now_us, dice);
        }
        match self.rng.below(100) {
            0..=49 => self.publish(pool, history, now_us),
            50..=77 => self.subscribe(pool, now_us, history.max_limit),
            78..=83 => self.count(pool, now_us),
            84..=89 => self.unsubscribe(),
            90..=97 => self.authenticate(pool),
            98 => {
                session.is_closing = true;
                let mut bytes = wire::frame(0x88, &1000_u16.to_be_bytes(), 5);
                if self.rng.chance(1, 2) {
                    bytes.clear();
                }
                match bytes.is_empty() {
                    true => Deed::Close,
                    false => Deed::Send(bytes),
                }
            }
            _ => {
                let frame = wire::frame(0x89, b"are you there", 9);
                Deed::Send(frame)
            }
        }
    }

    /// Publishes one of the client's events, new or not.
    pub fn publish(&mut self, pool: &Pool, history: &mut History, now_us: Micros) -> Deed {
        let event = *self.rng.pick(&self.events);
        self.publish_this(pool, history, now_us, event)
    }

    /// Publishes this event.
    pub fn publish_this(
        &mut self,
        pool: &Pool,
        history: &mut History,
        now_us: Micros,
        event: EventIndex,
    ) -> Deed {
        let pooled = &pool.events[event];
        history.sent(event, now_us);
        if let Some(session) = &mut self.session {
            let waiting = session.waiting.entry(pooled.fact.id.clone()).or_default();
            let is_ambiguous =
                waiting.iter().any(|other| other.is_ambiguous || other.event != event);
            waiting.push(Waiting { event, sent_us: now_us, is_ambiguous });
            if is_ambiguous {
                waiting.iter_mut().for_each(|other| other.is_ambiguous = true);
            }
        }
        let text = format!("[\"EVENT\",{}]", pooled.json);
        self.frame(&text)
    }

    fn name(&mut self) -> String {
        // Names are used again, so that subscriptions replace each other.
        if self.rng.chance(1, 6) {
            let names = self.session.as_ref().map(|session| &session.subscriptions);
            if let Some(name) = names.and_then(|names| names.keys().next()) {
                return name.clone();
            }
        }
        self.next_name += 1;
        format!("s{}", self.next_name)
    }

    fn subscribe(&mut self, pool: &Pool, now_us: Micros, max_limit: u64) -> Deed {
        let count = 1 + self.rng.below(3) as usize;
        let wishes: Vec<Wish> = (0..count).map(|_| self.wish(pool)).collect();
        let name = self.name();
        self.subscribe_to(&name, wishes, now_us, max_limit)
    }

    /// Sends a REQ.
    pub fn subscribe_to(
        &mut self,
        name: &str,
        wishes: Vec<Wish>,
        now_us: Micros,
        max_limit: u64,
    ) -> Deed {
        let filters: Vec<String> = wishes.iter().map(Wish::json).collect();
        let text = format!("[\"REQ\",\"{name}\",{}]", filters.join(","));
        if let Some(session) = &mut self.session {
            let before = session.subscriptions.remove(name);
            let mut inherited = Vec::new();
            if let Some(before) = &before {
                inherited.extend(before.wishes.iter().cloned());
                inherited.extend(before.inherited.iter().cloned());
            }
            let subscription = Subscription {
                wishes,
                sent_us: now_us,
                max_limit,
                keys: session.keys.clone(),
                rows: Vec::new(),
                live: Vec::new(),
                eose: None,
                is_heir: before.is_some(),
                inherited,
                is_closed: false,
            };
            session.subscriptions.insert(name.to_owned(), subscription);
        }
        self.frame(&text)
    }

    fn count(&mut self, pool: &Pool, now_us: Micros) -> Deed {
        let wishes = vec![self.wish(pool)];
        self.next_name += 1;
        let name = format!("c{}", self.next_name);
        let text = format!("[\"COUNT\",\"{name}\",{}]", wishes[0].json());
        if let Some(session) = &mut self.session {
            let keys = session.keys.clone();
            session.counts.insert(name, (wishes, now_us, keys));
        }
        self.frame(&text)
    }

    fn unsubscribe(&mut self) -> Deed {
        let Some(session) = &mut self.session else { return Deed::Connect };
        let names: Vec<String> = session.subscriptions.keys().cloned().collect();
        if names.is_empty() {
            return Deed::Send(Vec::new());
        }
        let name = names[self.rng.index(names.len())].clone();
        session.subscriptions.remove(&name);
        self.frame(&format!("[\"CLOSE\",\"{name}\"]"))
    }

    fn authenticate(&mut self, pool: &Pool) -> Deed {
        let family = *self.rng.pick(&self.families);
        let Some(session) = &mut self.session else { return Deed::Connect };
        let challenge = session.challenge.clone().unwrap_or_default();
        let Some(auth) = pool.auth(family, &challenge) else { return Deed::Send(Vec::new()) };
        let key = pool.authors[family].clone();
        session.asked_keys.push(key.clone());
        let id = auth.split('"').nth(3).unwrap_or_default().to_owned();
        session.auths.insert(id, key);
        let text = format!("[\"AUTH\",{auth}]");
        self.frame(&text)
    }

    /// A filter over the run's events.
    pub fn wish(&mut self, pool: &Pool) -> Wish {
        let mut wish = Wish::default();
        let rng = &mut self.rng;
        let event = &pool.events[*rng.pick(&self.events)].fact;
        let another = &pool.events[*rng.pick(&self.events)].fact;
        match rng.below(10) {
            0 => wish.ids = Some(vec![event.id.clone(), another.id.clone()]),
            1 | 2 => wish.authors = Some(vec![event.pubkey.clone()]),
            3 => wish.kinds = Some(vec![*rng.pick(&[0, 1, 4, 5, 7, 1059, 10_002, 30_023, 20_001])]),
            4 => {
                wish.authors = Some(vec![event.pubkey.clone(), another.pubkey.clone()]);
                wish.kinds = Some(vec![event.kind, 1]);
            }
            5 | 6 => {
                let letters: Vec<(char, String)> = event
                    .tags
                    .iter()
                    .filter(|tag| matches!(&*tag[0], "e" | "p" | "t" | "d" | "a") && tag.len() > 1)
                    .map(|tag| (tag[0].chars().next().unwrap_or('t'), tag[1].clone()))
                    .collect();
                match letters.is_empty() {
                    true => wish.kinds = Some(vec![event.kind]),
                    false => {
                        let (letter, value) = rng.pick(&letters).clone();
                        wish.tags.insert(letter, vec![value]);
                    }
                }
            }
            7 => {
                wish.since = Some(event.created_at.min(another.created_at));
                wish.until = Some(event.created_at.max(another.created_at));
            }
            _ => {}
        }
        if rng.chance(1, 3) {
            wish.limit = Some(*rng.pick(&[0, 1, 3, 10, 1_000]));
        }
        wish
    }

    /// Bytes have come. Returns what is to be sent in answer.
    ///
    /// # Errors
    /// The promise that they break.
    pub fn received(
        &mut self,
        bytes: &[u8],
        pool: &Pool,
        history: &mut History,
        now_us: Micros,
        dice: &mut Dice,
    ) -> Result<Vec<u8>, Violation> {
        let mut answers = Vec::new();
        let Some(session) = &mut self.session else { return Ok(answers) };
        session.reader.feed(bytes);
        loop {
            let received =
                session.reader.take().map_err(|error| Violation::new("the wire: frames", error))?;
            match received {
                None => return Ok(answers),
                Some(Received::Ping(payload)) => {
                    dice.marks.hit("ping answered");
                    answers.extend(wire::frame(0x8a, &payload, 3));
                }
                Some(Received::Text(text)) => {
                    let index = self.index;
                    dice.tell(now_us, || {
                        format!("client {index} hears {}", String::from_utf8_lossy(&text))
                    });
                    message(session, &text, pool, history, now_us, dice, self.nature)?;
                }
                Some(Received::Close(code)) => {
                    if !session.is_closing && self.nature != Nature::Malicious {
                        dice.marks.hit(if code == 1001 {
                            "told that the relay ends"
                        } else {
                            "closed by the relay"
                        });
                    }
                    if !session.is_closing {
                        session.is_closing = true;
                        answers.extend(wire::frame(0x88, &code.to_be_bytes(), 3));
                    }
                }
                Some(Received::Response(status)) if status != 101 => {
                    dice.marks.hit("upgrade refused");
                }
                Some(Received::Response(_)) => {}
            }
        }
    }
}

fn message(
    session: &mut Session,
    text: &[u8],
    pool: &Pool,
    history: &mut History,
    now_us: Micros,
    dice: &mut Dice,
    nature: Nature,
) -> Result<(), Violation> {
    let text = std::str::from_utf8(text)
        .map_err(|_| Violation::new("the wire: UTF-8", "a text message is not UTF-8"))?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Violation::new("the wire: JSON", format!("{error}: {text}")))?;
    let string = |at: usize| value[at].as_str().unwrap_or_default();
    match string(0) {
        "EVENT" => event(session, &value, pool, history, now_us, dice),
        "OK" => ok(session, &value, pool, history, now_us, dice, nature),
        "EOSE" => {
            let is_finished = value[2][0].as_str() == Some("finish");
            let Some(sub) = session.subscriptions.get_mut(string(1)) else { return Ok(()) };
            if sub.is_heir && sub.eose.is_none() && !sub.is_closed {
                // It may be the answer to the one before; the check needs certainty.
                dice.marks.hit("a subscription was replaced");
            }
            sub.eose = Some((now_us, is_finished));
            if !sub.is_heir {
                check::answer(sub, pool, history, now_us, dice)?;
            }
            Ok(())
        }
        "CLOSED" => {
            let reason = string(2).to_owned();
            session.counts.remove(string(1));
            if let Some(sub) = session.subscriptions.get_mut(string(1)) {
                // One that is replaced is closed silently, so this is about the one that is open.
                sub.is_closed = true;
            }
            mark_closed(&reason, dice);
            check::closed(&reason, nature)
        }
        "COUNT" => {
            let count = value[2]["count"].as_u64().unwrap_or(0);
            let is_approximate = value[2]["approximate"].as_bool().unwrap_or(false);
            if let Some((wishes, sent_us, keys)) = session.counts.remove(string(1))
                && !is_approximate
            {
                let keys = (&keys[..], &session.asked_keys[..]);
                check::count(count, &wishes, keys, sent_us, pool, history)?;
            }
            Ok(())
        }
        "AUTH" => {
            session.challenge = Some(string(1).to_owned());
            Ok(())
        }
        "NEG-ERR" | "NEG-MSG" if nature == Nature::Malicious => Ok(()),
        "NOTICE" if nature == Nature::Malicious || string(1).starts_with("rate-limited") => Ok(()),
        _ => Err(Violation::new("the wire: messages", format!("unexpected {text}"))),
    }
}

fn mark_closed(reason: &str, dice: &mut Dice) {
    for (part, mark) in [
        ("reads too slowly", "subscription of a slow reader closed"),
        ("fell behind", "a core fell off the ring"),
        ("before the stored ones", "too many held live events"),
        ("could not read", "query failed by a read error"),
        ("auth-required", "query refused for want of AUTH"),
        ("too many open", "too many subscriptions"),
        ("filter values", "filter budget used up"),
        ("too many queries", "queries over their rate"),
        ("shutting down", "query refused while shutting down"),
    ] {
        if reason.contains(part) {
            dice.marks.hit(mark);
        }
    }
}

/// The pool's event that a served one is, compared field by field.
fn identify(served: &Value, pool: &Pool) -> Result<EventIndex, Violation> {
    let id = served["id"].as_str().unwrap_or_default();
    let known = pool.genuine(id);
    let index = known.ok_or_else(|| {
        Violation::new("E3: only genuine events are served", format!("served {served}"))
    })?;
    let expected: Value = serde_json::from_str(&pool.events[index].json).unwrap_or_default();
    if expected != *served {
        let detail = format!("served {served} for {expected}");
        return Err(Violation::new("E3: only genuine events are served", detail));
    }
    Ok(index)
}

fn event(
    session: &mut Session,
    value: &Value,
    pool: &Pool,
    history: &mut History,
    now_us: Micros,
    dice: &mut Dice,
) -> Result<(), Violation> {
    let index = identify(&value[2], pool)?;
    let fact = &pool.events[index].fact;
    if history.first_sent(index).is_none() {
        let detail = format!("{} was never sent", fact.id);
        return Err(Violation::new("E2: nothing is served that nobody sent", detail));
    }
    if !fact.is_readable_by(&session.asked_keys) {
        let detail = format!("{} of kind {} reached a stranger", fact.id, fact.kind);
        return Err(Violation::new("private events go to their readers only", detail));
    }
    let name = value[1].as_str().unwrap_or_default();
    let is_ephemeral = fact.class == Class::Ephemeral || fact.kind == 21_059;
    if !is_ephemeral {
        history.served(index, now_us);
    }
    // A message that was under way when the client closed the subscription.
    let Some(sub) = session.subscriptions.get_mut(name) else { return Ok(()) };
    let mut wishes = sub.wishes.iter().chain(&sub.inherited);
    if !wishes.any(|wish| wish.wants(fact)) {
        let detail = format!("{} matches no filter of {name}", fact.id);
        return Err(Violation::new("E7: what is served was asked for", detail));
    }
    let is_stored = sub.eose.is_none();
    if sub.is_heir {
        let list = if is_stored { &mut sub.rows } else { &mut sub.live };
        list.push(index);
        return Ok(());
    }
    if sub.is_closed {
        let detail = format!("{} came after CLOSED of {name}", fact.id);
        return Err(Violation::new("nothing follows CLOSED", detail));
    }
    // What was removed and published again is another event to whoever listens.
    let may_come_back =
        history.removed_us.contains_key(&index) || history.excuse(pool, index, now_us).is_some();
    let is_again = sub.rows.contains(&index) || sub.live.contains(&index);
    if !is_ephemeral && is_again && !may_come_back {
        let detail = format!("{} came twice for {name}", fact.id);
        return Err(Violation::new("E4: every event comes once", detail));
    }
    if is_stored {
        if is_ephemeral {
            let detail = format!("{} came as a stored event", fact.id);
            return Err(Violation::new("ephemeral events are not stored", detail));
        }
        check::row(sub, index, pool, history)?;
        sub.rows.push(index);
    } else {
        dice.marks.hit("live event");
        sub.live.push(index);
    }
    Ok(())
}

fn ok(
    session: &mut Session,
    value: &Value,
    pool: &Pool,
    history: &mut History,
    now_us: Micros,
    dice: &mut Dice,
    nature: Nature,
) -> Result<(), Violation> {
    let id = value[1].as_str().unwrap_or_default();
    let is_true = value[2].as_bool().unwrap_or_default();
    let text = value[3].as_str().unwrap_or_default();
    if let Some(key) = session.auths.get(id) {
        if is_true {
            dice.marks.hit("authenticated");
            session.keys.push(key.clone());
        }
        return Ok(());
    }
    let waiting = session.waiting.get_mut(id).filter(|list| !list.is_empty());
    let Some(list) = waiting else {
        if nature == Nature::Malicious {
            return Ok(());
        }
        let detail = format!("OK for {id}, which waits for none");
        return Err(Violation::new("the wire: one OK per EVENT", detail));
    };
    let Waiting { event, sent_us, is_ambiguous } = list.remove(0);
    let answer = match (is_true, text.contains("newer version")) {
        (true, true) => Answer::Superseded,
        (true, false) => Answer::Stored,
        (false, _) => Answer::Refused,
    };
    mark_ok(is_true, text, dice);
    if is_ambiguous {
        dice.marks.hit("twins under way together");
        return Ok(());
    }
    // Of a forged twin the relay may say that it has the event of this id.
    let genuine = pool.genuine(id).filter(|genuine| *genuine != event);
    if let Some(genuine) = genuine.filter(|_| is_true && text.starts_with("duplicate: already")) {
        history.served(genuine, now_us);
    }
    history.answered(event, sent_us, now_us, answer);
    check::ok(event, is_true, text, pool, history)
}

fn mark_ok(is_true: bool, text: &str, dice: &mut Dice) {
    let mark = match (is_true, text) {
        (true, "") => "event accepted",
        (true, text) if text.contains("newer version") => "event older than the stored one",
        (true, _) => "duplicate event",
        (false, text) => match text.split(':').next().unwrap_or_default() {
            "blocked" if text.contains("vanish") => "event of a vanished key refused",
            "blocked" if text.contains("banned") => "banned event refused",
            "blocked" => "deleted event refused",
            "rate-limited" if text.contains("behind") => "store behind",
            "rate-limited" => "event over its rate",
            "error" if text.contains("storage full") => "storage full",
            "error" if text.contains("shutting down") => "event refused while shutting down",
            "error" => "event refused by a read error",
            "invalid" if text.contains("expired") => "expired event refused",
            "invalid" if text.contains("signature") => "bad signature refused",
            "invalid" if text.contains("hash") => "wrong id refused",
            "invalid" => "event out of its time refused",
            _ => "event refused otherwise",
        },
    };
    dice.marks.hit(mark);
}

/// Names of all open subscriptions that were answered, for the checks at a quiet moment.
pub fn settled_subscriptions(client: &Client) -> BTreeSet<&str> {
    let session = client.session.iter();
    let open = session.flat_map(|session| &session.subscriptions);
    let open = open.filter(|(_, sub)| !sub.is_closed && sub.eose.is_some() && !sub.is_heir);
    open.map(|(name, _)| name.as_str()).collect()
}
