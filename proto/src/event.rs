//! The packed event: what crosses cores, what the log stores, what clients are rendered from.
//!
//! Layout, little-endian: `id 32 | pubkey 32 | sig 64 | created_at u32 | kind u16 | reserved u16 |
//! tags_bytes u32 | tags | content`. `tags` is the canonical JSON array and `content` the canonical
//! JSON string, quotes included: no white space, only the escapes of NIP-01, other control
//! characters as `\u00xx`. The canonical spans are at once the hash preimage, the JSON that clients
//! get, and half the size of a verbatim event.

use crate::id::write_hex;
use crate::tag::{Tags, TagsError};
use crate::{EventId, PublicKey, Signature};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Bytes before the tags.
pub const HEADER_BYTES: usize = 140;

/// Bytes of a rendered event without its tags and content: 71 of keys and punctuation, 256 of hex,
/// at most 10 of `created_at` and 5 of `kind`.
const JSON_FRAME_BYTES_MAX: usize = 71 + 256 + 10 + 5;

/// An owned packed event; cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Event(Arc<[u8]>);

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view().fmt(f)
    }
}

impl Event {
    /// Takes packed bytes that come from outside this process (the log, another machine).
    ///
    /// # Errors
    /// [`PackedError`] when the bytes are not a well-formed packed event; nothing is said about the
    /// id or the signature.
    pub fn from_packed(bytes: &[u8]) -> Result<Self, PackedError> {
        EventRef::from_packed(bytes)?;
        Ok(Self(Arc::from(bytes)))
    }

    /// A borrowed view.
    pub fn view(&self) -> EventRef<'_> {
        EventRef(&self.0)
    }

    /// The packed bytes.
    pub fn packed(&self) -> &[u8] {
        &self.0
    }
}

/// Why bytes are not a packed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Shorter than the header.
    #[error("packed event is shorter than its header")]
    Short,
    /// The tags end beyond the record.
    #[error("packed event's tags end beyond the record")]
    TagsLength,
    /// The tags are no canonical array of arrays of strings.
    #[error("packed event's tags are not canonical")]
    Tags(#[from] TagsError),
    /// The content is no canonical string.
    #[error("packed event's content is not a canonical string")]
    Content,
}

/// The parts of an event from which a packed one is assembled.
#[derive(Clone, Copy, Debug)]
pub struct EventParts<'a> {
    /// Claimed id.
    pub id: EventId,
    /// Author.
    pub pubkey: PublicKey,
    /// Claimed signature.
    pub sig: Signature,
    /// Unix seconds.
    pub created_at: u32,
    /// Kind.
    pub kind: u16,
    /// Canonical JSON array.
    pub tags_json: &'a [u8],
    /// Canonical JSON string, quotes included.
    pub content_json: &'a [u8],
}

impl EventParts<'_> {
    /// Bytes of the packed form.
    pub fn packed_bytes(&self) -> usize {
        HEADER_BYTES + self.tags_json.len() + self.content_json.len()
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0..32].copy_from_slice(&self.id.0);
        header[32..64].copy_from_slice(&self.pubkey.0);
        header[64..128].copy_from_slice(&self.sig.0);
        header[128..132].copy_from_slice(&self.created_at.to_le_bytes());
        header[132..134].copy_from_slice(&self.kind.to_le_bytes());
        header[136..140].copy_from_slice(&(self.tags_json.len() as u32).to_le_bytes());
        header
    }

    /// Appends the packed form. The caller vouches that both spans are canonical and that the tags
    /// are shorter than 4 GiB.
    pub fn write_packed(&self, out: &mut Vec<u8>) {
        out.reserve(self.packed_bytes());
        out.extend_from_slice(&self.header());
        out.extend_from_slice(self.tags_json);
        out.extend_from_slice(self.content_json);
    }

    /// The packed event, in one allocation. The caller vouches as for [`EventParts::write_packed`].
    pub fn pack(&self) -> Event {
        let mut shared: Arc<[u8]> = std::iter::repeat_n(0, self.packed_bytes()).collect();
        // Nobody else has seen the allocation yet, so it is always ours to write.
        if let Some(packed) = Arc::get_mut(&mut shared) {
            let (header, spans) = packed.split_at_mut(HEADER_BYTES);
            let (tags, content) = spans.split_at_mut(self.tags_json.len());
            header.copy_from_slice(&self.header());
            tags.copy_from_slice(self.tags_json);
            content.copy_from_slice(self.content_json);
        }
        Event(shared)
    }

    /// SHA-256 of the canonical form (NIP-01), whatever `id` claims.
    pub fn compute_id(&self) -> EventId {
        canonical_id(self, false)
    }
}

