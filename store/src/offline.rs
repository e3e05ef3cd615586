//! Work on the shards of a data directory that no relay serves: the caller holds its lock. Each
//! function may be killed at any point and called again; `should_stop` is asked often, and what has
//! been done until then stays done where it can.

use crate::effect::{StoreEffect, WorldError};
use crate::file::FileSegments;
use crate::file::directory::{DataDirectory, DirectoryError};
use crate::fingerprint::Fingerprint;
use crate::index::UpkeepRequest;
use crate::lmdb::{self, LmdbIndex, map_bytes_for};
use crate::open::{self, OpenError};
use crate::reindex::{self, ReindexError, Reindexed};
use crate::rewrite::Refusal;
use crate::scrub::{self, CheckSignature, Finding, Loss, LossError, Scrub};
use crate::seam::{Index, Segments, perform};
use crate::store::{Store, StoreConfig, StoreOutput};
use proto::Now;
use std::collections::VecDeque;

/// Why work on a shard came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Somebody asked to stop.
    #[error("interrupted; nothing is lost, and the command can be run again")]
    Stopped,
    /// The shard cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The world failed.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The data directory is not what it should be.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The store of a shard and its index differ.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A loss cannot be accepted as things are.
    #[error(transparent)]
    Loss(#[from] LossError),
}

impl From<ReindexError> for OfflineError {
    fn from(error: ReindexError) -> Self {
        match error {
            ReindexError::Stopped => Self::Stopped,
            ReindexError::Open(error) => Self::Open(error),
        }
    }
}

/// A store with its world, driven by the thread that owns it.
pub(crate) struct Driver<'a, S> {
    pub(crate) store: Store,
    index: &'a dyn Index,
    segments: &'a S,
    clock: &'a dyn Fn() -> Now,
    effects: VecDeque<StoreEffect>,
}

impl<'a, S: Segments> Driver<'a, S> {
    /// Opens a store.
    pub(crate) fn open(
        config: StoreConfig,
        index: &'a dyn Index,
        segments: &'a S,
        clock: &'a dyn Fn() -> Now,
    ) -> Result<Self, OpenError> {
        let mut fx = Vec::new();
        let store = open::open(config, index, segments, clock(), &mut fx)?;
        Ok(Self { store, index, segments, clock, effects: fx.into() })
    }

    /// Lets the store do something, and performs what follows from it.
    pub(crate) fn run(
        &mut self,
        act: impl FnOnce(&mut Store, Now, &mut Vec<StoreEffect>),
    ) -> Result<(), WorldError> {
        let mut fx = Vec::new();
        act(&mut self.store, (self.clock)(), &mut fx);
        self.effects.extend(fx);
        while self.turn()? {}
        Ok(())
    }

