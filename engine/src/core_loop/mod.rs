//! The loop of one core: wait, take what happened, let the state machines step until nothing is
//! left to do, write out.

mod clients;
mod owners;
mod timers;

#[cfg(test)]
mod tests;

pub use owners::{Owned, Owners};

use crate::config::Config;
use crate::metrics::{self, Levels, Snapshot};
use crate::policy::{self, PolicyPort};
use crate::post::Post;
use crate::runtime::clock;
use crate::runtime::reactor::{Completion, Reactor};
use crate::settings;
use crate::shared::{Phase, Shared};
use clients::Clients;
use net::{Admission, ConnCore};
use proto::{Now, SeededState};
use shards::message::Envelope;
use shards::{Home, HomeInput};
use std::io;
use std::sync::Arc;

/// A coarse timer: checkpoints by age, expiry, accepting again.
const TICK_MS: u64 = 500;
/// How often an ending core looks whether it may go on.
const DRAIN_POLL_MS: u64 = 5;
/// Messages taken in one turn before sockets are looked at again.
const MESSAGES_MAX: usize = 4_096;

/// One core: its reactor, its clients, its shards. Owned by its thread.
pub struct Core {
    reactor: Reactor,
    clients: Clients,
    owners: Owners,
    post: Post,
    policy: PolicyPort,
    shared: Arc<Shared>,
    next_tick_ms: u64,
    /// Free disk below which events are refused.
    free_min_bytes: u64,
    config_epoch: u64,
    published: u64,
    /// The scrape that the waiting clients asked for.
    scrape: Option<u64>,
    drain: Drain,
}

/// How far this core has come in ending.
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
    /// Sockets and log.
    pub reactor: Reactor,
    /// Its end of the mesh.
    pub post: Post,
    /// Its way to the policy plug-ins.
    pub policy: PolicyPort,
    /// The connections' common state.
    pub net: ConnCore,
    /// Who may connect.
    pub admission: Admission,
    /// The home side.
    pub home: Home,
    /// The shards that live here.
    pub owners: Owners,
    /// The words that all cores read.
    pub shared: Arc<Shared>,
    /// Seed of the maps.
    pub seed: SeededState,
}

impl Core {
    /// A core that serves nobody yet.
    pub fn new(parts: CoreParts, config: &Config) -> Self {
        let CoreParts { reactor, post, policy, net, admission, home, owners, shared, seed } = parts;
        let allow = settings::metrics_allow(config);
        Self {
            reactor,
            clients: Clients::new(net, admission, home, allow, seed),
            owners,
            post,
            policy,
            config_epoch: shared.config_epoch(),
            free_min_bytes: settings::free_min_bytes(config),
            shared,
            next_tick_ms: 0,
            published: 0,
            scrape: None,
            drain: Drain::No,
        }
    }

