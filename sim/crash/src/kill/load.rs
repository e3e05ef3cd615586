//! The load of one life of the relay: writers that send at a fixed rate whatever the answers, and a
//! subscriber that sees what becomes visible.

use super::book::{Book, Fate, Next};
use super::client::{Client, Read, event_value};
use anyhow::Context;
use proto::EventId;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
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
    let mut in_flight: BTreeMap<EventId, Option<bool>> = BTreeMap::new();
    let (began, mut sent, mut is_settled) = (Instant::now(), 0, false);
    loop {
        let due = began.elapsed().as_micros() as u64 * per_second / 1_000_000;
        let is_quiet = signals.is_quiet.load(Ordering::Relaxed) || book.is_closed;
        if sent < due && in_flight.len() < IN_FLIGHT_MAX && !is_quiet {
            sent += 1;
            let (event, expected) = match book.next(now_s()) {
                Next::New(event) => (event, None),
                Next::Again(event, expected) => (event, Some(expected)),
            };
            in_flight.insert(event.view().id(), expected);
            if !client.send(&json!(["EVENT", event_value(&event)])) {
                return Ok(wrong);
            }
            continue;
        }
        if is_quiet && in_flight.is_empty() && !is_settled {
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
        let Some(expected) = in_flight.remove(&id) else {
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
