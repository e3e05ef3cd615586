//! What one author sent, what became of it as far as the client was told, and what therefore must be
//! served.
//!
//! What the client was told stands in a file, written before anything is sent that depends on it; the
//! book is settled from the file. Then what was in flight when the relay was killed is settled by what
//! the relay serves: from then on it counts as stored, or as gone for good.

use anyhow::Context;
use bench::rng::Rng;
use bench::{Draft, Signer};
use proto::nip::nip01::{Slot, Version};
use proto::nip::nip09::{self, Target};
use proto::nip::{nip40, nip62};
use proto::{Event, EventId, EventRef};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Seconds over which the times of events are spread.
const SPREAD_S: u64 = 3_000;
/// An event that expires so soon before or after a look may be served or not.
const EXPIRY_MARGIN_S: u64 = 3;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No answer has come.
    InFlight,
    /// `OK true`, or a subscriber saw it.
    Stored,
    /// `OK false`, or nothing was there after a kill.
    Refused,
    /// `OK true`, because a newer version is stored.
    Superseded,
}

/// An event and what became of it.
#[derive(Debug)]
pub struct Sent {
    /// The event.
    pub event: Event,
    /// What became of it.
    pub fate: Fate,
    /// It may not be stored: its signature is wrong.
    pub is_bad: bool,
}

/// One author's events. Bounded by what the load sends.
#[derive(Debug)]
pub struct Book {
    signer: Signer,
    rng: Rng,
    /// In the order in which they were sent.
    pub sent: Vec<Sent>,
    by_id: BTreeMap<EventId, usize>,
    log: PathBuf,
    /// Bytes of the log that have been read.
    read: usize,
    /// The author asked to vanish: nothing more is sent.
    pub is_closed: bool,
    /// Events before this one have been settled.
    settled: usize,
}

/// What is sent next.
#[derive(Debug)]
pub enum Next {
    /// A new event.
    New(Event),
    /// An event again, and whether it must be accepted.
    Again(Event, bool),
}

impl Book {
    /// An empty book, with a log in a folder.
    pub fn new(seed: u64, folder: &Path) -> Self {
        let signer = Signer::from_seed(seed);
        Self {
            signer,
            rng: Rng::new(seed),
            sent: Vec::new(),
            by_id: BTreeMap::new(),
            log: folder.join(format!("{}.log", signer.pubkey())),
            read: 0,
            is_closed: false,
            settled: 0,
        }
    }

    /// The author.
    pub fn author(&self) -> String {
        self.signer.pubkey().to_hex()
    }

    /// Events before this one have been settled.
    pub fn settled(&self) -> usize {
        self.settled
    }

