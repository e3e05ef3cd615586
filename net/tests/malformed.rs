//! Malformed input of every sort: the exact answer, and the connection stays up to the named limit.
#![allow(clippy::unwrap_used)]

mod support;

use net::{CloseCause, ConnConfig, ConnEvent, Rate, Rates};
use proto::{ClientMessage, Reason};
use support::{Signer, UNIX_S, Wire, client_frame, config, event_message};

const ID: &str = "00000000000000000000000000000000000000000000000000000000000000ab";

/// An event whose fields are well-formed, with `field` replaced by `value`.
fn event_with(field: &str, value: &str) -> String {
    let key = "11".repeat(32);
    let sig = "22".repeat(64);
    let fields = [
        ("id", format!("\"{ID}\"")),
        ("pubkey", format!("\"{key}\"")),
        ("created_at", "1700000000".to_owned()),
        ("kind", "1".to_owned()),
        ("tags", "[]".to_owned()),
        ("content", "\"\"".to_owned()),
        ("sig", format!("\"{sig}\"")),
    ];
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, good)| format!("\"{name}\":{}", if *name == field { value } else { good }))
        .collect();
    format!("[\"EVENT\",{{{}}}]", fields.join(","))
}

fn ok_false(reason: Reason) -> String {
    format!("[\"OK\",\"{ID}\",false,\"{}\"]", reason.message())
}

fn closed(reason: Reason) -> String {
    format!("[\"CLOSED\",\"s\",\"{}\"]", reason.message())
}

fn notice(reason: Reason) -> String {
    format!("[\"NOTICE\",\"{}\"]", reason.message())
}

fn req(filter: &str) -> String {
    format!("[\"REQ\",\"s\",{filter}]")
}

