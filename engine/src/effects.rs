//! What a store asks of the world, performed: log work by the reactor, reads here while they cannot
//! block and in the pool otherwise, checkpoints in the pool.
//!
//! A failed write, sync or commit comes back as an error that ends the process: after it nothing in
//! the page cache can be trusted, and nobody may be answered. Only a full disk does not: room is
//! made before a write begins, so that nothing has been written when there is none.
#![allow(clippy::disallowed_types, reason = "segment files are opened for the reactor to write to")]

use crate::runtime::log_thread::{LogDone, LogJob, LogWrite};
use crate::runtime::pool::Pool;
use crate::runtime::reactor::Reactor;
use crate::runtime::wake::Wake;
use crate::runtime::{clock, machine, nowait};
use proto::Now;
use rustix::fd::OwnedFd;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use store::effect::Question;
use store::{
    Bodies, Index, Loc, LogEffect, Segments, Seq, StoreEffect, StoreInput, Unwritten, WorldError,
    file, record, rewrite, seam,
};

/// After a read that had to wait for the disk, reads of the shard go to the pool for this long.
const COLD_MS: u64 = 1_000;
/// The log is written this far ahead, so that a sync need not journal a growing file.
const AHEAD_BYTES: u64 = 4 << 20;
/// Segment files kept open for reading, per shard.
const READERS_MAX: usize = 64;
/// Bodies that are read in one system call, with what lies between them.
const BODY_RUN_BYTES_MAX: u64 = 128 * 1024;
/// What may lie between two of them: reading over it costs less than another call.
const BODY_GAP_BYTES_MAX: u64 = 2 * 1024;

/// The index of a shard, for any thread.
pub type SharedIndex = Arc<dyn Index + Send + Sync>;
/// Makes a view of a shard's log for the thread that calls.
pub type OpenSegments = Arc<dyn Fn() -> Box<dyn Segments> + Send + Sync>;

/// An answer of the pool, for the shard at this place of the core's list.
type Answer = (usize, StoreInput);

/// Where one shard's bytes are.
#[derive(Clone)]
pub struct Place {
    /// The folder of its segments.
    pub log_dir: PathBuf,
    /// Its segments.
    pub segments: OpenSegments,
    /// Its index.
    pub index: SharedIndex,
    /// Bytes of a segment.
    pub segment_bytes_max: u64,
}

/// A shard's log as the index reads bodies from it.
pub struct Log(pub Box<dyn Segments>);

impl Bodies for Log {
    fn body(&self, loc: &Loc) -> Result<Option<proto::Event>, WorldError> {
        self.0.body(loc)
    }
}

/// The segment that is being written.
struct Writing {
    segment: Seq,
    file: Arc<OwnedFd>,
    /// The file holds bytes (zeros, if nothing else) up to here.
    written_to: u64,
    /// The disk has set room aside up to here.
    reserved_to: u64,
}

struct World {
    place: Place,
    writing: Option<Writing>,
    readers: VecDeque<(Seq, Arc<OwnedFd>)>,
    cold_until_ms: u64,
}

/// A log effect under way.
struct UnderWay {
    owner: usize,
    then: Then,
    since_us: u64,
}

/// What follows when log work is done.
enum Then {
    /// The store hears of it.
    Answer(StoreInput),
    /// The store hears that the segment exists, or gets the effect back.
    Created { segment: Seq, header: Vec<u8> },
    /// There is room up to `end`: now the write.
    Write { effect: LogEffect, end: u64 },
}

/// The performer of one core's store effects. Owned by the core; bounded by what its stores keep
/// outstanding.
pub struct Performer {
    worlds: Vec<World>,
    pool: Pool,
    wake: Wake,
    answers: Sender<Answer>,
    answered: Receiver<Answer>,
    under_way: BTreeMap<u64, UnderWay>,
    last_tag: u64,
    /// Answers that are there already.
    ready: VecDeque<Answer>,
    /// Where bodies are read to; at most [`BODY_RUN_BYTES_MAX`] between two reads.
    body_buffer: Vec<u8>,
}

