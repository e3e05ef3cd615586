//! What crosses between a home (the core that owns a connection) and an owner (the shard that owns
//! a key). Plain values, no references to anybody's state.
//!
//! Ordering is the contract: messages of one ordered pair (home, shard) arrive in the order they
//! were sent. Everything about the border between stored and live events rests on it.
//!
//! Bounds: a home has at most [`SUBMIT_CREDIT`] submissions per shard, [`SUBMIT_BYTES`] of them in
//! all, and [`QUERY_SLOTS`] query replies under way, all counted by the home, which is the one that
//! drains the answers. Live batches need the home's credit, and a shard has at most
//! [`TICKET_CREDIT`] signatures with another core. Hence no queue between cores can grow without
//! bound, and replies never wait for requests.

use crate::door;
use proto::nip::nip45::Hll;
use proto::nip::nip77::Accumulator;
use proto::verify::VerifyItem;
use proto::{Event, EventId, Filter, PublicKey, Reason};
use std::sync::Arc;
use store::effect::Position;
use store::store::CompactionProgress;

/// Index of a core (executor); the control core comes after the executors.
pub type CoreId = u16;
/// Index of a shard; independent of cores.
pub type ShardId = u16;
/// Position in a shard's ring of live events; starts at 0 with the process, contiguous.
pub type LiveIndex = u64;

/// Events under way from one home to one shard, unless [`crate::HomeConfig`] says more.
pub const SUBMIT_CREDIT: u32 = 256;
/// Ids in one removal by the operator.
pub const REMOVE_IDS_MAX: usize = 256;
/// Bytes of events under way from one home to all shards, shared among them evenly.
pub const SUBMIT_BYTES: usize = 8 * 1024 * 1024;
/// Query replies under way to one home, unless [`crate::HomeConfig`] says otherwise.
pub const QUERY_SLOTS: u32 = 512;
/// Bytes of packed events in one page (a single larger event still makes a page).
pub const PAGE_BYTES_MAX: usize = 128 * 1024;
/// Rows in one page.
pub const PAGE_ROWS_MAX: u32 = 512;
/// Positions in one page of ids: 36 bytes each, so not much more than a page of events.
pub const PAGE_IDS_MAX: u32 = 4096;
/// Live events that a home lets a shard send ahead, unless [`crate::ShardConfig`] says otherwise.
pub const LIVE_CREDIT: u32 = 1024;

/// Signatures that one shard lets one other core check at a time, unless [`crate::ShardConfig`] says
/// otherwise: 8 KiB of them.
pub const TICKET_CREDIT: usize = 64;
/// Signatures of one ticket.
pub const TICKET_ITEMS_MAX: usize = 16;

/// A connection (or a control task) of a home. The generation keeps an answer that is late from
/// reaching the next user of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// Slab slot.
    pub slot: u32,
    /// Use of the slot.
    pub generation: u32,
}

/// Names a submission in its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Who published.
    pub client: Client,
    /// Bytes that the event is charged with at the home.
    pub bytes: u32,
    /// The home's number of a request to vanish, which several shards have a part in.
    pub vanish: Option<u32>,
}

/// Names a query in its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId {
    /// Slab slot.
    pub slot: u32,
    /// Use of the slot.
    pub generation: u32,
}

/// Where a submitted event comes from; decides which rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client, now.
    Client,
    /// `turnpike import`: windows of time and proof of work do not apply.
    Import,
    /// `turnpike import --no-verify`: nor does the signature, until the first serving.
    ImportUnverified,
}

/// Signatures of one shard that another core checks for it: everything that a verdict depends on and
/// nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyTicket {
    /// The shard's number of it; comes back.
    pub number: u64,
    /// At most [`TICKET_ITEMS_MAX`].
    pub items: Box<[VerifyItem]>,
}

/// What a shard has to do with an event that is submitted to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It owns the event: it decides and stores.
    Owner,
    /// The event is a request to vanish that another shard has accepted: this one verifies it and
    /// takes note that the key vanishes here, too.
    Witness,
}

/// Which of the ids of a removal are banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ban {
    /// None: a removed event may be published again.
    None,
    /// Those that the shard has found.
    Found,
    /// All of them, found or not.
    All,
}

/// Who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A client with the keys that it authenticated.
    Client(Arc<[PublicKey]>),
    /// The operator: everything, private kinds included.
    Operator,
}

