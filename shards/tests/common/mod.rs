//! A world in memory: homes and shards on a few cores, mailboxes between them, an index and
//! segments per shard. A seeded scheduler picks what happens next, so every run of a seed is the
//! same and every order of messages that the mesh allows can come up.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

pub mod oracle;

use bench::rng::Rng;
use proto::hash::Placement;
use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
use proto::{Limits, Now, Reason, Secret, SeededState};
use shards::checker::Checker;
use shards::door::{Answer, Asks, Question, ReadQuestion, Verdict};
use shards::home::{Home, HomeConfig, HomeEffects, HomeInput, NegConfig, Reply};
use shards::message::{Client, Envelope, SUBMIT_CREDIT};
use shards::shard::{Shard, ShardConfig, ShardEffects, ShardInput};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use store::effect::StoreEffect;
use store::mem::{MemIndex, MemSegments};
use store::seam::perform;
use store::{Index, StoreConfig};

pub const UNIX_S: u64 = 1_750_000_000;

type Verdicts = BTreeMap<[u8; 64], (VerifyItem, bool)>;

/// Real verdicts, remembered across worlds: the same events are verified at 1, 2, 3 and 8 shards.
#[derive(Clone)]
pub struct Remembering {
    inner: Rc<RefCell<(Secp256k1Verifier, Verdicts)>>,
}

impl Remembering {
    pub fn new() -> Self {
        let verifier = Secp256k1Verifier::new(seed(), 10_000);
        Self { inner: Rc::new(RefCell::new((verifier, Verdicts::new()))) }
    }
}

impl Verifier for Remembering {
    fn verify(&mut self, item: &VerifyItem) -> bool {
        let (verifier, known) = &mut *self.inner.borrow_mut();
        if let Some((have, verdict)) = known.get(&item.sig.0)
            && have == item
        {
            return *verdict;
        }
        let verdict = verifier.verify(item);
        known.insert(item.sig.0, (*item, verdict));
        verdict
    }
}

pub fn seed() -> SeededState {
    SeededState::new(Secret([7; 16]))
}

pub struct Setup {
    pub shards: u16,
    pub cores: u16,
    pub seed: u64,
    pub checkpoint_events: usize,
    pub delta_bytes_max: usize,
    pub limits: Limits,
    pub filter_bytes_max: usize,
    pub neg: NegConfig,
    pub door: Asks,
    pub door_in_flight_max: usize,
    pub submit_credit: u32,
    pub verify_slice: usize,
    pub ticket_backlog: usize,
    pub public_url: Option<String>,
}

impl Setup {
    pub fn new(shards: u16, seed: u64) -> Self {
        let limits = Limits {
            created_at_past_s: u64::MAX,
            created_at_future_s: u64::MAX,
            ..Limits::default()
        };
        let delta_bytes_max = 64 << 20;
        let cores = shards.min(3);
        Self {
            shards,
            cores,
            seed,
            checkpoint_events: 300,
            delta_bytes_max,
            limits,
            filter_bytes_max: 64 << 20,
            neg: NegConfig::default(),
            door: Asks::NOTHING,
            door_in_flight_max: 1_024,
            submit_credit: SUBMIT_CREDIT,
            verify_slice: 16,
            ticket_backlog: 1,
            public_url: None,
        }
    }
}

fn home(setup: &Setup, core: u16) -> Home {
    Home::new(HomeConfig {
        core,
        placement: Placement::even(Secret([3; 16]), setup.shards),
        limits: setup.limits.clone(),
        subscriptions_max: 100,
        auth_required: false,
        public_url: setup.public_url.clone(),
        door: setup.door,
        submit_credit: setup.submit_credit,
        query_slots: shards::message::QUERY_SLOTS,
        page_bytes_max: 64 << 20,
        filter_bytes_max: setup.filter_bytes_max,
        neg: setup.neg.clone(),
        seed: seed(),
    })
}

