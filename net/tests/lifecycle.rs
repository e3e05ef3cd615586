//! Deadlines, rates, budgets, parking, AUTH: a connection over its life.
#![allow(clippy::unwrap_used)]

mod support;

use net::outbox::CHUNK_BYTES;
use net::{CloseCause, Conn, ConnConfig, ConnEvent, Pushed, Rate, Rates, Teardown};
use proto::message::Completeness;
use proto::{ClientMessage, EventId, Reason};
use support::{Signer, UNIX_S, Wire, client_frame, config, event_message, server_frames};

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Conn>() <= 300, "{} bytes", size_of::<Conn>());
    let wire = Wire::open(config());
    assert_eq!(wire.core.input.held_bytes(), 0);
    assert_eq!(wire.core.outboxes.held_bytes(), 0, "chunks went back");
}

// --- deadlines ------------------------------------------------------------------------------------

#[test]
fn an_upgrade_that_trickles_in_is_cut_off() {
    let mut wire = Wire::accept(config());
    let start_ms = wire.now.monotonic_ms;
    assert_eq!(wire.conn.next_deadline_ms(&wire.core), start_ms + 5_000);
    for byte in &net::fuzzing::UPGRADE[..49] {
        assert_eq!(wire.send(&[*byte]), []);
        wire.wait(100);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
    }
    wire.wait(100);
    let cause = CloseCause::HandshakeTimeout;
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(cause));
    assert_eq!(wire.conn.teardown(), Teardown::Close);
    assert_eq!(wire.conn.next_deadline_ms(&wire.core), u64::MAX);
    assert_eq!(wire.conn.release(&mut wire.core), cause);
}

#[test]
fn a_message_that_trickles_in_is_cut_off() {
    let mut wire = Wire::open(config());
    let frame = client_frame(0x81, &[b' '; 100]);
    assert_eq!(wire.send(&frame[..1]), []);
    let deadline_ms = wire.now.monotonic_ms + 30_000;
    for byte in &frame[1..30] {
        wire.wait(1_000);
        assert_eq!(wire.send(&[*byte]), []);
        assert_eq!(wire.conn.next_deadline_ms(&wire.core), deadline_ms);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
    }
    wire.wait(1_000);
    let cause = CloseCause::MessageTimeout;
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(cause));
    assert_eq!(wire.frames().last().unwrap().close().0, 1008);
    assert_eq!(wire.conn.teardown(), Teardown::HalfClose);
    assert_eq!(wire.core.input.held_bytes(), 0);
}

#[test]
fn fragments_do_not_extend_the_deadline() {
    let mut wire = Wire::open(config());
    assert_eq!(wire.send(&client_frame(0x01, b" ")), []);
    for _ in 0..29 {
        wire.wait(1_000);
        assert_eq!(wire.send(&client_frame(0x00, b" ")), []);
        assert_eq!(wire.send(&client_frame(0x89, b"")), []);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
    }
    wire.wait(1_000);
    let cause = CloseCause::MessageTimeout;
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(cause));
}

#[test]
fn a_zombie_is_gone_after_ninety_seconds_whatever_it_subscribed_to() {
    let mut wire = Wire::open(config());
    for _ in 0..2 {
        wire.wait(29_999);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
        assert_eq!(wire.frames(), []);
        wire.wait(1);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
        let frames = wire.frames();
        assert_eq!((frames.len(), frames[0].opcode), (1, 9));
    }
    wire.wait(30_000);
    let cause = CloseCause::PingTimeout;
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(cause));
    assert_eq!(wire.conn.teardown(), Teardown::Close);
    assert_eq!(wire.counters().pings, 2);
}

#[test]
fn a_slow_reader_whose_backlog_moves_is_alive() {
    let mut wire = Wire::open(config());
    let body = vec![b'x'; 8 * CHUNK_BYTES];
    assert_eq!(wire.conn.deliver_stored("s", &body, &mut wire.core), Pushed::Ok);
    // A chunk in each interval, and never a byte from the peer.
    for _ in 0..8 {
        let chunk = wire.conn.take_chunk().unwrap();
        wire.conn.chunk_sent(chunk, &mut wire.core);
        wire.wait(30_000);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
    }
    // Then it stops reading.
    wire.wait(30_000);
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
    wire.wait(30_000);
    let cause = CloseCause::PingTimeout;
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(cause));
}

