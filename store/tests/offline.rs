//! A data directory on real files: compacted, its index rebuilt, given other numbers of shards, each
//! of it interrupted and run again; what it holds stays the same, and so does what it refuses.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real files, and of work that is killed in a process of its own"
)]
#![cfg(not(miri))]

mod common;

use common::{Draft, Draws, author};
use proto::nip::nip01::Slot;
use proto::{Event, EventId, Filter, Now, PublicKey};
use std::cell::Cell;
use std::path::Path;
use store::file::FileSegments;
use store::file::directory::{DataDirectory, Entropy, Format};
use store::fingerprint::Fingerprint;
use store::lmdb::{INDEX_VERSION, LmdbIndex};
use store::offline::{OfflineError, compact, fingerprint, reindex, scrub};
use store::replace::OPERATOR;
use store::reshard::reshard;
use store::scrub::Finding;
use store::{Index, KillCause, Loc, LookupKey, Segments, Seq, StoreConfig};

const ENTROPY: Entropy = Entropy { node_id: [1; 16], secret: common::SECRET.0 };
const BANNED: EventId = EventId([0xba; 32]);

fn clock() -> Now {
    Now { monotonic_ms: 1_000, unix_s: 1_700_000_000 }
}

fn config(shard: u16) -> StoreConfig {
    StoreConfig { shard, segment_bytes_max: 40_000, checkpoint_events: 120, ..common::config() }
}

type World = common::World<LmdbIndex, FileSegments>;

fn open(directory: &DataDirectory, shard: u16) -> World {
    let path = directory.index_directory(shard);
    let index = LmdbIndex::open(&path, common::SECRET, 1 << 28).unwrap();
    let segments = FileSegments::open(&directory.log_directory(shard)).unwrap();
    World::open(config(shard), index, segments)
}

fn sum(directory: &DataDirectory) -> Fingerprint {
    let mut sum = Fingerprint::default();
    for shard in 0..directory.format().shards {
        let (part, damaged) =
            fingerprint(directory, &config(shard), &clock, &mut |_, _| {}).unwrap();
        assert_eq!(damaged, 0);
        sum.add(&part);
    }
    sum
}

/// What was written into a directory.
struct Written {
    alive: Vec<Event>,
    deleted: Vec<(EventId, PublicKey)>,
    slots: Vec<Slot>,
    dead: Vec<EventId>,
}

/// Fills a directory as its shards would.
fn fill(directory: &DataDirectory) -> Written {
    let placement = directory.format().placement();
    let shards = directory.format().shards;
    let mut worlds: Vec<World> = (0..shards).map(|shard| open(directory, shard)).collect();
    let (mut draws, mut stored) = (Draws(5), Vec::<(u16, Seq, Event)>::new());
    let mut written =
        Written { alive: Vec::new(), deleted: Vec::new(), slots: Vec::new(), dead: Vec::new() };
    for number in 0..1_500 {
        let kind = [1, 7, 30_023, 1_059][draws.below(4) as usize];
        let mut draft = Draft::new(draws.below(40), kind, 1_000 + number as u32)
            .tag("d", &number.to_string())
            .content(format!("event {number}"));
        if kind == 1_059 {
            let recipient = author(draws.below(40));
            let hex: String = recipient.0.iter().map(|byte| format!("{byte:02x}")).collect();
            draft = draft.tag("p", &hex);
        }
        let event = draft.pack();
        let shard = placement.owner(&event.view());
        let flags = if draws.one_in(10) { Loc::UNVERIFIED } else { 0 };
        let world = &mut worlds[usize::from(shard)];
        let seq = world.store.put(event.clone(), flags);
        stored.push((shard, seq, event));
        if draws.one_in(3) {
            let (shard, seq, event) = stored.swap_remove(draws.below(stored.len() as u64) as usize);
            let world = &mut worlds[usize::from(shard)];
            world.store.kill(seq, KillCause::Deleted);
            let by = event.view().pubkey();
            // Its author's mark belongs to its author's shard, which for a wrap is another one.
            let world = &mut worlds[usize::from(placement.shard_of(&by))];
            world.store.mark_id(event.view().id(), by);
            written.deleted.push((event.view().id(), by));
            written.dead.push(event.view().id());
            if let Some(slot) = Slot::of(&event.view()) {
                let world = &mut worlds[usize::from(placement.shard_of(&slot.pubkey))];
                world.store.mark_slot(slot.clone(), 5_000);
                written.slots.push(slot);
            }
        }
        if number % 50 == 49 {
            worlds.iter_mut().for_each(World::commit);
        }
    }
    for world in &mut worlds {
        world.store.mark_id(BANNED, OPERATOR);
        world.store.vanish(author(99), 4_000);
        world.commit();
        while world.store.is_purging() {
            world.tick();
            world.settle();
        }
        world.close();
    }
    written.alive = stored.into_iter().map(|(_, _, event)| event).collect();
    written.alive.sort_by_key(common::position);
    written
}

