//! All cores of one process over one data directory: opened, started, ended. `turnpike run` lets
//! them listen; offline commands use them without.

use crate::config::{Ceiling, CeilingError, Config, Machine};
use crate::control::Control;
use crate::core_loop::{Executor, Machinery};
use crate::effects::{Performer, Place};
use crate::policy::{self, Policy, PolicyPort};
use crate::runtime::listener::{
    ListenerOptions, bind_listener, bind_local, check_free, local_address, unbind_local,
};
use crate::runtime::pool::Pool;
use crate::runtime::probe::Chosen;
use crate::runtime::reactor::{Backend, Reactor};
use crate::runtime::wake::Wake;
use crate::runtime::{clock, entropy, machine, threads};
use crate::settings;
use crate::shared::{Phase, Shared};
use net::{Admission, ConnCore};
use proto::verify::Secp256k1Verifier;
use proto::{Placement, Secret};
use rustix::fd::OwnedFd;
use serve::{Core, CoreParts, Owned, Owners, Post};
use shards::checker::Checker;
use shards::mesh::{Port, mesh};
use shards::message::{CoreId, SUBMIT_CREDIT};
use shards::shard::{Shard, ShardConfig};
use shards::{Home, HomeConfig, HomeInput};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use store::file::FileSegments;
use store::file::directory::DataDirectory;
use store::lmdb::{LmdbIndex, map_bytes_for};
use store::{OpenError, StoreConfig, WorldError};
use tuning::layout::Layout;

/// Parsed public keys that one verifier keeps, about 150 bytes each.
const VERIFIER_KEYS_MAX: usize = 8_192;
/// Name of the socket within the data directory on which the relay speaks to its operator as it does
/// to clients, without their limits.
pub const RELAY_SOCKET: &str = "relay.sock";
/// Connections to it that may wait to be accepted.
const LOCAL_BACKLOG: i32 = 64;
/// Signatures that a shard checks in one turn: about a millisecond. What a turn costs besides (a log
/// batch above all) is shared by so many events, and readers wait no longer than for a sync.
const VERIFY_SLICE: usize = 32;
/// Most executors; the mesh has a place for the control core, too.
pub const EXECUTORS_MAX: usize = shards::mesh::CORES_MAX - 1;
/// Signatures that wait at a shard before others are checked by other cores.
const TICKET_BACKLOG: usize = 32;
/// Ids that answer a duplicate without a look at the store, per shard.
const RECENT_IDS_MAX: usize = 16_384;

/// Which core of the processors `allowed` does what for `shards` shards.
pub fn layout(allowed: &[usize], shards: u16) -> Layout {
    let machine = tuning::machine::Machine::read(&tuning::tree::Tree::new("/"), allowed);
    Layout::new(&machine, allowed, shards, EXECUTORS_MAX)
}

/// Why the cores could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The memory budgets do not fit.
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
    /// A shard's store cannot be opened.
    #[error("shard {shard}: {error}")]
    Store {
        /// Which.
        shard: u16,
        /// Why.
        error: OpenError,
    },
    /// The system refuses something.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What every executor is started with.
#[derive(Clone)]
struct Common {
    config: Arc<Config>,
    directory: Arc<DataDirectory>,
    placement: Placement,
    ceiling: Ceiling,
    backend: Backend,
    executors: usize,
    pool: Pool,
    shared: Arc<Shared>,
    layout: Arc<Layout>,
}

/// What an executor tells the one who starts it.
enum Started {
    /// A shard is open, and its bytes are there.
    Shard(u16, Place),
    /// All are; the executor waits for its listener.
    Ready,
    Failed(StartError),
}

/// The running cores, seen from the thread that started them.
pub struct Cluster {
    /// The control core; it runs on the thread that owns this.
    pub control: Control,
    /// The memory ceiling in force.
    pub ceiling: Ceiling,
    /// Executors.
    pub executors: usize,
    /// The operator's plug-ins.
    pub policy: Policy,
    directory: Arc<DataDirectory>,
    listeners: Vec<Sender<Vec<OwnedFd>>>,
    threads: Vec<JoinHandle<()>>,
    /// Where the bytes of each shard are.
    places: BTreeMap<u16, Place>,
    /// The local socket, while there is one.
    local: Option<PathBuf>,
}