pub struct World {
    pub now: Now,
    pub homes: Vec<Home>,
    pub shards: Vec<Shard>,
    /// By core.
    checkers: Vec<Checker>,
    /// Signatures that shards have had checked elsewhere.
    pub ticketed: usize,
    indexes: Vec<Box<dyn Index>>,
    segments: Vec<MemSegments>,
    cores: u16,
    /// By (from, to) core.
    mail: BTreeMap<(u16, u16), VecDeque<Envelope>>,
    work: Vec<VecDeque<StoreEffect>>,
    pub replies: Vec<(u16, Reply)>,
    /// Questions of shards and of homes that the policy door has not answered.
    pub questions: Vec<(u16, Question)>,
    pub read_questions: Vec<(u16, ReadQuestion)>,
    rng: Rng,
    pub delivered: u64,
}

impl World {
    pub fn new(setup: &Setup, verifier: &Remembering) -> Self {
        Self::with_indexes(setup, verifier, |_| Box::new(MemIndex::new(Secret([3; 16]))))
    }

    pub fn with_indexes(
        setup: &Setup,
        verifier: &Remembering,
        index: impl Fn(u16) -> Box<dyn Index>,
    ) -> Self {
        let now = Now { monotonic_ms: 1_000_000, unix_s: UNIX_S };
        let mut world = Self {
            now,
            homes: Vec::new(),
            shards: Vec::new(),
            checkers: Vec::new(),
            ticketed: 0,
            indexes: Vec::new(),
            segments: Vec::new(),
            cores: setup.cores,
            mail: BTreeMap::new(),
            work: Vec::new(),
            replies: Vec::new(),
            questions: Vec::new(),
            read_questions: Vec::new(),
            rng: Rng::new(setup.seed),
            delivered: 0,
        };
        for core in 0..setup.cores {
            world.homes.push(home(setup, core));
            world.checkers.push(Checker::new(Box::new(verifier.clone())));
        }
        for shard in 0..setup.shards {
            world.indexes.push(index(shard));
            world.segments.push(MemSegments::default());
            world.open_shard(setup, verifier, shard);
        }
        world
    }

    fn open_shard(&mut self, setup: &Setup, verifier: &Remembering, shard: u16) {
        let secret = Secret([3; 16]);
        let at = usize::from(shard);
        let mut config = StoreConfig::new(shard, secret, seed());
        config.checkpoint_events = setup.checkpoint_events;
        config.delta_bytes_max = setup.delta_bytes_max;
        config.hot_bytes_max = 64 * 1024;
        config.generation_events = 40;
        config.upkeep_rows_max = 60;
        let (index, segments) = (&*self.indexes[at], &self.segments[at]);
        let mut effects = Vec::new();
        let store = store::open(config, index, segments, self.now, &mut effects).unwrap();
        let config = ShardConfig {
            cores: usize::from(setup.cores),
            secret,
            seed: seed(),
            verify_slice: setup.verify_slice,
            ticket_backlog: setup.ticket_backlog,
            ticket_credit: 5,
            recent_ids_max: 1000,
            ring_bytes_max: shards::live::RING_BYTES_MAX,
            live_credit: shards::message::LIVE_CREDIT,
            door_in_flight_max: setup.door_in_flight_max,
        };
        self.shards.push(Shard::new(config, store, Box::new(verifier.clone())));
        self.work.push(effects.into());
    }

    /// The process is killed and started again: what was not performed, sent or answered is lost,
    /// what is in the segments and the index stays.
    pub fn restart(&mut self, setup: &Setup, verifier: &Remembering) {
        self.mail.clear();
        self.work.clear();
        self.shards.clear();
        self.replies.clear();
        self.questions.clear();
        self.read_questions.clear();
        self.homes = (0..setup.cores).map(|core| home(setup, core)).collect();
        let checker = |_| Checker::new(Box::new(verifier.clone()));
        self.checkers = (0..setup.cores).map(checker).collect();
        for shard in 0..setup.shards {
            self.open_shard(setup, verifier, shard);
        }
    }

    fn core_of(&self, shard: u16) -> u16 {
        shard % self.cores
    }

    pub fn home(&mut self, core: u16, input: HomeInput) {
        let mut fx = HomeEffects::default();
        self.homes[usize::from(core)].step(self.now, input, &mut fx);
        self.home_effects(core, fx);
    }

