//! Events on their way between the two relays: what is here already is looked up before it is asked
//! for, and both ends have a bounded number of events and questions without an answer.
//!
//! **What it does not know:** sockets and clocks. It is given messages, and says what to send.

use super::messages::{event_message, prefix, req_ids};
use proto::nip::nip17::is_private;
use proto::parse::parse_event;
use proto::{EventId, Limits, Reason};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Ids of one REQ: no relay answers more than its limit, and few have one below this.
const BATCH_IDS: usize = 100;
/// REQs under way at either end, for each purpose.
const QUESTIONS_MAX: usize = 2;
/// Events under way to this machine.
const IMPORTS_MAX: usize = 512;
/// Events under way to the relay elsewhere.
const UPLOADS_MAX: usize = 64;
/// Events that wait to be sent.
const QUEUE_MAX: usize = 256;
/// Bytes of a message that no relay hangs up for.
const HARMLESS_BYTES: usize = 32 << 10;
/// Reasons that are counted apart; a peer writes them.
const REASONS_MAX: usize = 32;
/// First and longest pause after `rate-limited:`, and how many in a row are borne.
const PAUSE_MS: (u64, u64) = (500, 30_000);
const PAUSES_MAX: u32 = 12;

/// What has become of the differences.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Events that only this machine has.
    pub(super) have: u64,
    /// Events that only the relay elsewhere has.
    pub(super) need: u64,
    pub(super) downloaded: u64,
    pub(super) uploaded: u64,
    /// Taken as known, or as older than what replaced them.
    pub(super) known: u64,
    /// Told about by the relay elsewhere, and not given when asked for.
    pub(super) withheld: u64,
    /// Not asked for.
    pub(super) unasked: u64,
    pub(super) refused_here: BTreeMap<String, u64>,
    pub(super) refused_there: BTreeMap<String, u64>,
    /// Messages of reconciliation to the relay elsewhere.
    pub(super) rounds: u64,
    pub(super) sessions: u64,
}

fn count(reasons: &mut BTreeMap<String, u64>, why: &str) {
    let mut why = prefix(why);
    if reasons.len() >= REASONS_MAX && !reasons.contains_key(&why) {
        why = "other".to_owned();
    }
    *reasons.entry(why).or_default() += 1;
}

/// Which way events go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    pub(super) up: bool,
    pub(super) down: bool,
}

/// A message for one of the two ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Send {
    Here(String),
    There(String),
}

/// What makes it senseless to go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TransferError {
    #[error("the store on this machine is full; make room, and the same command goes on from here")]
    Full,
    #[error("the relay on this machine ends; the same command goes on from here")]
    Ending,
    #[error("the relay elsewhere wants to know who asks ({0}); name a key with --auth-key-file")]
    Locked(String),
    #[error("the relay on this machine does not answer a question: {0}")]
    Here(String),
    #[error("the relay elsewhere goes on refusing, and the events are not through: {0}")]
    Refused(String),
}

/// A pause that an end asked for.
#[derive(Debug, Default)]
struct Pause {
    until_ms: u64,
    in_a_row: u32,
}

impl Pause {
    fn begin(&mut self, now_ms: u64, why: &str) -> Result<(), TransferError> {
        if now_ms < self.until_ms {
            return Ok(()); // One of those that were under way already.
        }
        self.in_a_row += 1;
        if self.in_a_row > PAUSES_MAX {
            return Err(TransferError::Refused(why.chars().take(200).collect()));
        }
        let doubled = PAUSE_MS.0.saturating_mul(1 << self.in_a_row.min(16));
        self.until_ms = now_ms + doubled.min(PAUSE_MS.1);
        Ok(())
    }
}

#[derive(Debug)]
struct Lookup {
    ids: BTreeSet<EventId>,
    is_upload: bool,
}

