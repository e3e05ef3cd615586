//! The relay itself on each of its backends: the same events published in the same way, in turns.

use crate::measure::cpu::cores;
use crate::measure::events::{Maker, Spec};
use crate::measure::publish::{CONNECTIONS, Frames, Publishers};
use crate::measure::relay::Launch;
use crate::measure::units::{Cost, Verification};
use anyhow::ensure;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Backends that a relay may have been built with.
const BACKENDS: [&str; 3] = ["io-uring", "epoll", "glommio"];
/// Milliseconds of V before each backend's turn.
const V_MS: u64 = 400;

/// What an accepted event costs on one backend.
#[derive(Debug, Serialize)]
pub struct Backend {
    /// Its name.
    pub name: &'static str,
    /// CPU microseconds of all threads per event, and the same in V; or why there are none.
    pub cost: Result<(f64, f64), String>,
    /// By thread.
    pub detail: String,
}

/// Publishes `events` events in each of `rounds` rounds to every backend that runs.
///
/// # Errors
/// When a relay that has started fails.
pub fn measure(
    binary: &Path,
    data_dir: &Path,
    rounds: u64,
    events: u64,
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<Backend>> {
    let maker = Maker::new(Spec::uniform(0x7275));
    let verification = Verification::new(&maker.in_parallel(0..1_000, Maker::event))?;
    let mut running: Vec<(&'static str, PathBuf, Result<Sum, String>)> = Vec::new();
    for name in BACKENDS {
        let directory = data_dir.join(format!("runtime-{name}"));
        crate::budgets::store::remove(&directory)?;
        running.push((name, directory, Ok(Sum::default())));
    }
    for round in 0..rounds {
        let frames = Frames::of(&maker, round * events..(round + 1) * events, |event| event);
        for (name, directory, sum) in &mut running {
            let Ok(so_far) = sum else { continue };
            say(&format!("round {} of {rounds}: the relay on {name}", round + 1));
            so_far.v.add(verification.slice(V_MS)?);
            let launch = Launch {
                binary: binary.to_owned(),
                runtime: (*name).to_owned(),
                shards: cores() as u16,
            };
            let relay = match launch.start(directory) {
                Ok(relay) => relay,
                Err(error) => {
                    *sum = Err(format!("{error:#}"));
                    continue;
                }
            };
            ensure!(
                relay.runtime == *name,
                "asked for {name}, the relay runs on {}",
                relay.runtime
            );
            let mut publishers = Publishers::connect(relay.address, CONNECTIONS)?;
            let before = relay.threads()?;
            let outcomes = publishers.slice(&frames, 120_000)?;
            ensure!(outcomes.accepted == events, "{name}: {outcomes:?}");
            so_far.spent.add(&relay.threads()?.since(&before));
            so_far.events += events;
            relay.end()?;
        }
    }
    let mut backends = Vec::new();
    for (name, directory, sum) in running {
        crate::budgets::store::remove(&directory)?;
        let detail = sum.as_ref().map_or(String::new(), |sum| sum.spent.per_operation(sum.events));
        let cost = sum.map(|sum| {
            let ns = sum.spent.total_ns() as f64 / sum.events as f64;
            (ns / 1_000.0, ns / sum.v.each_ns())
        });
        backends.push(Backend { name, cost, detail });
    }
    Ok(backends)
}

#[derive(Default)]
struct Sum {
    spent: crate::measure::cpu::Spent,
    events: u64,
    v: Cost,
}

/// For people.
pub fn text(backends: &[Backend]) -> String {
    let mut out = String::from("the relay, CPU of all threads per accepted event\n");
    for backend in backends {
        let _ = match &backend.cost {
            Ok((us, in_v)) => {
                writeln!(out, "{:<9} {us:>7.2} us  {in_v:.2} V   {}", backend.name, backend.detail)
            }
            Err(why) => writeln!(out, "{:<9} did not run: {why}", backend.name),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_does_not_run_says_why() {
        let ran =
            Backend { name: "epoll", cost: Ok((41.234, 1.3)), detail: "core 40.00".to_owned() };
        let not =
            Backend { name: "glommio", cost: Err("not built".to_owned()), detail: String::new() };
        let text = text(&[ran, not]);
        assert!(text.contains("epoll       41.23 us  1.30 V   core 40.00\n"), "{text}");
        assert!(text.contains("glommio   did not run: not built\n"), "{text}");
    }
}
