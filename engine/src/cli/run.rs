//! `turnpike run`: start, serve, reload, end.

use super::offline::{choose_runtime, open_cluster, open_directory};
use super::{Failure, Global, Outcome, configure};
use crate::admin;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::desk::{Desk, Seat};
use crate::log::{self, Level};
use crate::ops::Ops;
use crate::runtime::signals::{self, Asked};
use crate::runtime::{clock, local, threads};
use anyhow::Context;
use proto::Limits;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// How long the control core sleeps when nothing happens.
const IDLE_MS: u64 = 1_000;
/// Commands answered at once; each has a thread and up to 4 MiB of events that wait for it.
const COMMANDS_MAX: usize = 16;
/// How long commands may take to notice that the relay is ending.
const COMMANDS_END_MS: u64 = 2_000;
/// How long an ending control core waits between looks at its commands.
const END_POLL_MS: u64 = 10;

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
    let callers = local::listen(&socket, cluster.control.wake().clone())
        .with_context(|| format!("admin socket {}", socket.display()))?;
    announce(&config, &cluster, &chosen.line);
    let address: SocketAddr = config.network.listen.parse().context("network.listen")?;
    let address = cluster.listen(&config, address)?;
    say(&format!("listening ws://{address}"));
    log::line(Level::Info, &format!("serving on ws://{address}"));
    let served = Arc::new(Served {
        runtime: chosen.line.clone(),
        stores: admin::Stores {
            secret: cluster.directory().format().secret,
            places: cluster.places().clone(),
        },
    });
    let service = Service { global, had_file, served, asked: &asked, callers };
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

/// What commands are told about the relay that serves them.
struct Served {
    runtime: String,
    stores: admin::Stores,
}

/// Answers one command, on its own thread.
fn answer(caller: local::Caller, mut seat: Seat, asked: &Asked, limits: &Limits, served: &Served) {
    let should_stop = || asked.to_end();
    // A command that never asks, is gone, or was cut off, needs no answer.
    let Ok(line) = caller.read() else { return };
    let mut out = std::io::BufWriter::with_capacity(1 << 16, caller.answer(&should_stop));
    let stores = Some(&served.stores);
    let process = admin::Process { runtime: Some(&served.runtime), limits, stores };
    let _ = match serde_json::from_str::<admin::Request>(&line) {
        Ok(request) => {
            let mut ops = Ops::new(&mut seat, &should_stop);
            admin::answer(&request, &mut ops, process, &mut out)
        }
        Err(error) => writeln!(out, "xthe request is not understood: {error}"),
    };
}

/// What the control core looks after while the others serve.
struct Service<'a> {
    global: &'a Global,
    /// The configuration came from the file that need not be there.
    had_file: bool,
    served: Arc<Served>,
    asked: &'a Arc<Asked>,
    callers: Receiver<local::Caller>,
}

impl Service<'_> {
    /// Until somebody asks for the end.
    fn serve(&self, config: &Arc<Config>, cluster: &mut Cluster) {
        let mut current = Arc::clone(config);
        let mut desk = Desk::new(cluster.control.wake().clone());
        while !self.asked.to_end() {
            if self.asked.to_reload() {
                current = self.reload(current, cluster);
            }
            while let Ok(caller) = self.callers.try_recv() {
                self.receive(caller, &current, &mut desk);
            }
            desk.turn(&mut cluster.control, IDLE_MS);
        }
        // Commands under way notice the end within their next wait, and tell whoever gave them.
        let give_up_ms = clock::now().monotonic_ms + COMMANDS_END_MS;
        while desk.seated() > 0 && clock::now().monotonic_ms < give_up_ms {
            desk.turn(&mut cluster.control, END_POLL_MS);
        }
    }

    /// Gives a command a thread of its own.
    fn receive(&self, caller: local::Caller, config: &Config, desk: &mut Desk) {
        if desk.seated() >= COMMANDS_MAX {
            caller.turn_away(&format!(
                "x{COMMANDS_MAX} commands are being answered already; try again when one has ended"
            ));
            return;
        }
        let seat = desk.seat();
        let asked = Arc::clone(self.asked);
        let limits = admin::operator_limits(config);
        let served = Arc::clone(&self.served);
        let body = move || answer(caller, seat, &asked, &limits, &served);
        if let Err(error) = threads::spawn("command".into(), body) {
            log::line(Level::Warn, &format!("a command got no thread and no answer: {error}"));
        }
    }

    /// Puts what can change while running in force, and says what cannot. A configuration with an
    /// error changes nothing.
    fn reload(&self, current: Arc<Config>, cluster: &mut Cluster) -> Arc<Config> {
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
        cluster.reconfigure(Arc::clone(&merged));
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
