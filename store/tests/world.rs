//! The real files: LMDB's map, segment files, the data directory.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests of real files and threads")]
#![cfg(not(miri))]

mod common;

use common::{Draws, World, config, random_event};
use proto::{Event, Filter};
use std::sync::atomic::{AtomicBool, Ordering};
use store::file::directory::{DataDirectory, DirectoryError, Entropy, Format, holder};
use store::file::{FileSegments, PREWRITE_BYTES};
use store::lmdb::{LmdbIndex, MAP_BYTES_MAX, MAP_BYTES_MIN, map_bytes_for};
use store::{Index, ScanRequest, Segments, StoreConfig};

const ENTROPY: Entropy = Entropy { node_id: [1; 16], secret: [2; 16] };

#[test]
fn the_map_grows_under_a_checkpoint_while_other_threads_read() {
    let directory = tempfile::tempdir().unwrap();
    let small = 256 << 10;
    let index = LmdbIndex::open(&directory.path().join("index"), common::SECRET, small).unwrap();
    let segments = FileSegments::open(&directory.path().join("log")).unwrap();
    let config = StoreConfig { checkpoint_events: 1_000, ..config() };
    let mut world = World::open(config, &index, segments);
    let streams = store::plan::union(&[Filter::default()], &common::SECRET);
    let request = ScanRequest { streams, after: None, rows_max: 50 };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let page = index.scan(&request).unwrap();
                    assert!(page.applied >= seen, "snapshots do not go back");
                    assert!(page.applied == 0 || page.rows.len() >= 50);
                    seen = page.applied;
                }
            });
        }
        let mut draws = Draws(2);
        for number in 0..8_000 {
            world.put(&random_event(&mut draws, number));
            if number % 500 == 499 {
                world.commit();
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(index.map_bytes() > small, "the map was full and has grown");
    assert_eq!(world.query(&Filter::default(), 500).len(), 8_000);
    assert!(index.file_bytes().unwrap() > small as u64);
}

#[test]
fn an_index_survives_reopening_and_a_creation_that_died() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    std::fs::create_dir(directory.path().join("index.new")).unwrap();
    std::fs::write(directory.path().join("index.new/data.mdb"), b"torn").unwrap();
    let segments = || FileSegments::open(&directory.path().join("log")).unwrap();
    let index = LmdbIndex::open(&path, common::SECRET, 1 << 30).unwrap();
    assert!(!directory.path().join("index.new").exists());
    let mut world = World::open(config(), index, segments());
    let mut draws = Draws(2);
    let events: Vec<Event> = (0..200).map(|number| random_event(&mut draws, number)).collect();
    for event in &events {
        world.put(event);
    }
    world.close();
    drop(world);
    let index = LmdbIndex::open(&path, common::SECRET, 1 << 30).unwrap();
    assert_eq!(index.applied().unwrap(), 200);
    let mut world = World::open(config(), index, segments());
    let mut expected = events.clone();
    expected.sort_by_key(common::position);
    assert_eq!(world.query(&Filter::default(), 30), expected);
    assert!((MAP_BYTES_MIN..=MAP_BYTES_MAX).contains(&map_bytes_for(directory.path(), 8)));
}

