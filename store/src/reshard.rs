//! Another number of shards: everything that lives is copied from the shards as they are into a new
//! layout of the directory, and one replacement of `FORMAT` makes that the live one.
//!
//! Copied are the events that have a place, with the flags of their records, in order of sequence;
//! deletion marks and slot watermarks from the log's records, which carry the whole key and slot
//! where the index has hashes, and which no rewriting drops; watermarks of keys that vanished. A
//! mark goes to the shard of the key that made it, because every event that it can concern is there
//! (an author's, or a wrap's recipient's); an operator's ban and a vanished key go to every shard,
//! where they are asked for whatever the author.
//!
//! Removals that a vanish demanded are carried out first, and the watermarks are written before any
//! event, so that none of the copies is covered by them.
//!
//! The old shards are brought up to date and otherwise only read. A copy that was interrupted is
//! removed at the next opening of the directory, and begun anew.

use crate::effect::{Found, Loc, LookupKey, Seq, WorldError};
use crate::file::FileSegments;
use crate::file::directory::{DataDirectory, Format};
use crate::lmdb::{LmdbIndex, map_bytes_for};
use crate::offline::{Driver, OfflineError};
use crate::record::Record;
use crate::replace::OPERATOR;
use crate::rewrite::layout::{self, Placed};
use crate::rewrite::reader::SegmentReader;
use crate::rewrite::{Places, Refusal};
use crate::seam::{Index, SegmentEntry, Segments, Sketched};
use crate::store::StoreConfig;
use proto::{Event, EventId, Now, Placement, PublicKey, SeededSet};
use std::collections::BTreeMap;

/// Bytes of events after which a new shard's batch is written.
const BATCH_BYTES: usize = 1 << 20;
/// Vanished keys that are written at a time.
const VANISHES_AT_A_TIME: usize = 256;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resharded {
    /// Events.
    pub events: u64,
    /// Deletion marks, bans and slot watermarks.
    pub marks: u64,
    /// Keys that vanished.
    pub vanished: u64,
}

/// Gives the directory `shards` shards. `config` is what the stores are opened with; its bounds are
/// shared out among the new shards. `progress` hears how many of how many bytes of the old log are
/// copied.
///
/// # Errors
/// [`OfflineError`]; the directory is as it was then.
pub fn reshard(
    directory: &mut DataDirectory,
    shards: u16,
    config: &StoreConfig,
    clock: &dyn Fn() -> Now,
    progress: &mut dyn FnMut(u64, u64),
    should_stop: &dyn Fn() -> bool,
) -> Result<Resharded, OfflineError> {
    let format = directory.format().resharded(shards)?;
    directory.prepare(&format)?;
    let old = open_old(directory, config)?;
    let new = open_new(directory, &format, config.segment_bytes_max)?;
    let copied =
        copy(&old, &new, &format.placement(), config, clock, &mut Watch { progress, should_stop })?;
    for (index, _) in new.into_iter().chain(old) {
        index.close();
    }
    directory.switch(format)?;
    Ok(copied)
}

/// Who hears how far the copying is, and may stop it.
pub struct Watch<'a> {
    /// Hears how many of how many bytes of the old log are copied.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Is asked often.
    pub should_stop: &'a dyn Fn() -> bool,
}

/// Fills the empty shards `new`, which `placement` speaks of, from the shards `old`, over any world.
/// The old ones are brought up to date, and the removals that they owe are carried out.
///
/// # Errors
/// [`OfflineError`]; the old shards hold what they held.
pub fn copy<I: Index, S: Segments>(
    old: &[(I, S)],
    new: &[(I, S)],
    placement: &Placement,
    config: &StoreConfig,
    clock: &dyn Fn() -> Now,
    watch: &mut Watch<'_>,
) -> Result<Resharded, OfflineError> {
    let mut olds = Vec::with_capacity(old.len());
    for (shard, (index, segments)) in (0..).zip(old) {
        let config = StoreConfig { shard, ..config.clone() };
        olds.push(OldShard::settle(index, segments, config, clock, watch.should_stop)?);
    }
    let mut sinks = Sinks::open(new, config, clock)?;
    let mut copy = Copy {
        placement: placement.clone(),
        bans: SeededSet::with_hasher(config.seed),
        copied: Resharded::default(),
        bytes_done: 0,
        bytes: olds.iter().map(OldShard::bytes).sum(),
        progress: watch.progress,
        should_stop: watch.should_stop,
    };
    copy.vanished(&olds, &mut sinks)?;
    for shard in &olds {
        copy.shard(shard, &mut sinks)?;
    }
    let copied = copy.copied;
    sinks.close()?;
    Ok(copied)
}