    /// Performs one effect; whether there was any.
    fn turn(&mut self) -> Result<bool, WorldError> {
        let Some(effect) = self.effects.pop_front() else { return Ok(false) };
        let input = perform(self.index, self.segments, effect);
        let (mut fx, mut out) = (Vec::new(), Vec::new());
        self.store.step((self.clock)(), input, &mut fx, &mut out);
        self.effects.extend(fx);
        for output in out {
            if let StoreOutput::Fatal(error) = output {
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Ends the store: everything is in the index then, and the log is sealed.
    pub(crate) fn close(mut self) -> Result<(), WorldError> {
        self.run(|store, now, fx| store.shutdown(now, fx))?;
        assert!(self.store.is_closed(), "a store whose every effect was performed can close");
        Ok(())
    }
}

fn map_bytes(directory: &DataDirectory) -> usize {
    map_bytes_for(directory.path(), directory.format().shards)
}

/// Opens index and segments of the shard that `config` names.
fn open_shard(
    directory: &DataDirectory,
    config: &StoreConfig,
) -> Result<(LmdbIndex, FileSegments), WorldError> {
    let path = directory.index_directory(config.shard);
    let index = LmdbIndex::open(&path, config.secret, map_bytes(directory))?;
    let segments = FileSegments::open(&directory.log_directory(config.shard))?;
    Ok((index, segments.prewriting(config.segment_bytes_max)))
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that were written.
    pub rewrites: u64,
    /// Rewritings that were refused: the log or the index is damaged, `scrub` says where.
    pub refused: u64,
    /// Bytes that the log gave back.
    pub log_bytes_reclaimed: u64,
    /// Bytes of the index before.
    pub index_bytes_before: u64,
    /// Bytes of the index after.
    pub index_bytes_after: u64,
}

/// Rewrites every segment of a shard in which anything is dead, and every generation of its index,
/// then writes the index anew without the free pages in it. `progress` hears how many of how many
/// segments are done.
///
/// # Errors
/// [`OfflineError`].
pub fn compact(
    directory: &DataDirectory,
    config: &StoreConfig,
    clock: &dyn Fn() -> Now,
    progress: &mut dyn FnMut(u64, u64),
    should_stop: &dyn Fn() -> bool,
) -> Result<Compacted, OfflineError> {
    let (index, segments) = open_shard(directory, config)?;
    let mut compacted =
        Compacted { index_bytes_before: index.file_bytes()?, ..Compacted::default() };
    let done = compact_log(config, &index, &segments, clock, progress, should_stop);
    let done = done.and_then(|stats| {
        let request = UpkeepRequest { dead_percent: 0, ..config.upkeep() };
        reindex::keep_up(&request, &index, should_stop)?;
        Ok(stats)
    });
    index.close();
    let stats = done?;
    compacted.rewrites = stats.rewrites;
    compacted.refused = stats.rewrites_refused;
    compacted.log_bytes_reclaimed = stats.bytes_reclaimed;
    if should_stop() {
        return Err(OfflineError::Stopped);
    }
    let path = directory.index_directory(config.shard);
    LmdbIndex::compact(&path, config.secret, map_bytes(directory))?;
    let index = LmdbIndex::open(&path, config.secret, map_bytes(directory))?;
    compacted.index_bytes_after = index.file_bytes()?;
    index.close();
    Ok(compacted)
}

/// The part of [`compact`] that is about the log, over any world.
///
/// # Errors
/// [`OfflineError`].
pub fn compact_log<S: Segments>(
    config: &StoreConfig,
    index: &dyn Index,
    segments: &S,
    clock: &dyn Fn() -> Now,
    progress: &mut dyn FnMut(u64, u64),
    should_stop: &dyn Fn() -> bool,
) -> Result<crate::store::StoreStats, OfflineError> {
    let mut driver = Driver::open(config.clone(), index, segments, clock)?;
    let mut fx = Vec::new();
    driver.store.compact(clock(), &mut fx);
    driver.effects.extend(fx);
    let mut was_stopped = false;
    while let Some(compaction) = driver.store.compaction() {
        progress(compaction.done, compaction.total);
        was_stopped = should_stop();
        if was_stopped {
            break;
        }
        if !driver.turn()? {
            driver.run(|store, now, fx| store.tick(now, fx))?;
        }
    }
    while driver.turn()? {}
    let stats = driver.store.stats();
    driver.close()?;
    if was_stopped { Err(OfflineError::Stopped) } else { Ok(stats) }
}

/// Rebuilds the index of a shard from its log and puts it in place of the old one. `progress` hears
/// how many of how many bytes of the log are read.
///
/// # Errors
/// [`OfflineError`]; the old index is untouched then.
pub fn reindex(
    directory: &DataDirectory,
    config: &StoreConfig,
    progress: &mut dyn FnMut(u64, u64),
    should_stop: &dyn Fn() -> bool,
) -> Result<Reindexed, OfflineError> {
    let path = directory.index_directory(config.shard);
    let index = LmdbIndex::successor(&path, config.secret, map_bytes(directory))?;
    let segments = FileSegments::open(&directory.log_directory(config.shard))?;
    let rebuilt = reindex::rebuild(config, &index, &segments, progress, should_stop);
    index.close();
    let rebuilt = rebuilt?;
    lmdb::supersede(&path)?;
    Ok(rebuilt)
}

/// Bytes that a scrub looks at between two questions whether to stop.
const SCRUB_STEP_BYTES: u64 = 4 << 20;

/// Looks for damage in a shard, which need not be one that can be opened; see [`crate::scrub`].
/// `found` hears of each finding, `progress` how many of how many bytes have been looked at.
///
/// # Errors
/// [`OfflineError`].
pub fn scrub(
    directory: &DataDirectory,
    config: &StoreConfig,
    mut signatures: Option<CheckSignature<'_>>,
    found: &mut dyn FnMut(Finding),
    progress: &mut dyn FnMut(u64, u64),
    should_stop: &dyn Fn() -> bool,
) -> Result<(), OfflineError> {
    let (index, segments) = open_shard(directory, config)?;
    let mut scrub = Scrub::begin(config.shard, config.secret, config.seed, &index, &segments)?;
    let mut findings = Vec::new();
    loop {
        let check = signatures.as_mut().map(|check| &mut **check as CheckSignature<'_>);
        let step = scrub.step(&index, &segments, SCRUB_STEP_BYTES, check, &mut findings)?;
        findings.drain(..).for_each(&mut *found);
        progress(step.done, step.total);
        if step.is_over {
            return Ok(());
        }
        if should_stop() {
            return Err(OfflineError::Stopped);
        }
    }
}

/// Gives up what cannot be read of a shard's log, so that it can be opened again; damaged segments
/// are copied into the folder `quarantine` beside them. May be called again if it was interrupted.
///
/// # Errors
/// [`OfflineError`].
pub fn accept_loss(directory: &DataDirectory, config: &StoreConfig) -> Result<Loss, OfflineError> {
    let (index, segments) = open_shard(directory, config)?;
    Ok(scrub::accept_loss(config, &index, &segments)?)
}

/// Fingerprint of what a shard holds, with the number of events whose bytes are damaged. Brings the
/// index up to the log first. `progress` hears how many of how many sequences are looked at.
///
/// # Errors
/// [`OfflineError`].
pub fn fingerprint(
    directory: &DataDirectory,
    config: &StoreConfig,
    clock: &dyn Fn() -> Now,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Fingerprint, u64), OfflineError> {
    let (index, segments) = open_shard(directory, config)?;
    Driver::open(config.clone(), &index, &segments, clock)?.close()?;
    Ok(reindex::fingerprint(&index, &segments, progress)?)
}
