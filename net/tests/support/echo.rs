//! A WebSocket server that sends every message back, made of nothing but `net::ws` and `net::http`
//! and without I/O: what the conformance vectors and the live suite are run against. It is in
//! reach of both the tests and the example.

use net::CloseCause;
use net::http::head::{Head, find_end};
use net::http::response::switching_protocols;
use net::http::{Route, route};
use net::ws::frame::{Form, write_server_header};
use net::ws::{
    Agreed, Decoder, DecoderLimits, Deflater, Incoming, Inflater, InputBudget, Opcode, WindowBits,
    Workspace, close,
};

/// Limits beyond anything that a conformance suite sends. The relay's own are much smaller.
const LIMITS: DecoderLimits =
    DecoderLimits { message_bytes_max: 64 * 1024 * 1024, fragments_max: u32::MAX };
/// As much as two of the longest messages take.
const INPUT_BYTES_MAX: usize = 256 * 1024 * 1024;

enum Stage {
    Request(Vec<u8>),
    Open(Option<WindowBits>),
    Ended,
}

/// One connection.
pub struct Echo {
    stage: Stage,
    compresses: bool,
    decoder: Decoder,
    scratch: Vec<u8>,
    budget: InputBudget,
    inflater: Inflater,
    deflater: Deflater,
}

impl Echo {
    /// A connection that was just accepted; `compresses` says whether permessage-deflate is agreed
    /// to.
    pub fn new(compresses: bool) -> Self {
        Self {
            stage: Stage::Request(Vec::new()),
            compresses,
            decoder: Decoder::default(),
            scratch: Vec::new(),
            budget: InputBudget::new(INPUT_BYTES_MAX),
            inflater: Inflater::default(),
            deflater: Deflater::new(6),
        }
    }

    /// Whether the last byte has been said.
    pub fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// Takes received bytes and appends the answers to `out`.
    pub fn receive(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        if let Stage::Request(head) = &mut self.stage {
            let scanned = head.len();
            head.extend_from_slice(data);
            match find_end(head, scanned) {
                Ok(None) => return,
                Ok(Some(end)) => data = &data[end - scanned..],
                Err(_) => return self.stage = Stage::Ended,
            }
            let taken = head.len() - data.len();
            head.truncate(taken);
            let asked = Head::parse(head).map(|head| route(&head, "/", self.compresses));
            let Ok(Route::Upgrade(upgrade)) = asked else { return self.stage = Stage::Ended };
            out.extend_from_slice(switching_protocols(&upgrade).as_bytes());
            self.stage = Stage::Open(upgrade.deflate.map(Agreed::server_window));
        }
        while let Stage::Open(window) = self.stage {
            let inflater = window.is_some().then_some(&mut self.inflater);
            let mut work =
                Workspace { scratch: &mut self.scratch, budget: &mut self.budget, inflater };
            match self.decoder.next(0, &mut data, &LIMITS, &mut work) {
                Ok(None) => return,
                Ok(Some(Incoming::Text)) => self.send(Opcode::Text, window, out),
                Ok(Some(Incoming::Binary)) => self.send(Opcode::Binary, window, out),
                Ok(Some(Incoming::Ping)) => self.send(Opcode::Pong, None, out),
                Ok(Some(Incoming::Pong)) => {}
                Ok(Some(Incoming::Close(code))) => {
                    self.end(&code.map(|code| close::payload(code, "")).unwrap_or_default(), out);
                }
                Err(violation) => {
                    let code = CloseCause::from(violation).code();
                    self.end(&code.map(|code| close::payload(code, "")).unwrap_or_default(), out);
                }
            }
        }
    }

    fn send(&mut self, opcode: Opcode, window: Option<WindowBits>, out: &mut Vec<u8>) {
        let deflated = window.and_then(|window| self.deflater.message(&[&self.scratch], window));
        let (form, payload) = match deflated {
            Some(deflated) => (Form::Deflated, deflated),
            None => (Form::Plain, &*self.scratch),
        };
        write_server_header(opcode, form, payload.len(), out);
        out.extend_from_slice(payload);
    }

    fn end(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        write_server_header(Opcode::Close, Form::Plain, payload.len(), out);
        out.extend_from_slice(payload);
        self.stage = Stage::Ended;
    }
}
