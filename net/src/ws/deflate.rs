//! The two codecs of permessage-deflate (RFC 7692 7.2), one of each per core.
//!
//! Without context takeover a message is compressed by itself, so a codec is reset before each
//! message and serves every connection of its core in turn. What a client may make the inflater
//! write is the message limit and one step more.

use super::decoder::{InputBudget, Violation};
use super::extension::WindowBits;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Output of the inflater is looked at in steps of this size.
pub const STEP_BYTES: usize = 16 * 1024;
/// What a sender cuts off the end of a compressed message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Deflate streams that one message may consist of. A final block ends a stream, which is how some
/// senders flush, and a stream ends after two bytes at least: more would be a way to make the
/// codec busy.
const STREAMS_MAX: u32 = 64;
/// Room that a flush is given at least.
const FLUSH_ROOM_BYTES: usize = 64;
/// Longest stored block.
const STORED_BYTES_MAX: usize = 0xffff;
/// Memory of the codecs themselves: state, window and hash chains of a deflater at the largest
/// window (380,032 bytes), state and window of an inflater (47,552 bytes), the step.
const CODEC_BYTES: usize = 384 * 1024 + 64 * 1024 + STEP_BYTES;

/// Longest compressed form of a message of `message_bytes_max`. Stored blocks add little, and the
/// fixed code an eighth at most, so whatever is longer than this carries too long a message or
/// was made long on purpose.
pub fn compressed_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 8).saturating_add(64)
}

/// Bound on what compression costs one core, however many connections use it: the codecs, the
/// inflated message, and for output the compressed message and the body that is shared, each in a
/// vector that may have grown to twice what it holds.
pub fn core_bytes_max(message_bytes_max: usize) -> usize {
    CODEC_BYTES + 4 * 2 * compressed_bytes_max(message_bytes_max)
}

/// Inflates what clients send. Owned by one core.
#[derive(Debug)]
pub struct Inflater {
    codec: Decompress,
    step: Box<[u8]>,
    output: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            codec: Decompress::new(false),
            step: vec![0; STEP_BYTES].into_boxed_slice(),
            output: Vec::new(),
        }
    }
}

impl Inflater {
    /// Replaces the compressed `message` by what it says. While it grows it counts against
    /// `budget`; its first step does so in any case, because there is one per core.
    ///
    /// # Errors
    /// [`Violation::TooLong`] beyond `message_bytes_max`, after one step more at most;
    /// [`Violation::Budget`]; [`Violation::NotDeflate`].
    pub fn inflate(
        &mut self,
        message: &mut Vec<u8>,
        message_bytes_max: usize,
        budget: &mut InputBudget,
    ) -> Result<(), Violation> {
        self.codec.reset(false);
        self.output.clear();
        let mut charged_bytes = 0;
        let mut streams = 0;
        let inflated = [message.as_slice(), &TAIL].into_iter().try_for_each(|input| {
            self.feed(input, &mut streams, |output, step| {
                if output.len() + step.len() > message_bytes_max {
                    return Err(Violation::TooLong);
                }
                if charged_bytes == 0 {
                    budget.take_anyway(step.len());
                } else if !budget.take(step.len()) {
                    return Err(Violation::Budget);
                }
                charged_bytes += step.len();
                output.extend_from_slice(step);
                Ok(())
            })
        });
        budget.give(charged_bytes);
        if inflated.is_ok() {
            std::mem::swap(message, &mut self.output);
        }
        inflated
    }

    /// Bytes that the codec wrote for the message last inflated, the refused ones included. A
    /// message of several streams counts its last.
    pub fn written_bytes(&self) -> u64 {
        self.codec.total_out()
    }

    /// Feeds one piece of input and passes on every step of output.
    fn feed(
        &mut self,
        mut input: &[u8],
        streams: &mut u32,
        mut take: impl FnMut(&mut Vec<u8>, &[u8]) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        loop {
            let (in_before, out_before) = (self.codec.total_in(), self.codec.total_out());
            let status = self
                .codec
                .decompress(input, &mut self.step, FlushDecompress::None)
                .map_err(|_| Violation::NotDeflate)?;
            input = &input[(self.codec.total_in() - in_before) as usize..];
            let written = (self.codec.total_out() - out_before) as usize;
            take(&mut self.output, &self.step[..written])?;
            if status == Status::StreamEnd {
                *streams += 1;
                self.codec.reset(false);
                if *streams > STREAMS_MAX {
                    return Err(Violation::NotDeflate);
                }
                if input.is_empty() {
                    return Ok(());
                }
            } else if written < STEP_BYTES {
                // Less than a step came out, so that all of the input must be in.
                return if input.is_empty() { Ok(()) } else { Err(Violation::NotDeflate) };
            }
        }
    }
}

