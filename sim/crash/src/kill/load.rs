//! The load of one life of the relay: writers that send at a fixed rate whatever the answers, and a
//! subscriber that sees what becomes visible.

use super::book::{Book, Fate, Next};
use super::client::{Client, Read, event_value};
use anyhow::Context;
use proto::nip::nip09::{self, Target};
use proto::nip::nip62;
use proto::{EventId, EventRef};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Events of one writer that may wait for an answer.
const IN_FLIGHT_MAX: usize = 512;
/// A read waits no longer than this for an answer, so that sending goes on.
const READ_PAUSE: Duration = Duration::from_micros(500);

/// Unix seconds.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the load and the loop around it tell each other.
#[derive(Debug, Default)]
pub struct Signals {
    /// Writers send nothing new any more.
    pub is_quiet: AtomicBool,
    /// Writers that wait for no answer any more, since it became quiet.
    pub settled: AtomicUsize,
    /// Events that the subscriber has seen.
    pub seen: AtomicUsize,
}

/// Events of one writer that wait for an answer, each with what the answer has to be, if that is known.
/// One that was sent twice waits twice: answers to the same id come in the order in which it was sent.
///
/// Answers to different ids need not: the relay decides an event that it has to look up after a later one
/// that it need not. So a deletion, or a request to vanish, that was sent while an event waited may be
/// what that event meets.
#[derive(Debug, Default)]
struct InFlight {
    waiting: BTreeMap<EventId, VecDeque<Option<bool>>>,
    count: usize,
}

impl InFlight {
    fn enter(&mut self, event: &EventRef<'_>, expected: Option<bool>) {
        match event.kind() {
            nip62::KIND => self.waiting.values_mut().flatten().for_each(|answer| *answer = None),
            nip09::KIND => {
                for target in nip09::targets(event).unwrap_or_default() {
                    // Only notes and reactions are sent again, and those are named by their ids.
                    let Target::Id(id) = target else { continue };
                    self.waiting
                        .get_mut(&id)
                        .into_iter()
                        .flatten()
                        .for_each(|answer| *answer = None);
                }
            }
            _ => {}
        }
        self.waiting.entry(event.id()).or_default().push_back(expected);
        self.count += 1;
    }

    /// Takes out what has been answered; `None` when nobody waits for it.
    fn leave(&mut self, id: &EventId) -> Option<Option<bool>> {
        let answers = self.waiting.get_mut(id)?;
        let expected = answers.pop_front();
        if answers.is_empty() {
            self.waiting.remove(id);
        }
        self.count -= 1;
        expected
    }
}

/// One writer's life. Returns what went wrong.
///
/// # Errors
/// When the log of the book cannot be written, or the relay sends nonsense.
pub fn write(
    book: &mut Book,
    address: SocketAddr,
    per_second: u64,
    signals: &Signals,
) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut log = book.open_log()?;
    // The relay may be killed before anybody is connected.
    let Ok(mut client) = Client::connect(address) else { return Ok(wrong) };
    client.set_patience(READ_PAUSE)?;
    let mut in_flight = InFlight::default();
    let (began, mut sent, mut is_settled) = (Instant::now(), 0, false);
    loop {
        let due = began.elapsed().as_micros() as u64 * per_second / 1_000_000;
        let is_quiet = signals.is_quiet.load(Ordering::Relaxed) || book.is_closed;
        if sent < due && in_flight.count < IN_FLIGHT_MAX && !is_quiet {
            sent += 1;
            let (event, expected) = match book.next(now_s()) {
                Next::New(event) => (event, None),
                Next::Again(event, expected) => (event, Some(expected)),
            };
            in_flight.enter(&event.view(), expected);
            if !client.send(&json!(["EVENT", event_value(&event)])) {
                return Ok(wrong);
            }
            continue;
        }
        if is_quiet && in_flight.count == 0 && !is_settled {
            is_settled = true;
            signals.settled.fetch_add(1, Ordering::Relaxed);
        }
        let message = match client.read()? {
            Read::Message(message) => message,
            Read::Nothing => continue,
            Read::Broken => return Ok(wrong),
        };
        let id = message[1].as_str().and_then(|id| EventId::from_hex(id.as_bytes()));
        let (Some(id), "OK") = (id, message[0].as_str().unwrap_or_default()) else {
            wrong.push(format!("a writer was told {message}"));
            continue;
        };
        let Some(expected) = in_flight.leave(&id) else {
            wrong.push(format!("an answer that nobody waits for: {message}"));
            continue;
        };
        let accepted = message[2] == true;
        let reason = message[3].as_str().unwrap_or_default();
        // First the log: only then may anything be sent that depends on it.
        log.write_all(format!("{id} {accepted} {reason}\n").as_bytes())?;
        match expected {
            None if accepted && !reason.contains("newer version") => book.learn(&id, Fate::Stored),
            Some(expected) if expected != accepted && !reason.starts_with("rate-limited:") => {
                wrong.push(format!("{id} was sent again, and the answer is {message}"));
            }
            _ => {}
        }
    }
}

