//! Which stored events an arriving one ends, and when it is refused itself: replaceable slots
//! (NIP-01), deletion requests (NIP-09), gift wraps by recipient (NIP-59), requests to vanish
//! (NIP-62; whoever admits one has checked that it names this relay), bans. Pure rules over what a
//! [`View`] knows.
//!
//! # Order of arrival
//!
//! Three things hold at every step, whatever the order:
//!
//! 1. Nothing is stored that an accepted deletion by `e` (of the same author, or of a wrap's
//!    recipient), an `a` watermark or a request to vanish covers. (What such a request covers is
//!    removed a little later, and until then hidden; see [`crate::vanish`].)
//! 2. A slot has one event at most, and a candidate that lost to the one then stored, or that is
//!    covered by (1), is never stored.
//! 3. What is stored in the end does not depend on the order, for any set of events without
//!    deletions by `e`, without gift wraps to a key that asks to vanish, and without two requests
//!    to vanish of one key and second. (Expirations, which the store applies later, are the other
//!    exception.)
//!
//! A deletion by `e` removes a version and not the slot, so what else may hold the slot depends on
//! what was refused before. With A (older) and B (newer) in one slot, and D deleting one of them:
//!
//! | Order | stored in the end | why |
//! |---|---|---|
//! | A, B, D(B) | D | A was replaced by B before B was deleted |
//! | B, A, D(B) | D | A lost to B |
//! | B, D(B), A | D, A | the slot was empty when A came |
//! | A, D(B), B and D(B), A, B and D(B), B, A | D, A | B was refused |
//! | any order with D(A) | D, B | B never loses to A |
//! | holder A expires, then B (older) | B | the slot was empty when B came |
//!
//! A request to vanish covers what its author made up to its time, whatever the order: deletion
//! requests too, and older requests to vanish. It differs by order in what it does to the work of
//! others and to marks. With V a request to vanish, W a gift wrap to its author, X an event that
//! its author made after it, and D(X) a deletion by `e` that its author made before it:
//!
//! | Order | stored in the end | why |
//! |---|---|---|
//! | W, V and W, V, W | V | W was here before V; V marked its id |
//! | V, W | V, W | gift wraps are dated back up to two days, so their times say nothing |
//! | D(X), V, X | V | D(X) went, its mark stays |
//! | V, D(X), X | V, X | D(X) was refused |
//! | V, V' of the same second, and V', V | the first | the second says nothing new |
//!
//! Deletion requests and requests to vanish are never deleted (NIP-09, NIP-62). What the operator
//! banned is refused, whatever it is.

use crate::effect::{Loc, LookupKey, Seq};
use crate::record::KillCause;
use crate::view::{Holder, Known, View};
use proto::nip::nip01::{Slot, SlotKey, Version};
use proto::nip::nip09::{self, Target, VANISH_KIND};
use proto::nip::nip59;
use proto::{Event, EventId, EventRef, PublicKey, Reason, Secret};

/// What the rules ask about stored events.
pub trait Witness {
    /// The stored event with this id.
    fn id(&self, id: &EventId) -> Option<Known>;
    /// The holder of a slot.
    fn holder(&self, slot: SlotKey) -> Option<Holder>;
    /// Whether `by` deleted this id.
    fn deleted_id(&self, id: &EventId, by: &PublicKey) -> bool;
    /// Up to when a slot is deleted, inclusive.
    fn deleted_until(&self, slot: SlotKey) -> Option<u32>;
    /// Up to when a key asked to vanish, inclusive.
    fn vanished_until(&self, key: &PublicKey) -> Option<u32>;
    /// Gift wraps to this key that were stored before this sequence are being removed.
    fn wraps_vanish_before(&self, key: &PublicKey) -> Option<Seq>;
    /// Whether another request of this key to vanish can be carried out now.
    fn may_vanish(&self, key: &PublicKey) -> bool;
}

