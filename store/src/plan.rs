//! From a filter to the streams whose union holds every event that it can match.
//!
//! One source is chosen: ids; else the tag letter that is likely to be rare; else authors; else
//! kinds; else time. The other keys of the filter only thin the rows out when they are matched
//! again, so a plan is a superset and never leaves anything out.

use crate::effect::{Kinds, Source, Stream};
use crate::key::{author_hash, tag_hash};
use proto::{Filter, Secret, TagFilter};
use std::sync::Arc;

/// Letters whose values gather so many events (people, topics, kinds, labels) that an author is
/// likely to be the rarer key.
const COMMON_LETTERS: &[u8] = b"pPtkKlLmr";

/// The streams of `filter`; none if nothing can match.
pub fn streams(filter: &Filter, secret: &Secret) -> Vec<Stream> {
    let Some((since, until)) = window(filter) else { return Vec::new() };
    sources(filter, secret).into_iter().map(|source| Stream { source, since, until }).collect()
}

/// The filter's window in the seconds that events can have; `None` if it is empty.
fn window(filter: &Filter) -> Option<(u32, u32)> {
    if filter.matches_nothing() {
        return None;
    }
    let since = u32::try_from(filter.since.unwrap_or(0)).ok()?;
    let until = filter.until.map_or(u32::MAX, |until| u32::try_from(until).unwrap_or(u32::MAX));
    Some((since, until))
}

fn sources(filter: &Filter, secret: &Secret) -> Vec<Source> {
    if let Some(ids) = &filter.ids {
        return ids.iter().map(|id| Source::Id(*id)).collect();
    }
    let kinds = || filter.kinds.as_ref().map_or(Kinds::All, |kinds| Kinds::These(kinds[..].into()));
    if let Some(tag) = chosen_tag(filter) {
        let kinds = kinds();
        let hashes = tag.values.iter().map(|value| tag_hash(secret, tag.letter, value));
        return hashes.map(|hash| Source::Tag(hash, kinds.clone())).collect();
    }
    if let Some(authors) = &filter.authors {
        let kinds = kinds();
        let hashes = authors.iter().map(|author| author_hash(secret, author));
        return hashes.map(|hash| Source::Author(hash, kinds.clone())).collect();
    }
    match &filter.kinds {
        Some(kinds) => kinds.iter().map(|kind| Source::Kind(*kind)).collect(),
        None => vec![Source::Time],
    }
}

/// The tag to go by, if a tag is better than the authors.
fn chosen_tag(filter: &Filter) -> Option<&TagFilter> {
    let fewest = |common: bool| {
        let tags = filter.tags.iter().filter(move |tag| is_common(tag) == common);
        tags.min_by_key(|tag| tag.values.len())
    };
    if let Some(rare) = fewest(false) {
        return Some(rare);
    }
    let common = fewest(true)?;
    match &filter.authors {
        Some(authors) if authors.len() <= common.values.len() => None,
        _ => Some(common),
    }
}

/// Whether the values of a tag are likely to gather many events. The empty value does, whatever
/// the letter: every plain addressable event has it as its `d`.
fn is_common(tag: &TagFilter) -> bool {
    COMMON_LETTERS.contains(&tag.letter) || tag.values.iter().any(|value| value.is_empty())
}

/// Streams of several filters as one union.
pub fn union(filters: &[Filter], secret: &Secret) -> Arc<[Stream]> {
    filters.iter().flat_map(|filter| streams(filter, secret)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{EventId, PublicKey};

    const SECRET: Secret = Secret([1; 16]);

    fn tag(letter: u8, values: &[&str]) -> TagFilter {
        TagFilter { letter, values: values.iter().map(|value| value.as_bytes().into()).collect() }
    }

    #[test]
    fn the_rarest_source_is_chosen() {
        let all = Filter {
            ids: Some(vec![EventId([1; 32])]),
            authors: Some(vec![PublicKey([2; 32])]),
            kinds: Some(vec![1, 7]),
            tags: vec![tag(b'e', &["x", "y"]), tag(b'p', &["z"])],
            ..Filter::default()
        };
        let first = |filter: &Filter| streams(filter, &SECRET)[0].source.clone();
        assert_eq!(first(&all), Source::Id(EventId([1; 32])));
        let by_tag = Filter { ids: None, ..all };
        let kinds = Kinds::These([1, 7][..].into());
        assert_eq!(first(&by_tag), Source::Tag(tag_hash(&SECRET, b'e', b"x"), kinds.clone()));
        assert_eq!(streams(&by_tag, &SECRET).len(), 2);
        let by_author = Filter { tags: vec![tag(b'p', &["z"])], ..by_tag };
        let author = author_hash(&SECRET, &PublicKey([2; 32]));
        assert_eq!(first(&by_author), Source::Author(author, kinds.clone()));
        let by_p = Filter { authors: None, ..by_author };
        assert_eq!(first(&by_p), Source::Tag(tag_hash(&SECRET, b'p', b"z"), kinds));
        let by_kind = Filter { tags: Vec::new(), ..by_p };
        assert_eq!(first(&by_kind), Source::Kind(1));
        assert_eq!(first(&Filter { kinds: None, ..by_kind }), Source::Time);
    }

    #[test]
    fn windows_are_those_of_events() {
        let late = Filter { since: Some(u64::from(u32::MAX) + 1), ..Filter::default() };
        assert!(streams(&late, &SECRET).is_empty());
        let wide = Filter { until: Some(u64::MAX), ..Filter::default() };
        assert_eq!(streams(&wide, &SECRET)[0].until, u32::MAX);
        let crossed = Filter { since: Some(9), until: Some(8), ..Filter::default() };
        assert!(streams(&crossed, &SECRET).is_empty());
        let nothing = Filter { kinds: Some(Vec::new()), ..Filter::default() };
        assert!(streams(&nothing, &SECRET).is_empty());
    }
}
