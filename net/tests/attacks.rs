//! Attacks on connections, by the mechanism that answers each: who is closed and why, which counter
//! moves, how many bytes are held. One core serves attackers and an honest client together.
//!
//! | attack | mechanism | where else it is tested |
//! |---|---|---|
//! | slow request head | handshake deadline, counted heads | `http.rs`: size and number of headers |
//! | slow message | deadline of a message | `lifecycle.rs`: single bytes, fragments, pings between |
//! | large length in a header | refused by the header | `frames.rs`, `deflate.rs` |
//! | tiny and empty fragments | count, one buffer | `frames.rs` |
//! | unfinished messages everywhere | budget of the core | `frames.rs`: one connection |
//! | deflate bomb | steps, limit | `deflate.rs` |
//! | zombie with subscriptions | pings, whatever is sent to it | `lifecycle.rs`: without any |
//! | slow reader | soft and hard limit, eviction | `lifecycle.rs` |
//! | flood of pings, of messages, of garbage | buckets | `lifecycle.rs`, `malformed.rs` |
//! | flood of NEG-MSG | the bucket of queries | here |
//! | forged forwarded address | read from the right, trusted proxies only | `http.rs`, `proxy.rs` |
//! | many addresses | bounded map | `admission.rs` |
//! | flood of the log | nothing is logged here; what is counted has a fixed set of names | here |
#![allow(clippy::unwrap_used)]

mod support;

use core::net::IpAddr;
use net::outbox::CHUNK_BYTES;
use net::{
    Admission, AdmissionConfig, CloseCause, Conn, ConnConfig, ConnCore, ConnEvent, Pushed, Refusal,
    Teardown, TrustedProxies,
};
use proto::{Now, Reason, Secret, SeededState};
use support::{UNIX_S, Wire, client_frame, config};

/// Attackers of one attack.
const CROWD: usize = 2_000;

/// Many connections on one core.
struct Crowd {
    core: ConnCore,
    conns: Vec<Conn>,
    now: Now,
}

impl Crowd {
    fn accepted(config: ConnConfig) -> Self {
        let core = net::fuzzing::core(config);
        let now = Now { monotonic_ms: 1_000_000, unix_s: UNIX_S };
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let conns = (0..CROWD).map(|_| Conn::new(now, peer, [7; 16], &core)).collect();
        Self { core, conns, now }
    }

    fn open(config: ConnConfig) -> Self {
        let mut crowd = Self::accepted(config);
        crowd.send(net::fuzzing::UPGRADE);
        crowd.drain();
        crowd
    }

    /// Everyone sends the same; returns how many connections began to close, by one cause each.
    fn send(&mut self, bytes: &[u8]) -> Vec<CloseCause> {
        let mut causes = Vec::new();
        for conn in &mut self.conns {
            let mut data = bytes;
            while let Some(event) = conn.next(self.now, &mut data, &mut self.core) {
                if let ConnEvent::Closing(cause) = event {
                    causes.push(cause);
                }
            }
        }
        causes
    }

    fn tick(&mut self) -> Vec<CloseCause> {
        let conns = self.conns.iter_mut();
        conns.filter_map(|conn| conn.tick(self.now, &mut self.core)).collect()
    }

    /// The sockets take everything.
    fn drain(&mut self) {
        for conn in &mut self.conns {
            while let Some(chunk) = conn.take_chunk() {
                conn.chunk_sent(chunk, &mut self.core);
            }
        }
    }

    /// An honest client comes in, sends a message and is heard.
    fn serves_an_honest_client(&mut self) {
        let peer: IpAddr = "198.51.100.1".parse().unwrap();
        let mut conn = Conn::new(self.now, peer, [8; 16], &self.core);
        let frame = client_frame(0x81, b"[\"REQ\",\"honest\",{}]");
        let bytes = [net::fuzzing::UPGRADE, &frame].concat();
        let (head, tail) = bytes.split_at(100);
        let mut seen = Vec::new();
        for mut piece in [head, tail] {
            while let Some(event) = conn.next(self.now, &mut piece, &mut self.core) {
                seen.push(event);
            }
        }
        assert!(matches!(seen[..], [ConnEvent::Opened, ConnEvent::Message(_)]), "{seen:?}");
        conn.release(&mut self.core);
    }

