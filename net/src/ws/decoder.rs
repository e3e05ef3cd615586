//! Frames to messages. A whole message in one unfragmented frame that lies wholly in the received
//! bytes is unmasked into the core's scratch buffer and leaves nothing behind; anything else is
//! assembled in a buffer that lives until the message ends.

use super::close::{self, CloseCode};
use super::deflate::{Inflater, compressed_bytes_max};
use super::frame::{self, FrameError, FrameHeader, HEADER_BYTES_MAX, Opcode};
use super::mask::{apply_mask, rotate};
use super::utf8::Utf8Stream;

/// Memory of one assembly besides the message's own bytes.
const ASSEMBLY_BYTES: usize = size_of::<Assembly>();

/// Up to this length an assembled message is copied to the scratch buffer, so that the buffer keeps
/// its capacity; above it the two change places.
const COPY_BYTES_MAX: usize = 16 * 1024;

/// An assembly that takes no more than this is never refused by the budget, which is shared: a
/// client with large unfinished messages must not lock out newcomers with small ones. These are
/// bounded by the number of connections.
const ASSEMBLY_GRANTED_BYTES: usize = 4 * 1024;

/// Limits on what is decoded.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLimits {
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Fragments of one message.
    pub fragments_max: u32,
}

/// What request heads, unfinished messages and parked input of one core hold, and how much of it
/// large unfinished messages may bring that to. Owned by one core.
#[derive(Debug)]
pub struct InputBudget {
    held_bytes: usize,
    bytes_max: usize,
}

impl InputBudget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self { held_bytes: 0, bytes_max }
    }

    /// Sets the budget anew.
    pub fn resize(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let fits = self.held_bytes.saturating_add(bytes) <= self.bytes_max;
        if fits {
            self.held_bytes += bytes;
        }
        fits
    }

    /// Takes `bytes` whether or not they are there, for input that has to be kept and input that is
    /// bounded otherwise.
    pub(crate) fn take_anyway(&mut self, bytes: usize) {
        self.held_bytes = self.held_bytes.saturating_add(bytes);
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&mut self, bytes: usize) {
        debug_assert!(self.held_bytes >= bytes, "more input given back than taken");
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }
}

/// What the decoders of one core share.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// Where a message that is whole is put.
    pub scratch: &'a mut Vec<u8>,
    /// What unfinished messages are charged to.
    pub budget: &'a mut InputBudget,
    /// The core's inflater, if permessage-deflate was agreed on this connection.
    pub inflater: Option<&'a mut Inflater>,
}

/// Something whole. Payloads are in the scratch buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message, valid UTF-8.
    Text,
    /// A binary message.
    Binary,
    /// A ping.
    Ping,
    /// A pong.
    Pong,
    /// A Close frame with its code.
    Close(Option<CloseCode>),
}

/// Why decoding cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A malformed frame, or a frame out of order.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Text that is not UTF-8.
    #[error("text is not valid UTF-8")]
    NotUtf8,
    /// A compressed message that cannot be inflated.
    #[error("compressed message is corrupt")]
    NotDeflate,
    /// A message beyond the limit.
    #[error("message is too long")]
    TooLong,
    /// A message in too many fragments.
    #[error("message has too many fragments")]
    TooManyFragments,
    /// No memory for a large unfinished message.
    #[error("budget for unfinished messages is used up")]
    Budget,
}

/// The frame whose payload is being read.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    opcode: Opcode,
    is_final: bool,
    mask: [u8; 4],
    payload_bytes_left: u64,
}

/// A message in the making, or a frame of which only a part has arrived.
#[derive(Debug)]
struct Assembly {
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    frame: Option<OpenFrame>,
    /// Unmasked payload so far.
    message: Vec<u8>,
    /// What the message is; `None` while no data frame has begun.
    message_opcode: Option<Opcode>,
    /// Whether `message` is compressed.
    is_compressed: bool,
    fragments: u32,
    utf8: Utf8Stream,
    control: Vec<u8>,
    started_ms: u64,
    /// Bytes taken from the budget for this assembly.
    charged_bytes: usize,
}

/// Decodes the frames of one connection. Eight bytes while nothing is half-received.
#[derive(Debug, Default)]
pub struct Decoder(Option<Box<Assembly>>);

impl Decoder {
    /// When the unfinished message began, in monotonic milliseconds.
    pub fn started_ms(&self) -> Option<u64> {
        self.0.as_ref().map(|assembly| assembly.started_ms)
    }

    /// Gives back all memory; what was half-received is forgotten.
    pub fn clear(&mut self, budget: &mut InputBudget) {
        if let Some(assembly) = self.0.take() {
            budget.give(assembly.charged_bytes);
        }
    }

