//! One session: its set, what is being read for it, and the message that waits for that.

use super::RECORD_BYTES;
use super::collect::Collect;
use super::items::Items;
use crate::message::{Client, QueryId, Reader, ShardId, ToShard};
use proto::nip::nip77::{
    Accumulator, Answer, BUCKET_BITS, BucketedItems, Item, ItemSet, NegError, Span, bucket_of,
    respond,
};
use proto::{Filter, Now, PublicKey};
use std::rc::Rc;
use std::sync::Arc;
use store::effect::Position;

/// Items of a sync set that one read loads, unless a single bucket has more: what one step sorts.
const LOAD_ITEMS_MAX: u64 = 16 * 1024;
/// Items between two stretches that are loaded along with them rather than read around.
const GAP_ITEMS_MAX: u64 = 32;
/// What a bucket of a sync set costs.
const BUCKET_BYTES: usize = 48;
/// Set in the slot of a [`QueryId`] that belongs to a session.
pub(super) const SESSION_BIT: u32 = 1 << 31;

/// What `sums` and `more`, both in order of bucket, add up to.
fn merged<'a>(
    sums: &[(u32, Accumulator)],
    more: impl Iterator<Item = &'a (u32, Accumulator)>,
) -> Vec<(u32, Accumulator)> {
    let mut both = Vec::with_capacity(sums.len());
    let mut rest = sums.iter().peekable();
    for (bucket, sum) in more {
        while let Some(earlier) = rest.next_if(|(have, _)| have < bucket) {
            both.push(*earlier);
        }
        let mut sum = *sum;
        if let Some((_, ours)) = rest.next_if(|(have, _)| have == bucket) {
            sum.merge(ours);
        }
        both.push((*bucket, sum));
    }
    both.extend(rest);
    both
}

/// A filter's time as events have it.
fn seconds(at: u64) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// What a read asks shards for.
#[derive(Debug)]
pub(super) enum Asked {
    /// All ids of the filter.
    Ids,
    /// The sums of a sync set.
    Sums(u8),
    /// The ids of a stretch of a sync set.
    Stretch(Span),
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) generation: u32,
    pub(super) asked: Asked,
    pub(super) filters: Arc<[Filter]>,
    pub(super) collect: Collect,
    /// Whether it stands among those who wait for a slot.
    pub(super) is_starved: bool,
    /// Items of [`Asked::Stretch`] so far.
    items: Vec<Item>,
}

impl Read {
    /// The read's name, of the session in `slot`.
    pub(super) fn id(&self, slot: usize) -> QueryId {
        QueryId { slot: slot as u32 | SESSION_BIT, generation: self.generation }
    }
}

#[derive(Debug)]
enum Set {
    Whole(Items),
    /// Sums that are coming in from the shards, by bucket.
    Incoming(Vec<(u32, Accumulator)>),
    Sums {
        set: BucketedItems,
        buckets: usize,
    },
}

/// A session. Owned by its home; what it holds is in `bytes`.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) name: Rc<str>,
    pub(super) filter: Filter,
    pub(super) reader: Reader,
    /// What its filter was charged with.
    pub(super) filter_bytes: usize,
    pub(super) read: Option<Read>,
    /// The message that is to be answered.
    pub(super) message: Option<Vec<u8>>,
    /// What it held when that was last added up.
    pub(super) bytes: usize,
    pub(super) answered_ms: u64,
    /// When `message` came.
    pub(super) asked_ms: u64,
    /// A key has vanished since its set was read that may have events in it.
    is_stale: bool,
    /// Whether it stands among those that answer in the next turn.
    pub(super) is_ready: bool,
    set: Set,
    /// The sync set that it is read from.
    pub(super) sync_set: Option<u8>,
    /// Stretches of a sync set that have to be loaded before the answer.
    to_load: Vec<Span>,
}

impl Session {
    pub(super) fn new(
        client: Client,
        name: Rc<str>,
        filter: Filter,
        reader: Reader,
        now: Now,
    ) -> Self {
        Self {
            client,
            name,
            filter,
            reader,
            filter_bytes: 0,
            read: None,
            message: None,
            bytes: 0,
            answered_ms: now.monotonic_ms,
            asked_ms: now.monotonic_ms,
            is_stale: false,
            is_ready: false,
            set: Set::Whole(Items::default()),
            sync_set: None,
            to_load: Vec::new(),
        }
    }

