//! Filters that fit a set of events: what clients ask (feeds, profiles, threads, inboxes) and what
//! nobody should ask but somebody will (empty lists, closed windows, combinations that hit no
//! index). For comparing a query engine with a naive oracle.

use crate::rng::Rng;
use proto::json::write_string;
use proto::{Event, EventId, Filter, PublicKey, TagFilter};

/// What a filter was drawn as; tests count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    /// Notes of people followed.
    Feed,
    /// Profiles and lists of people.
    Profiles,
    /// What answers an event (`#e`) or an address (`#a`).
    Thread,
    /// Events by id, some unknown.
    Ids,
    /// What mentions a person.
    Inbox,
    /// Kinds and nothing else.
    Kinds,
    /// A time window, often of one second.
    Window,
    /// Several conditions drawn from one event, so that something matches.
    Combined,
    /// Several conditions drawn from different events, so that hardly anything matches.
    Crossed,
    /// No condition.
    Everything,
    /// A filter that can match nothing.
    Nothing,
}

const STYLES: [(Style, u64); 11] = [
    (Style::Feed, 22),
    (Style::Profiles, 12),
    (Style::Thread, 15),
    (Style::Ids, 10),
    (Style::Inbox, 9),
    (Style::Kinds, 8),
    (Style::Window, 7),
    (Style::Combined, 10),
    (Style::Crossed, 3),
    (Style::Everything, 2),
    (Style::Nothing, 2),
];

/// Draws filters from a seed and a set of events.
#[derive(Debug)]
pub struct FilterGenerator<'a> {
    rng: Rng,
    events: &'a [Event],
}

impl<'a> FilterGenerator<'a> {
    /// Filters about `events`, of which there is at least one.
    ///
    /// # Panics
    /// If `events` is empty.
    pub fn new(seed: u64, events: &'a [Event]) -> Self {
        assert!(!events.is_empty(), "filters are drawn from events");
        Self { rng: Rng::new(seed), events }
    }

    /// One to three filters, as a REQ carries them.
    pub fn request(&mut self) -> Vec<Filter> {
        let count = [1, 1, 1, 1, 2, 2, 3][self.rng.index(7)];
        (0..count).map(|_| self.filter().1).collect()
    }

    /// One filter and what it was drawn as.
    pub fn filter(&mut self) -> (Style, Filter) {
        let total: u64 = STYLES.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.rng.below(total);
        let mut style = Style::Everything;
        for (candidate, weight) in STYLES {
            style = candidate;
            if drawn < weight {
                break;
            }
            drawn -= weight;
        }
        let mut filter = self.styled(style);
        self.limit(&mut filter);
        normalise(&mut filter);
        (style, filter)
    }

    fn styled(&mut self, style: Style) -> Filter {
        let mut filter = Filter::default();
        match style {
            Style::Feed => {
                let count = [1, 5, 20, 100, 300][self.rng.index(5)];
                filter.authors = Some(self.authors(count));
                filter.kinds =
                    Some([vec![1], vec![1, 6], vec![1, 6, 30_023]][self.rng.index(3)].clone());
                self.window_sometimes(&mut filter, 3);
            }
            Style::Profiles => {
                let count = self.rng.between(1, 50) as usize;
                filter.authors = Some(self.authors(count));
                let kinds =
                    [vec![0], vec![3], vec![0, 3], vec![10_002], vec![0, 3, 10_002, 10_050]];
                filter.kinds = Some(self.rng.pick(&kinds).clone());
            }
            Style::Thread => self.thread(&mut filter),
            Style::Ids => {
                let count = [1, 1, 3, 30, 200][self.rng.index(5)];
                filter.ids = Some(self.ids(count));
                if self.rng.chance(1, 8) {
                    filter.kinds = Some(vec![self.event().view().kind()]);
                }
            }
            Style::Inbox => {
                filter.tags.extend(self.tag_of_any(b'p'));
                if self.rng.chance(2, 3) {
                    filter.kinds = Some(vec![1, 6, 7, 9735]);
                }
                self.window_sometimes(&mut filter, 3);
            }
            Style::Kinds => {
                let count = self.rng.between(1, 3);
                filter.kinds = Some((0..count).map(|_| self.event().view().kind()).collect());
                self.window_sometimes(&mut filter, 4);
            }
            Style::Window => self.window(&mut filter),
            Style::Combined => {
                let event = self.event();
                for _ in 0..self.rng.between(2, 4) {
                    self.condition(&mut filter, event);
                }
            }
            Style::Crossed => {
                for _ in 0..self.rng.between(2, 4) {
                    let event = self.event();
                    self.condition(&mut filter, event);
                }
            }
            Style::Everything => {}
            Style::Nothing => self.nothing(&mut filter),
        }
        filter
    }

