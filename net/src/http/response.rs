//! Responses: status lines, headers, and the two documents rendered once per configuration.

use super::landing;
use super::route::{DOCUMENT_TYPE, Upgrade};
use crate::info::RelayDocument;
use std::sync::Arc;

/// The statuses that this layer answers with by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 400
    BadRequest,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 426
    UpgradeRequired,
    /// 429
    TooManyRequests,
    /// 431
    HeadTooLarge,
    /// 503
    Unavailable,
    /// 505
    VersionNotSupported,
}

impl Status {
    /// The number.
    pub fn number(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::UpgradeRequired => 426,
            Self::TooManyRequests => 429,
            Self::HeadTooLarge => 431,
            Self::Unavailable => 503,
            Self::VersionNotSupported => 505,
        }
    }

    /// Headers that the status itself asks for.
    fn headers(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "Allow: GET, HEAD, OPTIONS\r\n",
            Self::UpgradeRequired => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            Self::TooManyRequests | Self::Unavailable => "Retry-After: 10\r\n",
            _ => "",
        }
    }
}

/// The phrase after a status number.
pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

/// What NIP-11 wants on the document and on its preflight, so that pages of any origin may read it.
macro_rules! with_cors {
    ($further:literal) => {
        concat!(
            "Access-Control-Allow-Origin: *\r\n",
            "Access-Control-Allow-Headers: *\r\n",
            "Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n",
            $further
        )
    };
}

const LANDING_HEADERS: &str = "Vary: Accept\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; img-src https: data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n";

/// A response that ends its connection.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// Status number.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'a str,
    /// Further header lines, each with its line end.
    pub headers: &'a str,
    /// The body; its length is sent even when the body itself is not.
    pub body: &'a [u8],
    /// Whether the body is left out (HEAD).
    pub is_head: bool,
}

impl Response<'_> {
    /// The bytes before the body.
    pub fn head(&self) -> String {
        let Self { status, content_type, headers, .. } = self;
        let phrase = phrase(*status);
        let mut head = format!("HTTP/1.1 {status} {phrase}\r\nConnection: close\r\n{headers}");
        if *status != 204 {
            let length = self.body.len();
            head += &format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n");
        }
        head += "\r\n";
        head
    }

    /// The bytes of the body, if it is sent.
    pub fn body(&self) -> &[u8] {
        if self.is_head || self.status == 204 { &[] } else { self.body }
    }
}

/// The head of the answer to an upgrade.
pub fn switching_protocols(upgrade: &Upgrade) -> String {
    let accept = &upgrade.accept;
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(agreed) = upgrade.deflate {
        head += &format!("Sec-WebSocket-Extensions: {}\r\n", agreed.to_header());
    }
    head + "\r\n"
}

/// A refusal; `text` is the body.
pub fn refusal(status: Status, text: &str, is_head: bool) -> Response<'_> {
    Response {
        status: status.number(),
        content_type: "text/plain; charset=utf-8",
        headers: status.headers(),
        body: text.as_bytes(),
        is_head,
    }
}

/// The answer to a CORS preflight.
pub fn preflight() -> Response<'static> {
    const HEADERS: &str =
        with_cors!("Access-Control-Max-Age: 86400\r\nAllow: GET, HEAD, OPTIONS\r\n");
    Response { status: 204, content_type: "", headers: HEADERS, body: &[], is_head: false }
}

/// The NIP-11 document and the landing page as bytes; cloning shares them.
#[derive(Clone, Debug)]
pub struct Pages {
    document: Arc<[u8]>,
    landing: Arc<[u8]>,
}

impl Pages {
    /// Renders both from the one document, so that they cannot disagree. `public_url` is the
    /// address that the landing page tells people.
    pub fn render(document: &RelayDocument, public_url: Option<&str>) -> Self {
        Self {
            document: document.to_json().into_bytes().into(),
            landing: landing::render(document, public_url).into_bytes().into(),
        }
    }

    /// The answer with the NIP-11 document.
    pub fn document(&self, is_head: bool) -> Response<'_> {
        const HEADERS: &str = with_cors!("Vary: Accept\r\n");
        Response {
            status: 200,
            content_type: DOCUMENT_TYPE,
            headers: HEADERS,
            body: &self.document,
            is_head,
        }
    }

    /// The answer with the landing page.
    pub fn landing(&self, is_head: bool) -> Response<'_> {
        Response {
            status: 200,
            content_type: "text/html; charset=utf-8",
            headers: LANDING_HEADERS,
            body: &self.landing,
            is_head,
        }
    }
}
