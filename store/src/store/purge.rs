//! Requests to vanish: their watermarks, and the removal of what they cover. See [`crate::vanish`].

use super::{Read, Store};
use crate::delta::{Generation, Header, Vanish};
use crate::effect::{
    Answer, IndexRow, LookupKey, Question, Seq, StoreEffect, Token, WalkPage, WalkRequest,
    WorldError,
};
use crate::index::Table;
use crate::key::{author_hash, hash_kind_prefix, tag_hash};
use crate::record::KillCause;
use crate::seam::Sketched;
use crate::vanish::{Active, PURGE_KILLS_MAX, Purge, Purges, Stage, Suspect, Waits};
use proto::nip::nip59::WRAP_KIND;
use proto::{Event, EventRef, Now, PublicKey, SeededState};

/// The removals that a start goes on with: those that the index knows of, with what the log says
/// besides.
pub(super) fn unfinished(indexed: Vec<Purge>, open: &Generation, seed: SeededState) -> Purges {
    let logged = open.vanished().map(|(key, vanish)| Purge { key: *key, vanish });
    let mut purges = Purges::new(indexed.into_iter().chain(logged), seed);
    for (key, until) in open.purged() {
        purges.end(key, until);
    }
    purges
}

impl Store {
    /// Appends the vanishing of a key up to a time to the open batch: from now on decisions refuse
    /// what it covers; readers are kept from it when this is durable; then it is removed.
    pub fn vanish(&mut self, key: PublicKey, until: u32) {
        self.sketch.insert(&Sketched::Key(LookupKey::Vanished(key)));
        let seq = self.log.vanish(&key, until);
        self.pending.vanish(seq, key, until);
        self.purges.append(key, Vanish { until, seq });
        self.stats.vanishes += 1;
    }

    /// Whether readers must not see the event stored as `seq`, although its row is visible: a
    /// durable request to vanish covers it, and its removal has not come to it. To be asked for
    /// every event that is about to be served or counted.
    pub fn hides(&self, seq: Seq, event: &EventRef<'_>) -> bool {
        // The removal may have ended between the page with the row and the body.
        let is_removed = |generation: &Generation| {
            generation.death(seq).is_some_and(|death| death.why == KillCause::Vanished)
        };
        self.purges.covers(seq, event, true)
            || (self.stats.vanished > 0 && self.generations().any(is_removed))
    }

    /// Whether an appended request to vanish covers the event stored as `seq`: it will be hidden
    /// and removed, so nobody may be told any more that it is here.
    pub fn is_vanishing(&self, seq: Seq, event: &EventRef<'_>) -> bool {
        self.purges.covers(seq, event, false)
    }

    /// Whether a removal is under way, so that what is counted without looking at bodies may count
    /// too much.
    pub fn is_purging(&self) -> bool {
        !self.purges.is_empty()
    }

    pub(crate) fn recall_vanished(&self, key: &PublicKey) -> Option<u32> {
        let durable = self.generations().filter_map(|generation| generation.vanished_until(key));
        self.pending.vanished_until(key).max(durable.max())
    }

    pub(crate) fn wraps_vanish_before(&self, key: &PublicKey) -> Option<Seq> {
        self.purges.appended_at(key)
    }

    pub(crate) fn may_vanish(&self, key: &PublicKey) -> bool {
        self.purges.has_room_for(key)
    }

    /// Goes on with the removal at work, or begins the next one, as far as that is possible now.
    pub(super) fn purge(&mut self, now: Now, fx: &mut Vec<StoreEffect>) {
        while !self.purges.is_empty() && self.may_remove() {
            let Some(mut active) = self.purges.take_ready(now.monotonic_ms, self.durable) else {
                return;
            };
            match active.stage.clone() {
                Stage::Memory { after } => self.purge_memory(&mut active, after, fx),
                Stage::Index { wraps, from } => self.ask_for_page(&mut active, wraps, from, fx),
                Stage::Done => {
                    let (key, until) = (active.purge.key, active.purge.vanish.until);
                    let seq = self.log.purged(&key, until);
                    self.pending.purged(seq, key, until);
                    active.waits = Waits::Durable(seq);
                }
            }
            self.purges.put_back(active);
        }
    }

