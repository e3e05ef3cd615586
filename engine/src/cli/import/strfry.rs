//! What a strfry export holds that other dumps do not.

use proto::{Event, Reason};
use std::borrow::Cow;

/// Begins the last field of a line that was exported with `--fried`.
const FRIED: &[u8] = b",\"fried\":\"";
/// The byte order mark that editors put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The event of a line; `None` if it is a line of strfry's log that got into the export.
///
/// `--fried` adds a field with the database's own packing of the event as hex digits. It stands last,
/// nothing of it is signed, and it can be larger than the event, so it goes before the event is
/// measured.
pub(super) fn event_of(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii();
    if !line.starts_with(b"{") {
        return None;
    }
    Some(without_fried(line).map_or(Cow::Borrowed(line), Cow::Owned))
}

fn without_fried(line: &[u8]) -> Option<Vec<u8>> {
    let inner = line.strip_suffix(b"\"}")?;
    let hex_at = inner.iter().rposition(|byte| !byte.is_ascii_hexdigit())? + 1;
    let event = inner[..hex_at].strip_suffix(FRIED)?;
    let mut whole = event.to_vec();
    whole.push(b'}');
    Some(whole)
}

/// A closer name for why an event is refused, where strfry is the reason.
///
/// strfry hashes U+007F as an escape; NIP-01 and every other implementation hash it as it is. Such an
/// event was valid there and nowhere else.
pub(super) fn label(event: &Event, reason: Reason) -> &'static str {
    let view = event.view();
    let mut json = Vec::new();
    if reason == Reason::IdMismatch {
        view.write_json(&mut json);
    }
    if json.contains(&0x7f) { "id_mismatch_of_u007f" } else { reason.label() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fried_field_goes_and_nothing_else() {
        let plain = br#"{"content":"a,\"fried\":\"00","tags":[]}"#;
        assert_eq!(event_of(plain).as_deref(), Some(&plain[..]), "it is part of the content");
        let fried = br#"{"content":"x","tags":[],"fried":"00ffAB"}"#;
        assert_eq!(event_of(fried).as_deref(), Some(&br#"{"content":"x","tags":[]}"#[..]));
        let broken = br#"{"content":"x","fried":"0g"}"#;
        assert_eq!(event_of(broken).as_deref(), Some(&broken[..]));
        assert_eq!(event_of(b"\"}").as_deref(), None);
    }

    #[test]
    fn marks_and_log_lines_are_not_events() {
        assert_eq!(event_of(b"\xef\xbb\xbf{}\r\n").as_deref(), Some(&b"{}"[..]));
        assert_eq!(event_of(b"2024-01-01 00:00:00.000 (   0.001s) [main] INFO| x"), None);
        assert_eq!(event_of(b""), None);
    }
}
