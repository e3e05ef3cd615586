//! Sync sets: for each configured filter, the sum of the ids of the public events that match it, by
//! bucket of time, kept as events come and go, so that reconciling a whole store with a peer
//! (NIP-77) does not begin by reading it.
//!
//! Membership is decided once, when an event is put or replayed, and stands in the upper half of
//! its place's flags, in the delta and in the index; so whoever removes an event knows which sums it
//! was in. The log does not have it: another configuration means other sums, which a start computes
//! anew. Private kinds are in no set, whatever the filter.

use crate::effect::{Position, Seq};
use crate::key::push_seq;
use proto::nip::nip17;
use proto::nip::nip77::Accumulator;
use proto::{EventRef, Filter};
use sha2::{Digest, Sha256};

/// Sync sets that can be configured; their bits are those that [`crate::Loc::LOG_FLAGS`] leaves.
pub const SETS_MAX: usize = 4;
/// The bit of the first set.
const FIRST_BIT: u32 = 4;
/// Changes when membership is decided in another way, so that a start computes the sums anew.
const RULE: u8 = 1;

/// The bit of a set among the flags; 0 for a set that cannot be.
pub fn bit(set: u8) -> u8 {
    if usize::from(set) < SETS_MAX { 1 << (FIRST_BIT + u32::from(set)) } else { 0 }
}

/// The sets of which `flags` say that an event is in them.
pub fn sets(flags: u8) -> impl Iterator<Item = u8> {
    (0..SETS_MAX as u8).filter(move |set| flags & bit(*set) != 0)
}

/// The bits of an event. Filters past [`SETS_MAX`] have none.
pub fn membership(filters: &[Filter], event: &EventRef<'_>) -> u8 {
    if filters.is_empty() || nip17::is_private(event.kind()) {
        return 0;
    }
    let matching = (0..).zip(filters).filter(|(_, filter)| filter.matches(event));
    matching.fold(0, |bits, (set, _)| bits | bit(set))
}

/// Names a configuration: the sums of two starts with the same name are the same sums.
pub fn digest(filters: &[Filter]) -> [u8; 32] {
    let mut text = vec![RULE];
    let count = |text: &mut Vec<u8>, count: usize| {
        text.extend_from_slice(&(count as u64).to_le_bytes());
    };
    for filter in filters {
        let fixed = |list: Option<Vec<&[u8]>>| list.map(|list| list.concat());
        let ids = filter.ids.as_ref().map(|ids| ids.iter().map(|id| &id.0[..]).collect());
        let authors =
            filter.authors.as_ref().map(|keys| keys.iter().map(|key| &key.0[..]).collect());
        let kinds = filter.kinds.as_ref();
        let kinds = kinds.map(|kinds| kinds.iter().flat_map(|kind| kind.to_le_bytes()).collect());
        let time = |time: Option<u64>| time.map(|time| time.to_le_bytes().to_vec());
        let parts: [Option<Vec<u8>>; 5] =
            [fixed(ids), fixed(authors), kinds, time(filter.since), time(filter.until)];
        for part in parts {
            text.push(u8::from(part.is_some()));
            let part = part.unwrap_or_default();
            count(&mut text, part.len());
            text.extend_from_slice(&part);
        }
        count(&mut text, filter.tags.len());
        for tag in &filter.tags {
            text.push(tag.letter);
            count(&mut text, tag.values.len());
            for value in &tag.values {
                count(&mut text, value.len());
                text.extend_from_slice(value);
            }
        }
    }
    Sha256::digest(&text).into()
}

/// Asks the index for the sums of one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumsRequest {
    /// The set.
    pub set: u8,
    /// Events that memory knows to be dead and the index may still count.
    pub dead: Vec<Seq>,
}

/// What the index holds for a [`SumsRequest`], all in one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SumsPage {
    /// The index holds every effect up to this sequence.
    pub applied: Seq,
    /// Bucket and sum, ascending.
    pub buckets: Vec<(u32, Accumulator)>,
    /// Those of the dead events that the sums count.
    pub dead: Vec<Position>,
}

