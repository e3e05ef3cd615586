//! NIP-42 and NIP-70: several keys on one connection, and what only an author may publish.

use crate::common::client::{event_value, id_of};
use crate::common::{RelayOptions, Setup, draft, now_s};
use crate::on_every_setup;
use bench::{Draft, Signer};
use proto::Reason;
use serde_json::json;

on_every_setup!(
    several_keys_authenticate_on_one_connection,
    wrong_auth_events_are_refused_with_the_reason,
    protected_events_need_their_author,
    auth_events_are_neither_stored_nor_delivered,
    a_relay_that_asks_for_auth_first_says_so,
);

fn refused(reason: Reason) -> (bool, String) {
    (false, reason.message().to_owned())
}

fn several_keys_authenticate_on_one_connection(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let keys: Vec<Signer> = (0..3).map(Signer::from_seed).collect();
    for key in &keys {
        client.auth(key);
    }
    // All of them count from now on, not only the last.
    for key in &keys {
        client.post(key, &draft(1).tag(&["-"]).content("protected"));
    }
    let other = Signer::from_seed(9).sign(&draft(1).tag(&["-"]));
    assert_eq!(client.publish(&other), refused(Reason::ProtectedNotAuthor));
    // Another connection has another challenge and no keys.
    let mut second = relay.connect();
    assert_ne!(second.challenge(), client.challenge());
    let event = keys[0].sign(&draft(1).tag(&["-"]).content("again"));
    assert_eq!(second.publish(&event), refused(Reason::ProtectedNeedsAuth));
}

fn wrong_auth_events_are_refused_with_the_reason(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let challenge = client.challenge();
    let url = relay.url.clone();
    let auth = |kind: u16, at: u32, url: &str, challenge: &str| {
        signer.sign(&Draft::new(kind, at).tag(&["relay", url]).tag(&["challenge", challenge]))
    };
    let now = now_s();
    let cases = [
        (auth(1, now, &url, &challenge), Reason::AuthBadEvent),
        (auth(22_242, now - 700, &url, &challenge), Reason::AuthBadTime),
        (auth(22_242, now + 700, &url, &challenge), Reason::AuthBadTime),
        (auth(22_242, now, &url, "something else"), Reason::AuthBadChallenge),
        (auth(22_242, now, "wss://relay.example", &challenge), Reason::AuthBadRelay),
        (signer.sign(&Draft::new(22_242, now)), Reason::AuthBadEvent),
    ];
    for (event, reason) in cases {
        assert_eq!(client.send_auth(&event), refused(reason));
    }
    let good = auth(22_242, now, &url, &challenge);
    let mut forged = event_value(&good);
    let mut sig = good.view().sig();
    sig.0[63] ^= 1;
    forged["sig"] = json!(sig.to_hex());
    client.send(&json!(["AUTH", forged]));
    assert_eq!(client.recv_ok(&id_of(&good)), refused(Reason::BadSignature));
    // None of these authenticated anybody.
    let event = signer.sign(&draft(1).tag(&["-"]));
    assert_eq!(client.publish(&event), refused(Reason::ProtectedNeedsAuth));
    assert_eq!(client.send_auth(&good), (true, String::new()));
    client.accept(&event);
}

fn protected_events_need_their_author(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let (author, other) = (Signer::from_seed(1), Signer::from_seed(2));
    let event = author.sign(&draft(1).tag(&["-"]).content("mine to publish"));
    assert_eq!(client.publish(&event), refused(Reason::ProtectedNeedsAuth));
    client.auth(&other);
    assert_eq!(client.publish(&event), refused(Reason::ProtectedNotAuthor));
    client.auth(&author);
    client.accept(&event);
    // Reading it takes nothing special.
    assert_eq!(relay.connect().query_ids(&json!({"ids": [id_of(&event)]})), [id_of(&event)]);
}

fn auth_events_are_neither_stored_nor_delivered(setup: Setup) {
    let relay = setup.start();
    let (mut reader, mut client) = (relay.connect(), relay.connect());
    let sub = reader.open(&[json!({"kinds": [22_242, 1]})]);
    reader.stored(&sub).unwrap();
    let signer = Signer::from_seed(1);
    client.auth(&signer);
    let as_event = signer.sign(&client.auth_draft());
    assert_eq!(client.publish(&as_event), refused(Reason::AuthEventAsEvent));
    let marker = client.post(&signer, &draft(1).content("marker"));
    assert_eq!(reader.live(&sub), event_value(&marker));
    assert_eq!(reader.count(&[json!({"kinds": [22_242]})]), Ok(0));
}

fn a_relay_that_asks_for_auth_first_says_so(setup: Setup) {
    let relay = RelayOptions::new(setup).config("[limits]\nauth_required = true\n").start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let event = signer.sign(&draft(1));
    assert_eq!(client.publish(&event), refused(Reason::AuthFirst));
    let message = Reason::AuthFirst.message().to_owned();
    assert_eq!(client.query_all(&[json!({})]).unwrap_err(), message);
    assert_eq!(client.count(&[json!({})]), Err(message));
    client.auth(&signer);
    client.accept(&event);
    assert_eq!(client.query_ids(&json!({})), [id_of(&event)]);
}
