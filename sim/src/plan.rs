//! What one run is made of: everything is drawn from the seed, each fault absent in half of the
//! runs (swarm testing), sizes small so that every bound is reached.

use bench::rng::Rng;

/// A fault that a run may have. The names are those of `--without`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The process is killed; what it wrote is in the page cache.
    Kill,
    /// The machine loses power; what was not synced may be lost, torn or reordered.
    PowerCut,
    /// A read of log or index reports an error.
    ReadError,
    /// A write, sync or commit reports an error.
    WriteError,
    /// The disk is full for some seconds.
    NoSpace,
    /// A bit of the log flips.
    BitFlip,
    /// Syncs take up to seconds.
    SlowDisk,
    /// Rings, slots and credits hold next to nothing.
    TightRings,
    /// Connections are reset.
    NetCut,
    /// Connections stall.
    NetStall,
    /// The wall clock jumps.
    WallJump,
    /// Another number of cores and other limits after a restart.
    Reconfigure,
    /// The index is rebuilt from the log at a restart.
    Reindex,
    /// Another number of shards after a restart.
    Reshard,
    /// The operator compacts.
    Compact,
    /// The operator removes and bans events.
    Remove,
    /// Clients that read slowly, those among them that mean harm.
    SlowClients,
    /// Clients that send garbage and near misses.
    Malice,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::PowerCut,
        Self::ReadError,
        Self::WriteError,
        Self::NoSpace,
        Self::BitFlip,
        Self::SlowDisk,
        Self::TightRings,
        Self::NetCut,
        Self::NetStall,
        Self::WallJump,
        Self::Reconfigure,
        Self::Reindex,
        Self::Reshard,
        Self::Compact,
        Self::Remove,
        Self::SlowClients,
        Self::Malice,
    ];

    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
            Self::ReadError => "read-error",
            Self::WriteError => "write-error",
            Self::NoSpace => "no-space",
            Self::BitFlip => "bit-flip",
            Self::SlowDisk => "slow-disk",
            Self::TightRings => "tight-rings",
            Self::NetCut => "net-cut",
            Self::NetStall => "net-stall",
            Self::WallJump => "wall-jump",
            Self::Reconfigure => "reconfigure",
            Self::Reindex => "reindex",
            Self::Reshard => "reshard",
            Self::Compact => "compact",
            Self::Remove => "remove",
            Self::SlowClients => "slow-clients",
            Self::Malice => "malice",
        }
    }

    /// The fault of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// What the operator of a failing seed may take away from it.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Client operations.
    pub ops: Option<u32>,
    /// Shards.
    pub shards: Option<u16>,
    /// Honest clients.
    pub clients: Option<usize>,
    /// Faults that do not happen.
    pub without: Vec<Fault>,
}

/// Sizes of one life of the node; drawn anew at a restart if [`Fault::Reconfigure`] says so.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Cores that run shards and connections.
    pub executors: u16,
    /// Of the store.
    pub checkpoint_events: usize,
    /// Of the store.
    pub checkpoint_after_ms: u64,
    /// Of the store.
    pub delta_bytes_max: usize,
    /// Of the store.
    pub segment_bytes_max: u32,
    /// Of the store.
    pub batch_bytes_max: usize,
    /// Of the store.
    pub hot_bytes_max: usize,
    /// Of the store.
    pub sketch_bytes_max: usize,
    /// Of the store.
    pub dead_percent: u8,
    /// Of the store.
    pub erase_after_s: u64,
    /// Of the store.
    pub generation_events: u64,
    /// Of the store.
    pub upkeep_rows_max: u32,
    /// Of the shard.
    pub verify_slice: usize,
    /// Of the shard.
    pub ticket_backlog: usize,
    /// Of the shard.
    pub ticket_credit: usize,
    /// Of the shard.
    pub recent_ids_max: usize,
    /// Of the shard.
    pub ring_bytes_max: usize,
    /// Of the shard.
    pub live_credit: u32,
    /// Of the home.
    pub query_slots: u32,
    /// Of the home.
    pub submit_credit: u32,
    /// Of the home.
    pub page_bytes_max: usize,
    /// Of the home.
    pub filter_bytes_max: usize,
    /// Of the home.
    pub subscriptions_max: usize,
    /// Batches in a ring between two cores.
    pub mesh_slots: usize,
    /// Of a connection.
    pub outbox_soft_bytes: usize,
    /// Of a connection.
    pub outbox_hard_bytes: usize,
    /// Of a core.
    pub outbox_total_bytes: usize,
    /// Rows per filter.
    pub max_limit: u32,
    /// Bytes that the kernel takes for a socket.
    pub socket_bytes: usize,
    /// Whether clients have rates.
    pub has_rates: bool,
    /// Whether permessage-deflate, AUTH first and other doors are in use.
    pub auth_required: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Client operations in all.
    pub ops: u32,
    /// Shards at the beginning.
    pub shards: u16,
    /// Honest clients, the slow ones among them.
    pub clients: usize,
    /// How many of them read slowly.
    pub slow_clients: usize,
    /// Clients that mean harm.
    pub malicious: usize,
    /// Families whose events are published.
    pub families: Vec<usize>,
    /// Faults that may happen.
    pub faults: Vec<Fault>,
    /// Lives of the node; all but the last end by a fault or a stop.
    pub lives: u32,
    /// How many of 256 unsynced sectors survive a power cut.
    pub survive_of_256: u16,
    /// Errors in a million disk operations.
    pub errors_ppm: u64,
    /// Greatest time of a sync.
    pub sync_us_max: u64,
    /// Pause between a client's operations, at most.
    pub think_us_max: u64,
    /// Bits that flip.
    pub flips: u32,
    /// The first life's sizes.
    pub sizes: Sizes,
}

