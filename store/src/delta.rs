//! What is durable in the log and not yet in the index: an arena of event headers with posting
//! lists, the sequences that are dead, markers, slots.
//!
//! A [`Generation`] is owned by the shard's core while it is open; frozen, it is shared with the
//! checkpoint that moves it into the index. Its size is counted in bytes as it grows; the store
//! freezes it at half of the delta's bound.

use crate::effect::{IndexRow, Kinds, Loc, Position, Seq, Source, Stream};
use crate::key::{EventKeys, id4, tie_end};
use crate::record::KillCause;
use proto::nip::nip01::{SlotKey, Version};
use proto::{EventId, PublicKey, SeededMap, SeededSet, SeededState};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Entries at the end of a posting list that may be out of order.
const TAIL_ENTRIES_MAX: usize = 256;
/// What a map entry costs besides its key and value, for the count of bytes.
const MAP_ENTRY_BYTES: usize = 24;
/// What a posting list costs at least: its place in a map and its first allocation.
const LIST_BYTES: usize = size_of::<(u64, Postings)>() + MAP_ENTRY_BYTES + 64;

/// The latest request of a key to vanish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vanish {
    /// Events of the key up to this second, inclusive, are covered.
    pub until: u32,
    /// Sequence of the record: gift wraps to the key that were stored before it are covered.
    pub seq: Seq,
}

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// The record that killed it.
    pub by: Seq,
    /// Why.
    pub why: KillCause,
}

/// An event of the delta.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Its sequence.
    pub seq: Seq,
    /// Its id.
    pub id: EventId,
    /// Its place.
    pub loc: Loc,
    /// Unix seconds.
    pub created_at: u32,
    /// Kind.
    pub kind: u16,
    /// Keyed hash of the author.
    pub author: u64,
    /// Slot of a replaceable event.
    pub slot: Option<SlotKey>,
    tags_from: u32,
    tags_count: u32,
}

impl Header {
    /// Where the event stands in answers.
    pub fn position(&self) -> Position {
        Position { created_at: self.created_at, id: self.id }
    }

    /// The event as an index would answer it.
    pub fn row(&self) -> IndexRow {
        IndexRow { position: self.position(), seq: self.seq, loc: self.loc }
    }

    /// The event as the rule of replacement sees it.
    pub fn version(&self) -> Version {
        Version { created_at: self.created_at, id: self.id }
    }
}

/// A posting: oldest first, so that events which arrive in order of time are appended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Posting {
    created_at: u32,
    lowest_id_last: Reverse<u32>,
    header: u32,
}

impl Posting {
    fn tie(&self) -> (u32, Reverse<u32>) {
        (self.created_at, self.lowest_id_last)
    }
}

/// A sorted run with an unsorted tail.
#[derive(Clone, Debug, Default)]
struct Postings {
    entries: Vec<Posting>,
    sorted: usize,
}

impl Postings {
    fn push(&mut self, posting: Posting) {
        let in_order = self.sorted == self.entries.len()
            && self.entries.last().is_none_or(|last| *last <= posting);
        self.entries.push(posting);
        if in_order {
            self.sorted += 1;
        } else if self.entries.len() - self.sorted > TAIL_ENTRIES_MAX {
            self.merge();
        }
    }

    /// Sorts the tail into the run; only the part of the run that the tail reaches is touched.
    fn merge(&mut self) {
        let Some(least) = self.entries[self.sorted..].iter().min().copied() else { return };
        let from = self.entries[..self.sorted].partition_point(|entry| *entry < least);
        self.entries[from..].sort();
        self.sorted = self.entries.len();
    }
}

