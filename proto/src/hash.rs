//! Keyed hashing: every map whose keys a peer can choose is seeded, and every hash that decides
//! placement or stands in an index key is keyed with the data directory's secret, so that nobody
//! outside can grind keys into one shard or one bucket.

use crate::{EventId, PublicKey};
use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher13x128};
use std::hash::{BuildHasher, Hasher};

/// The 16 secret bytes of a data directory (file `FORMAT`), made once from the system's entropy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// SipHash-1-3 of `bytes`; `domain` keeps hashes made for different purposes apart.
    pub fn hash64(&self, domain: u8, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u8(domain);
        hasher.write(bytes);
        hasher.finish()
    }

    /// SipHash-1-3 with 128 bits of output, for keys that are not confirmed by full bytes.
    pub fn hash128(&self, domain: u8, bytes: &[u8]) -> [u8; 16] {
        let mut hasher = SipHasher13x128::new_with_key(&self.0);
        hasher.write_u8(domain);
        hasher.write(bytes);
        hasher.finish128().as_u128().to_be_bytes()
    }
}

/// `BuildHasher` for maps whose keys come from peers. Two states of one seed hash alike, so the
/// simulator stays deterministic.
#[derive(Clone, Copy, Debug)]
pub struct SeededState(Secret);

impl SeededState {
    /// A state from the seed that the runtime (or the simulator) drew.
    pub fn new(seed: Secret) -> Self {
        Self(seed)
    }
}

impl BuildHasher for SeededState {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0.0)
    }
}

/// A hash map seeded against collision attacks.
#[allow(clippy::disallowed_types, reason = "this alias is what the lint points to")]
pub type SeededMap<K, V> = std::collections::HashMap<K, V, SeededState>;
/// A hash set seeded against collision attacks.
#[allow(clippy::disallowed_types, reason = "this alias is what the lint points to")]
pub type SeededSet<K> = std::collections::HashSet<K, SeededState>;

/// Domains of [`Secret::hash64`] and [`Secret::hash128`].
pub mod domain {
    /// Bucket of a key.
    pub const BUCKET: u8 = 1;
    /// Author in an index key.
    pub const AUTHOR: u8 = 2;
    /// Tag letter and value in an index key.
    pub const TAG: u8 = 3;
    /// Replaceable slot.
    pub const SLOT: u8 = 4;
    /// Sketch of ids and of `e`/`a` values.
    pub const SKETCH: u8 = 5;
}

/// Number of placement buckets of a data directory.
pub const BUCKETS: usize = 4096;

/// Which shard owns a key: key -> bucket by keyed hash, bucket -> shard by the directory's table.
#[derive(Clone, Debug)]
pub struct Placement {
    secret: Secret,
    shard_of_bucket: Box<[u16]>,
    shards: u16,
}

impl Placement {
    /// The even table over `shards` shards (1..=4096).
    pub fn even(secret: Secret, shards: u16) -> Self {
        let shards = shards.clamp(1, BUCKETS as u16);
        let shard_of_bucket = (0..BUCKETS).map(|bucket| (bucket % usize::from(shards)) as u16);
        Self { secret, shard_of_bucket: shard_of_bucket.collect(), shards }
    }

    /// The secret that keys this placement.
    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The shard that owns `key`.
    pub fn shard_of(&self, key: &PublicKey) -> u16 {
        let bucket = self.secret.hash64(domain::BUCKET, &key.0) as usize % BUCKETS;
        self.shard_of_bucket[bucket]
    }

    /// The shard that owns an event: the recipient's for gift wraps, the author's for all else.
    pub fn owner(&self, event: &crate::EventRef<'_>) -> u16 {
        self.shard_of(&crate::nip::nip59::owner_key(event))
    }

    /// Hash of an event id for the sketch.
    pub fn id_hash(&self, id: &EventId) -> u64 {
        self.secret.hash64(domain::SKETCH, &id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        PublicKey(bytes)
    }

    #[test]
    fn keys_that_differ_little_are_spread_evenly_and_always_alike() {
        for shards in [1, 2, 3, 8] {
            let placement = Placement::even(Secret([9; 16]), shards);
            let mut counts = vec![0u32; usize::from(shards)];
            for number in 0..8000 {
                let shard = placement.shard_of(&key(number));
                assert_eq!(shard, placement.clone().shard_of(&key(number)));
                counts[usize::from(shard)] += 1;
            }
            let even = 8000 / u32::from(shards);
            assert!(counts.iter().all(|count| count.abs_diff(even) < even / 5), "{counts:?}");
        }
    }

    #[test]
    fn shard_counts_out_of_range_are_clamped() {
        assert_eq!(Placement::even(Secret([0; 16]), 0).shards(), 1);
        let most = Placement::even(Secret([0; 16]), u16::MAX);
        assert_eq!(usize::from(most.shards()), BUCKETS);
        assert!(usize::from(most.shard_of(&key(1))) < BUCKETS);
    }

    #[test]
    fn another_secret_or_domain_gives_another_hash() {
        let (one, two) = (Secret([1; 16]), Secret([2; 16]));
        assert_eq!(one.hash64(domain::TAG, b"x"), Secret([1; 16]).hash64(domain::TAG, b"x"));
        assert_ne!(one.hash64(domain::TAG, b"x"), two.hash64(domain::TAG, b"x"));
        assert_ne!(one.hash64(domain::TAG, b"x"), one.hash64(domain::AUTHOR, b"x"));
        assert_ne!(one.hash128(domain::TAG, b"x"), two.hash128(domain::TAG, b"x"));
        assert_ne!(one.hash128(domain::TAG, b"x"), one.hash128(domain::SLOT, b"x"));
        assert!(!format!("{one:?}").contains('1'));
    }

    #[test]
    fn gift_wraps_live_with_their_recipient_and_everything_else_with_its_author() {
        let placement = Placement::even(Secret([3; 16]), 64);
        let (author, recipient) = (key(1), key(2));
        assert_ne!(placement.shard_of(&author), placement.shard_of(&recipient));
        for (kind, owner) in [(1059, recipient), (21_059, recipient), (4, author), (13, author)] {
            let event = crate::EventParts {
                id: EventId([0; 32]),
                pubkey: author,
                sig: crate::Signature([0; 64]),
                created_at: 0,
                kind,
                tags_json: format!(r#"[["p","{recipient}"]]"#).as_bytes(),
                content_json: b"\"\"",
            }
            .pack();
            assert_eq!(placement.owner(&event.view()), placement.shard_of(&owner), "{kind}");
        }
    }
}