    fn purge_memory(&mut self, active: &mut Active, after: Seq, fx: &mut Vec<StoreEffect>) {
        let suspects = self.suspects_in_memory(active, after);
        match suspects.last() {
            Some(last) => {
                active.stage = Stage::Memory { after: last.seq };
                self.confirm(active, suspects, fx);
            }
            None => active.stage = Stage::Index { wraps: false, from: None },
        }
    }

    /// The oldest events of the delta past `after` that the request covers.
    fn suspects_in_memory(&self, active: &Active, after: Seq) -> Vec<Suspect> {
        let purge = &active.purge;
        let author = author_hash(&self.config.secret, &purge.key);
        let to = wraps_to(self, &purge.key);
        // A key may have made most of what memory holds: only those of one batch are looked at.
        let mut found: Vec<(&Header, bool)> = Vec::new();
        for generation in self.generations() {
            let is_wrap = |header: &Header| {
                header.kind == WRAP_KIND && generation.tags(header).binary_search(&to).is_ok()
            };
            let by_author = generation.of_author(author);
            let by_author = by_author.filter(|header| header.created_at <= purge.vanish.until);
            let to_key = generation.of_tag(to).filter(|header| header.kind == WRAP_KIND);
            let ahead = by_author
                .chain(to_key)
                .filter(|header| after < header.seq && header.seq < purge.vanish.seq);
            found.extend(ahead.map(|header| (header, is_wrap(header))));
        }
        found.sort_unstable_by_key(|(header, _)| header.seq);
        found.dedup_by_key(|(header, _)| header.seq);
        let alive = found.into_iter().filter(|(header, _)| !self.is_dead(header.seq));
        let suspect = |(header, is_wrap): (&Header, bool)| self.suspect(&header.row(), is_wrap);
        alive.take(PURGE_KILLS_MAX).map(suspect).collect()
    }

    fn suspect(&self, row: &IndexRow, is_wrap: bool) -> Suspect {
        Suspect {
            seq: row.seq,
            loc: row.loc,
            id: row.position.id,
            created_at: row.position.created_at,
            is_wrap,
            event: self.hot(row.seq),
        }
    }

    fn ask_for_page(
        &mut self,
        active: &mut Active,
        wraps: bool,
        from: Option<Vec<u8>>,
        fx: &mut Vec<StoreEffect>,
    ) {
        let purge = &active.purge;
        let (table, prefix, until) = if wraps {
            let prefix = hash_kind_prefix(wraps_to(self, &purge.key), WRAP_KIND);
            (Table::Tag, prefix.to_vec(), u32::MAX)
        } else {
            let hash = author_hash(&self.config.secret, &purge.key);
            (Table::Author, hash.to_be_bytes().to_vec(), purge.vanish.until)
        };
        let rows_max = PURGE_KILLS_MAX as u32;
        let question = Question::Walk(WalkRequest { table, prefix, until, from, rows_max });
        let token = self.issue(Read::Purge { pin: self.pin.clone() });
        fx.push(StoreEffect::Ask { token, question });
        active.waits = Waits::Page(token);
    }

