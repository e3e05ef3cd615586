//! The answering end, and the split that both ends share.

use super::wire::Writer;
use super::{Bound, ItemSet, LISTED_ITEMS_MAX, Mode, NegError, PARTS, Span, VERSION, ranges};
use std::ops::Range;

/// What [`respond`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message to send.
    Message(Vec<u8>),
    /// The items of these spans have to be loaded, then [`respond`] is asked again; no span is named
    /// twice while its items stay. In ascending order, disjoint, never empty.
    NeedItems(Vec<Span>),
}

/// Answers one message of an initiator, in at most `frame_bytes_max` bytes (but see
/// [`super::FRAME_BYTES_MIN`]). What does not fit is left for the next round, as a fingerprint.
///
/// A message of another version is answered with the version that is spoken here.
///
/// # Errors
/// [`NegError`] if the message is malformed.
pub fn respond<S: ItemSet>(
    set: &S,
    message: &[u8],
    frame_bytes_max: usize,
) -> Result<Answer, NegError> {
    let ranges = match ranges(message) {
        Err(NegError::OtherVersion(_)) => return Ok(Answer::Message(vec![VERSION])),
        ranges => ranges?,
    };
    let mut responder = Responder { set, writer: Writer::new(frame_bytes_max), needs: Vec::new() };
    // Position of the next range's lower end; `None` while nobody needed it, or as long as the items
    // around it are not loaded.
    let mut lower = Some(0);
    let mut is_full = false;
    for range in ranges {
        // The rest of the message is checked though there is no room to answer it.
        let range = range?;
        if is_full {
            continue;
        }
        if range.mode == Mode::Skip {
            responder.writer.skip(&range.upper);
            lower = None;
            continue;
        }
        let start = lower.or_else(|| responder.find(&range.lower));
        lower = responder.find(&range.upper);
        if let (Some(start), Some(end)) = (start, lower) {
            is_full = !responder.answer(&range, start..end.max(start));
        }
    }
    Ok(responder.finish())
}

struct Responder<'a, S> {
    set: &'a S,
    writer: Writer,
    needs: Vec<Span>,
}

impl<S: ItemSet> Responder<'_, S> {
    fn find(&mut self, bound: &Bound) -> Option<usize> {
        match self.set.lower_bound(bound) {
            Ok(position) => Some(position),
            Err(span) => {
                self.needs.push(span);
                None
            }
        }
    }

    /// Answers a range that covers `positions`. `false` if that filled the message.
    fn answer(&mut self, range: &super::Range<'_>, positions: Range<usize>) -> bool {
        let start = positions.start;
        let mark = self.writer.mark();
        let listed_to = match range.mode {
            Mode::Fingerprint(theirs)
                if self.set.sum(positions.clone()).fingerprint() != theirs =>
            {
                split(self.set, positions.clone(), &range.upper, &mut self.writer, &mut self.needs);
                positions.end
            }
            Mode::Ids(_) => self.list(&range.upper, positions.clone()),
            Mode::Skip | Mode::Fingerprint(_) => {
                self.writer.skip(&range.upper);
                positions.end
            }
        };
        if !self.writer.has_room() {
            self.writer.go_back(&mark);
            self.remainder(start);
            return false;
        }
        if listed_to < positions.end {
            self.remainder(listed_to);
            return false;
        }
        true
    }

    /// Writes all ids at `positions`, or as many as fit; says up to where.
    fn list(&mut self, upper: &Bound, positions: Range<usize>) -> usize {
        let Range { start, end } = positions;
        let listed_to = end.min(start + self.writer.ids_max());
        let needed = self.needs.len();
        self.set.unloaded(start..listed_to, &mut self.needs);
        let is_known = self.needs.len() == needed;
        if is_known && (listed_to > start || end == start) {
            let upper = if listed_to < end { self.set.bound_at(listed_to) } else { *upper };
            self.writer.ids(&upper, listed_to - start, |out| {
                self.set.write_ids(start..listed_to, out);
            });
        }
        listed_to
    }

    /// Ends the message with the fingerprint of everything from `position` on.
    fn remainder(&mut self, position: usize) {
        let sum = self.set.sum(position..self.set.len());
        self.writer.remainder(sum.fingerprint());
    }

    fn finish(mut self) -> Answer {
        if self.needs.is_empty() {
            return Answer::Message(self.writer.finish());
        }
        self.needs.sort_unstable();
        self.needs.dedup_by(|next, kept| {
            let touches = next.since <= kept.until.saturating_add(1);
            if touches {
                kept.until = kept.until.max(next.until);
            }
            touches
        });
        Answer::NeedItems(self.needs)
    }
}

/// Says more about a range whose fingerprints differ: the ids if there are few, fingerprints of its
/// parts if there are many. Writes nothing if it has to see items first, which go to `needs`.
pub(super) fn split<S: ItemSet>(
    set: &S,
    positions: Range<usize>,
    upper: &Bound,
    writer: &mut Writer,
    needs: &mut Vec<Span>,
) {
    let Range { start, end } = positions;
    let length = end - start;
    let cuts = (1..PARTS).map(|part| set.cut_near(start + length * part / PARTS));
    let mut cuts = cuts.filter(|cut| (start + 1..end).contains(cut)).peekable();
    if length < LISTED_ITEMS_MAX || cuts.peek().is_none() {
        let needed = needs.len();
        set.unloaded(start..end, needs);
        if needs.len() == needed {
            writer.ids(upper, length, |out| set.write_ids(start..end, out));
        }
        return;
    }
    let mut from = start;
    for cut in cuts {
        if cut > from {
            writer.fingerprint(&set.bound_at(cut), set.sum(from..cut).fingerprint());
            from = cut;
        }
    }
    writer.fingerprint(upper, set.sum(from..end).fingerprint());
}
