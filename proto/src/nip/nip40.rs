//! NIP-40 expiration.

use crate::{EventRef, Reason};

/// When `event` expires, in unix seconds; `None` if it never does.
///
/// # Errors
/// [`Reason::BadExpiration`] when the tag's value is no number.
pub fn expires_at(event: &EventRef<'_>) -> Result<Option<u64>, Reason> {
    let Some(tag) = event.tags().find(|tag| tag.is_named(b"expiration")) else { return Ok(None) };
    let value = tag.value().ok_or(Reason::BadExpiration)?;
    let text = std::str::from_utf8(&value).map_err(|_| Reason::BadExpiration)?;
    text.parse::<u64>().map(Some).map_err(|_| Reason::BadExpiration)
}