    /// A page of the index for the removal at work. The caller holds the pin of its time.
    pub(super) fn purge_page(
        &mut self,
        token: Token,
        answer: Result<Answer, WorldError>,
        now: Now,
        fx: &mut Vec<StoreEffect>,
    ) {
        let Some(mut active) = self.purges.take_waiting(token) else { return };
        let Stage::Index { wraps, .. } = active.stage else { return self.purges.put_back(active) };
        match answer {
            Ok(Answer::Walk(WalkPage { rows, next })) => {
                active.waits = Waits::Nothing;
                active.stage = match next {
                    Some(next) => Stage::Index { wraps, from: Some(next) },
                    None if wraps => Stage::Done,
                    None => Stage::Index { wraps: true, from: None },
                };
                let before = active.purge.vanish.seq;
                let is_open = |row: &&IndexRow| row.seq < before && !self.is_dead(row.seq);
                let suspects = rows.iter().filter(is_open).map(|row| self.suspect(row, wraps));
                let suspects = suspects.collect();
                self.confirm(&mut active, suspects, fx);
            }
            Ok(Answer::Sums(_)) | Err(_) => {
                self.stats.reads_failed += 1;
                let stage = active.stage.clone();
                active.retry(stage, now.monotonic_ms);
            }
        }
        self.purges.put_back(active);
    }

    /// Hashes found the suspects; bodies tell whose they are.
    fn confirm(&mut self, active: &mut Active, suspects: Vec<Suspect>, fx: &mut Vec<StoreEffect>) {
        let cold = suspects.iter().filter(|suspect| suspect.event.is_none());
        let locs: Vec<_> = cold.map(|suspect| suspect.loc).collect();
        if locs.is_empty() {
            return self.remove(active, suspects);
        }
        let pin = self.pin.clone();
        let token = self.issue(Read::Purge { pin: pin.clone() });
        fx.push(StoreEffect::Fetch { token, locs });
        active.waits = Waits::Bodies { token, suspects, pin };
    }

    /// Bodies for the removal at work.
    pub(super) fn purge_bodies(
        &mut self,
        token: Token,
        bodies: Result<Vec<Option<Event>>, WorldError>,
        now: Now,
    ) {
        let Some(mut active) = self.purges.take_waiting(token) else { return };
        let waits = std::mem::replace(&mut active.waits, Waits::Nothing);
        let Waits::Bodies { mut suspects, pin, .. } = waits else {
            active.waits = waits;
            return self.purges.put_back(active);
        };
        match bodies {
            Ok(bodies) => {
                let cold = suspects.iter_mut().filter(|suspect| suspect.event.is_none());
                cold.zip(bodies).for_each(|(suspect, body)| suspect.event = body);
                if !self.is_closing {
                    self.remove(&mut active, suspects);
                }
            }
            Err(_) => {
                // The whole removal begins anew: what it removed already costs it nothing.
                self.stats.reads_failed += 1;
                active.retry(Stage::Memory { after: 0 }, now.monotonic_ms);
            }
        }
        drop(pin);
        self.purges.put_back(active);
    }

    /// Ends what the request covers. An event whose body is damaged was found by the hash of the
    /// key and can be served to nobody; it goes too, unless it may be the request itself.
    fn remove(&mut self, active: &mut Active, suspects: Vec<Suspect>) {
        let purge = active.purge;
        let before = self.appended();
        for suspect in suspects {
            let (is_covered, is_wrap) = match &suspect.event {
                Some(event) => {
                    let event = event.view();
                    let is_wrap = purge.covers_recipient(suspect.seq, &event);
                    (is_wrap || purge.covers(suspect.seq, &event), is_wrap)
                }
                None => {
                    let is_request = suspect.created_at == purge.vanish.until;
                    (suspect.is_wrap || !is_request, suspect.is_wrap)
                }
            };
            if !is_covered || self.is_dead(suspect.seq) {
                continue;
            }
            self.kill(suspect.seq, KillCause::Vanished);
            if is_wrap && !self.remembers_mark(&suspect.id, &purge.key) {
                self.mark_id(suspect.id, purge.key);
            }
        }
        if self.appended() > before {
            active.waits = Waits::Durable(self.appended());
        }
    }
}

/// The hash of a tag that names `key`.
fn wraps_to(store: &Store, key: &PublicKey) -> u64 {
    tag_hash(&store.config.secret, b'p', key.to_hex().as_bytes())
}
