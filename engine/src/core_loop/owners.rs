//! The shards of a core, and the answers of their worlds.

use crate::effects::Performer;
use crate::log::{self, Level};
use crate::metrics;
use crate::policy::PolicyPort;
use crate::post::Post;
use crate::runtime::log_thread::LogDone;
use crate::runtime::reactor::Reactor;
use proto::Now;
use shards::door;
use shards::message::{CoreId, ShardId, ShardStats, ToShard};
use shards::shard::{Shard, ShardEffects, ShardInput};
use std::io;
use store::StoreEffect;

/// Store effects and answers of one turn; what is left waits for the next.
const STEPS_MAX: usize = 4_096;

/// One shard of the core.
pub struct Owned {
    /// Its number.
    pub id: ShardId,
    /// The shard.
    pub shard: Shard,
    /// What opening the store has asked for already.
    pub effects: Vec<StoreEffect>,
}

/// The shards that live on one core. Owned by the core.
pub struct Owners {
    owned: Vec<(ShardId, Shard, ShardEffects)>,
    performer: Performer,
    /// The last turn ended before the world's answers did: some may be there already.
    is_cut_short: bool,
    is_low_on_space: bool,
}

impl Owners {
    /// `performer` knows the same shards in the same order.
    pub fn new(owned: Vec<Owned>, performer: Performer) -> Self {
        let owned = owned.into_iter().map(|Owned { id, shard, effects }| {
            (id, shard, ShardEffects { store: effects, ..ShardEffects::default() })
        });
        Self { owned: owned.collect(), performer, is_cut_short: false, is_low_on_space: false }
    }

    /// Whether a turn would get anything done.
    pub(super) fn has_work(&self) -> bool {
        self.is_cut_short
            || self.performer.has_answer()
            || self.owned.iter().any(|(_, shard, effects)| {
                let ShardEffects { store, to_home, door, .. } = effects;
                shard.has_work() || !(store.is_empty() && to_home.is_empty() && door.is_empty())
            })
    }

    /// Takes a message for one of the shards.
    pub(super) fn message(&mut self, now: Now, from: CoreId, to: ShardId, message: ToShard) {
        self.step(now, to, ShardInput::From(from, message));
    }

    /// A policy plug-in has answered one of the shards.
    pub(super) fn door_answered(&mut self, now: Now, to: ShardId, answer: door::Answer) {
        self.step(now, to, ShardInput::Door(answer));
    }

    fn step(&mut self, now: Now, to: ShardId, input: ShardInput) {
        let owned = self.owned.iter_mut().find(|(id, ..)| *id == to);
        let (_, shard, effects) = owned.expect("each shard's mail is sent to its core");
        shard.step(now, input, effects);
    }

    /// The end of a loop turn: verify, write, send live events.
    pub(super) fn turn(&mut self, now: Now) {
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::Turn, effects);
        }
    }

    pub(super) fn tick(&mut self, now: Now) {
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::Tick, effects);
        }
    }

    /// Tells the shards when the disk passes its high-water mark and when it has fallen back a tenth
    /// below it.
    pub(super) fn watch_disk(&mut self, now: Now, free_min_bytes: u64) {
        let Some(free) = self.performer.free_bytes() else { return };
        let resume_bytes = free_min_bytes.saturating_add(free_min_bytes / 10);
        let is_low = free < if self.is_low_on_space { resume_bytes } else { free_min_bytes };
        if is_low == self.is_low_on_space {
            return;
        }
        self.is_low_on_space = is_low;
        let mib = free >> 20;
        if self.owned.first().is_some_and(|(shard, ..)| *shard == 0) {
            match is_low {
                true => log::line(
                    Level::Error,
                    &format!(
                        "storage full: {mib} MiB are free, less than store.free_min_mib; events are refused"
                    ),
                ),
                false => {
                    log::line(Level::Info, &format!("{mib} MiB are free: events are taken again"))
                }
            }
        }
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::LowOnSpace(is_low), effects);
        }
    }

    pub(super) fn close(&mut self, now: Now) {
        for (_, shard, effects) in &mut self.owned {
            shard.step(now, ShardInput::Close, effects);
        }
    }

    pub(super) fn are_closed(&self) -> bool {
        self.owned.iter().all(|(_, shard, _)| shard.is_closed())
    }

    /// Log work is done; returns how long it took when all of it is.
    pub(super) fn logged(
        &mut self,
        done: LogDone,
        reactor: &mut Reactor,
    ) -> io::Result<Option<u64>> {
        self.performer.logged(done, reactor)
    }

    /// Starts what the shards want of the world, feeds the world's answers back, and posts their
    /// messages.
    pub(super) fn perform(
        &mut self,
        now: Now,
        reactor: &mut Reactor,
        (post, policy): (&mut Post, &mut PolicyPort),
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
                    policy.ask_write(*id, question);
                }
                for effect in effects.store.drain(..) {
                    self.performer.perform(now, place, effect, reactor)?;
                }
            }
            let Some((place, answer)) = self.performer.next_answer() else { return Ok(()) };
            let (_, shard, effects) = &mut self.owned[place];
            shard.step(now, ShardInput::Store(answer), effects);
        }
        self.is_cut_short = true;
        Ok(())
    }

    /// What the shards hold together.
    pub(super) fn stats(&self) -> ShardStats {
        let mut sum = ShardStats::default();
        for (_, shard, _) in &self.owned {
            let stats = shard.stats();
            metrics::add_shard(&mut sum.counters, &stats.counters);
            sum.store_bytes += stats.store_bytes;
            sum.live_bytes += stats.live_bytes;
            sum.ingest_depth += stats.ingest_depth;
        }
        sum
    }
}
