//! Ten thousand connections, a thousand of which stop reading while events flow: memory stays under
//! the ceiling, those who read get everything, those who do not are dropped by name.

use crate::common::{PATIENCE, Relay, RelayOptions, Runtime, Setup, draft, env_number};
use crate::swarm::{Member, Swarm, raise_descriptors_max};
use crate::{metric, metrics};
use bench::Signer;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the relay is told.
const MEMORY_MAX_MIB: u64 = 512;
/// Bytes of the content of each event.
const CONTENT_BYTES: usize = 8_000;
/// Readers of the feed; the other honest ones wait for something that does not come.
const READERS: usize = 500;
/// Events published before the thousand stop reading, so that a REQ of theirs finds something.
const STORED: usize = 100;

/// `RssAnon` of a process, in KiB.
fn rss_anon_kib(relay: &Relay) -> u64 {
    let path = format!("/proc/{}/status", relay.pid().as_raw_pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn stalled_readers(runtime: Runtime) {
    let setup = Setup::new(runtime, 2);
    if !setup.is_enabled() {
        return;
    }
    raise_descriptors_max();
    let connections = env_number("TURNPIKE_CONNECTIONS", 10_000) as usize;
    let stalled = connections / 10;
    let relay = RelayOptions::new(setup)
        .config(&format!(
            "[network]\nconnections_max = {}\n[memory]\nmemory_max_mib = {MEMORY_MAX_MIB}\n",
            connections + connections / 10
        ))
        .start();
    let peak_kib = Arc::new(AtomicU64::new(0));
    let is_done = Arc::new(AtomicBool::new(false));
    let mut publisher = relay.connect();
    let signer = Signer::from_seed(1);
    let content = "x".repeat(CONTENT_BYTES);
    let mut index = 0;
    let mut next = || {
        index += 1;
        signer.sign(&draft(1).content(&content).tag(&["n", &index.to_string()]))
    };
    for _ in 0..STORED {
        publisher.accept(&next());
    }

    let mut swarm = Swarm::new();
    for member in 0..connections - stalled {
        let mut member_of = Member::connect(relay.address, None);
        let filter = match member < READERS {
            true => json!({"kinds": [1], "limit": 0}),
            false => json!({"kinds": [1], "#n": ["never"], "authors": [signer.pubkey().to_hex()]}),
        };
        member_of.say(&json!(["REQ", "s", filter]).to_string());
        swarm.add(member_of);
        if member % 256 == 0 {
            swarm.turn(1);
        }
    }
    assert!(
        swarm.until(PATIENCE, |members| members.iter().all(|member| member.eoses == 1)),
        "every subscription is answered"
    );
    let idle_kib = rss_anon_kib(&relay);
    // These never read again: neither what is stored nor what is live.
    let mut silent: Vec<Member> =
        (0..stalled).map(|_| Member::connect(relay.address, Some(4_096))).collect();
    for member in &mut silent {
        for sub in 0..4 {
            member.say(&json!(["REQ", sub.to_string(), {"kinds": [1]}]).to_string());
        }
    }

    let sampler = {
        let (peak_kib, is_done) = (Arc::clone(&peak_kib), Arc::clone(&is_done));
        let path = format!("/proc/{}/status", relay.pid().as_raw_pid());
        std::thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                let status = std::fs::read_to_string(&path).unwrap_or_default();
                let line = status.lines().find(|line| line.starts_with("RssAnon:"));
                let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
                peak_kib.fetch_max(kib.unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        })
    };
    let flowing = env_number("TURNPIKE_FLOW", 400);
    for _ in 0..flowing {
        publisher.accept(&next());
        swarm.turn(0);
    }
    let all_read = |members: &[Member]| members[..READERS].iter().all(|m| m.events == flowing);
    assert!(
        swarm.until(PATIENCE, all_read),
        "those who read get every event: {:?}",
        swarm.members[..READERS].iter().map(|m| (m.events, m.closeds)).collect::<Vec<_>>()
    );
    is_done.store(true, Ordering::Relaxed);
    sampler.join().unwrap();
    let peak_mib = peak_kib.load(Ordering::Relaxed) / 1_024;
    eprintln!(
        "{}: {connections} connections, {stalled} stalled, {flowing} events of {CONTENT_BYTES} B: \
         RssAnon idle {} MiB, peak {peak_mib} MiB",
        runtime.flag(),
        idle_kib / 1_024
    );
    for line in metrics(&relay).lines() {
        if !line.starts_with('#')
            && (line.contains("evicted") || line.contains("bytes_held") || line.contains("slow"))
            && !line.ends_with(" 0")
        {
            eprintln!("  {line}");
        }
    }
    assert!(peak_mib < MEMORY_MAX_MIB, "RssAnon reached {peak_mib} MiB");
    // The honest are all still there, and served.
    assert!(swarm.members.iter().all(|member| !member.is_ended && member.closeds == 0));
    publisher.accept(&next());
    // Those that stopped reading were given up by name, not silently kept.
    let given_up =
        metric(&relay, "evicted_total", "outbox") + metric(&relay, "refused_total", "slow_reader");
    assert!(given_up >= stalled as u64, "{given_up} of {stalled} were given up");
}

#[test]
fn readers_that_stop_do_not_fill_memory_epoll() {
    stalled_readers(Runtime::Epoll);
}

#[test]
fn readers_that_stop_do_not_fill_memory_io_uring() {
    stalled_readers(Runtime::IoUring);
}
