//! Event ids and the rules of the NIPs against the tables in `vectors/`.
#![allow(clippy::unwrap_used)]

use proto::nip::nip01::{KindClass, Slot, Version, class};
use proto::nip::nip45::Hll;
use proto::nip::{nip09, nip13, nip17, nip40, nip42, nip59, nip62, nip70};
use proto::parse::{parse_event, parse_filter};
use proto::{Event, EventId, EventParts, Limits, PublicKey, Reason, Signature};

const AUTHOR: PublicKey = PublicKey([0xaa; 32]);
const OTHER: PublicKey = PublicKey([0xbb; 32]);

fn event(kind: u16, created_at: u32, tags_json: &str) -> Event {
    let event = EventParts {
        id: EventId([0xcc; 32]),
        pubkey: AUTHOR,
        sig: Signature([0; 64]),
        created_at,
        kind,
        tags_json: tags_json.as_bytes(),
        content_json: b"\"\"",
    };
    Event::from_packed(event.pack().packed()).unwrap()
}

fn label(verdict: Result<(), Reason>) -> String {
    verdict.err().map_or("ok", Reason::label).to_owned()
}

#[test]
fn ids_are_valid_exactly_where_the_table_says() {
    let table = include_str!("vectors/ids.tsv");
    let mut rows = 0;
    for row in table.split('\n').filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let cells: Vec<&str> = row.splitn(3, '\t').collect();
        let event = parse_event(cells[2].as_bytes(), &Limits::default()).unwrap();
        assert_eq!(event.view().id_is_valid(), cells[1] == "valid", "{}", cells[0]);
        rows += 1;
    }
    assert_eq!(rows, 17);
}

/// The targets of a deletion as the table writes them.
fn targets(event: &Event) -> String {
    let spell = |target: &nip09::Target| match target {
        nip09::Target::Id(id) => format!("e:{id}"),
        nip09::Target::Slot(Slot { pubkey, kind, d }) => {
            format!("a:{kind}:{pubkey}:{}", std::str::from_utf8(d).unwrap())
        }
    };
    match nip09::targets(&event.view()) {
        Ok(targets) => targets.iter().map(spell).collect::<Vec<_>>().join(" "),
        Err(reason) => reason.label().to_owned(),
    }
}

/// Whether proof of work of `bits` is shown by an event whose id begins with `head`.
fn shows_work(event: &Event, bits: &str, head: &str) -> String {
    let hex = format!("{head:f<64}");
    let mut parts = event.view().parts();
    parts.id = EventId::from_hex(hex.as_bytes()).unwrap();
    let satisfied = nip13::is_satisfied(&parts.pack().view(), bits.parse().unwrap());
    (if satisfied { "yes" } else { "no" }).to_owned()
}

fn verdict(rule: &str, event: &Event) -> String {
    let words: Vec<&str> = rule.split(' ').collect();
    match words[..] {
        ["nip09"] => targets(event),
        ["nip13", bits, head] => shows_work(event, bits, head),
        ["nip40"] => match nip40::expires_at(&event.view()) {
            Ok(Some(at)) => at.to_string(),
            Ok(None) => "never".to_owned(),
            Err(reason) => reason.label().to_owned(),
        },
        ["nip42"] => {
            let relay = "relay.example.com";
            let expected = nip42::Expected { challenge: "c0ffee", relay, unix_s: 1_700_000_000 };
            label(nip42::check(&event.view(), &expected))
        }
        ["nip59"] => label(nip59::check(&event.view())),
        ["nip62", url] => {
            let url = (url != "none").then_some(url);
            match nip62::request(&event.view(), url) {
                Ok(nip62::Scope::ThisRelay) => "this".to_owned(),
                Ok(nip62::Scope::AllRelays) => "all".to_owned(),
                Err(reason) => reason.label().to_owned(),
            }
        }
        ["nip70", who] => {
            let keys: &[PublicKey] = match who {
                "nobody" => &[],
                "other" => &[OTHER],
                "author" => &[AUTHOR],
                _ => &[OTHER, AUTHOR],
            };
            label(nip70::check(&event.view(), keys))
        }
        _ => panic!("unknown rule {rule}"),
    }
}

