//! Pages and counts: an ordered union of index streams, re-matched against the filters, as far as
//! rows, bytes and time allow.

use super::{Shard, ShardEffects, Waiting};
use crate::message::{
    CoreId, PAGE_BYTES_MAX, PAGE_IDS_MAX, Page, PageRow, Query, QueryId, QueryMode, ToHome,
};
use proto::nip::nip45::Hll;
use proto::nip::nip77::Accumulator;
use proto::verify::VerifyItem;
use proto::{Event, Filter, Now, Reason};
use std::sync::Arc;
use store::effect::{Loc, Position, ScanRequest, Stream};
use store::{KillCause, Row, plan};

/// Index rows asked for in one read.
const SCAN_ROWS_MIN: u32 = 16;
/// Most index rows in one read, so that no read holds a core for long.
const SCAN_ROWS_MAX: u32 = 2048;

/// Bytes of bodies fetched at once (a single larger body is still fetched). Rows beyond are read
/// again with the next portion.
const FETCH_BYTES_MAX: u64 = 256 * 1024;

/// Imported events remembered as verified; beyond that they are verified anew.
const PROVEN_MAX: usize = 1_000_000;

type Key = (CoreId, QueryId);

/// A query under way at its owner.
#[derive(Debug)]
pub(super) struct OwnerQuery {
    query: Query,
    streams: Arc<[Stream]>,
    /// Filters that `streams` are of.
    searched: u128,
    /// What readers may see: durable when the query came.
    horizon: u64,
    after: Option<Position>,
    limits: Vec<u64>,
    /// Rows wanted in the page being built; 0 while nobody waits for one.
    rows_wanted: u32,
    deadline_ms: u64,
    page: Vec<PageRow>,
    page_bytes: usize,
    /// A row was left out because every filter that it matches has had its limit.
    left_out: bool,
    /// The page of a query for ids.
    ids: Vec<Position>,
    count: u64,
    /// The authors of what was counted, if they are wanted.
    hll: Option<(u8, Box<Hll>)>,
    /// Rows of the last read, and how far it is complete, while bodies are fetched.
    fetching: Option<(Vec<Row>, Option<Position>)>,
    /// The rows of the last read need no bodies.
    is_by_flags: bool,
    /// Index rows to ask for next; doubles while pages come out thin.
    scan_rows: u32,
}

impl OwnerQuery {
    fn is_count(&self) -> bool {
        matches!(self.query.mode, QueryMode::Count { .. })
    }

    /// Nothing has been found for the reply that the home waits for.
    fn found_nothing(&self) -> bool {
        self.page.is_empty() && self.ids.is_empty() && self.count == 0
    }

    /// Whether the row is of the sync set that is being read: its flags say so, and no body is
    /// needed. `None` if this is no such read, or if the event has never been verified.
    fn is_member(&self, row: &Row) -> Option<bool> {
        let QueryMode::Ids { sync_set: Some(set), .. } = self.query.mode else { return None };
        let is_verified = row.loc.flags & Loc::UNVERIFIED == 0;
        is_verified.then(|| row.loc.flags & store::sums::bit(set) != 0)
    }

    /// Enters a match into the reply.
    fn take(&mut self, row: &Row, event: &Event, matched: u128) {
        match self.query.mode {
            QueryMode::Count { .. } => {
                self.count += 1;
                if let Some((offset, hll)) = &mut self.hll {
                    hll.add(*offset, &event.view().pubkey());
                }
            }
            QueryMode::Ids { .. } => self.ids.push(row.position),
            QueryMode::Rows { .. } => {
                self.page_bytes += event.packed().len();
                self.page.push(PageRow { event: event.clone(), matched });
            }
        }
    }

    /// Rows and ids of the reply.
    fn taken(&self) -> usize {
        self.page.len() + self.ids.len()
    }

    /// Filters that match `event`. Limits are not counted down here: the home asks for one row
    /// beyond them, and that row is what tells "more" from "finish" (NIP-67).
    fn matched(&self, event: &proto::EventRef<'_>) -> u128 {
        let filters = self.query.filters.iter().enumerate();
        filters.fold(0, |mask, (bit, filter)| mask | u128::from(filter.matches(event)) << bit)
    }

    /// Filters that the home still wants rows for.
    fn wanted(&self) -> u128 {
        let limits = self.limits.iter().enumerate();
        limits.fold(0, |mask, (bit, limit)| mask | u128::from(*limit > 0) << bit)
    }

