//! `turnpike config`.

use super::{Failure, Global, Outcome, configure, configure_from};
use clap::Subcommand;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration in force, every key with its meaning and default
    Print,
    /// Check a file without starting anything
    Check {
        /// The file
        file: PathBuf,
    },
}

pub(super) fn run(global: &Global, command: &ConfigCommand) -> Outcome {
    let mut out = std::io::stdout().lock();
    match command {
        ConfigCommand::Print => {
            let config = configure(global)?;
            out.write_all(crate::config::print(&config).as_bytes())?;
        }
        ConfigCommand::Check { file } => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::Usage(anyhow::anyhow!("cannot read {name}: {error}")))?;
            configure_from(global, Some(&text), &name)?;
            writeln!(out, "{name}: ok")?;
        }
    }
    out.flush()?;
    Ok(())
}