    fn home_effects(&mut self, core: u16, fx: HomeEffects) {
        for (to, message) in fx.to_shard {
            let envelope = Envelope::Shard { from: core, to, message };
            self.mail.entry((core, self.core_of(to))).or_default().push_back(envelope);
        }
        let questions = fx.door.into_iter().map(|question| (core, question));
        self.read_questions.extend(questions);
        self.replies.extend(fx.replies.into_iter().map(|reply| (core, reply)));
    }

    fn shard(&mut self, shard: u16, input: ShardInput) {
        let mut fx = ShardEffects::default();
        self.shards[usize::from(shard)].step(self.now, input, &mut fx);
        assert!(fx.fatal.is_none(), "{:?}", fx.fatal);
        for (core, message) in fx.to_home {
            let from = self.core_of(shard);
            let envelope = Envelope::Home { from: shard, message };
            self.mail.entry((from, core)).or_default().push_back(envelope);
        }
        for (core, ticket) in fx.tickets {
            self.ticketed += ticket.items.len();
            let from = self.core_of(shard);
            assert_ne!(from, core, "a ticket is for another core");
            let envelope = Envelope::Verify { from: shard, ticket };
            self.mail.entry((from, core)).or_default().push_back(envelope);
        }
        self.questions.extend(fx.door.into_iter().map(|question| (shard, question)));
        self.work[usize::from(shard)].extend(fx.store);
    }

    fn perform(&mut self, shard: u16) {
        let at = usize::from(shard);
        // Log effects keep their order; a read or a checkpoint may overtake.
        let queue = &mut self.work[at];
        let pick = self.rng.index(queue.len());
        let first_log = queue.iter().position(|effect| matches!(effect, StoreEffect::Log(_)));
        let pick = match (&queue[pick], first_log) {
            (StoreEffect::Log(_), Some(first)) => first,
            _ => pick,
        };
        let effect = queue.remove(pick).unwrap();
        let input = perform(&*self.indexes[at], &self.segments[at], effect);
        self.shard(shard, ShardInput::Store(input));
    }

    /// One random thing that can happen; `false` if nothing can.
    pub fn step(&mut self) -> bool {
        let mut choices: Vec<(u8, u16, u16)> = Vec::new();
        choices.extend(
            self.mail.iter().filter(|(_, queue)| !queue.is_empty()).map(|((a, b), _)| (0, *a, *b)),
        );
        for shard in 0..self.shards.len() as u16 {
            if !self.work[usize::from(shard)].is_empty() {
                choices.push((1, shard, 0));
            }
        }
        for core in 0..self.cores {
            if self.homes[usize::from(core)].has_work() {
                choices.push((3, core, 0));
            }
        }
        for shard in 0..self.shards.len() as u16 {
            if self.shards[usize::from(shard)].has_work() {
                choices.push((2, shard, 0));
            }
        }
        if choices.is_empty() {
            // A turn may still flush what a read appended, or send live events.
            for shard in 0..self.shards.len() as u16 {
                self.shard(shard, ShardInput::Turn);
            }
            let mailed = self.mail.values().any(|queue| !queue.is_empty());
            return mailed || self.work.iter().any(|queue| !queue.is_empty());
        }
        let (what, a, b) = choices[self.rng.index(choices.len())];
        match what {
            0 => {
                let envelope = self.mail.get_mut(&(a, b)).unwrap().pop_front().unwrap();
                self.deliver(b, envelope);
            }
            1 => self.perform(a),
            2 => {
                self.maybe_help(a);
                self.shard(a, ShardInput::Turn);
            }
            _ => self.home(a, HomeInput::Turn),
        }
        true
    }

    /// `core` has time for `room` signatures of a shard.
    pub fn help(&mut self, shard: u16, core: u16, room: usize) {
        self.shard(shard, ShardInput::Help { core, room });
    }

    /// Now and then another core has time for signatures of a shard.
    fn maybe_help(&mut self, shard: u16) {
        if self.cores == 1 || !self.shards[usize::from(shard)].wants_help() {
            return;
        }
        if self.rng.index(2) == 0 {
            let step = 1 + self.rng.index(usize::from(self.cores) - 1) as u16;
            let core = (self.core_of(shard) + step) % self.cores;
            let room = 1 + self.rng.index(8);
            self.shard(shard, ShardInput::Help { core, room });
        }
    }

