//! The stores of one data directory with the real world below them, performed by plain system calls.
//!
//! What the relay does with its reactor is done here by one thread: segments are made, sealed and
//! rewritten by `store::file`, batches are written with the zeros that go ahead of them and synced,
//! and the index is `store::lmdb`. Checkpoints and rewritings may go to a second thread, so that
//! their system calls fall between those of the log as they do in the relay.

use anyhow::{Context, bail};
use proto::{Filter, Now, Placement, SeededState};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use store::file::directory::DataDirectory;
use store::file::{self, FileSegments};
use store::lmdb::LmdbIndex;
use store::{
    Index, LogEffect, Segments, Seq, Store, StoreConfig, StoreEffect, StoreInput, StoreOutput,
    Unwritten, WorldError, rewrite, seam,
};

/// Address space of an index: enough for every plan, and quickly mapped.
pub const MAP_BYTES: usize = 64 << 20;
/// Greatest length of a segment: small, so that a plan goes through many.
const SEGMENT_BYTES_MAX: u32 = 24 << 10;
/// Zeros written ahead of the log's end at most.
const AHEAD_BYTES: u64 = 8 << 10;
/// Pause in virtual time before what found no room is tried again.
const RETRY_MS: u64 = 600;
/// Turns without progress after which a store is taken to hang.
const TURNS_MAX: u32 = 10_000;

/// What is left out on purpose, to show that the checks see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// Batches are not synced.
    SkipSyncs,
    /// A step is acknowledged before its batch is written.
    AckEarly,
}

/// Bounds so small that everything happens often.
pub fn store_config(directory: &DataDirectory, shard: u16, seed: SeededState) -> StoreConfig {
    StoreConfig {
        delta_bytes_max: 2 << 20,
        checkpoint_events: 48,
        checkpoint_after_ms: 90_000,
        segment_bytes_max: SEGMENT_BYTES_MAX,
        hot_bytes_max: 16 << 10,
        sketch_bytes_max: 64 << 10,
        erase_after_s: 60,
        generation_events: 100,
        upkeep_rows_max: 150,
        sync_filters: [Filter::default()].into(),
        ..StoreConfig::new(shard, directory.format().secret, seed)
    }
}

/// Opens the segments of a shard, with as few zeros ahead as the small segments want.
///
/// # Errors
/// [`WorldError`] when the file system fails.
pub fn open_segments(directory: &DataDirectory, shard: u16) -> Result<FileSegments, WorldError> {
    let segments = FileSegments::open(&directory.log_directory(shard))?;
    Ok(segments.prewriting(SEGMENT_BYTES_MAX))
}

/// The segment that is being written.
#[derive(Debug)]
struct Writing {
    segment: Seq,
    file: File,
    written_to: u64,
    reserved_to: u64,
}

type Job = Box<dyn FnOnce() -> StoreInput + Send>;

/// A thread for what may take long.
#[derive(Debug)]
struct Pool {
    jobs: Sender<Job>,
    done: Receiver<StoreInput>,
}

impl Pool {
    fn start() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (answers, done) = channel();
        std::thread::spawn(move || {
            for job in queue {
                if answers.send(job()).is_err() {
                    return;
                }
            }
        });
        Self { jobs, done }
    }
}

/// One shard's store with its world.
#[derive(Debug)]
pub struct Shard {
    /// The state machine.
    pub store: Store,
    /// Its index.
    pub index: Arc<LmdbIndex>,
    /// Its segments, as the thread that writes sees them.
    pub segments: FileSegments,
    log_dir: PathBuf,
    writing: Option<Writing>,
    effects: VecDeque<StoreEffect>,
    pool: Option<Pool>,
    in_pool: usize,
    flaw: Flaw,
    /// What is durable since this was last taken.
    durable: Vec<Seq>,
}

