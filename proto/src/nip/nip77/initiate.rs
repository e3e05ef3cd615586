//! The asking end.

use super::respond::split;
use super::wire::Writer;
use super::{Item, ItemSet, Mode, NegError, SortedItems, ranges};
use crate::EventId;

/// One end of a reconciliation, which asks and learns the differences. Owned by whoever syncs;
/// holds its set and nothing else.
#[derive(Clone, Debug)]
pub struct Initiator {
    items: SortedItems,
    frame_bytes_max: usize,
}

/// What one answer of the other end told. An id may be told in more than one of them: where a message
/// was full, the next one goes over a part of the way again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Ids that only this end has.
    pub have: Vec<EventId>,
    /// Ids that only the other end has.
    pub need: Vec<EventId>,
    /// The next message; `None` when everything is known.
    pub message: Option<Vec<u8>>,
}

impl Initiator {
    /// An end with `items` whose messages have at most `frame_bytes_max` bytes (but see
    /// [`super::FRAME_BYTES_MIN`]).
    pub fn new(items: SortedItems, frame_bytes_max: usize) -> Self {
        Self { items, frame_bytes_max }
    }

    /// The first message.
    pub fn initiate(&self) -> Vec<u8> {
        let mut writer = Writer::new(self.frame_bytes_max);
        let all = 0..self.items.len();
        split(&self.items, all, &super::Bound::INFINITY, &mut writer, &mut Vec::new());
        writer.finish()
    }

    /// Takes an answer. The number of rounds is the caller's to limit: an end that lies can go on
    /// for ever.
    ///
    /// # Errors
    /// [`NegError`] if the answer is malformed or of another version.
    pub fn step(&self, answer: &[u8]) -> Result<Step, NegError> {
        let mut step = Step::default();
        let mut writer = Writer::new(self.frame_bytes_max);
        let mut lower = 0;
        for range in ranges(answer)? {
            let range = range?;
            // All items are here, so there is always a position.
            let upper = self.items.lower_bound(&range.upper).map_or(lower, |at| at.max(lower));
            match range.mode {
                Mode::Ids(theirs) => {
                    compare(&self.items.items()[lower..upper], theirs, &mut step);
                    writer.skip(&range.upper);
                }
                Mode::Fingerprint(theirs)
                    if self.items.sum(lower..upper).fingerprint() != theirs =>
                {
                    let mark = writer.mark();
                    split(&self.items, lower..upper, &range.upper, &mut writer, &mut Vec::new());
                    if !writer.has_room() {
                        // What the other end says about the rest is heard when it says it again.
                        writer.go_back(&mark);
                        let rest = self.items.sum(lower..self.items.len());
                        writer.remainder(rest.fingerprint());
                        break;
                    }
                }
                Mode::Skip | Mode::Fingerprint(_) => writer.skip(&range.upper),
            }
            lower = upper;
        }
        if !writer.says_nothing() {
            step.message = Some(writer.finish());
        }
        Ok(step)
    }
}

/// Adds what only one of two sets has. The other end may list its ids in any order and more than
/// once.
fn compare(ours: &[Item], theirs: &[[u8; 32]], step: &mut Step) {
    let mut theirs: Vec<EventId> = theirs.iter().map(|id| EventId(*id)).collect();
    theirs.sort_unstable();
    theirs.dedup();
    let mut ours: Vec<EventId> = ours.iter().map(|item| item.id).collect();
    ours.sort_unstable();
    let lacks = |set: &[EventId], id: &EventId| set.binary_search(id).is_err();
    step.have.extend(ours.iter().filter(|id| lacks(&theirs, id)));
    step.need.extend(theirs.iter().filter(|id| lacks(&ours, id)));
}
