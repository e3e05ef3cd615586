//! A small log on a disk in memory, with what happened in it, and ways to damage it.

use crate::bytes::Bytes;
use crate::store_world::{self, Draws, World, config, random_event};
use proto::{Event, EventId, Filter};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use store::key::SEQ_MAX;
use store::mem::{MemIndex, MemSegments};
use store::record::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use store::rewrite::format::{FOOTER_BYTES, generation_of, name_of};
use store::{KillCause, Segments, Seq, StoreConfig};

/// What a record did.
#[derive(Clone, Debug)]
enum Op {
    Put(Event),
    Kill(Seq),
    Other,
}

/// Segments by name, and the history: the record of sequence n is at n - 1.
#[derive(Clone, Debug)]
pub struct Image {
    pub segments: BTreeMap<Seq, Vec<u8>>,
    history: Vec<Op>,
}

pub fn image_config() -> StoreConfig {
    StoreConfig {
        segment_bytes_max: 1_800,
        checkpoint_events: 8,
        erase_after_s: 0,
        hot_bytes_max: 0,
        ..config()
    }
}

impl Image {
    /// The log that every input begins with: two rewritten segments among others, kills, marks, and
    /// an end that no index has seen.
    pub fn base() -> &'static Self {
        static BASE: OnceLock<Image> = OnceLock::new();
        BASE.get_or_init(Self::make)
    }

    fn make() -> Self {
        let (index, segments) = (MemIndex::new(store_world::SECRET), MemSegments::default());
        let mut world = World::open(image_config(), index, segments);
        let (mut draws, mut history) = (Draws(5), Vec::new());
        let mut append = |world: &mut World<MemIndex, MemSegments>, from: u64, count: u64| {
            for number in from..from + count {
                let event = random_event(&mut draws, number);
                world.put(&event);
                history.push(Op::Put(event));
                if number % 3 == 2 {
                    let victim = history.len() as Seq - 1;
                    world.store.kill(victim, KillCause::Deleted);
                    history.push(Op::Kill(victim));
                }
                if number % 7 == 3 {
                    world.store.mark_id(EventId([number as u8; 32]), store_world::author(1));
                    history.push(Op::Other);
                }
                if number % 2 == 1 {
                    world.commit();
                }
            }
            world.commit();
        };
        append(&mut world, 0, 20);
        let mut fx = Vec::new();
        world.store.compact(world.now, &mut fx);
        world.effects.extend(fx);
        world.settle();
        // Another life, whose start removes what the rewriting left behind.
        let mut world = world.restart();
        append(&mut world, 20, 9);
        let list = world.segments.list().expect("memory lists");
        let read = |segment| world.segments.read(segment).expect("memory reads");
        let segments: BTreeMap<Seq, Vec<u8>> =
            list.iter().map(|entry| (entry.segment, read(entry.segment))).collect();
        let rewritten = segments.keys().filter(|segment| generation_of(**segment) > 0).count();
        assert!(rewritten > 0 && segments.len() > 3, "{rewritten} of {}", segments.len());
        Self { segments, history }
    }

    pub fn disk(&self) -> MemSegments {
        let disk = MemSegments::default();
        for (segment, bytes) in &self.segments {
            disk.create(*segment, bytes).expect("memory writes");
        }
        disk
    }

    /// Every event that was ever in it.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.history.iter().filter_map(|op| match op {
            Op::Put(event) => Some(event),
            _ => None,
        })
    }

    /// Whether `stored` is what was alive after record `through`. Rewriting may have left out what
    /// later records killed.
    pub fn check_state(&self, stored: &[Event], through: Seq) {
        let (mut then, mut now) = (BTreeMap::new(), BTreeMap::new());
        for (seq, op) in (1..).zip(&self.history) {
            let is_then = seq <= through;
            match op {
                Op::Put(event) if is_then => {
                    then.insert(seq, event);
                    now.insert(seq, event);
                }
                Op::Kill(victim) => {
                    now.remove(victim);
                    if is_then {
                        then.remove(victim);
                    }
                }
                _ => {}
            }
        }
        for event in stored {
            assert!(then.values().any(|have| *have == event), "{event:?} was not alive");
        }
        for event in now.values() {
            assert!(stored.contains(event), "{event:?} is lost, through {through}");
        }
    }

    /// How many records it held when it was whole.
    pub fn records(&self) -> Seq {
        self.history.len() as Seq
    }

    /// Whether there are segments that `whole` does not have.
    pub fn has_more_files_than(&self, whole: &Self) -> bool {
        self.segments.keys().any(|segment| !whole.segments.contains_key(segment))
    }

    /// Whether a byte is lost or changed that `whole` has for a reason: not those of a header's
    /// padding, and not what follows the last batch.
    pub fn lacks_bytes_of(&self, whole: &Self) -> bool {
        whole.segments.iter().any(|(segment, was)| {
            let Some(bytes) = self.segments.get(segment) else { return true };
            let parts = if generation_of(*segment) == 0 {
                let (_, end) = last_batch(was);
                [0..36, SEGMENT_HEADER_BYTES..end]
            } else {
                [0..was.len(), 0..0]
            };
            parts.into_iter().any(|part| bytes.get(part.clone()) != was.get(part))
        })
    }

    /// Whether the header and the last batch of the last segment of `whole` are still where they
    /// were: what is damaged before them was durable once, and no tear.
    pub fn holds_the_end_of(&self, whole: &Self) -> bool {
        let last = whole.segments.iter().rfind(|(segment, _)| generation_of(**segment) == 0);
        let Some((segment, was)) = last else { return false };
        let (from, end) = last_batch(was);
        let is_there = |bytes: &Vec<u8>| {
            bytes.get(..36) == was.get(..36) && bytes.get(from..end) == was.get(from..end)
        };
        self.segments.get(segment).is_some_and(is_there)
    }

    /// Damages it as the input says; returns whether anything may have changed that counts.
    pub fn damage(&mut self, bytes: &mut Bytes<'_>) -> bool {
        let before = self.segments.clone();
        while !bytes.is_over() {
            self.damage_once(bytes);
        }
        before != self.segments
    }

    fn damage_once(&mut self, bytes: &mut Bytes<'_>) {
        let names: Vec<Seq> = self.segments.keys().copied().collect();
        if names.is_empty() {
            bytes.0 = &[];
            return;
        }
        let name = *bytes.pick(&names);
        let action = bytes.byte() % 12;
        let other = *bytes.pick(&names);
        let Some(segment) = self.segments.get_mut(&name) else { return };
        let at = usize::from(bytes.u16()) % segment.len().max(1);
        match action {
            0..=2 => {
                if let Some(byte) = segment.get_mut(at) {
                    *byte ^= 1 << (bytes.byte() % 8);
                }
            }
            3 => {
                if let Some(byte) = segment.get_mut(at) {
                    *byte = bytes.byte();
                }
            }
            4 => segment.truncate(at),
            5 => segment.extend(std::iter::repeat_n(bytes.byte(), at)),
            6 => {
                let length = usize::from(bytes.byte());
                let end = (at + length).min(segment.len());
                segment[at..end].fill(0);
            }
            7 => {
                let value = bytes.edgy().to_le_bytes();
                for (byte, value) in segment[at..].iter_mut().zip(value) {
                    *byte = value;
                }
            }
            8 => {
                // A piece of another place, as a misdirected write leaves it.
                let from = self.segments.get(&other).cloned().unwrap_or_default();
                let start = usize::from(bytes.u16()) % from.len().max(1);
                let piece = &from[start..(start + 200).min(from.len())];
                let Some(segment) = self.segments.get_mut(&name) else { return };
                for (byte, value) in segment[at..].iter_mut().zip(piece) {
                    *byte = *value;
                }
            }
            9 => drop(self.segments.remove(&name)),
            10 => {
                let copy = segment.clone();
                // A name that a file can have.
                let generation = u16::from(bytes.byte() % 3);
                let first_seq = 1 + bytes.edgy() % SEQ_MAX;
                self.segments.insert(name_of(first_seq, generation), copy);
            }
            _ => {
                let copy = segment.clone();
                self.segments.insert(other, copy);
            }
        }
    }

    /// Makes the checksums true again, of headers, batches and footers: what is left is not rot but
    /// the work of a program, or of somebody who means harm.
    pub fn repair(&mut self) {
        for (segment, bytes) in &mut self.segments {
            repair(*segment, bytes);
        }
    }
}

