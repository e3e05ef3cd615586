//! Kinds 4, 1059 and 21059 are served, counted and delivered only to the people in them.

use crate::common::client::{Client, event_value, id_of};
use crate::common::{Setup, draft};
use crate::on_every_setup;
use bench::Signer;
use proto::{Event, Reason};
use serde_json::{Value, json};

on_every_setup!(
    private_kinds_are_served_to_the_people_in_them,
    private_events_are_delivered_live_to_the_people_in_them,
    malformed_wraps_and_seals_are_refused,
);

struct Cast {
    sender: Signer,
    recipient: Signer,
    stranger: Signer,
}

fn cast(seed: u64) -> Cast {
    let key = |offset| Signer::from_seed(10 * seed + offset);
    Cast { sender: key(1), recipient: key(2), stranger: key(3) }
}

/// A kind 4 message and a gift wrap from `sender` (the wrap by a one-time key).
fn messages(cast: &Cast) -> [Event; 2] {
    let to = cast.recipient.pubkey().to_hex();
    let one_time = Signer::from_seed(u64::from(cast.recipient.pubkey().0[0]) + 5_000);
    [
        cast.sender.sign(&draft(4).tag(&["p", &to]).content("cipher?iv=AA==")),
        one_time.sign(&draft(1059).tag(&["p", &to]).content("sealed")),
    ]
}

fn private_kinds_are_served_to_the_people_in_them(setup: Setup) {
    let relay = setup.start();
    let mut writer = relay.connect();
    for seed in 0..6 {
        let cast = cast(seed);
        let [direct, wrap] = messages(&cast);
        let public = writer.post(&cast.sender, &draft(1).content("for everyone"));
        writer.accept(&direct);
        writer.accept(&wrap);
        let ids = [id_of(&direct), id_of(&wrap), id_of(&public)];
        let by_id = json!({"ids": ids});
        let seen = |client: &mut Client, expected: &[&Event]| {
            let mut expected: Vec<String> = expected.iter().map(|event| id_of(event)).collect();
            let mut found = client.query_ids(&by_id);
            assert_eq!(client.count(std::slice::from_ref(&by_id)), Ok(expected.len() as u64));
            found.sort();
            expected.sort();
            assert_eq!(found, expected);
        };
        let mut nobody = relay.connect();
        seen(&mut nobody, &[&public]);
        let private: [Value; 3] =
            [json!({"kinds": [4]}), json!({"kinds": [1059]}), json!({"kinds": [4, 1059, 21_059]})];
        for filter in private {
            let message = Reason::PrivateNeedsAuth.message();
            assert_eq!(nobody.query_all(std::slice::from_ref(&filter)).unwrap_err(), message);
            assert_eq!(nobody.count(&[filter]), Err(message.to_owned()));
        }
        let mut stranger = relay.connect();
        stranger.auth(&cast.stranger);
        seen(&mut stranger, &[&public]);
        let inbox = json!({"kinds": [4, 1059], "#p": [cast.recipient.pubkey().to_hex()]});
        assert!(stranger.query(&inbox).events.is_empty());
        let mut recipient = relay.connect();
        recipient.auth(&cast.recipient);
        seen(&mut recipient, &[&direct, &wrap, &public]);
        assert_eq!(recipient.count(&[inbox]), Ok(2));
        let mut sender = relay.connect();
        sender.auth(&cast.sender);
        seen(&mut sender, &[&direct, &public]);
    }
}

fn private_events_are_delivered_live_to_the_people_in_them(setup: Setup) {
    let relay = setup.start();
    let mut writer = relay.connect();
    let cast = cast(1);
    let mut readers: Vec<(Client, String)> = [None, Some(cast.stranger), Some(cast.recipient)]
        .into_iter()
        .map(|key| {
            let mut client = relay.connect();
            if let Some(key) = key {
                client.auth(&key);
            }
            let sub = client.open(&[json!({"limit": 0})]);
            client.stored(&sub).unwrap();
            (client, sub)
        })
        .collect();
    let to = cast.recipient.pubkey().to_hex();
    let [direct, wrap] = messages(&cast);
    let fleeting = cast.sender.sign(&draft(21_059).tag(&["p", &to]));
    for event in [&direct, &wrap, &fleeting] {
        assert!(writer.publish(event).0);
    }
    // Shards do not wait for one another, so a public event by each author closes the sequence.
    let one_time = Signer::from_seed(u64::from(cast.recipient.pubkey().0[0]) + 5_000);
    let markers: Vec<Event> = [&cast.sender, &one_time, &cast.recipient]
        .into_iter()
        .map(|key| writer.post(key, &draft(1).content("marker")))
        .collect();
    for (index, (client, sub)) in readers.iter_mut().enumerate() {
        let private = if index == 2 { vec![&direct, &wrap, &fleeting] } else { Vec::new() };
        let mut expected: Vec<String> = private
            .into_iter()
            .chain(&markers)
            .map(|event| event_value(event).to_string())
            .collect();
        let mut seen: Vec<String> = expected.iter().map(|_| client.live(sub).to_string()).collect();
        expected.sort();
        seen.sort();
        assert_eq!(seen, expected, "reader {index}");
        assert!(client.drain().is_empty());
    }
}

fn malformed_wraps_and_seals_are_refused(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let key = "ab".repeat(32);
    let cases = [
        (draft(1059), Reason::WrapRecipient),
        (draft(1059).tag(&["p", "nobody"]), Reason::WrapRecipient),
        (draft(1059).tag(&["p", &key]).tag(&["p", &key]), Reason::WrapRecipient),
        (draft(21_059), Reason::WrapRecipient),
        (draft(13).tag(&["p", &key]), Reason::SealTags),
    ];
    for (draft, reason) in cases {
        let answer = client.publish(&signer.sign(&draft));
        assert_eq!(answer, (false, reason.message().to_owned()));
    }
}
