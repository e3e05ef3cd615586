//! `turnpike-bench`: load tests, budgets and workloads for relays, from the command line.
#![forbid(unsafe_code)]

mod cli;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the tool's shell: it opens files and asks the machine for its cores"
)]
mod measuring;

fn main() -> std::process::ExitCode {
    cli::main()
}
