//! Attacks on the running relay, one by one: each test does the worst that one kind of peer can do
//! and asserts the mechanism that answers it: who was closed, which counter rose, how many bytes
//! are held.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod floods;
mod memory;
mod swarm;

use common::Relay;
use common::client::http;

/// The relay's metrics page.
fn metrics(relay: &Relay) -> String {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    http(relay.address, request).1
}

/// The sum of a metric's lines that contain `label`.
fn metric(relay: &Relay, name: &str, label: &str) -> u64 {
    let body = metrics(relay);
    let of_name = |line: &&str| line.starts_with(&format!("turnpike_{name}"));
    let lines = body.lines().filter(of_name).filter(|line| line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}
