//! What is no message, no event or no filter gets a precise answer, and the connection goes on.

use crate::common::client::{Client, event_value, id_of};
use crate::common::{Setup, draft};
use crate::on_every_setup;
use bench::Signer;
use proto::Reason;
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

on_every_setup!(
    malformed_messages_get_a_notice,
    malformed_events_get_ok_false,
    malformed_filters_get_closed,
    wrong_frames_end_the_connection_with_their_code,
    fragments_and_control_frames_are_put_together,
);

/// Asserts that the relay still serves this connection.
fn still_served(client: &mut Client) {
    assert!(client.query(&json!({"ids": []})).events.is_empty());
}

fn malformed_messages_get_a_notice(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let long = "x".repeat(65);
    let cases: [(String, Reason); 16] = [
        (String::new(), Reason::BadJson),
        ("{]".into(), Reason::BadJson),
        ("[\"CLOSE\",\"a\"] x".into(), Reason::BadJson),
        ("nonsense".into(), Reason::BadJson),
        ("{}".into(), Reason::NotAMessage),
        ("[]".into(), Reason::NotAMessage),
        ("[1,\"a\"]".into(), Reason::NotAMessage),
        ("\"EVENT\"".into(), Reason::NotAMessage),
        ("[\"HELLO\",\"a\"]".into(), Reason::UnknownVerb),
        ("[\"req\",\"a\",{}]".into(), Reason::UnknownVerb),
        ("[\"EVENT\"]".into(), Reason::WrongArity),
        ("[\"REQ\"]".into(), Reason::WrongArity),
        ("[\"REQ\",\"\",{}]".into(), Reason::BadSubscriptionId),
        (format!("[\"REQ\",\"{long}\",{{}}]"), Reason::BadSubscriptionId),
        ("[\"REQ\",7,{}]".into(), Reason::BadSubscriptionId),
        (deep, Reason::TooDeep),
    ];
    for (text, reason) in cases {
        client.send_text(&text);
        assert_eq!(client.recv(), json!(["NOTICE", reason.message()]), "{text}");
    }
    // Cut off behind the subscription id: the answer can name it.
    client.send_text("[\"REQ\",\"a\",{}");
    assert_eq!(client.recv(), json!(["CLOSED", "a", Reason::BadJson.message()]));
    let id = "€".repeat(64);
    client.open_as(&id, &[json!({"limit": 0})]);
    assert!(client.stored(&id).is_ok(), "64 characters, not bytes");
    still_served(&mut client);
}

fn malformed_events_get_ok_false(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let event = Signer::from_seed(1).sign(&draft(1).tag(&["t", "x"]).content("fine"));
    let valid = event_value(&event);
    let with = |key: &str, value: Value| {
        let mut changed = valid.clone();
        changed[key] = value;
        changed.to_string()
    };
    let without = |key: &str| {
        let mut changed = valid.clone();
        changed.as_object_mut().unwrap().remove(key);
        changed.to_string()
    };
    let whole = valid.to_string();
    let deep = format!("{}{}", "[".repeat(50), "]".repeat(50));
    let raw_tags = |tags: &str| with("tags", json!("TAGS")).replace("\"TAGS\"", tags);
    let huge = |key: &str| with(key, json!("HUGE")).replace("\"HUGE\"", &"9".repeat(400));
    let key = valid["pubkey"].as_str().unwrap().to_uppercase();
    let cases: Vec<(String, Reason)> = vec![
        (without("sig"), Reason::MissingField),
        (without("content"), Reason::MissingField),
        (without("tags"), Reason::MissingField),
        (with("pubkey", json!(key)), Reason::BadPubkey),
        (with("pubkey", json!("ab")), Reason::BadPubkey),
        (with("pubkey", json!(7)), Reason::BadPubkey),
        (with("sig", json!("zz".repeat(64))), Reason::BadSigFormat),
        (with("created_at", json!("now")), Reason::BadCreatedAt),
        (with("created_at", json!(-1)), Reason::BadCreatedAt),
        (with("created_at", json!(1.5)), Reason::BadCreatedAt),
        (with("created_at", json!(4_294_967_296_u64)), Reason::BadCreatedAt),
        (huge("created_at"), Reason::BadCreatedAt),
        (with("kind", json!(65_536)), Reason::BadKind),
        (with("kind", json!("1")), Reason::BadKind),
        (huge("kind"), Reason::BadKind),
        (with("tags", json!({})), Reason::BadTags),
        (with("tags", json!(["t"])), Reason::BadTags),
        (with("tags", json!([[]])), Reason::BadTags),
        (with("tags", json!([["t", 1]])), Reason::BadTags),
        (with("tags", json!([["t", null]])), Reason::BadTags),
        (with("content", json!(null)), Reason::BadContent),
        (with("content", json!({"a": 1})), Reason::BadContent),
        (raw_tags(&deep), Reason::TooDeep),
        (whole.replacen('{', "{\"kind\":1,", 1), Reason::DuplicateKey),
    ];
    for (text, reason) in cases {
        client.send_text(&format!("[\"EVENT\",{text}]"));
        let expected = json!(["OK", id_of(&event), false, reason.message()]);
        assert_eq!(client.recv(), expected, "{text}");
    }
    // Without a readable id there is nothing that OK could name.
    for (text, reason) in [
        (with("id", json!("xy")), Reason::BadId),
        (with("id", json!(id_of(&event).to_uppercase())), Reason::BadId),
        (without("id"), Reason::MissingField),
        ("7".to_owned(), Reason::EventNotObject),
        ("[]".to_owned(), Reason::EventNotObject),
        ("null".to_owned(), Reason::EventNotObject),
    ] {
        client.send_text(&format!("[\"EVENT\",{text}]"));
        assert_eq!(client.recv(), json!(["NOTICE", reason.message()]), "{text}");
    }
    client.accept(&event);
}

