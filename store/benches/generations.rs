//! What an index of millions costs, with generations and as one: CPU time of a checkpoint per event
//! while it grows, bytes per event, and what questions to it take. Both are fed the same events in
//! turns, so that the ratios are of one run.
//!
//! `cargo bench -p store --bench generations -- 4000000` (events; 1 million without it).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    missing_docs
)]

use proto::{Event, EventId, EventParts, Filter, PublicKey, Secret, SeededState, Signature};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use store::delta::Generation;
use store::index::{Did, UpkeepRequest};
use store::key::EventKeys;
use store::lmdb::LmdbIndex;
use store::{Bodies, Found, Index, Loc, LookupKey, Position, ScanRequest, WorldError};

const SECRET: Secret = Secret([5; 16]);
const AUTHORS: u64 = 100_000;
const BATCH: u64 = 65_536;
/// One author writes one event in so many, so that a long history can be paged through.
const DILIGENT_EVERY: u64 = 8;

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn key(rank: u64) -> PublicKey {
    let mut key = PublicKey([3; 32]);
    key.0[..8].copy_from_slice(&rank.to_be_bytes());
    key
}

fn author(number: u64) -> PublicKey {
    if number.is_multiple_of(DILIGENT_EVERY) {
        return key(u64::MAX);
    }
    // A square of a uniform draw crowds the low numbers, as real authors crowd.
    let draw = mix(number) % (1 << 20);
    key((((draw * draw) >> 20) * AUTHORS) >> 20)
}

