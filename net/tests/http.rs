//! What is not a WebSocket: NIP-11, the landing page, health, metrics, refusals, and who the
//! client is behind a proxy.
#![allow(clippy::unwrap_used)]

mod support;

use core::net::IpAddr;
use net::info::Limitation;
use net::{CloseCause, ConnConfig, ConnEvent, Pages, Refusal, RelayDocument, Teardown};
use support::{Wire, config};

fn document() -> RelayDocument {
    RelayDocument {
        name: Some("Example".into()),
        supported_nips: vec![1, 11],
        limitation: Limitation { max_limit: Some(500), ..Limitation::default() },
        ..RelayDocument::default()
    }
}

fn configured() -> ConnConfig {
    ConnConfig { pages: Pages::render(&document(), Some("wss://relay.example")), ..config() }
}

/// Sends a request and returns the whole answer.
fn ask(request: &str, cause: CloseCause) -> String {
    let mut wire = Wire::accept(configured());
    assert_eq!(wire.send(request.as_bytes()), [ConnEvent::Closing(cause)], "{request}");
    assert_eq!(wire.conn.teardown(), Teardown::None);
    let answer = String::from_utf8(wire.output()).unwrap();
    assert_eq!(wire.conn.teardown(), Teardown::HalfClose);
    assert_eq!(wire.conn.release(&mut wire.core), cause);
    answer
}

const JSON: &str = "{\"name\":\"Example\",\"supported_nips\":[1,11],\
    \"limitation\":{\"max_limit\":500}}";

#[test]
fn the_nip_11_document_with_its_exact_headers() {
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\
         Access-Control-Allow-Origin: *\r\n\
         Access-Control-Allow-Headers: *\r\n\
         Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
         Vary: Accept\r\n\
         Content-Type: application/nostr+json\r\n\
         Content-Length: {}\r\n\r\n",
        JSON.len()
    );
    let get = "GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n";
    assert_eq!(ask(get, CloseCause::HttpAnswered), format!("{head}{JSON}"));
    let only_head = get.replacen("GET", "HEAD", 1);
    assert_eq!(ask(&only_head, CloseCause::HttpAnswered), head);
    let old = get.replacen("1.1", "1.0", 1);
    assert_eq!(ask(&old, CloseCause::HttpAnswered), format!("{head}{JSON}"));
}

#[test]
fn the_preflight_is_204() {
    let request = "OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://client.example\r\n\
        Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: accept\r\n\r\n";
    assert_eq!(
        ask(request, CloseCause::HttpAnswered),
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\
         Access-Control-Allow-Origin: *\r\n\
         Access-Control-Allow-Headers: *\r\n\
         Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
         Access-Control-Max-Age: 86400\r\n\
         Allow: GET, HEAD, OPTIONS\r\n\r\n"
    );
}

#[test]
fn browsers_get_the_landing_page() {
    let request = "GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html,*/*;q=0.8\r\n\r\n";
    let answer = ask(request, CloseCause::HttpAnswered);
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Type: text/html; charset=utf-8"));
    assert!(head.contains("Vary: Accept"));
    assert!(head.contains("Content-Security-Policy: default-src 'none'; style-src"));
    assert!(head.contains(&format!("Content-Length: {}", page.len())));
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>"));
    assert!(page.contains("wss://relay.example") && page.contains("Example"));
}

#[test]
fn a_reload_replaces_the_pages() {
    let mut wire = Wire::accept(configured());
    wire.core.config.pages = Pages::render(&RelayDocument::default(), None);
    wire.send(b"GET / HTTP/1.1\r\nAccept: application/nostr+json\r\n\r\n");
    assert!(wire.output().ends_with(b"Content-Length: 2\r\n\r\n{}"));
}

#[test]
fn health_and_metrics_are_answered_by_the_engine() {
    for (path, expected) in
        [("/health", ConnEvent::HttpHealth), ("/metrics?x", ConnEvent::HttpMetrics)]
    {
        for method in ["GET", "HEAD"] {
            let mut wire = Wire::accept(configured());
            let request = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\nmore that is unread");
            assert_eq!(wire.send(request.as_bytes()).as_slice(), std::slice::from_ref(&expected));
            assert_eq!(wire.output(), b"");
            let body = "x".repeat(100_000);
            let now = wire.now;
            wire.conn.respond_http(now, 200, "text/plain", body.as_bytes(), &mut wire.core);
            let answer = String::from_utf8(wire.output()).unwrap();
            let (head, sent) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(
                head,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\n\
                 Content-Type: text/plain\r\nContent-Length: 100000"
            );
            assert_eq!(sent, if method == "GET" { body.as_str() } else { "" });
            assert_eq!(wire.conn.close_cause(), Some(CloseCause::HttpAnswered));
        }
    }
}

