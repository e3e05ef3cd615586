//! Filters by `serde_json`, and the match as NIP-01 words it.

use super::event::OracleEvent;
use super::{Members, hex, integer, may_hold_surrogates, oversteps_json_limits, string};
use proto::parse::{parse_event, parse_filter};
use proto::{EventId, Filter, Limits, PublicKey, Reason, TagFilter};
use serde_json::value::RawValue;
use std::collections::BTreeSet;

fn list<T: Ord>(raw: &str, read: impl Fn(&str) -> Option<T>) -> Option<(Vec<T>, usize)> {
    let values: Vec<Box<RawValue>> = serde_json::from_str(raw).ok()?;
    let set: Option<BTreeSet<T>> = values.iter().map(|value| read(value.get())).collect();
    Some((set?.into_iter().collect(), values.len()))
}

/// The filter and the number of values as written.
pub fn read_filter(json: &[u8]) -> Option<(Filter, usize)> {
    let members = Members::read(json)?;
    if members.has_duplicates() {
        return None;
    }
    let mut filter = Filter::default();
    let mut total = 0;
    for (key, value) in &members.0 {
        let raw = value.get();
        let mut count = |values: usize| total += values;
        match key.as_str() {
            "ids" => {
                let (ids, written) = list(raw, |raw| hex(&string(raw)?).map(EventId))?;
                count(written);
                filter.ids = Some(ids);
            }
            "authors" => {
                let (keys, written) = list(raw, |raw| hex(&string(raw)?).map(PublicKey))?;
                count(written);
                filter.authors = Some(keys);
            }
            "kinds" => {
                let (kinds, written) = list(raw, |raw| u16::try_from(integer(raw)?).ok())?;
                count(written);
                filter.kinds = Some(kinds);
            }
            "since" => filter.since = Some(integer(raw)?),
            "until" => filter.until = Some(integer(raw)?),
            "limit" => filter.limit = Some(integer(raw)?),
            name => {
                let mut characters = name.chars();
                let (Some('#'), Some(letter), None) =
                    (characters.next(), characters.next(), characters.next())
                else {
                    return None;
                };
                if !letter.is_ascii_alphabetic() {
                    return None;
                }
                let (values, written) = list(raw, |raw| {
                    let value = string(raw)?;
                    let is_hex = hex::<32>(&value).is_some();
                    (is_hex || !matches!(letter, 'e' | 'p')).then(|| value.into_bytes().into())
                })?;
                count(written);
                filter.tags.push(TagFilter { letter: letter as u8, values });
            }
        }
    }
    filter.tags.sort_by_key(|tag| tag.letter);
    Some((filter, total))
}

/// Parses `json` both ways and panics where the two differ.
pub fn check_filter(json: &[u8], limits: &Limits) -> Result<Filter, Reason> {
    let expected = read_filter(json);
    match parse_filter(json, limits) {
        Ok(filter) => {
            let (expected, values) = expected.expect("accepted what serde_json refuses");
            assert_eq!(filter, expected);
            assert!(values <= limits.filter_values_max && filter.values() <= values);
            Ok(filter)
        }
        Err(reason) => {
            if let Some((filter, values)) = expected {
                let is_right = match reason {
                    Reason::TooManyFilterValues => values > limits.filter_values_max,
                    Reason::TooDeep | Reason::NumberTooLong => oversteps_json_limits(json),
                    Reason::BadUtf8 => may_hold_surrogates(json),
                    _ => false,
                };
                assert!(is_right, "{reason:?} for {filter:?}");
            }
            Err(reason)
        }
    }
}

/// The match of NIP-01 over the JSON of both sides.
fn matches(filter: &serde_json::Value, event: &OracleEvent) -> bool {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    filter.as_object().unwrap().iter().all(|(key, wanted)| match key.as_str() {
        "ids" => wanted.as_array().unwrap().contains(&hex(&event.id).into()),
        "authors" => wanted.as_array().unwrap().contains(&hex(&event.pubkey).into()),
        "kinds" => wanted.as_array().unwrap().contains(&event.kind.into()),
        "since" => u64::from(event.created_at) >= wanted.as_u64().unwrap(),
        "until" => u64::from(event.created_at) <= wanted.as_u64().unwrap(),
        "limit" => true,
        letter => event.tags.iter().any(|tag| {
            tag.len() > 1
                && tag[0] == letter[1..]
                && wanted.as_array().unwrap().contains(&tag[1].as_str().into())
        }),
    })
}

/// Matches both ways; `None` unless both texts parse.
pub fn check_match(filter_json: &[u8], event_json: &[u8]) -> Option<bool> {
    let filter = parse_filter(filter_json, &Limits::default()).ok()?;
    let event = parse_event(event_json, &Limits::default()).ok()?;
    let oracle = OracleEvent::read(event_json).expect("accepted what serde_json refuses");
    let value = serde_json::from_slice(filter_json).expect("accepted what serde_json refuses");
    let matched = filter.matches(&event.view());
    assert_eq!(matched, matches(&value, &oracle), "{value} {oracle:?}");
    assert!(!(matched && filter.matches_nothing()));
    assert!(!matched || filter.allows_kind(oracle.kind));
    Some(matched)
}
