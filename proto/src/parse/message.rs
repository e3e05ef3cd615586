//! Client messages: `[verb, ...]`.

use super::event::read_event;
use super::filter::{ValuesLeft, read_filter};
use super::lexer::Lexer;
use crate::id::read_hex_any_case;
use crate::limits::SUBSCRIPTION_ID_CHARACTERS_MAX;
use crate::{ClientMessage, Filter, Limits, Reason, SubscriptionId};

/// Longest spelling of a subscription id: every character a surrogate pair of twelve characters.
const SUBSCRIPTION_ID_SPELLING_BYTES_MAX: usize = SUBSCRIPTION_ID_CHARACTERS_MAX * 12;

/// What the first element of a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Event,
    Req,
    Count,
    Close,
    Auth,
    NegOpen,
    NegMsg,
    NegClose,
}

/// Reads the whole text as one message.
pub(super) fn read_message(
    lexer: &mut Lexer<'_>,
    limits: &Limits,
) -> Result<ClientMessage, Reason> {
    let verb = read_verb(lexer)?;
    next_element(lexer)?;
    let message = match verb {
        Verb::Event => ClientMessage::Event(read_event(lexer, limits)?),
        Verb::Auth => ClientMessage::Auth(read_event(lexer, limits)?),
        Verb::Close => ClientMessage::Close(read_subscription_id(lexer)?),
        Verb::Req => {
            let sub = read_subscription_id(lexer)?;
            ClientMessage::Req(sub, read_filters(lexer, limits)?)
        }
        Verb::Count => {
            let sub = read_subscription_id(lexer)?;
            ClientMessage::Count(sub, read_filters(lexer, limits)?)
        }
        Verb::NegOpen => {
            let sub = read_subscription_id(lexer)?;
            next_element(lexer)?;
            let filter = Box::new(read_filter(lexer, &mut ValuesLeft::new(limits))?);
            next_element(lexer)?;
            ClientMessage::NegOpen(sub, filter, read_bytes(lexer)?)
        }
        Verb::NegMsg => {
            let sub = read_subscription_id(lexer)?;
            next_element(lexer)?;
            ClientMessage::NegMsg(sub, read_bytes(lexer)?)
        }
        Verb::NegClose => ClientMessage::NegClose(read_subscription_id(lexer)?),
    };
    if lexer.take(b',') {
        return Err(Reason::WrongArity);
    }
    lexer.demand(b']')?;
    lexer.end()?;
    Ok(message)
}

/// Passes the comma before an element that the verb demands.
fn next_element(lexer: &mut Lexer<'_>) -> Result<(), Reason> {
    if lexer.take(b',') {
        return Ok(());
    }
    Err(if lexer.take(b']') { Reason::WrongArity } else { Reason::BadJson })
}

/// Reads the opening bracket and the verb.
pub(super) fn read_verb(lexer: &mut Lexer<'_>) -> Result<Verb, Reason> {
    let mut whole = lexer.clone();
    if !lexer.take(b'[') || lexer.peek() != Some(b'"') {
        // Valid JSON of another shape, or no JSON at all: the sender wants to know which.
        whole.skip_value()?;
        whole.end()?;
        return Err(Reason::NotAMessage);
    }
    lexer.depth += 1;
    match &*lexer.string()?.decoded() {
        b"EVENT" => Ok(Verb::Event),
        b"REQ" => Ok(Verb::Req),
        b"COUNT" => Ok(Verb::Count),
        b"CLOSE" => Ok(Verb::Close),
        b"AUTH" => Ok(Verb::Auth),
        b"NEG-OPEN" => Ok(Verb::NegOpen),
        b"NEG-MSG" => Ok(Verb::NegMsg),
        b"NEG-CLOSE" => Ok(Verb::NegClose),
        _ => Err(Reason::UnknownVerb),
    }
}

/// Reads a subscription id.
pub(super) fn read_subscription_id(lexer: &mut Lexer<'_>) -> Result<SubscriptionId, Reason> {
    if lexer.peek() != Some(b'"') {
        return Err(lexer.refuse(Reason::BadSubscriptionId));
    }
    let text = lexer.string()?;
    if text.inside.len() > SUBSCRIPTION_ID_SPELLING_BYTES_MAX {
        return Err(Reason::BadSubscriptionId);
    }
    let decoded = text.decoded();
    let sub = std::str::from_utf8(&decoded).map_err(|_| Reason::BadUtf8)?;
    match sub.chars().count() {
        1..=SUBSCRIPTION_ID_CHARACTERS_MAX => Ok(sub.into()),
        _ => Err(Reason::BadSubscriptionId),
    }
}

fn read_filters(lexer: &mut Lexer<'_>, limits: &Limits) -> Result<Vec<Filter>, Reason> {
    let mut left = ValuesLeft::new(limits);
    let mut filters = Vec::new();
    while lexer.take(b',') {
        if filters.len() >= limits.filters_max {
            return Err(Reason::TooManyFilters);
        }
        filters.push(read_filter(lexer, &mut left)?);
    }
    if filters.is_empty() && lexer.peek() == Some(b']') {
        return Err(Reason::NoFilter);
    }
    Ok(filters)
}

/// Reads a string of hex digits in either case: NIP-77 does not say which, and here no two spellings
/// can be taken for two things.
fn read_bytes(lexer: &mut Lexer<'_>) -> Result<Vec<u8>, Reason> {
    if lexer.peek() != Some(b'"') {
        return Err(lexer.refuse(Reason::NegBadHex));
    }
    read_hex_any_case(&lexer.string()?.decoded()).ok_or(Reason::NegBadHex)
}
