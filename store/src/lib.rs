//! The store of one shard: event log, memory of what is not yet indexed, index, and the rules of
//! replacement and deletion.
//!
//! **What it does not know:** who is connected, what a subscription is, what money means, which
//! shard it is part of. It verifies no signature and matches no filter: rows that a plan yields are
//! a superset, and whoever serves them matches them again.
//!
//! Entry type: [`Store`], a state machine that never blocks. It emits [`StoreEffect`]s; the engine
//! (real files, LMDB, threads) or a simulator (memory, faults) performs them through the seams
//! [`Segments`] and [`Index`] and feeds [`StoreInput`]s back. Only [`mod@file`] and [`lmdb`] touch the
//! kernel.
//!
//! The way of an event: [`replace::decide`] turns it into effects ([`Store::put`], [`Store::kill`],
//! marks), which go into one log batch ([`log`]); when that is durable they enter the delta
//! ([`delta`]) and become visible; a checkpoint moves a frozen generation of the delta into the
//! index ([`index`]), whose rows are split by arrival ([`index::generations`]) so that this costs the
//! same however much is stored. A reader's page is the index's page and the delta's rows merged
//! ([`page`]). Sealed segments are written anew without what is dead in them ([`rewrite`]).
//!
//! For shards that no relay serves there are [`offline`], [`reindex`], [`reshard`] and [`scrub`].
//! What a key that vanished left behind goes little by little ([`vanish`]); what peers reconcile is
//! summed as it comes and goes ([`sums`]).
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bloom;
pub mod delta;
pub mod effect;
pub mod fault;
pub mod file;
pub mod fingerprint;
pub mod index;
pub mod key;
pub mod lmdb;
pub mod log;
pub mod mem;
pub mod offline;
pub mod open;
pub mod page;
pub mod plan;
pub mod record;
pub mod recovery;
pub mod reindex;
pub mod replace;
pub mod reshard;
pub mod rewrite;
pub mod scrub;
pub mod seam;
pub mod sketch;
pub mod store;
pub mod sums;
pub mod vanish;
pub mod view;

pub use effect::{
    Checkpoint, Found, IndexPage, IndexRow, Kinds, Loc, LogEffect, LookupKey, Position,
    ScanRequest, Seq, Source, StoreEffect, StoreInput, Stream, Token, Unwritten, WorldError,
};
pub use open::{OpenError, open, open_telling};
pub use record::KillCause;
pub use recovery::{Recovered, Recovery, RecoveryError};
pub use seam::{Bodies, Index, Segments};
pub use store::{Row, Store, StoreConfig, StoreOutput, StoreStats};
pub use view::{Answers, Holder, Known, View};