/// A kind-1 note with one `e` tag, about 500 bytes of JSON.
fn note(number: u64) -> Event {
    let target = mix(number / 3) % 1_000_000;
    let tags_json = format!(r#"[["e","{target:064x}"]]"#);
    let content_json = format!("\"a note {number:08}\"");
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

struct NoBodies;

impl Bodies for NoBodies {
    fn body(&self, _: &Loc) -> Result<Option<Event>, WorldError> {
        Ok(None)
    }
}

struct Measured {
    index: LmdbIndex,
    request: Option<UpkeepRequest>,
    checkpoint_ns: u64,
    upkeep_ns: u64,
    longest_step_ns: u64,
}

impl Measured {
    fn open(path: &Path, request: Option<UpkeepRequest>) -> Self {
        let index = LmdbIndex::open(path, SECRET, 1 << 36).unwrap();
        Self { index, request, checkpoint_ns: 0, upkeep_ns: 0, longest_step_ns: 0 }
    }

    fn apply(&mut self, generation: &Generation) {
        let before = cpu_ns();
        self.index.checkpoint(generation, &NoBodies).unwrap();
        self.checkpoint_ns += cpu_ns() - before;
        let Some(request) = &self.request else { return };
        loop {
            let before = cpu_ns();
            let did = self.index.upkeep(request).unwrap().did;
            let took = cpu_ns() - before;
            self.upkeep_ns += took;
            self.longest_step_ns = self.longest_step_ns.max(took);
            if did == Did::Nothing {
                break;
            }
        }
    }

    /// Nanoseconds per event since this was last asked, of checkpoints and of upkeep.
    fn take(&mut self, events: u64) -> (u64, u64) {
        let per_event = (self.checkpoint_ns / events, self.upkeep_ns / events);
        (self.checkpoint_ns, self.upkeep_ns) = (0, 0);
        per_event
    }

    /// Nanoseconds of a question about a stored id, of one about an id that is not there, of the
    /// first page of a kind, and of pages 1 and 1,000 of a long history.
    fn questions(&self, events: u64) -> [u64; 5] {
        let rounds = 4_000;
        let ids: Vec<LookupKey> =
            (0..rounds).map(|at| LookupKey::Id(note(1 + mix(at) % events).view().id())).collect();
        let unknown: Vec<LookupKey> =
            (0..rounds).map(|at| LookupKey::Id(note(events + 1 + at).view().id())).collect();
        let ask = |keys: &[LookupKey], is_there: bool| {
            let before = cpu_ns();
            for key in keys {
                let found = self.index.lookup(std::slice::from_ref(key)).unwrap();
                assert_eq!(matches!(found[0], Found::Row(_)), is_there);
            }
            (cpu_ns() - before) / rounds
        };
        ask(&ids, true);
        let kind = Filter { kinds: Some(vec![1]), ..Filter::default() };
        let diligent = Filter { authors: Some(vec![key(u64::MAX)]), ..kind.clone() };
        let pages = (events / DILIGENT_EVERY / 100).clamp(2, 1_000) as usize - 1;
        let mut positions = Vec::new();
        let mut after = None;
        while positions.len() < pages {
            positions.push(after);
            after = self.page(&diligent, after).0;
        }
        // The same number of different pages at both ends, so that neither is only ever in cache.
        let some = pages.min(20);
        let first =
            positions[..some].iter().map(|after| self.page(&diligent, *after).1).sum::<u64>();
        let last = positions[pages - some..].iter();
        let last = last.map(|after| self.page(&diligent, *after).1).sum::<u64>();
        let of_kind = (0..20).map(|_| self.page(&kind, None).1).sum::<u64>() / 20;
        let some = some as u64;
        [ask(&ids, true), ask(&unknown, false), of_kind, first / some, last / some]
    }

    fn page(&self, filter: &Filter, after: Option<Position>) -> (Option<Position>, u64) {
        let streams = store::plan::union(std::slice::from_ref(filter), &SECRET);
        let request = ScanRequest { streams, after, rows_max: 100 };
        let before = cpu_ns();
        let page = self.index.scan(&request).unwrap();
        let took = cpu_ns() - before;
        assert!(page.rows.len() >= 100);
        (page.complete_to, took)
    }
}

fn main() {
    let events = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    let events: u64 = events.unwrap_or(1_000_000);
    let directory = tempfile::tempdir().unwrap();
    let request = store::StoreConfig::new(0, SECRET, SeededState::new(SECRET)).upkeep();
    let paths = [directory.path().join("split"), directory.path().join("whole")];
    let mut split = Measured::open(&paths[0], Some(request));
    let mut whole = Measured::open(&paths[1], None);
    println!("CPU time per event in ns; {BATCH} events in a checkpoint");
    println!("   events   split: checkpoint  upkeep    sum   whole   split/whole");
    let (mut next, mut since, mut json_bytes, mut log_bytes) = (1, 0, 0, 0);
    let mut json = Vec::new();
    while next <= events {
        let mut generation = Generation::new(next, SeededState::new(Secret([6; 16])));
        for number in next..next + BATCH {
            let event = note(number);
            json.clear();
            event.view().write_json(&mut json);
            json_bytes += json.len() as u64;
            let length = event.packed().len();
            log_bytes += (length + store::record::PUT_HEADER_BYTES) as u64;
            let loc = Loc {
                segment: 1 + number / 150_000,
                offset: (number % 150_000) as u32 * length as u32,
                length: length as u32,
                flags: 0,
                expires_at: 0,
            };
            generation.put(number, loc, &EventKeys::of(&event.view(), &SECRET));
        }
        next += BATCH;
        since += BATCH;
        split.apply(&generation);
        whole.apply(&generation);
        if since >= 8 * BATCH || next > events {
            let (checkpoint, upkeep) = split.take(since);
            let one = whole.take(since).0;
            let (sum, stored) = (checkpoint + upkeep, next - 1);
            let ratio = sum as f64 / one as f64;
            println!("{stored:9}   {checkpoint:17} {upkeep:7} {sum:6}  {one:6}   {ratio:11.2}");
            since = 0;
        }
    }
    let stored = next - 1;
    let longest_ms = split.longest_step_ns as f64 / 1e6;
    println!("longest step of upkeep: {longest_ms:.0} ms of CPU");
    println!("question in ns:  id there  id not there  page of kind  page 1  page 1,000");
    for (name, measured) in [("split", &split), ("whole", &whole)] {
        let [there, not, kind, first, last] = measured.questions(stored);
        println!("{name:15} {there:9} {not:13} {kind:13} {first:7} {last:11}");
    }
    println!("bytes per event: JSON {}, log {}", json_bytes / stored, log_bytes / stored);
    for (name, path, measured) in [("split", &paths[0], split), ("whole", &paths[1], whole)] {
        let steady = measured.index.file_bytes().unwrap();
        measured.index.close();
        LmdbIndex::compact(path, SECRET, 1 << 36).unwrap();
        let index = LmdbIndex::open(path, SECRET, 1 << 36).unwrap();
        let compact = index.file_bytes().unwrap();
        let share = |bytes: u64| (bytes + log_bytes) as f64 / json_bytes as f64;
        println!(
            "{name}: index {} in steady state, {} after compact; with the log {:.2} and {:.2} of JSON",
            steady / stored,
            compact / stored,
            share(steady),
            share(compact),
        );
    }
}
