//! Two indexes of which every question is asked and whose answers must be the same.

use proto::Filter;
use store::delta::Generation;
use store::effect::{
    Answer, Found, IndexPage, IndexRow, LookupKey, Question, ScanRequest, Seq, WorldError,
};
use store::index::generations::IndexGeneration;
use store::index::{Table, UpkeepDone, UpkeepRequest};
use store::index::segments::{Remap, SegmentRow};
use store::key::EventKeys;
use store::seam::{Bodies, Index, Sketched};
use store::sketch::SketchedCount;
use store::sums::Resummed;
use store::vanish::Purge;

/// The one under test and the one that is believed.
pub struct Both<A, B>(pub A, pub B);

macro_rules! ask {
    ($self:ident, $method:ident $(, $argument:expr)*) => {{
        let (ours, theirs) = ($self.0.$method($($argument),*), $self.1.$method($($argument),*));
        assert_eq!(ours, theirs, stringify!($method));
        ours
    }};
}

impl<A: Index, B: Index> Index for Both<A, B> {
    fn applied(&self) -> Result<Seq, WorldError> {
        ask!(self, applied)
    }

    fn scan(&self, request: &ScanRequest) -> Result<IndexPage, WorldError> {
        ask!(self, scan, request)
    }

    fn lookup(&self, keys: &[LookupKey]) -> Result<Vec<Found>, WorldError> {
        ask!(self, lookup, keys)
    }

    fn expired(
        &self,
        unix_s: u64,
        after: Option<(u64, Seq)>,
        rows_max: u32,
    ) -> Result<Vec<IndexRow>, WorldError> {
        ask!(self, expired, unix_s, after, rows_max)
    }

    fn ask(&self, question: &Question) -> Result<Answer, WorldError> {
        ask!(self, ask, question)
    }

    fn purges(&self) -> Result<Vec<Purge>, WorldError> {
        ask!(self, purges)
    }

    fn resum(&self, filters: &[Filter], bodies: &dyn Bodies) -> Result<Resummed, WorldError> {
        let (ours, theirs) = (self.0.resum(filters, bodies)?, self.1.resum(filters, bodies)?);
        // One that has nothing to do need not say how much it has done.
        assert_eq!(ours.done >= ours.total, theirs.done >= theirs.total, "resum");
        Ok(ours)
    }

    fn checkpoint(&self, generation: &Generation, bodies: &dyn Bodies) -> Result<Seq, WorldError> {
        ask!(self, checkpoint, generation, bodies)
    }

    fn upkeep(&self, request: &UpkeepRequest) -> Result<UpkeepDone, WorldError> {
        ask!(self, upkeep, request)
    }

    fn generations(&self) -> Result<Vec<IndexGeneration>, WorldError> {
        ask!(self, generations)
    }

    fn segments(&self) -> Result<Vec<(Seq, SegmentRow)>, WorldError> {
        ask!(self, segments)
    }

    fn locs(&self, from: Seq, to: Seq, rows_max: usize) -> Result<Vec<IndexRow>, WorldError> {
        ask!(self, locs, from, to, rows_max)
    }

    fn remap(&self, remap: &Remap) -> Result<(), WorldError> {
        ask!(self, remap, remap)
    }

    fn adopt(&self, segments: &[(Seq, SegmentRow)]) -> Result<(), WorldError> {
        ask!(self, adopt, segments)
    }

    fn missing_rows(&self, events: &[(Seq, EventKeys)]) -> Result<Vec<Vec<Table>>, WorldError> {
        ask!(self, missing_rows, events)
    }

    fn sketched(&self, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        self.0.sketched(&mut |item| ours.push(item))?;
        self.1.sketched(&mut |item| theirs.push(item))?;
        assert_eq!(ours, theirs, "sketched");
        ours.into_iter().for_each(visit);
        Ok(())
    }

    fn sketched_count(&self) -> Result<SketchedCount, WorldError> {
        ask!(self, sketched_count)
    }
}
