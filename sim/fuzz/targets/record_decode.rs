//! Segments as the log writes them, of any bytes: headers, batches and records are refused or read
//! without a panic, nothing is read beyond what is there, and what is read is written the same again.

use crate::bytes::Bytes;
use crate::image;
use store::Loc;
use store::record::{
    BATCH_HEADER_BYTES, Batch, PUT_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentHeader,
    begin_batch, body_from, find_batch, finish_batch, write_kill, write_mark_id, write_mark_slot,
    write_purged, write_vanish,
};

/// Bytes of a record again; nothing for an event, whose bytes are compared as they are.
fn rewritten(record: &Record<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match record {
        Record::Put { .. } => return None,
        Record::Kill { victim, why } => write_kill(&mut out, *victim, *why),
        Record::MarkId { id, by } => write_mark_id(&mut out, id, by),
        Record::MarkSlot { slot, until } => write_mark_slot(&mut out, slot, *until),
        Record::Vanish { key, until } => write_vanish(&mut out, key, *until),
        Record::Purged { key, until } => write_purged(&mut out, key, *until),
    }
    Some(out)
}

fn check_batch(batch: &Batch<'_>) {
    let Some(spans) = batch.spans() else { return };
    assert_eq!(spans.len(), batch.count as usize);
    let mut at = BATCH_HEADER_BYTES;
    for (record, span) in &spans {
        assert_eq!(span.start, at, "records leave no gap");
        at = span.end;
        if let Some(again) = rewritten(record) {
            assert_eq!(batch.bytes[span.clone()], again);
        }
        if let Record::Put { event, at, .. } = record {
            let from = *at as usize;
            assert_eq!(from, span.start + PUT_HEADER_BYTES);
            assert_eq!(batch.bytes[from..span.end], *event.packed());
        }
    }
    assert_eq!(at, batch.bytes.len());
}

fn check_segment(segment: u64, bytes: &[u8]) {
    let Ok(header) = SegmentHeader::decode(bytes) else { return };
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(batch) = bytes.get(at..).and_then(|rest| Batch::read(rest, segment, header.epoch))
    {
        check_batch(&batch);
        at += batch.bytes.len();
    }
    if let Some((at, batch)) = find_batch(bytes, 1, segment, header.epoch, 3) {
        assert!(batch.first_seq > 3 && at >= 1);
        check_batch(&batch);
    }
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    // Bytes in place of the records of a batch whose checksum holds.
    let mut batch = Vec::new();
    begin_batch(&mut batch);
    let (first_seq, count) = (bytes.edgy(), bytes.below(6) as u32);
    batch.extend_from_slice(bytes.0);
    finish_batch(&mut batch, 7, 3, first_seq, count);
    let read = Batch::read(&batch, 7, 3).expect("its checksum holds");
    check_batch(&read);
    assert!(Batch::read(&batch, 7, 4).is_none() && Batch::read(&batch, 8, 3).is_none());
    if let Some((record, _)) = read.spans().and_then(|spans| spans.into_iter().next()) {
        let Record::Put { event, at, .. } = record else { return };
        let length = event.packed().len() as u32;
        let loc = Loc { segment: 7, offset: at, length, flags: 0, expires_at: 0 };
        let body = body_from(&batch[at as usize - 8..][..8 + length as usize], &loc);
        assert!(body.is_none_or(|body| body.packed() == event.packed()));
    }
    // A segment of any bytes, and the same with true checksums.
    check_segment(1, data);
    let mut segment = SegmentHeader { shard: 0, first_seq: 1, epoch: 1 }.encode();
    segment.extend_from_slice(data);
    image::repair(1, &mut segment);
    check_segment(1, &segment);
    if data.len() >= SEGMENT_HEADER_BYTES {
        let mut segment = data.to_vec();
        segment[..8].copy_from_slice(b"TPSEGMNT");
        image::repair(1, &mut segment);
        check_segment(1, &segment);
    }
}
