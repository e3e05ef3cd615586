//! What a start finds in the log, as a state machine over segments: it asks for bytes, applies the
//! records that the index lacks, and decides nothing else.
//!
//! A bad batch is a torn tail only if nothing valid with a higher sequence follows it anywhere and
//! its sequence is above what the index has applied. One batch is in flight at most, so anything
//! valid after a bad batch proves that the bad one was durable once: then acknowledged events are
//! lost, and the store refuses to open and names their range. Rot in the very last batch cannot be
//! told from a tear; nothing can.
//!
//! The search for what follows a bad batch cannot be misled by what clients wrote: an event's text
//! holds no zero byte, and the length field of every batch that fits a segment has one.
//!
//! The last segment is cut at its verified length and synced before anyone sees its events (a
//! killed process may have left bytes that no sync ever covered), and nobody writes to it again. Its
//! last batch is written once more before that: the process before may have ended because the sync of
//! it failed, and then the system takes it for written and no later sync covers it.

use crate::delta::Generation;
use crate::effect::{Loc, Seq};
use crate::key::EventKeys;
use crate::record::{Batch, HeaderError, Record, SEGMENT_HEADER_BYTES, SegmentHeader, find_batch};
use crate::rewrite::format::{Footer, RewrittenBatch, RewrittenHeader};
use crate::rewrite::layout::{Layout, Placed};
use crate::store::StoreConfig;
use crate::sums;
use proto::{Filter, Secret};
use std::sync::Arc;

/// Why a store refuses to open. Every variant but [`RecoveryError::Version`] and
/// [`RecoveryError::OtherShard`] means that bytes which were durable are damaged or gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Records that were durable are damaged.
    #[error(
        "log segment {segment:016x} is damaged at byte {offset}: records {from} to {to} were \
         durable and are lost"
    )]
    Damaged {
        /// The segment.
        segment: Seq,
        /// Where its valid part ends.
        offset: u32,
        /// First lost sequence.
        from: Seq,
        /// Last lost sequence.
        to: Seq,
    },
    /// Records that were durable are in no segment.
    #[error("the log lacks records {from} to {to}, which were durable")]
    Missing {
        /// First lost sequence.
        from: Seq,
        /// Last lost sequence.
        to: Seq,
    },
    /// A segment's header is damaged; it was synced before the segment got its name.
    #[error("log segment {segment:016x} has a damaged header")]
    Header {
        /// The segment.
        segment: Seq,
    },
    /// A segment was written by a newer program.
    #[error(
        "log segment {segment:016x} has format version {version}, which is newer than this program"
    )]
    Version {
        /// The segment.
        segment: Seq,
        /// Its version.
        version: u16,
    },
    /// A rewritten segment is not what the index points into, and nothing else holds its range.
    #[error(
        "log segment {segment:016x} was rewritten and the index does not know of it: rebuild the \
         index with `turnpike reindex`"
    )]
    Unindexed {
        /// The segment.
        segment: Seq,
    },
    /// A segment belongs to another shard.
    #[error("log segment {segment:016x} was written by shard {shard}")]
    OtherShard {
        /// The segment.
        segment: Seq,
        /// The shard that wrote it.
        shard: u16,
    },
    /// A segment's header names another first sequence than its file.
    #[error("log segment {segment:016x} begins with record {first_seq}")]
    Misnamed {
        /// The segment.
        segment: Seq,
        /// What its header says.
        first_seq: Seq,
    },
    /// A batch's checksum holds and its records do not.
    #[error("log segment {segment:016x} has a batch at byte {offset} whose records make no sense")]
    Records {
        /// The segment.
        segment: Seq,
        /// Where the batch begins.
        offset: u32,
    },
    /// The log's epochs have run out or go backwards.
    #[error(
        "log segment {segment:016x} has epoch {epoch}, which does not follow its predecessor's"
    )]
    Epoch {
        /// The segment.
        segment: Seq,
        /// Its epoch.
        epoch: u64,
    },
}

