//! Plug-ins that hang, crash and talk nonsense: each costs its own answers and nothing else.

use crate::common::client::{event_value, id_of};
use crate::common::{PATIENCE, RelayOptions, Setup};
use crate::{Script, is_gone, metric, on_both_runtimes, plugin_pid, policy_toml, told, until};
use rustix::process::{Signal, kill_process};
use serde_json::json;

on_both_runtimes!(
    one_that_is_not_answered_holds_up_no_other,
    an_answer_that_does_not_come_is_the_default,
    a_plug_in_that_hangs_is_started_anew,
    a_plug_in_that_never_reads_blocks_nobody,
    a_plug_in_that_ends_is_started_again,
    one_that_does_not_exist_is_down,
    nonsense_is_counted_and_passed_over,
);

fn one_that_is_not_answered_holds_up_no_other(setup: Setup) {
    let script = Script::obedient(1);
    let relay = script.options(setup, "timeout_ms = 60000").start();
    let (mut client, mut other) = (relay.connect(), relay.connect());
    for seed in 0..20 {
        client.send(&json!(["EVENT", event_value(&told(seed, "silent"))]));
    }
    until(|| metric(&relay, "policy_in_flight{door=\"write\"}") == 20);
    let loud: Vec<_> = (0..20).map(|seed| told(seed, "accept")).collect();
    client.accept_all(&loud[..10]);
    other.accept_all(&loud[10..]);
    for reader in [&mut client, &mut other] {
        assert_eq!(reader.count(&[json!({"kinds": [1]})]), Ok(20));
    }
    assert_eq!(metric(&relay, "policy_in_flight{door=\"write\"}"), 20, "they wait as before");
}

fn an_answer_that_does_not_come_is_the_default(setup: Setup) {
    for (when_down, is_taken) in [("reject", false), ("accept", true)] {
        let script = Script::obedient(1);
        let more = format!("timeout_ms = 500\nwhen_down = \"{when_down}\"");
        let relay = script.options(setup, &more).start();
        let mut client = relay.connect();
        let silent: Vec<_> = (0..20).map(|seed| told(seed, "silent")).collect();
        for event in &silent {
            client.send(&json!(["EVENT", event_value(event)]));
        }
        for event in &silent {
            let (ok, text) = client.recv_ok(&id_of(event));
            assert_eq!(ok, is_taken, "{text}");
            assert!(is_taken || text.starts_with("error: "), "the client may try again: {text}");
        }
        let stored = if is_taken { 20 } else { 0 };
        assert_eq!(client.count(&[json!({"kinds": [1]})]), Ok(stored));
        // On a machine that stands still for a while, some may have met the end of a plug-in that
        // gives no answers at all.
        let ways = ["timed_out", "unreachable"];
        let figures =
            ways.map(|way| metric(&relay, &format!("policy_{way}_total{{door=\"write\"}}")));
        assert!(figures[0] > 0 && figures.iter().sum::<u64>() == 20, "{figures:?}");
    }
}

fn a_plug_in_that_hangs_is_started_anew(setup: Setup) {
    let script = Script::obedient(1);
    let relay = script.options(setup, "timeout_ms = 300").start();
    let mut client = relay.connect();
    client.accept(&told(1, "accept"));
    let pid = plugin_pid(&relay);
    kill_process(pid, Signal::STOP).unwrap();
    let mut refused = 0;
    // Every event costs a time-out until the relay gives this process up.
    until(|| {
        let (ok, text) = client.publish(&told(refused + 2, "accept"));
        assert!(ok || text.starts_with("error: "), "{text}");
        if !ok {
            refused += 1;
            assert_eq!(client.count(&[json!({"kinds": [1]})]), Ok(1), "reads go on");
        }
        ok
    });
    assert!(refused > 0);
    let log = relay.stderr_until(|log| log.contains("hangs and is started anew"), PATIENCE);
    assert!(log.contains("hangs and is started anew"), "{log}");
    assert_eq!(metric(&relay, "policy_restarts_total{door=\"write\"}"), 1);
    until(|| is_gone(pid));
}

