//! An owner's ring of recent durable events and, per core, how far it has been sent: a cursor, not
//! a queue. A commit never waits for a reader; a core that falls off the ring is told so.

use crate::message::{LiveIndex, ToHome};
use proto::Event;
use std::collections::VecDeque;
use std::sync::Arc;

/// Events kept for slow cores.
pub const RING_EVENTS_MAX: usize = 16 * 1024;
/// Bytes of packed events kept for slow cores at most; a shard may be given less.
pub const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Events in one batch to a core.
const BATCH_EVENTS_MAX: u64 = 128;

#[derive(Clone, Copy, Debug)]
struct Reader {
    /// Live subscriptions of the core that touch this shard.
    interest: u32,
    /// Next index to send; meaningful while there is interest.
    next: LiveIndex,
    /// Events that the core is ready to take.
    credit: u32,
}

/// The ring. Owned by the shard's core; at most the bytes that it was made with and one event.
#[derive(Debug)]
pub struct LiveRing {
    /// An event that may not be sent any more leaves its index empty.
    events: VecDeque<Option<Event>>,
    bytes: usize,
    bytes_max: usize,
    /// Index of the oldest event held.
    first: LiveIndex,
    /// Greatest credit of a core.
    credit_max: u32,
    readers: Box<[Reader]>,
}

impl LiveRing {
    /// An empty ring for `cores` cores that holds up to `bytes_max`, at most [`RING_BYTES_MAX`], and
    /// sends each up to `credit_max` events ahead.
    pub fn new(cores: usize, bytes_max: usize, credit_max: u32) -> Self {
        let reader = Reader { interest: 0, next: 0, credit: credit_max };
        Self {
            events: VecDeque::new(),
            bytes: 0,
            bytes_max: bytes_max.min(RING_BYTES_MAX),
            first: 0,
            credit_max,
            readers: vec![reader; cores].into(),
        }
    }

    /// The index that the next event will get.
    pub fn head(&self) -> LiveIndex {
        self.first + self.events.len() as LiveIndex
    }

    /// Bytes of events held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Subscriptions that listen.
    pub fn interest(&self) -> u64 {
        self.readers.iter().map(|reader| u64::from(reader.interest)).sum()
    }

    /// Adds an event that has just become durable (or a verified ephemeral one).
    pub fn push(&mut self, event: Event) {
        if self.readers.iter().all(|reader| reader.interest == 0) {
            // Nobody listens: the index moves on, the body need not stay.
            self.first = self.head() + 1;
            self.events.clear();
            self.bytes = 0;
            return;
        }
        self.bytes += event.packed().len();
        self.events.push_back(Some(event));
        while self.events.len() > RING_EVENTS_MAX
            || (self.bytes > self.bytes_max && self.events.len() > 1)
        {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.map_or(0, |event| event.packed().len());
                self.first += 1;
            }
        }
    }

    /// Takes out what is `unwanted` and has not been sent.
    pub fn forget(&mut self, unwanted: impl Fn(&Event) -> bool) {
        for place in &mut self.events {
            if let Some(event) = place.take_if(|event| unwanted(event)) {
                self.bytes -= event.packed().len();
            }
        }
    }

    /// One more subscription of `core`: the index at which its events begin, and the index that
    /// will be sent to the core next.
    pub fn install(&mut self, core: usize) -> (LiveIndex, LiveIndex) {
        let head = self.head();
        let reader = &mut self.readers[core];
        if reader.interest == 0 {
            reader.next = head;
        }
        reader.interest += 1;
        (head, reader.next)
    }

    /// `subscriptions` of `core` have ended.
    pub fn remove(&mut self, core: usize, subscriptions: u32) {
        let reader = &mut self.readers[core];
        reader.interest = reader.interest.saturating_sub(subscriptions);
    }

    /// `core` took `events` off its queue.
    pub fn grant(&mut self, core: usize, events: u32) {
        let reader = &mut self.readers[core];
        reader.credit = reader.credit.saturating_add(events).min(self.credit_max);
    }

    /// Calls `send` with what can be sent now.
    pub fn pump(&mut self, mut send: impl FnMut(usize, ToHome)) {
        let (first, head) = (self.first, self.head());
        for (core, reader) in self.readers.iter_mut().enumerate() {
            if reader.interest == 0 {
                continue;
            }
            if reader.next < first {
                reader.next = head;
                send(core, ToHome::FellBehind { resume_at: head });
                continue;
            }
            while reader.next < head && reader.credit > 0 {
                let count =
                    (head - reader.next).min(u64::from(reader.credit)).min(BATCH_EVENTS_MAX);
                let start = (reader.next - first) as usize;
                let run = self.events.range(start..start + count as usize);
                let events: Arc<[Event]> = run.map_while(Clone::clone).collect();
                if events.is_empty() {
                    reader.next += 1;
                    continue;
                }
                let sent = events.len() as u32;
                send(core, ToHome::Live { first: reader.next, events });
                reader.next += u64::from(sent);
                reader.credit -= sent;
            }
        }
    }
}
