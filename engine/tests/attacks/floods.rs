//! Attacks with messages: too many, too expensive, the same again, false.

use crate::common::client::id_of;
use crate::common::{PATIENCE, RelayOptions, Runtime, Setup, draft, now_s};
use crate::metric;
use crate::swarm::{Member, Swarm, text_frame};
use bench::{Draft, Signer};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;

fn options(runtime: Runtime, config: &str) -> Option<RelayOptions> {
    let setup = Setup::new(runtime, 2);
    setup.is_enabled().then(|| RelayOptions::new(setup).config(config))
}

/// Whole searches of a large store do not keep a point query waiting: it overtakes them.
fn expensive_searches(runtime: Runtime) {
    let Some(options) = options(runtime, "[store]\ncheckpoint_events = 2000\n") else { return };
    let relay = options.start();
    let mut client = relay.connect();
    let signers: Vec<Signer> = (0..20).map(Signer::from_seed).collect();
    let mut wanted = None;
    for index in 0..6_000_u32 {
        let signer = &signers[index as usize % signers.len()];
        let event = signer.sign(&Draft::new(1, now_s() - index).content("to be searched"));
        client.send(&json!(["EVENT", crate::common::client::event_value(&event)]));
        if index % 500 == 499 {
            client.accept(&signer.sign(&Draft::new(1, now_s() - index).content("and waited for")));
        }
        wanted = Some(id_of(&event));
    }
    // Half a million rows to look at, none to send: the tag is on no event.
    let mut attackers: Vec<_> = (0..10).map(|_| relay.connect()).collect();
    for attacker in &mut attackers {
        for sub in 0..10 {
            let filter = json!({"kinds": [1], "#t": ["none"], "since": sub});
            attacker.send(&json!(["REQ", format!("s{sub}"), filter, {"limit": 500}]));
            attacker.send(&json!(["COUNT", format!("c{sub}"), {"since": sub}]));
        }
    }
    let stored = client.query(&json!({"ids": [wanted.unwrap()]}));
    assert_eq!(stored.events.len(), 1);
    let scanned = metric(&relay, "rows_scanned_total", "");
    for attacker in &mut attackers {
        let mut open: BTreeSet<String> = (0..10).map(|sub| format!("s{sub}")).collect();
        while !open.is_empty() {
            let message = attacker.recv();
            if message[0] == "EOSE" || message[0] == "CLOSED" {
                open.remove(message[1].as_str().unwrap());
            }
        }
    }
    // Most of what they asked for had yet to be looked at when the point query was answered.
    assert!(scanned < metric(&relay, "rows_scanned_total", ""));
}