/// How far the sums of the index belong to a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SumsState {
    /// [`digest`] of the configuration.
    pub(crate) digest: [u8; 32],
    /// The event that is to be looked at next; `None` when all have been.
    pub(crate) next: Option<Seq>,
}

impl SumsState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = self.digest.to_vec();
        if let Some(next) = self.next {
            push_seq(&mut value, next);
        }
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (digest, next) = value.split_first_chunk()?;
        let next = if next.is_empty() { None } else { Some(crate::key::read_seq(next)?) };
        Some(Self { digest: *digest, next })
    }
}

/// How much of the store the sums of a new configuration cover by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resummed {
    /// Events looked at.
    pub done: u64,
    /// Events in all; `done` when it is over.
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{EventId, EventParts, PublicKey, Signature, TagFilter};

    fn event(kind: u16) -> proto::Event {
        EventParts {
            id: EventId([1; 32]),
            pubkey: PublicKey([2; 32]),
            sig: Signature([3; 64]),
            created_at: 100,
            kind,
            tags_json: br#"[["t","x"]]"#,
            content_json: b"\"\"",
        }
        .pack()
    }

    #[test]
    fn membership_is_the_filters_answer_and_never_that_of_private_kinds() {
        let kinds = |kinds: &[u16]| Filter { kinds: Some(kinds.to_vec()), ..Filter::default() };
        let filters = [Filter::default(), kinds(&[1]), kinds(&[1059]), Filter::default()];
        assert_eq!(membership(&filters, &event(1).view()), bit(0) | bit(1) | bit(3));
        assert_eq!(membership(&filters, &event(2).view()), bit(0) | bit(3));
        for private in nip17::PRIVATE_KINDS {
            assert_eq!(membership(&filters, &event(private).view()), 0, "kind {private}");
        }
        let many = vec![Filter::default(); 9];
        assert_eq!(membership(&many, &event(1).view()), 0xf0);
        assert_eq!(sets(bit(0) | bit(3) | 1).collect::<Vec<_>>(), [0, 3]);
        assert_eq!((bit(0) | bit(1) | bit(2) | bit(3)) & crate::Loc::LOG_FLAGS, 0);
        assert_eq!(bit(4), 0);
    }

    #[test]
    fn every_part_of_a_configuration_names_it() {
        let tag = |letter: u8, values: &[&str]| TagFilter {
            letter,
            values: values.iter().map(|value| value.as_bytes().into()).collect(),
        };
        let all = Filter {
            ids: Some(vec![EventId([1; 32])]),
            authors: Some(vec![PublicKey([2; 32])]),
            kinds: Some(vec![1, 7]),
            tags: vec![tag(b'e', &["x", "y"]), tag(b'p', &["z"])],
            since: Some(1),
            until: Some(2),
            limit: None,
        };
        let others = [
            vec![],
            vec![Filter::default()],
            vec![Filter::default(); 2],
            vec![all.clone()],
            vec![Filter { ids: None, ..all.clone() }],
            vec![Filter { ids: Some(vec![]), ..all.clone() }],
            vec![Filter { authors: None, ..all.clone() }],
            vec![Filter { kinds: Some(vec![1]), ..all.clone() }],
            vec![Filter { since: Some(2), ..all.clone() }],
            vec![Filter { since: None, until: Some(1), ..all.clone() }],
            vec![Filter { tags: vec![tag(b'e', &["xy"]), tag(b'p', &["z"])], ..all.clone() }],
            vec![Filter { tags: vec![tag(b'e', &["x", "y"])], ..all.clone() }],
        ];
        let mut names: Vec<_> = others.iter().map(|filters| digest(filters)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), others.len());
        let limited = Filter { limit: Some(3), ..all.clone() };
        assert_eq!(digest(&[limited]), digest(&[all]), "a limit is no part of a set");
    }

    #[test]
    fn the_state_reads_back() {
        for next in [None, Some(0), Some(7)] {
            let state = SumsState { digest: [9; 32], next };
            assert_eq!(SumsState::decode(&state.encode()), Some(state));
        }
        assert_eq!(SumsState::decode(&[0; 31]), None);
        assert_eq!(SumsState::decode(&[0; 33]), None);
    }
}