impl Witness for View<'_> {
    fn id(&self, id: &EventId) -> Option<Known> {
        View::id(self, id)
    }

    fn holder(&self, slot: SlotKey) -> Option<Holder> {
        View::holder(self, slot)
    }

    fn deleted_id(&self, id: &EventId, by: &PublicKey) -> bool {
        View::deleted_id(self, id, by)
    }

    fn deleted_until(&self, slot: SlotKey) -> Option<u32> {
        View::deleted_until(self, slot)
    }

    fn vanished_until(&self, key: &PublicKey) -> Option<u32> {
        View::vanished_until(self, key)
    }

    fn wraps_vanish_before(&self, key: &PublicKey) -> Option<Seq> {
        View::wraps_vanish_before(self, key)
    }

    fn may_vanish(&self, key: &PublicKey) -> bool {
        View::may_vanish(self, key)
    }
}

/// By whom the operator's bans are marked: no key, because no point of the curve has x = 0.
pub const OPERATOR: PublicKey = PublicKey([0; 32]);

/// An arriving event with what the rules need of it, computed once.
#[derive(Clone, Debug)]
pub struct Arrival {
    version: Version,
    /// Keys whose deletion of this id counts: the author, and a wrap's recipient.
    deleters: Vec<PublicKey>,
    pubkey: PublicKey,
    /// Whether deletions do not touch it.
    is_exempt: bool,
    is_vanish: bool,
    /// Whether only its effects are wanted: another shard stores it.
    is_elsewhere: bool,
    slot: Option<SlotKey>,
    targets: Vec<(Target, Option<SlotKey>)>,
}

impl Arrival {
    /// Reads an event.
    ///
    /// # Errors
    /// The [`Reason`] of [`nip09::targets`] for a deletion request without targets or with too
    /// many.
    pub fn of(event: &EventRef<'_>, secret: &Secret) -> Result<Self, Reason> {
        let targets = if event.kind() == nip09::KIND { nip09::targets(event)? } else { Vec::new() };
        let with_key = |target: Target| {
            let key = match &target {
                Target::Slot(slot) => Some(slot.key(secret)),
                Target::Id(_) => None,
            };
            (target, key)
        };
        let mut deleters = vec![event.pubkey()];
        if nip59::is_wrap(event.kind()) {
            deleters.extend(nip59::recipient(event).filter(|key| *key != event.pubkey()));
        }
        Ok(Self {
            version: Version { created_at: event.created_at(), id: event.id() },
            deleters,
            pubkey: event.pubkey(),
            is_exempt: matches!(event.kind(), nip09::KIND | VANISH_KIND),
            is_vanish: event.kind() == VANISH_KIND,
            is_elsewhere: false,
            slot: Slot::of(event).map(|slot| slot.key(secret)),
            targets: targets.into_iter().map(with_key).collect(),
        })
    }

    /// Reads a request to vanish that another shard stores: here it has only its effects.
    pub fn vanish_elsewhere(event: &EventRef<'_>) -> Self {
        Self {
            version: Version { created_at: event.created_at(), id: event.id() },
            deleters: Vec::new(),
            pubkey: event.pubkey(),
            is_exempt: true,
            is_vanish: true,
            is_elsewhere: true,
            slot: None,
            targets: Vec::new(),
        }
    }