impl Performer {
    /// For the shards at `places`, in the order of the core's list.
    pub fn new(places: Vec<Place>, pool: Pool, wake: Wake) -> Self {
        let (answers, answered) = channel();
        let world =
            |place| World { place, writing: None, readers: VecDeque::new(), cold_until_ms: 0 };
        Self {
            worlds: places.into_iter().map(world).collect(),
            pool,
            wake,
            answers,
            answered,
            under_way: BTreeMap::new(),
            last_tag: 0,
            ready: VecDeque::new(),
            body_buffer: Vec::new(),
        }
    }

    /// Free bytes of the disk that the shards are on, as far as the system says.
    pub fn free_bytes(&self) -> Option<u64> {
        machine::free_bytes(&self.worlds.first()?.place.log_dir)
    }

    /// Whether an answer is there without waiting.
    pub fn has_answer(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next answer of the world.
    pub fn next_answer(&mut self) -> Option<(usize, StoreInput)> {
        self.ready.pop_front().or_else(|| self.answered.try_recv().ok())
    }

    /// Starts one effect of the shard at `owner`.
    ///
    /// # Errors
    /// When a segment that exists cannot be opened.
    pub fn perform(
        &mut self,
        now: Now,
        owner: usize,
        effect: StoreEffect,
        reactor: &mut Reactor,
    ) -> io::Result<()> {
        match effect {
            StoreEffect::Log(effect) => return self.log(owner, effect, reactor),
            StoreEffect::Checkpoint(checkpoint) => {
                self.in_pool(owner, true, move |index, segments| {
                    let generation = &checkpoint.generation;
                    let applied = index
                        .reserve(generation.records(), generation.bytes_held() as u64)
                        .and_then(|()| index.checkpoint(generation, &Log(segments)));
                    match applied {
                        Ok(applied) => StoreInput::Checkpointed { applied },
                        Err(WorldError::NoSpace(_)) => StoreInput::NoSpace(Unwritten::Checkpoint),
                        Err(error) => StoreInput::Failed(error),
                    }
                });
            }
            StoreEffect::Scan { token, request } => {
                self.read(now, owner, move |index| {
                    let page = index.scan(&request);
                    StoreInput::Scanned { token, request, page }
                });
            }
            StoreEffect::Lookup { token, keys } => {
                self.read(now, owner, move |index| {
                    let found = index.lookup(&keys);
                    StoreInput::Looked { token, keys, found }
                });
            }
            StoreEffect::Expired { token, unix_s, after, rows_max } => {
                self.read(now, owner, move |index| {
                    let rows = index.expired(unix_s, after, rows_max);
                    StoreInput::Expired { token, rows }
                });
            }
            StoreEffect::Upkeep(request) => {
                self.in_pool(owner, true, move |index, _| seam::upkeep(&**index, &request))
            }
            StoreEffect::Survey => self.in_pool(owner, false, |index, segments| {
                StoreInput::Surveyed(rewrite::survey(&**index, &*segments))
            }),
            StoreEffect::Rewrite(job) => self.in_pool(owner, true, move |index, segments| {
                rewrite::perform(&**index, &*segments, &job)
                    .map_or_else(StoreInput::Failed, StoreInput::Rewritten)
            }),
            StoreEffect::Unlink { segments: gone } => {
                // An open file would keep the bytes on the disk.
                self.worlds[owner].readers.retain(|(segment, _)| !gone.contains(segment));
                self.in_pool(owner, false, move |_, segments| {
                    gone.iter()
                        .try_for_each(|segment| segments.unlink(*segment))
                        .map_or_else(StoreInput::Failed, |()| StoreInput::Unlinked)
                });
            }
            // The sums of a whole store are as many rows as it spans hours, and there may be as many
            // events to take off them as a checkpoint removes: too long for a core to wait.
            StoreEffect::Ask { token, question: question @ Question::Sums(_) } => {
                self.in_pool(owner, false, move |index, _| {
                    let answer = index.ask(&question);
                    StoreInput::Answered { token, answer }
                });
            }
            StoreEffect::Ask { token, question } => {
                self.read(now, owner, move |index| {
                    let answer = index.ask(&question);
                    StoreInput::Answered { token, answer }
                });
            }
            StoreEffect::Fetch { token, locs } => match self.fetch_now(owner, &locs) {
                Some(bodies) => {
                    self.ready
                        .push_back((owner, StoreInput::Fetched { token, bodies: Ok(bodies) }));
                }
                None => self.in_pool(owner, false, move |_, segments| {
                    let bodies = locs.iter().map(|loc| segments.body(loc)).collect();
                    StoreInput::Fetched { token, bodies }
                }),
            },
        }
        Ok(())
    }

    /// Runs an index read here, or in the pool while the index is cold.
    fn read(
        &mut self,
        now: Now,
        owner: usize,
        read: impl FnOnce(&SharedIndex) -> StoreInput + Send + 'static,
    ) {
        let world = &mut self.worlds[owner];
        if now.monotonic_ms < world.cold_until_ms {
            return self.in_pool(owner, false, move |index, _| read(index));
        }
        let faults = machine::thread_major_faults();
        let answer = read(&world.place.index);
        if machine::thread_major_faults() != faults {
            world.cold_until_ms = now.monotonic_ms + COLD_MS;
        }
        self.ready.push_back((owner, answer));
    }

    fn in_pool(
        &mut self,
        owner: usize,
        is_checkpoint: bool,
        work: impl FnOnce(&SharedIndex, Box<dyn Segments>) -> StoreInput + Send + 'static,
    ) {
        let place = self.worlds[owner].place.clone();
        let answers = self.answers.clone();
        let wake = self.wake.clone();
        let job = Box::new(move || {
            let answer = work(&place.index, (place.segments)());
            // The core is gone only when the process ends.
            let _ = answers.send((owner, answer));
            wake.wake();
        });
        if is_checkpoint { self.pool.checkpoint(job) } else { self.pool.read(job) }
    }

    /// Bodies from the page cache; `None` when any of them would have to wait for the disk. What lies
    /// together in a segment is read together: the newest events, which most queries are about, do.
    fn fetch_now(&mut self, owner: usize, locs: &[Loc]) -> Option<Vec<Option<proto::Event>>> {
        let (world, buffer) = (&mut self.worlds[owner], &mut self.body_buffer);
        let mut order: Vec<usize> = (0..locs.len()).collect();
        order.sort_unstable_by_key(|at| (locs[*at].segment, locs[*at].offset));
        let mut bodies = vec![None; locs.len()];
        let mut rest = order.as_slice();
        while let Some(run) = next_run(locs, rest) {
            let (together, after) = rest.split_at(run.count);
            rest = after;
            let file = world.reader(locs[together[0]].segment)?;
            let read = nowait::read_at(&file, run.start, (run.end - run.start) as usize, buffer)?;
            for at in together {
                let (offset, length) = record::body_range(&locs[*at]);
                let from = (u64::from(offset) - run.start) as usize;
                let bytes = read.get(from..).unwrap_or_default();
                bodies[*at] = record::body_from(&bytes[..length.min(bytes.len())], &locs[*at]);
            }
        }
        // One body may be larger than all that is read together; it need not stay.
        buffer.truncate(BODY_RUN_BYTES_MAX as usize);
        buffer.shrink_to(BODY_RUN_BYTES_MAX as usize);
        Some(bodies)
    }

    fn log(&mut self, owner: usize, effect: LogEffect, reactor: &mut Reactor) -> io::Result<()> {
        self.last_tag += 1;
        let tag = self.last_tag;
        let world = &mut self.worlds[owner];
        let then = match effect {
            LogEffect::Create { segment, header } => {
                world.writing = None;
                let segments = Arc::clone(&world.place.segments);
                let first = header.clone();
                let create = move || segments().create(segment, &first).map_err(to_io);
                reactor.log_job(LogJob { tag, run: Box::new(create) });
                Then::Created { segment, header }
            }
            LogEffect::Write { segment, offset, ref bytes, .. } => {
                let end = world.end_of(segment, offset, bytes.len())?;
                match world.missing_room(end) {
                    Some((file, from)) => {
                        let reserve = move || file::reserve_file(&*file, from, end);
                        reactor.log_job(LogJob { tag, run: Box::new(reserve) });
                        Then::Write { effect, end }
                    }
                    None => world.write(tag, effect, end, reactor)?,
                }
            }
            LogEffect::Seal { segment, length } => {
                world.writing = None;
                let segments = Arc::clone(&world.place.segments);
                let seal = move || segments().seal(segment, length).map_err(to_io);
                reactor.log_job(LogJob { tag, run: Box::new(seal) });
                Then::Answer(StoreInput::SegmentSealed { segment })
            }
        };
        let since_us = clock::monotonic_us();
        self.under_way.insert(tag, UnderWay { owner, then, since_us });
        Ok(())
    }

    /// Log work is done: its answer becomes ready, or its next step begins. Returns how many
    /// microseconds the whole took, when it is over.
    ///
    /// # Errors
    /// The log could not be written or synced.
    pub fn logged(&mut self, done: LogDone, reactor: &mut Reactor) -> io::Result<Option<u64>> {
        let Some(work) = self.under_way.remove(&done.tag) else {
            return done.result.map(|()| None);
        };
        let is_full = done.result.as_ref().is_err_and(|error| file::is_no_space(error.kind()));
        let answer = match work.then {
            Then::Created { segment, header } if is_full => {
                let effect = LogEffect::Create { segment, header };
                StoreInput::NoSpace(Unwritten::Log(effect))
            }
            Then::Write { effect, .. } if is_full => StoreInput::NoSpace(Unwritten::Log(effect)),
            then => {
                done.result?;
                match then {
                    Then::Answer(answer) => answer,
                    Then::Created { segment, .. } => StoreInput::SegmentCreated { segment },
                    Then::Write { effect, end } => {
                        let world = &mut self.worlds[work.owner];
                        world.has_room_to(end);
                        let then = world.write(done.tag, effect, end, reactor)?;
                        self.under_way.insert(done.tag, UnderWay { then, ..work });
                        return Ok(None);
                    }
                }
            }
        };
        self.ready.push_back((work.owner, answer));
        Ok(Some(clock::monotonic_us().saturating_sub(work.since_us)))
    }
}

impl World {
    /// Where a write of `length` bytes at `offset` ends, with the zeros that go ahead of it.
    fn end_of(&mut self, segment: Seq, offset: u32, length: usize) -> io::Result<u64> {
        let writing = match self.writing.take() {
            Some(writing) if writing.segment == segment => writing,
            _ => {
                let file = open(&self.place.log_dir, segment, true)?;
                let written_to = rustix::fs::fstat(&file)?.st_size as u64;
                let file = Arc::new(file);
                Writing { segment, file, written_to, reserved_to: written_to }
            }
        };
        let end = u64::from(offset) + length as u64;
        let is_inside = end <= writing.written_to;
        self.writing = Some(writing);
        if is_inside {
            return Ok(end);
        }
        Ok((end + AHEAD_BYTES).min(self.place.segment_bytes_max).max(end))
    }

