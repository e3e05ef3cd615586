//! The relay elsewhere: connecting, and saying who we are if we have a key.

use super::messages::{Heard, hear};
use crate::cli::{Failure, Outcome};
use crate::runtime::client::{Client, ConnectError, wait};
use crate::runtime::clock;
use crate::runtime::signals::Asked;
use crate::runtime::uplink::Gone;
use anyhow::anyhow;
use proto::json::write_string;
use proto::nip::nip42;
use proto::{EventId, EventParts, PublicKey, Signature};
use secp256k1::{Keypair, SecretKey, schnorr};
use std::path::Path;

/// How long a challenge is waited for.
const CHALLENGE_MS: u64 = 2_000;

/// The key that answers AUTH challenges.
pub(in crate::cli) struct AuthKey(Keypair);

impl AuthKey {
    /// Reads 64 hex digits.
    pub(in crate::cli) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(anyhow!("cannot read {name}: {error}")))?;
        let bytes = proto::id::read_hex::<32>(text.trim().to_ascii_lowercase().as_bytes());
        let secret = bytes.and_then(|bytes| SecretKey::from_secret_bytes(bytes).ok());
        let secret = secret.ok_or_else(|| {
            Failure::Usage(anyhow!("{name} holds no secret key; it is one line of 64 hex digits"))
        })?;
        Ok(Self(Keypair::from_secret_key(&secret)))
    }

    /// AUTH, signed, and the id of its event.
    fn answer(&self, url: &str, challenge: &str, now_s: u64) -> (EventId, String) {
        let mut tags = b"[[\"relay\",".to_vec();
        write_string(url.as_bytes(), &mut tags);
        tags.extend_from_slice(b"],[\"challenge\",");
        write_string(challenge.as_bytes(), &mut tags);
        tags.extend_from_slice(b"]]");
        let mut parts = EventParts {
            id: EventId([0; 32]),
            pubkey: PublicKey(self.0.x_only_public_key().0.to_byte_array()),
            sig: Signature([0; 64]),
            created_at: u32::try_from(now_s).unwrap_or(u32::MAX),
            kind: nip42::KIND,
            tags_json: &tags,
            content_json: b"\"\"",
        };
        parts.id = parts.compute_id();
        parts.sig = Signature(schnorr::sign_no_aux_rand(&parts.id.0, &self.0).to_byte_array());
        let mut message = b"[\"AUTH\",".to_vec();
        parts.pack().view().write_json(&mut message);
        message.push(b']');
        (parts.id, String::from_utf8_lossy(&message).into_owned())
    }
}

/// How a relay elsewhere is reached.
pub(in crate::cli) struct Address<'a> {
    pub(in crate::cli) url: &'a str,
    pub(in crate::cli) key: Option<&'a AuthKey>,
    pub(in crate::cli) timeout_ms: u64,
}

impl Address<'_> {
    /// Connects, and authenticates if there is a key.
    pub(in crate::cli) fn connect(&self, asked: &Asked) -> Result<Client, Failure> {
        let mut client =
            Client::connect(self.url, self.timeout_ms).map_err(|error| match error {
                ConnectError::Url(_) => Failure::Usage(error.into()),
                _ => Failure::Failed(error.into()),
            })?;
        if let Some(key) = self.key {
            self.authenticate(&mut client, key, asked)?;
        }
        Ok(client)
    }

    /// The answer to a challenge, if there is a key.
    pub(in crate::cli) fn answer(&self, challenge: &str) -> Option<String> {
        Some(self.key?.answer(self.url, challenge, clock::now().unix_s).1)
    }

    /// Most relays send their challenge first. One that sends it with a refusal is answered then.
    fn authenticate(&self, client: &mut Client, key: &AuthKey, asked: &Asked) -> Outcome {
        let gone = |gone: Gone| Failure::Failed(anyhow!("{}: {}", self.url, gone.0));
        let began_ms = clock::now().monotonic_ms;
        let mut sent = None;
        while !asked.to_end() {
            while let Some(text) = client.read().map_err(gone)? {
                match hear(&text) {
                    Heard::Auth(challenge) => {
                        let (id, answer) = key.answer(self.url, &challenge, clock::now().unix_s);
                        client.send(answer).map_err(gone)?;
                        sent = Some(id);
                    }
                    Heard::Ok(id, true, _) if sent == Some(id) => return Ok(()),
                    Heard::Ok(id, false, why) if sent == Some(id) => {
                        return Err(anyhow!("{} does not take the key: {why}", self.url).into());
                    }
                    _ => {}
                }
            }
            let waited_ms = clock::now().monotonic_ms - began_ms;
            if sent.is_none() && waited_ms > CHALLENGE_MS {
                return Ok(());
            }
            if waited_ms > self.timeout_ms {
                return Err(anyhow!("{} does not answer AUTH", self.url).into());
            }
            wait([&mut *client], 100).map_err(|(_, error)| gone(error))?;
        }
        Err(Failure::Failed(anyhow!("interrupted")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
    use proto::{Limits, Secret, SeededState};

    #[test]
    fn the_answer_to_a_challenge_is_one_that_a_relay_takes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        std::fs::write(&path, format!("{}\n", "0A".repeat(32))).unwrap();
        let key = AuthKey::read(&path).ok().unwrap();
        let (id, message) = key.answer("wss://relay.example/\"x", "cha\"llenge", 1_700_000_000);
        let event = message.strip_prefix("[\"AUTH\",").unwrap().strip_suffix(']').unwrap();
        let event = proto::parse::parse_event(event.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(event.view().id(), id);
        let mut verifier = Secp256k1Verifier::new(SeededState::new(Secret([1; 16])), 16);
        assert!(verifier.verify(&VerifyItem::of(&event.view())));
        let expected = nip42::Expected {
            challenge: "cha\"llenge",
            relay: "wss://relay.example",
            unix_s: 1_700_000_000,
        };
        assert_eq!(nip42::check(&event.view(), &expected), Ok(()));
        std::fs::write(&path, "nsec1x").unwrap();
        assert!(matches!(AuthKey::read(&path), Err(Failure::Usage(_))));
    }
}
