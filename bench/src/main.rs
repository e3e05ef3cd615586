//! `turnpike-bench`: load tests, budgets and workloads for relays, from the command line.
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
