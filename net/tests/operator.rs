//! Connections of the operator: what they are spared and what they are not. And the words of a
//! policy in answers.
#![allow(clippy::unwrap_used)]

mod support;

use net::note::NOTE_BYTES_MAX;
use net::{CloseCause, Conn, ConnConfig, ConnEvent, Pushed, Rate, Rates, Trust};
use proto::nip::nip45::Hll;
use proto::{EventId, Reason};
use support::{Signer, UNIX_S, Wire, client_frame, config, event_message};

/// A connection that came by the operator's socket, under rates that end any other.
fn operator(config: ConnConfig) -> Wire {
    let mut wire = Wire::accept(config);
    wire.conn = Conn::of_operator(wire.now, [7; 16], &wire.core);
    assert_eq!(wire.conn.trust(), Trust::Operator);
    assert_eq!(wire.send(net::fuzzing::UPGRADE), [ConnEvent::Opened]);
    assert!(wire.output().ends_with(b"\r\n\r\n"), "no challenge is sent");
    wire
}

fn strict() -> ConnConfig {
    let once = Rate::per_minute(1);
    let rates = Rates { messages: once, events: once, queries: once, invalid: once };
    ConnConfig { rates, auth_required: true, negentropy: true, ..config() }
}

#[test]
fn no_rate_and_no_auth_stands_before_an_operator() {
    let mut wire = operator(strict());
    let event = Signer::new(1).event(1, UNIX_S, "[]", "");
    for _ in 0..50 {
        wire.message(&event_message("EVENT", &event));
        wire.message("[\"REQ\",\"s\",{},{},{}]");
        wire.message("[\"COUNT\",\"s\",{}]");
        wire.message("[\"NEG-OPEN\",\"n\",{},\"61\"]");
        assert_eq!(wire.send(&client_frame(0x89, b"")), []);
        assert_eq!(wire.send_text("garbage"), []);
    }
    assert!(wire.conn.is_open());
    let frames = wire.frames();
    assert_eq!(frames.iter().filter(|frame| frame.opcode == 10).count(), 50);
    assert_eq!(wire.counters().refused[Reason::BadJson as usize], 50);

    // The same from anybody else.
    let mut wire = Wire::open(strict());
    assert_eq!(wire.send_text("[\"REQ\",\"s\",{}]"), []);
    assert_eq!(wire.reply(), "[\"CLOSED\",\"s\",\"auth-required: authenticate first\"]");
    assert_eq!(wire.conn.trust(), Trust::Public);
    wire.send_text("[\"REQ\",\"s\",{}]");
    assert_eq!(wire.counters().refused[Reason::RateMessages as usize], 1);
}

#[test]
fn an_operator_restores_protected_events_but_publishes_no_auth_event() {
    let mut wire = operator(config());
    let signer = Signer::new(1);
    let protected = signer.event(1, UNIX_S, "[[\"-\"]]", "");
    wire.message(&event_message("EVENT", &protected));
    let auth_event = signer.auth("wss://relay.example");
    assert_eq!(wire.send_text(&event_message("EVENT", &auth_event)), []);
    assert!(wire.reply().contains(Reason::AuthEventAsEvent.message()));
}

#[test]
fn sizes_deadlines_and_the_limits_on_output_hold_for_an_operator_too() {
    let mut small = config();
    small.limits.message_bytes_max = 100;
    let mut wire = operator(small);
    let long = client_frame(0x81, &[b' '; 101]);
    assert_eq!(wire.send(&long), [ConnEvent::Closing(CloseCause::MessageTooLong)]);

    let mut wire = operator(config());
    assert_eq!(wire.send(&long[..10]), []);
    wire.wait(30_000);
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(CloseCause::MessageTimeout));

    let mut wire = operator(config());
    let body = vec![b'x'; 300 * 1024];
    assert_eq!(wire.conn.deliver("s", &body, &mut wire.core), Pushed::Ok);
    assert_eq!(wire.conn.deliver("s", b"{}", &mut wire.core), Pushed::OverSoft);
}

