//! The mesh: one bounded ring per ordered pair of cores, carrying boxed batches.
//!
//! A sender never blocks: what does not fit stays in its own outgoing list, whose length is bounded
//! by the credits of [`crate::message`]. A receiver is woken only when it is parked, since a wake
//! costs about a thousand enqueues; the engine owns the wakers and learns from [`Port::flush`]
//! whom to wake. The has-mail word spares a receiver the polling of empty rings. Beside it stands how
//! many signatures the core has to check: a hint for those who would have some checked elsewhere, and
//! nothing more depends on it.
//!
//! Memory: `cores^2 * slots` pointers; `slots` shrinks with the number of cores.

use crate::message::{CoreId, Envelope};
use crossbeam_queue::ArrayQueue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Most cores that one mesh connects; the has-mail word has a bit for each.
pub const CORES_MAX: usize = 64;
/// Envelopes in one batch.
const BATCH_MAX: usize = 256;

type Batch = Box<Vec<Envelope>>;

/// What one receiver shares with its senders.
struct Mailbox {
    has_mail: AtomicU64,
    parked: AtomicBool,
    load: AtomicU32,
    rings: Box<[ArrayQueue<Batch>]>,
}

/// One core's end of the mesh. Owned by the core.
pub struct Port {
    core: CoreId,
    mailboxes: Arc<[Mailbox]>,
    outgoing: Box<[VecDeque<Envelope>]>,
}

/// Makes the ports of `cores` cores, with as many slots as suit their number.
///
/// # Panics
/// If `cores` is 0 or above [`CORES_MAX`]: a mistake of the caller, which has checked its config.
pub fn mesh(cores: usize) -> Vec<Port> {
    mesh_with_slots(cores, (8192 / cores.max(1)).max(64))
}

/// Makes the ports of `cores` cores whose rings hold `slots` batches each.
///
/// # Panics
/// If `cores` is 0 or above [`CORES_MAX`], or there is no slot: a mistake of the caller.
pub fn mesh_with_slots(cores: usize, slots: usize) -> Vec<Port> {
    assert!((1..=CORES_MAX).contains(&cores), "a mesh connects 1 to {CORES_MAX} cores");
    let mailbox = || Mailbox {
        has_mail: AtomicU64::new(0),
        parked: AtomicBool::new(false),
        load: AtomicU32::new(0),
        rings: (0..cores).map(|_| ArrayQueue::new(slots)).collect(),
    };
    let mailboxes: Arc<[Mailbox]> = (0..cores).map(|_| mailbox()).collect();
    (0..cores)
        .map(|core| Port {
            core: core as CoreId,
            mailboxes: mailboxes.clone(),
            outgoing: (0..cores).map(|_| VecDeque::new()).collect(),
        })
        .collect()
}

impl Port {
    /// This port's core.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Queues a message; it leaves with the next [`Port::flush`].
    pub fn send(&mut self, to: CoreId, envelope: Envelope) {
        self.outgoing[usize::from(to)].push_back(envelope);
    }

    /// Moves queued messages into the rings and calls `wake` for every receiver that is parked.
    pub fn flush(&mut self, mut wake: impl FnMut(CoreId)) {
        for (to, outgoing) in self.outgoing.iter_mut().enumerate() {
            if outgoing.is_empty() {
                continue;
            }
            let mailbox = &self.mailboxes[to];
            let ring = &mailbox.rings[usize::from(self.core)];
            let mut pushed = false;
            while !outgoing.is_empty() && !ring.is_full() {
                let batch = outgoing.drain(..outgoing.len().min(BATCH_MAX)).collect();
                match ring.push(Box::new(batch)) {
                    Ok(()) => pushed = true,
                    // This core is the ring's only sender, so a ring that was not full has room;
                    // should that ever change, the batch goes back to where it was.
                    Err(batch) => batch.into_iter().rev().for_each(|e| outgoing.push_front(e)),
                }
            }
            if pushed {
                mailbox.has_mail.fetch_or(1 << self.core, Ordering::SeqCst);
                if mailbox.parked.swap(false, Ordering::SeqCst) {
                    wake(to as CoreId);
                }
            }
        }
    }

    /// Messages that did not fit into a ring yet.
    pub fn backlog(&self) -> usize {
        self.outgoing.iter().map(VecDeque::len).sum()
    }