    /// Everything that [`decide`] will ask about; pass it through [`crate::Store::unanswered`].
    pub fn keys(&self) -> Vec<LookupKey> {
        let banned = LookupKey::DeletedId(self.version.id, OPERATOR);
        // Most events have four or six keys, and each of their targets has two.
        let mut keys = Vec::with_capacity(6 + 2 * self.targets.len());
        keys.extend([banned, LookupKey::Vanished(self.pubkey)]);
        if !self.is_elsewhere {
            keys.push(LookupKey::Id(self.version.id));
        }
        if !self.is_exempt {
            let marks = self.deleters.iter().map(|by| LookupKey::DeletedId(self.version.id, *by));
            keys.extend(marks);
        }
        if let Some(slot) = self.slot {
            keys.extend([LookupKey::Slot(slot), LookupKey::DeletedSlot(slot)]);
        }
        for target in &self.targets {
            match target {
                (Target::Id(id), _) => {
                    keys.extend([LookupKey::Id(*id), LookupKey::DeletedId(*id, self.pubkey)]);
                }
                (Target::Slot(_), Some(slot)) => {
                    keys.extend([LookupKey::Slot(*slot), LookupKey::DeletedSlot(*slot)]);
                }
                (Target::Slot(_), None) => {}
            }
        }
        keys
    }
}

/// What accepting an event does besides storing it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Stored events that end.
    pub kills: Vec<(Seq, KillCause)>,
    /// Ids to mark as deleted by the event's author.
    pub mark_ids: Vec<EventId>,
    /// Slots to mark as deleted up to the event's time.
    pub mark_slots: Vec<(Slot, u32)>,
    /// A key that vanishes, and up to when; see [`crate::Store::vanish`].
    pub vanish: Option<(PublicKey, u32)>,
}

/// What to do with an arriving event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Store it, with these consequences.
    Accept(Accepted),
    /// Refuse it: [`Reason::Duplicate`], [`Reason::DuplicateNewer`], [`Reason::Deleted`],
    /// [`Reason::Vanished`], [`Reason::VanishBusy`] or [`Reason::Banned`].
    Refuse(Reason),
    /// A deletion names stored events whose author must be read first: fetch these bodies and
    /// decide again with them.
    NeedBodies(Vec<(EventId, Loc)>),
}

/// The cheap part of the decision, to be made before a signature is checked: whether the event is
/// refused whatever it names.
pub fn refusal(arrival: &Arrival, view: &impl Witness) -> Option<Reason> {
    if view.deleted_id(&arrival.version.id, &OPERATOR) {
        return Some(Reason::Banned);
    }
    if arrival.is_vanish {
        return refusal_to_vanish(arrival, view);
    }
    let vanished_until = view.vanished_until(&arrival.pubkey);
    if vanished_until.is_some_and(|until| arrival.version.created_at <= until) {
        return Some(Reason::Vanished);
    }
    if let Some(known) = view.id(&arrival.version.id) {
        let vanishes =
            |to: &PublicKey| view.wraps_vanish_before(to).is_some_and(|before| known.seq < before);
        let is_vanishing = arrival.recipient().is_some_and(vanishes);
        return Some(if is_vanishing { Reason::Deleted } else { Reason::Duplicate });
    }
    let is_deleted = |by: &PublicKey| view.deleted_id(&arrival.version.id, by);
    if !arrival.is_exempt && arrival.deleters.iter().any(is_deleted) {
        return Some(Reason::Deleted);
    }
    let slot = arrival.slot?;
    if view.deleted_until(slot).is_some_and(|until| arrival.version.created_at <= until) {
        return Some(Reason::Deleted);
    }
    let holder = view.holder(slot)?;
    (!arrival.version.beats(&holder.version)).then_some(Reason::DuplicateNewer)
}

/// A request to vanish that changes nothing is refused; an older one than that which was followed
/// says nothing new.
fn refusal_to_vanish(arrival: &Arrival, view: &impl Witness) -> Option<Reason> {
    if let Some(until) = view.vanished_until(&arrival.pubkey)
        && arrival.version.created_at <= until
    {
        // An older request may still be here, on its way out like all that the newer one covers.
        let is_this = arrival.version.created_at == until && view.id(&arrival.version.id).is_some();
        let is_known = arrival.is_elsewhere || is_this;
        return Some(if is_known { Reason::Duplicate } else { Reason::DuplicateNewer });
    }
    (!view.may_vanish(&arrival.pubkey)).then_some(Reason::VanishBusy)
}

