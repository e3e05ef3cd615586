//! Close codes and the payload of Close frames (RFC 6455 5.5.1 and 7.4).

use super::decoder::Violation;
use super::frame::FrameError;

/// A close code that may stand in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the relay goes down.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the protocol was broken.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a kind of message that is not understood.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: a payload that is not what it claims to be, text that is not UTF-8 for one.
    pub const BAD_PAYLOAD: Self = Self(1007);
    /// 1008: a limit was broken.
    pub const POLICY: Self = Self(1008);
    /// 1009: the message is too long.
    pub const TOO_LONG: Self = Self(1009);
    /// 1011: a fault of the relay.
    pub const INTERNAL: Self = Self(1011);
    /// 1013: overloaded, try again later (IANA registry).
    pub const TRY_LATER: Self = Self(1013);

    /// The code as a peer may send it: the assigned ones that may stand in a frame, and those
    /// left to libraries and applications.
    pub fn from_wire(code: u16) -> Option<Self> {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then_some(Self(code))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// Checks the payload of a received Close frame; `None` when it carries no code.
///
/// # Errors
/// [`Violation`] for a payload of one byte, a code that may not be sent, or a reason that is not
/// UTF-8.
pub fn parse_payload(payload: &[u8]) -> Result<Option<CloseCode>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::Frame(FrameError::ClosePayload)),
        [high, low, reason @ ..] => {
            let code = CloseCode::from_wire(u16::from_be_bytes([*high, *low]))
                .ok_or(Violation::Frame(FrameError::ClosePayload))?;
            simdutf8::basic::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Some(code))
        }
    }
}

/// The payload of a Close frame with `code` and `reason`; the reason is cut to fit.
pub fn payload(code: CloseCode, reason: &str) -> Vec<u8> {
    let reason_bytes_max = super::frame::CONTROL_BYTES_MAX - 2;
    let cut = reason.floor_char_boundary(reason_bytes_max);
    [&code.number().to_be_bytes(), &reason.as_bytes()[..cut]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_sent() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1013, 3000, 3999, 4999] {
            assert_eq!(CloseCode::from_wire(code).map(CloseCode::number), Some(code));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(CloseCode::from_wire(code), None, "{code}");
        }
    }

    #[test]
    fn payloads() {
        assert_eq!(parse_payload(b""), Ok(None));
        assert_eq!(parse_payload(b"\x03\xe8bye"), Ok(Some(CloseCode::NORMAL)));
        assert_eq!(parse_payload(b"\x03"), Err(Violation::Frame(FrameError::ClosePayload)));
        assert_eq!(parse_payload(b"\x03\xed"), Err(Violation::Frame(FrameError::ClosePayload)));
        assert_eq!(parse_payload(b"\x03\xe8\xff"), Err(Violation::NotUtf8));
        assert_eq!(payload(CloseCode::GOING_AWAY, "x"), b"\x03\xe9x");
        let long = "é".repeat(100);
        let cut = payload(CloseCode::POLICY, &long);
        assert_eq!(cut.len(), 124, "cut between characters");
        assert_eq!(parse_payload(&cut), Ok(Some(CloseCode::POLICY)));
    }
}
