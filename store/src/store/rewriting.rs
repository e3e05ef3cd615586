//! When the store rewrites its segments, and when the old ones go.
//!
//! A scan that was under way when the index moved over may name an old place, and its bodies are
//! fetched after it has been answered. So an old segment stays until every read from before the
//! move has been answered, then every read that was asked for until the tick after that: reads hold
//! the store's pin, and a pin without a generation in the queue of the retired ones is passed only
//! when all before it are.

use super::Store;
use crate::effect::{Seq, StoreEffect, WorldError};
use crate::index::segments::NEVER_S;
use crate::rewrite::plan::{Choice, Policy};
use crate::rewrite::{Outcome, Surveyed};
use crate::view::Retired;
use proto::Now;
use std::collections::BTreeSet;

/// Pause between two looks for due segments when nothing has changed but the time.
const PLAN_INTERVAL_MS: u64 = 10_000;
/// After this long a segment that could not be rewritten is tried again.
const REFUSED_MS: u64 = 3_600_000;

/// What is under way.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// A segment is being written and the index moved over.
    Writing,
    /// Scans that may have read old places are being answered.
    DrainingScans { segments: Vec<Seq> },
    /// They have been; whoever got their rows asks for the bodies before the next tick.
    Answered { segments: Vec<Seq> },
    /// Fetches of old places are being answered.
    DrainingFetches { segments: Vec<Seq> },
    /// Old segments are being unlinked.
    Unlinking,
}

/// How far a compaction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionProgress {
    /// Segments that have been rewritten.
    pub done: u64,
    /// Segments with anything dead in them when it began, as far as that is known already.
    pub total: u64,
}

/// A compaction that the operator asked for.
#[derive(Debug)]
struct Compaction {
    /// Everything up to here is looked at, once.
    through: Seq,
    /// The requests to vanish that came before it have been carried out.
    is_begun: bool,
    /// Everything before this has been.
    from: Seq,
    progress: CompactionProgress,
    is_counted: bool,
}

/// Where the rewriting of segments stands. Bounded by the number of segments.
#[derive(Debug, Default)]
pub(super) struct Rewriting {
    stage: Stage,
    survey: Option<Vec<Surveyed>>,
    is_survey_asked: bool,
    /// Something may have become due.
    is_plan_due: bool,
    next_plan_ms: u64,
    refused: BTreeSet<Seq>,
    refused_until_ms: u64,
    compaction: Option<Compaction>,
    /// Last sequence of the job under way, if the compaction chose it.
    compacted_through: Option<Seq>,
}

impl Rewriting {
    /// Whether the index is being written to.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.stage, Stage::Writing)
    }

    /// Whether the world works for it.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_survey_asked || matches!(self.stage, Stage::Writing | Stage::Unlinking)
    }

    /// What is dead has changed.
    pub(super) fn forget_survey(&mut self) {
        self.survey = None;
    }

    /// Everything up to here must get into the index at once.
    pub(super) fn wanted_through(&self) -> Seq {
        self.compaction.as_ref().map_or(0, |compaction| compaction.through)
    }
}

impl Store {
    /// Rewrites every segment in which anything is dead, after carrying out the requests to vanish
    /// that are here already: whoever compacts because of one wants its bytes gone. Feed and tick the store until
    /// [`Store::compaction`] answers nothing.
    pub fn compact(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        self.rewriting.compaction = Some(Compaction {
            through: self.appended(),
            is_begun: false,
            from: 1,
            progress: CompactionProgress::default(),
            is_counted: false,
        });
        // A job that was under way before is none of its own.
        self.rewriting.compacted_through = None;
        self.rewriting.refused.clear();
        self.rewriting.survey = None;
        self.flush(now, fx);
    }

    /// How far a compaction is; nothing when none is under way.
    pub fn compaction(&self) -> Option<CompactionProgress> {
        self.rewriting.compaction.as_ref().map(|compaction| compaction.progress)
    }

