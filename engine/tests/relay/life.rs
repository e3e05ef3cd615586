//! Start, stop, restart: the life of the process as its operator sees it.

use crate::common::client::id_of;
use crate::common::{RelayOptions, Runtime, Setup, draft, turnpike};
use crate::on_every_setup;
use bench::Signer;
use rustix::process::Signal;
use serde_json::json;
use tungstenite::protocol::frame::coding::CloseCode;

on_every_setup!(
    sigterm_drains_and_ends_clean,
    a_restart_keeps_everything,
    one_process_holds_a_store,
);

fn sigterm_drains_and_ends_clean(setup: Setup) {
    let mut relay = setup.start();
    let mut client = relay.connect();
    client.open_as("feed", &[json!({"limit": 0})]);
    client.stored("feed").unwrap();
    let event = client.post(&Signer::from_seed(1), &draft(1));
    assert_eq!(client.live("feed")["id"], id_of(&event));
    relay.signal(Signal::TERM);
    // The client gets a proper end that says why.
    let frame = client.recv_close().expect("a Close frame");
    assert_eq!(frame.code, CloseCode::Away);
    assert!(!frame.reason.is_empty());
    drop(client);
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.stderr());
}

fn a_restart_keeps_everything(setup: Setup) {
    let mut relay = setup.start();
    let mut client = relay.connect();
    let mut expected: Vec<String> = (0..100)
        .map(|seed| id_of(&client.post(&Signer::from_seed(seed), &draft(1).content("kept"))))
        .collect();
    expected.sort();
    let dir = relay.data_dir.clone();
    let before = {
        assert!(relay.terminate().success());
        turnpike(&dir, &["info", "--fingerprint"]).success()
    };
    for kill in [true, false] {
        let mut again = RelayOptions::new(setup).data_dir(&dir).start();
        let mut ids = again.connect().query_ids(&json!({"kinds": [1], "limit": 500}));
        ids.sort();
        assert_eq!(ids, expected);
        if kill {
            again.kill();
        } else {
            assert!(again.terminate().success());
        }
    }
    assert_eq!(turnpike(&dir, &["info", "--fingerprint"]).success(), before);
}

fn one_process_holds_a_store(setup: Setup) {
    let relay = setup.start();
    let second = RelayOptions::new(setup).data_dir(&relay.data_dir).try_start();
    let failed = second.err().expect("a second relay on the same directory does not start");
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    // The first is none the worse.
    relay.connect().accept(&Signer::from_seed(1).sign(&draft(1)));
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = turnpike(dir.path(), &["run", "--no-such-flag"]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    let setup = Setup::new(Runtime::Epoll, 1);
    let bad_key = RelayOptions::new(setup).config("[limits]\nno_such_key = 1\n").try_start();
    let failed = bad_key.err().expect("an unknown key is refused");
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    assert!(failed.stderr.contains("no_such_key"), "{}", failed.stderr);
    let mut options = RelayOptions::new(setup);
    options.env.push(("TURNPIKE_LIMITS__TAGS_MAX".into(), "many".into()));
    let failed = options.try_start().err().expect("a value of the wrong type is refused");
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
}