    fn is_full(&self) -> bool {
        self.taken() >= self.rows_wanted as usize || self.page_bytes >= PAGE_BYTES_MAX
    }
}

impl Shard {
    pub(super) fn start_query(
        &mut self,
        now: Now,
        core: CoreId,
        query: Query,
        fx: &mut ShardEffects,
    ) {
        // Interest and horizon in one step: what is durable now is in the pages, what becomes
        // durable later is in the live stream, and nothing is in both.
        if query.live {
            let (live_from, next) = self.live.install(usize::from(core));
            fx.to_home.push((core, ToHome::Installed { query: query.id, live_from, next }));
        }
        let rows_wanted = match query.mode {
            QueryMode::Rows { first_page_rows: 0 } => return,
            QueryMode::Rows { first_page_rows } => first_page_rows,
            QueryMode::Ids { first_page_ids, .. } => first_page_ids.clamp(1, PAGE_IDS_MAX),
            QueryMode::Count { .. } => u32::MAX,
        };
        let hll = match query.mode {
            QueryMode::Count { hll_offset: Some(offset) } => Some((offset, Box::default())),
            _ => None,
        };
        let key = (core, query.id);
        let entry = OwnerQuery {
            streams: self.streams(&query.filters, u128::MAX),
            searched: u128::MAX,
            horizon: self.store.durable(),
            after: None,
            limits: query.limits.to_vec(),
            rows_wanted,
            deadline_ms: query.deadline_ms,
            page: Vec::new(),
            page_bytes: 0,
            left_out: false,
            ids: Vec::new(),
            count: 0,
            hll,
            fetching: None,
            is_by_flags: false,
            scan_rows: rows_wanted.clamp(SCAN_ROWS_MIN, SCAN_ROWS_MAX),
            query,
        };
        self.queries.insert(key, entry);
        self.scan(now, key, fx);
    }

    /// Begins to add up a sync set. While a removal is under way its sums count what is hidden, so
    /// there are none.
    pub(super) fn start_sums(&mut self, (core, id): Key, set: u8, fx: &mut ShardEffects) {
        if self.store.is_purging() {
            return fx.to_home.push((core, ToHome::Sums { query: id, sums: None }));
        }
        let token = self.store.sums(set, self.store.durable(), &mut fx.store);
        self.waiting.insert(token, Waiting::Sums(core, id));
    }

    pub(super) fn sums(
        &mut self,
        (core, id): Key,
        sums: Vec<(u32, Accumulator)>,
        fx: &mut ShardEffects,
    ) {
        self.counters.sums += 1;
        let sums = (!self.store.is_purging()).then(|| sums.into());
        fx.to_home.push((core, ToHome::Sums { query: id, sums }));
    }

    pub(super) fn fail_sums(&mut self, key: Key, fx: &mut ShardEffects) {
        fail(key, Reason::ReadFailed, fx);
    }

    /// The streams of those of `filters` whose bit is set in `wanted`.
    fn streams(&self, filters: &[Filter], wanted: u128) -> Arc<[Stream]> {
        let filters = filters.iter().enumerate();
        let wanted =
            filters.filter(|(bit, filter)| wanted >> bit & 1 == 1 && self.may_have(filter));
        wanted.flat_map(|(_, filter)| plan::streams(filter, &self.config.secret)).collect()
    }

    /// Whether the sketch leaves room for a stored match. Asked here and not by the home: between
    /// a home's look at the sketch and the installation of its interest an event could slip by.
    fn may_have(&self, filter: &Filter) -> bool {
        let ids = filter.ids.as_ref();
        ids.is_none_or(|ids| ids.iter().any(|id| self.store.may_have_id(id)))
            && filter.tags.iter().all(|tag| {
                tag.values.iter().any(|value| self.store.may_have_tag(tag.letter, value))
            })
    }

    pub(super) fn more(
        &mut self,
        now: Now,
        key: Key,
        rows: u32,
        limits: &[u64],
        deadline_ms: u64,
        fx: &mut ShardEffects,
    ) {
        let Some(query) = self.queries.get_mut(&key) else {
            // A home asks only for queries that it has not been told are over.
            return fail(key, Reason::ReadFailed, fx);
        };
        query.rows_wanted = rows;
        query.limits = limits.to_vec();
        query.deadline_ms = deadline_ms;
        query.scan_rows = rows.clamp(SCAN_ROWS_MIN, SCAN_ROWS_MAX);
        self.scan(now, key, fx);
    }

