//! EVENT objects. Spans that arrive in canonical form are copied as they are into the packed event;
//! any other spelling is rewritten, so that the packed form knows one spelling only.

use super::lexer::{Lexer, Spelling};
use crate::id::read_hex;
use crate::json::write_string;
use crate::limits::UNKNOWN_FIELDS_MAX;
use crate::{Event, EventId, EventParts, Limits, PublicKey, Reason, Signature};
use std::borrow::Cow;

/// The fields seen so far, and the unknown keys, which may not occur twice either.
#[derive(Default)]
struct Fields<'a> {
    id: Option<[u8; 32]>,
    pubkey: Option<[u8; 32]>,
    sig: Option<[u8; 64]>,
    created_at: Option<u32>,
    kind: Option<u16>,
    tags_json: Option<Cow<'a, [u8]>>,
    content_json: Option<Cow<'a, [u8]>>,
    unknown: Vec<Cow<'a, [u8]>>,
}

/// Reads the event object that comes next.
pub(super) fn read_event(lexer: &mut Lexer<'_>, limits: &Limits) -> Result<Event, Reason> {
    if lexer.peek() != Some(b'{') {
        return Err(lexer.refuse(Reason::EventNotObject));
    }
    lexer.pass(1);
    lexer.depth += 1;
    let mut fields = Fields::default();
    if !lexer.take(b'}') {
        loop {
            fields.read_member(lexer, limits)?;
            if !lexer.take(b',') {
                break;
            }
        }
        lexer.demand(b'}')?;
    }
    lexer.depth -= 1;
    fields.finish(limits)
}

/// The seven keys of an event.
#[derive(Clone, Copy)]
enum Key {
    Id,
    Pubkey,
    CreatedAt,
    Kind,
    Tags,
    Content,
    Sig,
}

impl Key {
    /// The key that `text` begins with, as everybody spells it, and the bytes up to its value: the
    /// quotes and the colon included.
    #[inline]
    fn at_start(text: &[u8]) -> Option<(Self, usize)> {
        let (key, spelling): (Self, &[u8]) = match text.get(1..3)? {
            b"id" => (Self::Id, b"\"id\":"),
            b"pu" => (Self::Pubkey, b"\"pubkey\":"),
            b"cr" => (Self::CreatedAt, b"\"created_at\":"),
            b"ki" => (Self::Kind, b"\"kind\":"),
            b"ta" => (Self::Tags, b"\"tags\":"),
            b"co" => (Self::Content, b"\"content\":"),
            b"si" => (Self::Sig, b"\"sig\":"),
            _ => return None,
        };
        text.starts_with(spelling).then_some((key, spelling.len()))
    }

    fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"id" => Self::Id,
            b"pubkey" => Self::Pubkey,
            b"created_at" => Self::CreatedAt,
            b"kind" => Self::Kind,
            b"tags" => Self::Tags,
            b"content" => Self::Content,
            b"sig" => Self::Sig,
            _ => return None,
        })
    }
}

impl<'a> Fields<'a> {
    /// Reads one key and its value.
    #[inline]
    fn read_member(&mut self, lexer: &mut Lexer<'a>, limits: &Limits) -> Result<(), Reason> {
        lexer.skip_space();
        if let Some((key, length)) = Key::at_start(lexer.rest()) {
            lexer.pass(length);
            return self.read_value(key, lexer, limits);
        }
        self.read_unusual_member(lexer, limits)
    }

    /// An unknown key, or one of ours with an escape in it or white space behind it.
    #[cold]
    fn read_unusual_member(
        &mut self,
        lexer: &mut Lexer<'a>,
        limits: &Limits,
    ) -> Result<(), Reason> {
        let name = lexer.string()?.decoded();
        lexer.demand(b':')?;
        match Key::named(&name) {
            Some(key) => self.read_value(key, lexer, limits),
            None if self.unknown.contains(&name) => Err(Reason::DuplicateKey),
            None if self.unknown.len() >= UNKNOWN_FIELDS_MAX => Err(Reason::TooManyFields),
            None => {
                self.unknown.push(name);
                lexer.skip_value()
            }
        }
    }

