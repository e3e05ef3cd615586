//! Every limit refuses with its name, and what comes after is still served.

use crate::common::client::id_of;
use crate::common::{RelayOptions, Setup, draft, now_s};
use crate::on_every_setup;
use bench::{Draft, Signer};
use proto::{Event, Reason};
use serde_json::{Value, json};

on_every_setup!(
    events_beyond_a_limit_are_refused_by_name,
    requests_beyond_a_limit_are_refused_by_name,
    times_out_of_range_are_refused,
    proof_of_work_is_demanded_with_its_commitment,
    limits_of_answers_are_clamped,
    too_many_invalid_messages_end_the_connection,
    rates_refuse_and_recover,
);

fn refused(reason: Reason) -> (bool, String) {
    (false, reason.message().to_owned())
}

fn events_beyond_a_limit_are_refused_by_name(setup: Setup) {
    let relay = RelayOptions::new(setup)
        .config("[limits]\nevent_bytes_max = 4096\ntags_max = 10\ntag_elements_max = 5\n")
        .start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let tags = |count: usize| (0..count).fold(draft(1), |draft, _| draft.tag(&["t", "x"]));
    let elements = |count: usize| draft(1).tag(&vec!["x"; count]);
    client.post(&signer, &tags(10));
    client.post(&signer, &elements(5));
    // 140 bytes of header, two of tags, two quotes.
    client.post(&signer, &draft(1).content(&"c".repeat(4_096 - 144)));
    let cases = [
        (tags(11), Reason::TooManyTags),
        (elements(6), Reason::TooManyTagElements),
        (draft(1).content(&"c".repeat(4_097 - 144)), Reason::EventTooLarge),
    ];
    for (draft, reason) in cases {
        assert_eq!(client.publish(&signer.sign(&draft)), refused(reason));
    }
    assert_eq!(client.count(&[json!({})]), Ok(3));
}

fn requests_beyond_a_limit_are_refused_by_name(setup: Setup) {
    let relay = RelayOptions::new(setup)
        .config("[limits]\nfilters_max = 3\nfilter_values_max = 20\nsubscriptions_max = 2\n")
        .start();
    let mut client = relay.connect();
    let event = client.post(&Signer::from_seed(1), &draft(1));
    let filters = |count: usize| vec![json!({"kinds": [1]}); count];
    assert!(client.query_all(&filters(3)).is_ok());
    let message = |reason: Reason| reason.message().to_owned();
    assert_eq!(client.query_all(&filters(4)).unwrap_err(), message(Reason::TooManyFilters));
    assert_eq!(client.count(&filters(4)), Err(message(Reason::TooManyFilters)));
    let values = |count: u32| json!({"kinds": (0..count).collect::<Vec<_>>()});
    assert!(client.query_all(&[values(20)]).is_ok());
    let answer = client.query_all(&[values(21)]);
    assert_eq!(answer.unwrap_err(), message(Reason::TooManyFilterValues));
    for sub in ["first", "second"] {
        client.open_as(sub, &[json!({"kinds": [1]})]);
        client.stored(sub).unwrap();
    }
    client.open_as("third", &[json!({"kinds": [1]})]);
    assert_eq!(client.stored("third").unwrap_err(), message(Reason::TooManySubscriptions));
    // A subscription replaced is none added, and one closed makes room.
    client.open_as("second", &[json!({"kinds": [1]})]);
    assert_eq!(client.stored("second").unwrap().ids(), [id_of(&event)]);
    client.close("first");
    client.open_as("third", &[json!({"kinds": [1]})]);
    assert_eq!(client.stored("third").unwrap().ids(), [id_of(&event)]);
}

