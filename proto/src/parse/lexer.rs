//! JSON tokens. The text is valid UTF-8 (checked once for the whole message), so strings are only
//! searched for quotes, escapes and control characters.

use crate::Reason;
use crate::limits::{JSON_DEPTH_MAX, NUMBER_CHARACTERS_MAX};
use crate::scan::find_special;
use std::borrow::Cow;

// The stack of open brackets while skipping is one bit per level.
const _: () = assert!(JSON_DEPTH_MAX <= 64);

/// How a string is spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spelling {
    /// No escape at all.
    Plain,
    /// Only the escapes of the canonical form.
    Canonical,
    /// Valid, but not as the canonical form would write it.
    Foreign,
}

/// A string token: what stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) inside: &'a [u8],
    pub(crate) spelling: Spelling,
}

impl<'a> Text<'a> {
    /// The string itself, escapes removed.
    pub(crate) fn decoded(self) -> Cow<'a, [u8]> {
        match self.spelling {
            Spelling::Plain => Cow::Borrowed(self.inside),
            Spelling::Canonical => crate::json::unescape(self.inside),
            Spelling::Foreign => {
                let mut out = Vec::with_capacity(self.inside.len());
                decode(self.inside, &mut out);
                Cow::Owned(out)
            }
        }
    }
}

/// Reads tokens from left to right; `at` never passes the end.
#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// Brackets open around the place where `at` is, as far as the caller has entered them.
    pub(super) depth: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    #[inline]
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The text from `start` to here.
    #[inline]
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.at]
    }

    /// What has not been read.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// The next byte, white space or not.
    #[inline]
    pub(super) fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Passes `count` bytes that the caller has seen.
    #[inline]
    pub(super) fn pass(&mut self, count: usize) {
        self.at = (self.at + count).min(self.text.len());
    }

    /// Passes white space; says whether there was any.
    #[inline]
    pub(super) fn skip_space(&mut self) -> bool {
        let start = self.at;
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.at != start
    }

    /// The next byte that is not white space.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.byte()
    }

    /// Passes `wanted` if it is the next token.
    #[inline]
    pub(super) fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Passes `wanted`, which the grammar demands here.
    #[inline]
    pub(super) fn demand(&mut self, wanted: u8) -> Result<(), Reason> {
        if self.take(wanted) { Ok(()) } else { Err(Reason::BadJson) }
    }

    /// Only white space may be left.
    pub(crate) fn end(&mut self) -> Result<(), Reason> {
        if self.peek().is_none() { Ok(()) } else { Err(Reason::BadJson) }
    }

    /// A value that the caller has no use for in this place: `reason`, unless the value is no JSON.
    #[cold]
    pub(super) fn refuse(&mut self, reason: Reason) -> Reason {
        match self.skip_value() {
            Ok(()) | Err(Reason::NumberTooLong) => reason,
            Err(worse) => worse,
        }
    }

    /// A string token.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Text<'a>, Reason> {
        self.demand(b'"')?;
        let start = self.at;
        let end = find_special(self.text, start).ok_or(Reason::BadJson)?;
        if self.text[end] == b'"' {
            self.at = end + 1;
            return Ok(Text { inside: &self.text[start..end], spelling: Spelling::Plain });
        }
        self.escaped_string(start, end)
    }

    /// The rest of a string whose first special byte is at `special`.
    fn escaped_string(&mut self, start: usize, special: usize) -> Result<Text<'a>, Reason> {
        let mut spelling = Spelling::Canonical;
        let mut at = special;
        loop {
            match self.text[at] {
                b'"' => {
                    self.at = at + 1;
                    return Ok(Text { inside: &self.text[start..at], spelling });
                }
                b'\\' => {
                    let (length, is_canonical) = escape(&self.text[at..])?;
                    if !is_canonical {
                        spelling = Spelling::Foreign;
                    }
                    at += length;
                }
                _ => return Err(Reason::BadJson),
            }
            at = find_special(self.text, at).ok_or(Reason::BadJson)?;
        }
    }

    /// A plain non-negative integer: no sign, no leading zero, no fraction, no exponent. `None`
    /// leaves the token unread.
    #[inline]
    pub(crate) fn integer(&mut self) -> Option<u64> {
        self.skip_space();
        let mut at = self.at;
        let mut value = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.text.get(at) {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            at += 1;
        }
        let digits = at - self.at;
        if digits == 0 || (digits > 1 && self.text[self.at] == b'0') {
            return None;
        }
        match self.text.get(at) {
            None | Some(b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t') => {
                self.at = at;
                Some(value)
            }
            Some(_) => None,
        }
    }

    /// Passes one value of any kind, without recursion.
    pub(crate) fn skip_value(&mut self) -> Result<(), Reason> {
        let outside = self.depth;
        let mut depth = outside;
        // Bit 0 is the innermost open bracket; 1 stands for an object.
        let mut objects = 0u64;
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth >= JSON_DEPTH_MAX {
                        return Err(Reason::TooDeep);
                    }
                    self.at += 1;
                    let is_object = open == b'{';
                    if !self.take(if is_object { b'}' } else { b']' }) {
                        depth += 1;
                        objects = objects << 1 | u64::from(is_object);
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                Some(_) => self.skip_scalar()?,
                None => return Err(Reason::BadJson),
            }
            loop {
                if depth == outside {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                if self.take(b',') {
                    if is_object {
                        self.skip_key()?;
                    }
                    break;
                }
                self.demand(if is_object { b'}' } else { b']' })?;
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    fn skip_key(&mut self) -> Result<(), Reason> {
        self.string()?;
        self.demand(b':')
    }

    fn skip_scalar(&mut self) -> Result<(), Reason> {
        for literal in [&b"true"[..], b"false", b"null"] {
            if self.rest().starts_with(literal) {
                self.at += literal.len();
                return Ok(());
            }
        }
        match self.byte() {
            Some(b'"') => self.string().map(drop),
            _ => self.skip_number(),
        }
    }

    fn skip_number(&mut self) -> Result<(), Reason> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        let whole = self.digits();
        if whole == 0 || (whole > 1 && self.text[self.at - whole] == b'0') {
            return Err(Reason::BadJson);
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(Reason::BadJson);
            }
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return Err(Reason::BadJson);
            }
        }
        if self.at - start > NUMBER_CHARACTERS_MAX {
            return Err(Reason::NumberTooLong);
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        digits
    }
}

