//! The language of the admin socket: one JSON line asks, lines answer. The first byte of a line says
//! what follows: `e` an event, `p` how much of how much is done, `f` something that was found, `r` the
//! result, `x` why there is none.

use crate::effects::Place;
use crate::ops::{Ops, OpsError};
use crate::runtime::{entropy, threads};
use crate::settings;
use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
use proto::{EventRef, Filter, Limits, Secret};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shards::message::ShardStats;
use std::collections::BTreeMap;
use std::io::{self, Write};
use store::scrub::{CheckSignature, Finding, Scrub};

/// Parsed public keys that a search for damage keeps, about 150 bytes each.
pub const VERIFIER_KEYS_MAX: usize = 8_192;
/// Bytes that are looked at between two pauses.
const SCRUB_STEP_BYTES: u64 = 1 << 20;
/// How long a search for damage leaves the machine to the relay.
const SCRUB_PAUSE_MS: u64 = 5;

/// A request. Filters are JSON objects as in NIP-01.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Matching events.
    Scan {
        /// OR-ed.
        filters: Vec<serde_json::Value>,
        /// Oldest first instead of newest first.
        oldest_first: bool,
    },
    /// The number of matching events.
    Count {
        /// OR-ed.
        filters: Vec<serde_json::Value>,
    },
    /// The fingerprint of everything stored.
    Fingerprint,
    /// What the shards hold.
    Info,
    /// Removal of matching events.
    Delete {
        /// Which.
        filter: serde_json::Value,
        /// Whether they may never come back.
        ban: bool,
        /// Only say how many there are.
        dry_run: bool,
    },
    /// Segments of the log without what is dead in them.
    Compact,
    /// A search for damage.
    Scrub {
        /// Whether signatures are checked, too.
        signatures: bool,
    },
}

/// What the answering process says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// The runtime's line; `None` when no relay runs.
    pub runtime: Option<&'a str>,
    /// Its limits.
    pub limits: &'a Limits,
    /// The bytes of its shards.
    pub stores: Option<&'a Stores>,
}

/// What a search for damage reads.
pub struct Stores {
    /// The directory's secret.
    pub secret: Secret,
    /// By shard.
    pub places: BTreeMap<u16, Place>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").field("shards", &self.places.len()).finish_non_exhaustive()
    }
}

/// Runs `request` and writes the answer's lines.
///
/// # Errors
/// When the answer cannot be written; what goes wrong with the request itself is in the answer.
pub fn answer(
    request: &Request,
    ops: &mut Ops<'_>,
    process: Process<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    match result(request, ops, process, out) {
        Ok(result) => writeln!(out, "r{result}")?,
        Err(OpsError::Output(error)) => return Err(error),
        Err(error) => writeln!(out, "x{error}")?,
    }
    out.flush()
}

fn result(
    request: &Request,
    ops: &mut Ops<'_>,
    process: Process<'_>,
    out: &mut impl Write,
) -> Result<serde_json::Value, OpsError> {
    match request {
        Request::Delete { filter, ban, dry_run } => {
            return delete((filter, *ban, *dry_run), ops, process, out);
        }
        Request::Compact => {
            let (rewritten, bytes) = ops.compact(&mut |done, total| tell(out, done, total))?;
            // The same keys as without a relay, which compacts the index, too.
            return Ok(json!({
                "segments_written": rewritten,
                "log_bytes_reclaimed": bytes,
                "index_bytes_reclaimed": 0,
            }));
        }
        Request::Scrub { signatures } => return scrub(*signatures, ops, process, out),
        _ => {}
    }
    let mut events = 0_u64;
    let mut line = Vec::new();
    let mut write = |event: &proto::Event| {
        events += 1;
        line.clear();
        line.push(b'e');
        event.view().write_json(&mut line);
        line.push(b'\n');
        out.write_all(&line)
    };
    Ok(match request {
        Request::Scan { filters, oldest_first: false } => {
            ops.scan(parse(filters, process.limits)?, &mut write)?;
            json!({ "events": events })
        }
        Request::Scan { filters, oldest_first: true } => {
            ops.scan_oldest_first(&parse(filters, process.limits)?, &mut write)?;
            json!({ "events": events })
        }
        Request::Count { filters } => {
            json!({ "count": ops.count(parse(filters, process.limits)?)? })
        }
        Request::Fingerprint => json!({ "fingerprint": ops.fingerprint()?.to_string() }),
        Request::Info => {
            let shards = ops.stats()?;
            let count = ops.count(vec![Filter::default()])?;
            json!({
                "events": count,
                "runtime": process.runtime,
                "pid": process.runtime.map(|_| std::process::id()),
                "shards": shards.iter().map(describe).collect::<Vec<_>>(),
            })
        }
        Request::Delete { .. } | Request::Compact | Request::Scrub { .. } => json!(null),
    })
}

