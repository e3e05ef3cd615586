//! What the store tells the shard.

use crate::effect::{Loc, Position, Seq, Token, WorldError};
use crate::view::Answers;
use proto::Event;
use proto::nip::nip77::Accumulator;

/// A visible stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it stands in the answer.
    pub position: Position,
    /// Its sequence.
    pub seq: Seq,
    /// Its place.
    pub loc: Loc,
    /// Its body when that is in memory; else it is to be fetched.
    pub event: Option<Event>,
}

/// What the store tells the shard.
#[derive(Clone, Debug)]
pub enum StoreOutput {
    /// Events that became durable, in order. One that the same batch killed is among them, because
    /// its publisher waits for the answer; [`crate::Store::is_visible`] tells it from one that readers may see.
    Durable {
        /// The new durable horizon.
        through: Seq,
        /// The events.
        puts: Vec<(Seq, Event)>,
    },
    /// The index answered a lookup.
    Looked {
        /// Which.
        token: Token,
        /// What.
        answers: Answers,
    },
    /// A page of visible rows in order: dead, expired and `seq > horizon` dropped.
    Rows {
        /// Which scan.
        token: Token,
        /// The rows.
        rows: Vec<Row>,
        /// Every visible row at or before this position is in `rows` or was answered earlier;
        /// `None` when nothing is left.
        complete_to: Option<Position>,
        /// Rows that were looked at.
        scanned: u32,
    },
    /// The sums of a sync set: bucket and sum, ascending, empty ones left out.
    Sums {
        /// Which read.
        token: Token,
        /// The sums.
        sums: Vec<(u32, Accumulator)>,
    },
    /// Bodies in the order asked for; `None` where the bytes are damaged.
    Fetched {
        /// Which fetch.
        token: Token,
        /// The bodies.
        bodies: Vec<Option<Event>>,
    },
    /// A read failed: that request is answered with `error:`, the store goes on.
    Failed {
        /// Which read.
        token: Token,
        /// Why.
        error: WorldError,
    },
    /// A write, a sync or a commit failed: the process must end without answering anyone.
    Fatal(WorldError),
}

/// Counters and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Events put.
    pub puts: u64,
    /// Events replaced by a newer version.
    pub replaced: u64,
    /// Events deleted by request.
    pub deleted: u64,
    /// Events removed because they expired.
    pub expired: u64,
    /// Events removed by the operator.
    pub removed: u64,
    /// Events removed because a key asked to vanish.
    pub vanished: u64,
    /// Requests to vanish.
    pub vanishes: u64,
    /// Requests to vanish whose removals have not ended.
    pub purges: usize,
    /// Log batches made durable.
    pub batches: u64,
    /// Log bytes made durable.
    pub log_bytes: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Generations of the index, as of the last step of its upkeep.
    pub generations: u64,
    /// Generations that were sealed or written anew.
    pub generations_sealed: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Bytes past the last whole batch that recovery cut off: what was in flight when the process
    /// before this one ended.
    pub torn_bytes: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes of them.
    pub segment_bytes: u64,
    /// Bytes of dead events among them.
    pub dead_bytes: u64,
    /// Times that segments were written anew without what is dead in them.
    pub rewrites: u64,
    /// Times that this was not possible; [`mod@crate::scrub`] says why.
    pub rewrites_refused: u64,
    /// Times that a write or a checkpoint found no room on the disk.
    pub no_room: u64,
    /// Bytes that rewriting gave back.
    pub bytes_reclaimed: u64,
    /// Bytes of the delta.
    pub delta_bytes: usize,
    /// Events of the delta.
    pub delta_events: usize,
    /// Bytes of bodies in memory.
    pub hot_bytes: usize,
    /// Bytes of the sketch.
    pub sketch_bytes: usize,
    /// Sequences appended.
    pub appended: Seq,
    /// Sequences durable.
    pub durable: Seq,
    /// Sequences in the index.
    pub applied: Seq,
}
