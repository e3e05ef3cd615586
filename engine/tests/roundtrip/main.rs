//! A corpus of public-relay traffic through the whole relay: import, queries against a naive model,
//! a restart, export, and import again elsewhere with another number of shards, to an equal
//! fingerprint.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;
mod model;

use bench::corpus::jsonl;
use bench::filters::{FilterGenerator, filter_json};
use bench::{Corpus, CorpusOptions, Role};
use common::client::Client;
use common::{Relay, RelayOptions, Runtime, Setup, env_number, now_s, turnpike};
use model::Model;
use proto::nip::nip17;
use proto::{Event, Filter};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::Path;

const SEED: u64 = 5;
/// Greatest limit of the relay.
const LIMIT: usize = 500;

/// Hostile where an import has to be: repeats, bad signatures, stale versions.
fn corpus() -> Corpus {
    let options = CorpusOptions {
        duplicate_per_mille: 50,
        bad_signature_per_mille: 20,
        ..CorpusOptions::default()
    };
    Corpus::public(SEED, env_number("TURNPIKE_CORPUS", 200_000), options)
}

fn write_corpus(path: &Path) {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    let threads = std::thread::available_parallelism().unwrap().get();
    jsonl::write(corpus(), threads, &mut file, &mut |_| {}).unwrap();
    file.flush().unwrap();
}

fn fingerprint(dir: &Path) -> String {
    let text = turnpike(dir, &["info", "--fingerprint"]).success();
    assert!(!text.trim().is_empty());
    text
}

fn start(data_dir: &Path, runtime: Runtime, shards: u16) -> Relay {
    RelayOptions::new(Setup::new(runtime, shards)).data_dir(data_dir).start()
}

/// What an unauthenticated REQ returns: a union over the filters, each cut at its limit, newest
/// first, without private kinds.
fn expected(served: &[Event], filters: &[Filter]) -> Vec<String> {
    let mut rows = BTreeSet::new();
    for filter in filters {
        let limit = filter.limit.map_or(LIMIT, |limit| (limit as usize).min(LIMIT));
        let matching = served.iter().filter(|event| filter.matches(&event.view())).take(limit);
        rows.extend(matching.map(|event| {
            let view = event.view();
            (std::cmp::Reverse(view.created_at()), view.id())
        }));
    }
    rows.into_iter().map(|(_, id)| id.to_hex()).collect()
}

/// Compares `TURNPIKE_REQUESTS` random requests with the model.
fn compare(client: &mut Client, served: &[Event], seed: u64) {
    let requests = env_number("TURNPIKE_REQUESTS", 400);
    let mut generator = FilterGenerator::new(seed, served);
    let (mut returning, mut limited) = (0u64, 0u64);
    for _ in 0..requests {
        let filters = generator.request();
        if filters.iter().any(nip17::asks_private_only) {
            continue;
        }
        let json: Vec<Value> = filters
            .iter()
            .map(|filter| serde_json::from_str(&filter_json(filter)).unwrap())
            .collect();
        let expected = expected(served, &filters);
        let stored = client.query_all(&json);
        let stored = stored.unwrap_or_else(|reason| panic!("{reason}: {json:?}"));
        let ids = stored.ids();
        if ids != expected {
            let wrong: Vec<_> =
                ids.iter().filter(|id| !expected.iter().any(|e| e == *id)).collect();
            let lacking: Vec<_> =
                expected.iter().filter(|id| !ids.contains(&id.as_str())).collect();
            let (got, wanted) = (ids.len(), expected.len());
            panic!(
                "{got} events instead of {wanted}, wrong {wrong:?}, lacking {lacking:?}: {json:?}"
            );
        }
        returning += u64::from(!expected.is_empty());
        limited += u64::from(stored.hint == ["more"]);
    }
    println!("{requests} requests, {returning} with events, {limited} cut by a limit");
    assert!(returning > requests / 2 && limited > requests / 20);
}

/// Ids of the lines of an export.
fn exported_ids(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let ids = text.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["id"].as_str().unwrap().to_owned()
    });
    ids.collect()
}

fn export(dir: &Path, to: &Path) -> BTreeSet<String> {
    std::fs::write(to, turnpike(dir, &["export"]).success()).unwrap();
    exported_ids(to)
}

#[test]
fn a_corpus_survives_import_restart_export_and_import() {
    let dir = tempfile::tempdir().unwrap();
    let (file, dump) = (dir.path().join("corpus.jsonl"), dir.path().join("dump.jsonl"));
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    write_corpus(&file);
    let arrivals = corpus().unsigned().map(|unsigned| (unsigned.event().clone(), unsigned.role()));
    let model = Model::of(arrivals, u64::from(now_s()));
    println!("{} events stay of {}", model.stored().len(), corpus().remaining());

    let report = turnpike(&first, &["import", &file.display().to_string()]);
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let imported = fingerprint(&first);
    let ids = export(&first, &dump);
    let lost: Vec<_> = model.certain().filter(|id| !ids.contains(id)).take(5).collect();
    assert!(lost.is_empty(), "not stored: {lost:?}");
    let wrong: Vec<_> = ids.iter().filter(|id| !model.may_hold(id)).take(5).collect();
    assert!(wrong.is_empty(), "stored: {wrong:?}");

    // What is compared below is what the export shows, less the private kinds: where the order of
    // arrival decides, the export says how it did.
    let mut served: Vec<Event> = corpus()
        .unsigned()
        .filter(|unsigned| unsigned.role() != Role::BadSignature)
        .map(|unsigned| unsigned.event().clone())
        .filter(|event| ids.contains(&event.view().id().to_hex()))
        .filter(|event| !nip17::is_private(event.view().kind()))
        .collect();
    served.sort_by_key(|event| (std::cmp::Reverse(event.view().created_at()), event.view().id()));
    served.dedup();
    let shards = info_shards(&first);
    for (runtime, seed) in [(Runtime::Epoll, 1), (Runtime::IoUring, 2)] {
        if !Setup::new(runtime, shards).is_enabled() {
            continue;
        }
        let mut relay = start(&first, runtime, shards);
        compare(&mut relay.connect(), &served, seed);
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.stderr());
        assert_eq!(fingerprint(&first), imported, "a restart changes nothing");
    }

    // Importing the same file again changes nothing, but for slots whose holder was deleted by id:
    // an older version may take such a place.
    let dump_again = dir.path().join("again.jsonl");
    turnpike(&first, &["import", &file.display().to_string()]).success();
    let again = export(&first, &dump_again);
    let changed: Vec<_> =
        again.symmetric_difference(&ids).filter(|id| !model.is_open(id)).collect();
    assert!(changed.is_empty(), "{changed:?}");

    for shards in [1, 3] {
        let elsewhere = second.join(shards.to_string());
        std::fs::create_dir_all(second.as_path()).unwrap();
        // A directory keeps the number of shards that it was made with.
        assert_eq!(start(&elsewhere, Runtime::Epoll, shards).terminate().code(), Some(0));
        turnpike(&elsewhere, &["import", &dump.display().to_string()]).success();
        assert_eq!(fingerprint(&elsewhere), imported, "{shards} shards");
    }
}

/// Number of shards of a directory, as `info --json` tells it.
fn info_shards(dir: &Path) -> u16 {
    let info: Value = serde_json::from_str(&turnpike(dir, &["info", "--json"]).success()).unwrap();
    match &info["shards"] {
        Value::Array(shards) => shards.len() as u16,
        number => number.as_u64().unwrap() as u16,
    }
}
