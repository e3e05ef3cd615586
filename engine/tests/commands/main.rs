//! The operator's commands through the real binary: offline and beside a relay that serves, ended by
//! Ctrl-C, killed at random and run again, with equal stores afterwards.
//!
//! `TURNPIKE_COMMANDS_EVENTS` and `TURNPIKE_COMMANDS_KILLS` set the size: a million and twenty for a
//! person with an hour.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;

mod kills;
mod online;

use bench::corpus::{Corpus, CorpusOptions, jsonl};
use common::{Finished, env_number, turnpike_bin};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Lines of a dump. Without deletion requests: a resumed import hands some lines in twice, and an old
/// version of an event whose newest was deleted by id may then come back, as NIP-09 has it.
fn write_dump(path: &Path, events: u64) {
    let options = CorpusOptions { stale_per_myriad: 0, ..CorpusOptions::default() };
    let mut text = Vec::new();
    let threads = std::thread::available_parallelism().unwrap().get();
    jsonl::write(Corpus::public(9, events, options), threads, &mut text, &mut |_| {}).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines = text.lines().filter(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["kind"] != 5
    });
    let kept: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(path, kept).unwrap();
}

fn events() -> u64 {
    env_number("TURNPIKE_COMMANDS_EVENTS", 20_000)
}

/// A command over `data`, with small segments, so that there are several to be worked on.
fn command(data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(turnpike_bin());
    command.args(words).arg("--data-dir").arg(data);
    command.current_dir(data.parent().unwrap());
    command.env("TURNPIKE_STORE__SEGMENT_MIB", "1").stdin(Stdio::null());
    command
}

fn run(data: &Path, words: &[&str]) -> Finished {
    let output = command(data, words).output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a command with `--json` that succeeds; the last line of what it prints.
fn json(data: &Path, words: &[&str]) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let text = run(data, &words).success();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn start(data: &Path, words: &[&str]) -> Child {
    let mut command = command(data, words);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    // It may have ended by itself.
    let _ = kill_process(Pid::from_child(child), signal);
}

fn fingerprint(data: &Path) -> String {
    run(data, &["info", "--fingerprint"]).success().trim().to_owned()
}

/// A store made of a dump of `events` events, over two shards.
fn store(root: &Path, events: u64) -> PathBuf {
    let (dump, data) = (root.join("dump.jsonl"), root.join("data"));
    write_dump(&dump, events);
    run(&data, &["import", "--shards", "2", dump.to_str().unwrap()]).success();
    data
}

#[test]
fn every_command_leaves_the_same_events() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), 3_000);
    let expected = fingerprint(&data);
    let removed = json(&data, &["delete", "--filter", r#"{"kinds":[7]}"#, "--dry-run"]);
    assert!(removed["matched"].as_u64().unwrap() > 100, "{removed}");
    assert_eq!(fingerprint(&data), expected, "a dry run deletes nothing");
    let compacted = json(&data, &["compact"]);
    assert!(compacted["log_bytes_reclaimed"].as_u64().unwrap() > 0, "{compacted}");
    assert_eq!(fingerprint(&data), expected);
    for shards in ["5", "1", "3"] {
        let resharded = json(&data, &["reshard", "--shards", shards]);
        assert_eq!(resharded["shards"].to_string(), shards);
        assert_eq!(fingerprint(&data), expected, "{shards} shards");
    }
    let indexed = json(&data, &["reindex"]);
    assert_eq!(indexed["shards"], 3);
    assert_eq!(fingerprint(&data), expected);
    let scrubbed = json(&data, &["scrub", "--signatures"]);
    assert_eq!(scrubbed["findings"], 0);
    assert_eq!(fingerprint(&data), expected);
    let info = json(&data, &["info"]);
    let shards = info["shards"].as_array().unwrap();
    assert!(shards.iter().all(|shard| shard["log_bytes"].as_u64().unwrap() > 0), "{info}");
}

#[test]
fn a_number_of_shards_in_the_configuration_that_no_longer_fits_is_told_twice() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), 200);
    let made = json(&data, &["info"])["shards"].as_array().unwrap().len();
    let file = format!("[store]\nshards = {made}\n");
    std::fs::write(root.path().join("turnpike.toml"), file).unwrap();
    let finished = run(&data, &["reshard", "--shards", "7"]);
    assert!(finished.stderr.contains("store.shards"), "{}", finished.stderr);
    finished.success();
    let finished = run(&data, &["info"]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("7 shards"), "{}", finished.stderr);
    std::fs::write(root.path().join("turnpike.toml"), "[store]\nshards = 7\n").unwrap();
    assert_eq!(json(&data, &["info"])["shards"].as_array().unwrap().len(), 7);
    let finished = run(&data, &["reshard", "--shards", "7"]);
    assert!(!finished.stderr.contains("store.shards"), "{}", finished.stderr);
}

