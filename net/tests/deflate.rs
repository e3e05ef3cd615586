//! Compression on a connection: what is agreed, what is sent, what is refused, and what it costs.
#![allow(clippy::unwrap_used)]

#[path = "support/slow_inflate.rs"]
mod slow_inflate;
mod support;

use net::ws::deflate::{STEP_BYTES, compressed_bytes_max, core_bytes_max};
use net::ws::{Deflater, Inflater, InputBudget, Violation, WindowBits};
use net::{CloseCause, CompressionConfig, Conn, ConnConfig, ConnEvent, Pushed};
use proptest::prelude::*;
use proto::ClientMessage;
use proto::message::Completeness;
use slow_inflate::slow_inflate;
use support::{ServerFrame, Wire, client_frame, config};

fn compressing() -> ConnConfig {
    let compression = CompressionConfig { enabled: true, ..CompressionConfig::default() };
    ConnConfig { compression, ..config() }
}

/// A connection that agreed to compression.
fn open(config: ConnConfig, offer: &str) -> Wire {
    let request = String::from_utf8(net::fuzzing::UPGRADE.to_vec()).unwrap();
    let line = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
    let mut wire = Wire::accept(config);
    let events = wire.send(request.replace("\r\n\r\n", &line).as_bytes());
    assert_eq!(events, [ConnEvent::Opened]);
    let head = wire.output();
    assert!(String::from_utf8_lossy(&head).contains("\r\nSec-WebSocket-Extensions: "));
    wire
}

fn deflated(plain: &[u8]) -> Vec<u8> {
    Deflater::new(9).message(&[plain], WindowBits::MAX).unwrap().to_vec()
}

/// The frames that were queued, and whether each was compressed.
fn sent(wire: &mut Wire) -> Vec<(bool, ServerFrame)> {
    parse(wire.output())
}

fn parse(mut bytes: Vec<u8>) -> Vec<(bool, ServerFrame)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let is_compressed = bytes[0] & 0x40 != 0;
        bytes[0] &= !0x40;
        let header = match bytes[1] {
            126 => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            127 => 10 + u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize,
            length => 2 + usize::from(length),
        };
        let rest = bytes.split_off(header);
        let mut frame = support::server_frames(&bytes).remove(0);
        if is_compressed {
            frame.payload = slow_inflate(&frame.payload).plain;
        }
        frames.push((is_compressed, frame));
        bytes = rest;
    }
    frames
}

fn body(bytes: usize) -> String {
    format!("{{\"content\":\"{}\"}}", "relay note ".repeat(bytes / 11))
}

#[test]
fn compression_is_off_unless_configured() {
    let mut wire = Wire::open(config());
    let frame = client_frame(0xc1, &deflated(b"[\"CLOSE\",\"sssssssssssssssssssss\"]"));
    assert_eq!(wire.send(&frame), [ConnEvent::Closing(CloseCause::ProtocolViolation)]);
    let mut wire = Wire::accept(config());
    assert_eq!(wire.send(net::fuzzing::UPGRADE_DEFLATE), [ConnEvent::Opened]);
    assert!(!String::from_utf8_lossy(&wire.output()).contains("Extensions"));
}