/// A contiguous run of the shard's history, in memory.
#[derive(Clone, Debug)]
pub struct Generation {
    seed: SeededState,
    first_seq: Seq,
    last_seq: Seq,
    headers: Vec<Header>,
    tags: Vec<u64>,
    ids: SeededMap<EventId, u32>,
    slots: SeededMap<SlotKey, u32>,
    by_time: Postings,
    by_kind: SeededMap<u16, Postings>,
    by_author: SeededMap<u64, Postings>,
    by_tag: SeededMap<u64, Postings>,
    /// Victim to the record that killed it.
    dead: SeededMap<Seq, Death>,
    marked_ids: SeededSet<(EventId, PublicKey)>,
    marked_slots: SeededMap<SlotKey, u32>,
    vanished: SeededMap<PublicKey, Vanish>,
    purged: SeededMap<PublicKey, u32>,
    frozen_unix_s: u64,
    bytes: usize,
}

impl Generation {
    /// An empty generation whose first record will have sequence `first_seq`.
    pub fn new(first_seq: Seq, seed: SeededState) -> Self {
        assert!(first_seq > 0, "sequences begin at 1");
        Self {
            seed,
            first_seq,
            last_seq: first_seq - 1,
            headers: Vec::new(),
            tags: Vec::new(),
            ids: SeededMap::with_hasher(seed),
            slots: SeededMap::with_hasher(seed),
            by_time: Postings::default(),
            by_kind: SeededMap::with_hasher(seed),
            by_author: SeededMap::with_hasher(seed),
            by_tag: SeededMap::with_hasher(seed),
            dead: SeededMap::with_hasher(seed),
            marked_ids: SeededSet::with_hasher(seed),
            marked_slots: SeededMap::with_hasher(seed),
            vanished: SeededMap::with_hasher(seed),
            purged: SeededMap::with_hasher(seed),
            frozen_unix_s: 0,
            bytes: 0,
        }
    }