/// What recovery needs next.
#[derive(Clone, Debug)]
pub enum Need {
    /// All bytes of a segment; answer with [`Recovery::feed`].
    Read {
        /// The segment.
        segment: Seq,
    },
    /// More records than the delta should hold: apply them to the index, then call
    /// [`Recovery::applied`].
    Apply(Arc<Generation>),
    /// Cut the last segment at its verified length, durably; then call [`Recovery::sealed`].
    Seal {
        /// The segment.
        segment: Seq,
        /// Where its last batch begins, the only one whose sync may have failed.
        last: u32,
        /// Its verified length.
        length: u32,
    },
    /// Nothing: call [`Recovery::finish`].
    Nothing,
}

/// What a store begins with.
#[derive(Debug)]
pub struct Recovered {
    /// The records that the index lacks.
    pub generation: Generation,
    /// The life that begins now.
    pub epoch: u64,
    /// Bytes past the last valid batch that were cut off: what was in flight at the end.
    pub torn_bytes: u64,
}

/// Recovery of one shard's log. Holds one generation of the delta.
#[derive(Debug)]
pub struct Recovery {
    shard: u16,
    secret: Secret,
    sync_filters: Arc<[Filter]>,
    events_max: usize,
    bytes_max: usize,
    applied: Seq,
    segments: Vec<Placed>,
    /// The segment to read next.
    at: usize,
    /// The sequence that the next valid batch begins with; 0 before the first segment is read.
    expected: Seq,
    epoch: u64,
    /// The latest life that wrote a rewritten segment.
    epoch_min: u64,
    generation: Generation,
    in_apply: Option<Arc<Generation>>,
    /// Where the last batch of the last segment begins, and where that segment is to be cut.
    unsealed: Option<(Seq, u32, u32)>,
    torn_bytes: u64,
}

impl Recovery {
    /// Begins recovery of a log whose index has applied everything up to `applied`.
    ///
    /// # Errors
    /// [`RecoveryError::Missing`] when the segments cannot hold what the index lacks or has.
    pub fn new(config: &StoreConfig, applied: Seq, layout: Layout) -> Result<Self, RecoveryError> {
        let segments = layout.placed;
        // Segments whose every record is in the index are not read: only the one that holds the
        // first record above it, and those after.
        let at = segments.partition_point(|placed| placed.first_seq <= applied + 1);
        let mut at = match (at.checked_sub(1), segments.first()) {
            (Some(at), _) => at,
            (None, None) if applied == 0 => 0,
            (None, None) => return Err(RecoveryError::Missing { from: 1, to: applied }),
            (None, Some(first)) => {
                return Err(RecoveryError::Missing { from: applied + 1, to: first.first_seq - 1 });
            }
        };
        let mut expected = 0;
        // A rewritten segment says where it ends, so one that is indexed whole is passed over.
        if let Some(placed) = segments.get(at)
            && placed.is_rewritten()
            && let Some(last_seq) = placed.last_seq.filter(|last_seq| *last_seq <= applied)
        {
            expected = last_seq + 1;
            at += 1;
            let next = segments.get(at).map_or(applied + 1, |next| next.first_seq);
            if next > expected {
                return Err(RecoveryError::Missing { from: expected, to: next - 1 });
            }
        }
        Ok(Self {
            shard: config.shard,
            secret: config.secret,
            sync_filters: Arc::clone(&config.sync_filters),
            events_max: config.checkpoint_events,
            bytes_max: config.delta_bytes_max / 2,
            applied,
            segments,
            at,
            expected,
            epoch: 0,
            epoch_min: layout.epoch,
            generation: Generation::new(applied + 1, config.seed),
            in_apply: None,
            unsealed: None,
            torn_bytes: 0,
        })
    }