#[test]
fn no_header_renames_an_operator() {
    let mut behind = config();
    behind.trusted_proxies.0.push("0.0.0.0/0".parse().unwrap());
    let mut wire = Wire::accept(behind);
    wire.conn = Conn::of_operator(wire.now, [7; 16], &wire.core);
    let request = String::from_utf8(net::fuzzing::UPGRADE.to_vec()).unwrap();
    let request = request.replacen("Host:", "X-Forwarded-For: 203.0.113.1\r\nHost:", 1);
    assert_eq!(wire.send(request.as_bytes()), [ConnEvent::Opened]);
    assert!(wire.conn.address().is_loopback());
}

#[test]
fn a_policy_speaks_in_ok_closed_and_neg_err() {
    let mut wire = Wire::open(config());
    let (conn, core, now) = (&mut wire.conn, &mut wire.core, wire.now);
    let id = EventId([0xab; 32]);
    let policy = Reason::Policy;
    let note = Some("not \"today\"\n\u{1}!");
    assert_eq!(conn.reply_ok(now, &id, Err(policy), note, core), Pushed::Ok);
    let pow = Some("pow: 20 bits, please");
    assert_eq!(conn.reply_ok(now, &id, Err(policy), pow, core), Pushed::Ok);
    assert_eq!(conn.reply_closed(now, "s", policy, note, core), Pushed::Ok);
    assert_eq!(conn.reply_closed(now, "s", policy, None, core), Pushed::Ok);
    assert_eq!(conn.reply_neg_err(now, "n", policy, note, None, core), Pushed::Ok);
    let many = Some(500_000);
    assert_eq!(conn.reply_neg_err(now, "n", Reason::NegTooMany, None, many, core), Pushed::Ok);
    assert_eq!(conn.reply_neg_msg("n", &[0x61, 0x00], core), Pushed::Ok);
    let hll = Hll::default();
    assert_eq!(conn.reply_count("c", 3, false, Some(&hll), core), Pushed::Ok);
    let long = "é".repeat(10_000);
    assert_eq!(conn.reply_ok(now, &id, Err(policy), Some(&long), core), Pushed::Ok);
    assert_eq!(core.counters.refused[policy as usize], 6);
    let frames = wire.frames();
    let texts: Vec<&str> = frames.iter().map(|frame| frame.text()).collect();
    let said = "\"blocked: not \\\"today\\\"\\n\\u0001!\"";
    let cut = "é".repeat(NOTE_BYTES_MAX / 2);
    assert_eq!(
        texts,
        [
            format!("[\"OK\",\"{id}\",false,{said}]"),
            format!("[\"OK\",\"{id}\",false,\"pow: 20 bits, please\"]"),
            format!("[\"CLOSED\",\"s\",{said}]"),
            format!("[\"CLOSED\",\"s\",\"{}\"]", policy.message()),
            format!("[\"NEG-ERR\",\"n\",{said}]"),
            format!("[\"NEG-ERR\",\"n\",\"{}\",500000]", Reason::NegTooMany.message()),
            "[\"NEG-MSG\",\"n\",\"6100\"]".into(),
            format!("[\"COUNT\",\"c\",{{\"count\":3,\"hll\":\"{}\"}}]", "0".repeat(512)),
            format!("[\"OK\",\"{id}\",false,\"blocked: {cut}\"]"),
        ]
    );
}

#[test]
fn negentropy_is_refused_while_it_is_off_and_after_auth_only_where_that_is_asked() {
    for (config, reason) in [
        (config(), Reason::NegOff),
        (ConnConfig { auth_required: true, negentropy: true, ..config() }, Reason::AuthFirst),
    ] {
        for text in ["[\"NEG-OPEN\",\"n\",{},\"61\"]", "[\"NEG-MSG\",\"n\",\"61\"]"] {
            let mut wire = Wire::open(config.clone());
            assert_eq!(wire.send_text(text), []);
            assert_eq!(wire.reply(), format!("[\"NEG-ERR\",\"n\",\"{}\"]", reason.message()));
        }
    }
}