#[test]
fn a_malformed_list_of_extensions_fails_the_handshake() {
    let request = String::from_utf8(net::fuzzing::UPGRADE_DEFLATE.to_vec()).unwrap();
    let request = request.replace("permessage-deflate;", "permessage-deflate;;");
    let mut wire = Wire::accept(compressing());
    let events = wire.send(request.as_bytes());
    assert_eq!(events, [ConnEvent::Closing(CloseCause::BadRequest)]);
    assert!(wire.output().starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn compressed_messages_are_taken_whole_and_in_fragments() {
    let mut wire = open(compressing(), "permessage-deflate");
    let sub = "s".repeat(64);
    let message = deflated(format!("[\"CLOSE\",\"{sub}\"]").as_bytes());
    let expected = [ConnEvent::Message(ClientMessage::Close(sub.as_str().into()))];
    assert_eq!(wire.send(&client_frame(0xc1, &message)), expected);
    let (head, tail) = message.split_at(7);
    let frames = [
        client_frame(0x41, head),
        client_frame(0x89, b"ping"),
        client_frame(0x00, b""),
        client_frame(0x80, tail),
    ];
    assert_eq!(wire.send(&frames.concat()), expected);
    let plain = client_frame(0x81, format!("[\"CLOSE\",\"{sub}\"]").as_bytes());
    assert_eq!(wire.send(&plain), expected, "also uncompressed");
    assert_eq!(wire.core.input.held_bytes(), 0);
}

#[test]
fn the_mark_stands_on_first_frames_of_data_only() {
    let message = deflated(b"[\"CLOSE\",\"sssssssssssssssssssss\"]");
    let (head, tail) = message.split_at(5);
    for bytes in [
        [client_frame(0x41, head), client_frame(0xc0, tail)].concat(),
        client_frame(0xc9, b""),
        client_frame(0xca, b""),
        client_frame(0xc8, b""),
        client_frame(0xe1, &message),
        client_frame(0xd1, &message),
    ] {
        let mut wire = open(compressing(), "permessage-deflate");
        let cause = CloseCause::ProtocolViolation;
        assert_eq!(wire.send(&bytes), [ConnEvent::Closing(cause)], "{:x}", bytes[0]);
        assert_eq!(sent(&mut wire).last().unwrap().1.close().0, 1002);
    }
}

#[test]
fn what_is_inside_is_checked_like_what_is_not_compressed() {
    for (plain, cause, code) in [
        (&[0xff; 100][..], CloseCause::BadUtf8, 1007),
        (&[b' '; 512 * 1024 + 1], CloseCause::MessageTooLong, 1009),
    ] {
        let mut wire = open(compressing(), "permessage-deflate");
        let frame = client_frame(0xc1, &deflated(plain));
        assert_eq!(wire.send(&frame), [ConnEvent::Closing(cause)]);
        assert_eq!(sent(&mut wire).last().unwrap().1.close().0, code);
        assert_eq!(wire.core.input.held_bytes(), 0);
    }
    let mut wire = open(compressing(), "permessage-deflate");
    let garbage = client_frame(0xc1, &[0xff; 40]);
    assert_eq!(wire.send(&garbage), [ConnEvent::Closing(CloseCause::BadDeflate)]);
    assert_eq!(sent(&mut wire).last().unwrap().1.close(), (1007, "compressed message is corrupt"));
    let mut wire = open(compressing(), "permessage-deflate");
    let binary = client_frame(0xc2, &deflated(&[0; 100]));
    assert_eq!(wire.send(&binary), [ConnEvent::Closing(CloseCause::BinaryMessage)]);
}

// --- bombs ----------------------------------------------------------------------------------------

/// A message that inflates to `plain_bytes` of one letter; 64 KiB of it make 64 MiB.
fn bomb(plain_bytes: usize) -> Vec<u8> {
    deflated(&vec![b' '; plain_bytes])
}

#[test]
fn a_bomb_is_closed_with_1009_and_has_cost_the_limit_and_a_step() {
    let limit = config().limits.message_bytes_max;
    let bomb = bomb(64 << 20);
    assert!(bomb.len() < compressed_bytes_max(limit), "it passes as a frame");
    let fragments: Vec<u8> = {
        let (head, tail) = bomb.split_at(bomb.len() / 2);
        [client_frame(0x41, head), client_frame(0x80, tail)].concat()
    };
    for bytes in [client_frame(0xc1, &bomb), fragments] {
        let mut wire = open(compressing(), "permessage-deflate");
        assert_eq!(wire.send(&bytes), [ConnEvent::Closing(CloseCause::MessageTooLong)]);
        let frames = sent(&mut wire);
        assert_eq!(frames.last().unwrap().1.close(), (1009, "message is too long"));
        assert_eq!(wire.core.input.held_bytes(), 0);
        assert_eq!(wire.conn.release(&mut wire.core), CloseCause::MessageTooLong);
    }
}

#[test]
fn the_inflater_stops_within_a_step_of_the_limit_and_of_the_budget() {
    let bomb = bomb(4 << 20);
    let mut inflater = Inflater::default();
    for limit in [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 100_000] {
        let mut budget = InputBudget::new(usize::MAX);
        let mut message = bomb.clone();
        let refused = inflater.inflate(&mut message, limit, &mut budget);
        assert_eq!(refused, Err(Violation::TooLong));
        assert!(inflater.written_bytes() <= limit as u64 + STEP_BYTES as u64, "{limit}");
        assert_eq!(budget.held_bytes(), 0);
    }
    // The core has room for two steps beside what others hold.
    let mut budget = InputBudget::new(3 * STEP_BYTES);
    let mut message = bomb.clone();
    let refused = inflater.inflate(&mut message, 4 << 20, &mut budget);
    assert_eq!(refused, Err(Violation::Budget));
    assert!(inflater.written_bytes() <= 4 * STEP_BYTES as u64);
    assert_eq!(budget.held_bytes(), 0);
}

#[test]
fn a_compressed_message_is_refused_by_its_header_when_it_cannot_be_short_enough() {
    let limit = config().limits.message_bytes_max;
    let mut wire = open(compressing(), "permessage-deflate");
    let mut header = vec![0xc1, 0xff];
    header.extend_from_slice(&(compressed_bytes_max(limit) as u64 + 1).to_be_bytes());
    header.extend_from_slice(&[1, 2, 3, 4]);
    assert_eq!(wire.send(&header), [ConnEvent::Closing(CloseCause::MessageTooLong)]);
    // Noise of exactly the limit grows a little when it is compressed, and is still taken.
    let mut state = 7u64;
    let noise: Vec<u8> = (0..limit)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b' ' + (state >> 58) as u8
        })
        .collect();
    let stored: Vec<u8> = noise
        .chunks(0xffff)
        .flat_map(|block| {
            let [low, high] = (block.len() as u16).to_le_bytes();
            [&[0, low, high, !low, !high][..], block].concat()
        })
        .chain([0])
        .collect();
    assert!(stored.len() > limit);
    let mut wire = open(compressing(), "permessage-deflate");
    assert_eq!(wire.send(&client_frame(0xc1, &stored)), []);
    assert!(wire.conn.is_open());
}

