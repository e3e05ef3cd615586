//! The writing side of the log: the open batch, the batch in flight, and the segment that takes
//! them.
//!
//! One batch is in flight at most, so a valid batch proves that everything before it was durable.
//! The open batch collects what arrives meanwhile: group commit without a timer. A batch never
//! straddles segments, a segment is sealed before the next one is created, and the first batch of a
//! process goes into a segment that the process created itself, so bytes of an earlier life are
//! never continued.

use crate::effect::{LogEffect, Seq, StoreEffect};
use crate::record::{
    self, BATCH_HEADER_BYTES, KillCause, SEGMENT_HEADER_BYTES, SegmentHeader, begin_batch,
    finish_batch,
};
use proto::nip::nip01::Slot;
use proto::{Event, EventId, PublicKey};

/// Where the log's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// No segment is open; the next batch makes one.
    Closed,
    /// A segment is being created.
    Creating { segment: Seq },
    /// A segment takes batches at `offset`.
    Open { segment: Seq, offset: u32 },
    /// A segment is being cut at its length.
    Sealing { segment: Seq },
}

/// A batch that has been given its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framed {
    /// The segment that takes it.
    pub segment: Seq,
    /// Where it begins.
    pub offset: u32,
    /// The sequence of its last record.
    pub through: Seq,
}

/// The log's end. Owned by the shard's core; bounded by the open batch and the one in flight.
#[derive(Debug)]
pub struct Log {
    shard: u16,
    epoch: u64,
    segment_bytes_max: u32,
    /// Last sequence given out.
    appended: Seq,
    /// Bytes of the open batch, header room included.
    batch: Vec<u8>,
    /// Records in the open batch.
    batch_count: u32,
    end: End,
    in_flight: Option<Framed>,
    /// The next batch begins another segment.
    is_roll_wanted: bool,
}

/// What a new log continues.
#[derive(Clone, Copy, Debug)]
pub struct LogStart {
    /// The shard, for segment headers.
    pub shard: u16,
    /// The life of this process.
    pub epoch: u64,
    /// The last sequence of the log so far.
    pub last_seq: Seq,
    /// Greatest length of a segment.
    pub segment_bytes_max: u32,
}

impl Log {
    /// A log that continues after `last_seq` in a new segment.
    pub fn new(start: LogStart) -> Self {
        let mut batch = Vec::new();
        begin_batch(&mut batch);
        Self {
            shard: start.shard,
            epoch: start.epoch,
            segment_bytes_max: start.segment_bytes_max,
            appended: start.last_seq,
            batch,
            batch_count: 0,
            end: End::Closed,
            in_flight: None,
            is_roll_wanted: false,
        }
    }

    /// Last sequence given out.
    pub fn appended(&self) -> Seq {
        self.appended
    }

    /// Bytes of the open batch's records.
    pub fn batch_bytes(&self) -> usize {
        self.batch.len() - BATCH_HEADER_BYTES
    }

    /// Whether a batch is in flight.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether nothing is open, in flight, or under way.
    pub fn is_closed(&self) -> bool {
        self.end == End::Closed && self.batch_count == 0
    }

    fn next(&mut self) -> Seq {
        self.appended += 1;
        self.batch_count += 1;
        self.appended
    }

    /// Appends a `Put`; returns its sequence and where the packed event begins in the batch.
    pub fn put(&mut self, event: &Event, flags: u8) -> (Seq, u32) {
        let at = record::write_put(&mut self.batch, flags, event);
        (self.next(), at as u32)
    }

    /// Appends a `Kill`.
    pub fn kill(&mut self, victim: Seq, why: KillCause) -> Seq {
        record::write_kill(&mut self.batch, victim, why);
        self.next()
    }

    /// Appends a `MarkId`.
    pub fn mark_id(&mut self, id: &EventId, by: &PublicKey) -> Seq {
        record::write_mark_id(&mut self.batch, id, by);
        self.next()
    }

    /// Appends a `MarkSlot`.
    pub fn mark_slot(&mut self, slot: &Slot, until: u32) -> Seq {
        record::write_mark_slot(&mut self.batch, slot, until);
        self.next()
    }

    /// Appends a `Vanish`.
    pub fn vanish(&mut self, key: &PublicKey, until: u32) -> Seq {
        record::write_vanish(&mut self.batch, key, until);
        self.next()
    }

    /// Appends a `Purged`.
    pub fn purged(&mut self, key: &PublicKey, until: u32) -> Seq {
        record::write_purged(&mut self.batch, key, until);
        self.next()
    }

    /// Does what can be done now to bring the open batch into the log.
    pub fn flush(&mut self, fx: &mut Vec<StoreEffect>) {
        if self.batch_count == 0 || self.in_flight.is_some() {
            return;
        }
        match self.end {
            End::Creating { .. } | End::Sealing { .. } => {}
            End::Closed => {
                let segment = self.batch_first_seq();
                let header =
                    SegmentHeader { shard: self.shard, first_seq: segment, epoch: self.epoch };
                self.end = End::Creating { segment };
                fx.push(StoreEffect::Log(LogEffect::Create { segment, header: header.encode() }));
            }
            End::Open { segment, offset } => {
                let is_first = offset as usize == SEGMENT_HEADER_BYTES;
                let end = offset as usize + self.batch.len();
                let is_full = end > self.segment_bytes_max as usize || self.is_roll_wanted;
                if is_full && !is_first {
                    self.seal(segment, offset, fx);
                } else {
                    self.write(segment, offset, fx);
                }
            }
        }
    }