    /// Begins to read the set from `shards`.
    pub(super) fn begin(&mut self, generation: u32, shards: Vec<ShardId>, sync_set: Option<u8>) {
        let (set, asked) = match sync_set {
            Some(number) => (Set::Incoming(Vec::new()), Asked::Sums(number)),
            None => (Set::Whole(Items::default()), Asked::Ids),
        };
        (self.set, self.sync_set) = (set, sync_set);
        let limit = self.filter.limit.unwrap_or(u64::MAX);
        let collect = Collect::new(shards.into_iter(), limit);
        let filters = Arc::from([self.filter.clone()]);
        let items = Vec::new();
        self.read = Some(Read { generation, asked, filters, collect, is_starved: false, items });
    }

    /// `key` has vanished: nothing that was read before may be told if events of it can be in it.
    pub(super) fn key_vanished(&mut self, key: &PublicKey) {
        let authors = self.filter.authors.as_ref();
        let has_asked_for = authors.is_none_or(|authors| authors.contains(key));
        // Gift wraps go with the key that they are for, whoever signed them.
        let is_reader = match &self.reader {
            Reader::Client(keys) => keys.contains(key),
            Reader::Operator => true,
        };
        self.is_stale |= has_asked_for || is_reader;
    }

    /// Whether [`Session::refresh`] has to be called before the next answer.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Forgets the ids of a set that is out of date. `true`: it has to be read as a whole again. Of
    /// a sync set only items are forgotten: sums tell no ids, and where they count what is gone the
    /// ends differ, and what is there is loaded.
    pub(super) fn refresh(&mut self) -> bool {
        self.is_stale = false;
        match &mut self.set {
            Set::Sums { set, .. } => {
                set.unload();
                false
            }
            Set::Whole(_) | Set::Incoming(_) => true,
        }
    }

    /// Whether a message waits: another one has to wait for it.
    pub(super) fn is_busy(&self) -> bool {
        self.message.is_some() || self.read.is_some()
    }

    /// Records held, those in shards' pages not counted.
    pub(super) fn records(&self) -> u64 {
        let read = self.read.as_ref().map_or(0, |read| read.items.len());
        (read + self.loaded()) as u64
    }

    fn loaded(&self) -> usize {
        match &self.set {
            Set::Whole(items) => items.len(),
            Set::Incoming(_) => 0,
            Set::Sums { set, .. } => set.loaded_items(),
        }
    }

    /// Bytes held, beside what the filter was charged with.
    pub(super) fn bytes_held(&self) -> usize {
        let read = self.read.as_ref().map_or(0, |read| read.collect.held() + read.items.len());
        let buckets = match &self.set {
            Set::Whole(_) => 0,
            Set::Incoming(sums) => sums.len(),
            Set::Sums { buckets, .. } => *buckets,
        };
        (read + self.loaded()) * RECORD_BYTES
            + buckets * BUCKET_BYTES
            + self.message.as_ref().map_or(0, Vec::capacity)
    }

    /// Takes a shard's page of ids.
    pub(super) fn take_ids(
        &mut self,
        shard: ShardId,
        ids: Vec<Position>,
        complete_to: Option<Position>,
    ) {
        let Some(read) = &mut self.read else { return };
        read.collect.take(shard, ids, complete_to);
        let item = |at: Position| Item { created_at: at.created_at, id: at.id };
        match (&read.asked, &mut self.set) {
            (Asked::Ids, Set::Whole(items)) => read.collect.drain(|at| items.push(item(at))),
            _ => {
                let items = &mut read.items;
                read.collect.drain(|at| items.push(item(at)));
            }
        }
    }

    /// Takes a shard's sums, which are in order of bucket; `None` if it has none now.
    pub(super) fn take_sums(&mut self, shard: ShardId, sums: Option<&[(u32, Accumulator)]>) {
        let Some(read) = &mut self.read else { return };
        read.collect.take(shard, Vec::new(), None);
        let Some(sums) = sums else {
            self.sync_set = None;
            return;
        };
        let first = bucket_of(self.filter.since.map_or(0, seconds));
        let last = bucket_of(self.filter.until.map_or(u32::MAX, seconds));
        let theirs = sums.iter().filter(|(bucket, _)| (first..=last).contains(bucket));
        let Set::Incoming(ours) = &mut self.set else { return };
        *ours = merged(ours, theirs);
    }

    /// Enters what was read.
    pub(super) fn finish_read(&mut self) {
        let Some(read) = self.read.take() else { return };
        match (read.asked, &mut self.set) {
            (Asked::Ids, Set::Whole(items)) => items.settle(),
            (Asked::Sums(_), Set::Incoming(sums)) => {
                let sums = std::mem::take(sums);
                let buckets = sums.len();
                self.to_load = self.edges();
                self.set = Set::Sums { set: BucketedItems::new(sums), buckets };
            }
            (Asked::Stretch(span), Set::Sums { set, .. }) => set.load(span, read.items),
            (Asked::Ids | Asked::Sums(_) | Asked::Stretch(_), _) => {}
        }
    }

