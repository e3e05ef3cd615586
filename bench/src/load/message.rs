//! What a relay says, told apart without building a JSON tree: the label, the subscription, and for
//! an OK the id and the verdict. Tolerates the white space that some relays put between elements.

use memchr::memmem;

/// One message of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The verdict on an event.
    Ok {
        /// First eight bytes of the event's id.
        key: u64,
        /// Whether it was accepted.
        accepted: bool,
        /// Why, as JSON text without its quotes.
        reason: &'a [u8],
    },
    /// A stored or live event.
    Event {
        /// Which subscription it is for.
        subscription: &'a [u8],
        /// The event as JSON, and what closes the message.
        body: &'a [u8],
    },
    /// No more stored events.
    Eose {
        /// For which subscription.
        subscription: &'a [u8],
    },
    /// The relay ended a subscription.
    Closed {
        /// Which.
        subscription: &'a [u8],
        /// Why.
        reason: &'a [u8],
    },
    /// Something for a person to read.
    Notice(&'a [u8]),
    /// Challenges, counts, negentropy: valid and of no interest here.
    Other,
    /// Not a message of NIP-01.
    Malformed,
}

impl<'a> Message<'a> {
    /// Classifies one text message.
    pub fn parse(text: &'a [u8]) -> Self {
        Self::try_parse(text).unwrap_or(Self::Malformed)
    }

    fn try_parse(text: &'a [u8]) -> Option<Self> {
        let mut at = Cursor { text, index: 0 };
        at.take(b'[')?;
        let label = at.string()?;
        match label {
            b"EVENT" => {
                at.take(b',')?;
                let subscription = at.string()?;
                at.take(b',')?;
                Some(Self::Event { subscription, body: &text[at.index..] })
            }
            b"OK" => {
                at.take(b',')?;
                let key = id_key(at.string()?)?;
                at.take(b',')?;
                let accepted = at.boolean()?;
                // Old relays leave the reason out.
                let reason = at.take(b',').and_then(|()| at.string()).unwrap_or_default();
                Some(Self::Ok { key, accepted, reason })
            }
            b"EOSE" => {
                at.take(b',')?;
                Some(Self::Eose { subscription: at.string()? })
            }
            b"CLOSED" => {
                at.take(b',')?;
                let subscription = at.string()?;
                let reason = at.take(b',').and_then(|()| at.string()).unwrap_or_default();
                Some(Self::Closed { subscription, reason })
            }
            b"NOTICE" => {
                at.take(b',')?;
                Some(Self::Notice(at.string()?))
            }
            _ => Some(Self::Other),
        }
    }
}

/// First eight bytes of the id in the JSON of an event. The pattern cannot occur inside a string,
/// where quotes are escaped.
pub fn event_key(body: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"id\"";
    let mut from = 0;
    loop {
        let found = from + memmem::find(body.get(from..)?, NAME)?;
        let mut at = Cursor { text: body, index: found + NAME.len() };
        // A tag whose first element is `id` is followed by no colon.
        if at.take(b':').is_some() {
            return id_key(at.string()?);
        }
        from = found + NAME.len();
    }
}

/// The first sixteen digits of a hexadecimal id as a number.
pub fn id_key(hex: &[u8]) -> Option<u64> {
    let mut key = 0;
    for digit in hex.get(..16)? {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        key = (key << 4) | u64::from(value);
    }
    Some(key)
}

struct Cursor<'a> {
    text: &'a [u8],
    index: usize,
}

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        while matches!(self.text.get(self.index), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.index += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        if *self.text.get(self.index)? != byte {
            return None;
        }
        self.index += 1;
        Some(())
    }

    /// A string without its quotes, escapes left as they are.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let start = self.index;
        loop {
            let rest = self.text.get(self.index..)?;
            let end = self.index + memchr::memchr2(b'"', b'\\', rest)?;
            if self.text[end] == b'"' {
                self.index = end + 1;
                return Some(&self.text[start..end]);
            }
            self.index = end + 2;
        }
    }

    fn boolean(&mut self) -> Option<bool> {
        self.skip_space();
        let rest = self.text.get(self.index..)?;
        for (word, value) in [(&b"true"[..], true), (&b"false"[..], false)] {
            if rest.starts_with(word) {
                self.index += word.len();
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00ff00ff00ff00ff1111111111111111222222222222222233333333333333333";

    #[test]
    fn messages_are_told_apart_with_and_without_spaces() {
        let tight = format!("[\"OK\",\"{ID}\",true,\"\"]");
        let loose = format!(" [ \"OK\" , \"{ID}\" , false , \"blocked: \\\"no\\\"\" ]");
        let key = 0x00ff_00ff_00ff_00ff;
        assert_eq!(
            Message::parse(tight.as_bytes()),
            Message::Ok { key, accepted: true, reason: b"" }
        );
        assert_eq!(
            Message::parse(loose.as_bytes()),
            Message::Ok { key, accepted: false, reason: b"blocked: \\\"no\\\"" }
        );
        assert_eq!(Message::parse(b"[\"EOSE\",\"q7\"]"), Message::Eose { subscription: b"q7" });
        assert_eq!(
            Message::parse(b"[\"CLOSED\",\"q7\",\"error: x\"]"),
            Message::Closed { subscription: b"q7", reason: b"error: x" }
        );
        assert_eq!(Message::parse(b"[\"NOTICE\",\"hi\"]"), Message::Notice(b"hi"));
        assert_eq!(Message::parse(b"[\"AUTH\",\"c\"]"), Message::Other);
        for broken in [&b""[..], b"{}", b"[\"OK\",\"zz\",true]", b"[\"EVENT\",\"a", b"[\"EOSE\"]"] {
            assert_eq!(Message::parse(broken), Message::Malformed, "{broken:?}");
        }
    }

    #[test]
    fn the_id_is_found_wherever_it_stands_and_nowhere_else() {
        let body = format!(
            "{{\"content\":\"\\\"id\\\":\\\"dead\",\"tags\":[[\"id\",\"beef\"]],\"id\": \"{ID}\"}}]"
        );
        assert_eq!(event_key(body.as_bytes()), Some(0x00ff_00ff_00ff_00ff));
        assert_eq!(event_key(b"{\"content\":\"\\\"id\\\":\"}"), None);
    }
}