#[test]
fn a_peer_that_never_closes_is_left_behind() {
    let mut wire = Wire::open(config());
    wire.conn.begin_close(wire.now, CloseCause::ShuttingDown, &mut wire.core);
    assert_eq!(wire.frames()[0].close(), (1001, "relay is shutting down"));
    assert_eq!(wire.send_text("[\"CLOSE\",\"s\"]"), [], "messages are not taken any more");
    assert_eq!(wire.conn.deliver("s", b"{}", &mut wire.core), Pushed::Closed);
    assert_eq!(wire.conn.teardown(), Teardown::None);
    wire.wait(5_000);
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
    assert_eq!(wire.conn.teardown(), Teardown::Close);
    assert_eq!(wire.conn.release(&mut wire.core), CloseCause::ShuttingDown);
}

#[test]
fn a_request_in_the_making_is_refused_at_shutdown() {
    let mut wire = Wire::accept(config());
    assert_eq!(wire.send(b"GET / HT"), []);
    wire.conn.begin_close(wire.now, CloseCause::ShuttingDown, &mut wire.core);
    assert!(wire.output().starts_with(b"HTTP/1.1 503 "));
    assert_eq!(wire.conn.teardown(), Teardown::HalfClose);
}

#[test]
fn a_socket_that_ends_is_counted() {
    let mut wire = Wire::open(config());
    assert_eq!(wire.conn.release(&mut wire.core), CloseCause::PeerGone);
    assert_eq!(wire.core.counters.closed[CloseCause::PeerGone as usize], 1);
}

// --- rates ----------------------------------------------------------------------------------------

#[test]
fn events_beyond_the_rate_are_refused_by_their_id_alone() {
    let rates = Rates { events: Rate::per_second(1), ..Rates::default() };
    let mut wire = Wire::open(ConnConfig { rates, ..config() });
    let event = Signer::new(1).event(1, UNIX_S, "[]", "");
    let text = event_message("EVENT", &event);
    for _ in 0..10 {
        wire.message(&text);
    }
    let refused = format!(
        "[\"OK\",\"{}\",false,\"rate-limited: too many events, slow down\"]",
        event.view().id()
    );
    assert_eq!(wire.send_text(&text), []);
    assert_eq!(wire.reply(), refused);
    // It is not parsed: the rest may be anything.
    let id = event.view().id();
    assert_eq!(wire.send_text(&format!("[\"EVENT\",{{\"id\":\"{id}\",garbage")), []);
    assert_eq!(wire.reply(), refused);
    wire.message("[\"REQ\",\"s\",{}]");
    wire.wait(1_000);
    wire.message(&text);
}

#[test]
fn auth_is_charged_like_an_event() {
    let rates = Rates { events: Rate::per_second(1), ..Rates::default() };
    let mut wire = Wire::open(ConnConfig { rates, ..config() });
    let signer = Signer::new(1);
    let event = signer.auth("wss://relay.example");
    for _ in 0..10 {
        let (events, _) = auth(&mut wire, &event);
        assert_eq!(events, [ConnEvent::Authenticated(signer.key())]);
    }
    let (events, reply) = auth(&mut wire, &event);
    assert_eq!(events, []);
    assert_eq!(reply, format!("false,\"{}\"]", Reason::RateEvents.message()));
    wire.message("[\"REQ\",\"s\",{}]");
    wire.wait(1_000);
    assert_eq!(auth(&mut wire, &event).0, [ConnEvent::Authenticated(signer.key())]);
}

#[test]
fn verbs_written_with_escapes_are_charged_alike() {
    for verb in ["EVENT", "AUTH"] {
        let rates = Rates { events: Rate::per_second(1), ..Rates::default() };
        let mut wire = Wire::open(ConnConfig { rates, ..config() });
        let event = match verb {
            "AUTH" => Signer::new(1).auth("wss://relay.example"),
            _ => Signer::new(1).event(1, UNIX_S, "[]", ""),
        };
        let escaped = format!("\\u{:04x}{}", verb.as_bytes()[0], &verb[1..]);
        let text = event_message(&escaped, &event);
        for _ in 0..10 {
            assert_eq!(wire.send_text(&text).len(), 1);
        }
        wire.frames();
        assert_eq!(wire.send_text(&text), []);
        assert!(wire.reply().ends_with(&format!("false,\"{}\"]", Reason::RateEvents.message())));
    }
}

