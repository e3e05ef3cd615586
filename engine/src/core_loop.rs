//! The thread of one core: the loop of [`serve::Core`] on real sockets, disks and clocks.

use crate::effects::Performer;
use crate::log::{self, Level, Throttle};
use crate::metrics::{self, Levels, Snapshot};
use crate::policy::{self, PolicyPort};
use crate::runtime::reactor::{Completion, Reactor};
use crate::runtime::wake::Wake;
use crate::runtime::{clock, entropy};
use crate::settings;
use crate::shared::Shared;
use proto::Now;
use serve::{Core, DiskLevel, Machine, Sending, SocketId};
use shards::HomeInput;
use shards::door::{Answer, Question, ReadQuestion};
use shards::message::{CoreId, ShardId};
use std::io;
use std::sync::Arc;
use store::{StoreEffect, StoreInput};

static CROWDED: Throttle = Throttle::new();
static DESCRIPTORS: Throttle = Throttle::new();

/// What a core runs on. Owned by its thread.
pub struct Machinery {
    /// Sockets and log.
    pub reactor: Reactor,
    /// Its shards' worlds.
    pub performer: Performer,
    /// Its way to the policy plug-ins.
    pub policy: PolicyPort,
    /// Of every core, by core.
    pub wakes: Arc<[Wake]>,
}

impl Machine for Machinery {
    fn send(&mut self, socket: SocketId, chunk: Vec<u8>, is_followed: bool) -> Sending {
        self.reactor.send(socket, chunk, is_followed)
    }

    fn pause_reading(&mut self, socket: SocketId) {
        self.reactor.pause_reading(socket);
    }

    fn resume_reading(&mut self, socket: SocketId) {
        self.reactor.resume_reading(socket);
    }

    fn shutdown_write(&mut self, socket: SocketId) {
        self.reactor.shutdown_write(socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.reactor.close(socket);
    }

    fn stop_listening(&mut self) {
        self.reactor.stop_listening();
    }

    fn resume_accepting(&mut self) {
        self.reactor.resume_accepting();
    }

    fn perform(&mut self, now: Now, owner: usize, effect: StoreEffect) -> io::Result<()> {
        self.performer.perform(now, owner, effect, &mut self.reactor)
    }

    fn has_answer(&self) -> bool {
        self.performer.has_answer()
    }

    fn next_answer(&mut self) -> Option<(usize, StoreInput)> {
        self.performer.next_answer()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.performer.free_bytes()
    }

    fn ask_write(&mut self, shard: ShardId, question: Question) {
        self.policy.ask_write(shard, question);
    }

    fn ask_read(&mut self, question: ReadQuestion) {
        self.policy.ask_read(question);
    }

    fn next_verdict(&mut self) -> Option<(Option<ShardId>, Answer)> {
        self.policy.next_answer()
    }

    fn wake(&mut self, core: CoreId) {
        if let Some(wake) = self.wakes.get(usize::from(core)) {
            wake.wake();
        }
    }
}

/// One core on its thread. Owned by it.
pub struct Executor {
    core: Core,
    machinery: Machinery,
    shared: Arc<Shared>,
    config_epoch: u64,
    published: u64,
    /// The scrape that the waiting clients asked for.
    scrape: Option<u64>,
}

impl Executor {
    /// A core that serves nobody yet.
    pub fn new(core: Core, machinery: Machinery, shared: Arc<Shared>) -> Self {
        let config_epoch = shared.config_epoch();
        Self { core, machinery, config_epoch, shared, published: 0, scrape: None }
    }

    /// Begins to accept.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn listen(&mut self, listener: rustix::fd::OwnedFd) -> io::Result<()> {
        self.machinery.reactor.listen(listener)
    }

