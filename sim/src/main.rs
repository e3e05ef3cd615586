//! `turnpike-sim`: runs seeds, swarms and planted bugs.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a binary: it starts workers, reads the clock for its budget, prints"
)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
