//! A foreign WebSocket implementation on the other end of an in-memory pipe.
#![allow(clippy::unwrap_used)]

mod support;

use net::{CloseCause, ConnEvent, Teardown};
use proto::ClientMessage;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use support::{Signer, UNIX_S, Wire, config, event_message};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, coding::CloseCode};
use tungstenite::{Bytes, HandshakeError, Message, WebSocket};

/// The client's end of the pipe: what it writes the connection gets at once, in pieces of
/// `piece_bytes`.
#[derive(Clone)]
struct Pipe(Rc<RefCell<Ends>>);

struct Ends {
    wire: Wire,
    events: Vec<ConnEvent>,
    to_client: Vec<u8>,
    piece_bytes: usize,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        let output = ends.wire.output();
        ends.to_client.extend(output);
        if ends.to_client.is_empty() {
            let ended = ends.wire.conn.teardown() != Teardown::None;
            return if ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let now = buffer.len().min(ends.to_client.len()).min(ends.piece_bytes);
        buffer[..now].copy_from_slice(&ends.to_client[..now]);
        ends.to_client.drain(..now);
        Ok(now)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        let piece_bytes = ends.piece_bytes;
        for piece in bytes.chunks(piece_bytes) {
            let events = ends.wire.send(piece);
            ends.events.extend(events);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    fn events(&self) -> Vec<ConnEvent> {
        std::mem::take(&mut self.0.borrow_mut().events)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Wire) -> T) -> T {
        act(&mut self.0.borrow_mut().wire)
    }
}

fn connect(piece_bytes: usize) -> (WebSocket<Pipe>, Pipe) {
    let pipe = Pipe(Rc::new(RefCell::new(Ends {
        wire: Wire::accept(config()),
        events: Vec::new(),
        to_client: Vec::new(),
        piece_bytes,
    })));
    let mut attempt = tungstenite::client("ws://relay.example/", pipe.clone());
    let (mut socket, response) = loop {
        match attempt {
            Ok(done) => break done,
            Err(HandshakeError::Interrupted(middle)) => attempt = middle.handshake(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(response.status(), 101);
    assert_eq!(pipe.events(), [ConnEvent::Opened]);
    let challenge = socket.read().unwrap();
    assert_eq!(challenge.to_text().unwrap(), format!("[\"AUTH\",\"{}\"]", "07".repeat(16)));
    (socket, pipe)
}

/// Piece sizes: everything at once, and cut into crumbs.
const PIECES: [usize; 3] = [usize::MAX, 4_096, 3];

#[test]
fn messages_of_every_length_arrive() {
    for piece_bytes in PIECES {
        let (mut socket, pipe) = connect(piece_bytes);
        let signer = Signer::new(1);
        for length in [0, 1, 100, 125, 126, 127, 1_000, 65_535, 65_536, 200_000] {
            let event = signer.event(1, UNIX_S, "[]", &"é".repeat(length / 2));
            socket.send(Message::text(event_message("EVENT", &event))).unwrap();
            assert_eq!(pipe.events(), [ConnEvent::Message(ClientMessage::Event(event.clone()))]);
            pipe.with(|wire| {
                let mut json = Vec::new();
                event.view().write_json(&mut json);
                let ok =
                    wire.conn.reply_ok(wire.now, &event.view().id(), Ok(()), None, &mut wire.core);
                assert_eq!(ok, net::Pushed::Ok);
                let pushed = wire.conn.deliver("sub", &json, &mut wire.core);
                assert_eq!(pushed, net::Pushed::Ok);
            });
            let ok = socket.read().unwrap();
            let expected = format!("[\"OK\",\"{}\",true,\"\"]", event.view().id());
            assert_eq!(ok.to_text().unwrap(), expected);
            let delivered = socket.read().unwrap();
            let expected = event_message("EVENT", &event).replacen("EVENT\"", "EVENT\",\"sub\"", 1);
            assert_eq!(delivered.to_text().unwrap(), expected);
        }
    }
}

#[test]
fn fragments_with_a_ping_between_them_are_one_message() {
    for piece_bytes in PIECES {
        let (mut socket, pipe) = connect(piece_bytes);
        let text = "[\"CLOSE\",\"héllo\"]";
        let bytes = text.as_bytes();
        let parts = [&bytes[..12], &bytes[12..13], &bytes[13..]];
        for (at, part) in parts.iter().enumerate() {
            let data = if at == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(Bytes::copy_from_slice(part), OpCode::Data(data), at == 2);
            socket.send(Message::Frame(frame)).unwrap();
            if at < 2 {
                assert_eq!(pipe.events(), []);
                socket.send(Message::Ping(Bytes::from_static(b"are you there"))).unwrap();
                assert_eq!(socket.read().unwrap(), Message::Pong("are you there".into()));
            }
        }
        let message = ClientMessage::Close("héllo".into());
        assert_eq!(pipe.events(), [ConnEvent::Message(message)]);
        pipe.with(|wire| assert_eq!(wire.core.input.held_bytes(), 0, "the buffer is given back"));
    }
}

#[test]
fn our_pings_are_answered_and_keep_the_connection() {
    let (mut socket, pipe) = connect(usize::MAX);
    for _ in 0..10 {
        pipe.with(|wire| {
            wire.wait(30_000);
            assert_eq!(wire.conn.tick(wire.now, &mut wire.core), None);
        });
        assert_eq!(socket.read().unwrap(), Message::Ping(Bytes::new()));
        socket.flush().unwrap();
    }
    pipe.with(|wire| assert!(wire.conn.is_open()));
}

#[test]
fn the_client_closes() {
    for piece_bytes in PIECES {
        let (mut socket, pipe) = connect(piece_bytes);
        let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
        socket.close(Some(frame)).unwrap();
        assert_eq!(pipe.events(), [ConnEvent::Closing(CloseCause::PeerClosed)]);
        let Message::Close(Some(echo)) = socket.read().unwrap() else { panic!("no close") };
        assert_eq!(echo.code, CloseCode::Normal);
        pipe.with(|wire| assert_eq!(wire.conn.teardown(), Teardown::Close));
        assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    }
}

#[test]
fn the_relay_shuts_down() {
    let (mut socket, pipe) = connect(usize::MAX);
    pipe.with(|wire| {
        wire.conn.begin_close(wire.now, CloseCause::ShuttingDown, &mut wire.core);
        assert_eq!(wire.conn.teardown(), Teardown::None, "the peer's Close frame is awaited");
    });
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    assert_eq!(frame.code, CloseCode::Away);
    assert_eq!(frame.reason.as_str(), "relay is shutting down");
    socket.flush().unwrap();
    pipe.with(|wire| assert_eq!(wire.conn.teardown(), Teardown::Close));
}

#[test]
fn a_binary_message_is_refused_with_1003() {
    let (mut socket, pipe) = connect(usize::MAX);
    socket.send(Message::binary(vec![1, 2, 3])).unwrap();
    assert_eq!(pipe.events(), [ConnEvent::Closing(CloseCause::BinaryMessage)]);
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    assert_eq!(frame.code, CloseCode::Unsupported);
}

#[test]
fn a_message_beyond_the_limit_is_refused_by_its_header() {
    let (mut socket, pipe) = connect(4_096);
    let limit = config().limits.message_bytes_max;
    socket.send(Message::text(" ".repeat(limit + 1))).unwrap();
    assert_eq!(pipe.events(), [ConnEvent::Closing(CloseCause::MessageTooLong)]);
    pipe.with(|wire| assert_eq!(wire.core.input.held_bytes(), 0));
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Size, "message is too long"));
    pipe.with(|wire| assert_eq!(wire.conn.teardown(), Teardown::HalfClose));
}
