//! What stored events cost to ask for: by kind, author and tag, by id, and far back in time.

use super::super::store::{self, Prepared};
use super::super::table::{Bound, Row};
use super::super::{Session, cpu};
use crate::measure::client::{Client, id_filter, req_frame};
use crate::measure::cpu::{Spent, monotonic_ns};
use crate::measure::events::Spec;
use crate::measure::relay::Relay;
use crate::measure::units::{Cost, SendLoop};
use crate::rng::Rng;
use anyhow::ensure;
use std::net::SocketAddr;

pub const KEYS: &[&str] = &["req-kind", "req-author", "req-tag", "req-id"];
pub const PAGE_KEYS: &[&str] = &["pagination"];

/// Stored events of the directories of this file.
const STORED_EVENTS: u64 = 1_000_000;
/// Values of the tag that is asked for: each has 10,000 events.
const TOPICS: u64 = 100;
/// Connections that ask at once, each waiting for its answer before it asks again.
const CONNECTIONS: usize = 8;
/// Slices of each question.
const SLICES: u64 = 4;
/// Sockets of the raw loop beside the questions by id.
const RAW_SOCKETS: usize = 1_000;
/// Rows of a page, and the page that is compared with the first.
const PAGE_ROWS: u64 = 500;
const FAR_PAGE: u64 = 1_000;

/// A fiftieth of that is enough to see that everything works.
fn stored_events(session: &Session) -> u64 {
    if session.options.is_quick { STORED_EVENTS / 50 } else { STORED_EVENTS }
}

/// What is asked next, made of random numbers.
type Question<'a> = dyn Fn(&mut Rng) -> String + Sync + 'a;

/// Questions and what they cost.
#[derive(Default)]
struct Asked {
    questions: u64,
    events: u64,
    spent: Spent,
    wall_ns: u64,
}

impl Asked {
    fn per_event_ns(&self) -> f64 {
        self.spent.total_ns() as f64 / self.events.max(1) as f64
    }

    fn per_question_ns(&self) -> f64 {
        self.spent.total_ns() as f64 / self.questions.max(1) as f64
    }

    fn rate(&self) -> f64 {
        self.questions as f64 * 1e9 / self.wall_ns.max(1) as f64
    }
}

/// Asks what `filter` makes of random numbers, on some connections at once, for a while.
fn ask(
    relay: &Relay,
    clients: &mut [Client],
    seed: u64,
    duration_ms: u64,
    filter: &Question<'_>,
    asked: &mut Asked,
) -> anyhow::Result<()> {
    let before = relay.threads()?;
    let began_ns = monotonic_ns();
    let end_ns = began_ns + duration_ms * 1_000_000;
    let counts: Vec<anyhow::Result<(u64, u64)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .zip(0..)
            .map(|(client, number)| {
                scope.spawn(move || -> anyhow::Result<(u64, u64)> {
                    let mut rng = Rng::new(seed ^ (number << 32));
                    let (mut questions, mut events) = (0, 0);
                    while monotonic_ns() < end_ns {
                        // The same subscription again: the relay replaces it, as clients do.
                        client.send(&req_frame("q", &filter(&mut rng)))?;
                        events += client.stored()?;
                        questions += 1;
                    }
                    Ok((questions, events))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("asking does not panic")).collect()
    });
    asked.wall_ns += monotonic_ns() - began_ns;
    asked.spent.add(&relay.threads()?.since(&before));
    for count in counts {
        let (questions, events) = count?;
        asked.questions += questions;
        asked.events += events;
    }
    Ok(())
}

fn connect(address: SocketAddr) -> anyhow::Result<Vec<Client>> {
    (0..CONNECTIONS).map(|_| Client::connect(address)).collect()
}

fn query_store(session: &Session) -> anyhow::Result<Prepared> {
    let spec = Spec { topics: TOPICS, per_second: 1, ..Spec::uniform(session.options.seed ^ 0x9) };
    let events = stored_events(session);
    store::prepare(session, "query", spec, events, cpu::cores() as u16)
}

pub fn measure(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let stored = query_store(session)?;
    stored.warm()?;
    let relay = session.launch(0).start(&stored.directory)?;
    let mut clients = connect(relay.address)?;
    let (first, last) = (stored.maker.created_at(0), stored.maker.created_at(stored.events - 1));
    // Anywhere in the newer nine tenths, so that a page is full and no two are the same.
    let until =
        move |rng: &mut Rng| rng.between(u64::from(first + (last - first) / 10), last.into());
    let maker = &stored.maker;
    let kind = |rng: &mut Rng| format!("{{\"kinds\":[1],\"until\":{},\"limit\":100}}", until(rng));
    let events = stored.events;
    let author = move |rng: &mut Rng| {
        let key = maker.author(rng.below(events)).pubkey();
        format!("{{\"authors\":[\"{}\"],\"until\":{last},\"limit\":100}}", key.to_hex())
    };
    let tag = |rng: &mut Rng| {
        let topic = maker.topic(rng.below(TOPICS));
        format!("{{\"#t\":[\"{topic}\"],\"until\":{},\"limit\":100}}", until(rng))
    };
    let mut rows = Vec::new();
    let filters: [(&'static str, &str, &Question<'_>); 3] = [
        ("req-kind", "REQ by kind, limit 100, per event", &kind),
        ("req-author", "REQ by author, limit 100, per event", &author),
        ("req-tag", "REQ by tag, limit 100, per event", &tag),
    ];
    for (key, path, filter) in filters {
        if !session.wants(&[key]) {
            continue;
        }
        session.say(path);
        let (mut v, mut asked) = (Cost::default(), Asked::default());
        let _profile = session.profile(key, &relay)?;
        for slice in 0..SLICES {
            session.v_slice(&mut v)?;
            ask(&relay, &mut clients, slice, session.ms(1_000), filter, &mut asked)?;
        }
        ensure!(
            asked.events > asked.questions,
            "questions by {key} find nothing: {} events",
            asked.events
        );
        let value = asked.per_event_ns() / v.each_ns();
        rows.push(Row::held(key, path, value, "V", Bound::AtMost(0.04)).made_of(format!(
            "{:.3} us of CPU per event, {:.1} events and {:.1} us per REQ, {:.0} REQ/s, V {:.2} us; us per \
             event by thread: {}",
            asked.per_event_ns() / 1_000.0,
            asked.events as f64 / asked.questions as f64,
            asked.per_question_ns() / 1_000.0,
            asked.rate(),
            v.each_ns() / 1_000.0,
            asked.spent.per_operation(asked.events),
        )));
    }
    if session.wants(&["req-id"]) {
        rows.push(by_id(session, &stored, &relay, &mut clients)?);
    }
    relay.end()?;
    Ok(rows)
}

fn by_id(
    session: &mut Session,
    stored: &Prepared,
    relay: &Relay,
    clients: &mut [Client],
) -> anyhow::Result<Row> {
    session.say("REQ by id");
    let step = (stored.events / 20_000).max(1);
    let ids = stored.maker.in_parallel(0..stored.events / step, |maker, index| {
        id_filter(&maker.event(index * step).view().id())
    });
    let mut answer = Vec::new();
    proto::message::write_event("q", &stored.maker.event(0).view(), &mut answer);
    let mut raw = SendLoop::new(RAW_SOCKETS)?;
    let filter = |rng: &mut Rng| rng.pick(&ids).clone();
    let (mut v, mut s, mut asked) = (Cost::default(), Cost::default(), Asked::default());
    let _profile = session.profile("req-id", relay)?;
    for slice in 0..SLICES {
        session.v_slice(&mut v)?;
        s.add(raw.slice(&raw_frame(&answer), 1, session.ms(600))?);
        ask(relay, clients, slice, session.ms(1_000), &filter, &mut asked)?;
    }
    ensure!(
        asked.events == asked.questions,
        "{} questions found {}",
        asked.questions,
        asked.events
    );
    let bound_us = (s.each_ns() + 0.15 * v.each_ns()) / 1_000.0;
    let value_us = asked.per_question_ns() / 1_000.0;
    Ok(Row::held("req-id", "REQ by id", value_us, "us", Bound::AtMost(bound_us)).made_of(format!(
        "1.0 S ({:.2} us) + 0.15 V ({:.2} us), {:.0} REQ/s; us by thread: {}",
        s.each_ns() / 1_000.0,
        0.15 * v.each_ns() / 1_000.0,
        asked.rate(),
        asked.spent.per_operation(asked.questions),
    )))
}

fn raw_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81, 126];
    frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Page 1,000 of one author's events of one kind against page 1.
