//! When each connection wants to be looked at again.

use crate::socket::SocketId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Deadlines of a core's connections. An entry may be stale: whoever takes it asks the connection.
/// Bounded by two entries per connection, since a connection adds one only for an earlier deadline.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, SocketId)>>,
}

impl Timers {
    pub(crate) fn set(&mut self, deadline_ms: u64, socket: SocketId) {
        if deadline_ms < u64::MAX {
            self.heap.push(Reverse((deadline_ms, socket)));
        }
    }

    /// The next one that is due, with the deadline it was set for.
    pub(crate) fn next_due(&mut self, now_ms: u64) -> Option<(u64, SocketId)> {
        let Reverse((deadline_ms, _)) = self.heap.peek()?;
        if *deadline_ms > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((deadline_ms, _))| *deadline_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_only_when_due() {
        let socket = |index| SocketId { index, generation: 0 };
        let mut timers = Timers::default();
        timers.set(30, socket(1));
        timers.set(10, socket(2));
        timers.set(u64::MAX, socket(3));
        assert_eq!(timers.next_ms(), Some(10));
        assert_eq!(timers.next_due(9), None);
        assert_eq!(timers.next_due(30), Some((10, socket(2))));
        assert_eq!(timers.next_due(30), Some((30, socket(1))));
        assert_eq!(timers.next_due(u64::MAX), None);
    }
}