    pub(super) fn cancel(&mut self, key: Key) {
        // While a read is under way its answer still owes the home a reply; that it is empty no
        // longer matters to anybody.
        if let Some(query) = self.queries.get_mut(&key) {
            if query.rows_wanted == 0 {
                self.queries.remove(&key);
            } else {
                query.limits.iter_mut().for_each(|limit| *limit = 0);
            }
        }
    }

    /// Once it is known that filters which have had their limit have more, their rows are not
    /// looked for any longer: between two rows of a rare filter there may be millions of theirs.
    fn narrow(&self, query: &mut OwnerQuery) {
        let wanted = query.wanted();
        if query.left_out && query.searched != wanted {
            query.streams = self.streams(&query.query.filters, wanted);
            query.searched = wanted;
        }
    }

    fn scan(&mut self, now: Now, key: Key, fx: &mut ShardEffects) {
        let Some(query) = self.queries.get(&key) else { return };
        if query.streams.is_empty() || query.limits.iter().all(|limit| *limit == 0) {
            return self.answer(key, None, fx);
        }
        if now.monotonic_ms > query.deadline_ms {
            return self.out_of_time(key, fx);
        }
        let request = ScanRequest {
            streams: query.streams.clone(),
            after: query.after,
            rows_max: query.scan_rows,
        };
        let token = self.store.scan(request, query.horizon, &mut fx.store);
        self.waiting.insert(token, Waiting::Query(key.0, key.1));
    }

    /// The time for this page is used up: what there is goes out, a count as a partial one; a query
    /// that found nothing at all in that time ends.
    fn out_of_time(&mut self, key: Key, fx: &mut ShardEffects) {
        let Some(query) = self.queries.get(&key) else { return };
        if query.found_nothing() {
            self.queries.remove(&key);
            return fail(key, Reason::ScanBudget, fx);
        }
        let reached = query.after;
        self.answer(key, reached, fx);
    }

    pub(super) fn rows(
        &mut self,
        key: Key,
        mut rows: Vec<Row>,
        mut complete_to: Option<Position>,
        fx: &mut ShardEffects,
    ) {
        let Some(query) = self.queries.get_mut(&key) else { return };
        // What hides events is not in their rows.
        let is_purging = self.store.is_purging();
        query.is_by_flags = !is_purging && rows.iter().all(|row| query.is_member(row).is_some());
        let affordable = if query.is_by_flags { rows.len() } else { affordable(&rows) };
        if affordable < rows.len() {
            rows.truncate(affordable);
            complete_to = rows.last().map(|row| row.position);
            query.scan_rows = (affordable as u32).max(SCAN_ROWS_MIN);
        }
        let missing = rows.iter().filter(|row| row.event.is_none() && !query.is_by_flags);
        let locs: Vec<Loc> = missing.map(|row| row.loc).collect();
        query.fetching = Some((rows, complete_to));
        if !locs.is_empty() {
            let token = self.store.fetch_locs(locs, &mut fx.store);
            self.waiting.insert(token, Waiting::Query(key.0, key.1));
        } else {
            self.collect(key, fx);
        }
    }

    pub(super) fn bodies(&mut self, key: Key, bodies: Vec<Option<Event>>, fx: &mut ShardEffects) {
        let Some(query) = self.queries.get_mut(&key) else { return };
        let Some((rows, _)) = &mut query.fetching else { return };
        let missing = rows.iter_mut().filter(|row| row.event.is_none());
        missing.zip(bodies).for_each(|(row, body)| row.event = body);
        self.collect(key, fx);
    }

    /// Lets queries that have found too little read on, in turns and about as many rows as one
    /// read may have: whoever came meanwhile has been served first.
    pub(super) fn search_slice(&mut self, now: Now, fx: &mut ShardEffects) {
        let mut rows = 0;
        while rows < SCAN_ROWS_MAX
            && let Some(key) = self.searching.pop_front()
        {
            rows += self.queries.get(&key).map_or(0, |query| query.scan_rows);
            self.scan(now, key, fx);
        }
    }

