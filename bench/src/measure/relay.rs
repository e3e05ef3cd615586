//! The relay under measurement, as a process of its own that is started, watched and ended here.

use super::cpu::Threads;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How long the relay may take to write down its stores when it ends.
const END_MS: u64 = 120_000;

/// How to start a relay.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub binary: PathBuf,
    /// `--runtime`.
    pub runtime: String,
    /// `--shards`; 0 leaves it to the directory.
    pub shards: u16,
}

impl Launch {
    /// The command with what every use of it needs. Nothing of our surroundings may change what is
    /// measured: neither the operator's variables nor a configuration file that lies about.
    fn command(&self, data_dir: &Path) -> anyhow::Result<Command> {
        let binary = std::fs::canonicalize(&self.binary).with_context(|| {
            format!(
                "there is no relay at {}; build it with `cargo build --release -p engine`, or name \
                 another with --binary",
                self.binary.display()
            )
        })?;
        std::fs::create_dir_all(data_dir)?;
        let data_dir = std::fs::canonicalize(data_dir)?;
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TURNPIKE_") {
                command.env_remove(name);
            }
        }
        for limit in [
            "CONNECTIONS_PER_SECOND",
            "CONNECTIONS_PER_ADDRESS_MAX",
            "MESSAGES_PER_SECOND",
            "EVENTS_PER_SECOND",
            "QUERIES_PER_SECOND",
            "INVALID_PER_MINUTE",
        ] {
            command.env(format!("TURNPIKE_RATES__{limit}"), "0");
        }
        // Says that AUTH is not measured here; it would warn at each start otherwise.
        command.env("TURNPIKE_RELAY__PUBLIC_URL", "ws://localhost");
        command.env("TURNPIKE_NETWORK__CONNECTIONS_MAX", "20000");
        command.current_dir(&data_dir);
        command.arg("--data-dir").arg(&data_dir).args(["--log-level", "warn"]);
        if self.shards > 0 {
            command.args(["--shards", &self.shards.to_string()]);
        }
        command.args(["--runtime", &self.runtime]);
        Ok(command)
    }

    /// Starts it over `data_dir`, and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(&self, data_dir: &Path) -> anyhow::Result<Relay> {
        let mut command = self.command(data_dir)?;
        command.args(["run", "--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("the relay cannot be started")?;
        let out = child.stdout.take().context("the relay has an output")?;
        let mut relay =
            Relay { child, address: SocketAddr::from(([0; 4], 0)), runtime: String::new() };
        let mut lines = BufReader::new(out).lines();
        while let Some(line) = lines.next().transpose()? {
            if let Some(runtime) = line.strip_prefix("runtime ") {
                relay.runtime = runtime.split(' ').next().unwrap_or(runtime).to_owned();
            }
            if let Some(address) = line.strip_prefix("listening ws://") {
                relay.address = address.parse().with_context(|| format!("cannot read {line:?}"))?;
                // It says little more, but must find somebody to say it to.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(relay);
            }
        }
        bail!("the relay ended before it served: {}", relay.child.wait()?)
    }

    /// Runs one of its commands over `data_dir`, with `input` on standard input, and returns what it
    /// printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(
        &self,
        data_dir: &Path,
        arguments: &[&str],
        input: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> anyhow::Result<String> {
        let mut command = self.command(data_dir)?;
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("the relay cannot be started")?;
        let mut stdin = child.stdin.take().context("the relay has an input")?;
        let written = input(&mut stdin);
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "turnpike {} failed: {}",
            arguments.join(" "),
            output.status
        );
        written.context("the relay did not take its input")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A running relay; ended when dropped.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// What drives its sockets, in its own words.
    pub runtime: String,
}

impl Relay {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of its threads.
    ///
    /// # Errors
    /// When it has ended.
    pub fn threads(&self) -> anyhow::Result<Threads> {
        Threads::of(self.pid()).context("the relay has ended")
    }

    /// Asks it to end and waits until it has written down everything.
    ///
    /// # Errors
    /// When it does not end by itself, or not well.
    pub fn end(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let give_up_ns = super::cpu::monotonic_ns() + END_MS * 1_000_000;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the relay did not end well: {status}");
                return Ok(());
            }
            ensure!(super::cpu::monotonic_ns() < give_up_ns, "the relay does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
