//! `turnpike sync` and `turnpike stream` between two relays over real sockets, with everything on
//! the wire kept: what differs is found and transferred, and nothing private is ever told.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;
mod errors;
mod proxy;
mod streams;
mod strfry;
mod world;

use common::{RelayOptions, Runtime, Setup, turnpike};
use proxy::{Proxy, file};
use serde_json::Value;
use std::process::{Command, Stdio};
use world::{World, is_private, public_ids, seed};

/// Relays as most tests have them.
const SETUP: Setup = Setup::new(Runtime::Epoll, 2);

fn sync(data_dir: &std::path::Path, words: &[&str]) -> Value {
    let mut all = vec!["sync", "--json"];
    all.extend_from_slice(words);
    let text = turnpike(data_dir, &all).success();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// What an observer of the wire may see: no id of a private event, in events, filters or the hex of a
/// reconciliation.
fn assert_nothing_private(world: &World, record: &proxy::Record) {
    assert!(!record.up.is_empty() && !record.down.is_empty());
    for text in record.up.iter().chain(&record.down) {
        for id in world.private_ids() {
            assert!(!text.contains(&id), "{id} in {text}");
        }
    }
}

fn both_relays_have_the_same(setup: Setup, mode: &str) {
    let world = World::new(2_000);
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    seed(&dir_a, &world.a);
    seed(&dir_b, &world.b);
    let relay_b = RelayOptions::new(setup).data_dir(&dir_b).start();
    let relay_a = (mode == "online").then(|| RelayOptions::new(setup).data_dir(&dir_a).start());
    let proxy = Proxy::start(relay_b.address, false);

    let told = sync(&dir_a, &[&proxy.url(), "--dir", "none", "--print-missing"]);
    let (only_a, only_b) = world.differences();
    assert_eq!((told["have"].as_u64(), told["need"].as_u64()), (Some(only_a), Some(only_b)));
    assert_eq!((told["downloaded"].as_u64(), told["uploaded"].as_u64()), (Some(0), Some(0)));

    let totals = sync(&dir_a, &[&proxy.url()]);
    assert_eq!(totals["withheld"], 0, "{totals}");
    // What was deleted there is refused there.
    assert_eq!(totals["refused_there"], serde_json::json!({"blocked": 1}), "{totals}");
    assert_nothing_private(&world, &proxy.take());
    let expected = world.public_after();
    assert_eq!(public_ids(&dir_a), expected, "{totals}");
    assert_eq!(public_ids(&dir_b), expected, "{totals}");
    for (dir, events) in [(&dir_a, &world.a), (&dir_b, &world.b)] {
        let private = events.iter().filter(|event| is_private(event)).count() as u64;
        let count = turnpike(dir, &["scan", r#"{"kinds":[4,1059]}"#, "--count"]).success();
        assert_eq!(count.trim(), private.to_string(), "private events stay where they were");
    }

    // Equal sets: one message each way, and nothing but fingerprints in it.
    let again = sync(&dir_a, &[&proxy.url()]);
    assert_eq!((again["have"].as_u64(), again["need"].as_u64()), (Some(0), Some(0)), "{again}");
    assert_eq!(again["rounds"], 1, "{again}");
    let record = proxy.take();
    let bytes: usize = record.up.iter().chain(&record.down).map(String::len).sum();
    assert!(bytes < 4_096, "{bytes}: {:?}", record.up);
    assert_nothing_private(&world, &record);
    drop(relay_a);
}

#[test]
fn running_relays_have_the_same_after_a_sync() {
    both_relays_have_the_same(SETUP, "online");
}

#[test]
fn a_store_without_a_relay_is_synchronised_too() {
    both_relays_have_the_same(SETUP, "offline");
}

#[test]
fn running_relays_have_the_same_after_a_sync_on_io_uring() {
    let setup = Setup::new(Runtime::IoUring, 2);
    if setup.is_enabled() {
        both_relays_have_the_same(setup, "online");
    }
}

#[test]
fn each_direction_moves_events_one_way_only() {
    let world = World::new(300);
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    seed(&dir_a, &world.a);
    seed(&dir_b, &world.b);
    let relay_b = RelayOptions::new(SETUP).data_dir(&dir_b).start();
    let before_b = public_ids(&dir_b);
    sync(&dir_a, &[&relay_b.url, "--dir", "down"]);
    let expected = world.public_after();
    assert_eq!(public_ids(&dir_a), expected);
    assert_eq!(public_ids(&dir_b), before_b);
    let only_notes = [relay_b.url.as_str(), "--dir", "up", "--filter", r#"{"kinds":[5]}"#];
    assert_eq!(sync(&dir_a, &only_notes)["uploaded"], 0, "deletions are there already");
    sync(&dir_a, &[&relay_b.url, "--dir", "up"]);
    assert_eq!(public_ids(&dir_b), expected);
}

#[test]
fn a_range_and_a_filter_bound_what_is_transferred() {
    let world = World::new(600);
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    seed(&dir_b, &world.b);
    let relay_b = RelayOptions::new(SETUP).data_dir(&dir_b).start();
    let (since, until) = (world.base_s + 5_000, world.base_s + 20_000);
    let range = format!("{since}-{until}");
    sync(&dir_a, &[&relay_b.url, "--filter", r#"{"kinds":[1]}"#, "--range", &range]);
    let inside = |event: &&proto::Event| {
        let event = event.view();
        event.kind() == 1 && (since..=until).contains(&event.created_at())
    };
    let expected: std::collections::BTreeSet<String> =
        world.b.iter().filter(inside).map(common::client::id_of).collect();
    assert!(expected.len() > 50, "{}", expected.len());
    assert_eq!(public_ids(&dir_a), expected);
}

#[test]
fn small_frames_and_a_relay_that_reconciles_few_records_at_once_still_come_to_an_end() {
    let world = World::new(3_000);
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    seed(&dir_a, &world.a);
    seed(&dir_b, &world.b);
    let config = "[sync]\nrecords_max = 500\n";
    let relay_b = RelayOptions::new(SETUP).data_dir(&dir_b).config(config).start();
    let proxy = Proxy::start(relay_b.address, false);
    // A filter that no sums are kept of: its whole set counts.
    let filter = r#"{"kinds":[0,1,5]}"#;
    let totals = sync(&dir_a, &[&proxy.url(), "--filter", filter, "--frame-size-limit", "4096"]);
    assert!(totals["sessions"].as_u64().unwrap() > 5, "{totals}");
    for text in proxy.take().up.iter().filter(|text| text.starts_with("[\"NEG-")) {
        assert!(text.len() <= 2 * 4_096 + 512, "{}", text.len());
    }
    let expected = world.public_after();
    assert_eq!(public_ids(&dir_a), expected);
    assert_eq!(public_ids(&dir_b), expected);
}

#[test]
fn a_sync_that_is_killed_or_cut_off_is_run_again() {
    let world = World::new(3_000);
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    seed(&dir_a, &world.a);
    seed(&dir_b, &world.b);
    let relay_b = RelayOptions::new(SETUP).data_dir(&dir_b).start();
    let proxy = Proxy::start(relay_b.address, false);
    let moved = |record: &proxy::Record| {
        let is_event = |text: &&String| text.starts_with("[\"EVENT\"");
        record.up.iter().filter(is_event).count() + record.down.iter().filter(is_event).count()
    };
    for events in [20, 150] {
        let mut child = Command::new(common::turnpike_bin())
            .args(["sync", &proxy.url(), "--data-dir"])
            .arg(&dir_a)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        proxy.until(|record| moved(record) >= events);
        child.kill().unwrap();
        child.wait().unwrap();
        proxy.take();
        assert_ne!(public_ids(&dir_b), world.public_after(), "there is something left to do");
    }
    // The connection breaks in the middle: the command makes another one by itself.
    proxy.cut_after(40);
    let totals = sync(&dir_a, &[&proxy.url()]);
    assert_nothing_private(&world, &proxy.take());
    let expected = world.public_after();
    assert_eq!(public_ids(&dir_a), expected, "{totals}");
    assert_eq!(public_ids(&dir_b), expected, "{totals}");
}

#[test]
fn tls_is_spoken_with_whoever_the_machines_authorities_vouch_for() {
    let world = World::new(200);
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    seed(&dir_b, &world.b);
    let relay_b = RelayOptions::new(SETUP).data_dir(&dir_b).start();
    let proxy = Proxy::start(relay_b.address, true);
    let url = format!("wss://localhost:{}", proxy.address.port());
    let run = |authority: &str| {
        let output = Command::new(common::turnpike_bin())
            .args(["sync", &url, "--dir", "down", "--data-dir"])
            .arg(&dir_a)
            .env("SSL_CERT_FILE", file(authority))
            .env_remove("SSL_CERT_DIR")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = run("stranger.pem");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("certificate"), "{stderr}");
    assert!(!dir_a.exists(), "nothing is made for a relay that cannot be reached");
    let (code, stderr) = run("ca.pem");
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(public_ids(&dir_a), public_ids(&dir_b));
}