// --- output ---------------------------------------------------------------------------------------

#[test]
fn only_long_messages_are_compressed_and_only_for_those_who_agreed() {
    let mut wire = open(compressing(), "permessage-deflate");
    let long = body(600);
    let short = body(300);
    for (event, is_compressed) in [(&long, true), (&short, false)] {
        let pushed = wire.conn.deliver("s", event.as_bytes(), &mut wire.core);
        assert_eq!(pushed, Pushed::Ok);
        let frames = sent(&mut wire);
        assert_eq!(frames[0].0, is_compressed);
        assert_eq!(frames[0].1.text(), format!("[\"EVENT\",\"s\",{event}]"));
    }
    let pushed = wire.conn.reply_eose("s", Completeness::Finish, &mut wire.core);
    assert_eq!(pushed, Pushed::Ok);
    assert_eq!(wire.conn.reply_neg_msg("n", &[0x61; 2_000], &mut wire.core), Pushed::Ok);
    let frames = sent(&mut wire);
    assert_eq!([frames[0].0, frames[1].0], [false, true]);
    assert_eq!(frames[1].1.text(), format!("[\"NEG-MSG\",\"n\",\"{}\"]", "61".repeat(2_000)));
    assert_eq!(wire.counters().deflated, 2);
    assert!(wire.counters().deflate_saved_bytes > 4_000);

    let mut wire = Wire::open(compressing());
    assert_eq!(wire.conn.deliver("s", long.as_bytes(), &mut wire.core), Pushed::Ok);
    assert_eq!(wire.reply(), format!("[\"EVENT\",\"s\",{long}]"));
    assert_eq!(wire.counters().deflated, 0);
}

#[test]
fn one_core_serves_connections_with_different_windows_in_turn() {
    let mut wide = open(compressing(), "permessage-deflate");
    let mut narrow = open(compressing(), "permessage-deflate; server_max_window_bits=8");
    // Both live on one core from here on.
    let mut core = wide.core;
    for round in 0..4 {
        let event = body(3_000 + round * 100);
        for conn in [&mut wide.conn, &mut narrow.conn] {
            assert_eq!(conn.deliver("s", event.as_bytes(), &mut core), Pushed::Ok);
            let chunk = conn.take_chunk().unwrap();
            let frames = parse(chunk.clone());
            conn.chunk_sent(chunk, &mut core);
            assert!(frames[0].0, "{round}");
            assert_eq!(frames[0].1.text(), format!("[\"EVENT\",\"s\",{event}]"));
        }
    }
}

