//! NIP-01: kind classes, replaceable slots and which of two versions stays.

use crate::hash::{Secret, domain};
use crate::{EventId, EventRef, PublicKey};
use std::cmp::Ordering;

/// What a relay does with an event of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindClass {
    /// Kept, every one.
    Regular,
    /// One per author and kind.
    Replaceable,
    /// Passed on, not kept.
    Ephemeral,
    /// One per author, kind and `d` value.
    Addressable,
}

/// The class of `kind`. Kinds that NIP-01 leaves open are regular, as the NIPs that use them say.
pub fn class(kind: u16) -> KindClass {
    match kind {
        0 | 3 | 10_000..=19_999 => KindClass::Replaceable,
        20_000..=29_999 => KindClass::Ephemeral,
        30_000..=39_999 => KindClass::Addressable,
        _ => KindClass::Regular,
    }
}

/// The place that only one version of a replaceable or addressable event may hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// Author.
    pub pubkey: PublicKey,
    /// Kind.
    pub kind: u16,
    /// Value of the first `d` tag; empty for plain replaceable kinds.
    pub d: Box<[u8]>,
}

/// A slot as a 128-bit keyed hash; without the directory's secret a collision takes 2^64 work, so
/// index rows hold the hash alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey(pub [u8; 16]);

impl Slot {
    /// The slot of `event`, if its kind has one.
    pub fn of(event: &EventRef<'_>) -> Option<Self> {
        let d = match class(event.kind()) {
            KindClass::Replaceable => Box::default(),
            KindClass::Addressable => {
                event.tags().first_value(b"d").map(|d| d.into_owned().into()).unwrap_or_default()
            }
            KindClass::Regular | KindClass::Ephemeral => return None,
        };
        Some(Self { pubkey: event.pubkey(), kind: event.kind(), d })
    }

    /// The keyed hash of the slot.
    pub fn key(&self, secret: &Secret) -> SlotKey {
        let mut bytes = Vec::with_capacity(34 + self.d.len());
        bytes.extend_from_slice(&self.pubkey.0);
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        bytes.extend_from_slice(&self.d);
        SlotKey(secret.hash128(domain::SLOT, &bytes))
    }
}

/// One version of a slot, as far as the choice between versions needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Unix seconds.
    pub created_at: u32,
    /// Id.
    pub id: EventId,
}

impl Version {
    /// Whether this version takes the slot from `other`: newer, or as old with the lower id.
    pub fn beats(&self, other: &Version) -> bool {
        match self.created_at.cmp(&other.created_at) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => self.id < other.id,
        }
    }
}