    /// Takes one batch, oldest first within each sender.
    pub fn receive(&mut self) -> Option<Vec<Envelope>> {
        let mailbox = &self.mailboxes[usize::from(self.core)];
        let mut mail = mailbox.has_mail.load(Ordering::Acquire);
        while mail != 0 {
            let from = mail.trailing_zeros() as usize;
            if let Some(batch) = mailbox.rings[from].pop() {
                return Some(*batch);
            }
            // Clear first, look again after: a batch pushed in between sets the bit again or is
            // seen by the second look.
            mailbox.has_mail.fetch_and(!(1 << from), Ordering::SeqCst);
            if let Some(batch) = mailbox.rings[from].pop() {
                mailbox.has_mail.fetch_or(1 << from, Ordering::SeqCst);
                return Some(*batch);
            }
            mail &= !(1 << from);
        }
        None
    }

    /// Says how many signatures this core has to check.
    pub fn publish_load(&self, signatures: u32) {
        let load = &self.mailboxes[usize::from(self.core)].load;
        // This core is the only writer; a line that has not changed stays in the others' caches.
        if load.load(Ordering::Relaxed) != signatures {
            load.store(signatures, Ordering::Relaxed);
        }
    }

    /// How many signatures another core had to check when it last said so.
    pub fn load_of(&self, core: CoreId) -> u32 {
        self.mailboxes[usize::from(core)].load.load(Ordering::Relaxed)
    }

    /// Announces that this core is about to sleep. `false`: mail has come, do not sleep.
    pub fn park(&self) -> bool {
        let mailbox = &self.mailboxes[usize::from(self.core)];
        mailbox.parked.store(true, Ordering::SeqCst);
        if mailbox.has_mail.load(Ordering::SeqCst) != 0 {
            mailbox.parked.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Ends the sleep announced by [`Port::park`].
    pub fn unpark(&self) {
        self.mailboxes[usize::from(self.core)].parked.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{QueryId, ToShard};

    fn note(n: u32) -> Envelope {
        let query = QueryId { slot: n, generation: 0 };
        Envelope::Shard { from: 0, to: 0, message: ToShard::Cancel { query } }
    }

    fn number(envelope: &Envelope) -> u32 {
        match envelope {
            Envelope::Shard { message: ToShard::Cancel { query }, .. } => query.slot,
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn order_is_kept_through_a_full_ring_and_a_parked_receiver_is_woken_once() {
        let mut ports = mesh(2);
        let mut receiver = ports.pop().expect("two ports");
        let mut sender = ports.pop().expect("two ports");
        assert!(receiver.park());
        // More than a ring holds; under Miri the order and the wakes are what is looked at.
        let total = if cfg!(miri) { 3_000 } else { 1_500_000 };
        let mut wakes = 0;
        let mut seen = 0;
        for n in 0..total {
            sender.send(1, note(n));
            if n % 100 == 0 {
                sender.flush(|_| wakes += 1);
            }
        }
        assert_eq!(wakes, 1, "only the parked state asks for a wake");
        while seen < total {
            sender.flush(|_| {});
            while let Some(batch) = receiver.receive() {
                for envelope in &batch {
                    assert_eq!(number(envelope), seen);
                    seen += 1;
                }
            }
        }
        assert_eq!(sender.backlog(), 0);
        assert!(receiver.park());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "two real threads are what is tested")]
    fn no_mail_is_lost_between_two_threads_that_park() {
        let mut ports = mesh(2);
        let mut receiver = ports.pop().expect("two ports");
        let mut sender = ports.pop().expect("two ports");
        let total = if cfg!(miri) { 2_000 } else { 200_000 };
        let (wake, woken) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for n in 0..total {
                    sender.send(1, note(n));
                    if n % 7 == 0 {
                        sender.flush(|_| wake.send(()).expect("receiver lives"));
                    }
                }
                while sender.backlog() > 0 {
                    sender.flush(|_| wake.send(()).expect("receiver lives"));
                }
                drop(wake);
            });
            let mut seen = 0;
            while seen < total {
                match receiver.receive() {
                    Some(batch) => {
                        for envelope in &batch {
                            assert_eq!(number(envelope), seen);
                            seen += 1;
                        }
                    }
                    None if receiver.park() => {
                        let _ = woken.recv();
                        receiver.unpark();
                    }
                    None => {}
                }
            }
        });
    }
}
