//! The corpus is what it says: repeatable, valid, and of the shape of public-relay traffic.
#![allow(clippy::unwrap_used)]

use bench::corpus::jsonl;
use bench::{Corpus, CorpusOptions, Role, Sample, Shape};
use proptest::prelude::*;
use proto::nip::nip01::{KindClass, class};
use proto::nip::{nip09, nip40, nip59};
use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
use proto::{Event, EventId, PublicKey, Secret, SeededState};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

fn verifier() -> Secp256k1Verifier {
    Secp256k1Verifier::new(SeededState::new(Secret([7; 16])), 4_096)
}

fn jsonl_bytes(corpus: Corpus, threads: usize) -> Vec<u8> {
    let mut out = Vec::new();
    jsonl::write(corpus, threads, &mut out, &mut |_| {}).unwrap();
    out
}

fn hostile() -> CorpusOptions {
    CorpusOptions {
        duplicate_per_mille: 500,
        bad_signature_per_mille: 20,
        stale_per_myriad: 100,
        ..CorpusOptions::default()
    }
}

fn packed_hash(corpus: Corpus) -> String {
    let mut hash = Sha256::new();
    for event in corpus {
        hash.update(event.packed());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash stands here so that a change of the generator is seen, and so that two machines that
/// differ are found out. It changes only on purpose: figures of different hashes do not compare.
#[test]
fn a_seed_names_the_same_bytes_everywhere() {
    let hash = packed_hash(Corpus::public(42, 3_000, hostile()));
    assert_eq!(hash, "d114c7ff985f3463c6b838fcf57e45f0af135ff3bfd96058a0f73aa2aa296456");
    let uniform = Shape::Uniform { event_bytes: 500 };
    let hash = packed_hash(Corpus::new(uniform, 42, 200, CorpusOptions::default()));
    assert_eq!(hash, "492841b8b3e5677cb0bc4bb98661b4abff74ffa9d45e90044c8635a774d10b33");
}

#[test]
fn the_file_does_not_depend_on_the_number_of_threads() {
    let one = jsonl_bytes(Corpus::public(5, 2_500, hostile()), 1);
    assert_eq!(one, jsonl_bytes(Corpus::public(5, 2_500, hostile()), 3));
    assert_ne!(one, jsonl_bytes(Corpus::public(6, 2_500, hostile()), 1));
    assert_eq!(one.iter().filter(|byte| **byte == b'\n').count(), 2_500);
}

#[test]
fn every_event_is_what_its_role_says() {
    let mut verifier = verifier();
    let mut seen: BTreeMap<EventId, Event> = BTreeMap::new();
    let mut newest: BTreeMap<proto::nip::nip01::Slot, u32> = BTreeMap::new();
    let mut roles: BTreeMap<String, u32> = BTreeMap::new();
    for Sample { event, role } in Corpus::public(11, 6_000, hostile()).samples() {
        let view = event.view();
        assert_eq!(Event::from_packed(event.packed()), Ok(event.clone()));
        assert!(view.id_is_valid(), "{view:?}");
        assert!(event.packed().len() <= proto::Limits::default().event_bytes_max);
        assert_eq!(nip59::check(&view), Ok(()));
        assert!(nip40::expires_at(&view).is_ok());
        let valid = verifier.verify(&VerifyItem::of(&view));
        assert_eq!(valid, role != Role::BadSignature, "{role:?} {view:?}");
        let slot = proto::nip::nip01::Slot::of(&view);
        match role {
            Role::Duplicate => assert_eq!(seen.get(&view.id()), Some(&event)),
            Role::Stale => {
                let holder = newest[&slot.clone().unwrap()];
                assert!(view.created_at() < holder, "{view:?} is not older than {holder}");
            }
            Role::Fresh => {
                assert!(!seen.contains_key(&view.id()));
                if let Some(slot) = slot {
                    newest.insert(slot, view.created_at());
                }
            }
            Role::BadSignature => {}
        }
        if role != Role::BadSignature {
            seen.insert(view.id(), event.clone());
        }
        *roles.entry(format!("{role:?}")).or_default() += 1;
    }
    assert!((2_700..3_300).contains(&roles["Duplicate"]), "{roles:?}");
    assert!((30..100).contains(&roles["BadSignature"]), "{roles:?}");
    assert!((10..60).contains(&roles["Stale"]), "{roles:?}");
}

#[test]
fn shares_are_those_of_public_relays() {
    let count = 60_000;
    let (mut kinds, mut authors) = (BTreeMap::<u16, u32>::new(), BTreeMap::<PublicKey, u32>::new());
    let mut sizes = Vec::new();
    let mut classes = BTreeMap::<&str, u32>::new();
    let (mut own_targets, mut expiring, mut escaped, mut wide) = (0, 0, 0, 0);
    let mut written = BTreeSet::<EventId>::new();
    let mut json = Vec::new();
    let options = CorpusOptions { stale_per_myriad: 0, ..CorpusOptions::default() };
    for unsigned in Corpus::public(3, count, options).unsigned() {
        let event = unsigned.event();
        let view = event.view();
        *kinds.entry(view.kind()).or_default() += 1;
        *authors.entry(view.pubkey()).or_default() += 1;
        json.clear();
        view.write_json(&mut json);
        sizes.push(json.len());
        let name = match class(view.kind()) {
            KindClass::Regular => "regular",
            KindClass::Replaceable => "replaceable",
            KindClass::Ephemeral => "ephemeral",
            KindClass::Addressable => "addressable",
        };
        *classes.entry(name).or_default() += 1;
        if view.kind() == nip09::KIND {
            let targets = nip09::targets(&view).unwrap();
            let own = targets.iter().any(|target| match target {
                nip09::Target::Id(id) => written.contains(id),
                nip09::Target::Slot(slot) => slot.pubkey == view.pubkey(),
            });
            own_targets += u32::from(own);
        }
        expiring += u32::from(nip40::expires_at(&view).unwrap().is_some());
        escaped += u32::from(view.content_json().contains(&b'\\'));
        wide += u32::from(!view.content_json().is_ascii());
        written.insert(view.id());
    }
    let share = |kind: u16| f64::from(kinds.get(&kind).copied().unwrap_or(0)) / count as f64;
    for (kind, expected) in [
        (1, 0.371),
        (7, 0.180),
        (4, 0.053),
        (0, 0.045),
        (3, 0.043),
        (6, 0.042),
        (5, 0.029),
        (1059, 0.021),
    ] {
        let off = (share(kind) - expected).abs() / expected;
        assert!(off < 0.12, "kind {kind}: {} instead of {expected}", share(kind));
    }
    assert!((0.045..0.055).contains(&(f64::from(classes["ephemeral"]) / count as f64)));
    assert!(classes["addressable"] > 1_000, "{classes:?}");
    assert!(f64::from(own_targets) > 0.9 * f64::from(kinds[&5]), "{own_targets} own targets");
    assert!((150..600).contains(&expiring), "{expiring} expire");
    assert!(escaped > 5_000 && wide > 5_000, "{escaped} with escapes, {wide} beyond ASCII");

    let once = authors.values().filter(|events| **events == 1).count();
    let once_share = once as f64 / authors.len() as f64;
    assert!((0.70..0.80).contains(&once_share), "{once_share} of the keys write once");
    let per_key = count as f64 / authors.len() as f64;
    assert!((9.5..12.0).contains(&per_key), "{per_key} events per key");
    let top = authors.values().max().copied().unwrap();
    assert!(f64::from(top) > 0.05 * count as f64, "the busiest key wrote {top}");

    sizes.sort_unstable();
    let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
    let at = |per_mille: usize| sizes[sizes.len() * per_mille / 1_000];
    println!("mean {mean} p50 {} p99 {} max {}", at(500), at(990), sizes[sizes.len() - 1]);
    assert!((900.0..1_100.0).contains(&mean), "mean {mean}");
    assert!((540..660).contains(&at(500)), "median {}", at(500));
    assert!((6_500..9_500).contains(&at(990)), "p99 {}", at(990));
    assert!((50_000..=256 * 1_024).contains(&sizes[sizes.len() - 1]));
}

#[test]
fn uniform_events_have_exactly_the_size_asked_for() {
    for event_bytes in [500, 1_024] {
        let shape = Shape::Uniform { event_bytes };
        let file = jsonl_bytes(Corpus::new(shape, 1, 64, CorpusOptions::default()), 2);
        for line in file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            assert_eq!(line.len(), event_bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_the_event_to_an_independent_parser(seed in any::<u64>()) {
        let corpus = Corpus::public(seed, 40, CorpusOptions::default());
        let events: Vec<Event> = corpus.collect();
        let file = jsonl_bytes(Corpus::public(seed, 40, CorpusOptions::default()), 2);
        for (line, event) in file.split(|byte| *byte == b'\n').zip(&events) {
            let value: serde_json::Value = serde_json::from_slice(line).unwrap();
            let view = event.view();
            prop_assert_eq!(value["id"].as_str().unwrap(), view.id().to_hex());
            prop_assert_eq!(value["created_at"].as_u64().unwrap(), u64::from(view.created_at()));
            let tags = value["tags"].as_array().unwrap();
            prop_assert_eq!(tags.len(), view.tags().count());
            for (theirs, ours) in tags.iter().zip(view.tags()) {
                for (theirs, ours) in theirs.as_array().unwrap().iter().zip(ours.elements()) {
                    prop_assert_eq!(theirs.as_str().unwrap().as_bytes(), &*ours);
                }
            }
        }
    }
}