/// A body that several connections get, and what became of it.
#[derive(Debug)]
struct Shared {
    plain: Vec<u8>,
    window: WindowBits,
    /// The body and the closing bracket as whole blocks; empty if they did not get smaller.
    blocks: Vec<u8>,
}

/// Deflates what clients are sent. Owned by one core.
#[derive(Debug)]
pub struct Deflater {
    codec: Compress,
    level: u8,
    output: Vec<u8>,
    shared: Shared,
}

impl Deflater {
    /// A deflater of level 1 (fast) to 9 (small).
    pub fn new(level: u8) -> Self {
        let compression = Compression::new(u32::from(level.clamp(1, 9)));
        let shared = Shared { plain: Vec::new(), window: WindowBits::MAX, blocks: Vec::new() };
        Self { codec: Compress::new(compression, false), level, output: Vec::new(), shared }
    }

    /// The level.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The compressed form of the message that `parts` make up; `None` if it is no smaller.
    pub fn message(&mut self, parts: &[&[u8]], window: WindowBits) -> Option<&[u8]> {
        let plain_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        self.output.clear();
        deflate(&mut self.codec, parts, window, &mut self.output)?;
        (self.output.len() < plain_bytes).then_some(&*self.output)
    }

    /// The compressed form of `prefix`, `body` and `]` in three parts; `None` if it is no smaller.
    ///
    /// The prefix, which differs from subscription to subscription, stands in a block of its own
    /// that is not compressed. The blocks of the body refer only to each other, so they are the
    /// same behind any prefix: a body that is sent to many is compressed once.
    pub fn event<'a>(
        &'a mut self,
        prefix: &'a [u8],
        body: &[u8],
        window: WindowBits,
        header: &'a mut [u8; 5],
    ) -> Option<[&'a [u8]; 3]> {
        let prefix_bytes = u16::try_from(prefix.len()).ok()?;
        const { assert!(STORED_BYTES_MAX == u16::MAX as usize) };
        let [low, high] = prefix_bytes.to_le_bytes();
        *header = [0, low, high, !low, !high];
        if self.shared.window != window || self.shared.plain != body {
            self.share(body, window);
        }
        let blocks = &self.shared.blocks;
        let is_smaller = !blocks.is_empty() && header.len() + blocks.len() <= body.len();
        is_smaller.then_some([header, prefix, blocks])
    }

    fn share(&mut self, body: &[u8], window: WindowBits) {
        let shared = &mut self.shared;
        shared.window = window;
        shared.plain.clear();
        shared.plain.extend_from_slice(body);
        shared.blocks.clear();
        if deflate(&mut self.codec, &[body, b"]"], window, &mut shared.blocks).is_none() {
            shared.blocks.clear();
        }
    }
}

/// Appends the blocks of a message to `out`, without the tail. `None` says that the codec did not
/// do what it promises, and that the message is to go uncompressed.
///
/// A window smaller than the codec's is kept to by forgetting everything after each window's worth
/// of input: no reference can then reach further back.
fn deflate(
    codec: &mut Compress,
    parts: &[&[u8]],
    window: WindowBits,
    out: &mut Vec<u8>,
) -> Option<()> {
    codec.reset();
    let is_limited = window != WindowBits::MAX;
    let mut window_bytes_left = window.window_bytes();
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            if is_limited && window_bytes_left == 0 {
                run(codec, &[], FlushCompress::Full, out)?;
                window_bytes_left = window.window_bytes();
            }
            let now = if is_limited { rest.len().min(window_bytes_left) } else { rest.len() };
            run(codec, &rest[..now], FlushCompress::None, out)?;
            window_bytes_left = window_bytes_left.saturating_sub(now);
            rest = &rest[now..];
        }
    }
    run(codec, &[], FlushCompress::Sync, out)?;
    let blocks = out.len().checked_sub(TAIL.len())?;
    if out[blocks..] != TAIL {
        return None;
    }
    out.truncate(blocks);
    Some(())
}

