//! NIP-04, NIP-17 and NIP-59: who may read private kinds.

use super::nip59;
use crate::{EventRef, Filter, PublicKey};

/// Kinds that are served only to the people in them.
pub const PRIVATE_KINDS: [u16; 3] = [4, nip59::WRAP_KIND, nip59::EPHEMERAL_WRAP_KIND];

/// Whether `kind` is private.
pub fn is_private(kind: u16) -> bool {
    PRIVATE_KINDS.contains(&kind)
}

/// Whether a reader who authenticated `keys` may see `event`. Kind 4: author or a `p`. Wraps: a
/// `p` only, since the author is a one-time key.
pub fn may_read(keys: &[PublicKey], event: &EventRef<'_>) -> bool {
    if !is_private(event.kind()) {
        return true;
    }
    if keys.is_empty() {
        return false;
    }
    if event.kind() == 4 && keys.contains(&event.pubkey()) {
        return true;
    }
    event.tags().indexed().any(|(letter, value)| {
        letter == b'p' && PublicKey::from_hex(&value).is_some_and(|key| keys.contains(&key))
    })
}

/// Whether `filter` can only ever return private kinds.
pub fn asks_private_only(filter: &Filter) -> bool {
    filter
        .kinds
        .as_ref()
        .is_some_and(|kinds| !kinds.is_empty() && kinds.iter().all(|kind| is_private(*kind)))
}
