//! `OK true` means on stable storage, proven from the system calls of the running relay: for each
//! event the log bytes were written, a sync of that file began after the write had returned and
//! returned itself, and only then was `OK` sent; and the directory of a new segment was synced
//! before the segment took an event.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;
mod trace;

use bench::{Draft, Signer};
use common::client::{event_value, id_of};
use common::{PATIENCE, RelayOptions, Runtime, Setup, now_s, turnpike_bin};
use proto::Event;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;
use trace::{Proof, Violation, check};

/// Events whose way to the disk is followed.
const EVENTS: usize = 1_000;
/// Events under way at once, so that batches of several form.
const WINDOW: usize = 16;

fn events() -> Vec<Event> {
    (0..EVENTS)
        .map(|index| {
            let draft = Draft::new(1, now_s()).content(&format!("{index} {}", "x".repeat(2_500)));
            Signer::from_seed(index as u64 % 20).sign(&draft)
        })
        .collect()
}

/// Runs `binary` under strace, publishes, and returns the events with the trace.
fn traced(binary: &Path) -> (Vec<Event>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let output = path.display().to_string();
    let calls = "trace=pwrite64,pwritev,pwritev2,write,writev,sendto,sendmsg,sendmmsg,fdatasync,\
        fsync,sync_file_range,openat,openat2,creat,rename,renameat,renameat2,io_uring_setup";
    let strace = ["strace", "-D", "-f", "-y", "-xx", "-s", "9000000", "-e", calls, "-o", &output];
    let setup = Setup::new(Runtime::Epoll, 1);
    // The smallest segments, so that the run goes through several.
    let mut relay = RelayOptions::new(setup)
        .binary(binary)
        .wrapper(&strace)
        .config("[store]\nsegment_mib = 1\n")
        .start();
    let mut client = relay.connect();
    let events = events();
    for window in events.chunks(WINDOW) {
        for event in window {
            client.send(&json!(["EVENT", event_value(event)]));
        }
        for event in window {
            assert_eq!(client.recv_ok(&id_of(event)), (true, String::new()));
        }
    }
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.stderr());
    // With -D the tracer is nobody's child; the trace is whole when the main thread's end is in it.
    let main_thread = relay.pid().as_raw_nonzero().to_string();
    // Short process ids are padded.
    let is_end = |line: &str| {
        line.strip_prefix(&main_thread)
            .is_some_and(|rest| rest.trim_start().starts_with("+++ exited"))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let trace = std::fs::read(&path).unwrap();
        let tail =
            String::from_utf8_lossy(&trace[trace.len().saturating_sub(4_096)..]).into_owned();
        if tail.lines().any(is_end) {
            return (events, trace);
        }
        assert!(Instant::now() < deadline, "the trace has no end: {tail}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn ok_is_sent_after_the_bytes_are_on_stable_storage() {
    let (events, trace) = traced(&turnpike_bin());
    match check(&trace, &events) {
        Ok(Proof { events, segments, syncs }) => {
            println!("{events} events covered, {segments} segments, {syncs} syncs of segments");
            assert_eq!(events, EVENTS);
            assert!(segments >= 2, "the run has to go through several segments");
        }
        Err(violation) => panic!("{violation:?}"),
    }
}

/// The control: the same relay with the syncs left out has to be found out.
#[test]
fn a_build_without_syncs_is_found_out() {
    let Some(binary) = std::env::var_os("TURNPIKE_BIN_SKIP_SYNC").map(PathBuf::from) else {
        eprintln!("not run: TURNPIKE_BIN_SKIP_SYNC names no build with the syncs skipped");
        return;
    };
    let (events, trace) = traced(&binary);
    let violation = check(&trace, &events).expect_err("a relay that does not sync proves nothing");
    println!("found: {violation:?}");
    assert!(matches!(violation, Violation::NotSynced(_) | Violation::DirectoryNotSynced(_)));
}
