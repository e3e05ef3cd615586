//! NIP-01 filters: the parsed form and the match against one event. Parsing is in [`crate::parse`].

use crate::{EventId, EventRef, PublicKey};

/// A parsed filter. Lists are sorted and free of duplicates; `None` means the key is absent, an
/// empty list matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Event ids.
    pub ids: Option<Vec<EventId>>,
    /// Authors.
    pub authors: Option<Vec<PublicKey>>,
    /// Kinds.
    pub kinds: Option<Vec<u16>>,
    /// Tag letter and its values; one entry per letter, in ascending order of letter.
    pub tags: Vec<TagFilter>,
    /// Least `created_at`.
    pub since: Option<u64>,
    /// Greatest `created_at`.
    pub until: Option<u64>,
    /// Rows of the stored phase, as the client asked; clamping is the relay's.
    pub limit: Option<u64>,
}

/// The values of one `#x` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFilter {
    /// `a-z` or `A-Z`.
    pub letter: u8,
    /// Unescaped values, sorted.
    pub values: Vec<Box<[u8]>>,
}

impl TagFilter {
    /// Whether `event` has a tag of this letter with one of the values.
    fn matches(&self, event: &EventRef<'_>) -> bool {
        event.tags().filter(|tag| tag.letter() == Some(self.letter)).any(|tag| {
            tag.value().is_some_and(|value| {
                self.values.binary_search_by(|wanted| (**wanted).cmp(&value)).is_ok()
            })
        })
    }
}

impl Filter {
    /// Whether no event can ever match: an empty list, or `since` after `until`.
    pub fn matches_nothing(&self) -> bool {
        self.ids.as_ref().is_some_and(Vec::is_empty)
            || self.authors.as_ref().is_some_and(Vec::is_empty)
            || self.kinds.as_ref().is_some_and(Vec::is_empty)
            || self.tags.iter().any(|tag| tag.values.is_empty())
            || self.since.unwrap_or(0) > self.until.unwrap_or(u64::MAX)
    }

    /// Whether `event` satisfies every key but `limit`.
    pub fn matches(&self, event: &EventRef<'_>) -> bool {
        let created_at = u64::from(event.created_at());
        if self.since.is_some_and(|since| created_at < since)
            || self.until.is_some_and(|until| created_at > until)
            || self.kinds.as_ref().is_some_and(|kinds| kinds.binary_search(&event.kind()).is_err())
            || self
                .authors
                .as_ref()
                .is_some_and(|keys| keys.binary_search(&event.pubkey()).is_err())
            || self.ids.as_ref().is_some_and(|ids| ids.binary_search(&event.id()).is_err())
        {
            return false;
        }
        self.tags.iter().all(|wanted| wanted.matches(event))
    }

    /// Number of values in all lists.
    pub fn values(&self) -> usize {
        self.ids.as_ref().map_or(0, Vec::len)
            + self.authors.as_ref().map_or(0, Vec::len)
            + self.kinds.as_ref().map_or(0, Vec::len)
            + self.tags.iter().map(|tag| tag.values.len()).sum::<usize>()
    }

    /// Whether an event of `kind` could match as far as `kinds` says.
    pub fn allows_kind(&self, kind: u16) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.binary_search(&kind).is_ok())
    }
}