    /// The file for what the client is told.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_log(&self) -> anyhow::Result<File> {
        Ok(File::options().append(true).create(true).open(&self.log)?)
    }

    /// The next event to send; it counts as sent from here on.
    pub fn next(&mut self, now_s: u64) -> Next {
        let number = self.sent.len();
        let spread_s = self.rng.below(SPREAD_S);
        let draft = |kind: u16| Draft::new(kind, (now_s - spread_s) as u32).tag(&["t", "load"]);
        let bytes = match self.rng.below(30) {
            0 => self.rng.between(5_000, 30_000),
            _ => self.rng.between(1, 900),
        };
        let text = format!("{number} {}", "x".repeat(bytes as usize));
        match self.rng.below(100) {
            0..=7 => {
                let event = self.signer.sign(&draft(1).content(&text));
                let mut parts = event.view().parts();
                parts.sig.0[63] ^= 1;
                let event = parts.pack();
                self.note(event.clone(), true);
                return Next::New(event);
            }
            8..=15 => {
                if let Some(victim) = self.victim() {
                    let draft = Draft::new(5, now_s as u32);
                    return self.sign(&draft.tag(&["e", &victim.to_hex()]));
                }
            }
            16 => {
                let kind = ["a", "b", "c"][self.rng.index(3)];
                let coordinate = format!("30023:{}:{kind}", self.signer.pubkey());
                let until_s = now_s - self.rng.below(SPREAD_S);
                return self.sign(&Draft::new(5, until_s as u32).tag(&["a", &coordinate]));
            }
            17..=24 => {
                let d = ["a", "b", "c", "d"][self.rng.index(4)];
                return self.sign(&draft(30_023).tag(&["d", d]).content(&text));
            }
            25..=29 => {
                let kind = [0, 3, 10_002][self.rng.index(3)];
                return self.sign(&draft(kind).content(&text));
            }
            30..=34 => {
                let expires_s = now_s + self.rng.between(2, 40);
                let draft = draft(1).tag(&["expiration", &expires_s.to_string()]);
                return self.sign(&draft.content(&text));
            }
            35..=37 => {
                if let Some(again) = self.again() {
                    return again;
                }
            }
            38 if self.settled > 0 && self.rng.chance(1, 4) => {
                self.is_closed = true;
                return self.sign(&Draft::new(62, now_s as u32).tag(&["relay", "ALL_RELAYS"]));
            }
            _ => {}
        }
        let kind = if self.rng.chance(1, 5) { 7 } else { 1 };
        self.sign(&draft(kind).content(&text))
    }

    fn sign(&mut self, draft: &Draft) -> Next {
        let event = self.signer.sign(draft);
        if self.by_id.contains_key(&event.view().id()) {
            // The same words in the same second: another second.
            return self.sign(&draft.clone().tag(&["n", &self.sent.len().to_string()]));
        }
        self.note(event.clone(), false);
        Next::New(event)
    }

    fn note(&mut self, event: Event, is_bad: bool) {
        self.by_id.insert(event.view().id(), self.sent.len());
        self.sent.push(Sent { event, fate: Fate::InFlight, is_bad });
    }

    /// A stored event that may be deleted: no version of a slot, because what may take the slot after
    /// it would depend on what was refused before.
    fn victim(&mut self) -> Option<EventId> {
        let reach = self.sent.len().min(400);
        for _ in 0..8 {
            if reach == 0 {
                break;
            }
            let at = self.sent.len() - 1 - self.rng.index(reach);
            let sent = &self.sent[at];
            let event = sent.event.view();
            if sent.fate == Fate::Stored
                && matches!(event.kind(), 1 | 7)
                && !self.sent.iter().any(|other| names(other, &event.id()))
            {
                return Some(event.id());
            }
        }
        None
    }

    /// An event of an earlier life once more: what is stored is accepted, what was deleted is not.
    fn again(&mut self) -> Option<Next> {
        if self.settled == 0 {
            return None;
        }
        let at = self.rng.index(self.settled);
        let sent = &self.sent[at];
        let event = sent.event.view();
        let expires = nip40::expires_at(&event).ok().flatten().is_some();
        if sent.is_bad || !matches!(event.kind(), 1 | 7) || expires || self.is_closed {
            return None;
        }
        let is_deleted = self.sent[..self.settled]
            .iter()
            .any(|other| other.fate == Fate::Stored && names(other, &event.id()));
        // What this life may have deleted answers as it will.
        let is_in_doubt = self.sent[self.settled..].iter().any(|other| names(other, &event.id()));
        match sent.fate {
            _ if is_deleted => Some(Next::Again(sent.event.clone(), false)),
            Fate::Stored if !is_in_doubt => Some(Next::Again(sent.event.clone(), true)),
            _ => None,
        }
    }

    /// A subscriber or a client saw that an event is stored.
    pub fn learn(&mut self, id: &EventId, fate: Fate) {
        if let Some(at) = self.by_id.get(id)
            && self.sent[*at].fate == Fate::InFlight
        {
            self.sent[*at].fate = fate;
        }
    }

    /// Whether an event was sent.
    pub fn find(&self, id: &EventId) -> Option<&Sent> {
        self.by_id.get(id).map(|at| &self.sent[*at])
    }

    /// Reads what the client was told since the last time.
    ///
    /// # Errors
    /// When an answer contradicts itself or what was sent, or the log cannot be read.
    pub fn read_log(&mut self) -> anyhow::Result<Vec<String>> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let mut wrong = Vec::new();
        let news = text[self.read..].to_vec();
        self.read = text.len();
        for line in news.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = String::from_utf8(line.to_vec())?;
            let mut words = line.splitn(3, ' ');
            let id = words.next().and_then(|id| EventId::from_hex(id.as_bytes()));
            let id = id.with_context(|| format!("the log says {line}"))?;
            let (accepted, reason) =
                (words.next() == Some("true"), words.next().unwrap_or_default());
            let Some(at) = self.by_id.get(&id).copied() else {
                wrong.push(format!("OK for {id}, which was never sent"));
                continue;
            };
            let sent = &mut self.sent[at];
            if sent.is_bad && accepted {
                wrong.push(format!("{id} has a wrong signature and was accepted"));
            }
            if !sent.is_bad && !accepted && !is_lawful(reason) {
                wrong.push(format!("{id} is valid and was refused: {reason}"));
            }
            if sent.fate == Fate::Stored && reason.starts_with("rate-limited:") {
                // It was sent again, and the relay had no time to look: it is where it was.
                continue;
            }
            sent.fate = match (accepted, reason.contains("newer version")) {
                (true, true) => Fate::Superseded,
                (true, false) => Fate::Stored,
                (false, _) => Fate::Refused,
            };
        }
        Ok(wrong)
    }

    /// Settles what was in flight by what is served, and says what is wrong with that: `served` are the
    /// events of the author as they came.
    pub fn settle(&mut self, served: &[EventId], now_s: u64) -> Vec<String> {
        for id in served {
            self.learn(id, Fate::Stored);
        }
        for sent in &mut self.sent {
            if sent.fate == Fate::InFlight {
                sent.fate = Fate::Refused;
            }
        }
        self.settled = self.sent.len();
        let expected = self.expected(now_s);
        let mut wrong = Vec::new();
        for (id, certainty) in &expected {
            if *certainty == Certainty::Must && !served.contains(id) {
                wrong.push(format!("{} was acknowledged and is lost", self.describe(id)));
            }
        }
        for id in served {
            match self.find(id) {
                None => wrong.push(format!("{id} was never sent and is served")),
                Some(_) if !expected.contains_key(id) => {
                    wrong.push(format!("{} must be gone and is served", self.describe(id)));
                }
                Some(_) => {}
            }
        }
        wrong
    }

    fn describe(&self, id: &EventId) -> String {
        let Some(sent) = self.find(id) else { return id.to_string() };
        format!("{id} (kind {}, {:?})", sent.event.view().kind(), sent.fate)
    }

    /// What is to be served at a time, in the order of serving.
    pub fn expected(&self, now_s: u64) -> BTreeMap<EventId, Certainty> {
        let mut expected = BTreeMap::new();
        let stored = || self.sent.iter().filter(|sent| sent.fate == Fate::Stored);
        let ends = Ends::of(stored());
        for sent in stored() {
            let event = sent.event.view();
            if ends.cover(&event) {
                continue;
            }
            let certainty = match nip40::expires_at(&event).ok().flatten() {
                Some(expires_s) if expires_s + EXPIRY_MARGIN_S < now_s => continue,
                Some(expires_s) if expires_s <= now_s + EXPIRY_MARGIN_S => Certainty::May,
                _ => Certainty::Must,
            };
            expected.insert(event.id(), certainty);
        }
        expected
    }
}

