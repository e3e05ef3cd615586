//! Opening a store: recovery and the rebuilding of the sketch, driven to their end over the two
//! seams. This blocks and is done before the shard's core begins to serve.

use crate::effect::{StoreEffect, WorldError};
use crate::recovery::{Need, Recovered, Recovery, RecoveryError};
use crate::seam::{Index, Segments};
use crate::sketch::Sketch;
use crate::store::{Store, StoreConfig};
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
    let recovered = recover(&config, index, segments)?;
    let sketch = rebuild_sketch(&config, index)?;
    Ok(Store::open(config, recovered, sketch, now, fx))
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
    let mut recovery = Recovery::new(config, index.applied()?, segments.list()?)?;
    loop {
        match recovery.need() {
            Need::Read { segment } => recovery.feed(&segments.read(segment)?)?,
            Need::Apply(generation) => {
                index.checkpoint(&generation, segments)?;
                recovery.applied();
            }
            Need::Seal { segment, length } => {
                segments.seal(segment, length)?;
                recovery.sealed();
            }
            Need::Nothing => return Ok(recovery.finish()),
        }
    }
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
