//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the store is
//! held by another process.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a binary: it reads the files and prints the lines that the operator asks for"
)]

mod age;
mod ask;
mod config_command;
mod delete;
mod host;
mod import;
mod maintain;
mod offline;
mod read;
mod run;
mod stream;
mod sync;

use crate::config::{self, Config, Source};
use crate::log::Level;
use crate::runtime::probe::RuntimeChoice;
use clap::{Args, Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Name of the admin socket within the data directory.
const ADMIN_SOCKET: &str = "admin.sock";
/// Configuration file that is read when none is named, if it exists.
const CONFIG_FILE: &str = "turnpike.toml";

/// What is said when the relay that a command spoke to ends.
const RELAY_GONE: &str = "the relay went away; the same command goes on from here";

/// How the variables that name keys are written.
const VARIABLE_FORM: &str = "section and key are parted by two underscores, as in \
                             TURNPIKE_NETWORK__LISTEN";

const EXAMPLES: &str = "\
Examples:
  turnpike run                             serve ws://127.0.0.1:7777 from ./data
  turnpike run --listen 0.0.0.0:7777       serve everybody
  turnpike import dump.jsonl               take in events, verified on all cores
  turnpike export --filter '{\"kinds\":[1]}' events as JSON lines, newest first
  turnpike scan '{\"#t\":[\"nostr\"]}' --count how many events match
  turnpike info                            what the store holds
  turnpike delete --age 90d --dry-run      how many events are older than that
  turnpike compact                         give back the bytes of what is dead
  turnpike scrub                           look for damage
  turnpike doctor                          what holds the relay back here
  turnpike tune                            what would be set to change that
  turnpike topology                        which core will do what
  turnpike config print > turnpike.toml    every key, its meaning and default

All but reindex and reshard also work while the relay runs: they then ask it
through its sockets in the data directory.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 store held by
another process.";

#[derive(Debug, Parser)]
#[command(name = "turnpike", version = version(), about = "A sharded, thread-per-core Nostr relay")]
#[command(after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Above the flags that every command has, so that a command's own are found.
const EVERY_COMMAND: &str = "Options of every command";

/// Flags of every command; each comes before the environment and the file.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Configuration file [default: ./turnpike.toml if it exists]
    #[arg(long, global = true, help_heading = EVERY_COMMAND, env = "TURNPIKE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory [default: data]
    #[arg(long, global = true, help_heading = EVERY_COMMAND, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:7777]
    #[arg(long, global = true, help_heading = EVERY_COMMAND, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Shards of a new data directory [default: one per core, at most 16], or those that reshard makes
    #[arg(long, global = true, help_heading = EVERY_COMMAND, value_name = "N")]
    shards: Option<u16>,
    /// How sockets and the log are driven; anything but auto never falls back
    #[arg(long, global = true, help_heading = EVERY_COMMAND, value_enum)]
    runtime: Option<RuntimeChoice>,
    /// How much is written to standard error
    #[arg(long, global = true, help_heading = EVERY_COMMAND, value_enum)]
    log_level: Option<Level>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve
    Run,
    /// Take in events from JSON lines
    Import(import::Import),
    /// Write events as JSON lines
    Export(read::Export),
    /// Write the events that match a filter
    Scan(read::Scan),
    /// Say what the store holds
    Info(read::Info),
    /// Remove events
    Delete(delete::Delete),
    /// Give back the bytes of what is deleted, replaced or expired
    Compact(maintain::Compact),
    /// Rebuild the index from the log
    Reindex(maintain::Reindex),
    /// Change the number of shards (--shards N)
    Reshard(maintain::Reshard),
    /// Look for damage in log and index
    Scrub(maintain::Scrub),
    /// Exchange what differs with a relay elsewhere (NIP-77)
    Sync(sync::Sync),
    /// Exchange events with a relay elsewhere as they come
    Stream(stream::Stream),
    /// Look for what holds the relay back on this machine
    Doctor(host::Doctor),
    /// Write settings and limits of this machine for the relay, or take them back
    Tune(host::Tune),
    /// Say which core will do what
    Topology(host::TopologyCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config_command::ConfigCommand),
}

/// The version, which says so when the program is not one to use.
fn version() -> &'static str {
    if cfg!(feature = "skip-sync") {
        concat!(
            env!("CARGO_PKG_VERSION"),
            " (SKIP-SYNC BUILD: NOTHING IS DURABLE, FOR FAULT TESTS ONLY)"
        )
    } else {
        env!("CARGO_PKG_VERSION")
    }
}

/// Why a command failed; decides the exit code.
#[derive(Debug)]
enum Failure {
    /// 1.
    Failed(anyhow::Error),
    /// 2.
    Usage(anyhow::Error),
    /// 3.
    Held(anyhow::Error),
    /// Whoever read our output has gone: no fault, and nobody to tell.
    BrokenPipe,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let io = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if io == Some(std::io::ErrorKind::BrokenPipe) {
            Self::BrokenPipe
        } else {
            Self::Failed(error)
        }
    }
}

type Outcome = Result<(), Failure>;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap prints them to standard output.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let (code, error) = match dispatch(&cli) {
        Ok(()) | Err(Failure::BrokenPipe) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (1, error),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::Held(error)) => (3, error),
    };
    let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
    ExitCode::from(code)
}

