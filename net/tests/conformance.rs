//! The frozen vectors of `sim/conformance`: what a WebSocket conformance suite sends, and what the
//! server has to answer; and compressed messages as other senders make them. Replayed through an
//! echo server over `net::ws`, and through a relay connection as far as its limits let them be.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests unwrap, and read their vectors from files"
)]

#[path = "support/echo.rs"]
mod echo;
#[path = "support/slow_inflate.rs"]
mod slow_inflate;
mod support;

use echo::Echo;
use net::{CloseCause, CompressionConfig, ConnConfig, ConnEvent, Rates};
use sha1::{Digest, Sha1};
use slow_inflate::slow_inflate;
use std::collections::BTreeMap;
use support::{Wire, config};

/// Cases of the suite that are frozen.
const CASES: usize = 247;

struct Case {
    name: String,
    client: Vec<u8>,
    server: Vec<Frame>,
}

#[derive(Debug, PartialEq)]
struct Frame {
    first: u8,
    payload: Vec<u8>,
}

fn read(path: &str) -> Vec<Case> {
    let path = format!("{}/../sim/conformance/{path}", env!("CARGO_MANIFEST_DIR"));
    let mut cases: Vec<Case> = Vec::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let (sign, rest) = line.split_once(' ').unwrap();
        if sign == "case" {
            cases.push(Case { name: rest.into(), client: Vec::new(), server: Vec::new() });
            continue;
        }
        let case = cases.last_mut().unwrap();
        let (first, payload) = rest.split_once(' ').unwrap();
        let payload = bytes(payload);
        if first == "raw" {
            case.client.extend(payload);
            continue;
        }
        let (first, announced) = match first.split_once('/') {
            Some((first, announced)) => (first, announced.parse().unwrap()),
            None => (first, payload.len()),
        };
        let first = u8::from_str_radix(first, 16).unwrap();
        match sign {
            ">" => {
                // The header announces more than there is where the suite was cut short.
                let mut padded = payload.clone();
                padded.resize(announced, 0);
                let mut frame = support::client_frame(first, &padded);
                frame.truncate(frame.len() - (announced - payload.len()));
                case.client.extend(frame);
            }
            "<" => case.server.push(Frame { first, payload }),
            _ => panic!("{line}"),
        }
    }
    cases
}

/// Hex in which `(2a)*125` stands for 125 times `2a`.
fn bytes(text: &str) -> Vec<u8> {
    let hex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    text.split(' ')
        .flat_map(|word| match word.split_once(")*") {
            Some((unit, count)) => hex(&unit[1..]).repeat(count.parse().unwrap()),
            None if word == "-" => Vec::new(),
            None => hex(word),
        })
        .collect()
}

/// Frames of a server, whatever their reserved bits.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            length => (usize::from(*length), rest),
        };
        let (payload, rest) = rest.split_at(length);
        // Of a Close frame the code counts.
        let kept = if first & 0x0f == 8 { payload.len().min(2) } else { payload.len() };
        frames.push(Frame { first: *first, payload: payload[..kept].to_vec() });
        bytes = rest;
    }
    frames
}

/// What an echo server answers behind its handshake.
fn echoed(upgrade: &[u8], client: &[u8], piece_bytes: usize) -> Vec<Frame> {
    let mut echo = Echo::new(upgrade == net::fuzzing::UPGRADE_DEFLATE);
    let mut out = Vec::new();
    echo.receive(upgrade, &mut out);
    assert!(out.ends_with(b"\r\n\r\n") && !echo.has_ended());
    out.clear();
    for piece in client.chunks(piece_bytes) {
        if !echo.has_ended() {
            echo.receive(piece, &mut out);
        }
    }
    frames(&out)
}