fn malformed_filters_get_closed(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let hex = "ab".repeat(32);
    let cases: Vec<(String, Reason)> = vec![
        ("7".into(), Reason::FilterNotObject),
        ("[]".into(), Reason::FilterNotObject),
        ("{\"ids\":[\"ab\"]}".into(), Reason::BadFilterId),
        (format!("{{\"ids\":[\"{}\"]}}", hex.to_uppercase()), Reason::BadFilterId),
        ("{\"ids\":\"ab\"}".into(), Reason::BadFilterId),
        ("{\"authors\":[1]}".into(), Reason::BadFilterAuthor),
        ("{\"kinds\":[65536]}".into(), Reason::BadFilterKind),
        ("{\"kinds\":[-1]}".into(), Reason::BadFilterKind),
        ("{\"kinds\":[1.0]}".into(), Reason::BadFilterKind),
        ("{\"kinds\":1}".into(), Reason::BadFilterKind),
        ("{\"#e\":[\"short\"]}".into(), Reason::BadFilterTag),
        ("{\"#p\":[\"short\"]}".into(), Reason::BadFilterTag),
        ("{\"#t\":[1]}".into(), Reason::BadFilterTag),
        ("{\"since\":\"now\"}".into(), Reason::BadFilterSince),
        ("{\"until\":-5}".into(), Reason::BadFilterUntil),
        ("{\"limit\":-1}".into(), Reason::BadFilterLimit),
        (format!("{{\"limit\":{}}}", "9".repeat(400)), Reason::BadFilterLimit),
        ("{\"search\":\"x\"}".into(), Reason::UnknownFilterKey),
        ("{\"#tt\":[\"x\"]}".into(), Reason::UnknownFilterKey),
        ("{\"#1\":[\"x\"]}".into(), Reason::UnknownFilterKey),
        ("{\"kinds\":[1],\"kinds\":[2]}".into(), Reason::DuplicateKey),
    ];
    for (filter, reason) in &cases {
        for verb in ["REQ", "COUNT"] {
            client.send_text(&format!("[\"{verb}\",\"s\",{filter}]"));
            assert_eq!(client.recv(), json!(["CLOSED", "s", reason.message()]), "{verb} {filter}");
        }
    }
    client.send_text("[\"REQ\",\"s\"]");
    assert_eq!(client.recv()[0], "CLOSED");
    still_served(&mut client);
}

fn wrong_frames_end_the_connection_with_their_code(setup: Setup) {
    let relay = setup.start();
    // Masked with zeros, so that the payload is what it reads.
    let masked = |head: &[u8], payload: &[u8]| [head, &[0; 4], payload].concat();
    let cases: [(&str, Vec<u8>, CloseCode); 8] = [
        ("bad UTF-8", masked(&[0x81, 0x82], &[0xc3, 0x28]), CloseCode::Invalid),
        ("reserved bit", masked(&[0xc1, 0x81], b"x"), CloseCode::Protocol),
        ("reserved opcode", masked(&[0x83, 0x81], b"x"), CloseCode::Protocol),
        ("unmasked", vec![0x81, 0x01, b'x'], CloseCode::Protocol),
        ("long ping", masked(&[0x89, 0xfe, 0, 126], &[b'x'; 126]), CloseCode::Protocol),
        ("fragmented ping", masked(&[0x09, 0x81], b"x"), CloseCode::Protocol),
        ("stray continuation", masked(&[0x80, 0x81], b"x"), CloseCode::Protocol),
        ("too long", masked(&[0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0], b""), CloseCode::Size),
    ];
    for (name, bytes, code) in cases {
        let mut client = relay.connect();
        client.challenge();
        client.send_raw(&bytes);
        let frame = client.recv_close().unwrap_or_else(|| panic!("{name}: no Close frame"));
        assert_eq!(frame.code, code, "{name}: {}", frame.reason);
    }
    still_served(&mut relay.connect());
}

fn fragments_and_control_frames_are_put_together(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    client.challenge();
    let text = "[\"REQ\",\"größe\",{\"limit\":0}]".as_bytes();
    let cut = text.iter().position(|byte| *byte == 0xc3).unwrap() + 1;
    let (first, second) = text.split_at(cut);
    let masked = |opcode: u8, payload: &[u8]| {
        [&[opcode, 0x80 | payload.len() as u8], &[0; 4][..], payload].concat()
    };
    // A character cut in two, with a ping between the halves.
    client.send_raw(&masked(0x01, first));
    client.send_raw(&masked(0x89, b"are you there"));
    assert_eq!(client.recv_message().unwrap(), Message::Pong("are you there".into()));
    client.send_raw(&masked(0x80, second));
    assert!(client.stored("größe").is_ok());
    client.send_message(Message::Close(None));
    assert!(client.recv_close().is_some() || client.recv_message().is_err());
}
