//! The relay on this machine: the one that holds the data directory, or one in this process.

use crate::cli::offline::{choose_runtime, no_answer, open_directory, progress};
use crate::cli::{Failure, Outcome};
use crate::cluster::RELAY_SOCKET;
use crate::config::Config;
use crate::private::{Private, run_private};
use crate::runtime::client::Client;
use anyhow::{Context, anyhow};
use std::path::PathBuf;
use std::sync::Arc;
use store::file::directory;

/// How long a relay in this process may take to end.
const END_MS: u64 = 120_000;

/// A connection to it. To be ended with [`Here::end`].
pub(in crate::cli) struct Here {
    pub(in crate::cli) client: Client,
    private: Option<Private>,
}

impl Here {
    /// Connects to the relay that runs, or starts one that only this command can reach.
    pub(in crate::cli) fn open(config: &Config) -> Result<Self, Failure> {
        let path = PathBuf::from(&config.store.data_dir);
        if let Some(pid) = directory::holder(&path).context("data directory")? {
            let socket = path.join(RELAY_SOCKET);
            let client = Client::connect_local(&socket)
                .map_err(|error| no_answer(&path, &pid, &socket, &error))?;
            return Ok(Self { client, private: None });
        }
        let mut config = config.clone();
        // What is off is for clients from outside, of whom there are none.
        config.sync.negentropy = true;
        let chosen = choose_runtime(&config)?;
        let directory = open_directory(&config, true)?;
        let bar = progress(u64::from(directory.format().shards), "opening shards");
        let private = run_private(Arc::new(config), directory, &chosen, |opened, _| {
            bar.set_position(opened.into());
        });
        bar.finish_and_clear();
        let private = private.context("the store cannot be opened")?;
        let client = Client::connect_local(private.socket()).context("the store's own socket")?;
        Ok(Self { client, private: Some(private) })
    }

    /// Ends what was started.
    pub(in crate::cli) fn end(self) -> Outcome {
        drop(self.client);
        match self.private.map(|private| private.end(END_MS)) {
            Some(false) => Err(Failure::Failed(anyhow!("the store did not close in time"))),
            Some(true) | None => Ok(()),
        }
    }
}
