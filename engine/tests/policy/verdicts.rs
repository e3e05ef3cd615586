//! What the plug-in says is what clients meet.

use crate::common::client::{Client, id_of};
use crate::common::{PATIENCE, RelayOptions, Setup, draft};
use crate::{Script, is_gone, metric, on_both_runtimes, plugin_pid, policy_toml, told, until};
use bench::Signer;
use rustix::process::Signal;
use serde_json::{Value, json};

on_both_runtimes!(
    each_verdict_has_its_effect,
    the_request_says_who_asks,
    a_thousand_questions_are_in_flight_and_reads_go_on,
    a_changed_script_is_started_anew_and_the_old_one_finishes,
    a_reload_changes_command_and_default,
    imports_are_asked_about_only_if_wanted,
    the_plug_in_inherits_nothing_and_ends_with_the_relay,
);

fn each_verdict_has_its_effect(setup: Setup) {
    let script = Script::obedient(1);
    let relay = script.options(setup, "").start();
    let (mut writer, mut reader) = (relay.connect(), relay.connect());
    reader.open_as("all", &[json!({"limit": 0})]);
    reader.stored("all").unwrap();

    let accepted = told(1, "accept");
    writer.accept(&accepted);
    assert_eq!(reader.live("all")["id"], id_of(&accepted));
    let (ok, text) = writer.publish(&accepted);
    assert!(ok && text.starts_with("duplicate: "), "it is not asked about again: {text}");

    let refused = told(2, "reject blocked: not on the list");
    assert_eq!(writer.publish(&refused), (false, "blocked: not on the list".into()));
    // Clients rely on the first word: one that is none of the standard ones is put behind one.
    let rude = told(3, "reject go away");
    assert_eq!(writer.publish(&rude), (false, "blocked: go away".into()));
    let (ok, text) = writer.publish(&told(4, "reject"));
    assert!(!ok && text.starts_with("blocked: "), "the relay has words of its own: {text}");
    writer.accept(&told(5, "shadow"));
    let passing = Signer::from_seed(6).sign(&draft(20_001).content("reject blocked: not this one"));
    assert_eq!(writer.publish(&passing), (false, "blocked: not this one".into()));
    writer.accept(&Signer::from_seed(7).sign(&draft(20_001).content("shadow")));

    // Had any of them been passed on, it would have come before this one.
    let last = told(8, "accept");
    writer.accept(&last);
    assert_eq!(reader.live("all")["id"], id_of(&last));
    let mut stored = reader.query_ids(&json!({}));
    stored.sort();
    let mut expected = [id_of(&accepted), id_of(&last)];
    expected.sort();
    assert_eq!(stored, expected);
    for (line, figure) in [
        ("policy_asked_total{door=\"write\"}", 8),
        ("policy_write_answers_total{answer=\"accepted\"}", 2),
        ("policy_write_answers_total{answer=\"rejected\"}", 4),
        ("policy_write_answers_total{answer=\"shadow_rejected\"}", 2),
        ("policy_in_flight{door=\"write\"}", 0),
        ("policy_asked_total{door=\"read\"}", 0),
    ] {
        assert_eq!(metric(&relay, line), figure, "{line}");
    }
}

/// The source as the plug-in was told it.
fn source(client: &mut Client, seed: u64, mark: &str) -> Value {
    let (ok, text) = client.publish(&told(seed, &format!("source {mark}")));
    assert!(!ok);
    serde_json::from_str(text.strip_prefix("blocked: ").unwrap()).expect("the rest of the request")
}

fn the_request_says_who_asks(setup: Setup) {
    let script = Script::obedient(1);
    let proxies = "[network]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let relay = script.options(setup, "").config(proxies).start();
    let mut client = relay.connect_with(&[("X-Forwarded-For", "203.0.113.7")]);
    let first = source(&mut client, 1, "a");
    assert_eq!(
        (&first["sourceType"], &first["sourceInfo"]),
        (&json!("IP4"), &json!("203.0.113.7"))
    );
    assert!(first["receivedAt"].as_u64().is_some_and(|at| at > 1_700_000_000), "{first}");
    assert_eq!(first["authed"], Value::Null, "nobody has authenticated");
    let (one, two) = (Signer::from_seed(1), Signer::from_seed(2));
    client.auth(&one);
    client.auth(&two);
    let both = json!([one.pubkey().to_hex(), two.pubkey().to_hex()]);
    for (signer, seed) in [(&one, 1), (&two, 2)] {
        let source = source(&mut client, seed, "b");
        assert_eq!(source["authed"], signer.pubkey().to_hex(), "the author's key");
        assert_eq!(source["authedKeys"], both);
    }
    let mut six = relay.connect_with(&[("X-Forwarded-For", "2001:db8::7")]);
    let source = source(&mut six, 1, "c");
    assert_eq!(
        (&source["sourceType"], &source["sourceInfo"]),
        (&json!("IP6"), &json!("2001:db8::7"))
    );
}

