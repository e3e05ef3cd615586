//! Before the WebSocket: PROXY header, request head, and the answer.

use super::{Conn, ConnCore, ConnEvent, State, Trust};
use crate::counters::CloseCause;
use crate::http::head::{Head, HeadError, Method, find_end};
use crate::http::response::{Status, preflight, refusal, switching_protocols};
use crate::http::route::{Route, Upgrade, endpoint_of, route};
use crate::outbox::Pushed;
use crate::proxy::{self, TrustedProxies};
use crate::ws::{Agreed, InputBudget};
use core::net::IpAddr;
use proto::Now;

/// A request in the making; at most 8 KiB, freed by the upgrade.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// What has arrived of the PROXY header, then of the head.
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were searched for the end of the head.
    scanned: usize,
    /// Length of the head, once its end is found.
    head_bytes: Option<usize>,
    is_proxy_header_read: bool,
    is_client_settled: bool,
    /// Whether the method is HEAD, for an answer that the engine gives.
    pub(super) is_head: bool,
    /// Whether the engine was asked for an answer.
    is_answer_awaited: bool,
    /// Capacity of `bytes` that was taken from the budget.
    charged_bytes: usize,
}

enum Step {
    Wait,
    Client(IpAddr),
    Ready,
    Malformed(HeadError),
}

impl Request {
    /// Whether no byte has come yet.
    pub(super) fn has_read_nothing(&self) -> bool {
        self.bytes.is_empty() && !self.is_proxy_header_read
    }

    /// Frees the head and gives its bytes back to the budget.
    pub(super) fn clear(&mut self, budget: &mut InputBudget) {
        self.bytes = Vec::new();
        budget.give(std::mem::take(&mut self.charged_bytes));
    }

    /// Charges what `bytes` has grown by. A head is never refused by the budget, which others may
    /// have used up: it is small, and bounded by the number of connections.
    fn charge(&mut self, budget: &mut InputBudget) {
        let grown = self.bytes.capacity().saturating_sub(self.charged_bytes);
        budget.take_anyway(grown);
        self.charged_bytes += grown;
    }

    fn advance(&mut self, data: &mut &[u8], peer: IpAddr, trusted: &TrustedProxies) -> Step {
        if !self.is_proxy_header_read {
            match self.read_proxy_header(data, peer, trusted) {
                Step::Ready => {}
                step => return step,
            }
        }
        if self.head_bytes.is_none() {
            match self.read_head(data) {
                Ok(true) => {}
                Ok(false) => return Step::Wait,
                Err(error) => return Step::Malformed(error),
            }
        }
        if !self.is_client_settled {
            self.is_client_settled = true;
            if let Some(client) = self.forwarded_client(peer, trusted) {
                return Step::Client(client);
            }
        }
        Step::Ready
    }

    fn read_proxy_header(
        &mut self,
        data: &mut &[u8],
        peer: IpAddr,
        trusted: &TrustedProxies,
    ) -> Step {
        let Some(first) = self.bytes.first().or(data.first()) else { return Step::Wait };
        if *first != proxy::SIGNATURE[0] || !trusted.contains(peer) {
            self.is_proxy_header_read = true;
            return Step::Ready;
        }
        let kept = self.bytes.len();
        let now = data.len().min(proxy::HEADER_BYTES_MAX - kept);
        self.bytes.extend_from_slice(&data[..now]);
        match proxy::parse_v2(&self.bytes) {
            Err(proxy::ProxyError) => Step::Malformed(HeadError::Malformed),
            Ok(None) => {
                *data = &data[now..];
                Step::Wait
            }
            Ok(Some(header)) => {
                *data = &data[header.header_bytes - kept..];
                self.bytes.clear();
                self.is_proxy_header_read = true;
                match header.client.filter(|client| *client != peer) {
                    Some(client) => Step::Client(client),
                    None => Step::Ready,
                }
            }
        }
    }

    /// Takes the bytes of the head out of `data`, and not one more: what follows may be frames.
    fn read_head(&mut self, data: &mut &[u8]) -> Result<bool, HeadError> {
        let kept = self.bytes.len();
        let now = data.len().min(crate::http::head::HEAD_BYTES_MAX - kept);
        self.bytes.extend_from_slice(&data[..now]);
        let end = find_end(&self.bytes, self.scanned)?;
        self.scanned = self.bytes.len();
        if let Some(end) = end {
            self.bytes.truncate(end);
            self.head_bytes = Some(end);
        }
        *data = &data[self.bytes.len() - kept..];
        Ok(end.is_some())
    }

    fn forwarded_client(&self, peer: IpAddr, trusted: &TrustedProxies) -> Option<IpAddr> {
        if !trusted.contains(peer) {
            return None;
        }
        // A malformed head is answered in the next step.
        let head = Head::parse(&self.bytes).ok()?;
        let client = trusted.forwarded_client(head.values("x-forwarded-for"))?;
        (client != peer).then_some(client)
    }
}