#[test]
fn queries_cost_one_for_each_filter() {
    let rates = Rates { queries: Rate::per_second(1), ..Rates::default() };
    let mut wire = Wire::open(ConnConfig { rates, ..config() });
    let four = "[\"REQ\",\"s\",{},{},{},{}]";
    wire.message(four);
    wire.message(&four.replacen("REQ", "COUNT", 1));
    let refused = "[\"CLOSED\",\"s\",\"rate-limited: too many queries, slow down\"]";
    assert_eq!(wire.send_text(four), []);
    assert_eq!(wire.reply(), refused);
    wire.message("[\"REQ\",\"s\",{},{}]");
    assert_eq!(wire.send_text("[\"REQ\",\"s\",not even looked at"), []);
    assert_eq!(wire.reply(), refused);
    wire.message("[\"CLOSE\",\"s\"]");
}

#[test]
fn messages_beyond_the_rate_are_answered_in_kind() {
    let rates = Rates { messages: Rate::per_second(1), ..Rates::default() };
    let mut wire = Wire::open(ConnConfig { rates, ..config() });
    for _ in 0..10 {
        wire.message("[\"CLOSE\",\"s\"]");
    }
    let why = "rate-limited: too many messages, slow down";
    let id = EventId([0xab; 32]);
    for (text, answer) in [
        ("[\"CLOSE\",\"s\"]".to_owned(), format!("[\"NOTICE\",\"{why}\"]")),
        ("[\"REQ\",\"s\",{}]".to_owned(), format!("[\"CLOSED\",\"s\",\"{why}\"]")),
        ("[\"COUNT\",\"t\",{}]".to_owned(), format!("[\"CLOSED\",\"t\",\"{why}\"]")),
        (format!("[\"EVENT\",{{\"id\":\"{id}\"}}]"), format!("[\"OK\",\"{id}\",false,\"{why}\"]")),
        (format!("[\"AUTH\",{{\"id\":\"{id}\"}}]"), format!("[\"OK\",\"{id}\",false,\"{why}\"]")),
    ] {
        assert_eq!(wire.send_text(&text), []);
        assert_eq!(wire.reply(), answer);
    }
    assert_eq!(wire.send(&client_frame(0x89, b"ping")), []);
    assert_eq!(wire.frames(), [], "pings count, too");
    assert!(wire.conn.is_open());
    assert_eq!(wire.counters().refused[Reason::RateMessages as usize], 5);
}

// --- budgets of output ----------------------------------------------------------------------------

#[test]
fn a_slow_reader_loses_its_subscription_first_then_its_connection() {
    let mut wire = Wire::open(config());
    let event = vec![b'x'; 10_000];
    let mut delivered = 0;
    while wire.conn.deliver("live", &event, &mut wire.core) == Pushed::Ok {
        delivered += 1;
        assert!(delivered < 1_000);
    }
    let pending = wire.conn.outbox().pending_bytes();
    assert!((256 * 1024..256 * 1024 + 10_100).contains(&pending), "{pending}");
    assert_eq!(wire.counters().over_soft, 1);
    assert!(wire.conn.is_open(), "only the subscription is to go");
    let pushed = wire.conn.reply_closed(wire.now, "live", Reason::SlowReader, None, &mut wire.core);
    assert_eq!(pushed, Pushed::Ok, "answers still go");
    assert_eq!(wire.counters().refused[Reason::SlowReader as usize], 1);

    let mut stored = 0;
    while wire.conn.deliver_stored("old", &event, &mut wire.core) == Pushed::Ok {
        stored += 1;
        assert!(stored < 1_000);
        assert!(!wire.conn.outbox().is_below_low_water(&wire.core.config.outbox));
    }
    assert!(wire.conn.outbox().pending_bytes() == 0, "what was queued is freed");
    assert_eq!(wire.conn.close_cause(), Some(CloseCause::OutboxFull));
    assert_eq!(wire.conn.teardown(), Teardown::Close);
    assert_eq!(wire.core.outboxes.held_bytes(), 0);
    let total = (delivered + stored) * event.len();
    assert!((900 * 1024..1024 * 1024).contains(&total), "{total} bytes were taken in all");
}

