//! The two seams in memory, for tests and the simulator: an index whose commits are atomic, and
//! segments whose writes are durable at once. Crash points inside an LMDB commit are not here; a
//! recorded system-call trace covers those.

use crate::delta::Generation;
use crate::effect::{
    Answer, Found, IndexPage, IndexRow, LookupKey, Question, ScanRequest, Seq, WorldError,
};
use crate::index::filter::{FILTER_BYTES_MAX, IdFilters};
use crate::index::generations::{Generations, IndexGeneration};
use crate::index::segments::{self, Remap, SegmentRow};
use crate::index::{
    self, Did, ReadRows, Rows, Scanned, Table, UpkeepDone, UpkeepRequest, WriteRows,
};
use crate::key::EventKeys;
use crate::seam::{Bodies, Index, SegmentEntry, Segments, Sketched};
use crate::sketch::SketchedCount;
use crate::sums::Resummed;
use crate::vanish::Purge;
use proto::{EventId, Filter, Secret};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

type TableRows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Ordered tables in memory.
#[derive(Clone, Debug)]
struct MemRows {
    tables: [TableRows; Table::ALL.len()],
    filters: IdFilters,
    secret: Secret,
}

impl ReadRows for MemRows {
    fn row(&self, table: Table, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<(), WorldError> {
        if let Some(value) = self.tables[table as usize].get(key) {
            read(value);
        }
        Ok(())
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), WorldError> {
        let from = (Bound::Included(from), Bound::Unbounded);
        let rows = self.tables[table as usize].range::<[u8], _>(from);
        for (key, value) in rows {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn count(&self, table: Table) -> Result<usize, WorldError> {
        Ok(self.tables[table as usize].len())
    }

    fn may_have_id(&self, run: u32, id: &EventId) -> bool {
        self.filters.may_have(&self.secret, run, id)
    }
}

impl WriteRows for MemRows {
    fn apply(&mut self, table: Table, rows: &Rows) -> Result<(), WorldError> {
        let table = &mut self.tables[table as usize];
        for (key, value) in rows.iter() {
            match value {
                Some(value) => table.insert(key.to_vec(), value.to_vec()),
                None => table.remove(key),
            };
        }
        Ok(())
    }

    fn clear(&mut self, table: Table) -> Result<(), WorldError> {
        self.tables[table as usize].clear();
        Ok(())
    }
}

/// An index in memory. Clones share it; what it holds survives a simulated crash.
#[derive(Clone, Debug)]
pub struct MemIndex {
    secret: Secret,
    rows: Rc<RefCell<MemRows>>,
    scanned: Rc<Cell<Scanned>>,
}

impl MemIndex {
    /// An empty index.
    pub fn new(secret: Secret) -> Self {
        let rows = MemRows { tables: Default::default(), filters: IdFilters::default(), secret };
        Self { secret, rows: Rc::new(RefCell::new(rows)), scanned: Rc::default() }
    }

    /// Whether its upkeep has begun something and not ended it.
    pub fn is_at_work(&self) -> bool {
        Generations::read(&*self.rows.borrow()).is_ok_and(|have| have.is_at_work())
    }

    /// What the last page took.
    pub fn last_scanned(&self) -> Scanned {
        self.scanned.get()
    }

    /// Number of rows of a table.
    pub fn rows(&self, table: Table) -> usize {
        self.rows.borrow().tables[table as usize].len()
    }
}

impl Index for MemIndex {
    fn applied(&self) -> Result<Seq, WorldError> {
        index::applied(&*self.rows.borrow())
    }

    fn scan(&self, request: &ScanRequest) -> Result<IndexPage, WorldError> {
        let (page, scanned) = index::scan_telling(&*self.rows.borrow(), request)?;
        self.scanned.set(scanned);
        Ok(page)
    }

    fn lookup(&self, keys: &[LookupKey]) -> Result<Vec<Found>, WorldError> {
        index::lookup(&*self.rows.borrow(), keys)
    }

    fn expired(
        &self,
        unix_s: u64,
        after: Option<(u64, Seq)>,
        rows_max: u32,
    ) -> Result<Vec<IndexRow>, WorldError> {
        index::expired(&*self.rows.borrow(), unix_s, after, rows_max)
    }

    fn ask(&self, question: &Question) -> Result<Answer, WorldError> {
        index::ask(&*self.rows.borrow(), question)
    }

    fn purges(&self) -> Result<Vec<Purge>, WorldError> {
        index::purges(&*self.rows.borrow())
    }

    fn resum(&self, filters: &[Filter], bodies: &dyn Bodies) -> Result<Resummed, WorldError> {
        let mut rows = self.rows.borrow().clone();
        let resummed = index::sums::resum(&mut rows, filters, bodies)?;
        self.rows.replace(rows);
        Ok(resummed)
    }

    fn checkpoint(&self, generation: &Generation, bodies: &dyn Bodies) -> Result<Seq, WorldError> {
        let mut rows = self.rows.borrow().clone();
        let applied = index::write_generation(&mut rows, generation, bodies, &self.secret)?;
        self.rows.replace(rows);
        Ok(applied)
    }

    fn upkeep(&self, request: &UpkeepRequest) -> Result<UpkeepDone, WorldError> {
        // In memory a step fails only where the rows make no sense, and nobody goes on then.
        let mut rows = self.rows.borrow_mut();
        let done = index::upkeep(&mut *rows, request)?;
        if matches!(done.did, Did::Sealed { .. }) {
            rows.filters = rows.filters.renewed(&*rows, &self.secret, FILTER_BYTES_MAX)?;
        }
        Ok(done)
    }

    fn generations(&self) -> Result<Vec<IndexGeneration>, WorldError> {
        Ok(Generations::read(&*self.rows.borrow())?.list().to_vec())
    }

    fn segments(&self) -> Result<Vec<(Seq, SegmentRow)>, WorldError> {
        segments::segments(&*self.rows.borrow())
    }

    fn locs(&self, from: Seq, to: Seq, rows_max: usize) -> Result<Vec<IndexRow>, WorldError> {
        segments::locs(&*self.rows.borrow(), from, to, rows_max)
    }

    fn remap(&self, remap: &Remap) -> Result<(), WorldError> {
        let mut rows = self.rows.borrow().clone();
        segments::remap(&mut rows, remap)?;
        self.rows.replace(rows);
        Ok(())
    }

    fn adopt(&self, adopted: &[(Seq, SegmentRow)]) -> Result<(), WorldError> {
        segments::adopt(&mut *self.rows.borrow_mut(), adopted)
    }

    fn missing_rows(&self, events: &[(Seq, EventKeys)]) -> Result<Vec<Vec<Table>>, WorldError> {
        index::missing_rows(&*self.rows.borrow(), events)
    }

    fn sketched(&self, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError> {
        index::sketched(&*self.rows.borrow(), visit)
    }

    fn sketched_count(&self) -> Result<SketchedCount, WorldError> {
        index::sketched_count(&*self.rows.borrow())
    }
}

/// Segments in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemSegments {
    segments: Rc<RefCell<BTreeMap<Seq, Vec<u8>>>>,
    staged: Rc<RefCell<BTreeMap<Seq, Vec<u8>>>>,
    quarantined: Rc<RefCell<BTreeMap<Seq, Vec<u8>>>>,
}

pub(crate) fn no_segment(segment: Seq) -> WorldError {
    WorldError::Log { segment, what: "no such segment".to_owned() }
}

/// Writes into a byte vector as into a file.
pub(crate) fn write_into(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

impl MemSegments {
    /// Segments that were copied aside.
    pub fn quarantined(&self) -> Vec<Seq> {
        self.quarantined.borrow().keys().copied().collect()
    }
}

impl Segments for MemSegments {
    fn list(&self) -> Result<Vec<SegmentEntry>, WorldError> {
        let segments = self.segments.borrow();
        let entry = |(segment, bytes): (&Seq, &Vec<u8>)| SegmentEntry {
            segment: *segment,
            bytes: bytes.len() as u64,
        };
        Ok(segments.iter().map(entry).collect())
    }

    fn read(&self, segment: Seq) -> Result<Vec<u8>, WorldError> {
        self.segments.borrow().get(&segment).cloned().ok_or_else(|| no_segment(segment))
    }

    fn read_at(&self, segment: Seq, offset: u32, length: usize) -> Result<Vec<u8>, WorldError> {
        let segments = self.segments.borrow();
        let bytes = segments.get(&segment).ok_or_else(|| no_segment(segment))?;
        let from = (offset as usize).min(bytes.len());
        let to = (from + length).min(bytes.len());
        Ok(bytes[from..to].to_vec())
    }

    fn create(&self, segment: Seq, header: &[u8]) -> Result<(), WorldError> {
        self.segments.borrow_mut().insert(segment, header.to_vec());
        Ok(())
    }

    fn write(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        let mut segments = self.segments.borrow_mut();
        let file = segments.get_mut(&segment).ok_or_else(|| no_segment(segment))?;
        write_into(file, offset as usize, bytes);
        Ok(())
    }

    fn sync(&self, segment: Seq) -> Result<(), WorldError> {
        let exists = self.segments.borrow().contains_key(&segment);
        exists.then_some(()).ok_or_else(|| no_segment(segment))
    }

    fn seal(&self, segment: Seq, length: u32) -> Result<(), WorldError> {
        let mut segments = self.segments.borrow_mut();
        segments.get_mut(&segment).ok_or_else(|| no_segment(segment))?.truncate(length as usize);
        Ok(())
    }

    fn stage(&self, segment: Seq, offset: u32, bytes: &[u8]) -> Result<(), WorldError> {
        let mut staged = self.staged.borrow_mut();
        let file = staged.entry(segment).or_default();
        file.truncate(offset as usize);
        write_into(file, offset as usize, bytes);
        Ok(())
    }

    fn publish(&self, segment: Seq) -> Result<(), WorldError> {
        let staged = self.staged.borrow_mut().remove(&segment);
        let staged = staged.ok_or_else(|| no_segment(segment))?;
        self.segments.borrow_mut().insert(segment, staged);
        Ok(())
    }

    fn unlink(&self, segment: Seq) -> Result<(), WorldError> {
        self.segments.borrow_mut().remove(&segment);
        Ok(())
    }

    fn quarantine(&self, segment: Seq) -> Result<(), WorldError> {
        let bytes = self.read(segment)?;
        self.quarantined.borrow_mut().insert(segment, bytes);
        Ok(())
    }
}