fn dispatch(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Config(command) => config_command::run(&cli.global, command),
        Command::Run => run::run(&cli.global),
        Command::Sync(command) => sync::run(&cli.global, command),
        Command::Stream(command) => stream::run(&cli.global, command),
        Command::Import(command) => import::run(&cli.global, command),
        Command::Export(command) => read::export(&cli.global, command),
        Command::Scan(command) => read::scan(&cli.global, command),
        Command::Info(command) => read::info(&cli.global, command),
        Command::Delete(command) => delete::run(&cli.global, command),
        Command::Compact(command) => maintain::compact(&cli.global, command),
        Command::Reindex(command) => maintain::reindex(&cli.global, command),
        Command::Reshard(command) => maintain::reshard(&cli.global, command),
        Command::Scrub(command) => maintain::scrub(&cli.global, command),
        Command::Doctor(command) => host::doctor(&cli.global, command),
        Command::Tune(command) => host::tune(&cli.global, command),
        Command::Topology(command) => host::topology(&cli.global, command),
    }
}

/// The configuration from file, environment and flags.
fn configure(global: &Global) -> Result<Config, Failure> {
    let (text, name) = match &global.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::Usage(anyhow::anyhow!("cannot read {}: {error}", path.display()))
            })?;
            (Some(text), path.display().to_string())
        }
        None => (read_if_exists(Path::new(CONFIG_FILE))?, CONFIG_FILE.to_owned()),
    };
    configure_from(global, text.as_deref(), &name)
}

/// The text of a file that need not be there. One that is there and cannot be read is an error: a
/// relay must not come up with defaults because a permission is wrong.
fn read_if_exists(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = anyhow::anyhow!("cannot read {}: {error}", path.display());
            Err(Failure::Usage(message))
        }
    }
}

fn configure_from(global: &Global, text: Option<&str>, name: &str) -> Result<Config, Failure> {
    let env: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let source = text.map(|text| Source { text, name });
    let mut config = config::load(source, &env).map_err(|error| Failure::Usage(error.into()))?;
    if let Some(data_dir) = &global.data_dir {
        config.store.data_dir = data_dir.display().to_string();
    }
    if let Some(listen) = &global.listen {
        config.network.listen = listen.clone();
    }
    if let Some(shards) = global.shards {
        config.store.shards = shards;
    }
    if let Some(runtime) = global.runtime {
        config.runtime.runtime = runtime;
    }
    if let Some(log_level) = global.log_level {
        config.runtime.log_level = log_level;
    }
    config.check().map_err(|error| Failure::Usage(error.into()))?;
    crate::log::set_level(config.runtime.log_level);
    for variable in config::unknown_variables(&env) {
        let message = format!("{variable} names no key and is ignored; {VARIABLE_FORM}");
        crate::log::line(Level::Warn, &message);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_flags_stand_before_or_after_the_command() {
        Cli::command().debug_assert();
        let before = Cli::try_parse_from(["turnpike", "--data-dir", "x", "run"]).unwrap();
        let after = Cli::try_parse_from(["turnpike", "run", "--data-dir", "x"]).unwrap();
        assert_eq!(before.global.data_dir, after.global.data_dir);
        assert!(Cli::try_parse_from(["turnpike", "import"]).is_err(), "a file is required");
    }

    #[test]
    fn who_asks_what_a_sync_would_do_transfers_nothing() {
        let direction = |words: &[&str]| {
            let words = ["turnpike", "sync", "ws://127.0.0.1"].iter().chain(words);
            let Command::Sync(sync) = Cli::try_parse_from(words).unwrap().command else { panic!() };
            sync.direction()
        };
        assert_eq!(direction(&[]), sync::Direction::Both);
        assert_eq!(direction(&["--print-missing"]), sync::Direction::None);
        assert_eq!(direction(&["--print-missing", "--dir", "down"]), sync::Direction::Down);
    }

    #[test]
    fn explanations_fit_a_terminal_of_80_columns() {
        for command in Cli::command().get_subcommands().chain([&Cli::command()]) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_is_none_and_one_that_cannot_be_read_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("t.toml");
        assert_eq!(read_if_exists(&path).ok(), Some(None));
        std::fs::write(&path, b"\xff").unwrap();
        let Err(Failure::Usage(error)) = read_if_exists(&path) else { panic!("it was read") };
        assert!(error.to_string().contains("t.toml"), "{error}");
        assert!(matches!(read_if_exists(root.path()), Err(Failure::Usage(_))));
    }

    #[test]
    fn flags_come_before_the_file_and_are_checked() {
        let cli = ["turnpike", "run", "--listen", "0.0.0.0:5"];
        let mut global = Cli::try_parse_from(cli).unwrap().global;
        let text = "[network]\nlisten = \"127.0.0.1:4\"\n";
        let config = configure_from(&global, Some(text), "t").unwrap();
        assert_eq!(config.network.listen, "0.0.0.0:5");
        global.listen = Some("nowhere".into());
        assert!(matches!(configure_from(&global, Some(text), "t"), Err(Failure::Usage(_))));
    }
}
