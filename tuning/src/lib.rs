//! Host tuning: what the machine is like, what it should be like for a relay at its limit, the
//! command that gets there, and the way back.
//!
//! Everything here is a function of files below a root: `/proc`, `/sys` and `/etc` of the machine,
//! or of a folder that a test or an image builder made ([`host::Host`]). What cannot be read from a
//! file (whether `io_uring` works, how long the disk takes for a sync) comes in as [`Measured`].
//!
//! - [`checks`] looks at one thing each and says what is, what should be, why, and how to change it.
//! - [`settings`] is the one table of kernel settings that checks and plans share.
//! - [`plan`] is what `turnpike tune` would write; [`journal`] writes it and takes it back.
//! - [`layout`] says which core does what. The relay starts its cores by it, so that what
//!   `turnpike topology` prints is what will be.
//!
//! **What it does not know:** the relay's configuration (it is told the few numbers that matter,
//! [`Needs`]), the terminal, and any file but those that it names; it starts no program.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checks;
pub mod cpus;
pub mod host;
pub mod journal;
pub mod layout;
pub mod machine;
pub mod nics;
pub mod plan;
pub mod profiles;
pub mod report;
pub mod settings;
pub mod topology;
pub mod tree;

mod needs;
mod text;

pub use needs::{Measured, Needs, SyncSeries};
pub use text::wrap;