/// A shard that is copied from.
struct OldShard<'a, S> {
    shard: u16,
    index: &'a dyn Index,
    segments: &'a S,
    applied: Seq,
    placed: Vec<Placed>,
}

impl<'a, S: Segments> OldShard<'a, S> {
    /// Brings a shard's index up to date and ends its removals.
    fn settle(
        index: &'a dyn Index,
        segments: &'a S,
        config: StoreConfig,
        clock: &dyn Fn() -> Now,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Self, OfflineError> {
        let shard = config.shard;
        let mut driver = Driver::open(config, index, segments, clock)?;
        while driver.store.is_purging() {
            if should_stop() {
                return Err(OfflineError::Stopped);
            }
            driver.run(|store, now, fx| store.tick(now, fx))?;
        }
        driver.close()?;
        let applied = index.applied()?;
        let mut placed = layout::known(shard, index, segments)?.placed;
        // A segment that was created and never written to holds no record.
        placed.retain(|placed| placed.first_seq <= applied);
        Ok(Self { shard, index, segments, applied, placed })
    }

    fn bytes(&self) -> u64 {
        self.placed.iter().map(|placed| placed.bytes).sum()
    }
}

/// Opens the shards as they are.
fn open_old(
    directory: &DataDirectory,
    config: &StoreConfig,
) -> Result<Vec<(LmdbIndex, FileSegments)>, WorldError> {
    let shards = directory.format().shards;
    let map_bytes = map_bytes_for(directory.path(), shards);
    let open = |shard| {
        let index = directory.index_directory(shard);
        let index = LmdbIndex::open(&index, config.secret, map_bytes)?;
        let segments = FileSegments::open(&directory.log_directory(shard))?;
        Ok((index, segments.prewriting(config.segment_bytes_max)))
    };
    (0..shards).map(open).collect()
}

fn open_new(
    directory: &DataDirectory,
    format: &Format,
    segment_bytes_max: u32,
) -> Result<Vec<(LmdbIndex, FileSegments)>, WorldError> {
    let map_bytes = map_bytes_for(directory.path(), format.shards);
    let open = |shard| {
        let index = directory.prepared_index_directory(format, shard);
        let index = LmdbIndex::open(&index, format.secret, map_bytes)?;
        let segments = FileSegments::open(&directory.prepared_log_directory(format, shard))?;
        Ok((index, segments.prewriting(segment_bytes_max)))
    };
    (0..format.shards).map(open).collect()
}

/// The new shards' stores.
struct Sinks<'a, S> {
    sinks: Vec<Driver<'a, S>>,
    unwritten: Vec<usize>,
}

impl<'a, S: Segments> Sinks<'a, S> {
    fn open<I: Index>(
        worlds: &'a [(I, S)],
        config: &StoreConfig,
        clock: &'a dyn Fn() -> Now,
    ) -> Result<Self, OfflineError> {
        let share = worlds.len().max(1);
        let open = |(shard, (index, segments)): (usize, &'a (I, S))| {
            let config = StoreConfig {
                shard: shard as u16,
                delta_bytes_max: (config.delta_bytes_max / share).max(2 * BATCH_BYTES),
                hot_bytes_max: 0,
                // Nothing is decided here, so nothing needs to be known quickly.
                sketch_bytes_max: 4_096,
                ..config.clone()
            };
            Driver::open(config, index, segments, clock)
        };
        let sinks = worlds.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { unwritten: vec![0; sinks.len()], sinks })
    }

    /// Adds to a shard's batch, and writes it when it is long.
    fn add(
        &mut self,
        shard: usize,
        bytes: usize,
        add: impl FnOnce(&mut crate::store::Store),
    ) -> Result<(), WorldError> {
        add(&mut self.sinks[shard].store);
        self.unwritten[shard] += bytes;
        if self.unwritten[shard] >= BATCH_BYTES {
            self.unwritten[shard] = 0;
            self.sinks[shard].run(|store, now, fx| store.flush(now, fx))?;
        }
        Ok(())
    }

    fn close(self) -> Result<(), WorldError> {
        self.sinks.into_iter().try_for_each(|mut sink| {
            sink.run(|store, now, fx| store.flush(now, fx))?;
            sink.close()
        })
    }
}

struct Copy<'a> {
    placement: Placement,
    /// Every old shard has every ban.
    bans: SeededSet<EventId>,
    copied: Resharded,
    bytes_done: u64,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64, u64),
    should_stop: &'a dyn Fn() -> bool,
}

