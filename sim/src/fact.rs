//! What the oracle knows of an event, read from its JSON with a general parser. Written from the
//! NIPs, not from the product: nothing here calls `proto`'s rules.

use serde_json::Value;
use std::collections::BTreeMap;

/// What a relay does with events of a kind (NIP-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Kept.
    Regular,
    /// One per author, kind and `d`.
    Slotted,
    /// Passed on only.
    Ephemeral,
}

/// One place that one event may hold: author, kind, `d`.
pub type SlotName = (String, u16, String);

/// An event as the oracle sees it. Owned by the pool, never changed.
#[derive(Clone, Debug)]
pub struct Fact {
    /// 64 hex digits.
    pub id: String,
    /// 64 hex digits.
    pub pubkey: String,
    /// The kind.
    pub kind: u16,
    /// Unix seconds.
    pub created_at: u64,
    /// All tags.
    pub tags: Vec<Vec<String>>,
    /// By kind.
    pub class: Class,
    /// Of slotted kinds.
    pub slot: Option<SlotName>,
    /// NIP-40; `u64::MAX` for never.
    pub expires_at: u64,
    /// Id and signature are right.
    pub is_genuine: bool,
    /// NIP-70.
    pub is_protected: bool,
}

impl Fact {
    /// Reads `json`; `is_genuine` is what its maker says.
    pub fn read(json: &str, is_genuine: bool) -> Self {
        let value: Value = serde_json::from_str(json).expect("the pool writes JSON");
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let kind = value["kind"].as_u64().unwrap_or_default() as u16;
        let tags: Vec<Vec<String>> =
            serde_json::from_value(value["tags"].clone()).unwrap_or_default();
        let class = match kind {
            0 | 3 | 10_000..=19_999 | 30_000..=39_999 => Class::Slotted,
            20_000..=29_999 => Class::Ephemeral,
            _ => Class::Regular,
        };
        let first = |name: &str| {
            let tag = tags.iter().find(|tag| tag[0] == name && tag.len() > 1);
            tag.map(|tag| tag[1].clone())
        };
        let d = if kind >= 30_000 { first("d").unwrap_or_default() } else { String::new() };
        let pubkey = text("pubkey");
        Self {
            id: text("id"),
            kind,
            created_at: value["created_at"].as_u64().unwrap_or_default(),
            class,
            slot: (class == Class::Slotted).then(|| (pubkey.clone(), kind, d)),
            expires_at: first("expiration").map_or(u64::MAX, |at| at.parse().unwrap_or(u64::MAX)),
            is_protected: tags.iter().any(|tag| tag[0] == "-"),
            pubkey,
            tags,
            is_genuine,
        }
    }

