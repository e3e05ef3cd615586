//! The workload: a seed becomes a list of steps, the same for the process that performs them and for
//! the one that judges what is left of them.
//!
//! An entry is one event handed in; a step is a few entries that are acknowledged together. Times are
//! virtual, so that events expire where the seed says and not where the machine is slow.

use bench::rng::Rng;
use bench::{Draft, Signer};
use proto::nip::nip59;
use proto::{Event, EventId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Virtual unix second at which every plan begins.
pub const BEGIN_S: u64 = 1_700_000_000;
/// Keys that write.
const AUTHORS: u64 = 6;
/// Events of one step at most.
const STEP_EVENTS_MAX: u64 = 6;

/// What is handed in and acknowledged together.
#[derive(Clone, Debug)]
pub struct Step {
    /// The virtual unix second.
    pub unix_s: u64,
    /// Which entries; each step begins where the one before ends.
    pub entries: Range<usize>,
    /// The store is asked for a compaction after the step.
    pub compacts: bool,
}

/// A whole workload. Bounded by the number of steps asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every event, signed.
    pub events: Vec<Event>,
    /// What is handed in, as indexes into `events`: some come more than once.
    pub entries: Vec<usize>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// What is drawn from while a plan is made.
struct Maker {
    rng: Rng,
    signers: Vec<Signer>,
    events: Vec<Event>,
    by_id: BTreeMap<EventId, usize>,
    entries: Vec<usize>,
    /// Who signed each event.
    authors: Vec<usize>,
    /// Whether an event may be handed in again: one that expires may not, because a store that has
    /// removed it does not know it any more.
    repeatable: Vec<bool>,
    unix_s: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, steps: usize) -> Self {
        let signers = (0..AUTHORS).map(|author| Signer::from_seed(seed ^ (author << 32))).collect();
        let mut maker = Maker {
            rng: Rng::new(seed),
            signers,
            events: Vec::new(),
            by_id: BTreeMap::new(),
            entries: Vec::new(),
            authors: Vec::new(),
            repeatable: Vec::new(),
            unix_s: BEGIN_S,
        };
        let steps = (0..steps).map(|number| maker.step(number)).collect();
        Self { events: maker.events, entries: maker.entries, steps }
    }

    /// The virtual time when the first `entries` entries have been handed in.
    pub fn unix_s(&self, entries: usize) -> u64 {
        let at = self.steps.partition_point(|step| step.entries.start < entries);
        at.checked_sub(1).map_or(BEGIN_S, |last| self.steps[last].unix_s)
    }

    /// The first step that is not over after so many entries.
    pub fn step_after(&self, entries: usize) -> usize {
        self.steps.partition_point(|step| step.entries.end <= entries)
    }
}

impl Maker {
    fn step(&mut self, number: usize) -> Step {
        self.unix_s += match self.rng.below(12) {
            0 => self.rng.between(30, 90),
            _ => self.rng.between(1, 6),
        };
        let compacts = number > 10 && self.rng.chance(1, 40);
        // A key that vanishes does so in a step of its own: with several shards, its parts may become
        // durable one without the other.
        if number > 20 && self.rng.chance(1, 45) {
            let author = self.rng.index(self.signers.len());
            let draft = self.draft(62).tag(&["relay", "ALL_RELAYS"]);
            let request = self.sign(author, &draft, true);
            return self.close_step(vec![request], compacts);
        }
        let count = self.rng.between(1, STEP_EVENTS_MAX);
        let events = (0..count).map(|_| self.event()).collect();
        self.close_step(events, compacts)
    }

    fn close_step(&mut self, events: Vec<usize>, compacts: bool) -> Step {
        let start = self.entries.len();
        self.entries.extend(events);
        Step { unix_s: self.unix_s, entries: start..self.entries.len(), compacts }
    }

    fn draft(&self, kind: u16) -> Draft {
        Draft::new(kind, self.unix_s as u32)
    }

    /// A time that may lie before what is stored already.
    fn shaken(&mut self, kind: u16) -> Draft {
        let back_s = if self.rng.chance(1, 3) { self.rng.between(1, 40) } else { 0 };
        Draft::new(kind, (self.unix_s - back_s) as u32)
    }

    /// The same words of the same author in the same second are the same event.
    fn sign(&mut self, author: usize, draft: &Draft, repeatable: bool) -> usize {
        let event = self.signers[author].sign(draft);
        if let Some(at) = self.by_id.get(&event.view().id()) {
            return *at;
        }
        self.by_id.insert(event.view().id(), self.events.len());
        self.events.push(event);
        self.authors.push(author);
        self.repeatable.push(repeatable);
        self.events.len() - 1
    }

