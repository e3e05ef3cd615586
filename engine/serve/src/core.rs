//! The loop of one core: take what happened, let the state machines step until nothing is left to
//! do, write out.

use crate::clients::Clients;
use crate::machine::Machine;
use crate::owners::{DiskLevel, Owners};
use crate::post::Post;
use net::{Admission, ConnCore, TrustedProxies};
use proto::{Now, SeededState};
use shards::checker::Checker;
use shards::message::Envelope;
use shards::{Home, HomeInput};
use std::io;

/// A coarse timer: checkpoints by age, expiry, accepting again.
const TICK_MS: u64 = 500;
/// How often an ending core looks whether it may go on.
const DRAIN_POLL_MS: u64 = 5;
/// Messages taken in one turn before sockets are looked at again.
const MESSAGES_MAX: usize = 4_096;
/// Rounds of delivering and unparking in one turn.
const DELIVERIES_MAX: usize = 4;

/// Where the relay is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving = 0,
    /// Nobody is accepted, events are refused, answers go out, connections are closed.
    Draining = 1,
    /// Shards write everything down.
    Closing = 2,
}

/// How far a core has come in ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// It serves.
    No,
    /// Events under way get their answers.
    Answering,
    /// Connections are being closed.
    Leaving,
    /// It has said so, and waits for the other cores.
    Done,
    /// Its shards write everything down.
    Closing,
}

/// What a core is made of.
pub struct CoreParts {
    /// Its end of the mesh.
    pub post: Post,
    /// The connections' common state.
    pub net: ConnCore,
    /// Who may connect.
    pub admission: Admission,
    /// The home side.
    pub home: Home,
    /// The shards that live here.
    pub owners: Owners,
    /// What checks signatures for shards of other cores.
    pub checker: Checker,
    /// Who may read the metrics.
    pub metrics_allow: TrustedProxies,
    /// Free disk below which events are refused.
    pub free_min_bytes: u64,
    /// Seed of the maps.
    pub seed: SeededState,
    /// Microseconds of a monotonic clock, for timings and nothing else.
    pub stopwatch: fn() -> u64,
}

/// One core: its clients, its shards, its post. Owned by its thread.
pub struct Core {
    /// Its connections and their home.
    pub clients: Clients,
    /// Its shards.
    pub owners: Owners,
    /// What it checks for shards of other cores.
    pub checker: Checker,
    post: Post,
    next_tick_ms: u64,
    /// Free disk below which events are refused.
    pub free_min_bytes: u64,
    drain: Drain,
}

impl Core {
    /// A core that serves nobody yet.
    pub fn new(parts: CoreParts) -> Self {
        let CoreParts { post, net, admission, home, owners, checker, metrics_allow, .. } = parts;
        let front = (net, admission, home);
        Self {
            clients: Clients::new(front, metrics_allow, parts.seed, parts.stopwatch),
            owners,
            checker,
            post,
            next_tick_ms: 0,
            free_min_bytes: parts.free_min_bytes,
            drain: Drain::No,
        }
    }

    /// This core.
    pub fn id(&self) -> shards::message::CoreId {
        self.post.core()
    }

    /// Messages for other cores that wait for room in a ring.
    pub fn backlog(&self) -> usize {
        self.post.backlog()
    }

