//! Requests read back as JSON, and answers as plug-ins write them.

use super::*;
use bench::{Draft, Signer};
use proto::parse::parse_filter;
use proto::{Event, Limits};
use serde_json::{Value, json};
use shards::door::Question as Write;

fn source(address: &str, keys: &[PublicKey]) -> Arc<Source> {
    let address = (!address.is_empty()).then(|| address.parse().unwrap());
    let origin = if address.is_some() { Origin::Client } else { Origin::Import };
    Arc::new(Source { address, keys: keys.into(), origin })
}

fn event() -> Event {
    let draft = Draft::new(1, 1_700_000_000).tag(&["t", "a\"b"]).content("two\nlines");
    Signer::from_seed(1).sign(&draft)
}

fn written(question: &impl Question) -> Value {
    let mut out = Vec::new();
    let name = question.name(41);
    question.write(&name, 1_700_000_000, &mut out);
    assert!(!out.contains(&b'\n'), "one request, one line");
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn a_write_request_has_the_fields_of_strfry_and_names_all_keys() {
    let event = event();
    let (author, other) = (event.view().pubkey(), PublicKey([7; 32]));
    let ask = |source| written(&Write { token: 5, event: event.clone(), source });
    let mut json = Vec::new();
    event.view().write_json(&mut json);
    let event_json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        ask(source("10.1.2.3", &[])),
        json!({
            "type": "new", "event": event_json, "receivedAt": 1_700_000_000,
            "sourceType": "IP4", "sourceInfo": "10.1.2.3",
        })
    );
    let six = ask(source("2001:db8::1", &[other, author]));
    assert_eq!((&six["sourceType"], &six["sourceInfo"]), (&json!("IP6"), &json!("2001:db8::1")));
    assert_eq!(six["authed"], author.to_hex(), "the author before the first");
    assert_eq!(six["authedKeys"], json!([other.to_hex(), author.to_hex()]));
    assert_eq!(ask(source("::1", &[other]))["authed"], other.to_hex());
    let import = ask(source("", &[]));
    assert_eq!((&import["sourceType"], &import["sourceInfo"]), (&json!("Import"), &json!("")));
}

#[test]
fn a_read_request_carries_the_filters_as_the_client_wrote_them() {
    let id = "ab".repeat(32);
    let filters = json!([
        {"ids": [id], "authors": [id, "cd".repeat(32)], "kinds": [1, 30_023], "#e": [id],
         "#t": ["\u{1}", "a\"b\n"], "since": 1, "until": 2, "limit": 3},
        {},
    ]);
    let parse =
        |filter: &Value| parse_filter(filter.to_string().as_bytes(), &Limits::default()).unwrap();
    let parsed: Arc<[Filter]> = filters.as_array().unwrap().iter().map(parse).collect();
    let question = |kind| door::ReadQuestion {
        token: 5,
        kind,
        sub: "my \"sub\"".into(),
        filters: Arc::clone(&parsed),
        source: source("10.1.2.3", &[]),
    };
    let req = written(&question(ReadKind::Req));
    assert_eq!((&req["type"], &req["id"]), (&json!("req"), &json!("41")));
    assert_eq!((&req["subId"], &req["filters"]), (&json!("my \"sub\""), &filters));
    let origin = (&req["sourceInfo"], &req["receivedAt"]);
    assert_eq!(origin, (&json!("10.1.2.3"), &json!(1_700_000_000)));
    assert_eq!(written(&question(ReadKind::Count))["type"], "count");
    assert_eq!(written(&question(ReadKind::NegOpen))["type"], "neg-open");
}

#[test]
fn answers_are_read_as_loosely_as_plug_ins_write_them_and_no_looser() {
    let verdict = |line: &str| parse_answer(line.as_bytes()).map(|answer| answer.verdict);
    let reject = |text: &str| Some(Verdict::Reject(text.into()));
    let loose = " {\"action\":\"accept\", \"id\":\"x\", \"more\":[1]} \r";
    assert_eq!(verdict(loose), Some(Verdict::Accept));
    let shadow = r#"{"id":"x","action":"shadowReject","msg":null}"#;
    assert_eq!(verdict(shadow), Some(Verdict::ShadowReject));
    let escaped = r#"{"id":"\u0078","action":"reject","msg":"blocked: \u00fc"}"#;
    assert_eq!(verdict(escaped), reject("blocked: \u{fc}"));
    assert_eq!(parse_answer(escaped.as_bytes()).unwrap().name, "x");
    for wordless in [r#"{"id":"x","action":"reject"}"#, r#"{"id":"x","action":"reject","msg":""}"#]
    {
        assert_eq!(verdict(wordless), reject(Reason::Policy.message()));
    }
    let long = format!(r#"{{"id":"x","action":"reject","msg":"{}"}}"#, "\u{fc}".repeat(1_000));
    assert_eq!(verdict(&long), reject(&"\u{fc}".repeat(NOTE_BYTES_MAX / 2)));
    for wrong in [
        "",
        "accept",
        "[]",
        "{}",
        r#"{"id":"x"}"#,
        r#"{"action":"accept"}"#,
        r#"{"id":1,"action":"accept"}"#,
        r#"{"id":"x","action":"Accept"}"#,
        r#"{"id":"x","action":"reject","msg":1}"#,
        r#"{"id":"x","action":"accept"} {}"#,
        r#"{"id":"x","id":"x","action":"accept"}"#,
    ] {
        assert_eq!(verdict(wrong), None, "{wrong}");
    }
    assert_eq!(parse_answer(b"{\"id\":\"\xff\",\"action\":\"accept\"}"), None);
}
