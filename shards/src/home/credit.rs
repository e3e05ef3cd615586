//! What a home may have under way to one shard: so many events, and so many bytes of them. Without
//! the second bound a few hundred of the largest events, waiting at the policy door, would be more
//! than everything that the memory ceiling counts.

use crate::message::{SUBMIT_BYTES, ShardId};

/// Least bytes that a shard is sent ahead, however many shards share a home's.
const SHARE_BYTES_MIN: i64 = 64 * 1024;

/// Credit for submissions to one shard. Owned by the home.
#[derive(Clone, Debug)]
pub(super) struct Credit {
    events: u32,
    /// Below zero by less than one event: the last one taken need not fit.
    bytes: i64,
    events_max: u32,
    bytes_max: i64,
}

impl Credit {
    /// One of `shards`, of `events_max` events.
    pub(super) fn new(events_max: u32, shards: ShardId) -> Self {
        let share = SUBMIT_BYTES as i64 / i64::from(shards.max(1));
        let bytes_max = share.max(SHARE_BYTES_MIN);
        Self { events: events_max, bytes: bytes_max, events_max, bytes_max }
    }

    /// Whether one more event may go.
    pub(super) fn is_left(&self) -> bool {
        self.events > 0 && self.bytes > 0
    }

    /// An event of `bytes` goes; only while credit is left.
    pub(super) fn take(&mut self, bytes: u32) {
        self.events -= 1;
        self.bytes -= i64::from(bytes);
    }

    /// Its outcome has come.
    pub(super) fn give_back(&mut self, bytes: u32) {
        self.events += 1;
        self.bytes += i64::from(bytes);
    }

    /// Whether nothing is under way.
    pub(super) fn is_whole(&self) -> bool {
        self.events == self.events_max && self.bytes == self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_bytes_are_both_bounds() {
        let mut credit = Credit::new(2, 1);
        credit.take(10);
        credit.take(10);
        assert!(!credit.is_left(), "two events are under way");
        credit.give_back(10);
        assert!(credit.is_left());
        credit.give_back(10);
        assert!(credit.is_whole());
        let mut credit = Credit::new(1_000, 2);
        let large = SUBMIT_BYTES as u32 / 4;
        credit.take(large);
        assert!(credit.is_left(), "half of this shard's share is used");
        credit.take(large);
        assert!(!credit.is_left(), "all of it is");
        credit.give_back(large);
        assert!(credit.is_left() && !credit.is_whole());
    }
}
