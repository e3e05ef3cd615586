//! Whom an answer to a bad message is for: the event id or the subscription that can still be read
//! from it. Runs only after an error, over bytes that may be no JSON and no UTF-8.

use super::lexer::Lexer;
use super::message::{Verb, read_subscription_id, read_verb};
use crate::{EventId, MessageError, Reason};

/// The answer to a message that was refused for `reason`.
#[cold]
pub(super) fn blame_message(text: &[u8], reason: Reason) -> MessageError {
    let mut lexer = Lexer::new(text);
    let Ok(verb) = read_verb(&mut lexer) else { return MessageError::Notice(reason) };
    if !lexer.take(b',') {
        return MessageError::Notice(reason);
    }
    let answer = match verb {
        Verb::Event | Verb::Auth => {
            find_event_id(lexer.rest()).map(|id| MessageError::Event(id, reason))
        }
        Verb::Req | Verb::Count => {
            read_subscription_id(&mut lexer).ok().map(|sub| MessageError::Subscription(sub, reason))
        }
        Verb::NegOpen | Verb::NegMsg => {
            read_subscription_id(&mut lexer).ok().map(|sub| MessageError::Negentropy(sub, reason))
        }
        Verb::Close | Verb::NegClose => None,
    };
    answer.unwrap_or(MessageError::Notice(reason))
}

/// The first readable `id` at the top level of the object at the start of `json`, also behind an
/// error. One pass; strings are followed so that an `id` inside one is not taken for a key.
#[cold]
pub(super) fn find_event_id(json: &[u8]) -> Option<EventId> {
    let mut lexer = Lexer::new(json);
    if !lexer.take(b'{') {
        return None;
    }
    let mut depth = 1usize;
    while let Some(byte) = lexer.peek() {
        match byte {
            b'"' => {
                let rest = lexer.rest();
                let length = loose_string_bytes(rest)?;
                lexer.pass(length);
                let is_key = depth == 1 && is_id_key(&rest[..length]) && lexer.take(b':');
                if let Some(id) = is_key.then(|| loose_id(&mut lexer)).flatten() {
                    return Some(id);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return None;
                }
            }
            _ => {}
        }
        lexer.pass(1);
    }
    None
}

/// Length of the string at the start of `json` by its quotes alone, whatever its bytes.
fn loose_string_bytes(json: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn is_id_key(string: &[u8]) -> bool {
    Lexer::new(string).string().is_ok_and(|text| *text.decoded() == *b"id")
}

fn loose_id(lexer: &mut Lexer<'_>) -> Option<EventId> {
    if lexer.peek() != Some(b'"') {
        return None;
    }
    // A lexer of its own: a value that is no id is walked over by the caller.
    EventId::from_hex(&lexer.clone().string().ok()?.decoded())
}