    /// Whether everything is written down and nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.drain == Drain::Closing && self.owners.are_closed()
    }

    /// How long nothing can be done but wait. Announces sleep to the other cores if that is longer
    /// than nothing: [`Core::wake_up`] ends it.
    pub fn timeout_ms(&mut self, now: Now, machine: &impl Machine) -> u64 {
        let is_busy = self.owners.has_work(machine)
            || self.checker.waiting() > 0
            || self.clients.home.has_work()
            || self.clients.has_work()
            || !self.post.park();
        if is_busy {
            return 0;
        }
        let mut next_ms =
            self.clients.next_deadline_ms().unwrap_or(u64::MAX).min(self.next_tick_ms);
        if self.drain != Drain::No {
            next_ms = next_ms.min(now.monotonic_ms + DRAIN_POLL_MS);
        }
        next_ms.saturating_sub(now.monotonic_ms)
    }

    /// The wait is over.
    pub fn wake_up(&mut self) {
        self.post.unpark();
    }

    /// Deadlines and the coarse timer; says when the disk has become full or has room again.
    pub fn keep_time(&mut self, now: Now, machine: &mut impl Machine) -> Option<DiskLevel> {
        self.clients.tick(now);
        if now.monotonic_ms < self.next_tick_ms {
            return None;
        }
        self.next_tick_ms = now.monotonic_ms + TICK_MS;
        self.owners.tick(now);
        let level = self.owners.watch_disk(now, machine.free_bytes(), self.free_min_bytes);
        self.clients.forget_unanswered();
        if self.drain == Drain::No {
            machine.resume_accepting();
        }
        level
    }

    /// What follows from everything that came in: to be called once a turn, after the machine's
    /// completions and [`Core::keep_time`].
    ///
    /// # Errors
    /// When a store has failed: the process must end without another answer.
    pub fn work(&mut self, now: Now, machine: &mut impl Machine) -> io::Result<()> {
        self.settle(now, machine)?;
        // The kernel is offered everything first: a fan-out lends a chunk to each of its readers,
        // and what a healthy one takes at once must not count against anybody.
        self.clients.flush(now, machine);
        self.clients.evict();
        self.clients.flush(now, machine);
        self.exchange(now, machine)?;
        self.post.publish_load(self.signatures());
        self.post.flush(|core| machine.wake(core));
        Ok(())
    }

    /// Signatures that this core has to check, its own shards' and others'.
    fn signatures(&self) -> usize {
        self.owners.unverified() + self.checker.waiting()
    }

    /// Has other cores check what is too much here, and checks a ticket of theirs. Both leave before
    /// the shards spend the turn on their own signatures: somebody waits for them.
    fn share_signatures(&mut self, now: Now, machine: &mut impl Machine) {
        let load = self.signatures();
        let mut has_sent = self.owners.seek_help(now, load, &mut self.post);
        if let Some((shard, verdicts)) = self.checker.check_next() {
            self.post.to_shard(shard, verdicts);
            has_sent = true;
        }
        if has_sent {
            self.post.flush(|core| machine.wake(core));
        }
    }

    /// Lets home and shards step until they are quiet, or the turn has done enough.
    fn settle(&mut self, now: Now, machine: &mut impl Machine) -> io::Result<()> {
        if self.clients.is_behind() {
            self.clients.deliver(now);
        }
        self.take_verdicts(now, machine);
        self.exchange(now, machine)?;
        self.share_signatures(now, machine);
        self.owners.turn(now);
        let home = &self.clients.home;
        let is_due = home.has_work() && !self.clients.is_behind();
        if is_due || now.monotonic_ms >= home.deadline_ms() {
            self.clients.step(now, HomeInput::Turn);
        }
        self.exchange(now, machine)?;
        for _ in 0..DELIVERIES_MAX {
            if !self.clients.is_behind() {
                self.clients.deliver(now);
            }
            let more = self.clients.unpark(now);
            self.exchange(now, machine)?;
            if self.clients.is_behind() || (!more && self.clients.effects.replies.is_empty()) {
                break;
            }
        }
        Ok(())
    }

    /// Hands the plug-ins' answers to those who asked. No more can be there than this core has asked
    /// for, and the wake that announced them does not come again: so all are taken.
    fn take_verdicts(&mut self, now: Now, machine: &mut impl Machine) {
        while let Some((asker, answer)) = machine.next_verdict() {
            match asker {
                Some(shard) => self.owners.door_answered(now, shard, answer),
                None => self.clients.step(now, HomeInput::Door(answer)),
            }
        }
    }

    /// Carries messages between this core's home, its shards and the other cores.
    fn exchange(&mut self, now: Now, machine: &mut impl Machine) -> io::Result<()> {
        for _ in 0..MESSAGES_MAX {
            let to_shard = &mut self.clients.effects.to_shard;
            for (shard, message) in to_shard.drain(..) {
                self.post.to_shard(shard, message);
            }
            for question in self.clients.effects.door.drain(..) {
                machine.ask_read(question);
            }
            self.owners.perform(now, &mut self.post, machine)?;
            // While readers have to catch up, the rings hold what comes: they have bounds.
            if self.clients.is_behind() {
                break;
            }
            match self.post.take() {
                None => break,
                Some(Envelope::Shard { from, to, message }) => {
                    self.owners.message(now, from, to, message);
                }
                Some(Envelope::Home { from, message }) => {
                    self.clients.step(now, HomeInput::From(from, message));
                }
                Some(Envelope::Verify { from, ticket }) => self.checker.take(from, ticket),
            }
        }
        Ok(())
    }

    /// Goes on with ending, if the relay is. `true` once: all clients of this core are gone, and
    /// when those of all cores are, the relay's phase is [`Phase::Closing`].
    pub fn advance_drain(&mut self, now: Now, phase: Phase, machine: &mut impl Machine) -> bool {
        match self.drain {
            Drain::No if phase >= Phase::Draining => {
                machine.stop_listening();
                self.clients.drain(now);
                self.drain = Drain::Answering;
            }
            // Answers that came with the last exchange are still to be written.
            Drain::Answering
                if !self.clients.home.has_submissions() && !self.clients.has_work() =>
            {
                self.clients.say_goodbye(now);
                self.drain = Drain::Leaving;
            }
            Drain::Leaving if self.clients.open() == 0 => {
                self.drain = Drain::Done;
                return true;
            }
            Drain::Done if phase == Phase::Closing => {
                self.owners.close(now);
                self.drain = Drain::Closing;
            }
            _ => {}
        }
        false
    }
}
