//! The NIP-11 relay information document.

use serde::Serialize;

/// Everything NIP-11 lets a relay say about itself. Empty fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RelayDocument {
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Plain text about the relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// URL of a wide image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub banner: Option<String>,
    /// URL of a square image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// Key of the administrator, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pubkey: Option<String>,
    /// The relay's own key, hex.
    #[serde(rename = "self", skip_serializing_if = "Option::is_none")]
    pub own_pubkey: Option<String>,
    /// URI of another way to reach the administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// NIPs that are really on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_nips: Vec<u16>,
    /// Version of the negentropy protocol, while NIP-77 is on. No NIP names this field; clients that
    /// sync look for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negentropy: Option<u8>,
    /// URL of the software.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software: Option<String>,
    /// Version of the software.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// URL of the terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_of_service: Option<String>,
    /// Limits.
    #[serde(skip_serializing_if = "Limitation::is_empty")]
    pub limitation: Limitation,
    /// URL where one can pay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payments_url: Option<String>,
    /// Prices.
    #[serde(skip_serializing_if = "Fees::is_empty")]
    pub fees: Fees,
    /// How long events are kept. Gone from NIP-11 since 2026, still read by directories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retention: Vec<Retention>,
    /// Group features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nip29: Option<Groups>,
}

/// Limits that clients can know in advance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limitation {
    /// Bytes of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_length: Option<u64>,
    /// Subscriptions of one connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_subscriptions: Option<u64>,
    /// Greatest `limit` of a filter; larger ones are clamped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_limit: Option<u64>,
    /// `limit` of a filter that names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_limit: Option<u64>,
    /// Characters of a subscription id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_subid_length: Option<u64>,
    /// Tags of an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_event_tags: Option<u64>,
    /// Characters of an event's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_content_length: Option<u64>,
    /// Bits of proof of work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_pow_difficulty: Option<u64>,
    /// AUTH before anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_required: Option<bool>,
    /// Payment before anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_required: Option<bool>,
    /// Writing has some condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restricted_writes: Option<bool>,
    /// Seconds before now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at_lower_limit: Option<u64>,
    /// Seconds after now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at_upper_limit: Option<u64>,
}

impl Limitation {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Prices by occasion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fees {
    /// For being admitted, once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub admission: Vec<Fee>,
    /// For a period.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscription: Vec<Fee>,
    /// Per event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publication: Vec<Fee>,
}

impl Fees {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One price.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fee {
    /// Kinds that it is for; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<u16>,
    /// Amount in `unit`.
    pub amount: u64,
    /// `msats` or `sats`.
    pub unit: String,
    /// Seconds that it pays for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
}

/// How long some kinds are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retention {
    /// Kinds and ranges of kinds; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<Kinds>,
    /// Seconds; `null` is for ever, 0 is not at all.
    pub time: Option<u64>,
    /// Greatest number kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A kind or a range of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Kinds {
    /// One kind.
    One(u16),
    /// First and last kind.
    Range(u16, u16),
}

/// What the relay does for groups (NIP-29).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// Whether groups may have parents.
    pub subgroups: bool,
}

impl RelayDocument {
    /// The JSON document.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_fields_are_left_out() {
        assert_eq!(RelayDocument::default().to_json(), "{}");
    }

    #[test]
    fn a_full_document_has_the_names_of_nip_11() {
        let document = RelayDocument {
            name: Some("n".into()),
            own_pubkey: Some("aa".into()),
            supported_nips: vec![1, 11],
            negentropy: Some(1),
            limitation: Limitation {
                max_limit: Some(500),
                auth_required: Some(false),
                ..Limitation::default()
            },
            fees: Fees {
                publication: vec![Fee {
                    kinds: vec![4],
                    amount: 100,
                    unit: "msats".into(),
                    period: None,
                }],
                ..Fees::default()
            },
            retention: vec![
                Retention {
                    kinds: vec![Kinds::One(0), Kinds::Range(5, 7)],
                    time: None,
                    count: None,
                },
                Retention { kinds: vec![], time: Some(3600), count: Some(10) },
            ],
            nip29: Some(Groups { subgroups: true }),
            ..RelayDocument::default()
        };
        let value: serde_json::Value = serde_json::from_str(&document.to_json()).unwrap();
        assert_eq!(
            value,
            json!({
                "name": "n",
                "self": "aa",
                "supported_nips": [1, 11],
                "negentropy": 1,
                "limitation": {"max_limit": 500, "auth_required": false},
                "fees": {"publication": [{"kinds": [4], "amount": 100, "unit": "msats"}]},
                "retention": [
                    {"kinds": [0, [5, 7]], "time": null},
                    {"time": 3600, "count": 10},
                ],
                "nip29": {"subgroups": true},
            })
        );
    }
}
