//! NIP-40 expiration.

use crate::{EventRef, Reason};

/// When `event` expires, in unix seconds; `None` if it never does.
///
/// # Errors
/// [`Reason::BadExpiration`] when the tag's value is no number.
pub fn expires_at(event: &EventRef<'_>) -> Result<Option<u64>, Reason> {
    let Some(tag) = event.tags().find(|tag| tag.is_named(b"expiration")) else { return Ok(None) };
    let value = tag.value().ok_or(Reason::BadExpiration)?;
    crate::json::read_integer(&value).map(Some).ok_or(Reason::BadExpiration)
}
