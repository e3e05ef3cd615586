//! `turnpike run`: start, serve, reload, end.

use super::offline::{choose_runtime, open_cluster, open_directory};
use super::{Failure, Global, Outcome, configure};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::log::{self, Level};
use crate::runtime::signals::{self, Asked};
use anyhow::Context;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// How long the control core sleeps when nothing happens.
const IDLE_MS: u64 = 1_000;

pub(super) fn run(global: &Global) -> Outcome {
    let config = Arc::new(configure(global)?);
    let chosen = choose_runtime(&config)?;
    let directory = open_directory(&config, true)?;
    if cfg!(feature = "skip-sync") {
        log::line(Level::Error, super::version());
    }
    let mut cluster = open_cluster(&config, directory, &chosen)?;
    let asked = signals::listen(cluster.control.wake().clone()).context("signal handlers")?;
    announce(&config, &cluster, &chosen.line)?;
    let address: SocketAddr = config.network.listen.parse().context("network.listen")?;
    let address = cluster.listen(&config, address)?;
    say(&format!("listening ws://{address}"))?;
    log::line(Level::Info, &format!("serving on ws://{address}"));
    serve(global, &config, &mut cluster, &asked);
    log::line(Level::Info, "ending: answers go out, connections close, stores are written down");
    if !cluster.end(config.network.shutdown_timeout_ms) {
        return Err(Failure::Failed(anyhow::anyhow!(
            "the relay did not end within network.shutdown_timeout_ms; nothing that was answered \
             is lost"
        )));
    }
    log::line(Level::Info, "ended");
    Ok(())
}

/// One line on standard output, at once: tests and scripts wait for it.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn announce(config: &Config, cluster: &Cluster, runtime: &str) -> Outcome {
    let format = cluster.directory().format();
    log::line(
        Level::Info,
        &format!(
            "turnpike {} over {} ({} shards on {} cores)",
            super::version(),
            cluster.directory().path().display(),
            format.shards,
            cluster.executors
        ),
    );
    log::line(Level::Info, &cluster.ceiling.to_string());
    for line in crate::config::differences(&Config::default(), config) {
        log::line(Level::Info, &format!("config {line}"));
    }
    if config.relay.public_url.is_empty() {
        log::line(
            Level::Warn,
            "relay.public_url is not set: AUTH is checked against the Host that clients ask for",
        );
    }
    say(&format!("runtime {runtime}"))?;
    Ok(())
}

/// Until somebody asks for the end.
fn serve(global: &Global, config: &Arc<Config>, cluster: &mut Cluster, asked: &Asked) {
    let mut current = Arc::clone(config);
    while !asked.to_end() {
        if asked.to_reload() {
            current = reload(global, current, cluster);
        }
        drop(cluster.control.turn(IDLE_MS));
    }
}

/// Puts what can change while running in force, and says what cannot. A configuration with an error
/// changes nothing.
fn reload(global: &Global, current: Arc<Config>, cluster: &Cluster) -> Arc<Config> {
    let new = match configure(global) {
        Ok(new) => new,
        Err(Failure::Usage(error) | Failure::Failed(error) | Failure::Held(error)) => {
            log::line(Level::Error, &format!("reload refused, nothing has changed: {error:#}"));
            return current;
        }
        Err(Failure::BrokenPipe) => return current,
    };
    let merged = crate::config::merge_live(&current, &new);
    for line in crate::config::differences(&current, &merged) {
        log::line(Level::Info, &format!("reloaded {line}"));
    }
    for line in crate::config::differences(&merged, &new) {
        log::line(Level::Warn, &format!("not reloaded, takes a restart: {line}"));
    }
    let merged = Arc::new(merged);
    log::set_level(merged.runtime.log_level);
    cluster.control.shared().reconfigure(Arc::clone(&merged));
    log::line(Level::Info, "configuration reloaded");
    merged
}
