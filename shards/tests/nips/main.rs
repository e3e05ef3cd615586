//! The scenarios of `sim/conformance/nips`, one file a NIP: what is accepted, what is refused with
//! which reason, and what is visible to whom, through homes and shards, at several numbers of shards
//! and before and after a restart. The grammar is in `sim/conformance/README.md`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests unwrap, and read files")]

#[path = "../common/mod.rs"]
mod common;
mod play;
mod script;

use script::Case;

/// Files with cases for this harness; NIP-11 and NIP-42 have files of the connection's tests, too.
const NIPS: [u16; 16] = [1, 2, 4, 9, 13, 17, 40, 42, 45, 59, 62, 65, 67, 70, 77, 11];

fn folder() -> String {
    format!("{}/../sim/conformance/nips", env!("CARGO_MANIFEST_DIR"))
}

fn cases(nip: u16) -> Vec<Case> {
    let path = format!("{}/nip{nip:02}.txt", folder());
    script::parse(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

#[test]
fn every_nip_that_the_readme_names_has_cases() {
    let readme = include_str!("../../../README.md");
    let table = readme.split("| NIP | What |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named = rows.flat_map(|row| row.split("/master/").skip(1));
    let mut named: Vec<u16> = named.map(|rest| rest[..2].parse().unwrap()).collect();
    named.sort_unstable();
    let mut covered = NIPS;
    covered.sort_unstable();
    assert_eq!(named, covered);
    for nip in NIPS {
        let path = format!("{}/nip{nip:02}.txt", folder());
        assert!(std::fs::metadata(&path).is_ok(), "{path} is missing");
    }
}

#[test]
fn every_case_ends_as_it_is_written_at_1_2_and_8_shards() {
    let mut played = 0;
    for nip in NIPS.into_iter().filter(|nip| *nip != 11) {
        let cases = cases(nip);
        assert!(cases.len() >= 2, "NIP-{nip:02} has {} cases", cases.len());
        for case in cases {
            for (shards, seed) in [(1, 1), (2, 2), (8, 3), (8, 4)] {
                play::play(nip, &case, shards, seed);
                played += 1;
            }
        }
    }
    println!("{played} plays");
}

#[test]
fn a_wrong_line_does_not_pass() {
    let wrong = [
        "event a alice 1 now []\npublish a -> deleted",
        "event a alice 1 now []\npublish a -> ok\nreq {} ->",
        "event a alice 1 now []\npublish a -> ok\nreq {\"limit\":1} -> a | more",
        "count {} -> 1",
        "req {\"kinds\":[4]} ->",
        "message [\"EVENT\",{}] -> bad_id",
    ];
    for text in wrong {
        let cases = script::parse(&format!("case wrong\n{text}\n"));
        let outcome = std::panic::catch_unwind(|| play::play(1, &cases[0], 2, 1));
        assert!(outcome.is_err(), "{text} passed");
    }
}
