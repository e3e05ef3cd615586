//! Generations of the index: the rows by id, time, kind, author and tag are split by the arrival of
//! their events, so that inserting costs what it costs in a small index however much is stored.
//!
//! A generation is a range of sequences. The youngest is *open*: a checkpoint inserts into its
//! tables, which are one of two halves. When it is large enough it is closed, the other half becomes
//! the open generation's, and [`super::upkeep`] copies the closed one in the order of its keys behind
//! everything that the sealed tables hold: its rows are then a *run*, whose keys begin with the
//! run's number, in full pages. The half is emptied as a whole and waits for its next turn. While
//! none is free the open generation grows beyond its size; nothing else suffers.
//!
//! **What is not split.** `loc` is in order of sequences as it is. Slots, markers and vanished keys
//! are asked for by their whole key before an event is accepted, and most of the questions find
//! nothing: one tree is one search. Expirations are removed by the first key of the table.
//!
//! **Ids** are split although they are asked for by key, because every event has one and they come
//! in no order: with four million of them in one table, a checkpoint of 65,536 touches 85 % of its
//! 35,000 pages, one for every second event. Who looks for an id looks into the open generation,
//! then, newest first, into those whose filter ([`crate::index::filter`]) says "maybe": one, as a
//! rule. The bench `generations` has the price: at four million events a question about a stored id
//! takes a quarter more than in one table (one search of the open generation), one about an unknown
//! id the same; a checkpoint with everything that sealing costs takes half.
//!
//! **The dead.** What dies in the open generation leaves its tables at the checkpoint that learns of
//! it. In a closed one only the place, the slot and the expiration go; a row without a place is
//! skipped by whoever meets it, and counted. A run with many of them is written anew, together with
//! a neighbour if both are small by then.
//!
//! The list is one row of table `meta`, read in every snapshot, so that a page sees lists and rows
//! of one moment.

use super::{ReadRows, Table, WriteRows, damaged};
use crate::effect::{Seq, WorldError};
use crate::index::Rows;
use crate::key::{SEQ_BYTES, push_seq, read_seq};

/// Key of the list in table `meta`.
pub(super) const META_GENERATIONS: &[u8] = b"generations";
/// Bytes of a run's number in a key.
pub const RUN_BYTES: usize = 3;
/// Greatest number of a run; a rebuilt index begins again with the first.
const RUN_MAX: u32 = (1 << (8 * RUN_BYTES)) - 1;

/// One of the two sets of tables that generations are inserted into by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The first.
    A,
    /// The second.
    B,
}

impl Half {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The table of this half that holds what `table` holds of sealed generations.
    pub fn table(self, table: Table) -> Table {
        match (table, self) {
            (Table::Id, Self::A) => Table::IdA,
            (Table::Id, Self::B) => Table::IdB,
            (Table::Time, Self::A) => Table::TimeA,
            (Table::Time, Self::B) => Table::TimeB,
            (Table::Kind, Self::A) => Table::KindA,
            (Table::Kind, Self::B) => Table::KindB,
            (Table::Author, Self::A) => Table::AuthorA,
            (Table::Author, Self::B) => Table::AuthorB,
            (Table::Tag, Self::A) => Table::TagA,
            (Table::Tag, Self::B) => Table::TagB,
            (global, _) => global,
        }
    }
}

/// Where the rows of a generation lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// In tables of their own.
    Half(Half),
    /// Among those of the sealed ones.
    Run(u32),
}

impl Lies {
    /// The table that holds what `table` stands for.
    pub fn table(self, table: Table) -> Table {
        match self {
            Self::Half(half) => half.table(table),
            Self::Run(_) => table,
        }
    }

    /// What every key begins with.
    pub fn push_prefix(self, key: &mut Vec<u8>) {
        if let Self::Run(run) = self {
            key.extend_from_slice(&run.to_be_bytes()[4 - RUN_BYTES..]);
        }
    }

    /// A key as it stands in the table.
    pub fn key(self, key: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(RUN_BYTES + key.len());
        self.push_prefix(&mut whole);
        whole.extend_from_slice(key);
        whole
    }

    /// A key of the table without what it begins with; `None` for a key of another run.
    pub fn strip(self, key: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Half(_) => Some(key),
            Self::Run(run) => key.strip_prefix(&run.to_be_bytes()[4 - RUN_BYTES..]),
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        let (kind, run) = match self {
            Self::Half(Half::A) => (0, 0),
            Self::Half(Half::B) => (1, 0),
            Self::Run(run) => (2, run),
        };
        out.push(kind);
        out.extend_from_slice(&run.to_be_bytes());
    }

    fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        match (bytes.byte()?, bytes.word()?) {
            (0, _) => Some(Self::Half(Half::A)),
            (1, _) => Some(Self::Half(Half::B)),
            (2, run) => Some(Self::Run(run)),
            _ => None,
        }
    }
}

/// A generation of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexGeneration {
    /// Its first sequence.
    pub first_seq: Seq,
    /// Its last sequence; 0 for the open one.
    pub last_seq: Seq,
    /// Where its rows lie.
    pub lies: Lies,
    /// Events with rows in it.
    pub events: u64,
    /// Those of them that are dead.
    pub dead: u64,
    /// No event in it is older, in unix seconds.
    pub oldest: u32,
    /// No event in it is newer.
    pub newest: u32,
}

