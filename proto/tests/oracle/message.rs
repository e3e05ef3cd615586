//! Client messages by `serde_json`.

use super::event::{OracleEvent, readable_id};
use super::filter::read_filter;
use super::{may_hold_surrogates, oversteps_json_limits, string};
use proto::parse::{parse_client_message, parse_event, parse_filter};
use proto::{ClientMessage, Limits, MessageError, Reason};
use serde_json::value::RawValue;

/// The elements of the message's array, if it is one that begins with a string.
fn elements(text: &[u8]) -> Option<(String, Vec<Box<RawValue>>)> {
    let mut elements: Vec<Box<RawValue>> =
        serde_json::from_str(std::str::from_utf8(text).ok()?).ok()?;
    if elements.is_empty() {
        return None;
    }
    let verb = string(elements.remove(0).get())?;
    Some((verb, elements))
}

fn subscription(raw: &str) -> Option<String> {
    string(raw).filter(|sub| (1..=64).contains(&sub.chars().count()))
}

/// The bytes of a string of hex digits in either case.
fn bytes(raw: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = string(raw)?.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// Whether `serde_json` and the rules accept the message, limits aside.
fn is_acceptable(verb: &str, rest: &[Box<RawValue>]) -> bool {
    let one = |read: &dyn Fn(&str) -> bool| rest.len() == 1 && read(rest[0].get());
    match verb {
        "EVENT" | "AUTH" => one(&|raw| OracleEvent::read(raw.as_bytes()).is_some()),
        "CLOSE" | "NEG-CLOSE" => one(&|raw| subscription(raw).is_some()),
        "NEG-OPEN" | "NEG-MSG" => {
            let has_filter = usize::from(verb == "NEG-OPEN");
            rest.len() == 2 + has_filter
                && subscription(rest[0].get()).is_some()
                && rest[1..=has_filter]
                    .iter()
                    .all(|raw| read_filter(raw.get().as_bytes()).is_some())
                && bytes(rest[1 + has_filter].get()).is_some()
        }
        "REQ" | "COUNT" => {
            rest.len() >= 2
                && subscription(rest[0].get()).is_some()
                && rest[1..].iter().all(|raw| read_filter(raw.get().as_bytes()).is_some())
        }
        _ => false,
    }
}

/// Parses `text` both ways and panics where the two differ.
pub fn check_message(text: &[u8], limits: &Limits) -> Result<ClientMessage, Reason> {
    let read = elements(text);
    match parse_client_message(text, limits) {
        Ok(message) => {
            let (verb, rest) = read.expect("accepted what serde_json refuses");
            assert!(is_acceptable(&verb, &rest), "{message:?}");
            compare(&message, &verb, &rest, limits);
            Ok(message)
        }
        Err(error) => {
            if let Some((verb, rest)) = &read {
                check_blame(&error, verb, rest);
                if is_acceptable(verb, rest) {
                    let is_right = match error.reason() {
                        Reason::MessageTooLong => text.len() > limits.message_bytes_max,
                        Reason::TooDeep | Reason::NumberTooLong => oversteps_json_limits(text),
                        Reason::BadUtf8 => may_hold_surrogates(text),
                        Reason::TooManyFilters => rest.len() > limits.filters_max,
                        Reason::TooManyFilterValues => values(rest) > limits.filter_values_max,
                        // The event's own limits; that check has its own target.
                        Reason::TooManyTags
                        | Reason::TooManyTagElements
                        | Reason::TooManyFields
                        | Reason::EventTooLarge => parse_event(rest[0].get().as_bytes(), limits)
                            .is_err_and(|event| event.reason == error.reason()),
                        _ => false,
                    };
                    assert!(is_right, "{error:?} for {verb} {rest:?}");
                }
            }
            Err(error.reason())
        }
    }
}

fn values(rest: &[Box<RawValue>]) -> usize {
    let filters = rest.iter().skip(1).filter_map(|raw| read_filter(raw.get().as_bytes()));
    filters.map(|(_, values)| values).sum()
}

fn compare(message: &ClientMessage, verb: &str, rest: &[Box<RawValue>], limits: &Limits) {
    match message {
        ClientMessage::Event(event) | ClientMessage::Auth(event) => {
            assert_eq!(verb == "AUTH", matches!(message, ClientMessage::Auth(_)));
            // Unknown fields stand one level less deep here, so this cannot fail if that did not.
            assert_eq!(parse_event(rest[0].get().as_bytes(), limits).as_ref(), Ok(event));
        }
        ClientMessage::Req(sub, filters) | ClientMessage::Count(sub, filters) => {
            assert_eq!(verb == "COUNT", matches!(message, ClientMessage::Count(..)));
            assert_eq!(subscription(rest[0].get()).as_deref(), Some(&**sub));
            assert_eq!(filters.len(), rest.len() - 1);
            for (filter, raw) in filters.iter().zip(&rest[1..]) {
                assert_eq!(parse_filter(raw.get().as_bytes(), limits).as_ref(), Ok(filter));
            }
        }
        ClientMessage::Close(sub) | ClientMessage::NegClose(sub) => {
            let is_neg = matches!(message, ClientMessage::NegClose(_));
            assert_eq!(verb, if is_neg { "NEG-CLOSE" } else { "CLOSE" });
            assert_eq!(subscription(rest[0].get()).as_deref(), Some(&**sub));
        }
        ClientMessage::NegOpen(sub, filter, inner) => {
            assert_eq!(verb, "NEG-OPEN");
            assert_eq!(subscription(rest[0].get()).as_deref(), Some(&**sub));
            assert_eq!(parse_filter(rest[1].get().as_bytes(), limits).as_ref(), Ok(&**filter));
            assert_eq!(bytes(rest[2].get()).as_ref(), Some(inner));
        }
        ClientMessage::NegMsg(sub, inner) => {
            assert_eq!(verb, "NEG-MSG");
            assert_eq!(subscription(rest[0].get()).as_deref(), Some(&**sub));
            assert_eq!(bytes(rest[1].get()).as_ref(), Some(inner));
        }
    }
}

/// The answer goes to the event or the subscription that the message is about, if it can be read.
fn check_blame(error: &MessageError, verb: &str, rest: &[Box<RawValue>]) {
    let first = rest.first().map(|raw| raw.get());
    if error.reason() == Reason::MessageTooLong {
        assert_eq!(*error, MessageError::Notice(Reason::MessageTooLong));
        return;
    }
    match verb {
        "EVENT" | "AUTH" => {
            let id = first.and_then(|raw| readable_id(raw.as_bytes()));
            let blamed = match error {
                MessageError::Event(id, _) => Some(*id),
                _ => None,
            };
            assert!(id.is_none() || id == blamed, "{error:?}");
        }
        "REQ" | "COUNT" => {
            let blamed = match error {
                MessageError::Subscription(sub, _) => Some(sub.to_string()),
                _ => None,
            };
            assert_eq!(first.and_then(subscription), blamed, "{error:?}");
        }
        "NEG-OPEN" | "NEG-MSG" => {
            let blamed = match error {
                MessageError::Negentropy(sub, _) => Some(sub.to_string()),
                _ => None,
            };
            assert_eq!(first.and_then(subscription), blamed, "{error:?}");
        }
        _ => assert!(matches!(error, MessageError::Notice(_)), "{error:?}"),
    }
}