/// Every event is where its owner looks for it, and every refusal stands.
fn check(directory: &DataDirectory, written: &Written) {
    let placement = directory.format().placement();
    let shards = directory.format().shards;
    let mut worlds: Vec<World> = (0..shards).map(|shard| open(directory, shard)).collect();
    let mut found = Vec::new();
    for (shard, world) in worlds.iter_mut().enumerate() {
        for event in world.query(&Filter::default(), 500) {
            assert_eq!(usize::from(placement.owner(&event.view())), shard);
            found.push(event);
        }
        let keys = [LookupKey::DeletedId(BANNED, OPERATOR), LookupKey::Vanished(author(99))];
        let answers = world.answers(keys.to_vec());
        let view = world.store.view(&answers);
        assert!(view.deleted_id(&BANNED, &OPERATOR), "a ban stands in every shard");
        assert_eq!(view.vanished_until(&author(99)), Some(4_000));
        assert!(!world.store.is_purging(), "what had been removed is not removed again");
    }
    found.sort_by_key(common::position);
    assert_eq!(found, written.alive);
    for (id, by) in &written.deleted {
        let world = &mut worlds[usize::from(placement.shard_of(by))];
        let answers = world.answers(vec![LookupKey::DeletedId(*id, *by)]);
        assert!(world.store.view(&answers).deleted_id(id, by), "a deletion still refuses");
    }
    for slot in &written.slots {
        let world = &mut worlds[usize::from(placement.shard_of(&slot.pubkey))];
        let key = slot.key(&common::SECRET);
        let answers = world.answers(vec![LookupKey::DeletedSlot(key)]);
        assert_eq!(world.store.view(&answers).deleted_until(key), Some(5_000));
    }
    worlds.iter_mut().for_each(World::close);
}

fn has_bytes_of(directory: &Path, ids: &[EventId]) -> bool {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        // An id stands before its key in a packed event and in a mark; only the event has more.
        let is_event = |id: &EventId| {
            bytes
                .windows(32)
                .enumerate()
                .any(|(at, window)| window == id.0 && !(at > 0 && bytes[at - 1] == 3))
        };
        if ids.iter().any(is_event) {
            return true;
        }
    }
    false
}

/// Says "stop" when it has been asked so many times.
fn stop_after(asks: u64) -> (Cell<u64>, u64) {
    (Cell::new(0), asks)
}

fn asked((count, asks): &(Cell<u64>, u64)) -> bool {
    count.set(count.get() + 1);
    count.get() > *asks
}

