//! Keys sort as answers do, and every layout reads back what it wrote.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proto::nip::nip01::Slot;
use proto::{EventId, PublicKey, Secret};
use store::key::{
    LocRow, SEQ_MAX, SKETCHED_BIT, Tail, hash_kind_prefix, id4, ordered, tag_hash, tie_end,
};
use store::record::{
    Batch, Record, SegmentHeader, begin_batch, find_batch, finish_batch, write_kill, write_mark_id,
    write_mark_slot, write_purged, write_vanish,
};
use store::{KillCause, Loc, Position};

fn id() -> impl Strategy<Value = EventId> {
    // Few first bytes, so that ties on the prefix are drawn.
    (prop::collection::vec(0..3u8, 5), any::<[u8; 27]>()).prop_map(|(head, tail)| {
        let mut id = EventId([0; 32]);
        id.0[..5].copy_from_slice(&head);
        id.0[5..].copy_from_slice(&tail);
        id
    })
}

fn row() -> impl Strategy<Value = (u32, EventId, u64)> {
    let time = prop_oneof![0..4u32, Just(u32::MAX), any::<u32>()];
    (time, id(), prop_oneof![1..5u64, Just(SEQ_MAX)])
}

proptest! {
    #[test]
    fn keys_sort_as_positions_down_to_the_id_prefix(
        a in row(), b in row(), hashes in (0..2u64, 0..2u64), kinds in (0..2u16, 0..2u16),
    ) {
        let key = |(time, id, seq): &(u32, EventId, u64), hash, kind| {
            ordered(&hash_kind_prefix(hash, kind), Tail::of(*time, id, *seq))
        };
        let by_key = key(&a, hashes.0, kinds.0).cmp(&key(&b, hashes.1, kinds.1));
        let rank = |(time, id, seq): &(u32, EventId, u64), hash: u64, kind: u16| {
            (hash, kind, std::cmp::Reverse(*time), id4(id), *seq)
        };
        prop_assert_eq!(by_key, rank(&a, hashes.0, kinds.0).cmp(&rank(&b, hashes.1, kinds.1)));
        let position = |(time, id, _): &(u32, EventId, u64)| Position { created_at: *time, id: *id };
        let tie = |row: &(u32, EventId, u64)| (std::cmp::Reverse(row.0), id4(&row.1));
        if tie(&a) != tie(&b) {
            prop_assert_eq!(position(&a).cmp(&position(&b)), tie(&a).cmp(&tie(&b)));
        }
        let end = tie_end(a.0, id4(&a.1));
        prop_assert_eq!(position(&b) <= end, tie(&b) <= tie(&a), "a cut never divides a tie");
    }

    #[test]
    fn tails_and_places_read_back(
        (time, id, seq) in row(), words in any::<(u32, u32, u8)>(), far in 0..=SEQ_MAX,
    ) {
        let tail = Tail::of(time, &id, seq);
        prop_assert_eq!(Tail::read(&ordered(b"prefix", tail)), Some(tail));
        prop_assert_eq!(tail.created_at(), time);
        let (offset, length, flags) = words;
        let loc = Loc { segment: seq, offset, length, flags, expires_at: far };
        let place = LocRow { loc, position: Position { created_at: time, id } };
        let bytes = place.encode();
        prop_assert_eq!(LocRow::decode(&bytes), Some(place));
        prop_assert_eq!(LocRow::decode(&bytes[1..]), None);
    }

    #[test]
    fn batches_read_back_and_no_changed_byte_passes(
        marks in prop::collection::vec((id(), any::<[u8; 32]>(), any::<u32>(), ".{0,20}"), 1..6),
        first_seq in 1..1_000u64, flip in any::<(usize, u8)>(), junk in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = Vec::new();
        begin_batch(&mut bytes);
        let mut expected = Vec::new();
        for (id, key, until, d) in &marks {
            let by = PublicKey(*key);
            let slot = Slot { pubkey: by, kind: 30_000, d: d.as_bytes().into() };
            write_mark_id(&mut bytes, id, &by);
            write_mark_slot(&mut bytes, &slot, *until);
            write_kill(&mut bytes, u64::from(*until), KillCause::Vanished);
            write_vanish(&mut bytes, &by, *until);
            write_purged(&mut bytes, &by, *until);
            expected.push(Record::MarkId { id: *id, by });
            expected.push(Record::MarkSlot { slot, until: *until });
            expected.push(Record::Kill { victim: u64::from(*until), why: KillCause::Vanished });
            expected.push(Record::Vanish { key: by, until: *until });
            expected.push(Record::Purged { key: by, until: *until });
        }
        finish_batch(&mut bytes, 7, 3, first_seq, expected.len() as u32);
        let batch = Batch::read(&bytes, 7, 3).unwrap();
        prop_assert_eq!(batch.records().unwrap(), expected);
        prop_assert!(Batch::read(&bytes, 8, 3).is_none() && Batch::read(&bytes, 7, 4).is_none());
        let mut buried = junk.clone();
        buried.extend_from_slice(&bytes);
        let (at, found) = find_batch(&buried, 0, 7, 3, first_seq - 1).unwrap();
        prop_assert_eq!((at, found.first_seq), (junk.len(), first_seq));
        prop_assert!(find_batch(&buried, 0, 7, 3, first_seq).is_none());
        let mut changed = bytes.clone();
        let at = flip.0 % changed.len();
        changed[at] ^= flip.1.max(1);
        prop_assert!(Batch::read(&changed, 7, 3).is_none());
        prop_assert!(Batch::read(&bytes[..bytes.len() - 1], 7, 3).is_none());
    }

    #[test]
    fn batches_of_impossible_sequences_make_no_sense(above in 0..u64::MAX - SEQ_MAX, count in 1..5u32) {
        let batch_of = |first_seq: u64, victim: u64| {
            let mut bytes = Vec::new();
            begin_batch(&mut bytes);
            (0..count).for_each(|_| write_kill(&mut bytes, victim, KillCause::Deleted));
            finish_batch(&mut bytes, 7, 3, first_seq, count);
            bytes
        };
        let is_sense = |bytes: &[u8]| Batch::read(bytes, 7, 3).unwrap().records().is_some();
        prop_assert!(is_sense(&batch_of(SEQ_MAX + 1 - u64::from(count), SEQ_MAX)));
        prop_assert!(!is_sense(&batch_of(SEQ_MAX + 2 - u64::from(count) + above, 1)));
        prop_assert!(!is_sense(&batch_of(0, 1)));
        prop_assert!(!is_sense(&batch_of(1, SEQ_MAX + 1 + above)), "no such victim");
    }

    #[test]
    fn segment_headers_read_back(shard in any::<u16>(), first_seq in any::<u64>(), epoch in any::<u64>(), at in 0..36usize) {
        let header = SegmentHeader { shard, first_seq, epoch };
        let mut bytes = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&bytes).unwrap(), header);
        bytes[at] ^= 1;
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
    }

    #[test]
    fn letters_and_values_are_hashed_apart(value in "[a-z]{0,200}", secret in any::<[u8; 16]>()) {
        let secret = Secret(secret);
        let sketched = tag_hash(&secret, b'e', value.as_bytes());
        prop_assert!(sketched & SKETCHED_BIT != 0);
        prop_assert!(tag_hash(&secret, b'p', value.as_bytes()) & SKETCHED_BIT == 0);
        let longer = format!("{value}x");
        prop_assert!(tag_hash(&secret, b'e', longer.as_bytes()) != sketched);
        prop_assert!(tag_hash(&secret, b'a', value.as_bytes()) != sketched);
    }
}
