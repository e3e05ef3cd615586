//! NIP-09 deletion requests: which targets a kind 5 names.

use super::nip01::{KindClass, Slot, class};
use crate::limits::DELETION_TARGETS_MAX;
use crate::{EventId, EventRef, PublicKey, Reason};

/// Kind of a deletion request.
pub const KIND: u16 = 5;
/// Kind of a request to vanish (NIP-62), which a deletion never touches.
pub const VANISH_KIND: u16 = super::nip62::KIND;

/// One thing that a deletion request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The event with this id, if it is the requester's.
    Id(EventId),
    /// Every version in this slot up to the request's `created_at`.
    Slot(Slot),
}

/// The targets of a deletion request. Slots of other keys, slots of kinds that have none, and
/// malformed values are left out: NIP-09 ignores them.
///
/// # Errors
/// [`Reason::DeletionEmpty`] when no `e` or `a` tag is there at all, [`Reason::DeletionTooLarge`]
/// past [`DELETION_TARGETS_MAX`] targets.
pub fn targets(event: &EventRef<'_>) -> Result<Vec<Target>, Reason> {
    let mut targets = Vec::new();
    let mut named = 0;
    for (letter, value) in event.tags().indexed() {
        let target = match letter {
            b'e' => EventId::from_hex(&value).map(Target::Id),
            b'a' => parse_coordinate(&value)
                .filter(|slot| slot.pubkey == event.pubkey())
                .map(Target::Slot),
            _ => continue,
        };
        named += 1;
        if named > DELETION_TARGETS_MAX {
            return Err(Reason::DeletionTooLarge);
        }
        targets.extend(target);
    }
    if named == 0 {
        return Err(Reason::DeletionEmpty);
    }
    Ok(targets)
}

/// Reads `<kind>:<pubkey>:<d>`; `None` unless the kind is replaceable or addressable. A plain
/// replaceable kind has no `d`, and some clients leave out its last colon. Everything else has to be
/// exact: this text decides what is deleted.
pub fn parse_coordinate(text: &[u8]) -> Option<Slot> {
    let mut parts = text.splitn(3, |byte| *byte == b':');
    let kind = u16::try_from(crate::json::read_integer(parts.next()?)?).ok()?;
    let pubkey = PublicKey::from_hex(parts.next()?)?;
    let d = parts.next();
    match class(kind) {
        KindClass::Replaceable if d.is_none_or(<[u8]>::is_empty) => {
            Some(Slot { pubkey, kind, d: Box::default() })
        }
        KindClass::Addressable => Some(Slot { pubkey, kind, d: d?.into() }),
        _ => None,
    }
}

/// Whether a deletion by `requester` may remove `victim`: its author, or for a gift wrap its
/// recipient (NIP-59); never another deletion or a request to vanish.
pub fn may_delete(requester: &PublicKey, victim: &EventRef<'_>) -> bool {
    match victim.kind() {
        KIND | VANISH_KIND => false,
        kind if super::nip59::is_wrap(kind) => {
            victim.pubkey() == *requester
                || super::nip59::recipient(victim).is_some_and(|key| key == *requester)
        }
        _ => victim.pubkey() == *requester,
    }
}
