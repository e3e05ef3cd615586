//! Requests to vanish (NIP-62) that are being carried out: what they cover, and where the removal
//! of each stands.
//!
//! A request is one record, and its watermark counts from then on: for decisions when the record is
//! appended, for readers when it is durable. What it covers is then removed by a job, a few events
//! per batch, so that ordinary writes go on; until the job has ended, readers are kept from the rest
//! by [`crate::Store::hides`]. The watermark itself stays for ever, in the table `vanish`, and so do
//! the deletion marks that the key had set.
//!
//! A job goes through what memory holds of the key, then through the index: first the events that
//! the key made, then the gift wraps to it. Nothing new that it covers can come meanwhile, because
//! decisions know the watermark, and what moves from memory into the index during the first half is
//! found by the second. After a restart a job begins anew; what it had removed is gone already.

use crate::delta::Vanish;
use crate::effect::{Loc, Seq, Token};
use crate::view::Pin;
use proto::nip::{nip59, nip62};
use proto::{Event, EventId, EventRef, PublicKey, SeededMap, SeededState};

/// Requests to vanish whose removals have not ended, at most; further ones are refused with
/// [`proto::Reason::VanishBusy`]. Each takes about 150 bytes.
pub const VANISH_JOBS_MAX: usize = 1_024;
/// Events that one batch of a removal ends at most.
pub const PURGE_KILLS_MAX: usize = 256;
/// Pause after a read that failed.
const RETRY_AFTER_MS: u64 = 10_000;

/// A removal that the index says has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Whose events.
    pub key: PublicKey,
    /// The request.
    pub vanish: Vanish,
}

impl Purge {
    /// Whether the event stored as `seq` is to be removed: the key made it no later than its
    /// request, or it is a gift wrap to the key that was here before the request. The request
    /// itself stays, as the proof of why.
    pub fn covers(&self, seq: Seq, event: &EventRef<'_>) -> bool {
        self.covers_author(event) || self.covers_recipient(seq, event)
    }

    fn covers_author(&self, event: &EventRef<'_>) -> bool {
        let is_request = event.kind() == nip62::KIND && event.created_at() == self.vanish.until;
        event.pubkey() == self.key && event.created_at() <= self.vanish.until && !is_request
    }

    /// Whether the event is covered as a gift wrap: then a copy of it is no longer refused by its
    /// author's watermark, and its id must be marked.
    pub(crate) fn covers_recipient(&self, seq: Seq, event: &EventRef<'_>) -> bool {
        nip59::is_wrap(event.kind())
            && seq < self.vanish.seq
            && nip59::recipient(event).is_some_and(|key| key == self.key)
    }
}

/// A request whose removal has not ended.
#[derive(Clone, Copy, Debug)]
struct Job {
    /// What readers know.
    durable: Option<Vanish>,
    /// What decisions know.
    appended: Vanish,
}

/// An event that the removal at work has found and must confirm.
#[derive(Clone, Debug)]
pub(crate) struct Suspect {
    pub(crate) seq: Seq,
    pub(crate) loc: Loc,
    pub(crate) id: EventId,
    pub(crate) created_at: u32,
    /// Whether it was found as a gift wrap.
    pub(crate) is_wrap: bool,
    pub(crate) event: Option<Event>,
}

/// What the removal at work looks through next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The delta, past this sequence.
    Memory { after: Seq },
    /// The index, from this key on.
    Index { wraps: bool, from: Option<Vec<u8>> },
    /// Nothing is left.
    Done,
}

/// What the removal at work waits for.
#[derive(Debug)]
pub(crate) enum Waits {
    Nothing,
    /// A page of the index.
    Page(Token),
    /// Bodies of suspects. The pin keeps what memory knew when they were found.
    Bodies {
        token: Token,
        suspects: Vec<Suspect>,
        pin: Pin,
    },
    /// Its own last batch.
    Durable(Seq),
    /// A while, because a read failed.
    Until {
        monotonic_ms: u64,
    },
}

/// The removal at work.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) purge: Purge,
    pub(crate) stage: Stage,
    pub(crate) waits: Waits,
}

impl Active {
    /// Goes on after a pause.
    pub(crate) fn retry(&mut self, stage: Stage, monotonic_ms: u64) {
        self.stage = stage;
        self.waits = Waits::Until { monotonic_ms: monotonic_ms + RETRY_AFTER_MS };
    }
}

/// The removals of one shard. Owned by its core; [`VANISH_JOBS_MAX`] jobs and the suspects of the one
/// at work.
#[derive(Debug)]
pub(crate) struct Purges {
    jobs: SeededMap<PublicKey, Job>,
    active: Option<Active>,
}