/// The decision. `bodies` are what an earlier [`Verdict::NeedBodies`] asked for; a body that is
/// damaged is given as `None`.
pub fn decide(
    arrival: &Arrival,
    view: &impl Witness,
    bodies: &[(EventId, Option<Event>)],
) -> Verdict {
    if let Some(reason) = refusal(arrival, view) {
        return Verdict::Refuse(reason);
    }
    let mut accepted = Accepted {
        vanish: arrival.is_vanish.then_some((arrival.pubkey, arrival.version.created_at)),
        ..Accepted::default()
    };
    if let Some(holder) = arrival.slot.and_then(|slot| view.holder(slot)) {
        accepted.kills.push((holder.seq, KillCause::Replaced));
    }
    let mut needed = Vec::new();
    for (target, slot) in &arrival.targets {
        match (target, slot) {
            (Target::Id(id), _) => match body_of(id, view, bodies) {
                Body::Unknown | Body::Damaged => accepted.mark(id, arrival, view),
                Body::Here(known, victim) => {
                    if nip09::may_delete(&arrival.pubkey, &victim.view()) {
                        accepted.mark(id, arrival, view);
                        accepted.kills.push((known.seq, KillCause::Deleted));
                    }
                }
                Body::Elsewhere(loc) => needed.push((*id, loc)),
            },
            (Target::Slot(target), Some(key)) => {
                accepted.end_slot(target, *key, arrival.version.created_at, view);
            }
            (Target::Slot(_), None) => {}
        }
    }
    if !needed.is_empty() {
        return Verdict::NeedBodies(needed);
    }
    accepted.settle();
    Verdict::Accept(accepted)
}

impl Arrival {
    /// The recipient of a wrap that somebody else made.
    fn recipient(&self) -> Option<&PublicKey> {
        self.deleters.get(1)
    }
}

enum Body {
    /// No such event is stored.
    Unknown,
    /// It is stored and read.
    Here(Known, Event),
    /// It is stored and must be read.
    Elsewhere(Loc),
    /// It is stored and cannot be read: whose it is cannot be known, so it stays; the mark, which
    /// binds its author's events only, keeps a copy from coming back.
    Damaged,
}

fn body_of(id: &EventId, view: &impl Witness, bodies: &[(EventId, Option<Event>)]) -> Body {
    let Some(known) = view.id(id) else { return Body::Unknown };
    if let Some(event) = known.event.clone() {
        return Body::Here(known, event);
    }
    match (bodies.iter().find(|(have, _)| have == id), known.loc) {
        (Some((_, Some(event))), _) => Body::Here(known, event.clone()),
        (Some((_, None)), _) | (None, None) => Body::Damaged,
        (None, Some(loc)) => Body::Elsewhere(loc),
    }
}

impl Accepted {
    fn mark(&mut self, id: &EventId, arrival: &Arrival, view: &impl Witness) {
        if !view.deleted_id(id, &arrival.pubkey) {
            self.mark_ids.push(*id);
        }
    }

    /// Ends every version of a slot up to `until`; there is one at most, its holder.
    fn end_slot(&mut self, slot: &Slot, key: SlotKey, until: u32, view: &impl Witness) {
        if view.deleted_until(key).is_none_or(|before| before < until) {
            self.mark_slots.push((slot.clone(), until));
        }
        if let Some(holder) = view.holder(key)
            && holder.version.created_at <= until
        {
            self.kills.push((holder.seq, KillCause::Deleted));
        }
    }

    /// A request may name the same event by `e` and by `a`, or twice.
    fn settle(&mut self) {
        self.kills.sort_unstable();
        self.kills.dedup_by_key(|(seq, _)| *seq);
        self.mark_ids.sort_unstable();
        self.mark_ids.dedup();
        self.mark_slots.sort_unstable();
        self.mark_slots.dedup();
    }
}