    fn thread(&mut self, filter: &mut Filter) {
        let letter = if self.rng.chance(1, 6) { b'a' } else { b'e' };
        filter.tags.extend(self.tag_of_any(letter));
        match self.rng.below(4) {
            0 => filter.kinds = Some(vec![7]),
            1 => filter.kinds = Some(vec![1, 6, 7, 1111]),
            _ => {}
        }
    }

    /// A limit as clients set it: none, one page, a handful, or none at all.
    fn limit(&mut self, filter: &mut Filter) {
        filter.limit = match self.rng.below(20) {
            0..=5 => None,
            6..=8 => Some(self.rng.between(1, 3)),
            9..=14 => Some(self.rng.between(5, 50)),
            15..=17 => Some(self.rng.between(100, 500)),
            18 => Some(5_000),
            _ if self.rng.chance(1, 4) => Some(0),
            _ => Some(1),
        };
    }

    fn event(&mut self) -> &'a Event {
        &self.events[self.rng.index(self.events.len())]
    }

    fn authors(&mut self, count: usize) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = (0..count).map(|_| self.event().view().pubkey()).collect();
        if self.rng.chance(1, 5) {
            keys.push(PublicKey(self.rng.bytes32()));
        }
        keys
    }

    fn ids(&mut self, count: usize) -> Vec<EventId> {
        let mut ids: Vec<EventId> = (0..count).map(|_| self.event().view().id()).collect();
        if self.rng.chance(1, 3) {
            ids.push(EventId(self.rng.bytes32()));
        }
        ids
    }

    /// A tag of `letter` with one to three values that occur; `None` if no event of a few has one.
    fn tag_of_any(&mut self, letter: u8) -> Option<TagFilter> {
        let mut values: Vec<Box<[u8]>> = Vec::new();
        for _ in 0..200 {
            let event = self.event();
            let found: Vec<_> = event
                .view()
                .tags()
                .indexed()
                .filter(|(name, _)| *name == letter)
                .map(|(_, value)| value.into_owned().into_boxed_slice())
                .collect();
            if !found.is_empty() {
                values.push(self.rng.pick(&found).clone());
                if values.len() == 3 || self.rng.chance(3, 4) {
                    break;
                }
            }
        }
        (!values.is_empty()).then_some(TagFilter { letter, values })
    }

    /// Adds a condition that `event` meets.
    fn condition(&mut self, filter: &mut Filter, event: &Event) {
        let view = event.view();
        match self.rng.below(8) {
            0 | 1 => filter.kinds = Some(vec![view.kind(), self.rng.below(65_536) as u16]),
            2 | 3 => {
                filter.authors = Some(vec![view.pubkey(), self.event().view().pubkey()]);
            }
            4 => filter.since = Some(u64::from(view.created_at())),
            5 => filter.until = Some(u64::from(view.created_at())),
            _ => {
                let tags: Vec<_> = view.tags().indexed().collect();
                if tags.is_empty() {
                    return;
                }
                let (letter, value) = self.rng.pick(&tags).clone();
                if filter.tags.iter().all(|tag| tag.letter != letter) {
                    let values = vec![value.into_owned().into_boxed_slice()];
                    filter.tags.push(TagFilter { letter, values });
                }
            }
        }
    }

    /// Bounds at the times of events, where off-by-one shows.
    fn window(&mut self, filter: &mut Filter) {
        let first = u64::from(self.event().view().created_at());
        let second = u64::from(self.event().view().created_at());
        match self.rng.below(5) {
            0 => filter.since = Some(first),
            1 => filter.until = Some(first),
            2 => (filter.since, filter.until) = (Some(first), Some(first)),
            _ => (filter.since, filter.until) = (Some(first.min(second)), Some(first.max(second))),
        }
    }

    fn window_sometimes(&mut self, filter: &mut Filter, one_in: u64) {
        if self.rng.chance(1, one_in) {
            self.window(filter);
        }
    }

    fn nothing(&mut self, filter: &mut Filter) {
        match self.rng.below(6) {
            0 => filter.ids = Some(Vec::new()),
            1 => filter.authors = Some(Vec::new()),
            2 => filter.kinds = Some(Vec::new()),
            3 => filter.tags.push(TagFilter { letter: b't', values: Vec::new() }),
            4 => filter.authors = Some(vec![PublicKey(self.rng.bytes32())]),
            _ => {
                let at = u64::from(self.event().view().created_at());
                (filter.since, filter.until) = (Some(at + 1), Some(at));
            }
        }
    }
}