    /// The file and where its room ends, if the disk has not set enough aside.
    fn missing_room(&self, end: u64) -> Option<(Arc<OwnedFd>, u64)> {
        let writing = self.writing.as_ref().filter(|writing| writing.reserved_to < end)?;
        Some((Arc::clone(&writing.file), writing.reserved_to))
    }

    fn has_room_to(&mut self, end: u64) {
        if let Some(writing) = &mut self.writing {
            writing.reserved_to = writing.reserved_to.max(end);
        }
    }

    /// Writes a batch, and zeros up to `end`: in the same write, so that they can never land on a
    /// later batch.
    fn write(
        &mut self,
        tag: u64,
        effect: LogEffect,
        end: u64,
        reactor: &mut Reactor,
    ) -> io::Result<Then> {
        let LogEffect::Write { offset, mut bytes, through, .. } = effect else {
            return Err(io::Error::other("only a write is written"));
        };
        let Some(writing) = &mut self.writing else { return Err(io::ErrorKind::NotFound.into()) };
        let offset = u64::from(offset);
        bytes.resize((end - offset) as usize, 0);
        writing.written_to = writing.written_to.max(end);
        let file = Arc::clone(&writing.file);
        reactor.log_write(LogWrite { tag, file, offset, bytes });
        Ok(Then::Answer(StoreInput::LogDurable { through }))
    }

