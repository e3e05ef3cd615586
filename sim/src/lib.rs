//! The simulator: the product itself in a deterministic world where everything goes wrong.
//!
//! A node is the product's cores (`serve`, `net`, `shards`, `store`) in one thread; sockets, disks,
//! clocks and the other cores are [`world`]'s, and one seed decides everything that they do. Clients
//! ([`client`], [`malice`]) speak the wire; what they were told goes into a [`history`], against which
//! the promises are checked ([`check`]) by an oracle ([`fact`]) that was written apart from the product.
//!
//! **What it does not know:** the engine, sockets, real disks, real time.
//!
//! A run ([`run`]) draws its sizes and faults from its seed ([`plan`]); a swarm ([`swarm`]) runs many; a
//! failing one is made smaller ([`shrink`]) and kept as a regression.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod check;
pub mod client;
pub mod disk;
pub mod fact;
pub mod hear;
pub mod history;
pub mod malice;
pub mod marks;
pub mod network;
pub mod node;
pub mod plan;
pub mod pool;
pub mod run;
pub mod wire;
pub mod world;
