//! The index rebuilt from the log: every segment is read, as it was written or rewritten, of every
//! range the copy that was rewritten last and is whole. Nothing is decided again.
//!
//! The new index is filled beside the old one, which nothing touches until it is replaced; a
//! rebuilding that was interrupted is begun anew.

use crate::effect::{Seq, WorldError};
use crate::fingerprint::Fingerprint;
use crate::index::{Did, UpkeepRequest};
use crate::open::{OpenError, recover_step, resum};
use crate::recovery::Recovery;
use crate::rewrite::layout;
use crate::seam::{Bodies, Index, Segments};
use crate::store::StoreConfig;

/// Places that are read from the index at a time.
const LOCS_MAX: usize = 4_096;

/// Why an index was not rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReindexError {
    /// Somebody asked to stop.
    #[error("interrupted; the old index is untouched")]
    Stopped,
    /// The log is damaged or the world failed.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a rebuilt index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reindexed {
    /// Every record up to this one is in it.
    pub applied: Seq,
    /// Bytes of the segments that were read.
    pub log_bytes: u64,
}

/// Fills an empty index from the log. `progress` hears how many of how many bytes are read.
///
/// # Errors
/// [`ReindexError`] when the log is damaged, the world fails, or `should_stop` says so.
pub fn rebuild<S: Segments>(
    config: &StoreConfig,
    index: &dyn Index,
    segments: &S,
    progress: &mut dyn FnMut(u64, u64),
    should_stop: &dyn Fn() -> bool,
) -> Result<Reindexed, ReindexError> {
    resum(config, index, segments, &mut |_| {}).map_err(OpenError::from)?;
    let layout = layout::adopt(config.shard, index, segments)?;
    let log_bytes = layout.placed.iter().map(|placed| placed.bytes).sum();
    let mut recovery = Recovery::new(config, 0, layout).map_err(OpenError::from)?;
    while recover_step(&mut recovery, index, segments)? {
        keep_up(&config.upkeep(), index, should_stop)?;
        progress(recovery.bytes_read(), log_bytes);
        if should_stop() {
            return Err(ReindexError::Stopped);
        }
    }
    let generation = recovery.finish().generation;
    if !generation.is_empty() {
        index.checkpoint(&generation, segments).map_err(OpenError::from)?;
    }
    keep_up(&config.upkeep(), index, should_stop)?;
    Ok(Reindexed { applied: generation.last_seq(), log_bytes })
}

/// Brings an index's upkeep to its end, so that the next events find a small open generation.
pub(crate) fn keep_up(
    request: &UpkeepRequest,
    index: &dyn Index,
    should_stop: &dyn Fn() -> bool,
) -> Result<(), ReindexError> {
    while index.upkeep(request).map_err(OpenError::from)?.did != Did::Nothing {
        if should_stop() {
            return Err(ReindexError::Stopped);
        }
    }
    Ok(())
}

/// Fingerprint of everything that has a place in the index. `progress` hears how many of how many
/// sequences are looked at. Events whose bytes are damaged count in the second part of the answer
/// only.
///
/// # Errors
/// [`WorldError`] when the world fails.
pub fn fingerprint<S: Segments>(
    index: &dyn Index,
    segments: &S,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Fingerprint, u64), WorldError> {
    let applied = index.applied()?;
    let (mut sum, mut damaged, mut next) = (Fingerprint::default(), 0, 1);
    while next <= applied {
        let page = index.locs(next, applied, LOCS_MAX)?;
        for row in &page {
            match segments.body(&row.loc)? {
                Some(event) => sum.add_event(&event.view()),
                None => damaged += 1,
            }
        }
        next = match page.last() {
            Some(last) if page.len() >= LOCS_MAX => last.seq + 1,
            _ => applied + 1,
        };
        progress(next - 1, applied);
    }
    Ok((sum, damaged))
}
