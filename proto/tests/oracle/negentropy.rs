//! Sets to reconcile, both ends run against each other, and what has to hold for any message.
#![allow(dead_code, reason = "not every test crate that shares this module runs both ends")]

use proto::EventId;
use proto::nip::nip77::{
    Accumulator, Answer, BUCKET_BITS, BucketedItems, FRAME_BYTES_MIN, Initiator, Item, ItemSet,
    NegError, SortedItems, Span, bucket_of, ranges, respond,
};
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// Far more rounds than any pair of sets here takes; an exchange that does not end fails there.
const ROUNDS_MAX: usize = 3_000;

/// SplitMix64: a seed says everything about a case.
pub struct Choices(pub u64);

impl Choices {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn id(&mut self) -> EventId {
        let words: [u64; 4] = std::array::from_fn(|_| self.next());
        let mut id = EventId([0; 32]);
        for (place, word) in id.0.chunks_mut(8).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        id
    }

    /// `count` items of the last `seconds` before `until`. Some ids share their first bytes.
    pub fn items(&mut self, count: usize, until: u32, seconds: u32) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::with_capacity(count);
        for _ in 0..count {
            let created_at = until - self.below(seconds as usize) as u32;
            let mut id = self.id();
            if let Some(last) = items.last().filter(|_| self.0.is_multiple_of(4)) {
                let shared = self.below(31);
                id.0[..shared].copy_from_slice(&last.id.0[..shared]);
            }
            items.push(Item { created_at, id });
        }
        items
    }
}

/// What two ends hold.
#[derive(Clone, Debug)]
pub struct Sets {
    pub shared: Vec<Item>,
    pub only_ours: Vec<Item>,
    pub only_theirs: Vec<Item>,
}

impl Sets {
    pub fn new(seed: u64, sizes: [usize; 3], seconds: u32) -> Self {
        let mut choices = Choices(seed);
        let [shared, only_ours, only_theirs] =
            sizes.map(|size| choices.items(size, 1_700_000_000, seconds));
        Self { shared, only_ours, only_theirs }
    }

    pub fn ours(&self) -> Vec<Item> {
        [&self.shared[..], &self.only_ours].concat()
    }

    pub fn theirs(&self) -> Vec<Item> {
        [&self.shared[..], &self.only_theirs].concat()
    }

    /// Have and need, as they have to come out.
    pub fn differences(&self) -> (Vec<EventId>, Vec<EventId>) {
        (ids(&self.only_ours), ids(&self.only_theirs))
    }
}

pub fn ids(items: &[Item]) -> Vec<EventId> {
    let mut ids: Vec<EventId> = items.iter().map(|item| item.id).collect();
    ids.sort_unstable();
    ids
}

/// Sorted; where messages were full, ids are told twice.
pub fn as_set(mut ids: Vec<EventId>) -> Vec<EventId> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Lets an initiator with `ours` ask `answer` until all is known: have and need as sets, and the
/// number of rounds.
pub fn reconcile(
    ours: Vec<Item>,
    frame_bytes_max: usize,
    mut answer: impl FnMut(&[u8]) -> Vec<u8>,
) -> (Vec<EventId>, Vec<EventId>, usize) {
    let initiator = Initiator::new(SortedItems::new(ours), frame_bytes_max);
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut message = initiator.initiate();
    for round in 1..ROUNDS_MAX {
        assert!(message.len() <= frame_bytes_max, "asked with {} bytes", message.len());
        let step = initiator.step(&answer(&message)).unwrap();
        have.extend(step.have);
        need.extend(step.need);
        let Some(next) = step.message else {
            return (as_set(have), as_set(need), round);
        };
        message = next;
    }
    panic!("no end after {ROUNDS_MAX} rounds");
}

/// The answer of a set that needs nothing loaded.
pub fn answer<S: ItemSet>(set: &S, message: &[u8], frame_bytes_max: usize) -> Vec<u8> {
    match respond(set, message, frame_bytes_max).unwrap() {
        Answer::Message(answer) => {
            assert!(answer.len() <= frame_bytes_max, "answered with {} bytes", answer.len());
            answer
        }
        Answer::NeedItems(spans) => panic!("all items are here, and it asks for {spans:?}"),
    }
}

/// A store as a server sees it: sums by bucket, and items when asked.
pub struct Server {
    pub stored: BTreeSet<Item>,
    pub set: BucketedItems,
}

impl Server {
    pub fn new(stored: Vec<Item>) -> Self {
        let set = BucketedItems::new(sums(&stored));
        Self { stored: stored.into_iter().collect(), set }
    }

    pub fn load(&mut self, span: Span) {
        assert!(span.since <= span.until);
        let id = |byte| EventId([byte; 32]);
        let first = Item { created_at: span.since, id: id(0) };
        let last = Item { created_at: span.until, id: id(0xff) };
        self.set.load(span, self.stored.range(first..=last).copied().collect());
    }

    pub fn answer(&mut self, message: &[u8], frame_bytes_max: usize) -> Vec<u8> {
        // A span is asked for once only, so this ends when everything is loaded.
        for _ in 0..=self.stored.len() + self.set.len() {
            match respond(&self.set, message, frame_bytes_max).unwrap() {
                Answer::Message(answer) => {
                    assert!(answer.len() <= frame_bytes_max, "{} bytes", answer.len());
                    return answer;
                }
                Answer::NeedItems(spans) => {
                    assert!(!spans.is_empty());
                    assert!(spans.windows(2).all(|pair| pair[0].until < pair[1].since));
                    spans.into_iter().for_each(|span| self.load(span));
                }
            }
        }
        panic!("still asks for items");
    }
}