#[test]
fn a_reader_that_catches_up_is_served_on() {
    let mut wire = Wire::open(config());
    let event = vec![b'x'; 10_000];
    while wire.conn.deliver("live", &event, &mut wire.core) == Pushed::Ok {}
    assert!(!wire.frames().is_empty());
    assert!(wire.conn.outbox().is_below_low_water(&wire.core.config.outbox));
    assert_eq!(wire.conn.deliver("live", &event, &mut wire.core), Pushed::Ok);
}

#[test]
fn chunks_in_flight_count_until_they_are_sent() {
    let mut wire = Wire::open(config());
    let body = vec![b'x'; 3 * CHUNK_BYTES];
    assert_eq!(wire.conn.deliver("s", &body, &mut wire.core), Pushed::Ok);
    let pending = wire.conn.outbox().pending_bytes();
    assert_eq!(wire.core.outboxes.held_bytes(), 4 * CHUNK_BYTES);
    let first = wire.conn.take_chunk().unwrap();
    let second = wire.conn.take_chunk().unwrap();
    assert_eq!((first.len(), second.len()), (CHUNK_BYTES, CHUNK_BYTES));
    assert_eq!(wire.conn.outbox().pending_bytes(), pending);
    wire.conn.chunk_sent(first, &mut wire.core);
    assert_eq!(wire.conn.outbox().pending_bytes(), pending - CHUNK_BYTES);
    // The connection ends with a write under way: its chunk comes back by itself.
    wire.conn.release(&mut wire.core);
    assert_eq!(wire.core.outboxes.held_bytes(), CHUNK_BYTES);
    wire.core.outboxes.recycle(second);
    assert_eq!(wire.core.outboxes.held_bytes(), 0);
}

#[test]
fn many_small_frames_leave_in_one_chunk() {
    let mut wire = Wire::open(config());
    for _ in 0..100 {
        let pushed = wire.conn.reply_eose("s", Completeness::Finish, &mut wire.core);
        assert_eq!(pushed, Pushed::Ok);
    }
    let chunk = wire.conn.take_chunk().unwrap();
    assert_eq!(wire.conn.take_chunk(), None);
    let frames = server_frames(&chunk);
    assert_eq!(frames.len(), 100);
    assert_eq!(frames[99].text(), "[\"EOSE\",\"s\",[\"finish\"]]");
}

#[test]
fn the_core_says_when_all_outboxes_together_are_too_large() {
    let config = ConnConfig { outbox_total_bytes_max: 4 * CHUNK_BYTES, ..config() };
    let mut wire = Wire::open(config);
    let body = vec![b'x'; CHUNK_BYTES / 2];
    for _ in 0..7 {
        assert_eq!(wire.conn.deliver("s", &body, &mut wire.core), Pushed::Ok);
    }
    assert!(!wire.core.outboxes.is_over());
    assert_eq!(wire.conn.deliver("s", &body, &mut wire.core), Pushed::Ok);
    assert!(wire.core.outboxes.is_over());
    wire.conn.abort(CloseCause::OutboxEvicted, &mut wire.core);
    assert!(!wire.core.outboxes.is_over());
    assert_eq!(wire.conn.release(&mut wire.core), CloseCause::OutboxEvicted);
}

// --- parking --------------------------------------------------------------------------------------

#[test]
fn the_engine_may_stop_between_two_messages() {
    let mut wire = Wire::open(config());
    let frames: Vec<u8> = ["a", "b", "c"]
        .iter()
        .flat_map(|sub| client_frame(0x81, format!("[\"CLOSE\",\"{sub}\"]").as_bytes()))
        .collect();
    let mut data = frames.as_slice();
    let mut seen = Vec::new();
    for round in 0..3 {
        let event = wire.conn.next(wire.now, &mut data, &mut wire.core).unwrap();
        seen.push(event);
        wire.conn.stash(data, &mut wire.core);
        assert!(wire.conn.is_parked());
        assert_eq!(wire.core.input.held_bytes(), frames.len() / 3 * (2 - round));
        // Its Pong would be unread in the socket, so time does not run against it.
        for _ in 0..5 {
            wire.wait(30_000);
            assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
        }
        let rest = wire.conn.take_stash(&mut wire.core);
        assert_eq!(wire.core.input.held_bytes(), 0);
        data = &frames[frames.len() - rest.len()..];
        assert_eq!(data, rest);
    }
    let subs = ["a", "b", "c"].map(|sub| ConnEvent::Message(ClientMessage::Close(sub.into())));
    assert_eq!(seen, subs);
    assert_eq!(wire.conn.next(wire.now, &mut data, &mut wire.core), None);
    assert_eq!(wire.frames(), [], "a parked client is not pinged");
}

