//! [`Store`]: one shard's store as a state machine.

use crate::delta::Generation;
use crate::effect::{
    Checkpoint, IndexRow, Loc, LookupKey, ScanRequest, Seq, StoreEffect, StoreInput, Token,
    WorldError,
};
use crate::key::{EventKeys, SKETCHED_BIT};
use crate::log::{Log, LogStart};
use crate::page::{self, Visibility};
use crate::record::KillCause;
use crate::recovery::Recovered;
use crate::seam::Sketched;
use crate::sketch::Sketch;
use crate::sums::membership;
use crate::vanish::{Purge, Purges};
use crate::view::{Answers, Holder, Known, Pin, Retired, View};
use pending::Pending;
use proto::nip::nip01::{Slot, SlotKey};
use proto::{Event, EventId, Now, PublicKey, Secret, SeededMap};
use std::collections::VecDeque;
use std::sync::Arc;

mod config;
mod hot;
mod output;
mod pending;
mod purge;
mod rewriting;
mod space;
mod sums;
mod upkeep;

pub use config::StoreConfig;
pub use output::{Row, StoreOutput, StoreStats};
pub use rewriting::CompactionProgress;

/// Expired events that one batch removes at most.
const EXPIRY_KILLS_MAX: u32 = 256;
/// Pause between two looks for expired events when the last one found none.
const EXPIRY_INTERVAL_MS: u64 = 10_000;

/// A read that has not been answered.
#[derive(Debug)]
enum Read {
    Scan { horizon: Seq, pin: Pin },
    Lookup { pin: Pin },
    Fetch { pin: Pin },
    Expired { pin: Pin },
    Purge { pin: Pin },
    Sums { set: u8, horizon: Seq, pin: Pin },
}

/// One shard's store. Owned by the shard's core; bounded by the sum of its configuration's bounds
/// plus the bodies of what is appended and not yet durable.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    log: Log,
    durable: Seq,
    /// What the index is known to hold.
    applied: Seq,
    pending: Pending,
    open: Generation,
    /// When the open generation got its first record.
    open_since_ms: Option<u64>,
    frozen: Option<Arc<Generation>>,
    /// Oldest first; see [`crate::view`].
    retired: VecDeque<Retired>,
    /// Held by every read that is issued until the next checkpoint completes.
    pin: Pin,
    /// Of the bodies handed on last: whoever asked for them asks now what has become of their rows.
    handed_on: Option<Pin>,
    sketch: Sketch,
    hot: hot::Hot,
    reads: SeededMap<Token, Read>,
    last_token: Token,
    expiry: Expiry,
    rewriting: rewriting::Rewriting,
    purges: Purges,
    space: space::Space,
    upkeep: upkeep::Upkeep,
    is_closing: bool,
    stats: StoreStats,
}

/// Where the removal of expired events stands.
#[derive(Debug, Default)]
struct Expiry {
    is_asked: bool,
    after: Option<(u64, Seq)>,
    next_ms: u64,
}

impl Store {
    /// The store that recovery found; `sketch` covers what the index holds, `purges` are the
    /// removals that have not ended as far as the index knows.
    pub fn open(
        config: StoreConfig,
        recovered: Recovered,
        mut sketch: Sketch,
        purges: Vec<Purge>,
        now: Now,
        fx: &mut Vec<StoreEffect>,
    ) -> Self {
        let open = recovered.generation;
        for header in open.headers() {
            sketch.insert(&Sketched::Id(header.id));
            for tag in open.tags(header).iter().filter(|tag| **tag & SKETCHED_BIT != 0) {
                sketch.insert(&Sketched::Tag(*tag));
            }
            if let Some(slot) = header.slot {
                sketch.insert(&Sketched::Key(LookupKey::Slot(slot)));
            }
        }
        for (id, by) in open.marked_ids() {
            sketch.insert(&Sketched::Key(LookupKey::DeletedId(*id, *by)));
        }
        for (slot, _) in open.marked_slots() {
            sketch.insert(&Sketched::Key(LookupKey::DeletedSlot(*slot)));
        }
        for (key, _) in open.vanished() {
            sketch.insert(&Sketched::Key(LookupKey::Vanished(*key)));
        }
        let log = Log::new(LogStart {
            shard: config.shard,
            epoch: recovered.epoch,
            last_seq: open.last_seq(),
            segment_bytes_max: config.segment_bytes_max,
        });
        let mut store = Self {
            durable: open.last_seq(),
            applied: open.first_seq() - 1,
            pending: Pending::new(config.seed),
            open_since_ms: (!open.is_empty()).then_some(now.monotonic_ms),
            frozen: None,
            retired: VecDeque::new(),
            handed_on: None,
            pin: Pin::default(),
            sketch,
            hot: hot::Hot::new(config.hot_bytes_max),
            reads: SeededMap::with_hasher(config.seed),
            last_token: 0,
            expiry: Expiry::default(),
            rewriting: rewriting::Rewriting::default(),
            purges: purge::unfinished(purges, &open, config.seed),
            space: space::Space::default(),
            upkeep: upkeep::Upkeep::default(),
            is_closing: false,
            stats: StoreStats { torn_bytes: recovered.torn_bytes, ..StoreStats::default() },
            open,
            log,
            config,
        };
        store.advance(now, fx);
        store
    }