    /// What is needed next.
    pub fn need(&mut self) -> Need {
        if let Some(generation) = &self.in_apply {
            return Need::Apply(generation.clone());
        }
        let is_large = self.generation.events() >= self.events_max
            || self.generation.bytes_held() >= self.bytes_max;
        if let Some((segment, last, length)) = self.unsealed {
            return Need::Seal { segment, last, length };
        }
        if is_large {
            let successor = self.generation.successor();
            let generation = Arc::new(std::mem::replace(&mut self.generation, successor));
            self.in_apply = Some(generation.clone());
            return Need::Apply(generation);
        }
        match self.segments.get(self.at) {
            Some(entry) => Need::Read { segment: entry.segment },
            None => Need::Nothing,
        }
    }

    /// Bytes of the segments that have been read.
    pub fn bytes_read(&self) -> u64 {
        self.segments[..self.at].iter().map(|placed| placed.bytes).sum()
    }

    /// The index has applied the generation that [`Need::Apply`] named.
    pub fn applied(&mut self) {
        let generation = self.in_apply.take().expect("called in answer to Need::Apply");
        self.applied = generation.last_seq();
    }

    /// The last segment has been cut.
    pub fn sealed(&mut self) {
        self.unsealed = None;
    }

    /// Takes the bytes of the segment that [`Need::Read`] named.
    ///
    /// # Errors
    /// [`RecoveryError`] when durable records are damaged or missing.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), RecoveryError> {
        let placed = self.segments[self.at];
        if placed.is_rewritten() {
            return self.feed_rewritten(placed, bytes);
        }
        let segment = placed.segment;
        let header = self.check_header(segment, bytes)?;
        let (last, verified) = self.replay(segment, header.epoch, bytes)?;
        let offset = verified as u32;
        let above = self.expected - 1;
        if let Some((_, later)) = find_batch(bytes, verified, segment, header.epoch, above) {
            let to = (later.first_seq - 1).max(self.expected);
            return Err(RecoveryError::Damaged { segment, offset, from: self.expected, to });
        }
        self.at += 1;
        if self.at < self.segments.len() {
            let next = self.segments[self.at].first_seq;
            if next > self.expected {
                let (from, to) = (self.expected, next - 1);
                return Err(RecoveryError::Damaged { segment, offset, from, to });
            }
            return Ok(());
        }
        if self.expected <= self.applied {
            let (from, to) = (self.expected, self.applied);
            return Err(RecoveryError::Damaged { segment, offset, from, to });
        }
        self.torn_bytes = tail_bytes(&bytes[verified..]);
        if verified > SEGMENT_HEADER_BYTES {
            self.unsealed = Some((segment, last as u32, offset));
        }
        Ok(())
    }

    /// Takes the bytes of a rewritten segment, which is whole or damaged: it was synced before it
    /// got its name.
    fn feed_rewritten(&mut self, placed: Placed, bytes: &[u8]) -> Result<(), RecoveryError> {
        let segment = placed.segment;
        let header = decode_rewritten(bytes, segment, self.shard)?;
        self.epoch = self.epoch.max(header.epoch);
        let damaged = |offset: usize, from: Seq| RecoveryError::Damaged {
            segment,
            offset: offset as u32,
            from,
            to: header.last_seq,
        };
        let mut at = SEGMENT_HEADER_BYTES;
        let mut next = header.first_seq();
        while let Some(batch) = bytes.get(at..).and_then(|rest| RewrittenBatch::read(rest, &header))
        {
            let wrong = RecoveryError::Records { segment, offset: at as u32 };
            for (seq, record, _) in batch.spans().ok_or_else(|| wrong.clone())? {
                if !(next..=header.last_seq).contains(&seq) {
                    return Err(wrong);
                }
                if seq >= self.generation.first_seq() {
                    self.generation.skip(seq - 1);
                    self.apply(seq, record, segment, at);
                }
                next = seq + 1;
            }
            at += batch.bytes.len();
        }
        if Footer::decode(&bytes[at..]).is_none_or(|footer| footer.bytes as usize != at) {
            return Err(damaged(at, next));
        }
        self.generation.skip(header.last_seq);
        self.expected = header.last_seq + 1;
        self.at += 1;
        let after = self.segments.get(self.at).map_or(self.applied + 1, |next| next.first_seq);
        if after > self.expected {
            return Err(RecoveryError::Missing { from: self.expected, to: after - 1 });
        }
        Ok(())
    }

    fn check_header(&mut self, segment: Seq, bytes: &[u8]) -> Result<SegmentHeader, RecoveryError> {
        let header = SegmentHeader::decode(bytes).map_err(|error| match error {
            HeaderError::Damaged => RecoveryError::Header { segment },
            HeaderError::Version(version) => RecoveryError::Version { segment, version },
        })?;
        if header.shard != self.shard {
            return Err(RecoveryError::OtherShard { segment, shard: header.shard });
        }
        let follows = self.expected == 0 || header.first_seq == self.expected;
        if header.first_seq != segment || !follows {
            return Err(RecoveryError::Misnamed { segment, first_seq: header.first_seq });
        }
        if header.epoch < self.epoch || header.epoch == u64::MAX {
            return Err(RecoveryError::Epoch { segment, epoch: header.epoch });
        }
        self.epoch = header.epoch;
        self.expected = header.first_seq;
        Ok(header)
    }

    /// Applies the valid batches at the beginning of a segment; returns where the last of them begins
    /// and ends.
    fn replay(
        &mut self,
        segment: Seq,
        epoch: u64,
        bytes: &[u8],
    ) -> Result<(usize, usize), RecoveryError> {
        let mut last = SEGMENT_HEADER_BYTES;
        let mut at = SEGMENT_HEADER_BYTES;
        while let Some(batch) = Batch::read(&bytes[at..], segment, epoch)
            && batch.first_seq == self.expected
        {
            let wrong = RecoveryError::Records { segment, offset: at as u32 };
            for (seq, record) in (batch.first_seq..).zip(batch.records().ok_or(wrong)?) {
                if seq >= self.generation.first_seq() {
                    self.apply(seq, record, segment, at);
                }
            }
            self.expected = batch.last_seq() + 1;
            last = at;
            at += batch.bytes.len();
        }
        Ok((last, at))
    }

    fn apply(&mut self, seq: Seq, record: Record<'_>, segment: Seq, batch_at: usize) {
        match record {
            Record::Put { flags, event, at } => {
                let keys = EventKeys::of(&event, &self.secret);
                let loc = Loc {
                    segment,
                    offset: batch_at as u32 + at,
                    length: event.packed().len() as u32,
                    flags: flags | sums::membership(&self.sync_filters, &event),
                    expires_at: keys.expires_at,
                };
                self.generation.put(seq, loc, &keys);
            }
            Record::Kill { victim, why } => self.generation.kill(seq, victim, why),
            Record::MarkId { id, by } => self.generation.mark_id(seq, id, by),
            Record::MarkSlot { slot, until } => {
                self.generation.mark_slot(seq, slot.key(&self.secret), until);
            }
            Record::Vanish { key, until } => self.generation.vanish(seq, key, until),
            Record::Purged { key, until } => self.generation.end_purge(seq, key, until),
        }
    }

    /// What the store begins with.
    pub fn finish(mut self) -> Recovered {
        assert!(matches!(self.need(), Need::Nothing), "every need is met before the end");
        Recovered {
            generation: self.generation,
            epoch: self.epoch.max(self.epoch_min) + 1,
            torn_bytes: self.torn_bytes,
        }
    }
}

fn decode_rewritten(
    bytes: &[u8],
    segment: Seq,
    shard: u16,
) -> Result<RewrittenHeader, RecoveryError> {
    let header = RewrittenHeader::decode(bytes).map_err(|error| match error {
        HeaderError::Damaged => RecoveryError::Header { segment },
        HeaderError::Version(version) => RecoveryError::Version { segment, version },
    })?;
    if header.shard != shard {
        return Err(RecoveryError::OtherShard { segment, shard: header.shard });
    }
    if header.segment != segment {
        return Err(RecoveryError::Misnamed { segment, first_seq: header.segment });
    }
    Ok(header)
}

/// Bytes up to the last one that is not zero: what a torn write left, the zeros written ahead of it
/// not counted.
fn tail_bytes(tail: &[u8]) -> u64 {
    tail.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}
