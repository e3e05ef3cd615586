//! A relay without any cleverness: a list of events and loops over it. Written from the NIPs, not
//! from the product.

use proto::nip::nip01::{KindClass, class};
use proto::{Event, EventId, EventRef, Filter, PublicKey, Reason};
use std::collections::BTreeSet;

#[derive(Default)]
pub struct Oracle {
    pub stored: Vec<Event>,
    /// What was stored once and is not any more.
    pub gone: Vec<Event>,
    deletions: Vec<Event>,
    /// Keys that asked to vanish, and up to when.
    vanished: Vec<(PublicKey, u32)>,
    /// Ids that may not come back: wraps to keys that vanished, and what the operator bans.
    never: Vec<(EventId, Reason)>,
}

fn tag_values(event: &EventRef<'_>, name: &str) -> Vec<String> {
    let tags: Vec<Vec<String>> = serde_json::from_slice(event.tags_json()).unwrap();
    tags.into_iter()
        .filter(|tag| tag[0] == name && tag.len() > 1)
        .map(|tag| tag[1].clone())
        .collect()
}

fn first_p(event: &EventRef<'_>) -> Option<String> {
    tag_values(event, "p").into_iter().next()
}

fn slot(event: &EventRef<'_>) -> Option<(PublicKey, u16, String)> {
    let d = match class(event.kind()) {
        KindClass::Replaceable => String::new(),
        KindClass::Addressable => {
            let tags: Vec<Vec<String>> = serde_json::from_slice(event.tags_json()).unwrap();
            let d = tags.into_iter().find(|tag| tag[0] == "d");
            d.and_then(|tag| tag.get(1).cloned()).unwrap_or_default()
        }
        _ => return None,
    };
    Some((event.pubkey(), event.kind(), d))
}

fn coordinate(event: &EventRef<'_>) -> Option<String> {
    slot(event).map(|(pubkey, kind, d)| format!("{kind}:{pubkey}:{d}"))
}

fn expires(event: &EventRef<'_>) -> u64 {
    let values = tag_values(event, "expiration");
    values.first().map_or(u64::MAX, |text| text.parse().unwrap_or(u64::MAX))
}

fn covers(deletion: &EventRef<'_>, event: &EventRef<'_>) -> bool {
    if [5, 62].contains(&event.kind()) {
        return false;
    }
    let by_author = deletion.pubkey() == event.pubkey();
    let is_wrap = event.kind() == 1059;
    let by_recipient = is_wrap && first_p(event) == Some(deletion.pubkey().to_string());
    let by_id = tag_values(deletion, "e").contains(&event.id().to_string());
    let by_slot = coordinate(event).is_some_and(|have| tag_values(deletion, "a").contains(&have))
        && event.created_at() <= deletion.created_at();
    (by_id && (by_author || by_recipient)) || (by_slot && by_author)
}

impl Oracle {
    pub fn publish(&mut self, event: &Event, unix_s: u64) -> Result<(), Reason> {
        let view = event.view();
        if expires(&view) <= unix_s {
            return Err(Reason::Expired);
        }
        let is_ephemeral = class(view.kind()) == KindClass::Ephemeral;
        let banned = |(id, why): &&(EventId, Reason)| *id == view.id() && *why == Reason::Banned;
        if self.never.iter().any(|never| banned(&never)) && !is_ephemeral {
            return Err(Reason::Banned);
        }
        let has_vanished = |(key, until): &(PublicKey, u32)| {
            *key == view.pubkey() && view.created_at() <= *until && !is_ephemeral
        };
        if view.kind() != 62 && self.vanished.iter().any(has_vanished) {
            return Err(Reason::Vanished);
        }
        if self.stored.iter().any(|have| have.view().id() == view.id()) {
            return Err(Reason::Duplicate);
        }
        if let Some((_, why)) = self.never.iter().find(|(id, _)| *id == view.id()) {
            return Err(*why);
        }
        if view.kind() == 62 {
            if self.vanished.iter().any(has_vanished) {
                return Err(Reason::DuplicateNewer);
            }
            self.vanish(view.pubkey(), view.created_at());
        }
        if self.deletions.iter().any(|deletion| covers(&deletion.view(), &view)) {
            return Err(Reason::Deleted);
        }
        if class(view.kind()) == KindClass::Ephemeral {
            return Ok(());
        }
        if let Some(wanted) = slot(&view)
            && let Some(at) = self.stored.iter().position(|have| {
                have.view().kind() == view.kind() && slot(&have.view()).as_ref() == Some(&wanted)
            })
        {
            let have = self.stored[at].view();
            let newer = (view.created_at(), std::cmp::Reverse(view.id()))
                > (have.created_at(), std::cmp::Reverse(have.id()));
            if !newer {
                return Err(Reason::DuplicateNewer);
            }
            let replaced = self.stored.swap_remove(at);
            self.gone.push(replaced);
        }
        if view.kind() == 5 {
            let (gone, kept) = self.stored.drain(..).partition(|have| covers(&view, &have.view()));
            self.stored = kept;
            let mut gone: Vec<Event> = gone;
            self.gone.append(&mut gone);
            self.deletions.push(event.clone());
        }
        self.stored.push(event.clone());
        Ok(())
    }