/// Writes how much is done, at once: somebody watches.
fn tell(out: &mut impl Write, done: u64, total: u64) -> io::Result<()> {
    writeln!(out, "p[{done},{total}]")?;
    out.flush()
}

/// One finding as a line of an answer.
pub fn finding(shard: u16, finding: &Finding) -> serde_json::Value {
    let cure = if finding.is_of_index() { "reindex" } else { "accept-loss" };
    json!({ "shard": shard, "what": finding.to_string(), "cure": cure })
}

/// Reads every shard's log and index beside the relay.
fn scrub(
    signatures: bool,
    ops: &Ops<'_>,
    process: Process<'_>,
    out: &mut impl Write,
) -> Result<serde_json::Value, OpsError> {
    let Some(stores) = process.stores else { return Err(OpsError::Stopped) };
    let mut verifier = Secp256k1Verifier::new(entropy::seed(), VERIFIER_KEYS_MAX);
    let mut check = |event: &EventRef<'_>| verifier.verify(&VerifyItem::of(event));
    let (mut found, mut bytes_before) = (0_u64, 0);
    for (shard, place) in &stores.places {
        let (index, segments) = (&*place.index, (place.segments)());
        let failed = |error| OpsError::Failed(format!("shard {shard}: {error}"));
        let begun = Scrub::begin(*shard, stores.secret, entropy::seed(), index, &*segments);
        let mut scrub = begun.map_err(failed)?;
        loop {
            let check: Option<CheckSignature<'_>> = signatures.then_some(&mut check);
            let mut findings = Vec::new();
            let step = scrub.step(index, &*segments, SCRUB_STEP_BYTES, check, &mut findings);
            let step = step.map_err(failed)?;
            for one in &findings {
                found += 1;
                writeln!(out, "f{}", finding(*shard, one))?;
            }
            tell(out, bytes_before + step.done, bytes_before + step.total)?;
            if step.is_over {
                bytes_before += step.total;
                break;
            }
            if ops.should_stop() {
                return Err(OpsError::Stopped);
            }
            // The relay comes first.
            threads::sleep_ms(SCRUB_PAUSE_MS);
        }
    }
    Ok(json!({ "findings": found, "bytes": bytes_before, "shards": stores.places.len() }))
}

fn delete(
    (filter, ban, dry_run): (&serde_json::Value, bool, bool),
    ops: &mut Ops<'_>,
    process: Process<'_>,
    out: &mut impl Write,
) -> Result<serde_json::Value, OpsError> {
    let mut filters = parse(std::slice::from_ref(filter), process.limits)?;
    let Some(filter) = filters.pop() else { return Ok(json!(null)) };
    if dry_run {
        let limit = filter.limit.unwrap_or(u64::MAX);
        let matched = ops.count(vec![filter])?.min(limit);
        return Ok(json!({ "matched": matched, "removed": 0 }));
    }
    let deleted = ops.delete(&filter, ban, &mut |done, total| tell(out, done, total))?;
    Ok(json!({ "matched": deleted.matched, "removed": deleted.removed }))
}

fn describe(shard: &ShardStats) -> serde_json::Value {
    json!({
        "durable_seq": shard.durable,
        "applied_seq": shard.applied,
        "index_generations": shard.index_generations,
        "memory_bytes": shard.store_bytes + shard.live_bytes,
        "accepted": shard.counters.accepted,
        "waiting": shard.ingest_depth,
    })
}

fn parse(filters: &[serde_json::Value], limits: &Limits) -> Result<Vec<Filter>, OpsError> {
    let parse = |filter: &serde_json::Value| {
        proto::parse::parse_filter(filter.to_string().as_bytes(), limits).map_err(OpsError::Refused)
    };
    filters.iter().map(parse).collect()
}

/// Limits on what an operator asks: more values than a client may name.
pub fn operator_limits(config: &crate::config::Config) -> Limits {
    Limits { filter_values_max: 1_000_000, ..settings::limits(config) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back_as_they_were_written() {
        for request in [
            Request::Scan { filters: vec![json!({"kinds": [1]})], oldest_first: true },
            Request::Count { filters: vec![] },
            Request::Fingerprint,
            Request::Info,
            Request::Delete { filter: json!({"kinds": [1]}), ban: true, dry_run: false },
            Request::Compact,
            Request::Scrub { signatures: true },
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"command":"drop"}"#).is_err());
    }
}
