//! The real binary under test: started on port 0 in a directory of its own, spoken to over real
//! sockets, ended by signals.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    dead_code,
    reason = "test harness; each test file uses its own part of it"
)]

pub mod client;

use bench::Draft;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a test waits for something that must come before it calls it missing. Not a
/// performance bound: it only turns a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which reactor the relay is told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Epoll,
    IoUring,
    /// Needs a binary that is built with the feature, so it runs only where it is asked for.
    Glommio,
    Auto,
}

impl Runtime {
    pub fn flag(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io-uring",
            Self::Glommio => "glommio",
            Self::Auto => "auto",
        }
    }
}

/// One point of the matrix that the suite runs over.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub runtime: Runtime,
    pub shards: u16,
}

impl Setup {
    pub const fn new(runtime: Runtime, shards: u16) -> Self {
        Self { runtime, shards }
    }

    /// Whether `TURNPIKE_RUNTIMES` (a comma-separated list, `epoll,io-uring` by default) includes this
    /// runtime; `glommio` is for a `TURNPIKE_BIN` that is built with that feature.
    /// `scripts/test` leaves io-uring out, aloud, on a machine whose kernel refuses it.
    pub fn is_enabled(&self) -> bool {
        let listed = std::env::var("TURNPIKE_RUNTIMES").unwrap_or_else(|_| "epoll,io-uring".into());
        let enabled = listed.split(',').any(|name| name.trim() == self.runtime.flag());
        if !enabled {
            eprintln!("not run: {} is not in TURNPIKE_RUNTIMES={listed}", self.runtime.flag());
        }
        enabled
    }

    pub fn start(&self) -> Relay {
        RelayOptions::new(*self).start()
    }
}

/// Runs each test function of a file at every point of the matrix, one `#[test]` each.
#[macro_export]
macro_rules! on_every_setup {
    ($($name:ident),+ $(,)?) => {
        on_every_setup!(@setup epoll_1, Epoll, 1, $($name),+);
        on_every_setup!(@setup epoll_2, Epoll, 2, $($name),+);
        on_every_setup!(@setup epoll_8, Epoll, 8, $($name),+);
        on_every_setup!(@setup io_uring_1, IoUring, 1, $($name),+);
        on_every_setup!(@setup io_uring_2, IoUring, 2, $($name),+);
        on_every_setup!(@setup io_uring_8, IoUring, 8, $($name),+);
        on_every_setup!(@setup glommio_2, Glommio, 2, $($name),+);
    };
    (@setup $module:ident, $runtime:ident, $shards:literal, $($name:ident),+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    let setup = $crate::common::Setup::new($crate::common::Runtime::$runtime, $shards);
                    if setup.is_enabled() {
                        super::$name(setup);
                    }
                }
            )+
        }
    };
}

/// The binary under test: `TURNPIKE_BIN` (the release build of `scripts/test`), else the one cargo
/// built beside the test.
pub fn turnpike_bin() -> PathBuf {
    std::env::var_os("TURNPIKE_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_turnpike")), PathBuf::from)
}

/// A whole number from the environment, for the sizes that CI and the nightly set differently.
pub fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
}

/// Unix seconds.
pub fn now_s() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32
}

/// A draft of `kind`, dated now.
pub fn draft(kind: u16) -> Draft {
    Draft::new(kind, now_s())
}

/// How a relay is started.
pub struct RelayOptions {
    pub setup: Setup,
    pub binary: PathBuf,
    /// Appended to the configuration of every test, which switches rate limits off.
    pub config: String,
    /// Keys set through the environment, as `TURNPIKE_SECTION__KEY`.
    pub env: Vec<(String, String)>,
    /// Program and arguments that the relay's command line is appended to.
    pub wrapper: Vec<String>,
    pub data_dir: Option<PathBuf>,
}

