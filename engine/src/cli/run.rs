//! `turnpike run`: start, serve, reload, end.

use super::offline::{choose_runtime, open_cluster, open_directory};
use super::{Failure, Global, Outcome, configure};
use crate::admin;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::log::{self, Level};
use crate::ops::Ops;
use crate::runtime::local;
use crate::runtime::signals::{self, Asked};
use anyhow::Context;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// How long the control core sleeps when nothing happens.
const IDLE_MS: u64 = 1_000;

pub(super) fn run(global: &Global) -> Outcome {
    let had_file = global.config.is_none() && Path::new(super::CONFIG_FILE).exists();
    let config = Arc::new(configure(global)?);
    let chosen = choose_runtime(&config)?;
    let directory = open_directory(&config, true)?;
    if cfg!(feature = "skip-sync") {
        log::line(Level::Error, super::version());
    }
    let mut cluster = open_cluster(&config, directory, &chosen)?;
    let asked = signals::listen(cluster.control.wake().clone()).context("signal handlers")?;
    let socket = cluster.directory().path().join(super::ADMIN_SOCKET);
    let requests = local::listen(&socket, cluster.control.wake().clone())
        .with_context(|| format!("admin socket {}", socket.display()))?;
    announce(&config, &cluster, &chosen.line);
    let address: SocketAddr = config.network.listen.parse().context("network.listen")?;
    let address = cluster.listen(&config, address)?;
    say(&format!("listening ws://{address}"));
    log::line(Level::Info, &format!("serving on ws://{address}"));
    let service = Service { global, had_file, runtime: &chosen.line, asked: &asked, requests };
    service.serve(&config, &mut cluster);
    let _ = std::fs::remove_file(&socket);
    log::line(Level::Info, "ending: answers go out, connections close, stores are written down");
    // A reload may have changed it since the start.
    let (config, _) = cluster.control.shared().config();
    if !cluster.end(config.network.shutdown_timeout_ms) {
        return Err(Failure::Failed(anyhow::anyhow!(
            "the relay did not end within network.shutdown_timeout_ms; nothing that was answered \
             is lost"
        )));
    }
    log::line(Level::Info, "ended");
    Ok(())
}

/// One line on standard output, at once: tests and scripts wait for it. That nobody reads there is
/// no reason not to serve.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn announce(config: &Config, cluster: &Cluster, runtime: &str) {
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
            "relay.public_url is not set: AUTH is checked against the Host that clients ask for, so \
             another relay that a user authenticates to can pass that AUTH on and act as the user",
        );
    }
    say(&format!("runtime {runtime}"));
}

/// What the control core looks after while the others serve.
struct Service<'a> {
    global: &'a Global,
    /// The configuration came from the file that need not be there.
    had_file: bool,
    runtime: &'a str,
    asked: &'a Asked,
    requests: Receiver<local::Request>,
}

impl Service<'_> {
    /// Until somebody asks for the end.
    fn serve(&self, config: &Arc<Config>, cluster: &mut Cluster) {
        let mut current = Arc::clone(config);
        while !self.asked.to_end() {
            if self.asked.to_reload() {
                current = self.reload(current, cluster);
            }
            match self.requests.try_recv() {
                Ok(request) => self.answer(request, &current, cluster),
                Err(_) => drop(cluster.control.turn(IDLE_MS)),
            }
        }
    }

    fn answer(&self, request: local::Request, config: &Config, cluster: &mut Cluster) {
        let should_stop = || self.asked.to_end();
        let line = request.line.clone();
        let mut out = std::io::BufWriter::with_capacity(1 << 16, request.answer(&should_stop));
        let limits = admin::operator_limits(config);
        let process = admin::Process { runtime: Some(self.runtime), limits: &limits };
        // A command that is gone, or was cut off, needs no answer.
        let _ = match serde_json::from_str::<admin::Request>(&line) {
            Ok(request) => {
                let mut ops = Ops::new(&mut cluster.control, &should_stop);
                admin::answer(&request, &mut ops, process, &mut out)
            }
            Err(error) => writeln!(out, "xthe request is not understood: {error}"),
        };
    }

    /// Puts what can change while running in force, and says what cannot. A configuration with an
    /// error changes nothing.
    fn reload(&self, current: Arc<Config>, cluster: &Cluster) -> Arc<Config> {
        let new = match self.configure_again() {
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

    /// A file that was there at the start must still be: without it every value that it set would
    /// fall back to its default.
    fn configure_again(&self) -> Result<Config, Failure> {
        if self.had_file && !Path::new(super::CONFIG_FILE).exists() {
            let message = anyhow::anyhow!("{} was there and is missing now", super::CONFIG_FILE);
            return Err(Failure::Usage(message));
        }
        configure(self.global)
    }
}
