//! The two seams to the world: log segments and the index. Both block; the engine decides on which
//! thread they are called.

use crate::delta::Generation;
use crate::effect::{
    Found, IndexPage, IndexRow, Loc, LogEffect, LookupKey, ScanRequest, Seq, StoreEffect,
    StoreInput, WorldError,
};
use crate::record;
use proto::Event;

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

    /// Writes `bytes` at `offset` and makes them durable.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn write(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError>;

    /// Cuts a segment at `length`, durably.
    ///
    /// # Errors
    /// [`WorldError::Log`]; the process must end.
    fn seal(&self, segment: Seq, length: u32) -> Result<(), WorldError>;

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

    /// Applies a generation in one transaction; returns what is applied then.
    ///
    /// # Errors
    /// [`WorldError`]; the process must end.
    fn checkpoint(&self, generation: &Generation, bodies: &dyn Bodies) -> Result<Seq, WorldError>;

    /// Visits everything that the sketch must know.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn sketched(&self, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError>;

    /// About how many items [`Index::sketched`] will visit.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    fn sketched_count(&self) -> Result<usize, WorldError>;
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

    fn checkpoint(&self, generation: &Generation, bodies: &dyn Bodies) -> Result<Seq, WorldError> {
        (**self).checkpoint(generation, bodies)
    }

    fn sketched(&self, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError> {
        (**self).sketched(visit)
    }

    fn sketched_count(&self) -> Result<usize, WorldError> {
        (**self).sketched_count()
    }
}

/// Performs any effect of a store by blocking, and says what the store is to be told.
pub fn perform<S: Segments>(index: &dyn Index, segments: &S, effect: StoreEffect) -> StoreInput {
    match effect {
        StoreEffect::Log(effect) => segments.perform(&effect).unwrap_or_else(StoreInput::Failed),
        StoreEffect::Checkpoint(checkpoint) => index
            .checkpoint(&checkpoint.generation, segments)
            .map_or_else(StoreInput::Failed, |applied| StoreInput::Checkpointed { applied }),
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
        StoreEffect::Expired { token, unix_s, after, rows_max } => {
            StoreInput::Expired { token, rows: index.expired(unix_s, after, rows_max) }
        }
    }
}
