//! Client libraries that people use, unmodified, against the real binary: `nostr-tools` from npm
//! and `nostr-sdk` for Rust. Each script ends with status 0 only if every step held.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

mod common;

use common::{Runtime, Setup};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether a client that is not installed fails the test (`scripts/test`) or is passed over, aloud
/// (a bare `cargo test`).
fn are_clients_required() -> bool {
    std::env::var_os("TURNPIKE_CLIENTS_REQUIRED").is_some()
}

fn run(mut client: Command, name: &str) {
    for (runtime, shards) in [(Runtime::Epoll, 2), (Runtime::IoUring, 8), (Runtime::Epoll, 8)] {
        let setup = Setup::new(runtime, shards);
        if !setup.is_enabled() {
            continue;
        }
        let mut relay = setup.start();
        let output = client.env("RELAY_URL", &relay.url).output().expect("the client starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}, {setup:?}:\n{text}{errors}");
        // The last line counts the steps, so that a script that ends early is noticed.
        assert!(text.contains("all 8 steps hold"), "{name}, {setup:?}:\n{text}{errors}");
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.stderr());
    }
}

#[test]
fn nostr_tools() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !dir.join("node_modules/nostr-tools").exists() {
        assert!(!are_clients_required(), "nostr-tools is missing: run npm ci in {}", dir.display());
        eprintln!("not run: nostr-tools is not installed (npm ci in engine/tests/clients)");
        return;
    }
    let mut client = Command::new("node");
    client.arg("nostr-tools.mjs").current_dir(dir);
    run(client, "nostr-tools");
}

#[test]
fn nostr_sdk() {
    let Some(program) = std::env::var_os("TURNPIKE_SDK_CLIENT").map(PathBuf::from) else {
        assert!(!are_clients_required(), "TURNPIKE_SDK_CLIENT names no built engine/tests/sdk");
        eprintln!("not run: TURNPIKE_SDK_CLIENT is not set (scripts/test builds engine/tests/sdk)");
        return;
    };
    run(Command::new(program), "nostr-sdk");
}

fn sdk() -> Option<Command> {
    let program = std::env::var_os("TURNPIKE_SDK_CLIENT").map(PathBuf::from);
    if program.is_none() {
        assert!(!are_clients_required(), "TURNPIKE_SDK_CLIENT names no built engine/tests/sdk");
        eprintln!("not run: TURNPIKE_SDK_CLIENT is not set (scripts/test builds engine/tests/sdk)");
    }
    program.map(Command::new)
}

#[test]
fn nostr_sdk_synchronises_with_the_relay_both_ways() {
    let Some(mut client) = sdk() else { return };
    let relay = Setup::new(Runtime::Epoll, 2).start();
    let output = client.arg("sync").env("RELAY_URL", &relay.url).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    print!("{text}");
}

#[test]
fn the_relay_synchronises_with_nostr_relay_builder_both_ways() {
    let Some(mut client) = sdk() else { return };
    let relay = Setup::new(Runtime::Epoll, 2).start();
    let mut other = client
        .arg("relay")
        .env("RELAY_URL", &relay.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let url = first.strip_prefix("listening ").unwrap();
    let totals = relay.command(&["sync", url, "--json"]).success();
    print!("turnpike sync to nostr-relay-builder: {totals}");
    let totals: serde_json::Value = serde_json::from_str(&totals).unwrap();
    assert_eq!(totals["withheld"], 0, "{totals}");
    other.stdin.take().unwrap().write_all(b"\n").unwrap();
    let last = lines.next().map(Result::unwrap).unwrap_or_default();
    assert!(other.wait().unwrap().success(), "{last}");
    assert!(last.contains("both relays have all 600"), "{last}");
}
