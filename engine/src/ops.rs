//! What the operator can ask of the shards, run to its end on the command's thread: scans, counts,
//! the fingerprint, statistics. The same code serves a command that opened the store itself and one
//! that came through the admin socket.

use crate::desk::{Answer, Question, Shards};
use proto::{Event, EventId, Filter, Reason};
use shards::message::ShardStats;
use std::io;
use store::fingerprint::Fingerprint;

/// How long answers are waited for before it is looked whether to stop.
const WAIT_MS: u64 = 100;
/// Events that one window of an oldest-first scan holds in memory at most, ties of a second apart.
const WINDOW_EVENTS_MAX: u64 = 20_000;
/// Events that one step of a removal finds and removes.
const DELETE_EVENTS: u64 = 4_096;
/// Seconds of the first window.
const WINDOW_FIRST_S: u64 = 86_400;

/// Why a request was not answered to its end.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// A shard could not.
    #[error("{}", .0.message())]
    Refused(Reason),
    /// The process is ending.
    #[error("the relay is shutting down")]
    Stopped,
    /// What the request works on failed.
    #[error("{0}")]
    Failed(String),
    /// Whoever listens does not take more.
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// Runs requests, one at a time.
pub struct Ops<'a> {
    shards: &'a mut dyn Shards,
    /// Asked between answers.
    should_stop: &'a dyn Fn() -> bool,
}

impl<'a> Ops<'a> {
    /// Requests go to `shards` until `should_stop` says so.
    pub fn new(shards: &'a mut dyn Shards, should_stop: &'a dyn Fn() -> bool) -> Self {
        Self { shards, should_stop }
    }

    /// Whether requests are to end.
    pub fn should_stop(&self) -> bool {
        (self.should_stop)()
    }

    /// Feeds answers to `take` until it returns a result.
    fn drive<T>(
        &mut self,
        question: Question,
        mut take: impl FnMut(Answer) -> Result<Option<T>, OpsError>,
    ) -> Result<T, OpsError> {
        self.shards.ask(question);
        let result = loop {
            if (self.should_stop)() {
                break Err(OpsError::Stopped);
            }
            let answers = self.shards.answers(WAIT_MS);
            let done = answers.into_iter().find_map(|answer| match answer {
                Answer::Refused(reason) => Some(Err(OpsError::Refused(reason))),
                answer => take(answer).transpose(),
            });
            if let Some(result) = done {
                break result;
            }
        };
        self.shards.finish();
        result
    }

    /// Every matching event, newest first.
    ///
    /// # Errors
    /// [`OpsError`].
    pub fn scan(
        &mut self,
        filters: Vec<Filter>,
        sink: &mut dyn FnMut(&Event) -> io::Result<()>,
    ) -> Result<(), OpsError> {
        self.drive(Question::Scan(filters), |answer| match answer {
            Answer::Event(event) => sink(&event).map(|()| None).map_err(OpsError::from),
            Answer::Done => Ok(Some(())),
            _ => Ok(None),
        })
    }

    /// How many events match.
    ///
    /// # Errors
    /// [`OpsError`].
    pub fn count(&mut self, filters: Vec<Filter>) -> Result<u64, OpsError> {
        self.drive(Question::Count(filters), |answer| match answer {
            Answer::Count(count) => Ok(Some(count)),
            _ => Ok(None),
        })
    }

    /// Every matching event, oldest first: the index reads newest first, so time is walked upwards
    /// in windows that are small enough to be turned around in memory.
    ///
    /// # Errors
    /// [`OpsError`].
    pub fn scan_oldest_first(
        &mut self,
        filters: &[Filter],
        sink: &mut dyn FnMut(&Event) -> io::Result<()>,
    ) -> Result<(), OpsError> {
        let mut since = filters.iter().map(|filter| filter.since.unwrap_or(0)).min().unwrap_or(0);
        let end = filters.iter().map(|filter| filter.until.unwrap_or(u64::MAX)).max();
        let end = end.unwrap_or(0).min(u32::MAX.into());
        let mut width = WINDOW_FIRST_S;
        while since <= end {
            let until = since.saturating_add(width - 1).min(end);
            let window = within(filters, since, until);
            let count = self.count(window.clone())?;
            if count > WINDOW_EVENTS_MAX && width > 1 {
                width = (width / 2).max(1);
                continue;
            }
            if count > 0 {
                let mut events = Vec::with_capacity(count as usize);
                self.scan(window, &mut |event| {
                    events.push(event.clone());
                    Ok(())
                })?;
                events.iter().rev().try_for_each(&mut *sink)?;
            }
            if count < WINDOW_EVENTS_MAX / 4 {
                width = width.saturating_mul(2).min(u64::from(u32::MAX));
            }
            since = until + 1;
        }
        Ok(())
    }

    /// The fingerprint of everything stored.
    ///
    /// # Errors
    /// [`OpsError`].
    pub fn fingerprint(&mut self) -> Result<Fingerprint, OpsError> {
        let mut fingerprint = Fingerprint::default();
        self.scan(vec![Filter::default()], &mut |event| {
            fingerprint.add_event(&event.view());
            Ok(())
        })?;
        Ok(fingerprint)
    }

    /// What every shard holds.
    ///
    /// # Errors
    /// [`OpsError`].
    pub fn stats(&mut self) -> Result<Vec<ShardStats>, OpsError> {
        self.drive(Question::Stats, |answer| match answer {
            Answer::Stats(shards) => Ok(Some(shards)),
            _ => Ok(None),
        })
    }
}

/// What a removal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Events that matched.
    pub matched: u64,
    /// Events that were there and are gone, durably.
    pub removed: u64,
}