#[test]
fn everything_survives_compact_reindex_and_reshard_and_interruptions() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    DataDirectory::create(&path, &Format::new(2, ENTROPY).unwrap()).unwrap();
    let mut directory = DataDirectory::open(&path).unwrap();
    let written = fill(&directory);
    let before = sum(&directory);
    assert_eq!(before.events, written.alive.len() as u64);
    assert!(has_bytes_of(&directory.log_directory(0), &written.dead[..20]));
    let log_bytes = |directory: &DataDirectory, shard| -> u64 {
        let segments = FileSegments::open(&directory.log_directory(shard)).unwrap();
        segments.list().unwrap().iter().map(|entry| entry.bytes).sum()
    };
    for shard in 0..2 {
        let was = log_bytes(&directory, shard);
        for asks in [0, 1, 3, 10] {
            let stop = stop_after(asks);
            let stopped =
                compact(&directory, &config(shard), &clock, &mut |_, _| {}, &|| asked(&stop));
            // What an interrupted one has rewritten stays so, and the next has less to do.
            let is_stopped = matches!(stopped, Err(OfflineError::Stopped));
            assert!(is_stopped || asks > 1, "{stopped:?}");
        }
        let mut last = (0, 0);
        let compacted = compact(
            &directory,
            &config(shard),
            &clock,
            &mut |done, total| last = (done, total),
            &|| false,
        );
        let compacted = compacted.unwrap();
        assert!(log_bytes(&directory, shard) < was, "{compacted:?}");
        assert_eq!(compacted.refused, 0);
        assert!(last.0 == last.1, "{last:?}");
        assert!(!has_bytes_of(&directory.log_directory(shard), &written.dead), "bytes are gone");
    }
    assert_eq!(sum(&directory), before);
    check(&directory, &written);
    for shard in 0..2 {
        let stop = stop_after(1);
        let stopped = reindex(&directory, &config(shard), &mut |_, _| {}, &|| asked(&stop));
        assert!(matches!(stopped, Err(OfflineError::Stopped)));
        let rows = |directory: &DataDirectory| {
            let path = directory.index_directory(shard);
            let index = LmdbIndex::open(&path, common::SECRET, 1 << 28).unwrap();
            let locs = index.locs(1, u64::MAX >> 24, usize::MAX).unwrap();
            index.close();
            locs
        };
        let was = rows(&directory);
        let left = directory.index_directory(shard).with_file_name("index.next");
        assert!(!left.exists(), "what was interrupted is removed by the next opening");
        reindex(&directory, &config(shard), &mut |_, _| {}, &|| false).unwrap();
        assert_eq!(rows(&directory), was, "every place is as it was");
        let found: &mut dyn FnMut(Finding) = &mut |finding| panic!("{finding}");
        scrub(&directory, &config(shard), None, found, &mut |_, _| {}, &|| false).unwrap();
    }
    assert_eq!(sum(&directory), before);
    for shards in [5, 1] {
        for asks in [0, 1, 7] {
            let stop = stop_after(asks);
            let stopped =
                reshard(&mut directory, shards, &config(0), &clock, &mut |_, _| {}, &|| {
                    asked(&stop)
                });
            assert!(matches!(stopped, Err(OfflineError::Stopped)), "{stopped:?}");
            drop(directory);
            directory = DataDirectory::open(&path).unwrap();
            assert_eq!(sum(&directory), before);
        }
        let mut last = (0, 0);
        let copied = reshard(
            &mut directory,
            shards,
            &config(0),
            &clock,
            &mut |done, total| last = (done, total),
            &|| false,
        );
        let copied = copied.unwrap();
        assert_eq!((copied.events, copied.vanished), (before.events, 1));
        assert!(last.0 == last.1 && last.1 > 0);
        drop(directory);
        directory = DataDirectory::open(&path).unwrap();
        assert_eq!(directory.format().shards, shards);
        let names = std::fs::read_dir(&path).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with("shard-")
        });
        assert_eq!(names.count(), usize::from(shards), "the old shards are gone");
        assert_eq!(sum(&directory), before);
        check(&directory, &written);
    }
    let world = &mut open(&directory, 0);
    let (rows, _) = world.page(
        store::ScanRequest {
            streams: store::plan::union(&[Filter::default()], &common::SECRET),
            after: None,
            rows_max: 10_000,
        },
        world.store.durable(),
    );
    let unverified = rows.iter().filter(|row| row.loc.flags & Loc::UNVERIFIED != 0).count();
    assert!(unverified > 50, "what was not verified still is not");
}

#[test]
fn a_directory_of_version_1_is_read_and_leftovers_of_layouts_are_removed() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    DataDirectory::create(&path, &Format::new(3, ENTROPY).unwrap()).unwrap();
    let file = path.join("FORMAT");
    let bytes = std::fs::read(&file).unwrap();
    // Version 1: the same without the two bytes of the layout.
    let mut old = bytes[..bytes.len() - 4].to_vec();
    old[8..12].copy_from_slice(&1u32.to_le_bytes());
    old.drain(46..48);
    let crc = crc32c::crc32c(&old).to_le_bytes();
    old.extend_from_slice(&crc);
    std::fs::write(&file, &old).unwrap();
    for name in ["shard-000.1", "shard-004.7", "shard-000.old", "shards", "shard-x.1"] {
        std::fs::create_dir(path.join(name)).unwrap();
    }
    let directory = DataDirectory::open(&path).unwrap();
    assert_eq!((directory.format().shards, directory.format().layout), (3, 0));
    let is_there = |name: &str| path.join(name).exists();
    assert!(is_there("shard-000") && is_there("shard-002"));
    assert!(is_there("shard-000.old") && is_there("shards") && is_there("shard-x.1"));
    assert!(!is_there("shard-000.1") && !is_there("shard-004.7"));
    drop(directory);
    // A table that places keys elsewhere than this program would must not be opened.
    let mut moved = bytes[..bytes.len() - 4].to_vec();
    moved[48..50].copy_from_slice(&1u16.to_le_bytes());
    let crc = crc32c::crc32c(&moved).to_le_bytes();
    moved.extend_from_slice(&crc);
    std::fs::write(&file, &moved).unwrap();
    let error = DataDirectory::open(&path).unwrap_err().to_string();
    assert!(error.contains("buckets"), "{error}");
}