    /// Sequence of the first record.
    pub fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// Sequence of the last record; one less than the first while there is none.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.last_seq < self.first_seq
    }

    /// Number of records, at most.
    pub fn records(&self) -> u64 {
        (self.last_seq + 1).saturating_sub(self.first_seq)
    }

    /// Number of events.
    pub fn events(&self) -> usize {
        self.headers.len()
    }

    /// Bytes held, allocator overhead estimated.
    pub fn bytes_held(&self) -> usize {
        self.bytes
    }

    /// The events in order of sequence, dead ones included.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// Tag hashes of an event of this generation.
    pub fn tags(&self, header: &Header) -> &[u64] {
        let from = header.tags_from as usize;
        &self.tags[from..from + header.tags_count as usize]
    }

    /// The events of an author, in no order, dead ones included.
    pub fn of_author(&self, author: u64) -> impl Iterator<Item = &Header> {
        self.listed(self.by_author.get(&author))
    }

    /// The events with a tag, in no order, dead ones included.
    pub fn of_tag(&self, tag: u64) -> impl Iterator<Item = &Header> {
        self.listed(self.by_tag.get(&tag))
    }

    fn listed<'a>(&'a self, list: Option<&'a Postings>) -> impl Iterator<Item = &'a Header> {
        let entries = list.into_iter().flat_map(|list| &list.entries);
        entries.map(|posting| &self.headers[posting.header as usize])
    }

    /// Sequences that this generation's records killed, wherever their events are.
    pub fn kills(&self) -> impl Iterator<Item = Seq> + '_ {
        self.dead.keys().copied()
    }

    /// Whether a record of this generation killed `seq`.
    pub fn killed(&self, seq: Seq) -> bool {
        self.dead.contains_key(&seq)
    }

    /// How `seq` was killed, if by a record of this generation.
    pub fn death(&self, seq: Seq) -> Option<Death> {
        self.dead.get(&seq).copied()
    }

    /// The record of this generation that killed `seq`.
    pub fn killed_by(&self, seq: Seq) -> Option<Seq> {
        self.dead.get(&seq).map(|death| death.by)
    }

    /// Events that this generation's records killed, wherever they are, and how.
    pub fn deaths(&self) -> impl Iterator<Item = (Seq, Death)> + '_ {
        self.dead.iter().map(|(victim, death)| (*victim, *death))
    }

    /// Keys that asked to vanish in this generation.
    pub fn vanished(&self) -> impl Iterator<Item = (&PublicKey, Vanish)> + '_ {
        self.vanished.iter().map(|(key, vanish)| (key, *vanish))
    }

    /// Keys whose purge ended in this generation, and up to when.
    pub fn purged(&self) -> impl Iterator<Item = (&PublicKey, u32)> + '_ {
        self.purged.iter().map(|(key, until)| (key, *until))
    }

    /// Up to when the purge of a key ended in this generation.
    pub fn purged_until(&self, key: &PublicKey) -> Option<u32> {
        self.purged.get(key).copied()
    }

    /// Up to when a key asked to vanish in this generation.
    pub fn vanished_until(&self, key: &PublicKey) -> Option<u32> {
        self.vanished.get(key).map(|vanish| vanish.until)
    }

    /// Deleted ids and who deleted them.
    pub fn marked_ids(&self) -> impl Iterator<Item = &(EventId, PublicKey)> + '_ {
        self.marked_ids.iter()
    }

    /// Deleted slots and up to when.
    pub fn marked_slots(&self) -> impl Iterator<Item = (&SlotKey, u32)> + '_ {
        self.marked_slots.iter().map(|(slot, until)| (slot, *until))
    }

    /// Whether `by` deleted `id` in this generation.
    pub fn marked_id(&self, id: &EventId, by: &PublicKey) -> bool {
        self.marked_ids.contains(&(*id, *by))
    }

    /// Up to when a slot was deleted in this generation.
    pub fn marked_slot(&self, slot: &SlotKey) -> Option<u32> {
        self.marked_slots.get(slot).copied()
    }

    /// The last event with this id that was put in this generation, dead or not.
    pub fn find_id(&self, id: &EventId) -> Option<&Header> {
        self.ids.get(id).map(|index| &self.headers[*index as usize])
    }

    /// The last event that took this slot in this generation, dead or not.
    pub fn find_slot(&self, slot: &SlotKey) -> Option<&Header> {
        self.slots.get(slot).map(|index| &self.headers[*index as usize])
    }

    fn advance(&mut self, seq: Seq) {
        assert_eq!(seq, self.last_seq + 1, "records enter the delta in order, each once");
        self.last_seq = seq;
    }

    /// Applies a `Put`.
    pub fn put(&mut self, seq: Seq, loc: Loc, keys: &EventKeys) {
        self.advance(seq);
        let index = u32::try_from(self.headers.len()).expect("bounded far below 2^32 by its bytes");
        let header = Header {
            seq,
            id: keys.id,
            loc,
            created_at: keys.created_at,
            kind: keys.kind,
            author: keys.author,
            slot: keys.slot,
            tags_from: self.tags.len() as u32,
            tags_count: keys.tags.len() as u32,
        };
        let posting = Posting {
            created_at: keys.created_at,
            lowest_id_last: Reverse(id4(&keys.id)),
            header: index,
        };
        self.headers.push(header);
        self.tags.extend_from_slice(&keys.tags);
        self.ids.insert(keys.id, index);
        if let Some(slot) = keys.slot {
            self.slots.insert(slot, index);
            self.bytes += size_of::<(SlotKey, u32)>() + MAP_ENTRY_BYTES;
        }
        self.by_time.push(posting);
        self.by_kind.entry(keys.kind).or_default().push(posting);
        let mut lists = 0;
        let authors = self.by_author.len();
        self.by_author.entry(keys.author).or_default().push(posting);
        lists += self.by_author.len() - authors;
        for tag in &keys.tags {
            let tags = self.by_tag.len();
            self.by_tag.entry(*tag).or_default().push(posting);
            lists += self.by_tag.len() - tags;
        }
        self.bytes += size_of::<Header>()
            + size_of::<(EventId, u32)>()
            + MAP_ENTRY_BYTES
            + keys.tags.len() * 8
            // A list that grows by doubling is three quarters full on average.
            + (3 + keys.tags.len()) * size_of::<Posting>() * 4 / 3
            + lists * LIST_BYTES;
    }

    /// Applies a `Kill`.
    pub fn kill(&mut self, seq: Seq, victim: Seq, why: KillCause) {
        self.advance(seq);
        self.dead.entry(victim).or_insert(Death { by: seq, why });
        self.bytes += size_of::<(Seq, Death)>() + MAP_ENTRY_BYTES;
    }

    /// Applies a `MarkId`.
    pub fn mark_id(&mut self, seq: Seq, id: EventId, by: PublicKey) {
        self.advance(seq);
        self.marked_ids.insert((id, by));
        self.bytes += size_of::<(EventId, PublicKey)>() + MAP_ENTRY_BYTES;
    }

    /// Applies a `MarkSlot`.
    pub fn mark_slot(&mut self, seq: Seq, slot: SlotKey, until: u32) {
        self.advance(seq);
        let marked = self.marked_slots.entry(slot).or_insert(until);
        *marked = until.max(*marked);
        self.bytes += size_of::<(SlotKey, u32)>() + MAP_ENTRY_BYTES;
    }

    /// Applies a `Vanish`.
    pub fn vanish(&mut self, seq: Seq, key: PublicKey, until: u32) {
        self.advance(seq);
        let latest = self.vanished.entry(key).or_insert(Vanish { until, seq });
        if latest.until < until {
            *latest = Vanish { until, seq };
        }
        self.bytes += size_of::<(PublicKey, Vanish)>() + MAP_ENTRY_BYTES;
    }

    /// Applies a `Purged`.
    pub fn end_purge(&mut self, seq: Seq, key: PublicKey, until: u32) {
        self.advance(seq);
        let purged = self.purged.entry(key).or_insert(until);
        *purged = until.max(*purged);
        self.bytes += size_of::<(PublicKey, u32)>() + MAP_ENTRY_BYTES;
    }

    /// No record of a sequence up to `through` is left: a rewriting dropped those that meant
    /// nothing any more.
    pub fn skip(&mut self, through: Seq) {
        self.last_seq = self.last_seq.max(through);
    }

    /// Notes when the generation was frozen.
    pub fn freeze(&mut self, unix_s: u64) {
        self.frozen_unix_s = unix_s;
    }

    /// When it was frozen, in unix seconds; 0 for a generation that recovery made, whose kills may
    /// be of any age.
    pub fn frozen_unix_s(&self) -> u64 {
        self.frozen_unix_s
    }

    /// The open generation that follows this one.
    pub fn successor(&self) -> Self {
        Self::new(self.last_seq + 1, self.seed)
    }
}

