//! What a stored event costs: framing it for the log, entering it into the delta, moving it into
//! the index, and reading pages back.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proto::{Event, EventId, EventParts, Filter, PublicKey, Secret, SeededState, Signature};
use std::hint::black_box;
use std::time::Duration;
use store::delta::Generation;
use store::key::EventKeys;
use store::lmdb::LmdbIndex;
use store::log::{Log, LogStart};
use store::{Bodies, Index, Loc, LogEffect, ScanRequest, StoreEffect, WorldError};

const SECRET: Secret = Secret([5; 16]);
const AUTHORS: u64 = 5_000;

fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn author(number: u64) -> PublicKey {
    // A square of a uniform draw crowds the low numbers, as real authors crowd.
    let draw = mix(number) % (1 << 20);
    let rank = (((draw * draw) >> 20) * AUTHORS) >> 20;
    let mut key = PublicKey([3; 32]);
    key.0[..8].copy_from_slice(&rank.to_be_bytes());
    key
}

/// A kind-1 note with one `e` tag and a text of about 160 bytes.
fn note(number: u64) -> Event {
    let target = mix(number / 3) % 100_000;
    let tags_json = format!(r#"[["e","{target:064x}"]]"#);
    let content_json = format!("\"{}{number}\"", "words and words ".repeat(10));
    let mut parts = EventParts {
        id: EventId([0; 32]),
        pubkey: author(number),
        sig: Signature([9; 64]),
        created_at: 1_700_000_000 + (number / 20) as u32,
        kind: 1,
        tags_json: tags_json.as_bytes(),
        content_json: content_json.as_bytes(),
    };
    parts.id = parts.compute_id();
    parts.pack()
}

fn seed() -> SeededState {
    SeededState::new(Secret([6; 16]))
}

fn loc(number: u64) -> Loc {
    Loc { segment: 1, offset: number as u32 * 400, length: 400, flags: 0, expires_at: 0 }
}

fn generation(from: u64, count: u64) -> Generation {
    let mut generation = Generation::new(from, seed());
    for number in from..from + count {
        generation.put(number, loc(number), &EventKeys::of(&note(number).view(), &SECRET));
    }
    generation
}

struct NoBodies;

impl Bodies for NoBodies {
    fn body(&self, _: &Loc) -> Result<Option<Event>, WorldError> {
        Ok(None)
    }
}

fn append(c: &mut Criterion) {
    let events: Vec<Event> = (0..64).map(note).collect();
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(64));
    group.bench_function("append and frame 64 events", |b| {
        let start = LogStart { shard: 0, epoch: 1, last_seq: 0, segment_bytes_max: 64 << 20 };
        let mut log = Log::new(start);
        let mut fx = Vec::new();
        b.iter(|| {
            for event in &events {
                black_box(log.put(event, 0));
            }
            // One write, or at the border of a segment: seal, create, write.
            while !log.is_in_flight() {
                log.flush(&mut fx);
                match fx.pop() {
                    Some(StoreEffect::Log(LogEffect::Create { segment, .. })) => {
                        log.created(segment);
                    }
                    Some(StoreEffect::Log(LogEffect::Seal { segment, .. })) => log.sealed(segment),
                    written => drop(black_box(written)),
                }
            }
            log.durable(log.appended())
        });
    });
    group.finish();
}

fn delta(c: &mut Criterion) {
    let keys: Vec<EventKeys> =
        (1..=65_536).map(|number| EventKeys::of(&note(number).view(), &SECRET)).collect();
    let events: Vec<Event> = (0..1_000).map(note).collect();
    let mut group = c.benchmark_group("delta");
    group.throughput(Throughput::Elements(65_536)).sample_size(10);
    group.bench_function("insert 65,536 events", |b| {
        b.iter_batched(
            || Generation::new(1, seed()),
            |mut generation| {
                for (seq, keys) in (1..).zip(&keys) {
                    generation.put(seq, loc(seq), keys);
                }
                generation
            },
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("keys of 1,000 events", |b| {
        b.iter(|| {
            for event in &events {
                black_box(EventKeys::of(&event.view(), &SECRET));
            }
        });
    });
    group.finish();
}

fn insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("index insert");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for batch in [65_536u64, 8_192] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("checkpoint of {batch} events"), |b| {
            let directory = tempfile::tempdir().unwrap();
            let index = LmdbIndex::open(&directory.path().join("index"), SECRET, 1 << 34).unwrap();
            let mut next = 1;
            b.iter_batched(
                || {
                    let generation = generation(next, batch);
                    next += batch;
                    generation
                },
                |generation| index.checkpoint(&generation, &NoBodies).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn scan(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let index = LmdbIndex::open(&directory.path().join("index"), SECRET, 1 << 34).unwrap();
    for batch in 0..4 {
        index.checkpoint(&generation(1 + batch * 65_536, 65_536), &NoBodies).unwrap();
    }
    let tag = format!("{:064x}", mix(7) % 100_000).into_bytes().into();
    let filters = [
        ("100 rows by kind", Filter { kinds: Some(vec![1]), ..Filter::default() }),
        ("100 rows by author", Filter { authors: Some(vec![author(40)]), ..Filter::default() }),
        (
            "100 rows by author and kind",
            Filter { authors: Some(vec![author(40)]), kinds: Some(vec![1]), ..Filter::default() },
        ),
        (
            "rows by tag",
            Filter {
                tags: vec![proto::TagFilter { letter: b'e', values: vec![tag] }],
                ..Filter::default()
            },
        ),
    ];
    let mut group = c.benchmark_group("index scan");
    for (name, filter) in filters {
        let streams = store::plan::union(&[filter], &SECRET);
        let request = ScanRequest { streams, after: None, rows_max: 100 };
        assert!(!index.scan(&request).unwrap().rows.is_empty());
        group.bench_function(name, |b| b.iter(|| index.scan(black_box(&request)).unwrap()));
    }
    let mut authors: Vec<PublicKey> = (0..500).map(author).collect();
    authors.sort_unstable();
    authors.dedup();
    let filter = Filter { authors: Some(authors), kinds: Some(vec![0, 1, 3]), ..Filter::default() };
    let streams = store::plan::union(&[filter], &SECRET);
    let request = ScanRequest { streams, after: None, rows_max: 100 };
    group.bench_function("100 rows by 500 authors and 3 kinds", |b| {
        b.iter(|| index.scan(black_box(&request)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, append, delta, insert, scan);
criterion_main!(benches);
