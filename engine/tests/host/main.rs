//! `doctor`, `tune` and `topology` through the real binary: on this machine, on machines made of
//! files, killed in the middle, and beside a relay whose threads are where they were said to be.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;

mod profiles;
mod tune;

use common::{Finished, RelayOptions, Runtime, Setup, turnpike_bin};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the binary in an empty folder, so that no configuration is found.
fn turnpike(words: &[&str]) -> Finished {
    turnpike_in(tempfile::tempdir().unwrap().path(), words)
}

fn turnpike_in(folder: &Path, words: &[&str]) -> Finished {
    let mut command = Command::new(turnpike_bin());
    finish(command.args(words).current_dir(folder))
}

fn finish(command: &mut Command) -> Finished {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn json(words: &[&str]) -> Value {
    let finished = turnpike(words);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn write(root: &Path, path: &str, text: &str) {
    let at = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, text).unwrap();
}

#[test]
fn doctor_finds_something_to_say_about_this_machine() {
    let finished = turnpike(&["doctor", "--explain"]);
    assert!(matches!(finished.code, Some(0 | 1)), "{finished:?}");
    for line in finished.stdout.lines() {
        let is_command = line.trim_start().starts_with("$ ");
        assert!(is_command || line.chars().count() <= 100, "{line}");
    }
    for title in ["io_uring", "open files", "sync of 4 KiB", "free space", "time of day"] {
        assert!(finished.stdout.contains(title), "{title}: {}", finished.stdout);
    }
    let measured = finished.stdout.lines().find(|line| line.contains("sync of 4 KiB")).unwrap();
    assert!(measured.contains("p50 "), "the disk is measured: {measured}");
    let report = json(&["doctor", "--json", "--skip-disk"]);
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() >= 30);
    for finding in findings {
        for field in ["id", "title", "verdict", "is", "should", "why"] {
            assert!(finding[field].as_str().is_some_and(|text| !text.is_empty()), "{finding}");
        }
    }
    let counts = ["ok", "advice", "problems", "unknown"];
    let sum: u64 = counts.iter().map(|count| report[count].as_u64().unwrap()).sum();
    assert_eq!(sum, findings.len() as u64);
}

#[test]
fn doctor_fails_for_a_problem_and_strictly_for_advice() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let words = ["doctor", "--skip-disk", "--root", path];
    write(root.path(), "/proc/sys/net/ipv4/tcp_syncookies", "0\n");
    let found = turnpike(&words);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("problem  syn cookies"), "{}", found.stdout);
    assert!(found.stdout.contains("$ sysctl -w net.ipv4.tcp_syncookies=1"), "{}", found.stdout);
    assert!(found.stderr.contains("1 problem"), "{}", found.stderr);
    write(root.path(), "/proc/sys/net/ipv4/tcp_syncookies", "1\n");
    write(root.path(), "/proc/sys/net/core/somaxconn", "128\n");
    assert_eq!(turnpike(&words).code, Some(0));
    let strict: Vec<&str> = words.iter().copied().chain(["--strict"]).collect();
    assert_eq!(turnpike(&strict).code, Some(1));
    assert_eq!(turnpike(&["doctor", "--root", "/nowhere"]).code, Some(2));
}

#[test]
fn doctor_takes_what_is_needed_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "[network]\nconnections_max = 400000\nbacklog = 70000\n[memory]\nmemory_max_mib = 64\n";
    std::fs::write(folder.path().join("turnpike.toml"), text).unwrap();
    let words = ["doctor", "--skip-disk", "--json"];
    let report: Value = serde_json::from_str(&turnpike_in(folder.path(), &words).stdout).unwrap();
    let find = |id: &str| {
        let mut findings = report["findings"].as_array().unwrap().iter();
        findings.find(|finding| finding["id"] == id).unwrap().clone()
    };
    assert_eq!(find("net.somaxconn")["should"], "at least 70000");
    assert!(find("limit.nofile")["should"].as_str().unwrap().contains("400000 connections"));
    let memory = find("memory.size");
    assert_eq!(memory["verdict"], "problem");
    assert!(memory["why"].as_str().unwrap().contains("would not start"), "{memory}");
}