    /// Whether a shard had no sums, so that everything has to be read.
    pub(super) fn lacks_sums(&self) -> bool {
        self.sync_set.is_none() && matches!(self.set, Set::Sums { .. })
    }

    /// The buckets at the ends of the filter's window of which it covers only a part: their sums are
    /// of too much.
    fn edges(&self) -> Vec<Span> {
        let since = self.filter.since.map_or(0, seconds);
        let until = self.filter.until.map_or(u32::MAX, seconds);
        let bucket = |at: u32| {
            let start = bucket_of(at) << BUCKET_BITS;
            Span { since: start, until: start | ((1 << BUCKET_BITS) - 1) }
        };
        let (first, last) = (bucket(since), bucket(until));
        let mut edges = Vec::new();
        if first.since < since || (first == last && until < last.until) {
            edges.push(first);
        }
        if until < last.until && first != last {
            edges.push(last);
        }
        edges
    }

    /// Answers the waiting message, or says what has to be loaded for that.
    pub(super) fn answer(&self, frame_bytes_max: usize) -> Result<Answer, NegError> {
        let message = self.message.as_deref().unwrap_or_default();
        match &self.set {
            Set::Whole(items) => respond(items, message, frame_bytes_max),
            Set::Sums { set, .. } => respond(set, message, frame_bytes_max),
            Set::Incoming(_) => respond(&Items::default(), message, frame_bytes_max),
        }
    }

    /// Notes what has to be loaded; returns how many items there will be then.
    pub(super) fn will_load(&mut self, spans: Vec<Span>) -> u64 {
        let Set::Sums { set, .. } = &self.set else { return 0 };
        let more: u64 = spans.iter().map(|span| set.items_in(*span)).sum();
        self.to_load = spans;
        more + set.loaded_items() as u64
    }

    pub(super) fn has_more_to_load(&self) -> bool {
        !self.to_load.is_empty()
    }

    /// Begins to load the next stretch of what has to be loaded.
    pub(super) fn begin_loading(&mut self, generation: u32, shards: Vec<ShardId>) {
        let Some(span) = self.next_stretch() else { return };
        let since = u64::from(span.since).max(self.filter.since.unwrap_or(0));
        let until = u64::from(span.until).min(self.filter.until.unwrap_or(u64::MAX));
        let window = Filter { since: Some(since), until: Some(until), ..self.filter.clone() };
        let filters = Arc::from([window]);
        let collect = Collect::new(shards.into_iter(), u64::MAX);
        let asked = Asked::Stretch(span);
        let items = Vec::new();
        self.read = Some(Read { generation, asked, filters, collect, is_starved: false, items });
    }

    /// One stretch of what has to be loaded: a read of several windows would be one of everything
    /// between the first and the last. Stretches with little between them are taken as one.
    fn next_stretch(&mut self) -> Option<Span> {
        let Set::Sums { set, .. } = &self.set else { return self.to_load.pop() };
        let mut span = self.to_load.pop()?;
        let (first, mut last) = (bucket_of(span.since), bucket_of(span.until));
        while set.items_in(span) > LOAD_ITEMS_MAX && first < last {
            last = first + (last - first) / 2;
            let cut = (last + 1) << BUCKET_BITS;
            self.to_load.push(Span { since: cut, until: span.until });
            span.until = cut - 1;
        }
        while let Some(earlier) = self.to_load.last().filter(|have| have.until < span.since) {
            let both = Span { since: earlier.since, until: span.until };
            let between = set.items_in(both) - set.items_in(span) - set.items_in(*earlier);
            if between > GAP_ITEMS_MAX || set.items_in(both) > LOAD_ITEMS_MAX {
                break;
            }
            span = both;
            self.to_load.pop();
        }
        Some(span)
    }

    /// Forgets loaded items of a sync set if there are more than `items_max`: they can be loaded
    /// again.
    pub(super) fn forget_items(&mut self, items_max: u64) {
        if let Set::Sums { set, .. } = &mut self.set
            && set.loaded_items() as u64 > items_max
        {
            set.unload();
        }
    }

    /// Messages to the shards that still work on the read under way: they need not go on.
    pub(super) fn cancels(&self, slot: usize) -> Vec<(ShardId, ToShard)> {
        let Some(read) = &self.read else { return Vec::new() };
        let query = read.id(slot);
        let working =
            read.collect.parts.iter().filter(|part| part.is_started && !part.is_exhausted);
        working.map(|part| (part.shard, ToShard::Cancel { query })).collect()
    }
}
