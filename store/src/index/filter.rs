//! Filters over the ids of sealed generations, so that a question about an id searches the one that
//! has it and not all of them. They are made by whoever holds the index, when it is opened and when a
//! generation has been sealed, and are no part of its format.
//!
//! A run's ids never change once a list of generations names it, so that a filter is right in every
//! snapshot; a run without one is searched.

use super::generations::{Generations, Lies};
use super::{ReadRows, Table};
use crate::bloom::{BITS_PER_KEY, Bloom};
use crate::effect::WorldError;
use proto::hash::domain;
use proto::{EventId, Secret};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of an index's filters unless whoever opens it says otherwise: enough for 22 million events, and
/// less than a tenth of what their rows take. Past the bound the oldest generations have none.
pub const FILTER_BYTES_MAX: usize = 32 << 20;

/// Filters by run. Shared by everybody who reads the index; a new list replaces it. Bounded in bytes by
/// whoever opens the index.
#[derive(Clone, Debug, Default)]
pub struct IdFilters {
    runs: BTreeMap<u32, Arc<Bloom>>,
}

fn hash(secret: &Secret, id: &[u8]) -> u64 {
    secret.hash64(domain::SKETCH, id)
}

impl IdFilters {
    /// Whether an event with this id may be in a run.
    pub fn may_have(&self, secret: &Secret, run: u32, id: &EventId) -> bool {
        let Some(filter) = self.runs.get(&run) else { return true };
        filter.holds(hash(secret, &id.0[..8]))
    }

    /// Bytes held.
    pub fn bytes_held(&self) -> usize {
        self.runs.values().map(|filter| filter.bytes_held()).sum()
    }

    /// The filters of a snapshot's runs: those that are here already, and new ones for the others,
    /// the youngest first, as far as `bytes_max` goes.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the world fails.
    pub fn renewed(
        &self,
        rows: &dyn ReadRows,
        secret: &Secret,
        bytes_max: usize,
    ) -> Result<Self, WorldError> {
        let (mut renewed, mut bytes) = (Self::default(), 0);
        for generation in Generations::read(rows)?.list().iter().rev() {
            let Lies::Run(run) = generation.lies else { continue };
            let keys = usize::try_from(generation.events).unwrap_or(usize::MAX).max(1);
            bytes += keys.saturating_mul(BITS_PER_KEY) / 8;
            if bytes > bytes_max {
                break;
            }
            let filter = match self.runs.get(&run) {
                Some(filter) => Arc::clone(filter),
                None => Arc::new(filter_of(rows, secret, generation.lies, keys)?),
            };
            renewed.runs.insert(run, filter);
        }
        Ok(renewed)
    }
}

fn filter_of(
    rows: &dyn ReadRows,
    secret: &Secret,
    lies: Lies,
    keys: usize,
) -> Result<Bloom, WorldError> {
    let mut filter = Bloom::new(keys);
    rows.walk(Table::Id, &lies.key(&[]), &mut |key, _| {
        let Some(id) = lies.strip(key).and_then(|key| key.get(..8)) else { return false };
        filter.set(hash(secret, id));
        true
    })?;
    Ok(filter)
}
