//! Values to parse, the many ways to spell them as JSON, and damage.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// SplitMix64: enough to spread choices, and a seed says everything about a case.
pub struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        '"', '\\', '/', '\n', '\r', '\t', '\u{8}', '\u{c}', '\0', '\u{1f}', '\u{7f}', 'é', '😀',
        '[', ',',
    ]);
    let character = prop_oneof![4 => prop::char::range(' ', '~'), 2 => special, 1 => any::<char>()];
    prop::collection::vec(character, 0..40).prop_map(|characters| characters.into_iter().collect())
}

fn hex(bytes: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<u8>(), bytes)
        .prop_map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Few different keys, so that filters find something.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![(0..4u8).prop_map(|key| format!("{key:064x}")), hex(32)]
}

fn tag() -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof![
        prop::sample::select(vec!["e", "p", "t", "T", "d", "-", "expiration"])
            .prop_map(String::from),
        text()
    ];
    let value = prop_oneof![
        key(),
        prop::sample::select(vec!["", "a", "é\n"]).prop_map(String::from),
        text()
    ];
    (name, prop::collection::vec(value, 0..4)).prop_map(|(name, mut values)| {
        values.insert(0, name);
        values
    })
}

/// Any JSON value of moderate depth.
pub fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000..1000i32).prop_map(|number| json!(f64::from(number) / 8.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A well-formed event, sometimes with a field that is none of ours.
pub fn arbitrary_event() -> impl Strategy<Value = Value> {
    let tags = prop::collection::vec(tag(), 0..7);
    let extra = prop::option::weighted(0.2, (text(), arbitrary_json()));
    (key(), key(), hex(64), any::<u32>(), 0..40_000u16, tags, text(), extra).prop_map(
        |(id, pubkey, sig, created_at, kind, tags, content, extra)| {
            let mut event = Map::new();
            event.extend(extra);
            let fields = json!({
                "id": id, "pubkey": pubkey, "sig": sig, "created_at": created_at % 8, "kind": kind % 8,
                "tags": tags, "content": content,
            });
            event.extend(fields.as_object().unwrap().clone());
            if created_at % 3 == 0 {
                event.insert("created_at".into(), created_at.into());
                event.insert("kind".into(), kind.into());
            }
            Value::Object(event)
        },
    )
}

/// A well-formed filter.
pub fn arbitrary_filter() -> impl Strategy<Value = Value> {
    let list = || prop::option::weighted(0.3, prop::collection::vec(key(), 0..5));
    let number = || prop::option::weighted(0.3, prop_oneof![0..9u64, any::<u64>()]);
    let kinds = prop::option::weighted(0.4, prop::collection::vec(any::<u16>(), 0..5));
    let texts = prop::collection::btree_map(
        prop::sample::select(vec!["#t", "#T", "#d", "#x"]),
        prop::collection::vec(text(), 0..4),
        0..3,
    );
    (list(), list(), list(), kinds, number(), number(), number(), texts).prop_map(
        |(ids, authors, keys, kinds, since, until, limit, texts)| {
            let mut filter: Map<String, Value> =
                texts.into_iter().map(|(key, values)| (key.to_owned(), values.into())).collect();
            let lists = [("ids", ids), ("authors", authors), ("#p", keys)];
            filter.extend(
                lists.into_iter().filter_map(|(key, list)| Some((key.to_owned(), list?.into()))),
            );
            filter.extend(kinds.map(|kinds| ("kinds".to_owned(), kinds.into())));
            let numbers = [("since", since), ("until", until), ("limit", limit)];
            filter.extend(
                numbers
                    .into_iter()
                    .filter_map(|(key, number)| Some((key.to_owned(), number?.into()))),
            );
            Value::Object(filter)
        },
    )
}

/// A filter whose values are the event's own or near them.
#[allow(dead_code, reason = "not every test crate that shares this module matches filters")]
pub fn filter_near(event: &Value, seed: u64) -> Value {
    let mut choices = Choices(seed);
    let mut filter = Map::new();
    let key = |choices: &mut Choices| format!("{:064x}", choices.below(4));
    for (name, field) in [("ids", "id"), ("authors", "pubkey")] {
        if choices.below(4) == 0 {
            let own = event[field].as_str().unwrap().to_owned();
            let first = if choices.below(5) > 0 { own } else { key(&mut choices) };
            filter.insert(name.into(), json!([first, key(&mut choices)]));
        }
    }
    if choices.below(3) == 0 {
        filter.insert("kinds".into(), json!([event["kind"], 1, 2, choices.below(8)]));
    }
    let created_at = event["created_at"].as_u64().unwrap();
    for (name, value) in [("since", created_at.saturating_sub(1)), ("until", created_at + 1)] {
        if choices.below(3) == 0 {
            filter.insert(
                name.into(),
                json!(value + choices.below(3) as u64 - choices.below(2) as u64 * value.min(1)),
            );
        }
    }
    for tag in event["tags"].as_array().unwrap() {
        let (name, value) = (tag[0].as_str().unwrap(), tag.get(1).unwrap_or(&tag[0]));
        let is_letter = name.len() == 1 && name.as_bytes()[0].is_ascii_alphabetic();
        let is_hex = value.as_str().unwrap().len() == 64
            && value.as_str().unwrap().bytes().all(|c| b"0123456789abcdef".contains(&c));
        if is_letter && (is_hex || !matches!(name, "e" | "p")) && choices.below(2) == 0 {
            filter.insert(format!("#{name}"), json!([value, key(&mut choices)]));
        }
    }
    if choices.below(6) == 0 {
        filter.insert("#t".into(), json!(["a", ""]));
    }
    Value::Object(filter)
}

/// The message of a verb by number: three single ones, two with filters, one that is unknown.
#[allow(dead_code, reason = "not every test crate that shares this module makes messages")]
pub fn message(verb: usize, event: &Value, filters: &[Value]) -> Value {
    let with_filters = |name: &str| {
        let mut message = vec![json!(name), json!("sub \"1\"")];
        message.extend_from_slice(filters);
        Value::from(message)
    };
    match verb {
        0 => json!(["EVENT", event]),
        1 => json!(["AUTH", event]),
        2 => json!(["CLOSE", "ü".repeat(64)]),
        3 => with_filters("REQ"),
        4 => with_filters("COUNT"),
        5 => json!(["NEG-CLOSE", "ü"]),
        6 => json!(["NEG-MSG", "s", "6100aAfF"]),
        7 => json!(["NEG-OPEN", "s", filters.first().unwrap_or(&json!({})), "61"]),
        _ => with_filters("NEG"),
    }
}

/// One of the ways to write `value`: seed 0 modulo 3 is compact and canonical but for the order of
/// members, the others have white space and escapes of every kind.
pub fn spell(value: &Value, seed: u64) -> String {
    let mut out = String::new();
    write(value, &mut Choices(seed), seed.is_multiple_of(3), &mut out);
    out
}

fn space(choices: &mut Choices, compact: bool, out: &mut String) {
    if !compact && choices.below(4) == 0 {
        out.push_str(["\n", " ", "\t ", "\r\n"][choices.below(4)]);
    }
}

fn write(value: &Value, choices: &mut Choices, compact: bool, out: &mut String) {
    space(choices, compact, out);
    match value {
        Value::String(text) => write_text(text, choices, compact, out),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write(value, choices, compact, out);
            }
            space(choices, compact, out);
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            for index in (1..members.len()).rev() {
                members.swap(index, choices.below(index + 1));
            }
            out.push('{');
            for (index, (key, value)) in members.into_iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                space(choices, compact, out);
                write_text(key, choices, compact, out);
                space(choices, compact, out);
                out.push(':');
                write(value, choices, compact, out);
            }
            space(choices, compact, out);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
    space(choices, compact, out);
}

fn write_text(text: &str, choices: &mut Choices, compact: bool, out: &mut String) {
    if compact {
        out.push_str(&Value::from(text).to_string());
        return;
    }
    out.push('"');
    for character in text.chars() {
        match choices.below(12) {
            0 => character
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            1 => character
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| out.push_str(&format!("\\u{unit:04X}"))),
            2 if character == '/' => out.push_str("\\/"),
            _ => {
                let escaped = Value::from(character.to_string()).to_string();
                out.push_str(&escaped[1..escaped.len() - 1]);
            }
        }
    }
    out.push('"');
}

