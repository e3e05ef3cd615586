//! Keys of index rows: byte strings whose order is the order of answers.
//!
//! `hash64 | kind u16 | !created_at u32 | id[0..4] | seq u40`, all big-endian, for rows by author
//! and by tag; without the hash by kind; without the kind by time. The hashes are keyed with the
//! directory's secret: nothing is interned, nothing is left out for its length, and a collision
//! only adds a row that the match against the filter removes. Rows that agree on time and four
//! bytes of id are settled by the full id, which stands in table `loc`.

use crate::delta::Vanish;
use crate::effect::{Loc, Position, Seq};
use proto::hash::domain;
use proto::nip::nip01::SlotKey;
use proto::{EventId, EventRef, PublicKey, Secret};

/// Bytes of a sequence in a key or value.
pub const SEQ_BYTES: usize = 5;
/// Greatest sequence that fits.
pub const SEQ_MAX: Seq = (1 << 40) - 1;
/// Where a segment's name carries its generation: 0 as it was written, more for each rewriting.
pub const GENERATION_SHIFT: u32 = 48;
/// The part of a segment's name that is its first sequence.
pub const FIRST_SEQ_MASK: Seq = (1 << GENERATION_SHIFT) - 1;
/// Bytes of a segment's name in a value.
pub const SEGMENT_BYTES: usize = 2 + SEQ_BYTES;
/// Greatest expiration that fits; later ones are kept as this, 34,000 years from now.
pub const EXPIRES_AT_MAX: u64 = (1 << 40) - 1;
/// Bytes of time, id prefix and sequence: the tail of every ordered key.
pub const TAIL_BYTES: usize = 4 + 4 + SEQ_BYTES;

/// Tag letters whose values the sketch covers: references to events and addresses.
pub const SKETCHED_LETTERS: [u8; 4] = *b"eaEA";

/// First bit of the hashes of tags that the sketch covers, so that they lie together in the index.
pub const SKETCHED_BIT: u64 = 1 << 63;

/// Keyed hash of an author.
pub fn author_hash(secret: &Secret, author: &PublicKey) -> u64 {
    secret.hash64(domain::AUTHOR, &author.0)
}

/// Keyed hash of a tag's letter and value; [`SKETCHED_BIT`] says whether the sketch covers it.
pub fn tag_hash(secret: &Secret, letter: u8, value: &[u8]) -> u64 {
    // The letter goes into the hash as a domain of its own: tag domains begin above the others.
    let mut bytes = [0u8; 128];
    let hash = if value.len() < bytes.len() {
        bytes[0] = letter;
        bytes[1..=value.len()].copy_from_slice(value);
        secret.hash64(domain::TAG, &bytes[..=value.len()])
    } else {
        let mut long = Vec::with_capacity(value.len() + 1);
        long.push(letter);
        long.extend_from_slice(value);
        secret.hash64(domain::TAG, &long)
    };
    if SKETCHED_LETTERS.contains(&letter) { hash | SKETCHED_BIT } else { hash & !SKETCHED_BIT }
}

/// What the index and the delta must know of an event besides its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventKeys {
    /// Id.
    pub id: EventId,
    /// Unix seconds.
    pub created_at: u32,
    /// Kind.
    pub kind: u16,
    /// [`author_hash`].
    pub author: u64,
    /// [`tag_hash`] of every indexed tag, sorted, each once.
    pub tags: Vec<u64>,
    /// Slot of a replaceable event.
    pub slot: Option<SlotKey>,
    /// NIP-40 expiration, 0 for never.
    pub expires_at: u64,
}

impl EventKeys {
    /// The keys of an event.
    pub fn of(event: &EventRef<'_>, secret: &Secret) -> Self {
        let mut tags: Vec<u64> = event
            .tags()
            .indexed()
            .map(|(letter, value)| tag_hash(secret, letter, &value))
            .collect();
        tags.sort_unstable();
        tags.dedup();
        let expires_at = proto::nip::nip40::expires_at(event).ok().flatten();
        Self {
            id: event.id(),
            created_at: event.created_at(),
            kind: event.kind(),
            author: author_hash(secret, &event.pubkey()),
            tags,
            slot: proto::nip::nip01::Slot::of(event).map(|slot| slot.key(secret)),
            // 0 means never, so an expiration at the beginning of time is kept as second 1.
            expires_at: expires_at.map_or(0, |at| at.clamp(1, EXPIRES_AT_MAX)),
        }
    }
}

/// First four bytes of an id, as they stand in keys.
pub fn id4(id: &EventId) -> u32 {
    u32::from_be_bytes([id.0[0], id.0[1], id.0[2], id.0[3]])
}

/// The last position that shares time and id prefix with a row: cutting there never cuts a tie.
pub fn tie_end(created_at: u32, id4: u32) -> Position {
    let mut id = EventId([0xff; 32]);
    id.0[..4].copy_from_slice(&id4.to_be_bytes());
    Position { created_at, id }
}

/// Appends a sequence.
pub fn push_seq(out: &mut Vec<u8>, seq: Seq) {
    assert!(seq <= SEQ_MAX, "a shard holds at most 2^40 records");
    out.extend_from_slice(&seq.to_be_bytes()[8 - SEQ_BYTES..]);
}

/// Reads a sequence from five bytes; `None` for any other number of bytes.
pub fn read_seq(bytes: &[u8]) -> Option<Seq> {
    let mut wide = [0; 8];
    wide[8 - SEQ_BYTES..].copy_from_slice(bytes.get(..SEQ_BYTES)?);
    (bytes.len() == SEQ_BYTES).then(|| u64::from_be_bytes(wide))
}

