//! What must be stored after a number of entries: a relay of plain maps, written from the NIPs and from
//! nothing of the store.

use crate::plan::Plan;
use proto::nip::nip01::{KindClass, Slot, class};
use proto::nip::nip09::{self, Target};
use proto::nip::{nip40, nip59, nip62};
use proto::{Event, EventId, Placement, PublicKey};
use std::collections::{BTreeMap, BTreeSet};

/// A relay of plain maps. Events are named by their index in the plan.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    live: BTreeMap<EventId, usize>,
    slots: BTreeMap<Slot, usize>,
    deleted_ids: BTreeSet<(EventId, PublicKey)>,
    deleted_slots: BTreeMap<Slot, u32>,
    vanished: BTreeMap<PublicKey, u32>,
    /// Gift wraps that went with their recipients.
    gone: BTreeSet<EventId>,
}

impl Oracle {
    /// Hands in event `at` of the plan; whether it is stored.
    pub fn submit(&mut self, events: &[Event], at: usize) -> bool {
        let event = events[at].view();
        let (id, author, created_at) = (event.id(), event.pubkey(), event.created_at());
        let is_vanished = self.vanished.get(&author).is_some_and(|until| created_at <= *until);
        if is_vanished || self.live.contains_key(&id) || self.gone.contains(&id) {
            return false;
        }
        if event.kind() == nip62::KIND {
            self.vanish(events, author, created_at);
            self.live.insert(id, at);
            return true;
        }
        if event.kind() != nip09::KIND && self.is_deleted(&events[at]) {
            return false;
        }
        if class(event.kind()) != KindClass::Regular
            && let Some(slot) = Slot::of(&event)
        {
            if self.deleted_slots.get(&slot).is_some_and(|until| created_at <= *until) {
                return false;
            }
            if let Some(holder) = self.slots.get(&slot).map(|holder| events[*holder].view()) {
                let is_newer = created_at > holder.created_at()
                    || (created_at == holder.created_at() && id < holder.id());
                if !is_newer {
                    return false;
                }
                self.live.remove(&holder.id());
            }
            self.slots.insert(slot, at);
        }
        self.live.insert(id, at);
        if event.kind() == nip09::KIND {
            self.delete(events, at);
        }
        true
    }

    fn is_deleted(&self, event: &Event) -> bool {
        let event = event.view();
        let by = |key: PublicKey| self.deleted_ids.contains(&(event.id(), key));
        let recipient = nip59::recipient(&event).filter(|_| nip59::is_wrap(event.kind()));
        by(event.pubkey()) || recipient.is_some_and(by)
    }

    fn delete(&mut self, events: &[Event], at: usize) {
        let request = events[at].view();
        for target in nip09::targets(&request).unwrap_or_default() {
            match target {
                Target::Id(id) => {
                    let victim = self.live.get(&id).copied();
                    let may = victim.is_none_or(|victim| {
                        nip09::may_delete(&request.pubkey(), &events[victim].view())
                    });
                    if may {
                        self.deleted_ids.insert((id, request.pubkey()));
                        victim.into_iter().for_each(|victim| self.remove(events, victim));
                    }
                }
                Target::Slot(slot) => {
                    let until = self.deleted_slots.entry(slot.clone()).or_default();
                    *until = request.created_at().max(*until);
                    let holder = self.slots.get(&slot).copied();
                    if let Some(holder) = holder
                        && events[holder].view().created_at() <= request.created_at()
                    {
                        self.remove(events, holder);
                    }
                }
            }
        }
    }

    fn remove(&mut self, events: &[Event], at: usize) {
        let event = events[at].view();
        self.live.remove(&event.id());
        if let Some(slot) = Slot::of(&event)
            && self.slots.get(&slot) == Some(&at)
        {
            self.slots.remove(&slot);
        }
    }

    fn vanish(&mut self, events: &[Event], key: PublicKey, until: u32) {
        self.vanished.insert(key, until);
        let live: Vec<usize> = self.live.values().copied().collect();
        for at in live {
            let event = events[at].view();
            let is_to_key = nip59::is_wrap(event.kind()) && nip59::recipient(&event) == Some(key);
            if is_to_key {
                self.gone.insert(event.id());
            }
            if is_to_key || (event.pubkey() == key && event.created_at() <= until) {
                self.remove(events, at);
            }
        }
    }

