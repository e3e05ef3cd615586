//! Frames that break RFC 6455, one by one, and the close code of each.
#![allow(clippy::unwrap_used)]

mod support;

use net::{CloseCause, ConnConfig, ConnEvent, Teardown};
use support::{Wire, client_frame, config};

/// Opens a connection, sends `bytes` and expects the end of it with `code`.
fn expect_close(bytes: &[u8], cause: CloseCause, code: u16) {
    let mut wire = Wire::open(config());
    assert_eq!(wire.send(bytes), [ConnEvent::Closing(cause)], "{bytes:x?}");
    let frames = wire.frames();
    let (sent, reason) = frames.last().unwrap().close();
    assert_eq!((sent, reason), (code, cause.text()), "{bytes:x?}");
    assert_eq!(wire.conn.teardown(), Teardown::HalfClose);
    assert_eq!(wire.send(b"what comes now is not read"), []);
    assert_eq!(wire.frames(), []);
    assert_eq!(wire.conn.release(&mut wire.core), cause);
    assert_eq!(wire.core.counters.closed[cause as usize], 1);
}

#[test]
fn violations_end_with_1002() {
    let text = client_frame(0x81, b"[]");
    let continued = client_frame(0x80, b"[]");
    let begun = client_frame(0x01, b"[");
    for bytes in [
        client_frame(0xc1, b"rsv1"),
        client_frame(0xa1, b"rsv2"),
        client_frame(0x91, b"rsv3"),
        client_frame(0x83, b"opcode 3"),
        client_frame(0x8b, b"opcode 11"),
        vec![0x81, 0x02, b'[', b']'],
        client_frame(0x09, b"fragmented ping"),
        client_frame(0x89, &[0; 126]),
        client_frame(0x88, &[0; 200]),
        vec![0x81, 0xfe, 0, 2, 0, 0, 0, 0, b'[', b']'],
        vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, b'[', b']'],
        continued.clone(),
        [begun.clone(), text].concat(),
        [begun, client_frame(0x82, b"binary")].concat(),
        client_frame(0x88, &[3]),
        client_frame(0x88, &1005u16.to_be_bytes()),
        client_frame(0x88, &999u16.to_be_bytes()),
        client_frame(0x88, &2999u16.to_be_bytes()),
    ] {
        expect_close(&bytes, CloseCause::ProtocolViolation, 1002);
    }
}

#[test]
fn text_that_is_not_utf_8_ends_with_1007_as_soon_as_that_is_certain() {
    for bad in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        expect_close(&client_frame(0x81, bad), CloseCause::BadUtf8, 1007);
        let split: Vec<u8> = bad
            .iter()
            .enumerate()
            .flat_map(|(at, byte)| client_frame(if at == 0 { 0x01 } else { 0x00 }, &[*byte]))
            .chain(client_frame(0x80, b""))
            .collect();
        expect_close(&split, CloseCause::BadUtf8, 1007);
    }
    expect_close(&client_frame(0x88, b"\x03\xe8\xff"), CloseCause::BadUtf8, 1007);

    // The frame is announced as ten bytes; the second proves it wrong.
    let frame = client_frame(0x81, b"\xce\xff34567890");
    let mut wire = Wire::open(config());
    assert_eq!(wire.send(&frame[..7]), []);
    assert_eq!(wire.send(&frame[7..8]), [ConnEvent::Closing(CloseCause::BadUtf8)]);
}

#[test]
fn characters_may_be_cut_by_fragments() {
    let mut wire = Wire::open(config());
    let text = "[\"CLOSE\",\"κ😀\"]";
    let mut events = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        events.extend(wire.send(&client_frame(if at == 0 { 0x01 } else { 0x00 }, &[byte])));
    }
    events.extend(wire.send(&client_frame(0x80, b"")));
    let message = proto::ClientMessage::Close("κ😀".into());
    assert_eq!(events, [ConnEvent::Message(message)]);
}

