//! EVENT objects by `serde_json`.

use super::{Members, hex, integer, may_hold_surrogates, oversteps_json_limits, string};
use proto::event::HEADER_BYTES;
use proto::parse::parse_event;
use proto::{Event, EventId, Limits, Reason};
use sha2::{Digest, Sha256};

/// An event as `serde_json` reads it.
#[derive(Debug)]
pub struct OracleEvent {
    pub id: [u8; 32],
    pub pubkey: [u8; 32],
    pub sig: [u8; 64],
    pub created_at: u32,
    pub kind: u16,
    pub tags: Vec<Vec<String>>,
    pub content: String,
}

impl OracleEvent {
    pub fn read(json: &[u8]) -> Option<Self> {
        let members = Members::read(json)?;
        if members.has_duplicates() {
            return None;
        }
        let tags: Vec<Vec<String>> = serde_json::from_str(members.find("tags")?).ok()?;
        if tags.iter().any(Vec::is_empty) {
            return None;
        }
        Some(Self {
            id: hex(&string(members.find("id")?)?)?,
            pubkey: hex(&string(members.find("pubkey")?)?)?,
            sig: hex(&string(members.find("sig")?)?)?,
            created_at: integer(members.find("created_at")?)?.try_into().ok()?,
            kind: integer(members.find("kind")?)?.try_into().ok()?,
            tags,
            content: string(members.find("content")?)?,
        })
    }

    fn tags_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.tags).unwrap()
    }

    fn content_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.content).unwrap()
    }

    /// SHA-256 of the array of NIP-01 as `serde_json` writes it.
    fn hash(&self) -> [u8; 32] {
        let pubkey: String = self.pubkey.iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = (0, pubkey, self.created_at, self.kind, &self.tags, &self.content);
        Sha256::digest(serde_json::to_vec(&parts).unwrap()).into()
    }
}

/// The id that an error about this object has to carry, as far as `serde_json` can read the object.
pub fn readable_id(json: &[u8]) -> Option<EventId> {
    let members = Members::read(json)?;
    let mut ids = members.0.iter().filter(|(key, _)| key == "id");
    ids.find_map(|(_, value)| hex(&string(value.get())?).map(EventId))
}

/// Parses `json` both ways and panics where the two differ.
pub fn check_event(json: &[u8], limits: &Limits) -> Result<Event, Reason> {
    let expected = OracleEvent::read(json);
    match parse_event(json, limits) {
        Ok(event) => {
            let expected = expected.expect("accepted what serde_json refuses");
            compare(&event, &expected);
            assert!(event.packed().len() <= limits.event_bytes_max);
            assert!(expected.tags.len() <= limits.tags_max);
            assert!(expected.tags.iter().all(|tag| tag.len() <= limits.tag_elements_max));
            Ok(event)
        }
        Err(error) => {
            if let Some(event) = expected {
                check_refusal(error.reason, &event, json, limits);
            }
            if let Some(id) = readable_id(json) {
                assert_eq!(error.id, Some(id), "the id is readable: {error:?}");
            }
            Err(error.reason)
        }
    }
}

fn compare(event: &Event, expected: &OracleEvent) {
    let view = event.view();
    assert_eq!(view.id().0, expected.id);
    assert_eq!(view.pubkey().0, expected.pubkey);
    assert_eq!(view.sig().0, expected.sig);
    assert_eq!(view.created_at(), expected.created_at);
    assert_eq!(view.kind(), expected.kind);
    let texts =
        [(view.tags_json(), expected.tags_json()), (view.content_json(), expected.content_json())];
    for (ours, theirs) in texts {
        assert_eq!(String::from_utf8_lossy(ours), String::from_utf8_lossy(&theirs));
    }
    let mut tags = view.tags();
    for theirs in &expected.tags {
        let tag = tags.next().expect("a tag is missing");
        let ours: Vec<Vec<u8>> = tag.elements().map(|element| element.into_owned()).collect();
        assert_eq!(ours, theirs.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(tag.value().as_deref(), theirs.get(1).map(String::as_bytes));
    }
    assert_eq!(tags.next(), None);
}

/// A refusal of what `serde_json` accepts has to name a limit that is overstepped.
fn check_refusal(reason: Reason, event: &OracleEvent, json: &[u8], limits: &Limits) {
    let is_right = match reason {
        Reason::TooManyTags => event.tags.len() > limits.tags_max,
        Reason::TooManyTagElements => {
            event.tags.iter().any(|tag| tag.len() > limits.tag_elements_max)
        }
        Reason::EventTooLarge => {
            let spans = event.tags_json().len() + event.content_json().len();
            HEADER_BYTES + spans > limits.event_bytes_max
        }
        Reason::TooManyFields => {
            let fields = Members::read(json).map_or(0, |members| members.0.len());
            fields > 7 + proto::limits::UNKNOWN_FIELDS_MAX
        }
        Reason::TooDeep | Reason::NumberTooLong => oversteps_json_limits(json),
        Reason::BadUtf8 => may_hold_surrogates(json),
        _ => false,
    };
    assert!(is_right, "{reason:?} for {event:?}");
}

/// Whatever is accepted can be rendered, packed and read again without a change, and hashes as
/// `serde_json`'s rendering does.
pub fn check_round_trip(json: &[u8]) {
    let Ok(event) = parse_event(json, &Limits::default()) else { return };
    let mut rendered = Vec::new();
    event.view().write_json(&mut rendered);
    assert!(rendered.len() <= event.view().json_bytes_max());
    let again = parse_event(&rendered, &Limits::default()).expect("our own rendering is refused");
    assert_eq!(again, event);
    assert_eq!(Event::from_packed(event.packed()).as_ref(), Ok(&event));
    assert_eq!(event.view().parts().pack(), event);
    let mut packed = Vec::new();
    event.view().parts().write_packed(&mut packed);
    assert_eq!(packed, event.packed());
    let oracle = OracleEvent::read(&rendered).expect("our own rendering is refused");
    assert_eq!(event.view().parts().compute_id().0, oracle.hash());
    assert!(event.view().id().0 != oracle.hash() || event.view().id_is_valid());
}

/// Bytes from outside that claim to be a packed event are refused, or every accessor works on them
/// and their rendering is what `serde_json` accepts.
pub fn check_packed(bytes: &[u8]) {
    let Ok(event) = Event::from_packed(bytes) else { return };
    let mut rendered = Vec::new();
    event.view().write_json(&mut rendered);
    compare(&event, &OracleEvent::read(&rendered).expect("rendering of a packed event is refused"));
}
