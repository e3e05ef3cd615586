//! `Sec-WebSocket-Extensions` of the opening handshake: the list of RFC 6455 9.1 and, in it, the
//! offers of permessage-deflate (RFC 7692 7.1).

/// Name of the one extension that is spoken.
const PERMESSAGE_DEFLATE: &[u8] = b"permessage-deflate";

/// Base-two logarithm of the window of a deflate stream: 8 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowBits(u8);

impl WindowBits {
    /// 32 KiB, the largest window and the default of RFC 7692.
    pub const MAX: Self = Self(15);

    /// `None` outside 8 to 15.
    pub fn new(bits: u8) -> Option<Self> {
        matches!(bits, 8..=15).then_some(Self(bits))
    }

    /// Decimal without leading zeros, as RFC 7692 7.1.2 wants it.
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            [digit @ b'8'..=b'9'] => Self::new(digit - b'0'),
            [b'1', digit @ b'0'..=b'5'] => Self::new(10 + digit - b'0'),
            _ => None,
        }
    }

    /// Bytes of the window.
    pub fn window_bytes(self) -> usize {
        1 << self.0
    }
}

/// What is agreed with a client. Neither side takes its context over from one message to the next:
/// the relay says so for itself and asks it of the client, so that no connection owns a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Limit that the client set for the relay's window; without one, 32 KiB.
    server_max_window_bits: Option<WindowBits>,
}

impl Agreed {
    /// The window that what the relay sends may use.
    pub fn server_window(self) -> WindowBits {
        self.server_max_window_bits.unwrap_or(WindowBits::MAX)
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    pub fn to_header(self) -> String {
        let mut header =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if let Some(WindowBits(bits)) = self.server_max_window_bits {
            header += &format!("; server_max_window_bits={bits}");
        }
        header
    }
}

/// The header does not follow the grammar of RFC 6455 9.1, which is to fail the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed list of extensions")]
pub struct MalformedList;

/// Goes through the offers in the client's order of preference and takes the first that can be
/// honoured. An offer with an unknown, repeated or invalid parameter is declined, the next one is
/// looked at.
///
/// # Errors
/// [`MalformedList`] when a header does not follow the grammar.
pub fn negotiate<'a>(
    headers: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Agreed>, MalformedList> {
    let mut agreed = None;
    for header in headers {
        let mut list = List(header);
        while let Some(offer) = list.next()? {
            if agreed.is_none() && offer.name == PERMESSAGE_DEFLATE {
                agreed = accept(&offer.params);
            }
        }
    }
    Ok(agreed)
}

/// Whether one offer of permessage-deflate can be honoured. All windows can, the client's too: the
/// inflater's is the largest there is, and the deflater keeps to smaller ones.
fn accept(params: &[Param<'_>]) -> Option<Agreed> {
    let mut agreed = Agreed { server_max_window_bits: None };
    for (at, (name, value)) in params.iter().enumerate() {
        if params[..at].iter().any(|(before, _)| before == name) {
            return None;
        }
        match (*name, value) {
            (b"server_no_context_takeover" | b"client_no_context_takeover", None)
            | (b"client_max_window_bits", None) => {}
            (b"client_max_window_bits", Some(bits)) => {
                WindowBits::parse(bits)?;
            }
            (b"server_max_window_bits", Some(bits)) => {
                agreed.server_max_window_bits = Some(WindowBits::parse(bits)?);
            }
            _ => return None,
        }
    }
    Some(agreed)
}

/// Name and, if there is one, value.
type Param<'a> = (&'a [u8], Option<Vec<u8>>);

/// One extension as it stands in the list.
struct Extension<'a> {
    name: &'a [u8],
    params: Vec<Param<'a>>,
}