/// Input, the exact answer, and the reason it is counted under.
fn table() -> Vec<(String, String, Reason)> {
    use Reason as R;
    let hex = |length: usize, digit: &str| format!("\"{}\"", digit.repeat(length));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let huge = "9".repeat(400);
    let mut table = Vec::new();
    for (text, reason) in [
        // No message at all.
        ("", R::BadJson),
        ("hello", R::BadJson),
        ("[\"REQ\"", R::BadJson),
        ("[\"CLOSE\",\"s\"] tail", R::BadJson),
        ("[\"CLOSE\",\"s\",]", R::WrongArity),
        ("{}", R::NotAMessage),
        ("[]", R::NotAMessage),
        ("[1,2]", R::NotAMessage),
        ("null", R::NotAMessage),
        (&deep, R::TooDeep),
        // Verbs and their number of elements.
        ("[\"NEG-WHAT\",\"s\"]", R::UnknownVerb),
        ("[\"req\",\"s\",{}]", R::UnknownVerb),
        ("[\"EVENT\"]", R::WrongArity),
        ("[\"CLOSE\"]", R::WrongArity),
        ("[\"CLOSE\",\"s\",\"t\"]", R::WrongArity),
        // What names nothing that could be answered.
        ("[\"REQ\",\"\",{}]", R::BadSubscriptionId),
        ("[\"REQ\",7,{}]", R::BadSubscriptionId),
        ("[\"CLOSE\",{}]", R::BadSubscriptionId),
        ("[\"EVENT\",[]]", R::EventNotObject),
        ("[\"EVENT\",{}]", R::MissingField),
        ("[\"EVENT\",{\"id\":\"ab\"}]", R::BadId),
    ] {
        table.push((text.to_owned(), notice(reason), reason));
    }
    let long_sub = format!("[\"REQ\",\"{}\",{{}}]", "x".repeat(65));
    table.push((long_sub, notice(R::BadSubscriptionId), R::BadSubscriptionId));
    for (field, value, reason) in [
        ("pubkey", hex(64, "A"), R::BadPubkey),
        ("pubkey", hex(63, "a"), R::BadPubkey),
        ("pubkey", "null".into(), R::BadPubkey),
        ("sig", hex(64, "a"), R::BadSigFormat),
        ("sig", hex(128, "g"), R::BadSigFormat),
        ("created_at", "-1".into(), R::BadCreatedAt),
        ("created_at", "\"1700000000\"".into(), R::BadCreatedAt),
        ("created_at", "4294967296".into(), R::BadCreatedAt),
        ("created_at", "99999999999999999999".into(), R::BadCreatedAt),
        ("kind", "65536".into(), R::BadKind),
        ("kind", "1.5".into(), R::BadKind),
        ("kind", "true".into(), R::BadKind),
        ("tags", "{}".into(), R::BadTags),
        ("tags", "[[]]".into(), R::BadTags),
        ("tags", "[[1]]".into(), R::BadTags),
        ("tags", "[[\"e\",null]]".into(), R::BadTags),
        ("content", "7".into(), R::BadContent),
        ("content", "\"\\ud800\"".into(), R::BadUtf8),
        ("content", "\"\\q\"".into(), R::BadJson),
        ("content", "\"\",\"content\":\"\"".into(), R::DuplicateKey),
    ] {
        table.push((event_with(field, &value), ok_false(reason), reason));
    }
    let missing = format!("[\"EVENT\",{{\"id\":\"{ID}\",\"kind\":1}}]");
    table.push((missing, ok_false(R::MissingField), R::MissingField));
    for (filter, reason) in [
        ("[]".to_owned(), R::FilterNotObject),
        ("\"x\"".to_owned(), R::FilterNotObject),
        ("{\"search\":\"x\"}".to_owned(), R::UnknownFilterKey),
        ("{\"ids\":[\"ab\"]}".to_owned(), R::BadFilterId),
        (format!("{{\"ids\":[{}]}}", hex(64, "F")), R::BadFilterId),
        ("{\"authors\":[7]}".to_owned(), R::BadFilterAuthor),
        ("{\"kinds\":[65536]}".to_owned(), R::BadFilterKind),
        ("{\"kinds\":1}".to_owned(), R::BadFilterKind),
        ("{\"#e\":[\"short\"]}".to_owned(), R::BadFilterTag),
        ("{\"#t\":[7]}".to_owned(), R::BadFilterTag),
        ("{\"since\":\"now\"}".to_owned(), R::BadFilterSince),
        ("{\"until\":-1}".to_owned(), R::BadFilterUntil),
        ("{\"limit\":-5}".to_owned(), R::BadFilterLimit),
        (format!("{{\"limit\":{huge}}}"), R::BadFilterLimit),
        ("{\"limit\":1,\"limit\":2}".to_owned(), R::DuplicateKey),
    ] {
        table.push((req(&filter), closed(reason), reason));
        table.push((req(&filter).replacen("REQ", "COUNT", 1), closed(reason), reason));
    }
    table.push(("[\"REQ\",\"s\"]".into(), closed(R::NoFilter), R::NoFilter));
    table
}