    /// Readers see sequences up to this one.
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// The last sequence given out.
    pub fn appended(&self) -> Seq {
        self.log.appended()
    }

    /// The secret that keys the index; [`crate::plan`] needs it.
    pub fn secret(&self) -> &Secret {
        &self.config.secret
    }

    // --- decisions ------------------------------------------------------------------------------

    /// The keys that memory cannot answer for certain: look these up before deciding.
    pub fn unanswered(&self, keys: impl IntoIterator<Item = LookupKey>) -> Vec<LookupKey> {
        keys.into_iter().filter(|key| !self.memory_answers(key)).collect()
    }

    fn memory_answers(&self, key: &LookupKey) -> bool {
        // Retired generations do not count: a pin taken now does not keep them.
        let mut current = self.frozen.as_deref().into_iter().chain(Some(&self.open));
        let is_remembered = match key {
            LookupKey::Id(id) => {
                self.pending.find_id(id).is_some() || current.any(|have| have.find_id(id).is_some())
            }
            LookupKey::Slot(slot) => {
                self.pending.find_slot(slot).is_some()
                    || current.any(|have| have.find_slot(slot).is_some())
            }
            LookupKey::DeletedId(id, by) => {
                self.pending.marked_id(id, by) || current.any(|have| have.marked_id(id, by))
            }
            // A greater time may stand in the index, so memory alone is no answer.
            LookupKey::DeletedSlot(_) | LookupKey::Vanished(_) => false,
        };
        is_remembered || !self.sketch.may_know(key)
    }

    /// Answers without a question, for a decision that memory can make alone.
    pub fn memory_only(&self) -> Answers {
        Answers::new(Vec::new(), self.pin.clone())
    }

    /// Asks the index, for each key once. Answer: [`StoreOutput::Looked`].
    pub fn lookup(&mut self, mut keys: Vec<LookupKey>, fx: &mut Vec<StoreEffect>) -> Token {
        // The candidates of a batch often ask about the same slot or the same deleted event.
        keys.sort_unstable();
        keys.dedup();
        let token = self.issue(Read::Lookup { pin: self.pin.clone() });
        fx.push(StoreEffect::Lookup { token, keys });
        token
    }

    /// All that is known now: memory over the index's answers.
    pub fn view<'a>(&'a self, answers: &'a Answers) -> View<'a> {
        View { store: self, answers }
    }

    /// Generations from the newest to the oldest.
    fn generations(&self) -> impl DoubleEndedIterator<Item = &Generation> {
        let retired = self.retired.iter().filter_map(|retired| retired.generation.as_deref());
        retired.chain(self.frozen.as_deref()).chain(Some(&self.open)).rev()
    }

    /// Whether `seq` was killed, as far as memory knows: by a durable record or a pending one.
    pub fn is_dead(&self, seq: Seq) -> bool {
        self.pending.is_dead(seq) || self.generations().any(|generation| generation.killed(seq))
    }

    /// Whether readers see `seq`: it is durable, and no durable record killed it as far as memory
    /// knows. For events that just became durable that is exact.
    pub fn is_visible(&self, seq: Seq) -> bool {
        seq <= self.durable && !self.generations().any(|generation| generation.killed(seq))
    }

