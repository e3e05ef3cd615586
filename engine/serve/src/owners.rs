//! The shards of a core, and the answers of their worlds.

use crate::machine::Machine;
use crate::post::Post;
use proto::Now;
use shards::counters::ShardCounters;
use shards::door;
use shards::message::{CoreId, ShardId, ShardStats, ToShard};
use shards::shard::{Shard, ShardEffects, ShardInput};
use std::io;
use store::StoreEffect;

/// Store effects and answers of one turn; what is left waits for the next.
const STEPS_MAX: usize = 4_096;
/// Signatures go elsewhere when half of the difference is at least one in so many of what is here: the
/// other core has half as many or fewer. Cores that are busy alike would only write to each other.
const HELP_SHARE_MIN: usize = 4;

/// One shard of the core.
pub struct Owned {
    /// Its number.
    pub id: ShardId,
    /// The shard.
    pub shard: Shard,
    /// What opening the store has asked for already.
    pub effects: Vec<StoreEffect>,
}

/// The disk has passed its high-water mark, or has room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLevel {
    /// Events are refused.
    pub is_low: bool,
    /// Free bytes.
    pub free_bytes: u64,
}

/// Adds up the counters of a core's shards.
pub fn add_counters(sum: &mut ShardCounters, shard: &ShardCounters) {
    sum.accepted += shard.accepted;
    sum.ephemeral += shard.ephemeral;
    sum.replaced += shard.replaced;
    sum.deleted += shard.deleted;
    sum.vanishes += shard.vanishes;
    sum.removed += shard.removed;
    sum.sums += shard.sums;
    sum.refused.merge(&shard.refused);
    sum.verified += shard.verified;
    sum.ticketed += shard.ticketed;
    sum.door.merge(&shard.door);
    sum.pages += shard.pages;
    sum.rows_scanned += shard.rows_scanned;
    sum.rows_sent += shard.rows_sent;
    sum.live_batches += shard.live_batches;
    sum.fell_behind += shard.fell_behind;
}

/// The shards that live on one core. Owned by the core.
pub struct Owners {
    owned: Vec<(ShardId, Shard, ShardEffects)>,
    /// The last turn ended before the world's answers did: some may be there already.
    is_cut_short: bool,
    is_low_on_space: bool,
}

impl Owners {
    /// In the order in which the machine knows them.
    pub fn new(owned: Vec<Owned>) -> Self {
        let owned = owned.into_iter().map(|Owned { id, shard, effects }| {
            (id, shard, ShardEffects { store: effects, ..ShardEffects::default() })
        });
        Self { owned: owned.collect(), is_cut_short: false, is_low_on_space: false }
    }

    /// Whether a turn would get anything done.
    pub(crate) fn has_work(&self, machine: &impl Machine) -> bool {
        self.is_cut_short
            || machine.has_answer()
            || self.owned.iter().any(|(_, shard, effects)| {
                let ShardEffects { store, to_home, door, .. } = effects;
                shard.has_work() || !(store.is_empty() && to_home.is_empty() && door.is_empty())
            })
    }

    /// Takes a message for one of the shards.
    pub(crate) fn message(&mut self, now: Now, from: CoreId, to: ShardId, message: ToShard) {
        self.step(now, to, ShardInput::From(from, message));
    }

    /// A policy plug-in has answered one of the shards.
    pub(crate) fn door_answered(&mut self, now: Now, to: ShardId, answer: door::Answer) {
        self.step(now, to, ShardInput::Door(answer));
    }

    fn step(&mut self, now: Now, to: ShardId, input: ShardInput) {
        let owned = self.owned.iter_mut().find(|(id, ..)| *id == to);
        let (_, shard, effects) = owned.expect("each shard's mail is sent to its core");
        shard.step(now, input, effects);
    }

    /// Signatures that the shards have to check.
    pub(crate) fn unverified(&self) -> usize {
        self.owned.iter().map(|(_, shard, _)| shard.unverified()).sum()
    }