pub fn measure_pages(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let spec = Spec { authors: 1, per_second: 1, ..Spec::uniform(session.options.seed ^ 0xdee9) };
    let events = stored_events(session);
    let stored = store::prepare(session, "deep", spec, events, cpu::cores() as u16)?;
    let relay = session.launch(0).start(&stored.directory)?;
    let mut clients = connect(relay.address)?;
    let author = stored.maker.author(0).pubkey().to_hex();
    let last = u64::from(stored.maker.created_at(events - 1));
    // In a hurry there are fewer events, and the page is the last but a few of them.
    let far = FAR_PAGE.min(events / PAGE_ROWS - 4);
    let page = |number: u64, rng: &mut Rng| {
        // A second has one event, so a page is so many seconds; a few rows aside, so that no two
        // questions are the same.
        let until = last - (number - 1) * PAGE_ROWS - rng.below(PAGE_ROWS);
        format!(
            "{{\"authors\":[\"{author}\"],\"kinds\":[1],\"until\":{until},\"limit\":{PAGE_ROWS}}}"
        )
    };
    session.say("pages far back in time");
    let profile = session.profile("pagination", &relay)?;
    let (mut near_cost, mut far_cost) = (Asked::default(), Asked::default());
    for slice in 0..SLICES {
        let near_page = |rng: &mut Rng| page(1, rng);
        ask(&relay, &mut clients, slice, session.ms(1_000), &near_page, &mut near_cost)?;
        let far_page = |rng: &mut Rng| page(far, rng);
        ask(&relay, &mut clients, slice, session.ms(1_000), &far_page, &mut far_cost)?;
    }
    drop(profile);
    relay.end()?;
    for asked in [&near_cost, &far_cost] {
        ensure!(asked.events == asked.questions * PAGE_ROWS, "a page was not full");
    }
    let value = far_cost.per_question_ns() / near_cost.per_question_ns();
    let path = format!("page {far} of {PAGE_ROWS} rows against page 1");
    Ok(vec![Row::held("pagination", &path, value, "x", Bound::AtMost(1.5)).made_of(format!(
        "{:.1} us against {:.1} us of CPU per page, {events} events of one author and kind",
        far_cost.per_question_ns() / 1_000.0,
        near_cost.per_question_ns() / 1_000.0,
    ))])
}
