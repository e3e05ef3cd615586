//! Messages of a relay, as far as `sync` and `stream` listen to them.

use proto::EventId;
use proto::id::{read_hex_any_case, write_hex};
use serde_json::{Deserializer, Value, json};

/// What a relay says.
#[derive(Debug, PartialEq)]
pub(in crate::cli) enum Heard<'a> {
    /// An event of a subscription, as it was written.
    Event(String, &'a str),
    /// All stored events of a subscription have come.
    Eose(String),
    /// A subscription is over.
    Closed(String, String),
    /// The verdict on an event.
    Ok(EventId, bool, String),
    /// A message of a session.
    NegMsg(String, Vec<u8>),
    /// A session is over; with the greatest number of records, if it is told.
    NegErr(String, String, Option<u64>),
    /// The challenge to sign.
    Auth(String),
    /// Words.
    Notice(String),
    /// Anything else.
    Other,
}

/// Reads a message.
pub(in crate::cli) fn hear(text: &str) -> Heard<'_> {
    if let Some((sub, event)) = split_event(text) {
        return Heard::Event(sub, event);
    }
    let Ok(Value::Array(elements)) = serde_json::from_str::<Value>(text) else {
        return Heard::Other;
    };
    let word = |index: usize| elements.get(index).and_then(Value::as_str).map(str::to_owned);
    let words = |index: usize| word(index).unwrap_or_default();
    let (Some(verb), Some(first)) = (word(0), word(1)) else { return Heard::Other };
    match verb.as_str() {
        "EOSE" => Heard::Eose(first),
        "CLOSED" => Heard::Closed(first, words(2)),
        "OK" => match (EventId::from_hex(first.as_bytes()), elements.get(2)) {
            (Some(id), Some(Value::Bool(is_taken))) => Heard::Ok(id, *is_taken, words(3)),
            _ => Heard::Other,
        },
        "NEG-MSG" => match read_hex_any_case(words(2).as_bytes()) {
            Some(message) => Heard::NegMsg(first, message),
            None => Heard::NegErr(first, "error: the answer is no hex".into(), None),
        },
        "NEG-ERR" => Heard::NegErr(first, words(2), elements.get(3).and_then(Value::as_u64)),
        "AUTH" => Heard::Auth(first),
        "NOTICE" => Heard::Notice(first),
        _ => Heard::Other,
    }
}

/// The subscription and the text of an event, which is passed on as it was written.
fn split_event(text: &str) -> Option<(String, &str)> {
    let rest = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let (verb, rest) = leading_string(rest)?;
    if verb != "EVENT" {
        return None;
    }
    let (sub, rest) = leading_string(rest.trim_start().strip_prefix(',')?)?;
    Some((sub, rest.trim_start().strip_prefix(',')?.trim()))
}

fn leading_string(text: &str) -> Option<(String, &str)> {
    let mut values = Deserializer::from_str(text).into_iter::<String>();
    let value = values.next()?.ok()?;
    Some((value, &text[values.byte_offset()..]))
}

/// EVENT with an event as it was written.
pub(in crate::cli) fn event_message(event: &str) -> String {
    format!("[\"EVENT\",{event}]")
}

/// REQ with one filter.
pub(in crate::cli) fn req(sub: &str, filter: &Value) -> String {
    json!(["REQ", sub, filter]).to_string()
}

/// REQ for `ids`.
pub(super) fn req_ids<'a>(sub: &str, ids: impl Iterator<Item = &'a EventId>) -> String {
    let ids: Vec<String> = ids.map(EventId::to_hex).collect();
    req(sub, &json!({"ids": ids}))
}

/// NEG-OPEN.
pub(super) fn neg_open(sub: &str, filter: &Value, message: &[u8]) -> String {
    json!(["NEG-OPEN", sub, filter, hex(message)]).to_string()
}

/// NEG-MSG.
pub(super) fn neg_msg(sub: &str, message: &[u8]) -> String {
    json!(["NEG-MSG", sub, hex(message)]).to_string()
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = Vec::with_capacity(bytes.len() * 2);
    write_hex(bytes, &mut hex);
    String::from_utf8(hex).expect("hex digits are ASCII")
}

/// What a refusal is counted under: its first word, or all of it when it has no prefix. Peers write
/// it, so it is kept short.
pub(in crate::cli) fn prefix(text: &str) -> String {
    let prefix = text.split_once(':').map_or(text, |(prefix, _)| prefix).trim();
    let prefix = if prefix.is_empty() { "without a reason" } else { prefix };
    prefix.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_passed_on_as_written_and_the_rest_is_read() {
        let id = EventId([0xab; 32]);
        let event = r#"{ "id":"x\u00e4" , "tags":[["a","]"]] }"#;
        let text = format!(" [ \"EVENT\" , \"a\\\"b\",{event} ] ");
        assert_eq!(hear(&text), Heard::Event("a\"b".into(), event));
        let ok = format!(r#"["OK","{}",false,"blocked: no"]"#, id.to_hex());
        assert_eq!(hear(&ok), Heard::Ok(id, false, "blocked: no".into()));
        assert_eq!(hear(r#"["EOSE","s",["finish"]]"#), Heard::Eose("s".into()));
        assert_eq!(hear(r#"["NEG-MSG","s","61FF"]"#), Heard::NegMsg("s".into(), vec![0x61, 0xff]));
        let many = Heard::NegErr("s".into(), "blocked: too many".into(), Some(5));
        assert_eq!(hear(r#"["NEG-ERR","s","blocked: too many",5]"#), many);
        for other in
            ["", "[]", "{}", "[\"EVENT\"]", "[\"OK\",\"zz\",true,\"\"]", "[\"EVENT\",1,{}]"]
        {
            assert_eq!(hear(other), Heard::Other, "{other}");
        }
    }

    #[test]
    fn refusals_are_counted_under_their_first_word() {
        assert_eq!(prefix("blocked: you"), "blocked");
        assert_eq!(prefix(""), "without a reason");
        assert_eq!(prefix(&"x\u{1b}".repeat(90)).len(), 40);
    }
}
