//! Client messages and events from JSON: one pass, no allocation on the canonical path.
//!
//! Entry points only; the lexer and the event parser are in the submodules.

use crate::limits::Limits;
use crate::message::{ClientMessage, MessageError};
use crate::{Event, EventId, Reason};

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
    let _ = (text, limits);
    Err(MessageError::Notice(Reason::BadJson))
}

/// Parses one event object (a line of a JSONL dump).
///
/// # Errors
/// [`EventError`] says what is wrong and which id it was about.
pub fn parse_event(json: &[u8], limits: &Limits) -> Result<Event, EventError> {
    let _ = (json, limits);
    Err(EventError { id: None, reason: Reason::BadJson })
}

/// Parses one filter object (the argument of `turnpike scan`).
///
/// # Errors
/// The [`Reason`] that CLOSED would carry.
pub fn parse_filter(json: &[u8], limits: &Limits) -> Result<crate::Filter, Reason> {
    let _ = (json, limits);
    Err(Reason::BadJson)
}
