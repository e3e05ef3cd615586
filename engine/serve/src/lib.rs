//! One core of the relay without its machine: its connections and their home, its shards, its post,
//! and the order in which a turn of the loop lets them step.
//!
//! **What it does not know:** sockets, files, threads, clocks, the configuration file. What a core
//! wants of the world it asks of a [`Machine`]; the engine's is made of a reactor, a thread pool and
//! real disks, the simulator's of whatever can go wrong. So what the simulator runs is the loop
//! that serves, down to which reply goes into which outbox first.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod clients;
mod core;
mod machine;
mod owners;
mod post;
mod socket;
mod timers;
mod timings;

#[cfg(test)]
mod tests;

pub use self::core::{Core, CoreParts, Phase};
pub use clients::Clients;
pub use machine::Machine;
pub use owners::{DiskLevel, Owned, Owners, add_counters};
pub use post::Post;
pub use socket::{Peer, Sending, SocketId};
pub use timings::{BOUNDS_US, Histogram, Timings};