    /// Everyone leaves; the core holds nothing any more.
    fn leave(mut self, cause: CloseCause) {
        for conn in self.conns.drain(..) {
            assert_eq!(conn.release(&mut self.core), cause);
        }
        assert_eq!(self.core.counters.closed[cause as usize], CROWD as u64);
        assert_eq!((self.core.input.held_bytes(), self.core.outboxes.held_bytes()), (0, 0));
    }
}

#[test]
fn slow_request_heads_are_counted_and_cut_off_and_lock_nobody_out() {
    let mut crowd = Crowd::accepted(ConnConfig { input_bytes_max: 1 << 20, ..config() });
    assert_eq!(crowd.send(b"GET / HTTP/1.1\r\n"), []);
    for _ in 0..49 {
        crowd.now.monotonic_ms += 100;
        assert_eq!(crowd.send(format!("X: {}\r\n", "y".repeat(120)).as_bytes()), []);
        assert_eq!(crowd.tick(), []);
    }
    let held = crowd.core.input.held_bytes();
    assert!((CROWD * 6_000..=CROWD * 16_384).contains(&held), "{held} bytes are counted");
    crowd.serves_an_honest_client();
    crowd.now.monotonic_ms += 100;
    assert_eq!(crowd.tick(), [CloseCause::HandshakeTimeout; CROWD]);
    assert!(crowd.conns.iter().all(|conn| conn.teardown() == Teardown::Close));
    assert_eq!(crowd.core.input.held_bytes(), 0, "at once, not when the sockets are gone");
    crowd.leave(CloseCause::HandshakeTimeout);
}

#[test]
fn a_slow_sender_has_thirty_seconds_however_little_is_left() {
    let mut wire = Wire::open(config());
    // Half a kibibyte a second; the last byte would come after two minutes.
    let frame = client_frame(0x81, &[b' '; 64 * 1024]);
    for piece in frame.chunks(512).take(30) {
        assert_eq!(wire.send(piece), []);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
        wire.wait(1_000);
    }
    let held = wire.core.input.held_bytes();
    assert!(held <= 2 * 30 * 512 + 1_024, "{held} bytes for 15 KiB received");
    assert_eq!(wire.conn.tick(wire.now, &mut wire.core), Some(CloseCause::MessageTimeout));
    assert_eq!(wire.core.input.held_bytes(), 0);
    assert_eq!(wire.frames().last().unwrap().close().0, 1008);

    // The same message from one who sends it in time.
    let mut wire = Wire::open(config());
    for piece in frame.chunks(4 * 1024) {
        wire.wait(1_000);
        assert_eq!(wire.send(piece), []);
        assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
    }
    assert_eq!(wire.counters().messages, 1);
}

#[test]
fn a_large_length_is_refused_by_its_header_and_costs_nothing() {
    for length in [u64::MAX >> 1, 1 << 40, 512 * 1024 + 1] {
        let mut wire = Wire::open(config());
        let mut header = vec![0x81, 0xff];
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&[1, 2, 3, 4]);
        let (last, first) = header.split_last().unwrap();
        assert_eq!(wire.send(first), []);
        assert!(wire.core.input.held_bytes() < 1_024);
        assert_eq!(wire.send(&[*last]), [ConnEvent::Closing(CloseCause::MessageTooLong)]);
        assert_eq!(wire.core.input.held_bytes(), 0);
        assert_eq!(wire.frames().last().unwrap().close().0, 1009);
    }
}

#[test]
fn fragments_cost_no_more_than_their_bytes() {
    // 64 fragments of whatever size are one buffer.
    for fragment_bytes in [0, 1, 100, 8_000] {
        let mut wire = Wire::open(config());
        let mut received = 0;
        for at in 0..64 {
            let first = if at == 0 { 0x01 } else { 0x00 };
            let frame = client_frame(first, &vec![b' '; fragment_bytes]);
            received += frame.len();
            assert_eq!(wire.send(&frame), []);
            let held = wire.core.input.held_bytes();
            assert!(held <= 2 * received + 512, "{held} bytes held for {received} received");
        }
        let one_more = client_frame(0x80, b"");
        let cause = CloseCause::TooManyFragments;
        assert_eq!(wire.send(&one_more), [ConnEvent::Closing(cause)], "{fragment_bytes}");
        assert_eq!(wire.core.input.held_bytes(), 0);
        assert_eq!(wire.conn.release(&mut wire.core), cause);
        assert_eq!(wire.core.counters.closed[cause as usize], 1);
    }
}

