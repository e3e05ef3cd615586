//! Rewritten segments of any bytes: refused or read to their end without a panic, in order of
//! sequence and within the range that the header names; and a segment that is whole is read by a
//! start as well.

use crate::bytes::Bytes;
use crate::image;
use crate::store_world::{SECRET, World, config};
use store::Segments;
use store::mem::{MemIndex, MemSegments};
use store::rewrite::format::{Footer, RewrittenBatch, RewrittenHeader, name_of};
use store::rewrite::reader::{Head, SegmentReader};
use store::seam::SegmentEntry;
use store::{OpenError, RecoveryError};

/// Whether the reader takes it for whole.
fn read(segment: u64, bytes: &[u8]) -> bool {
    let disk = MemSegments::default();
    disk.create(segment, bytes).expect("memory writes");
    let entry = SegmentEntry { segment, bytes: bytes.len() as u64 };
    let Ok(mut reader) = SegmentReader::open(0, &disk, &entry) else { return false };
    let last_seq = match reader.head() {
        Head::Written(_) => u64::MAX,
        Head::Rewritten(header) => header.last_seq,
    };
    let mut at = reader.offset();
    loop {
        let least = reader.next_seq();
        match reader.next_batch(&disk) {
            Ok(Some(batch)) => {
                let mut next = least;
                for (seq, _, span) in &batch.records {
                    assert!(*seq >= next && *seq <= last_seq, "{seq} is out of order");
                    assert!(span.end <= batch.bytes.len());
                    next = seq + 1;
                }
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
        assert!(reader.offset() > at, "the reader makes no progress");
        at = reader.offset();
    }
}

fn start(segment: u64, bytes: &[u8]) {
    let disk = MemSegments::default();
    disk.create(segment, bytes).expect("memory writes");
    let is_whole = read(segment, bytes);
    match World::try_open(config(), MemIndex::new(SECRET), disk) {
        Ok(mut world) => drop(image::readable(&mut world)),
        Err(OpenError::Recovery(RecoveryError::Missing { .. }) | OpenError::World(_)) => {}
        Err(error) => assert!(!is_whole, "a start refuses what a reader takes: {error}"),
    }
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let _ = Footer::decode(data);
    let _ = RewrittenHeader::decode(data);
    let first_seq = 1 + bytes.below(3) as u64;
    let segment = name_of(first_seq, 1 + u16::from(bytes.byte() % 3));
    let mut header = RewrittenHeader {
        shard: 0,
        segment,
        last_seq: first_seq.max(bytes.edgy()),
        purged_through: bytes.edgy(),
        epoch: bytes.edgy(),
    };
    if let Some(batch) = RewrittenBatch::read(data, &header)
        && let Some(spans) = batch.spans()
    {
        assert_eq!(spans.len(), batch.count as usize);
    }
    // The rest as what follows a header, its checksums made true, its footer whole or not.
    if RewrittenHeader::decode(&header.encode()).is_err() {
        // Out of range; a program with a mistake could write it, so a start has to bear it.
        start(segment, &header.encode());
        header.last_seq = first_seq + header.last_seq % 1_000;
        header.purged_through %= 1_000;
        header.epoch %= 1_000;
    }
    let mut whole = header.encode();
    assert_eq!(RewrittenHeader::decode(&whole), Ok(header));
    let has_footer = bytes.one_in(2);
    whole.extend_from_slice(bytes.0);
    if has_footer {
        let footer = Footer { batches: 0, records: 0, bytes: 0, crc: 0 };
        whole.extend_from_slice(&footer.encode());
    }
    start(segment, &whole);
    image::repair(segment, &mut whole);
    if has_footer {
        // The counts, too.
        let at = whole.len() - 28;
        let (batches, records) = count(&whole[..at]);
        whole[at + 4..at + 8].copy_from_slice(&batches.to_le_bytes());
        whole[at + 8..at + 16].copy_from_slice(&records.to_le_bytes());
        image::repair(segment, &mut whole);
    }
    start(segment, &whole);
}

/// Batches and the records that they claim.
fn count(bytes: &[u8]) -> (u32, u64) {
    let (mut at, mut batches, mut records) = (64, 0, 0);
    while let Some(header) = bytes.get(at..at + 24) {
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        at += 24 + word(4) as usize;
        batches += 1;
        records += u64::from(word(8));
    }
    (batches, records)
}
