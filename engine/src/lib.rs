//! The relay: everything below put on cores, sockets and disks, and the command line over it.
//!
//! **What it does not know:** any rule of Nostr. A branch here that depends on what an event says
//! is in the wrong crate.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod core_loop;
pub mod desk;
pub mod effects;
pub mod log;
pub mod metrics;
pub mod ops;
pub mod policy;
pub mod private;
pub mod runtime;
pub mod settings;
pub mod shared;
