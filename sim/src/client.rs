//! Clients: honest ones that publish and read, slow ones, and ones that mean harm. Each checks what
//! it is told against what it knows, at once where that takes constant time.

use crate::fact::Wish;
use crate::hear::Hearing;
use crate::history::{History, Micros, Violation};
use crate::network::LinkId;
use crate::pool::{EventIndex, Pool};
use crate::wire::{self, Reader, Received};
use crate::world::Dice;
use bench::rng::Rng;
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
    /// The event.
    pub event: EventIndex,
    /// When it left.
    pub sent_us: Micros,
    /// A forged twin or a spoilt copy is under way as well, so nobody can tell whose answer is whose.
    pub is_ambiguous: bool,
}

/// A connection as its client sees it.
#[derive(Debug)]
pub struct Session {
    /// The link.
    pub link: LinkId,
    reader: Reader,
    /// The last AUTH challenge.
    pub challenge: Option<String>,
    /// Keys whose AUTH was answered with OK.
    pub keys: Vec<String>,
    /// Keys whose AUTH was sent.
    pub asked_keys: Vec<String>,
    /// EVENT messages without an answer, by id, oldest first.
    pub waiting: BTreeMap<String, Vec<Waiting>>,
    /// Ids of events of which a spoilt copy was sent.
    near_misses: BTreeSet<String>,
    /// Open subscriptions.
    pub subscriptions: BTreeMap<String, Subscription>,
    /// COUNT queries without an answer: the filters, when they left, the keys by then.
    pub counts: BTreeMap<String, (Vec<Wish>, Micros, Vec<String>)>,
    /// AUTH messages that were sent, by id, each with its key.
    pub auths: BTreeMap<String, String>,
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
            near_misses: BTreeSet::new(),
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

    /// Something that has the id of an event goes out, and is answered like the event itself, or not
    /// at all: from now on nobody can tell whose answer is whose.
    pub fn expect_near_miss(&mut self, id: &str) {
        let Some(session) = &mut self.session else { return };
        session.near_misses.insert(id.to_owned());
        let waiting = session.waiting.get_mut(id).into_iter().flatten();
        waiting.for_each(|other| other.is_ambiguous = true);
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
            let is_ambiguous = session.near_misses.contains(&pooled.fact.id)
                || waiting.iter().any(|other| other.is_ambiguous || other.event != event);
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
                    let nature = self.nature;
                    Hearing { session, pool, history, now_us, dice, nature }.message(&text)?;
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

/// Names of all open subscriptions that were answered, for the checks at a quiet moment.
pub fn settled_subscriptions(client: &Client) -> BTreeSet<&str> {
    let session = client.session.iter();
    let open = session.flat_map(|session| &session.subscriptions);
    let open = open.filter(|(_, sub)| !sub.is_closed && sub.eose.is_some() && !sub.is_heir);
    open.map(|(name, _)| name.as_str()).collect()
}
