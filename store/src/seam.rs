//! The two seams to the world: log segments and the index. Both block; the engine decides on which
//! thread they are called.

use crate::delta::Generation;
use crate::effect::{
    Answer, Found, IndexPage, IndexRow, Loc, LogEffect, LookupKey, Question, ScanRequest, Seq,
    StoreEffect, StoreInput, WorldError,
};
use crate::index::generations::IndexGeneration;
use crate::index::segments::{Remap, SegmentRow};
use crate::index::{Did, Table, UpkeepDone, UpkeepRequest};
use crate::key::EventKeys;
use crate::record;
use crate::rewrite;
use crate::sketch::SketchedCount;
use crate::sums::Resummed;
use crate::vanish::Purge;
use proto::{Event, Filter};

/// Bytes that a row that is copied takes in a page, at most.
const UPKEEP_ROW_BYTES: u64 = 40;

/// A segment as the directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentEntry {
    /// Its name.
    pub segment: Seq,
    /// Its length.
    pub bytes: u64,
}

/// The log segments of one shard. An instance belongs to one thread; several may work on the same
/// segments as long as one of them writes.
pub trait Segments {
    /// Every segment, in ascending order of name.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the world fails.
    fn list(&self) -> Result<Vec<SegmentEntry>, WorldError>;

    /// All bytes of a segment.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the world fails.
    fn read(&self, segment: Seq) -> Result<Vec<u8>, WorldError>;

    /// Up to `length` bytes at `offset`; fewer at the end of the segment.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the world fails.
    fn read_at(&self, segment: Seq, offset: u32, length: usize) -> Result<Vec<u8>, WorldError>;

    /// Makes a segment that begins with `header`, durably and all or nothing; a segment of that
    /// name, which recovery found to hold no batch, is replaced.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn create(&self, segment: Seq, header: &[u8]) -> Result<(), WorldError>;

    /// Writes `bytes` at `offset`. They are durable after [`Segments::sync`], and any of them may be
    /// gone if the machine stops before.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn write(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError>;

    /// Makes everything durable that has been written to a segment.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn sync(&self, segment: Seq) -> Result<(), WorldError>;

    /// Cuts a segment at `length`, durably.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn seal(&self, segment: Seq, length: u32) -> Result<(), WorldError>;

    /// Cuts a segment that another process wrote at `length`, durably. What it wrote last begins at
    /// `last`: if the sync of that failed, the system may hold it in memory only and take it for
    /// written, so that no later sync would write it. It is therefore written once more.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn reseal(&self, segment: Seq, _last: u32, length: u32) -> Result<(), WorldError> {
        self.seal(segment, length)
    }

    /// Writes `bytes` at `offset` of a rewritten segment that does not have its name yet; offset 0
    /// begins it anew. Nothing of it is durable before [`Segments::publish`].
    ///
    /// # Errors
    /// [`WorldError::Log`] when the world fails; whatever was there before still is.
    fn stage(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError>;

    /// Makes a staged segment durable, gives it its name, and makes that durable.
    ///
    /// # Errors
    /// [`WorldError::NoSpace`] when the disk had no room for it, which may show only now: it has no
    /// name then. [`WorldError::Log`]; the process must end.
    fn publish(&self, segment: Seq) -> Result<(), WorldError>;

    /// Forgets a staged segment that will not be published. One that stays behind is removed by the
    /// next start.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the world fails.
    fn discard(&self, _segment: Seq) -> Result<(), WorldError> {
        Ok(())
    }

    /// Removes a segment, durably; one that is gone already is no error.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn unlink(&self, segment: Seq) -> Result<(), WorldError>;

    /// Copies a segment aside, durably, to where nobody reads it any more.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the world fails.
    fn quarantine(&self, segment: Seq) -> Result<(), WorldError>;

    /// Performs one log effect.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn perform(&self, effect: &LogEffect) -> Result<StoreInput, WorldError> {
        match effect {
            LogEffect::Create { segment, header } => {
                self.create(*segment, header)?;
                Ok(StoreInput::SegmentCreated { segment: *segment })
            }
            LogEffect::Write { segment, offset, bytes, through } => {
                self.write(*segment, *offset, bytes)?;
                self.sync(*segment)?;
                Ok(StoreInput::LogDurable { through: *through })
            }
            LogEffect::Seal { segment, length } => {
                self.seal(*segment, *length)?;
                Ok(StoreInput::SegmentSealed { segment: *segment })
            }
        }
    }
}

/// Events by place, for whoever must know a body to undo its index rows.
pub trait Bodies {
    /// The event at `loc`; `None` where the bytes are not what was written there.
    ///
    /// # Errors
    /// [`WorldError::Log`] when the world fails.
    fn body(&self, loc: &Loc) -> Result<Option<Event>, WorldError>;
}

