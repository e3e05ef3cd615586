//! The world of one run: virtual time, what happens next, and the faults.
//!
//! Everything is an event in one queue, ordered by time and, within a microsecond, by chance. Time
//! jumps to the next event, so an hour costs nothing. A core takes a turn when something has come
//! for it, when another core has woken it, or when its own time-out has run down, exactly as the
//! engine's loop does; a core that nobody wakes sleeps on.

use crate::client::{Client, Deed, Nature};
use crate::disk::{Disk, Weather, is_read};
use crate::history::{History, Micros, Violation};
use crate::marks::Marks;
use crate::network::{Heard, LinkId, Network};
use crate::node::{Asked, Node};
use crate::plan::{Fault, Plan};
use crate::pool::{CHALLENGES, EPOCH_S, Pool, challenge_entropy};
use crate::wire;
use bench::rng::Rng;
use proto::Now;
use serve::{Core, Peer, Phase};
use std::cell::RefCell;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use store::{StoreEffect, StoreInput};

/// Events of one run, after which it is taken for one that never ends.
const EVENTS_MAX: u64 = 3_000_000;

/// Chance, and the marks of what came of it.
#[derive(Debug)]
pub struct Dice {
    /// What everything but the clients draws from.
    pub rng: Rng,
    /// What happened.
    pub marks: Marks,
    /// The run as a story, line by line, if anybody wants it.
    pub story: Option<Vec<String>>,
}

impl Dice {
    /// Adds a line to the story.
    pub fn tell(&mut self, now_us: Micros, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12} {}", now_us, line()));
        }
    }

    /// True in `parts` of a million cases.
    pub fn ppm(&mut self, parts: u64) -> bool {
        parts > 0 && self.rng.below(1_000_000) < parts
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A core takes a turn, if this is still its appointment.
    Turn { core: usize, appointment: u64 },
    /// The control core does.
    Control { appointment: u64 },
    /// An effect reaches the disk.
    Perform { job: u64 },
    /// Its answer reaches the core.
    Answer { job: u64 },
    /// A client does something.
    Act { client: usize },
    /// A client reads.
    Read { client: usize },
    /// Bytes reach a core.
    Arrive { core: usize },
    /// The node ends without a word.
    Crash { is_power: bool },
    /// The wall clock jumps.
    Jump,
    /// A connection is lost.
    Cut,
    /// The disk is full, or has room again.
    Full(bool),
    /// The operator does something.
    Operate,
}

/// An appointment: time, tie-breaker, life in which it counts (`u32::MAX`: any).
type Entry = std::cmp::Reverse<(Micros, u64, u32, Happening)>;

/// A disk effect under way.
struct Job {
    core: usize,
    asked: Asked,
    answer: Option<StoreInput>,
    effect: Option<StoreEffect>,
}

/// The world. One per run.
pub struct World<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// The events.
    pub pool: &'a Pool,
    /// Chance.
    pub dice: Dice,
    /// Virtual time.
    pub now_us: Micros,
    /// Seconds that the wall clock is off.
    pub wall_offset_s: i64,
    /// The node, while it lives.
    pub node: Option<Node>,
    /// Which life it is.
    pub life: u32,
    /// The disks, one per shard.
    pub disks: Vec<Disk>,
    /// The connections.
    pub network: Rc<RefCell<Network>>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What is known.
    pub history: History,
    /// Hash of everything that happened.
    pub trace: u64,
    /// No fault happens, disks are quick, everybody reads.
    pub is_calm: bool,
    /// Where the node is in its life.
    pub phase: Phase,
    /// Cores that have let their clients go.
    pub drained: usize,
    /// The node has ended by a fault: `true` for a power cut.
    pub crashed: Option<bool>,
    /// It may end so in this life.
    may_crash: bool,
    queue: BinaryHeap<Entry>,
    jobs: BTreeMap<u64, Job>,
    last_job: u64,
    is_full: bool,
    events: u64,
    challenges: usize,
    reading_from: BTreeMap<usize, LinkId>,
}

