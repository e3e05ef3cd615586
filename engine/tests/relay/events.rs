//! EVENT: publish, duplicates, replacement, ephemeral events, live delivery.

use crate::common::client::{event_value, id_of};
use crate::common::{Setup, draft, now_s};
use crate::on_every_setup;
use bench::{Draft, Signer};
use proto::Reason;
use serde_json::json;

on_every_setup!(
    an_event_is_stored_and_served_as_it_was_sent,
    a_repeated_event_is_a_duplicate,
    the_newest_version_of_a_replaceable_stays,
    equal_times_keep_the_lowest_id,
    addressable_slots_are_kept_apart_by_d,
    live_events_reach_every_matching_subscription_once,
    ephemeral_events_are_delivered_and_not_stored,
    a_replaced_subscription_gets_only_its_new_filter,
    a_closed_subscription_is_silent,
    wrong_ids_and_signatures_are_refused,
);

/// Authors enough to have one on every shard, but for odds of about one in a thousand.
fn authors() -> Vec<Signer> {
    (0..64).map(Signer::from_seed).collect()
}

fn an_event_is_stored_and_served_as_it_was_sent(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let event = client.post(
        &signer,
        &draft(1)
            .tag(&["t", "größe \"x\""])
            .tag(&["e", &"ab".repeat(32), "", "root"])
            .content("two\nlines, \"quotes\", \\ and \u{7f} and 漢字 🤙 and \u{1}"),
    );
    let stored = client.query(&json!({"ids": [id_of(&event)]}));
    assert_eq!(stored.events, [event_value(&event)]);
    assert_eq!(stored.hint, ["finish"]);
}

fn a_repeated_event_is_a_duplicate(setup: Setup) {
    let relay = setup.start();
    let (mut first, mut second) = (relay.connect(), relay.connect());
    let event = first.post(&Signer::from_seed(1), &draft(1).content("once"));
    let duplicate = (true, Reason::Duplicate.message().to_owned());
    assert_eq!(first.publish(&event), duplicate);
    assert_eq!(second.publish(&event), duplicate);
    assert_eq!(second.query(&json!({"ids": [id_of(&event)]})).events.len(), 1);
}

fn the_newest_version_of_a_replaceable_stays(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    for (index, kind) in [0, 3, 10_002, 30_023].into_iter().enumerate() {
        let signer = Signer::from_seed(index as u64);
        let version = |created_at| Draft::new(kind, created_at).tag(&["d", "x"]);
        let old = client.post(&signer, &version(now_s() - 20));
        let new = client.post(&signer, &version(now_s() - 10));
        let stale = signer.sign(&version(now_s() - 15));
        let newer_known = (true, Reason::DuplicateNewer.message().to_owned());
        assert_eq!(client.publish(&stale), newer_known);
        let filter = json!({"kinds": [kind], "authors": [signer.pubkey().to_hex()]});
        assert_eq!(client.query_ids(&filter), [id_of(&new)]);
        assert_eq!(client.query_ids(&json!({"ids": [id_of(&old), id_of(&stale)]})), [""; 0]);
        assert_eq!(client.count(&[filter]), Ok(1));
        // The old version is not taken back in place of the new one.
        let (accepted, message) = client.publish(&old);
        assert!(accepted && message.starts_with("duplicate: "), "{message}");
        let filter = json!({"kinds": [kind], "authors": [signer.pubkey().to_hex()]});
        assert_eq!(client.query_ids(&filter), [id_of(&new)]);
    }
}

fn equal_times_keep_the_lowest_id(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let created_at = now_s() - 5;
    for order in [[0, 1], [1, 0]] {
        let signer = Signer::from_seed(70 + order[0]);
        let mut versions: Vec<_> = (0..2)
            .map(|n| signer.sign(&Draft::new(0, created_at).content(&format!("version {n}"))))
            .collect();
        versions.sort_by_key(|event| event.view().id());
        for index in order {
            assert!(client.publish(&versions[index as usize]).0);
        }
        let filter = json!({"kinds": [0], "authors": [signer.pubkey().to_hex()]});
        assert_eq!(client.query_ids(&filter), [id_of(&versions[0])], "order {order:?}");
    }
}

fn addressable_slots_are_kept_apart_by_d(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(5);
    let at = now_s() - 50;
    let a = client.post(&signer, &Draft::new(30_000, at).tag(&["d", "a"]));
    let b = client.post(&signer, &Draft::new(30_000, at + 1).tag(&["d", "b"]));
    let none = client.post(&signer, &Draft::new(30_000, at + 2));
    let empty = client.post(&signer, &Draft::new(30_000, at + 3).tag(&["d", ""]));
    let author = signer.pubkey().to_hex();
    let filter = json!({"kinds": [30_000], "authors": [author]});
    // No `d` is the empty `d`, so `empty` has replaced `none`.
    assert_eq!(client.query_ids(&filter), [id_of(&empty), id_of(&b), id_of(&a)]);
    assert_eq!(client.query_ids(&json!({"ids": [id_of(&none)]})), [""; 0]);
    let by_d = json!({"kinds": [30_000], "authors": [author], "#d": ["b"]});
    assert_eq!(client.query_ids(&by_d), [id_of(&b)]);
}

