//! Bodies of recent events, oldest out first.

use crate::effect::Seq;
use proto::Event;
use std::collections::VecDeque;

/// What an entry costs besides the packed bytes.
const ENTRY_BYTES: usize = size_of::<(Seq, Event)>() + 16;

/// A ring of recent bodies in order of sequence, bounded in bytes.
#[derive(Debug)]
pub(super) struct Hot {
    bodies: VecDeque<(Seq, Event)>,
    bytes: usize,
    bytes_max: usize,
}

impl Hot {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bodies: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn push(&mut self, seq: Seq, event: Event) {
        assert!(self.bodies.back().is_none_or(|(last, _)| *last < seq), "bodies come in order");
        self.bytes += event.packed().len() + ENTRY_BYTES;
        self.bodies.push_back((seq, event));
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.bodies.pop_front()
        {
            self.bytes -= oldest.packed().len() + ENTRY_BYTES;
        }
    }

    pub(super) fn find(&self, seq: Seq) -> Option<Event> {
        let index = self.bodies.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        Some(self.bodies[index].1.clone())
    }

    pub(super) fn bytes_held(&self) -> usize {
        self.bytes
    }
}
