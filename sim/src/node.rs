//! A node: the product's cores in one thread, each over a machine of the simulator's, and the
//! control core with which the operator asks.

use crate::disk::Disk;
use crate::network::Network;
use crate::plan::Sizes;
use crate::pool::{Pool, TableVerifier};
use net::{Admission, AdmissionConfig, ConnConfig, ConnCore, OutboxLimits, Rate, Rates};
use net::{Timeouts, TrustedProxies};
use proto::{Limits, Now, Placement, Secret, SeededState};
use serve::{Core, CoreParts, Machine, Owned, Owners, Post, Sending, SocketId};
use shards::checker::Checker;
use shards::door::{Answer, Asks, Question, ReadQuestion};
use shards::home::{Home, HomeConfig, HomeEffects, HomeInput, NegConfig, Reply};
use shards::mesh::{Port, mesh_with_slots};
use shards::message::{Client, CoreId, Envelope, ShardId};
use shards::shard::{Shard, ShardConfig};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use store::{OpenError, StoreConfig, StoreEffect, StoreInput};

/// The directory's secret: runs differ by their seed, not by it.
pub const SECRET: Secret = Secret([0x5e; 16]);
/// Free bytes of a disk that has room.
const FREE_BYTES: u64 = 1 << 40;
/// Below this events are refused.
const FREE_MIN_BYTES: u64 = 1 << 30;
/// The URL that clients know the relay by.
const PUBLIC_URL: &str = "wss://sim.example";

fn seed() -> SeededState {
    SeededState::new(Secret([0x77; 16]))
}

/// An effect that a core has asked for and the world has not taken yet.
#[derive(Debug)]
pub struct Asked {
    /// Which shard.
    pub shard: ShardId,
    /// Its place in the core's list.
    pub owner: usize,
    /// What.
    pub effect: StoreEffect,
}

/// What one core runs on. Owned by the node.
pub struct SimMachine {
    core: u16,
    network: Rc<RefCell<Network>>,
    shards: Vec<ShardId>,
    /// Effects of this turn.
    pub asked: Vec<Asked>,
    /// Answers that are there.
    pub ready: VecDeque<(usize, StoreInput)>,
    /// Cores to be woken.
    pub wakes: Vec<CoreId>,
    /// The disk is beyond its high-water mark.
    pub is_low: bool,
}

impl Machine for SimMachine {
    fn send(&mut self, socket: SocketId, chunk: Vec<u8>, _is_followed: bool) -> Sending {
        self.network.borrow_mut().send_to_client(self.core, socket, chunk)
    }

    fn pause_reading(&mut self, socket: SocketId) {
        self.network.borrow_mut().set_reading(self.core, socket, false);
    }

    fn resume_reading(&mut self, socket: SocketId) {
        self.network.borrow_mut().set_reading(self.core, socket, true);
    }

    fn shutdown_write(&mut self, socket: SocketId) {
        self.network.borrow_mut().shutdown_write(self.core, socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.network.borrow_mut().close(self.core, socket);
    }

    fn stop_listening(&mut self) {}

    fn resume_accepting(&mut self) {}

    fn perform(&mut self, _now: Now, owner: usize, effect: StoreEffect) -> io::Result<()> {
        self.asked.push(Asked { shard: self.shards[owner], owner, effect });
        Ok(())
    }

    fn has_answer(&self) -> bool {
        !self.ready.is_empty()
    }

    fn next_answer(&mut self) -> Option<(usize, StoreInput)> {
        self.ready.pop_front()
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(if self.is_low { FREE_MIN_BYTES / 2 } else { FREE_BYTES })
    }

    fn ask_write(&mut self, _shard: ShardId, _question: Question) {}

    fn ask_read(&mut self, _question: ReadQuestion) {}

    fn next_verdict(&mut self) -> Option<(Option<ShardId>, Answer)> {
        None
    }

    fn wake(&mut self, core: CoreId) {
        self.wakes.push(core);
    }
}

/// One core and its machine.
pub struct SimCore {
    /// The product.
    pub core: Core,
    /// What it runs on.
    pub machine: SimMachine,
    /// When its next turn is due, in microseconds; which of several appointments counts.
    pub turn_us: u64,
    /// See `turn_us`.
    pub appointment: u64,
}

/// The control core: a home without connections.
pub struct Control {
    home: Home,
    fx: HomeEffects,
    post: Post,
    /// What it was told.
    pub replies: Vec<Reply>,
    generation: u32,
    /// See [`SimCore::turn_us`].
    pub turn_us: u64,
    /// See [`SimCore::appointment`].
    pub appointment: u64,
}

impl Control {
    /// Asks something; the answers name the client that is returned.
    pub fn ask(&mut self, now: Now, ask: impl FnOnce(Client) -> HomeInput) -> Client {
        self.generation += 1;
        let client = Client { slot: 0, generation: self.generation };
        self.home.step(now, ask(client), &mut self.fx);
        client
    }

