//! Tags of a packed event, read from their canonical JSON without building anything.

use std::borrow::Cow;

/// The tags span is not a canonical array of non-empty arrays of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tags are not a canonical array of non-empty arrays of strings")]
pub struct TagsError;

/// Iterator over the tags of a packed event.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    rest: &'a [u8],
}

/// One tag: the inside of its brackets, at least one canonical JSON string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    inside: &'a [u8],
}

/// Length of the JSON string at the start of `json`, both quotes included; `None` if there is none.
fn string_bytes(json: &[u8]) -> Option<usize> {
    if json.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

impl<'a> Tags<'a> {
    /// Tags of a span that [`Tags::check`] has accepted (or that the parser wrote). On any other
    /// span the iterator ends early; it never panics.
    pub fn new(tags_json: &'a [u8]) -> Self {
        Self { rest: tags_json.get(1..).unwrap_or(&[]) }
    }

    /// Checks that `tags_json` is canonical.
    ///
    /// # Errors
    /// [`TagsError`] if it is not.
    pub fn check(tags_json: &[u8]) -> Result<(), TagsError> {
        let inner = tags_json
            .strip_prefix(b"[")
            .and_then(|rest| rest.strip_suffix(b"]"))
            .ok_or(TagsError)?;
        if inner.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        loop {
            at = Self::check_tag(inner, at)?;
            match inner.get(at) {
                None => return Ok(()),
                Some(b',') => at += 1,
                Some(_) => return Err(TagsError),
            }
        }
    }

    fn check_tag(inner: &[u8], mut at: usize) -> Result<usize, TagsError> {
        if inner.get(at) != Some(&b'[') {
            return Err(TagsError);
        }
        loop {
            at += 1;
            let length = string_bytes(inner.get(at..).ok_or(TagsError)?).ok_or(TagsError)?;
            if !crate::json::is_canonical_string(&inner[at..at + length]) {
                return Err(TagsError);
            }
            at += length;
            match inner.get(at) {
                Some(b',') => {}
                Some(b']') => return Ok(at + 1),
                _ => return Err(TagsError),
            }
        }
    }

    /// Tags named by one ASCII letter, with their first value: what NIP-01 indexes.
    pub fn indexed(self) -> impl Iterator<Item = (u8, Cow<'a, [u8]>)> {
        self.filter_map(|tag| Some((tag.letter()?, tag.value()?)))
    }

    /// First value of the first tag called `name`; a tag without a value counts as empty.
    pub fn first_value(mut self, name: &[u8]) -> Option<Cow<'a, [u8]>> {
        self.find(|tag| tag.is_named(name)).map(|tag| tag.value().unwrap_or(Cow::Borrowed(b"")))
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let rest = match self.rest.first()? {
            b',' => &self.rest[1..],
            _ => self.rest,
        };
        let inside = rest.strip_prefix(b"[")?;
        let mut at = 0;
        loop {
            at += string_bytes(inside.get(at..)?)?;
            match inside.get(at)? {
                b',' => at += 1,
                b']' => break,
                _ => return None,
            }
        }
        self.rest = &inside[at + 1..];
        Some(Tag { inside: &inside[..at] })
    }
}

impl<'a> Tag<'a> {
    /// The elements, unescaped; borrowed where no escape occurs.
    pub fn elements(self) -> impl Iterator<Item = Cow<'a, [u8]>> {
        let mut rest = self.inside;
        std::iter::from_fn(move || {
            let length = string_bytes(rest)?;
            let element = crate::json::unescape(&rest[1..length - 1]);
            rest = rest.get(length + 1..).unwrap_or(&[]);
            Some(element)
        })
    }

    /// Element `index`, unescaped.
    pub fn element(self, index: usize) -> Option<Cow<'a, [u8]>> {
        self.elements().nth(index)
    }

    /// The first value (element 1).
    pub fn value(self) -> Option<Cow<'a, [u8]>> {
        self.element(1)
    }

    /// The name if it is one ASCII letter.
    pub fn letter(self) -> Option<u8> {
        match self.inside {
            [b'"', letter, b'"', ..] if letter.is_ascii_alphabetic() => Some(*letter),
            _ => None,
        }
    }

    /// Whether the tag is called `name` (which needs no escape).
    pub fn is_named(self, name: &[u8]) -> bool {
        self.inside
            .strip_prefix(b"\"")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.first() == Some(&b'"'))
    }
}
