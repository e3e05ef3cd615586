//! What the store does when the disk has no room.
//!
//! Room for a log write and for a checkpoint is made before either begins, so a full disk is found
//! out while nothing has been written, and nothing is lost: the batch and the frozen generation
//! wait, writes are refused, reads go on, and both are tried again until there is room. The same
//! refusal comes earlier, at the high-water mark that the engine watches, so that an ordinary
//! shortage never gets this far.

use super::Store;
use crate::effect::{Checkpoint, LogEffect, StoreEffect, Unwritten};
use proto::Now;

/// Pause between two tries to find room.
const RETRY_MS: u64 = 500;

/// What waits for room. Bounded by one batch; the generation is counted with the delta.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Log work that found no room.
    log: Option<LogEffect>,
    /// The frozen generation could not be applied.
    checkpoint: bool,
    /// What found no room is being tried again, and until it is done there is none.
    is_log_tried: bool,
    is_checkpoint_tried: bool,
    retry_ms: u64,
    /// The disk is beyond the high-water mark.
    is_low: bool,
}

impl Space {
    /// Whether anything waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        self.has_work() || self.is_log_tried || self.is_checkpoint_tried
    }

    /// Whether anything is to be tried again.
    fn has_work(&self) -> bool {
        self.log.is_some() || self.checkpoint
    }

    /// The high-water mark has been passed.
    pub(super) fn is_low(&self) -> bool {
        self.is_low
    }

    /// Log work is done, so there is room for it.
    pub(super) fn found_room_for_log(&mut self) {
        self.is_log_tried = false;
    }

    /// The frozen generation has been applied.
    pub(super) fn found_room_for_checkpoint(&mut self) {
        self.is_checkpoint_tried = false;
    }

    /// Whether the frozen generation waits for room.
    pub(super) fn defers_checkpoint(&self) -> bool {
        self.checkpoint
    }
}

impl Store {
    /// Whether writes are refused because the disk is full or nearly so.
    pub fn is_full(&self) -> bool {
        self.space.is_low || self.space.is_waiting()
    }

    /// The disk has passed the high-water mark, or fallen back below it.
    pub fn set_low_on_space(&mut self, is_low: bool) {
        self.space.is_low = is_low;
    }

    pub(super) fn found_no_room(&mut self, unwritten: Unwritten, now: Now) {
        self.stats.no_room += 1;
        self.space.retry_ms = now.monotonic_ms + RETRY_MS;
        match unwritten {
            Unwritten::Log(effect) => {
                self.space.log = Some(effect);
                self.space.is_log_tried = false;
            }
            Unwritten::Checkpoint => {
                self.space.checkpoint = true;
                self.space.is_checkpoint_tried = false;
            }
        }
    }

    /// Tries again what found no room.
    pub(super) fn retry_for_room(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        if !self.space.has_work() || now.monotonic_ms < self.space.retry_ms {
            return;
        }
        if let Some(effect) = self.space.log.take() {
            self.space.is_log_tried = true;
            fx.push(StoreEffect::Log(effect));
        }
        // A store that closes leaves its delta to the log.
        let is_wanted = self.space.checkpoint && !self.is_closing;
        if let Some(generation) = self.frozen.clone().filter(|_| is_wanted) {
            self.space.checkpoint = false;
            self.space.is_checkpoint_tried = true;
            fx.push(StoreEffect::Checkpoint(Checkpoint { generation }));
        }
    }
}
