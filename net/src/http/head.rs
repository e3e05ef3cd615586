//! The request head: finding its end in a growing buffer, and parsing it.

/// Bytes of a request head.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Header lines of a request.
pub const HEADERS_MAX: usize = 64;

/// What is wrong with a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP.
    #[error("malformed request")]
    Malformed,
    /// More than [`HEAD_BYTES_MAX`] or [`HEADERS_MAX`].
    #[error("request head is too large")]
    TooLarge,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("HTTP version is not supported")]
    Version,
}

/// The methods that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
    /// Any other.
    Other,
}

/// A parsed request head.
#[derive(Debug)]
pub struct Head<'a> {
    /// Method.
    pub method: Method,
    /// Path without query.
    pub path: &'a [u8],
    /// Whether the request is HTTP/1.1 and not 1.0.
    pub is_http_11: bool,
    headers: Vec<(&'a [u8], &'a [u8])>,
}

/// Looks for the end of the head in `bytes`, of which the first `scanned` were looked at before.
/// `Ok(Some(n))`: the head is the first `n` bytes. Bytes that cannot begin a request, and line
/// feeds without carriage return, are refused at once.
///
/// # Errors
/// [`HeadError`] without waiting for the rest.
pub fn find_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, HeadError> {
    if bytes.first().is_some_and(|first| !first.is_ascii_uppercase()) {
        return Err(HeadError::Malformed);
    }
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    for at in scanned..window.len() {
        if window[at] == b'\n' {
            if at == 0 || window[at - 1] != b'\r' {
                return Err(HeadError::Malformed);
            }
            if at >= 3 && window[at - 2] == b'\n' {
                return Ok(Some(at + 1));
            }
        }
    }
    if bytes.len() >= HEAD_BYTES_MAX { Err(HeadError::TooLarge) } else { Ok(None) }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_token_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_token_byte)
}

impl<'a> Head<'a> {
    /// Parses a whole head, its final empty line included.
    ///
    /// # Errors
    /// [`HeadError`] says what is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HeadError> {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| match line {
            [line @ .., b'\r'] => line,
            line => line,
        });
        let request = lines.next().ok_or(HeadError::Malformed)?;
        let mut words = request.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(HeadError::Malformed);
        };
        if !is_token(method) || target.iter().any(|byte| !byte.is_ascii_graphic()) {
            return Err(HeadError::Malformed);
        }
        let is_http_11 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            version if version.starts_with(b"HTTP/") => return Err(HeadError::Version),
            _ => return Err(HeadError::Malformed),
        };
        let mut headers = Vec::with_capacity(16);
        for line in lines.take_while(|line| !line.is_empty()) {
            if headers.len() == HEADERS_MAX {
                return Err(HeadError::TooLarge);
            }
            headers.push(parse_header(line)?);
        }
        let method = match method {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"OPTIONS" => Method::Options,
            _ => Method::Other,
        };
        let path = path_of(target).ok_or(HeadError::Malformed)?;
        Ok(Self { method, path, is_http_11, headers })
    }

    /// The values of a header, in order. `name` in lower case.
    pub fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> + '_ {
        let name = name.as_bytes().to_vec();
        self.headers
            .iter()
            .filter(move |(have, _)| have.eq_ignore_ascii_case(&name))
            .map(|(_, value)| *value)
    }

    /// The value of a header that may stand once; `None` when it is absent or repeated.
    pub fn only_value(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Whether a comma-separated header has `token`, whatever its case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

fn parse_header(line: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(HeadError::Malformed)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    // A name that begins with white space would be a folded line, which RFC 9112 retired.
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f);
    if !is_token(name) || !value.iter().all(is_text) {
        return Err(HeadError::Malformed);
    }
    Ok((name, value))
}

/// Path of an origin-form or absolute-form target; `*` stands for the server itself.
fn path_of(target: &[u8]) -> Option<&[u8]> {
    let rest = match target {
        [b'/', ..] | b"*" => target,
        _ => {
            let text = std::str::from_utf8(target).ok()?;
            let (_, rest) = text.split_once("://")?;
            rest.find(['/', '?']).map_or(&b"/"[..], |at| &rest.as_bytes()[at..])
        }
    };
    let path = rest.split(|byte| *byte == b'?').next().unwrap_or(rest);
    Some(if path.is_empty() { b"/" } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_at_any_split() {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        for cut in 1..head.len() {
            let found = find_end(&head[..cut], 0).unwrap();
            assert_eq!(found, (cut >= 27).then_some(27), "cut at {cut}");
            if found.is_none() {
                assert_eq!(find_end(head, cut), Ok(Some(27)));
            }
        }
    }

    #[test]
    fn what_is_no_request_is_refused_at_once() {
        assert_eq!(find_end(b"\x16\x03\x01", 0), Err(HeadError::Malformed), "TLS");
        assert_eq!(find_end(b"GET / HTTP/1.1\nHost", 0), Err(HeadError::Malformed));
        assert_eq!(find_end(&[b'A'; HEAD_BYTES_MAX], 0), Err(HeadError::TooLarge));
        assert_eq!(find_end(&[b'A'; HEAD_BYTES_MAX - 1], 0), Ok(None));
    }

    #[test]
    fn a_head_of_exactly_the_limit_is_taken() {
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(HEAD_BYTES_MAX - 4, b'y');
        head.extend_from_slice(b"\r\n\r\n");
        assert_eq!(find_end(&head, 0), Ok(Some(HEAD_BYTES_MAX)));
        assert!(Head::parse(&head).is_ok());
        head.insert(20, b'y');
        assert_eq!(find_end(&head, 0), Err(HeadError::TooLarge));
    }

    #[test]
    fn heads_are_parsed() {
        let head = Head::parse(
            b"GET http://host/a/b?c=d HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
              X-Forwarded-For: a\r\nx-forwarded-for: b\r\nName: caf\xe9\r\n\r\n",
        )
        .unwrap();
        assert_eq!((head.method, head.path), (Method::Get, &b"/a/b"[..]));
        assert!(head.has_token("connection", "upgrade"));
        assert!(!head.has_token("connection", "up"));
        assert_eq!(head.only_value("host"), Some(&b"h"[..]));
        assert_eq!(head.only_value("x-forwarded-for"), None);
        let forwarded: Vec<&[u8]> = head.values("x-forwarded-for").collect();
        assert_eq!(forwarded, [b"a", b"b"]);
        for (target, path) in [("/?x", "/"), ("*", "*"), ("ws://h", "/"), ("ws://h?q", "/")] {
            let text = format!("GET {target} HTTP/1.1\r\n\r\n");
            assert_eq!(Head::parse(text.as_bytes()).unwrap().path, path.as_bytes(), "{target}");
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        for head in [
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 x\r\n\r\n",
            "G@T / HTTP/1.1\r\n\r\n",
            "GET \u{e9} HTTP/1.1\r\n\r\n",
            "GET nowhere HTTP/1.1\r\n\r\n",
            "GET / SMTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nName : x\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\x00\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\n: b\r\n\r\n",
        ] {
            assert_eq!(Head::parse(head.as_bytes()).unwrap_err(), HeadError::Malformed, "{head:?}");
        }
        let version = Head::parse(b"PRI * HTTP/2.0\r\n\r\n").unwrap_err();
        assert_eq!(version, HeadError::Version);
        let many = |lines| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(lines));
        assert!(Head::parse(many(HEADERS_MAX).as_bytes()).is_ok());
        let error = Head::parse(many(HEADERS_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(error, HeadError::TooLarge);
    }
}
