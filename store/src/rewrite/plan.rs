//! Which segments to rewrite next: a pure choice from what is known of them.
//!
//! Three things make a segment due: a share of its bytes is dead; a deletion waits for bytes to go,
//! half of the time allowed for it has passed (the other half is for the work); or the operator
//! asks. Neighbours that are due or small go along as long as the result fits a segment, and a row
//! of small ones alone is joined too, so that restarts do not leave thousands of files behind.

use super::format::generation_of;
use super::{Job, Surveyed};
use crate::effect::Seq;
use crate::index::segments::NEVER_S;
use std::collections::BTreeSet;

/// Dead bytes below which their share alone makes no segment due.
const DEAD_BYTES_MIN: u64 = 256 << 10;
/// Segments joined at most.
const SOURCES_MAX: usize = 64;
/// Small segments in a row that are joined for their number alone.
const SMALL_MIN: usize = 8;
/// A segment is small if less than this part of a full one lives in it.
const SMALL_PART: u64 = 4;

/// When a segment is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Dead share, in percent of the segment, that makes it due.
    pub dead_percent: u8,
    /// Time within which bytes that somebody asked to be deleted are gone.
    pub erase_after_s: u64,
    /// Greatest length of a segment.
    pub segment_bytes_max: u32,
}

/// What is chosen from.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// All segments.
    pub survey: &'a [Surveyed],
    /// Only segments with no sequence from here on are in nobody's memory.
    pub below: Seq,
    /// Last sequence of the log if its last segment is sealed.
    pub sealed_through: Option<Seq>,
    /// Wall clock.
    pub unix_s: u64,
    /// Segments that could not be rewritten.
    pub refused: &'a BTreeSet<Seq>,
    /// The operator wants everything with anything dead in it rewritten, from this sequence on and
    /// up to that one.
    pub compact: Option<(Seq, Seq)>,
}

impl Choice<'_> {
    /// The last sequence of a segment that may be rewritten.
    fn end_of(&self, segment: &Surveyed) -> Option<Seq> {
        let last_seq = segment.placed.last_seq.or(self.sealed_through)?;
        let is_in_scope = self
            .compact
            .is_none_or(|(from, to)| segment.placed.first_seq >= from && last_seq <= to);
        let is_free = last_seq < self.below
            && last_seq >= segment.placed.first_seq
            && generation_of(segment.placed.segment) < u16::MAX
            && !self.refused.contains(&segment.placed.segment);
        (is_free && is_in_scope).then_some(last_seq)
    }
}

impl Policy {
    /// Whether bytes in a segment must go now because somebody asked for it.
    pub fn erasure_is_due(&self, segment: &Surveyed, unix_s: u64) -> bool {
        let since_s = segment.row.erase_since_s;
        since_s != NEVER_S && unix_s >= since_s.saturating_add(self.erase_after_s / 2)
    }

    fn is_due(&self, segment: &Surveyed, choice: &Choice<'_>) -> bool {
        let dead = segment.row.dead_bytes;
        if choice.compact.is_some() && dead > 0 {
            return true;
        }
        let share = segment.placed.bytes.saturating_mul(self.dead_percent.into()) / 100;
        (dead >= DEAD_BYTES_MIN && dead >= share) || self.erasure_is_due(segment, choice.unix_s)
    }

    /// How many segments a compaction would rewrite for what is dead in them.
    pub fn due(&self, choice: &Choice<'_>) -> usize {
        let is_due =
            |segment: &&Surveyed| choice.end_of(segment).is_some() && self.is_due(segment, choice);
        choice.survey.iter().filter(is_due).count()
    }

    /// The next job, from the beginning of the log.
    pub fn next(&self, shard: u16, choice: &Choice<'_>) -> Option<Job> {
        let mut at = 0;
        while at < choice.survey.len() {
            let (run, due) = self.run_from(at, choice);
            let small_min = if choice.compact.is_some() { 2 } else { SMALL_MIN };
            if due || run.len() >= small_min {
                let last = run.last()?;
                let last_seq = choice.end_of(last)?;
                let sources = run.iter().map(|segment| segment.placed.segment).collect();
                return Some(Job { shard, sources, last_seq });
            }
            at += run.len().max(1);
        }
        None
    }