impl Conn {
    pub(super) fn next_request(
        &mut self,
        now: Now,
        data: &mut &[u8],
        core: &mut ConnCore,
    ) -> Option<ConnEvent> {
        let State::Request(request) = &mut self.state else { return None };
        if request.is_answer_awaited {
            // One request is answered; whatever is pipelined behind it is not read.
            *data = &[];
            return None;
        }
        let nobody = TrustedProxies::default();
        let trusted = match self.trust {
            Trust::Public => &core.config.trusted_proxies,
            Trust::Operator => &nobody,
        };
        let step = request.advance(data, self.address, trusted);
        request.charge(&mut core.input);
        match step {
            Step::Wait => None,
            Step::Client(client) => {
                self.address = client;
                Some(ConnEvent::ClientAddress(client))
            }
            Step::Ready => Some(self.answer(now, core)),
            Step::Malformed(error) => {
                *data = &[];
                Some(self.refuse_head(now, error, core))
            }
        }
    }

    fn refuse_head(&mut self, now: Now, error: HeadError, core: &mut ConnCore) -> ConnEvent {
        let status = match error {
            HeadError::Malformed => Status::BadRequest,
            HeadError::TooLarge => Status::HeadTooLarge,
            HeadError::Version => Status::VersionNotSupported,
        };
        self.refuse_request(now, status, false, core)
    }

    fn refuse_request(
        &mut self,
        now: Now,
        status: Status,
        is_head: bool,
        core: &mut ConnCore,
    ) -> ConnEvent {
        let text = match status {
            Status::BadRequest => "bad request\n",
            Status::NotFound => "nothing here\n",
            Status::MethodNotAllowed => "method not allowed\n",
            Status::UpgradeRequired => "WebSocket version 13 is required\n",
            Status::HeadTooLarge => "request head is too large\n",
            Status::VersionNotSupported => "HTTP/1.1 is required\n",
            Status::TooManyRequests | Status::Unavailable => "try again later\n",
        };
        let cause = match status {
            Status::NotFound => CloseCause::HttpAnswered,
            _ => CloseCause::BadRequest,
        };
        self.clear_request(core);
        let deadline_ms = now.monotonic_ms.saturating_add(core.config.timeouts.close_ms);
        let response = refusal(status, text, is_head);
        self.respond(deadline_ms, &response, cause, &mut core.outboxes);
        ConnEvent::Closing(cause)
    }

    /// Frees a request that will not be read further.
    pub(super) fn clear_request(&mut self, core: &mut ConnCore) {
        if let State::Request(request) = &mut self.state {
            request.clear(&mut core.input);
        }
    }

    /// Answers the request whose head is whole, or asks the engine to.
    fn answer(&mut self, now: Now, core: &mut ConnCore) -> ConnEvent {
        let State::Request(mut request) = std::mem::replace(&mut self.state, State::Dead) else {
            return ConnEvent::Closing(CloseCause::Internal);
        };
        core.input.give(std::mem::take(&mut request.charged_bytes));
        let head = match Head::parse(&request.bytes) {
            Ok(head) => head,
            Err(error) => return self.refuse_head(now, error, core),
        };
        core.counters.http_requests += 1;
        let is_head = head.method == Method::Head;
        let endpoint = endpoint_of(core.config.public_url.as_deref());
        let asked = route(&head, endpoint, core.config.compression.enabled);
        let deadline_ms = now.monotonic_ms.saturating_add(core.config.timeouts.message_ms);
        let cause = CloseCause::HttpAnswered;
        match asked {
            Route::Upgrade(upgrade) => return self.open(now, upgrade, core),
            Route::Refuse(status) => return self.refuse_request(now, status, is_head, core),
            Route::Health | Route::Metrics => {
                request.bytes = Vec::new();
                request.is_head = is_head;
                request.is_answer_awaited = true;
                self.state = State::Request(request);
                return match asked {
                    Route::Health => ConnEvent::HttpHealth,
                    _ => ConnEvent::HttpMetrics,
                };
            }
            Route::Preflight => {
                self.respond(deadline_ms, &preflight(), cause, &mut core.outboxes);
            }
            Route::Document => {
                let response = core.config.pages.document(is_head);
                self.respond(deadline_ms, &response, cause, &mut core.outboxes);
            }
            Route::Landing => {
                let response = core.config.pages.landing(is_head);
                self.respond(deadline_ms, &response, cause, &mut core.outboxes);
            }
        }
        ConnEvent::Closing(cause)
    }

    fn open(&mut self, now: Now, upgrade: Upgrade, core: &mut ConnCore) -> ConnEvent {
        let head = switching_protocols(&upgrade);
        self.outbox.push_raw(head.as_bytes(), &mut core.outboxes);
        self.host = upgrade.host;
        self.deflate = upgrade.deflate.map(Agreed::server_window);
        self.state = State::Open;
        self.timer_ms = now.monotonic_ms.saturating_add(core.config.timeouts.ping_ms);
        core.counters.opened += 1;
        if self.trust == Trust::Operator {
            return ConnEvent::Opened;
        }
        match self.send_challenge(core) {
            Pushed::Ok => ConnEvent::Opened,
            Pushed::OverSoft | Pushed::OverHard | Pushed::Closed => {
                ConnEvent::Closing(self.cause.unwrap_or(CloseCause::Internal))
            }
        }
    }
}
