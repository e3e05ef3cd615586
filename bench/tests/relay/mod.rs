//! The real relay, for tests of the harness: started on port 0 in a directory of its own.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    dead_code,
    reason = "test harness; each test file uses its own part of it"
)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// No limits: the tests load it from one address.
const CONFIG: &str = "[rates]\nconnections_per_second = 0\nconnections_per_address_max = 0\n\
    messages_per_second = 0\nevents_per_second = 0\nqueries_per_second = 0\n\
    invalid_per_minute = 0\n";

pub struct Relay {
    child: Child,
    pub url: String,
    pub port: u16,
    _directory: tempfile::TempDir,
}

/// The relay's binary: `TURNPIKE_BIN`, else the one beside this test's own target directory.
fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TURNPIKE_BIN") {
        let path = PathBuf::from(path);
        return path.is_file().then_some(path);
    }
    let target = PathBuf::from(env!("CARGO_BIN_EXE_turnpike-bench"));
    let beside = target.with_file_name("turnpike");
    beside.is_file().then_some(beside)
}

impl Relay {
    /// `None`, aloud, where no relay has been built.
    pub fn start() -> Option<Self> {
        let Some(binary) = binary() else {
            assert!(
                std::env::var_os("TURNPIKE_RELAY_REQUIRED").is_none(),
                "no relay to load: set TURNPIKE_BIN"
            );
            eprintln!("not run: no relay to load; build turnpike or set TURNPIKE_BIN");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("turnpike.toml");
        std::fs::write(&config, CONFIG).unwrap();
        let mut child = Command::new(binary)
            .args(["run", "--listen", "127.0.0.1:0", "--shards", "2", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = lines
            .find_map(|line| line.unwrap().strip_prefix("listening ").map(str::to_owned))
            .expect("the relay says where it listens");
        // Its later lines are read to the end, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let port = listening.rsplit(':').next().unwrap().trim().parse().unwrap();
        let url = format!("ws://127.0.0.1:{port}");
        Some(Self { child, url, port, _directory: directory })
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