impl Cluster {
    /// Opens all shards of `directory`, in parallel; `progress` hears how many of how many are open.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn open(
        config: Arc<Config>,
        directory: DataDirectory,
        chosen: &Chosen,
        mut progress: impl FnMut(u16, u16),
    ) -> Result<Self, StartError> {
        let shards = directory.format().shards;
        let layout = layout(&machine::allowed_cores(), shards);
        let executors = layout.executors.len();
        let ceiling = Ceiling::compute(
            &config,
            Machine {
                memory_bytes: machine::memory_bytes(),
                cores: executors as u64,
                shards: shards.into(),
            },
        )?;
        let wakes: Vec<Wake> = (0..=executors).map(|_| Wake::new()).collect::<io::Result<_>>()?;
        let wakes: Arc<[Wake]> = wakes.into();
        let shared = Arc::new(Shared::new(Arc::clone(&config), Arc::clone(&wakes)));
        let common = Common {
            placement: directory.format().placement(),
            directory: Arc::new(directory),
            ceiling,
            backend: chosen.backend,
            executors,
            pool: Pool::start(layout.pool_threads)?,
            shared: Arc::clone(&shared),
            layout: Arc::new(layout),
            config,
        };
        let (policy, policy_ports) = Policy::start(&common.config, &wakes[..executors])?;
        let (reports, reported) = channel();
        let mut ports = mesh(executors + 1);
        let control_port = ports.pop().expect("a mesh has a port for the control core");
        let mut cluster = Self {
            control: control(&common, control_port, &wakes),
            ceiling,
            executors,
            policy,
            directory: Arc::clone(&common.directory),
            listeners: Vec::new(),
            threads: Vec::new(),
            places: BTreeMap::new(),
            local: None,
        };
        for ports in ports.into_iter().zip(policy_ports) {
            cluster.start_executor(&common, ports, &reports)?;
        }
        drop(reports);
        cluster.wait_until_open(&reported, shards, &mut progress)?;
        Ok(cluster)
    }

    fn start_executor(
        &mut self,
        common: &Common,
        ports: (Port, PolicyPort),
        reports: &Sender<Started>,
    ) -> io::Result<()> {
        let (listener, listeners) = channel::<Vec<OwnedFd>>();
        let (common, reports) = (common.clone(), reports.clone());
        let name = format!("core-{}", ports.0.core());
        let body = move || executor(&common, ports, &reports, &listeners);
        self.threads.push(threads::spawn(name, body)?);
        self.listeners.push(listener);
        Ok(())
    }

    fn wait_until_open(
        &mut self,
        reported: &Receiver<Started>,
        shards: u16,
        progress: &mut impl FnMut(u16, u16),
    ) -> Result<(), StartError> {
        let mut opened = 0;
        let mut ready = 0;
        while ready < self.executors {
            match reported.recv() {
                Ok(Started::Shard(shard, place)) => {
                    self.places.insert(shard, place);
                    opened += 1;
                    progress(opened, shards);
                }
                Ok(Started::Ready) => ready += 1,
                Ok(Started::Failed(error)) => return Err(error),
                Err(_) => return Err(io::Error::other("a core ended while it started").into()),
            }
        }
        Ok(())
    }

    /// Where the bytes of each shard are, to be read beside its core.
    pub fn places(&self) -> &BTreeMap<u16, Place> {
        &self.places
    }

    /// The data directory.
    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    /// Lets every core listen on `address`, and the first on the local socket; returns the address
    /// with the port that was taken.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn listen(&mut self, config: &Config, address: SocketAddr) -> io::Result<SocketAddr> {
        let options = ListenerOptions {
            backlog: i32::try_from(config.network.backlog).unwrap_or(i32::MAX),
            user_timeout_ms: config.network.tcp_user_timeout_ms,
        };
        if address.port() != 0 {
            check_free(address, options)?;
        }
        let first = bind_listener(address, options)?;
        let address = local_address(&first)?;
        let mut listeners = vec![vec![first]];
        for _ in 1..self.executors {
            listeners.push(vec![bind_listener(address, options)?]);
        }
        listeners[0].push(self.bind_local()?);
        self.policy.begin();
        self.start(listeners.into_iter())?;
        Ok(address)
    }

    /// Lets every core run, and the first one listen on the local socket only; returns its path.
    ///
    /// # Errors
    /// When it cannot be made, or a core has ended.
    pub fn listen_locally(&mut self) -> io::Result<PathBuf> {
        let local = self.bind_local()?;
        let mut listeners: Vec<_> = (0..self.executors).map(|_| Vec::new()).collect();
        listeners[0].push(local);
        self.start(listeners.into_iter())?;
        Ok(self.directory.path().join(RELAY_SOCKET))
    }

    fn bind_local(&mut self) -> io::Result<OwnedFd> {
        let path = self.directory.path().join(RELAY_SOCKET);
        let bound = bind_local(&path, LOCAL_BACKLOG).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        })?;
        self.local = Some(path);
        Ok(bound)
    }

    /// Lets every core run without listening.
    ///
    /// # Errors
    /// When a core has ended.
    pub fn start_offline(&mut self) -> io::Result<()> {
        self.start((0..self.executors).map(|_| Vec::new()))
    }

    fn start(&mut self, listeners: impl Iterator<Item = Vec<OwnedFd>>) -> io::Result<()> {
        for (core, own) in self.listeners.iter().zip(listeners) {
            core.send(own).map_err(|_| io::Error::other("a core ended before it could run"))?;
        }
        Ok(())
    }

    /// Puts in force what of a reloaded configuration needs no restart.
    pub fn reconfigure(&mut self, config: Arc<Config>) {
        // The plug-ins first: cores that are told to ask find somebody there.
        self.policy.reconfigure(&config);
        self.control.step(clock::now(), HomeInput::Asks(policy::asks(&config)));
        self.control.shared().reconfigure(config);
    }

    /// Ends all cores in order: answers out, connections closed, stores written down. `false` when
    /// that took longer than `timeout_ms`.
    pub fn end(mut self, timeout_ms: u64) -> bool {
        let deadline_ms = clock::now().monotonic_ms + timeout_ms;
        if let Some(local) = self.local.take() {
            unbind_local(&local);
        }
        self.policy.hurry();
        self.control.shared().advance(Phase::Draining);
        loop {
            self.control.advance_drain();
            // Nobody waits for these any more.
            drop(self.control.turn(10));
            if self.threads.iter().all(JoinHandle::is_finished) {
                break;
            }
            if clock::now().monotonic_ms > deadline_ms {
                return false;
            }
        }
        self.threads.drain(..).all(|thread| thread.join().is_ok())
    }
}

