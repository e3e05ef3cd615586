//! Import, what more shards cost, how evenly they share, and what the disk holds.

use super::super::store;
use super::super::table::{Bound, Row};
use super::super::{Session, cpu};
use super::ingest::{Published, main_store, publish_all};
use crate::measure::client::event_frame;
use crate::measure::cpu::monotonic_ns;
use crate::measure::events::{Maker, Spec};
use crate::measure::publish::{Frames, Publishers};
use crate::measure::units::Cost;
use crate::rng::Rng;
use anyhow::{Context, ensure};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

pub const IMPORT_KEYS: &[&str] = &["import"];
pub const SHARD_KEYS: &[&str] = &["two-shards", "zipf-balance"];
pub const DISK_KEYS: &[&str] = &["disk-steady", "disk-compact"];

/// Events of the import.
const IMPORT_EVENTS: u64 = 500_000;
/// Events that each layout is given in each round, and rounds.
const SHARD_EVENTS: u64 = 40_000;
const SHARD_ROUNDS: u64 = 3;
/// Secrets of directories, events for each, and connections that bring them: so many that the
/// kernel's choice of a core for each evens out.
const SECRETS: u64 = 10;
const ZIPF_EVENTS: u64 = 20_000;
const ZIPF_AUTHORS: u64 = 1_000;
const ZIPF_CONNECTIONS: usize = 64;

/// Import with verification, in wall time, against verification alone on all cores.
pub fn measure_import(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let events = session.count(IMPORT_EVENTS);
    let maker = Maker::new(Spec::uniform(session.options.seed ^ 0x1111));
    let path = session.options.data_dir.join("import.jsonl");
    session.say("writing events to import");
    let mut out = BufWriter::new(File::create(&path)?);
    maker.write_lines(0..events, cpu::cores(), &mut out, &mut |_| ())?;
    out.flush()?;
    drop(out);
    let lines = std::fs::canonicalize(&path)?;
    let lines = lines.to_str().context("the path is no text")?.to_owned();
    let directory = store::empty(session, "import")?;
    let (v_before, rate_before) = verification_rate(session)?;
    session.say("importing");
    let (cpu_before, began_ns) = (children_ns()?, monotonic_ns());
    session.launch(cpu::cores() as u16).run(&directory, &["import", &lines], |_| Ok(()))?;
    let wall_ns = monotonic_ns() - began_ns;
    let cpu_ns = children_ns()? - cpu_before;
    let (v_after, rate_after) = verification_rate(session)?;
    store::remove(&directory)?;
    std::fs::remove_file(&path)?;
    let rate = events as f64 * 1e9 / wall_ns as f64;
    let all_cores = (rate_before + rate_after) / 2.0;
    let mut v = v_before;
    v.add(v_after);
    let each_ns = cpu_ns as f64 / events as f64;
    // On a busy machine wall time says who was given the cores; CPU time says what would be left of
    // them for more. The lesser of the two has been shown.
    let (by_wall, by_cpu) = (rate / all_cores, v.each_ns() / each_ns);
    let path = "import, of what verification alone does";
    let value = by_wall.min(by_cpu);
    Ok(vec![Row::held("import", path, value, "x", Bound::AtLeast(0.75)).made_of(format!(
        "by wall time {by_wall:.2} ({rate:.0} events/s against {all_cores:.0} verified/s on {} cores), by CPU \
         time {by_cpu:.2} ({:.2} us per event, V {:.2} us)",
        cpu::cores(),
        each_ns / 1_000.0,
        v.each_ns() / 1_000.0,
    ))])
}

/// V, and verifications per second of wall time on all cores.
fn verification_rate(session: &mut Session) -> anyhow::Result<(Cost, f64)> {
    let mut v = Cost::default();
    let began_ns = monotonic_ns();
    for _ in 0..3 {
        session.v_slice(&mut v)?;
    }
    Ok((v, v.operations as f64 * 1e9 / (monotonic_ns() - began_ns) as f64))
}

/// CPU time of children that have ended, from this process's own line in `/proc`.
fn children_ns() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    children_ticks(&stat).map(|ticks| ticks * 10_000_000).context("cannot read /proc/self/stat")
}

/// `cutime` and `cstime`, hundredths of a second. The name may hold spaces and brackets.
fn children_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?)
}

/// Two shards against one, and the balance of two.
pub fn measure_shards(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if session.wants(&["two-shards"]) {
        rows.push(two_shards(session)?);
    }
    if session.wants(&["zipf-balance"]) {
        rows.push(zipf_balance(session)?);
    }
    Ok(rows)
}

fn two_shards(session: &mut Session) -> anyhow::Result<Row> {
    let maker = Maker::new(Spec::uniform(session.options.seed ^ 0x2222));
    let each = session.count(SHARD_EVENTS);
    let directories = [store::empty(session, "shards-1")?, store::empty(session, "shards-2")?];
    let mut ns_in_v = [0.0; 2];
    for round in 0..SHARD_ROUNDS {
        session.say(format!("one shard and two, round {} of {SHARD_ROUNDS}", round + 1));
        let frames = Frames::of(&maker, round * each..(round + 1) * each, |event| event);
        for (index, directory) in directories.iter().enumerate() {
            let relay = session.launch(index as u16 + 1).start(directory)?;
            let published: Published = publish_all(session, "two-shards", &relay, &frames)?;
            relay.end()?;
            ensure!(published.outcomes.accepted == each, "{:?}", published.outcomes);
            ns_in_v[index] += published.in_v(published.each_ns());
        }
    }
    for directory in &directories {
        store::remove(directory)?;
    }
    let [one, two] = ns_in_v.map(|sum| sum / SHARD_ROUNDS as f64);
    let path = "CPU per event, 2 shards against 1";
    Ok(Row::held("two-shards", path, two / one, "x", Bound::AtMost(1.10)).made_of(format!(
        "{two:.2} V against {one:.2} V, on stores of {} events",
        each * SHARD_ROUNDS
    )))
}

