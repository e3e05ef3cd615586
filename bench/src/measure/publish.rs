//! Publishing over several connections at once, each with a window of events on their way.

use super::client::{Client, Outcomes, event_frame};
use super::cpu::monotonic_ns;
use super::events::Maker;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Connections; enough for every core of a small machine to have some.
pub const CONNECTIONS: usize = 16;
/// Events in one write.
const CHUNK_EVENTS: usize = 32;
/// Writes of one connection that are not answered.
const CHUNKS_IN_FLIGHT: usize = 2;

/// Frames made beforehand, one after the other, so that any stretch of them is one write.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
}

impl Frames {
    /// The events `range` of `maker`, after `change`.
    pub fn of(
        maker: &Maker,
        range: Range<u64>,
        change: impl Fn(proto::Event) -> proto::Event + Sync,
    ) -> Self {
        let frames =
            maker.in_parallel(range, |maker, index| event_frame(&change(maker.event(index))));
        Self::joined(frames.iter().map(Vec::as_slice))
    }

    /// These frames.
    pub fn joined<'a>(frames: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut joined = Self::default();
        for frame in frames {
            joined.bytes.extend_from_slice(frame);
            joined.ends.push(joined.bytes.len());
        }
        joined
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of the frames `range`.
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        let begin = range.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = range.end.checked_sub(1).map_or(0, |last| self.ends[last]);
        &self.bytes[begin.min(end)..end]
    }
}

/// Publishes frames, each once, in slices of time.
#[derive(Debug)]
pub struct Publishers {
    clients: Vec<Client>,
    next: AtomicUsize,
}

impl Publishers {
    /// Connections to the relay at `address`.
    ///
    /// # Errors
    /// When it does not take them.
    pub fn connect(address: SocketAddr, connections: usize) -> anyhow::Result<Self> {
        let clients =
            (0..connections).map(|_| Client::connect(address)).collect::<Result<_, _>>()?;
        Ok(Self { clients, next: AtomicUsize::new(0) })
    }

    /// How many of `frames` are still to be sent.
    pub fn remaining(&self, frames: &Frames) -> usize {
        frames.len().saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Publishes for `duration_ms`, or to the end of `frames`; returns when everything sent has been
    /// answered.
    ///
    /// # Errors
    /// When a connection fails.
    pub fn slice(&mut self, frames: &Frames, duration_ms: u64) -> anyhow::Result<Outcomes> {
        let end_ns = monotonic_ns() + duration_ms * 1_000_000;
        let next = &self.next;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .clients
                .iter_mut()
                .map(|client| scope.spawn(move || publish(client, frames, next, end_ns)))
                .collect();
            let mut sum = Outcomes::default();
            for thread in threads {
                sum.add(thread.join().expect("a publisher does not panic")?);
            }
            Ok(sum)
        })
    }
}

fn publish(
    client: &mut Client,
    frames: &Frames,
    next: &AtomicUsize,
    end_ns: u64,
) -> anyhow::Result<Outcomes> {
    let mut sum = Outcomes::default();
    let mut in_flight = std::collections::VecDeque::new();
    loop {
        while in_flight.len() < CHUNKS_IN_FLIGHT && monotonic_ns() < end_ns {
            let first = next.fetch_add(CHUNK_EVENTS, Ordering::Relaxed).min(frames.len());
            let last = (first + CHUNK_EVENTS).min(frames.len());
            if first == last {
                break;
            }
            client.send(frames.slice(first..last))?;
            in_flight.push_back((last - first) as u64);
        }
        match in_flight.pop_front() {
            Some(count) => sum.add(client.outcomes(count)?),
            None => return Ok(sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_of_frames_join_to_the_whole() {
        let frames = Frames::joined([&b"ab"[..], b"c", b"", b"def"].into_iter());
        assert_eq!(frames.len(), 4);
        assert_eq!(frames.slice(0..4), b"abcdef");
        assert_eq!(frames.slice(0..1), b"ab");
        assert_eq!(frames.slice(1..3), b"c");
        assert_eq!(frames.slice(3..4), b"def");
        assert_eq!(frames.slice(2..2), b"");
        assert_eq!(frames.slice(0..0), b"");
    }
}