/// What the stored events of an author end, whatever the order in which they came.
#[derive(Debug, Default)]
struct Ends {
    deleted_ids: BTreeSet<EventId>,
    deleted_slots: BTreeMap<Slot, u32>,
    newest: BTreeMap<Slot, Version>,
    vanished_until: Option<u32>,
}

impl Ends {
    fn of<'a>(stored: impl Iterator<Item = &'a Sent>) -> Self {
        let mut ends = Self::default();
        for sent in stored {
            let event = sent.event.view();
            if event.kind() == nip62::KIND {
                ends.vanished_until = ends.vanished_until.max(Some(event.created_at()));
            }
            if event.kind() == nip09::KIND {
                for target in nip09::targets(&event).unwrap_or_default() {
                    match target {
                        Target::Id(id) => drop(ends.deleted_ids.insert(id)),
                        Target::Slot(slot) => {
                            let until = ends.deleted_slots.entry(slot).or_default();
                            *until = event.created_at().max(*until);
                        }
                    }
                }
            }
            if let Some(slot) = Slot::of(&event) {
                let version = version(&event);
                let newest = ends.newest.entry(slot).or_insert(version);
                if version.beats(newest) {
                    *newest = version;
                }
            }
        }
        ends
    }

    fn cover(&self, event: &EventRef<'_>) -> bool {
        let created_at = event.created_at();
        // A request to vanish spares itself alone.
        if let Some(until) = self.vanished_until
            && (created_at < until || (created_at == until && event.kind() != nip62::KIND))
        {
            return true;
        }
        if self.deleted_ids.contains(&event.id()) && event.kind() != nip09::KIND {
            return true;
        }
        Slot::of(event).is_some_and(|slot| {
            let is_deleted =
                self.deleted_slots.get(&slot).is_some_and(|until| created_at <= *until);
            let newest = self.newest.get(&slot);
            is_deleted || newest.is_some_and(|newest| newest.beats(&version(event)))
        })
    }
}

fn version(event: &EventRef<'_>) -> Version {
    Version { created_at: event.created_at(), id: event.id() }
}

/// Whether an event has to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Yes.
    Must,
    /// It is about to expire, or just has.
    May,
}

/// Whether a deletion names an id.
fn names(sent: &Sent, id: &EventId) -> bool {
    let event = sent.event.view();
    event.kind() == nip09::KIND
        && nip09::targets(&event).unwrap_or_default().contains(&Target::Id(*id))
}

