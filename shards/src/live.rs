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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::LIVE_CREDIT;
    use proptest::prelude::*;
    use proto::{EventId, EventParts, PublicKey, Signature};

    const CORES: usize = 3;

    fn event(number: u64) -> Event {
        let mut id = EventId([0; 32]);
        id.0[..8].copy_from_slice(&number.to_be_bytes());
        let parts = EventParts {
            id,
            pubkey: PublicKey([1; 32]),
            sig: Signature([0; 64]),
            created_at: 7,
            kind: 1,
            tags_json: b"[]",
            content_json: b"\"\"",
        };
        parts.pack()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Forget(u64),
        Install(usize),
        Remove(usize),
        Grant(usize, u32),
        Pump,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Push),
            1 => (0..60u64).prop_map(Step::Forget),
            2 => (0..CORES).prop_map(Step::Install),
            1 => (0..CORES).prop_map(Step::Remove),
            1 => (0..CORES, 0..9u32).prop_map(|(core, events)| Step::Grant(core, events)),
            4 => Just(Step::Pump),
        ]
    }

    /// What a core knows: from which index on it listens, what it gets next, what it may get.
    #[derive(Clone, Copy, Default)]
    struct Core {
        subscriptions: u32,
        next: LiveIndex,
        credit: u64,
    }

    proptest! {
        #[test]
        fn a_core_gets_every_index_once_in_order_within_its_credit_or_is_told_that_it_fell_behind(
            steps in prop::collection::vec(step(), 0..200),
        ) {
            // Room for about eight events, so that slow cores fall off.
            let bytes_max = event(0).packed().len() * 8;
            let mut ring = LiveRing::new(CORES, bytes_max, LIVE_CREDIT);
            let mut pushed: Vec<Option<Event>> = Vec::new();
            let credit = u64::from(LIVE_CREDIT);
            let mut cores = [Core { credit, ..Core::default() }; CORES];
            for step in steps {
                match step {
                    Step::Push => {
                        let next = event(pushed.len() as u64);
                        ring.push(next.clone());
                        pushed.push(Some(next));
                    }
                    Step::Forget(number) => {
                        let unwanted = event(number);
                        ring.forget(|event| *event == unwanted);
                        if let Some(place) = pushed.get_mut(number as usize) {
                            *place = None;
                        }
                    }
                    Step::Install(at) => {
                        let (from, next) = ring.install(at);
                        prop_assert_eq!(from, pushed.len() as u64);
                        if cores[at].subscriptions == 0 {
                            cores[at].next = from;
                        }
                        // The ring passes over what was forgotten without a word.
                        let skipped = &pushed[cores[at].next as usize..next as usize];
                        prop_assert!(skipped.iter().all(Option::is_none), "{} is skipped", next);
                        cores[at].next = next;
                        cores[at].subscriptions += 1;
                    }
                    Step::Remove(at) => {
                        ring.remove(at, 1);
                        cores[at].subscriptions = cores[at].subscriptions.saturating_sub(1);
                    }
                    Step::Grant(at, events) => {
                        ring.grant(at, events);
                        cores[at].credit = (cores[at].credit + u64::from(events)).min(credit);
                    }
                    Step::Pump => {
                        let mut wrong = None;
                        ring.pump(|at, message| match message {
                            ToHome::Live { first, events } => {
                                let core = &mut cores[at];
                                // What was forgotten on the way is passed over.
                                let skipped = pushed[core.next as usize..first as usize].iter();
                                let is_skip_right = skipped.into_iter().all(Option::is_none);
                                let sent = &pushed[first as usize..][..events.len()];
                                let is_right = sent.iter().flatten().eq(events.iter());
                                core.credit -= events.len() as u64;
                                core.next = first + events.len() as u64;
                                if !is_skip_right || !is_right || core.subscriptions == 0 {
                                    wrong = Some((at, first));
                                }
                            }
                            ToHome::FellBehind { resume_at } => cores[at].next = resume_at,
                            other => panic!("{other:?}"),
                        });
                        prop_assert_eq!(wrong, None);
                        for (at, core) in cores.iter_mut().enumerate() {
                            let left = pushed[core.next as usize..].iter().flatten().count();
                            let is_told = core.subscriptions == 0 || core.credit == 0 || left == 0;
                            prop_assert!(is_told, "core {} waits for {} events", at, left);
                        }
                    }
                }
                prop_assert_eq!(ring.head(), pushed.len() as u64);
                prop_assert!(ring.bytes() <= bytes_max);
                let subscriptions: u32 = cores.iter().map(|core| core.subscriptions).sum();
                prop_assert_eq!(ring.interest(), u64::from(subscriptions));
            }
        }
    }
}
