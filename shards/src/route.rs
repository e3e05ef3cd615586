//! Which shards a query has to ask.
//!
//! An event lives with its author, a gift wrap with its recipient. So a filter that names authors
//! asks their shards, and, if it may return wraps, the shards of the reader's own keys, since a
//! wrap is served to nobody else. Every other filter asks all shards.

use crate::message::{Reader, ShardId};
use proto::nip::nip59::{EPHEMERAL_WRAP_KIND, WRAP_KIND};
use proto::{Filter, Placement};

/// A set of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// All of them.
    All,
    /// These, sorted.
    These(Box<[ShardId]>),
}

impl Targets {
    /// The shards that hold, or may come to hold, an event that one of `filters` returns to
    /// `reader`.
    pub fn of(filters: &[Filter], reader: &Reader, placement: &Placement) -> Self {
        let mut shards = Vec::new();
        for filter in filters {
            let Some(authors) = &filter.authors else { return Self::All };
            let may_return_wraps =
                filter.allows_kind(WRAP_KIND) || filter.allows_kind(EPHEMERAL_WRAP_KIND);
            match reader {
                Reader::Operator if may_return_wraps => return Self::All,
                Reader::Client(keys) if may_return_wraps => {
                    shards.extend(keys.iter().map(|key| placement.shard_of(key)));
                }
                Reader::Operator | Reader::Client(_) => {}
            }
            shards.extend(authors.iter().map(|key| placement.shard_of(key)));
        }
        shards.sort_unstable();
        shards.dedup();
        if shards.len() == usize::from(placement.shards()) {
            return Self::All;
        }
        Self::These(shards.into())
    }

    /// Whether `shard` is in the set.
    pub fn contains(&self, shard: ShardId) -> bool {
        match self {
            Self::All => true,
            Self::These(shards) => shards.binary_search(&shard).is_ok(),
        }
    }

    /// The shards, in order.
    pub fn iter(&self, shards: u16) -> impl Iterator<Item = ShardId> + '_ {
        let (all, these) = match self {
            Self::All => (0..shards, [].as_slice()),
            Self::These(these) => (0..0, these.as_ref()),
        };
        all.chain(these.iter().copied())
    }

    /// How many there are.
    pub fn count(&self, shards: u16) -> usize {
        match self {
            Self::All => usize::from(shards),
            Self::These(these) => these.len(),
        }
    }
}