#[test]
fn what_was_stashed_is_given_back_at_the_end() {
    let mut wire = Wire::open(config());
    wire.conn.stash(b"rest", &mut wire.core);
    wire.conn.release(&mut wire.core);
    assert_eq!(wire.core.input.held_bytes(), 0);
}

// --- AUTH -----------------------------------------------------------------------------------------

fn auth(wire: &mut Wire, event: &proto::Event) -> (Vec<ConnEvent>, String) {
    let events = wire.send_text(&event_message("AUTH", event));
    let prefix = format!("[\"OK\",\"{}\",", event.view().id());
    let reply = wire.reply();
    (events, reply.strip_prefix(&prefix).unwrap().to_owned())
}

#[test]
fn several_keys_authenticate_and_each_is_answered() {
    let config = ConnConfig { auth_keys_max: 2, ..config() };
    let mut wire = Wire::open(config);
    for secret in [1, 2, 1] {
        let signer = Signer::new(secret);
        let (events, reply) = auth(&mut wire, &signer.auth("wss://relay.example/"));
        assert_eq!(events, [ConnEvent::Authenticated(signer.key())]);
        assert_eq!(reply, "true,\"\"]");
    }
    assert_eq!(wire.conn.keys(), [Signer::new(1).key(), Signer::new(2).key()]);
    assert_eq!(wire.counters().authenticated, 2);
    let (events, reply) = auth(&mut wire, &Signer::new(3).auth("wss://relay.example"));
    assert_eq!(events, []);
    let expected = "false,\"rate-limited: too many keys authenticated on this connection\"]";
    assert_eq!(reply, expected);
}

#[test]
fn an_auth_event_must_be_right_in_every_way() {
    let signer = Signer::new(1);
    let tags = |relay: &str, challenge: &str| {
        format!("[[\"relay\",\"{relay}\"],[\"challenge\",\"{challenge}\"]]")
    };
    let right = tags("wss://relay.example", &"07".repeat(16));
    let mut forged = signer.auth("wss://relay.example").packed().to_vec();
    forged[100] ^= 1;
    let mut renamed = signer.auth("wss://relay.example").packed().to_vec();
    renamed[0] ^= 1;
    for (event, reason) in [
        (signer.event(1, UNIX_S, &right, ""), Reason::AuthBadEvent),
        (signer.event(22_242, UNIX_S, "[]", ""), Reason::AuthBadEvent),
        (signer.event(22_242, UNIX_S - 601, &right, ""), Reason::AuthBadTime),
        (signer.event(22_242, UNIX_S + 601, &right, ""), Reason::AuthBadTime),
        (
            signer.event(22_242, UNIX_S, &tags("wss://relay.example", "else"), ""),
            Reason::AuthBadChallenge,
        ),
        (signer.auth("wss://other.example"), Reason::AuthBadRelay),
        (proto::Event::from_packed(&forged).unwrap(), Reason::BadSignature),
        (proto::Event::from_packed(&renamed).unwrap(), Reason::IdMismatch),
    ] {
        let mut wire = Wire::open(config());
        let (events, reply) = auth(&mut wire, &event);
        assert_eq!(events, []);
        assert_eq!(reply, format!("false,\"{}\"]", reason.message()));
        assert_eq!(wire.counters().refused[reason as usize], 1);
        assert!(wire.conn.keys().is_empty());
        for _ in 0..20 {
            wire.send_text(&event_message("AUTH", &event));
        }
        assert_eq!(wire.conn.close_cause(), Some(CloseCause::InvalidLimit));
    }
}

#[test]
fn without_a_public_url_the_host_of_the_upgrade_counts() {
    let config = ConnConfig { public_url: None, ..config() };
    let mut wire = Wire::open(config.clone());
    let (_, reply) = auth(&mut wire, &Signer::new(1).auth("ws://relay.example"));
    assert_eq!(reply, "true,\"\"]");
    let mut wire = Wire::open(config);
    let (_, reply) = auth(&mut wire, &Signer::new(1).auth("ws://other.example"));
    assert_eq!(reply, format!("false,\"{}\"]", Reason::AuthBadRelay.message()));
}