    /// An open segment to read bodies from.
    fn reader(&mut self, segment: Seq) -> Option<Arc<OwnedFd>> {
        if let Some((_, file)) = self.readers.iter().find(|(name, _)| *name == segment) {
            return Some(Arc::clone(file));
        }
        let file = Arc::new(open(&self.place.log_dir, segment, false).ok()?);
        if self.readers.len() >= READERS_MAX {
            self.readers.pop_front();
        }
        self.readers.push_back((segment, Arc::clone(&file)));
        Some(file)
    }
}

/// Bytes of one segment that are read at once.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    end: u64,
    /// How many bodies lie in them.
    count: usize,
}

/// The first bodies of `order`, which is sorted by place, that are read together.
fn next_run(locs: &[Loc], order: &[usize]) -> Option<Run> {
    let place = |at: usize| {
        let (offset, length) = record::body_range(&locs[at]);
        (locs[at].segment, u64::from(offset), u64::from(offset) + length as u64)
    };
    let (segment, start, mut end) = place(*order.first()?);
    let mut count = 1;
    for at in &order[1..] {
        let (next_segment, next_start, next_end) = place(*at);
        let is_near = next_start <= end + BODY_GAP_BYTES_MAX;
        if next_segment != segment || !is_near || next_end > start + BODY_RUN_BYTES_MAX {
            break;
        }
        end = end.max(next_end);
        count += 1;
    }
    Some(Run { start, end, count })
}

