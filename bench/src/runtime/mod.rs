//! What the choice of a runtime costs: the same tiny echo and fan-out server on `io_uring`, `epoll`,
//! tokio and glommio, one thread each, pinned to one core, with the same client on another; and the
//! relay itself on each backend that it has. All in one run, in turns, so that whatever else the
//! machine does is in every column.
//!
//! The cost of a server is the CPU time of its thread, as the scheduler counts it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measuring tools read clocks, start threads, and open sockets"
)]

mod client;
mod epoll;
#[cfg(feature = "runtimes")]
mod glommio;
pub mod relay;
#[cfg(feature = "runtimes")]
mod tokio;
mod uring;

use crate::budgets::table::median;
use crate::measure::cpu::Threads;
use crate::measure::units::pin;
use anyhow::Context;
use serde::Serialize;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};

/// Bytes of an echoed message.
pub const MESSAGE_BYTES: usize = 64;
/// Bytes of a delivery.
pub const DELIVERY_BYTES: usize = 520;
/// What a connection says first: that it wants everything echoed, that it subscribes, or that each of
/// its messages is to be delivered to every subscriber.
pub const ECHO: u8 = b'e';
/// See [`ECHO`].
pub const SUBSCRIBE: u8 = b's';
/// See [`ECHO`].
pub const PUBLISH: u8 = b'p';

/// Reports where the server listens, once it does.
pub type Announce = Sender<SocketAddr>;

/// Work that every server is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    name: &'static str,
    connections: usize,
    /// Messages of one connection on their way; 0 is the fan-out.
    window: usize,
}

const LOADS: [Load; 5] = [
    Load { name: "echo, 100 connections", connections: 100, window: 1 },
    Load { name: "echo, 1,000 connections", connections: 1_000, window: 1 },
    Load { name: "echo, 100 connections, 16 pipelined", connections: 100, window: 16 },
    Load { name: "echo, 1,000 connections, 16 pipelined", connections: 1_000, window: 16 },
    Load { name: "fan-out to 1,000, per delivery", connections: 1_000, window: 0 },
];

type Serve = fn(&Announce) -> anyhow::Result<()>;

/// The servers of this build, by the name of their column and of their thread.
const SERVERS: &[(&str, &str, Serve)] = &[
    ("io-uring", "rt-io-uring", uring::serve),
    ("epoll", "rt-epoll", epoll::serve),
    #[cfg(feature = "runtimes")]
    ("tokio", "rt-tokio", tokio::serve),
    #[cfg(feature = "runtimes")]
    ("glommio", "rt-glommio", glommio::serve),
];

/// A measured column.
#[derive(Debug, Serialize)]
pub struct Column {
    /// The runtime.
    pub runtime: &'static str,
    /// CPU nanoseconds per request or delivery, a median of the rounds for each load; or why there are
    /// none.
    pub ns: Result<Vec<f64>, String>,
}

/// The table of the tiny servers.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The rows.
    pub loads: Vec<&'static str>,
    /// The runtimes.
    pub columns: Vec<Column>,
    /// Rounds that medians are of.
    pub rounds: u64,
}

/// Runs all loads on all servers in turns.
///
/// # Errors
/// When the client's side of a measurement fails.
pub fn measure(rounds: u64, slice_ms: u64, say: &mut dyn FnMut(&str)) -> anyhow::Result<Table> {
    let servers: Vec<_> = SERVERS.iter().map(|(_, thread, serve)| start(thread, *serve)).collect();
    let mut samples = vec![vec![Vec::new(); LOADS.len()]; SERVERS.len()];
    for round in 0..rounds {
        for (at, load) in LOADS.iter().enumerate() {
            for (number, (name, thread, _)) in SERVERS.iter().enumerate() {
                let Ok(address) = &servers[number] else { continue };
                say(&format!("round {} of {rounds}: {}, {name}", round + 1, load.name));
                let ns = one(*address, thread, *load, slice_ms)
                    .with_context(|| format!("{} on {name}", load.name))?;
                samples[number][at].push(ns);
            }
        }
    }
    let columns =
        SERVERS.iter().zip(servers).zip(samples).map(|(((name, ..), server), samples)| {
            let medians = samples.into_iter().map(|mut samples| median(&mut samples)).collect();
            Column { runtime: name, ns: server.map(|_| medians) }
        });
    Ok(Table { loads: LOADS.map(|load| load.name).to_vec(), columns: columns.collect(), rounds })
}

