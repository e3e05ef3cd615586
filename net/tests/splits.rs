//! However the bytes of a connection are cut, the same happens.
#![allow(clippy::unwrap_used)]

mod support;

use net::fuzzing::{self, UPGRADE, observe};
use net::{CloseCause, ConnEvent, Teardown};
use proptest::prelude::*;
use support::{client_frame, config, event_message};

/// Cuts `bytes` at the given places.
fn cut(bytes: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places {
        pieces.push(bytes[start..place].to_vec());
        start = place;
    }
    pieces.push(bytes[start..].to_vec());
    pieces
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let id = "ab".repeat(32);
    prop_oneof![
        4 => Just(b"[\"REQ\",\"sub\",{\"kinds\":[1],\"limit\":5}]".to_vec()),
        2 => Just(b"[\"CLOSE\",\"sub\"]".to_vec()),
        1 => Just(b"[\"COUNT\",\"n\",{}]".to_vec()),
        1 => Just(format!("[\"EVENT\",{{\"id\":\"{id}\"}}]").into_bytes()),
        1 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (100usize..70_000).prop_map(|length| vec![b' '; length]),
    ]
}

/// Frames as a client might send them, and some that it must not.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let control = prop::collection::vec(any::<u8>(), 0..126);
    let whole = payload().prop_map(|text| client_frame(0x81, &text)).boxed();
    let fragmented = (payload(), prop::collection::vec(any::<usize>(), 0..5), any::<bool>())
        .prop_map(|(text, places, has_ping)| {
            let pieces = cut(&text, &places);
            let last = pieces.len() - 1;
            let mut bytes = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                let opcode = if at == 0 { 1 } else { 0 };
                let final_bit = if at == last { 0x80 } else { 0 };
                bytes.extend(client_frame(final_bit | opcode, piece));
                if has_ping && at != last {
                    bytes.extend(client_frame(0x89, b"between"));
                }
            }
            bytes
        })
        .boxed();
    prop_oneof![
        10 => whole,
        6 => fragmented,
        2 => control.clone().prop_map(|payload| client_frame(0x89, &payload)),
        1 => control.clone().prop_map(|payload| client_frame(0x8a, &payload)),
        1 => Just(client_frame(0x88, b"\x03\xe8bye")),
        1 => control.prop_map(|payload| client_frame(0x88, &payload)),
        1 => (any::<u8>(), payload()).prop_map(|(first, text)| client_frame(first, &text)),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_split_gives_the_same_events_and_output(
        frames in prop::collection::vec(frames(), 0..12),
        places in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let bytes = [&[UPGRADE], frames.iter().map(Vec::as_slice).collect::<Vec<_>>().as_slice()].concat().concat();
        let config = config();
        let whole = observe(&[&bytes], &config);
        prop_assert_eq!(whole.events.first(), Some(&ConnEvent::Opened));
        let pieces = cut(&bytes, &places);
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(&observe(&pieces, &config), &whole);
    }

    #[test]
    fn any_bytes_are_decoded_alike(input in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzzing::ws_frames(&input);
        fuzzing::ws_conn(&input);
        fuzzing::http_request(&input);
    }

    #[test]
    fn any_frames_are_decoded_alike(
        distances in prop::collection::vec(any::<u8>(), 0..31),
        frames in prop::collection::vec(frames(), 0..6),
    ) {
        let head = [&[distances.len() as u8][..], &distances].concat();
        let input = [head, frames.concat()].concat();
        fuzzing::ws_frames(&input);
        fuzzing::ws_conn(&input);
    }

    #[test]
    fn any_request_is_read_alike(
        request in prop_oneof![
            Just("GET / HTTP/1.1\r\nAccept: application/nostr+json\r\n\r\n".to_owned()),
            Just("GET /health HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\nGET / HTTP/1.1\r\n".to_owned()),
            Just("HEAD /metrics HTTP/1.0\r\n\r\n".to_owned()),
            Just("OPTIONS / HTTP/1.1\r\n\r\n".to_owned()),
            "(GET|POST) /[a-z]{0,8} HTTP/(1.1|2.0)\r\n([A-Za-z ]{1,9}:\\PC{0,9}\r\n){0,70}\r\n",
        ],
        proxied in any::<bool>(),
        distances in prop::collection::vec(any::<u8>(), 0..31),
    ) {
        let proxy: &[u8] = if proxied {
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x7f\x00\x00\x01\x00\x50\x01\xbb"
        } else {
            b""
        };
        let head = [&[distances.len() as u8][..], &distances].concat();
        fuzzing::http_request(&[&head, proxy, request.as_bytes()].concat());
    }
}

#[test]
fn single_bytes_are_enough() {
    let event = support::Signer::new(1).event(1, support::UNIX_S, "[]", "héllo");
    let text = event_message("EVENT", &event);
    let bytes = [UPGRADE, &client_frame(0x81, text.as_bytes()), &client_frame(0x88, b"")].concat();
    let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
    let observed = observe(&pieces, &config());
    assert_eq!(observed, observe(&[&bytes], &config()));
    assert_eq!(
        observed.events,
        [
            ConnEvent::Opened,
            ConnEvent::Message(proto::ClientMessage::Event(event)),
            ConnEvent::Closing(CloseCause::PeerClosed),
        ]
    );
    assert_eq!(observed.teardown, Teardown::Close);
}
