//! How a core's messages travel: to its own shards and home through a plain queue, to other cores
//! through the mesh.

use shards::mesh::Port;
use shards::message::{CoreId, Envelope, ShardId, ToHome, ToShard, VerifyTicket};
use std::collections::VecDeque;

/// One core's post. Owned by the core; bounded by the credits of `shards::message`.
pub struct Post {
    port: Port,
    executors: usize,
    local: VecDeque<Envelope>,
    received: VecDeque<Envelope>,
}

impl Post {
    /// The post of the core that owns `port`; shards live on the first `executors` cores.
    pub fn new(port: Port, executors: usize) -> Self {
        assert!(executors > 0, "shards live on executors");
        Self { port, executors, local: VecDeque::new(), received: VecDeque::new() }
    }

    /// This core.
    pub fn core(&self) -> CoreId {
        self.port.core()
    }

    /// The core on which a shard lives.
    fn core_of(&self, shard: ShardId) -> CoreId {
        (usize::from(shard) % self.executors) as CoreId
    }

    /// From this core's home to a shard.
    pub fn to_shard(&mut self, to: ShardId, message: ToShard) {
        let core = self.core_of(to);
        let envelope = Envelope::Shard { from: self.core(), to, message };
        self.send(core, envelope);
    }

    /// From a shard of this core to a home.
    pub fn to_home(&mut self, core: CoreId, from: ShardId, message: ToHome) {
        self.send(core, Envelope::Home { from, message });
    }

    /// From a shard of this core to another core, which checks signatures for it.
    pub fn to_checker(&mut self, core: CoreId, from: ShardId, ticket: VerifyTicket) {
        self.send(core, Envelope::Verify { from, ticket });
    }

    /// Says how many signatures this core has to check.
    pub fn publish_load(&self, signatures: usize) {
        self.port.publish_load(u32::try_from(signatures).unwrap_or(u32::MAX));
    }

    /// The other core with shards that has fewest signatures to check, and how many: of several the
    /// next one after this core, so that not all turn to the same.
    pub fn idlest(&self) -> Option<(CoreId, usize)> {
        let own = usize::from(self.core());
        let others = (1..self.executors).map(|step| ((own + step) % self.executors) as CoreId);
        let loads = others.map(|core| (core, self.port.load_of(core) as usize));
        loads.min_by_key(|(_, load)| *load)
    }

    fn send(&mut self, core: CoreId, envelope: Envelope) {
        // One queue per ordered pair of cores keeps the order that the messages' contract wants.
        if core == self.core() {
            self.local.push_back(envelope);
        } else {
            self.port.send(core, envelope);
        }
    }

    /// The next message for this core.
    pub fn take(&mut self) -> Option<Envelope> {
        if let Some(envelope) = self.local.pop_front() {
            return Some(envelope);
        }
        if self.received.is_empty() {
            self.received.extend(self.port.receive()?);
        }
        self.received.pop_front()
    }

    /// Sends what is queued for other cores and calls `wake` for those that sleep.
    pub fn flush(&mut self, wake: impl FnMut(CoreId)) {
        self.port.flush(wake);
    }

    /// Messages for other cores that wait for room in a ring.
    pub fn backlog(&self) -> usize {
        self.port.backlog()
    }

    /// Announces sleep; `false` when there is something to do first.
    pub fn park(&mut self) -> bool {
        self.local.is_empty() && self.received.is_empty() && self.backlog() == 0 && self.port.park()
    }

    /// Ends the sleep.
    pub fn unpark(&mut self) {
        self.port.unpark();
    }
}
