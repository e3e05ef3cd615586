//! Client messages as the connection hands them on, and relay messages as bytes.

use crate::id::write_hex;
use crate::json::write_string;
use crate::nip::nip45::Hll;
use crate::{Event, EventId, EventRef, Filter, Reason};

/// A subscription id: 1 to 64 characters, chosen by the client.
pub type SubscriptionId = Box<str>;

/// One parsed client message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// `["EVENT", event]`: shape checked, id and signature not.
    Event(Event),
    /// `["REQ", sub, filter...]`.
    Req(SubscriptionId, Vec<Filter>),
    /// `["COUNT", sub, filter...]`.
    Count(SubscriptionId, Vec<Filter>),
    /// `["CLOSE", sub]`.
    Close(SubscriptionId),
    /// `["AUTH", event]`: shape checked, id and signature not.
    Auth(Event),
    /// `["NEG-OPEN", sub, filter, message]`; the message is not looked into (NIP-77). Its
    /// subscription ids are no ids of REQs.
    NegOpen(SubscriptionId, Box<Filter>, Vec<u8>),
    /// `["NEG-MSG", sub, message]`.
    NegMsg(SubscriptionId, Vec<u8>),
    /// `["NEG-CLOSE", sub]`.
    NegClose(SubscriptionId),
}

/// A client message that cannot be taken, with what the answer has to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// Answer `OK <id> false <reason>`.
    Event(EventId, Reason),
    /// Answer `CLOSED <sub> <reason>`.
    Subscription(SubscriptionId, Reason),
    /// Answer `NEG-ERR <sub> <reason>`.
    Negentropy(SubscriptionId, Reason),
    /// Answer `NOTICE <reason>`.
    Notice(Reason),
}

impl MessageError {
    /// The reason, for the counter.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Event(_, reason)
            | Self::Subscription(_, reason)
            | Self::Negentropy(_, reason)
            | Self::Notice(reason) => *reason,
        }
    }
}

/// What NIP-67 says about the stored phase in EOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Everything stored was sent.
    Finish,
    /// A limit cut the answer.
    More,
}

/// Appends `["EVENT",<sub>,<event>]`.
pub fn write_event(sub: &str, event: &EventRef<'_>, out: &mut Vec<u8>) {
    write_event_prefix(sub, out);
    event.write_json(out);
    out.push(b']');
}

/// Appends `["EVENT",<sub>,`: the part of an EVENT message that differs between subscriptions.
pub fn write_event_prefix(sub: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"EVENT\",");
    write_string(sub.as_bytes(), out);
    out.push(b',');
}

/// Appends `["OK",<id>,<accepted>,<message>]`.
pub fn write_ok(id: &EventId, accepted: bool, message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"OK\",\"");
    write_hex(&id.0, out);
    out.extend_from_slice(if accepted { b"\",true," } else { b"\",false," });
    write_string(message.as_bytes(), out);
    out.push(b']');
}

/// Appends `["EOSE",<sub>,["finish"|"more"]]` (NIP-67).
pub fn write_eose(sub: &str, completeness: Completeness, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"EOSE\",");
    write_string(sub.as_bytes(), out);
    out.extend_from_slice(match completeness {
        Completeness::Finish => b",[\"finish\"]]",
        Completeness::More => b",[\"more\"]]",
    });
}

/// Appends `["CLOSED",<sub>,<message>]`.
pub fn write_closed(sub: &str, message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"CLOSED\",");
    write_string(sub.as_bytes(), out);
    out.push(b',');
    write_string(message.as_bytes(), out);
    out.push(b']');
}

/// Appends `["NOTICE",<message>]`.
pub fn write_notice(message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"NOTICE\",");
    write_string(message.as_bytes(), out);
    out.push(b']');
}

/// Appends `["AUTH",<challenge>]`.
pub fn write_auth(challenge: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"AUTH\",");
    write_string(challenge.as_bytes(), out);
    out.push(b']');
}

/// Appends `["COUNT",<sub>,{"count":<n>}]`, with `approximate` and the registers of `hll` where they
/// are given (NIP-45).
pub fn write_count(sub: &str, count: u64, approximate: bool, hll: Option<&Hll>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"COUNT\",");
    write_string(sub.as_bytes(), out);
    out.extend_from_slice(b",{\"count\":");
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
    if approximate {
        out.extend_from_slice(b",\"approximate\":true");
    }
    if let Some(hll) = hll {
        out.extend_from_slice(b",\"hll\":\"");
        hll.write_hex(out);
        out.push(b'"');
    }
    out.extend_from_slice(b"}]");
}

/// Appends `["NEG-MSG",<sub>,<hex of the message>]`.
pub fn write_neg_msg(sub: &str, message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"NEG-MSG\",");
    write_string(sub.as_bytes(), out);
    out.extend_from_slice(b",\"");
    write_hex(message, out);
    out.extend_from_slice(b"\"]");
}

