//! The control core: a home without connections, through which commands read and write.

use crate::metrics::{Levels, Snapshot};
use crate::runtime::clock;
use crate::runtime::wake::Wake;
use crate::shared::{Phase, Shared};
use proto::Now;
use serve::{Post, Timings};
use shards::counters::ShardCounters;
use shards::message::Envelope;
use shards::{Home, HomeEffects, HomeInput, Reply};
use std::sync::Arc;

/// Messages taken in one turn.
const MESSAGES_MAX: usize = 4_096;

/// Owned by the thread that runs a command, or by the relay's control thread.
pub struct Control {
    home: Home,
    effects: HomeEffects,
    post: Post,
    wake: Wake,
    shared: Arc<Shared>,
    published: u64,
    has_drained: bool,
}

impl Control {
    /// `wake` is the one that other cores ring for this one.
    pub fn new(home: Home, post: Post, wake: Wake, shared: Arc<Shared>) -> Self {
        Self {
            home,
            effects: HomeEffects::default(),
            post,
            wake,
            shared,
            published: 0,
            has_drained: false,
        }
    }

    /// The words that all cores read.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What ends a wait of [`Control::turn`].
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Gives the home something to do. `true`: a client was parked, and gives nothing more before
    /// its [`Reply::Unpark`].
    pub fn step(&mut self, now: Now, input: HomeInput) -> bool {
        let before = self.effects.replies.len();
        self.home.step(now, input, &mut self.effects);
        self.effects.replies[before..].iter().any(|reply| matches!(reply, Reply::Park(_)))
    }

    /// Exchanges messages, first waiting up to `timeout_ms` if there are none, and returns what the
    /// home has to say.
    pub fn turn(&mut self, timeout_ms: u64) -> Vec<Reply> {
        self.send();
        let is_busy = self.home.has_work() || !self.effects.replies.is_empty();
        if !is_busy && self.post.park() {
            self.wake.wait(timeout_ms);
        }
        self.post.unpark();
        let now = clock::now();
        for _ in 0..MESSAGES_MAX {
            match self.post.take() {
                None => break,
                Some(Envelope::Home { from, message }) => {
                    self.step(now, HomeInput::From(from, message));
                }
                Some(Envelope::Shard { .. } | Envelope::Verify { .. }) => {
                    unreachable!("no shard lives on the control core, and none asks it for help")
                }
            }
        }
        if self.home.has_work() {
            self.step(now, HomeInput::Turn);
        }
        self.send();
        self.publish();
        std::mem::take(&mut self.effects.replies)
    }

    fn send(&mut self) {
        for (shard, message) in self.effects.to_shard.drain(..) {
            self.post.to_shard(shard, message);
        }
        let wakes = self.shared.wakes();
        self.post.flush(|core| {
            if let Some(wake) = wakes.get(usize::from(core)) {
                wake.wake();
            }
        });
    }

    /// Answers a scrape, so that nobody waits for this core.
    fn publish(&mut self) {
        let epoch = self.shared.scrape_epoch();
        if epoch == self.published {
            return;
        }
        self.published = epoch;
        let levels = Levels { pages_bytes: self.home.page_bytes() as u64, ..Levels::default() };
        let snapshot = Snapshot {
            net: None,
            home: self.home.counters(),
            shards: &ShardCounters::default(),
            policy: Default::default(),
            timings: &Timings::default(),
            levels,
        };
        self.shared.cells()[usize::from(self.post.core())].publish(&snapshot, epoch);
        self.shared.wakes().iter().for_each(Wake::wake);
    }

    /// Once the relay is ending: tells the others when nothing of this core is under way.
    pub fn advance_drain(&mut self) {
        let is_ending = self.shared.phase() >= Phase::Draining;
        if is_ending && !self.has_drained && !self.home.has_submissions() {
            self.has_drained = true;
            self.shared.drained();
        }
    }
}
