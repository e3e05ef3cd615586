//! Removal by the operator: ids in portions, each asked of every shard, since an id does not tell
//! who owns the event. A ban is kept by the shard that had the event; for an id that nobody had, by
//! all of them.

use super::{Home, HomeEffects, Reply};
use crate::message::{Ban, Client, QueryId, REMOVE_IDS_MAX, ToShard};
use proto::{EventId, Reason};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// A removal under way. Owned by the home; it holds the ids that it was given.
#[derive(Debug)]
pub(super) struct Removing {
    client: Client,
    /// Not asked about yet.
    rest: VecDeque<EventId>,
    is_ban: bool,
    /// Of the portion under way: those that no shard has found.
    missing: BTreeSet<EventId>,
    /// Shards that have not answered.
    waiting: usize,
    count: u64,
    failed: Option<Reason>,
}

impl Home {
    /// Removes `ids`, and sees to it that they never come back if `is_ban`.
    pub(super) fn remove(
        &mut self,
        client: Client,
        ids: Vec<EventId>,
        is_ban: bool,
        fx: &mut HomeEffects,
    ) {
        self.generation = self.generation.wrapping_add(1);
        let query = QueryId { slot: u32::MAX, generation: self.generation };
        let removing = Removing {
            client,
            rest: ids.into(),
            is_ban,
            missing: BTreeSet::new(),
            waiting: 0,
            count: 0,
            failed: None,
        };
        self.removals.insert(query, removing);
        self.remove_next(query, fx);
    }

    /// Sends the next portion, or says that it is done.
    fn remove_next(&mut self, query: QueryId, fx: &mut HomeEffects) {
        let Some(removing) = self.removals.get_mut(&query) else { return };
        let is_done = removing.rest.is_empty() || removing.failed.is_some();
        if is_done && let Some(ended) = self.removals.remove(&query) {
            let Removing { client, count, failed, .. } = ended;
            return fx.replies.push(Reply::Removed { client, count, failed });
        }
        let Some(removing) = self.removals.get_mut(&query) else { return };
        let portion = removing.rest.len().min(REMOVE_IDS_MAX);
        let ids: Arc<[EventId]> = removing.rest.drain(..portion).collect();
        removing.missing = ids.iter().copied().collect();
        let ban = if removing.is_ban { Ban::Found } else { Ban::None };
        self.ask_all_to_remove(query, &ids, ban, fx);
    }

    fn ask_all_to_remove(
        &mut self,
        query: QueryId,
        ids: &Arc<[EventId]>,
        ban: Ban,
        fx: &mut HomeEffects,
    ) {
        let shards = self.config.placement.shards();
        if let Some(removing) = self.removals.get_mut(&query) {
            removing.waiting = usize::from(shards);
        }
        let message = || ToShard::Remove { query, ids: Arc::clone(ids), ban };
        fx.to_shard.extend((0..shards).map(|shard| (shard, message())));
    }

    /// A shard has removed what it had.
    pub(super) fn removed(
        &mut self,
        query: QueryId,
        result: Result<Vec<EventId>, Reason>,
        fx: &mut HomeEffects,
    ) {
        let Some(removing) = self.removals.get_mut(&query) else { return };
        removing.waiting -= 1;
        match result {
            Ok(found) => {
                removing.count += found.len() as u64;
                found.iter().for_each(|id| {
                    removing.missing.remove(id);
                });
            }
            Err(reason) => removing.failed = Some(reason),
        }
        if removing.waiting > 0 {
            return;
        }
        let missing = std::mem::take(&mut removing.missing);
        if removing.is_ban && !missing.is_empty() && removing.failed.is_none() {
            // Nobody knows who would own these: whoever it is refuses them.
            return self.ask_all_to_remove(query, &missing.into_iter().collect(), Ban::All, fx);
        }
        self.remove_next(query, fx);
    }
}