#[test]
fn wrong_usage_is_told_and_does_nothing() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), 200);
    let expected = fingerprint(&data);
    for words in [
        &["delete"][..],
        &["delete", "--age", "soon"],
        &["delete", "--filter", "kinds"],
        &["reshard"],
        &["reshard", "--shards", "0"],
        &["scrub", "--accept-loss", "--signatures"],
    ] {
        let finished = run(&data, words);
        assert_eq!(finished.code, Some(2), "{words:?}: {}", finished.stderr);
        assert!(!finished.stderr.is_empty(), "{words:?}");
    }
    assert_eq!(fingerprint(&data), expected);
    for command in ["import", "delete", "compact", "reindex", "reshard", "scrub"] {
        let help = run(&data, &[command, "--help"]).success();
        for word in ["nterrupted", "Exit codes"] {
            let is_told = help.contains(word) || command == "import" && help.contains("cut off");
            assert!(is_told, "{command} --help does not speak of {word}");
        }
    }
}

#[test]
fn damage_is_found_named_and_given_up_only_when_asked() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), 2_000);
    let log = data.join("shard-000/log");
    let segments = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path());
    let largest = segments.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0xff;
    std::fs::write(&largest, bytes).unwrap();
    let found = run(&data, &["scrub", "--json"]);
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    let first: Value = serde_json::from_str(found.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&first["shard"], &first["cure"]), (&0.into(), &"accept-loss".into()), "{first}");
    let lost = json(&data, &["scrub", "--accept-loss"]);
    assert!(lost["events_lost"].as_u64().unwrap() > 0, "{lost}");
    assert_eq!(json(&data, &["scrub"])["findings"], 0);
    assert!(json(&data, &["info"])["events"].as_u64().unwrap() > 0);
}

#[test]
fn an_export_of_strfry_is_read_line_by_line() {
    let root = tempfile::tempdir().unwrap();
    let (dump, data) = (root.path().join("dump.jsonl"), root.path().join("data"));
    write_dump(&dump, 40);
    let text = std::fs::read_to_string(&dump).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    // What stands below for events that no relay takes must not be known by its id.
    let template: Value = serde_json::from_str(lines.pop().unwrap()).unwrap();
    let is_ephemeral = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        (20_000..30_000).contains(&event["kind"].as_u64().unwrap())
    };
    let plain = lines.iter().filter(|line| !is_ephemeral(line)).count();
    let mut export = String::from("\u{feff}");
    for line in &lines {
        let fried = line.strip_suffix('}').unwrap();
        // The packed copy is larger than any event may be.
        export.push_str(&format!("{fried},\"fried\":\"{}\"}}\r\n", "0f".repeat(300_000)));
    }
    export.push_str("2026-01-01 00:00:00.000 (   0.1s) [main    ]INFO| CONFIG: Loading\n\n");
    for (field, value) in [("kind", 70_000_u64), ("created_at", 1 << 40)] {
        let mut event = template.clone();
        event[field] = value.into();
        export.push_str(&format!("{event}\n"));
    }
    let mut event = template.clone();
    event["kind"] = 1.into();
    event["content"] = "a\u{7f}b".into();
    export.push_str(&format!("{event}\n"));
    export.push_str("{\"id\":\"cut");
    std::fs::write(&dump, export).unwrap();
    let tally = json(&data, &["import", "--from-strfry", dump.to_str().unwrap()]);
    let taken = tally["imported"].as_u64().unwrap() + tally["duplicates"].as_u64().unwrap();
    let expired = tally["rejected_by_reason"]["expired"].as_u64().unwrap_or(0);
    assert_eq!((taken + expired) as usize, plain, "{tally}");
    assert_eq!(tally["rejected_by_reason"]["id_mismatch_of_u007f"], 1, "{tally}");
    let malformed = &tally["malformed_by_reason"];
    assert_eq!(malformed["no_event"], 1, "{tally}");
    assert_eq!((&malformed["bad_kind"], &malformed["bad_created_at"]), (&1.into(), &1.into()));
    assert_eq!(tally["malformed"], 4, "the line that was cut is counted, too: {tally}");
}