impl Purges {
    /// The removals that a start found unfinished.
    pub(crate) fn new(found: impl IntoIterator<Item = Purge>, seed: SeededState) -> Self {
        let mut purges = Self { jobs: SeededMap::with_hasher(seed), active: None };
        for purge in found {
            purges.append(purge.key, purge.vanish);
            purges.begin(purge.key, purge.vanish);
        }
        purges
    }

    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether the removals that requests up to this sequence demand are going on; one that cannot
    /// read what it needs is not waited for.
    pub(crate) fn has_before(&self, seq: Seq) -> bool {
        let is_stuck = |active: &Active| matches!(active.waits, Waits::Until { .. });
        !self.active.as_ref().is_some_and(is_stuck)
            && self.jobs.values().any(|job| job.appended.seq <= seq)
    }

    /// Whether a request of this key fits; one more of a key that is being removed always does.
    pub(crate) fn has_room_for(&self, key: &PublicKey) -> bool {
        self.jobs.len() < VANISH_JOBS_MAX || self.jobs.contains_key(key)
    }

    /// A request was appended.
    pub(crate) fn append(&mut self, key: PublicKey, vanish: Vanish) {
        let job = self.jobs.entry(key).or_insert(Job { durable: None, appended: vanish });
        job.appended = later(job.appended, vanish);
    }

    /// A request became durable.
    pub(crate) fn begin(&mut self, key: PublicKey, vanish: Vanish) {
        if let Some(job) = self.jobs.get_mut(&key) {
            job.durable = Some(job.durable.map_or(vanish, |before| later(before, vanish)));
        }
    }

    /// The end of a removal became durable. A request that came meanwhile begins another one.
    pub(crate) fn end(&mut self, key: &PublicKey, until: u32) {
        if self.jobs.get(key).is_some_and(|job| job.appended.until <= until) {
            self.jobs.remove(key);
        }
        if self.active.as_ref().is_some_and(|active| active.purge.key == *key) {
            self.active = None;
        }
    }

    /// Whether a removal covers an event, as readers (durable) or decisions (appended) know it.
    pub(crate) fn covers(&self, seq: Seq, event: &EventRef<'_>, is_reader: bool) -> bool {
        if self.jobs.is_empty() {
            return false;
        }
        let by = |key: PublicKey| {
            let Some(job) = self.jobs.get(&key) else { return false };
            let known = if is_reader { job.durable } else { Some(job.appended) };
            known.is_some_and(|vanish| Purge { key, vanish }.covers(seq, event))
        };
        by(event.pubkey())
            || nip59::is_wrap(event.kind()) && nip59::recipient(event).is_some_and(by)
    }

    /// The sequence of the latest request of a key whose removal has not ended.
    pub(crate) fn appended_at(&self, key: &PublicKey) -> Option<Seq> {
        self.jobs.get(key).map(|job| job.appended.seq)
    }

    /// Takes the removal that can go on now, if there is one; give it back with
    /// [`Purges::put_back`].
    pub(crate) fn take_ready(&mut self, monotonic_ms: u64, durable: Seq) -> Option<Active> {
        let Some(mut active) = self.active.take() else { return self.oldest() };
        let is_ready = match active.waits {
            Waits::Nothing => true,
            Waits::Page(_) | Waits::Bodies { .. } => false,
            Waits::Durable(seq) => seq <= durable,
            Waits::Until { monotonic_ms: until_ms } => until_ms <= monotonic_ms,
        };
        if is_ready {
            active.waits = Waits::Nothing;
            return Some(active);
        }
        self.active = Some(active);
        None
    }

    /// Takes the removal at work if it waits for this read.
    pub(crate) fn take_waiting(&mut self, token: Token) -> Option<Active> {
        let waits_for_it = |active: &mut Active| match &active.waits {
            Waits::Page(waited) | Waits::Bodies { token: waited, .. } => *waited == token,
            Waits::Nothing | Waits::Durable(_) | Waits::Until { .. } => false,
        };
        self.active.take_if(waits_for_it)
    }

    pub(crate) fn put_back(&mut self, active: Active) {
        self.active = Some(active);
    }

    /// The removal to begin: that of the oldest durable request.
    fn oldest(&self) -> Option<Active> {
        let durable =
            |(key, job): (&PublicKey, &Job)| Some(Purge { key: *key, vanish: job.durable? });
        let purge = self.jobs.iter().filter_map(durable).min_by_key(|purge| purge.vanish.seq)?;
        Some(Active { purge, stage: Stage::Memory { after: 0 }, waits: Waits::Nothing })
    }
}

fn later(one: Vanish, other: Vanish) -> Vanish {
    let seq = one.seq.max(other.seq);
    Vanish { until: one.until.max(other.until), seq }
}
