//! NIP-59 gift wraps: owned by their recipient, because their authors are one-time keys.

use crate::{EventRef, PublicKey, Reason};

/// Stored gift wrap.
pub const WRAP_KIND: u16 = 1059;
/// Ephemeral gift wrap.
pub const EPHEMERAL_WRAP_KIND: u16 = 21_059;
/// Seal.
pub const SEAL_KIND: u16 = 13;

/// Whether `kind` is a gift wrap.
pub fn is_wrap(kind: u16) -> bool {
    kind == WRAP_KIND || kind == EPHEMERAL_WRAP_KIND
}

/// The recipient: the first well-formed `p`.
pub fn recipient(event: &EventRef<'_>) -> Option<PublicKey> {
    event
        .tags()
        .indexed()
        .filter(|(letter, _)| *letter == b'p')
        .find_map(|(_, value)| PublicKey::from_hex(&value))
}

/// The key whose shard owns `event`.
pub fn owner_key(event: &EventRef<'_>) -> PublicKey {
    if is_wrap(event.kind()) {
        recipient(event).unwrap_or_else(|| event.pubkey())
    } else {
        event.pubkey()
    }
}

/// Checks the shape of wraps and seals.
///
/// # Errors
/// [`Reason::WrapRecipient`] unless a wrap has exactly one well-formed `p`; [`Reason::SealTags`]
/// if a seal has tags.
pub fn check(event: &EventRef<'_>) -> Result<(), Reason> {
    if is_wrap(event.kind()) {
        let mut recipients = event.tags().filter(|tag| tag.letter() == Some(b'p'));
        let first = recipients.next().and_then(|tag| tag.value());
        let well_formed = first.is_some_and(|value| PublicKey::from_hex(&value).is_some());
        if !well_formed || recipients.next().is_some() {
            return Err(Reason::WrapRecipient);
        }
    }
    if event.kind() == SEAL_KIND && event.tags().next().is_some() {
        return Err(Reason::SealTags);
    }
    Ok(())
}