    /// Has signatures checked by the core that has fewest, where a shard has too many: half of the
    /// difference, if that is worth a message. `load`: what this core has to check, in all. Says
    /// whether any ticket was written.
    pub(crate) fn seek_help(&mut self, now: Now, load: usize, post: &mut Post) -> bool {
        let mut has_sent = false;
        for (id, shard, effects) in &mut self.owned {
            if !shard.wants_help() {
                continue;
            }
            let Some((core, theirs)) = post.idlest() else { return has_sent };
            let room = load.saturating_sub(theirs) / 2;
            if room * HELP_SHARE_MIN >= load {
                shard.step(now, ShardInput::Help { core, room }, effects);
            }
            has_sent |= !effects.tickets.is_empty();
            // Tickets come of this input alone, so that nobody else has to look for them.
            for (core, ticket) in effects.tickets.drain(..) {
                post.to_checker(core, *id, ticket);
            }
        }
        has_sent
    }

    /// The end of a loop turn: verify, write, send live events.
    pub(crate) fn turn(&mut self, now: Now) {
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::Turn, effects);
        }
    }

    pub(crate) fn tick(&mut self, now: Now) {
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::Tick, effects);
        }
    }

    /// Tells the shards when the disk passes its high-water mark and when it has fallen back a tenth
    /// below it; says so if that has just happened.
    pub(crate) fn watch_disk(
        &mut self,
        now: Now,
        free_bytes: Option<u64>,
        free_min_bytes: u64,
    ) -> Option<DiskLevel> {
        let free_bytes = free_bytes?;
        let resume_bytes = free_min_bytes.saturating_add(free_min_bytes / 10);
        let is_low = free_bytes < if self.is_low_on_space { resume_bytes } else { free_min_bytes };
        if is_low == self.is_low_on_space {
            return None;
        }
        self.is_low_on_space = is_low;
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::LowOnSpace(is_low), effects);
        }
        Some(DiskLevel { is_low, free_bytes })
    }

    pub(crate) fn close(&mut self, now: Now) {
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::Close, effects);
        }
    }

    pub(crate) fn are_closed(&self) -> bool {
        self.owned.iter().all(|(_, shard, _)| shard.is_closed())
    }

    /// Starts what the shards want of the world, feeds the world's answers back, and posts their
    /// messages.
    pub(crate) fn perform(
        &mut self,
        now: Now,
        post: &mut Post,
        machine: &mut impl Machine,
    ) -> io::Result<()> {
        self.is_cut_short = false;
        for _ in 0..STEPS_MAX {
            for (place, (id, _, effects)) in self.owned.iter_mut().enumerate() {
                if let Some(error) = effects.fatal.take() {
                    return Err(io::Error::other(error));
                }
                for (core, message) in effects.to_home.drain(..) {
                    post.to_home(core, *id, message);
                }
                for question in effects.door.drain(..) {
                    machine.ask_write(*id, question);
                }
                for effect in effects.store.drain(..) {
                    machine.perform(now, place, effect)?;
                }
            }
            let Some((place, answer)) = machine.next_answer() else { return Ok(()) };
            let (_, shard, effects) = &mut self.owned[place];
            shard.step(now, ShardInput::Store(answer), effects);
        }
        self.is_cut_short = true;
        Ok(())
    }

    /// The shards, in the order of the core's list.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.owned.iter().map(|(id, shard, _)| (*id, shard))
    }

    /// What the shards hold together.
    pub fn stats(&self) -> ShardStats {
        let mut sum = ShardStats::default();
        for (_, shard, _) in &self.owned {
            let stats = shard.stats();
            add_counters(&mut sum.counters, &stats.counters);
            sum.store_bytes += stats.store_bytes;
            sum.live_bytes += stats.live_bytes;
            sum.ingest_depth += stats.ingest_depth;
        }
        sum
    }
}