impl<S: Segments + ?Sized> Bodies for S {
    fn body(&self, loc: &Loc) -> Result<Option<Event>, WorldError> {
        let (offset, length) = record::body_range(loc);
        let bytes = self.read_at(loc.segment, offset, length)?;
        Ok(record::body_from(&bytes, loc))
    }
}

/// What the index holds that the sketch must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sketched {
    /// A stored event.
    Id(proto::EventId),
    /// A tag that the sketch covers, by the hash of its letter and value.
    Tag(u64),
    /// A slot or a marker, by its lookup key.
    Key(LookupKey),
}

/// The index of one shard. Reads may run on any thread while one checkpoint runs on another.
pub trait Index {
    /// The index holds every effect up to this sequence.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn applied(&self) -> Result<Seq, WorldError>;

    /// A page of rows.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn scan(&self, request: &ScanRequest) -> Result<IndexPage, WorldError>;

    /// Answers in the order of the keys.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn lookup(&self, keys: &[LookupKey]) -> Result<Vec<Found>, WorldError>;

    /// Events that expired at or before `unix_s`, in order of expiration and sequence, past `after`.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn expired(
        &self,
        unix_s: u64,
        after: Option<(u64, Seq)>,
        rows_max: u32,
    ) -> Result<Vec<IndexRow>, WorldError>;

    /// Answers a question of another kind.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn ask(&self, question: &Question) -> Result<Answer, WorldError>;

    /// Requests to vanish whose removals have not ended.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn purges(&self) -> Result<Vec<Purge>, WorldError>;

    /// Goes on with making the sums those of these filters, in one transaction; to be repeated
    /// until all events are done. Not while anything else writes.
    ///
    /// # Errors
    /// [`WorldError`]; the process must end.
    fn resum(&self, filters: &[Filter], bodies: &dyn Bodies) -> Result<Resummed, WorldError>;

    /// Makes sure that the next transaction, if it changes rows of `records` records and adds up to
    /// `bytes` to the index, finds room on the disk. An index in memory has no need of it.
    ///
    /// # Errors
    /// [`WorldError::NoSpace`] when there is none; nothing has changed.
    fn reserve(&self, _records: u64, _bytes: u64) -> Result<(), WorldError> {
        Ok(())
    }

    /// Applies a generation in one transaction; returns what is applied then.
    ///
    /// # Errors
    /// [`WorldError`]; the process must end.
    fn checkpoint(&self, generation: &Generation, bodies: &dyn Bodies) -> Result<Seq, WorldError>;

    /// Takes one step of upkeep, in one transaction; to be repeated until nothing is due. Not while
    /// anything else writes.
    ///
    /// # Errors
    /// [`WorldError`]; the process must end.
    fn upkeep(&self, request: &UpkeepRequest) -> Result<UpkeepDone, WorldError>;

    /// The generations of the index, in order of their sequences.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn generations(&self) -> Result<Vec<IndexGeneration>, WorldError>;

    /// What the index knows of the log's segments.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn segments(&self) -> Result<Vec<(Seq, SegmentRow)>, WorldError>;

    /// Places of events with sequences `from..=to` in order, the first `rows_max` of them.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn locs(&self, from: Seq, to: Seq, rows_max: usize) -> Result<Vec<IndexRow>, WorldError>;

    /// Moves the places of a rewritten segment's events, in one transaction.
    ///
    /// # Errors
    /// [`WorldError`]; the process must end.
    fn remap(&self, remap: &Remap) -> Result<(), WorldError>;

    /// Notes the rewritten segments that an index, which is rebuilt from nothing, will point into.
    ///
    /// # Errors
    /// [`WorldError`]; the process must end.
    fn adopt(&self, segments: &[(Seq, SegmentRow)]) -> Result<(), WorldError>;

    /// Which tables lack a row of an event that has a place, for each event in turn.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn missing_rows(&self, events: &[(Seq, EventKeys)]) -> Result<Vec<Vec<Table>>, WorldError>;

    /// Visits everything that the sketch must know.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn sketched(&self, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError>;

    /// About how many items [`Index::sketched`] will visit.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn sketched_count(&self) -> Result<SketchedCount, WorldError>;
}

/// An index that several owners share.
impl<I: Index + ?Sized> Index for &I {
    fn applied(&self) -> Result<Seq, WorldError> {
        (**self).applied()
    }

    fn scan(&self, request: &ScanRequest) -> Result<IndexPage, WorldError> {
        (**self).scan(request)
    }

    fn lookup(&self, keys: &[LookupKey]) -> Result<Vec<Found>, WorldError> {
        (**self).lookup(keys)
    }

