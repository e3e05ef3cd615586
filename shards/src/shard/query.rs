//! Pages and counts: an ordered union of index streams, re-matched against the filters, as far as
//! rows, bytes and time allow.

use super::{Shard, ShardEffects, Waiting};
use crate::message::{CoreId, PAGE_BYTES_MAX, Page, PageRow, Query, QueryId, QueryMode, ToHome};
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
    count: u64,
    /// Rows of the last read, and how far it is complete, while bodies are fetched.
    fetching: Option<(Vec<Row>, Option<Position>)>,
    /// Index rows to ask for next; doubles while pages come out thin.
    scan_rows: u32,
}

impl OwnerQuery {
    fn is_count(&self) -> bool {
        self.query.mode == QueryMode::Count
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
        self.page.len() >= self.rows_wanted as usize || self.page_bytes >= PAGE_BYTES_MAX
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
            QueryMode::Count => u32::MAX,
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
            count: 0,
            fetching: None,
            scan_rows: rows_wanted.clamp(SCAN_ROWS_MIN, SCAN_ROWS_MAX),
            query,
        };
        self.queries.insert(key, entry);
        self.scan(now, key, fx);
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

    /// The time for this page is used up: what there is goes out; a query that found nothing at
    /// all in that time ends.
    fn out_of_time(&mut self, key: Key, fx: &mut ShardEffects) {
        let Some(query) = self.queries.get(&key) else { return };
        if query.page.is_empty() || query.is_count() {
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
        let affordable = affordable(&rows);
        if affordable < rows.len() {
            rows.truncate(affordable);
            complete_to = rows.last().map(|row| row.position);
            query.scan_rows = (affordable as u32).max(SCAN_ROWS_MIN);
        }
        let missing = rows.iter().filter(|row| row.event.is_none());
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
        let (taken, wanted) = (query.page.len(), query.wanted());
        let mut cut = None;
        for row in rows {
            if query.is_full() {
                cut = query.after;
                break;
            }
            query.after = Some(row.position);
            // A body that cannot be read as an event has rotted: it is not served, scrub reports it.
            let Some(event) = &row.event else { continue };
            let view = event.view();
            let matched = query.matched(&view);
            if matched == 0 || !query.query.reader.may_read(&view) || !self.is_proven(&row) {
                continue;
            }
            if matched & wanted == 0 {
                query.left_out = true;
                continue;
            }
            if query.is_count() {
                query.count += 1;
                continue;
            }
            query.page_bytes += event.packed().len();
            query.page.push(PageRow { event: event.clone(), matched });
        }
        let thin = (query.page.len() - taken) * 2 < query.scan_rows as usize;
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
            fx.to_home.push((core, ToHome::Counted { query: id, count: query.count }));
            return;
        }
        self.counters.pages += 1;
        self.counters.rows_sent += query.page.len() as u64;
        let rows = std::mem::take(&mut query.page);
        let left_out = query.left_out;
        fx.to_home
            .push((core, ToHome::Page { query: id, page: Page { rows, complete_to, left_out } }));
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
