//! Output of a connection: a queue of chunks, budgeted in bytes.
//!
//! Frames are written back to back into chunks of one size, so that many small frames leave in one
//! write and a chunk serves any connection after another. A frame may span chunks: the peer reads
//! a byte stream.

use crate::ws::{Form, Opcode, frame};
use std::collections::VecDeque;

/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes that all outboxes of a core may hold, unless configured otherwise.
pub const TOTAL_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Chunks kept for re-use by a core; more are freed.
const FREE_CHUNKS_MAX: usize = 256;

/// Output limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// From this backlog on, live events are refused.
    pub soft_bytes: usize,
    /// A frame that would take the backlog beyond this ends the connection.
    pub hard_bytes: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { soft_bytes: 256 * 1024, hard_bytes: 1024 * 1024 }
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// Queued.
    Ok,
    /// Not queued: the backlog is over the soft limit. The subscription is to be closed with
    /// [`proto::Reason::SlowReader`].
    OverSoft,
    /// Not queued: the backlog is over the hard limit, and the connection is closed.
    OverHard,
    /// The connection is closing: it was before, and nothing was queued, or it began to with this
    /// very answer. [`crate::Conn::close_cause`] says why.
    Closed,
}

/// What a frame is, as far as limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A live event, refused over the soft limit.
    Live,
    /// Anything that answers the client, refused only over the hard limit.
    Reply,
}

/// Chunks of one core: those lent to outboxes or in flight are counted, some free ones kept.
/// Owned by one core; bounded by the configured total plus 4 MiB of free chunks.
#[derive(Debug)]
pub struct OutboxBudget {
    free: Vec<Vec<u8>>,
    lent: usize,
    total_bytes_max: usize,
}

impl OutboxBudget {
    /// A budget of `total_bytes_max` for all outboxes together.
    pub fn new(total_bytes_max: usize) -> Self {
        Self { free: Vec::new(), lent: 0, total_bytes_max }
    }

    /// Sets the budget anew.
    pub fn resize(&mut self, total_bytes_max: usize) {
        self.total_bytes_max = total_bytes_max;
    }

    fn lend(&mut self) -> Vec<u8> {
        self.lent += 1;
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }

    /// Takes back a chunk whose connection is gone. While the connection lives,
    /// [`crate::Conn::chunk_sent`] does it.
    pub fn recycle(&mut self, mut chunk: Vec<u8>) {
        self.lent = self.lent.saturating_sub(1);
        if self.free.len() < FREE_CHUNKS_MAX && chunk.capacity() >= CHUNK_BYTES {
            chunk.clear();
            self.free.push(chunk);
        }
    }

    /// Bytes held by outboxes and by writes in flight.
    pub fn held_bytes(&self) -> usize {
        self.lent * CHUNK_BYTES
    }

    /// Whether outboxes hold more than they may; the largest is to be closed with
    /// [`crate::CloseCause::OutboxEvicted`].
    pub fn is_over(&self) -> bool {
        self.held_bytes() > self.total_bytes_max
    }
}

/// The output queue of one connection. Holds no memory while empty.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Full chunks, oldest first.
    full: VecDeque<Vec<u8>>,
    /// The chunk being written; without capacity while there is none.
    tail: Vec<u8>,
    /// Bytes in `full` and `tail`.
    queued_bytes: usize,
    /// Bytes handed to the reactor and not yet reported as sent.
    in_flight_bytes: usize,
}