/// Feeds `input` and takes all output that `flush` brings.
fn run(
    codec: &mut Compress,
    mut input: &[u8],
    flush: FlushCompress,
    out: &mut Vec<u8>,
) -> Option<()> {
    loop {
        // With only a few bytes of room a flush would be marked again and again.
        if out.capacity() - out.len() < FLUSH_ROOM_BYTES {
            out.reserve(input.len() / 2 + FLUSH_ROOM_BYTES);
        }
        let before = codec.total_in();
        codec.compress_vec(input, out, flush).ok()?;
        input = &input[(codec.total_in() - before) as usize..];
        if input.is_empty() && out.len() < out.capacity() {
            return Some(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 * 1024;

    fn inflate(bytes: &[u8], message_bytes_max: usize) -> Result<Vec<u8>, Violation> {
        let mut budget = InputBudget::new(1 << 20);
        let mut message = bytes.to_vec();
        let inflated = Inflater::default().inflate(&mut message, message_bytes_max, &mut budget);
        assert_eq!(budget.held_bytes(), 0);
        inflated.map(|()| message)
    }

    /// A window's worth of noise, over and over: whoever looks back far enough finds it again.
    fn repeating(period_bytes: usize, bytes: usize) -> Vec<u8> {
        let mut state = 1u32;
        let noise: Vec<u8> = (0..period_bytes)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        noise.iter().copied().cycle().take(bytes).collect()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        for hello in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // A stored block, a final block, and two blocks.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflate(hello, 5).as_deref(), Ok(&b"Hello"[..]), "{hello:x?}");
            assert_eq!(inflate(hello, 4), Err(Violation::TooLong));
        }
        assert_eq!(inflate(&[0], 0).as_deref(), Ok(&b""[..]), "the empty message");
        // The second message of the example with context takeover refers to the first.
        assert_eq!(inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 5), Err(Violation::NotDeflate));
    }

    #[test]
    fn garbage_is_named_and_final_blocks_are_counted() {
        for garbage in [&[0x06][..], &[0xff; 20], &[0x00, 0x05, 0x00, 0x05, 0x00]] {
            assert_eq!(inflate(garbage, LIMIT), Err(Violation::NotDeflate), "{garbage:x?}");
        }
        let finals = |count: usize| [0x03, 0x00].repeat(count);
        assert_eq!(inflate(&finals(64), LIMIT).as_deref(), Ok(&b""[..]));
        assert_eq!(inflate(&finals(65), LIMIT), Err(Violation::NotDeflate));
    }

    #[test]
    fn a_shared_body_is_compressed_once_and_reads_alike_behind_any_prefix() {
        let body = repeating(100, 3_000);
        let mut deflater = Deflater::new(3);
        let mut blocks = Vec::new();
        for sub in ["a", "b", &"long".repeat(16)] {
            let prefix = format!("[\"EVENT\",\"{sub}\",");
            for window in [WindowBits::MAX, WindowBits::new(9).unwrap()] {
                let mut header = [0; 5];
                let parts = deflater.event(prefix.as_bytes(), &body, window, &mut header).unwrap();
                let expected = [prefix.as_bytes(), &body, b"]"].concat();
                assert_eq!(inflate(&parts.concat(), LIMIT).as_deref(), Ok(&expected[..]));
                blocks.push(parts[2].to_vec());
            }
        }
        assert!(blocks[0] == blocks[2] && blocks[2] == blocks[4]);
        let work = deflater.codec.total_in();
        let mut header = [0; 5];
        let narrow = WindowBits::new(9).unwrap();
        for _ in 0..100 {
            assert!(deflater.event(b"x", &body, narrow, &mut header).is_some());
        }
        assert_eq!(deflater.codec.total_in(), work, "the codec was not asked again");
    }

    #[test]
    fn what_does_not_get_smaller_is_left_alone() {
        let noise = repeating(3_000, 3_000);
        let mut deflater = Deflater::new(9);
        assert_eq!(deflater.message(&[&noise], WindowBits::MAX), None);
        let mut header = [0; 5];
        assert_eq!(deflater.event(b"p", &noise, WindowBits::MAX, &mut header), None);
        assert_eq!(deflater.message(&[], WindowBits::MAX), None);
    }
}
