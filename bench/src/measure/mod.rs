//! What the measuring commands share: CPU clocks, units to measure in, signed events by number, and
//! connections that do nothing but what a measurement asks.
//!
//! **What it does not know:** arrival schedules and latency distributions; those belong to the load
//! scenarios. Here work is counted, and what it costs is read from CPU clocks.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measuring tools read clocks, start threads and the relay, and open sockets and files"
)]

pub mod client;
pub mod cpu;
pub mod events;
pub mod publish;
pub mod relay;
pub mod swarm;
pub mod units;
