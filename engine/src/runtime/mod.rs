//! The product's one place with sockets, clocks, threads and entropy.
//!
//! **What it does not know:** Nostr. It moves bytes, wakes threads and syncs files; whose they are
//! is the core loop's business. `unsafe` is allowed here, and each block states what it relies on.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the seam: clocks, threads and system files are read here and handed on"
)]

pub mod client;
pub mod clock;
pub mod entropy;
pub mod input;
pub mod listener;
pub mod local;
pub mod log_thread;
pub mod machine;
pub mod nowait;
pub mod plugin;
pub mod pool;
pub mod probe;
pub mod reactor;
pub mod signals;
pub mod slots;
pub mod survey;
pub mod threads;
pub mod uplink;
pub mod wake;

mod epoll;
#[cfg(feature = "glommio")]
mod glommio;
mod uring;

#[cfg(test)]
mod tests;
