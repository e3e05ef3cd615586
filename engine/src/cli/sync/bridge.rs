//! Reconciliation of two relays that both only answer: what the one says is handed on to the other.
//!
//! A session's answering end keeps nothing between two messages, and what it says is what an asking
//! end would: fingerprints or ids of ranges of its set. So the relay on this machine is asked about
//! everything, its ranges go to the relay elsewhere, those of its answer come back here, and so on
//! until neither has more to say. Nobody reads a set that is equal on both sides, and this command
//! holds no set at all.
//!
//! **What it does not know:** sockets, hex, subscriptions, filters.

use proto::EventId;
use proto::nip::nip77::{Bound, Fingerprint, Mode, NegError, Range, message, ranges};
use std::collections::BTreeSet;

/// Ranges that wait for either end. An answer of usual size has a few thousand.
const RANGES_MAX: usize = 1_000_000;

/// Why a reconciliation ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BridgeError {
    /// A message cannot be read.
    #[error("its answer cannot be read: {0}")]
    Malformed(#[from] NegError),
    /// An end says more and more.
    #[error("it answers with more and more ranges, and comes to no end")]
    Endless,
}

/// What is said about a range.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Fingerprint(Fingerprint),
    Ids(Vec<[u8; 32]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    lower: Bound,
    upper: Bound,
    said: Said,
}

impl Owned {
    fn of(range: &Range<'_>) -> Option<Self> {
        let said = match range.mode {
            Mode::Skip => return None,
            Mode::Fingerprint(fingerprint) => Said::Fingerprint(fingerprint),
            Mode::Ids(ids) => Said::Ids(ids.to_vec()),
        };
        Some(Self { lower: range.lower, upper: range.upper, said })
    }

    fn range(&self) -> Range<'_> {
        let mode = match &self.said {
            Said::Fingerprint(fingerprint) => Mode::Fingerprint(*fingerprint),
            Said::Ids(ids) => Mode::Ids(ids),
        };
        Range { lower: self.lower, upper: self.upper, mode }
    }

    fn is_fingerprint(&self) -> bool {
        matches!(self.said, Said::Fingerprint(_))
    }
}

/// Ranges that wait to be told, ascending and disjoint.
#[derive(Debug, Default)]
struct Waiting(Vec<Owned>);

impl Waiting {
    /// Adds what an answer says. The fingerprint that a full answer ends with is about everything
    /// behind it, and what comes of it takes the place of what waits.
    fn add(&mut self, said: Vec<Owned>) -> Result<(), BridgeError> {
        self.0.retain(|waiting| {
            let next = said.partition_point(|new| new.upper <= waiting.lower);
            said.get(next).is_none_or(|new| waiting.upper <= new.lower)
        });
        self.0.extend(said);
        self.0.sort_by_key(|range| range.lower);
        if self.0.len() > RANGES_MAX { Err(BridgeError::Endless) } else { Ok(()) }
    }

    /// The next message, and what it says.
    fn take(&mut self, bytes_max: usize) -> Option<(Vec<u8>, Vec<Owned>)> {
        if self.0.is_empty() {
            return None;
        }
        let ranges: Vec<Range<'_>> = self.0.iter().map(Owned::range).collect();
        let (bytes, taken) = message(&ranges, bytes_max);
        let rest = self.0.split_off(taken);
        Some((bytes, std::mem::replace(&mut self.0, rest)))
    }
}

/// One reconciliation under way. Owned by the command; bounded by [`RANGES_MAX`] and two messages.
#[derive(Debug, Default)]
pub(super) struct Bridge {
    for_there: Waiting,
    for_here: Waiting,
    /// What the message that waits for its answer said.
    told_there: Vec<Owned>,
    told_here: Vec<Owned>,
    is_begun: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The relay on this machine is to be told this.
    TellHere(Vec<u8>),
    /// The other one is to be told this.
    TellThere(Vec<u8>),
    /// Everything is known.
    Done,
}

/// Ids that only one end listed where the other one listed its own. An id that is told as lacking
/// here may be here all the same: an answer that was full did not come to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    pub(super) have: Vec<EventId>,
    pub(super) need: Vec<EventId>,
}