impl<'a> World<'a> {
    /// An empty world.
    pub fn new(plan: &'a Plan, pool: &'a Pool) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x776f_726c);
        let disk = |shard: u16| Disk::new(crate::node::SECRET, plan.seed ^ u64::from(shard));
        let families = &plan.families;
        let count = plan.clients + plan.malicious;
        let clients = (0..count)
            .map(|index| {
                let nature = match index {
                    _ if index >= plan.clients => Nature::Malicious,
                    _ if index < plan.slow_clients => Nature::Slow,
                    _ => Nature::Honest,
                };
                let own =
                    [families[index % families.len()], families[(index + 1) % families.len()]];
                Client::new(index, nature, pool, &own, Rng::new(rng.next_u64()))
            })
            .collect();
        Self {
            disks: (0..plan.shards).map(disk).collect(),
            plan,
            pool,
            dice: Dice { rng, marks: Marks::default(), story: None },
            now_us: 1_000_000,
            wall_offset_s: 0,
            node: None,
            life: 0,
            network: Rc::default(),
            clients,
            history: History { unix_s: EPOCH_S, unix_s_max: EPOCH_S, ..History::default() },
            trace: 0xcbf2_9ce4_8422_2325,
            is_calm: false,
            phase: Phase::Serving,
            drained: 0,
            crashed: None,
            may_crash: false,
            queue: BinaryHeap::new(),
            jobs: BTreeMap::new(),
            last_job: 0,
            is_full: false,
            events: 0,
            challenges: 0,
            reading_from: BTreeMap::new(),
        }
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        let elapsed = (self.now_us / 1_000_000) as i64;
        let unix_s = (EPOCH_S as i64 + elapsed + self.wall_offset_s).max(0) as u64;
        Now { monotonic_ms: self.now_us / 1_000, unix_s }
    }

    /// Adds to the hash of the run.
    pub fn note(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    fn at(&mut self, time_us: Micros, life: u32, happening: Happening) {
        let chance = self.dice.rng.next_u64();
        self.queue.push(std::cmp::Reverse((time_us, chance, life, happening)));
    }

    fn after(&mut self, delay_us: u64, happening: Happening) {
        self.at(self.now_us + delay_us, self.life, happening);
    }

    fn soon(&mut self, most_us: u64, happening: Happening) {
        let delay = self.dice.rng.below(most_us + 1);
        self.after(delay, happening);
    }

    // --- the node's life --------------------------------------------------------------------------

    /// Whatever was scheduled for a life is void in the next. Clients know nothing of lives.
    pub fn begin_life(&mut self, node: Node) {
        self.life += 1;
        self.phase = Phase::Serving;
        (self.drained, self.crashed) = (0, None);
        let life = self.life;
        self.dice.tell(self.now_us, || format!("life {life} begins: {:?}", node.sizes));
        self.history.max_limit = u64::from(node.sizes.max_limit);
        let cores = node.cores.len();
        self.node = Some(node);
        for core in 0..cores {
            self.meet_core(core, self.now_us);
        }
        self.meet_control(self.now_us);
    }

    /// What the plan has in store for this life, within `span_us`.
    pub fn schedule_faults(&mut self, span_us: u64, is_last: bool) {
        let plan = self.plan;
        self.may_crash = !is_last;
        let fate = |world: &mut Self, parts: u64, happening: Happening| {
            if world.dice.rng.chance(parts, 4) {
                world.soon(span_us, happening);
            }
        };
        if !is_last {
            if plan.has(Fault::Kill) {
                fate(self, 2, Happening::Crash { is_power: false });
            }
            if plan.has(Fault::PowerCut) {
                fate(self, 2, Happening::Crash { is_power: true });
            }
        }
        if plan.has(Fault::WallJump) {
            fate(self, 2, Happening::Jump);
        }
        if plan.has(Fault::NetCut) {
            (0..4).for_each(|_| fate(self, 2, Happening::Cut));
        }
        if plan.has(Fault::NoSpace) {
            fate(self, 2, Happening::Full(true));
        }
        if plan.has(Fault::Compact) || plan.has(Fault::Remove) {
            (0..3).for_each(|_| fate(self, 3, Happening::Operate));
        }
    }

    /// What is over in an instant would hardly ever be struck by a crash: now and then one comes then.
    fn maybe_crash_soon(&mut self) {
        let may = [Fault::Kill, Fault::PowerCut].map(|fault| self.plan.has(fault));
        if !self.may_crash || may == [false; 2] || !self.dice.rng.chance(1, 50) {
            return;
        }
        let is_power = may[1] && (!may[0] || self.dice.rng.chance(1, 2));
        self.soon(60, Happening::Crash { is_power });
    }

    /// Every client begins its operations.
    pub fn schedule_clients(&mut self, ops_each: u32) {
        for client in 0..self.clients.len() {
            self.clients[client].ops = ops_each;
            let delay = self.dice.rng.below(self.plan.think_us_max + 1);
            self.at(self.now_us + delay, u32::MAX, Happening::Act { client });
        }
    }

    /// Lets one thing happen. `false` when nothing ever will.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn step(&mut self) -> Result<bool, Violation> {
        loop {
            let Some(std::cmp::Reverse((time_us, _, life, happening))) = self.queue.pop() else {
                return Ok(false);
            };
            if life != u32::MAX && life != self.life {
                continue;
            }
            self.now_us = self.now_us.max(time_us);
            self.events += 1;
            if self.events > EVENTS_MAX {
                let detail = format!("{EVENTS_MAX} events and no end");
                return Err(Violation::new("liveness: a run ends", detail));
            }
            let unix_s = self.now().unix_s;
            self.history.unix_s = unix_s;
            self.history.unix_s_max = self.history.unix_s_max.max(unix_s);
            self.happen(happening)?;
            return Ok(true);
        }
    }

    /// Runs until `is_done` or until `span_us` have passed.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn run_until(
        &mut self,
        span_us: u64,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Violation> {
        let end_us = self.now_us + span_us;
        while !is_done(self) {
            if self.now_us > end_us || !self.step()? {
                return Ok(is_done(self));
            }
        }
        Ok(true)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Turn { core, appointment } => self.turn(core, appointment)?,
            Happening::Control { appointment } => self.control_turn(appointment),
            Happening::Perform { job } => self.perform(job),
            Happening::Answer { job } => self.answer(job),
            Happening::Act { client } => self.act(client),
            Happening::Read { client } => self.read(client)?,
            Happening::Arrive { core } => self.meet_core(core, self.now_us),
            Happening::Crash { is_power } if !self.is_calm => self.crashed = Some(is_power),
            Happening::Jump if !self.is_calm => self.jump(),
            Happening::Cut if !self.is_calm => self.cut(),
            Happening::Full(is_full) => self.fill(is_full && !self.is_calm),
            Happening::Operate if !self.is_calm => self.operate(),
            Happening::Crash { .. } | Happening::Jump | Happening::Cut | Happening::Operate => {}
        }
        Ok(())
    }

    // --- cores --------------------------------------------------------------------------------------

    /// A core takes a turn at `time_us`, if it would not take one before.
    fn meet_core(&mut self, core: usize, time_us: Micros) {
        let delay = self.dice.rng.below(60);
        let time_us = time_us + delay;
        let Some(node) = &mut self.node else { return };
        let Some(at) = node.cores.get_mut(core) else { return };
        if at.turn_us <= time_us {
            return;
        }
        (at.turn_us, at.appointment) = (time_us, at.appointment + 1);
        let appointment = at.appointment;
        self.at(time_us, self.life, Happening::Turn { core, appointment });
    }

    fn meet_control(&mut self, time_us: Micros) {
        let delay = self.dice.rng.below(60);
        let time_us = time_us + delay;
        let Some(node) = &mut self.node else { return };
        if node.control.turn_us <= time_us {
            return;
        }
        (node.control.turn_us, node.control.appointment) = (time_us, node.control.appointment + 1);
        let appointment = node.control.appointment;
        self.at(time_us, self.life, Happening::Control { appointment });
    }

    /// The operator has asked something.
    pub fn call_control(&mut self) {
        self.meet_control(self.now_us);
    }

    fn wake(&mut self, cores: Vec<u16>) {
        let executors = self.node.as_ref().map_or(0, |node| node.cores.len());
        for core in cores {
            match usize::from(core) < executors {
                true => self.meet_core(usize::from(core), self.now_us),
                false => self.meet_control(self.now_us),
            }
        }
    }

    fn turn(&mut self, core: usize, appointment: u64) -> Result<(), Violation> {
        let now = self.now();
        let Some(mut node) = self.node.take() else { return Ok(()) };
        let at = &mut node.cores[core];
        if at.appointment != appointment {
            self.node = Some(node);
            return Ok(());
        }
        at.turn_us = u64::MAX;
        self.note(now.monotonic_ms ^ (core as u64) << 56);
        let heard = {
            let dice = &mut self.dice;
            let calm = self.is_calm;
            self.network.borrow_mut().hear(core as u16, |length| match calm {
                true => length,
                false => 1 + dice.rng.index(length),
            })
        };
        for (_, socket, what) in heard {
            let clients = &mut at.core.clients;
            match what {
                Heard::Accepted => {
                    let entropy = challenge_entropy(self.challenges % CHALLENGES);
                    self.challenges += 1;
                    let peer = Peer::Remote(([10, 0, 0, core as u8], 7_777).into());
                    clients.accepted(now, socket, peer, entropy);
                }
                Heard::Bytes(bytes) => clients.received(now, socket, &bytes),
                Heard::Sent(chunk) => clients.sent(now, socket, chunk),
                Heard::PeerClosed => clients.peer_closed(socket),
                Heard::Failed => clients.failed(socket),
            }
        }
        let out_before = tickets_of(&at.core);
        at.core.wake_up();
        at.machine.is_low = self.is_full && self.life.is_multiple_of(2);
        at.core.keep_time(now, &mut at.machine);
        let worked = at.core.work(now, &mut at.machine);
        if at.core.advance_drain(now, self.phase, &mut at.machine) {
            self.drained += 1;
        }
        let out = tickets_of(&at.core);
        if out > out_before {
            self.dice.marks.hit("ticket sent");
            self.maybe_crash_soon();
        } else if out < out_before {
            self.dice.marks.hit("ticket answered");
        }
        if out > 0 && at.core.backlog() > 0 {
            self.dice.marks.hit("a ring was full with tickets out");
        }
        let asked = std::mem::take(&mut at.machine.asked);
        let wakes = std::mem::take(&mut at.machine.wakes);
        let held = at.core.clients.net.outboxes.held_bytes();
        let timeout_ms = at.core.timeout_ms(now, &at.machine);
        let has_news = self.network.borrow().has_news(core as u16);
        let outbox_max = node.sizes.outbox_total_bytes;
        self.node = Some(node);
        if let Err(error) = worked {
            // A failed write ends the process without another word.
            self.dice.marks.hit("ended by a failed write");
            if !self.dice.marks.0.contains_key("write failed") {
                let detail = format!("core {core} cannot go on: {error}");
                return Err(Violation::new("the process ends for a reason", detail));
            }
            self.crashed = Some(self.dice.rng.chance(1, 2));
            return Ok(());
        }
        self.check_memory(held, outbox_max)?;
        asked.into_iter().for_each(|asked| self.start(core, asked));
        self.wake(wakes);
        let next_us = if timeout_ms == 0 || has_news {
            self.now_us + 20
        } else {
            self.now_us.saturating_add(timeout_ms.saturating_mul(1_000))
        };
        self.meet_core(core, next_us);
        self.offer_to_clients();
        Ok(())
    }

    /// S1: what outboxes hold together is bounded at the end of every turn.
    fn check_memory(&self, held: usize, most: usize) -> Result<(), Violation> {
        // Eviction spares what a connection that ends has lent to the kernel: a chunk each.
        let slack = (self.clients.len() + 2) * 2 * net::outbox::CHUNK_BYTES;
        if held <= most + slack {
            return Ok(());
        }
        let detail = format!("outboxes of a core hold {held} bytes, {most} are allowed");
        Err(Violation::new("S1: memory is bounded", detail))
    }

    fn control_turn(&mut self, appointment: u64) {
        let now = self.now();
        let Some(node) = &mut self.node else { return };
        if node.control.appointment != appointment {
            return;
        }
        node.control.turn_us = u64::MAX;
        let (wakes, may_sleep) = node.control.turn(now);
        self.wake(wakes);
        let pause_us = if may_sleep { 10_000 } else { 50 };
        self.meet_control(self.now_us + pause_us);
    }

    // --- disks --------------------------------------------------------------------------------------

    fn start(&mut self, core: usize, mut asked: Asked) {
        let effect = std::mem::replace(&mut asked.effect, StoreEffect::Survey);
        self.dice
            .tell(self.now_us, || format!("shard {} asks for {}", asked.shard, brief(&effect)));
        let is_log = matches!(effect, StoreEffect::Log(_));
        let is_quick = is_read(&effect) && !matches!(effect, StoreEffect::Survey);
        if is_quick && self.dice.rng.chance(2, 3) {
            // The engine reads at once while the index is warm.
            let answer = self.on_disk(&asked, effect);
            let machine = self.node.as_mut().map(|node| &mut node.cores[core].machine);
            if let Some(machine) = machine {
                machine.ready.push_back((asked.owner, answer));
                self.meet_core(core, self.now_us);
            }
            return;
        }
        self.last_job += 1;
        let job = self.last_job;
        let most_us = match (self.is_calm, is_log, is_quick) {
            (true, ..) => 500,
            (_, true, _) => self.plan.sync_us_max,
            (.., true) => 20_000,
            _ => self.plan.sync_us_max * 4,
        };
        let first = self.dice.rng.below(most_us + 1);
        let second = if self.dice.rng.chance(1, 2) { 0 } else { self.dice.rng.below(most_us + 1) };
        self.jobs.insert(job, Job { core, asked, answer: None, effect: Some(effect) });
        self.after(first, Happening::Perform { job });
        self.after(first + second, Happening::Answer { job });
    }

    fn weather(&mut self) -> Weather {
        if self.is_calm {
            return Weather::default();
        }
        let ppm = |fault| if self.plan.has(fault) { self.plan.errors_ppm } else { 0 };
        Weather {
            is_full: self.is_full,
            read_errors_ppm: ppm(Fault::ReadError),
            write_errors_ppm: ppm(Fault::WriteError) / 8,
        }
    }

    fn on_disk(&mut self, asked: &Asked, effect: StoreEffect) -> StoreInput {
        let weather = self.weather();
        self.disks[usize::from(asked.shard)].perform(effect, weather, &mut self.dice)
    }

    fn perform(&mut self, id: u64) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        if let Some(effect) = job.effect.take() {
            self.note(id);
            let shard = job.asked.shard;
            self.dice.tell(self.now_us, || format!("shard {shard}'s disk does {}", brief(&effect)));
            job.answer = Some(self.on_disk(&job.asked, effect));
        }
        self.jobs.insert(id, job);
    }

    fn answer(&mut self, id: u64) {
        // Both stand at one moment, and chance may turn them round.
        self.perform(id);
        let Some(job) = self.jobs.remove(&id) else { return };
        let (Some(answer), Some(node)) = (job.answer, &mut self.node) else { return };
        let shard = job.asked.shard;
        self.dice.tell(self.now_us, || format!("shard {shard} is told {}", brief(&answer)));
        node.cores[job.core].machine.ready.push_back((job.asked.owner, answer));
        self.meet_core(job.core, self.now_us);
    }

    /// Whether an effect is under way.
    pub fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    // --- faults -------------------------------------------------------------------------------------

    /// The node is gone, with everything that it had not written down.
    pub fn end_life(&mut self, survive_of_256: u16) {
        let cores = self.node.iter().flat_map(|node| &node.cores);
        if cores.into_iter().any(|at| tickets_of(&at.core) > 0) {
            self.dice.marks.hit("stopped with a ticket out");
        }
        self.dice
            .tell(self.now_us, || format!("the node is gone, {survive_of_256} of 256 survive"));
        self.node = None;
        self.life += 1;
        for (_, job) in std::mem::take(&mut self.jobs) {
            if let Some(effect) = job.effect {
                let disk = &self.disks[usize::from(job.asked.shard)];
                disk.interrupt(effect, &mut self.dice);
            }
        }
        for disk in &self.disks {
            disk.restart(survive_of_256, &mut self.dice);
        }
        for (shard, disk) in self.disks.iter().enumerate() {
            self.dice
                .tell(self.now_us, || format!("shard {shard}'s disk holds {}", disk.summary()));
        }
        self.is_full = false;
        let salt = self.dice.rng.next_u64();
        let kept = |length: usize| (salt as usize) % (length + 1);
        self.network.borrow_mut().drop_all(kept);
        self.offer_to_clients();
    }

    fn jump(&mut self) {
        let seconds = self.dice.rng.between(0, 25 * 3_600) as i64 - 3_600;
        self.wall_offset_s += seconds;
        self.dice.marks.hit(if seconds < 0 { "wall clock back" } else { "wall clock ahead" });
    }

    fn cut(&mut self) {
        let client = self.dice.rng.index(self.clients.len());
        let Some(link) = self.clients[client].session.as_ref().map(|session| session.link) else {
            return;
        };
        self.dice.marks.hit(Fault::NetCut.name());
        let salt = self.dice.rng.next_u64();
        self.network.borrow_mut().reset(link, |length| (salt as usize) % (length + 1));
        self.tell_core(100, link);
        self.at(self.now_us + 200, u32::MAX, Happening::Read { client });
    }

    fn fill(&mut self, is_full: bool) {
        if is_full {
            self.dice.marks.hit(Fault::NoSpace.name());
            let seconds = self.dice.rng.between(1, 60);
            self.after(seconds * 1_000_000, Happening::Full(false));
        }
        self.is_full = is_full;
    }

    fn operate(&mut self) {
        let now = self.now();
        let may = [Fault::Compact, Fault::Remove].map(|fault| self.plan.has(fault));
        let compacts = may[0] && (!may[1] || self.dice.rng.chance(1, 2));
        let known: Vec<usize> = self.history.events.keys().copied().collect();
        let Some(node) = &mut self.node else { return };
        if compacts {
            self.dice.marks.hit(Fault::Compact.name());
            node.control.ask(now, |_| shards::HomeInput::Compact);
            return self.call_control();
        }
        if known.is_empty() {
            return;
        }
        let count = 1 + self.dice.rng.index(3);
        let picked: Vec<usize> = (0..count).map(|_| *self.dice.rng.pick(&known)).collect();
        let ban = self.dice.rng.chance(1, 3);
        let ids = picked.iter().map(|index| self.pool.events[*index].event.view().id()).collect();
        for index in &picked {
            // A forged twin has the id of the genuine one.
            for twin in self.pool.with_id(&self.pool.events[*index].fact.id) {
                self.history.removed_us.entry(*twin).or_insert(self.now_us);
            }
        }
        self.dice.marks.hit(Fault::Remove.name());
        node.control.ask(now, |client| shards::HomeInput::Remove { client, ids, ban });
        self.call_control();
    }

    // --- clients ------------------------------------------------------------------------------------

    fn act(&mut self, client: usize) {
        let rng = &mut self.clients[client].rng;
        let pause_us = rng.below(self.plan.think_us_max + 1);
        if self.clients[client].ops == 0 {
            return;
        }
        self.do_next(client);
        self.clients[client].ops = self.clients[client].ops.saturating_sub(1);
        self.at(self.now_us + pause_us, u32::MAX, Happening::Act { client });
    }

    fn do_next(&mut self, client: usize) {
        let deed =
            self.clients[client].act(self.pool, &mut self.history, self.now_us, &mut self.dice);
        self.carry_out(client, deed);
    }

    /// Does what a client wants done.
    pub fn carry_out(&mut self, client: usize, deed: Deed) {
        match deed {
            Deed::Connect => self.connect(client),
            Deed::Send(bytes) => self.send(client, &bytes),
            Deed::Close => {
                let Some(session) = &self.clients[client].session else { return };
                let link = session.link;
                self.network.borrow_mut().close_by_client(link);
                self.arrive(link);
            }
        }
    }

    /// A client connects to some core.
    pub fn connect(&mut self, client: usize) {
        let Some(node) = &self.node else { return };
        if self.phase != Phase::Serving {
            return;
        }
        let core = self.dice.rng.index(node.cores.len());
        let socket_bytes = node.sizes.socket_bytes;
        let link = self.network.borrow_mut().connect(client, core as u16, socket_bytes);
        let request = self.clients[client].connected(link);
        self.send(client, &request);
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        self.dice.tell(self.now_us, || match wire::unmask(bytes) {
            Some(text) => format!("client {client} sends {text}"),
            None => format!("client {client} sends {} bytes", bytes.len()),
        });
        let Some(session) = &self.clients[client].session else { return };
        let link = session.link;
        self.network.borrow_mut().send_to_core(link, bytes);
        self.arrive(link);
    }

    fn arrive(&mut self, link: LinkId) {
        let Some(core) = self.network.borrow().core_of(link).map(usize::from) else { return };
        let stalls = self.plan.has(Fault::NetStall) && !self.is_calm;
        let most_us = match stalls && self.dice.rng.chance(1, 20) {
            true => 5_000_000,
            false => 800,
        };
        self.soon(most_us, Happening::Arrive { core });
    }

    /// The core of a link will look at it.
    fn tell_core(&mut self, delay_us: u64, link: LinkId) {
        let core = self.network.borrow().core_of(link).map(usize::from);
        if let Some(core) = core {
            self.after(delay_us, Happening::Arrive { core });
        }
    }

    /// Clients whose links have something for them will read it in their own time.
    fn offer_to_clients(&mut self) {
        let links = std::mem::take(&mut self.network.borrow_mut().for_clients);
        for link in links {
            let Some(client) = self.network.borrow().client_of(link) else { continue };
            if self.reading_from.get(&client) == Some(&link) {
                continue;
            }
            let is_current = self.clients[client].session.as_ref().map(|session| session.link);
            if is_current != Some(link) {
                self.network.borrow_mut().forget(link);
                continue;
            }
            self.reading_from.insert(client, link);
            self.read_later(client);
        }
    }

    /// Slow clients do, and so do those that ask for much in order to fill the relay's memory.
    fn reads_slowly(&self, client: usize) -> bool {
        let is_slow = match self.clients[client].nature {
            Nature::Honest => false,
            Nature::Slow => true,
            Nature::Malicious => self.plan.has(Fault::SlowClients),
        };
        is_slow && !self.is_calm
    }

    fn read_later(&mut self, client: usize) {
        let is_slow = self.reads_slowly(client);
        let most_us = if is_slow { 400_000 } else { 600 };
        let delay = self.dice.rng.below(most_us);
        self.at(self.now_us + delay, u32::MAX, Happening::Read { client });
    }

    fn read(&mut self, client: usize) -> Result<(), Violation> {
        self.reading_from.remove(&client);
        let Some(link) = self.clients[client].session.as_ref().map(|session| session.link) else {
            return Ok(());
        };
        let is_slow = self.reads_slowly(client);
        let most = if is_slow { 1 + self.dice.rng.index(900) } else { usize::MAX };
        let Some(bytes) = self.network.borrow_mut().read_by_client(link, most) else {
            self.dice.tell(self.now_us, || format!("client {client} has lost its connection"));
            self.clients[client].lost();
            self.network.borrow_mut().forget(link);
            self.tell_core(50, link);
            return Ok(());
        };
        self.dice.tell(self.now_us, || format!("client {client} gets {} bytes", bytes.len()));
        self.note(bytes.len() as u64 ^ (client as u64) << 48);
        for word in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight[..word.len()].copy_from_slice(word);
            self.note(u64::from_le_bytes(eight));
        }
        let answers = self.clients[client].received(
            &bytes,
            self.pool,
            &mut self.history,
            self.now_us,
            &mut self.dice,
        )?;
        if !answers.is_empty() {
            self.send(client, &answers);
        }
        // What the kernel could not take has room now.
        self.tell_core(10, link);
        if self.network.borrow().has_more_for_client(link) {
            self.reading_from.insert(client, link);
            self.read_later(client);
        }
        Ok(())
    }
}

/// Signatures that the shards of a core have let others check.
fn tickets_of(core: &Core) -> usize {
    core.owners.shards().map(|(_, shard)| shard.tickets_out()).sum()
}

/// An effect or an answer in a few words.
fn brief(effect: &impl std::fmt::Debug) -> String {
    let mut text = format!("{effect:?}");
    let length = (0..=160).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(length);
    text
}