/// The busier core's part of the work when authors are Zipf with exponent 1, over directories with
/// secrets of their own.
fn zipf_balance(session: &mut Session) -> anyhow::Result<Row> {
    let spec =
        Spec { authors: ZIPF_AUTHORS as usize, ..Spec::uniform(session.options.seed ^ 0x3333) };
    let maker = Maker::new(spec);
    let weights: Vec<f64> = (1..=ZIPF_AUTHORS).map(|rank| 1.0 / rank as f64).collect();
    let signers: Vec<_> =
        (0..ZIPF_AUTHORS).map(|rank| crate::Signer::from_seed(rank ^ 0x2e1f)).collect();
    let total: f64 = weights.iter().sum();
    let cumulative: Vec<f64> = weights
        .iter()
        .scan(0.0, |sum, weight| {
            *sum += weight / total;
            Some(*sum)
        })
        .collect();
    let frames = maker.in_parallel(0..session.count(ZIPF_EVENTS), |maker, index| {
        let drawn = Rng::new(index ^ 0x5eed).below(1 << 32) as f64 / (1_u64 << 32) as f64;
        let rank = cumulative.partition_point(|sum| *sum <= drawn).min(signers.len() - 1);
        event_frame(&maker.sign(index, &signers[rank]))
    });
    let frames = Frames::joined(frames.iter().map(Vec::as_slice));
    let mut shares = Vec::new();
    for number in 0..session.count(SECRETS).max(2) {
        session.say(format!("balance with directory secret {} of {SECRETS}", number + 1));
        let directory = store::empty(session, "zipf")?;
        let relay = session.launch(2).start(&directory)?;
        let mut publishers = Publishers::connect(relay.address, ZIPF_CONNECTIONS)?;
        let before = relay.threads()?;
        let outcomes = publishers.slice(&frames, 60_000)?;
        let spent = relay.threads()?.since(&before);
        relay.end()?;
        store::remove(&directory)?;
        ensure!(outcomes.accepted == frames.len() as u64, "{outcomes:?}");
        let cores: Vec<u64> = spent.each("core-").map(|(_, ns)| ns).filter(|ns| *ns > 0).collect();
        ensure!(cores.len() >= 2, "the relay ran on one core only");
        let busiest = cores.iter().max().copied().unwrap_or(0);
        shares.push(busiest as f64 * 100.0 / cores.iter().sum::<u64>() as f64);
    }
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let worst = shares.iter().fold(0.0_f64, |a, b| a.max(*b));
    let path = "Zipf 1.0 authors, the busier of 2 cores";
    Ok(Row::held("zipf-balance", path, mean, "%", Bound::AtMost(55.0))
        .made_of(format!("mean of {} directory secrets, worst {worst:.1}%", shares.len())))
}

/// Bytes on disk per event, as the store is after its runs and after `compact`.
pub fn measure_disk(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let main = main_store(session)?;
    let json_bytes = main.maker.spec().event_bytes as f64;
    let mut rows = Vec::new();
    let events = stored_events(session, &main.directory)?;
    ensure!(events >= main.events, "{events} events are stored, {} should be", main.events);
    if session.wants(&["disk-steady"]) {
        let bytes = store::disk_bytes(&main.directory)?;
        let value = bytes as f64 / events as f64 / json_bytes;
        rows.push(
            Row::held(
                "disk-steady",
                "bytes on disk of its JSON, steady",
                value,
                "x",
                Bound::AtMost(2.0),
            )
            .made_of(disk_detail(bytes, events, json_bytes)),
        );
    }
    if session.wants(&["disk-compact"]) {
        session.say("copying the store, to compact the copy");
        let copy = session.options.data_dir.join("compact");
        store::remove(&copy)?;
        copy_sparse(&main.directory, &copy)?;
        session.say("compacting");
        session.launch(0).run(&copy, &["compact"], |_| Ok(()))?;
        let bytes = store::disk_bytes(&copy)?;
        store::remove(&copy)?;
        let value = bytes as f64 / events as f64 / json_bytes;
        let path = "bytes on disk of its JSON, after compact";
        rows.push(
            Row::held("disk-compact", path, value, "x", Bound::AtMost(1.55))
                .made_of(disk_detail(bytes, events, json_bytes)),
        );
    }
    Ok(rows)
}

fn disk_detail(bytes: u64, events: u64, json_bytes: f64) -> String {
    format!(
        "{:.0} bytes per event of {json_bytes:.0} bytes of JSON, {events} events; all files, segments \
         written ahead included",
        bytes as f64 / events as f64
    )
}

/// What `info` counts.
fn stored_events(session: &Session, directory: &Path) -> anyhow::Result<u64> {
    let text = session.launch(0).run(directory, &["info", "--json"], |_| Ok(()))?;
    let info: serde_json::Value = serde_json::from_str(&text).context("info --json is JSON")?;
    info["events"].as_u64().with_context(|| format!("info tells no number of events: {info}"))
}

/// The whole directory, holes kept.
fn copy_sparse(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status()?;
    ensure!(status.success(), "cp failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_children_are_found_behind_any_name() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 250 50 20 0 1 0";
        assert_eq!(children_ticks(stat), Some(300));
        assert_eq!(children_ticks("12 (short) S 1"), None);
        assert!(children_ns().is_ok());
    }
}
