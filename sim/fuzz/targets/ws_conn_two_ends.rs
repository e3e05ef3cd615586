//! A connection between an honest client and its server, over a wire that cuts and delays: what one
//! end says is what the other hears, each message once, whole and in order, until one of them ends
//! it; and everything that was lent comes back.

use crate::bytes::Bytes;
use net::config::CompressionConfig;
use net::ws::{Deflater, Inflater, InputBudget, WindowBits};
use net::{
    CloseCause, Conn, ConnConfig, ConnCore, ConnEvent, OutboxLimits, Pushed, Rates, Teardown,
    fuzzing,
};
use proto::message::Completeness;
use proto::{ClientMessage, Limits, Now};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

const MESSAGES: [&str; 6] = [
    r#"["REQ","a",{"kinds":[1],"limit":5}]"#,
    r##"["REQ","bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",{"#t":["é","😀","x","y","z"]},{"since":1,"until":9}]"##,
    r#"["CLOSE","a"]"#,
    r#"["COUNT","n",{}]"#,
    r#"["REQ","c",{"authors":["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]}]"#,
    r#"["NEG-OPEN","n",{},"6100000200"]"#,
];

struct Ends {
    conn: Conn,
    core: ConnCore,
    now: Now,
    is_compressed: bool,
    deflater: Deflater,
    inflater: Inflater,
    /// From client to server.
    up: VecDeque<u8>,
    /// Received by the engine while the connection is parked.
    chunks: VecDeque<Vec<u8>>,
    /// From server to client, not yet a whole frame.
    down: Vec<u8>,
    is_head_read: bool,
    /// What the client said and the server has not heard.
    said: VecDeque<ClientMessage>,
    pinged: VecDeque<Vec<u8>>,
    /// What the server said and the client has not heard.
    told: VecDeque<String>,
    /// The client sent Close, or something that it must not say again.
    is_client_done: bool,
    is_close_heard: bool,
    is_opened: bool,
    /// The request will not be answered with an upgrade.
    is_refused: bool,
}

