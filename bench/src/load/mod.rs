//! The client that loads a relay: one thread per client core, one epoll set each, thousands of
//! WebSockets per core.
//!
//! Three rules make its figures worth something:
//!
//! 1. **Open loop.** A plan says what happens when; it does not wait for the relay. Latency counts
//!    from the intended time, so a relay that stalls for 500 ms owes 500 ms to everything that was
//!    due meanwhile (coordinated omission). What is never answered is recorded with the time waited.
//! 2. **It watches itself.** Every action's lag behind its intended time, and every core's CPU, are
//!    part of the outcome, so that a run in which the client was the bottleneck can be refused.
//! 3. **The hot path is bytes.** Events are signed and framed before the run (mask key zero, see
//!    [`frame`]); answers are told apart without a JSON tree ([`message`]).
//!
//! **What it does not know:** scenarios, thresholds, reports, and what the relay is made of.
//!
//! From Rust (the budgets are measured this way):
//!
//! ```no_run
//! use bench::load::{Fleet, FleetOptions, Frames, Ledger, Metric, Settle, Target};
//! # fn main() -> Result<(), bench::load::LoadError> {
//! # let events: Vec<proto::Event> = Vec::new();
//! let target = Target::parse("ws://127.0.0.1:7777")?;
//! let frames = Frames::of_events(&events);
//! let ledger = Ledger::new(frames.len());
//! let mut options = FleetOptions::new(8);
//! options.threads = 1;
//! let (mut fleet, _connects) = Fleet::open(&target, &options)?;
//! // Closed loop, 32 unanswered per connection: for CPU per operation.
//! let outcome = fleet.publish(&frames, &ledger, 0..frames.len(), 32, Settle::Answers);
//! println!("{} accepted, p50 {:?} ns", outcome.record.totals.accepted,
//!     outcome.quantile_ns(Metric::PublishOk, 0.5));
//! // One filter on a thousand subscribers of their own fleet; queries with chosen filters.
//! let (mut subscribers, _) = Fleet::open(&target, &FleetOptions::new(1_000))?;
//! subscribers.subscribe(&vec![br#"{"kinds":[1],"limit":0}"#.to_vec()], 0..1_000);
//! let answers = fleet.query(&vec![br#"{"kinds":[1],"limit":100}"#.to_vec(); 500], 4);
//! # let _ = answers; Ok(()) }
//! ```
//!
//! A [`Fleet`] reads only while a work runs on it; publishers and subscribers whose deliveries are
//! to be timed therefore belong to one fleet, with a plan ([`Work::open`], [`plan`]) or a
//! [`Pipeline`] over the publishers' range of connections. CPU and memory of a relay on the same
//! machine come from [`Server`].

mod connection;
mod core;
mod fleet;
pub mod frame;
mod frames;
pub mod message;
pub mod plan;
mod record;
mod server;
mod target;

pub use core::{Clock, CoreUse};
pub use fleet::{Fleet, FleetOptions, Live, Load, Outcome, Pipeline, Requests, Settle, Work};
pub use frames::{Frames, Journey, Ledger};
pub use plan::{Action, Actions, Arrivals, Merged, Op, Plan, Rate, SECOND_NS};
pub use record::{Counts, Interval, Metric, Record, histogram};
pub use server::{Sample, Server};
pub use target::{Target, read_upgrade};

/// Why a load cannot be put on a relay.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The user's: the URL.
    #[error("{url}: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The machine's: it gives no more files.
    #[error(
        "{needed} file descriptors are needed and the hard limit is {hard}; raise `ulimit -Hn`"
    )]
    Files {
        /// For the connections asked for.
        needed: u64,
        /// What may be had.
        hard: u64,
    },
    /// The machine's.
    #[error("the client cannot start: {0}")]
    Machine(std::io::Error),
    /// The relay's: it does not take all connections.
    #[error("{failed} of {of} connections did not open: {why}")]
    Connect {
        /// How many did not.
        failed: u32,
        /// How many were tried.
        of: u32,
        /// What the first reason was.
        why: String,
    },
}
