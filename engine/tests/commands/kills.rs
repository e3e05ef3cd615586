//! Commands killed at random moments and run again.

use super::{command, events, fingerprint, run, signal, start, store, write_dump};
use crate::common::env_number;
use bench::rng::Rng;
use rustix::process::Signal;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn kills() -> u64 {
    env_number("TURNPIKE_COMMANDS_KILLS", 20)
}

/// Kills a command after up to `longest`; whether it was still at work.
fn kill_within(data: &Path, words: &[&str], longest: Duration, rng: &mut Rng) -> bool {
    let mut child = start(data, words);
    std::thread::sleep(Duration::from_micros(rng.below(longest.as_micros() as u64 + 1)));
    signal(&child, Signal::KILL);
    !child.wait().unwrap().success()
}

/// Kills `words` at random moments, asking each time that `check` holds, then lets it end.
fn kill_often(data: &Path, words: &[&str], longest: Duration, check: &mut dyn FnMut()) {
    let mut rng = Rng::new(longest.as_micros() as u64);
    let mut cut = 0;
    for _ in 0..kills() {
        cut += u64::from(kill_within(data, words, longest, &mut rng));
        check();
    }
    eprintln!("{words:?}: {cut} of {} were cut off, within {longest:?}", kills());
    assert!(cut > 0, "{words:?} was never cut off");
    run(data, words).success();
    check();
}

/// How long a command takes when nobody kills it.
fn timed(data: &Path, words: &[&str]) -> Duration {
    let begun = Instant::now();
    run(data, words).success();
    begun.elapsed()
}

#[test]
fn an_import_that_is_killed_goes_on_and_ends_with_the_same_events() {
    let root = tempfile::tempdir().unwrap();
    let (dump, whole) = (root.path().join("dump.jsonl"), root.path().join("whole"));
    write_dump(&dump, events());
    let words = ["import", "--shards", "2", dump.to_str().unwrap()];
    let longest = timed(&whole, &words);
    let expected = fingerprint(&whole);
    let data = root.path().join("data");
    // Each run begins where the last one was cut off, so all of them are at work.
    kill_often(&data, &words, longest / 4, &mut || {});
    assert_eq!(fingerprint(&data), expected);
}

/// A copy of a store, in place of an earlier one.
fn copied(data: &Path, copy: &Path) {
    let _ = std::fs::remove_dir_all(copy);
    let copying = Command::new("cp").arg("-a").arg(data).arg(copy).status().unwrap();
    assert!(copying.success());
}

/// Kills `words` at random moments of its work on copies of `data`, lets each be done again, and
/// then does it to `data` itself.
fn kill_on_copies(data: &Path, words: &[&str], expected: &str) {
    let copy = data.with_file_name("copy");
    copied(data, &copy);
    let longest = timed(&copy, words);
    let mut rng = Rng::new(longest.as_micros() as u64);
    let mut cut = 0;
    for _ in 0..kills() {
        copied(data, &copy);
        cut += u64::from(kill_within(&copy, words, longest, &mut rng));
        assert_eq!(fingerprint(&copy), expected, "{words:?}, killed");
        run(&copy, words).success();
        assert_eq!(fingerprint(&copy), expected, "{words:?}, killed and done again");
    }
    eprintln!("{words:?}: {cut} of {} were cut off, within {longest:?}", kills());
    assert!(cut > 0, "{words:?} was never cut off");
    run(data, words).success();
    assert_eq!(fingerprint(data), expected, "{words:?}");
}

#[test]
fn maintenance_that_is_killed_leaves_the_same_events() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), events());
    let expected = fingerprint(&data);
    kill_on_copies(&data, &["compact"], &expected);
    for shards in ["5", "1", "2"] {
        kill_on_copies(&data, &["reshard", "--shards", shards], &expected);
    }
    kill_on_copies(&data, &["reindex"], &expected);
    kill_on_copies(&data, &["scrub"], &expected);
}

#[test]
fn a_deletion_that_is_killed_and_run_again_deletes_exactly_what_matches() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), events());
    let count = |filter: &str| {
        let text = run(&data, &["scan", filter, "--count"]).success();
        text.trim().parse::<u64>().unwrap()
    };
    let (all, reactions) = (count("{}"), count(r#"{"kinds":[7]}"#));
    assert!(reactions > 0);
    let opening = timed(&data, &["info"]);
    let words = ["delete", "--filter", r#"{"kinds":[7]}"#];
    kill_often(&data, &words, opening * 2, &mut || {
        let left = count(r#"{"kinds":[7]}"#);
        assert_eq!(count("{}") - left, all - reactions, "something else is gone");
    });
    assert_eq!(count(r#"{"kinds":[7]}"#), 0);
    assert_eq!(run(&data, &["scrub"]).code, Some(0));
}

/// Whether a process has begun to listen to Ctrl-C.
fn catches_interrupts(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 2 != 0
}

#[test]
fn ctrl_c_ends_an_import_that_waits_for_its_input() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), 200);
    let expected = fingerprint(&data);
    let mut command = command(&data, &["import", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let line = std::fs::read_to_string(root.path().join("dump.jsonl")).unwrap();
    input.write_all(line.lines().next().unwrap().as_bytes()).unwrap();
    input.write_all(b"\n{\"half\":").unwrap();
    while !catches_interrupts(&child) {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Until it waits for the rest of the line.
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    let (said, told) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cut off"), "{said}");
    assert!(told.contains("0 malformed"), "half a line is no line: {told}");
    drop(input);
    assert_eq!(fingerprint(&data), expected);
}

#[test]
fn ctrl_c_ends_with_a_sentence_and_the_next_run_completes() {
    let root = tempfile::tempdir().unwrap();
    let data = store(root.path(), 3_000);
    let expected = fingerprint(&data);
    let dump = root.path().join("dump.jsonl");
    let dump = dump.to_str().unwrap();
    let commands: [&[&str]; 5] = [
        &["reshard", "--shards", "4"],
        &["reindex"],
        &["compact"],
        &["scrub", "--signatures"],
        &["import", dump],
    ];
    let mut interrupted = 0;
    for words in commands {
        for wait_ms in [5, 20, 60, 120, 250] {
            let mut command = command(&data, words);
            let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(wait_ms));
            signal(&child, Signal::INT);
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                // It was done before it was asked to end.
                Some(0 | 2) => {}
                Some(1) => {
                    assert!(said.contains("interrupted") || said.contains("cut off"), "{said}");
                    interrupted += 1;
                }
                // It had not begun to listen to signals, nor to do anything.
                None => {}
                other => panic!("{words:?}: {other:?} {said}"),
            }
            assert_eq!(fingerprint(&data), expected, "{words:?}");
        }
    }
    assert!(interrupted > 0, "no command was ever interrupted");
}