/// Sorts lists and drops repeats, as the parser of filters does.
fn normalise(filter: &mut Filter) {
    if let Some(ids) = &mut filter.ids {
        ids.sort_unstable();
        ids.dedup();
    }
    if let Some(authors) = &mut filter.authors {
        authors.sort_unstable();
        authors.dedup();
    }
    if let Some(kinds) = &mut filter.kinds {
        kinds.sort_unstable();
        kinds.dedup();
    }
    filter.tags.sort_unstable_by_key(|tag| tag.letter);
    for tag in &mut filter.tags {
        tag.values.sort_unstable();
        tag.values.dedup();
    }
}

/// `filter` as the JSON object that a client sends.
pub fn filter_json(filter: &Filter) -> String {
    let mut json = Vec::new();
    let key = |name: &str, json: &mut Vec<u8>| {
        json.push(if json.is_empty() { b'{' } else { b',' });
        write_string(name.as_bytes(), json);
        json.push(b':');
    };
    if let Some(ids) = &filter.ids {
        key("ids", &mut json);
        write_list(ids, &mut json, |id, out| write_string(id.to_hex().as_bytes(), out));
    }
    if let Some(authors) = &filter.authors {
        key("authors", &mut json);
        write_list(authors, &mut json, |author, out| write_string(author.to_hex().as_bytes(), out));
    }
    if let Some(kinds) = &filter.kinds {
        key("kinds", &mut json);
        write_list(kinds, &mut json, |kind, out| out.extend(kind.to_string().bytes()));
    }
    for tag in &filter.tags {
        key(&format!("#{}", char::from(tag.letter)), &mut json);
        write_list(&tag.values, &mut json, |value, out| write_string(value, out));
    }
    for (name, value) in [("since", filter.since), ("until", filter.until), ("limit", filter.limit)]
    {
        if let Some(value) = value {
            key(name, &mut json);
            json.extend(value.to_string().bytes());
        }
    }
    if json.is_empty() {
        json.push(b'{');
    }
    json.push(b'}');
    String::from_utf8(json).expect("tag values come from events, which are UTF-8")
}

fn write_list<T>(list: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, element) in list.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(element, out);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Corpus, CorpusOptions};

    #[test]
    fn filters_are_repeatable_normal_and_mostly_match_something() {
        let events: Vec<Event> = Corpus::public(1, 2_000, CorpusOptions::default()).collect();
        let mut generator = FilterGenerator::new(2, &events);
        let mut again = FilterGenerator::new(2, &events);
        let (mut matching, mut seen) = (0, std::collections::BTreeSet::new());
        for _ in 0..1_000 {
            let (style, filter) = generator.filter();
            assert_eq!((style, filter.clone()), again.filter());
            seen.insert(style);
            let mut normal = filter.clone();
            normalise(&mut normal);
            assert_eq!(normal, filter);
            let parsed: serde_json::Value = serde_json::from_str(&filter_json(&filter)).unwrap();
            let keys = parsed.as_object().unwrap().len();
            let lists = [filter.ids.is_some(), filter.authors.is_some(), filter.kinds.is_some()];
            let bounds = [filter.since, filter.until, filter.limit];
            let expected = lists.iter().filter(|there| **there).count()
                + bounds.iter().flatten().count()
                + filter.tags.len();
            assert_eq!(keys, expected, "{filter:?}");
            if style == Style::Nothing {
                assert!(events.iter().all(|event| !filter.matches(&event.view())));
            }
            let some = filter.limit != Some(0) && events.iter().any(|e| filter.matches(&e.view()));
            matching += u32::from(some);
        }
        assert_eq!(seen.len(), STYLES.len());
        assert!(matching > 600, "{matching} of 1,000 filters match an event");
    }
}