/// All events under way. Owned by the command: two ids of 32 bytes for every difference, and the
/// events that the constants above allow.
#[derive(Debug)]
pub(super) struct Transfer {
    ways: Ways,
    limits: Limits,
    pub(super) tally: Tally,
    /// Ids that were told; they may be told twice.
    told: BTreeSet<EventId>,
    /// Told as lacking here, not yet looked up.
    need: VecDeque<EventId>,
    /// Only here, not yet read.
    have: VecDeque<EventId>,
    /// Looked up, and not here.
    wanted: VecDeque<EventId>,
    lookups: BTreeMap<String, Lookup>,
    requests: BTreeMap<String, BTreeSet<EventId>>,
    imports: VecDeque<(EventId, String)>,
    importing: BTreeMap<EventId, String>,
    uploads: VecDeque<(EventId, String)>,
    uploading: BTreeMap<EventId, String>,
    pause_here: Pause,
    pause_there: Pause,
    /// Names of questions are never used twice, so that nothing late is taken for an answer.
    questions: u64,
    /// Lines of `--print-missing`.
    pub(super) missing: Vec<String>,
    sends: Vec<Send>,
}

impl Transfer {
    pub(super) fn new(ways: Ways, limits: Limits) -> Self {
        Self {
            ways,
            limits,
            tally: Tally::default(),
            told: BTreeSet::new(),
            need: VecDeque::new(),
            have: VecDeque::new(),
            wanted: VecDeque::new(),
            lookups: BTreeMap::new(),
            requests: BTreeMap::new(),
            imports: VecDeque::new(),
            importing: BTreeMap::new(),
            uploads: VecDeque::new(),
            uploading: BTreeMap::new(),
            pause_here: Pause::default(),
            pause_there: Pause::default(),
            questions: 0,
            missing: Vec::new(),
            sends: Vec::new(),
        }
    }

    /// Takes ids of which only this machine has the events, and ids that it may lack.
    pub(super) fn tell(&mut self, have: &[EventId], need: &[EventId]) {
        for id in have.iter().filter(|id| self.told.insert(**id)) {
            self.tally.have += 1;
            self.missing.push(format!("have,{}", id.to_hex()));
            if self.ways.up {
                self.have.push_back(*id);
            }
        }
        self.need.extend(need.iter().filter(|id| self.told.insert(**id)));
    }

    /// What waits to be begun.
    pub(super) fn backlog(&self) -> usize {
        self.need.len() + self.have.len() + self.wanted.len()
    }

    /// Whether everything has its outcome.
    pub(super) fn is_done(&self) -> bool {
        self.backlog() == 0 && self.lookups.is_empty() && !self.has_events_under_way()
    }

    /// Whether events are under way to either end, or asked for.
    pub(super) fn has_events_under_way(&self) -> bool {
        let sent = [self.importing.len(), self.uploading.len(), self.requests.len()];
        let waiting = [self.imports.len(), self.uploads.len()];
        sent.iter().chain(&waiting).any(|count| *count > 0)
    }

    /// Whether an answer of the relay elsewhere is due.
    pub(super) fn waits_for_there(&self, now_ms: u64) -> bool {
        (!self.requests.is_empty() || !self.uploading.is_empty())
            && now_ms >= self.pause_there.until_ms
    }

    /// Whether one of the relay on this machine is.
    pub(super) fn waits_for_here(&self, now_ms: u64) -> bool {
        (!self.lookups.is_empty() || !self.importing.is_empty())
            && now_ms >= self.pause_here.until_ms
    }

    /// The connection to the relay elsewhere is a new one: what had no answer on the old one is asked
    /// and sent again, but not the longest event if it is long, because relays hang up on what is
    /// too long for them.
    pub(super) fn reconnected(&mut self) {
        for ids in std::mem::take(&mut self.requests).into_values() {
            self.wanted.extend(ids);
        }
        let mut uploading = std::mem::take(&mut self.uploading);
        let longest = uploading.iter().max_by_key(|(_, message)| message.len());
        if let Some((id, _)) = longest.filter(|(_, message)| message.len() > HARMLESS_BYTES) {
            let id = *id;
            uploading.remove(&id);
            count(&mut self.tally.refused_there, "too long for it: it hung up");
        }
        uploading.into_iter().for_each(|sent| self.uploads.push_front(sent));
        self.pause_there = Pause::default();
    }