impl Plan {
    /// Draws a run.
    pub fn draw(seed: u64, families: usize, overrides: &Overrides) -> Self {
        let mut rng = Rng::new(seed ^ 0x706c_616e);
        let faults: Vec<Fault> = Fault::ALL
            .into_iter()
            .filter(|fault| {
                // Rot ends many a run early, and a fault that kills the process hides others.
                let (parts, whole) = match fault {
                    Fault::BitFlip | Fault::WriteError => (1, 6),
                    _ => (1, 2),
                };
                rng.chance(parts, whole) && !overrides.without.contains(fault)
            })
            .collect();
        let has = |fault| faults.contains(&fault);
        let shards = rng.between(2, 8) as u16;
        let clients = rng.between(3, 6) as usize;
        let ops = rng.between(300, 500) as u32;
        // At least one reads at once.
        let slow = rng.between(1, clients as u64 - 1) as usize;
        let harm = 1 + rng.below(2) as usize;
        let first = rng.below(families as u64) as usize;
        let count = rng.between(3, 6) as usize;
        let restarts = [Fault::Kill, Fault::PowerCut, Fault::Reconfigure, Fault::Reshard];
        let lives = if restarts.into_iter().any(has) { rng.between(2, 4) } else { 1 };
        let survive_of_256 = *rng.pick(&[0, 64, 128, 256]);
        let errors_ppm = *rng.pick(&[500, 3_000, 20_000]);
        let slow_sync = *rng.pick(&[50_000, 500_000, 5_000_000]);
        let think_us_max = *rng.pick(&[3_000, 20_000, 100_000, 400_000]);
        let flips = rng.between(1, 3) as u32;
        let shards = overrides.shards.unwrap_or(shards);
        let sizes = Sizes::draw(&mut rng, shards, has(Fault::TightRings));
        Self {
            seed,
            ops: overrides.ops.unwrap_or(ops),
            shards,
            clients: overrides.clients.unwrap_or(clients),
            slow_clients: if has(Fault::SlowClients) { slow } else { 0 },
            malicious: if has(Fault::Malice) { harm } else { 0 },
            families: (0..count).map(|at| (first + at) % families).collect(),
            lives: lives as u32,
            survive_of_256,
            errors_ppm,
            sync_us_max: if has(Fault::SlowDisk) { slow_sync } else { 4_000 },
            think_us_max,
            flips,
            sizes,
            faults,
        }
    }

    /// Whether this fault may happen.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

impl Sizes {
    /// Draws the sizes of a life.
    pub fn draw(rng: &mut Rng, shards: u16, is_tight: bool) -> Self {
        let tight = |rng: &mut Rng, tight: [u64; 3], wide: u64| {
            let drawn = *rng.pick(&tight);
            if is_tight { drawn } else { wide }
        };
        let submit_credit = tight(rng, [1, 4, 16], 256) as u32;
        let query_slots = tight(rng, [1, 9, 20], 512) as u32;
        let live_credit = tight(rng, [1, 3, 20], 1_024) as u32;
        let mesh_slots = tight(rng, [1, 2, 8], 512) as usize;
        let ring_bytes_max = tight(rng, [2_000, 10_000, 60_000], 1 << 20) as usize;
        let soft = *rng.pick(&[12_000, 40_000, 256 * 1024]);
        Self {
            executors: rng.between(1, u64::from(shards)) as u16,
            checkpoint_events: *rng.pick(&[4, 16, 60, 400]),
            checkpoint_after_ms: *rng.pick(&[1_000, 5_000, 60_000]),
            delta_bytes_max: *rng.pick(&[24_000, 200_000, 8 << 20]),
            segment_bytes_max: *rng.pick(&[4_096, 16_384, 65_536, 1 << 20]),
            batch_bytes_max: *rng.pick(&[6_000, 60_000, 4 << 20]),
            hot_bytes_max: *rng.pick(&[0, 4_000, 1 << 20]),
            sketch_bytes_max: *rng.pick(&[64, 4_096, 1 << 20]),
            dead_percent: *rng.pick(&[5, 30, 60]),
            erase_after_s: *rng.pick(&[4, 20, 120, 86_400]),
            generation_events: *rng.pick(&[5, 15, 60, 250]),
            upkeep_rows_max: *rng.pick(&[3, 20, 100, 1_000]),
            verify_slice: *rng.pick(&[1, 4, 16]),
            recent_ids_max: *rng.pick(&[2, 30, 16_384]),
            ring_bytes_max,
            live_credit,
            query_slots,
            submit_credit,
            page_bytes_max: *rng.pick(&[150_000, 8 << 20]),
            filter_bytes_max: *rng.pick(&[80_000, 8 << 20]),
            subscriptions_max: *rng.pick(&[3, 20]),
            mesh_slots,
            outbox_soft_bytes: soft,
            outbox_hard_bytes: soft * 4,
            outbox_total_bytes: *rng.pick(&[60_000, 200_000, 8 << 20]),
            max_limit: *rng.pick(&[5, 40, 500]),
            socket_bytes: *rng.pick(&[700, 8_000, 200_000]),
            has_rates: rng.chance(1, 4),
            auth_required: rng.chance(1, 12),
            ticket_backlog: *rng.pick(&[0, 1, 32]),
            ticket_credit: *rng.pick(&[1, 5, 64]),
        }
    }
}