/// Appends `["NEG-ERR",<sub>,<message>]`, and behind the message the number of records that a
/// session may hold, if that is what was overstepped.
pub fn write_neg_err(sub: &str, message: &str, records_max: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"NEG-ERR\",");
    write_string(sub.as_bytes(), out);
    out.push(b',');
    write_string(message.as_bytes(), out);
    if let Some(records_max) = records_max {
        out.push(b',');
        out.extend_from_slice(itoa::Buffer::new().format(records_max).as_bytes());
    }
    out.push(b']');
}

/// Appends `["NEG-OPEN",<sub>,<filter>,<hex of the message>]`: what a relay sends that syncs from
/// another. `filter_json` is a JSON object.
pub fn write_neg_open(sub: &str, filter_json: &[u8], message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"NEG-OPEN\",");
    write_string(sub.as_bytes(), out);
    out.push(b',');
    out.extend_from_slice(filter_json);
    out.extend_from_slice(b",\"");
    write_hex(message, out);
    out.extend_from_slice(b"\"]");
}

/// Appends `["NEG-CLOSE",<sub>]`.
pub fn write_neg_close(sub: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"[\"NEG-CLOSE\",");
    write_string(sub.as_bytes(), out);
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> serde_json::Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn relay_messages_are_json_whatever_the_subscription_is_called() {
        let sub = "a\"b\\\n\u{1}é";
        let id = EventId([0xab; 32]);
        let mut hll = Hll::new();
        hll.add(8, &crate::PublicKey([0x2f; 32]));
        let json = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
        let cases = [
            (
                written(|out| write_ok(&id, true, "", out)),
                json(&format!(r#"["OK","{id}",true,""]"#)),
            ),
            (
                written(|out| write_ok(&id, false, Reason::BadSignature.message(), out)),
                json(&format!(r#"["OK","{id}",false,"invalid: signature does not verify"]"#)),
            ),
            (
                written(|out| write_eose(sub, Completeness::Finish, out)),
                serde_json::json!(["EOSE", sub, ["finish"]]),
            ),
            (
                written(|out| write_eose(sub, Completeness::More, out)),
                serde_json::json!(["EOSE", sub, ["more"]]),
            ),
            (
                written(|out| write_closed(sub, "error: x", out)),
                serde_json::json!(["CLOSED", sub, "error: x"]),
            ),
            (written(|out| write_notice(sub, out)), serde_json::json!(["NOTICE", sub])),
            (written(|out| write_auth("c0ffee", out)), serde_json::json!(["AUTH", "c0ffee"])),
            (
                written(|out| write_count(sub, u64::MAX, false, None, out)),
                serde_json::json!(["COUNT", sub, { "count": u64::MAX }]),
            ),
            (
                written(|out| write_count(sub, 0, true, None, out)),
                serde_json::json!(["COUNT", sub, { "count": 0, "approximate": true }]),
            ),
            (
                written(|out| write_count(sub, 7, false, Some(&hll), out)),
                serde_json::json!(["COUNT", sub, { "count": 7, "hll": hll.to_hex() }]),
            ),
            (
                written(|out| write_neg_msg(sub, &[0x61, 0xab], out)),
                serde_json::json!(["NEG-MSG", sub, "61ab"]),
            ),
            (
                written(|out| write_neg_err(sub, Reason::NegTimeout.message(), None, out)),
                serde_json::json!(["NEG-ERR", sub, "closed: session timed out"]),
            ),
            (
                written(|out| write_neg_err(sub, "blocked: x", Some(500_000), out)),
                serde_json::json!(["NEG-ERR", sub, "blocked: x", 500_000]),
            ),
            (
                written(|out| write_neg_open(sub, br#"{"kinds":[1]}"#, &[0x61], out)),
                serde_json::json!(["NEG-OPEN", sub, { "kinds": [1] }, "61"]),
            ),
            (written(|out| write_neg_close(sub, out)), serde_json::json!(["NEG-CLOSE", sub])),
        ];
        for (ours, expected) in cases {
            assert_eq!(ours, expected);
        }
    }

    #[test]
    fn an_event_message_holds_the_event_as_it_would_stand_alone() {
        let sig = crate::Signature([3; 64]);
        let event = crate::EventParts {
            id: EventId([1; 32]),
            pubkey: crate::PublicKey([2; 32]),
            sig,
            created_at: u32::MAX,
            kind: u16::MAX,
            tags_json: br#"[["t","x"]]"#,
            content_json: br#""a\n""#,
        }
        .pack();
        let message = written(|out| write_event("s", &event.view(), out));
        assert_eq!(message[0], "EVENT");
        assert_eq!(message[1], "s");
        assert_eq!(message[2], written(|out| event.view().write_json(out)));
        assert_eq!(message[2]["sig"], sig.to_hex());
        assert_eq!(message[2]["created_at"], u32::MAX);
        assert_eq!(message[2]["kind"], u16::MAX);
        assert_eq!(message[2]["tags"][0][1], "x");
        assert_eq!(message[2]["content"], "a\n");
        assert_eq!(message.as_array().unwrap().len(), 3);
    }
}