#[test]
fn segments_are_files_with_zeros_ahead_and_exact_ends() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let segments = FileSegments::open(&log).unwrap();
    segments.create(0x2a, b"header").unwrap();
    let path = log.join("000000000000002a.seg");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), u64::from(PREWRITE_BYTES));
    segments.write(0x2a, 6, b"batch").unwrap();
    let near = PREWRITE_BYTES - 2;
    segments.write(0x2a, near, b"batch").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * u64::from(PREWRITE_BYTES));
    assert_eq!(segments.read_at(0x2a, 4, 9).unwrap(), b"erbatch\0\0");
    segments.seal(0x2a, near + 5).unwrap();
    assert_eq!(segments.read_at(0x2a, near, 100).unwrap(), b"batch");
    assert!(segments.write(0x2a, near + 5, b"more").is_err(), "a sealed segment is closed");
    let later = FileSegments::open(&log).unwrap();
    assert!(later.write(0x2a, 0, b"x").is_err(), "nobody writes to what another life made");
    assert_eq!(later.list().unwrap()[0].bytes, u64::from(near) + 5);
    std::fs::write(log.join("0000000000000050.new"), b"half").unwrap();
    let later = FileSegments::open(&log).unwrap();
    assert_eq!(later.list().unwrap().len(), 1);
    assert!(!log.join("0000000000000050.new").exists(), "an unfinished creation is removed");
    for segment in 100..140 {
        later.create(segment, b"h").unwrap();
        assert_eq!(later.read_at(segment, 0, 1).unwrap(), b"h");
    }
    later.create(100, b"H").unwrap();
    assert_eq!(later.read_at(100, 0, 1).unwrap(), b"H", "a replaced file is not read from memory");
    let short = later.prewriting(3_000);
    short.create(200, b"h").unwrap();
    short.write(200, 2_999, b"x").unwrap();
    assert_eq!(std::fs::metadata(log.join("00000000000000c8.seg")).unwrap().len(), 3_000);
    let later = FileSegments::reader(&log);
    for stray in ["stray.seg", "0000000000000000.seg", "0000ffffffffffff.seg", "2a.seg"] {
        std::fs::write(log.join(stray), b"").unwrap();
        assert!(later.list().is_err(), "{stray} is no segment and is not passed over");
        std::fs::remove_file(log.join(stray)).unwrap();
    }
    assert!(later.list().is_ok());
}

#[test]
fn one_process_holds_a_directory() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/data");
    assert!(!DataDirectory::exists(&path));
    assert_eq!(holder(&path).unwrap(), None);
    let format = Format::new(3, ENTROPY).unwrap();
    DataDirectory::create(&path, &format).unwrap();
    assert!(DataDirectory::exists(&path));
    assert!(matches!(DataDirectory::create(&path, &format), Err(DirectoryError::Foreign { .. })));
    let directory = DataDirectory::open(&path).unwrap();
    assert_eq!(*directory.format(), format);
    assert!(directory.log_directory(2).ends_with("shard-002/log"));
    assert!(directory.log_directory(2).exists());
    let me = std::process::id().to_string();
    match DataDirectory::open(&path) {
        Err(error @ DirectoryError::Held { .. }) => assert!(error.to_string().contains(&me)),
        other => panic!("{other:?}"),
    }
    assert_eq!(holder(&path).unwrap(), Some(me));
    drop(directory);
    assert_eq!(holder(&path).unwrap(), None);
    DataDirectory::open(&path).unwrap();
}

#[test]
fn formats_of_other_versions_and_damaged_ones_are_told_apart() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    DataDirectory::create(&path, &Format::new(8, ENTROPY).unwrap()).unwrap();
    let file = path.join("FORMAT");
    let good = std::fs::read(&file).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        std::fs::write(&file, bytes).unwrap();
        DataDirectory::open(&path).unwrap_err().to_string()
    };
    assert!(with(8, 3).contains("format version 3"));
    assert!(with(30, 9).contains("checksum"));
    assert!(with(0, 9).contains("no FORMAT file"));
    std::fs::write(&file, &good[..100]).unwrap();
    assert!(DataDirectory::open(&path).unwrap_err().to_string().contains("length"));
    assert!(matches!(Format::new(0, ENTROPY), Err(DirectoryError::Shards(0))));
    assert!(matches!(Format::new(5_000, ENTROPY), Err(DirectoryError::Shards(5_000))));
    let spread = Format::new(3, ENTROPY).unwrap();
    for shard in 0..3 {
        assert!(spread.shard_of_bucket.iter().filter(|owner| **owner == shard).count() > 1_300);
    }
}