impl Ops<'_> {
    fn remove(&mut self, ids: Vec<EventId>, ban: bool) -> Result<u64, OpsError> {
        self.drive(Question::Remove(ids, ban), |answer| match answer {
            Answer::Removed(count) => Ok(Some(count)),
            _ => Ok(None),
        })
    }

    /// Removes every matching event, newest first, a portion at a time: what was removed when it is
    /// interrupted stays removed, and the rest is found again. `progress` hears how many of how many
    /// have been looked at.
    ///
    /// # Errors
    /// [`OpsError`].
    pub fn delete(
        &mut self,
        filter: &Filter,
        ban: bool,
        progress: &mut dyn FnMut(u64, u64) -> io::Result<()>,
    ) -> Result<Deleted, OpsError> {
        let mut deleted = Deleted::default();
        if ban && let Some(ids) = only_ids(filter) {
            // Also those that are not here yet.
            deleted.matched = self.count(vec![filter.clone()])?;
            deleted.removed = self.remove(ids, true)?;
            return Ok(deleted);
        }
        let mut left = filter.limit.unwrap_or(u64::MAX);
        let unlimited = Filter { limit: None, ..filter.clone() };
        let total = self.count(vec![unlimited.clone()])?.min(left);
        let mut until = filter.until;
        while left > 0 {
            let limit = left.min(DELETE_EVENTS);
            let portion = Filter { limit: Some(limit), until, ..unlimited.clone() };
            let (mut ids, mut oldest) = (Vec::new(), u64::MAX);
            self.scan(vec![portion], &mut |event| {
                ids.push(event.view().id());
                oldest = oldest.min(event.view().created_at().into());
                Ok(())
            })?;
            let found = ids.len() as u64;
            let removed = if ids.is_empty() { 0 } else { self.remove(ids, ban)? };
            deleted.matched += found;
            deleted.removed += removed;
            left -= found.min(left);
            progress(deleted.matched.min(total), total)?;
            // Without a removal the same events would be found for ever: another command has taken
            // them first.
            if found < limit || (removed == 0 && until == Some(oldest)) {
                break;
            }
            until = Some(oldest);
        }
        Ok(deleted)
    }

    /// Lets every shard rewrite the segments of its log in which anything is dead. `progress` hears
    /// how many of how many segments are done. Returns how many were written, and the bytes that
    /// were given back.
    ///
    /// # Errors
    /// [`OpsError`]; shards that have begun go on.
    pub fn compact(
        &mut self,
        progress: &mut dyn FnMut(u64, u64) -> io::Result<()>,
    ) -> Result<(u64, u64), OpsError> {
        let sums = |shards: &[ShardStats]| {
            let add = |sum: (u64, u64), shard: &ShardStats| {
                (sum.0 + shard.rewritten.0, sum.1 + shard.rewritten.1)
            };
            shards.iter().fold((0, 0), add)
        };
        let before = sums(&self.stats()?);
        self.shards.ask(Question::Compact);
        let mut seen = Vec::new();
        loop {
            let shards = self.stats()?;
            let (done, total) = compacted(&mut seen, &shards);
            progress(done, total)?;
            if shards.iter().all(|shard| shard.compaction.is_none()) {
                let after = sums(&shards);
                return Ok((after.0 - before.0, after.1.saturating_sub(before.1)));
            }
            // Nothing comes of its own accord: this waits.
            self.shards.answers(WAIT_MS);
        }
    }
}

/// How many of how many segments are done. A shard that has ended says nothing any more and counts
/// with what it said last, in `seen`; one that finds more to do than it knew has that many.
fn compacted(seen: &mut Vec<(u64, u64)>, shards: &[ShardStats]) -> (u64, u64) {
    seen.resize(shards.len(), (0, 0));
    for (seen, shard) in seen.iter_mut().zip(shards) {
        *seen = match shard.compaction {
            Some(now) => (now.done, now.total.max(now.done)),
            None => (seen.1, seen.1),
        };
    }
    seen.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// The ids of a filter that names nothing else.
fn only_ids(filter: &Filter) -> Option<Vec<EventId>> {
    let ids = filter.ids.clone()?;
    (*filter == Filter { ids: Some(ids.clone()), ..Filter::default() }).then_some(ids)
}

/// The filters narrowed to a window of time.
fn within(filters: &[Filter], since: u64, until: u64) -> Vec<Filter> {
    let narrowed = filters.iter().map(|filter| Filter {
        since: Some(filter.since.unwrap_or(0).max(since)),
        until: Some(filter.until.unwrap_or(u64::MAX).min(until)),
        limit: None,
        ..filter.clone()
    });
    narrowed.filter(|filter| !filter.matches_nothing()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::store::CompactionProgress;

    #[test]
    fn a_compaction_never_says_that_more_is_done_than_there_is() {
        let shard = |progress: Option<(u64, u64)>| ShardStats {
            compaction: progress.map(|(done, total)| CompactionProgress { done, total }),
            ..ShardStats::default()
        };
        let mut seen = Vec::new();
        assert_eq!(compacted(&mut seen, &[shard(Some((0, 2))), shard(Some((0, 0)))]), (0, 2));
        assert_eq!(compacted(&mut seen, &[shard(Some((1, 2))), shard(Some((3, 1)))]), (4, 5));
        assert_eq!(compacted(&mut seen, &[shard(None), shard(None)]), (5, 5));
    }

    #[test]
    fn windows_narrow_and_drop_filters() {
        let filter = |since, until| Filter { since, until, limit: Some(3), ..Filter::default() };
        let filters = [filter(None, None), filter(Some(50), None), filter(None, Some(5))];
        let narrowed = within(&filters, 10, 19);
        assert_eq!(narrowed, [Filter { limit: None, ..filter(Some(10), Some(19)) }]);
    }
}
