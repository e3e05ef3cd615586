//! Output of a connection: a queue of chunks, budgeted in bytes.
//!
//! Frames are written back to back into chunks of one size, so that many small frames leave in one
//! write and a chunk serves any connection after another. A frame may span chunks: the peer reads
//! a byte stream.

use crate::ws::{Opcode, frame};
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
    /// Not queued: the connection was closing already.
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

    /// Queues one text frame made of `parts`, if the limits allow it.
    pub fn push_text_frame(
        &mut self,
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
        let (header, used) = frame::server_header(Opcode::Text, payload_bytes);
        self.append(&header[..used], budget);
        for part in parts {
            self.append(part, budget);
        }
        Pushed::Ok
    }

    /// Queues a control frame. It is at most 127 bytes and goes whatever the limits say, since a
    /// peer that reads nothing ends by its pings; its payload is cut at 125 bytes.
    pub fn push_control(&mut self, opcode: Opcode, payload: &[u8], budget: &mut OutboxBudget) {
        let payload = &payload[..payload.len().min(frame::CONTROL_BYTES_MAX)];
        let (header, used) = frame::server_header(opcode, payload.len());
        self.append(&header[..used], budget);
        self.append(payload, budget);
    }

    /// Queues bytes that are no frame: an HTTP answer.
    pub fn push_raw(&mut self, bytes: &[u8], budget: &mut OutboxBudget) {
        self.append(bytes, budget);
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
