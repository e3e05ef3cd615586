//! NIP-70 protected events.

use crate::{EventRef, PublicKey, Reason};

/// Whether `event` carries the `-` tag.
pub fn is_protected(event: &EventRef<'_>) -> bool {
    event.tags().any(|tag| tag.is_named(b"-"))
}

/// Whether a connection that authenticated `keys` may publish `event`.
///
/// # Errors
/// [`Reason::ProtectedNeedsAuth`] without any key, [`Reason::ProtectedNotAuthor`] without the
/// author's.
pub fn check(event: &EventRef<'_>, keys: &[PublicKey]) -> Result<(), Reason> {
    if !is_protected(event) || keys.contains(&event.pubkey()) {
        return Ok(());
    }
    Err(if keys.is_empty() { Reason::ProtectedNeedsAuth } else { Reason::ProtectedNotAuthor })
}