    /// No more is begun than what was read already: the command is to end.
    pub(super) fn wind_down(&mut self) {
        self.need.clear();
        self.have.clear();
        self.wanted.clear();
    }

    /// Begins what there is room for; returns what to send.
    pub(super) fn go_on(&mut self, now_ms: u64) -> Vec<Send> {
        let looking = |transfer: &Self, is_upload| {
            transfer.lookups.values().filter(|lookup| lookup.is_upload == is_upload).count()
        };
        while looking(self, false) < QUESTIONS_MAX
            && !self.need.is_empty()
            && self.wanted.len() < QUEUE_MAX
        {
            let ids = take_batch(&mut self.need);
            self.look_up(ids, false);
        }
        while looking(self, true) < QUESTIONS_MAX
            && !self.have.is_empty()
            && self.uploads.len() < QUEUE_MAX
        {
            let ids = take_batch(&mut self.have);
            self.look_up(ids, true);
        }
        if now_ms >= self.pause_there.until_ms {
            self.ask_there();
        }
        if now_ms >= self.pause_here.until_ms {
            while let Some((id, message)) = self.imports.pop_front() {
                self.sends.push(Send::Here(message.clone()));
                self.importing.insert(id, message);
            }
        }
        std::mem::take(&mut self.sends)
    }

    fn look_up(&mut self, ids: BTreeSet<EventId>, is_upload: bool) {
        let sub = self.next_name("look");
        self.sends.push(Send::Here(req_ids(&sub, ids.iter())));
        self.lookups.insert(sub, Lookup { ids, is_upload });
    }

    fn ask_there(&mut self) {
        while self.requests.len() < QUESTIONS_MAX
            && !self.wanted.is_empty()
            && self.importing.len() + self.imports.len() < IMPORTS_MAX
        {
            let ids = take_batch(&mut self.wanted);
            let sub = self.next_name("get");
            self.sends.push(Send::There(req_ids(&sub, ids.iter())));
            self.requests.insert(sub, ids);
        }
        while self.uploading.len() < UPLOADS_MAX
            && let Some((id, message)) = self.uploads.pop_front()
        {
            self.sends.push(Send::There(message.clone()));
            self.uploading.insert(id, message);
        }
    }

    fn next_name(&mut self, what: &str) -> String {
        self.questions += 1;
        format!("{what}-{}", self.questions)
    }

    /// An event of the relay on this machine.
    pub(super) fn event_here(&mut self, sub: &str, json: &str) {
        let Some(lookup) = self.lookups.get_mut(sub) else { return };
        let Ok(event) = parse_event(json.as_bytes(), &self.limits) else { return };
        let id = event.view().id();
        // What is private is nobody's business elsewhere, whoever lists it.
        if lookup.ids.remove(&id) && lookup.is_upload && !is_private(event.view().kind()) {
            self.uploads.push_back((id, event_message(json)));
        }
    }

    /// A question to the relay on this machine is answered.
    pub(super) fn eose_here(&mut self, sub: &str) {
        let Some(lookup) = self.lookups.remove(sub) else { return };
        self.sends.push(Send::Here(json!(["CLOSE", sub]).to_string()));
        if lookup.is_upload {
            return; // What has gone meanwhile, by a deletion or its own end, is not missing.
        }
        self.tally.need += lookup.ids.len() as u64;
        self.missing.extend(lookup.ids.iter().map(|id| format!("need,{}", id.to_hex())));
        if self.ways.down {
            self.wanted.extend(lookup.ids);
        }
    }

