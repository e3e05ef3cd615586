//! Opening a data directory for a command.

use super::Failure;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::runtime::probe::{Chosen, choose};
use crate::runtime::{entropy, machine};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::io;
use std::path::Path;
use std::sync::Arc;
use store::file::directory::{DataDirectory, DirectoryError, Entropy, Format};

/// Most shards of a directory made without being told how many.
pub(super) const SHARDS_DEFAULT_MAX: usize = 16;

/// Opens and locks the directory, first making it if there is none and `may_create`.
pub(super) fn open_directory(config: &Config, may_create: bool) -> Result<DataDirectory, Failure> {
    let path = Path::new(&config.store.data_dir);
    if !DataDirectory::exists(path) {
        if !may_create {
            let message = format!("there is no data directory at {}", path.display());
            return Err(Failure::Failed(anyhow::anyhow!(message)));
        }
        let shards = match config.store.shards {
            0 => machine::allowed_cores().len().min(SHARDS_DEFAULT_MAX) as u16,
            shards => shards,
        };
        let drawn = Entropy { node_id: entropy::bytes(), secret: entropy::bytes() };
        let format = Format::new(shards, drawn).map_err(directory_failure)?;
        DataDirectory::create(path, &format).map_err(directory_failure)?;
    }
    let directory = DataDirectory::open(path).map_err(directory_failure)?;
    let (made, asked) = (directory.format().shards, config.store.shards);
    if asked != 0 && asked != made {
        return Err(Failure::Usage(anyhow::anyhow!(
            "{} has {made} shards and {asked} are asked for, by --shards, TURNPIKE_STORE__SHARDS or \
             store.shards in the file: take that out, or change the store with `turnpike reshard \
             --shards {asked}`",
            path.display()
        )));
    }
    Ok(directory)
}

fn directory_failure(error: DirectoryError) -> Failure {
    match error {
        DirectoryError::Held { path, pid } => Failure::Held(anyhow::anyhow!(
            "{} is in use by process {pid}; end that process first (kill {pid})",
            path.display()
        )),
        DirectoryError::Shards(_) => Failure::Usage(error.into()),
        _ => Failure::Failed(error.into()),
    }
}

/// The process that holds the directory answers no command.
pub(super) fn no_answer(data_dir: &Path, pid: &str, socket: &Path, error: &io::Error) -> Failure {
    Failure::Held(anyhow::anyhow!(
        "{} is held by process {pid}, which does not answer at {}: {error}; if it is starting or \
         ending, try again when it has",
        data_dir.display(),
        socket.display()
    ))
}

/// Starts all cores over the directory.
pub(super) fn open_cluster(
    config: &Arc<Config>,
    directory: DataDirectory,
    chosen: &Chosen,
) -> Result<Cluster, Failure> {
    machine::raise_descriptors_max();
    let bar = progress(u64::from(directory.format().shards), "opening shards");
    let opened = Cluster::open(Arc::clone(config), directory, chosen, |opened, _| {
        bar.set_position(opened.into());
    });
    bar.finish_and_clear();
    Ok(opened.context("the relay cannot start")?)
}

/// The backend, as the configuration wants it.
pub(super) fn choose_runtime(config: &Config) -> Result<Chosen, Failure> {
    Ok(choose(config.runtime.runtime)?)
}

/// A bar on standard error; silent where that is no terminal.
pub(super) fn progress(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(what.to_owned());
    bar
}
