//! EVENT objects. Spans that arrive in canonical form are copied as they are into the packed event;
//! any other spelling is rewritten, so that the packed form knows one spelling only.

use super::lexer::{Lexer, Spelling};
use crate::id::read_hex_into;
use crate::json::write_string;
use crate::limits::UNKNOWN_FIELDS_MAX;
use crate::{Event, EventId, EventParts, Limits, PublicKey, Reason, Signature};
use std::borrow::Cow;

/// The fields seen so far, and the unknown keys, which may not occur twice either.
struct Fields<'a> {
    /// One bit per [`Key`]; a field without its bit has no meaning yet.
    seen: u8,
    id: EventId,
    pubkey: PublicKey,
    sig: Signature,
    created_at: u32,
    kind: u16,
    tags_json: Cow<'a, [u8]>,
    content_json: Cow<'a, [u8]>,
    unknown: Vec<Cow<'a, [u8]>>,
}

/// Reads the event object that comes next.
pub(super) fn read_event(lexer: &mut Lexer<'_>, limits: &Limits) -> Result<Event, Reason> {
    if lexer.peek() != Some(b'{') {
        return Err(lexer.refuse(Reason::EventNotObject));
    }
    lexer.pass(1);
    lexer.depth += 1;
    let mut fields = Fields::new();
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
    /// The bits of all seven.
    const ALL: u8 = 0x7f;

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
    fn new() -> Self {
        Self {
            seen: 0,
            id: EventId([0; 32]),
            pubkey: PublicKey([0; 32]),
            sig: Signature([0; 64]),
            created_at: 0,
            kind: 0,
            tags_json: Cow::Borrowed(b""),
            content_json: Cow::Borrowed(b""),
            unknown: Vec::new(),
        }
    }

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
        let bit = 1 << key as u8;
        if self.seen & bit != 0 {
            return Err(Reason::DuplicateKey);
        }
        self.seen |= bit;
        match key {
            Key::Id => read_hex_string(lexer, &mut self.id.0, Reason::BadId)?,
            Key::Pubkey => read_hex_string(lexer, &mut self.pubkey.0, Reason::BadPubkey)?,
            Key::Sig => read_hex_string(lexer, &mut self.sig.0, Reason::BadSigFormat)?,
            Key::CreatedAt => {
                let seconds = read_integer(lexer, u64::from(u32::MAX), Reason::BadCreatedAt)?;
                self.created_at = seconds as u32;
            }
            Key::Kind => {
                self.kind = read_integer(lexer, u64::from(u16::MAX), Reason::BadKind)? as u16;
            }
            Key::Tags => self.tags_json = read_tags(lexer, limits)?,
            Key::Content => self.content_json = read_content(lexer)?,
        }
        Ok(())
    }

    fn finish(self, limits: &Limits) -> Result<Event, Reason> {
        if self.seen != Key::ALL {
            return Err(Reason::MissingField);
        }
        let parts = EventParts {
            id: self.id,
            pubkey: self.pubkey,
            sig: self.sig,
            created_at: self.created_at,
            kind: self.kind,
            tags_json: &self.tags_json,
            content_json: &self.content_json,
        };
        if parts.packed_bytes() > limits.event_bytes_max.min(u32::MAX as usize) {
            return Err(Reason::EventTooLarge);
        }
        Ok(parts.pack())
    }
}

/// Reads a string of exactly `2 * N` lower-case hex digits into `out`.
#[inline]
pub(super) fn read_hex_string<const N: usize>(
    lexer: &mut Lexer<'_>,
    out: &mut [u8; N],
    reason: Reason,
) -> Result<(), Reason> {
    lexer.skip_space();
    let rest = lexer.rest();
    // Hex digits are neither quotes nor escapes, so a string of the right length that is all hex
    // needs no search for its end.
    let is_quoted = rest.first() == Some(&b'"') && rest.get(2 * N + 1) == Some(&b'"');
    if is_quoted && read_hex_into(&rest[1..=2 * N], out) {
        lexer.pass(2 * N + 2);
        return Ok(());
    }
    read_hex_string_slowly(lexer, out, reason)
}

#[cold]
fn read_hex_string_slowly<const N: usize>(
    lexer: &mut Lexer<'_>,
    out: &mut [u8; N],
    reason: Reason,
) -> Result<(), Reason> {
    if lexer.byte() != Some(b'"') {
        return Err(lexer.refuse(reason));
    }
    if read_hex_into(&lexer.string()?.decoded(), out) { Ok(()) } else { Err(reason) }
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