    /// A question to the relay on this machine is not answered.
    pub(super) fn closed_here(&mut self, sub: &str, why: &str) -> Result<(), TransferError> {
        match self.lookups.contains_key(sub) {
            true => Err(TransferError::Here(why.to_owned())),
            false => Ok(()),
        }
    }

    /// The relay on this machine has a verdict.
    pub(super) fn ok_here(
        &mut self,
        now_ms: u64,
        (id, is_taken, why): (EventId, bool, &str),
    ) -> Result<(), TransferError> {
        let Some(message) = self.importing.remove(&id) else { return Ok(()) };
        let reason = Reason::ALL.iter().copied().find(|reason| reason.message() == why);
        match reason {
            Some(Reason::StorageFull) => return Err(TransferError::Full),
            Some(Reason::ShuttingDown) => return Err(TransferError::Ending),
            Some(Reason::StoreBehind | Reason::VanishBusy) => {
                self.imports.push_back((id, message));
                return self.pause_here.begin(now_ms, why);
            }
            _ => self.pause_here.in_a_row = 0,
        }
        if !is_taken {
            count(&mut self.tally.refused_here, why);
        } else if why.starts_with("duplicate:") {
            self.tally.known += 1;
        } else {
            self.tally.downloaded += 1;
        }
        Ok(())
    }

    /// An event of the relay elsewhere.
    pub(super) fn event_there(&mut self, sub: &str, json: &str) {
        let Some(asked) = self.requests.get_mut(sub) else { return };
        match parse_event(json.as_bytes(), &self.limits) {
            Ok(event) if asked.remove(&event.view().id()) => {
                self.imports.push_back((event.view().id(), event_message(json)));
            }
            Ok(_) => self.tally.unasked += 1,
            Err(error) => {
                let was_asked = error.id.is_some_and(|id| asked.remove(&id));
                if was_asked {
                    count(&mut self.tally.refused_here, error.reason.message());
                } else {
                    self.tally.unasked += 1;
                }
            }
        }
    }

    /// A question to the relay elsewhere is answered.
    pub(super) fn eose_there(&mut self, sub: &str) {
        let Some(asked) = self.requests.remove(sub) else { return };
        self.pause_there.in_a_row = 0;
        self.tally.withheld += asked.len() as u64;
        self.sends.push(Send::There(json!(["CLOSE", sub]).to_string()));
    }

    /// A question to the relay elsewhere is not answered.
    pub(super) fn closed_there(
        &mut self,
        now_ms: u64,
        sub: &str,
        why: &str,
    ) -> Result<(), TransferError> {
        let Some(asked) = self.requests.remove(sub) else { return Ok(()) };
        match prefix(why).as_str() {
            "rate-limited" => {
                self.wanted.extend(asked);
                self.pause_there.begin(now_ms, why)
            }
            "auth-required" => Err(TransferError::Locked(why.to_owned())),
            _ => {
                self.tally.withheld += asked.len() as u64;
                count(&mut self.tally.refused_there, why);
                Ok(())
            }
        }
    }

    /// The relay elsewhere has a verdict.
    pub(super) fn ok_there(
        &mut self,
        now_ms: u64,
        (id, is_taken, why): (EventId, bool, &str),
    ) -> Result<(), TransferError> {
        let Some(message) = self.uploading.remove(&id) else { return Ok(()) };
        match (is_taken, prefix(why).as_str()) {
            (false, "rate-limited") => {
                self.uploads.push_front((id, message));
                return self.pause_there.begin(now_ms, why);
            }
            (_, "duplicate") => self.tally.known += 1,
            (true, _) => self.tally.uploaded += 1,
            (false, _) => count(&mut self.tally.refused_there, why),
        }
        self.pause_there.in_a_row = 0;
        Ok(())
    }
}

fn take_batch(ids: &mut VecDeque<EventId>) -> BTreeSet<EventId> {
    ids.drain(..ids.len().min(BATCH_IDS)).collect()
}