#[test]
fn an_index_of_an_earlier_layout_is_refused_and_rebuilt() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    DataDirectory::create(&path, &Format::new(1, ENTROPY).unwrap()).unwrap();
    let directory = DataDirectory::open(&path).unwrap();
    let written = fill(&directory);
    let before = sum(&directory);
    let index_path = directory.index_directory(0);
    let data = index_path.join("data.mdb");
    let mut bytes = std::fs::read(&data).unwrap();
    let row = [b"version".as_slice(), &INDEX_VERSION.to_be_bytes()].concat();
    let found: Vec<usize> =
        (0..bytes.len() - row.len()).filter(|at| bytes[*at..].starts_with(&row)).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at + row.len() - 1] = 1;
    }
    std::fs::write(&data, bytes).unwrap();
    let error = LmdbIndex::open(&index_path, common::SECRET, 1 << 28).unwrap_err().to_string();
    assert!(error.contains("version 1") && error.contains("turnpike reindex"), "{error}");
    reindex(&directory, &config(0), &mut |_, _| {}, &|| false).unwrap();
    assert_eq!(sum(&directory), before);
    check(&directory, &written);
    // Without any index, a start makes one from the log.
    std::fs::remove_dir_all(&index_path).unwrap();
    assert_eq!(sum(&directory), before);
    check(&directory, &written);
}

const CHILD_WORK: &str = "STORE_TEST_WORK";
const CHILD_DIRECTORY: &str = "STORE_TEST_DIRECTORY";

/// Works on the directory that the parent names, until it is killed or done.
#[test]
fn child_of_the_killing_test() {
    let (Ok(work), Ok(path)) = (std::env::var(CHILD_WORK), std::env::var(CHILD_DIRECTORY)) else {
        return;
    };
    let mut directory = DataDirectory::open(Path::new(&path)).unwrap();
    let quiet = &mut |_, _| {};
    let shards = directory.format().shards;
    match work.as_str() {
        "compact" => (0..shards).for_each(|shard| {
            compact(&directory, &config(shard), &clock, quiet, &|| false).unwrap();
        }),
        "reindex" => (0..shards).for_each(|shard| {
            reindex(&directory, &config(shard), quiet, &|| false).unwrap();
        }),
        _ => {
            let shards = if shards == 3 { 2 } else { 3 };
            reshard(&mut directory, shards, &config(0), &clock, quiet, &|| false).unwrap();
        }
    }
}

#[test]
fn whatever_is_killed_can_be_run_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    DataDirectory::create(&path, &Format::new(2, ENTROPY).unwrap()).unwrap();
    let directory = DataDirectory::open(&path).unwrap();
    let written = fill(&directory);
    let before = sum(&directory);
    drop(directory);
    let mut draws = Draws(std::process::id().into());
    let spawn = |work: &str| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child_of_the_killing_test"]);
        child.env(CHILD_WORK, work).env(CHILD_DIRECTORY, &path);
        child.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut killed = 0;
    for work in ["compact", "reindex", "reshard"] {
        for _ in 0..10 {
            let mut child = spawn(work);
            std::thread::sleep(std::time::Duration::from_millis(1 + draws.below(150)));
            child.kill().unwrap();
            killed += usize::from(!child.wait().unwrap().success());
            let directory = DataDirectory::open(&path).unwrap();
            assert_eq!(sum(&directory), before, "killed in {work}");
        }
        assert!(spawn(work).wait().unwrap().success(), "{work} can be run again");
        let directory = DataDirectory::open(&path).unwrap();
        assert_eq!(sum(&directory), before, "{work}");
        check(&directory, &written);
    }
    assert!(killed > 0, "somebody was killed");
}