    /// Moves the rows of a read into the page.
    fn collect(&mut self, key: Key, fx: &mut ShardEffects) {
        let Some(mut query) = self.queries.remove(&key) else { return };
        let Some((rows, complete_to)) = query.fetching.take() else { return };
        let (taken, wanted) = (query.taken(), query.wanted());
        let mut cut = None;
        for row in rows {
            if query.is_full() {
                cut = query.after;
                break;
            }
            query.after = Some(row.position);
            if query.is_by_flags
                && let Some(is_member) = query.is_member(&row)
            {
                query.ids.extend(is_member.then_some(row.position));
                continue;
            }
            // A body that cannot be read as an event has rotted: it is not served, scrub reports it.
            let Some(event) = &row.event else { continue };
            let view = event.view();
            let matched = query.matched(&view);
            if matched == 0
                || !query.query.reader.may_read(&view)
                || self.is_hidden(row.seq, &view)
                || !self.is_proven(&row)
            {
                continue;
            }
            if matched & wanted == 0 {
                query.left_out = true;
                continue;
            }
            query.take(&row, event, matched);
        }
        let thin = (query.taken() - taken) * 2 < query.scan_rows as usize;
        if thin {
            query.scan_rows = (query.scan_rows * 2).min(SCAN_ROWS_MAX);
        }
        let full = query.is_full();
        if cut.is_none() {
            query.after = complete_to;
        }
        self.narrow(&mut query);
        self.queries.insert(key, query);
        match (cut, complete_to) {
            (Some(reached), _) => self.answer(key, Some(reached), fx),
            (None, None) => self.answer(key, None, fx),
            (None, Some(reached)) if full => self.answer(key, Some(reached), fx),
            (None, Some(_)) => self.searching.push_back(key),
        }
    }

    /// Whether the row's signature has been checked; an event imported without is checked at its
    /// first serving, and killed if it lied.
    fn is_proven(&mut self, row: &Row) -> bool {
        if row.loc.flags & Loc::UNVERIFIED == 0 || self.proven.contains(&row.seq) {
            return true;
        }
        let Some(event) = &row.event else { return false };
        self.counters.verified += 1;
        if self.verifier.verify(&VerifyItem::of(&event.view())) {
            if self.proven.len() >= PROVEN_MAX {
                self.proven.clear();
            }
            self.proven.insert(row.seq);
            return true;
        }
        // Another reader may have come across it since; its end is on the way then.
        if !self.store.is_dead(row.seq) {
            self.counters.refused.add(Reason::BadSignature);
            self.store.kill(row.seq, KillCause::Operator);
        }
        false
    }

    fn answer(&mut self, key: Key, complete_to: Option<Position>, fx: &mut ShardEffects) {
        let Some(mut query) = self.queries.remove(&key) else { return };
        let (core, id) = key;
        if query.is_count() {
            let (count, is_partial) = (query.count, complete_to.is_some());
            let hll = query.hll.map(|(_, hll)| hll);
            fx.to_home.push((core, ToHome::Counted { query: id, count, is_partial, hll }));
            return;
        }
        self.counters.pages += 1;
        self.counters.rows_sent += query.taken() as u64;
        let reply = match query.query.mode {
            QueryMode::Ids { .. } => {
                ToHome::Ids { query: id, ids: std::mem::take(&mut query.ids), complete_to }
            }
            _ => {
                let rows = std::mem::take(&mut query.page);
                let left_out = query.left_out;
                ToHome::Page { query: id, page: Page { rows, complete_to, left_out } }
            }
        };
        fx.to_home.push((core, reply));
        query.page_bytes = 0;
        query.rows_wanted = 0;
        let cancelled = query.limits.iter().all(|limit| *limit == 0);
        if complete_to.is_some() && !cancelled {
            self.queries.insert(key, query);
        }
    }

    pub(super) fn fail_query(&mut self, key: Key, fx: &mut ShardEffects) {
        if self.queries.remove(&key).is_some() {
            fail(key, Reason::ReadFailed, fx);
        }
    }
}

/// How many of the rows' bodies may be held at once: at least one.
fn affordable(rows: &[Row]) -> usize {
    let mut bytes = 0;
    let within = rows.iter().take_while(|row| {
        bytes += if row.event.is_none() { u64::from(row.loc.length) } else { 0 };
        bytes <= FETCH_BYTES_MAX
    });
    within.count().max(1)
}

fn fail((core, query): Key, reason: Reason, fx: &mut ShardEffects) {
    fx.to_home.push((core, ToHome::QueryFailed { query, reason }));
}