    /// Live events, expired ones too.
    pub fn live(&self) -> Vec<usize> {
        self.live.values().copied().collect()
    }
}

/// What must be stored after each number of entries.
#[derive(Debug)]
pub struct States {
    /// By number of entries: live events, newest first, then by lowest id, as they are served.
    live: Vec<Vec<usize>>,
    /// By number of entries, for the questions that need a whole relay.
    oracles: Vec<Oracle>,
    /// By entry: whether it is stored.
    verdicts: Vec<bool>,
    /// When each event expires; 0 for never.
    expires_s: Vec<u64>,
}

impl States {
    /// Runs the oracle over a whole plan.
    pub fn of(plan: &Plan) -> Self {
        let mut oracle = Oracle::default();
        let expires_s = |event: &Event| nip40::expires_at(&event.view()).ok().flatten();
        let mut states = Self {
            live: vec![Vec::new()],
            oracles: vec![oracle.clone()],
            verdicts: Vec::new(),
            expires_s: plan.events.iter().map(|event| expires_s(event).unwrap_or(0)).collect(),
        };
        for at in &plan.entries {
            states.verdicts.push(oracle.submit(&plan.events, *at));
            let mut live = oracle.live();
            live.sort_by_key(|at| {
                let event = plan.events[*at].view();
                (std::cmp::Reverse(event.created_at()), event.id())
            });
            states.live.push(live);
            states.oracles.push(oracle.clone());
        }
        states
    }

    /// Whether each entry is stored.
    pub fn verdicts(&self) -> &[bool] {
        &self.verdicts
    }

    /// The relay after `entries` entries.
    pub fn oracle(&self, entries: usize) -> &Oracle {
        &self.oracles[entries]
    }

    /// Whether an event of the plan expires at some time.
    pub fn expires(&self, at: usize) -> bool {
        self.expires_s[at] != 0
    }

    /// What is served after `entries` entries, by all shards or one, in order.
    pub fn served<'a>(
        &'a self,
        plan: &'a Plan,
        entries: usize,
        unix_s: u64,
        shard: Option<(&'a Placement, u16)>,
    ) -> impl Iterator<Item = usize> + 'a {
        self.live[entries].iter().copied().filter(move |at| {
            let is_expired = self.expires_s[*at] != 0 && self.expires_s[*at] <= unix_s;
            let is_here = shard.is_none_or(|(placement, shard)| {
                placement.owner(&plan.events[*at].view()) == shard
            });
            !is_expired && is_here
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench::{Draft, Signer};

    fn submit(oracle: &mut Oracle, events: &[Event]) -> Vec<bool> {
        (0..events.len()).map(|at| oracle.submit(events, at)).collect()
    }

    #[test]
    fn slots_deletions_and_vanishing_follow_the_nips() {
        let (ann, bob) = (Signer::from_seed(1), Signer::from_seed(2));
        let ann_key = ann.pubkey().to_hex();
        let note = ann.sign(&Draft::new(1, 10).content("note"));
        let profile = ann.sign(&Draft::new(0, 10));
        let older = ann.sign(&Draft::new(0, 9));
        let deletion = ann.sign(&Draft::new(5, 11).tag(&["e", &note.view().id().to_hex()]));
        let foreign = bob.sign(&Draft::new(5, 11).tag(&["e", &profile.view().id().to_hex()]));
        let wrap = bob.sign(&Draft::new(1059, 5).tag(&["p", &ann_key]));
        let vanish = ann.sign(&Draft::new(62, 12).tag(&["relay", "ALL_RELAYS"]));
        let later = ann.sign(&Draft::new(1, 13));
        let events = [
            note.clone(),
            profile,
            older,
            deletion,
            note,
            foreign,
            wrap.clone(),
            vanish,
            wrap,
            later,
        ];
        let mut oracle = Oracle::default();
        let expected = [true, true, false, true, false, true, true, true, false, true];
        assert_eq!(submit(&mut oracle, &events), expected);
        let mut live = oracle.live();
        live.sort_unstable();
        assert_eq!(live, [5, 7, 9]);
    }
}