impl Ends {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let flags = bytes.byte();
        let is_compressed = flags & 1 == 1;
        let soft_bytes = 1_000 + usize::from(bytes.byte()) * 64;
        let config = ConnConfig {
            rates: Rates::OFF,
            negentropy: true,
            compression: CompressionConfig {
                enabled: true,
                threshold_bytes: 24,
                level: 1 + flags % 9,
            },
            outbox: OutboxLimits { soft_bytes, hard_bytes: soft_bytes * 3 },
            ..ConnConfig::default()
        };
        let core = fuzzing::core(config);
        let now = Now { monotonic_ms: 1_000, unix_s: 1_700_000_000 };
        let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let upgrade = if is_compressed { fuzzing::UPGRADE_DEFLATE } else { fuzzing::UPGRADE };
        let challenge = format!("[\"AUTH\",\"{}\"]", "07".repeat(16));
        Self {
            conn: Conn::new(now, peer, [7; 16], &core),
            core,
            now,
            is_compressed,
            deflater: Deflater::new(3),
            inflater: Inflater::default(),
            up: upgrade.iter().copied().collect(),
            chunks: VecDeque::new(),
            down: Vec::new(),
            is_head_read: false,
            said: VecDeque::new(),
            pinged: VecDeque::new(),
            told: VecDeque::from([challenge]),
            is_client_done: false,
            is_close_heard: false,
            is_opened: false,
            is_refused: false,
        }
    }

    fn client_frame(&mut self, first: u8, payload: &[u8], mask: u32) {
        self.up.push_back(first);
        match payload.len() {
            length @ 0..=125 => self.up.push_back(0x80 | length as u8),
            length => {
                self.up.push_back(0x80 | 126);
                self.up.extend((length as u16).to_be_bytes());
            }
        }
        let mask = mask.to_be_bytes();
        self.up.extend(mask);
        self.up.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    }

    fn say(&mut self, bytes: &mut Bytes<'_>) {
        let text = *bytes.pick(&MESSAGES);
        let mut payload = text.as_bytes().to_vec();
        let mut first = 1;
        if self.is_compressed && bytes.one_in(2) {
            let Some(deflated) = self.deflater.message(&[&payload], WindowBits::MAX) else { return };
            payload = deflated.to_vec();
            first |= 0x40;
        }
        let message = proto::parse::parse_client_message(text.as_bytes(), &Limits::default());
        self.said.push_back(message.expect("the menu is valid"));
        let pieces = 1 + bytes.below(4);
        for piece in 0..pieces {
            let is_last = piece + 1 == pieces;
            let length = if is_last { payload.len() } else { bytes.below(payload.len() + 1) };
            let rest = payload.split_off(length);
            let opcode = if piece == 0 { first } else { 0 };
            let mask = bytes.u32();
            self.client_frame(opcode | if is_last { 0x80 } else { 0 }, &payload, mask);
            payload = rest;
            if !is_last && bytes.one_in(4) {
                self.ping(bytes);
            }
        }
    }

    fn ping(&mut self, bytes: &mut Bytes<'_>) {
        let length = bytes.below(126);
        let payload = bytes.take(length).to_vec();
        let mask = bytes.u32();
        self.client_frame(0x89, &payload, mask);
        self.pinged.push_back(payload);
    }

    /// Moves bytes to the server and hears what it makes of them.
    fn receive(&mut self, count: usize, parks: bool) {
        if self.conn.is_parked() {
            let rest = self.conn.take_stash(&mut self.core);
            self.hear(&rest, false);
            return;
        }
        let count = count.min(self.up.len());
        let received: Vec<u8> = self.up.drain(..count).collect();
        self.hear(&received, parks);
    }

    fn hear(&mut self, mut data: &[u8], parks: bool) {
        while let Some(event) = self.conn.next(self.now, &mut data, &mut self.core) {
            match event {
                ConnEvent::Opened => self.is_opened = true,
                ConnEvent::Message(message) => {
                    assert_eq!(Some(message), self.said.pop_front(), "another message was heard");
                }
                ConnEvent::Closing(cause) => {
                    assert_eq!(cause, CloseCause::PeerClosed, "the client is honest");
                    assert!(self.is_client_done);
                }
                other => panic!("{other:?}"),
            }
            if parks {
                self.conn.stash(data, &mut self.core);
                return;
            }
        }
        assert!(data.is_empty(), "bytes were left while nothing was reported");
    }

    fn tell(&mut self, bytes: &mut Bytes<'_>) {
        let body = format!(r#"{{"content":"{}"}}"#, "word ".repeat(bytes.below(500)));
        let (pushed, text) = match bytes.byte() % 4 {
            0 => (
                self.conn.deliver("s\"", body.as_bytes(), &mut self.core),
                format!(r#"["EVENT","s\"",{body}]"#),
            ),
            1 => (
                self.conn.deliver_stored("s", body.as_bytes(), &mut self.core),
                format!(r#"["EVENT","s",{body}]"#),
            ),
            2 => (
                self.conn.reply_eose("s", Completeness::More, &mut self.core),
                r#"["EOSE","s",["more"]]"#.to_owned(),
            ),
            _ => (
                self.conn.reply_count("s", 7, false, None, &mut self.core),
                r#"["COUNT","s",{"count":7}]"#.to_owned(),
            ),
        };
        match pushed {
            Pushed::Ok => self.told.push_back(text),
            Pushed::OverSoft => assert!(self.conn.is_open(), "a refused live event ends nothing"),
            Pushed::OverHard => assert_eq!(self.conn.teardown(), Teardown::Close),
            Pushed::Closed => assert!(!self.conn.is_open()),
        }
    }

    /// The socket writes a chunk, of which the client reads all.
    fn send(&mut self) {
        if let Some(chunk) = self.conn.take_chunk() {
            self.down.extend_from_slice(&chunk);
            self.chunks.push_back(chunk);
        }
    }

    fn sent(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.conn.chunk_sent(chunk, &mut self.core);
        }
    }

    /// The client reads its frames.
    fn read(&mut self) {
        if !self.is_head_read {
            let Some(end) = self.down.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            if self.is_refused {
                // The server began to shut down before the request was there.
                assert!(self.down.starts_with(b"HTTP/1.1 503 "));
                return;
            }
            assert!(self.down.starts_with(b"HTTP/1.1 101 "));
            self.down.drain(..end + 4);
            self.is_head_read = true;
        }
        while let Some((first, payload, length)) = server_frame(&self.down) {
            self.down.drain(..length);
            assert!(!self.is_close_heard, "a frame after Close");
            self.understand(first, payload);
        }
    }

    fn understand(&mut self, first: u8, mut payload: Vec<u8>) {
        match first {
            0x81 | 0xc1 => {
                if first == 0xc1 {
                    assert!(self.is_compressed);
                    let mut budget = InputBudget::new(1 << 20);
                    self.inflater.inflate(&mut payload, 1 << 20, &mut budget).expect("inflates");
                }
                let text = String::from_utf8(payload).expect("is text");
                assert_eq!(Some(text), self.told.pop_front(), "another message was told");
            }
            0x8a => assert_eq!(Some(payload), self.pinged.pop_front(), "another pong"),
            0x89 => {
                if !self.is_client_done {
                    self.client_frame(0x8a, &payload, 7);
                }
            }
            0x88 => self.is_close_heard = true,
            other => panic!("first byte {other:x}"),
        }
    }

    fn close(&mut self) {
        self.client_frame(0x88, &[0x03, 0xe8], 1);
        self.is_client_done = true;
    }
}

/// The first byte, payload and length of the frame at the start of `bytes`, if it is whole.
fn server_frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert!(second < 0x80, "a server masks nothing");
    let (length, header) = match second {
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        length => (usize::from(length), 2),
    };
    Some((first, bytes.get(header..header + length)?.to_vec(), header + length))
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut ends = Ends::new(&mut bytes);
    let mut is_orderly = true;
    while !bytes.is_over() {
        match bytes.byte() % 10 {
            0 | 1 if !ends.is_client_done => ends.say(&mut bytes),
            2 if !ends.is_client_done => ends.ping(&mut bytes),
            3 | 4 => {
                let count = bytes.below(1_000);
                ends.receive(count, bytes.one_in(4));
            }
            5 => ends.tell(&mut bytes),
            6 => ends.send(),
            7 => ends.sent(),
            8 => ends.read(),
            9 => match bytes.byte() % 8 {
                0 if !ends.is_client_done => ends.close(),
                1 => {
                    ends.is_refused |= !ends.is_opened;
                    ends.conn.begin_close(ends.now, CloseCause::ShuttingDown, &mut ends.core);
                }
                2 | 3 => {
                    ends.now.monotonic_ms += u64::from(bytes.u16());
                    is_orderly &= ends.conn.tick(ends.now, &mut ends.core).is_none();
                }
                _ => {}
            },
            _ => {}
        }
        is_orderly &= ends.conn.teardown() != Teardown::Close || ends.conn.is_open();
    }
    // Everything arrives.
    for _ in 0..4 {
        while ends.conn.is_parked() || !ends.up.is_empty() {
            ends.receive(usize::MAX, false);
        }
        ends.send();
        while ends.conn.outbox().has_queued() {
            ends.send();
        }
        while !ends.chunks.is_empty() {
            ends.sent();
        }
        ends.read();
    }
    if is_orderly && ends.conn.is_open() {
        assert!(ends.said.is_empty(), "the server did not hear {:?}", ends.said);
        assert!(ends.told.is_empty(), "the client was not told {:?}", ends.told);
        assert!(ends.pinged.is_empty() && ends.down.is_empty());
    }
    assert_eq!(ends.conn.outbox().pending_bytes(), 0);
    ends.conn.release(&mut ends.core);
    assert_eq!(ends.core.input.held_bytes(), 0, "input is still held");
    assert_eq!(ends.core.outboxes.held_bytes(), 0, "output is still held");
}
