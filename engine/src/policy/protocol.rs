//! The lines of the plug-in protocol: strfry's, with more fields, and one more kind of request.
//! `docs/policy.md` describes them for people who write plug-ins.

use super::desk::Question;
use proto::id::write_hex;
use proto::json::write_string;
use proto::{Filter, PublicKey, Reason};
use serde::Deserialize;
use shards::door::{self, ReadKind, Source, Verdict};
use shards::message::Origin;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of a plug-in's message that a client is told; the rest is cut off.
const NOTE_BYTES_MAX: usize = 1_024;

impl Question for door::Question {
    fn name(&self, _: u64) -> Box<str> {
        self.event.view().id().to_hex().into()
    }

    fn write(&self, _: &str, received_at_s: u64, out: &mut Vec<u8>) {
        let event = self.event.view();
        out.extend_from_slice(b"{\"type\":\"new\",\"event\":");
        event.write_json(out);
        write_source(&self.source, Some(&event.pubkey()), received_at_s, out);
        out.push(b'}');
    }
}

impl Question for door::ReadQuestion {
    fn name(&self, number: u64) -> Box<str> {
        number.to_string().into()
    }

    fn write(&self, name: &str, received_at_s: u64, out: &mut Vec<u8>) {
        let verb = match self.kind {
            ReadKind::Req => "req",
            ReadKind::Count => "count",
            ReadKind::NegOpen => "neg-open",
        };
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(verb.as_bytes());
        out.extend_from_slice(b"\",\"id\":");
        write_string(name.as_bytes(), out);
        out.extend_from_slice(b",\"subId\":");
        write_string(self.sub.as_bytes(), out);
        out.extend_from_slice(b",\"filters\":");
        write_list(&self.filters, out, write_filter);
        write_source(&self.source, None, received_at_s, out);
        out.push(b'}');
    }
}

/// Appends what is known of the one who asks. strfry names one key as `authed`; if the author of the
/// event is among several, it is the author, because plug-ins compare it with the event's key.
fn write_source(
    source: &Source,
    author: Option<&PublicKey>,
    received_at_s: u64,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b",\"receivedAt\":");
    write_number(received_at_s, out);
    let (kind, address) = match (source.origin, source.address) {
        (Origin::Client, Some(address @ IpAddr::V4(_))) => ("IP4", Some(address)),
        (Origin::Client, Some(address @ IpAddr::V6(_))) => ("IP6", Some(address)),
        _ => ("Import", None),
    };
    out.extend_from_slice(b",\"sourceType\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"sourceInfo\":\"");
    out.extend_from_slice(
        address.map(|address| address.to_string()).unwrap_or_default().as_bytes(),
    );
    out.push(b'"');
    let keys = &source.keys;
    if let Some(first) = keys.first() {
        let authed = author.filter(|author| keys.contains(author)).unwrap_or(first);
        out.extend_from_slice(b",\"authed\":");
        write_id(&authed.0, out);
        out.extend_from_slice(b",\"authedKeys\":");
        write_list(keys, out, |key, out| write_id(&key.0, out));
    }
}

fn write_filter(filter: &Filter, out: &mut Vec<u8>) {
    out.push(b'{');
    let start = out.len();
    let key = |name: &str, out: &mut Vec<u8>| {
        if out.len() > start {
            out.push(b',');
        }
        write_string(name.as_bytes(), out);
        out.push(b':');
    };
    if let Some(ids) = &filter.ids {
        key("ids", out);
        write_list(ids, out, |id, out| write_id(&id.0, out));
    }
    if let Some(authors) = &filter.authors {
        key("authors", out);
        write_list(authors, out, |author, out| write_id(&author.0, out));
    }
    if let Some(kinds) = &filter.kinds {
        key("kinds", out);
        write_list(kinds, out, |kind, out| write_number((*kind).into(), out));
    }
    for tag in &filter.tags {
        key(&format!("#{}", char::from(tag.letter)), out);
        write_list(&tag.values, out, |value, out| write_string(value, out));
    }
    let numbers = [("since", filter.since), ("until", filter.until), ("limit", filter.limit)];
    for (name, number) in numbers {
        if let Some(number) = number {
            key(name, out);
            write_number(number, out);
        }
    }
    out.push(b'}');
}

fn write_list<T>(items: &[T], out: &mut Vec<u8>, each: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(b']');
}

fn write_id(bytes: &[u8; 32], out: &mut Vec<u8>) {
    out.push(b'"');
    write_hex(bytes, out);
    out.push(b'"');
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// What a line of a plug-in says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The question's name.
    pub name: Cow<'a, str>,
    /// What it says to it.
    pub verdict: Verdict,
}

#[derive(Deserialize)]
struct AnswerLine<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default)]
    msg: Option<Cow<'a, str>>,
}

/// Reads one line; `None` if it is no answer. Fields that are none of ours are passed over.
pub fn parse_answer(line: &[u8]) -> Option<Answer<'_>> {
    let AnswerLine { id, action, msg } = serde_json::from_slice(line).ok()?;
    let verdict = match &*action {
        "accept" => Verdict::Accept,
        "reject" => Verdict::Reject(note(msg.as_deref().unwrap_or_default())),
        "shadowReject" => Verdict::ShadowReject,
        _ => return None,
    };
    Some(Answer { name: id, verdict })
}

/// What the client is told: the plug-in's own words, if it has any.
fn note(text: &str) -> Arc<str> {
    match &text[..text.floor_char_boundary(NOTE_BYTES_MAX)] {
        "" => Reason::Policy.message().into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests;