fn live_events_reach_every_matching_subscription_once(setup: Setup) {
    let relay = setup.start();
    let (mut reader, mut writer) = (relay.connect(), relay.connect());
    let all = reader.open(&[json!({"kinds": [1], "limit": 0})]);
    let tagged = reader.open(&[
        json!({"#t": ["yes"], "limit": 0}),
        json!({"kinds": [1], "#t": ["yes"], "limit": 0}),
    ]);
    for sub in [&all, &tagged] {
        assert!(reader.stored(sub).unwrap().events.is_empty());
    }
    let mut expected = Vec::new();
    for (index, author) in authors().iter().enumerate() {
        let topic = if index % 2 == 0 { "yes" } else { "no" };
        let event = writer.post(author, &draft(1).tag(&["t", topic]).content(&index.to_string()));
        expected.push((id_of(&event), index % 2 == 0));
    }
    let mut seen_all: Vec<_> =
        expected.iter().map(|_| reader.live(&all)["id"].as_str().unwrap().to_owned()).collect();
    let mut seen_tagged: Vec<_> = expected
        .iter()
        .filter(|(_, tagged)| *tagged)
        .map(|_| reader.live(&tagged)["id"].as_str().unwrap().to_owned())
        .collect();
    let mut wanted: Vec<_> = expected.iter().map(|(id, _)| id.clone()).collect();
    let mut wanted_tagged: Vec<_> =
        expected.iter().filter(|(_, tagged)| *tagged).map(|(id, _)| id.clone()).collect();
    for list in [&mut seen_all, &mut seen_tagged, &mut wanted, &mut wanted_tagged] {
        list.sort();
    }
    assert_eq!(seen_all, wanted);
    assert_eq!(seen_tagged, wanted_tagged);
    assert!(reader.drain().is_empty());
}

fn ephemeral_events_are_delivered_and_not_stored(setup: Setup) {
    let relay = setup.start();
    let (mut reader, mut writer) = (relay.connect(), relay.connect());
    let sub = reader.open(&[json!({"kinds": [20_001]})]);
    reader.stored(&sub).unwrap();
    for author in authors().iter().take(8) {
        let event = author.sign(&draft(20_001).content("now or never"));
        assert!(writer.publish(&event).0);
        assert_eq!(reader.live(&sub), event_value(&event));
        assert_eq!(writer.query_ids(&json!({"ids": [id_of(&event)]})), [""; 0]);
    }
    assert_eq!(writer.count(&[json!({"kinds": [20_001]})]), Ok(0));
}

fn a_replaced_subscription_gets_only_its_new_filter(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    client.open_as("feed", &[json!({"kinds": [1], "limit": 0})]);
    client.stored("feed").unwrap();
    client.open_as("feed", &[json!({"kinds": [2], "limit": 0})]);
    client.stored("feed").unwrap();
    let signer = Signer::from_seed(9);
    client.post(&signer, &draft(1).content("old filter"));
    let wanted = client.post(&signer, &draft(2).content("new filter"));
    assert_eq!(client.live("feed"), event_value(&wanted));
    assert!(client.drain().is_empty());
}

fn a_closed_subscription_is_silent(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    client.open_as("closing", &[json!({"kinds": [1], "limit": 0})]);
    client.stored("closing").unwrap();
    client.open_as("staying", &[json!({"kinds": [1], "limit": 0})]);
    client.stored("staying").unwrap();
    client.close("closing");
    let signer = Signer::from_seed(9);
    let first = client.post(&signer, &draft(1).content("after the close"));
    assert_eq!(client.live("staying"), event_value(&first));
    assert!(client.drain().is_empty());
}

fn wrong_ids_and_signatures_are_refused(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let event = Signer::from_seed(2).sign(&draft(1).content("genuine"));
    let with = |key: &str, value: serde_json::Value| {
        let mut changed = event_value(&event);
        changed[key] = value;
        changed
    };
    let mut bad_sig = event.view().sig();
    bad_sig.0[63] ^= 1;
    let cases = [
        (with("content", json!("altered")), Reason::IdMismatch),
        (with("id", json!("00".repeat(32))), Reason::IdMismatch),
        (with("sig", json!(bad_sig.to_hex())), Reason::BadSignature),
        (with("sig", json!("00".repeat(64))), Reason::BadSignature),
    ];
    for (changed, reason) in cases {
        assert_eq!(client.publish_value(&changed), (false, reason.message().to_owned()));
    }
    // A key that is no point of the curve, with an id that is right.
    let mut parts = event.view().parts();
    parts.pubkey.0 = [0xff; 32];
    parts.id = parts.compute_id();
    let nowhere = parts.pack();
    assert_eq!(client.publish(&nowhere), (false, Reason::BadSignature.message().to_owned()));
    // No refusal is remembered by id: the genuine one is still welcome.
    client.accept(&event);
    assert_eq!(client.query_ids(&json!({})), [id_of(&event)]);
}