#[test]
fn another_level_is_taken_from_the_next_message_on() {
    let mut wire = open(compressing(), "permessage-deflate");
    let mut lengths = Vec::new();
    for level in [1, 9, 1] {
        let compression = CompressionConfig { level, ..compressing().compression };
        wire.core.reload(ConnConfig { compression, ..compressing() });
        let event: String = (0..3_000).map(|at| format!("{},", at % 61 * at)).collect();
        assert_eq!(wire.conn.deliver("s", event.as_bytes(), &mut wire.core), Pushed::Ok);
        lengths.push(wire.output().len());
    }
    assert!(lengths[0] > lengths[1] && lengths[0] == lengths[2], "{lengths:?}");
}

#[test]
fn switched_off_it_is_over_for_those_who_agreed_before_but_they_are_understood() {
    let mut wire = open(compressing(), "permessage-deflate");
    wire.core.reload(config());
    let event = body(2_000);
    assert_eq!(wire.conn.deliver("s", event.as_bytes(), &mut wire.core), Pushed::Ok);
    assert_eq!(wire.reply(), format!("[\"EVENT\",\"s\",{event}]"));
    let frame = client_frame(0xc1, &deflated(b"[\"CLOSE\",\"sssssssssssssssssssss\"]"));
    assert_eq!(wire.send(&frame).len(), 1);
}

#[test]
fn a_connection_costs_nothing_for_compression() {
    assert!(size_of::<Conn>() <= 300, "{} bytes", size_of::<Conn>());
    let core_bytes = core_bytes_max(config().limits.message_bytes_max);
    assert!(core_bytes < 6 << 20, "{core_bytes} bytes a core");
    // Idle, between messages, nothing of a connection's is held anywhere.
    let mut wire = open(compressing(), "permessage-deflate");
    let frame = client_frame(0xc1, &deflated(b"[\"CLOSE\",\"sssssssssssssssssssss\"]"));
    assert_eq!(wire.send(&frame).len(), 1);
    assert_eq!(wire.conn.deliver("s", body(2_000).as_bytes(), &mut wire.core), Pushed::Ok);
    wire.output();
    assert_eq!((wire.core.input.held_bytes(), wire.core.outboxes.held_bytes()), (0, 0));
}

fn compressible() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(b"[\"EVENT\",".to_vec()),
        Just("電 note".as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..40),
    ];
    (prop::collection::vec(word, 1..30), prop::collection::vec(0usize..30, 0..400)).prop_map(
        |(words, order)| order.iter().flat_map(|at| words[at % words.len()].clone()).collect(),
    )
}

proptest! {
    #[test]
    fn our_messages_are_read_by_another_and_keep_to_the_window(
        plain in compressible(), bits in 8u8..=15, level in 1u8..=9, cut: usize,
    ) {
        let window = WindowBits::new(bits).unwrap();
        let mut deflater = Deflater::new(level);
        let (head, tail) = plain.split_at(cut % (plain.len() + 1));
        if let Some(message) = deflater.message(&[head, tail], window) {
            let inflated = slow_inflate(message);
            prop_assert!(inflated.plain == plain);
            prop_assert!(inflated.distance_max <= window.window_bytes());
        }
        let prefix = &plain[..plain.len().min(70)];
        if let Some(parts) = deflater.event(prefix, &plain, window, &mut [0; 5]) {
            let inflated = slow_inflate(&parts.concat());
            prop_assert!(inflated.plain == [prefix, &plain, b"]"].concat());
            prop_assert!(inflated.distance_max <= window.window_bytes());
        }
    }

    #[test]
    fn any_bytes_are_inflated_within_the_limit(input in prop::collection::vec(any::<u8>(), 0..300)) {
        net::fuzzing::inflate_limited(&input);
    }

    #[test]
    fn any_text_is_inflated_within_the_limit(first: u8, plain in compressible()) {
        net::fuzzing::inflate_limited(&[&[first], &plain[..]].concat());
    }
}