/// Length of the escape at the start of `text`, and whether the canonical form has it.
fn escape(text: &[u8]) -> Result<(usize, bool), Reason> {
    match text.get(1) {
        Some(b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f') => Ok((2, true)),
        Some(b'/') => Ok((2, false)),
        Some(b'u') => {
            let unit = unit(text, 2).ok_or(Reason::BadJson)?;
            match unit {
                0xd800..=0xdbff => match surrogate_pair(text) {
                    Some(_) => Ok((12, false)),
                    None => Err(Reason::BadUtf8),
                },
                0xdc00..=0xdfff => Err(Reason::BadUtf8),
                8 | 9 | 10 | 12 | 13 => Ok((6, false)),
                0..=31 => Ok((6, !text[5].is_ascii_uppercase())),
                _ => Ok((6, false)),
            }
        }
        _ => Err(Reason::BadJson),
    }
}

/// The four hex digits at `at`, in either case.
fn unit(text: &[u8], at: usize) -> Option<u16> {
    text.get(at..at + 4)?
        .iter()
        .try_fold(0, |unit, digit| Some(unit << 4 | (*digit as char).to_digit(16)? as u16))
}

/// The character of the two `\uxxxx` at the start of `text`, if they are a surrogate pair.
fn surrogate_pair(text: &[u8]) -> Option<char> {
    let high = unit(text, 2)?;
    if text.get(6..8)? != b"\\u" {
        return None;
    }
    let low = unit(text, 8)?;
    char::decode_utf16([high, low]).next()?.ok().filter(|_| (0xdc00..=0xdfff).contains(&low))
}

/// Appends the string whose inside is `inside`, escapes of every kind removed. The input has been
/// through the lexer; a malformed escape would end the string.
pub(super) fn decode(inside: &[u8], out: &mut Vec<u8>) {
    let mut rest = inside;
    while let Some(found) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..found]);
        rest = &rest[found..];
        let used = match rest.get(1) {
            Some(b'u') => {
                let pair = surrogate_pair(rest);
                let single = unit(rest, 2).and_then(|unit| char::from_u32(u32::from(unit)));
                let Some(character) = pair.or(single) else { return };
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                if pair.is_some() { 12 } else { 6 }
            }
            Some(short) => {
                out.push(match short {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'f' => 12,
                    other => *other,
                });
                2
            }
            None => return,
        };
        rest = rest.get(used..).unwrap_or(&[]);
    }
    out.extend_from_slice(rest);
}
