//! Upkeep of the index: closing the open generation, sealing it, writing runs anew that have lost
//! many of their events. One step is one transaction over a bounded number of rows, so that a
//! checkpoint never waits long for it; what is under way stands in the list of generations, which
//! every step changes in the same transaction as the rows. A process may therefore end between any
//! two steps, and the next one goes on where it was.
//!
//! The order of a copying: rows into the run, table by table; then the list names the run instead of
//! its sources, which is what readers go by; then the rows of the sources are removed. An event that
//! dies meanwhile is counted with its generation and skipped for want of a place.

use super::generations::{Copying, Generations, IndexGeneration, Lies, Work};
use super::{ReadRows, Rows, Table, WriteRows, applied, damaged};
use crate::effect::{Seq, WorldError};
use crate::key::{self, SEQ_BYTES, read_seq};

/// Generations that are merged into one at most.
const MERGED_MAX: usize = 8;

/// What one step of upkeep goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepRequest {
    /// Events of a generation.
    pub generation_events: u64,
    /// Rows that one step copies or removes.
    pub rows_max: u32,
    /// Share of a run's events, in percent, that are dead when it is written anew; with 0 a single
    /// one is enough.
    pub dead_percent: u8,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Did {
    /// Nothing is due.
    #[default]
    Nothing,
    /// The open generation was closed, and its copying begun.
    Closed,
    /// The rewriting of runs was begun.
    Began,
    /// Rows were copied.
    Copied,
    /// The last rows were copied, and the run stands for what it was made of.
    Sealed {
        /// The run.
        run: u32,
    },
    /// Rows that nobody reads were removed.
    Cleared,
    /// The disk has no room for a step; nothing has changed.
    NoRoom,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpkeepDone {
    /// What it did.
    pub did: Did,
    /// Generations there are now, the open one among them.
    pub generations: u32,
}

/// Takes one step, in the caller's transaction.
///
/// # Errors
/// [`WorldError::Index`] when the world fails or the list of generations makes no sense.
pub fn upkeep(to: &mut dyn WriteRows, request: &UpkeepRequest) -> Result<UpkeepDone, WorldError> {
    let mut generations = Generations::read(to)?;
    let did = match generations.work.take() {
        None => begin(to, &mut generations, request)?,
        Some(Work::Copying(copying)) => copy(to, &mut generations, copying, request)?,
        Some(Work::Clearing(sources)) => clear(to, &mut generations, sources, request)?,
    };
    if did != Did::Nothing {
        generations.write(to)?;
    }
    Ok(UpkeepDone { did, generations: generations.list.len() as u32 })
}

/// Begins what is due.
fn begin(
    rows: &dyn ReadRows,
    generations: &mut Generations,
    request: &UpkeepRequest,
) -> Result<Did, WorldError> {
    let Some(open) = generations.list.last().copied() else { return Ok(Did::Nothing) };
    let is_due = open.events >= request.generation_events.max(1);
    let (sources, did) = if is_due {
        let at = generations.list.len() - 1;
        (at..at + 1, Did::Closed)
    } else if let Some(sources) = due_runs(&generations.list, request) {
        (sources, Did::Began)
    } else {
        return Ok(Did::Nothing);
    };
    let Some(run) = generations.begin_run() else { return Ok(Did::Nothing) };
    if did == Did::Closed {
        generations.close(applied(rows)?);
    }
    let copied = &generations.list[sources.clone()];
    generations.work = Some(Work::Copying(Copying {
        first_seq: copied[0].first_seq,
        count: sources.len() as u8,
        run,
        left_out: copied.iter().map(|source| source.dead).sum(),
        tables_done: 0,
        after: Vec::new(),
    }));
    Ok(did)
}

/// Runs to be written anew: neighbours that fit into one generation, or one with many dead.
fn due_runs(list: &[IndexGeneration], request: &UpkeepRequest) -> Option<std::ops::Range<usize>> {
    let sealed = |generation: &IndexGeneration| matches!(generation.lies, Lies::Run(_));
    for (from, first) in list.iter().enumerate() {
        if !sealed(first) {
            continue;
        }
        let mut live = first.live();
        let fits = |next: &&IndexGeneration| {
            live += next.live();
            sealed(next) && live <= request.generation_events
        };
        let neighbours = list[from + 1..].iter().take(MERGED_MAX - 1).take_while(fits).count();
        let is_rotten =
            first.dead > 0 && first.dead * 100 >= first.events * u64::from(request.dead_percent);
        if neighbours > 0 || is_rotten {
            return Some(from..from + 1 + neighbours);
        }
    }
    None
}

/// Keys of one table, all of one length, one after another.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
    key_bytes: usize,
}