/// Events under way from a home to a shard: as many more than usual as may wait for a plug-in that
/// is there from the start, so that a slow one is asked about all of them at once.
fn submit_credit(config: &Config) -> u32 {
    match policy::asks(config).writes {
        true => SUBMIT_CREDIT.max(config.policy.in_flight_max as u32),
        false => SUBMIT_CREDIT,
    }
}

fn home_config(common: &Common, core: CoreId) -> HomeConfig {
    let (limits, subscriptions_max, auth_required) = settings::home_limits(&common.config);
    HomeConfig {
        core,
        placement: common.placement.clone(),
        limits,
        subscriptions_max,
        auth_required,
        public_url: settings::public_url(&common.config),
        door: policy::asks(&common.config),
        submit_credit: submit_credit(&common.config),
        query_slots: shards::message::QUERY_SLOTS,
        filter_bytes_max: common.ceiling.filters_core_bytes as usize,
        neg: settings::negentropy(&common.config, &common.ceiling),
        // Pages take half of the budget, live events held for slow readers the other half.
        page_bytes_max: common.ceiling.pages_core_bytes as usize / 2,
        seed: entropy::seed(),
    }
}

fn control(common: &Common, port: Port, wakes: &Arc<[Wake]>) -> Control {
    let core = port.core();
    let home = Home::new(home_config(common, core));
    let post = Post::new(port, common.executors);
    let wake = wakes[usize::from(core)].clone();
    Control::new(home, post, wake, Arc::clone(&common.shared))
}

/// The life of an executor thread.
fn executor(
    common: &Common,
    ports: (Port, PolicyPort),
    reports: &Sender<Started>,
    listeners: &Receiver<Vec<OwnedFd>>,
) {
    let core = ports.0.core();
    machine::pin_thread(common.layout.executors[usize::from(core)].cpu);
    let mut core_loop = match build(common, ports, reports) {
        Ok(built) => built,
        Err(error) => {
            let _ = reports.send(Started::Failed(error));
            return;
        }
    };
    if reports.send(Started::Ready).is_err() {
        return;
    }
    let Ok(own) = listeners.recv() else { return };
    let listened = own.into_iter().try_for_each(|listener| core_loop.listen(listener));
    if let Err(error) = listened.and_then(|()| core_loop.run()) {
        fatal(core, &error);
    }
}

/// The process ends without an answer to anyone.
fn fatal(core: CoreId, error: &io::Error) -> ! {
    crate::log::line(
        crate::log::Level::Error,
        &format!(
            "core {core} cannot go on: {error}. The process ends now without another answer: every \
             event whose OK a client has received is on disk, and nothing else was promised. Look \
             at the disk before starting again."
        ),
    );
    threads::end_process(1)
}