    fn deliver(&mut self, core: u16, envelope: Envelope) {
        self.delivered += 1;
        match envelope {
            Envelope::Shard { from, to, message } => {
                assert_eq!(self.core_of(to), core);
                self.shard(to, ShardInput::From(from, message));
            }
            Envelope::Home { from, message } => self.home(core, HomeInput::From(from, message)),
            Envelope::Verify { from, ticket } => {
                let checker = &mut self.checkers[usize::from(core)];
                checker.take(from, ticket);
                let (to, message) = checker.check_next().unwrap();
                let envelope = Envelope::Shard { from: core, to, message };
                self.mail.entry((core, self.core_of(to))).or_default().push_back(envelope);
            }
        }
    }

    /// Runs until nothing can happen.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    pub fn tick(&mut self) {
        for shard in 0..self.shards.len() as u16 {
            self.shard(shard, ShardInput::Tick);
        }
    }

    pub fn client(core: u16) -> Client {
        Client { slot: u32::from(core), generation: 1 }
    }

    /// Delivers all mail in order, and what it causes, but nothing else.
    pub fn deliver_mail(&mut self) {
        while let Some((to, envelope)) = self.next_mail() {
            self.deliver(to, envelope);
        }
    }

    fn next_mail(&mut self) -> Option<(u16, Envelope)> {
        self.mail.iter_mut().find_map(|((_, to), queue)| Some((*to, queue.pop_front()?)))
    }

    /// The disk of a shard passes its high-water mark, or has room again.
    pub fn low_on_space(&mut self, shard: u16, is_low: bool) {
        self.shard(shard, ShardInput::LowOnSpace(is_low));
    }

    /// One turn of a shard and of nothing else.
    pub fn turn_shard(&mut self, shard: u16) {
        self.shard(shard, ShardInput::Turn);
    }

    /// Store effects of a shard that have not been performed.
    pub fn work(&self, shard: u16) -> impl Iterator<Item = &StoreEffect> {
        self.work[usize::from(shard)].iter()
    }

    /// Performs the store effects of a shard that are `wanted`, and those that follow from them.
    pub fn perform_all(&mut self, shard: u16, wanted: impl Fn(&StoreEffect) -> bool) {
        let at = usize::from(shard);
        while let Some(place) = self.work[at].iter().position(&wanted) {
            let effect = self.work[at].remove(place).unwrap();
            let input = perform(&*self.indexes[at], &self.segments[at], effect);
            self.shard(shard, ShardInput::Store(input));
        }
    }

    /// The policy door's answer to a question of a shard, which need not be an open one.
    pub fn answer(&mut self, shard: u16, token: u64, verdict: Verdict) {
        self.questions.retain(|(of, question)| (*of, question.token) != (shard, token));
        self.shard(shard, ShardInput::Door(Answer { token, verdict }));
    }

    /// The policy door's answer to a question of a home.
    pub fn answer_read(&mut self, core: u16, token: u64, verdict: Verdict) {
        self.read_questions.retain(|(of, question)| (*of, question.token) != (core, token));
        self.home(core, HomeInput::Door(Answer { token, verdict }));
    }

    /// Performs the oldest store effect of a shard.
    pub fn perform_one(&mut self, shard: u16) {
        let at = usize::from(shard);
        let effect = self.work[at].pop_front().unwrap();
        let input = perform(&*self.indexes[at], &self.segments[at], effect);
        self.shard(shard, ShardInput::Store(input));
    }

    /// Publishes from `core` and runs until the outcome is there.
    pub fn publish(&mut self, core: u16, event: proto::Event) -> Result<(), Reason> {
        let id = event.view().id();
        let client = Self::client(core);
        self.home(core, HomeInput::Message(client, proto::ClientMessage::Event(event)));
        loop {
            let found = self
                .replies
                .iter()
                .position(|(_, reply)| matches!(reply, Reply::Ok { id: have, .. } if *have == id));
            if let Some(at) = found {
                let (_, Reply::Ok { result, .. }) = self.replies.remove(at) else { unreachable!() };
                return result;
            }
            assert!(self.step(), "no outcome for {id}");
        }
    }
}