#[test]
fn unfinished_messages_of_all_together_keep_to_the_budget() {
    const BUDGET: usize = 16 << 20;
    let mut crowd = Crowd::open(ConnConfig { input_bytes_max: BUDGET, ..config() });
    let frame = client_frame(0x81, &[b' '; 100_000]);
    let refused = crowd.send(&frame[..50_000]);
    let kept = CROWD - refused.len();
    assert!(refused.iter().all(|cause| *cause == CloseCause::InputBudget));
    assert!((100..=BUDGET / 50_000).contains(&kept), "{kept} messages fit into the budget");
    assert!(crowd.core.input.held_bytes() <= BUDGET);
    crowd.serves_an_honest_client();
    // Each of those who were let in is served or, if its message grows beyond what is left, reads
    // why not; none is left half-way.
    let mut served = 0;
    for conn in crowd.conns.iter_mut().filter(|conn| conn.is_open()) {
        let mut data = &frame[50_000..];
        match conn.next(crowd.now, &mut data, &mut crowd.core) {
            None => served += 1,
            Some(event) => assert_eq!(event, ConnEvent::Closing(CloseCause::InputBudget)),
        }
    }
    assert!(served >= kept as u64 / 2, "{served} of {kept}");
    assert_eq!(crowd.core.counters.messages, served + 1);
    assert_eq!(crowd.core.input.held_bytes(), 0);
}

#[test]
fn zombies_with_subscriptions_are_gone_after_ninety_seconds() {
    let mut crowd = Crowd::open(config());
    crowd.send(&client_frame(0x81, b"[\"REQ\",\"s\",{\"kinds\":[1]}]"));
    let mut gone = Vec::new();
    for second in 1..=91 {
        crowd.now.monotonic_ms += 1_000;
        gone.extend(crowd.tick().into_iter().map(|cause| (second, cause)));
        // Events flow to them all the while, and their kernels take what is sent.
        if second % 10 == 0 {
            for conn in crowd.conns.iter_mut().filter(|conn| conn.is_open()) {
                assert_eq!(conn.deliver("s", b"{\"id\":1}", &mut crowd.core), Pushed::Ok);
            }
            crowd.drain();
        }
    }
    // The first interval ends at 30 s; they were heard in it, so that the third ping is at 90 s.
    assert_eq!(gone, [(90, CloseCause::PingTimeout); CROWD]);
    crowd.leave(CloseCause::PingTimeout);
}

#[test]
fn readers_that_stop_hold_their_limit_and_the_largest_goes_first() {
    let config = ConnConfig { outbox_total_bytes_max: 64 << 20, ..config() };
    let mut crowd = Crowd::open(config);
    let body = vec![b'x'; 4_000];
    for _ in 0..200 {
        for conn in &mut crowd.conns[..100] {
            // Over the soft limit the event is not queued; the engine closes the subscription.
            let pushed = conn.deliver("s", &body, &mut crowd.core);
            assert!(matches!(pushed, Pushed::Ok | Pushed::OverSoft));
        }
    }
    let soft_bytes = crowd.core.config.outbox.soft_bytes;
    for conn in &crowd.conns[..100] {
        assert!(conn.outbox().pending_bytes() < soft_bytes + 4_100);
    }
    assert_eq!(crowd.core.counters.over_soft, 100 * (200 - 66));
    let held = crowd.core.outboxes.held_bytes();
    assert!(held <= 100 * (soft_bytes + 2 * CHUNK_BYTES) && !crowd.core.outboxes.is_over());
    crowd.serves_an_honest_client();
}