    #[inline]
    fn read_value(
        &mut self,
        key: Key,
        lexer: &mut Lexer<'a>,
        limits: &Limits,
    ) -> Result<(), Reason> {
        match key {
            Key::Id => once(&mut self.id, || read_hex_string(lexer, Reason::BadId)),
            Key::Pubkey => once(&mut self.pubkey, || read_hex_string(lexer, Reason::BadPubkey)),
            Key::Sig => once(&mut self.sig, || read_hex_string(lexer, Reason::BadSigFormat)),
            Key::CreatedAt => once(&mut self.created_at, || {
                read_integer(lexer, u64::from(u32::MAX), Reason::BadCreatedAt)
                    .map(|seconds| seconds as u32)
            }),
            Key::Kind => once(&mut self.kind, || {
                read_integer(lexer, u64::from(u16::MAX), Reason::BadKind).map(|kind| kind as u16)
            }),
            Key::Tags => once(&mut self.tags_json, || read_tags(lexer, limits)),
            Key::Content => once(&mut self.content_json, || read_content(lexer)),
        }
    }

    fn finish(self, limits: &Limits) -> Result<Event, Reason> {
        let (Some(id), Some(pubkey), Some(sig)) = (self.id, self.pubkey, self.sig) else {
            return Err(Reason::MissingField);
        };
        let (Some(created_at), Some(kind)) = (self.created_at, self.kind) else {
            return Err(Reason::MissingField);
        };
        let (Some(tags_json), Some(content_json)) = (self.tags_json, self.content_json) else {
            return Err(Reason::MissingField);
        };
        let parts = EventParts {
            id: EventId(id),
            pubkey: PublicKey(pubkey),
            sig: Signature(sig),
            created_at,
            kind,
            tags_json: &tags_json,
            content_json: &content_json,
        };
        if parts.packed_bytes() > limits.event_bytes_max.min(u32::MAX as usize) {
            return Err(Reason::EventTooLarge);
        }
        Ok(parts.pack())
    }
}

#[inline]
fn once<T>(field: &mut Option<T>, read: impl FnOnce() -> Result<T, Reason>) -> Result<(), Reason> {
    if field.is_some() {
        return Err(Reason::DuplicateKey);
    }
    *field = Some(read()?);
    Ok(())
}

/// A string of exactly `2 * N` lower-case hex digits.
#[inline]
pub(super) fn read_hex_string<const N: usize>(
    lexer: &mut Lexer<'_>,
    reason: Reason,
) -> Result<[u8; N], Reason> {
    lexer.skip_space();
    let rest = lexer.rest();
    // Hex digits are neither quotes nor escapes, so a string of the right length that is all hex
    // needs no search for its end.
    let is_quoted = rest.first() == Some(&b'"') && rest.get(2 * N + 1) == Some(&b'"');
    if let Some(bytes) = is_quoted.then(|| read_hex(&rest[1..=2 * N])).flatten() {
        lexer.pass(2 * N + 2);
        return Ok(bytes);
    }
    read_hex_string_slowly(lexer, reason)
}

#[cold]
fn read_hex_string_slowly<const N: usize>(
    lexer: &mut Lexer<'_>,
    reason: Reason,
) -> Result<[u8; N], Reason> {
    if lexer.byte() != Some(b'"') {
        return Err(lexer.refuse(reason));
    }
    read_hex(&lexer.string()?.decoded()).ok_or(reason)
}

/// A plain integer from 0 to `max`.
#[inline]
pub(super) fn read_integer(lexer: &mut Lexer<'_>, max: u64, reason: Reason) -> Result<u64, Reason> {
    match lexer.integer() {
        Some(value) if value <= max => Ok(value),
        Some(_) => Err(reason),
        // A number of another form, be it JSON (1e3) or not (01): what is wrong is this field.
        None if matches!(lexer.byte(), Some(b'0'..=b'9' | b'-')) => Err(reason),
        None => Err(lexer.refuse(reason)),
    }
}

