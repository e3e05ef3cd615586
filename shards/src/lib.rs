//! The shards: what happens to an event at the shard that owns it, how queries are scattered and
//! merged, and how live events reach every core.
//!
//! Two state machines. [`shard::Shard`] is the owner side: it decides, stores, answers pages and
//! keeps the ring of live events. [`home::Home`] is the side of the core that owns a client: it
//! submits, merges, and fans out. They talk in the messages of [`message`], carried by [`mesh`]. A
//! core's [`checker::Checker`] checks signatures for shards whose core has too many.
//!
//! **What it does not know:** frames, file descriptors, sockets, clocks, threads, LMDB. A client is
//! a number; the store is a state machine whose effects somebody else performs.
//!
//! Flows 1 to 3 of `ARCHITECTURE.md` live here.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checker;
pub mod counters;
pub mod door;
pub mod home;
pub mod live;
pub mod mesh;
pub mod message;
pub mod policy;
pub mod route;
pub mod shard;
pub mod subindex;

#[doc(hidden)]
pub use home::fuzzing;

pub use home::{Home, HomeConfig, HomeEffects, HomeInput, NegConfig, Reply};
pub use shard::{Shard, ShardConfig, ShardEffects, ShardInput};