impl Shard {
    /// Opens the store of a shard; with `threaded`, checkpoints have a thread of their own.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(
        directory: &DataDirectory,
        shard: u16,
        now: Now,
        flaw: Flaw,
        threaded: bool,
    ) -> anyhow::Result<Self> {
        let config = store_config(directory, shard, SeededState::new(directory.format().secret));
        let index = LmdbIndex::open(&directory.index_directory(shard), config.secret, MAP_BYTES)?;
        let segments = open_segments(directory, shard)?;
        let mut fx = Vec::new();
        let store = store::open(config, &index, &segments, now, &mut fx)
            .with_context(|| format!("shard {shard}"))?;
        Ok(Self {
            store,
            index: Arc::new(index),
            segments,
            log_dir: directory.log_directory(shard),
            writing: None,
            effects: fx.into(),
            pool: threaded.then(Pool::start),
            in_pool: 0,
            flaw,
            durable: Vec::new(),
        })
    }

    /// Lets the store do something; its effects wait until [`Shard::drive`].
    pub fn act<T>(&mut self, act: impl FnOnce(&mut Store, &mut Vec<StoreEffect>) -> T) -> T {
        let mut fx = Vec::new();
        let done = act(&mut self.store, &mut fx);
        self.effects.extend(fx);
        done
    }

    /// Performs effects until `is_done` holds; time goes on where the store waits for room.
    ///
    /// # Errors
    /// When a write, a sync or a commit failed: then nobody may be answered any more.
    pub fn drive(&mut self, now: &mut Now, is_done: impl Fn(&Store) -> bool) -> anyhow::Result<()> {
        let mut turns = 0;
        while !is_done(&self.store) {
            if let Some(effect) = self.effects.pop_front() {
                self.perform(effect, *now)?;
                self.collect(*now)?;
                continue;
            }
            turns += 1;
            if turns > TURNS_MAX {
                bail!("the store makes no progress");
            }
            if self.in_pool > 0 {
                self.wait_for_pool(*now)?;
            } else {
                now.monotonic_ms += RETRY_MS;
                self.act(|store, fx| store.tick(*now, fx));
            }
        }
        Ok(())
    }

    /// Performs everything that waits, and takes what the pool has finished.
    ///
    /// # Errors
    /// As [`Shard::drive`].
    pub fn settle(&mut self, now: Now) -> anyhow::Result<()> {
        while let Some(effect) = self.effects.pop_front() {
            self.perform(effect, now)?;
        }
        self.collect(now)
    }

    /// Ends the store in order.
    ///
    /// # Errors
    /// As [`Shard::drive`].
    pub fn close(mut self, now: &mut Now) -> anyhow::Result<()> {
        self.act(|store, fx| store.shutdown(*now, fx));
        self.drive(now, Store::is_closed)?;
        while self.in_pool > 0 {
            self.wait_for_pool(*now)?;
        }
        self.pool = None;
        if let Some(index) = Arc::into_inner(self.index) {
            index.close();
        }
        Ok(())
    }

    /// Asks the index what memory cannot answer.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn answers(
        &mut self,
        keys: Vec<store::LookupKey>,
        now: Now,
    ) -> anyhow::Result<store::Answers> {
        let keys = self.store.unanswered(keys);
        let mut answers = self.store.memory_only();
        if keys.is_empty() {
            return Ok(answers);
        }
        let mut fx = Vec::new();
        self.store.lookup(keys, &mut fx);
        for effect in fx {
            for output in self.answer(effect, now) {
                match output {
                    StoreOutput::Looked { answers: more, .. } => answers.extend(more),
                    StoreOutput::Failed { error, .. } | StoreOutput::Fatal(error) => {
                        return Err(error.into());
                    }
                    other => self.take(other)?,
                }
            }
        }
        Ok(answers)
    }

    /// Reads one page of what is visible.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn page(
        &mut self,
        request: store::ScanRequest,
        now: Now,
    ) -> anyhow::Result<(Vec<store::Row>, Option<store::Position>)> {
        let horizon = self.store.durable();
        let mut fx = Vec::new();
        self.store.scan(request, horizon, &mut fx);
        let mut page = None;
        for effect in fx {
            for output in self.answer(effect, now) {
                match output {
                    StoreOutput::Rows { rows, complete_to, .. } => page = Some((rows, complete_to)),
                    StoreOutput::Failed { error, .. } | StoreOutput::Fatal(error) => {
                        return Err(error.into());
                    }
                    other => self.take(other)?,
                }
            }
        }
        page.context("a scan was not answered")
    }

    /// Performs one effect at once and returns what the store says to it.
    fn answer(&mut self, effect: StoreEffect, now: Now) -> Vec<StoreOutput> {
        let input = seam::perform(&*self.index, &self.segments, effect);
        let (mut fx, mut out) = (Vec::new(), Vec::new());
        self.store.step(now, input, &mut fx, &mut out);
        self.effects.extend(fx);
        out
    }

    fn take(&mut self, output: StoreOutput) -> anyhow::Result<()> {
        match output {
            StoreOutput::Durable { through, .. } => self.durable.push(through),
            StoreOutput::Fatal(error) => return Err(error.into()),
            _ => {}
        }
        Ok(())
    }

    fn feed(&mut self, input: StoreInput, now: Now) -> anyhow::Result<()> {
        let (mut fx, mut out) = (Vec::new(), Vec::new());
        self.store.step(now, input, &mut fx, &mut out);
        self.effects.extend(fx);
        out.into_iter().try_for_each(|output| self.take(output))
    }

    fn wait_for_pool(&mut self, now: Now) -> anyhow::Result<()> {
        let Some(pool) = &self.pool else { bail!("nothing is in the pool") };
        let input = pool.done.recv().context("the pool ended")?;
        self.in_pool -= 1;
        self.feed(input, now)
    }

    fn collect(&mut self, now: Now) -> anyhow::Result<()> {
        while let Some(input) = self.pool.as_ref().and_then(|pool| pool.done.try_recv().ok()) {
            self.in_pool -= 1;
            self.feed(input, now)?;
        }
        Ok(())
    }

    fn perform(&mut self, effect: StoreEffect, now: Now) -> anyhow::Result<()> {
        let input = match effect {
            StoreEffect::Log(effect) => self.log(effect),
            StoreEffect::Checkpoint(checkpoint) => {
                return self.in_pool(now, move |index, segments| {
                    let generation = &checkpoint.generation;
                    let applied = index
                        .reserve(generation.records(), generation.bytes_held() as u64)
                        .and_then(|()| index.checkpoint(generation, segments));
                    match applied {
                        Ok(applied) => StoreInput::Checkpointed { applied },
                        Err(WorldError::NoSpace(_)) => StoreInput::NoSpace(Unwritten::Checkpoint),
                        Err(error) => StoreInput::Failed(error),
                    }
                });
            }
            StoreEffect::Rewrite(job) => {
                return self.in_pool(now, move |index, segments| {
                    rewrite::perform(index, segments, &job)
                        .map_or_else(StoreInput::Failed, StoreInput::Rewritten)
                });
            }
            StoreEffect::Upkeep(request) => {
                return self.in_pool(now, move |index, _| seam::upkeep(index, &request));
            }
            effect @ StoreEffect::Unlink { .. } => {
                return self
                    .in_pool(now, move |index, segments| seam::perform(index, segments, effect));
            }
            other => seam::perform(&*self.index, &self.segments, other),
        };
        self.feed(input, now)
    }

    fn in_pool(
        &mut self,
        now: Now,
        work: impl FnOnce(&LmdbIndex, &FileSegments) -> StoreInput + Send + 'static,
    ) -> anyhow::Result<()> {
        let Some(pool) = &self.pool else {
            let input = work(&self.index, &self.segments);
            return self.feed(input, now);
        };
        let (index, log_dir) = (Arc::clone(&self.index), self.log_dir.clone());
        let job = move || work(&index, &FileSegments::reader(&log_dir));
        pool.jobs.send(Box::new(job)).ok().context("the pool ended")?;
        self.in_pool += 1;
        Ok(())
    }

    fn log(&mut self, effect: LogEffect) -> StoreInput {
        let performed = match &effect {
            LogEffect::Create { segment, header } => {
                self.writing = None;
                let created = self.segments.create(*segment, header);
                created.map(|()| StoreInput::SegmentCreated { segment: *segment })
            }
            LogEffect::Write { segment, offset, bytes, through } => {
                let written = self.write(*segment, u64::from(*offset), bytes);
                written.map(|()| StoreInput::LogDurable { through: *through })
            }
            LogEffect::Seal { segment, length } => {
                self.writing = None;
                let sealed = self.segments.seal(*segment, *length);
                sealed.map(|()| StoreInput::SegmentSealed { segment: *segment })
            }
        };
        match performed {
            Ok(input) => input,
            Err(WorldError::NoSpace(_)) => StoreInput::NoSpace(Unwritten::Log(effect)),
            Err(error) => StoreInput::Failed(error),
        }
    }

    /// Writes a batch; a disk without room for it is found out before.
    fn write(&mut self, segment: Seq, offset: u64, bytes: &[u8]) -> Result<(), WorldError> {
        let failed = |error: std::io::Error| WorldError::Log { segment, what: error.to_string() };
        let mut writing = self.writing(segment).map_err(failed)?;
        let end = offset + bytes.len() as u64;
        let end = if end <= writing.written_to {
            end
        } else {
            (end + AHEAD_BYTES).min(SEGMENT_BYTES_MAX.into()).max(end)
        };
        let reserved = file::reserve_file(&writing.file, writing.reserved_to, end);
        match reserved {
            Err(error) if file::is_no_space(error.kind()) => {
                self.writing = Some(writing);
                return Err(WorldError::NoSpace("the log".to_owned()));
            }
            other => other.map_err(failed)?,
        }
        writing.reserved_to = writing.reserved_to.max(end);
        writing.written_to = writing.written_to.max(end);
        let mut padded = bytes.to_vec();
        padded.resize((end - offset) as usize, 0);
        writing.file.write_all_at(&padded, offset).map_err(failed)?;
        if self.flaw != Flaw::SkipSyncs {
            writing.file.sync_data().map_err(failed)?;
        }
        self.writing = Some(writing);
        Ok(())
    }

    /// The segment that takes the next batch.
    fn writing(&mut self, segment: Seq) -> std::io::Result<Writing> {
        if let Some(writing) = self.writing.take().filter(|writing| writing.segment == segment) {
            return Ok(writing);
        }
        let path = self.log_dir.join(format!("{segment:016x}.seg"));
        let file = File::options().read(true).write(true).open(path)?;
        let written_to = file.metadata()?.len();
        Ok(Writing { segment, file, written_to, reserved_to: written_to })
    }
}

/// Every shard of a directory.
#[derive(Debug)]
pub struct Shards {
    /// In order of their numbers.
    pub shards: Vec<Shard>,
    /// Which of them owns what.
    pub placement: Placement,
    _directory: DataDirectory,
}

impl Shards {
    /// Opens all of them.
    ///
    /// # Errors
    /// When the directory or a shard cannot be opened.
    pub fn open(path: &Path, now: Now, flaw: Flaw, threaded: bool) -> anyhow::Result<Self> {
        let directory = DataDirectory::open(path)?;
        let open = |shard| Shard::open(&directory, shard, now, flaw, threaded);
        let shards = (0..directory.format().shards).map(open).collect::<anyhow::Result<_>>()?;
        Ok(Self { shards, placement: directory.format().placement(), _directory: directory })
    }

    /// Ends all of them in order.
    ///
    /// # Errors
    /// When a write, a sync or a commit failed.
    pub fn close(self, now: &mut Now) -> anyhow::Result<()> {
        self.shards.into_iter().try_for_each(|shard| shard.close(now))
    }
}