    fn batch_first_seq(&self) -> Seq {
        self.appended + 1 - u64::from(self.batch_count)
    }

    fn write(&mut self, segment: Seq, offset: u32, fx: &mut Vec<StoreEffect>) {
        let (first_seq, count) = (self.batch_first_seq(), self.batch_count);
        // The next batch is likely to be about as large as this one.
        let mut bytes = Vec::with_capacity(self.batch.len().min(1 << 20));
        begin_batch(&mut bytes);
        std::mem::swap(&mut bytes, &mut self.batch);
        self.batch_count = 0;
        finish_batch(&mut bytes, segment, self.epoch, first_seq, count);
        let through = self.appended;
        self.end = End::Open { segment, offset: offset + bytes.len() as u32 };
        self.in_flight = Some(Framed { segment, offset, through });
        fx.push(StoreEffect::Log(LogEffect::Write { segment, offset, bytes, through }));
    }

    fn seal(&mut self, segment: Seq, length: u32, fx: &mut Vec<StoreEffect>) {
        self.end = End::Sealing { segment };
        self.is_roll_wanted = false;
        fx.push(StoreEffect::Log(LogEffect::Seal { segment, length }));
    }

    /// The segment that is open or about to be, or is being sealed.
    pub fn open_segment(&self) -> Option<Seq> {
        match self.end {
            End::Closed => None,
            End::Creating { segment } | End::Open { segment, .. } | End::Sealing { segment } => {
                Some(segment)
            }
        }
    }

    /// Seals the open segment as soon as nothing is being written to it.
    pub fn roll(&mut self, fx: &mut Vec<StoreEffect>) {
        if matches!(self.end, End::Open { .. } | End::Creating { .. }) {
            self.is_roll_wanted = true;
            self.close(fx);
        }
    }

    /// Cuts the open segment if nothing is in flight or waiting.
    pub fn close(&mut self, fx: &mut Vec<StoreEffect>) {
        if let End::Open { segment, offset } = self.end
            && self.in_flight.is_none()
            && self.batch_count == 0
        {
            self.seal(segment, offset, fx);
        }
    }

    /// A segment exists.
    pub fn created(&mut self, segment: Seq) {
        assert_eq!(self.end, End::Creating { segment }, "only what was asked for is answered");
        self.end = End::Open { segment, offset: SEGMENT_HEADER_BYTES as u32 };
    }

    /// A segment is cut.
    pub fn sealed(&mut self, segment: Seq) {
        assert_eq!(self.end, End::Sealing { segment }, "only what was asked for is answered");
        self.end = End::Closed;
    }

    /// The batch in flight is durable.
    pub fn durable(&mut self, through: Seq) -> Framed {
        let framed = self.in_flight.take().expect("a batch is in flight when one is answered");
        assert_eq!(framed.through, through, "the batch in flight is the one that is answered");
        framed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(segment_bytes_max: u32) -> Log {
        Log::new(LogStart { shard: 3, epoch: 9, last_seq: 40, segment_bytes_max })
    }

    fn kinds(fx: &[StoreEffect]) -> Vec<&'static str> {
        fx.iter()
            .map(|effect| match effect {
                StoreEffect::Log(LogEffect::Create { .. }) => "create",
                StoreEffect::Log(LogEffect::Write { .. }) => "write",
                StoreEffect::Log(LogEffect::Seal { .. }) => "seal",
                _ => "other",
            })
            .collect()
    }

    #[test]
    fn first_batch_makes_its_own_segment_and_one_is_in_flight() {
        let (mut log, mut fx) = (log(1 << 20), Vec::new());
        assert_eq!(log.kill(7, KillCause::Deleted), 41);
        log.flush(&mut fx);
        log.flush(&mut fx);
        assert_eq!(kinds(&fx), ["create"]);
        log.created(41);
        log.flush(&mut fx);
        assert_eq!(log.kill(8, KillCause::Deleted), 42);
        log.flush(&mut fx);
        assert_eq!(kinds(&fx), ["create", "write"], "the second batch waits for the first");
        let framed = log.durable(41);
        assert_eq!((framed.segment, framed.offset), (41, SEGMENT_HEADER_BYTES as u32));
        log.flush(&mut fx);
        assert_eq!(log.durable(42).offset, (SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES + 10) as u32);
    }

    #[test]
    fn a_full_segment_is_sealed_before_the_next_is_created() {
        let (mut log, mut fx) = (log(SEGMENT_HEADER_BYTES as u32 + 40), Vec::new());
        log.kill(7, KillCause::Deleted);
        log.flush(&mut fx);
        log.created(41);
        log.flush(&mut fx);
        log.durable(41);
        log.kill(8, KillCause::Deleted);
        log.flush(&mut fx);
        assert_eq!(kinds(&fx), ["create", "write", "seal"]);
        log.flush(&mut fx);
        assert_eq!(fx.len(), 3);
        log.sealed(41);
        log.flush(&mut fx);
        log.created(42);
        log.flush(&mut fx);
        assert_eq!(kinds(&fx), ["create", "write", "seal", "create", "write"]);
        log.durable(42);
        log.close(&mut fx);
        log.sealed(42);
        assert!(log.is_closed());
    }
}