impl Bridge {
    /// The next message; to be asked when the last one has its answer.
    pub(super) fn next(&mut self, here_bytes_max: usize, there_bytes_max: usize) -> Next {
        if !self.is_begun {
            // No set has this fingerprint, so everything is told.
            self.is_begun = true;
            let mode = Mode::Fingerprint(Fingerprint([0; 16]));
            let all = Range { lower: Bound::START, upper: Bound::INFINITY, mode };
            return Next::TellHere(message(&[all], here_bytes_max).0);
        }
        if let Some((bytes, told)) = self.for_here.take(here_bytes_max) {
            self.told_here = told;
            return Next::TellHere(bytes);
        }
        if let Some((bytes, told)) = self.for_there.take(there_bytes_max) {
            self.told_there = told;
            return Next::TellThere(bytes);
        }
        Next::Done
    }

    /// The last message to the relay elsewhere has no answer, because its session ended; it is told
    /// once more.
    pub(super) fn again_there(&mut self) -> Result<(), BridgeError> {
        let told = std::mem::take(&mut self.told_there);
        self.for_there.add(told)
    }

    /// The same for the relay on this machine; what it was told first is told anew, too.
    pub(super) fn again_here(&mut self) -> Result<(), BridgeError> {
        if self.told_here.is_empty() {
            self.is_begun = false;
        }
        let told = std::mem::take(&mut self.told_here);
        self.for_here.add(told)
    }

    /// The relay elsewhere answers.
    pub(super) fn hear_there(&mut self, answer: &[u8]) -> Result<(), BridgeError> {
        self.told_there.clear();
        self.for_here.add(said(answer)?)
    }

    /// The relay on this machine answers.
    pub(super) fn hear_here(&mut self, answer: &[u8]) -> Result<Differences, BridgeError> {
        let told = std::mem::take(&mut self.told_here);
        let mut differences = Differences::default();
        let (lists, rest): (Vec<Owned>, Vec<Owned>) =
            said(answer)?.into_iter().partition(|ours| answers_a_list(ours, &told));
        let ours: BTreeSet<[u8; 32]> = lists.iter().flat_map(ids).copied().collect();
        for theirs in told.iter().filter(|theirs| !theirs.is_fingerprint()) {
            let is_left = |ours: &Owned| ours.lower <= theirs.lower && theirs.lower < ours.upper;
            // What a full answer did not come to is told again by the other end.
            if rest.iter().any(|ours| ours.is_fingerprint() && is_left(ours)) {
                continue;
            }
            let listed: BTreeSet<[u8; 32]> = ids(theirs).iter().copied().collect();
            differences.need.extend(listed.difference(&ours).map(|id| EventId(*id)));
            let inside = |ours: &&Owned| theirs.lower <= ours.lower && ours.upper <= theirs.upper;
            let only_here = lists.iter().filter(inside).flat_map(ids);
            let only_here = only_here.filter(|id| !listed.contains(*id));
            differences.have.extend(only_here.map(|id| EventId(*id)));
        }
        self.for_there.add(rest)?;
        Ok(differences)
    }
}

/// Whether `ours` is a list within a range that the other end listed.
fn answers_a_list(ours: &Owned, told: &[Owned]) -> bool {
    let holds = |theirs: &Owned| theirs.lower <= ours.lower && ours.upper <= theirs.upper;
    !ours.is_fingerprint() && told.iter().any(|theirs| !theirs.is_fingerprint() && holds(theirs))
}

fn ids(range: &Owned) -> &[[u8; 32]] {
    match &range.said {
        Said::Ids(ids) => ids,
        Said::Fingerprint(_) => &[],
    }
}

