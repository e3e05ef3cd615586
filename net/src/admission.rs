//! Who may connect: open connections and new connections per IPv4 address or IPv6 /64, and in
//! total.

use crate::counters::Refusal;
use crate::proxy::TrustedProxies;
use crate::rate::{Bucket, Rate};
use core::net::IpAddr;
use proto::{SeededMap, SeededState};

/// Open connections of one address, unless configured otherwise.
pub const OPEN_PER_ADDRESS_MAX: u32 = 100;
/// New connections of one address a second, unless configured otherwise.
pub const NEW_PER_SECOND: u32 = 5;
/// Open connections of one core, unless configured otherwise.
pub const OPEN_MAX: usize = 50_000;
/// Addresses remembered beyond those with open connections.
const QUIET_ADDRESSES_MAX: usize = 16_384;

/// Limits on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Open connections of one address; 0 is no limit.
    pub open_per_address_max: u32,
    /// New connections of one address.
    pub new_per_address: Rate,
    /// Open connections in total.
    pub open_max: usize,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            open_per_address_max: OPEN_PER_ADDRESS_MAX,
            new_per_address: Rate::per_second(NEW_PER_SECOND),
            open_max: OPEN_MAX,
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 that one IPv6 customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    open: u32,
    bucket: Bucket,
}

/// A counted connection; [`Admission::release`] takes it back.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Admitted(
    /// Whom it is counted under: nobody while a trusted proxy has not named its client.
    Option<IpAddr>,
);

/// Counts connections. Owned by the core that accepts; bounded to `open_max` plus 16,384 entries
/// of 32 bytes, doubled by the map's growth.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    entries: SeededMap<Network, Entry>,
    open: usize,
    crowded: Option<IpAddr>,
    has_warned: bool,
}

impl Admission {
    /// Nobody is connected yet.
    pub fn new(config: AdmissionConfig, seed: SeededState) -> Self {
        let entries = SeededMap::with_hasher(seed);
        Self { config, entries, open: 0, crowded: None, has_warned: false }
    }

