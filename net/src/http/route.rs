//! What a request asks for.

use super::head::{Head, Method};
use super::response::Status;
use crate::ws::extension::{self, Agreed};
use crate::ws::handshake::accept_key;

/// A valid upgrade to WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// `Host` of the request.
    pub host: Box<str>,
    /// permessage-deflate, if the client offered it in a form that can be honoured.
    pub deflate: Option<Agreed>,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Become a WebSocket.
    Upgrade(Upgrade),
    /// The NIP-11 document.
    Document,
    /// The landing page.
    Landing,
    /// Whether the relay is well.
    Health,
    /// The metrics.
    Metrics,
    /// A CORS preflight.
    Preflight,
    /// Refused.
    Refuse(Status),
}

/// Media type of the NIP-11 document.
pub const DOCUMENT_TYPE: &str = "application/nostr+json";

/// Decides what `head` asks for. `endpoint` is the path that the relay's own URL names: NIP-01
/// wants a single endpoint, and a proxy may or may not strip that path before `/`. Whether the relay
/// compresses decides whether offers of extensions are looked at.
pub fn route(head: &Head<'_>, endpoint: &str, compresses: bool) -> Route {
    let is_endpoint = head.path == b"/" || head.path == endpoint.as_bytes();
    let is_known = is_endpoint || matches!(head.path, b"/health" | b"/metrics" | b"*");
    match head.method {
        Method::Other => return Route::Refuse(Status::MethodNotAllowed),
        Method::Options if is_known => return Route::Preflight,
        _ if !is_known || head.path == b"*" => return Route::Refuse(Status::NotFound),
        Method::Get | Method::Head | Method::Options => {}
    }
    if head.path == b"/health" {
        return Route::Health;
    }
    if head.path == b"/metrics" {
        return Route::Metrics;
    }
    if head.method == Method::Get && head.has_token("upgrade", "websocket") {
        return upgrade(head, compresses).map_or_else(Route::Refuse, Route::Upgrade);
    }
    let accepts_document = head
        .values("accept")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|part| part.split(|byte| *byte == b';').next())
        .any(|media| media.trim_ascii().eq_ignore_ascii_case(DOCUMENT_TYPE.as_bytes()));
    if accepts_document { Route::Document } else { Route::Landing }
}

/// The checks of RFC 6455 4.2.1.
fn upgrade(head: &Head<'_>, compresses: bool) -> Result<Upgrade, Status> {
    let has_body = head.values("transfer-encoding").next().is_some()
        || head.values("content-length").any(|length| length != b"0");
    if !head.is_http_11 || has_body || !head.has_token("connection", "upgrade") {
        return Err(Status::BadRequest);
    }
    let host = head.only_value("host").ok_or(Status::BadRequest)?;
    let host = std::str::from_utf8(host).map_err(|_| Status::BadRequest)?;
    if host.is_empty() {
        return Err(Status::BadRequest);
    }
    if head.only_value("sec-websocket-version") != Some(b"13") {
        return Err(Status::UpgradeRequired);
    }
    let key = head.only_value("sec-websocket-key").ok_or(Status::BadRequest)?;
    let accept = accept_key(key).ok_or(Status::BadRequest)?;
    let deflate = if compresses {
        let offers = head.values("sec-websocket-extensions");
        extension::negotiate(offers).map_err(|_| Status::BadRequest)?
    } else {
        None
    };
    Ok(Upgrade { accept, host: host.into(), deflate })
}

/// The path of the relay's own URL, `/` when it names none.
pub fn endpoint_of(public_url: Option<&str>) -> &str {
    let Some((_, rest)) = public_url.and_then(|url| url.split_once("://")) else { return "/" };
    rest.find('/').map_or("/", |at| &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str, endpoint: &str) -> Route {
        route(&Head::parse(request.as_bytes()).unwrap(), endpoint, true)
    }

    fn get(path: &str, headers: &str) -> Route {
        ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"), "/")
    }

    const UPGRADE: &str = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[test]
    fn documents() {
        assert_eq!(get("/", ""), Route::Landing);
        assert_eq!(get("/", "Accept: text/html, */*\r\n"), Route::Landing);
        assert_eq!(get("/", "Accept: application/nostr+json\r\n"), Route::Document);
        let quality = "Accept: text/html, Application/Nostr+JSON;q=0.9\r\n";
        assert_eq!(get("/?x=y", quality), Route::Document);
        assert_eq!(get("/health", ""), Route::Health);
        assert_eq!(get("/metrics", ""), Route::Metrics);
        assert_eq!(get("/elsewhere", ""), Route::Refuse(Status::NotFound));
        assert_eq!(get("*", ""), Route::Refuse(Status::NotFound));
        assert_eq!(ask("OPTIONS / HTTP/1.1\r\n\r\n", "/"), Route::Preflight);
        assert_eq!(ask("OPTIONS * HTTP/1.1\r\n\r\n", "/"), Route::Preflight);
        let elsewhere = ask("OPTIONS /x HTTP/1.1\r\n\r\n", "/");
        assert_eq!(elsewhere, Route::Refuse(Status::NotFound));
        for method in ["POST", "PUT", "DELETE", "CONNECT", "get"] {
            let answer = ask(&format!("{method} / HTTP/1.1\r\n\r\n"), "/");
            assert_eq!(answer, Route::Refuse(Status::MethodNotAllowed));
        }
    }

    #[test]
    fn upgrades() {
        let Route::Upgrade(upgrade) = get("/", UPGRADE) else { panic!("refused") };
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(&*upgrade.host, "h");
        for (from, to, status) in [
            ("keep-alive, Upgrade", "close", Status::BadRequest),
            ("Version: 13", "Version: 8", Status::UpgradeRequired),
            ("Sec-WebSocket-Version: 13\r\n", "", Status::UpgradeRequired),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", Status::BadRequest),
            ("Upgrade: W", "Content-Length: 5\r\nUpgrade: W", Status::BadRequest),
            ("Upgrade: W", "Host: other\r\nUpgrade: W", Status::BadRequest),
        ] {
            let headers = UPGRADE.replacen(from, to, 1);
            assert_eq!(get("/", &headers), Route::Refuse(status), "{headers}");
        }
        let other = get("/", &UPGRADE.replace("WebSocket\r\nConn", "h2c\r\nConn"));
        assert_eq!(other, Route::Landing);
        let elsewhere = get("/chat", UPGRADE);
        assert_eq!(elsewhere, Route::Refuse(Status::NotFound));
        let old = ask(&format!("GET / HTTP/1.0\r\nHost: h\r\n{UPGRADE}\r\n"), "/");
        assert_eq!(old, Route::Refuse(Status::BadRequest));
    }

    #[test]
    fn the_endpoint_of_the_own_url_serves_like_the_root() {
        let request = format!("GET /nostr HTTP/1.1\r\nHost: h\r\n{UPGRADE}\r\n");
        assert!(matches!(ask(&request, "/nostr"), Route::Upgrade(_)));
        assert_eq!(endpoint_of(Some("wss://relay.example/nostr")), "/nostr");
        assert_eq!(endpoint_of(Some("wss://relay.example")), "/");
        assert_eq!(endpoint_of(None), "/");
    }
}