/// Rows of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaPage {
    /// In order, each event once, dead ones included.
    pub rows: Vec<IndexRow>,
    /// Every row at or before this position is in `rows`; `None` for all there are.
    pub complete_to: Option<Position>,
}

/// What [`Generation::scan`] is asked for.
#[derive(Clone, Copy, Debug)]
pub struct DeltaScan<'a> {
    /// The union's streams.
    pub streams: &'a [Stream],
    /// Rows at or before this position have been answered.
    pub after: Option<Position>,
    /// Rows with a sequence at or below this are the index's.
    pub above: Seq,
    /// Rows to return, ties of the last position excepted.
    pub rows_max: usize,
}

/// Postings of one stream within its window, newest first.
struct Cursor<'a> {
    run: &'a [Posting],
    tail: Vec<Posting>,
    kinds: Option<&'a [u16]>,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<Posting> {
        self.run.last().copied().max(self.tail.last().copied())
    }

    fn pop(&mut self) -> Option<Posting> {
        if self.run.last() >= self.tail.last() {
            let (last, rest) = self.run.split_last()?;
            self.run = rest;
            Some(*last)
        } else {
            self.tail.pop()
        }
    }
}

impl Generation {
    /// Rows of a union of streams, in order.
    pub fn scan(&self, scan: &DeltaScan<'_>) -> DeltaPage {
        let mut page = DeltaPage::default();
        if self.last_seq <= scan.above || self.headers.is_empty() {
            return page;
        }
        let mut cursors: Vec<Cursor<'_>> =
            scan.streams.iter().filter_map(|stream| self.cursor(stream, scan.after)).collect();
        let mut heads: BinaryHeap<(Posting, usize)> = cursors
            .iter()
            .enumerate()
            .filter_map(|(index, cursor)| Some((cursor.peek()?, index)))
            .collect();
        let mut group: Vec<IndexRow> = Vec::new();
        while let Some(tie) = heads.peek().map(|(posting, _)| posting.tie()) {
            if page.rows.len() >= scan.rows_max {
                let last = page.rows.last().map_or(u32::MAX, |row| row.position.created_at);
                let id4 = page.rows.last().map_or(0, |row| id4(&row.position.id));
                page.complete_to = Some(tie_end(last, id4));
                break;
            }
            while let Some((posting, index)) = heads.peek().copied()
                && posting.tie() == tie
            {
                heads.pop();
                cursors[index].pop();
                heads.extend(cursors[index].peek().map(|next| (next, index)));
                self.take(posting, cursors[index].kinds, scan, &mut group);
            }
            group.sort_by_key(|row| (row.position, row.seq));
            group.dedup_by_key(|row| row.seq);
            page.rows.append(&mut group);
        }
        page
    }

