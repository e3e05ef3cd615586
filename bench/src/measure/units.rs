//! The units that budgets are written in, measured beside the work:
//!
//! - **V**: CPU time of one BIP-340 verification with a parsed key, by libsecp256k1.
//! - **S**: CPU time per send of a loop that does nothing but write the same frame to as many
//!   sockets, while somebody reads them.
//!
//! Both run on all cores at once, as the work does, so that what neighbouring cores take from each
//! other (clock, shared caches) is in both sides of a ratio.

use super::cpu::{cores, monotonic_ns, thread_ns};
use super::swarm::Swarm;
use anyhow::ensure;
use proto::Event;
use rustix::thread::{CpuSet, sched_setaffinity};
use secp256k1::{XOnlyPublicKey, schnorr};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Operations and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Operations.
    pub operations: u64,
    /// CPU nanoseconds of all of them.
    pub cpu_ns: u64,
}

impl Cost {
    /// Adds a slice.
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.cpu_ns += other.cpu_ns;
    }

    /// Nanoseconds of one operation.
    pub fn each_ns(&self) -> f64 {
        self.cpu_ns as f64 / self.operations.max(1) as f64
    }
}

/// Lets the calling thread run on `core` only. A refusal costs exactness, not the measurement.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

struct Signed {
    key: XOnlyPublicKey,
    signature: schnorr::Signature,
    id: [u8; 32],
}

/// Measures V.
pub struct Verification {
    signed: Vec<Signed>,
}

impl Verification {
    /// Over these events, whose keys are parsed here.
    ///
    /// # Errors
    /// When one of them is not validly signed.
    pub fn new(events: &[Event]) -> anyhow::Result<Self> {
        let mut signed = Vec::with_capacity(events.len());
        for event in events {
            let view = event.view();
            signed.push(Signed {
                key: XOnlyPublicKey::from_byte_array(view.pubkey().0)?,
                signature: schnorr::Signature::from_byte_array(view.sig().0),
                id: view.id().0,
            });
        }
        ensure!(!signed.is_empty(), "no events to verify");
        Ok(Self { signed })
    }

    /// Verifies on all cores at once for `duration_ms`.
    ///
    /// # Errors
    /// When a signature is not valid.
    pub fn slice(&self, duration_ms: u64) -> anyhow::Result<Cost> {
        let mut sum = Cost::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..cores()).map(|_| scope.spawn(|| self.verify_for(duration_ms))).collect();
            for thread in threads {
                sum.add(thread.join().expect("verification does not panic")?);
            }
            Ok(sum)
        })
    }

    fn verify_for(&self, duration_ms: u64) -> anyhow::Result<Cost> {
        let end_ns = monotonic_ns() + duration_ms * 1_000_000;
        let before_ns = thread_ns();
        let mut operations = 0;
        while monotonic_ns() < end_ns {
            // A slice of signatures between looks at the clock.
            for _ in 0..64 {
                let signed = &self.signed[operations as usize % self.signed.len()];
                schnorr::verify(&signed.signature, &signed.id, &signed.key)?;
                operations += 1;
            }
        }
        Ok(Cost { operations, cpu_ns: thread_ns() - before_ns })
    }
}

/// Measures S.
pub struct SendLoop {
    /// One share of the sockets for each core.
    senders: Vec<Vec<TcpStream>>,
    received: std::sync::Arc<AtomicU64>,
    stop: std::sync::Arc<AtomicBool>,
    reader: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
    sockets: usize,
    expected: u64,
}

impl SendLoop {
    /// `sockets` connections over the loopback device, read by one thread.
    ///
    /// # Errors
    /// When the system has not got them.
    pub fn new(sockets: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut senders: Vec<Vec<TcpStream>> = Vec::new();
        senders.resize_with(cores(), Vec::new);
        let mut swarm = Swarm::new()?;
        for number in 0..sockets {
            swarm.add(TcpStream::connect(address)?)?;
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            senders[number % cores()].push(stream);
        }
        let received = std::sync::Arc::new(AtomicU64::new(0));
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let reader = {
            let (received, stop) = (received.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    received.fetch_add(swarm.drain(50)?, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        Ok(Self { senders, received, stop, reader: Some(reader), sockets, expected: 0 })
    }

    /// Writes `bytes`, which are `frames` frames, to every socket, again and again for
    /// `duration_ms`; each round begins when the one before has been read.
    ///
    /// # Errors
    /// When the reader falls silent.
    pub fn slice(&mut self, bytes: &[u8], frames: u64, duration_ms: u64) -> anyhow::Result<Cost> {
        let mut sum = Cost::default();
        let end_ns = monotonic_ns() + duration_ms * 1_000_000;
        while monotonic_ns() < end_ns {
            let costs: Vec<std::io::Result<u64>> = std::thread::scope(|scope| {
                let shares = self.senders.iter_mut().enumerate();
                let threads: Vec<_> = shares
                    .map(|(core, share)| scope.spawn(move || send_all(core, share, bytes)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("sending does not panic"))
                    .collect()
            });
            for cost in costs {
                sum.cpu_ns += cost?;
            }
            sum.operations += self.sockets as u64;
            self.expected += self.sockets as u64 * frames;
            self.wait_until_read()?;
        }
        Ok(sum)
    }

    fn wait_until_read(&self) -> anyhow::Result<()> {
        let give_up_ns = monotonic_ns() + 20_000_000_000;
        while self.received.load(Ordering::Relaxed) < self.expected {
            ensure!(monotonic_ns() < give_up_ns, "the reader of the raw loop is silent");
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        Ok(())
    }
}

/// One thread's share of a round: CPU nanoseconds of its sends.
fn send_all(core: usize, sockets: &mut [TcpStream], bytes: &[u8]) -> std::io::Result<u64> {
    pin(core);
    let before_ns = thread_ns();
    for socket in sockets.iter_mut() {
        socket.write_all(bytes)?;
    }
    Ok(thread_ns() - before_ns)
}

impl Drop for SendLoop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::events::{Maker, Spec};

    #[test]
    fn a_forged_signature_is_no_unit() {
        let maker = Maker::new(Spec { authors: 2, ..Spec::uniform(1) });
        let good = Verification::new(&[maker.event(0), maker.event(1)]).unwrap();
        let cost = good.slice(5).unwrap();
        assert!(cost.operations >= 64 && cost.each_ns() > 100.0);
        let mut parts_of = maker.event(0);
        let forged = {
            let mut parts = parts_of.view().parts();
            parts.sig.0[63] ^= 1;
            parts.pack()
        };
        parts_of = forged;
        assert!(Verification::new(&[parts_of]).unwrap().slice(5).is_err());
    }

    #[test]
    fn every_send_of_the_raw_loop_is_read() {
        let mut raw = SendLoop::new(10).unwrap();
        let cost = raw.slice(&[0x81, 1, b'x', 0x81, 1, b'y'], 2, 10).unwrap();
        assert!(cost.operations >= 10 && cost.operations % 10 == 0 && cost.cpu_ns > 0);
        assert_eq!(raw.received.load(Ordering::Relaxed), cost.operations * 2);
    }
}
