//! The tool itself: every scenario against the real relay and against another one, the files that it
//! leaves, its exit codes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "test"
)]

mod relay;

use bench::report::Report;
use relay::Relay;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A size that ends within a minute and a half on two busy CPUs.
const SMALL: [&str; 4] = ["--scale", "0.02", "--time", "0.02"];

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turnpike-bench")).args(arguments).output().unwrap()
}

fn run(url: &str, out: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let out = out.to_str().unwrap();
    let output = tool(&[&["run", "--out", out][..], arguments, &[url]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

fn report(out: &Path) -> Report {
    serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap()
}

/// What holds of a complete report, whatever the relay.
fn assert_complete(out: &Path) -> Report {
    let report = report(out);
    let names: Vec<&str> =
        report.scenarios.iter().map(|result| result.scenario.name.as_str()).collect();
    assert_eq!(names, bench::scenario::names().collect::<Vec<_>>());
    for result in &report.scenarios {
        let name = &result.scenario.name;
        let run = &result.runs[0];
        assert!(run.figures["operations_per_s"] > 0.0, "{name}: {run:?}");
        assert!(run.intervals.len() > 10, "{name}");
        assert!(run.distributions["connect"].count > 0, "{name}");
        assert!(out.join(format!("{name}.connect.hgrm")).is_file(), "{name}");
        if result.scenario.publish.is_some() {
            assert!(run.distributions["publish_ok"].count > 0, "{name}");
        }
        if result.scenario.query.is_some() {
            assert!(run.counts["query_events"] > 0, "{name}");
        }
        if result.scenario.subscriptions.is_some() {
            assert!(run.counts["deliveries"] > 0, "{name}: {:?}", run.counts);
        }
        assert!(!run.server.is_empty(), "{name}: the relay's process was not seen");
    }
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    for outside in ["<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "the page is not self-contained: {outside}");
    }
    assert!(html.matches("<svg").count() >= 3 * names.len());
    assert!(!html.contains("NaN"));
    report
}

#[test]
fn every_scenario_runs_against_the_relay() {
    let Some(relay) = Relay::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = run(
        &relay.url,
        directory.path(),
        &[&["--all", "--gate", "errors"][..], &SMALL[..]].concat(),
    );
    assert_eq!(code, Some(0), "{text}");
    let report = assert_complete(directory.path());
    assert!(report.relays[0].software.starts_with("turnpike"), "{:?}", report.relays);
    // Rendering again from the file gives the same page.
    let page = std::fs::read(directory.path().join("report.html")).unwrap();
    let file = directory.path().join("report.json");
    assert!(tool(&["report", file.to_str().unwrap()]).status.success());
    assert_eq!(std::fs::read(directory.path().join("report.html")).unwrap(), page);
}

struct Nrb(Child);

impl Drop for Nrb {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_scenario_runs_against_another_relay() {
    let Some(binary) = std::env::var_os("TURNPIKE_BENCH_NRB") else {
        eprintln!("not run: TURNPIKE_BENCH_NRB names no nostr-relay-builder");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(binary)
        .arg(directory.path().join("data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines
        .find_map(|line| line.unwrap().strip_prefix("listening ").map(str::to_owned))
        .expect("it says where it listens");
    let _nrb = Nrb(child);
    let (code, text) =
        run(url.trim(), directory.path(), &[&["--all", "--gate", "none"][..], &SMALL[..]].concat());
    assert_eq!(code, Some(0), "{text}");
    assert_complete(directory.path());
}

#[test]
fn thresholds_decide_the_exit_code_and_two_relays_compare() {
    let (Some(one), Some(other)) = (Relay::start(), Relay::start()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let scenario = directory.path().join("mine.toml");
    let text = "name = \"mine\"\ntitle = \"Mine\"\nabout = \"x\"\nconnections = 8\n\
        phases = { ramp_s = 0, steady_s = 2, drop_s = 0 }\npublish = { per_s = 100 }\n\
        thresholds = [{ figure = \"accepted_per_s\", min = 1000000 }]\n";
    std::fs::write(&scenario, text).unwrap();
    let scenario = scenario.to_str().unwrap();
    let out = directory.path().join("out");
    let size = ["--scale", "1", "--time", "1"];
    let (code, text) = run(&one.url, &out, &[&[scenario][..], &size[..]].concat());
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("BROKEN"), "{text}");

    let versus = [scenario, "--vs", &other.url, "--repeat", "2", "--gate", "none"];
    let (code, text) = run(&one.url, &out, &[&versus[..], &size[..]].concat());
    assert_eq!(code, Some(0), "{text}");
    let result = &report(&out).scenarios[0];
    assert_eq!(result.runs.iter().map(|run| run.relay).collect::<Vec<_>>(), [0, 1, 1, 0]);
    assert!(result.estimate(1, "accepted_per_s").unwrap().interval.is_some());
    assert!(
        result.runs.iter().all(|run| run.counts["accepted"] == 200),
        "{:?}",
        result.runs[0].counts
    );
    let file = out.join("report.json");
    let file = file.to_str().unwrap();
    let compared = tool(&["compare", file, file]);
    let text = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(compared.status.success() && text.contains("events accepted"), "{text}");

    assert_eq!(run(&one.url, &out, &[]).0, Some(1));
    assert_eq!(run("http://127.0.0.1:1", &out, &["mixed"]).0, Some(1));
    assert_eq!(tool(&["run"]).status.code(), Some(2));
}

#[test]
fn a_prepared_corpus_is_the_same_file_and_is_what_is_published() {
    let Some(relay) = Relay::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let make = |out: &str, threads: &str| {
        let options = ["--seed", "5", "--count", "900", "--shape", "uniform-1k"];
        let form = ["--format", "prepared", "--threads", threads, "--out", out];
        assert!(tool(&[&["corpus"][..], &options[..], &form[..]].concat()).status.success());
        std::fs::read(out).unwrap()
    };
    assert_eq!(make(&path("one"), "1"), make(&path("two"), "2"));
    let out = directory.path().join("out");
    let one = path("one");
    let arguments =
        ["large", "--scale", "1", "--time", "0.01", "--gate", "errors", "--corpus", &one];
    let (code, text) = run(&relay.url, &out, &arguments);
    assert_eq!(code, Some(0), "{text}");
    let counts = &report(&out).scenarios[0].runs[0].counts;
    assert!(counts["accepted"] > 0 && counts["accepted"] == counts["published"], "{counts:?}");
    // A kilobyte each, and not the thirty of the scenario's own events.
    assert!(counts["bytes_out"] < counts["published"] * 1_200, "{counts:?}");
}

#[test]
fn a_probe_finds_a_rate_that_is_sustained() {
    let Some(relay) = Relay::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("capacity.json");
    let out_name = out.to_str().unwrap();
    // A bound that is met even by a busy machine: what is tested is the search, not the relay.
    let options =
        ["--p99-ms", "5000", "--slice-s", "1", "--start-per-s", "200", "--connections", "8"];
    let probed =
        tool(&[&["probe", "--out", out_name][..], &options[..], &[relay.url.as_str()]].concat());
    let text = String::from_utf8_lossy(&probed.stdout).into_owned();
    assert!(matches!(probed.status.code(), Some(0 | 4)), "{text}");
    let found: bench::run::probe::Capacity =
        serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert!(found.events.per_s > 0.0 && found.queries.per_s > 0.0 && found.query_mbps > 0.0);
    let sustained = found.events.slices.iter().filter(|slice| slice.is_sustained);
    assert!(sustained.map(|slice| slice.per_s).fold(0.0, f64::max) == found.events.per_s);
}
