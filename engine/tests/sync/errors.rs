//! What `sync` says when it cannot be done, and with which exit code.

use super::common::{Finished, RelayOptions, turnpike};
use super::proxy::Proxy;
use super::world::{World, public_ids, seed};
use super::{SETUP, sync};
use bench::Signer;
use std::net::TcpListener;
use std::path::Path;
use tungstenite::Message;

/// A relay that answers every message with `answer`, if it says anything.
fn double(answer: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut socket = tungstenite::accept(stream).unwrap();
        while let Ok(message) = socket.read() {
            if let (Message::Text(_), Some(answer)) = (message, answer)
                && socket.send(Message::text(answer)).is_err()
            {
                return;
            }
        }
    });
    url
}

fn fails(data_dir: &Path, words: &[&str], code: i32, says: &str) {
    let Finished { code: ended, stderr, .. } = turnpike(data_dir, words);
    assert_eq!(ended, Some(code), "{words:?}: {stderr}");
    assert!(stderr.contains(says), "{words:?}: {stderr}");
}

#[test]
fn wrong_usage_is_told_before_anything_is_opened() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a");
    let key = root.path().join("key");
    std::fs::write(&key, "nsec1").unwrap();
    let key = key.to_str().unwrap();
    let url = "ws://127.0.0.1:1";
    for (words, says) in [
        (&["sync", "relay.example.com"][..], "ws://"),
        (&["sync", "http://127.0.0.1/"], "ws://"),
        (&["sync", url, "--filter", "[]"], "object"),
        (&["sync", url, "--filter", r#"{"limit":5}"#], "limit"),
        (&["sync", url, "--range", "2d"], "dash"),
        (&["sync", url, "--range", "1d-2d"], "older end"),
        (&["sync", url, "--dir", "sideways"], "possible values"),
        (&["sync", url, "--auth-key-file", key], "64 hex digits"),
        (&["stream", "relay.example.com"], "ws://"),
    ] {
        fails(&dir, words, 2, says);
    }
    fails(&dir, &["sync", url], 1, "cannot connect");
    fails(&dir, &["stream", url], 1, "cannot connect");
    assert!(!dir.exists());
}

#[test]
fn a_relay_that_does_not_reconcile_is_told_from_one_that_is_silent() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a");
    let notice = double(Some(r#"["NOTICE","unknown message type NEG-OPEN"]"#));
    fails(&dir, &["sync", &notice], 1, "does not speak NIP-77");
    let off = double(Some(r#"["NEG-ERR","sync-1","unsupported: this relay does not"]"#));
    fails(&dir, &["sync", &off], 1, "does not reconcile: unsupported");
    fails(&dir, &["sync", &double(None), "--timeout", "1"], 1, "did not answer within 1 s");
    let junk = double(Some(r#"["NEG-MSG","sync-1","61ffffffffffffffffffffffff"]"#));
    fails(&dir, &["sync", &junk], 1, "cannot be read");
    let old = double(Some(r#"["NEG-MSG","sync-1","60"]"#));
    fails(&dir, &["sync", &old], 1, "cannot be read");
}

#[test]
fn a_relay_that_wants_to_know_who_asks_is_told_so_with_a_key() {
    let world = World::new(100);
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    seed(&dir_b, &world.b);
    let config = "[limits]\nauth_required = true\n";
    let relay_b = RelayOptions::new(SETUP).data_dir(&dir_b).config(config).start();
    fails(&dir_a, &["sync", &relay_b.url], 1, "--auth-key-file");
    let key = root.path().join("key");
    std::fs::write(&key, Signer::from_seed(77).secret_hex()).unwrap();
    sync(&dir_a, &[&relay_b.url, "--auth-key-file", key.to_str().unwrap()]);
    assert_eq!(public_ids(&dir_a), public_ids(&dir_b));
}

#[test]
fn a_relay_that_withholds_and_gives_what_nobody_asked_for_changes_nothing() {
    // It lists an id that it has no event for, and sends another event instead.
    let root = tempfile::tempdir().unwrap();
    let (dir_a, dir_b) = (root.path().join("a"), root.path().join("b"));
    let world = World::new(50);
    seed(&dir_b, &world.b);
    let relay_b = RelayOptions::new(SETUP).data_dir(&dir_b).start();
    let proxy = Proxy::start(relay_b.address, false);
    let victim = super::common::client::id_of(&world.b[3]);
    proxy.forge(&victim);
    let totals = sync(&dir_a, &[&proxy.url(), "--dir", "down"]);
    assert_eq!(totals["withheld"], 1, "{totals}");
    assert_eq!(totals["unasked"], 1, "{totals}");
    let mut expected = public_ids(&dir_b);
    assert!(expected.remove(&victim));
    assert_eq!(public_ids(&dir_a), expected);
}