    fn policy(&self) -> Policy {
        Policy {
            dead_percent: self.config.dead_percent,
            erase_after_s: self.config.erase_after_s,
            segment_bytes_max: self.config.segment_bytes_max,
        }
    }

    /// First sequence that memory holds a place of.
    fn oldest_in_memory(&self) -> Seq {
        let open = self.open.first_seq();
        self.generations().map(|generation| generation.first_seq()).min().unwrap_or(open)
    }

    pub(super) fn surveyed(&mut self, survey: Result<Vec<Surveyed>, WorldError>) {
        self.rewriting.is_survey_asked = false;
        let Ok(survey) = survey else {
            self.stats.reads_failed += 1;
            self.rewriting.is_plan_due = false;
            self.rewriting.compaction = None;
            return;
        };
        self.stats.segments = survey.len() as u64;
        self.stats.dead_bytes = survey.iter().map(|segment| segment.row.dead_bytes).sum();
        let bytes: u64 = survey.iter().map(|segment| segment.placed.bytes).sum();
        self.stats.segment_bytes = bytes;
        self.rewriting.survey = Some(survey);
        self.rewriting.is_plan_due = true;
    }

    pub(super) fn rewritten(&mut self, outcome: Outcome, now: Now) {
        assert!(self.rewriting.is_writing(), "a rewriting is asked for before it is done");
        let count = match outcome {
            Outcome::Done(done) => {
                self.stats.rewrites += 1;
                self.stats.bytes_reclaimed += done.bytes_before.saturating_sub(done.bytes_after);
                let count = done.sources.len();
                self.rewriting.stage = Stage::DrainingScans { segments: done.sources };
                self.retire_pin();
                count
            }
            Outcome::Refused { sources, .. } => {
                self.stats.rewrites_refused += 1;
                let count = sources.len();
                self.rewriting.refused.extend(sources);
                self.rewriting.refused_until_ms = now.monotonic_ms + REFUSED_MS;
                self.rewriting.stage = Stage::Idle;
                self.rewriting.is_plan_due = true;
                count
            }
        };
        let through = self.rewriting.compacted_through.take();
        if let Some((compaction, through)) = self.rewriting.compaction.as_mut().zip(through) {
            compaction.from = through + 1;
            compaction.progress.done += count as u64;
        }
        self.rewriting.survey = None;
    }

    pub(super) fn unlinked(&mut self) {
        self.rewriting.stage = Stage::Idle;
        self.rewriting.survey = None;
        self.rewriting.is_plan_due = true;
    }

    /// Reads that are issued from now on hold another pin.
    fn retire_pin(&mut self) {
        let pin = std::mem::take(&mut self.pin);
        self.retired.push_back(Retired { generation: None, pin });
    }

    /// Lets a due look at the segments happen.
    pub(super) fn tick_rewriting(&mut self, now: Now) {
        if let Stage::Answered { segments } = &mut self.rewriting.stage {
            let segments = std::mem::take(segments);
            self.rewriting.stage = Stage::DrainingFetches { segments };
            self.retire_pin();
        }
        if now.monotonic_ms >= self.rewriting.next_plan_ms {
            self.rewriting.next_plan_ms = now.monotonic_ms + PLAN_INTERVAL_MS;
            self.rewriting.is_plan_due = true;
        }
        if now.monotonic_ms >= self.rewriting.refused_until_ms {
            self.rewriting.refused.clear();
        }
    }

    /// Takes the next step that can be taken.
    pub(super) fn advance_rewriting(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        self.drain(fx);
        if self.is_closing || !matches!(self.rewriting.stage, Stage::Idle) {
            return;
        }
        if self.rewriting.compaction.is_some() && !self.is_ready_to_compact(fx) {
            return;
        }
        let is_due = self.rewriting.is_plan_due || self.rewriting.compaction.is_some();
        if !is_due || self.frozen.is_some() || self.upkeep.is_under_way() {
            return;
        }
        let Some(survey) = self.rewriting.survey.take() else {
            if !self.rewriting.is_survey_asked {
                self.rewriting.is_survey_asked = true;
                fx.push(StoreEffect::Survey);
            }
            return;
        };
        self.rewriting.is_plan_due = false;
        self.seal_for_erasure(&survey, now, fx);
        self.choose(&survey, now, fx);
        // A job and a step of the compaction end what the survey knows; both ask for another.
        if matches!(self.rewriting.stage, Stage::Idle) {
            self.rewriting.survey = Some(survey);
        }
    }

