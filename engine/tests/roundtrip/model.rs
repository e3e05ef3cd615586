//! What a relay holds after a sequence of events, the slow and obvious way.

use bench::Role;
use proto::nip::nip01::{KindClass, Slot, Version, class};
use proto::nip::{nip09, nip40};
use proto::{Event, EventId, PublicKey};
use std::collections::{BTreeMap, BTreeSet};

/// The naive relay.
#[derive(Default)]
pub struct Model {
    events: BTreeMap<EventId, Event>,
    slots: BTreeMap<Slot, Event>,
    /// Who asked for the deletion of an id.
    deleted: BTreeMap<EventId, Vec<PublicKey>>,
    /// Up to when the versions of a slot are deleted.
    deleted_until: BTreeMap<Slot, u32>,
    /// Slots whose holder was deleted by id: whether an older version may come back depends on the
    /// order of arrival, which the store tables and this model leaves open.
    open: BTreeSet<Slot>,
    open_ids: BTreeSet<String>,
    stored: Vec<Event>,
}

impl Model {
    /// What is held at `now_s` after `arrivals` in order.
    pub fn of(arrivals: impl Iterator<Item = (Event, Role)>, now_s: u64) -> Self {
        let mut model = Self::default();
        let mut slotted: Vec<(Slot, EventId)> = Vec::new();
        for (event, role) in arrivals {
            if role == Role::BadSignature {
                continue;
            }
            slotted.extend(Slot::of(&event.view()).map(|slot| (slot, event.view().id())));
            model.arrive(event, now_s);
        }
        let open = slotted.into_iter().filter(|(slot, _)| model.open.contains(slot));
        model.open_ids = open.map(|(_, id)| id.to_hex()).collect();
        model.stored = model.events.values().cloned().collect();
        model
    }

    /// Everything held.
    pub fn stored(&self) -> &[Event] {
        &self.stored
    }

    /// Ids that must be held.
    pub fn certain(&self) -> impl Iterator<Item = String> {
        let ids = self.stored.iter().map(|event| event.view().id().to_hex());
        ids.filter(|id| !self.open_ids.contains(id))
    }

    /// Whether the order of arrival decides about `id`.
    pub fn is_open(&self, id: &str) -> bool {
        self.open_ids.contains(id)
    }

    /// Whether `id` may be held.
    pub fn may_hold(&self, id: &str) -> bool {
        self.is_open(id)
            || EventId::from_hex(id.as_bytes()).is_some_and(|id| self.events.contains_key(&id))
    }

    fn arrive(&mut self, event: Event, now_s: u64) {
        let view = event.view();
        let expired = nip40::expires_at(&view).unwrap().is_some_and(|at| at <= now_s);
        if class(view.kind()) == KindClass::Ephemeral || expired || self.is_deleted(&event) {
            return;
        }
        if let Some(slot) = Slot::of(&view) {
            if let Some(holder) = self.slots.get(&slot) {
                if !version(&event).beats(&version(holder)) {
                    return;
                }
                self.events.remove(&holder.view().id());
            }
            self.slots.insert(slot, event.clone());
        }
        if view.kind() == nip09::KIND {
            self.delete(&event);
        }
        self.events.insert(event.view().id(), event);
    }

    fn is_deleted(&self, event: &Event) -> bool {
        let view = event.view();
        let by_id = self.deleted.get(&view.id()).is_some_and(|requesters| {
            requesters.iter().any(|requester| nip09::may_delete(requester, &view))
        });
        let until = Slot::of(&view).and_then(|slot| self.deleted_until.get(&slot).copied());
        by_id || until.is_some_and(|until| view.created_at() <= until)
    }

    fn delete(&mut self, request: &Event) {
        let requester = request.view().pubkey();
        for target in nip09::targets(&request.view()).unwrap() {
            match target {
                nip09::Target::Id(id) => {
                    self.deleted.entry(id).or_default().push(requester);
                    let victim = self.events.get(&id).cloned();
                    let Some(victim) = victim.filter(|v| nip09::may_delete(&requester, &v.view()))
                    else {
                        continue;
                    };
                    self.events.remove(&id);
                    if let Some(slot) = Slot::of(&victim.view()) {
                        self.slots.remove(&slot);
                        self.open.insert(slot);
                    }
                }
                nip09::Target::Slot(slot) => {
                    let at = request.view().created_at();
                    let until = self.deleted_until.entry(slot.clone()).or_default();
                    *until = (*until).max(at);
                    let covered = |holder: &Event| holder.view().created_at() <= at;
                    if self.slots.get(&slot).is_some_and(covered) {
                        let holder = self.slots.remove(&slot).unwrap();
                        self.events.remove(&holder.view().id());
                    }
                }
            }
        }
    }
}

fn version(event: &Event) -> Version {
    Version { created_at: event.view().created_at(), id: event.view().id() }
}

mod tests {
    use super::*;
    use bench::{Draft, Signer};

    fn held(events: &[&Event]) -> Vec<EventId> {
        let arrivals = events.iter().map(|event| ((*event).clone(), Role::Fresh));
        Model::of(arrivals, 2_000_000_000).stored().iter().map(|event| event.view().id()).collect()
    }

    #[test]
    fn the_model_replaces_deletes_and_forgets() {
        let signer = Signer::from_seed(1);
        let at = |kind, at| signer.sign(&Draft::new(kind, at));
        let (old, new) = (at(0, 10), at(0, 20));
        assert_eq!(held(&[&old, &new]), [new.view().id()]);
        assert_eq!(held(&[&new, &old]), [new.view().id()]);
        let note = at(1, 5);
        let deletion = signer.sign(&Draft::new(5, 30).tag(&["e", &note.view().id().to_hex()]));
        assert_eq!(held(&[&note, &deletion]), [deletion.view().id()]);
        assert_eq!(held(&[&deletion, &note]), [deletion.view().id()]);
        assert!(held(&[&at(20_001, 5)]).is_empty());
        let expired = signer.sign(&Draft::new(1, 5).tag(&["expiration", "1000"]));
        assert!(held(&[&expired]).is_empty());
    }
}