impl IndexGeneration {
    fn open(first_seq: Seq, half: Half) -> Self {
        let lies = Lies::Half(half);
        Self { first_seq, last_seq: 0, lies, events: 0, dead: 0, oldest: u32::MAX, newest: 0 }
    }

    /// Whether checkpoints insert into it.
    pub fn is_open(&self) -> bool {
        self.last_seq == 0
    }

    /// Events in it that live.
    pub fn live(&self) -> u64 {
        self.events.saturating_sub(self.dead)
    }

    /// Counts an event.
    pub(super) fn add(&mut self, created_at: u32) {
        self.events += 1;
        self.oldest = self.oldest.min(created_at);
        self.newest = self.newest.max(created_at);
    }
}

/// What upkeep is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Generations are being copied into a run.
    Copying(Copying),
    /// Rows that no generation claims any more are being removed.
    Clearing(Vec<Lies>),
}

/// A copying under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copying {
    /// First sequence of the first of the generations.
    pub(super) first_seq: Seq,
    /// How many there are, side by side.
    pub(super) count: u8,
    /// The run that they become.
    pub(super) run: u32,
    /// Those of their events that were dead when it began, and are left out.
    pub(super) left_out: u64,
    /// Tables of [`Table::SPLIT`] that are done.
    pub(super) tables_done: u8,
    /// The last key that has been copied of the next one.
    pub(super) after: Vec<u8>,
}

/// All generations of a shard's index, and what upkeep is at. Read from a snapshot and dropped with
/// it; about 50 bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    /// In order of their sequences; the last one is open.
    pub(super) list: Vec<IndexGeneration>,
    pub(super) runs_begun: u32,
    pub(super) work: Option<Work>,
}

impl Generations {
    /// The generations of a snapshot.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails or the row makes no sense.
    pub fn read(rows: &dyn ReadRows) -> Result<Self, WorldError> {
        let mut found = Some(Self::default());
        rows.row(Table::Meta, META_GENERATIONS, &mut |value| found = Self::decode(value))?;
        found.ok_or_else(|| damaged(Table::Meta))
    }

    pub(super) fn write(&self, to: &mut dyn WriteRows) -> Result<(), WorldError> {
        let mut rows = Rows::default();
        rows.put(META_GENERATIONS, &self.encode());
        to.apply(Table::Meta, &rows)
    }

    /// The generations, in order of their sequences.
    pub fn list(&self) -> &[IndexGeneration] {
        &self.list
    }

    /// Whether upkeep is under way.
    pub fn is_at_work(&self) -> bool {
        self.work.is_some()
    }

    /// The generation that a sequence belongs to.
    pub fn of(&self, seq: Seq) -> Option<&IndexGeneration> {
        self.list.get(self.index_of(seq)?)
    }

    fn index_of(&self, seq: Seq) -> Option<usize> {
        self.list.partition_point(|generation| generation.first_seq <= seq).checked_sub(1)
    }

    /// The open generation, which is made if there is none, and the half that it lies in.
    pub(super) fn open(&mut self, first_seq: Seq) -> (&mut IndexGeneration, Half) {
        let has_open = self.list.last().is_some_and(IndexGeneration::is_open);
        if !has_open {
            self.list.push(IndexGeneration::open(first_seq, Half::A));
        }
        let open = self.list.last_mut().expect("one was pushed if there was none");
        let Lies::Half(half) = open.lies else { unreachable!("a run is never open") };
        (open, half)
    }

    /// An event dies: whether its rows are to be removed, because its generation is open.
    pub(super) fn bury(&mut self, seq: Seq) -> bool {
        let Some(at) = self.index_of(seq) else { return false };
        let generation = &mut self.list[at];
        if generation.is_open() {
            generation.events = generation.events.saturating_sub(1);
            return true;
        }
        generation.dead += 1;
        false
    }

    /// Closes the open generation at `last_seq`; the next one begins after it, in the other half.
    pub(super) fn close(&mut self, last_seq: Seq) {
        let Some(open) = self.list.last_mut() else { return };
        let Lies::Half(half) = open.lies else { unreachable!("a run is never open") };
        open.last_seq = last_seq;
        self.list.push(IndexGeneration::open(last_seq + 1, half.other()));
    }

    /// The number of a new run; `None` when there are no more.
    pub(super) fn begin_run(&mut self) -> Option<u32> {
        let run = self.runs_begun;
        if run > RUN_MAX {
            return None;
        }
        self.runs_begun += 1;
        Some(run)
    }

