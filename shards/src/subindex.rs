//! Finds the subscriptions that a live event may match without asking each of them.
//!
//! Every filter is indexed under the values of one of its keys, the most selective it has: ids,
//! else the tag letter with the fewest values, else authors, else kinds, else nothing. An event
//! looks under its id, its tags, its author, its kind and under "nothing"; what it finds is matched
//! in full by the caller. Ended subscriptions are left in the postings and dropped when half a
//! posting is dead, so that closing one of 100,000 equal subscriptions is not a search.
//!
//! Bound: [`filter_bytes`] says what a filter costs here and in its subscription; a home adds it up
//! and refuses what goes beyond its budget.

use proto::{EventId, EventRef, Filter, PublicKey, SeededMap, SeededState};

/// A subscription in a posting: slab slot and use of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey {
    /// Slab slot.
    pub slot: u32,
    /// Use of the slot.
    pub generation: u32,
}

/// What one indexed value costs beside its bytes: a posting of its own in a map that has just
/// grown, with the four entries that a vector begins with.
const INDEXED_VALUE_BYTES: usize =
    2 * (size_of::<Handle>() + size_of::<Posting>()) + 4 * size_of::<SubscriptionKey>();
/// What an allocation costs beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// Bytes that an open subscription holds for one filter, its index entries included: an upper
/// bound, since equal values of several subscriptions share a posting.
pub fn filter_bytes(filter: &Filter) -> usize {
    let mut bytes = size_of::<Filter>();
    for_each_handle(filter, |handle| {
        bytes += INDEXED_VALUE_BYTES;
        if let Handle::Tag(_, value) = handle {
            bytes += value.len() + ALLOCATION_BYTES;
        }
    });
    let tags = filter.tags.iter().map(|tag| {
        let values = tag.values.iter().map(|value| value.len() + ALLOCATION_BYTES);
        size_of_val(tag) + size_of_val(tag.values.as_slice()) + values.sum::<usize>()
    });
    bytes
        + filter.ids.as_ref().map_or(0, |ids| size_of_val(ids.as_slice()))
        + filter.authors.as_ref().map_or(0, |authors| size_of_val(authors.as_slice()))
        + filter.kinds.as_ref().map_or(0, |kinds| size_of_val(kinds.as_slice()))
        + tags.sum::<usize>()
}

#[derive(Default)]
struct Posting {
    entries: Vec<SubscriptionKey>,
    dead: usize,
}

/// The key under which a filter is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Handle {
    Id(EventId),
    Tag(u8, Box<[u8]>),
    Author(PublicKey),
    Kind(u16),
    Anything,
}

/// The index of one core's live subscriptions. Owned by the core's home.
pub struct SubIndex {
    postings: SeededMap<Handle, Posting>,
    /// Letters under which any filter is indexed, so that an event's other tags cost nothing.
    letters: [u32; 128],
}

impl SubIndex {
    /// An empty index.
    pub fn new(seed: SeededState) -> Self {
        Self { postings: SeededMap::with_hasher(seed), letters: [0; 128] }
    }

    /// Adds a subscription under its filters.
    pub fn insert(&mut self, key: SubscriptionKey, filters: &[Filter]) {
        for filter in filters {
            for_each_handle(filter, |handle| {
                if let Handle::Tag(letter, _) = &handle {
                    self.letters[usize::from(*letter & 127)] += 1;
                }
                self.postings.entry(handle).or_default().entries.push(key);
            });
        }
    }

    /// Takes an ended subscription out. `is_live` must already say no for it.
    pub fn remove(&mut self, filters: &[Filter], is_live: impl Fn(SubscriptionKey) -> bool) {
        for filter in filters {
            for_each_handle(filter, |handle| {
                if let Handle::Tag(letter, _) = &handle {
                    self.letters[usize::from(*letter & 127)] -= 1;
                }
                let Some(posting) = self.postings.get_mut(&handle) else { return };
                posting.dead += 1;
                if posting.dead * 2 > posting.entries.len() {
                    posting.entries.retain(|entry| is_live(*entry));
                    posting.dead = 0;
                    if posting.entries.is_empty() {
                        self.postings.remove(&handle);
                    }
                }
            });
        }
    }

    /// Calls `found` for every subscription that may match; some may have ended, some may come
    /// more than once.
    pub fn candidates(&self, event: &EventRef<'_>, mut found: impl FnMut(SubscriptionKey)) {
        let mut visit = |handle: &Handle| {
            if let Some(posting) = self.postings.get(handle) {
                posting.entries.iter().for_each(|entry| found(*entry));
            }
        };
        visit(&Handle::Anything);
        visit(&Handle::Kind(event.kind()));
        visit(&Handle::Author(event.pubkey()));
        visit(&Handle::Id(event.id()));
        for (letter, value) in event.tags().indexed() {
            if self.letters[usize::from(letter & 127)] > 0 {
                visit(&Handle::Tag(letter, value.into_owned().into()));
            }
        }
    }
}

fn for_each_handle(filter: &Filter, mut each: impl FnMut(Handle)) {
    let narrowest_tag = filter.tags.iter().min_by_key(|tag| tag.values.len());
    if let Some(ids) = &filter.ids {
        ids.iter().for_each(|id| each(Handle::Id(*id)));
    } else if let Some(tag) = narrowest_tag {
        tag.values.iter().for_each(|value| each(Handle::Tag(tag.letter, value.clone())));
    } else if let Some(authors) = &filter.authors {
        authors.iter().for_each(|author| each(Handle::Author(*author)));
    } else if let Some(kinds) = &filter.kinds {
        kinds.iter().for_each(|kind| each(Handle::Kind(*kind)));
    } else {
        each(Handle::Anything);
    }
}