fn build(
    common: &Common,
    (port, policy): (Port, PolicyPort),
    reports: &Sender<Started>,
) -> Result<Executor, StartError> {
    let core = port.core();
    let wakes = Arc::clone(common.shared.wakes());
    let wake = wakes[usize::from(core)].clone();
    let mut owned = Vec::new();
    let mut places = Vec::new();
    for &shard in &common.layout.executors[usize::from(core)].shards {
        let (one, place) =
            open_shard(common, shard).map_err(|error| StartError::Store { shard, error })?;
        owned.push(one);
        places.push(place.clone());
        let _ = reports.send(Started::Shard(shard, place));
    }
    let performer = Performer::new(places, common.pool.clone(), wake.clone());
    let reactor = Reactor::new(common.backend, core.into(), wake)?;
    let seed = entropy::seed();
    let net_config = settings::first_conn_config(&common.config, &common.ceiling);
    let verifier = || Secp256k1Verifier::new(entropy::seed(), VERIFIER_KEYS_MAX);
    let parts = CoreParts {
        post: Post::new(port, common.executors),
        net: ConnCore::new(net_config, Box::new(verifier())),
        admission: Admission::new(settings::admission(&common.config, common.executors), seed),
        home: Home::new(home_config(common, core)),
        owners: Owners::new(owned),
        checker: Checker::new(Box::new(verifier())),
        metrics_allow: settings::metrics_allow(&common.config),
        free_min_bytes: settings::free_min_bytes(&common.config),
        seed,
        stopwatch: clock::monotonic_us,
    };
    let machinery = Machinery { reactor, performer, policy, wakes };
    Ok(Executor::new(Core::new(parts), machinery, Arc::clone(&common.shared)))
}

fn open_shard(common: &Common, shard: u16) -> Result<(Owned, Place), OpenError> {
    let config = &common.config.store;
    let secret: Secret = common.directory.format().secret;
    let seed = entropy::seed();
    let segment_bytes_max = config.segment_mib << 20;
    let store_config = StoreConfig {
        delta_bytes_max: common.ceiling.delta_shard_bytes as usize,
        checkpoint_events: config.checkpoint_events as usize,
        checkpoint_after_ms: config.checkpoint_interval_ms,
        segment_bytes_max,
        erase_after_s: u64::from(config.erase_after_h) * 3_600,
        hot_bytes_max: common.ceiling.hot_shard_bytes as usize,
        sync_filters: settings::sync_filters(&common.config),
        ..StoreConfig::new(shard, secret, seed)
    };
    let log_dir = common.directory.log_directory(shard);
    let index_dir = common.directory.index_directory(shard);
    let map_bytes = map_bytes_for(common.directory.path(), common.placement.shards());
    let filter_bytes_max = common.ceiling.ids_shard_bytes as usize;
    let index = LmdbIndex::open_bounded(&index_dir, secret, map_bytes, filter_bytes_max)?;
    let segments = FileSegments::open(&log_dir)?;
    let mut effects = Vec::new();
    let store = store::open(store_config, &index, &segments, clock::now(), &mut effects)?;
    let reader_dir = log_dir.clone();
    let place = Place {
        log_dir,
        segments: Arc::new(move || {
            Box::new(FileSegments::reader(&reader_dir).prewriting(segment_bytes_max))
        }),
        index: Arc::new(index),
        segment_bytes_max: u64::from(segment_bytes_max),
    };
    let shard_config = ShardConfig {
        cores: common.executors + 1,
        secret,
        seed,
        verify_slice: VERIFY_SLICE,
        ticket_backlog: TICKET_BACKLOG,
        ticket_credit: shards::message::TICKET_CREDIT,
        recent_ids_max: RECENT_IDS_MAX,
        ring_bytes_max: common.ceiling.ring_shard_bytes as usize,
        live_credit: shards::message::LIVE_CREDIT,
        door_in_flight_max: common.config.policy.in_flight_max,
    };
    let verifier = Secp256k1Verifier::new(entropy::seed(), VERIFIER_KEYS_MAX);
    let shard_state = Shard::new(shard_config, store, Box::new(verifier));
    Ok((Owned { id: shard, shard: shard_state, effects }, place))
}

impl From<WorldError> for StartError {
    fn from(error: WorldError) -> Self {
        Self::System(io::Error::other(error))
    }
}