    /// Where in the list the sources of a copying are.
    pub(super) fn sources(&self, copying: &Copying) -> Option<std::ops::Range<usize>> {
        let from = self.index_of(copying.first_seq)?;
        let to = from + usize::from(copying.count);
        let sources = self.list.get(from..to)?;
        let are_those = sources.first()?.first_seq == copying.first_seq
            && sources.iter().all(|source| !source.is_open());
        are_those.then_some(from..to)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.runs_begun.to_be_bytes().to_vec();
        out.extend_from_slice(&(self.list.len() as u32).to_be_bytes());
        for generation in &self.list {
            push_seq(&mut out, generation.first_seq);
            push_seq(&mut out, generation.last_seq);
            generation.lies.encode(&mut out);
            out.extend_from_slice(&generation.events.to_be_bytes());
            out.extend_from_slice(&generation.dead.to_be_bytes());
            out.extend_from_slice(&generation.oldest.to_be_bytes());
            out.extend_from_slice(&generation.newest.to_be_bytes());
        }
        match &self.work {
            None => out.push(0),
            Some(Work::Copying(copying)) => {
                out.push(1);
                push_seq(&mut out, copying.first_seq);
                out.push(copying.count);
                out.extend_from_slice(&copying.run.to_be_bytes());
                out.extend_from_slice(&copying.left_out.to_be_bytes());
                out.push(copying.tables_done);
                out.push(copying.after.len() as u8);
                out.extend_from_slice(&copying.after);
            }
            Some(Work::Clearing(sources)) => {
                out.extend_from_slice(&[2, sources.len() as u8]);
                sources.iter().for_each(|lies| lies.encode(&mut out));
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        let runs_begun = bytes.word()?;
        let count = bytes.word()?;
        let list = (0..count).map(|_| bytes.generation()).collect::<Option<Vec<_>>>()?;
        let work = match bytes.byte()? {
            0 => None,
            1 => Some(Work::Copying(bytes.copying()?)),
            2 => {
                let count = bytes.byte()?;
                let sources = (0..count).map(|_| Lies::decode(&mut bytes));
                Some(Work::Clearing(sources.collect::<Option<Vec<_>>>()?))
            }
            _ => return None,
        };
        let rises = list.windows(2).all(|pair| pair[0].first_seq < pair[1].first_seq);
        let is_whole = bytes.0.is_empty() && rises;
        is_whole.then_some(Self { list, runs_begun, work })
    }
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn seq(&mut self) -> Option<Seq> {
        read_seq(self.take(SEQ_BYTES)?)
    }

    fn generation(&mut self) -> Option<IndexGeneration> {
        Some(IndexGeneration {
            first_seq: self.seq()?,
            last_seq: self.seq()?,
            lies: Lies::decode(self)?,
            events: self.long()?,
            dead: self.long()?,
            oldest: self.word()?,
            newest: self.word()?,
        })
    }

    fn copying(&mut self) -> Option<Copying> {
        Some(Copying {
            first_seq: self.seq()?,
            count: self.byte()?,
            run: self.word()?,
            left_out: self.long()?,
            tables_done: self.byte()?,
            after: {
                let count = self.byte()?;
                self.take(count.into())?.to_vec()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Generations {
        let mut generations = Generations::default();
        generations.open(1).0.add(50);
        generations.close(9);
        generations.open(77).0.add(60);
        generations
    }

    #[test]
    fn lists_are_read_back_with_what_is_under_way() {
        let copying = Copying {
            first_seq: 1,
            count: 1,
            run: 7,
            left_out: 3,
            tables_done: 2,
            after: vec![1, 2, 3],
        };
        let clearing = vec![Lies::Half(Half::B), Lies::Run(RUN_MAX)];
        for work in [None, Some(Work::Copying(copying)), Some(Work::Clearing(clearing))] {
            let generations = Generations { work, ..some() };
            let bytes = generations.encode();
            assert_eq!(Generations::decode(&bytes), Some(generations));
            for cut in 0..bytes.len() {
                assert_eq!(Generations::decode(&bytes[..cut]), None, "{cut} bytes are no list");
            }
        }
    }

    #[test]
    fn every_sequence_belongs_to_the_generation_that_it_arrived_in() {
        let mut generations = some();
        let half = |seq| generations.of(seq).map(|generation| generation.lies);
        assert_eq!(half(0), None);
        assert_eq!((half(1), half(9)), (Some(Lies::Half(Half::A)), Some(Lies::Half(Half::A))));
        assert_eq!(half(10), Some(Lies::Half(Half::B)));
        assert_eq!(half(5_000), Some(Lies::Half(Half::B)), "the open one goes on");
        assert!(generations.bury(4_000) && !generations.bury(4));
        let counts = |at: usize| (generations.list()[at].events, generations.list()[at].dead);
        assert_eq!((counts(0), counts(1)), ((1, 1), (0, 0)));
        assert_eq!(generations.list()[0].newest, 50);
    }

    #[test]
    fn keys_of_a_run_are_its_own() {
        let run = Lies::Run(0x01_02_03);
        assert_eq!(run.key(b"key"), b"\x01\x02\x03key");
        assert_eq!(run.strip(b"\x01\x02\x03key"), Some(&b"key"[..]));
        assert_eq!(run.strip(b"\x01\x02\x04key"), None);
        assert_eq!(Lies::Half(Half::A).key(b"key"), b"key");
        for table in Table::SPLIT {
            assert_ne!(Half::A.table(table), Half::B.table(table));
            assert_eq!(run.table(table), table);
        }
    }
}
