//! The index in LMDB against the index in BTreeMaps under one store: whatever is written, killed,
//! marked and rewritten, every question has the same answer, and so has every
//! question that nobody asks in that state. The input says whether LMDB takes part, which makes a run
//! a hundred times as slow; without it the store's own assertions are what is tested.

use crate::both::Both;
use crate::bytes::Bytes;
use crate::events;
use crate::store_world::{self, World, author, config};
use proto::nip::nip01::Slot;
use proto::{Event, EventId, PublicKey};
use store::effect::{Question, WalkRequest};
use store::index::Table;
use store::key::{EventKeys, author_hash, tag_hash};
use store::lmdb::LmdbIndex;
use store::mem::{MemIndex, MemSegments};
use store::sums::SumsRequest;
use store::{Found, Index, KillCause, LookupKey, Position, ScanRequest, Seq, StoreConfig};

const SECRET: proto::Secret = store_world::SECRET;

/// What has been put and not killed, and the marks, by key.
#[derive(Default)]
struct Model {
    alive: Vec<(Seq, Event)>,
    marked: Vec<(EventId, PublicKey)>,
}

fn ask_around<I: Index>(index: &I, model: &Model, bytes: &mut Bytes<'_>) {
    let events: Vec<Event> = model.alive.iter().map(|(_, event)| event.clone()).collect();
    match bytes.byte() % 7 {
        0 => {
            let filters = [events::filter(bytes, &events), events::filter(bytes, &events)];
            let after = events.first().filter(|_| bytes.one_in(2)).map(store_world::position);
            let streams = store::plan::union(&filters[..1 + bytes.below(2)], &SECRET);
            let rows_max = 1 + bytes.below(20) as u32;
            index.scan(&ScanRequest { streams, after, rows_max }).expect("pages");
        }
        1 => {
            let after = bytes.one_in(2).then(|| (bytes.edgy(), bytes.edgy() >> 24));
            index.expired(bytes.edgy(), after, bytes.below(9) as u32).expect("lists what is due");
        }
        2 => {
            let key = author(bytes.below(6) as u64);
            let (table, hash) = if bytes.one_in(2) {
                (Table::Author, author_hash(&SECRET, &key))
            } else {
                (Table::Tag, tag_hash(&SECRET, b'p', b"v1"))
            };
            let prefix = hash.to_be_bytes().to_vec();
            let until = bytes.edgy() as u32;
            let rows_max = 1 + bytes.below(9) as u32;
            let walk = WalkRequest { table, prefix, until, from: None, rows_max };
            index.ask(&Question::Walk(walk)).expect("walks");
        }
        3 => {
            index.ask(&Question::Sums(SumsRequest { set: 0, dead: Vec::new() })).expect("sums");
        }
        4 => drop(index.locs(bytes.edgy() >> 24, bytes.edgy() >> 24, bytes.below(9)).expect("locs")),
        5 => index.sketched(&mut |_| {}).expect("the sketch"),
        _ => drop(index.segments().expect("segments")),
    }
}

/// What the index must know once everything is in it.
fn check<I: Index>(index: &I, model: &Model) {
    let mut keys: Vec<LookupKey> = Vec::new();
    for (_, event) in &model.alive {
        keys.push(LookupKey::Id(event.view().id()));
    }
    keys.extend(model.marked.iter().map(|(id, by)| LookupKey::DeletedId(*id, *by)));
    keys.push(LookupKey::Id(EventId([0xee; 32])));
    let found = index.lookup(&keys).expect("answers");
    for ((seq, event), found) in model.alive.iter().zip(&found) {
        let Found::Row(row) = found else { panic!("{seq} is not found by its id") };
        let position = Position { created_at: event.view().created_at(), id: event.view().id() };
        assert_eq!((row.seq, row.position), (*seq, position));
    }
    for found in &found[model.alive.len()..found.len() - 1] {
        assert!(matches!(found, Found::DeletedUntil(_)), "a mark is lost");
    }
    assert_eq!(found.last(), Some(&Found::Nothing));
    let keyed: Vec<(Seq, EventKeys)> = model
        .alive
        .iter()
        .map(|(seq, event)| (*seq, EventKeys::of(&event.view(), &SECRET)))
        .collect();
    let missing = index.missing_rows(&keyed).expect("rows");
    assert!(missing.iter().all(Vec::is_empty), "rows are missing: {missing:?}");
}

fn play<I: Index>(index: I, bytes: &mut Bytes<'_>) {
    let config = StoreConfig {
        checkpoint_events: 3 + bytes.below(12),
        hot_bytes_max: 0,
        segment_bytes_max: 2_000,
        erase_after_s: 0,
        generation_events: 9,
        upkeep_rows_max: 13,
        ..config()
    };
    let mut world = World::open(config, index, MemSegments::default());
    let mut model = Model::default();
    let mut number = 0;
    while !bytes.is_over() && number < 200 {
        match bytes.byte() % 11 {
            0..=4 => {
                number += 1;
                let event = events::plain(bytes, number);
                let is_due = proto::nip::nip40::expires_at(&event.view()).ok().flatten().is_some();
                let is_new =
                    model.alive.iter().all(|(_, have)| have.view().id() != event.view().id());
                if is_new && !is_due {
                    model.alive.push((world.put(&event), event));
                }
            }
            5 if !model.alive.is_empty() => {
                let (victim, event) = model.alive.swap_remove(bytes.below(model.alive.len()));
                world.store.kill(victim, KillCause::Replaced);
                if bytes.one_in(2) {
                    let (id, by) = (event.view().id(), event.view().pubkey());
                    world.store.mark_id(id, by);
                    model.marked.push((id, by));
                }
            }
            6 => {
                let pubkey = author(bytes.below(3) as u64);
                let slot = Slot { pubkey, kind: 30_000, d: [bytes.byte() % 4].into() };
                world.store.mark_slot(slot, bytes.edgy() as u32);
            }
            7 => world.commit(),
            8 if bytes.one_in(3) => {
                world.commit();
                let mut fx = Vec::new();
                world.store.compact(world.now, &mut fx);
                world.effects.extend(fx);
                world.settle();
            }
            9 if bytes.one_in(3) => {
                world.commit();
                world = world.restart();
            }
            _ => ask_around(&world.index, &model, bytes),
        }
    }
    world.close();
    check(&world.index, &model);
    ask_around(&world.index, &model, bytes);
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    if bytes.one_in(2) {
        let directory = tempfile::tempdir().expect("a folder for LMDB");
        let path = directory.path().join("index");
        let lmdb = LmdbIndex::open(&path, SECRET, 4 << 20).expect("LMDB opens");
        play(Both(lmdb, MemIndex::new(SECRET)), &mut bytes);
    } else {
        play(MemIndex::new(SECRET), &mut bytes);
    }
}