    /// Sets new limits; open connections stay.
    pub fn configure(&mut self, config: AdmissionConfig) {
        self.config = config;
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Counts a connection that was accepted from `peer`. Trusted proxies carry the connections of
    /// many, so theirs count in total only, until [`Admission::rename`].
    ///
    /// # Errors
    /// [`Refusal`] says which limit; nothing is counted then.
    pub fn admit(
        &mut self,
        now_ms: u64,
        peer: IpAddr,
        trusted: &TrustedProxies,
    ) -> Result<Admitted, Refusal> {
        if self.open >= self.config.open_max {
            return Err(Refusal::CoreFull);
        }
        let peer = peer.to_canonical();
        let counted = (!trusted.contains(peer)).then_some(peer);
        if let Some(address) = counted {
            self.count(now_ms, address)?;
        }
        self.open += 1;
        Ok(Admitted(counted))
    }

    /// Counts the connection under the client that a trusted proxy named
    /// ([`crate::ConnEvent::ClientAddress`]).
    ///
    /// # Errors
    /// [`Refusal`] says which limit; the connection is then counted as before, until it is released.
    pub fn rename(
        &mut self,
        now_ms: u64,
        admitted: &mut Admitted,
        client: IpAddr,
    ) -> Result<(), Refusal> {
        let client = client.to_canonical();
        self.count(now_ms, client)?;
        if let Some(before) = admitted.0.replace(client) {
            self.uncount(now_ms, before);
        }
        Ok(())
    }

    /// The connection is gone.
    pub fn release(&mut self, now_ms: u64, admitted: Admitted) {
        self.open = self.open.saturating_sub(1);
        if let Some(address) = admitted.0 {
            self.uncount(now_ms, address);
        }
    }

    fn count(&mut self, now_ms: u64, address: IpAddr) -> Result<(), Refusal> {
        let network = Network::of(address);
        let entries_max = self.config.open_max.saturating_add(QUIET_ADDRESSES_MAX);
        if self.entries.len() >= entries_max && !self.entries.contains_key(&network) {
            self.forget_quiet(now_ms);
        }
        let entry = self.entries.entry(network).or_default();
        let open_max = self.config.open_per_address_max;
        if open_max != 0 && entry.open >= open_max {
            self.crowded.get_or_insert(address);
            return Err(Refusal::AddressFull);
        }
        if !entry.bucket.take(self.config.new_per_address, 1, now_ms) {
            return Err(Refusal::AddressRate);
        }
        entry.open += 1;
        Ok(())
    }

    fn uncount(&mut self, now_ms: u64, address: IpAddr) {
        let network = Network::of(address);
        let Some(entry) = self.entries.get_mut(&network) else { return };
        debug_assert!(entry.open > 0, "a connection was released twice");
        entry.open = entry.open.saturating_sub(1);
        if entry.open == 0 && entry.bucket.is_full(self.config.new_per_address, now_ms) {
            self.entries.remove(&network);
        }
    }

    /// Makes room: first what is forgotten without consequence, then every address without open
    /// connections. At least 16,384 entries are free afterwards, so the walk is paid for by as many
    /// new addresses. Forgetting a spent rate is the lesser evil: refusing addresses not seen
    /// before would let one /48 lock everybody out.
    fn forget_quiet(&mut self, now_ms: u64) {
        let rate = self.config.new_per_address;
        self.entries.retain(|_, entry| entry.open > 0 || !entry.bucket.is_full(rate, now_ms));
        if self.entries.len() > self.config.open_max {
            self.entries.retain(|_, entry| entry.open > 0);
        }
    }

    /// An address that reached its limit of open connections, once in the life of the core: if it
    /// is a proxy, it is to be named in `trusted_proxies`.
    pub fn take_warning(&mut self) -> Option<IpAddr> {
        let address = self.crowded.take().filter(|_| !self.has_warned)?;
        self.has_warned = true;
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Secret;

    fn admission(config: AdmissionConfig) -> Admission {
        Admission::new(config, SeededState::new(Secret([7; 16])))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    impl Admission {
        fn enter(&mut self, now_ms: u64, address: IpAddr) -> Result<Admitted, Refusal> {
            self.admit(now_ms, address, &TrustedProxies::default())
        }
    }

    #[test]
    fn an_address_has_a_hundred_connections_and_a_burst_of_fifty() {
        let mut admission = admission(AdmissionConfig::default());
        let client = address("192.0.2.1");
        let mut now_ms = 0;
        for _ in 0..50 {
            assert!(admission.enter(now_ms, client).is_ok());
        }
        assert_eq!(admission.enter(now_ms, client), Err(Refusal::AddressRate));
        assert!(admission.enter(now_ms, address("192.0.2.2")).is_ok(), "others come in");
        let mut last = None;
        for _ in 50..100 {
            now_ms += 200;
            last = Some(admission.enter(now_ms, client).unwrap());
        }
        assert_eq!(admission.take_warning(), None);
        now_ms += 10_000;
        assert_eq!(admission.enter(now_ms, client), Err(Refusal::AddressFull));
        assert_eq!(admission.take_warning(), Some(client));
        assert_eq!(admission.enter(now_ms, client), Err(Refusal::AddressFull));
        assert_eq!(admission.take_warning(), None, "one warning is enough");
        admission.release(now_ms, last.unwrap());
        assert!(admission.enter(now_ms, client).is_ok());
        assert_eq!(admission.open(), 101);
    }

    #[test]
    fn one_slash_64_is_one_client_and_mapped_addresses_are_version_4() {
        let config = AdmissionConfig { open_per_address_max: 1, ..AdmissionConfig::default() };
        let mut admission = admission(config);
        assert!(admission.enter(0, address("2001:db8:1:2::1")).is_ok());
        let same = address("2001:db8:1:2:ffff::9");
        assert_eq!(admission.enter(0, same), Err(Refusal::AddressFull));
        assert!(admission.enter(0, address("2001:db8:1:3::1")).is_ok());
        assert!(admission.enter(0, address("::ffff:192.0.2.1")).is_ok());
        assert_eq!(admission.enter(0, address("192.0.2.1")), Err(Refusal::AddressFull));
    }

    #[test]
    fn zero_switches_limits_off_and_the_total_holds() {
        let config = AdmissionConfig {
            open_per_address_max: 0,
            new_per_address: Rate::per_second(0),
            open_max: 1_000,
        };
        let mut admission = admission(config);
        let client = address("192.0.2.1");
        let mut open: Vec<Admitted> =
            (0..1_000).map(|_| admission.enter(0, client).unwrap()).collect();
        assert_eq!(admission.enter(0, client), Err(Refusal::CoreFull));
        admission.release(0, open.pop().unwrap());
        assert!(admission.enter(0, client).is_ok());
    }

    #[test]
    fn a_proxy_has_no_limit_but_its_clients_have() {
        let config = AdmissionConfig { open_per_address_max: 1, ..AdmissionConfig::default() };
        let mut admission = admission(config);
        let trusted = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
        let proxy = address("::ffff:10.0.0.1");
        let mut enter = || admission.admit(0, proxy, &trusted).unwrap();
        let (mut first, mut second, third) = (enter(), enter(), enter());
        assert_eq!(admission.entries.len(), 0, "nobody is counted by address yet");
        let client = address("192.0.2.1");
        assert_eq!(admission.rename(0, &mut first, client), Ok(()));
        let refused = admission.rename(0, &mut second, client);
        assert_eq!(refused, Err(Refusal::AddressFull));
        assert_eq!(admission.open(), 3);
        assert_eq!(admission.rename(0, &mut first, address("192.0.2.2")), Ok(()));
        assert_eq!(admission.rename(0, &mut second, client), Ok(()), "the first has moved");
        for admitted in [first, second, third] {
            admission.release(60_000, admitted);
        }
        assert_eq!((admission.open(), admission.entries.len()), (0, 0));
    }

    #[test]
    fn memory_is_bounded_whatever_addresses_come() {
        let config = AdmissionConfig { open_max: 10, ..AdmissionConfig::default() };
        let mut admission = admission(config);
        let kept = address("192.0.2.1");
        let _open = admission.enter(0, kept).unwrap();
        for network in 0..100_000u128 {
            let client = IpAddr::V6((0x2001_0db8_u128 << 96 | network << 64).into());
            let admitted = admission.enter(1, client).unwrap();
            admission.release(1, admitted);
            assert!(admission.entries.len() <= 10 + QUIET_ADDRESSES_MAX);
        }
        assert_eq!(admission.open(), 1);
        assert!(admission.entries.contains_key(&Network::of(kept)), "open ones are remembered");
    }

    #[test]
    fn a_recovered_address_is_forgotten() {
        let mut admission = admission(AdmissionConfig::default());
        let client = address("192.0.2.1");
        let admitted = admission.enter(0, client).unwrap();
        admission.release(199, admitted);
        assert_eq!(admission.entries.len(), 1, "its rate is remembered");
        let admitted = admission.enter(400, client).unwrap();
        admission.release(600, admitted);
        assert_eq!(admission.entries.len(), 0);
    }
}