impl Reader {
    /// Whether this reader may see `event`.
    pub fn may_read(&self, event: &proto::EventRef<'_>) -> bool {
        match self {
            Self::Client(keys) => proto::nip::nip17::may_read(keys, event),
            Self::Operator => true,
        }
    }
}

/// What a query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryMode {
    /// Rows, in pages.
    Rows {
        /// Rows wanted in the first page; 0 asks for none (a live-only subscription).
        first_page_rows: u32,
    },
    /// Times and ids, in pages.
    Ids {
        /// Ids wanted in the first page.
        first_page_ids: u32,
        /// The filters are windows of this sync set: membership is known without bodies.
        sync_set: Option<u8>,
    },
    /// The number of matching events; limits do not apply.
    Count {
        /// Where in a public key the registers of NIP-45 begin to read, if they are wanted.
        hll_offset: Option<u8>,
    },
}

/// A query as one shard sees it.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its name in the home.
    pub id: QueryId,
    /// OR-ed filters.
    pub filters: Arc<[Filter]>,
    /// Rows each filter may still contribute, already clamped.
    pub limits: Arc<[u64]>,
    /// Who asks.
    pub reader: Reader,
    /// Pages or a count.
    pub mode: QueryMode,
    /// Whether live events are wanted from the shard's horizon on.
    pub live: bool,
    /// Latest monotonic millisecond at which the shard still works on it.
    pub deadline_ms: u64,
}

/// From a home to a shard.
#[derive(Debug)]
pub enum ToShard {
    /// Decide and store. Answer: [`ToHome::Outcome`].
    Submit {
        /// Comes back.
        ticket: Ticket,
        /// Shape checked; id and signature not.
        event: Event,
        /// Which rules apply.
        origin: Origin,
        /// What the shard has to do with it.
        role: Role,
        /// Who sent it, if the policy door is to be asked about it.
        source: Option<Arc<door::Source>>,
    },
    /// Install interest, note the horizon, begin to answer. Answers: [`ToHome::Installed`] at once
    /// if live, then one [`ToHome::Page`], [`ToHome::Ids`], [`ToHome::Counted`] or
    /// [`ToHome::QueryFailed`].
    Query(Box<Query>),
    /// The next page. Answer: [`ToHome::Page`], [`ToHome::Ids`] or [`ToHome::QueryFailed`].
    More {
        /// Which query.
        query: QueryId,
        /// Rows wanted.
        rows: u32,
        /// Rows each filter may still contribute.
        limits: Arc<[u64]>,
        /// Latest monotonic millisecond at which the shard still works on the page.
        deadline_ms: u64,
    },
    /// What does the shard's part of a sync set add up to? Answer: [`ToHome::Sums`] or
    /// [`ToHome::QueryFailed`].
    Sums {
        /// Comes back.
        query: QueryId,
        /// Number of the set.
        set: u8,
    },
    /// The rest of the stored phase is not wanted. A reply under way still comes.
    Cancel {
        /// Which query.
        query: QueryId,
    },
    /// This many live subscriptions that touched the shard have ended.
    Uninterest {
        /// How many.
        subscriptions: u32,
    },
    /// The home has taken this many live events off its queue.
    LiveCredit {
        /// How many.
        events: u32,
    },
    /// The operator removes events. Answer: [`ToHome::Removed`].
    Remove {
        /// Comes back.
        query: QueryId,
        /// Which, at most [`REMOVE_IDS_MAX`]; the shard may own none of them.
        ids: Arc<[EventId]>,
        /// Which of them may never come back.
        ban: Ban,
    },
    /// A core has checked the signatures of a ticket.
    Verified {
        /// [`VerifyTicket::number`].
        number: u64,
        /// One for each item, in order.
        verdicts: Box<[bool]>,
    },
    /// Rewrite every log segment in which anything is dead. [`ShardStats::compaction`] says how far
    /// that is.
    Compact,
    /// What does the shard hold? Answer: [`ToHome::Stats`].
    Stats {
        /// Comes back.
        query: QueryId,
    },
}

/// One row of a page.
#[derive(Clone, Debug)]
pub struct PageRow {
    /// The event.
    pub event: Event,
    /// Bit `i`: filter `i` matches (at most 128 filters).
    pub matched: u128,
}

/// One page of a shard's ordered answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// Rows in order (created_at descending, id ascending).
    pub rows: Vec<PageRow>,
    /// Every matching row up to here has been sent; `None`: there is nothing more.
    pub complete_to: Option<Position>,
    /// Rows were left out that match only filters that have had their limit.
    pub left_out: bool,
}