/// Reasons for which a valid event may be refused in this load.
fn is_lawful(reason: &str) -> bool {
    ["was deleted by its author", "asked this relay to vanish", "has expired", "rate-limited:"]
        .iter()
        .any(|part| reason.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const NOW_S: u64 = 1_700_000_000;

    fn book(folder: &Path) -> Book {
        Book::new(1, folder)
    }

    fn send(book: &mut Book, draft: &Draft) -> EventId {
        match book.sign(draft) {
            Next::New(event) | Next::Again(event, _) => event.view().id(),
        }
    }

    fn note(number: u32) -> Draft {
        Draft::new(1, NOW_S as u32).content(&number.to_string())
    }

    fn answer(book: &mut Book, id: &EventId, answer: &str) -> Vec<String> {
        writeln!(book.open_log().unwrap(), "{id} {answer}").unwrap();
        book.read_log().unwrap()
    }

    #[test]
    fn what_was_acknowledged_must_be_served_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path());
        let [kept, refused, here, gone] = [1, 2, 3, 4].map(|number| send(&mut book, &note(number)));
        assert!(answer(&mut book, &kept, "true ").is_empty());
        assert!(
            answer(&mut book, &refused, "false blocked: this event was deleted by its author")
                .is_empty()
        );
        assert!(
            book.settle(&[here, kept], NOW_S).is_empty(),
            "in flight: one is there, one is not"
        );
        assert!(book.settle(&[here, kept], NOW_S).is_empty());
        assert_eq!(book.settle(&[kept], NOW_S).len(), 1, "what was there once may not go");
        assert_eq!(book.settle(&[here, kept, gone], NOW_S).len(), 1, "what was not may not come");
        assert_eq!(book.settle(&[here, kept, refused], NOW_S).len(), 1);
        let stranger = EventId([9; 32]);
        assert_eq!(book.settle(&[here, kept, stranger], NOW_S).len(), 1);
    }

    #[test]
    fn what_is_stored_is_not_gone_because_a_repeat_was_shed() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path());
        let id = send(&mut book, &note(1));
        assert!(answer(&mut book, &id, "true ").is_empty());
        assert!(answer(&mut book, &id, "false rate-limited: store is behind").is_empty());
        assert!(book.settle(&[id], NOW_S).is_empty());
        assert_eq!(book.settle(&[], NOW_S).len(), 1);
    }

    #[test]
    fn what_was_stored_ends_others_whether_it_was_answered_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path());
        let victim = send(&mut book, &note(1));
        let deletion = send(&mut book, &Draft::new(5, NOW_S as u32).tag(&["e", &victim.to_hex()]));
        let older = send(&mut book, &Draft::new(0, 10));
        let newer = send(&mut book, &Draft::new(0, 20));
        for id in [&victim, &older] {
            answer(&mut book, id, "true ");
        }
        // Both were in flight and got through.
        assert_eq!(book.settle(&[deletion, newer, victim, older], NOW_S).len(), 2);
        assert!(book.settle(&[deletion, newer], NOW_S).is_empty());
        let vanish = send(&mut book, &Draft::new(62, NOW_S as u32).tag(&["relay", "ALL_RELAYS"]));
        answer(&mut book, &vanish, "true ");
        assert!(book.settle(&[vanish], NOW_S).is_empty());
    }

    #[test]
    fn in_flight_and_gone_ends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path());
        let victim = send(&mut book, &note(1));
        answer(&mut book, &victim, "true ");
        send(&mut book, &Draft::new(5, NOW_S as u32).tag(&["e", &victim.to_hex()]));
        assert!(book.settle(&[victim], NOW_S).is_empty());
        assert_eq!(book.settle(&[], NOW_S).len(), 1);
    }

    #[test]
    fn answers_that_cannot_be_right_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path());
        let good = send(&mut book, &note(1));
        assert_eq!(answer(&mut book, &good, "false invalid: signature does not verify").len(), 1);
        assert_eq!(answer(&mut book, &EventId([3; 32]), "true ").len(), 1);
        let event = Signer::from_seed(2).sign(&note(2));
        book.note(event.clone(), true);
        assert_eq!(answer(&mut book, &event.view().id(), "true ").len(), 1);
    }

    #[test]
    fn expiry_is_judged_with_a_margin() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path());
        let expires = (NOW_S + 10).to_string();
        let id = send(&mut book, &note(1).tag(&["expiration", &expires]));
        answer(&mut book, &id, "true ");
        assert!(book.settle(&[id], NOW_S).is_empty());
        assert_eq!(book.settle(&[], NOW_S).len(), 1);
        assert!(
            book.settle(&[], NOW_S + 10).is_empty() && book.settle(&[id], NOW_S + 11).is_empty()
        );
        assert_eq!(book.settle(&[id], NOW_S + 20).len(), 1);
    }
}