    /// Neighbours from `at` on that go into one segment, and whether any of them is due.
    fn run_from<'a>(&self, at: usize, choice: &Choice<'a>) -> (&'a [Surveyed], bool) {
        let full = u64::from(self.segment_bytes_max);
        let (mut end, mut bytes, mut any_due) = (at, 0, false);
        for segment in choice.survey[at..].iter().take(SOURCES_MAX) {
            let live = segment.placed.bytes.saturating_sub(segment.row.dead_bytes);
            let is_due = self.is_due(segment, choice);
            let goes_along = is_due || live <= full / SMALL_PART;
            bytes += live;
            if choice.end_of(segment).is_none() || !goes_along || (end > at && bytes > full) {
                break;
            }
            any_due |= is_due;
            end += 1;
        }
        (&choice.survey[at..end], any_due)
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::name_of;
    use super::super::layout::Placed;
    use super::*;
    use crate::index::segments::SegmentRow;

    const POLICY: Policy =
        Policy { dead_percent: 30, erase_after_s: 100, segment_bytes_max: 4 << 20 };

    fn segment(first_seq: Seq, bytes: u64, dead_bytes: u64) -> Surveyed {
        let last_seq = Some(first_seq + 99);
        let placed = Placed { segment: first_seq, first_seq, last_seq, bytes };
        Surveyed { placed, row: SegmentRow { dead_bytes, ..SegmentRow::default() } }
    }

    fn choice<'a>(survey: &'a [Surveyed], refused: &'a BTreeSet<Seq>) -> Choice<'a> {
        Choice {
            survey,
            below: 10_000,
            sealed_through: None,
            unix_s: 1_000,
            refused,
            compact: None,
        }
    }

    fn chosen(choice: &Choice<'_>) -> Vec<Seq> {
        POLICY.next(0, choice).map_or(Vec::new(), |job| job.sources)
    }

    #[test]
    fn a_dead_share_makes_due_and_small_neighbours_go_along() {
        let mut survey = vec![
            segment(1, 4 << 20, 100),
            segment(101, 4 << 20, 2 << 20),
            segment(201, 100_000, 0),
            segment(301, 4 << 20, 0),
        ];
        let refused = BTreeSet::new();
        assert_eq!(chosen(&choice(&survey, &refused)), [101, 201]);
        assert!(chosen(&Choice { below: 200, ..choice(&survey, &refused) }).is_empty());
        let not_again = BTreeSet::from([101]);
        assert!(chosen(&choice(&survey, &not_again)).is_empty());
        survey[0].row.erase_since_s = 951;
        assert_eq!(chosen(&choice(&survey, &refused)), [101, 201], "there is time left");
        survey[0].row.erase_since_s = 950;
        assert_eq!(chosen(&choice(&survey, &refused)), [1], "two full ones do not fit into one");
        survey[1].placed.segment = name_of(101, u16::MAX);
        survey[0].row.erase_since_s = NEVER_S;
        assert!(chosen(&choice(&survey, &refused)).is_empty(), "no further generation");
    }

    #[test]
    fn compaction_takes_everything_once_and_nothing_else() {
        let survey: Vec<Surveyed> =
            (0..6).map(|at| segment(1 + at * 100, 3 << 20, at % 2)).collect();
        let refused = BTreeSet::new();
        let all = choice(&survey, &refused);
        assert!(chosen(&all).is_empty(), "a byte is not worth it");
        let compact = Choice { compact: Some((1, 600)), ..all };
        assert_eq!((POLICY.due(&compact), chosen(&compact)), (3, vec![101]));
        assert_eq!(chosen(&Choice { compact: Some((201, 600)), ..all }), [301]);
        assert!(chosen(&Choice { compact: Some((501, 599)), ..all }).is_empty());
    }

    #[test]
    fn a_row_of_small_segments_is_joined() {
        let survey: Vec<Surveyed> = (0..9).map(|at| segment(1 + at * 100, 50_000, 0)).collect();
        let refused = BTreeSet::new();
        assert_eq!(chosen(&choice(&survey, &refused)).len(), 9);
        assert!(chosen(&choice(&survey[..7], &refused)).is_empty());
        let two = Choice { compact: Some((1, 200)), ..choice(&survey, &refused) };
        assert_eq!(chosen(&two), [1, 101]);
        // The last one, which has no end of its own, counts only when the log is closed.
        let mut last = vec![segment(1, 50_000, 1)];
        last[0].placed.last_seq = None;
        let compact = Choice { compact: Some((1, 500)), ..choice(&last, &refused) };
        assert!(chosen(&compact).is_empty());
        assert_eq!(chosen(&Choice { sealed_through: Some(60), ..compact }), [1]);
    }
}
