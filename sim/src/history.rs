//! What has been sent, answered and seen: all that the checks know. Filled by the clients, never by
//! the product.

use crate::pool::{EventIndex, Pool};
use std::collections::{BTreeMap, BTreeSet};

/// Virtual microseconds since the beginning of the run.
pub type Micros = u64;

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which check found it; the promise's number stands in its name.
    pub check: &'static str,
    /// What it saw.
    pub detail: String,
}

impl Violation {
    /// A violation.
    pub fn new(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, detail: detail.into() }
    }
}

/// What a relay may answer to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `OK true`: it is stored (or was passed on).
    Stored,
    /// `OK true`, because a newer version is.
    Superseded,
    /// `OK false`.
    Refused,
}

/// One EVENT message.
#[derive(Clone, Copy, Debug)]
pub struct Submission {
    /// When it left the client.
    pub sent_us: Micros,
    /// When the answer came, and what it was; `None`: not yet, or never.
    pub answer: Option<(Micros, Answer)>,
}

/// What is known of one event.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Every EVENT message with it.
    pub submissions: Vec<Submission>,
    /// When a client was first served it as stored, or live if it is of a stored kind.
    pub served_us: Option<Micros>,
}

/// The memory of a run. Bounded by its operations.
#[derive(Debug, Default)]
pub struct History {
    /// By event.
    pub events: BTreeMap<EventIndex, Known>,
    /// When the operator first asked for its removal.
    pub removed_us: BTreeMap<EventIndex, Micros>,
    /// Banned, and the relay has said so.
    pub banned: BTreeSet<EventIndex>,
    /// Its bytes on the disk were damaged.
    pub rotten: BTreeSet<EventIndex>,
    /// The latest wall clock so far.
    pub unix_s_max: u64,
    /// EVENT messages that were answered.
    pub answered: u64,
    /// Rows per filter, as the relay is configured now.
    pub max_limit: u64,
    /// What the operator sees at a quiet moment, when it was, and the wall clock then: from then on
    /// answers must be exact.
    pub visible: Option<(BTreeSet<EventIndex>, Micros)>,
    /// The wall clock.
    pub unix_s: u64,
    /// The wall clock when the operator last began to look at everything.
    pub scanned_unix_s: u64,
}

impl History {
    /// An EVENT message leaves.
    pub fn sent(&mut self, event: EventIndex, now_us: Micros) {
        let submission = Submission { sent_us: now_us, answer: None };
        self.events.entry(event).or_default().submissions.push(submission);
    }

    /// The oldest message with this event that was sent at `sent_us` is answered.
    pub fn answered(&mut self, event: EventIndex, sent_us: Micros, now_us: Micros, answer: Answer) {
        self.answered += 1;
        let known = self.events.entry(event).or_default();
        let open = known
            .submissions
            .iter_mut()
            .find(|submission| submission.sent_us == sent_us && submission.answer.is_none());
        if let Some(submission) = open {
            submission.answer = Some((now_us, answer));
        }
    }

    /// A client was given the event.
    pub fn served(&mut self, event: EventIndex, now_us: Micros) {
        self.events.entry(event).or_default().served_us.get_or_insert(now_us);
    }

    /// When the event was first known to be stored: an OK has come, or somebody was served it.
    pub fn stored_since(&self, event: EventIndex) -> Option<Micros> {
        let known = self.events.get(&event)?;
        let acknowledged = known.submissions.iter().filter_map(|submission| submission.answer);
        let stored = acknowledged.filter(|(_, answer)| *answer == Answer::Stored);
        stored.map(|(at, _)| at).chain(known.served_us).min()
    }

    /// When the event was first sent, by anybody.
    pub fn first_sent(&self, event: EventIndex) -> Option<Micros> {
        let known = self.events.get(&event)?;
        known.submissions.iter().map(|submission| submission.sent_us).min()
    }

    /// Whether the relay may have taken the event: it said so, or has not said no.
    pub fn may_be_taken(&self, event: EventIndex) -> bool {
        let Some(known) = self.events.get(&event) else { return false };
        known.served_us.is_some()
            || known.submissions.iter().any(|submission| {
                submission.answer.is_none_or(|(_, answer)| answer == Answer::Stored)
            })
    }

    /// An event, sent before `before_us`, that may be why `event` is not there.
    pub fn excuse(&self, pool: &Pool, event: EventIndex, before_us: Micros) -> Option<EventIndex> {
        let removers = &pool.events[event].removers;
        removers.iter().copied().find(|by| {
            self.may_be_taken(*by) && self.first_sent(*by).is_some_and(|sent| sent <= before_us)
        })
    }

    /// Whether nothing but a removal that was asked for before `before_us` could take the event
    /// away, and none was.
    pub fn is_settled(&self, pool: &Pool, event: EventIndex, before_us: Micros) -> bool {
        self.excuse(pool, event, before_us).is_none()
            && !self.rotten.contains(&event)
            && self.removed_us.get(&event).is_none_or(|at| *at > before_us)
            && pool.events[event].fact.expires_at > self.unix_s_max
    }
}