    fn vanish(&mut self, key: PublicKey, until: u32) {
        self.vanished.push((key, until));
        let stored = std::mem::take(&mut self.stored);
        for event in stored {
            let view = event.view();
            let is_wrap = view.kind() == 1059 && first_p(&view) == Some(key.to_string());
            if is_wrap {
                self.never.push((view.id(), Reason::Deleted));
            }
            if is_wrap || (view.pubkey() == key && view.created_at() <= until) {
                self.gone.push(event);
            } else {
                self.stored.push(event);
            }
        }
    }

    /// The operator removes events; returns how many there were.
    pub fn remove(&mut self, ids: &[EventId], ban: bool) -> u64 {
        let is_named = |event: &Event| ids.contains(&event.view().id());
        let (gone, kept): (Vec<Event>, Vec<Event>) = self.stored.drain(..).partition(is_named);
        let count = gone.len() as u64;
        self.stored = kept;
        self.gone.extend(gone);
        if ban {
            self.never.extend(ids.iter().map(|id| (*id, Reason::Banned)));
        }
        count
    }

    /// Whether anything that is gone would have matched.
    pub fn touches_gone(&self, filters: &[Filter], unix_s: u64) -> bool {
        let expired = self.stored.iter().filter(|event| expires(&event.view()) <= unix_s);
        let mut gone = self.gone.iter().chain(expired);
        gone.any(|event| filters.iter().any(|filter| naive_match(filter, &event.view())))
    }

    /// The answer to a REQ: ids in order, and whether limits keep anything that matches out of it.
    pub fn query(
        &self,
        filters: &[Filter],
        keys: &[PublicKey],
        unix_s: u64,
        max: usize,
    ) -> (Vec<EventId>, bool) {
        let mut picked: Vec<(u32, EventId)> = Vec::new();
        let mut all: BTreeSet<EventId> = BTreeSet::new();
        for filter in filters {
            let mut matching: Vec<(u32, EventId)> = self
                .stored
                .iter()
                .map(|event| event.view())
                .filter(|event| naive_match(filter, event))
                .filter(|event| expires(event) > unix_s && may_read(event, keys))
                .map(|event| (event.created_at(), event.id()))
                .collect();
            matching.sort_by_key(|(at, id)| (std::cmp::Reverse(*at), *id));
            let limit = filter.limit.map_or(max, |limit| (limit as usize).min(max));
            all.extend(matching.iter().map(|(_, id)| *id));
            matching.truncate(limit);
            picked.extend(matching);
        }
        picked.sort_by_key(|(at, id)| (std::cmp::Reverse(*at), *id));
        picked.dedup();
        let cut = all.len() > picked.len();
        (picked.into_iter().map(|(_, id)| id).collect(), cut)
    }
}

fn may_read(event: &EventRef<'_>, keys: &[PublicKey]) -> bool {
    let names = || tag_values(event, "p");
    match event.kind() {
        4 => keys.iter().any(|key| *key == event.pubkey() || names().contains(&key.to_string())),
        1059 | 21_059 => keys.iter().any(|key| names().contains(&key.to_string())),
        _ => true,
    }
}

fn naive_match(filter: &Filter, event: &EventRef<'_>) -> bool {
    let at = u64::from(event.created_at());
    filter.ids.as_ref().is_none_or(|ids| ids.contains(&event.id()))
        && filter.authors.as_ref().is_none_or(|keys| keys.contains(&event.pubkey()))
        && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind()))
        && filter.since.is_none_or(|since| at >= since)
        && filter.until.is_none_or(|until| at <= until)
        && filter.tags.iter().all(|wanted| {
            let have = tag_values(event, &char::from(wanted.letter).to_string());
            have.iter().any(|have| wanted.values.iter().any(|value| **value == *have.as_bytes()))
        })
}
