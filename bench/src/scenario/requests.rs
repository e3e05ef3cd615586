//! What clients ask, as the bytes of their filters.

use crate::filters::{FilterGenerator, Style, filter_json};
use crate::load::Requests;
use crate::rng::Rng;
use proto::{Event, Filter, PublicKey, TagFilter};

/// The most that a client of these mixes asks for at once: what relays commonly allow.
const LIMIT_MAX: u64 = 500;

/// `count` queries in the shapes of real clients. Shapes that no client sends on purpose (empty
/// lists, crossed conditions) are left to the tests of query engines.
pub fn client_requests(seed: u64, events: &[Event], count: u32) -> Requests {
    let mut generator = FilterGenerator::new(seed, events);
    let mut requests = Requests::new();
    while requests.len() < count as usize {
        let (style, mut filter) = generator.filter();
        let is_real = matches!(
            style,
            Style::Feed
                | Style::Profiles
                | Style::Thread
                | Style::Ids
                | Style::Inbox
                | Style::Kinds
                | Style::Window
                | Style::Combined
        );
        // Private kinds are for those that authenticate; what is left out is their share alone.
        let is_public = filter
            .kinds
            .as_ref()
            .is_none_or(|kinds| !kinds.iter().any(|kind| matches!(kind, 4 | 1059)));
        if is_real && is_public {
            filter.limit = Some(filter.limit.unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX));
            requests.push(filter_json(&filter).into_bytes());
        }
    }
    requests
}

/// What `clients` clients ask when they start, five requests each: relay lists of all they follow,
/// their profiles, the feed, who mentions them, and reactions to them.
pub fn boot_requests(seed: u64, events: &[Event], clients: u32, follows: u32) -> Requests {
    let mut authors: Vec<PublicKey> = events.iter().map(|event| event.view().pubkey()).collect();
    authors.sort_unstable();
    authors.dedup();
    let mut rng = Rng::new(seed);
    let mut requests = Requests::new();
    for _ in 0..clients {
        let mut followed: Vec<PublicKey> = if authors.len() <= follows as usize {
            authors.clone()
        } else {
            (0..follows).map(|_| *rng.pick(&authors)).collect()
        };
        followed.sort_unstable();
        followed.dedup();
        let me = *rng.pick(&authors);
        let of = |kinds: &[u16], limit: u64| Filter {
            authors: Some(followed.clone()),
            kinds: Some(kinds.to_vec()),
            limit: Some(limit),
            ..Filter::default()
        };
        let to_me = |kinds: &[u16], limit: u64| Filter {
            kinds: Some(kinds.to_vec()),
            tags: vec![TagFilter { letter: b'p', values: vec![me.to_hex().as_bytes().into()] }],
            limit: Some(limit),
            ..Filter::default()
        };
        let filters = [
            of(&[10_002], LIMIT_MAX),
            of(&[0], LIMIT_MAX),
            of(&[1, 6], LIMIT_MAX),
            to_me(&[1, 6, 7, 9_735], 200),
            // Not gift wraps, which many relays give to nobody without AUTH.
            to_me(&[7], 50),
        ];
        requests.extend(filters.iter().map(|filter| filter_json(filter).into_bytes()));
    }
    requests
}

/// Filters of subscriptions that wait for what comes: each follows `follows` of `authors`, or
/// everybody.
pub(super) fn live_requests(
    rng: &mut Rng,
    authors: &[PublicKey],
    follows: u32,
    count: u32,
) -> Requests {
    if follows == 0 || authors.is_empty() {
        return vec![br#"{"limit":0}"#.to_vec()];
    }
    (0..count)
        .map(|index| {
            let mut followed: Vec<PublicKey> = if follows == 1 {
                // One each in turn, so that every author has the same number of followers.
                vec![authors[index as usize % authors.len()]]
            } else {
                (0..follows).map(|_| *rng.pick(authors)).collect()
            };
            followed.sort_unstable();
            followed.dedup();
            let filter = Filter { authors: Some(followed), limit: Some(0), ..Filter::default() };
            filter_json(&filter).into_bytes()
        })
        .collect()
}
