//! Coverage marks: proof that a fault or a rare branch happened. Counted per run and summed over a
//! swarm; a mark that a whole swarm never reaches is a hole in the simulator.

use std::collections::BTreeMap;

/// Counts by name. Bounded by the number of names in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(pub BTreeMap<&'static str, u64>);

impl Marks {
    /// Counts one.
    pub fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Counts several.
    pub fn add(&mut self, name: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(name).or_insert(0) += count;
        }
    }
}