/// Appends a segment's name: generation and first sequence.
pub fn push_segment(out: &mut Vec<u8>, segment: Seq) {
    let generation = (segment >> GENERATION_SHIFT) as u16;
    out.extend_from_slice(&generation.to_be_bytes());
    push_seq(out, segment & FIRST_SEQ_MASK);
}

/// Reads a segment's name; `None` for any other number of bytes.
pub fn read_segment(bytes: &[u8]) -> Option<Seq> {
    let (generation, first_seq) = bytes.split_first_chunk()?;
    let generation = Seq::from(u16::from_be_bytes(*generation));
    Some(generation << GENERATION_SHIFT | read_seq(first_seq)?)
}

/// The tail of an ordered key: time, id prefix, sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tail {
    /// Complement of `created_at`, so that ascending order is newest first.
    pub newest_first: u32,
    /// First bytes of the id.
    pub id4: u32,
    /// Sequence.
    pub seq: Seq,
}

impl Tail {
    /// The tail of an event.
    pub fn of(created_at: u32, id: &EventId, seq: Seq) -> Self {
        Self { newest_first: !created_at, id4: id4(id), seq }
    }

    /// Unix seconds.
    pub fn created_at(&self) -> u32 {
        !self.newest_first
    }

    /// Appends the tail to a prefix.
    pub fn push(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.newest_first.to_be_bytes());
        out.extend_from_slice(&self.id4.to_be_bytes());
        push_seq(out, self.seq);
    }

    /// Reads the tail of a key.
    pub fn read(key: &[u8]) -> Option<Self> {
        let tail = key.get(key.len().checked_sub(TAIL_BYTES)?..)?;
        let word = |at: usize| Some(u32::from_be_bytes(tail.get(at..at + 4)?.try_into().ok()?));
        Some(Self { newest_first: word(0)?, id4: word(4)?, seq: read_seq(&tail[8..])? })
    }
}

/// Prefix of rows of an author or tag and a kind.
pub fn hash_kind_prefix(hash: u64, kind: u16) -> [u8; 10] {
    let mut prefix = [0; 10];
    prefix[..8].copy_from_slice(&hash.to_be_bytes());
    prefix[8..].copy_from_slice(&kind.to_be_bytes());
    prefix
}

/// A prefix and a tail.
pub fn ordered(prefix: &[u8], tail: Tail) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + TAIL_BYTES);
    key.extend_from_slice(prefix);
    tail.push(&mut key);
    key
}

/// Key of table `loc`.
pub fn loc_key(seq: Seq) -> Vec<u8> {
    let mut key = Vec::with_capacity(SEQ_BYTES);
    push_seq(&mut key, seq);
    key
}

/// Value of table `loc`: the one place that knows where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocRow {
    /// Place, flags and expiration.
    pub loc: Loc,
    /// Full position.
    pub position: Position,
}

impl LocRow {
    /// Bytes of the value.
    pub const BYTES: usize = SEGMENT_BYTES + 4 + 4 + 1 + SEQ_BYTES + 4 + 32;

    /// Writes the value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        push_segment(&mut out, self.loc.segment);
        out.extend_from_slice(&self.loc.offset.to_be_bytes());
        out.extend_from_slice(&self.loc.length.to_be_bytes());
        out.push(self.loc.flags);
        push_seq(&mut out, self.loc.expires_at.min(EXPIRES_AT_MAX));
        out.extend_from_slice(&self.position.created_at.to_be_bytes());
        out.extend_from_slice(&self.position.id.0);
        out
    }

    /// Reads the value; `None` for bytes of another length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let loc = Loc {
            segment: read_segment(&bytes[0..7])?,
            offset: word(7)?,
            length: word(11)?,
            flags: bytes[15],
            expires_at: read_seq(&bytes[16..21])?,
        };
        let id = EventId(bytes[25..57].try_into().ok()?);
        Some(Self { loc, position: Position { created_at: word(21)?, id } })
    }
}

/// Key of table `id`: eight bytes of the id, then the sequence; the full id stands in `loc`.
pub fn id_key(id: &EventId, seq: Seq) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + SEQ_BYTES);
    key.extend_from_slice(&id.0[..8]);
    push_seq(&mut key, seq);
    key
}

/// Key of table `expiry`.
pub fn expiry_key(expires_at: u64, seq: Seq) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 * SEQ_BYTES);
    push_seq(&mut key, expires_at.min(EXPIRES_AT_MAX));
    push_seq(&mut key, seq);
    key
}

/// Value of table `purge`: up to when, and the record that asked.
pub fn write_purge(vanish: &Vanish) -> Vec<u8> {
    let mut value = vanish.until.to_be_bytes().to_vec();
    push_seq(&mut value, vanish.seq);
    value
}

/// Reads a value of table `purge`.
pub fn read_purge(value: &[u8]) -> Option<Vanish> {
    let (until, seq) = value.split_first_chunk()?;
    Some(Vanish { until: u32::from_be_bytes(*until), seq: read_seq(seq)? })
}

/// First byte of markers of ids.
pub const MARK_ID: u8 = b'i';
/// First byte of markers of slots.
pub const MARK_SLOT: u8 = b's';

/// Key of table `marker` for a deleted id.
pub fn mark_id_key(id: &EventId, by: &PublicKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(65);
    key.push(MARK_ID);
    key.extend_from_slice(&id.0);
    key.extend_from_slice(&by.0);
    key
}

/// Key of table `marker` for a deleted slot.
pub fn mark_slot_key(slot: &SlotKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(MARK_SLOT);
    key.extend_from_slice(&slot.0);
    key
}