/// What an answer says; ranges that say nothing are left out.
fn said(answer: &[u8]) -> Result<Vec<Owned>, BridgeError> {
    let mut said = Vec::new();
    for range in ranges(answer)? {
        let range = range?;
        // An empty range says nothing, whatever it says.
        said.extend(Owned::of(&range).filter(|_| range.lower < range.upper));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::nip::nip77::{Answer, Item, SortedItems, respond};

    fn item(number: u32) -> Item {
        // Fingerprints are sums: ids that lie on a line would add up to the same by chance.
        let mut mixed = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(mixed ^ (mixed >> 29)).to_be_bytes());
        id[8..12].copy_from_slice(&number.to_be_bytes());
        // Several a second, and stretches with nothing.
        Item { created_at: number / 7 + number / 1_000 * 50_000, id: EventId(id) }
    }

    fn answer(set: &SortedItems, message: &[u8], bytes_max: usize) -> Vec<u8> {
        match respond(set, message, bytes_max).unwrap() {
            Answer::Message(bytes) => bytes,
            Answer::NeedItems(spans) => panic!("everything is loaded: {spans:?}"),
        }
    }

    /// What two sets find out, and in how many messages to the one elsewhere.
    fn run(
        here: &[u32],
        there: &[u32],
        bytes_max: usize,
    ) -> (BTreeSet<EventId>, BTreeSet<EventId>, u32) {
        let set = |numbers: &[u32]| SortedItems::new(numbers.iter().copied().map(item).collect());
        let (ours, theirs) = (set(here), set(there));
        let (mut have, mut need, mut rounds) = (BTreeSet::new(), BTreeSet::new(), 0);
        let mut bridge = Bridge::default();
        loop {
            match bridge.next(bytes_max, bytes_max) {
                Next::TellHere(message) => {
                    let found = bridge.hear_here(&answer(&ours, &message, bytes_max)).unwrap();
                    have.extend(found.have);
                    need.extend(found.need);
                }
                Next::TellThere(message) => {
                    assert!(message.len() <= bytes_max + 4_096, "{}", message.len());
                    rounds += 1;
                    assert!(rounds < 10_000, "no end");
                    bridge.hear_there(&answer(&theirs, &message, bytes_max)).unwrap();
                }
                Next::Done => break,
            }
        }
        for known in here {
            // Told as lacking while an answer was full; whoever asks looks it up.
            need.remove(&item(*known).id);
        }
        (have, need, rounds)
    }

    #[test]
    fn every_difference_is_found_whatever_the_frames_hold() {
        let all: Vec<u32> = (0..20_000).collect();
        let but = |divisor: u32, rest: u32| -> Vec<u32> {
            all.iter().copied().filter(|n| n % divisor != rest).collect()
        };
        let sets = [
            (all.clone(), all.clone()),
            (vec![], all.clone()),
            (all.clone(), vec![]),
            (vec![], vec![]),
            (but(97, 3), but(89, 5)),
            (but(2, 0), but(2, 1)),
            (all[..9_000].to_vec(), all[3_000..].to_vec()),
            (vec![5], vec![19_999]),
        ];
        for (here, there) in &sets {
            let only = |ours: &[u32], theirs: &[u32]| -> BTreeSet<EventId> {
                let theirs: BTreeSet<u32> = theirs.iter().copied().collect();
                let ours = ours.iter().filter(|n| !theirs.contains(n));
                ours.map(|n| item(*n).id).collect()
            };
            for bytes_max in [2_048, 8_192, 60_000] {
                let (have, need, rounds) = run(here, there, bytes_max);
                let sizes = (here.len(), there.len(), bytes_max);
                assert_eq!(have, only(here, there), "{sizes:?}");
                assert_eq!(need, only(there, here), "{sizes:?}");
                if here == there {
                    assert!(rounds <= 1, "equal sets take one message: {rounds}");
                }
            }
        }
    }

    #[test]
    fn a_message_without_an_answer_is_told_again() {
        let mut bridge = Bridge::default();
        let Next::TellHere(hello) = bridge.next(4_096, 4_096) else { panic!() };
        bridge.again_here().unwrap();
        assert_eq!(bridge.next(4_096, 4_096), Next::TellHere(hello.clone()));
        let set = SortedItems::new((0..100).map(item).collect());
        bridge.hear_here(&answer(&set, &hello, 4_096)).unwrap();
        let Next::TellThere(first) = bridge.next(4_096, 4_096) else { panic!() };
        bridge.again_there().unwrap();
        assert_eq!(bridge.next(4_096, 4_096), Next::TellThere(first));
        assert!(matches!(bridge.hear_there(b"junk"), Err(BridgeError::Malformed(_))));
        assert!(matches!(bridge.hear_there(&[]), Err(BridgeError::Malformed(NegError::Empty))));
    }
}