#[test]
fn an_answer_that_never_comes_ends_with_the_handshake_deadline() {
    let mut wire = Wire::accept(configured());
    assert_eq!(wire.send(b"GET /health HTTP/1.1\r\n\r\n"), [ConnEvent::HttpHealth]);
    wire.wait(5_000);
    let cause = CloseCause::HandshakeTimeout;
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(cause));
}

#[test]
fn refusals_have_their_status_and_their_headers() {
    let upgrade = "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let many = "a: b\r\n".repeat(65);
    let long = "x".repeat(8 * 1024);
    for (request, status, header, cause) in [
        ("GET /x HTTP/1.1\r\n\r\n".into(), "404 Not Found", "", CloseCause::HttpAnswered),
        (
            "POST / HTTP/1.1\r\n\r\n".into(),
            "405 Method Not Allowed",
            "Allow: GET, HEAD, OPTIONS\r\n",
            CloseCause::BadRequest,
        ),
        ("\x16\x03\x01\x02".into(), "400 Bad Request", "", CloseCause::BadRequest),
        ("GET / HTTP/1.1\nHost: h\n\n".into(), "400 Bad Request", "", CloseCause::BadRequest),
        (
            format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 8\r\n\r\n"),
            "426 Upgrade Required",
            "Sec-WebSocket-Version: 13\r\n",
            CloseCause::BadRequest,
        ),
        (
            format!("GET / HTTP/1.1\r\n{many}\r\n"),
            "431 Request Header Fields Too Large",
            "",
            CloseCause::BadRequest,
        ),
        (
            format!("GET / HTTP/1.1\r\nx: {long}"),
            "431 Request Header Fields Too Large",
            "",
            CloseCause::BadRequest,
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
            "505 HTTP Version Not Supported",
            "",
            CloseCause::BadRequest,
        ),
    ] {
        let answer = ask(&request, cause);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.contains(header), "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
}

#[test]
fn frames_sent_behind_the_upgrade_are_not_lost() {
    let mut wire = Wire::accept(configured());
    let frame = support::client_frame(0x81, b"[\"CLOSE\",\"s\"]");
    let events = wire.send(&[net::fuzzing::UPGRADE, &frame].concat());
    let message = proto::ClientMessage::Close("s".into());
    assert_eq!(events, [ConnEvent::Opened, ConnEvent::Message(message)]);
}

// --- proxies --------------------------------------------------------------------------------------

const PROXY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x7f\x00\x00\x01\x00\x50\x01\xbb";

fn behind_proxy(peer: &str) -> Wire {
    let mut config = configured();
    config.trusted_proxies.0.push("10.0.0.0/8".parse().unwrap());
    Wire::accept_from(config, peer)
}

fn upgrade_with(header: &str) -> Vec<u8> {
    let request = String::from_utf8(net::fuzzing::UPGRADE.to_vec()).unwrap();
    request.replacen("Host:", &format!("{header}Host:"), 1).into_bytes()
}

fn client(address: &str) -> ConnEvent {
    ConnEvent::ClientAddress(address.parse().unwrap())
}

#[test]
fn a_trusted_proxy_names_the_client_before_the_upgrade() {
    let forwarded = upgrade_with("X-Forwarded-For: 6.6.6.6, 1.2.3.4\r\n");
    let mut wire = behind_proxy("10.1.1.1");
    assert_eq!(wire.send(&forwarded), [client("1.2.3.4"), ConnEvent::Opened]);
    assert_eq!(wire.conn.address(), "1.2.3.4".parse::<IpAddr>().unwrap());

    let mut wire = behind_proxy("::ffff:10.1.1.1");
    let bytes = [PROXY, net::fuzzing::UPGRADE].concat();
    assert_eq!(wire.send(&bytes), [client("1.2.3.4"), ConnEvent::Opened]);

    let mut wire = behind_proxy("10.1.1.1");
    assert_eq!(wire.send(net::fuzzing::UPGRADE), [ConnEvent::Opened], "it may name nobody");
}

#[test]
fn a_client_named_by_a_header_cannot_name_another() {
    let mut wire = behind_proxy("10.1.1.1");
    let bytes = [PROXY, &upgrade_with("X-Forwarded-For: 9.9.9.9\r\n")].concat();
    assert_eq!(wire.send(&bytes), [client("1.2.3.4"), ConnEvent::Opened]);
}

#[test]
fn strangers_are_not_believed() {
    let mut wire = behind_proxy("192.0.2.1");
    let forwarded = upgrade_with("X-Forwarded-For: 1.2.3.4\r\n");
    assert_eq!(wire.send(&forwarded), [ConnEvent::Opened]);
    assert_eq!(wire.conn.address(), "192.0.2.1".parse::<IpAddr>().unwrap());

    let mut wire = behind_proxy("192.0.2.1");
    let bytes = [PROXY, net::fuzzing::UPGRADE].concat();
    assert_eq!(wire.send(&bytes), [ConnEvent::Closing(CloseCause::BadRequest)]);
    assert!(wire.output().starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn a_client_that_admission_refuses_gets_an_answer() {
    for (refusal, status) in
        [(Refusal::AddressFull, "429"), (Refusal::AddressRate, "429"), (Refusal::CoreFull, "503")]
    {
        let mut wire = behind_proxy("10.1.1.1");
        let forwarded = upgrade_with("X-Forwarded-For: 1.2.3.4\r\n");
        let mut data = forwarded.as_slice();
        let event = wire.conn.next(wire.now, &mut data, &mut wire.core);
        assert_eq!(event, Some(client("1.2.3.4")));
        wire.conn.refuse_admission(wire.now, refusal, &mut wire.core);
        assert_eq!(wire.send(data), []);
        let answer = String::from_utf8(wire.output()).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("Retry-After: 10\r\n") && answer.ends_with(refusal.text()));
        assert_eq!(wire.counters().not_admitted[refusal as usize], 1);
        assert_eq!(wire.conn.release(&mut wire.core), CloseCause::NotAdmitted);
    }
}

#[test]
fn a_refused_connection_lingers_only_when_it_was_read_from() {
    let refuse = |wire: &mut Wire| {
        wire.conn.refuse_admission(wire.now, Refusal::AddressFull, &mut wire.core);
        assert_eq!(wire.conn.teardown(), Teardown::None, "the answer is not written yet");
        assert!(wire.output().starts_with(b"HTTP/1.1 429 "));
        wire.conn.teardown()
    };
    let mut wire = Wire::accept(configured());
    assert_eq!(refuse(&mut wire), Teardown::Close);
    assert_eq!(wire.send(net::fuzzing::UPGRADE), []);
    for bytes in [PROXY, &upgrade_with("X-Forwarded-For: 1.2.3.4\r\n")] {
        let mut wire = behind_proxy("10.1.1.1");
        let mut data = bytes;
        let event = wire.conn.next(wire.now, &mut data, &mut wire.core);
        assert_eq!(event, Some(client("1.2.3.4")));
        assert_eq!(refuse(&mut wire), Teardown::HalfClose);
    }
}

#[test]
fn unfinished_requests_are_counted_in_the_budget_of_input() {
    let mut wire = Wire::accept(configured());
    assert_eq!(wire.send(&net::fuzzing::UPGRADE[..100]), []);
    let held = wire.core.input.held_bytes();
    assert!((100..=200).contains(&held), "{held}");
    assert_eq!(wire.send(&net::fuzzing::UPGRADE[100..]), [ConnEvent::Opened]);
    assert_eq!(wire.core.input.held_bytes(), 0);

    let mut wire = Wire::accept(ConnConfig { input_bytes_max: 0, ..configured() });
    assert_eq!(wire.send(&net::fuzzing::UPGRADE[..100]), []);
    assert!(wire.core.input.held_bytes() >= 100);
    let events = wire.send(&net::fuzzing::UPGRADE[100..]);
    assert_eq!(events, [ConnEvent::Opened], "a newcomer is let in when others used the budget up");
    assert_eq!(wire.core.input.held_bytes(), 0);
}