    /// What memory says about an id: `None` if nothing, `Some(None)` if the event is gone.
    pub(crate) fn recall_id(&self, id: &EventId) -> Option<Option<Known>> {
        if let Some((seq, event)) = self.pending.find_id(id) {
            let created_at = event.view().created_at();
            let event = Some(event.clone());
            let known = Known { seq, durable: false, created_at, loc: None, event };
            return Some((!self.is_dead(seq)).then_some(known));
        }
        let header = self.generations().find_map(|generation| generation.find_id(id))?;
        Some((!self.is_dead(header.seq)).then(|| Known {
            seq: header.seq,
            durable: true,
            created_at: header.created_at,
            loc: Some(header.loc),
            event: self.hot(header.seq),
        }))
    }

    /// What memory says about a slot: `None` if nothing, `Some(None)` if it is empty.
    pub(crate) fn recall_slot(&self, slot: SlotKey) -> Option<Option<Holder>> {
        let holder = self.pending.find_slot(&slot).or_else(|| {
            let header = self.generations().find_map(|generation| generation.find_slot(&slot))?;
            Some(Holder { version: header.version(), seq: header.seq })
        })?;
        Some((!self.is_dead(holder.seq)).then_some(holder))
    }

    pub(crate) fn remembers_mark(&self, id: &EventId, by: &PublicKey) -> bool {
        self.pending.marked_id(id, by)
            || self.generations().any(|generation| generation.marked_id(id, by))
    }

    pub(crate) fn recall_slot_mark(&self, slot: SlotKey) -> Option<u32> {
        let durable = self.generations().filter_map(|generation| generation.marked_slot(&slot));
        self.pending.marked_slot(&slot).max(durable.max())
    }

    pub(crate) fn hot(&self, seq: Seq) -> Option<Event> {
        self.hot.find(seq)
    }

    // --- effects of a decision --------------------------------------------------------------------

    /// Appends an event to the open batch; `flags` are of [`Loc::LOG_FLAGS`].
    pub fn put(&mut self, event: Event, flags: u8) -> Seq {
        let flags = flags & Loc::LOG_FLAGS;
        let keys = EventKeys::of(&event.view(), &self.config.secret);
        self.sketch.insert(&Sketched::Id(keys.id));
        for tag in keys.tags.iter().filter(|tag| **tag & SKETCHED_BIT != 0) {
            self.sketch.insert(&Sketched::Tag(*tag));
        }
        if let Some(slot) = keys.slot {
            self.sketch.insert(&Sketched::Key(LookupKey::Slot(slot)));
        }
        let (seq, at) = self.log.put(&event, flags);
        let sets = membership(&self.config.sync_filters, &event.view());
        self.pending.put(seq, event, flags | sets, at, keys);
        self.stats.puts += 1;
        seq
    }

    /// Appends the end of a stored or appended event to the open batch.
    pub fn kill(&mut self, victim: Seq, why: KillCause) {
        assert!(victim <= self.appended(), "only what was given a sequence can be killed");
        let seq = self.log.kill(victim, why);
        self.pending.kill(seq, victim, why);
        match why {
            KillCause::Replaced => self.stats.replaced += 1,
            KillCause::Deleted => self.stats.deleted += 1,
            KillCause::Expired => self.stats.expired += 1,
            KillCause::Operator => self.stats.removed += 1,
            KillCause::Vanished => self.stats.vanished += 1,
        }
    }

    /// Appends the deletion of an id by a key to the open batch.
    pub fn mark_id(&mut self, id: EventId, by: PublicKey) {
        self.sketch.insert(&Sketched::Key(LookupKey::DeletedId(id, by)));
        let seq = self.log.mark_id(&id, &by);
        self.pending.mark_id(seq, id, by);
    }

    /// Appends the deletion of a slot up to a time to the open batch.
    pub fn mark_slot(&mut self, slot: Slot, until: u32) {
        let key = slot.key(&self.config.secret);
        self.sketch.insert(&Sketched::Key(LookupKey::DeletedSlot(key)));
        let seq = self.log.mark_slot(&slot, until);
        self.pending.mark_slot(seq, key, until);
    }

