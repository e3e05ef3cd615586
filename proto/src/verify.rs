//! BIP-340 verification behind one trait, single and in batches, with a cache of parsed keys.
//!
//! A verdict is a pure function of (id, key, signature). The product uses [`Secp256k1Verifier`];
//! the simulator may answer from a table that was filled by it.

use crate::{EventId, PublicKey, SeededMap, SeededState, Signature};
use secp256k1::XOnlyPublicKey;

/// What one verification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyItem {
    /// The signed message.
    pub id: EventId,
    /// The signer.
    pub pubkey: PublicKey,
    /// The signature.
    pub sig: Signature,
}

impl VerifyItem {
    /// The item of a packed event.
    pub fn of(event: &crate::EventRef<'_>) -> Self {
        Self { id: event.id(), pubkey: event.pubkey(), sig: event.sig() }
    }
}

/// Decides whether signatures are valid.
pub trait Verifier {
    /// Whether `item.sig` is a valid BIP-340 signature by `item.pubkey` over `item.id`.
    fn verify(&mut self, item: &VerifyItem) -> bool;

    /// Appends one verdict per item, in order.
    fn verify_batch(&mut self, items: &[VerifyItem], verdicts: &mut Vec<bool>) {
        for item in items {
            let verdict = self.verify(item);
            verdicts.push(verdict);
        }
    }
}

/// libsecp256k1 with parsed keys of recent authors kept. Owned by one core; bounded to
/// `keys_max` entries of about 150 bytes.
pub struct Secp256k1Verifier {
    keys: SeededMap<PublicKey, Option<XOnlyPublicKey>>,
    keys_max: usize,
}

impl Secp256k1Verifier {
    /// A verifier that keeps up to `keys_max` parsed keys.
    pub fn new(seed: SeededState, keys_max: usize) -> Self {
        Self { keys: SeededMap::with_hasher(seed), keys_max }
    }
}

impl Verifier for Secp256k1Verifier {
    fn verify(&mut self, item: &VerifyItem) -> bool {
        // Emptying a full cache costs one parse (4 us of 31) per hot author again, and needs no
        // bookkeeping per hit.
        if self.keys.len() >= self.keys_max {
            self.keys.clear();
        }
        let parsed = self
            .keys
            .entry(item.pubkey)
            .or_insert_with(|| XOnlyPublicKey::from_byte_array(item.pubkey.0).ok());
        let Some(key) = parsed else { return false };
        let signature = secp256k1::schnorr::Signature::from_byte_array(item.sig.0);
        secp256k1::schnorr::verify(&signature, &item.id.0, key).is_ok()
    }
}
