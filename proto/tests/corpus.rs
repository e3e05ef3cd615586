//! The committed seeds of the fuzz targets, run without a fuzzer: each gives the verdict that its
//! name says, and together they reach every reason for which the parser can refuse.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that reads its seeds")]

mod oracle;

use oracle::event::{check_event, check_packed, check_round_trip};
use oracle::filter::{check_filter, check_match};
use oracle::message::check_message;
use oracle::negentropy;
use oracle::small_limits;
use proto::Reason;
use std::collections::BTreeSet;

/// What the parser refuses below the level of events, filters and messages.
const JSON: [Reason; 5] = [
    Reason::BadJson,
    Reason::BadUtf8,
    Reason::TooDeep,
    Reason::NumberTooLong,
    Reason::DuplicateKey,
];

/// What it refuses in an event.
const EVENT: [Reason; 13] = [
    Reason::EventNotObject,
    Reason::TooManyFields,
    Reason::MissingField,
    Reason::BadId,
    Reason::BadPubkey,
    Reason::BadSigFormat,
    Reason::BadCreatedAt,
    Reason::BadKind,
    Reason::BadTags,
    Reason::BadContent,
    Reason::TooManyTags,
    Reason::TooManyTagElements,
    Reason::EventTooLarge,
];

/// What it refuses in a filter.
const FILTER: [Reason; 10] = [
    Reason::FilterNotObject,
    Reason::UnknownFilterKey,
    Reason::BadFilterId,
    Reason::BadFilterAuthor,
    Reason::BadFilterKind,
    Reason::BadFilterTag,
    Reason::BadFilterSince,
    Reason::BadFilterUntil,
    Reason::BadFilterLimit,
    Reason::TooManyFilterValues,
];

/// What it refuses in a message around events and filters.
const MESSAGE: [Reason; 8] = [
    Reason::NotAMessage,
    Reason::UnknownVerb,
    Reason::MessageTooLong,
    Reason::WrongArity,
    Reason::BadSubscriptionId,
    Reason::NoFilter,
    Reason::TooManyFilters,
    Reason::NegBadHex,
];

/// Name and bytes of the seeds of a target, in order of name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = format!("{}/../sim/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut seeds: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

/// Runs the seeds of a target; the part of a name before the dot is `ok` or a reason's label.
fn reached(target: &str, check: impl Fn(&[u8]) -> Result<(), Reason>) -> BTreeSet<Reason> {
    let mut reached = BTreeSet::new();
    for (name, bytes) in seeds(target) {
        let verdict = check(&bytes);
        let label = verdict.err().map_or("ok", Reason::label);
        assert_eq!(name.split('.').next(), Some(label), "{target}/{name}");
        reached.extend(verdict.err());
    }
    reached
}

#[test]
fn the_seeds_alone_reach_every_reason_of_the_parser() {
    let limits = small_limits();
    let event = reached("event_parse", |json| check_event(json, &limits).map(drop));
    assert_eq!(event, JSON.into_iter().chain(EVENT).collect());

    // A number that is too long is refused as the value of its key, of which every one is known.
    let filter = reached("filter_parse", |json| check_filter(json, &limits).map(drop));
    let json = JSON.into_iter().filter(|reason| *reason != Reason::NumberTooLong);
    assert_eq!(filter, json.chain(FILTER).collect());

    let mut all = reached("message_parse", |text| check_message(text, &limits).map(drop));
    assert!(MESSAGE.iter().all(|reason| all.contains(reason)));
    all.extend(event);
    all.extend(filter);
    assert_eq!(all, JSON.into_iter().chain(EVENT).chain(FILTER).chain(MESSAGE).collect());
}

#[test]
fn the_other_seeds_pass_their_checks() {
    for (name, bytes) in seeds("event_roundtrip") {
        assert!(check_event(&bytes, &small_limits()).is_ok(), "{name}");
        check_round_trip(&bytes);
        check_packed(&bytes);
    }
    for (name, bytes) in seeds("filter_match_vs_naive") {
        let (filter, event) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap());
        assert_eq!(check_match(filter, event), Some(name.starts_with("match.")), "{name}");
    }
}

#[test]
fn the_seeds_of_negentropy_reach_every_error_and_every_kind_of_difference() {
    let mut errors = BTreeSet::new();
    for (name, bytes) in seeds("negentropy_message") {
        let verdict = negentropy::check_message(&bytes).err();
        let label = verdict.map_or("ok".to_owned(), |error| format!("{error:?}"));
        let label = label.split('(').next().unwrap_or_default().to_owned();
        assert_eq!(name.split('.').next(), Some(&*label), "{name}");
        errors.insert(label);
    }
    assert_eq!(errors.len(), 9, "{errors:?}");
    for (name, bytes) in seeds("negentropy_ends") {
        let found = negentropy::check_two_ends(&bytes).unwrap();
        assert_eq!(found == (0, 0), name.starts_with("equal."), "{name}");
    }
}