    /// Sends the open batch to the log if none is in flight; what arrives meanwhile follows by
    /// itself.
    pub fn flush(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        self.handed_on = None;
        self.log.flush(fx);
        self.advance(now, fx);
    }

    /// Whether writes may be admitted; if not they are refused and reading goes on.
    pub fn has_room(&self) -> bool {
        !self.space.is_low() && self.may_remove()
    }

    /// Whether removals that nobody waits for may go on: past the high-water mark they are what
    /// makes room, and small.
    fn may_remove(&self) -> bool {
        !self.is_closing
            && !self.space.is_waiting()
            && self.delta_bytes() + self.pending.bytes_held() < self.config.delta_bytes_max
            && self.log.batch_bytes() < self.config.batch_bytes_max
    }

    /// Events appended and not yet durable.
    pub fn pending_events(&self) -> usize {
        self.pending.events()
    }

    /// Whether nothing is appended that is not durable, and no batch is in flight.
    pub fn is_idle(&self) -> bool {
        self.durable == self.appended() && !self.log.is_in_flight()
    }

    // --- reads ------------------------------------------------------------------------------------

    fn issue(&mut self, read: Read) -> Token {
        self.last_token += 1;
        self.reads.insert(self.last_token, read);
        self.last_token
    }

    /// Reads a page of rows that are visible at `horizon`. Answer: [`StoreOutput::Rows`].
    pub fn scan(&mut self, request: ScanRequest, horizon: Seq, fx: &mut Vec<StoreEffect>) -> Token {
        let token = self.issue(Read::Scan { horizon, pin: self.pin.clone() });
        fx.push(StoreEffect::Scan { token, request });
        token
    }

    /// Reads the bodies of rows. Answer: [`StoreOutput::Fetched`], in the order of `rows`. A row
    /// that carries its body needs no fetch.
    pub fn fetch(&mut self, rows: &[Row], fx: &mut Vec<StoreEffect>) -> Token {
        self.fetch_locs(rows.iter().map(|row| row.loc).collect(), fx)
    }

    /// Reads bodies by place. Answer: [`StoreOutput::Fetched`].
    pub fn fetch_locs(&mut self, locs: Vec<Loc>, fx: &mut Vec<StoreEffect>) -> Token {
        let token = self.issue(Read::Fetch { pin: self.pin.clone() });
        fx.push(StoreEffect::Fetch { token, locs });
        token
    }

    /// Whether an event with this id may be stored here; "no" is certain.
    pub fn may_have_id(&self, id: &EventId) -> bool {
        self.sketch.may_have_id(id)
    }

    /// Whether an event with this tag may be stored here; "no" is certain.
    pub fn may_have_tag(&self, letter: u8, value: &[u8]) -> bool {
        self.sketch.may_have_tag(letter, value)
    }

    // --- time and the world -----------------------------------------------------------------------

    /// Takes one answer of the world. What is in `out` has to be looked at before anything else is
    /// asked of the store: until then memory knows what has become of it.
    pub fn step(
        &mut self,
        now: Now,
        input: StoreInput,
        fx: &mut Vec<StoreEffect>,
        out: &mut Vec<StoreOutput>,
    ) {
        self.handed_on = None;
        match input {
            StoreInput::SegmentCreated { segment } => {
                self.space.found_room_for_log();
                self.log.created(segment);
            }
            StoreInput::SegmentSealed { segment } => {
                self.space.found_room_for_log();
                self.log.sealed(segment);
            }
            StoreInput::LogDurable { through } => self.became_durable(through, now, out),
            StoreInput::Checkpointed { applied } => self.checkpointed(applied),
            StoreInput::UpkeepDone(done) => self.upkeep_done(done, now),
            StoreInput::Surveyed(survey) => self.surveyed(survey),
            StoreInput::Rewritten(outcome) => self.rewritten(outcome, now),
            StoreInput::Unlinked => self.unlinked(),
            StoreInput::NoSpace(unwritten) => self.found_no_room(unwritten, now),
            StoreInput::Failed(error) => out.push(StoreOutput::Fatal(error)),
            StoreInput::Scanned { token, request, page } => {
                let Some(Read::Scan { horizon, pin }) = self.reads.remove(&token) else { return };
                let answer = page.map(|page| self.rows(token, &request, page, horizon, now));
                self.answer(token, answer, out);
                drop(pin);
            }
            StoreInput::Looked { token, keys, found } => {
                let Some(Read::Lookup { pin }) = self.reads.remove(&token) else { return };
                let answer = found.map(|found| {
                    let found = keys.into_iter().zip(found).collect();
                    StoreOutput::Looked { token, answers: Answers::new(found, pin) }
                });
                self.answer(token, answer, out);
            }
            StoreInput::Fetched { token, bodies } => match self.reads.remove(&token) {
                Some(Read::Purge { pin }) => {
                    self.purge_bodies(token, bodies, now);
                    drop(pin);
                }
                Some(Read::Fetch { pin }) => {
                    let answer = bodies.map(|bodies| StoreOutput::Fetched { token, bodies });
                    self.answer(token, answer, out);
                    self.handed_on = Some(pin);
                }
                _ => return,
            },
            StoreInput::Answered { token, answer } => {
                let Some(read) = self.reads.remove(&token) else { return };
                self.answered(token, read, answer, now, fx, out);
            }
            StoreInput::Expired { token, rows } => {
                let Some(Read::Expired { pin }) = self.reads.remove(&token) else { return };
                self.remove_expired(rows, now);
                drop(pin);
            }
        }
        self.purge(now, fx);
        self.log.flush(fx);
        self.advance(now, fx);
    }

