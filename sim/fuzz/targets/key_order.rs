//! Keys of the index sort as answers do, whatever is in them, and every layout reads back what it
//! wrote and refuses any other length.

use crate::bytes::Bytes;
use proto::EventId;
use std::cmp::Reverse;
use store::key::{
    EXPIRES_AT_MAX, LocRow, SEQ_MAX, Tail, expiry_key, hash_kind_prefix, id_key, id4, loc_key,
    ordered, push_segment, read_purge, read_segment, read_seq, tie_end, write_purge,
};
use store::{Loc, Position};

#[derive(Clone, Copy)]
struct Row {
    hash: u64,
    kind: u16,
    position: Position,
    seq: u64,
}

fn row(bytes: &mut Bytes<'_>) -> Row {
    let mut id = EventId([bytes.byte() % 3; 32]);
    id.0[3] = bytes.byte();
    id.0[4 + bytes.below(28)] = bytes.byte();
    Row {
        hash: bytes.edgy(),
        kind: bytes.edgy() as u16,
        position: Position { created_at: bytes.edgy() as u32, id },
        seq: bytes.edgy() & SEQ_MAX,
    }
}

fn sign(ordering: std::cmp::Ordering) -> i8 {
    ordering as i8
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (a, b) = (row(&mut bytes), row(&mut bytes));
    let tail = |row: &Row| Tail::of(row.position.created_at, &row.position.id, row.seq);
    let key = |row: &Row| ordered(&hash_kind_prefix(row.hash, row.kind), tail(row));
    let rank = |row: &Row| {
        let Position { created_at, id } = row.position;
        (row.hash, row.kind, Reverse(created_at), id.0[..4].to_vec(), row.seq)
    };
    assert_eq!(key(&a).cmp(&key(&b)), rank(&a).cmp(&rank(&b)));
    assert_eq!(Tail::read(&key(&a)), Some(tail(&a)));
    assert_eq!(tail(&a).created_at(), a.position.created_at);

    // Where times and the first bytes of ids differ, keys alone put rows in the order of answers.
    let tie = |row: &Row| (Reverse(row.position.created_at), id4(&row.position.id));
    if tie(&a) != tie(&b) {
        assert_eq!(a.position.cmp(&b.position), tie(&a).cmp(&tie(&b)));
    }
    let end = tie_end(a.position.created_at, id4(&a.position.id));
    assert!(a.position <= end);
    assert_eq!(b.position <= end, tie(&b) <= tie(&a), "a cut never divides a tie");

    // Other tables.
    assert_eq!(loc_key(a.seq).cmp(&loc_key(b.seq)), a.seq.cmp(&b.seq));
    assert_eq!(read_seq(&loc_key(a.seq)), Some(a.seq));
    let (sooner, later) = (bytes.edgy(), bytes.edgy());
    let due = |at: u64, row: &Row| (at.min(EXPIRES_AT_MAX), row.seq);
    let by_key = expiry_key(sooner, a.seq).cmp(&expiry_key(later, b.seq));
    assert_eq!(sign(by_key), sign(due(sooner, &a).cmp(&due(later, &b))));
    let by_id = id_key(&a.position.id, a.seq).cmp(&id_key(&b.position.id, b.seq));
    let of = |row: &Row| (row.position.id.0[..8].to_vec(), row.seq);
    assert_eq!(by_id, of(&a).cmp(&of(&b)));

    // Segment names: generation and first sequence, in seven bytes.
    let name = (bytes.edgy() & 0xffff) << 48 | a.seq;
    let mut written = Vec::new();
    push_segment(&mut written, name);
    assert_eq!(read_segment(&written), Some(name));
    assert_eq!(read_segment(&written[1..]), None);
    let loc = Loc {
        segment: name,
        offset: bytes.edgy() as u32,
        length: bytes.edgy() as u32,
        flags: bytes.byte(),
        expires_at: bytes.edgy() & EXPIRES_AT_MAX,
    };
    let place = LocRow { loc, position: a.position };
    assert_eq!(LocRow::decode(&place.encode()), Some(place));
    let vanish = store::delta::Vanish { until: a.position.created_at, seq: b.seq };
    assert_eq!(read_purge(&write_purge(&vanish)), Some(vanish));

    // Any bytes: refused, or what they are written as again.
    if let Some(row) = LocRow::decode(bytes.0) {
        assert_eq!(row.encode(), bytes.0);
    }
    if let Some(seq) = read_seq(bytes.0) {
        assert_eq!(loc_key(seq), bytes.0);
    }
    if let Some(tail) = Tail::read(data) {
        assert!(data.ends_with(&ordered(&[], tail)));
    }
    let _ = read_purge(bytes.0);
}