impl Keys {
    fn push(&mut self, key: &[u8]) {
        self.key_bytes = key.len();
        self.bytes.extend_from_slice(key);
    }

    fn len(&self) -> usize {
        self.bytes.len().checked_div(self.key_bytes).unwrap_or(0)
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.key_bytes.max(1))
    }
}

/// The keys of a source past `after`, `rows_max` at most; and whether there are more.
fn keys_after(
    rows: &dyn ReadRows,
    lies: Lies,
    table: Table,
    after: &[u8],
    rows_max: usize,
) -> Result<(Keys, bool), WorldError> {
    let (mut keys, mut has_more, mut is_odd) = (Keys::default(), false, false);
    rows.walk(lies.table(table), &lies.key(after), &mut |key, _| {
        let Some(key) = lies.strip(key) else { return false };
        if key == after {
            return true;
        }
        has_more = keys.len() >= rows_max;
        is_odd |= keys.len() > 0 && key.len() != keys.key_bytes;
        if has_more || is_odd {
            return false;
        }
        keys.push(key);
        true
    })?;
    if is_odd { Err(damaged(table)) } else { Ok((keys, has_more)) }
}

/// Which sequences of a range have a place.
struct Living {
    first_seq: Seq,
    bits: Vec<u64>,
}

impl Living {
    fn read(rows: &dyn ReadRows, first_seq: Seq, last_seq: Seq) -> Result<Self, WorldError> {
        let count = usize::try_from(last_seq + 1 - first_seq).unwrap_or(usize::MAX);
        let mut living = Self { first_seq, bits: vec![0; count.div_ceil(64)] };
        rows.walk(Table::Loc, &key::loc_key(first_seq), &mut |key, _| match read_seq(key) {
            Some(seq) if seq <= last_seq => {
                let at = (seq - first_seq) as usize;
                living.bits[at / 64] |= 1 << (at % 64);
                true
            }
            _ => false,
        })?;
        Ok(living)
    }

    fn count(&self) -> u64 {
        self.bits.iter().map(|bits| u64::from(bits.count_ones())).sum()
    }

    /// Whether the event of a row has a place; every key ends in a sequence.
    fn has(&self, key: &[u8]) -> bool {
        let seq = key.len().checked_sub(SEQ_BYTES).and_then(|at| read_seq(&key[at..]));
        let at = seq.and_then(|seq| seq.checked_sub(self.first_seq)).map(|at| at as usize);
        at.is_some_and(|at| self.bits.get(at / 64).is_some_and(|bits| bits >> (at % 64) & 1 == 1))
    }
}

/// Copies up to the bound of a step.
fn copy(
    to: &mut dyn WriteRows,
    generations: &mut Generations,
    mut copying: Copying,
    request: &UpkeepRequest,
) -> Result<Did, WorldError> {
    let range = generations.sources(&copying).ok_or_else(|| damaged(Table::Meta))?;
    let sources = &generations.list[range.clone()];
    let (first, last) = (sources[0], sources[sources.len() - 1]);
    let lies: Vec<Lies> = sources.iter().map(|source| source.lies).collect();
    // What died since the generation was closed is so little that looking for it would cost more.
    let living = match copying.left_out {
        0 => None,
        _ => Some(Living::read(to, first.first_seq, last.last_seq)?),
    };
    let mut rows_left = request.rows_max.max(1) as usize;
    while let Some(table) = Table::SPLIT.get(usize::from(copying.tables_done)) {
        let Some(taken) = copy_some(to, &lies, *table, &mut copying, living.as_ref(), rows_left)?
        else {
            copying.tables_done += 1;
            copying.after.clear();
            continue;
        };
        rows_left = rows_left.saturating_sub(taken);
        if rows_left == 0 {
            generations.work = Some(Work::Copying(copying));
            return Ok(Did::Copied);
        }
    }
    let sum = |of: fn(&IndexGeneration) -> u64| sources.iter().map(of).sum::<u64>();
    let mut merged = IndexGeneration {
        first_seq: first.first_seq,
        last_seq: last.last_seq,
        lies: Lies::Run(copying.run),
        events: sum(|source| source.events).saturating_sub(copying.left_out),
        dead: sum(|source| source.dead).saturating_sub(copying.left_out),
        oldest: sources.iter().map(|source| source.oldest).min().unwrap_or(0),
        newest: sources.iter().map(|source| source.newest).max().unwrap_or(u32::MAX),
    };
    if merged.events == 0 {
        // The counts choose what is worth the work; whether a run may go is for the places to say.
        merged.events = Living::read(to, first.first_seq, last.last_seq)?.count();
    }
    // Sequences of a run without rows fall to the one before it, or to none; they have no places.
    generations.list.splice(range, (merged.events > 0).then_some(merged));
    generations.work = Some(Work::Clearing(lies));
    Ok(Did::Sealed { run: copying.run })
}