fn a_thousand_questions_are_in_flight_and_reads_go_on(setup: Setup) {
    const HELD: usize = 1_000;
    let script = Script::obedient(HELD);
    let relay = script.options(setup, "timeout_ms = 60000").start();
    let known = told(1, "accept");
    let (mut writer, mut reader) = (relay.connect(), relay.connect());
    writer.accept(&known);
    let held: Vec<_> = (0..HELD as u64).map(|seed| told(seed, "hold")).collect();
    for event in &held[1..] {
        writer.send(&json!(["EVENT", crate::common::client::event_value(event)]));
    }
    until(|| metric(&relay, "policy_in_flight{door=\"write\"}") == HELD as u64 - 1);
    // One is missing, so none is answered; the rest of the relay does not notice.
    assert_eq!(reader.query_ids(&json!({"kinds": [1]})), [id_of(&known)]);
    assert_eq!(reader.count(&[json!({})]), Ok(1));
    reader.send(&json!(["EVENT", crate::common::client::event_value(&held[0])]));
    for event in &held[1..] {
        assert_eq!(writer.recv_ok(&id_of(event)), (true, String::new()));
    }
    assert_eq!(reader.recv_ok(&id_of(&held[0])), (true, String::new()));
    assert_eq!(reader.count(&[json!({})]), Ok(HELD as u64 + 1));
    assert_eq!(metric(&relay, "policy_timed_out_total{door=\"write\"}"), 0);
}

fn a_changed_script_is_started_anew_and_the_old_one_finishes(setup: Setup) {
    let script = Script::obedient(2);
    let relay = script.options(setup, "timeout_ms = 60000").start();
    let (mut one, mut two) = (relay.connect(), relay.connect());
    one.accept(&told(1, "accept"));
    let held = told(2, "hold");
    one.send(&json!(["EVENT", crate::common::client::event_value(&held)]));
    until(|| metric(&relay, "policy_in_flight{door=\"write\"}") == 1);
    // It answers with no to everything; what the old one holds it answers when its input ends.
    let refuse = "#!/usr/bin/perl\n$| = 1;\nwhile (<STDIN>) { /\"id\":\"(\\w+)\"/; \
                  print qq({\"id\":\"$1\",\"action\":\"reject\",\"msg\":\"blocked: new\"}\\n) }\n";
    script.write(refuse);
    assert_eq!(two.publish(&told(3, "accept")), (false, "blocked: new".into()));
    let log = relay.stderr_until(|log| log.contains("the script has changed"), PATIENCE);
    assert!(log.contains("the script has changed"), "{log}");
    assert_eq!(metric(&relay, "policy_restarts_total{door=\"write\"}"), 1);
    // The obedient one holds until it has two, which never come: its end settles what it owes.
    let (ok, text) = one.recv_ok(&id_of(&held));
    assert!(!ok && text.starts_with("error: "), "{text}");
    assert_eq!(two.publish(&told(4, "accept")), (false, "blocked: new".into()));
}

fn a_reload_changes_command_and_default(setup: Setup) {
    let script = Script::obedient(1);
    let relay = RelayOptions::new(setup).start();
    let mut client = relay.connect();
    client.accept(&told(1, "reject nobody is asked"));
    let reload = |toml: &str, count: usize| {
        std::fs::write(&relay.config, crate::common::config_toml(toml)).unwrap();
        relay.signal(Signal::HUP);
        let is_done = |log: &str| log.matches("configuration reloaded").count() == count;
        let log = relay.stderr_until(is_done, PATIENCE);
        assert!(is_done(&log), "{log}");
    };
    let section = |more: &str| policy_toml("write_plugin", &script.path(), more);
    reload(&section("timeout_ms = 200"), 1);
    // Cores look at their next turn: an event may pass before that, but not for ever.
    let mut seed = 10;
    until(|| {
        seed += 1;
        !client.publish(&told(seed, "reject now it is")).0
    });
    let (ok, text) = client.publish(&told(2, "silent"));
    assert!(!ok && text.starts_with("error: "), "{text}");
    reload(&section("timeout_ms = 200\nwhen_down = \"accept\""), 2);
    client.accept(&told(3, "silent"));
    reload("", 3);
    until(|| client.publish(&told(4, "reject nobody is asked again")).0);
    assert_eq!(metric(&relay, "policy_in_flight{door=\"write\"}"), 0);
}

fn imports_are_asked_about_only_if_wanted(setup: Setup) {
    for (more, is_asked) in [("", false), ("ask_imports = true", true)] {
        let script = Script::obedient(1);
        let relay = script.options(setup, more).start();
        let file = script.dir.path().join("events.jsonl");
        let lines = [told(1, "accept"), told(2, "reject no")]
            .map(|event| crate::common::client::event_value(&event).to_string());
        std::fs::write(&file, lines.join("\n")).unwrap();
        let done = relay.command(&["import", file.to_str().unwrap()]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let stored = relay.connect().count(&[json!({})]);
        assert_eq!(stored, Ok(if is_asked { 1 } else { 2 }), "{}", done.stdout);
    }
}

fn the_plug_in_inherits_nothing_and_ends_with_the_relay(setup: Setup) {
    let script = Script::obedient(1);
    let mut relay = script.options(setup, "timeout_ms = 60000").start();
    let mut client = relay.connect();
    client.accept(&told(1, "accept"));
    let (_, files) = client.publish(&told(2, "files"));
    assert!(files.contains("pipe:"), "{files}");
    let data_dir = relay.data_dir.display().to_string();
    for ours in ["socket:", "anon_inode:", data_dir.as_str()] {
        assert!(!files.contains(ours), "{files}");
    }
    let pid = plugin_pid(&relay);
    // Nobody waits a minute for the answer that does not come.
    let silent = told(3, "silent");
    client.send(&json!(["EVENT", crate::common::client::event_value(&silent)]));
    until(|| metric(&relay, "policy_in_flight{door=\"write\"}") == 1);
    relay.signal(Signal::TERM);
    let (ok, text) = client.recv_ok(&id_of(&silent));
    assert!(!ok && text.starts_with("error: "), "{text}");
    drop(client);
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.stderr());
    until(|| is_gone(pid));
}