impl Outbox {
    /// Bytes queued or in flight.
    pub fn pending_bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes
    }

    /// Whether bytes wait to be taken.
    pub fn has_queued(&self) -> bool {
        self.queued_bytes > 0
    }

    /// Whether the backlog is small enough to pull the next page of stored events.
    pub fn is_below_low_water(&self, limits: &OutboxLimits) -> bool {
        self.pending_bytes() < limits.soft_bytes / 4
    }

    /// Queues one text frame made of `parts`, if the limits allow it. They count what is sent, so
    /// a compressed frame counts for what it is compressed to.
    pub fn push_text_frame(
        &mut self,
        form: Form,
        parts: &[&[u8]],
        class: Class,
        limits: &OutboxLimits,
        budget: &mut OutboxBudget,
    ) -> Pushed {
        let payload_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        let pending = self.pending_bytes();
        if class == Class::Live && pending >= limits.soft_bytes {
            return Pushed::OverSoft;
        }
        // An empty outbox takes any frame: what is larger than the limit was allowed to exist by
        // the limits on events, and says nothing about how fast the peer reads.
        if pending > 0 && pending + payload_bytes > limits.hard_bytes {
            return Pushed::OverHard;
        }
        self.append_frame(Opcode::Text, form, parts, budget);
        Pushed::Ok
    }

    /// Queues a control frame. It is at most 127 bytes and goes whatever the limits say, since a
    /// peer that reads nothing ends by its pings; its payload is cut at 125 bytes.
    pub fn push_control(&mut self, opcode: Opcode, payload: &[u8], budget: &mut OutboxBudget) {
        let payload = &payload[..payload.len().min(frame::CONTROL_BYTES_MAX)];
        self.append_frame(opcode, Form::Plain, &[payload], budget);
    }

    /// Queues bytes that are no frame: an HTTP answer.
    pub fn push_raw(&mut self, bytes: &[u8], budget: &mut OutboxBudget) {
        self.append(bytes, budget);
    }

    fn append_frame(
        &mut self,
        opcode: Opcode,
        form: Form,
        parts: &[&[u8]],
        budget: &mut OutboxBudget,
    ) {
        let payload_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.tail.capacity() == 0 {
            self.tail = budget.lend();
        }
        // Nearly every frame fits into the chunk at hand; then there is nothing to decide per part.
        let room = CHUNK_BYTES.saturating_sub(self.tail.len());
        if frame::SERVER_HEADER_BYTES_MAX + payload_bytes <= room {
            let before = self.tail.len();
            frame::write_server_header(opcode, form, payload_bytes, &mut self.tail);
            for part in parts {
                self.tail.extend_from_slice(part);
            }
            self.queued_bytes += self.tail.len() - before;
            return;
        }
        let mut header = Vec::with_capacity(frame::SERVER_HEADER_BYTES_MAX);
        frame::write_server_header(opcode, form, payload_bytes, &mut header);
        self.append(&header, budget);
        for part in parts {
            self.append(part, budget);
        }
    }

    fn append(&mut self, mut bytes: &[u8], budget: &mut OutboxBudget) {
        self.queued_bytes += bytes.len();
        while !bytes.is_empty() {
            if self.tail.capacity() == 0 {
                self.tail = budget.lend();
            } else if self.tail.len() >= CHUNK_BYTES {
                let next = budget.lend();
                self.full.push_back(std::mem::replace(&mut self.tail, next));
            }
            let now = bytes.len().min(CHUNK_BYTES - self.tail.len());
            self.tail.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
        }
    }

    /// The next chunk to write. It counts until [`Outbox::sent`] gets it back unchanged; several
    /// may be in flight, in order.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let chunk = match self.full.pop_front() {
            Some(chunk) => {
                if self.full.is_empty() {
                    self.full = VecDeque::new();
                }
                chunk
            }
            None if self.tail.is_empty() => return None,
            None => std::mem::take(&mut self.tail),
        };
        self.queued_bytes -= chunk.len();
        self.in_flight_bytes += chunk.len();
        Some(chunk)
    }

    /// Takes back a chunk that was written whole.
    pub fn sent(&mut self, chunk: Vec<u8>, budget: &mut OutboxBudget) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(chunk.len());
        budget.recycle(chunk);
    }

    /// Drops what is queued. Chunks in flight stay with the reactor, which gives them to
    /// [`OutboxBudget::recycle`].
    pub fn clear(&mut self, budget: &mut OutboxBudget) {
        for chunk in std::mem::take(&mut self.full) {
            budget.recycle(chunk);
        }
        if self.tail.capacity() > 0 {
            budget.recycle(std::mem::take(&mut self.tail));
        }
        self.queued_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Control(usize),
        Raw(usize),
        Take,
        Sent,
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = prop_oneof![4 => 0usize..2_000, 1 => 15_000usize..70_000];
        prop_oneof![
            3 => length.clone().prop_map(Step::Push),
            1 => (0usize..126).prop_map(Step::Control),
            1 => length.prop_map(Step::Raw),
            1 => Just(Step::Take),
            1 => Just(Step::Sent),
        ]
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_out_once_in_order_and_is_counted(
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let limits = OutboxLimits { soft_bytes: usize::MAX, hard_bytes: usize::MAX };
            let mut budget = OutboxBudget::new(0);
            let mut outbox = Outbox::default();
            let (mut expected, mut output) = (Vec::new(), Vec::new());
            let mut flying: VecDeque<Vec<u8>> = VecDeque::new();
            let mut sent_bytes = 0;
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(length) => {
                        let body = vec![at as u8; length];
                        let form = if at % 2 == 0 { Form::Plain } else { Form::Deflated };
                        let (head, tail) = body.split_at(length / 3);
                        let parts = [head, tail];
                        let pushed = outbox.push_text_frame(
                            form,
                            &parts,
                            Class::Live,
                            &limits,
                            &mut budget,
                        );
                        prop_assert_eq!(pushed, Pushed::Ok);
                        frame::write_server_header(Opcode::Text, form, length, &mut expected);
                        expected.extend(body);
                    }
                    Step::Control(length) => {
                        let body = vec![at as u8; length];
                        outbox.push_control(Opcode::Pong, &body, &mut budget);
                        frame::write_server_header(Opcode::Pong, Form::Plain, length, &mut expected);
                        expected.extend(body);
                    }
                    Step::Raw(length) => {
                        let body = vec![at as u8; length];
                        outbox.push_raw(&body, &mut budget);
                        expected.extend(body);
                    }
                    Step::Take => {
                        if let Some(chunk) = outbox.take() {
                            output.extend_from_slice(&chunk);
                            flying.push_back(chunk);
                        }
                    }
                    Step::Sent => {
                        if let Some(chunk) = flying.pop_front() {
                            sent_bytes += chunk.len();
                            outbox.sent(chunk, &mut budget);
                        }
                    }
                }
                prop_assert_eq!(outbox.pending_bytes(), expected.len() - sent_bytes);
                prop_assert_eq!(outbox.has_queued(), expected.len() > output.len());
                prop_assert!(budget.held_bytes() < outbox.pending_bytes() + 2 * CHUNK_BYTES
                    + flying.len() * CHUNK_BYTES);
            }
            while let Some(chunk) = outbox.take() {
                output.extend_from_slice(&chunk);
                flying.push_back(chunk);
            }
            prop_assert!(output == expected, "bytes came out in another order");
            for chunk in flying {
                outbox.sent(chunk, &mut budget);
            }
            prop_assert_eq!((outbox.pending_bytes(), budget.held_bytes()), (0, 0));
        }
    }

    #[test]
    fn an_empty_outbox_takes_any_frame_and_limits_hold_after_that() {
        let limits = OutboxLimits { soft_bytes: 100, hard_bytes: 1_000 };
        let mut budget = OutboxBudget::new(0);
        let mut outbox = Outbox::default();
        let large = [0; 2_000];
        let mut push = |outbox: &mut Outbox, class, length: usize| {
            outbox.push_text_frame(Form::Plain, &[&large[..length]], class, &limits, &mut budget)
        };
        assert_eq!(push(&mut outbox, Class::Live, 2_000), Pushed::Ok);
        assert_eq!(push(&mut outbox, Class::Live, 1), Pushed::OverSoft);
        assert_eq!(push(&mut outbox, Class::Reply, 1), Pushed::OverHard);
        while let Some(chunk) = outbox.take() {
            assert_eq!(push(&mut outbox, Class::Live, 1), Pushed::OverSoft, "still in flight");
            outbox.in_flight_bytes -= chunk.len();
        }
        assert_eq!(push(&mut outbox, Class::Reply, 500), Pushed::Ok);
        assert_eq!(push(&mut outbox, Class::Live, 1), Pushed::OverSoft);
        assert_eq!(push(&mut outbox, Class::Reply, 400), Pushed::Ok);
        assert_eq!(push(&mut outbox, Class::Reply, 400), Pushed::OverHard);
    }
}