/// Where the last batch of a segment, as the log wrote it, begins and ends.
fn last_batch(bytes: &[u8]) -> (usize, usize) {
    let (mut from, mut at) = (SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES);
    while bytes.get(at..).is_some_and(|rest| rest.starts_with(b"\xb7TPB")) {
        from = at;
        at += BATCH_HEADER_BYTES + word(bytes, at + 4);
    }
    (from, at)
}

fn crc_into(bytes: &mut [u8], covered: usize) {
    if bytes.len() >= covered + 4 {
        let crc = crc32c::crc32c(&bytes[..covered]);
        bytes[covered..covered + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |eight| u64::from_le_bytes(eight.try_into().unwrap_or([0; 8])))
}

fn word(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().unwrap_or([0; 4])))
        as usize
}

/// Checksums of one segment, as the formats define them.
pub fn repair(segment: Seq, bytes: &mut [u8]) {
    crc_into(bytes, 32);
    let salt = if generation_of(segment) == 0 {
        long(bytes, 24)
    } else {
        crc_into(bytes, 52);
        long(bytes, 36)
    };
    let name = if generation_of(segment) == 0 { long(bytes, 16) } else { segment };
    let mut at = SEGMENT_HEADER_BYTES;
    while bytes.len() >= at + BATCH_HEADER_BYTES && bytes[at..].starts_with(b"\xb7TP") {
        if bytes[at + 3] == b'F' {
            break;
        }
        let end = at + BATCH_HEADER_BYTES + word(bytes, at + 4);
        if end > bytes.len() {
            return;
        }
        let batch = &mut bytes[at..end];
        let crc = crc32c::crc32c(&name.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &salt.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &batch[..12]);
        let crc = crc32c::crc32c_append(crc, &batch[16..]);
        batch[12..16].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    if bytes.len() == at + FOOTER_BYTES {
        let crc = crc32c::crc32c(&bytes[..at]);
        bytes[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
        bytes[at + 16..at + 20].copy_from_slice(&(at as u32).to_le_bytes());
        crc_into(&mut bytes[at..], 24);
    }
}

/// Every visible event, with bodies that may be damaged left out.
pub fn readable(world: &mut World<MemIndex, MemSegments>) -> Vec<Event> {
    let streams = store::plan::union(&[Filter::default()], &store_world::SECRET);
    let horizon = world.store.durable();
    let request = store::ScanRequest { streams, after: None, rows_max: 10_000 };
    let (rows, _) = world.page(request, horizon);
    rows.iter()
        .filter_map(|row| store::Bodies::body(&world.segments, &row.loc).ok().flatten())
        .collect()
}
