//! Parser and matcher against `serde_json`, over generated events, filters and messages in many
//! spellings, and over damaged ones.
#![allow(clippy::unwrap_used)]

mod oracle;
mod spelling;

use oracle::event::{check_event, check_packed, check_round_trip};
use oracle::filter::{check_filter, check_match};
use oracle::message::check_message;
use oracle::small_limits;
use proptest::prelude::*;
use proto::Limits;
use spelling::{arbitrary_event, arbitrary_filter, arbitrary_json, damage, message, spell};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn well_formed_events_are_accepted_in_every_spelling(
        event in arbitrary_event(), seed in any::<u64>(),
    ) {
        let json = spell(&event, seed);
        prop_assert!(check_event(json.as_bytes(), &Limits::default()).is_ok(), "{}", json);
        check_event(json.as_bytes(), &small_limits()).ok();
        check_round_trip(json.as_bytes());
    }

    #[test]
    fn damaged_events_are_judged_alike(
        event in arbitrary_event(), seed in any::<u64>(), damages in 1..4usize,
    ) {
        let json = damage(spell(&event, seed).into_bytes(), seed, damages);
        check_event(&json, &Limits::default()).ok();
        check_event(&json, &small_limits()).ok();
        check_round_trip(&json);
    }

    #[test]
    fn damaged_packed_events_are_refused_or_readable(
        event in arbitrary_event(), seed in any::<u64>(), damages in 0..3usize,
    ) {
        let json = spell(&event, seed);
        let event = check_event(json.as_bytes(), &Limits::default());
        let packed = event.map(|event| event.packed().to_vec()).unwrap_or_default();
        check_packed(&packed);
        check_packed(&damage(packed, seed, damages));
    }

    #[test]
    fn filters_are_judged_alike_whole_and_damaged(
        filter in arbitrary_filter(), seed in any::<u64>(), damages in 1..4usize,
    ) {
        let json = spell(&filter, seed);
        prop_assert!(check_filter(json.as_bytes(), &Limits::default()).is_ok(), "{}", json);
        check_filter(json.as_bytes(), &small_limits()).ok();
        let json = damage(json.into_bytes(), seed, damages);
        check_filter(&json, &Limits::default()).ok();
    }

    #[test]
    fn messages_are_judged_alike_whole_and_damaged(
        event in arbitrary_event(),
        filters in prop::collection::vec(arbitrary_filter(), 0..6),
        verb in 0..9usize,
        seed in any::<u64>(),
        damages in 1..4usize,
    ) {
        let text = spell(&message(verb, &event, &filters), seed).into_bytes();
        let needs_filters = verb == 3 || verb == 4;
        let is_good = verb < 8 && !(needs_filters && filters.is_empty());
        prop_assert_eq!(check_message(&text, &Limits::default()).is_ok(), is_good);
        check_message(&text, &small_limits()).ok();
        let text = damage(text, seed, damages);
        check_message(&text, &Limits::default()).ok();
        check_message(&text, &small_limits()).ok();
    }

    #[test]
    fn arbitrary_json_and_arbitrary_bytes_are_judged_alike(
        value in arbitrary_json(), seed in any::<u64>(), noise in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let json = spell(&value, seed);
        for text in [json.as_bytes(), &noise] {
            check_event(text, &Limits::default()).ok();
            check_filter(text, &Limits::default()).ok();
            check_message(text, &Limits::default()).ok();
        }
    }
}

/// Filters are drawn from the event's own values half of the time, so that both verdicts are common;
/// the test fails if they are not.
#[test]
fn matching_agrees_with_the_naive_matcher() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut matched = 0;
    let cases = 4000;
    for seed in 0..cases {
        let event = arbitrary_event().new_tree(&mut runner).unwrap().current();
        let filter = spelling::filter_near(&event, seed);
        let verdict = check_match(spell(&filter, seed).as_bytes(), spell(&event, seed).as_bytes());
        matched += u64::from(verdict.expect("both are valid"));
    }
    assert!(matched > cases / 5 && matched < cases * 4 / 5, "{matched} of {cases} matched");
}
