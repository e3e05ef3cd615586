//! One shard over a log and an index that fail when the input says so, with crashes in between: every
//! submission is answered once or the process ends; whatever was answered with OK, or shown to a
//! reader, is there after power came back, unless something that was submitted too ended it; what was
//! only ever refused is never shown.

use crate::bytes::Bytes;
use crate::events::ruled;
use crate::store_world::{self, World, config, naive::covers};
use proto::nip::nip01::Slot;
use proto::nip::{nip09, nip59, nip62};
use proto::verify::{Verifier, VerifyItem};
use proto::{Event, EventId, Filter, Now, Reason, Secret, SeededState};
use shards::message::{
    Client, Origin, Query, QueryId, QueryMode, Reader, Role, Ticket, ToHome, ToShard,
};
use shards::shard::{Shard, ShardConfig, ShardEffects, ShardInput};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use store::fault::{FaultPlan, FaultSegments};
use store::mem::{MemIndex, MemSegments};
use store::seam::perform;
use store::{OpenError, StoreConfig, StoreEffect, StoreInput, Unwritten, WorldError};

type Disk = FaultSegments<MemSegments>;

/// Signatures are valid that begin with an even byte.
struct Parity;

impl Verifier for Parity {
    fn verify(&mut self, item: &VerifyItem) -> bool {
        item.sig.0[0] % 2 == 0
    }
}

struct Life {
    shard: Shard,
    effects: VecDeque<StoreEffect>,
    /// Submissions without an answer, by ticket.
    asked: BTreeMap<u32, EventId>,
    queries: BTreeSet<u32>,
}

#[derive(Default)]
struct Seen {
    submitted: Vec<Event>,
    /// Answered with OK true, or shown to a reader.
    promised: BTreeSet<EventId>,
    /// Submitted with another outcome than a refusal, or with none that anybody knows.
    may_be_stored: BTreeSet<EventId>,
}

struct Run {
    config: StoreConfig,
    index: MemIndex,
    disk: Disk,
    now: Now,
    number: u32,
    seen: Seen,
}

fn store_config(bytes: &mut Bytes<'_>) -> StoreConfig {
    StoreConfig {
        checkpoint_events: 2 + bytes.below(10),
        hot_bytes_max: bytes.below(3) * 500,
        segment_bytes_max: 2_500,
        delta_bytes_max: 1 << 20,
        erase_after_s: 0,
        ..config()
    }
}

fn plan(bytes: &mut Bytes<'_>) -> FaultPlan {
    let at = match bytes.byte() {
        0..128 => None,
        at => Some(1 + u64::from(at % 24)),
    };
    let stops = bytes.one_in(2);
    FaultPlan {
        seed: u64::from(bytes.byte()),
        fail_at: at.filter(|_| !stops),
        stop_at: at.filter(|_| stops),
        survive_of_256: [0, 128, 256][bytes.below(3)],
        skip_sync: false,
    }
}

impl Run {
    /// A start; `None` where the fault struck recovery itself.
    fn open(&self) -> Option<Life> {
        let mut effects = Vec::new();
        let opened =
            store::open(self.config.clone(), &self.index, &self.disk, self.now, &mut effects);
        let store = match opened {
            Ok(store) => store,
            Err(OpenError::World(_)) => return None,
            Err(OpenError::Recovery(error)) => panic!("a disk that keeps its word: {error}"),
        };
        let config = ShardConfig {
            cores: 1,
            secret: store_world::SECRET,
            seed: SeededState::new(Secret([9; 16])),
            verify_slice: 2,
            // There is nobody else who could check anything.
            ticket_backlog: usize::MAX,
            ticket_credit: 0,
            recent_ids_max: 8,
            ring_bytes_max: 4_000,
            live_credit: 8,
            door_in_flight_max: 4,
        };
        Some(Life {
            shard: Shard::new(config, store, Box::new(Parity)),
            effects: effects.into(),
            asked: BTreeMap::new(),
            queries: BTreeSet::new(),
        })
    }

    /// One step of the shard; `false` when the process has to end.
    fn step(&mut self, life: &mut Life, input: ShardInput) -> bool {
        let mut fx = ShardEffects::default();
        life.shard.step(self.now, input, &mut fx);
        life.effects.extend(fx.store);
        for (_, message) in fx.to_home {
            self.hear(life, message);
        }
        fx.fatal.is_none()
    }