    fn drain(&mut self, fx: &mut Vec<StoreEffect>) {
        if self.retired.iter().any(|retired| retired.generation.is_none()) {
            return;
        }
        self.rewriting.stage = match std::mem::take(&mut self.rewriting.stage) {
            Stage::DrainingScans { segments } => Stage::Answered { segments },
            Stage::DrainingFetches { segments } => {
                fx.push(StoreEffect::Unlink { segments });
                Stage::Unlinking
            }
            other => other,
        };
    }

    /// Whether the removals that a compaction waits for have ended; what they killed is part of it.
    fn may_begin_compaction(&mut self) -> bool {
        let appended = self.appended();
        let Some(compaction) = &mut self.rewriting.compaction else { return false };
        if !compaction.is_begun && !self.purges.has_before(compaction.through) {
            compaction.is_begun = true;
            compaction.through = appended;
        }
        compaction.is_begun
    }

    /// Whether everything that the compaction is about is sealed, in the index and in nobody's
    /// memory; does what is needed for that.
    fn is_ready_to_compact(&mut self, fx: &mut Vec<StoreEffect>) -> bool {
        if !self.may_begin_compaction() {
            return false;
        }
        let through = self.rewriting.wanted_through();
        if self.log.open_segment().is_some_and(|segment| segment <= through) {
            self.log.roll(fx);
            return false;
        }
        self.applied >= through && self.oldest_in_memory() > through
    }

    /// A deletion waits for bytes of the segment that is being written: the next batch begins
    /// another one.
    fn seal_for_erasure(&mut self, survey: &[Surveyed], now: Now, fx: &mut Vec<StoreEffect>) {
        let Some(open) = self.log.open_segment() else { return };
        let policy = self.policy();
        let waits = |segment: &Surveyed| {
            segment.placed.segment == open && policy.erasure_is_due(segment, now.unix_s)
        };
        if survey.iter().any(waits) {
            self.log.roll(fx);
        }
    }

    fn choose(&mut self, survey: &[Surveyed], now: Now, fx: &mut Vec<StoreEffect>) {
        let policy = self.policy();
        let scope = self.rewriting.compaction.as_ref();
        let choice = Choice {
            survey,
            below: self.oldest_in_memory(),
            sealed_through: self.log.open_segment().is_none().then(|| self.appended()),
            unix_s: now.unix_s,
            refused: &self.rewriting.refused,
            compact: scope.map(|compaction| (compaction.from, compaction.through)),
        };
        let job = policy.next(self.config.shard, &choice);
        let due = policy.due(&choice) as u64;
        if let Some(compaction) = &mut self.rewriting.compaction {
            if !compaction.is_counted {
                compaction.is_counted = true;
                compaction.progress.total = due;
            }
            let progress = &mut compaction.progress;
            progress.total = progress.total.max(progress.done);
        }
        match job {
            Some(job) => {
                let is_compaction = self.rewriting.compaction.is_some();
                self.rewriting.compacted_through = is_compaction.then_some(job.last_seq);
                self.rewriting.stage = Stage::Writing;
                fx.push(StoreEffect::Rewrite(job));
            }
            None if self.rewriting.compaction.take().is_some() => self.upkeep.be_thorough(),
            None => {}
        }
    }

    /// Unix second since when the oldest deletion waits for its bytes to go, as of the last look.
    pub fn erasure_waits_since_s(&self) -> Option<u64> {
        let survey = self.rewriting.survey.as_ref()?;
        let since = survey.iter().map(|segment| segment.row.erase_since_s);
        since.min().filter(|since_s| *since_s != NEVER_S)
    }
}