#[test]
fn the_rules_of_the_nips_judge_as_the_table_says() {
    let mut rules = std::collections::BTreeSet::new();
    for row in include_str!("vectors/nips.tsv").lines().filter(|row| !row.starts_with('#')) {
        let cells: Vec<&str> = row.split('\t').collect();
        let event = event(cells[2].parse().unwrap(), cells[3].parse().unwrap(), cells[4]);
        assert_eq!(verdict(cells[0], &event), cells[1], "{row}");
        rules.insert(&cells[0][..5]);
    }
    assert_eq!(rules.len(), 7);
}

#[test]
fn a_deletion_names_at_most_a_hundred_targets() {
    let tags = |count: usize| {
        let tag = format!(r#"["e","{}"]"#, "e1".repeat(32));
        format!("[{}]", vec![tag; count].join(","))
    };
    assert_eq!(nip09::targets(&event(5, 0, &tags(100)).view()).unwrap().len(), 100);
    assert_eq!(nip09::targets(&event(5, 0, &tags(101)).view()), Err(Reason::DeletionTooLarge));
}

#[test]
fn who_may_delete_what() {
    let to_other = format!(r#"[["p","{OTHER}"]]"#);
    let may =
        |key: &PublicKey, kind: u16| nip09::may_delete(key, &event(kind, 0, &to_other).view());
    for kind in [0, 1, 4, 13, 22_242, 30_023] {
        assert!(may(&AUTHOR, kind) && !may(&OTHER, kind), "{kind}");
    }
    for kind in [1059, 21_059] {
        assert!(may(&AUTHOR, kind) && may(&OTHER, kind), "{kind}");
    }
    for kind in [5, 62] {
        assert!(!may(&AUTHOR, kind) && !may(&OTHER, kind), "{kind}");
    }
}

#[test]
fn private_kinds_are_read_by_their_people_only() {
    let to_other = format!(r#"[["p","{OTHER}"]]"#);
    let may =
        |keys: &[PublicKey], kind: u16| nip17::may_read(keys, &event(kind, 0, &to_other).view());
    let stranger = PublicKey([1; 32]);
    assert!(may(&[], 1) && may(&[stranger], 1));
    for kind in nip17::PRIVATE_KINDS {
        assert!(!may(&[], kind) && !may(&[stranger], kind), "{kind}");
        assert!(may(&[OTHER], kind) && may(&[stranger, OTHER], kind), "{kind}");
    }
    assert!(may(&[AUTHOR], 4) && !may(&[AUTHOR], 1059) && !may(&[AUTHOR], 21_059));

    let asks = |json: &str| {
        nip17::asks_private_only(&parse_filter(json.as_bytes(), &Limits::default()).unwrap())
    };
    assert!(asks(r#"{"kinds":[4]}"#) && asks(r#"{"kinds":[1059,4,21059],"limit":1}"#));
    assert!(!asks("{}") && !asks(r#"{"kinds":[]}"#) && !asks(r#"{"kinds":[4,1]}"#));
}

#[test]
fn kinds_have_their_class_at_both_ends_of_every_range() {
    let classes = [
        (KindClass::Regular, &[1, 2, 4, 44, 45, 999, 1000, 9999, 40_000, 65_535][..]),
        (KindClass::Replaceable, &[0, 3, 10_000, 19_999]),
        (KindClass::Ephemeral, &[20_000, 29_999]),
        (KindClass::Addressable, &[30_000, 39_999]),
    ];
    for (expected, kinds) in classes {
        kinds.iter().for_each(|kind| assert_eq!(class(*kind), expected, "{kind}"));
    }
}

#[test]
fn a_slot_is_named_by_the_first_d_and_won_by_the_newer_or_lower() {
    let slot = |kind, tags: &str| Slot::of(&event(kind, 0, tags).view()).map(|slot| slot.d);
    assert_eq!(slot(1, r#"[["d","x"]]"#), None);
    assert_eq!(slot(20_000, r#"[["d","x"]]"#), None);
    assert_eq!(slot(10_000, r#"[["d","x"]]"#), Some(b""[..].into()));
    assert_eq!(slot(30_000, r#"[["e","y"],["d","x\n"],["d","z"]]"#), Some(b"x\n"[..].into()));
    assert_eq!(slot(30_000, r#"[["d"],["d","z"]]"#), Some(b""[..].into()));
    assert_eq!(slot(30_000, "[]"), Some(b""[..].into()));

    let version = |created_at, id| Version { created_at, id: EventId([id; 32]) };
    assert!(version(2, 9).beats(&version(1, 1)) && !version(1, 1).beats(&version(2, 9)));
    assert!(version(1, 1).beats(&version(1, 2)) && !version(1, 2).beats(&version(1, 1)));
    assert!(!version(1, 1).beats(&version(1, 1)));
}

#[test]
fn offsets_and_registers_are_as_the_table_says() {
    let mut rows = 0;
    for row in include_str!("vectors/nip45.tsv").lines().filter(|row| !row.starts_with('#')) {
        let cells: Vec<&str> = row.split('\t').collect();
        let result = match cells[0] {
            "offset" => {
                let filter = parse_filter(cells[1].as_bytes(), &Limits::default()).unwrap();
                Hll::offset_of(&filter).map_or("none".to_owned(), |offset| offset.to_string())
            }
            "register" => {
                let (offset, key) = cells[1].split_once(' ').unwrap();
                let mut hll = Hll::new();
                hll.add(offset.parse().unwrap(), &PublicKey::from_hex(key.as_bytes()).unwrap());
                let registers: [u8; 256] = proto::id::read_hex(hll.to_hex().as_bytes()).unwrap();
                let index = registers.iter().position(|register| *register > 0).unwrap();
                assert_eq!(registers.iter().filter(|register| **register > 0).count(), 1);
                format!("{index} {}", registers[index])
            }
            what => panic!("{what}"),
        };
        assert_eq!(result, cells[2], "{row}");
        rows += 1;
    }
    assert_eq!(rows, 26);
}

/// Keys that are hashes of their number.
fn keys(numbers: std::ops::Range<u64>) -> impl Iterator<Item = PublicKey> {
    use sha2::{Digest, Sha256};
    numbers.map(|number| PublicKey(Sha256::digest(number.to_be_bytes()).into()))
}

#[test]
fn counters_estimate_and_merge_and_count_nobody_twice() {
    let counted = |numbers: std::ops::Range<u64>| {
        let mut hll = Hll::new();
        keys(numbers).for_each(|key| hll.add(12, &key));
        hll
    };
    assert_eq!(counted(0..0).estimate(), 0);
    assert_eq!(counted(0..1).estimate(), 1);
    for count in [10, 100, 500, 700, 1_000, 10_000, 200_000] {
        let hll = counted(0..count);
        let error = hll.estimate().abs_diff(count) as f64 / count as f64;
        assert!(error < 0.2, "{} for {count}", hll.estimate());
        let mut twice = hll.clone();
        keys(0..count).for_each(|key| twice.add(12, &key));
        assert_eq!(twice, hll);
    }
    let mut merged = counted(0..3_000);
    merged.merge(&counted(2_000..5_000));
    assert_eq!(merged, counted(0..5_000));
    assert_eq!(Hll::from_hex(merged.to_hex().as_bytes()), Some(merged.clone()));
    // No such offset: nothing to read, or nothing to count.
    let before = merged.clone();
    [32, 255].into_iter().for_each(|offset| merged.add(offset, &AUTHOR));
    assert_eq!(merged, before);
}