/// Tokens that are worth putting where they do not belong.
const TOKENS: [&str; 34] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-0",
    "01",
    "1e3",
    "1.0",
    "+5",
    "-1",
    "4294967296",
    "65536",
    "18446744073709551616",
    "123456789012345678901",
    "\"id\":",
    "\"kind\":1,",
    "\"\\u0069d\":\"x\",",
    "\\ud800",
    "\\udc00\\ud800",
    "\\u00",
    "\\x",
    "\u{1}",
    "\u{7f}",
    "[]",
    "[[]]",
    "[[[[[[[[",
    "\"#p\":[\"x\"],",
    " ",
];

/// `json` after some random edits; it may still be valid.
pub fn damage(mut json: Vec<u8>, seed: u64, edits: usize) -> Vec<u8> {
    let mut choices = Choices(!seed);
    for _ in 0..edits {
        let at = choices.below(json.len() + 1);
        let end = (at + 1 + choices.below(8)).min(json.len());
        match choices.below(6) {
            0 => json.truncate(at),
            1 => drop(json.drain(at..end)),
            2 => json.splice(at..at, [choices.next() as u8]).for_each(drop),
            3 => json.splice(at..end, []).for_each(drop),
            4 => {
                let copy = json[at..end].to_vec();
                json.splice(at..at, copy).for_each(drop);
            }
            _ => {
                let token = TOKENS[choices.below(TOKENS.len())];
                json.splice(at..at, token.bytes()).for_each(drop);
            }
        }
    }
    json
}