    fn answer(
        &mut self,
        token: Token,
        answer: Result<StoreOutput, WorldError>,
        out: &mut Vec<StoreOutput>,
    ) {
        out.push(answer.unwrap_or_else(|error| {
            self.stats.reads_failed += 1;
            StoreOutput::Failed { token, error }
        }));
    }

    fn rows(
        &self,
        token: Token,
        request: &ScanRequest,
        page: crate::effect::IndexPage,
        horizon: Seq,
        now: Now,
    ) -> StoreOutput {
        let mut generations: Vec<&Generation> = self.generations().collect();
        generations.reverse();
        let horizon = horizon.min(self.durable);
        let visibility = Visibility { horizon, unix_s: now.unix_s };
        let merged = page::merge(request, page, &generations, visibility);
        let with_body = |row: IndexRow| Row {
            position: row.position,
            seq: row.seq,
            loc: row.loc,
            event: self.hot(row.seq),
        };
        StoreOutput::Rows {
            token,
            rows: merged.rows.into_iter().map(with_body).collect(),
            complete_to: merged.complete_to,
            scanned: merged.scanned,
        }
    }

    fn became_durable(&mut self, through: Seq, now: Now, out: &mut Vec<StoreOutput>) {
        let framed = self.log.durable(through);
        self.space.found_room_for_log();
        if self.open.is_empty() {
            self.open_since_ms = Some(now.monotonic_ms);
        }
        let (puts, bytes) =
            self.pending.settle(framed, &mut self.open, &mut self.hot, &mut self.purges);
        self.stats.batches += 1;
        self.stats.log_bytes += bytes;
        self.durable = through;
        out.push(StoreOutput::Durable { through, puts });
    }

    fn checkpointed(&mut self, applied: Seq) {
        let generation = self.frozen.take().expect("a checkpoint is asked for before it is done");
        assert_eq!(generation.last_seq(), applied, "a checkpoint applies its whole generation");
        self.applied = applied;
        self.stats.checkpoints += 1;
        self.space.found_room_for_checkpoint();
        let pin = std::mem::take(&mut self.pin);
        self.retired.push_back(Retired { generation: Some(generation), pin });
        self.rewriting.forget_survey();
        self.upkeep.want();
        self.expiry.after = None;
    }

    fn remove_expired(&mut self, rows: Result<Vec<IndexRow>, WorldError>, now: Now) {
        self.expiry.is_asked = false;
        let Ok(rows) = rows else {
            // Expired events stay hidden; the next look comes after the pause.
            self.stats.reads_failed += 1;
            self.expiry.next_ms = now.monotonic_ms + EXPIRY_INTERVAL_MS;
            return;
        };
        if let Some(last) = rows.last() {
            self.expiry.after = Some((last.loc.expires_at, last.seq));
        }
        if rows.len() < EXPIRY_KILLS_MAX as usize {
            self.expiry.next_ms = now.monotonic_ms + EXPIRY_INTERVAL_MS;
        }
        if self.is_closing {
            return;
        }
        for row in rows {
            if row.loc.is_expired(now.unix_s) && !self.is_dead(row.seq) {
                self.kill(row.seq, KillCause::Expired);
            }
        }
    }

