//! The cases of `sim/conformance/nips` that a connection decides alone: the document of NIP-11 and
//! the exchange of NIP-42. The grammar is in `sim/conformance/README.md`.
#![allow(clippy::unwrap_used)]

mod support;

use net::{ConnConfig, ConnEvent, Pages, RelayDocument};
use proto::{Event, EventId, EventParts, PublicKey, Reason};
use support::{Signer, Wire, event_message};

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[test]
fn requests_for_the_document_are_answered_as_the_table_says() {
    let document = RelayDocument {
        name: Some("a \"relay\"".into()),
        supported_nips: vec![1, 11],
        ..RelayDocument::default()
    };
    let pages = Pages::render(&document, Some("wss://relay.example"));
    let config = ConnConfig { pages: pages.clone(), ..support::config() };
    let (mut answer, mut asked) = (String::new(), "");
    let mut checks = 0;
    for line in lines(include_str!("../../sim/conformance/nips/nip11.txt")) {
        if let Some(request) = line.strip_prefix("get ") {
            let head: Vec<&str> = request.split('|').map(str::trim).collect();
            let bytes = format!("{}\r\n\r\n", head.join("\r\n"));
            let observed = net::fuzzing::observe(&[bytes.as_bytes()], &config);
            answer = String::from_utf8(observed.output).unwrap();
            asked = request;
            continue;
        }
        let wanted = line.strip_prefix("has ").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut fields = head.split("\r\n");
        let status = fields.next().unwrap();
        let fields: Vec<(&str, &str)> =
            fields.map(|field| field.split_once(": ").unwrap()).collect();
        let is_there = match wanted {
            "document" => body == document.to_json(),
            "page" => body.as_bytes() == pages.landing(false).body(),
            "empty" => body.is_empty(),
            status_number if status_number.len() == 3 => status.contains(status_number),
            _ => match wanted.split_once(": ") {
                Some(pair) => fields.contains(&pair),
                None => fields.iter().any(|(name, _)| *name == wanted),
            },
        };
        assert!(is_there, "{asked}: no {wanted} in {answer}");
        checks += 1;
    }
    assert!(checks > 15, "{checks} checks");
}

fn signer(name: &str) -> Signer {
    Signer::new(
        name.bytes().fold(1u8, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte)).max(1),
    )
}

fn changed(event: &Event, change: impl FnOnce(&mut EventParts<'_>)) -> Event {
    let view = event.view();
    let mut parts = view.parts();
    change(&mut parts);
    parts.pack()
}

/// The reason in an answer, by its label; "ok" for none.
fn verdict(answer: &str, id: &EventId) -> &'static str {
    let (_, named, accepted, text): (String, String, bool, String) =
        serde_json::from_str(answer).unwrap();
    assert_eq!(named, id.to_hex());
    if accepted {
        assert_eq!(text, "");
        return "ok";
    }
    let reason = Reason::ALL.iter().find(|reason| reason.message() == text);
    reason.unwrap_or_else(|| panic!("{answer} has no reason of ours")).label()
}

#[test]
fn authentication_goes_as_the_table_says() {
    let mut wire = Wire::open(support::config());
    let (mut title, mut checks) = ("", 0);
    for line in lines(include_str!("../../sim/conformance/nips/nip42-auth.txt")) {
        if let Some(case) = line.strip_prefix("case ") {
            (title, wire) = (case, Wire::open(support::config()));
            continue;
        }
        if let Some(names) = line.strip_prefix("keys") {
            let mut expected: Vec<PublicKey> =
                names.split_whitespace().map(|name| signer(name).key()).collect();
            let mut keys = wire.conn.keys().to_vec();
            expected.sort_unstable();
            keys.sort_unstable();
            assert_eq!(keys, expected, "{title}: {line}");
            continue;
        }
        let (event, expected) = line.split_once(" -> ").unwrap();
        let [verb, name, kind, at, tags] = event.splitn(5, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let tags = tags.replace("CHALLENGE", &"07".repeat(16));
        let event = signer(name).event(kind.parse().unwrap(), at.parse().unwrap(), &tags, "");
        let event = match verb {
            "auth" => event,
            "forged" => changed(&event, |parts| parts.sig.0[9] ^= 1),
            "misnamed" => changed(&event, |parts| parts.id.0[9] ^= 1),
            other => panic!("{other}"),
        };
        let was_known = wire.conn.keys().contains(&event.view().pubkey());
        let events = wire.send_text(&event_message("AUTH", &event));
        let answer = wire.reply();
        assert_eq!(verdict(&answer, &event.view().id()), expected, "{title}: {line}");
        let said = [ConnEvent::Authenticated(event.view().pubkey())];
        let is_told = expected == "ok" && !was_known;
        assert!(events.is_empty() || events == said, "{events:?}");
        assert!(!is_told || events == said, "{title}: {line} was not passed on");
        checks += 1;
    }
    assert!(checks > 12, "{checks} checks");
}
