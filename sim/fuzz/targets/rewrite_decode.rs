//! Rewritten segments of any bytes: refused or read to their end without a panic, in order of
//! sequence and within the range that the header names; and a segment that is whole is read by a
//! start as well.

use crate::bytes::Bytes;
use crate::events;
use crate::image;
use crate::store_world::{self, SECRET, World, config};
use store::index::segments::SegmentRow;
use store::mem::{MemIndex, MemSegments};
use store::record::{write_kill, write_put, write_vanish};
use store::rewrite::format::{BatchWriter, Footer, RewrittenBatch, RewrittenHeader, name_of};
use store::rewrite::reader::{Head, SegmentReader};
use store::seam::SegmentEntry;
use store::{Index, KillCause, OpenError, RecoveryError, Segments};

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

/// Batches of records in an order that the input chooses, with checksums, footer and a row in the
/// index that are all in order: a start takes exactly what the reader takes.
fn built(bytes: &mut Bytes<'_>) {
    let segment = name_of(1, 1);
    let last_seq = 1 + bytes.below(24) as u64;
    let header = RewrittenHeader { shard: 0, segment, last_seq, purged_through: 30, epoch: 1 };
    let mut whole = header.encode();
    let (mut batches, mut records) = (0, 0);
    let (mut seq, mut first) = (0, 0);
    for _ in 0..bytes.below(5) {
        let mut writer = BatchWriter::default();
        for _ in 0..=bytes.below(4) {
            // Mostly upwards.
            seq = if bytes.one_in(6) { bytes.below(26) as u64 } else { seq + 1 + bytes.below(3) as u64 };
            // Within a batch sequences are counted from its first one.
            first = if writer.count() == 0 { seq } else { first };
            if seq < first {
                break;
            }
            let mut record = Vec::new();
            match bytes.byte() % 3 {
                0 => write_kill(&mut record, 1 + bytes.below(40) as u64, KillCause::Deleted),
                1 => drop(write_put(&mut record, 0, &events::plain(bytes, seq as usize))),
                _ => write_vanish(&mut record, &store_world::author(1), bytes.u32()),
            }
            writer.push(seq, &record);
            records += 1;
        }
        if writer.count() > 0 {
            whole.extend(writer.finish(&header));
            batches += 1;
        }
    }
    let (length, crc) = (whole.len() as u32, crc32c::crc32c(&whole));
    whole.extend(Footer { batches, records, bytes: length, crc }.encode());
    let disk = MemSegments::default();
    disk.create(segment, &whole).expect("memory writes");
    let index = MemIndex::new(SECRET);
    let row = SegmentRow { last_seq, ..SegmentRow::default() };
    index.adopt(&[(segment, row)]).expect("memory writes");
    let opened = World::try_open(config(), index, disk);
    let error = opened.as_ref().err().map(ToString::to_string);
    assert_eq!(opened.is_ok(), read(segment, &whole), "a start says {error:?}");
}

pub fn run(data: &[u8]) {
    if data.first().is_some_and(|byte| byte % 2 == 1) {
        return built(&mut Bytes(&data[1..]));
    }
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
