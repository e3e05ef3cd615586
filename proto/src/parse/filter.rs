//! REQ filters: every key and value is checked here, so that matching and scanning need no doubt.

use super::event::{read_hex_string, read_integer};
use super::lexer::Lexer;
use crate::id::read_hex;
use crate::{EventId, Filter, Limits, PublicKey, Reason, TagFilter};

/// How many list values the filters of one message may still have.
pub(super) struct ValuesLeft(usize);

impl ValuesLeft {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(limits.filter_values_max)
    }

    fn take(&mut self) -> Result<(), Reason> {
        self.0 = self.0.checked_sub(1).ok_or(Reason::TooManyFilterValues)?;
        Ok(())
    }
}

/// Reads the filter object that comes next.
pub(super) fn read_filter(lexer: &mut Lexer<'_>, left: &mut ValuesLeft) -> Result<Filter, Reason> {
    if lexer.peek() != Some(b'{') {
        return Err(lexer.refuse(Reason::FilterNotObject));
    }
    lexer.pass(1);
    lexer.depth += 1;
    let mut filter = Filter::default();
    if !lexer.take(b'}') {
        loop {
            let key = lexer.string()?.decoded();
            lexer.demand(b':')?;
            read_member(&key, lexer, left, &mut filter)?;
            if !lexer.take(b',') {
                break;
            }
        }
        lexer.demand(b'}')?;
    }
    lexer.depth -= 1;
    Ok(filter)
}

fn read_member(
    key: &[u8],
    lexer: &mut Lexer<'_>,
    left: &mut ValuesLeft,
    filter: &mut Filter,
) -> Result<(), Reason> {
    match key {
        b"ids" => set_list(&mut filter.ids, lexer, left, Reason::BadFilterId, |lexer, reason| {
            let mut id = EventId([0; 32]);
            read_hex_string(lexer, &mut id.0, reason).map(|()| id)
        }),
        b"authors" => {
            set_list(&mut filter.authors, lexer, left, Reason::BadFilterAuthor, |lexer, reason| {
                let mut key = PublicKey([0; 32]);
                read_hex_string(lexer, &mut key.0, reason).map(|()| key)
            })
        }
        b"kinds" => {
            set_list(&mut filter.kinds, lexer, left, Reason::BadFilterKind, |lexer, reason| {
                read_integer(lexer, u64::from(u16::MAX), reason).map(|kind| kind as u16)
            })
        }
        b"since" => set_integer(&mut filter.since, lexer, Reason::BadFilterSince),
        b"until" => set_integer(&mut filter.until, lexer, Reason::BadFilterUntil),
        b"limit" => set_integer(&mut filter.limit, lexer, Reason::BadFilterLimit),
        [b'#', letter] if letter.is_ascii_alphabetic() => {
            let place = filter.tags.binary_search_by_key(letter, |tag| tag.letter);
            let Err(place) = place else { return Err(Reason::DuplicateKey) };
            let values = read_list(lexer, left, Reason::BadFilterTag, |lexer, reason| {
                read_tag_value(*letter, lexer, reason)
            })?;
            filter.tags.insert(place, TagFilter { letter: *letter, values });
            Ok(())
        }
        _ => Err(lexer.refuse(Reason::UnknownFilterKey)),
    }
}

fn read_tag_value(letter: u8, lexer: &mut Lexer<'_>, reason: Reason) -> Result<Box<[u8]>, Reason> {
    if lexer.peek() != Some(b'"') {
        return Err(lexer.refuse(reason));
    }
    let value = lexer.string()?.decoded();
    if matches!(letter, b'e' | b'p') && read_hex::<32>(&value).is_none() {
        return Err(reason);
    }
    Ok(value.into())
}

fn set_integer(
    field: &mut Option<u64>,
    lexer: &mut Lexer<'_>,
    reason: Reason,
) -> Result<(), Reason> {
    if field.is_some() {
        return Err(Reason::DuplicateKey);
    }
    *field = Some(read_integer(lexer, u64::MAX, reason)?);
    Ok(())
}

fn set_list<T: Ord>(
    field: &mut Option<Vec<T>>,
    lexer: &mut Lexer<'_>,
    left: &mut ValuesLeft,
    reason: Reason,
    read: impl Fn(&mut Lexer<'_>, Reason) -> Result<T, Reason>,
) -> Result<(), Reason> {
    if field.is_some() {
        return Err(Reason::DuplicateKey);
    }
    *field = Some(read_list(lexer, left, reason, read)?);
    Ok(())
}

/// Reads an array of values, sorted and without duplicates.
fn read_list<T: Ord>(
    lexer: &mut Lexer<'_>,
    left: &mut ValuesLeft,
    reason: Reason,
    read: impl Fn(&mut Lexer<'_>, Reason) -> Result<T, Reason>,
) -> Result<Vec<T>, Reason> {
    if lexer.peek() != Some(b'[') {
        return Err(lexer.refuse(reason));
    }
    lexer.pass(1);
    lexer.depth += 1;
    let mut values = Vec::new();
    if !lexer.take(b']') {
        loop {
            left.take()?;
            values.push(read(lexer, reason)?);
            if !lexer.take(b',') {
                break;
            }
        }
        lexer.demand(b']')?;
    }
    lexer.depth -= 1;
    values.sort_unstable();
    values.dedup();
    Ok(values)
}
