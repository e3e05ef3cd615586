//! NIP-42 authentication: the checks on a kind 22242 event. The signature is checked by the caller.

use crate::{EventRef, Reason};

/// Kind of an AUTH event.
pub const KIND: u16 = 22_242;
/// Greatest distance between `created_at` and the relay's clock, in seconds.
pub const CLOCK_SKEW_S: u64 = 600;

/// What an AUTH event is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The challenge last sent on this connection.
    pub challenge: &'a str,
    /// URL of this relay, or the `Host` of the upgrade request.
    pub relay: &'a str,
    /// Wall clock.
    pub unix_s: u64,
}

/// Checks kind, time, challenge and relay.
///
/// # Errors
/// The [`Reason`] that OK carries.
pub fn check(event: &EventRef<'_>, expected: &Expected<'_>) -> Result<(), Reason> {
    if event.kind() != KIND {
        return Err(Reason::AuthBadEvent);
    }
    let relay = event.tags().first_value(b"relay").ok_or(Reason::AuthBadEvent)?;
    let challenge = event.tags().first_value(b"challenge").ok_or(Reason::AuthBadEvent)?;
    if *challenge != *expected.challenge.as_bytes() {
        return Err(Reason::AuthBadChallenge);
    }
    if u64::from(event.created_at()).abs_diff(expected.unix_s) > CLOCK_SKEW_S {
        return Err(Reason::AuthBadTime);
    }
    let relay = std::str::from_utf8(&relay).map_err(|_| Reason::AuthBadRelay)?;
    if host(relay) != host(expected.relay) {
        return Err(Reason::AuthBadRelay);
    }
    Ok(())
}

/// Host of a URL without scheme, path, default port or letter case: NIP-42 says that equality of
/// the domain is usually enough.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let name = authority
        .strip_suffix(":443")
        .or_else(|| authority.strip_suffix(":80"))
        .unwrap_or(authority);
    name.trim_end_matches('.').to_ascii_lowercase()
}