/// Hundreds of large events that become durable together are no reason to take those who read for
/// slow: they get all of them.
fn bursts_are_no_slow_reading(runtime: Runtime) {
    let Some(options) = options(runtime, "") else { return };
    let relay = options.start();
    let mut swarm = Swarm::new();
    for _ in 0..100 {
        let mut member = Member::connect(relay.address, None);
        member.say(r#"["REQ","s",{"kinds":[1],"limit":0}]"#);
        swarm.add(member);
    }
    assert!(swarm.until(PATIENCE, |members| members.iter().all(|member| member.eoses == 1)));
    // One author, hence one shard; sent at once, hence few batches.
    let signer = Signer::from_seed(1);
    let content = "x".repeat(8_000);
    let burst: Vec<u8> = (0..250)
        .flat_map(|index: u32| {
            let event = signer.sign(&draft(1).content(&format!("{index}{content}")));
            text_frame(&json!(["EVENT", crate::common::client::event_value(&event)]).to_string())
        })
        .collect();
    let mut publisher = Member::connect(relay.address, None);
    publisher.stream.write_all(&burst).unwrap();
    let all = |members: &[Member]| members.iter().all(|member| member.events == 250);
    assert!(
        swarm.until(PATIENCE, all),
        "{:?}",
        swarm.members.iter().map(|m| (m.events, m.closeds)).collect::<Vec<_>>()
    );
    assert_eq!(metric(&relay, "refused_total", "slow_reader"), 0);
}

/// Each bad signature is checked once and counted, and the twenty-first in a minute ends the
/// connection; nothing of it is stored.
fn bad_signatures(runtime: Runtime) {
    let config = "[rates]\ninvalid_per_minute = 20\n";
    let Some(options) = options(runtime, config) else { return };
    let relay = options.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let mut refused = 0;
    for index in 0..200 {
        let event = signer.sign(&draft(1).content(&index.to_string()));
        let mut value = crate::common::client::event_value(&event);
        let sig = value["sig"].as_str().unwrap().to_owned();
        let flipped = if sig.starts_with('0') { "1" } else { "0" };
        value["sig"] = json!(format!("{flipped}{}", &sig[1..]));
        if client.try_send_text(&json!(["EVENT", value]).to_string()).is_err() {
            break;
        }
        match client.try_recv() {
            Ok(ok) => {
                assert_eq!((&ok[0], &ok[2]), (&json!("OK"), &json!(false)), "{ok}");
                refused += 1;
            }
            Err(_) => break,
        }
    }
    assert!((19..=22).contains(&refused), "{refused} answers before the end");
    assert_eq!(relay.connect().count(&[json!({})]), Ok(0));
    assert!(metric(&relay, "verified_total", "") <= 22, "no signature is checked twice");
    assert_eq!(metric(&relay, "evicted_total", "\"invalid_limit\""), 1);
}

/// What is stored is never verified again, and old versions of a slot are not verified at all.
fn duplicates_and_stale_versions(runtime: Runtime) {
    let Some(options) = options(runtime, "") else { return };
    let relay = options.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let note = client.post(&signer, &draft(1));
    client.post(&signer, &draft(0).content("new"));
    let verified = metric(&relay, "verified_total", "");
    assert_eq!(verified, 2);
    for index in 0..500 {
        assert!(client.publish(&note).0);
        let stale = signer.sign(&Draft::new(0, now_s() - 100).content(&index.to_string()));
        assert!(client.publish(&stale).1.starts_with("duplicate: "));
    }
    assert_eq!(metric(&relay, "verified_total", ""), verified);
}

/// Ephemeral events pass and leave nothing behind, on disk or in the index.
fn ephemeral_flood(runtime: Runtime) {
    let Some(options) = options(runtime, "") else { return };
    let relay = options.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    client.open_as("feed", &[json!({"kinds": [20_001], "limit": 0})]);
    client.stored("feed").unwrap();
    let info = || -> serde_json::Value {
        serde_json::from_str(&relay.command(&["info", "--json"]).success()).unwrap()
    };
    let before = info();
    for index in 0..2_000 {
        client.send(&json!([
            "EVENT",
            crate::common::client::event_value(
                &signer.sign(&draft(20_001).content(&index.to_string()))
            )
        ]));
        client.live("feed");
    }
    assert_eq!(client.count(&[json!({})]), Ok(0));
    let durable = |info: &serde_json::Value| -> Vec<serde_json::Value> {
        let shards = info["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard["durable_seq"].clone()).collect()
    };
    assert_eq!(durable(&before), durable(&info()), "no record was written");
}

/// Thousands of bad messages write a bounded number of lines, and none of their content.
fn log_flood(runtime: Runtime) {
    let Some(options) = options(runtime, "") else { return };
    let relay = options.start();
    let mut client = relay.connect();
    let before = relay.stderr().lines().count();
    let marker = "do-not-write-me-down";
    for index in 0..5_000 {
        let text = match index % 4 {
            0 => format!("[\"{marker}"),
            1 => format!("[\"EVENT\",{{\"content\":\"{marker}\"}}]"),
            2 => format!("[\"REQ\",\"{marker}\",{{\"nonsense\":1}}]"),
            _ => format!("[\"AUTH\",{{\"id\":\"{marker}\"}}]"),
        };
        client.send_text(&text);
        if index % 50 == 49 {
            client.drain();
        }
    }
    let log = relay.stderr();
    assert!(!log.contains(marker), "what a peer sent is in the log");
    assert!(log.lines().count() - before < 50, "{log}");
}

macro_rules! on_all {
    ($($name:ident),+ $(,)?) => {
        mod epoll { $( #[test] fn $name() { super::$name(super::Runtime::Epoll); } )+ }
        mod io_uring { $( #[test] fn $name() { super::$name(super::Runtime::IoUring); } )+ }
        mod glommio { $( #[test] fn $name() { super::$name(super::Runtime::Glommio); } )+ }
    };
}

on_all!(
    bursts_are_no_slow_reading,
    expensive_searches,
    bad_signatures,
    duplicates_and_stale_versions,
    ephemeral_flood,
    log_flood,
);