    /// Now and then long enough to span pages.
    fn text(&mut self) -> String {
        let bytes = match self.rng.below(20) {
            0 => self.rng.between(3_000, 7_000),
            1..=4 => self.rng.between(400, 1_200),
            _ => self.rng.between(0, 200),
        };
        let letter = char::from(b'a' + self.rng.below(26) as u8);
        let number = self.events.len();
        format!("{number} {}", String::from(letter).repeat(bytes as usize))
    }

    fn event(&mut self) -> usize {
        let author = self.rng.index(self.signers.len());
        let text = self.text();
        match self.rng.below(100) {
            0..=9 => {
                let kind = *self.rng.pick(&[0, 3, 10_002]);
                let draft = self.shaken(kind).content(&text);
                self.sign(author, &draft, true)
            }
            10..=21 => {
                let d = *self.rng.pick(&["a", "b", "c"]);
                let draft = self.shaken(30_023).tag(&["d", d]).content(&text);
                self.sign(author, &draft, true)
            }
            22..=31 => self.deletion_by_id(author),
            32..=35 => {
                let d = *self.rng.pick(&["a", "b", "c"]);
                let coordinate = format!("30023:{}:{d}", self.signers[author].pubkey());
                let draft = self.draft(5).tag(&["a", &coordinate]);
                self.sign(author, &draft, true)
            }
            36..=42 => {
                let to = self.rng.index(self.signers.len());
                let recipient = self.signers[to].pubkey().to_hex();
                let draft = self.shaken(1059).tag(&["p", &recipient]).content(&text);
                self.sign(author, &draft, true)
            }
            43..=49 => {
                let expires_s = self.unix_s + self.rng.between(2, 120);
                let draft = self.draft(1).tag(&["expiration", &expires_s.to_string()]);
                self.sign(author, &draft.content(&text), false)
            }
            50..=55 => self.repetition(author, &text),
            _ => {
                let topic = *self.rng.pick(&["rust", "lightning", "noise"]);
                let draft = self.draft(1).tag(&["t", topic]).content(&text);
                self.sign(author, &draft, true)
            }
        }
    }

    /// Deletes up to three events, mostly of the author's own.
    fn deletion_by_id(&mut self, author: usize) -> usize {
        let mut draft = self.draft(5);
        let mut named = 0;
        for _ in 0..self.rng.between(3, 12) {
            if self.events.is_empty() || named == 3 {
                break;
            }
            // Recent events are mostly in memory, old ones in the index.
            let reach =
                if self.rng.chance(1, 2) { self.events.len().min(20) } else { self.events.len() };
            let victim = self.events.len() - 1 - self.rng.index(reach);
            // A wrap lives with its recipient, whose shard alone knows who deleted it.
            let is_wrap = nip59::is_wrap(self.events[victim].view().kind());
            if !is_wrap && (self.authors[victim] == author || self.rng.chance(1, 10)) {
                draft.push_tag(&["e", &self.events[victim].view().id().to_hex()]);
                named += 1;
            }
        }
        if named == 0 {
            // A request has to name something; this names nobody's event.
            draft.push_tag(&["e", &"ab".repeat(32)]);
        }
        self.sign(author, &draft, true)
    }

    /// An event that was handed in before.
    fn repetition(&mut self, author: usize, text: &str) -> usize {
        for _ in 0..4 {
            if self.events.is_empty() {
                break;
            }
            let again = self.rng.index(self.events.len());
            if self.repeatable[again] {
                return again;
            }
        }
        let draft = self.draft(1).content(text);
        self.sign(author, &draft, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_draws_every_kind() {
        let (one, two) = (Plan::new(7, 200), Plan::new(7, 200));
        assert_eq!(one.events, two.events);
        assert_ne!(one.events, Plan::new(8, 200).events);
        let kinds: std::collections::BTreeSet<u16> =
            one.events.iter().map(|event| event.view().kind()).collect();
        for kind in [0, 1, 5, 62, 1059, 30_023] {
            assert!(kinds.contains(&kind), "{kind}");
        }
        assert!(one.steps.windows(2).all(|pair| pair[0].unix_s < pair[1].unix_s));
        assert!(one.steps.iter().any(|step| step.compacts));
        assert!(one.entries.len() > one.events.len(), "some events come twice");
        assert!(one.steps.windows(2).all(|pair| pair[0].entries.end == pair[1].entries.start));
        let third = &one.steps[2];
        assert_eq!(one.unix_s(third.entries.start), one.steps[1].unix_s);
        assert_eq!(one.unix_s(third.entries.start + 1), third.unix_s);
        assert_eq!((one.unix_s(0), one.step_after(0)), (BEGIN_S, 0));
        assert_eq!(one.step_after(third.entries.end), 3);
        assert_eq!(one.step_after(third.entries.end - 1), 2);
    }
}
