//! What a core asks of the machine that it runs on.

use crate::socket::{Sending, SocketId};
use proto::Now;
use shards::door::{Answer, Question, ReadQuestion};
use shards::message::{CoreId, ShardId};
use std::io;
use store::{StoreEffect, StoreInput};

/// Sockets, disks, plug-ins and the other cores, as one core sees them. Nothing here blocks.
pub trait Machine {
    /// Sends all of `chunk`. One send at a time per socket: the next may begin when this one is
    /// done. `is_followed`: more waits for it.
    fn send(&mut self, socket: SocketId, chunk: Vec<u8>, is_followed: bool) -> Sending;

    /// Stops reading; what has already been received may still arrive.
    fn pause_reading(&mut self, socket: SocketId);

    /// Reads again.
    fn resume_reading(&mut self, socket: SocketId);

    /// Tells the peer that nothing more will be sent; what was sent is still delivered.
    fn shutdown_write(&mut self, socket: SocketId);

    /// Closes a socket. Nothing is reported about it afterwards.
    fn close(&mut self, socket: SocketId);

    /// Accepts nobody from now on.
    fn stop_listening(&mut self);

    /// Accepts again after a pause for want of descriptors.
    fn resume_accepting(&mut self);

    /// Starts an effect of the shard at place `owner` of the core's list.
    ///
    /// # Errors
    /// When the store can no longer be trusted: the process must end without another answer.
    fn perform(&mut self, now: Now, owner: usize, effect: StoreEffect) -> io::Result<()>;

    /// Whether [`Machine::next_answer`] has one without waiting.
    fn has_answer(&self) -> bool;

    /// The next answer to an effect, and the place of the shard that it is for.
    fn next_answer(&mut self) -> Option<(usize, StoreInput)>;

    /// Free bytes of the disk that the shards are on, as far as the system says.
    fn free_bytes(&self) -> Option<u64>;

    /// Puts a shard's question about an event to the policy plug-in.
    fn ask_write(&mut self, shard: ShardId, question: Question);

    /// Puts the home's question about a read to the policy plug-in.
    fn ask_read(&mut self, question: ReadQuestion);

    /// The next answer of a plug-in: for a shard, or for the home.
    fn next_verdict(&mut self) -> Option<(Option<ShardId>, Answer)>;

    /// Wakes another core that sleeps.
    fn wake(&mut self, core: CoreId);
}
