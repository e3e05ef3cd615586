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
    if is_same_relay(relay, expected.relay) { Ok(()) } else { Err(Reason::AuthBadRelay) }
}

/// Whether the URL `named` is that of the relay whose URL (or `Host`) is `own`.
pub(super) fn is_same_relay(named: &str, own: &str) -> bool {
    let named = host(named);
    !named.is_empty() && named == host(own)
}

/// Host and port of a URL without scheme, path, user, default port or letter case: NIP-42 says that
/// equality of the domain is usually enough. Behind a proxy the relay knows only a `Host` without a
/// scheme, so either default port counts as none.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    // The colons of an IPv6 address stand inside its brackets.
    let port_search_from = authority.find(']').unwrap_or(0);
    let colon = authority[port_search_from..].find(':').map(|at| port_search_from + at);
    let (name, port) = colon.map_or((authority, ""), |at| authority.split_at(at));
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match port {
        "" | ":" | ":80" | ":443" => name,
        port => name + port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_what_may_differ() {
        let same = [
            ("wss://Relay.Example.com", "relay.example.com"),
            ("wss://relay.example.com:443/", "relay.example.com"),
            ("ws://relay.example.com:80?x=a://b", "relay.example.com:"),
            ("wss://relay.example.com./path#x", "https://relay.example.com"),
            ("wss://me:secret@relay.example.com", "relay.example.com"),
            ("ws://[2001:DB8::443]:443", "[2001:db8::443]"),
            ("ws://[::1]:7777/", "[::1]:7777"),
            ("ws://127.0.0.1:7777", "127.0.0.1:7777"),
        ];
        for (left, right) in same {
            assert_eq!(host(left), host(right), "{left} {right}");
        }
        let different = [
            ("ws://[2001:db8::443]", "[2001:db8:]"),
            ("wss://relay.example.com:8443", "relay.example.com"),
            ("wss://relay.example.com.evil.org", "relay.example.com"),
            ("wss://evil.org/relay.example.com", "relay.example.com"),
            ("wss://relay.example.com@evil.org", "relay.example.com"),
            ("ws://[::1]:7777", "[::1]:7778"),
        ];
        for (left, right) in different {
            assert_ne!(host(left), host(right), "{left} {right}");
        }
    }
}
