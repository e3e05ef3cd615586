//! When the index's upkeep goes on: after a checkpoint, and then step by step until nothing is due,
//! between the checkpoints and the rewritings of the log that come meanwhile. See
//! [`crate::index::upkeep`].

use super::Store;
use crate::effect::StoreEffect;
use crate::index::{Did, UpkeepDone};
use proto::Now;

/// Pause after a step that found no room on the disk.
const RETRY_MS: u64 = 10_000;

/// Where the index's upkeep stands. What a process before this one left unfinished waits for the
/// first checkpoint, as everything else does.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Something may be due.
    is_wanted: bool,
    /// A step is under way.
    is_under_way: bool,
    /// Every generation with anything dead in it is written anew, until nothing is due.
    is_thorough: bool,
    retry_ms: u64,
}

impl Upkeep {
    /// Whether the index is being written to.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// The operator compacts: whatever is dead goes.
    pub(super) fn be_thorough(&mut self) {
        (self.is_wanted, self.is_thorough) = (true, true);
    }

    /// A checkpoint has changed what may be due.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }
}

impl Store {
    /// Takes the next step if nothing else writes to the index.
    pub(super) fn advance_upkeep(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        let is_free =
            !self.upkeep.is_under_way && self.frozen.is_none() && !self.rewriting.is_writing();
        let is_due = self.upkeep.is_wanted && now.monotonic_ms >= self.upkeep.retry_ms;
        if is_free && is_due && !self.is_closing {
            self.upkeep.is_under_way = true;
            let mut request = self.config.upkeep();
            if self.upkeep.is_thorough {
                request.dead_percent = 0;
            }
            fx.push(StoreEffect::Upkeep(request));
        }
    }

    /// A step has been taken.
    pub(super) fn upkeep_done(&mut self, done: UpkeepDone, now: Now) {
        assert!(self.upkeep.is_under_way, "a step of upkeep is asked for before it is done");
        self.upkeep.is_under_way = false;
        self.upkeep.is_wanted = done.did != Did::Nothing;
        match done.did {
            Did::NoRoom => {
                self.stats.no_room += 1;
                self.upkeep.retry_ms = now.monotonic_ms + RETRY_MS;
                return;
            }
            Did::Sealed { .. } => self.stats.generations_sealed += 1,
            Did::Nothing => self.upkeep.is_thorough = false,
            Did::Closed | Did::Began | Did::Copied | Did::Cleared => {}
        }
        self.stats.generations = done.generations.into();
    }
}