    /// Runs until the relay has ended.
    ///
    /// # Errors
    /// When the reactor is broken or the store has failed: the process must end without another
    /// answer.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.core.is_over() {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let Self { core, machinery, .. } = self;
        let timeout_ms = core.timeout_ms(clock::now(), machinery);
        let clients = &mut core.clients;
        let mut logged = Vec::new();
        // The clock is read when the wait is over, at the first thing that happened.
        let mut now = None;
        machinery.reactor.turn(Some(timeout_ms), &mut |completion| {
            let now = *now.get_or_insert_with(clock::now);
            match completion {
                Completion::Accepted { socket, peer } => {
                    clients.accepted(now, socket, peer, entropy::bytes());
                }
                Completion::AcceptFailed { error } => {
                    let text = format!("cannot accept connections: {error}");
                    DESCRIPTORS.line(now, Level::Error, &text);
                }
                Completion::Received { socket, bytes } => clients.received(now, socket, bytes),
                Completion::PeerClosed { socket } => clients.peer_closed(socket),
                Completion::Sent { socket, buffer } => clients.sent(now, socket, buffer),
                Completion::Failed { socket, .. } => clients.failed(socket),
                Completion::Logged(done) => logged.push(done),
                Completion::Woken => {}
            }
        })?;
        let now = now.unwrap_or_else(clock::now);
        core.wake_up();
        for done in logged {
            let Machinery { performer, reactor, .. } = machinery;
            if let Some(us) = performer.logged(done, reactor)? {
                core.clients.timings.commit.record_us(us);
            }
        }
        self.keep_time(now);
        self.core.work(now, &mut self.machinery)?;
        self.machinery.policy.flush();
        if self.core.advance_drain(now, self.shared.phase(), &mut self.machinery) {
            self.shared.drained();
        }
        Ok(())
    }

    fn keep_time(&mut self, now: Now) {
        if let Some(level) = self.core.keep_time(now, &mut self.machinery) {
            self.say_disk_level(level);
        }
        if self.core.clients.take_crowded() {
            CROWDED.line(
                now,
                Level::Warn,
                "one address has used up its connections; if a proxy stands there, name it in \
                 network.trusted_proxies",
            );
        }
        if self.shared.config_epoch() != self.config_epoch {
            self.reconfigure(now);
        }
        self.publish(now);
    }

    /// All cores see the same disk: the one of the first shard says so.
    fn say_disk_level(&self, level: DiskLevel) {
        if self.core.id() != 0 {
            return;
        }
        let mib = level.free_bytes >> 20;
        match level.is_low {
            true => log::line(
                Level::Error,
                &format!(
                    "storage full: {mib} MiB are free, less than store.free_min_mib; events are refused"
                ),
            ),
            false => log::line(Level::Info, &format!("{mib} MiB are free: events are taken again")),
        }
    }

    fn reconfigure(&mut self, now: Now) {
        let (config, epoch) = self.shared.config();
        self.config_epoch = epoch;
        self.core.free_min_bytes = settings::free_min_bytes(&config);
        let clients = &mut self.core.clients;
        let net = settings::conn_config(&config, &clients.net.config);
        clients.net.reload(net);
        clients.metrics_allow = settings::metrics_allow(&config);
        let executors = self.shared.wakes().len() - 1;
        clients.admission.configure(settings::admission(&config, executors));
        clients.step(now, HomeInput::Reconfigure(Box::new(settings::home_limits(&config))));
        clients.step(now, HomeInput::Asks(policy::asks(&config)));
    }

    /// Publishes this core's figures if anybody asked, and answers those who asked here.
    fn publish(&mut self, now: Now) {
        if self.scrape.is_none() && self.core.clients.has_scrapers() {
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
            self.core.clients.answer_scrapers(now, &text);
        }
    }

    fn publish_cells(&self, epoch: u64) {
        let stats = self.core.owners.stats();
        let clients = &self.core.clients;
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
        let is_first = self.core.id() == 0;
        let snapshot = Snapshot {
            net: Some(&clients.net.counters),
            home: clients.home.counters(),
            shards: &stats.counters,
            // Of the whole relay, and summed over cores like everything else.
            policy: if is_first { self.machinery.policy.figures() } else { Default::default() },
            timings: &clients.timings,
            levels,
        };
        self.shared.cells()[usize::from(self.core.id())].publish(&snapshot, epoch);
        // Whoever waits for this core's figures may sleep.
        for wake in self.shared.wakes().iter() {
            wake.wake();
        }
    }
}
