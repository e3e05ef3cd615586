//! The rules that need nothing but the event, the time and the connection: cheapest refusals,
//! taken at the home before an event costs a message between cores.

use crate::message::Origin;
use proto::nip::{nip09, nip13, nip40, nip42, nip59, nip62, nip70};
use proto::{EventRef, Limits, Now, PublicKey, Reason};

/// Checks what a relay can say about `event` without a store; `public_url` is what it is called
/// from outside, if it knows.
///
/// # Errors
/// The [`Reason`] for `OK false`.
pub fn admit(
    now: Now,
    event: &EventRef<'_>,
    origin: Origin,
    keys: &[PublicKey],
    limits: &Limits,
    public_url: Option<&str>,
) -> Result<(), Reason> {
    if event.kind() == nip42::KIND {
        return Err(Reason::AuthEventAsEvent);
    }
    nip59::check(event)?;
    if event.kind() == nip09::KIND {
        nip09::targets(event)?;
    }
    if event.kind() == nip62::KIND {
        nip62::request(event, public_url)?;
    }
    let expired = nip40::expires_at(event)?.is_some_and(|at| at <= now.unix_s);
    if origin != Origin::Client {
        // An archive is taken as it is, except for what could never be served.
        return if expired { Err(Reason::Expired) } else { Ok(()) };
    }
    let created_at = u64::from(event.created_at());
    if created_at > now.unix_s.saturating_add(limits.created_at_future_s) {
        return Err(Reason::TooNew);
    }
    if created_at < now.unix_s.saturating_sub(limits.created_at_past_s) {
        return Err(Reason::TooOld);
    }
    if expired {
        return Err(Reason::Expired);
    }
    nip70::check(event, keys)?;
    if !nip13::is_satisfied(event, limits.pow_bits_min) {
        return Err(Reason::PowTooLow);
    }
    Ok(())
}
