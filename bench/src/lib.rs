//! Workloads: the generator of signed events that the whole workspace tests with, and the filters
//! that go with them.
//!
//! **What it does not know:** clocks, sockets, stores, other crates than `proto`. Every byte here
//! is a function of a seed, so that two machines that compare results compare the same input.
//!
//! Entry types: [`corpus::Corpus`] generates events, [`corpus::signer::Signer`] signs single ones,
//! [`filters::FilterGenerator`] draws queries that fit a set of events.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod corpus;
pub mod filters;
pub mod load;
pub mod report;
pub mod rng;
pub mod run;
pub mod scenario;

pub use corpus::signer::{Draft, Signer};
pub use corpus::{Corpus, CorpusOptions, Role, Sample, Shape};
