//! Workloads: the generator of signed events that the whole workspace tests with, and the filters
//! that go with them; and the tools that measure what a relay costs.
//!
//! **What it does not know:** stores, engines, other crates than `proto`: a relay is known by its wire,
//! its process and its commands. Every byte of a workload is a function of a seed, so that two
//! machines that compare results compare the same input.
//!
//! Entry types: [`corpus::Corpus`] generates events, [`corpus::signer::Signer`] signs single ones,
//! [`filters::FilterGenerator`] draws queries that fit a set of events. [`budgets::run`] holds the relay
//! against its budgets, [`floor`] and [`runtime`] measure what stands below it.
// Allowed in `runtime::uring` alone, which says why.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod budgets;
pub mod corpus;
pub mod filters;
pub mod floor;
pub mod instructions;
pub mod load;
pub mod measure;
pub mod report;
pub mod rng;
pub mod run;
pub mod runtime;
pub mod scenario;

pub use corpus::signer::{Draft, Signer};
pub use corpus::{Corpus, CorpusOptions, Role, Sample, Shape};
