//! Names of every way a connection ends or is refused, and the counters of one core.

use crate::ws::{CloseCode, Violation};
use proto::Reason;

macro_rules! close_causes {
    ($( $(#[$doc:meta])* $name:ident, $code:expr, $label:literal, $text:literal; )+) => {
        /// Why a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseCause { $( $(#[$doc])* $name, )+ }

        impl CloseCause {
            /// Every cause, in declaration order; `cause as usize` indexes it.
            pub const ALL: &'static [CloseCause] = &[ $( CloseCause::$name, )+ ];

            /// Label of the counter.
            pub fn label(self) -> &'static str { match self { $( Self::$name => $label, )+ } }

            /// Code of the Close frame; `None` where no frame is sent, because the peer is not
            /// reading, is gone, or never spoke WebSocket.
            pub fn code(self) -> Option<CloseCode> { match self { $( Self::$name => $code, )+ } }

            /// Reason in the Close frame.
            pub fn text(self) -> &'static str { match self { $( Self::$name => $text, )+ } }
        }
    };
}

close_causes! {
    /// The peer sent a Close frame.
    PeerClosed, None, "peer_closed", "";
    /// The socket ended without a Close frame.
    PeerGone, None, "peer_gone", "";
    /// An HTTP request was answered.
    HttpAnswered, None, "http_answered", "";
    /// What came was no acceptable HTTP request.
    BadRequest, None, "bad_request", "";
    /// Admission refused the client's address.
    NotAdmitted, None, "not_admitted", "";
    /// No upgrade in time.
    HandshakeTimeout, None, "handshake_timeout", "";
    /// A message was begun and not finished in time.
    MessageTimeout, Some(CloseCode::POLICY), "message_timeout", "message took too long to arrive";
    /// Pings went unanswered.
    PingTimeout, None, "ping_timeout", "";
    /// RFC 6455 was broken.
    ProtocolViolation, Some(CloseCode::PROTOCOL), "protocol_violation", "WebSocket protocol violated";
    /// Text that is not UTF-8.
    BadUtf8, Some(CloseCode::BAD_PAYLOAD), "bad_utf8", "text is not valid UTF-8";
    /// A compressed message that cannot be inflated.
    BadDeflate, Some(CloseCode::BAD_PAYLOAD), "bad_deflate", "compressed message is corrupt";
    /// A binary message.
    BinaryMessage, Some(CloseCode::UNSUPPORTED), "binary_message", "only text messages are understood";
    /// A message beyond the limit.
    MessageTooLong, Some(CloseCode::TOO_LONG), "message_too_long", "message is too long";
    /// A message in too many fragments.
    TooManyFragments, Some(CloseCode::POLICY), "too_many_fragments", "message has too many fragments";
    /// Too many invalid messages in a minute.
    InvalidLimit, Some(CloseCode::POLICY), "invalid_limit", "too many invalid messages";
    /// More output waits than the hard limit allows.
    OutboxFull, None, "outbox_full", "";
    /// The core's outboxes were over their budget and this one was the largest.
    OutboxEvicted, None, "outbox_evicted", "";
    /// The core's budget for unfinished messages was used up.
    InputBudget, Some(CloseCode::TRY_LATER), "input_budget", "relay is short of memory, try again";
    /// The relay is shutting down.
    ShuttingDown, Some(CloseCode::GOING_AWAY), "shutting_down", "relay is shutting down";
    /// The relay's own fault.
    Internal, Some(CloseCode::INTERNAL), "internal", "internal error";
}

impl From<Violation> for CloseCause {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Frame(_) => Self::ProtocolViolation,
            Violation::NotUtf8 => Self::BadUtf8,
            Violation::NotDeflate => Self::BadDeflate,
            Violation::TooLong => Self::MessageTooLong,
            Violation::TooManyFragments => Self::TooManyFragments,
            Violation::Budget => Self::InputBudget,
        }
    }
}

/// Why admission refused an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The address has its greatest number of open connections.
    AddressFull,
    /// The address opens connections too fast.
    AddressRate,
    /// The core has its greatest number of open connections.
    CoreFull,
}

impl Refusal {
    /// Every refusal, in declaration order; `refusal as usize` indexes it.
    pub const ALL: &'static [Refusal] = &[Self::AddressFull, Self::AddressRate, Self::CoreFull];

    /// Label of the counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::AddressFull => "address_full",
            Self::AddressRate => "address_rate",
            Self::CoreFull => "core_full",
        }
    }

    /// What the client reads in the body of the HTTP answer.
    pub fn text(self) -> &'static str {
        match self {
            Self::AddressFull => "too many open connections from your address\n",
            Self::AddressRate => "too many new connections from your address\n",
            Self::CoreFull => "the relay has no room for more connections\n",
        }
    }
}

/// Counters of one core: plain cells, summed at scrape. About 1.2 KiB.
#[derive(Clone, Debug)]
pub struct NetCounters {
    /// WebSockets opened.
    pub opened: u64,
    /// HTTP requests parsed, upgrades included.
    pub http_requests: u64,
    /// Text messages received whole.
    pub messages: u64,
    /// Frames queued, control frames included.
    pub frames_out: u64,
    /// Pings sent.
    pub pings: u64,
    /// Keys authenticated.
    pub authenticated: u64,
    /// Messages sent compressed.
    pub deflated: u64,
    /// Bytes that sending messages compressed has saved.
    pub deflate_saved_bytes: u64,
    /// Live events that found the outbox over its soft limit.
    pub over_soft: u64,
    /// Refusals answered, by [`Reason`] in declaration order.
    pub refused: [u64; Reason::ALL.len()],
    /// Connections ended, by [`CloseCause`] in declaration order.
    pub closed: [u64; CloseCause::ALL.len()],
    /// Addresses refused, by [`Refusal`] in declaration order.
    pub not_admitted: [u64; Refusal::ALL.len()],
}

impl Default for NetCounters {
    fn default() -> Self {
        Self {
            opened: 0,
            http_requests: 0,
            messages: 0,
            frames_out: 0,
            pings: 0,
            authenticated: 0,
            deflated: 0,
            deflate_saved_bytes: 0,
            over_soft: 0,
            refused: [0; Reason::ALL.len()],
            closed: [0; CloseCause::ALL.len()],
            not_admitted: [0; Refusal::ALL.len()],
        }
    }
}

impl NetCounters {
    /// Counts one refusal.
    pub fn refuse(&mut self, reason: Reason) {
        self.refused[reason as usize] += 1;
    }

    /// Counts one message that was sent compressed.
    pub(crate) fn note_deflated(&mut self, plain_bytes: usize, sent_bytes: usize) {
        self.deflated += 1;
        self.deflate_saved_bytes += plain_bytes.saturating_sub(sent_bytes) as u64;
    }

    /// Labels and counts of refusals.
    pub fn refused_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (reason.label(), self.refused[*reason as usize]))
    }

    /// Labels and counts of ended connections.
    pub fn closed_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CloseCause::ALL.iter().map(|cause| (cause.label(), self.closed[*cause as usize]))
    }

    /// Labels and counts of refused addresses.
    pub fn not_admitted_by_label(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Refusal::ALL.iter().map(|refusal| (refusal.label(), self.not_admitted[*refusal as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_unique_and_indexed_in_order() {
        let mut labels = BTreeSet::new();
        for (index, cause) in CloseCause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, index);
            assert!(labels.insert(cause.label()), "{} twice", cause.label());
            assert!(cause.text().len() <= 123, "a control frame holds 125 bytes");
            assert_eq!(cause.code().is_some(), !cause.text().is_empty());
        }
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, index);
        }
    }
}
