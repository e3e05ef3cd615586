//! Who the client is, when a proxy stands in front: PROXY protocol version 2 and
//! `X-Forwarded-For`, both believed only from the configured proxies.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First bytes of a PROXY version 2 header.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
const FIXED_BYTES: usize = 16;
/// Longest header taken: addresses and a few type-length-value fields.
pub const HEADER_BYTES_MAX: usize = 2_048;

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix_bits: u8,
}

/// The text is no address block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address or CIDR block")]
pub struct CidrError(String);

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = address.trim().parse().map_err(|_| error())?;
        let bits_max = if base.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            Some(bits) => bits.trim().parse::<u8>().map_err(|_| error())?,
            None => bits_max,
        };
        if prefix_bits > bits_max {
            return Err(error());
        }
        Ok(Self { base, prefix_bits })
    }
}

impl Cidr {
    /// Whether `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (base, address, width) = match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (u128::from(base.to_bits()), u128::from(address.to_bits()), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits(), address.to_bits(), 128),
            _ => return false,
        };
        let free_bits = width - u32::from(self.prefix_bits);
        free_bits == 128 || base >> free_bits == address >> free_bits
    }
}

/// The proxies whose word is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<Cidr>);

impl TrustedProxies {
    /// Whether `address` is a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|block| block.contains(address))
    }

    /// The client's address from the lines of `X-Forwarded-For`, in order: from the right, the
    /// first address that is no trusted proxy. What stands left of it was written by strangers.
    /// `None` when there is nothing readable.
    pub fn forwarded_client<'a>(
        &self,
        lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let mut client = None;
        for line in lines.rev() {
            for element in line.rsplit(|byte| *byte == b',') {
                let Some(address) = parse_element(element) else { return client };
                client = Some(address);
                if !self.contains(address) {
                    return client;
                }
            }
        }
        client
    }
}

/// An address with or without port and brackets.
fn parse_element(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(socket) = text.parse::<core::net::SocketAddr>() {
        return Some(socket.ip().to_canonical());
    }
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    inside.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
}

/// A PROXY version 2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client; `None` for the proxy's own connections (health checks).
    pub client: Option<IpAddr>,
    /// Bytes of the header.
    pub header_bytes: usize,
}

/// The bytes begin like a PROXY header and are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY protocol header")]
pub struct ProxyError;

/// Parses a PROXY version 2 header at the start of `bytes`; `Ok(None)` while more are needed.
///
/// # Errors
/// [`ProxyError`] when `bytes` cannot become such a header.
pub fn parse_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] {
        return Err(ProxyError);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    let body_bytes = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let header_bytes = FIXED_BYTES + body_bytes;
    if command >> 4 != 2 || header_bytes > HEADER_BYTES_MAX {
        return Err(ProxyError);
    }
    let Some(body) = rest.get(..body_bytes) else { return Ok(None) };
    let client = match (command & 0x0f, family >> 4) {
        (0, _) => None,
        (1, 1) => {
            let (source, _) = body.split_first_chunk::<4>().ok_or(ProxyError)?;
            (body_bytes >= 12).then_some(()).ok_or(ProxyError)?;
            Some(IpAddr::V4(Ipv4Addr::from(*source)))
        }
        (1, 2) => {
            let (source, _) = body.split_first_chunk::<16>().ok_or(ProxyError)?;
            (body_bytes >= 36).then_some(()).ok_or(ProxyError)?;
            Some(IpAddr::V6(Ipv6Addr::from(*source)).to_canonical())
        }
        // Unspecified and local sockets carry no address that admission could use.
        (1, 0 | 3) => None,
        _ => return Err(ProxyError),
    };
    Ok(Some(ProxyHeader { client, header_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(blocks: &[&str]) -> TrustedProxies {
        TrustedProxies(blocks.iter().map(|block| block.parse().unwrap()).collect())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_contain_what_they_say() {
        let block: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(block.contains(address("10.1.255.3")));
        assert!(!block.contains(address("10.2.0.0")));
        assert!(!block.contains(address("::1")));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(address("255.1.2.3")));
        let six: Cidr = "2001:db8::/33".parse().unwrap();
        assert!(six.contains(address("2001:db8:7fff::1")));
        assert!(!six.contains(address("2001:db8:8000::1")));
        assert!("::/0".parse::<Cidr>().unwrap().contains(address("2001:db8::1")));
        let one: Cidr = "127.0.0.1".parse().unwrap();
        assert!(one.contains(address("127.0.0.1")) && !one.contains(address("127.0.0.2")));
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "host/8", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn forwarded_addresses_are_read_from_the_right() {
        let proxies = trusted(&["10.0.0.0/8"]);
        let client =
            |lines: &[&str]| proxies.forwarded_client(lines.iter().map(|line| line.as_bytes()));
        assert_eq!(client(&["1.2.3.4"]), Some(address("1.2.3.4")));
        assert_eq!(client(&["6.6.6.6, 1.2.3.4, 10.0.0.9"]), Some(address("1.2.3.4")));
        assert_eq!(client(&["6.6.6.6", "1.2.3.4", "10.0.0.9"]), Some(address("1.2.3.4")));
        assert_eq!(client(&["[2001:db8::1]:443"]), Some(address("2001:db8::1")));
        assert_eq!(client(&["[2001:db8::1]"]), Some(address("2001:db8::1")));
        assert_eq!(client(&["1.2.3.4:5678"]), Some(address("1.2.3.4")));
        assert_eq!(client(&["::ffff:1.2.3.4"]), Some(address("1.2.3.4")));
        assert_eq!(client(&["10.0.0.1, 10.0.0.2"]), Some(address("10.0.0.1")));
        assert_eq!(client(&["1.2.3.4, nonsense, 10.0.0.1"]), Some(address("10.0.0.1")));
        assert_eq!(client(&["nonsense"]), None);
        assert_eq!(client(&[]), None);
    }

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn headers_of_version_two() {
        let four = header(0x21, 0x11, &[1, 2, 3, 4, 127, 0, 0, 1, 0, 80, 1, 187]);
        let parsed = parse_v2(&four).unwrap().unwrap();
        assert_eq!(parsed, ProxyHeader { client: Some(address("1.2.3.4")), header_bytes: 28 });
        for cut in 0..four.len() {
            assert_eq!(parse_v2(&four[..cut]), Ok(None), "cut at {cut}");
        }
        let mut six = [0; 40];
        six[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        six[15] = 1;
        let parsed = parse_v2(&header(0x21, 0x21, &six)).unwrap().unwrap();
        assert_eq!(parsed.client, Some(address("2001:db8::1")));
        assert_eq!(parsed.header_bytes, 56, "four bytes of fields are skipped");
        let local = parse_v2(&header(0x20, 0, &[])).unwrap().unwrap();
        assert_eq!(local.client, None);
    }

    #[test]
    fn malformed_headers_are_refused() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\r\nx",
            &header(0x11, 0x11, &[0; 12]),
            &header(0x22, 0x11, &[0; 12]),
            &header(0x21, 0x11, &[0; 11]),
            &header(0x21, 0x21, &[0; 35]),
            &header(0x21, 0x41, &[0; 36]),
            &header(0x21, 0x11, &[0; 2_040]),
        ] {
            assert_eq!(parse_v2(bytes), Err(ProxyError), "{bytes:x?}");
        }
    }
}