    fn expired(
        &self,
        unix_s: u64,
        after: Option<(u64, Seq)>,
        rows_max: u32,
    ) -> Result<Vec<IndexRow>, WorldError> {
        (**self).expired(unix_s, after, rows_max)
    }

    fn ask(&self, question: &Question) -> Result<Answer, WorldError> {
        (**self).ask(question)
    }

    fn purges(&self) -> Result<Vec<Purge>, WorldError> {
        (**self).purges()
    }

    fn resum(&self, filters: &[Filter], bodies: &dyn Bodies) -> Result<Resummed, WorldError> {
        (**self).resum(filters, bodies)
    }

    fn checkpoint(&self, generation: &Generation, bodies: &dyn Bodies) -> Result<Seq, WorldError> {
        (**self).checkpoint(generation, bodies)
    }

    fn upkeep(&self, request: &UpkeepRequest) -> Result<UpkeepDone, WorldError> {
        (**self).upkeep(request)
    }

    fn generations(&self) -> Result<Vec<IndexGeneration>, WorldError> {
        (**self).generations()
    }

    fn segments(&self) -> Result<Vec<(Seq, SegmentRow)>, WorldError> {
        (**self).segments()
    }

    fn locs(&self, from: Seq, to: Seq, rows_max: usize) -> Result<Vec<IndexRow>, WorldError> {
        (**self).locs(from, to, rows_max)
    }

    fn reserve(&self, records: u64, bytes: u64) -> Result<(), WorldError> {
        (**self).reserve(records, bytes)
    }

    fn remap(&self, remap: &Remap) -> Result<(), WorldError> {
        (**self).remap(remap)
    }

    fn adopt(&self, segments: &[(Seq, SegmentRow)]) -> Result<(), WorldError> {
        (**self).adopt(segments)
    }

    fn missing_rows(&self, events: &[(Seq, EventKeys)]) -> Result<Vec<Vec<Table>>, WorldError> {
        (**self).missing_rows(events)
    }

    fn sketched(&self, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError> {
        (**self).sketched(visit)
    }

    fn sketched_count(&self) -> Result<SketchedCount, WorldError> {
        (**self).sketched_count()
    }
}

/// Takes one step of an index's upkeep if there is room for it.
pub fn upkeep(index: &dyn Index, request: &UpkeepRequest) -> StoreInput {
    let bytes = u64::from(request.rows_max) * UPKEEP_ROW_BYTES;
    match index.reserve(0, bytes).and_then(|()| index.upkeep(request)) {
        Ok(done) => StoreInput::UpkeepDone(done),
        Err(WorldError::NoSpace(_)) => {
            StoreInput::UpkeepDone(UpkeepDone { did: Did::NoRoom, ..UpkeepDone::default() })
        }
        Err(error) => StoreInput::Failed(error),
    }
}

/// Performs any effect of a store by blocking, and says what the store is to be told.
pub fn perform<S: Segments>(index: &dyn Index, segments: &S, effect: StoreEffect) -> StoreInput {
    match effect {
        StoreEffect::Log(effect) => segments.perform(&effect).unwrap_or_else(StoreInput::Failed),
        StoreEffect::Checkpoint(checkpoint) => index
            .checkpoint(&checkpoint.generation, segments)
            .map_or_else(StoreInput::Failed, |applied| StoreInput::Checkpointed { applied }),
        StoreEffect::Upkeep(request) => upkeep(index, &request),
        StoreEffect::Scan { token, request } => {
            let page = index.scan(&request);
            StoreInput::Scanned { token, request, page }
        }
        StoreEffect::Lookup { token, keys } => {
            let found = index.lookup(&keys);
            StoreInput::Looked { token, keys, found }
        }
        StoreEffect::Fetch { token, locs } => {
            let bodies = locs.iter().map(|loc| segments.body(loc)).collect();
            StoreInput::Fetched { token, bodies }
        }
        StoreEffect::Survey => StoreInput::Surveyed(rewrite::survey(index, segments)),
        StoreEffect::Rewrite(job) => rewrite::perform(index, segments, &job)
            .map_or_else(StoreInput::Failed, StoreInput::Rewritten),
        StoreEffect::Unlink { segments: gone } => gone
            .iter()
            .try_for_each(|segment| segments.unlink(*segment))
            .map_or_else(StoreInput::Failed, |()| StoreInput::Unlinked),
        StoreEffect::Expired { token, unix_s, after, rows_max } => {
            StoreInput::Expired { token, rows: index.expired(unix_s, after, rows_max) }
        }
        StoreEffect::Ask { token, question } => {
            StoreInput::Answered { token, answer: index.ask(&question) }
        }
    }
}
