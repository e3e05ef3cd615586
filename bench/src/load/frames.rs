//! Events that are ready to be sent: signed, framed and masked once, with the index that finds an
//! event by its id when the relay names it.

use super::frame;
use super::message;
use proto::Event;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Framed events in one buffer. Immutable once made and shared by all client cores; its size is
/// that of the frames and 40 bytes an event.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// End of each frame in `bytes`.
    ends: Vec<u64>,
    /// First eight bytes of each event's id.
    keys: Vec<u64>,
    /// Open-addressed table of indexes into `keys`, plus one; zero is free.
    table: Vec<u32>,
}

impl Frames {
    /// Frames `events` in order.
    pub fn of_events<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut frames = Self::default();
        let mut json = Vec::new();
        for event in events {
            json.clear();
            event.view().write_json(&mut json);
            frames.push_json(&json, u64::from_be_bytes(first_eight(&event.view().id().0)));
        }
        frames.finish();
        frames
    }

    /// Appends one event's JSON. [`Frames::finish`] has to follow before anything is looked up.
    pub(crate) fn push_json(&mut self, json: &[u8], key: u64) {
        frame::write_text(&[b"[\"EVENT\",", json, b"]"], &mut self.bytes);
        self.ends.push(self.bytes.len() as u64);
        self.keys.push(key);
    }

    /// Builds the index of ids.
    pub(crate) fn finish(&mut self) {
        let slots = (self.keys.len() * 2).next_power_of_two().max(2);
        self.table = vec![0; slots];
        for (index, key) in self.keys.iter().enumerate() {
            let mut slot = *key as usize & (slots - 1);
            // The first of several submissions of one event keeps the slot.
            while self.table[slot] != 0 && self.keys[self.table[slot] as usize - 1] != *key {
                slot = (slot + 1) & (slots - 1);
            }
            if self.table[slot] == 0 {
                self.table[slot] = index as u32 + 1;
            }
        }
    }

    /// Number of frames.
    pub fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The whole frame of event `index`, masked with zero.
    pub fn frame(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// The event's JSON alone.
    pub fn json(&self, index: u32) -> &[u8] {
        let frame = self.frame(index);
        let header = match frame[1] & 0x7f {
            126 => 8,
            127 => 14,
            _ => 6,
        };
        &frame[header + b"[\"EVENT\",".len()..frame.len() - 1]
    }

    /// First eight bytes of the id of event `index`.
    pub fn key(&self, index: u32) -> u64 {
        self.keys[index as usize]
    }

    /// The first event with this key.
    pub fn find(&self, key: u64) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let mask = self.table.len() - 1;
        let mut slot = key as usize & mask;
        loop {
            let index = self.table[slot].checked_sub(1)?;
            if self.keys[index as usize] == key {
                return Some(index);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The event that a relay sent, if it is one of these.
    pub fn find_event(&self, body: &[u8]) -> Option<u32> {
        self.find(message::event_key(body)?)
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The first eight bytes of an id.
pub(crate) fn first_eight(id: &[u8; 32]) -> [u8; 8] {
    id[..8].try_into().expect("an id has 32 bytes")
}

/// When each event was published and delivered, shared by all client cores: 20 bytes an event.
/// Times are nanoseconds of the fleet's clock, and 0 is never.
#[derive(Debug)]
pub struct Ledger {
    published: Vec<AtomicU64>,
    delivered_last: Vec<AtomicU64>,
    deliveries: Vec<AtomicU32>,
}

impl Ledger {
    /// A ledger for `events` events.
    pub fn new(events: u32) -> Self {
        let cells = |_| AtomicU64::new(0);
        Self {
            published: (0..events).map(cells).collect(),
            delivered_last: (0..events).map(cells).collect(),
            deliveries: (0..events).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// The event was meant to leave at `at_ns`; only the first time counts.
    pub(crate) fn publish(&self, index: u32, at_ns: u64) {
        let cell = &self.published[index as usize];
        let _ = cell.compare_exchange(0, at_ns.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One subscriber received it at `at_ns`; returns when it was published.
    pub(crate) fn deliver(&self, index: u32, at_ns: u64) -> Option<u64> {
        let index = index as usize;
        let published = self.published[index].load(Ordering::Relaxed);
        if published == 0 {
            return None;
        }
        self.delivered_last[index].fetch_max(at_ns, Ordering::Relaxed);
        self.deliveries[index].fetch_add(1, Ordering::Relaxed);
        Some(published)
    }

    /// For every event published in the window: when, how often it was delivered, and when last.
    pub fn published_in(&self, from_ns: u64, to_ns: u64) -> impl Iterator<Item = Journey> + '_ {
        (0..self.published.len()).filter_map(move |index| {
            let published_ns = self.published[index].load(Ordering::Relaxed);
            (published_ns != 0 && (from_ns..to_ns).contains(&published_ns)).then(|| Journey {
                published_ns,
                delivered_last_ns: self.delivered_last[index].load(Ordering::Relaxed),
                deliveries: self.deliveries[index].load(Ordering::Relaxed),
            })
        })
    }
}

/// What became of one published event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// Intended time of publication.
    pub published_ns: u64,
    /// Time of the last delivery; 0 if there was none.
    pub delivered_last_ns: u64,
    /// Subscriptions that received it.
    pub deliveries: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Corpus, CorpusOptions};

    #[test]
    fn events_are_framed_and_found_by_id() {
        let options = CorpusOptions { duplicate_per_mille: 300, ..CorpusOptions::default() };
        let events: Vec<Event> = Corpus::public(1, 500, options).collect();
        let frames = Frames::of_events(&events);
        assert_eq!(frames.len(), 500);
        for (index, event) in events.iter().enumerate() {
            let mut json = Vec::new();
            event.view().write_json(&mut json);
            assert_eq!(frames.json(index as u32), json);
            let first = events.iter().position(|other| other == event).unwrap();
            assert_eq!(frames.find_event(&json), Some(first as u32));
        }
        assert_eq!(frames.find(7), None);
        assert_eq!(Frames::default().find(7), None);
    }

    #[test]
    fn a_journey_begins_once_and_ends_with_the_last_delivery() {
        let ledger = Ledger::new(2);
        assert_eq!(ledger.deliver(0, 5), None);
        ledger.publish(0, 10);
        ledger.publish(0, 11);
        assert_eq!(ledger.deliver(0, 30), Some(10));
        assert_eq!(ledger.deliver(0, 20), Some(10));
        let all: Vec<Journey> = ledger.published_in(0, 100).collect();
        assert_eq!(all, [Journey { published_ns: 10, delivered_last_ns: 30, deliveries: 2 }]);
        assert_eq!(ledger.published_in(11, 100).count(), 0);
    }
}