fn open(log_dir: &Path, segment: Seq, for_writing: bool) -> io::Result<OwnedFd> {
    let path = log_dir.join(format!("{segment:016x}.seg"));
    let file = std::fs::File::options().read(true).write(for_writing).open(path)?;
    Ok(file.into())
}

fn to_io(error: WorldError) -> io::Error {
    match error {
        WorldError::NoSpace(_) => io::ErrorKind::StorageFull.into(),
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_together_while_they_lie_together() {
        let guard = record::body_range(&loc(1, 100, 50)).1 as u64 - 50;
        let gap = BODY_GAP_BYTES_MAX as u32;
        let run = BODY_RUN_BYTES_MAX as u32;
        let locs = [
            loc(1, 100, 50),
            loc(1, 200, 50),
            loc(1, 250 + gap + guard as u32, 10),
            loc(1, 5_000_000, 10),
            loc(2, 5_000_020, 10),
            loc(2, 6_000_000, run * 2),
            loc(2, 6_000_000 + run * 2, 10),
        ];
        let order: Vec<usize> = (0..locs.len()).collect();
        let mut rest = order.as_slice();
        let mut counts = Vec::new();
        while let Some(run) = next_run(&locs, rest) {
            let (together, after) = rest.split_at(run.count);
            rest = after;
            let (first, last) = (locs[together[0]], locs[together[run.count - 1]]);
            assert_eq!(run.start, u64::from(first.offset) - guard);
            assert_eq!(run.end, u64::from(last.offset + last.length));
            counts.push(run.count);
        }
        // A body larger than what is read together is read alone.
        assert_eq!(counts, [3, 1, 1, 1, 1]);
        assert_eq!(next_run(&locs, &[]), None);
    }

    fn loc(segment: Seq, offset: u32, length: u32) -> Loc {
        Loc { segment, offset, length, flags: 0, expires_at: 0 }
    }
}