#[test]
fn every_case_of_the_suite_is_answered_as_it_was_when_the_suite_was_content() {
    let cases = read("autobahn/vectors.txt");
    assert_eq!(cases.len(), CASES);
    let mut failed = Vec::new();
    for case in &cases {
        for upgrade in [net::fuzzing::UPGRADE, net::fuzzing::UPGRADE_DEFLATE] {
            // The reserved bit that this case is about has a meaning where compression is agreed.
            if case.name == "3.4" && upgrade == net::fuzzing::UPGRADE_DEFLATE {
                continue;
            }
            for piece_bytes in [usize::MAX, 1_400, 1] {
                let mut answer = echoed(upgrade, &case.client, piece_bytes);
                for frame in &mut answer {
                    // Compressed, the same message counts as the same.
                    if frame.first & 0x40 != 0 {
                        frame.first &= !0x40;
                        frame.payload = slow_inflate(&frame.payload).plain;
                    }
                }
                if answer != case.server && failed.last() != Some(&&case.name) {
                    failed.push(&case.name);
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} cases failed: {failed:?}", failed.len());
}

/// The code with which a relay connection answers the client's Close frame or violation.
fn relay_code(case: &Case, config: &ConnConfig) -> (Option<CloseCause>, Option<u16>) {
    let mut wire = Wire::accept(config.clone());
    assert_eq!(wire.send(net::fuzzing::UPGRADE), [ConnEvent::Opened]);
    wire.output();
    wire.send(&case.client);
    let cause = wire.conn.close_cause();
    let close = frames(&wire.output()).into_iter().rfind(|frame| frame.first == 0x88);
    let code = close.and_then(|frame| frame.payload.try_into().ok()).map(u16::from_be_bytes);
    (cause, code)
}

#[test]
fn a_relay_connection_ends_every_case_alike_but_for_its_limits() {
    let config = ConnConfig { rates: Rates::OFF, ..config() };
    let mut excluded: BTreeMap<&str, usize> = BTreeMap::new();
    for case in read("autobahn/vectors.txt") {
        let last = case.server.last().filter(|frame| frame.first == 0x88);
        let expected = last.and_then(|frame| frame.payload.as_slice().try_into().ok());
        let (cause, code) = relay_code(&case, &config);
        let limit = match cause {
            Some(CloseCause::BinaryMessage) => Some(("binary message", 1003)),
            Some(CloseCause::TooManyFragments) => Some(("too many fragments", 1008)),
            Some(CloseCause::MessageTooLong) => Some(("message too long", 1009)),
            _ => None,
        };
        match limit {
            Some((reason, limit)) => {
                assert_eq!(code, Some(limit), "{}", case.name);
                *excluded.entry(reason).or_default() += 1;
            }
            None => assert_eq!(code, expected.map(u16::from_be_bytes), "{}", case.name),
        }
    }
    // As the README of the vectors says.
    assert_eq!(excluded, BTreeMap::from([("binary message", 8)]));
}

#[test]
fn compressed_messages_of_another_sender_are_understood() {
    let cases = read("deflate/vectors.txt");
    assert_eq!(cases.len(), 30);
    for case in cases {
        let mut words = case.name.rsplit(", ");
        let (sum, size) = (words.next().unwrap(), words.next().unwrap());
        let whole = echoed(net::fuzzing::UPGRADE_DEFLATE, &case.client, usize::MAX);
        let single = echoed(net::fuzzing::UPGRADE_DEFLATE, &case.client, 1);
        assert_eq!(whole, single, "{}", case.name);
        let [Frame { first, payload }] = &whole[..] else { panic!("{}: {whole:?}", case.name) };
        let plain = match first {
            0x81 => payload.clone(),
            0xc1 => slow_inflate(payload).plain,
            first => panic!("{}: {first:x}", case.name),
        };
        let found: String = Sha1::digest(&plain).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!("{} bytes", plain.len()), size, "{}", case.name);
        assert_eq!(found, sum, "{}", case.name);
        // Without the extension the mark of a compressed message is a violation.
        let refused = echoed(net::fuzzing::UPGRADE, &case.client, usize::MAX);
        let protocol_violation = Frame { first: 0x88, payload: vec![0x03, 0xea] };
        assert_eq!(refused, [protocol_violation], "{}", case.name);
    }
}

#[test]
fn the_answer_names_what_is_agreed() {
    const AGREED: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    for (offers, enabled, expected) in [
        // The offers of the suite's groups 12 and 13, and of browsers.
        ("permessage-deflate; client_no_context_takeover; client_max_window_bits", true, ""),
        (
            "permessage-deflate; client_no_context_takeover; client_max_window_bits; \
             server_no_context_takeover; server_max_window_bits=9",
            true,
            "; server_max_window_bits=9",
        ),
        ("permessage-deflate; client_max_window_bits", true, ""),
        ("permessage-deflate; client_max_window_bits", false, "-"),
        ("x-webkit-deflate-frame", true, "-"),
        ("permessage-deflate; server_max_window_bits=20", true, "-"),
    ] {
        let compression = CompressionConfig { enabled, ..CompressionConfig::default() };
        let mut wire = Wire::accept(ConnConfig { compression, ..config() });
        let request = String::from_utf8(net::fuzzing::UPGRADE.to_vec()).unwrap();
        let line = format!("\r\nSec-WebSocket-Extensions: {offers}\r\n\r\n");
        let events = wire.send(request.replace("\r\n\r\n", &line).as_bytes());
        assert_eq!(events, [ConnEvent::Opened], "{offers}");
        let head = String::from_utf8_lossy(&wire.output()).into_owned();
        let line = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        let expected = (expected != "-").then(|| format!("{AGREED}{expected}"));
        assert_eq!(line, expected.as_deref(), "{offers}");
    }
}