    /// Nobody wants the answers any more.
    pub fn gone(&mut self, now: Now, client: Client) {
        self.home.step(now, HomeInput::Gone(client), &mut self.fx);
    }

    /// One turn; as the engine's control core takes it. Returns cores to be woken, and whether it
    /// may sleep.
    pub fn turn(&mut self, now: Now) -> (Vec<CoreId>, bool) {
        let mut wakes = Vec::new();
        self.post.unpark();
        while let Some(envelope) = self.post.take() {
            if let Envelope::Home { from, message } = envelope {
                self.home.step(now, HomeInput::From(from, message), &mut self.fx);
            }
        }
        if self.home.has_work() || now.monotonic_ms >= self.home.deadline_ms() {
            self.home.step(now, HomeInput::Turn, &mut self.fx);
        }
        for (shard, message) in self.fx.to_shard.drain(..) {
            self.post.to_shard(shard, message);
        }
        self.post.flush(|core| wakes.push(core));
        self.replies.append(&mut self.fx.replies);
        let may_sleep = !self.home.has_work() && self.post.park();
        (wakes, may_sleep)
    }

    /// The home, to be looked at.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

/// One life of the relay.
pub struct Node {
    /// Its executors.
    pub cores: Vec<SimCore>,
    /// Its control core.
    pub control: Control,
    /// What it was started with.
    pub sizes: Sizes,
}

/// The configuration of a shard's store in this life.
pub fn store_config(sizes: &Sizes, shard: ShardId) -> StoreConfig {
    let mut config = StoreConfig::new(shard, SECRET, seed());
    config.delta_bytes_max = sizes.delta_bytes_max;
    config.checkpoint_events = sizes.checkpoint_events;
    config.checkpoint_after_ms = sizes.checkpoint_after_ms;
    config.segment_bytes_max = sizes.segment_bytes_max;
    config.batch_bytes_max = sizes.batch_bytes_max;
    config.hot_bytes_max = sizes.hot_bytes_max;
    config.sketch_bytes_max = sizes.sketch_bytes_max;
    config.dead_percent = sizes.dead_percent;
    config.erase_after_s = sizes.erase_after_s;
    config.generation_events = sizes.generation_events;
    config.upkeep_rows_max = sizes.upkeep_rows_max;
    config
}

/// The limits of the protocol in this life.
fn limits(sizes: &Sizes) -> Limits {
    Limits { max_limit: sizes.max_limit, default_limit: sizes.max_limit, ..Limits::default() }
}

fn home(sizes: &Sizes, shards: u16, core: u16) -> Home {
    Home::new(HomeConfig {
        core,
        placement: Placement::even(SECRET, shards),
        limits: limits(sizes),
        subscriptions_max: sizes.subscriptions_max,
        auth_required: sizes.auth_required,
        public_url: Some(PUBLIC_URL.to_owned()),
        door: Asks::NOTHING,
        submit_credit: sizes.submit_credit,
        page_bytes_max: sizes.page_bytes_max,
        filter_bytes_max: sizes.filter_bytes_max,
        neg: NegConfig::default(),
        query_slots: sizes.query_slots,
        seed: seed(),
    })
}

fn conn_config(sizes: &Sizes) -> ConnConfig {
    ConnConfig {
        limits: limits(sizes),
        timeouts: Timeouts { ping_ms: 20_000, ..Timeouts::default() },
        rates: if sizes.has_rates {
            Rates {
                messages: Rate::per_second(8),
                events: Rate::per_second(2),
                queries: Rate::per_second(4),
                invalid: Rate::per_minute(20),
            }
        } else {
            Rates::OFF
        },
        outbox: OutboxLimits {
            soft_bytes: sizes.outbox_soft_bytes,
            hard_bytes: sizes.outbox_hard_bytes,
        },
        outbox_total_bytes_max: sizes.outbox_total_bytes,
        auth_required: sizes.auth_required,
        negentropy: true,
        public_url: Some(PUBLIC_URL.to_owned()),
        ..ConnConfig::default()
    }
}

impl Node {
    /// Opens all shards and starts the cores, as the engine does.
    ///
    /// # Errors
    /// The shard that cannot be opened, and why.
    pub fn start(
        sizes: &Sizes,
        disks: &[Disk],
        network: &Rc<RefCell<Network>>,
        pool: &Pool,
        now: Now,
    ) -> Result<Self, (ShardId, OpenError)> {
        let executors = sizes.executors.min(disks.len() as u16).max(1);
        let mut ports = mesh_with_slots(usize::from(executors) + 1, sizes.mesh_slots);
        let shards = disks.len() as u16;
        let control_port = ports.pop().expect("a mesh has a port for the control core");
        let mut cores = Vec::new();
        for (core, port) in (0..).zip(ports) {
            cores.push(start_core(sizes, (core, executors), port, disks, network, pool, now)?);
        }
        let control = Control {
            home: home(&Sizes { page_bytes_max: 64 << 20, ..sizes.clone() }, shards, executors),
            fx: HomeEffects::default(),
            post: Post::new(control_port, executors.into()),
            replies: Vec::new(),
            generation: 0,
            turn_us: u64::MAX,
            appointment: 0,
        };
        Ok(Self { cores, control, sizes: sizes.clone() })
    }
}

fn start_core(
    sizes: &Sizes,
    (core, executors): (u16, u16),
    port: Port,
    disks: &[Disk],
    network: &Rc<RefCell<Network>>,
    pool: &Pool,
    now: Now,
) -> Result<SimCore, (ShardId, OpenError)> {
    let shards = disks.len() as u16;
    let own: Vec<ShardId> = (core..shards).step_by(executors.into()).collect();
    let mut owned = Vec::new();
    for id in &own {
        let disk = &disks[usize::from(*id)];
        let mut effects = Vec::new();
        let config = store_config(sizes, *id);
        let store = store::open(config, &disk.index, &disk.segments, now, &mut effects)
            .map_err(|error| (*id, error))?;
        let config = ShardConfig {
            cores: usize::from(executors) + 1,
            secret: SECRET,
            seed: seed(),
            verify_slice: sizes.verify_slice,
            ticket_backlog: sizes.ticket_backlog,
            ticket_credit: sizes.ticket_credit,
            recent_ids_max: sizes.recent_ids_max,
            ring_bytes_max: sizes.ring_bytes_max,
            live_credit: sizes.live_credit,
            door_in_flight_max: 16,
        };
        let shard = Shard::new(config, store, Box::new(TableVerifier::new(pool)));
        owned.push(Owned { id: *id, shard, effects });
    }
    let admission = AdmissionConfig { new_per_address: Rate::OFF, ..AdmissionConfig::default() };
    let parts = CoreParts {
        post: Post::new(port, executors.into()),
        net: ConnCore::new(conn_config(sizes), Box::new(TableVerifier::new(pool))),
        admission: Admission::new(admission, seed()),
        home: home(sizes, shards, core),
        owners: Owners::new(owned),
        checker: Checker::new(Box::new(TableVerifier::new(pool))),
        metrics_allow: TrustedProxies::default(),
        free_min_bytes: FREE_MIN_BYTES,
        seed: seed(),
        stopwatch: || 0,
    };
    let machine = SimMachine {
        core,
        network: Rc::clone(network),
        shards: own,
        asked: Vec::new(),
        ready: VecDeque::new(),
        wakes: Vec::new(),
        is_low: false,
    };
    Ok(SimCore { core: Core::new(parts), machine, turn_us: u64::MAX, appointment: 0 })
}
