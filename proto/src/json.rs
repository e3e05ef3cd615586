//! JSON strings in canonical form: escapes, their removal, and the check that a span is canonical.

use crate::scan::find_special;
use std::borrow::Cow;

/// Appends the canonical JSON string of `text`, quotes included: the seven escapes of NIP-01,
/// other characters below 0x20 as `\u00xx` in lower case, all else raw.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

/// Appends `text` escaped, without quotes.
pub fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut start = 0;
    while let Some(at) = find_special(text, start) {
        let byte = text[at];
        let short = match byte {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            8 => b'b',
            12 => b'f',
            0..=31 => b'u',
            quote_or_backslash => quote_or_backslash,
        };
        out.extend_from_slice(&text[start..at]);
        start = at + 1;
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            out.extend_from_slice(b"00");
            crate::id::write_hex(&[byte], out);
        }
    }
    out.extend_from_slice(&text[start..]);
}

/// Reads an integer as JSON and the NIPs write it: digits only, no sign, no leading zero.
pub(crate) fn read_integer(text: &[u8]) -> Option<u64> {
    if text.is_empty() || (text.len() > 1 && text[0] == b'0') {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Removes the escapes of a canonical string's inside. A malformed escape ends the text: the input
/// was checked when the event was parsed.
pub fn unescape(inside: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', inside).is_none() {
        return Cow::Borrowed(inside);
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let (byte, used) = match rest.get(at + 1) {
            Some(b'n') => (b'\n', 2),
            Some(b'r') => (b'\r', 2),
            Some(b't') => (b'\t', 2),
            Some(b'b') => (8, 2),
            Some(b'f') => (12, 2),
            Some(b'u') => {
                let hex = rest.get(at + 4..at + 6).and_then(crate::id::read_hex::<1>);
                let Some([byte]) = hex else { return Cow::Owned(out) };
                (byte, 6)
            }
            Some(other) => (*other, 2),
            None => return Cow::Owned(out),
        };
        out.push(byte);
        rest = &rest[at + used..];
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// The same JSON text with `\u00xx` escapes turned into the raw characters: the hash preimage by
/// the letter of NIP-01.
pub fn with_raw_controls(json: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        let control = json
            .get(at + 1..at + 6)
            .filter(|escape| escape.starts_with(b"u00"))
            .and_then(|escape| crate::id::read_hex::<1>(&escape[3..]));
        if let Some(control) = control {
            out.extend_from_slice(&json[copied..at]);
            out.extend_from_slice(&control);
            at += 6;
            copied = at;
        } else {
            at += 2;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.extend_from_slice(&json[copied..]);
    Cow::Owned(out)
}

/// Whether `json` is one canonical JSON string, quotes included, in valid UTF-8.
pub fn is_canonical_string(json: &[u8]) -> bool {
    let Some(inside) = json.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return false;
    };
    if json.len() < 2 || simdutf8::basic::from_utf8(inside).is_err() {
        return false;
    }
    let mut at = 0;
    while let Some(special) = find_special(inside, at) {
        if inside[special] != b'\\' {
            return false;
        }
        let escape = &inside[special + 1..];
        at = special + 2;
        match escape.first() {
            Some(b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f') => {}
            Some(b'u') => {
                let digits = escape.get(3..5).and_then(crate::id::read_hex::<1>);
                let Some([control]) = digits.filter(|_| &escape[1..3] == b"00") else {
                    return false;
                };
                if control >= 32 || matches!(control, b'\n' | b'\r' | b'\t' | 8 | 12) {
                    return false;
                }
                at += 4;
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_written_canonically_and_read_back() {
        let step = if cfg!(miri) { 3_011 } else { 1 };
        let characters = (0..0x80).chain((0x80..=0x2_00ff).step_by(step));
        for character in characters.filter_map(char::from_u32) {
            let text = format!("a{character}b");
            let mut json = Vec::new();
            write_string(text.as_bytes(), &mut json);
            assert!(is_canonical_string(&json), "{character:?}");
            assert_eq!(unescape(&json[1..json.len() - 1]), text.as_bytes(), "{character:?}");
            let escaped = json.len() - 2 != text.len();
            assert_eq!(escaped, matches!(character, '\0'..='\u{1f}' | '"' | '\\'));
        }
    }

    /// The same, byte by byte.
    fn is_canonical_slowly(json: &[u8]) -> bool {
        let quoted = json.len() >= 2 && json[0] == b'"' && json[json.len() - 1] == b'"';
        if !quoted || std::str::from_utf8(json).is_err() {
            return false;
        }
        let mut rest = &json[1..json.len() - 1];
        while let Some((byte, after)) = rest.split_first() {
            rest = match (byte, after) {
                (b'\\', [b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f', after @ ..]) => after,
                (b'\\', [b'u', b'0', b'0', a, b, after @ ..]) => {
                    let digits = std::str::from_utf8(&[*a, *b]).unwrap().to_owned();
                    let Ok(control) = u8::from_str_radix(&digits, 16) else { return false };
                    let is_lower = !digits.contains(|c: char| c.is_ascii_uppercase() || c == '+');
                    let has_short = matches!(control, b'\n' | b'\r' | b'\t' | 8 | 12);
                    if control >= 32 || has_short || !is_lower {
                        return false;
                    }
                    after
                }
                (b'\\' | b'"' | 0..=31, _) => return false,
                _ => after,
            };
        }
        true
    }

    proptest::proptest! {
        #[test]
        fn what_is_canonical_does_not_depend_on_the_speed(
            parts in proptest::collection::vec(0usize..12, 0..60),
        ) {
            const PARTS: [&[u8]; 12] = [
                b"a", b"\\", b"\"", b"u", b"00", b"1f", b"0a", b"\n", b"\\u0001", b"0123456789abcdef",
                "\u{e9}".as_bytes(), b"n",
            ];
            let mut json = vec![b'"'];
            parts.iter().for_each(|part| json.extend_from_slice(PARTS[*part]));
            json.push(b'"');
            proptest::prop_assert_eq!(is_canonical_string(&json), is_canonical_slowly(&json));
        }
    }

    #[test]
    fn other_spellings_are_not_canonical() {
        let bad: [&[u8]; 20] = [
            b"",
            b"\"",
            b"a",
            b"\"a",
            b"a\"",
            b"\"\\\"",
            b"\"a\"b\"",
            b"\"\\/\"",
            b"\"\n\"",
            b"\"\x00\"",
            b"\"\\u000a\"",
            b"\"\\u0008\"",
            b"\"\\u001F\"",
            b"\"\\u0020\"",
            b"\"\\u007f\"",
            b"\"\\u0100\"",
            b"\"\\u00\"",
            b"\"\\x\"",
            b"\"\xff\"",
            b"\"\xed\xa0\x80\"",
        ];
        for json in bad {
            assert!(!is_canonical_string(json), "{:?}", String::from_utf8_lossy(json));
        }
        assert!(is_canonical_string(b"\"\""));
        assert!(is_canonical_string(b"\"\\u0000\\u001f\x7f\""));
    }

    #[test]
    fn raw_controls_replace_only_real_escapes() {
        let json = br#""\\u0001\u0001\n\\\u001f""#;
        assert_eq!(*with_raw_controls(json), *b"\"\\\\u0001\x01\\n\\\\\x1f\"");
        assert!(matches!(with_raw_controls(br#""\\u0001""#), Cow::Borrowed(_)));
    }

    #[test]
    fn unescape_survives_what_the_parser_would_have_refused() {
        for inside in [&b"\\"[..], b"a\\u", b"a\\u00", b"a\\u00zz", b"\\u0001\\"] {
            assert!(unescape(inside).len() <= inside.len());
        }
    }

    #[test]
    fn integers_have_one_spelling() {
        assert_eq!(read_integer(b"0"), Some(0));
        assert_eq!(read_integer(b"18446744073709551615"), Some(u64::MAX));
        for bad in
            ["", "+5", "-0", "00", "05", "1.0", "1e3", " 1", "1 ", "18446744073709551616", "٣"]
        {
            assert_eq!(read_integer(bad.as_bytes()), None, "{bad}");
        }
    }
}