fn read_content<'a>(lexer: &mut Lexer<'a>) -> Result<Cow<'a, [u8]>, Reason> {
    if lexer.peek() != Some(b'"') {
        return Err(lexer.refuse(Reason::BadContent));
    }
    let start = lexer.at();
    let text = lexer.string()?;
    if text.spelling <= Spelling::Canonical {
        return Ok(Cow::Borrowed(lexer.since(start)));
    }
    let mut canonical = Vec::with_capacity(text.inside.len() + 2);
    write_string(&text.decoded(), &mut canonical);
    Ok(Cow::Owned(canonical))
}

fn read_tags<'a>(lexer: &mut Lexer<'a>, limits: &Limits) -> Result<Cow<'a, [u8]>, Reason> {
    if lexer.peek() != Some(b'[') {
        return Err(lexer.refuse(Reason::BadTags));
    }
    let start = lexer.at();
    lexer.pass(1);
    lexer.depth += 1;
    let mut is_canonical = !lexer.skip_space();
    let mut tags = 0;
    if lexer.byte() == Some(b']') {
        lexer.pass(1);
    } else {
        loop {
            tags += 1;
            if tags > limits.tags_max {
                return Err(Reason::TooManyTags);
            }
            is_canonical &= read_tag(lexer, limits)?;
            if next_element(lexer, &mut is_canonical)? == Next::End {
                break;
            }
        }
    }
    lexer.depth -= 1;
    let span = lexer.since(start);
    Ok(if is_canonical { Cow::Borrowed(span) } else { Cow::Owned(rewrite_tags(span)) })
}

/// Reads one tag; says whether it is spelt canonically.
#[inline]
fn read_tag(lexer: &mut Lexer<'_>, limits: &Limits) -> Result<bool, Reason> {
    if lexer.byte() != Some(b'[') {
        return Err(lexer.refuse(Reason::BadTags));
    }
    lexer.pass(1);
    lexer.depth += 1;
    let mut is_canonical = !lexer.skip_space();
    if lexer.byte() == Some(b']') {
        return Err(Reason::BadTags);
    }
    let mut elements = 0;
    loop {
        elements += 1;
        if elements > limits.tag_elements_max {
            return Err(Reason::TooManyTagElements);
        }
        if lexer.byte() != Some(b'"') {
            return Err(lexer.refuse(Reason::BadTags));
        }
        is_canonical &= lexer.string()?.spelling <= Spelling::Canonical;
        if next_element(lexer, &mut is_canonical)? == Next::End {
            lexer.depth -= 1;
            return Ok(is_canonical);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Element,
    End,
}

/// Passes the comma or the closing bracket after an array element and the white space around it.
#[inline]
fn next_element(lexer: &mut Lexer<'_>, is_canonical: &mut bool) -> Result<Next, Reason> {
    *is_canonical &= !lexer.skip_space();
    let next = match lexer.byte() {
        Some(b',') => Next::Element,
        Some(b']') => Next::End,
        _ => return Err(Reason::BadJson),
    };
    lexer.pass(1);
    if next == Next::Element {
        *is_canonical &= !lexer.skip_space();
    }
    Ok(next)
}

/// The canonical form of a tags array that has been read to its end without an error.
#[cold]
fn rewrite_tags(span: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(span.len());
    let mut lexer = Lexer::new(span);
    while let Some(byte) = lexer.peek() {
        match byte {
            b'"' => match lexer.string() {
                Ok(text) => write_string(&text.decoded(), &mut out),
                Err(_) => break,
            },
            bracket_or_comma => {
                out.push(bracket_or_comma);
                lexer.pass(1);
            }
        }
    }
    out
}