impl Copy<'_> {
    /// Writes every vanished key to every new shard, and lets the removals, which find nothing,
    /// end.
    fn vanished<S: Segments>(
        &mut self,
        old: &[OldShard<'_, S>],
        sinks: &mut Sinks<'_, S>,
    ) -> Result<(), OfflineError> {
        let mut vanished: BTreeMap<PublicKey, u32> = BTreeMap::new();
        for shard in old {
            let mut keys = Vec::new();
            shard.index.sketched(&mut |item| {
                if let Sketched::Key(key @ LookupKey::Vanished(_)) = item {
                    keys.push(key);
                }
            })?;
            for (key, found) in keys.iter().zip(shard.index.lookup(&keys)?) {
                if let (LookupKey::Vanished(key), Found::DeletedUntil(until)) = (key, found) {
                    let latest = vanished.entry(*key).or_insert(until);
                    *latest = until.max(*latest);
                }
            }
        }
        self.copied.vanished = vanished.len() as u64;
        let vanished: Vec<(PublicKey, u32)> = vanished.into_iter().collect();
        for some in vanished.chunks(VANISHES_AT_A_TIME) {
            for sink in &mut sinks.sinks {
                some.iter().for_each(|(key, until)| sink.store.vanish(*key, *until));
                sink.run(|store, now, fx| store.flush(now, fx))?;
                while sink.store.is_purging() {
                    self.check_stop()?;
                    sink.run(|store, now, fx| store.tick(now, fx))?;
                }
            }
        }
        Ok(())
    }

    fn check_stop(&self) -> Result<(), OfflineError> {
        if (self.should_stop)() { Err(OfflineError::Stopped) } else { Ok(()) }
    }

    fn shard<S: Segments>(
        &mut self,
        old: &OldShard<'_, S>,
        sinks: &mut Sinks<'_, S>,
    ) -> Result<(), OfflineError> {
        let mut places = Places::new(old.index, 1, old.applied);
        for placed in &old.placed {
            let entry = SegmentEntry { segment: placed.segment, bytes: placed.bytes };
            let segments: &dyn Segments = old.segments;
            let damaged =
                |error| OfflineError::from(crate::rewrite::damaged(placed.segment, error));
            let mut reader = SegmentReader::open(old.shard, segments, &entry).map_err(damaged)?;
            while let Some(batch) = reader.next_batch(segments).map_err(damaged)? {
                for (seq, record, _) in &batch.records {
                    self.record(*seq, record, &mut places, sinks)?;
                }
                self.check_stop()?;
                (self.progress)(self.bytes_done + u64::from(batch.offset), self.bytes);
            }
            self.bytes_done += placed.bytes;
        }
        if let Some(row) = places.peek()? {
            return Err(Refusal::Misplaced(row.seq).into());
        }
        (self.progress)(self.bytes_done, self.bytes);
        Ok(())
    }

    fn record<S: Segments>(
        &mut self,
        seq: Seq,
        record: &Record<'_>,
        places: &mut Places<'_>,
        sinks: &mut Sinks<'_, S>,
    ) -> Result<(), OfflineError> {
        match record {
            Record::Put { flags, event, .. } => {
                let Some(row) = places.take(seq)? else { return Ok(()) };
                if row.position.id != event.id() {
                    return Err(Refusal::Misplaced(seq).into());
                }
                let owner = self.placement.owner(event);
                let packed = event.packed();
                let event = Event::from_packed(packed).map_err(|_| Refusal::Misplaced(seq))?;
                self.copied.events += 1;
                let flags = flags & Loc::LOG_FLAGS;
                sinks.add(owner.into(), packed.len(), |store| {
                    store.put(event, flags);
                })?;
            }
            Record::MarkId { id, by } if *by == OPERATOR => {
                if self.bans.insert(*id) {
                    self.copied.marks += 1;
                    for shard in 0..sinks.sinks.len() {
                        sinks.add(shard, 65, |store| store.mark_id(*id, *by))?;
                    }
                }
            }
            Record::MarkId { id, by } => {
                self.copied.marks += 1;
                let owner = self.placement.shard_of(by);
                sinks.add(owner.into(), 65, |store| store.mark_id(*id, *by))?;
            }
            Record::MarkSlot { slot, until } => {
                self.copied.marks += 1;
                let owner = self.placement.shard_of(&slot.pubkey);
                sinks.add(owner.into(), 64, |store| store.mark_slot(slot.clone(), *until))?;
            }
            Record::Kill { .. } | Record::Vanish { .. } | Record::Purged { .. } => {}
        }
        Ok(())
    }
}
