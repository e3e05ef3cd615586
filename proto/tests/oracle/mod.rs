//! The parser and the matcher written a second time on top of `serde_json`, slowly and without any
//! of ours, and the checks that compare the two; and both ends of a reconciliation. The property tests and the fuzz targets share it.

pub mod event;
pub mod filter;
pub mod message;
pub mod negentropy;

use proto::Limits;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// Limits that inputs of a few hundred bytes can overstep.
pub fn small_limits() -> Limits {
    Limits {
        message_bytes_max: 2_000,
        event_bytes_max: 600,
        tags_max: 8,
        tag_elements_max: 6,
        filters_max: 4,
        filter_values_max: 12,
        ..Limits::default()
    }
}

/// The members of an object in their order, duplicates included.
pub struct Members(pub Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl Members {
    pub fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(json).ok()?).ok()
    }

    pub fn has_duplicates(&self) -> bool {
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    }

    pub fn find(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.get())
    }
}

/// A JSON string token.
pub fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// A number token of digits only.
pub fn integer(raw: &str) -> Option<u64> {
    let digits = raw.bytes().all(|byte| byte.is_ascii_digit());
    let zero_led = raw.len() > 1 && raw.starts_with('0');
    if digits && !zero_led { raw.parse().ok() } else { None }
}

/// Lower-case hex of exactly `N` bytes.
pub fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|c| b"0123456789abcdef".contains(&c)) {
        return None;
    }
    let mut out = [0; N];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(out)
}

/// Whether a `\u` escape of half a surrogate pair may be in the text. In fields that are skipped
/// serde_json does not look at these.
pub fn may_hold_surrogates(json: &[u8]) -> bool {
    json.windows(4).any(|escape| {
        escape.starts_with(b"\\u") && matches!(escape[2], b'd' | b'D') && escape[3] >= b'8'
    })
}

/// Whether brackets are nested deeper than `limit`, or a number token is longer than 20 characters.
pub fn oversteps_json_limits(json: &[u8]) -> bool {
    let (mut depth, mut deepest, mut number, mut longest) = (0usize, 0, 0, 0);
    let mut in_string = false;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => drop(bytes.next()),
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' => number += 1,
            _ => {}
        }
        if !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') || in_string {
            number = 0;
        }
        deepest = deepest.max(depth);
        longest = longest.max(number);
    }
    deepest > proto::limits::JSON_DEPTH_MAX || longest > proto::limits::NUMBER_CHARACTERS_MAX
}
