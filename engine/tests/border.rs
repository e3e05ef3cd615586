//! The border between stored and live: what commits while a query is being answered arrives exactly
//! once, after EOSE, whatever the number of shards.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

mod common;

use bench::{Draft, Signer};
use common::client::{Client, id_of};
use common::{RelayOptions, Setup, now_s};
use proto::{Event, Reason};
use serde_json::json;
use std::collections::BTreeMap;

on_every_setup!(
    what_commits_during_a_query_arrives_exactly_once,
    what_does_not_fit_the_border_ends_the_subscription,
);

/// Stored beforehand: more than all buffers between the relay and a reader that does not read.
const STORED_EVENTS: u32 = 7_000;
const CONTENT_BYTES: usize = 3_000;
/// Committed between REQ and EOSE. The relay holds up to 1,024 per subscription.
const BORDER_EVENTS: u32 = 1_010;
/// Published after EOSE.
const LIVE_EVENTS: u32 = 200;

/// Notes by many authors, so that every shard has a part in the answer.
fn notes(from: u32, count: u32, content_bytes: usize) -> Vec<Event> {
    let at = now_s() - 10_000;
    (from..from + count)
        .map(|index| {
            let content = format!("{index} {}", "x".repeat(content_bytes));
            let draft = Draft::new(1, at + index % 5_000).content(&content);
            Signer::from_seed(u64::from(index) % 200).sign(&draft)
        })
        .collect()
}

/// A relay with the stored events, and a reader that has asked and read the first event only.
fn paused_reader(setup: Setup) -> (common::Relay, Client, Client, Vec<Event>, String) {
    let relay = RelayOptions::new(setup)
        .config("[limits]\nmax_limit = 100000\ndefault_limit = 100000\n")
        .start();
    let mut writer = relay.connect();
    let stored = notes(0, STORED_EVENTS, CONTENT_BYTES);
    writer.accept_all(&stored);
    let mut reader = Client::connect_narrow(relay.address);
    let sub = reader.open(&[json!({"kinds": [1]})]);
    let first = reader.recv();
    assert_eq!(first[0], "EVENT", "the query has begun");
    reader.put_back(first);
    (relay, writer, reader, stored, sub)
}

fn what_commits_during_a_query_arrives_exactly_once(setup: Setup) {
    let (relay, mut writer, mut reader, mut expected, sub) = paused_reader(setup);
    // Every OK below is received before the reader goes on, so before EOSE can have been sent.
    let border = notes(STORED_EVENTS, BORDER_EVENTS, 10);
    writer.accept_all(&border);
    let mut seen = BTreeMap::<String, u32>::new();
    let stored = reader.stored(&sub).unwrap();
    for id in stored.ids() {
        *seen.entry(id.to_owned()).or_default() += 1;
    }
    assert_eq!(stored.hint, ["finish"]);
    assert!(stored.events.len() >= STORED_EVENTS as usize);
    let live = notes(STORED_EVENTS + BORDER_EVENTS, LIVE_EVENTS, 10);
    relay.connect().accept_all(&live);
    expected.extend(border);
    expected.extend(live);
    while seen.values().sum::<u32>() < expected.len() as u32 {
        let event = reader.live(&sub);
        *seen.entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for event in &expected {
        assert_eq!(seen.get(&id_of(event)), Some(&1), "{event:?}");
    }
    assert_eq!(seen.len(), expected.len());
    assert!(reader.drain().is_empty(), "nothing comes twice");
}

fn what_does_not_fit_the_border_ends_the_subscription(setup: Setup) {
    let (_relay, mut writer, mut reader, _, sub) = paused_reader(setup);
    // More than the relay holds: it must say so, never deliver a part and be silent.
    writer.accept_all(&notes(STORED_EVENTS, 2_500, 10));
    match reader.stored(&sub) {
        Err(reason) => assert_eq!(reason, Reason::LiveOverflow.message()),
        Ok(stored) => panic!("EOSE after {} events", stored.events.len()),
    }
    // The connection goes on.
    assert_eq!(reader.query(&json!({"kinds": [1], "limit": 3})).events.len(), 3);
}
