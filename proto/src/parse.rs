//! Client messages and events from JSON: one pass, no allocation on the canonical path.
//!
//! Entry points only; the lexer and the event parser are in the submodules.

mod blame;
mod event;
mod filter;
pub(crate) mod lexer;
mod message;

use crate::limits::Limits;
use crate::message::{ClientMessage, MessageError};
use crate::{Event, EventId, Reason};
use lexer::Lexer;

/// An event that could not be parsed, with its id if one could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventError {
    /// The claimed id, when the object has a readable one anywhere at its top level.
    pub id: Option<EventId>,
    /// What is wrong.
    pub reason: Reason,
}

/// Parses one client message: the text of one WebSocket message.
///
/// # Errors
/// [`MessageError`] says what to answer.
pub fn parse_client_message(text: &[u8], limits: &Limits) -> Result<ClientMessage, MessageError> {
    if text.len() > limits.message_bytes_max {
        return Err(MessageError::Notice(Reason::MessageTooLong));
    }
    let message = match simdutf8::basic::from_utf8(text) {
        Ok(_) => message::read_message(&mut Lexer::new(text), limits),
        Err(_) => Err(Reason::BadUtf8),
    };
    message.map_err(|reason| blame::blame_message(text, reason))
}

/// Parses one event object (a line of a JSONL dump).
///
/// # Errors
/// [`EventError`] says what is wrong and which id it was about.
pub fn parse_event(json: &[u8], limits: &Limits) -> Result<Event, EventError> {
    let event = read_document(json, |lexer| event::read_event(lexer, limits));
    event.map_err(|reason| EventError { id: blame::find_event_id(json), reason })
}

/// Parses one filter object (the argument of `turnpike scan`).
///
/// # Errors
/// The [`Reason`] that CLOSED would carry.
pub fn parse_filter(json: &[u8], limits: &Limits) -> Result<crate::Filter, Reason> {
    let mut left = filter::ValuesLeft::new(limits);
    read_document(json, |lexer| filter::read_filter(lexer, &mut left))
}

/// Reads a text that holds one thing and nothing behind it.
fn read_document<'a, T>(
    json: &'a [u8],
    read: impl FnOnce(&mut Lexer<'a>) -> Result<T, Reason>,
) -> Result<T, Reason> {
    simdutf8::basic::from_utf8(json).map_err(|_| Reason::BadUtf8)?;
    let mut lexer = Lexer::new(json);
    let thing = read(&mut lexer)?;
    lexer.end()?;
    Ok(thing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00000000000000000000000000000000000000000000000000000000000000ab";

    /// An event object with `tags` and `content` as they are spelt.
    fn event_json(tags: &str, content: &str) -> String {
        let key = "11".repeat(32);
        let sig = "22".repeat(64);
        format!(
            r#"{{"id":"{ID}","pubkey":"{key}","created_at":1700000000,"kind":1,"tags":{tags},"content":{content},"sig":"{sig}"}}"#
        )
    }

    fn spans(json: &str) -> (String, String) {
        let event = parse_event(json.as_bytes(), &Limits::default()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(event.view().tags_json()), text(event.view().content_json()))
    }

    #[test]
    fn canonical_spans_are_kept_and_foreign_ones_rewritten() {
        let canonical = (r#"[["e","x\n"],["","é"]]"#, r#""a\"\\\n\r\t\b\f\u0000\u001f""#);
        assert_eq!(
            spans(&event_json(canonical.0, canonical.1)),
            (canonical.0.to_owned(), canonical.1.to_owned())
        );
        let foreign = (
            "[ [ \"\\u0065\" , \"x\\u000a\" ],\r\n[\"\",\"\\u00e9\"]\t]",
            r#""\/\u007f\u001F\ud83d\ude00""#,
        );
        assert_eq!(
            spans(&event_json(foreign.0, foreign.1)),
            (r#"[["e","x\n"],["","é"]]"#.to_owned(), "\"/\u{7f}\\u001f😀\"".to_owned())
        );
    }

    #[test]
    fn an_event_error_carries_the_id_from_before_and_behind_the_error() {
        let limits = Limits::default();
        let id = EventId::from_hex(ID.as_bytes());
        let cases = [
            (
                format!(r#"{{"kind":-1,"x":{{"id":"{}"}},"id":"{ID}"}}"#, "f".repeat(64)),
                Reason::BadKind,
            ),
            (format!(r#"{{"\u0069d":"{ID}","kind":1,"kind":1}}"#), Reason::DuplicateKey),
            (format!(r#"{{"id":"{ID}","content":"{}"#, '\u{1}'), Reason::BadJson),
            (format!(r#"{{"id":"{ID}"}}"#), Reason::MissingField),
        ];
        for (json, reason) in cases {
            let error = parse_event(json.as_bytes(), &limits).unwrap_err();
            assert_eq!(error, EventError { id, reason }, "{json}");
            let message = format!("[\"EVENT\",{json}]");
            let error = parse_client_message(message.as_bytes(), &limits).unwrap_err();
            assert_eq!(error, MessageError::Event(id.unwrap(), reason), "{message}");
        }
    }
}