/// A borrowed packed event whose shape has been checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EventRef<'a>(&'a [u8]);

impl std::fmt::Debug for EventRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event({} kind {} at {})", self.id(), self.kind(), self.created_at())
    }
}

impl<'a> EventRef<'a> {
    /// Checks the shape of packed bytes.
    ///
    /// # Errors
    /// [`PackedError`] names the first thing that is wrong.
    pub fn from_packed(bytes: &'a [u8]) -> Result<Self, PackedError> {
        if bytes.len() < HEADER_BYTES + 4 {
            return Err(PackedError::Short);
        }
        let view = Self(bytes);
        let tags_bytes = view.tags_bytes();
        if HEADER_BYTES + tags_bytes + 2 > bytes.len() {
            return Err(PackedError::TagsLength);
        }
        Tags::check(view.tags_json())?;
        if !crate::json::is_canonical_string(view.content_json()) {
            return Err(PackedError::Content);
        }
        Ok(view)
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }

    /// Claimed id.
    pub fn id(&self) -> EventId {
        EventId(self.array(0))
    }

    /// Author.
    pub fn pubkey(&self) -> PublicKey {
        PublicKey(self.array(32))
    }

    /// Claimed signature.
    pub fn sig(&self) -> Signature {
        Signature(self.array(64))
    }

    /// Unix seconds.
    pub fn created_at(&self) -> u32 {
        u32::from_le_bytes(self.array(128))
    }

    /// Kind.
    pub fn kind(&self) -> u16 {
        u16::from_le_bytes(self.array(132))
    }

    fn tags_bytes(&self) -> usize {
        u32::from_le_bytes(self.array(136)) as usize
    }

    /// Canonical JSON array of the tags.
    pub fn tags_json(&self) -> &'a [u8] {
        &self.0[HEADER_BYTES..HEADER_BYTES + self.tags_bytes()]
    }

    /// Canonical JSON string of the content, quotes included.
    pub fn content_json(&self) -> &'a [u8] {
        &self.0[HEADER_BYTES + self.tags_bytes()..]
    }

    /// The tags, one after the other.
    pub fn tags(&self) -> Tags<'a> {
        Tags::new(self.tags_json())
    }

    /// The packed bytes.
    pub fn packed(&self) -> &'a [u8] {
        self.0
    }

    /// An owned copy.
    pub fn to_event(&self) -> Event {
        Event(Arc::from(self.0))
    }

    /// The parts.
    pub fn parts(&self) -> EventParts<'a> {
        EventParts {
            id: self.id(),
            pubkey: self.pubkey(),
            sig: self.sig(),
            created_at: self.created_at(),
            kind: self.kind(),
            tags_json: self.tags_json(),
            content_json: self.content_json(),
        }
    }

    /// Whether the claimed id is the hash of the event.
    ///
    /// Control characters other than the seven escaped ones hash as `\u00xx` in every
    /// implementation and raw by the letter of NIP-01; either is accepted.
    pub fn id_is_valid(&self) -> bool {
        let parts = self.parts();
        canonical_id(&parts, false) == parts.id
            || (has_unicode_escape(&parts) && canonical_id(&parts, true) == parts.id)
    }

    /// Upper bound of the rendered JSON object's bytes.
    pub fn json_bytes_max(&self) -> usize {
        self.0.len() - HEADER_BYTES + JSON_FRAME_BYTES_MAX
    }

    /// Appends the event as a JSON object, fields in the order of NIP-01.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.reserve(self.json_bytes_max());
        out.extend_from_slice(b"{\"id\":\"");
        write_hex(&self.0[0..32], out);
        out.extend_from_slice(b"\",\"pubkey\":\"");
        write_hex(&self.0[32..64], out);
        out.extend_from_slice(b"\",\"created_at\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.created_at()).as_bytes());
        out.extend_from_slice(b",\"kind\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.kind()).as_bytes());
        out.extend_from_slice(b",\"tags\":");
        out.extend_from_slice(self.tags_json());
        out.extend_from_slice(b",\"content\":");
        out.extend_from_slice(self.content_json());
        out.extend_from_slice(b",\"sig\":\"");
        write_hex(&self.0[64..128], out);
        out.extend_from_slice(b"\"}");
    }
}

