//! Commands beside a relay that serves.

use super::write_dump;
use crate::common::{Relay, RelayOptions, Runtime, Setup};
use crate::on_every_setup;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

on_every_setup!(commands_work_beside_the_relay);

fn json(relay: &Relay, words: &[&str]) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let text = relay.command(&words).success();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn commands_work_beside_the_relay(setup: Setup) {
    let mut relay = setup.start();
    let root = tempfile::tempdir().unwrap();
    let dump = root.path().join("dump.jsonl");
    write_dump(&dump, 1_500);
    let dump = dump.to_str().unwrap();
    let tally = json(&relay, &["import", dump]);
    let imported = tally["imported"].as_u64().unwrap();
    assert!(imported > 500, "an old archive is taken, whatever its dates: {tally}");
    let again = json(&relay, &["import", dump]);
    assert_eq!(again["imported"], 0, "{again}");

    let matching = json(&relay, &["delete", "--filter", r#"{"kinds":[7]}"#, "--dry-run"]);
    let deleted = json(&relay, &["delete", "--filter", r#"{"kinds":[7]}"#]);
    assert_eq!(deleted["removed"], matching["matched"], "{deleted}");
    assert!(deleted["removed"].as_u64().unwrap() > 0);
    let none = json(&relay, &["delete", "--filter", r#"{"kinds":[7]}"#]);
    assert_eq!(none["removed"], 0);
    let back = json(&relay, &["import", dump]);
    assert!(back["imported"].as_u64().unwrap() > 0, "a deletion is no ban: {back}");
    let banned = json(&relay, &["delete", "--filter", r#"{"kinds":[7]}"#, "--ban-ids"]);
    assert!(banned["removed"].as_u64().unwrap() > 0, "{banned}");
    let refused = json(&relay, &["import", dump]);
    assert_eq!(refused["imported"], 0, "{refused}");
    assert_eq!(refused["rejected_by_reason"]["banned"], banned["removed"], "{refused}");

    let expected = relay.command(&["info", "--fingerprint"]).success();
    let compacted = json(&relay, &["compact"]);
    assert!(compacted["log_bytes_reclaimed"].as_u64().unwrap() > 0, "{compacted}");
    assert_eq!(compacted["index_bytes_reclaimed"], 0, "{compacted}");
    assert_eq!(json(&relay, &["scrub", "--signatures"])["findings"], 0);
    assert_eq!(relay.command(&["info", "--fingerprint"]).success(), expected);
    for words in [&["reindex"][..], &["scrub", "--accept-loss"]] {
        let refused = relay.command(words);
        assert_eq!(refused.code, Some(3), "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("held by process"), "{}", refused.stderr);
    }
    assert_eq!(relay.command(&["import", "--no-verify", dump]).code, Some(2));
    assert_eq!(relay.terminate().code(), Some(0));
    assert!(!relay.data_dir.join("relay.sock").exists(), "an orderly end leaves no socket behind");
    assert_eq!(relay.command(&["info", "--fingerprint"]).success(), expected);
}

#[test]
fn an_export_that_nobody_reads_keeps_no_other_command_waiting() {
    let relay = RelayOptions::new(Setup::new(Runtime::Auto, 2)).start();
    let root = tempfile::tempdir().unwrap();
    let dump = root.path().join("dump.jsonl");
    write_dump(&dump, 3_000);
    json(&relay, &["import", dump.to_str().unwrap()]);
    let request = b"{\"command\":\"scan\",\"filters\":[{}],\"oldest_first\":false}\n";
    let mut stuck: Vec<UnixStream> = (0..3)
        .map(|_| {
            let mut stream = UnixStream::connect(relay.data_dir.join("admin.sock")).unwrap();
            stream.write_all(request).unwrap();
            // It is under way once its first byte is there; the rest is left where it is.
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    let info = json(&relay, &["info"]);
    assert!(info["events"].as_u64().unwrap() > 1_000, "{info}");
    // Nobody was given up to make room for it: each gets the rest, down to its result.
    for stream in &mut stuck {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        let last = rest.lines().last().unwrap();
        assert_eq!(last, format!("r{{\"events\":{}}}", info["events"]));
    }
}

#[test]
fn the_local_socket_is_the_operators_and_a_stale_one_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let setup = Setup::new(Runtime::Auto, 1);
    let mut relay = RelayOptions::new(setup).data_dir(&data).start();
    let socket = data.join("relay.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    relay.kill();
    assert!(socket.exists(), "a killed relay cannot clean up");
    let relay = RelayOptions::new(setup).data_dir(&data).start();
    let mut stream = UnixStream::connect(&socket).unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Key: dHVybnBpa2UgaW1wb3J0IQ==\r\n\
                   Sec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    drop(relay);
}
