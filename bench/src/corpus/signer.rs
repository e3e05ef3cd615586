//! Keys from seeds and signatures that depend on nothing but the event: the same draft signed
//! twice, here or on another machine, is the same event byte for byte.

use crate::rng::splitmix64;
use proto::json::write_string;
use proto::{Event, EventId, EventParts, PublicKey, Signature};
use secp256k1::{Keypair, SecretKey, schnorr};

/// A key pair made from a 64-bit seed.
#[derive(Clone, Copy)]
pub struct Signer {
    keypair: Keypair,
    pubkey: PublicKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.pubkey)
    }
}

impl Signer {
    /// The key of `seed`. Different seeds give unrelated keys.
    pub fn from_seed(seed: u64) -> Self {
        let mut state = seed ^ 0x7475_726e_7069_6b65;
        loop {
            let mut secret = [0; 32];
            for word in secret.chunks_exact_mut(8) {
                word.copy_from_slice(&splitmix64(&mut state).to_be_bytes());
            }
            // One in 2^128 draws is not below the group order; the next draw then is.
            if let Ok(secret) = SecretKey::from_secret_bytes(secret) {
                let keypair = Keypair::from_secret_key(&secret);
                let pubkey = PublicKey(keypair.x_only_public_key().0.to_byte_array());
                return Self { keypair, pubkey };
            }
        }
    }

    /// The public key.
    pub fn pubkey(&self) -> PublicKey {
        self.pubkey
    }

    /// The secret key in hex, for client libraries that want to sign themselves.
    pub fn secret_hex(&self) -> String {
        let mut hex = Vec::with_capacity(64);
        proto::id::write_hex(&self.keypair.secret_key().to_secret_bytes(), &mut hex);
        String::from_utf8(hex).expect("hex digits are ASCII")
    }

    /// Signs any 32-byte message without auxiliary randomness, so that the result is repeatable.
    pub fn sign_id(&self, id: &EventId) -> Signature {
        Signature(schnorr::sign_no_aux_rand(&id.0, &self.keypair).to_byte_array())
    }

    /// Completes `parts` as an event of this key: its `pubkey`, `id` and `sig` are replaced.
    pub fn sign_parts(&self, parts: EventParts<'_>) -> Event {
        let mut parts = EventParts { pubkey: self.pubkey, ..parts };
        parts.id = parts.compute_id();
        parts.sig = self.sign_id(&parts.id);
        parts.pack()
    }

    /// Signs a draft.
    pub fn sign(&self, draft: &Draft) -> Event {
        self.sign_parts(draft.parts())
    }
}

/// An event before it has an author: time, kind, tags, content.
#[derive(Clone, Debug)]
pub struct Draft {
    created_at: u32,
    kind: u16,
    tags_json: Vec<u8>,
    content_json: Vec<u8>,
}

impl Draft {
    /// No tags, no content.
    pub fn new(kind: u16, created_at: u32) -> Self {
        Self { created_at, kind, tags_json: b"[]".to_vec(), content_json: b"\"\"".to_vec() }
    }

    /// Adds one tag.
    #[must_use]
    pub fn tag(mut self, elements: &[&str]) -> Self {
        self.push_tag(elements);
        self
    }

    /// Sets the content.
    #[must_use]
    pub fn content(mut self, text: &str) -> Self {
        self.set_content(text.as_bytes());
        self
    }

    /// Adds one tag; a tag without elements is no tag and is left out.
    pub fn push_tag(&mut self, elements: &[&str]) {
        if elements.is_empty() {
            return;
        }
        self.tags_json.pop();
        if self.tags_json.len() > 1 {
            self.tags_json.push(b',');
        }
        for (index, element) in elements.iter().enumerate() {
            self.tags_json.push(if index == 0 { b'[' } else { b',' });
            write_string(element.as_bytes(), &mut self.tags_json);
        }
        self.tags_json.extend_from_slice(b"]]");
    }

    /// Sets the content from UTF-8 bytes.
    pub fn set_content(&mut self, text: &[u8]) {
        self.content_json.clear();
        write_string(text, &mut self.content_json);
    }

    /// Bytes of the tags and the content as JSON.
    pub fn body_bytes(&self) -> usize {
        self.tags_json.len() + self.content_json.len()
    }

    /// Parts with neither id nor author.
    pub fn parts(&self) -> EventParts<'_> {
        EventParts {
            id: EventId([0; 32]),
            pubkey: PublicKey([0; 32]),
            sig: Signature([0; 64]),
            created_at: self.created_at,
            kind: self.kind,
            tags_json: &self.tags_json,
            content_json: &self.content_json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
    use proto::{Secret, SeededState};

    #[test]
    fn a_signed_draft_is_a_valid_event_and_repeats() {
        let signer = Signer::from_seed(3);
        let draft = Draft::new(1, 1_700_000_000)
            .tag(&["e", &"ab".repeat(32), "", "root"])
            .tag(&["t", "größe \"x\"\n"])
            .content("line\n\"quoted\" \\ \u{1} é 漢");
        let event = signer.sign(&draft);
        assert!(event.view().id_is_valid());
        assert_eq!(event, signer.sign(&draft));
        assert_eq!(Event::from_packed(event.packed()).unwrap(), event);
        let mut verifier = Secp256k1Verifier::new(SeededState::new(Secret([1; 16])), 16);
        assert!(verifier.verify(&VerifyItem::of(&event.view())));
        let other = Signer::from_seed(4).sign(&draft);
        assert_ne!(other.view().pubkey(), event.view().pubkey());
        assert_eq!(event.view().tags().count(), 2);
    }

    #[test]
    fn secret_hex_is_the_secret_of_the_public_key() {
        let signer = Signer::from_seed(9);
        let secret = proto::id::read_hex::<32>(signer.secret_hex().as_bytes()).unwrap();
        let keypair = Keypair::from_secret_key(&SecretKey::from_secret_bytes(secret).unwrap());
        assert_eq!(keypair.x_only_public_key().0.to_byte_array(), signer.pubkey().0);
    }
}