/// Sums by bucket.
pub fn sums(items: &[Item]) -> Vec<(u32, Accumulator)> {
    let mut sums = std::collections::BTreeMap::<u32, Accumulator>::new();
    for item in items {
        sums.entry(bucket_of(item.created_at)).or_default().add(&item.id);
    }
    sums.into_iter().collect()
}

/// Loads the buckets of `server` that `is_wanted` says.
pub fn preload(server: &mut Server, mut is_wanted: impl FnMut() -> bool) {
    let stored: Vec<Item> = server.stored.iter().copied().collect();
    for (bucket, _) in sums(&stored) {
        if is_wanted() {
            let since = bucket << BUCKET_BITS;
            server.load(Span { since, until: since | ((1 << BUCKET_BITS) - 1) });
        }
    }
}

/// The two ends that [`check_message`] gives its messages to.
struct Ends {
    sorted: SortedItems,
    server: Server,
    initiator: Initiator,
    ours: usize,
}

fn ends() -> &'static Ends {
    static ENDS: OnceLock<Ends> = OnceLock::new();
    ENDS.get_or_init(|| {
        let sets = Sets::new(1, [400, 40, 40], 100_000);
        let mut server = Server::new(sets.theirs());
        let mut choices = Choices(2);
        preload(&mut server, || choices.below(2) == 0);
        let ours = SortedItems::new(sets.ours());
        Ends {
            sorted: SortedItems::new(sets.theirs()),
            server,
            ours: ours.len(),
            initiator: Initiator::new(ours, 4_096),
        }
    })
}

/// Gives any bytes to both ends, as items and as sums. Panics where an answer is too long or no
/// message, or where the ends do not agree on what is malformed.
pub fn check_message(message: &[u8]) -> Result<(), NegError> {
    let Ends { sorted, server, initiator, ours } = ends();
    let error = ranges(message).map_or_else(Some, |mut ranges| ranges.find_map(Result::err));
    let is_other_version = matches!(error, Some(NegError::OtherVersion(_)));
    let refused = error.filter(|_| !is_other_version);

    for frame in [FRAME_BYTES_MIN, 20_000] {
        let answered = respond(sorted, message, frame);
        assert_eq!(answered.as_ref().err(), refused.as_ref());
        if let Ok(answer) = answered {
            let Answer::Message(answer) = answer else { panic!("everything is here") };
            assert!(answer.len() <= frame);
            assert!(ranges(&answer).unwrap().all(|range| range.is_ok()));
            let from_sums = Server { stored: server.stored.clone(), set: server.set.clone() }
                .answer(message, frame);
            assert_eq!(from_sums.len() == 1, answer.len() == 1);
        } else {
            assert_eq!(respond(&server.set, message, frame).err(), refused);
        }
    }
    match initiator.step(message) {
        Ok(step) => {
            assert!(error.is_none() || step.message.is_some());
            assert!(step.need.len() <= message.len() / 32 && step.have.len() <= *ours);
            assert!(step.message.is_none_or(|next| next.len() <= 4_096));
        }
        Err(ours) => assert_eq!(Some(ours), error),
    }
    error.map_or(Ok(()), Err)
}

/// What two ends hold, drawn from `data`: three bytes for the frames, the spread of the times and the
/// buckets that are loaded, then five for each item.
pub fn sets_of(data: &[u8]) -> Option<(Sets, [usize; 2], u8)> {
    const FRAMES: [usize; 4] = [FRAME_BYTES_MIN, 4_096, 9_000, 1 << 20];
    let ([frames, spread, loaded], items) = data.split_first_chunk()?;
    let mut sets = Sets { shared: Vec::new(), only_ours: Vec::new(), only_theirs: Vec::new() };
    let mut seen = BTreeSet::new();
    for chunk in items.as_chunks::<5>().0 {
        let [whose, time @ .., high, low] = *chunk;
        let time = u32::from(u16::from_be_bytes(time)) << (spread % 17);
        let seed = u64::from(time) << 16 | u64::from(u16::from_be_bytes([high, low]));
        let mut id = EventId([0; 32]);
        if whose & 4 == 0 {
            id = Choices(seed).id();
        } else {
            // Numbers in a row would have the same sums in many ways; ids are hashes.
            id.0[24..].copy_from_slice(&Choices(seed).next().to_be_bytes());
        }
        if seen.insert(id) {
            let set = match whose % 4 {
                0 => &mut sets.only_ours,
                1 => &mut sets.only_theirs,
                _ => &mut sets.shared,
            };
            set.push(Item { created_at: time, id });
        }
    }
    let frames = [frames % 4, frames / 4 % 4].map(|index| FRAMES[usize::from(index)]);
    Some((sets, frames, *loaded))
}

/// Reconciles the sets of `data` with a server that has items and with one that has sums. Panics
/// unless exactly the differences come out.
pub fn check_two_ends(data: &[u8]) -> Option<(usize, usize)> {
    let (sets, [asks, answers], loaded) = sets_of(data)?;
    let items = SortedItems::new(sets.theirs());
    let (have, need, _) = reconcile(sets.ours(), asks, |message| answer(&items, message, answers));
    assert_eq!((&have, &need), (&sets.differences().0, &sets.differences().1));

    let mut server = Server::new(sets.theirs());
    let mut choices = Choices(u64::from(loaded));
    preload(&mut server, || choices.below(256) < usize::from(loaded));
    let found = reconcile(sets.ours(), asks, |message| server.answer(message, answers));
    assert_eq!((&found.0, &found.1), (&have, &need));
    Some((have.len(), need.len()))
}