#[test]
fn fragments_are_limited_in_number_and_in_sum() {
    let fragments = |count: usize| {
        let mut bytes = client_frame(0x01, b" ");
        bytes.extend((2..count).flat_map(|_| client_frame(0x00, b" ")));
        bytes.extend(client_frame(0x80, b"[\"CLOSE\",\"s\"]"));
        bytes
    };
    let mut wire = Wire::open(config());
    assert!(matches!(wire.send(&fragments(64)).as_slice(), [ConnEvent::Message(_)]));
    assert_eq!(wire.send(&fragments(65)), [ConnEvent::Closing(CloseCause::TooManyFragments)]);
    assert_eq!(wire.frames().last().unwrap().close().0, 1008);

    let mut config = config();
    config.limits.message_bytes_max = 100;
    let mut wire = Wire::open(config.clone());
    assert_eq!(wire.send(&client_frame(0x01, &[b' '; 60])), []);
    let second = client_frame(0x80, &[b' '; 41]);
    let events = wire.send(&second[..2]);
    assert_eq!(events, []);
    let events = wire.send(&second[2..6]);
    assert_eq!(events, [ConnEvent::Closing(CloseCause::MessageTooLong)], "by the header alone");
    assert_eq!(wire.frames().last().unwrap().close().0, 1009);
}

#[test]
fn control_frames_between_and_around() {
    let mut wire = Wire::open(config());
    assert_eq!(wire.send(&client_frame(0x89, b"")), []);
    assert_eq!(wire.send(&client_frame(0x89, &[9; 125])), []);
    assert_eq!(wire.send(&client_frame(0x8a, b"unasked")), []);
    let frames = wire.frames();
    assert_eq!(frames.len(), 2);
    assert_eq!((frames[0].opcode, frames[0].payload.len()), (10, 0));
    assert_eq!((frames[1].opcode, frames[1].payload.as_slice()), (10, &[9; 125][..]));
    assert!(wire.conn.is_open());
}

#[test]
fn close_frames_are_echoed_with_their_code() {
    for (payload, echo) in [
        (&b""[..], &b""[..]),
        (b"\x03\xe8", b"\x03\xe8"),
        (b"\x03\xe9going", b"\x03\xe9"),
        (b"\x0f\xa0mine", b"\x0f\xa0"),
    ] {
        let mut wire = Wire::open(config());
        let events = wire.send(&client_frame(0x88, payload));
        assert_eq!(events, [ConnEvent::Closing(CloseCause::PeerClosed)]);
        assert_eq!(wire.conn.teardown(), Teardown::None, "the echo is not written yet");
        let frames = wire.frames();
        assert_eq!((frames[0].opcode, frames[0].payload.as_slice()), (8, echo));
        assert_eq!(wire.conn.teardown(), Teardown::Close);
        let text = client_frame(0x81, b"[\"CLOSE\",\"s\"]");
        assert_eq!(wire.send(&text), [], "nothing counts after a Close frame");
    }
}

#[test]
fn a_half_received_message_is_counted_and_given_back() {
    let mut wire = Wire::open(config());
    let frame = client_frame(0x81, &[b' '; 100_000]);
    assert_eq!(wire.send(&frame[..50_000]), []);
    let held = wire.core.input.held_bytes();
    assert!((50_000..=101_000).contains(&held), "{held} bytes: at most twice what came");
    wire.conn.abort(CloseCause::PeerGone, &mut wire.core);
    assert_eq!(wire.core.input.held_bytes(), 0);

    let mut wire = Wire::open(ConnConfig { input_bytes_max: 0, ..config() });
    let text = format!("[\"CLOSE\",\"s\"]{}", " ".repeat(1_500));
    let short = client_frame(0x81, text.as_bytes());
    assert_eq!(wire.send(&short[..1_000]), [], "a short message is not refused by the budget");
    assert!(wire.core.input.held_bytes() >= 900, "but counted");
    assert!(matches!(wire.send(&short[1_000..])[..], [ConnEvent::Message(_)]));
    assert_eq!(wire.core.input.held_bytes(), 0);

    let small = ConnConfig { input_bytes_max: 20_000, ..config() };
    let mut wire = Wire::open(small);
    assert_eq!(wire.send(&frame[..50_000]), [ConnEvent::Closing(CloseCause::InputBudget)]);
    assert_eq!(wire.frames().last().unwrap().close().0, 1013);
    assert_eq!(wire.core.input.held_bytes(), 0);
}