    /// Starts what time has made due: a checkpoint by age, the removal of expired events.
    pub fn tick(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        self.handed_on = None;
        let is_due = now.monotonic_ms >= self.expiry.next_ms;
        if is_due && !self.expiry.is_asked && self.may_remove() {
            self.expiry.is_asked = true;
            let token = self.issue(Read::Expired { pin: self.pin.clone() });
            fx.push(StoreEffect::Expired {
                token,
                unix_s: now.unix_s,
                after: self.expiry.after,
                rows_max: EXPIRY_KILLS_MAX,
            });
        }
        self.retry_for_room(now, fx);
        self.purge(now, fx);
        self.tick_rewriting(now);
        self.log.flush(fx);
        self.advance(now, fx);
    }

    /// Begins the end: no more writes, a last checkpoint, the open segment sealed. Feed and tick
    /// the store until [`Store::is_closed`].
    pub fn shutdown(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        self.handed_on = None;
        self.is_closing = true;
        self.log.flush(fx);
        self.advance(now, fx);
    }

    /// Whether [`Store::shutdown`] is complete.
    pub fn is_closed(&self) -> bool {
        self.is_closing
            && self.is_idle()
            && self.is_written_down()
            && self.log.is_closed()
            && !self.rewriting.is_under_way()
            && !self.upkeep.is_under_way()
    }

    /// Whether the index has everything, or cannot have it because the disk is full: then the log
    /// has it.
    fn is_written_down(&self) -> bool {
        let is_applied = self.open.is_empty() && self.frozen.is_none();
        is_applied || self.space.defers_checkpoint()
    }

    /// Frees generations that no answer in flight needs.
    fn free_retired(&mut self) {
        while self.retired.front().is_some_and(|retired| retired.pin.is_unique()) {
            self.retired.pop_front();
        }
    }

    /// Frees what nobody can need, starts a due checkpoint, ends a closing store.
    fn advance(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        self.free_retired();
        let is_free =
            self.frozen.is_none() && !self.rewriting.is_writing() && !self.upkeep.is_under_way();
        if is_free && self.checkpoint_is_due(now) {
            self.open.freeze(now.unix_s);
            let successor = self.open.successor();
            let generation = Arc::new(std::mem::replace(&mut self.open, successor));
            self.open_since_ms = None;
            self.frozen = Some(generation.clone());
            fx.push(StoreEffect::Checkpoint(Checkpoint { generation }));
        }
        self.advance_rewriting(now, fx);
        self.advance_upkeep(now, fx);
        if self.is_closing && self.is_idle() && self.is_written_down() {
            self.log.close(fx);
        }
    }

    fn checkpoint_is_due(&self, now: Now) -> bool {
        let Some(since_ms) = self.open_since_ms else { return false };
        self.open.records() >= self.config.checkpoint_events as u64
            || self.open.bytes_held() >= self.config.delta_bytes_max / 2
            || now.monotonic_ms.saturating_sub(since_ms) >= self.config.checkpoint_after_ms
            || (self.is_closing && self.is_idle())
            || self.open.first_seq() <= self.rewriting.wanted_through()
    }

    // --- gauges -------------------------------------------------------------------------------------

    fn delta_bytes(&self) -> usize {
        self.generations().map(Generation::bytes_held).sum()
    }

    /// Bytes that the store holds in memory.
    pub fn bytes_held(&self) -> usize {
        self.delta_bytes()
            + self.pending.bytes_held()
            + self.log.batch_bytes()
            + self.hot.bytes_held()
            + self.sketch.bytes_held()
    }

    /// Counters and gauges as of now.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            delta_bytes: self.delta_bytes(),
            delta_events: self.generations().map(Generation::events).sum(),
            purges: self.purges.len(),
            hot_bytes: self.hot.bytes_held(),
            sketch_bytes: self.sketch.bytes_held(),
            appended: self.appended(),
            durable: self.durable,
            applied: self.applied,
            ..self.stats
        }
    }
}
