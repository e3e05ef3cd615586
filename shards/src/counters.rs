//! Plain counters, one set per shard and per home, summed when somebody asks.

use crate::door::Verdict;
use proto::Reason;

/// Refusals by reason; an array indexed by `Reason as usize`.
#[derive(Clone, Debug)]
pub struct ReasonCounts(Box<[u64]>);

impl Default for ReasonCounts {
    fn default() -> Self {
        Self(vec![0; Reason::ALL.len()].into())
    }
}

impl ReasonCounts {
    /// Counts one.
    pub fn add(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }

    /// The count of `reason`.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds another set.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// What the policy door was asked and said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorCounts {
    /// Questions.
    pub asked: u64,
    /// Answered with yes.
    pub accepted: u64,
    /// Answered with no.
    pub rejected: u64,
    /// Answered with no that looks like yes.
    pub shadowed: u64,
    /// Not answered in time, which the operator wants to mean no.
    pub unavailable: u64,
}

impl DoorCounts {
    /// Counts one answer.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Accept => self.accepted += 1,
            Verdict::Reject(_) => self.rejected += 1,
            Verdict::ShadowReject => self.shadowed += 1,
            Verdict::Unavailable => self.unavailable += 1,
        }
    }

    /// Adds another set.
    pub fn merge(&mut self, other: &Self) {
        self.asked += other.asked;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.shadowed += other.shadowed;
        self.unavailable += other.unavailable;
    }
}

/// Counters of one shard. Owned by the shard's core.
#[derive(Clone, Debug, Default)]
pub struct ShardCounters {
    /// Events stored.
    pub accepted: u64,
    /// Ephemeral events passed on.
    pub ephemeral: u64,
    /// Events that took the place of an older version.
    pub replaced: u64,
    /// Events removed by a deletion request.
    pub deleted: u64,
    /// Keys that asked to vanish.
    pub vanishes: u64,
    /// Events removed by the operator.
    pub removed: u64,
    /// Refusals and duplicates by reason.
    pub refused: ReasonCounts,
    /// Signatures checked, here or elsewhere.
    pub verified: u64,
    /// Those of them that other cores were given to check.
    pub ticketed: u64,
    /// Events at the policy door.
    pub door: DoorCounts,
    /// Sums of sync sets answered.
    pub sums: u64,
    /// Pages answered.
    pub pages: u64,
    /// Index rows looked at for pages and counts.
    pub rows_scanned: u64,
    /// Rows sent.
    pub rows_sent: u64,
    /// Live batches sent.
    pub live_batches: u64,
    /// Times a core fell off the live ring.
    pub fell_behind: u64,
}

/// Counters of one home. Owned by the home's core.
#[derive(Clone, Debug, Default)]
pub struct HomeCounters {
    /// Events submitted.
    pub events: u64,
    /// REQs taken.
    pub queries: u64,
    /// COUNTs taken.
    pub counts: u64,
    /// NEG-OPENs taken.
    pub neg_opens: u64,
    /// NEG-MSGs taken.
    pub neg_messages: u64,
    /// Live deliveries.
    pub deliveries: u64,
    /// Stored rows delivered.
    pub stored_rows: u64,
    /// Refusals by reason.
    pub refused: ReasonCounts,
    /// Reads at the policy door.
    pub door: DoorCounts,
    /// Commands that had to wait for credit.
    pub parked: u64,
}
