//! The same door for reads.

use crate::common::client::id_of;
use crate::common::{RelayOptions, Setup};
use crate::{Script, metric, on_both_runtimes, policy_toml, told, until};
use bench::Signer;
use serde_json::{Value, json};

on_both_runtimes!(reads_are_asked_about, reads_without_an_answer_get_the_default);

fn reads_are_asked_about(setup: Setup) {
    let script = Script::obedient(1);
    let toml = policy_toml("read_plugin", &script.path(), "");
    let relay = RelayOptions::new(setup).config(&toml).start();
    let mut client = relay.connect();
    let event = told(1, "reject nobody is asked about events");
    client.accept(&event);

    client.open_as("accept", &[json!({"kinds": [1]})]);
    assert_eq!(client.stored("accept").unwrap().ids(), [id_of(&event)]);
    let live = told(2, "and live");
    client.accept(&live);
    assert_eq!(client.live("accept")["id"], id_of(&live));

    client.open_as("reject restricted: members only", &[json!({})]);
    let refused = client.stored("reject restricted: members only");
    assert_eq!(refused.unwrap_err(), "restricted: members only");
    client.send(&json!(["COUNT", "reject no", {}]));
    let closed = client.recv_where(|value| value[1] == "reject no");
    assert_eq!(closed, json!(["CLOSED", "reject no", "blocked: no"]));
    client.open_as("shadow", &[json!({})]);
    assert!(client.stored("shadow").unwrap().events.is_empty(), "it finds nothing");
    let unseen = told(3, "accept");
    client.accept(&unseen);
    assert_eq!(client.live("accept")["id"], id_of(&unseen));
    let rest = client.drain();
    assert!(!rest.iter().any(|value| value[1] == "shadow"), "nor does it live: {rest:?}");

    client.auth(&Signer::from_seed(1));
    let filter = json!({"authors": [Signer::from_seed(1).pubkey().to_hex()], "#t": ["x"]});
    client.open_as("source", std::slice::from_ref(&filter));
    let told = client.stored("source").unwrap_err();
    let told: Value = serde_json::from_str(told.strip_prefix("blocked: ").unwrap()).unwrap();
    assert_eq!((&told["sourceType"], &told["sourceInfo"]), (&json!("IP4"), &json!("127.0.0.1")));
    assert_eq!(told["authed"], Signer::from_seed(1).pubkey().to_hex());
    assert_eq!(metric(&relay, "policy_read_answers_total{answer=\"shadow_rejected\"}"), 1);
}

fn reads_without_an_answer_get_the_default(setup: Setup) {
    let script = Script::obedient(1);
    let toml = policy_toml("read_plugin", &script.path(), "timeout_ms = 500");
    let relay = RelayOptions::new(setup).config(&toml).start();
    let (mut one, mut two) = (relay.connect(), relay.connect());
    one.open_as("silent", &[json!({})]);
    // Only this client waits; what it sends meanwhile is taken in order afterwards.
    two.open_as("accept", &[json!({})]);
    two.stored("accept").unwrap();
    let reason = one.stored("silent").unwrap_err();
    assert!(reason.starts_with("error: "), "{reason}");
    one.open_as("accept", &[json!({})]);
    one.stored("accept").unwrap();
    // A client that goes while it is asked about leaves nothing behind.
    one.open_as("silent", &[json!({})]);
    drop(one);
    until(|| metric(&relay, "policy_timed_out_total{door=\"read\"}") == 2);
    assert_eq!(metric(&relay, "policy_in_flight{door=\"read\"}"), 0);
}
