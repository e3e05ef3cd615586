//! A connection with a core and a clock, and the client's half of the wire.
#![allow(dead_code, clippy::unwrap_used)]

use core::net::IpAddr;
use net::{Conn, ConnConfig, ConnCore, ConnEvent, NetCounters};
use proto::verify::Secp256k1Verifier;
use proto::{
    ClientMessage, Event, EventId, EventParts, Now, PublicKey, Secret, SeededState, Signature,
};
use secp256k1::{Keypair, schnorr};

/// Wall clock of every test.
pub const UNIX_S: u64 = 1_700_000_000;

/// One connection and everything around it.
pub struct Wire {
    /// The connection; `None` once released.
    pub conn: Conn,
    /// Its core.
    pub core: ConnCore,
    /// The clock.
    pub now: Now,
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFrame {
    /// Opcode bits.
    pub opcode: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

impl ServerFrame {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// Close code and reason.
    pub fn close(&self) -> (u16, &str) {
        assert_eq!(self.opcode, 8, "{self:?} is no Close frame");
        let code = u16::from_be_bytes([self.payload[0], self.payload[1]]);
        (code, std::str::from_utf8(&self.payload[2..]).unwrap())
    }
}

/// A configuration whose limits no test meets by accident.
pub fn config() -> ConnConfig {
    ConnConfig { public_url: Some("wss://relay.example".into()), ..ConnConfig::default() }
}

impl Wire {
    /// A connection that was just accepted.
    pub fn accept(config: ConnConfig) -> Self {
        Self::accept_from(config, "192.0.2.1")
    }

    /// The same from a certain peer.
    pub fn accept_from(config: ConnConfig, peer: &str) -> Self {
        let verifier = Secp256k1Verifier::new(SeededState::new(Secret([3; 16])), 100);
        let core = ConnCore::new(config, Box::new(verifier));
        let now = Now { monotonic_ms: 1_000_000, unix_s: UNIX_S };
        let peer: IpAddr = peer.parse().unwrap();
        Self { conn: Conn::new(now, peer, [7; 16], &core), core, now }
    }

    /// An open WebSocket whose first output is read.
    pub fn open(config: ConnConfig) -> Self {
        let mut wire = Self::accept(config);
        assert_eq!(wire.send(net::fuzzing::UPGRADE), [ConnEvent::Opened]);
        let output = wire.output();
        let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let challenge = format!("[\"AUTH\",\"{}\"]", "07".repeat(16));
        let frames = server_frames(&output[end..]);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].text(), challenge);
        wire
    }

    /// Feeds bytes and collects the events.
    pub fn send(&mut self, mut data: &[u8]) -> Vec<ConnEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.conn.next(self.now, &mut data, &mut self.core) {
            events.push(event);
        }
        assert!(data.is_empty());
        events
    }

    /// Sends one text message.
    pub fn send_text(&mut self, text: &str) -> Vec<ConnEvent> {
        self.send(&client_frame(0x81, text.as_bytes()))
    }

    /// Sends one text message that the connection passes on.
    pub fn message(&mut self, text: &str) -> ClientMessage {
        match self.send_text(text).as_slice() {
            [ConnEvent::Message(message)] => message.clone(),
            other => panic!("{text} gave {other:?}"),
        }
    }

    /// Everything that was queued, as if the socket took it.
    pub fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while let Some(chunk) = self.conn.take_chunk() {
            output.extend_from_slice(&chunk);
            self.conn.chunk_sent(chunk, &mut self.core);
        }
        output
    }

    /// The frames that were queued.
    pub fn frames(&mut self) -> Vec<ServerFrame> {
        server_frames(&self.output())
    }

    /// The one text frame that was queued.
    pub fn reply(&mut self) -> String {
        let frames = self.frames();
        assert_eq!(frames.len(), 1, "{frames:?}");
        assert_eq!(frames[0].opcode, 1);
        frames[0].text().to_owned()
    }

    /// Moves the clock.
    pub fn wait(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.unix_s += ms / 1_000;
    }

    /// The counters.
    pub fn counters(&self) -> &NetCounters {
        &self.core.counters
    }
}

/// A masked frame; `first` is its first byte.
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

/// Parses unmasked frames, naively.
pub fn server_frames(mut bytes: &[u8]) -> Vec<ServerFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0] & 0xf0, 0x80, "final, without reserved bits");
        let opcode = bytes[0] & 0x0f;
        let (length, header) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize, 10),
            length => (usize::from(length), 2),
        };
        assert!(length < 1 << 30, "no mask");
        frames.push(ServerFrame { opcode, payload: bytes[header..header + length].to_vec() });
        bytes = &bytes[header + length..];
    }
    frames
}

/// A signer of events.
pub struct Signer(Keypair);

impl Signer {
    /// A key made from a number.
    pub fn new(secret: u8) -> Self {
        Self(Keypair::from_secret_bytes([secret; 32]).unwrap())
    }

    /// The public key.
    pub fn key(&self) -> PublicKey {
        PublicKey(self.0.x_only_public_key().0.to_byte_array())
    }

    /// A signed event; `tags` is canonical JSON.
    pub fn event(&self, kind: u16, created_at: u64, tags: &str, content: &str) -> Event {
        let content = serde_json::to_string(content).unwrap();
        let mut parts = EventParts {
            id: EventId([0; 32]),
            pubkey: self.key(),
            sig: Signature([0; 64]),
            created_at: u32::try_from(created_at).unwrap(),
            kind,
            tags_json: tags.as_bytes(),
            content_json: content.as_bytes(),
        };
        parts.id = parts.compute_id();
        parts.sig = Signature(schnorr::sign_no_aux_rand(&parts.id.0, &self.0).to_byte_array());
        parts.pack()
    }

    /// An AUTH event for the challenge that every test connection gives.
    pub fn auth(&self, relay: &str) -> Event {
        let challenge = "07".repeat(16);
        let tags = format!("[[\"relay\",\"{relay}\"],[\"challenge\",\"{challenge}\"]]");
        self.event(22_242, UNIX_S, &tags, "")
    }
}

/// `["<verb>",<event>]`.
pub fn event_message(verb: &str, event: &Event) -> String {
    let mut json = Vec::new();
    event.view().write_json(&mut json);
    format!("[\"{verb}\",{}]", String::from_utf8(json).unwrap())
}