/// Copies rows of one table in order; returns how many were looked at, `None` if none are left.
fn copy_some(
    to: &mut dyn WriteRows,
    sources: &[Lies],
    table: Table,
    copying: &mut Copying,
    living: Option<&Living>,
    rows_max: usize,
) -> Result<Option<usize>, WorldError> {
    let mut found: Vec<(Keys, bool)> = Vec::with_capacity(sources.len());
    for lies in sources {
        found.push(keys_after(to, *lies, table, &copying.after, rows_max)?);
    }
    // A source that has more knows nothing of what comes after its last key.
    let ends = found.iter().filter(|(_, has_more)| *has_more);
    let end = ends.filter_map(|(keys, _)| keys.iter().next_back()).min();
    let is_before = |key: &&[u8]| end.is_none_or(|end| *key <= end);
    let mut keys: Vec<&[u8]> =
        found.iter().flat_map(|(keys, _)| keys.iter().take_while(is_before)).collect();
    let Some(last) = (match sources.len() {
        1 => keys.last().copied(),
        _ => {
            // Sorted runs, which the sort takes for what they are.
            keys.sort();
            keys.last().copied()
        }
    }) else {
        return Ok(None);
    };
    let (run, taken) = (Lies::Run(copying.run), keys.len());
    let mut rows = Rows::with_room(taken, last.len() + super::generations::RUN_BYTES);
    let mut whole = Vec::new();
    for key in keys.iter().filter(|key| living.is_none_or(|living| living.has(key))) {
        whole.clear();
        run.push_prefix(&mut whole);
        whole.extend_from_slice(key);
        rows.put(&whole, &[]);
    }
    let last = last.to_vec();
    to.apply(table, &rows)?;
    copying.after = last;
    Ok(Some(taken))
}

/// Removes rows of sources, up to the bound of a step.
fn clear(
    to: &mut dyn WriteRows,
    generations: &mut Generations,
    mut sources: Vec<Lies>,
    request: &UpkeepRequest,
) -> Result<Did, WorldError> {
    let mut rows_left = request.rows_max.max(1) as usize;
    while let Some(lies) = sources.last().copied() {
        if let Lies::Half(_) = lies {
            for table in Table::SPLIT {
                to.clear(lies.table(table))?;
            }
            sources.pop();
            continue;
        }
        let taken = clear_run(to, lies, rows_left)?;
        rows_left -= taken;
        if rows_left == 0 {
            break;
        }
        sources.pop();
    }
    generations.work = (!sources.is_empty()).then_some(Work::Clearing(sources));
    Ok(Did::Cleared)
}

/// Removes up to `rows_max` rows of a run; fewer when that was all.
fn clear_run(to: &mut dyn WriteRows, lies: Lies, rows_max: usize) -> Result<usize, WorldError> {
    let mut taken = 0;
    for table in Table::SPLIT {
        let mut rows = Rows::default();
        let from = lies.key(&[]);
        to.walk(table, &from, &mut |key, _| {
            let is_taken = taken < rows_max && lies.strip(key).is_some();
            if is_taken {
                rows.remove(key);
                taken += 1;
            }
            is_taken
        })?;
        to.apply(table, &rows)?;
    }
    Ok(taken)
}