/// What is left of a header.
struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    /// The next extension; empty elements of the list are skipped, as lists in HTTP allow them.
    fn next(&mut self) -> Result<Option<Extension<'a>>, MalformedList> {
        while self.eat(b',') {}
        if self.0.is_empty() {
            return Ok(None);
        }
        let name = self.token()?;
        let mut params = Vec::new();
        while self.eat(b';') {
            let name = self.token()?;
            let value = if self.eat(b'=') { Some(self.value()?) } else { None };
            params.push((name, value));
        }
        if !self.0.is_empty() && !self.eat(b',') {
            return Err(MalformedList);
        }
        Ok(Some(Extension { name, params }))
    }

    /// Consumes `byte` and the white space around it.
    fn eat(&mut self, byte: u8) -> bool {
        self.0 = self.0.trim_ascii_start();
        let Some(rest) = self.0.strip_prefix(&[byte]) else { return false };
        self.0 = rest.trim_ascii_start();
        true
    }

    fn token(&mut self) -> Result<&'a [u8], MalformedList> {
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let end = self.0.iter().position(|byte| !is_token(byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest.trim_ascii_start();
        if token.is_empty() { Err(MalformedList) } else { Ok(token) }
    }

    /// A token, bare or in quotes; in quotes it may be escaped, but must still be one.
    fn value(&mut self) -> Result<Vec<u8>, MalformedList> {
        let Some(mut rest) = self.0.strip_prefix(b"\"") else { return self.token().map(Vec::from) };
        let mut value = Vec::new();
        loop {
            rest = match rest {
                [b'"', rest @ ..] => {
                    self.0 = rest.trim_ascii_start();
                    break;
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    value.push(*byte);
                    rest
                }
                [] => return Err(MalformedList),
            };
        }
        let mut token = List(&value);
        token.token()?;
        if token.0.is_empty() { Ok(value) } else { Err(MalformedList) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(header: &str) -> Result<Option<String>, MalformedList> {
        let agreed = negotiate([header.as_bytes()].into_iter())?;
        Ok(agreed.map(Agreed::to_header))
    }

    const PLAIN: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn offers_that_are_taken() {
        for offer in [
            "permessage-deflate",
            " , permessage-deflate ,",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=\"15\"",
            "permessage-deflate; server_no_context_takeover ; client_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits",
        ] {
            assert_eq!(answer(offer), Ok(Some(PLAIN.into())), "{offer}");
        }
        for bits in 8..=15 {
            let limited = Ok(Some(format!("{PLAIN}; server_max_window_bits={bits}")));
            for offer in [
                format!("permessage-deflate; server_max_window_bits={bits}"),
                format!("permessage-deflate; server_max_window_bits=\"{bits}\""),
                format!("permessage-deflate;server_max_window_bits = \"\\{bits}\""),
            ] {
                assert_eq!(answer(&offer), limited, "{offer}");
            }
        }
    }

    #[test]
    fn offers_that_are_declined_and_the_next_one_tried() {
        for declined in [
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=100",
            "permessage-deflate; server_max_window_bits=1a",
            "Permessage-Deflate-2",
            "permessage-bzip2",
        ] {
            assert_eq!(answer(declined), Ok(None), "{declined}");
            let next = format!("{declined}, permessage-deflate; server_max_window_bits=9");
            let limited = format!("{PLAIN}; server_max_window_bits=9");
            assert_eq!(answer(&next), Ok(Some(limited)), "{next}");
        }
        assert_eq!(answer(""), Ok(None));
    }

    #[test]
    fn the_first_acceptable_offer_counts_also_across_headers() {
        let headers = [
            &b"permessage-deflate; unknown"[..],
            b"permessage-deflate; server_max_window_bits=12",
            b"permessage-deflate",
        ];
        let agreed = negotiate(headers.into_iter()).unwrap().unwrap();
        assert_eq!(agreed.server_window().window_bytes(), 4096);
    }

    #[test]
    fn lists_outside_the_grammar_fail() {
        for wrong in [
            ";",
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; a=",
            "permessage-deflate; a=\"",
            "permessage-deflate; a=\"\"",
            "permessage-deflate; a=\"1\\",
            "permessage-deflate; a=\"1 2\"",
            "permessage-deflate; a=\"1\"2",
            "permessage-deflate other",
            "permessage-deflate, \"x\"",
            "permessage-deflate; caf\u{e9}",
        ] {
            assert_eq!(answer(wrong), Err(MalformedList), "{wrong}");
        }
    }
}