#[test]
fn every_malformed_input_gets_its_exact_answer_and_the_connection_stays() {
    let rates = Rates { invalid: Rate::OFF, ..Rates::default() };
    let mut wire = Wire::open(ConnConfig { rates, ..config() });
    let mut wrong = Vec::new();
    for (text, answer, reason) in table() {
        let counted = wire.counters().refused[reason as usize];
        assert_eq!(wire.send_text(&text), [], "{text:.200}");
        let reply = wire.reply();
        if reply != answer || wire.counters().refused[reason as usize] != counted + 1 {
            wrong.push(format!("{text:.200}\n  wanted {answer}\n  got    {reply}"));
        }
        assert!(wire.conn.is_open());
        wire.wait(100);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let message = wire.message("[\"CLOSE\",\"s\"]");
    assert_eq!(message, ClientMessage::Close("s".into()), "still served after all that");
}

#[test]
fn every_malformed_input_counts_towards_the_limit_and_the_limit_has_a_name() {
    for (text, answer, reason) in table() {
        let mut wire = Wire::open(config());
        let is_abuse = reason != Reason::UnknownFilterKey;
        for _ in 0..20 {
            assert_eq!(wire.send_text(&text), []);
            assert_eq!(wire.reply(), answer);
        }
        let events = wire.send_text(&text);
        let frames = wire.frames();
        assert_eq!(frames[0].text(), answer, "the last one is answered, too");
        if !is_abuse {
            assert_eq!(events, []);
            continue;
        }
        assert_eq!(events, [ConnEvent::Closing(CloseCause::InvalidLimit)], "{text:.200}");
        assert_eq!(frames[1].close(), (1008, "too many invalid messages"));
        assert_eq!(wire.conn.release(&mut wire.core), CloseCause::InvalidLimit);
    }
}

#[test]
fn limits_of_size_are_answered_and_are_no_abuse() {
    let mut config = config();
    config.limits.tags_max = 2;
    config.limits.tag_elements_max = 3;
    config.limits.event_bytes_max = 1_000;
    config.limits.filters_max = 2;
    config.limits.filter_values_max = 4;
    let mut wire = Wire::open(config);
    for (text, answer) in [
        (event_with("tags", "[[\"a\"],[\"b\"],[\"c\"]]"), ok_false(Reason::TooManyTags)),
        (event_with("tags", "[[\"a\",\"b\",\"c\",\"d\"]]"), ok_false(Reason::TooManyTagElements)),
        (
            event_with("content", &format!("\"{}\"", "x".repeat(1_000))),
            ok_false(Reason::EventTooLarge),
        ),
        ("[\"REQ\",\"s\",{},{},{}]".into(), closed(Reason::TooManyFilters)),
        (req("{\"kinds\":[1,2,3,4,5]}"), closed(Reason::TooManyFilterValues)),
    ] {
        for _ in 0..30 {
            assert_eq!(wire.send_text(&text), []);
            assert_eq!(wire.reply(), answer);
            wire.wait(50);
        }
    }
}

#[test]
fn bad_signatures_found_by_the_shards_count_as_well() {
    let mut wire = Wire::open(config());
    let mut event = Signer::new(1).event(1, UNIX_S, "[]", "");
    for kind in 1..=21 {
        event = Signer::new(1).event(kind, UNIX_S, "[]", "");
        let text = event_message("EVENT", &event);
        assert_eq!(wire.message(&text), ClientMessage::Event(event.clone()));
        let id = event.view().id();
        let pushed =
            wire.conn.reply_ok(wire.now, &id, Err(Reason::BadSignature), None, &mut wire.core);
        let expected = if kind == 21 { net::Pushed::Closed } else { net::Pushed::Ok };
        assert_eq!(pushed, expected, "event {kind}");
    }
    assert_eq!(wire.conn.close_cause(), Some(CloseCause::InvalidLimit));
    let frames = wire.frames();
    assert_eq!(frames.len(), 22);
    let last =
        format!("[\"OK\",\"{}\",false,\"invalid: signature does not verify\"]", event.view().id());
    assert_eq!(frames[20].text(), last);
    assert_eq!(frames[21].close().0, 1008);
    assert_eq!(wire.counters().refused[Reason::BadSignature as usize], 21);
}

#[test]
fn the_limit_is_per_minute_and_honest_refusals_do_not_count() {
    let mut wire = Wire::open(config());
    for _ in 0..100 {
        assert_eq!(wire.send_text("garbage"), []);
        wire.wait(3_000);
    }
    assert!(wire.conn.is_open(), "twenty a minute are allowed");
    let id = proto::EventId([1; 32]);
    for reason in [Reason::Duplicate, Reason::TooOld, Reason::PowTooLow, Reason::Deleted] {
        for _ in 0..100 {
            let pushed = wire.conn.reply_ok(wire.now, &id, Err(reason), None, &mut wire.core);
            assert_eq!(pushed, net::Pushed::Ok);
        }
    }
    assert!(wire.conn.is_open());
    let frames = wire.frames();
    let duplicate = format!("[\"OK\",\"{id}\",true,\"duplicate: already have this event\"]");
    assert_eq!(frames[100].text(), duplicate);
}

#[test]
fn bad_utf_8_in_a_frame_ends_the_connection() {
    let mut wire = Wire::open(config());
    let events = wire.send(&client_frame(0x81, b"[\"CLOSE\",\"\xff\"]"));
    assert_eq!(events, [ConnEvent::Closing(CloseCause::BadUtf8)]);
}