/// What a subscriber saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Events that came live, in order.
    pub events: Vec<Value>,
    /// What is wrong with how they came.
    pub wrong: Vec<String>,
}

/// A subscriber's life: everything by some authors, from the moment of its EOSE.
///
/// # Errors
/// When the relay sends nonsense.
pub fn subscribe(mut client: Client, name: &str, signals: &Signals) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut ids = BTreeSet::new();
    loop {
        let mut message = match client.read()? {
            Read::Message(message) => message,
            Read::Nothing => continue,
            Read::Broken => return Ok(seen),
        };
        if message[1] != name {
            continue;
        }
        match message[0].as_str() {
            Some("EVENT") => {
                let event = message[2].take();
                let id = event["id"].as_str().context("an event has an id")?.to_owned();
                if !ids.insert(id.clone()) {
                    seen.wrong.push(format!("{id} came live twice"));
                }
                seen.events.push(event);
                signals.seen.fetch_add(1, Ordering::Relaxed);
            }
            Some("CLOSED") => {
                // It was told, which is the promise.
                return Ok(seen);
            }
            _ => {}
        }
    }
}

/// Connects a subscriber and waits until it hears what is new.
///
/// # Errors
/// When the relay does not answer.
pub fn listen(address: SocketAddr, authors: &[String]) -> anyhow::Result<(Client, String)> {
    let mut client = Client::connect(address)?;
    let name = client.subscribe(&json!({"authors": authors, "limit": 1}))?;
    loop {
        match client.read()? {
            Read::Message(message) if message[0] == "EOSE" && message[1] == name.as_str() => {
                client.set_patience(Duration::from_millis(20))?;
                return Ok((client, name));
            }
            Read::Message(message) if message[0] == "EVENT" => {}
            other => anyhow::bail!("a subscription was answered with {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench::{Draft, Signer};

    #[test]
    fn an_event_that_was_sent_twice_waits_twice() {
        let event = Signer::from_seed(1).sign(&Draft::new(1, 1));
        let mut in_flight = InFlight::default();
        in_flight.enter(&event.view(), Some(true));
        in_flight.enter(&event.view(), Some(true));
        let id = event.view().id();
        assert_eq!(in_flight.leave(&id), Some(Some(true)));
        assert_eq!(in_flight.leave(&id), Some(Some(true)));
        assert_eq!(in_flight.leave(&id), None, "a third answer is one too many");
        assert_eq!(in_flight.count, 0);
    }

    #[test]
    fn what_was_sent_while_an_event_waited_may_be_what_it_meets() {
        let signer = Signer::from_seed(1);
        let [named, other] = [1, 2].map(|second| signer.sign(&Draft::new(1, second)));
        let mut in_flight = InFlight::default();
        for event in [&named, &other] {
            in_flight.enter(&event.view(), Some(true));
            in_flight.enter(&event.view(), Some(true));
        }
        let deletion = Draft::new(5, 3).tag(&["e", &named.view().id().to_hex()]);
        in_flight.enter(&signer.sign(&deletion).view(), None);
        assert_eq!(in_flight.leave(&named.view().id()), Some(None));
        assert_eq!(in_flight.leave(&other.view().id()), Some(Some(true)));
        let vanish = Draft::new(62, 4).tag(&["relay", "ALL_RELAYS"]);
        in_flight.enter(&signer.sign(&vanish).view(), None);
        assert_eq!(in_flight.leave(&other.view().id()), Some(None));
        // What is sent later knows of it.
        in_flight.enter(&other.view(), Some(false));
        assert_eq!(in_flight.leave(&other.view().id()), Some(Some(false)));
    }
}