/// Where each thread of a process may run, by name.
fn threads(pid: i32) -> BTreeMap<String, Vec<String>> {
    let mut threads: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let folder = task.unwrap().path();
        // A thread may end meanwhile.
        let Ok(name) = std::fs::read_to_string(folder.join("comm")) else { continue };
        let Ok(status) = std::fs::read_to_string(folder.join("status")) else { continue };
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        threads.entry(name.trim().to_owned()).or_default().push(cpus.unwrap().trim().to_owned());
    }
    threads
}

#[test]
fn the_threads_of_a_relay_are_where_topology_said() {
    let setup = Setup::new(Runtime::Epoll, 2);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let before =
        json(&["topology", "--json", "--shards", "2", "--data-dir", data.to_str().unwrap()]);
    let relay = RelayOptions::new(setup).data_dir(&data).start();
    let during = relay.command(&["topology", "--json"]).success();
    let during: Value = serde_json::from_str(&during).unwrap();
    assert_eq!(before["executors"], during["executors"]);
    assert_eq!(during["shards_from"], "as the data directory has them");
    let threads = threads(relay.pid().as_raw_nonzero().get());
    let executors = before["executors"].as_array().unwrap();
    assert!(!executors.is_empty());
    let mut shards = 0;
    for executor in executors {
        let name = format!("core-{}", executor["executor"]);
        assert_eq!(threads[&name], [executor["processor"].to_string()], "{threads:?}");
        shards += executor["shards"].as_array().unwrap().len();
    }
    assert_eq!(shards, 2);
    let pools = threads.keys().filter(|name| name.starts_with("store-pool")).count();
    assert_eq!(before["pool_threads"], pools, "{threads:?}");
    for name in ["store-pool-0", "log-0", "signals", "admin"] {
        assert!(threads.contains_key(name), "{name} is among what is not pinned: {threads:?}");
    }
}

#[test]
fn doctor_looks_at_the_relay_that_runs() {
    let relay = Setup::new(Runtime::Epoll, 1).start();
    let report = relay.command(&["doctor", "--json", "--skip-disk"]);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let nofile = findings.iter().find(|finding| finding["id"] == "limit.nofile").unwrap();
    let process = format!("process {}", relay.pid().as_raw_nonzero());
    assert!(nofile["is"].as_str().unwrap().contains(&process), "{nofile}");
}

#[test]
fn topology_thinks_of_other_machines_and_other_stores() {
    let of = |words: &[&str]| {
        let words: Vec<&str> = ["topology", "--json"].iter().chain(words).copied().collect();
        json(&words)
    };
    let large = of(&["--cores", "64", "--shards", "56", "--memory-mib", "131072"]);
    assert_eq!((large["executors"].as_array().unwrap().len(), &large["shards"]), (56, &56.into()));
    assert_eq!(large["interrupts"], serde_json::json!([56, 57, 58, 59, 60, 61, 62, 63]));
    assert_eq!(large["memory_bytes"], 131_072_u64 << 20);
    let uneven = of(&["--cores", "4", "--shards", "6"]);
    assert!(uneven["advice"].to_string().contains("uneven"), "{uneven}");
    let small = of(&["--cores", "16", "--memory-mib", "1000"]);
    assert_eq!(small["budget_bytes"], Value::Null);
    let table = turnpike(&["topology", "--cores", "16", "--memory-mib", "1000"]).success();
    assert!(table.contains("the relay does not start"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert_eq!(turnpike(&["topology", "--cores", "0"]).code, Some(2));
    // A store that has another number than the configuration keeps the relay from starting.
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Setup::new(Runtime::Epoll, 2).start();
    relay.terminate();
    std::fs::write(folder.path().join("turnpike.toml"), "[store]\nshards = 5\n").unwrap();
    let data = relay.data_dir.to_str().unwrap();
    let told = turnpike_in(folder.path(), &["topology", "--json", "--data-dir", data]).success();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(told["warnings"].to_string().contains("does not start"), "{told}");
    assert_eq!(told["shards"], 2);
}