fn times_out_of_range_are_refused(setup: Setup) {
    let relay = RelayOptions::new(setup)
        .config("[limits]\ncreated_at_past_s = 1000\ncreated_at_future_s = 100\n")
        .start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let at = |created_at| signer.sign(&Draft::new(1, created_at));
    client.accept(&at(now_s() - 990));
    client.accept(&at(now_s() + 90));
    assert_eq!(client.publish(&at(now_s() - 1_010)), refused(Reason::TooOld));
    assert_eq!(client.publish(&at(now_s() + 200)), refused(Reason::TooNew));
}

/// An event of `target` bits of work that says so, found by trying.
fn mined(signer: &Signer, target: u16, committed: u16) -> Event {
    let at = now_s();
    (0u32..)
        .map(|nonce| {
            let tag = ["nonce", &nonce.to_string(), &committed.to_string()];
            signer.sign(&Draft::new(1, at).tag(&tag))
        })
        .find(|event| proto::nip::nip13::difficulty(&event.view().id()) == target)
        .unwrap()
}

fn proof_of_work_is_demanded_with_its_commitment(setup: Setup) {
    let relay = RelayOptions::new(setup).config("[limits]\npow_bits_min = 6\n").start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    assert!(client.publish(&mined(&signer, 6, 6)).0);
    assert!(client.publish(&mined(&signer, 7, 6)).0);
    assert_eq!(client.publish(&mined(&signer, 5, 6)), refused(Reason::PowTooLow));
    let lucky = mined(&signer, 7, 3);
    assert_eq!(client.publish(&lucky), refused(Reason::PowTooLow), "luck is no work");
}

fn limits_of_answers_are_clamped(setup: Setup) {
    let relay =
        RelayOptions::new(setup).config("[limits]\ndefault_limit = 5\nmax_limit = 8\n").start();
    let mut client = relay.connect();
    for index in 0..20 {
        client.post(&Signer::from_seed(index), &draft(1).content(&index.to_string()));
    }
    for (filter, expected) in [
        (json!({}), 5),
        (json!({"limit": 7}), 7),
        (json!({"limit": 400}), 8),
        (json!({"limit": 8}), 8),
    ] {
        let stored = client.query(&filter);
        assert_eq!(stored.events.len(), expected, "{filter}");
        assert_eq!(stored.hint, ["more"], "{filter}");
    }
}

fn too_many_invalid_messages_end_the_connection(setup: Setup) {
    let relay = RelayOptions::new(setup).config("[rates]\ninvalid_per_minute = 20\n").start();
    let mut client = relay.connect();
    // The twenty of a minute may come at once; the next one ends the connection.
    let mut answered = 0;
    for _ in 0..100 {
        if client.try_send_text("{]").is_err() {
            break;
        }
        match client.try_recv() {
            Ok(notice) => {
                assert_eq!(notice[0], "NOTICE");
                answered += 1;
            }
            Err(_) => break,
        }
    }
    assert!((19..=22).contains(&answered), "{answered} answers before the end");
    // Others are not touched.
    relay.connect().accept(&Signer::from_seed(1).sign(&draft(1)));
}

fn rates_refuse_and_recover(setup: Setup) {
    let relay = RelayOptions::new(setup).config("[rates]\nevents_per_second = 2\n").start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let answers: Vec<(bool, String)> = (0..40)
        .map(|index| client.publish(&signer.sign(&draft(1).content(&index.to_string()))))
        .collect();
    let refusal = refused(Reason::RateEvents);
    assert!(answers[..20].iter().all(|(accepted, _)| *accepted), "the burst is ten seconds' worth");
    assert!(answers[20..].contains(&refusal), "{answers:?}");
    let again = signer.sign(&draft(1).content("patience"));
    // The bucket fills by two a second; wait for one.
    let accepted = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        client.publish(&again).0
    });
    assert!(accepted, "a refusal is not for ever");
    let refused_count = answers.iter().filter(|answer| **answer == refusal).count() as u64;
    let stored: Value = json!({"authors": [signer.pubkey().to_hex()]});
    assert_eq!(client.count(&[stored]), Ok(41 - refused_count));
}