    /// Values of the tags of this name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.tags.iter().filter(move |tag| tag[0] == name && tag.len() > 1);
        named.map(|tag| tag[1].as_str())
    }

    /// The recipient of a gift wrap (NIP-59).
    pub fn recipient(&self) -> Option<&str> {
        if self.kind == 1059 { self.values("p").next() } else { None }
    }

    /// Who may read it (NIP-04, NIP-17); `None`: everybody.
    pub fn readers(&self) -> Option<Vec<&str>> {
        match self.kind {
            4 => {
                let author = std::iter::once(self.pubkey.as_str());
                Some(author.chain(self.values("p")).collect())
            }
            1059 | 21_059 => Some(self.values("p").collect()),
            _ => None,
        }
    }

    /// Whether somebody who authenticated `keys` may read it.
    pub fn is_readable_by(&self, keys: &[String]) -> bool {
        let Some(readers) = self.readers() else { return true };
        keys.iter().any(|key| readers.contains(&key.as_str()))
    }

    /// Order of versions of one slot: later is greater, of two at one time the lower id.
    fn is_newer_version_than(&self, other: &Self) -> bool {
        (self.created_at, std::cmp::Reverse(&self.id))
            > (other.created_at, std::cmp::Reverse(&other.id))
    }

    /// Whether this deletion request (NIP-09) covers `other`.
    pub fn deletes(&self, other: &Self) -> bool {
        if self.kind != 5 || matches!(other.kind, 5 | 62) {
            return false;
        }
        let is_author = self.pubkey == other.pubkey;
        let may = is_author || other.recipient() == Some(self.pubkey.as_str());
        let by_id = may && self.values("e").any(|id| id == other.id);
        let by_slot = is_author
            && other.created_at <= self.created_at
            && other.slot.as_ref().is_some_and(|(pubkey, kind, d)| {
                let name = format!("{kind}:{pubkey}:{d}");
                self.values("a").any(|value| value == name)
            });
        by_id || by_slot
    }

    /// Whether this request to vanish (NIP-62) covers `other` by its author.
    pub fn vanishes(&self, other: &Self) -> bool {
        self.kind == 62
            && self.id != other.id
            && self.pubkey == other.pubkey
            && other.created_at <= self.created_at
            && other.class != Class::Ephemeral
    }

    /// Whether this request to vanish takes along a gift wrap that was there before it.
    pub fn takes_wrap(&self, other: &Self) -> bool {
        self.kind == 62
            && other.kind == 1059
            && (other.recipient() == Some(self.pubkey.as_str()) || other.pubkey == self.pubkey)
    }

    /// Whether this event, accepted at any time, may be the reason why `other` is not there.
    pub fn may_remove(&self, other: &Self) -> bool {
        if self.id == other.id {
            return false;
        }
        let replaces =
            self.slot.is_some() && self.slot == other.slot && self.is_newer_version_than(other);
        replaces || self.deletes(other) || self.vanishes(other) || self.takes_wrap(other)
    }

    /// Whether this event, once accepted, keeps `other` away for ever, in whatever order they came.
    pub fn forbids(&self, other: &Self) -> bool {
        self.deletes(other) || (self.vanishes(other) && other.kind != 62)
    }
}

/// A filter of NIP-01, as the clients of the simulator write it.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// `ids`.
    pub ids: Option<Vec<String>>,
    /// `authors`.
    pub authors: Option<Vec<String>>,
    /// `kinds`.
    pub kinds: Option<Vec<u16>>,
    /// `#x`.
    pub tags: BTreeMap<char, Vec<String>>,
    /// `since`.
    pub since: Option<u64>,
    /// `until`.
    pub until: Option<u64>,
    /// `limit`.
    pub limit: Option<u64>,
}

impl Wish {
    /// Whether an event satisfies everything but the limit.
    pub fn wants(&self, fact: &Fact) -> bool {
        let among = |list: &Option<Vec<String>>, value: &String| {
            list.as_ref().is_none_or(|list| list.contains(value))
        };
        among(&self.ids, &fact.id)
            && among(&self.authors, &fact.pubkey)
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&fact.kind))
            && self.since.is_none_or(|since| fact.created_at >= since)
            && self.until.is_none_or(|until| fact.created_at <= until)
            && self.tags.iter().all(|(letter, wanted)| {
                let mut name = [0; 4];
                let name = &*letter.encode_utf8(&mut name);
                fact.values(name).any(|value| wanted.iter().any(|one| one == value))
            })
    }

    /// As a client sends it.
    pub fn json(&self) -> String {
        let mut fields = serde_json::Map::new();
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        if let Some(ids) = &self.ids {
            put("ids", ids.clone().into());
        }
        if let Some(authors) = &self.authors {
            put("authors", authors.clone().into());
        }
        if let Some(kinds) = &self.kinds {
            put("kinds", kinds.clone().into());
        }
        for (letter, values) in &self.tags {
            put(&format!("#{letter}"), values.clone().into());
        }
        for (key, value) in [("since", self.since), ("until", self.until), ("limit", self.limit)] {
            if let Some(value) = value {
                put(key, value.into());
            }
        }
        Value::Object(fields).to_string()
    }
}
