//! JSON tokens: values that are skipped, strings, integers and the search for what ends a string,
//! against serde_json and against loops over bytes.

use crate::oracle::{may_hold_surrogates, oversteps_json_limits};
use proto::{Reason, fuzzing, json};
use serde::de::IgnoredAny;

fn skip(text: &str) {
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    let bytes = text.as_bytes();
    match fuzzing::skip_value(bytes) {
        Ok(()) => assert!(is_json, "skipped what is no JSON: {text:?}"),
        // serde_json skips halves of surrogate pairs unseen.
        Err(Reason::BadUtf8) => assert!(may_hold_surrogates(bytes), "{text:?}"),
        Err(Reason::TooDeep | Reason::NumberTooLong) => {
            assert!(oversteps_json_limits(bytes), "{text:?}");
        }
        Err(reason) => assert!(!is_json, "{reason:?} for {text:?}"),
    }
}

fn string(text: &str) {
    let theirs = serde_json::from_str::<String>(text).ok();
    let ours = fuzzing::read_string(text.as_bytes()).ok();
    let decoded = ours.as_ref().map(|(decoded, _)| decoded.as_slice());
    assert_eq!(decoded, theirs.as_deref().map(str::as_bytes), "{text:?}");
    let is_canonical = theirs.is_some_and(|decoded| {
        let mut written = Vec::new();
        json::write_string(decoded.as_bytes(), &mut written);
        written == text.trim_matches([' ', '\n', '\r', '\t']).as_bytes()
    });
    assert_eq!(ours.is_some_and(|(_, is_canonical)| is_canonical), is_canonical, "{text:?}");
    let is_bare = !text.starts_with([' ', '\n', '\r', '\t']) && !text.ends_with([' ', '\n', '\r', '\t']);
    assert_eq!(json::is_canonical_string(text.as_bytes()), is_canonical && is_bare, "{text:?}");
}

/// Text that is no JSON: written, it is canonical and reads back.
fn write(text: &str) {
    let mut written = Vec::new();
    json::write_string(text.as_bytes(), &mut written);
    assert!(json::is_canonical_string(&written), "{text:?}");
    let theirs = serde_json::from_slice::<String>(&written);
    assert_eq!(theirs.ok().as_deref(), Some(text));
    let inside = &written[1..written.len() - 1];
    assert_eq!(*json::unescape(inside), *text.as_bytes());
    let raw = json::with_raw_controls(&written);
    let plain = |byte: &u8| *byte >= 0x20 || matches!(byte, b'\n' | b'\r' | b'\t' | 8 | 12);
    if text.bytes().all(|byte| plain(&byte)) {
        assert_eq!(*raw, *written, "nothing but control characters is written raw");
    }
}

fn integer(text: &[u8]) {
    let end = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
    let space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let from = text.iter().position(|byte| !space(byte)).unwrap_or(text.len());
    let token = text[from..].split(|byte| end(byte)).next().unwrap_or(&[]);
    let spelt = std::str::from_utf8(token).ok().filter(|token| {
        !token.is_empty()
            && token.bytes().all(|byte| byte.is_ascii_digit())
            && (token.len() == 1 || !token.starts_with('0'))
    });
    let expected = spelt.and_then(|token| token.parse::<u64>().ok());
    assert_eq!(fuzzing::read_integer(text), expected, "{:?}", String::from_utf8_lossy(text));
}

pub fn run(data: &[u8]) {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=31);
    for from in [0, data.len() / 3, data.len(), data.len() + 1] {
        let expected = data.get(from..).and_then(|rest| rest.iter().position(special));
        assert_eq!(fuzzing::find_special(data, from), expected.map(|at| from + at));
    }
    integer(data);
    // Must not panic, whatever the bytes are.
    let _ = json::unescape(data);
    let _ = json::with_raw_controls(data);
    let _ = json::is_canonical_string(data);
    if let Ok(text) = std::str::from_utf8(data) {
        skip(text);
        string(text);
        string(&format!("\"{text}\""));
        write(text);
    }
}