    fn hear(&mut self, life: &mut Life, message: ToHome) {
        match message {
            ToHome::Outcome { ticket, id, result, .. } => {
                assert_eq!(life.asked.remove(&ticket.bytes), Some(id), "answered twice");
                self.seen.conclude(id, result, life.asked.values().any(|asked| *asked == id));
            }
            ToHome::Page { query, page } => {
                assert!(life.queries.remove(&query.slot), "answered twice");
                for row in page.rows {
                    self.seen.show(&row.event);
                }
            }
            ToHome::QueryFailed { query, .. } => {
                assert!(life.queries.remove(&query.slot), "answered twice");
            }
            ToHome::Live { events, .. } => events.iter().for_each(|event| self.seen.show(event)),
            ToHome::Installed { .. } | ToHome::Vanished { .. } | ToHome::FellBehind { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn submit(&mut self, life: &mut Life, event: Event) -> bool {
        self.number += 1;
        let ticket = Ticket {
            client: Client { slot: 0, generation: 0 },
            bytes: self.number,
            vanish: None,
        };
        life.asked.insert(self.number, event.view().id());
        self.seen.may_be_stored.insert(event.view().id());
        self.seen.submitted.push(event.clone());
        let (origin, role) = (Origin::Client, Role::Owner);
        let message = ToShard::Submit { ticket, event, origin, role, source: None };
        self.step(life, ShardInput::From(0, message))
    }

    fn query(&mut self, life: &mut Life, rows: u32, live: bool) -> bool {
        self.number += 1;
        life.queries.insert(self.number);
        let query = Query {
            id: QueryId { slot: self.number, generation: 0 },
            filters: Arc::from([Filter::default()]),
            limits: Arc::from([500]),
            reader: Reader::Operator,
            mode: QueryMode::Rows { first_page_rows: rows },
            live,
            deadline_ms: self.now.monotonic_ms + 5_000,
        };
        self.step(life, ShardInput::From(0, ToShard::Query(Box::new(query))))
    }

    /// Performs an effect, or fails it as the input says.
    fn perform(&mut self, life: &mut Life, at: usize, failure: u8) -> bool {
        // Log effects keep their order; anything else may overtake.
        let is_log = |effect: &StoreEffect| matches!(effect, StoreEffect::Log(_));
        let first_log = life.effects.iter().position(is_log);
        let at = match (life.effects.get(at), first_log) {
            (Some(StoreEffect::Log(_)), Some(first)) => first,
            (None, _) => return true,
            _ => at,
        };
        let Some(effect) = life.effects.remove(at) else { return true };
        let broken = || WorldError::Index("input/output error".to_owned());
        let input = match (effect, failure) {
            (StoreEffect::Checkpoint(_), 1) => StoreInput::Failed(broken()),
            (StoreEffect::Checkpoint(checkpoint), 2) => {
                // It took place, and the process does not get to know.
                let effect = StoreEffect::Checkpoint(checkpoint);
                perform(&self.index, &self.disk, effect);
                StoreInput::Failed(broken())
            }
            (StoreEffect::Checkpoint(_), 3) => StoreInput::NoSpace(Unwritten::Checkpoint),
            (StoreEffect::Log(effect), 3) => StoreInput::NoSpace(Unwritten::Log(effect)),
            (StoreEffect::Scan { token, request }, 1 | 2) => {
                StoreInput::Scanned { token, request, page: Err(broken()) }
            }
            (StoreEffect::Lookup { token, keys }, 1 | 2) => {
                StoreInput::Looked { token, keys, found: Err(broken()) }
            }
            (StoreEffect::Fetch { token, .. }, 1 | 2) => {
                StoreInput::Fetched { token, bodies: Err(broken()) }
            }
            (effect, _) => perform(&self.index, &self.disk, effect),
        };
        self.step(life, ShardInput::Store(input))
    }

    /// Power is cut and comes back.
    fn crash(&mut self, life: Life, next: FaultPlan) {
        // Nobody knows what became of what was not answered.
        self.seen.may_be_stored.extend(life.asked.into_values());
        self.disk.power_cut(next).expect("memory does not fail");
    }

    fn check(&self) {
        self.disk.power_cut(FaultPlan::default()).expect("memory does not fail");
        let mut world =
            World::open(self.config.clone(), self.index.clone(), self.disk.clone());
        let stored = world.query(&Filter::default(), 9);
        self.seen.check(&stored);
    }
}

impl Seen {
    fn conclude(&mut self, id: EventId, result: Result<(), Reason>, is_asked_again: bool) {
        match result {
            Ok(()) => {
                self.promised.insert(id);
            }
            Err(Reason::Duplicate) => {
                assert!(self.may_be_stored.contains(&id), "a duplicate of nothing");
                self.promised.insert(id);
            }
            // "We have a newer one" is accepted, too, and promises nothing about this one.
            Err(_) if self.promised.contains(&id) || is_asked_again => {}
            Err(_) => {
                let copies = self.submitted.iter().filter(|event| event.view().id() == id).count();
                if copies == 1 {
                    self.may_be_stored.remove(&id);
                }
            }
        }
    }

    fn show(&mut self, event: &Event) {
        let id = event.view().id();
        assert!(self.submitted.contains(event), "a reader is shown what nobody wrote");
        assert!(self.may_be_stored.contains(&id), "a reader is shown what was refused");
        assert!(event.view().sig().0[0] % 2 == 0, "a reader is shown what is not signed");
        self.promised.insert(id);
    }

    /// Whether something that was submitted may have ended `event`.
    fn may_have_ended(&self, event: &Event) -> bool {
        let view = event.view();
        self.submitted.iter().map(|other| (other, other.view())).any(|(by, other)| {
            let replaces = Slot::of(&view).is_some()
                && Slot::of(&view) == Slot::of(&other)
                && (other.created_at(), std::cmp::Reverse(other.id()))
                    > (view.created_at(), std::cmp::Reverse(view.id()));
            let deletes = other.kind() == nip09::KIND && covers(by, event);
            let vanishes = other.kind() == nip62::KIND
                && (other.pubkey() == view.pubkey() && view.created_at() <= other.created_at()
                    || nip59::is_wrap(view.kind())
                        && nip59::recipient(&view) == Some(other.pubkey()));
            other.id() != view.id() && (replaces || deletes || vanishes)
        })
    }

    fn check(&self, stored: &[Event]) {
        for event in stored {
            assert!(self.submitted.contains(event), "nobody wrote {event:?}");
            assert!(self.may_be_stored.contains(&event.view().id()), "refused, stored: {event:?}");
            assert!(event.view().sig().0[0] % 2 == 0, "not signed: {event:?}");
        }
        for event in &self.submitted {
            let id = event.view().id();
            let is_there = stored.iter().any(|have| have.view().id() == id);
            assert!(
                is_there || !self.promised.contains(&id) || self.may_have_ended(event),
                "lost: {event:?}"
            );
        }
    }
}

/// The event with a signature that is valid or not.
fn signed(event: &Event, first: u8) -> Event {
    let mut parts = event.view().parts();
    parts.sig.0[0] = first;
    parts.pack()
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let config = store_config(&mut bytes);
    let disk = FaultSegments::new(MemSegments::default(), plan(&mut bytes));
    let index = MemIndex::new(store_world::SECRET);
    let now = Now { monotonic_ms: 1_000, unix_s: 1_700_000_000 };
    let mut run = Run { config, index, disk, now, number: 0, seen: Seen::default() };
    let mut life = run.open();
    while !bytes.is_over() && run.number < 150 {
        let Some(mut now_living) = life.take() else {
            run.disk.power_cut(plan(&mut bytes)).expect("memory does not fail");
            life = run.open();
            continue;
        };
        let choice = bytes.byte();
        let lives = match choice % 12 {
            0..=3 => {
                let event = if !run.seen.submitted.is_empty() && bytes.one_in(6) {
                    bytes.pick(&run.seen.submitted).clone()
                } else {
                    let number = u64::from(run.number);
                    let event = ruled(&mut bytes, number, &run.seen.submitted, true);
                    signed(&event, u8::from(bytes.one_in(12)))
                };
                run.submit(&mut now_living, event)
            }
            4 | 5 => run.step(&mut now_living, ShardInput::Turn),
            6..=8 => {
                let at = bytes.below(now_living.effects.len());
                let failure = if choice >= 230 { bytes.byte() % 4 } else { 0 };
                run.perform(&mut now_living, at, failure)
            }
            9 => run.query(&mut now_living, 1 + u32::from(choice % 5) * 9, choice & 16 == 0),
            10 => {
                run.now.monotonic_ms += 100 * u64::from(bytes.byte());
                run.step(&mut now_living, ShardInput::Tick)
            }
            _ if choice >= 200 => false,
            _ => {
                let mut lives = true;
                for _ in 0..100 {
                    lives = lives && run.step(&mut now_living, ShardInput::Turn);
                    while lives && !now_living.effects.is_empty() {
                        lives = run.perform(&mut now_living, 0, 0);
                    }
                    // What found no room is tried again by and by.
                    run.now.monotonic_ms += 1_000;
                    lives = lives && run.step(&mut now_living, ShardInput::Tick);
                    if !lives || now_living.asked.is_empty() && !now_living.shard.has_work() {
                        break;
                    }
                }
                if lives {
                    assert!(now_living.asked.is_empty(), "unanswered: {:?}", now_living.asked);
                }
                lives
            }
        };
        if lives {
            life = Some(now_living);
        } else {
            let next = plan(&mut bytes);
            run.crash(now_living, next);
            life = run.open();
        }
    }
    if let Some(life) = life {
        run.crash(life, FaultPlan::default());
    }
    run.check();
}