impl RelayOptions {
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            binary: turnpike_bin(),
            config: String::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            data_dir: None,
        }
    }

    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self
    }

    #[must_use]
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_path_buf());
        self
    }

    #[must_use]
    pub fn binary(mut self, binary: &Path) -> Self {
        self.binary = binary.to_path_buf();
        self
    }

    #[must_use]
    pub fn wrapper(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the relay and waits until it listens; asserts that it runs what it was told to.
    pub fn start(self) -> Relay {
        let expected = self.setup.runtime;
        match self.try_start() {
            Ok(relay) => {
                if expected != Runtime::Auto {
                    assert_eq!(relay.runtime, expected.flag(), "the relay runs another runtime");
                }
                relay
            }
            Err(failed) => panic!("the relay did not start: {failed:?}"),
        }
    }

    /// Starts the relay; a relay that ends before it listens is an answer, too.
    pub fn try_start(self) -> Result<Relay, Failed> {
        let own_dir = tempfile::tempdir().unwrap();
        let data_dir = self.data_dir.clone().unwrap_or_else(|| own_dir.path().join("data"));
        let config = own_dir.path().join("turnpike.toml");
        std::fs::write(&config, config_toml(&self.config)).unwrap();
        let mut words: Vec<String> = self.wrapper.clone();
        words.push(self.binary.display().to_string());
        words.push("run".to_owned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["--listen", "127.0.0.1:0", "--runtime", self.setup.runtime.flag()])
            .args(["--shards", &self.setup.shards.to_string()])
            .arg("--config")
            .arg(&config)
            .arg("--data-dir")
            .arg(&data_dir)
            .envs(self.env.iter().cloned())
            .current_dir(own_dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the relay's program starts");
        let stderr = collect(child.stderr.take().unwrap());
        let (lines, stdout) = lines_of(child.stdout.take().unwrap());
        let mut relay = Relay {
            child,
            url: String::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            runtime: String::new(),
            stdout,
            stderr,
            data_dir,
            config,
            own_dir,
            ended: None,
        };
        // The line with the address comes last of the two: a relay that listens has a runtime.
        while let Ok(line) = lines.recv_timeout(PATIENCE) {
            // Behind the name may stand why it is not the other one.
            if let Some(name) = line.strip_prefix("runtime ") {
                relay.runtime = name.split(' ').next().unwrap_or_default().to_owned();
            }
            if let Some(url) = line.strip_prefix("listening ") {
                relay.url = url.trim().to_owned();
                relay.address = relay.url.trim_start_matches("ws://").parse().unwrap();
            }
            if !relay.url.is_empty() && !relay.runtime.is_empty() {
                return Ok(relay);
            }
        }
        let status = relay.wait();
        // The reader of stderr ends when the process does; give it its last lines.
        let stderr = relay.stderr_until(|_| false, Duration::from_millis(200));
        Err(Failed { code: status.code(), stderr })
    }
}

/// The configuration of every test: limits on rates are off, because a test is a fast client from
/// one address. Tests of a limit set it in `extra`.
pub fn config_toml(extra: &str) -> String {
    let off = [
        ("connections_per_second", 0),
        ("connections_per_address_max", 0),
        ("messages_per_second", 0),
        ("events_per_second", 0),
        ("queries_per_second", 0),
        ("invalid_per_minute", 0),
    ];
    let mut toml = String::from("[rates]\n");
    for (key, value) in off {
        if !extra.contains(&format!("{key} =")) {
            toml.push_str(&format!("{key} = {value}\n"));
        }
    }
    // Keys of a section that stands here already are written by tests without its header first.
    match extra.strip_prefix("[rates]\n") {
        Some(rates) => toml.push_str(rates),
        None => toml.push_str(extra),
    }
    toml
}

/// A relay that ended instead of listening.
#[derive(Debug)]
pub struct Failed {
    pub code: Option<i32>,
    pub stderr: String,
}

/// A running relay. Dropped, it is killed and its directory removed.
pub struct Relay {
    child: Child,
    pub url: String,
    pub address: SocketAddr,
    pub runtime: String,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    pub data_dir: PathBuf,
    pub config: PathBuf,
    own_dir: tempfile::TempDir,
    ended: Option<ExitStatus>,
}

impl Relay {
    pub fn connect(&self) -> client::Client {
        client::Client::connect(self.address)
    }

    pub fn connect_with(&self, headers: &[(&'static str, &str)]) -> client::Client {
        client::Client::connect_with(self.address, headers)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGTERM; returns the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the process to end by itself; fails the test if it does not.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = Some(status);
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "the relay does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.ended.is_some() || self.child.try_wait().unwrap().is_some()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// Standard error once `enough` holds of it, or after `patience`.
    pub fn stderr_until(&self, enough: impl Fn(&str) -> bool, patience: Duration) -> String {
        let deadline = std::time::Instant::now() + patience;
        loop {
            let text = self.stderr();
            if enough(&text) || std::time::Instant::now() > deadline {
                return text;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs another command of the binary on this relay's directory, whether it is up or not.
    pub fn command(&self, words: &[&str]) -> Finished {
        turnpike(&self.data_dir, words)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- stderr of the relay ---\n{}", self.stderr());
        }
    }
}

/// What a command of the binary did.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output of a command that succeeded.
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }
}

/// Runs `turnpike <words> --data-dir <data_dir>`.
pub fn turnpike(data_dir: &Path, words: &[&str]) -> Finished {
    let output = Command::new(turnpike_bin())
        .args(words)
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .output()
        .expect("the relay's program starts");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Sends lines of `from` as they come and keeps all of them.
fn lines_of(from: impl Read + Send + 'static) -> (Receiver<String>, Arc<Mutex<String>>) {
    let (sender, receiver) = channel();
    let kept = Arc::new(Mutex::new(String::new()));
    let keeping = kept.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            keeping.lock().unwrap().push_str(&format!("{line}\n"));
            let _ = sender.send(line);
        }
    });
    (receiver, kept)
}

fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    lines_of(from).1
}
