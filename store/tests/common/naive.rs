//! The rules read off the NIPs over plain lists, and the way of an event through the store as
//! ingest goes it, so that the two can be compared.

use super::{SECRET, World, position};
use proto::nip::nip01::Slot;
use proto::nip::nip09::{self, Target};
use proto::nip::{nip59, nip62};
use proto::{Event, EventId, PublicKey, Reason};
use std::collections::BTreeMap;
use store::replace::{Accepted, Arrival, Verdict, decide};
use store::{Index, Segments};

/// Hands an event to a store, as ingest does.
pub fn submit<I: Index, S: Segments>(world: &mut World<I, S>, event: &Event) -> Result<(), Reason> {
    let arrival = Arrival::of(&event.view(), &SECRET)?;
    let accepted = decide_as(world, &arrival)?;
    world.put(event);
    apply(world, accepted, event.view().pubkey());
    Ok(())
}

/// The verdict on an arrival, with the index's answers and bodies.
pub fn decide_as<I: Index, S: Segments>(
    world: &mut World<I, S>,
    arrival: &Arrival,
) -> Result<Accepted, Reason> {
    let answers = world.answers(arrival.keys());
    let mut bodies = Vec::new();
    loop {
        match decide(arrival, &world.store.view(&answers), &bodies) {
            Verdict::Refuse(reason) => return Err(reason),
            Verdict::Accept(accepted) => return Ok(accepted),
            Verdict::NeedBodies(needed) => {
                assert!(bodies.is_empty(), "bodies are asked for once");
                for (id, loc) in needed {
                    bodies.push((id, store::Bodies::body(&world.segments, &loc).unwrap()));
                }
            }
        }
    }
}

/// Appends the consequences of an accepted event.
pub fn apply<I: Index, S: Segments>(world: &mut World<I, S>, accepted: Accepted, by: PublicKey) {
    for (victim, why) in accepted.kills {
        world.store.kill(victim, why);
    }
    for id in accepted.mark_ids {
        world.store.mark_id(id, by);
    }
    for (slot, until) in accepted.mark_slots {
        world.store.mark_slot(slot, until);
    }
    if let Some((key, until)) = accepted.vanish {
        world.store.vanish(key, until);
    }
}

/// A relay of plain lists.
#[derive(Clone, Default)]
pub struct Naive {
    pub stored: Vec<Event>,
    pub deletions: Vec<Event>,
    pub vanished: BTreeMap<PublicKey, u32>,
    /// Gift wraps that went with their recipients.
    gone: Vec<EventId>,
}

pub fn covers(deletion: &Event, event: &Event) -> bool {
    let (deletion, event) = (deletion.view(), event.view());
    let targets = nip09::targets(&deletion).unwrap();
    targets.iter().any(|target| match target {
        Target::Id(id) => *id == event.id() && nip09::may_delete(&deletion.pubkey(), &event),
        Target::Slot(slot) => {
            Slot::of(&event).as_ref() == Some(slot) && event.created_at() <= deletion.created_at()
        }
    })
}

impl Naive {
    pub fn submit(&mut self, event: &Event) -> Result<(), Reason> {
        let (key, created_at) = (event.view().pubkey(), event.view().created_at());
        let vanished = self.vanished.get(&key).is_some_and(|until| created_at <= *until);
        let is_stored = self.stored.contains(event);
        if event.view().kind() == nip62::KIND {
            if is_stored {
                return Err(Reason::Duplicate);
            }
            if vanished {
                return Err(Reason::DuplicateNewer);
            }
            self.vanish(key, created_at);
            self.stored.push(event.clone());
            return Ok(());
        }
        if vanished {
            return Err(Reason::Vanished);
        }
        if is_stored {
            return Err(Reason::Duplicate);
        }
        let is_gone = self.gone.contains(&event.view().id());
        if is_gone || self.deletions.iter().any(|deletion| covers(deletion, event)) {
            return Err(Reason::Deleted);
        }
        if let Some(slot) = Slot::of(&event.view()) {
            let held = |have: &Event| Slot::of(&have.view()) == Some(slot.clone());
            if let Some(at) = self.stored.iter().position(held) {
                let (new, old) = (event.view(), self.stored[at].view());
                let is_newer = new.created_at() > old.created_at()
                    || (new.created_at() == old.created_at() && new.id() < old.id());
                if !is_newer {
                    return Err(Reason::DuplicateNewer);
                }
                self.stored.remove(at);
            }
        }
        if event.view().kind() == nip09::KIND {
            self.stored.retain(|have| !covers(event, have));
            self.deletions.push(event.clone());
        }
        self.stored.push(event.clone());
        Ok(())
    }

    fn vanish(&mut self, key: PublicKey, until: u32) {
        self.vanished.insert(key, until);
        let is_to_key = |event: &Event| {
            let event = event.view();
            nip59::is_wrap(event.kind()) && nip59::recipient(&event) == Some(key)
        };
        let gone = self.stored.iter().filter(|event| is_to_key(event));
        self.gone.extend(gone.map(|event| event.view().id()));
        self.stored.retain(|event| {
            let is_made = event.view().pubkey() == key && event.view().created_at() <= until;
            !is_made && !is_to_key(event)
        });
    }

    pub fn sorted(&self) -> Vec<Event> {
        let mut stored = self.stored.clone();
        stored.sort_by_key(position);
        stored
    }
}