#[test]
fn a_flood_of_pings_is_answered_at_the_rate_of_messages() {
    let mut wire = Wire::open(config());
    let pings = client_frame(0x89, &[7; 125]).repeat(20_000);
    assert_eq!(wire.send(&pings), []);
    assert!(wire.conn.is_open());
    let pending = wire.conn.outbox().pending_bytes();
    assert_eq!(pending, 1_000 * 127, "the burst, and not one Pong more");
    wire.output();
    wire.wait(1_000);
    assert_eq!(wire.send(&pings), []);
    assert_eq!(wire.frames().len(), 100);
}

#[test]
fn sessions_of_negentropy_are_charged_like_queries() {
    let mut wire = Wire::open(ConnConfig { negentropy: true, ..config() });
    let mut passed = 0;
    for at in 0..3_000 {
        let text = if at % 2 == 0 {
            "[\"NEG-OPEN\",\"n\",{},\"61\"]"
        } else {
            "[\"NEG-MSG\",\"n\",\"61\"]"
        };
        passed += wire.send_text(text).len();
    }
    assert_eq!(passed, 1_000, "the rate of messages comes first");
    let refused = |wire: &Wire, reason: Reason| wire.counters().refused[reason as usize];
    assert_eq!(refused(&wire, Reason::RateMessages), 2_000);
    let frames = wire.frames();
    let expected = format!("[\"NEG-ERR\",\"n\",\"{}\"]", Reason::RateMessages.message());
    assert!(frames.iter().all(|frame| frame.text() == expected), "answered in kind");

    let mut config = ConnConfig { negentropy: true, ..config() };
    config.rates.queries = net::Rate::per_second(1);
    let mut wire = Wire::open(config);
    let passed: usize = (0..20).map(|_| wire.send_text("[\"NEG-MSG\",\"n\",\"61\"]").len()).sum();
    assert_eq!((passed, refused(&wire, Reason::RateQueries)), (10, 10));
}

#[test]
fn a_forged_forwarded_address_neither_hides_nor_frames_anybody() {
    let mut config = config();
    config.trusted_proxies.0.push("10.0.0.0/8".parse().unwrap());
    let trusted = config.trusted_proxies.clone();
    let mut admission =
        Admission::new(AdmissionConfig::default(), SeededState::new(Secret([1; 16])));
    let request = String::from_utf8(net::fuzzing::UPGRADE.to_vec()).unwrap();
    let mut refused = 0;
    for at in 0..200 {
        // What the client wrote stands left of what the proxy added.
        let line = format!("X-Forwarded-For: 203.0.113.{at}, 198.51.100.7\r\nHost:");
        let mut wire = Wire::accept_from(config.clone(), "10.1.1.1");
        let mut admitted = admission.admit(0, wire.conn.address(), &trusted).unwrap();
        let bytes = request.replacen("Host:", &line, 1).into_bytes();
        let mut data = bytes.as_slice();
        let event = wire.conn.next(wire.now, &mut data, &mut wire.core);
        let Some(ConnEvent::ClientAddress(client)) = event else { panic!("{event:?}") };
        assert_eq!(client, "198.51.100.7".parse::<IpAddr>().unwrap());
        match admission.rename(0, &mut admitted, client) {
            Ok(()) => assert!(at < 50),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::AddressRate);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 150, "the burst of one address, whatever it claims to be");
    let framed: IpAddr = "203.0.113.7".parse().unwrap();
    assert!(admission.admit(0, framed, &TrustedProxies::default()).is_ok());
}

#[test]
fn what_is_counted_has_a_fixed_set_of_names_whatever_peers_send() {
    let mut wire = Wire::open(config());
    let names = |wire: &Wire| -> Vec<&'static str> {
        let counters = wire.counters();
        let refused = counters.refused_by_label().map(|(label, _)| label);
        let closed = counters.closed_by_label().map(|(label, _)| label);
        refused.chain(closed).collect()
    };
    let before = names(&wire);
    for text in ["garbage", "[\"EVENT\",{\"id\":\"x\"}]", "[\"REQ\",\"\u{1}\",{}]", "[\"NEW\"]"] {
        wire.send_text(text);
    }
    assert_eq!(names(&wire), before);
    let counted: u64 = wire.counters().refused.iter().sum();
    assert_eq!(counted, 4, "each under one of them");
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let plain = |label: &&str| label.bytes().all(is_plain);
    assert!(before.iter().all(plain), "{before:?}");
}