    /// Begins to accept.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn listen(&mut self, listener: rustix::fd::OwnedFd) -> io::Result<()> {
        self.reactor.listen(listener)
    }

    /// Runs until the relay has ended.
    ///
    /// # Errors
    /// When the reactor is broken or the store has failed: the process must end without another
    /// answer.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.is_over() {
            self.turn()?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.drain == Drain::Closing && self.owners.are_closed()
    }

    fn turn(&mut self) -> io::Result<()> {
        let timeout_ms = self.timeout_ms(clock::now());
        let Self { reactor, clients, owners, .. } = self;
        let mut logged = Vec::new();
        // The clock is read when the wait is over, at the first thing that happened.
        let mut now = None;
        reactor.turn(Some(timeout_ms), &mut |completion| {
            let now = *now.get_or_insert_with(clock::now);
            match completion {
                Completion::Accepted { socket, peer } => clients.accepted(now, socket, peer),
                Completion::AcceptFailed { error } => Clients::accept_failed(now, error),
                Completion::Received { socket, bytes } => clients.received(now, socket, bytes),
                Completion::PeerClosed { socket } => clients.peer_closed(socket),
                Completion::Sent { socket, buffer } => clients.sent(now, socket, buffer),
                Completion::Failed { socket, .. } => clients.failed(socket),
                Completion::Logged(done) => logged.push(done),
                Completion::Woken => {}
            }
        })?;
        let now = now.unwrap_or_else(clock::now);
        self.post.unpark();
        for done in logged {
            if let Some(us) = owners.logged(done, reactor)? {
                clients.timings.commit.record_us(us);
            }
        }
        self.keep_time(now);
        self.settle(now)?;
        // The kernel is offered everything first: a fan-out lends a chunk to each of its readers,
        // and what a healthy one takes at once must not count against anybody.
        self.clients.flush(now, &mut self.reactor);
        self.clients.evict();
        self.clients.flush(now, &mut self.reactor);
        self.exchange(now)?;
        self.post.flush();
        self.policy.flush();
        self.advance_drain(now);
        Ok(())
    }

    /// How long nothing can be done but wait.
    fn timeout_ms(&mut self, now: Now) -> u64 {
        let is_busy = self.owners.has_work()
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

    fn keep_time(&mut self, now: Now) {
        self.clients.tick(now);
        if now.monotonic_ms >= self.next_tick_ms {
            self.next_tick_ms = now.monotonic_ms + TICK_MS;
            self.owners.tick(now);
            self.owners.watch_disk(now, self.free_min_bytes);
            self.clients.forget_unanswered();
            if self.drain == Drain::No {
                self.reactor.resume_accepting();
            }
        }
        if self.shared.config_epoch() != self.config_epoch {
            self.reconfigure(now);
        }
        self.publish(now);
    }

    fn reconfigure(&mut self, now: Now) {
        let (config, epoch) = self.shared.config();
        self.config_epoch = epoch;
        self.free_min_bytes = settings::free_min_bytes(&config);
        let net = settings::conn_config(&config, &self.clients.net.config);
        self.clients.net.reload(net);
        self.clients.metrics_allow = settings::metrics_allow(&config);
        let executors = self.shared.wakes().len() - 1;
        self.clients.admission.configure(settings::admission(&config, executors));
        let new = settings::home_limits(&config);
        let input = HomeInput::Reconfigure(Box::new(new));
        self.clients.home.step(now, input, &mut self.clients.effects);
        let input = HomeInput::Asks(policy::asks(&config));
        self.clients.home.step(now, input, &mut self.clients.effects);
    }

    /// Publishes this core's figures if anybody asked, and answers those who asked here.
    fn publish(&mut self, now: Now) {
        if self.scrape.is_none() && !self.clients.scrapers.is_empty() {
            self.scrape = Some(self.shared.scrape());
        }
        let epoch = self.shared.scrape_epoch();
        if epoch != self.published {
            self.published = epoch;
            self.publish_cells(epoch);
        }
        if self.scrape.is_some_and(|epoch| self.shared.is_scraped(epoch)) {
            self.scrape = None;
            let text = metrics::render(self.shared.cells());
            self.clients.answer_scrapers(now, &text);
        }
    }

    fn publish_cells(&self, epoch: u64) {
        let stats = self.owners.stats();
        let clients = &self.clients;
        let levels = Levels {
            connections: clients.open() as u64,
            subscriptions: clients.home.subscriptions() as u64,
            neg_sessions: clients.home.neg_sessions() as u64,
            mailbox_depth: stats.ingest_depth as u64,
            outbox_bytes: clients.net.outboxes.held_bytes() as u64,
            input_bytes: clients.net.input.held_bytes() as u64,
            pages_bytes: clients.home.page_bytes() as u64,
            store_bytes: stats.store_bytes as u64,
            live_bytes: stats.live_bytes as u64,
            filter_bytes: clients.home.filter_bytes() as u64,
            neg_bytes: clients.home.neg_bytes() as u64,
        };
        let snapshot = Snapshot {
            net: Some(&clients.net.counters),
            home: clients.home.counters(),
            shards: &stats.counters,
            // Of the whole relay, and summed over cores like everything else.
            policy: if self.post.core() == 0 { self.policy.figures() } else { Default::default() },
            timings: &clients.timings,
            levels,
        };
        self.shared.cells()[usize::from(self.post.core())].publish(&snapshot, epoch);
        // Whoever waits for this core's figures may sleep.
        for wake in self.shared.wakes().iter() {
            wake.wake();
        }
    }

    /// Lets home and shards step until they are quiet, or the turn has done enough.
    fn settle(&mut self, now: Now) -> io::Result<()> {
        if self.clients.is_behind() {
            self.clients.deliver(now);
        }
        self.take_verdicts(now);
        self.exchange(now)?;
        self.owners.turn(now);
        let home = &self.clients.home;
        let is_due = home.has_work() && !self.clients.is_behind();
        if is_due || now.monotonic_ms >= home.deadline_ms() {
            self.clients.home.step(now, HomeInput::Turn, &mut self.clients.effects);
        }
        self.exchange(now)?;
        for _ in 0..4 {
            if !self.clients.is_behind() {
                self.clients.deliver(now);
            }
            let more = self.clients.unpark(now);
            self.exchange(now)?;
            if self.clients.is_behind() || (!more && self.clients.effects.replies.is_empty()) {
                break;
            }
        }
        Ok(())
    }

    /// Hands the plug-ins' answers to those who asked. No more can be there than this core has asked
    /// for, and the wake that announced them does not come again: so all are taken.
    fn take_verdicts(&mut self, now: Now) {
        while let Some((asker, answer)) = self.policy.next_answer() {
            match asker {
                Some(shard) => self.owners.door_answered(now, shard, answer),
                None => {
                    let input = HomeInput::Door(answer);
                    self.clients.home.step(now, input, &mut self.clients.effects);
                }
            }
        }
    }

    /// Carries messages between this core's home, its shards and the other cores.
    fn exchange(&mut self, now: Now) -> io::Result<()> {
        for _ in 0..MESSAGES_MAX {
            let to_shard = &mut self.clients.effects.to_shard;
            for (shard, message) in to_shard.drain(..) {
                self.post.to_shard(shard, message);
            }
            for question in self.clients.effects.door.drain(..) {
                self.policy.ask_read(question);
            }
            self.owners.perform(now, &mut self.reactor, (&mut self.post, &mut self.policy))?;
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
                    let input = HomeInput::From(from, message);
                    self.clients.home.step(now, input, &mut self.clients.effects);
                }
            }
        }
        Ok(())
    }

    fn advance_drain(&mut self, now: Now) {
        let phase = self.shared.phase();
        match self.drain {
            Drain::No if phase >= Phase::Draining => {
                self.reactor.stop_listening();
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
                self.shared.drained();
            }
            Drain::Done if phase == Phase::Closing => {
                self.owners.close(now);
                self.drain = Drain::Closing;
            }
            _ => {}
        }
    }
}
