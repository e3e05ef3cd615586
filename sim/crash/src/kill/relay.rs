//! The relay under test: a built binary, started on a port that it chooses, ended by signals.

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long something that must come may take before it is taken to be missing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The configuration of every relay under test: limits on rates are off, because the load comes from
/// one address; segments are small and checkpoints frequent, so that kills fall into their making.
const CONFIG: &str = "[rates]\nconnections_per_second = 0\nconnections_per_address_max = 0\n\
    messages_per_second = 0\nevents_per_second = 0\nqueries_per_second = 0\ninvalid_per_minute = 0\n\
    [store]\nsegment_mib = 1\ncheckpoint_events = 400\ncheckpoint_interval_ms = 1000\n\
    free_min_mib = 0\n";

/// How relays are started on one data directory.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// The program.
    pub binary: PathBuf,
    /// A folder for the directory and the configuration.
    pub folder: PathBuf,
    /// Shards of the directory.
    pub shards: u16,
}

impl RelayOptions {
    fn command(&self, words: &[&str]) -> anyhow::Result<Command> {
        let config = self.folder.join("turnpike.toml");
        std::fs::write(&config, CONFIG)?;
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--config").arg(config).arg("--data-dir").arg(self.data_dir());
        command.current_dir(&self.folder).stdin(Stdio::null());
        Ok(command)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts a relay and does not wait for it to listen; `prepare` may change the command.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(
        &self,
        runtime: &str,
        prepare: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Starting> {
        let shards = self.shards.to_string();
        let words = ["run", "--listen", "127.0.0.1:0", "--runtime", runtime, "--shards", &shards];
        let mut command = self.command(&words)?;
        prepare(&mut command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", self.binary.display()))?;
        let stdout = child.stdout.take().context("a relay has an output")?;
        let stderr = child.stderr.take().context("a relay has an error output")?;
        Ok(Starting { process: Process(child), stdout: lines_of(stdout), stderr: lines_of(stderr) })
    }

    /// Runs another command of the program on the directory.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(words)?.output()?)
    }
}

/// A child that does not outlive us.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        // One that has ended by itself is still there until it is waited for.
        kill_process(Pid::from_child(&self.0), Signal::KILL)?;
        Ok(self.0.wait()?)
    }

    /// SIGTERM. One that has ended by itself is left alone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn interrupt(&mut self) -> anyhow::Result<()> {
        if self.ended()?.is_none() {
            kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        }
        Ok(())
    }

    /// SIGTERM; returns how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.interrupt()?;
        self.wait()
    }

    /// Waits until it has ended; returns how.
    ///
    /// # Errors
    /// When it does not end.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the relay does not end")
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; both fail then, and that is all right.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A relay that may not listen yet.
#[derive(Debug)]
pub struct Starting {
    /// Its process.
    pub process: Process,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// A relay that listens.
#[derive(Debug)]
pub struct Relay {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    stderr: Receiver<String>,
}

impl Starting {
    /// Waits until it listens; nothing if it ends instead.
    ///
    /// # Errors
    /// When it does neither.
    pub fn listen(mut self) -> anyhow::Result<Result<Relay, (ExitStatus, String)>> {
        while let Ok(line) = self.stdout.recv_timeout(PATIENCE) {
            if let Some(url) = line.strip_prefix("listening ") {
                let address = url.trim().trim_start_matches("ws://").parse()?;
                let Self { process, stderr, .. } = self;
                return Ok(Ok(Relay { process, address, stderr }));
            }
        }
        let status = self.process.ended()?;
        let status = match status {
            Some(status) => status,
            None => self.process.0.wait()?,
        };
        Ok(Err((status, said(&self.stderr))))
    }
}

impl Relay {
    /// Starts a relay that must listen.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(options: &RelayOptions, runtime: &str) -> anyhow::Result<Self> {
        match options.start(runtime, |_| {})?.listen()? {
            Ok(relay) => Ok(relay),
            Err((status, said)) => bail!("the relay did not start: {status}: {said}"),
        }
    }

    /// What it wrote to standard error.
    pub fn said(&self) -> String {
        said(&self.stderr)
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end with success.
    pub fn end(mut self) -> anyhow::Result<()> {
        let status = self.process.terminate()?;
        ensure!(status.success(), "the relay ended with {status}: {}", self.said());
        Ok(())
    }
}

fn said(lines: &Receiver<String>) -> String {
    let mut text = String::new();
    while let Ok(line) = lines.recv_timeout(Duration::from_millis(100)) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Which of the runtimes this machine allows, of those asked for; one that it does not is named.
///
/// # Errors
/// When the program cannot be started at all.
pub fn allowed(
    binary: &Path,
    folder: &Path,
    wanted: &[String],
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let (mut works, mut fails) = (Vec::new(), Vec::new());
    for runtime in wanted {
        let folder = folder.join(format!("probe-{runtime}"));
        std::fs::create_dir_all(&folder)?;
        let options = RelayOptions { binary: binary.to_owned(), folder, shards: 1 };
        match options.start(runtime, |_| {})?.listen()? {
            Ok(mut relay) => {
                relay.process.kill()?;
                works.push(runtime.clone());
            }
            Err((_, said)) => fails.push(format!("{runtime}: {}", said.trim())),
        }
    }
    ensure!(!works.is_empty(), "the relay does not start: {}", fails.join("; "));
    Ok((works, fails))
}