/// Starts a server on its own thread; where it listens, or why it does not.
fn start(thread: &'static str, serve: Serve) -> Result<SocketAddr, String> {
    let (announce, announced) = channel();
    let (failed, failure) = channel();
    let started = std::thread::Builder::new().name(thread.to_owned()).spawn(move || {
        pin(0);
        if let Err(error) = serve(&announce) {
            let _ = failed.send(format!("{error:#}"));
        }
    });
    started.map_err(|error| error.to_string())?;
    announced.recv().map_err(|_| failure.recv().unwrap_or_else(|_| "the server ended".to_owned()))
}

/// CPU nanoseconds of the server per request or delivery in one slice.
fn one(address: SocketAddr, thread: &str, load: Load, slice_ms: u64) -> anyhow::Result<f64> {
    let pid = std::process::id();
    let run = move || -> anyhow::Result<(u64, u64)> {
        pin(crate::measure::cpu::cores() - 1);
        let mut client = client::Client::connect(address, load.connections, load.window)?;
        let before = Threads::of(pid)?;
        let done = client.run(slice_ms)?;
        // The scheduler's figure is exact once the thread sleeps.
        std::thread::sleep(std::time::Duration::from_millis(5));
        Ok((Threads::of(pid)?.since(&before).named_ns(thread), done))
    };
    let (ns, done) =
        std::thread::scope(|scope| scope.spawn(run).join().expect("the client does not panic"))?;
    Ok(ns as f64 / done.max(1) as f64)
}

impl Table {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let width = self.loads.iter().map(|load| load.len()).max().unwrap_or(0);
        let _ = write!(out, "{:<width$}", "CPU ns of the server, per request");
        for column in &self.columns {
            let _ = write!(out, "  {:>9}", column.runtime);
        }
        out.push('\n');
        for (row, load) in self.loads.iter().enumerate() {
            let _ = write!(out, "{load:<width$}");
            for column in &self.columns {
                match &column.ns {
                    Ok(ns) => drop(write!(out, "  {:>9.0}", ns[row])),
                    Err(_) => drop(write!(out, "  {:>9}", "-")),
                }
            }
            out.push('\n');
        }
        for column in &self.columns {
            if let Err(why) = &column.ns {
                let _ = writeln!(out, "{} did not run: {why}", column.runtime);
            }
        }
        let _ = writeln!(out, "medians of {} rounds", self.rounds);
        if !cfg!(feature = "runtimes") {
            out.push_str(
                "tokio and glommio are not in this build: cargo build --features runtimes\n",
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_echoes_and_delivers_every_byte() {
        for (name, thread, serve) in SERVERS {
            let address = match start(thread, *serve) {
                Ok(address) => address,
                // A host may forbid io_uring; then there is nothing to try here.
                Err(why) if *name != "epoll" => {
                    eprintln!("{name} does not run here: {why}");
                    continue;
                }
                Err(why) => panic!("{name}: {why}"),
            };
            for window in [1, 16, 0] {
                let load = Load { name: "test", connections: 5, window };
                let mut client =
                    client::Client::connect(address, load.connections, window).unwrap();
                let done = client.run(30).unwrap();
                assert!(done >= 5, "{name} with {window} in flight did {done}");
            }
        }
    }

    #[test]
    fn a_runtime_that_does_not_run_says_why() {
        let columns = vec![
            Column { runtime: "epoll", ns: Ok(vec![4_000.4, 5_000.0]) },
            Column { runtime: "io-uring", ns: Err("forbidden".to_owned()) },
        ];
        let table = Table { loads: vec!["echo", "fan-out"], columns, rounds: 3 };
        let text = table.text();
        assert!(text.contains("4000          -"), "{text}");
        assert!(text.contains("io-uring did not run: forbidden"), "{text}");
    }
}