fn a_plug_in_that_never_reads_blocks_nobody(setup: Setup) {
    let toml = "[policy]\nwrite_plugin = \"exec sleep 1000\"\ntimeout_ms = 1000\n";
    let relay = RelayOptions::new(setup).config(toml).start();
    let (mut writer, mut reader) = (relay.connect(), relay.connect());
    // More than the pipe and everything before it hold.
    let large = "x".repeat(60_000);
    let events: Vec<_> = (0..50).map(|seed| told(seed, &large)).collect();
    for event in &events {
        writer.send(&json!(["EVENT", event_value(event)]));
    }
    for _ in 0..100 {
        assert_eq!(reader.count(&[json!({})]), Ok(0));
    }
    for event in &events {
        let (ok, text) = writer.recv_ok(&id_of(event));
        assert!(!ok && text.starts_with("error: "), "{text}");
    }
    assert_eq!(metric(&relay, "policy_in_flight{door=\"write\"}"), 0);
}

fn a_plug_in_that_ends_is_started_again(setup: Setup) {
    let script = Script::obedient(1);
    let relay = script.options(setup, "timeout_ms = 60000").start();
    let mut client = relay.connect();
    for seed in 1..=3 {
        // With those it takes with it, it costs nothing but their answers; the next one waits for
        // its successor.
        let silent = told(seed, "silent");
        client.send(&json!(["EVENT", event_value(&silent)]));
        let (ok, text) = client.publish(&told(seed, "die"));
        assert!(!ok && text.starts_with("error: "), "{text}");
        assert!(!client.recv_ok(&id_of(&silent)).0);
        client.accept(&told(seed, "accept"));
    }
    kill_process(plugin_pid(&relay), Signal::KILL).unwrap();
    // Until its end is noticed, questions would still be put to it.
    until(|| metric(&relay, "policy_restarts_total{door=\"write\"}") == 4);
    client.accept(&told(9, "accept after the kill"));
    let log = relay.stderr();
    assert!(log.contains("write plug-in has ended (exit status: 3)"), "{log}");
    assert!(log.contains("write plug-in: dying"), "its last words: {log}");
}

fn one_that_does_not_exist_is_down(setup: Setup) {
    for (when_down, is_taken) in [("reject", false), ("accept", true)] {
        let more = format!("timeout_ms = 1000\nwhen_down = \"{when_down}\"");
        let toml = policy_toml("write_plugin", "/nonexistent/plugin".as_ref(), &more);
        let relay = RelayOptions::new(setup).config(&toml).start();
        let mut client = relay.connect();
        for seed in 0..5 {
            assert_eq!(client.publish(&told(seed, "accept")).0, is_taken);
        }
        let log = relay.stderr_until(|log| log.contains("has ended (exit status: 127)"), PATIENCE);
        assert!(log.contains("has ended (exit status: 127)"), "the shell's word for it: {log}");
    }
}

fn nonsense_is_counted_and_passed_over(setup: Setup) {
    let script = Script::obedient(1);
    let relay = script.options(setup, "timeout_ms = 60000").start();
    let mut client = relay.connect();
    client.accept(&told(1, "garbage"));
    client.accept(&told(2, "complain"));
    client.accept(&told(3, "accept"));
    // An empty line, two that say nothing of use, and one that is too long.
    assert_eq!(metric(&relay, "policy_malformed_total{door=\"write\"}"), 4);
    assert_eq!(metric(&relay, "policy_unmatched_total{door=\"write\"}"), 1);
    let log = relay.stderr_until(|log| log.contains("complaint 1 "), PATIENCE);
    assert!(log.contains("write plug-in wrote no answer: garbage"), "{log}");
    let complaints = log.matches("write plug-in: complaint").count();
    assert!((1..100).contains(&complaints), "{complaints} of a thousand lines were logged");
    assert!(!log.contains('\x1b'), "nothing of it moves the cursor");
}