    /// Consumes bytes from `data` until something is whole. `Ok(None)` means that all of `data` is
    /// consumed and more is needed.
    ///
    /// # Errors
    /// [`Violation`]; nothing can be decoded afterwards.
    pub fn next(
        &mut self,
        now_ms: u64,
        data: &mut &[u8],
        limits: &DecoderLimits,
        work: &mut Workspace<'_>,
    ) -> Result<Option<Incoming>, Violation> {
        if self.0.is_none() {
            if data.is_empty() {
                return Ok(None);
            }
            if let Some(incoming) = whole_frame(data, limits, work)? {
                return Ok(Some(incoming));
            }
            work.budget.take_anyway(ASSEMBLY_BYTES);
            self.0 = Some(Box::new(Assembly::new(now_ms)));
        }
        let Some(assembly) = &mut self.0 else { return Ok(None) };
        let incoming = assembly.next(data, limits, work)?;
        if assembly.is_idle() {
            self.clear(work.budget);
        }
        Ok(incoming)
    }
}

/// The fast path: one final frame that lies wholly in `data`. `Ok(None)` sends the bytes to the
/// assembly, which finds the same errors in the same order.
fn whole_frame(
    data: &mut &[u8],
    limits: &DecoderLimits,
    work: &mut Workspace<'_>,
) -> Result<Option<Incoming>, Violation> {
    let Some(header) = frame::parse_client_header(data, work.inflater.is_some())? else {
        return Ok(None);
    };
    check_order(&header, None)?;
    check_length(&header, header.is_compressed, 0, limits)?;
    let frame_bytes = header.header_bytes + header.payload_bytes as usize;
    if !header.is_final || data.len() < frame_bytes {
        return Ok(None);
    }
    work.scratch.clear();
    work.scratch.extend_from_slice(&data[header.header_bytes..frame_bytes]);
    *data = &data[frame_bytes..];
    apply_mask(work.scratch, header.mask);
    if header.is_compressed {
        inflate(limits, work)?;
    }
    if header.opcode == Opcode::Text && simdutf8::basic::from_utf8(work.scratch).is_err() {
        return Err(Violation::NotUtf8);
    }
    finish(header.opcode, work.scratch).map(Some)
}

/// Inflates the whole message in the scratch buffer.
fn inflate(limits: &DecoderLimits, work: &mut Workspace<'_>) -> Result<(), Violation> {
    // Without an inflater no frame passes as compressed.
    let Some(inflater) = &mut work.inflater else { return Err(Violation::NotDeflate) };
    inflater.inflate(work.scratch, limits.message_bytes_max, work.budget)
}

fn finish(opcode: Opcode, payload: &[u8]) -> Result<Incoming, Violation> {
    Ok(match opcode {
        Opcode::Text => Incoming::Text,
        Opcode::Binary => Incoming::Binary,
        Opcode::Ping => Incoming::Ping,
        Opcode::Pong => Incoming::Pong,
        Opcode::Close => Incoming::Close(close::parse_payload(payload)?),
        Opcode::Continuation => return Err(FrameError::NothingToContinue.into()),
    })
}

/// Whether a frame may stand here; `open` is the message that fragments have begun.
fn check_order(header: &FrameHeader, open: Option<Opcode>) -> Result<(), FrameError> {
    match (header.opcode, open) {
        (Opcode::Continuation, None) => Err(FrameError::NothingToContinue),
        (Opcode::Text | Opcode::Binary, Some(_)) => Err(FrameError::UnfinishedMessage),
        _ => Ok(()),
    }
}

/// Refuses by the length in the header, before a byte of the payload is kept.
fn check_length(
    header: &FrameHeader,
    is_compressed: bool,
    message_bytes: usize,
    limits: &DecoderLimits,
) -> Result<(), Violation> {
    let plain_bytes_max = limits.message_bytes_max;
    let bytes_max =
        if is_compressed { compressed_bytes_max(plain_bytes_max) } else { plain_bytes_max };
    let room = bytes_max.saturating_sub(message_bytes);
    if !header.opcode.is_control() && header.payload_bytes > room as u64 {
        return Err(Violation::TooLong);
    }
    Ok(())
}

impl Assembly {
    fn new(started_ms: u64) -> Self {
        Self {
            header: [0; HEADER_BYTES_MAX],
            header_bytes: 0,
            frame: None,
            message: Vec::new(),
            message_opcode: None,
            is_compressed: false,
            fragments: 0,
            utf8: Utf8Stream::default(),
            control: Vec::new(),
            started_ms,
            charged_bytes: ASSEMBLY_BYTES,
        }
    }

    fn is_idle(&self) -> bool {
        self.header_bytes == 0 && self.frame.is_none() && self.message_opcode.is_none()
    }

