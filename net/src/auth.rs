//! NIP-42 and NIP-70 on a connection: challenges, the checks of an AUTH event, and what a
//! connection may publish.

use proto::nip::{nip42, nip70};
use proto::verify::{Verifier, VerifyItem};
use proto::{EventRef, PublicKey, Reason};

/// A challenge: 32 hex digits of the entropy that the connection was given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge(pub [u8; 16]);

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenge(..)")
    }
}

impl Challenge {
    /// The text that the client signs.
    pub fn to_text(self) -> String {
        let mut hex = Vec::with_capacity(32);
        proto::id::write_hex(&self.0, &mut hex);
        hex.into_iter().map(char::from).collect()
    }
}

/// What an AUTH event is checked against.
#[derive(Clone, Copy)]
pub struct AuthRules<'a> {
    /// The challenge of the connection.
    pub challenge: Challenge,
    /// The relay's own URL, or the `Host` of the upgrade request.
    pub relay: &'a str,
    /// Wall clock.
    pub unix_s: u64,
    /// Keys authenticated so far.
    pub keys: &'a [PublicKey],
    /// Keys that one connection may authenticate.
    pub keys_max: usize,
}

/// Checks an AUTH event, the dear signature last.
///
/// # Errors
/// The [`Reason`] that OK carries.
pub fn check(
    event: &EventRef<'_>,
    rules: &AuthRules<'_>,
    verifier: &mut dyn Verifier,
) -> Result<PublicKey, Reason> {
    let challenge = rules.challenge.to_text();
    let expected =
        nip42::Expected { challenge: &challenge, relay: rules.relay, unix_s: rules.unix_s };
    nip42::check(event, &expected)?;
    let key = event.pubkey();
    if rules.keys.len() >= rules.keys_max && !rules.keys.contains(&key) {
        return Err(Reason::AuthTooManyKeys);
    }
    if !event.id_is_valid() {
        return Err(Reason::IdMismatch);
    }
    if !verifier.verify(&VerifyItem::of(event)) {
        return Err(Reason::BadSignature);
    }
    Ok(key)
}

/// Whether a connection that authenticated `keys` may publish `event` as far as the connection
/// alone can tell: AUTH events are never published, protected ones only by their author.
///
/// # Errors
/// The [`Reason`] that OK carries.
pub fn may_publish(event: &EventRef<'_>, keys: &[PublicKey]) -> Result<(), Reason> {
    may_restore(event)?;
    nip70::check(event, keys)
}

/// The same for an operator, who may bring back protected events that the relay has held before.
///
/// # Errors
/// The [`Reason`] that OK carries.
pub fn may_restore(event: &EventRef<'_>) -> Result<(), Reason> {
    if event.kind() == nip42::KIND { Err(Reason::AuthEventAsEvent) } else { Ok(()) }
}
