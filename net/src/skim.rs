//! What a message is about, without parsing it: enough to refuse one that comes too fast, and to
//! answer it by its id or subscription.

use proto::EventId;
use proto::limits::SUBSCRIPTION_ID_CHARACTERS_MAX;

/// The verb of a message, as far as rates tell verbs apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// EVENT.
    Event,
    /// AUTH.
    Auth,
    /// REQ or COUNT.
    Query,
    /// NEG-OPEN or NEG-MSG.
    Negentropy,
    /// Anything else, or unreadable.
    Other,
}

/// The verb, and the text behind it.
pub fn verb(text: &[u8]) -> (Verb, &[u8]) {
    let inside = text.trim_ascii_start().strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
    let Some(rest) = inside.and_then(|inside| inside.strip_prefix(b"\"")) else {
        return (Verb::Other, text);
    };
    for (word, verb) in [
        (&b"EVENT\""[..], Verb::Event),
        (b"REQ\"", Verb::Query),
        (b"COUNT\"", Verb::Query),
        (b"AUTH\"", Verb::Auth),
        (b"NEG-MSG\"", Verb::Negentropy),
        (b"NEG-OPEN\"", Verb::Negentropy),
    ] {
        if let Some(rest) = rest.strip_prefix(word) {
            return (verb, rest);
        }
    }
    (Verb::Other, text)
}

/// The `id` of an event message. A key with unescaped quotes cannot stand inside a string, so the
/// first `"id":` is a key of the event.
pub fn event_id(text: &[u8]) -> Option<EventId> {
    const KEY: &[u8] = b"\"id\"";
    let mut rest = text;
    while let Some(at) = rest.windows(KEY.len()).position(|window| window == KEY) {
        rest = &rest[at + KEY.len()..];
        let value = rest
            .trim_ascii_start()
            .strip_prefix(b":")
            .and_then(|value| value.trim_ascii_start().strip_prefix(b"\""));
        if let Some(value) = value {
            return EventId::from_hex(value.get(..64)?).filter(|_| value.get(64) == Some(&b'"'));
        }
    }
    None
}

/// The subscription id behind the verb, if it has no escapes.
pub fn subscription(rest: &[u8]) -> Option<&str> {
    let rest = rest.trim_ascii_start().strip_prefix(b",")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"")?;
    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let id = std::str::from_utf8(&rest[..end]).ok()?;
    let characters = id.chars().count();
    (rest[end] == b'"' && (1..=SUBSCRIPTION_ID_CHARACTERS_MAX).contains(&characters)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs() {
        for (text, expected) in [
            ("[\"EVENT\",{}]", Verb::Event),
            (" [ \"REQ\" , \"a\"]", Verb::Query),
            ("[\"COUNT\",\"a\"]", Verb::Query),
            ("[\"AUTH\",{}]", Verb::Auth),
            ("[\"NEG-OPEN\",\"a\",{},\"61\"]", Verb::Negentropy),
            ("[\"NEG-MSG\",\"a\",\"61\"]", Verb::Negentropy),
            ("[\"NEG-CLOSE\",\"a\"]", Verb::Other),
            ("[\"CLOSE\",\"a\"]", Verb::Other),
            ("[\"EVENTS\",{}]", Verb::Other),
            ("{\"EVENT\":1}", Verb::Other),
            ("", Verb::Other),
        ] {
            assert_eq!(verb(text.as_bytes()).0, expected, "{text}");
        }
    }

    #[test]
    fn ids() {
        let hex = "ab".repeat(32);
        let wanted = EventId::from_hex(hex.as_bytes());
        assert!(wanted.is_some());
        let plain = format!("[\"EVENT\",{{\"content\":\"\\\"id\\\":\",\"id\" : \"{hex}\"}}]");
        assert_eq!(event_id(plain.as_bytes()), wanted);
        let tagged = format!("[\"EVENT\",{{\"tags\":[[\"id\",\"x\"]],\"id\":\"{hex}\"}}]");
        assert_eq!(event_id(tagged.as_bytes()), wanted);
        for wrong in [format!("\"id\":\"{hex}0\""), "\"id\":\"ab\"".into(), "\"id\":7".into()] {
            assert_eq!(event_id(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn subscriptions() {
        assert_eq!(subscription(b" , \"sub\",{}]"), Some("sub"));
        let long = format!(",\"{}\"", "é".repeat(64));
        assert_eq!(subscription(long.as_bytes()).map(str::len), Some(128));
        let longer = format!(",\"{}\"", "é".repeat(65));
        for wrong in [",\"\"", ",\"a\\n\"", ",7", "", ",\"open", &longer] {
            assert_eq!(subscription(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