/// What a shard holds, for `info` and metrics.
#[derive(Clone, Debug, Default)]
pub struct ShardStats {
    /// Counters of the shard.
    pub counters: crate::counters::ShardCounters,
    /// Durable sequence.
    pub durable: u64,
    /// The index holds everything up to this sequence.
    pub applied: u64,
    /// Bytes of the store's memory.
    pub store_bytes: usize,
    /// Bytes of the ring of live events.
    pub live_bytes: usize,
    /// Events waiting for a decision or for durability.
    pub ingest_depth: usize,
    /// How far the compaction that the operator asked for is; nothing when none is under way.
    pub compaction: Option<CompactionProgress>,
    /// Log segments written by rewriting since the start, and the bytes that it gave back.
    pub rewritten: (u64, u64),
    /// Generations of the index.
    pub index_generations: u64,
}

/// From a shard to a home.
#[derive(Debug)]
pub enum ToHome {
    /// What became of an event. `Ok` and [`Reason::is_accepted`] are `OK true`; both come only
    /// after the event they speak of is durable.
    Outcome {
        /// From the submission.
        ticket: Ticket,
        /// Which event.
        id: proto::EventId,
        /// Stored (or passed on), or why not.
        result: Result<(), Reason>,
        /// What the policy program wants its author to read instead of the reason's own text.
        note: Option<Arc<str>>,
        /// The policy program wants its author to believe that it was stored.
        is_shadowed: bool,
    },
    /// A key has vanished from the shard: nothing of it that the shard has sent may be served.
    Vanished {
        /// Whose.
        key: PublicKey,
        /// Up to when, inclusive.
        until: u32,
    },
    /// Answer to [`ToShard::Remove`], when it is durable.
    Removed {
        /// Comes back.
        query: QueryId,
        /// The ids that were found here and are gone now, or why nothing was done.
        result: Result<Vec<EventId>, Reason>,
    },
    /// Interest is installed: live events from `live_from` on belong to the query's subscription,
    /// everything stored before is in its pages.
    Installed {
        /// Which query.
        query: QueryId,
        /// The horizon.
        live_from: LiveIndex,
        /// The next index that will be sent to this home; below `live_from` while it lags.
        next: LiveIndex,
    },
    /// A page.
    Page {
        /// Which query.
        query: QueryId,
        /// The rows.
        page: Page,
    },
    /// A count.
    Counted {
        /// Which query.
        query: QueryId,
        /// Matching events of this shard.
        count: u64,
        /// The time was used up: there may be more.
        is_partial: bool,
        /// The authors of what was counted, if they were asked for.
        hll: Option<Box<Hll>>,
    },
    /// What the shard's part of a sync set adds up to, in order of bucket.
    Sums {
        /// Which query.
        query: QueryId,
        /// Bucket of time and the sum of its ids; `None` while they would count what is hidden.
        sums: Option<Box<[(u32, Accumulator)]>>,
    },
    /// A page of times and ids, in order.
    Ids {
        /// Which query.
        query: QueryId,
        /// In order, newest first.
        ids: Vec<Position>,
        /// Every match up to here has been sent; `None`: there is nothing more.
        complete_to: Option<Position>,
    },
    /// The query cannot be answered.
    QueryFailed {
        /// Which query.
        query: QueryId,
        /// Why.
        reason: Reason,
    },
    /// Live events, contiguous.
    Live {
        /// Index of the first.
        first: LiveIndex,
        /// The events.
        events: Arc<[Event]>,
    },
    /// The home fell off the ring: live events before `resume_at` are lost to it.
    FellBehind {
        /// Next index that will be sent.
        resume_at: LiveIndex,
    },
    /// Answer to [`ToShard::Stats`].
    Stats {
        /// Comes back.
        query: QueryId,
        /// The figures.
        stats: Box<ShardStats>,
    },
}

/// A message with its address, as the mesh carries it.
#[derive(Debug)]
pub enum Envelope {
    /// To a shard that lives on the receiving core.
    Shard {
        /// Sending core.
        from: CoreId,
        /// Which shard.
        to: ShardId,
        /// The message.
        message: ToShard,
    },
    /// To the receiving core's home.
    Home {
        /// Sending shard.
        from: ShardId,
        /// The message.
        message: ToHome,
    },
    /// To the receiving core's [`crate::checker::Checker`]. Answer: [`ToShard::Verified`].
    Verify {
        /// Whose ticket it is.
        from: ShardId,
        /// What to check.
        ticket: VerifyTicket,
    },
}