fn has_unicode_escape(parts: &EventParts<'_>) -> bool {
    memchr::memmem::find(parts.content_json, b"\\u00").is_some()
        || memchr::memmem::find(parts.tags_json, b"\\u00").is_some()
}

fn canonical_id(parts: &EventParts<'_>, raw_controls: bool) -> EventId {
    let mut head = Vec::with_capacity(112);
    head.extend_from_slice(b"[0,\"");
    write_hex(&parts.pubkey.0, &mut head);
    head.extend_from_slice(b"\",");
    head.extend_from_slice(itoa::Buffer::new().format(parts.created_at).as_bytes());
    head.push(b',');
    head.extend_from_slice(itoa::Buffer::new().format(parts.kind).as_bytes());
    head.push(b',');
    let mut hash = Sha256::new();
    hash.update(&head);
    if raw_controls {
        hash.update(crate::json::with_raw_controls(parts.tags_json));
        hash.update(b",");
        hash.update(crate::json::with_raw_controls(parts.content_json));
    } else {
        hash.update(parts.tags_json);
        hash.update(b",");
        hash.update(parts.content_json);
    }
    hash.update(b"]");
    EventId(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(tags_json: &str, content_json: &str) -> Vec<u8> {
        let event = EventParts {
            id: EventId([1; 32]),
            pubkey: PublicKey([2; 32]),
            sig: Signature([3; 64]),
            created_at: 4,
            kind: 5,
            tags_json: tags_json.as_bytes(),
            content_json: content_json.as_bytes(),
        };
        event.pack().packed().to_vec()
    }

    #[test]
    fn packed_bytes_are_refused_for_the_right_reason() {
        let good = packed(r#"[["a","b"]]"#, r#""c""#);
        assert!(Event::from_packed(&good).is_ok());
        for length in 0..good.len() {
            assert!(Event::from_packed(&good[..length]).is_err(), "{length}");
        }
        let refused = |bytes: &[u8]| Event::from_packed(bytes).unwrap_err();
        assert_eq!(refused(&good[..HEADER_BYTES + 3]), PackedError::Short);
        assert_eq!(refused(&packed("[[]]", "\"\"")), PackedError::Tags(TagsError));
        assert_eq!(refused(&packed("[]", "\"\n\"")), PackedError::Content);
        assert_eq!(refused(&packed("[]", "{}")), PackedError::Content);
        let mut overlong = good.clone();
        overlong[136..140].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(refused(&overlong), PackedError::TagsLength);
    }

    #[test]
    fn reserved_bytes_are_zero_and_every_field_is_where_the_layout_says() {
        let bytes = packed("[]", "\"\"");
        assert_eq!(bytes.len(), HEADER_BYTES + 4);
        assert_eq!(bytes[128..140], [4, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(&bytes[HEADER_BYTES..], b"[]\"\"");
    }
}
