//! Opening a store: recovery and the rebuilding of the sketch, driven to their end over the two
//! seams. This blocks and is done before the shard's core begins to serve.

use crate::effect::{StoreEffect, WorldError};
use crate::recovery::{Need, Recovered, Recovery, RecoveryError};
use crate::rewrite::layout;
use crate::seam::{Index, Segments};
use crate::sketch::Sketch;
use crate::store::{Store, StoreConfig};
use crate::sums::Resummed;
use proto::Now;

/// Why a store could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The log does not hold what it must.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The world failed.
    #[error(transparent)]
    World(#[from] WorldError),
}

/// Opens the store of one shard.
///
/// # Errors
/// [`OpenError`]; nothing has been changed then but what recovery had verified.
pub fn open<S: Segments>(
    config: StoreConfig,
    index: &dyn Index,
    segments: &S,
    now: Now,
    fx: &mut Vec<StoreEffect>,
) -> Result<Store, OpenError> {
    open_telling(config, index, segments, now, fx, &mut |_| {})
}

/// Opens the store of one shard and tells how far the work is that only a changed configuration
/// makes: sums of other sync sets, for which every event is read once.
///
/// # Errors
/// [`OpenError`], as [`open`].
pub fn open_telling<S: Segments>(
    config: StoreConfig,
    index: &dyn Index,
    segments: &S,
    now: Now,
    fx: &mut Vec<StoreEffect>,
    tell: &mut dyn FnMut(Resummed),
) -> Result<Store, OpenError> {
    resum(&config, index, segments, tell)?;
    let recovered = recover(&config, index, segments)?;
    let sketch = rebuild_sketch(&config, index)?;
    Ok(Store::open(config, recovered, sketch, index.purges()?, now, fx))
}

/// Makes the sums of the index those of the configured filters. Done before recovery, whose events
/// are counted as the configuration says.
pub(crate) fn resum<S: Segments>(
    config: &StoreConfig,
    index: &dyn Index,
    segments: &S,
    tell: &mut dyn FnMut(Resummed),
) -> Result<(), WorldError> {
    loop {
        let resummed = index.resum(&config.sync_filters, segments)?;
        if resummed.done >= resummed.total {
            return Ok(());
        }
        tell(resummed);
    }
}

/// Runs recovery to its end.
///
/// # Errors
/// [`OpenError`] when the log is damaged or the world fails.
pub fn recover<S: Segments>(
    config: &StoreConfig,
    index: &dyn Index,
    segments: &S,
) -> Result<Recovered, OpenError> {
    let layout = layout::settle(config.shard, index, segments)?;
    let mut recovery = Recovery::new(config, index.applied()?, layout)?;
    while recover_step(&mut recovery, index, segments)? {}
    Ok(recovery.finish())
}

/// Does what recovery needs next; whether there was anything.
pub(crate) fn recover_step<S: Segments>(
    recovery: &mut Recovery,
    index: &dyn Index,
    segments: &S,
) -> Result<bool, OpenError> {
    match recovery.need() {
        Need::Read { segment } => recovery.feed(&segments.read(segment)?)?,
        Need::Apply(generation) => {
            index.checkpoint(&generation, segments)?;
            recovery.applied();
        }
        Need::Seal { segment, last, length } => {
            segments.reseal(segment, last, length)?;
            recovery.sealed();
        }
        Need::Nothing => return Ok(false),
    }
    Ok(true)
}

/// The sketch of what the index holds.
///
/// # Errors
/// [`WorldError`] when the index cannot be read.
pub fn rebuild_sketch(config: &StoreConfig, index: &dyn Index) -> Result<Sketch, WorldError> {
    let keys = index.sketched_count()?;
    let mut sketch = Sketch::with_room(config.secret, config.sketch_bytes_max, keys);
    index.sketched(&mut |item| sketch.insert(&item))?;
    Ok(sketch)
}
