//! What a connection that says nothing costs in memory.

use super::super::table::{Bound, Row};
use super::super::{Session, cpu, store};
use crate::measure::relay::Launch;
use crate::measure::swarm::Swarm;

pub const KEYS: &[&str] = &["idle-io-uring", "idle-epoll"];

/// Connections.
const IDLE: usize = 10_000;
/// Connections before the first look, so that what is allocated once is there.
const FIRST: usize = 64;

pub fn measure(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (key, runtime, bound_kib) in
        [("idle-io-uring", "io-uring", 1.0), ("idle-epoll", "epoll", 1.5)]
    {
        if !session.wants(&[key]) {
            continue;
        }
        let path = format!("user memory per idle connection, {runtime}");
        rows.push(match per_connection_kib(session, runtime) {
            Ok((kib, count)) => Row::held(key, &path, kib, "KiB", Bound::AtMost(bound_kib))
                .made_of(format!("anonymous memory of the relay over {count} connections")),
            Err(error) => Row::unmeasured(key, &path, format!("{error:#}")),
        });
    }
    Ok(rows)
}

fn per_connection_kib(session: &Session, runtime: &str) -> anyhow::Result<(f64, usize)> {
    let directory = store::empty(session, "idle")?;
    let launch = Launch { runtime: runtime.to_owned(), ..session.launch(cpu::cores() as u16) };
    let relay = launch.start(&directory)?;
    let count = session.count(IDLE as u64) as usize;
    session.say(format!("{count} idle connections, {runtime}"));
    let first = Swarm::connect(relay.address, FIRST, b"")?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = cpu::anonymous_bytes(relay.pid())?;
    let swarm = Swarm::connect(relay.address, count, b"")?;
    std::thread::sleep(std::time::Duration::from_millis(session.ms(2_000)));
    let after = cpu::anonymous_bytes(relay.pid())?;
    drop((first, swarm));
    relay.end()?;
    store::remove(&directory)?;
    Ok((after.saturating_sub(before) as f64 / count as f64 / 1_024.0, count))
}