    fn next(
        &mut self,
        data: &mut &[u8],
        limits: &DecoderLimits,
        work: &mut Workspace<'_>,
    ) -> Result<Option<Incoming>, Violation> {
        loop {
            let mut open = match self.frame {
                Some(open) => open,
                None => match self.open_frame(data, limits, work.inflater.is_some())? {
                    Some(open) => open,
                    None => return Ok(None),
                },
            };
            self.read_payload(&mut open, data, work.budget)?;
            if open.payload_bytes_left > 0 {
                self.frame = Some(open);
                return Ok(None);
            }
            self.frame = None;
            if open.opcode.is_control() {
                work.scratch.clear();
                work.scratch.extend_from_slice(&self.control);
                self.control.clear();
                return finish(open.opcode, work.scratch).map(Some);
            }
            if open.is_final {
                return self.finish_message(limits, work).map(Some);
            }
        }
    }

    /// Collects header bytes until the header is whole, then checks it.
    fn open_frame(
        &mut self,
        data: &mut &[u8],
        limits: &DecoderLimits,
        may_be_compressed: bool,
    ) -> Result<Option<OpenFrame>, Violation> {
        let kept = usize::from(self.header_bytes);
        let now = data.len().min(HEADER_BYTES_MAX - kept);
        self.header[kept..kept + now].copy_from_slice(&data[..now]);
        let bytes = &self.header[..kept + now];
        let Some(header) = frame::parse_client_header(bytes, may_be_compressed)? else {
            self.header_bytes = (kept + now) as u8;
            *data = &data[now..];
            return Ok(None);
        };
        // The copy may have reached into the payload; only what belongs to the header is consumed.
        *data = &data[header.header_bytes.saturating_sub(kept)..];
        self.header_bytes = 0;
        check_order(&header, self.message_opcode)?;
        let is_compressed = self.is_compressed || header.is_compressed;
        check_length(&header, is_compressed, self.message.len(), limits)?;
        if !header.opcode.is_control() {
            if self.fragments >= limits.fragments_max {
                return Err(Violation::TooManyFragments);
            }
            self.fragments += 1;
            if header.opcode != Opcode::Continuation {
                self.message_opcode = Some(header.opcode);
                self.is_compressed = header.is_compressed;
            }
        }
        let open = OpenFrame {
            opcode: header.opcode,
            is_final: header.is_final,
            mask: header.mask,
            payload_bytes_left: header.payload_bytes,
        };
        Ok(Some(open))
    }

    fn read_payload(
        &mut self,
        open: &mut OpenFrame,
        data: &mut &[u8],
        budget: &mut InputBudget,
    ) -> Result<(), Violation> {
        let now = data.len().min(usize::try_from(open.payload_bytes_left).unwrap_or(usize::MAX));
        let (piece, rest) = data.split_at(now);
        *data = rest;
        let target = if open.opcode.is_control() { &mut self.control } else { &mut self.message };
        let before = target.len();
        let capacity_before = target.capacity();
        target.extend_from_slice(piece);
        let grown = target.capacity() - capacity_before;
        apply_mask(&mut target[before..], open.mask);
        open.mask = rotate(open.mask, now);
        open.payload_bytes_left -= now as u64;
        let is_text = self.message_opcode == Some(Opcode::Text) && !self.is_compressed;
        if is_text && !open.opcode.is_control() {
            self.utf8.feed(&self.message[before..]).map_err(|_| Violation::NotUtf8)?;
        }
        if !open.opcode.is_control() {
            if self.charged_bytes + grown <= ASSEMBLY_GRANTED_BYTES {
                budget.take_anyway(grown);
            } else if !budget.take(grown) {
                return Err(Violation::Budget);
            }
            self.charged_bytes += grown;
        }
        Ok(())
    }

    fn finish_message(
        &mut self,
        limits: &DecoderLimits,
        work: &mut Workspace<'_>,
    ) -> Result<Incoming, Violation> {
        let is_text = self.message_opcode.take() == Some(Opcode::Text);
        if is_text && !self.utf8.is_complete() {
            return Err(Violation::NotUtf8);
        }
        if self.message.len() > COPY_BYTES_MAX {
            // The message moves out without a copy; the core's old scratch buffer is freed instead.
            std::mem::swap(work.scratch, &mut self.message);
        } else {
            work.scratch.clear();
            work.scratch.extend_from_slice(&self.message);
        }
        if self.is_compressed {
            inflate(limits, work)?;
            if is_text && simdutf8::basic::from_utf8(work.scratch).is_err() {
                return Err(Violation::NotUtf8);
            }
        }
        Ok(if is_text { Incoming::Text } else { Incoming::Binary })
    }
}