    fn take(
        &self,
        posting: Posting,
        kinds: Option<&[u16]>,
        scan: &DeltaScan<'_>,
        group: &mut Vec<IndexRow>,
    ) {
        let header = &self.headers[posting.header as usize];
        let is_wanted = kinds.is_none_or(|kinds| kinds.binary_search(&header.kind).is_ok())
            && header.seq > scan.above
            && scan.after.is_none_or(|after| header.position() > after);
        if is_wanted {
            group.push(header.row());
        }
    }

    fn cursor<'a>(&'a self, stream: &'a Stream, after: Option<Position>) -> Option<Cursor<'a>> {
        if stream.since > stream.until {
            return None;
        }
        let (postings, kinds) = match &stream.source {
            Source::Time => (&self.by_time, None),
            Source::Kind(kind) => (self.by_kind.get(kind)?, None),
            Source::Author(author, kinds) => (self.by_author.get(author)?, these(kinds)),
            Source::Tag(tag, kinds) => (self.by_tag.get(tag)?, these(kinds)),
            Source::Id(id) => return self.id_cursor(id, stream),
        };
        let newest = after.map_or(stream.until, |after| stream.until.min(after.created_at));
        let in_window = |entry: &Posting| (stream.since..=newest).contains(&entry.created_at);
        let run = &postings.entries[..postings.sorted];
        let from = run.partition_point(|entry| entry.created_at < stream.since);
        let to = match after {
            // Postings of the position's own tie stay in: the full id decides about them.
            Some(after) if after.created_at <= stream.until => {
                let tie = (after.created_at, Reverse(id4(&after.id)));
                run.partition_point(|entry| entry.tie() <= tie)
            }
            _ => run.partition_point(|entry| entry.created_at <= stream.until),
        };
        let tail = &postings.entries[postings.sorted..];
        let mut tail: Vec<Posting> =
            tail.iter().filter(|entry| in_window(entry)).copied().collect();
        tail.sort_unstable();
        Some(Cursor { run: run.get(from..to).unwrap_or(&[]), tail, kinds })
    }

    fn id_cursor(&self, id: &EventId, stream: &Stream) -> Option<Cursor<'_>> {
        let header = self.ids.get(id).copied()?;
        let created_at = self.headers[header as usize].created_at;
        if !(stream.since..=stream.until).contains(&created_at) {
            return None;
        }
        let posting = Posting { created_at, lowest_id_last: Reverse(id4(id)), header };
        Some(Cursor { run: &[], tail: vec![posting], kinds: None })
    }
}

fn these(kinds: &Kinds) -> Option<&[u16]> {
    match kinds {
        Kinds::All => None,
        Kinds::These(kinds) => Some(kinds),
    }
}