#[test]
fn auth_before_anything_when_it_is_required() {
    let mut wire = Wire::open(ConnConfig { auth_required: true, ..config() });
    let event = Signer::new(1).event(1, UNIX_S, "[]", "");
    let why = "auth-required: authenticate first";
    assert_eq!(wire.send_text(&event_message("EVENT", &event)), []);
    assert_eq!(wire.reply(), format!("[\"OK\",\"{}\",false,\"{why}\"]", event.view().id()));
    for verb in ["REQ", "COUNT"] {
        assert_eq!(wire.send_text(&format!("[\"{verb}\",\"s\",{{}}]")), []);
        assert_eq!(wire.reply(), format!("[\"CLOSED\",\"s\",\"{why}\"]"));
    }
    auth(&mut wire, &Signer::new(9).auth("wss://relay.example"));
    wire.message(&event_message("EVENT", &event));
    wire.message("[\"REQ\",\"s\",{}]");
}

#[test]
fn protected_and_auth_events_are_stopped_at_the_connection() {
    let mut wire = Wire::open(config());
    let signer = Signer::new(1);
    let protected = signer.event(1, UNIX_S, "[[\"-\"]]", "");
    let refused = |event: &proto::Event, reason: Reason| {
        format!("[\"OK\",\"{}\",false,\"{}\"]", event.view().id(), reason.message())
    };
    assert_eq!(wire.send_text(&event_message("EVENT", &protected)), []);
    assert_eq!(wire.reply(), refused(&protected, Reason::ProtectedNeedsAuth));
    auth(&mut wire, &Signer::new(2).auth("wss://relay.example"));
    assert_eq!(wire.send_text(&event_message("EVENT", &protected)), []);
    assert_eq!(wire.reply(), refused(&protected, Reason::ProtectedNotAuthor));
    auth(&mut wire, &signer.auth("wss://relay.example"));
    wire.message(&event_message("EVENT", &protected));
    let auth_event = signer.auth("wss://relay.example");
    assert_eq!(wire.send_text(&event_message("EVENT", &auth_event)), []);
    assert_eq!(wire.reply(), refused(&auth_event, Reason::AuthEventAsEvent));
}

// --- replies and reload ---------------------------------------------------------------------------

#[test]
fn every_reply_is_a_frame() {
    let mut wire = Wire::open(config());
    let (conn, core, now) = (&mut wire.conn, &mut wire.core, wire.now);
    let id = EventId([0xab; 32]);
    assert_eq!(conn.reply_ok(now, &id, Ok(()), None, core), Pushed::Ok);
    assert_eq!(conn.reply_eose("a\"b", Completeness::More, core), Pushed::Ok);
    assert_eq!(conn.reply_closed(now, "s", Reason::ScanBudget, None, core), Pushed::Ok);
    assert_eq!(conn.reply_notice(now, Reason::ShuttingDown, core), Pushed::Ok);
    assert_eq!(conn.reply_count("s", 7, true, None, core), Pushed::Ok);
    assert_eq!(conn.deliver("s", b"{\"id\":1}", core), Pushed::Ok);
    let texts: Vec<String> = wire.frames().iter().map(|frame| frame.text().to_owned()).collect();
    assert_eq!(
        texts,
        [
            format!("[\"OK\",\"{id}\",true,\"\"]"),
            "[\"EOSE\",\"a\\\"b\",[\"more\"]]".into(),
            "[\"CLOSED\",\"s\",\"error: query takes too long, narrow it\"]".into(),
            "[\"NOTICE\",\"error: relay is shutting down\"]".into(),
            "[\"COUNT\",\"s\",{\"count\":7,\"approximate\":true}]".into(),
            "[\"EVENT\",\"s\",{\"id\":1}]".into(),
        ]
    );
}

#[test]
fn a_reload_changes_open_connections() {
    let mut wire = Wire::open(config());
    let mut changed = config();
    changed.limits.message_bytes_max = 10;
    wire.core.reload(changed);
    let events = wire.send_text("[\"CLOSE\",\"s\"]");
    assert_eq!(events, [ConnEvent::Closing(CloseCause::MessageTooLong)]);
}
