//! The relay document and the landing page of a relay whose operator writes odd strings: the
//! document says them and nothing else, and the page never takes one of them for markup.

use crate::bytes::Bytes;
use net::info::{Fee, Fees, Limitation, RelayDocument, Retention};
use net::{ConnConfig, Pages};

/// A text between marks by which the page's copy of it is found.
fn marked(bytes: &mut Bytes<'_>) -> Option<String> {
    if bytes.one_in(3) {
        return None;
    }
    let text = bytes.text().replace(['\u{e000}', '\u{e001}'], "");
    Some(format!("\u{e000}{text}\u{e001}"))
}

fn document(bytes: &mut Bytes<'_>) -> RelayDocument {
    let number = |bytes: &mut Bytes<'_>| (!bytes.one_in(3)).then(|| bytes.edgy());
    RelayDocument {
        name: marked(bytes),
        description: marked(bytes),
        banner: marked(bytes),
        icon: marked(bytes).map(|text| format!("https://{text}")),
        pubkey: marked(bytes),
        own_pubkey: marked(bytes),
        contact: marked(bytes).map(|text| format!("mailto:{text}")),
        supported_nips: (0..bytes.below(4)).map(|_| bytes.u16()).collect(),
        software: marked(bytes),
        version: marked(bytes),
        terms_of_service: marked(bytes).map(|text| format!("https://{text}")),
        payments_url: marked(bytes),
        limitation: Limitation {
            max_message_length: number(bytes),
            max_limit: number(bytes),
            created_at_lower_limit: number(bytes),
            created_at_upper_limit: number(bytes),
            ..Limitation::default()
        },
        fees: Fees {
            admission: (0..bytes.below(3))
                .map(|_| Fee {
                    kinds: vec![bytes.u16()],
                    amount: bytes.edgy(),
                    unit: marked(bytes).unwrap_or_default(),
                    period: number(bytes),
                })
                .collect(),
            ..Fees::default()
        },
        retention: vec![Retention { kinds: Vec::new(), time: number(bytes), count: number(bytes) }],
        ..RelayDocument::default()
    }
}

/// What stands between the marks holds no byte that could end text or an attribute.
fn check_page(page: &str) {
    for copy in page.split('\u{e000}').skip(1) {
        let copy = copy.split('\u{e001}').next().unwrap_or_default();
        assert!(!copy.contains(['<', '>', '"', '\'']), "{copy:?} could be markup");
    }
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let document = document(&mut bytes);
    let public_url = marked(&mut bytes).map(|text| format!("wss://{text}"));
    let json: serde_json::Value = serde_json::from_str(&document.to_json()).expect("is JSON");
    let texts = [
        ("name", &document.name),
        ("description", &document.description),
        ("icon", &document.icon),
        ("pubkey", &document.pubkey),
        ("self", &document.own_pubkey),
        ("contact", &document.contact),
        ("software", &document.software),
        ("payments_url", &document.payments_url),
    ];
    for (field, text) in texts {
        let found = json.get(field).map(|found| found.as_str().expect("is a string"));
        assert_eq!(found, text.as_deref(), "{field}");
    }
    let limit = |name: &str| json.get("limitation").and_then(|limits| limits.get(name)?.as_u64());
    assert_eq!(limit("max_limit"), document.limitation.max_limit);

    let pages = Pages::render(&document, public_url.as_deref());
    check_page(std::str::from_utf8(pages.landing(false).body()).expect("is text"));
    // As a peer gets them: the head says how long they are.
    for (request, is_document) in [
        ("GET / HTTP/1.1\r\nHost: r\r\nAccept: application/nostr+json\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: r\r\nAccept: text/html\r\n\r\n", false),
    ] {
        let config = ConnConfig { pages: pages.clone(), ..ConnConfig::default() };
        let seen = net::fuzzing::observe(&[request.as_bytes()], &config);
        let text = std::str::from_utf8(&seen.output).expect("is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        assert_eq!(length, Some(body.len()), "{head}");
        if is_document {
            assert_eq!(body, document.to_json());
        }
    }
}
