//! Tags of a packed event, read from their canonical JSON without building anything.

use crate::scan::find_special;
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

/// One tag: at least one canonical JSON string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// What stands between the brackets.
    inside: &'a [u8],
    name: Element<'a>,
    value: Option<Element<'a>>,
}

/// One string of a tag as it stands in the JSON, without its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Element<'a> {
    inside: &'a [u8],
    has_escapes: bool,
}

impl<'a> Element<'a> {
    /// The string at the start of `json` and what stands behind it.
    #[inline]
    fn split(json: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let text = json.strip_prefix(b"\"")?;
        let mut has_escapes = false;
        let mut at = find_special(text, 0)?;
        while text[at] == b'\\' {
            has_escapes = true;
            at = find_special(text, at + 2)?;
        }
        let (inside, rest) = text.split_at(at);
        Some((Self { inside, has_escapes }, rest.strip_prefix(b"\"")?))
    }

    #[inline]
    fn text(self) -> Cow<'a, [u8]> {
        if self.has_escapes {
            crate::json::unescape(self.inside)
        } else {
            Cow::Borrowed(self.inside)
        }
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
        let mut rest = inner;
        loop {
            rest = Self::check_tag(rest)?;
            match rest.split_first() {
                None => return Ok(()),
                Some((b',', next)) => rest = next,
                Some(_) => return Err(TagsError),
            }
        }
    }

    /// Checks the tag at the start of `json`; what is left is what stands behind it.
    fn check_tag(json: &[u8]) -> Result<&[u8], TagsError> {
        let mut rest = json.strip_prefix(b"[").ok_or(TagsError)?;
        loop {
            let (_, behind) = Element::split(rest).ok_or(TagsError)?;
            let (string, behind) = rest.split_at(rest.len() - behind.len());
            if !crate::json::is_canonical_string(string) {
                return Err(TagsError);
            }
            match behind.split_first() {
                Some((b',', next)) => rest = next,
                Some((b']', next)) => return Ok(next),
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

    #[inline]
    fn next(&mut self) -> Option<Tag<'a>> {
        let json = self.rest.strip_prefix(b",").unwrap_or(self.rest).strip_prefix(b"[")?;
        let (name, mut rest) = Element::split(json)?;
        let mut value = None;
        while let Some(next) = rest.strip_prefix(b",") {
            let (element, behind) = Element::split(next)?;
            value = value.or(Some(element));
            rest = behind;
        }
        let inside = &json[..json.len() - rest.len()];
        self.rest = rest.strip_prefix(b"]")?;
        Some(Tag { inside, name, value })
    }
}

impl<'a> Tag<'a> {
    /// The elements, unescaped; borrowed where no escape occurs.
    pub fn elements(self) -> impl Iterator<Item = Cow<'a, [u8]>> {
        let mut rest = self.inside;
        std::iter::from_fn(move || {
            let (element, behind) = Element::split(rest)?;
            rest = behind.strip_prefix(b",").unwrap_or(&[]);
            Some(element.text())
        })
    }

    /// Element `index`, unescaped.
    pub fn element(self, index: usize) -> Option<Cow<'a, [u8]>> {
        self.elements().nth(index)
    }

    /// The first value (element 1).
    #[inline]
    pub fn value(self) -> Option<Cow<'a, [u8]>> {
        self.value.map(Element::text)
    }

    /// The name if it is one ASCII letter.
    #[inline]
    pub fn letter(self) -> Option<u8> {
        match self.name.inside {
            [letter] if letter.is_ascii_alphabetic() => Some(*letter),
            _ => None,
        }
    }

    /// Whether the tag is called `name` (which needs no escape).
    #[inline]
    pub fn is_named(self, name: &[u8]) -> bool {
        self.name.inside == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str) -> Vec<Vec<String>> {
        let text = |element: Cow<'_, [u8]>| String::from_utf8(element.into_owned()).unwrap();
        Tags::new(json.as_bytes()).map(|tag| tag.elements().map(text).collect()).collect()
    }

    #[test]
    fn elements_are_read_with_quotes_and_brackets_inside_them() {
        let json = r#"[["e","a]\",["],["\"","x,\n\u0001"],["-"]]"#;
        assert_eq!(Tags::check(json.as_bytes()), Ok(()));
        assert_eq!(list(json), [vec!["e", "a]\",["], vec!["\"", "x,\n\u{1}"], vec!["-"]]);
        let tags = Tags::new(json.as_bytes());
        assert_eq!(tags.first_value(b"e").as_deref(), Some(&b"a]\",["[..]));
        assert_eq!(tags.first_value(b"-").as_deref(), Some(&b""[..]));
        assert_eq!(tags.first_value(b"p"), None);
        assert_eq!(tags.indexed().collect::<Vec<_>>(), [(b'e', Cow::Borrowed(&b"a]\",["[..]))]);
    }

    #[test]
    fn spans_of_any_other_shape_are_refused_and_iterate_without_a_panic() {
        let bad = [
            "",
            "[",
            "]",
            "[]]",
            "[[]]",
            "[\"a\"]",
            "[[\"a\"]",
            "[[\"a\",]]",
            "[[\"a\"],]",
            "[,[\"a\"]]",
            "[[\"a\"] ]",
            "[[\"a\" ]]",
            "[[1]]",
            "[[\"a]]",
            "[[\"a\\\"]]",
            "[[\"\\u000a\"]]",
            "[[\"\\/\"]]",
            "[[\"a\"][\"b\"]]",
            "[[\"\u{1}\"]]",
            "[[null]]",
            "[[\"a\"\"b\"]]",
            "[[\"a\\",
        ];
        for json in bad {
            assert_eq!(Tags::check(json.as_bytes()), Err(TagsError), "{json}");
            assert!(list(json).len() <= 2, "{json}");
        }
        assert_eq!(Tags::check(b"[]"), Ok(()));
        assert_eq!(list("[]").len(), 0);
    }
}
