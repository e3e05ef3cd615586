//! NIP-62 requests to vanish: whether one is meant for this relay. What vanishing means is the
//! store's affair.

use super::nip42;
use crate::{EventRef, Reason};

/// Kind of a request to vanish.
pub const KIND: u16 = 62;
/// The value of a `relay` tag that names every relay.
pub const ALL_RELAYS: &str = "ALL_RELAYS";

/// How a request names this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// By its URL.
    ThisRelay,
    /// As one of all.
    AllRelays,
}

/// Reads the `relay` tags of a kind 62 event. URLs are compared as in NIP-42; a relay that does not
/// know its own (`None`) is named by [`ALL_RELAYS`] only.
///
/// # Errors
/// [`Reason::VanishNoRelay`] if no relay is named at all, [`Reason::VanishOtherRelay`] if only others
/// are.
pub fn request(event: &EventRef<'_>, public_url: Option<&str>) -> Result<Scope, Reason> {
    let mut refusal = Reason::VanishNoRelay;
    let mut scope = None;
    for value in event.tags().filter(|tag| tag.is_named(b"relay")).filter_map(|tag| tag.value()) {
        refusal = Reason::VanishOtherRelay;
        if *value == *ALL_RELAYS.as_bytes() {
            return Ok(Scope::AllRelays);
        }
        let named = std::str::from_utf8(&value).unwrap_or("");
        if public_url.is_some_and(|own| nip42::is_same_relay(named, own)) {
            scope = Some(Scope::ThisRelay);
        }
    }
    scope.ok_or(refusal)
}
