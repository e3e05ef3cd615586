//! NIP-13 proof of work.

use crate::{EventId, EventRef};

/// Leading zero bits of an id.
pub fn difficulty(id: &EventId) -> u16 {
    let mut bits = 0;
    for byte in id.0 {
        bits += byte.leading_zeros() as u16;
        if byte != 0 {
            break;
        }
    }
    bits
}

/// Whether `event` shows at least `bits_min` bits and commits to at least that target in its
/// `nonce` tag, so that luck on a lower target does not count.
pub fn is_satisfied(event: &EventRef<'_>, bits_min: u8) -> bool {
    if bits_min == 0 {
        return true;
    }
    let committed = event
        .tags()
        .find(|tag| tag.is_named(b"nonce"))
        .and_then(|tag| tag.element(2))
        .and_then(|target| crate::json::read_integer(&target));
    difficulty(&event.id()) >= u16::from(bits_min)
        && committed.is_some_and(|target| target >= u64::from(bits_min))
}
