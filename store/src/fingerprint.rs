//! A number that two stores share exactly when they hold the same events with the same signatures,
//! in whatever order and on however many shards.

use proto::EventRef;
use sha2::{Digest, Sha256};

/// Sum of the hashes of a set of events modulo 2^256, and their number. Adding is commutative, so
/// shards add up to their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Sum, least significant limb first.
    limbs: [u64; 4],
    /// Number of events.
    pub events: u64,
}

impl Fingerprint {
    /// Adds one event: the SHA-256 of its id and signature.
    pub fn add_event(&mut self, event: &EventRef<'_>) {
        let mut hash = Sha256::new();
        hash.update(event.id().0);
        hash.update(event.sig().0);
        let digest: [u8; 32] = hash.finalize().into();
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(digest.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        self.add(&Self { limbs, events: 1 });
    }

    /// Adds another set, which must have no event in common with this one.
    pub fn add(&mut self, other: &Self) {
        let mut carry = false;
        for (mine, theirs) in self.limbs.iter_mut().zip(other.limbs) {
            let (sum, first) = mine.overflowing_add(theirs);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *mine = sum;
            carry = first || second;
        }
        self.events += other.events;
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d] = self.limbs;
        write!(f, "{d:016x}{c:016x}{b:016x}{a:016x}-{}", self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{EventId, EventParts, PublicKey, Signature};

    fn event(number: u8) -> proto::Event {
        EventParts {
            id: EventId([number; 32]),
            pubkey: PublicKey([1; 32]),
            sig: Signature([number; 64]),
            created_at: 1,
            kind: 1,
            tags_json: b"[]",
            content_json: b"\"\"",
        }
        .pack()
    }

    #[test]
    fn order_and_grouping_do_not_matter_and_every_event_does() {
        let of = |numbers: &[u8]| {
            let mut fingerprint = Fingerprint::default();
            for number in numbers {
                fingerprint.add_event(&event(*number).view());
            }
            fingerprint
        };
        assert_eq!(of(&[1, 2, 3, 4]), of(&[4, 1, 3, 2]));
        let mut halves = of(&[1, 2]);
        halves.add(&of(&[3, 4]));
        assert_eq!(halves, of(&[1, 2, 3, 4]));
        assert_ne!(of(&[1, 2, 3]), of(&[1, 2, 4]));
        assert_ne!(of(&[1, 1]), of(&[1]));
        assert!(of(&[1, 2]).to_string().ends_with("-2"));
    }

    #[test]
    fn the_sum_carries_through_all_limbs() {
        let mut sum = Fingerprint { limbs: [u64::MAX; 4], events: 1 };
        sum.add(&Fingerprint { limbs: [1, 0, 0, 0], events: 1 });
        assert_eq!(sum, Fingerprint { limbs: [0; 4], events: 2 });
    }
}
