//! Signed events by number: each is a function of its specification and its index alone, so that
//! any range of them can be made on any thread, again, and nowhere be kept.

use crate::rng::{Rng, splitmix64};
use crate::{Draft, Signer};
use proto::Event;
use std::io::{self, Write};

/// Events that one thread makes before they are written.
const CHUNK_EVENTS: u64 = 2_048;

/// What the events are like.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Start of every choice.
    pub seed: u64,
    /// Kind of all.
    pub kind: u16,
    /// Keys that sign in turn; 0 is a key of its own for each event.
    pub authors: usize,
    /// Bytes of JSON of each event.
    pub event_bytes: usize,
    /// Different values of a `t` tag; 0 is no tag.
    pub topics: u64,
    /// `created_at` of event 0.
    pub base_time: u32,
    /// Events that share a second.
    pub per_second: u64,
}

impl Spec {
    /// Kind 1 of 500 bytes by a thousand keys.
    pub fn uniform(seed: u64) -> Self {
        Self {
            seed,
            kind: 1,
            authors: 1_000,
            event_bytes: 500,
            topics: 0,
            base_time: 1_750_000_000,
            per_second: 4,
        }
    }
}

/// Makes the events of a [`Spec`].
#[derive(Clone, Debug)]
pub struct Maker {
    spec: Spec,
    signers: Vec<Signer>,
}

impl Maker {
    /// Prepares the keys.
    pub fn new(spec: Spec) -> Self {
        let signers = (0..spec.authors as u64).map(|rank| signer(spec.seed, rank)).collect();
        Self { spec, signers }
    }

    /// What it makes.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The key that signs the event `index`.
    pub fn author(&self, index: u64) -> Signer {
        match self.signers.len() as u64 {
            0 => signer(!self.spec.seed, index),
            authors => self.signers[self.author_rank(index, authors)],
        }
    }

    /// Not in a fixed order: neighbours in time would otherwise never share an author.
    fn author_rank(&self, index: u64, authors: u64) -> usize {
        Rng::new(self.spec.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).below(authors) as usize
    }

    /// `created_at` of the event `index`.
    pub fn created_at(&self, index: u64) -> u32 {
        self.spec.base_time.saturating_add((index / self.spec.per_second) as u32)
    }

    /// The `t` value of the event `index`.
    pub fn topic(&self, index: u64) -> String {
        format!("topic{}", index % self.spec.topics.max(1))
    }

    /// The event `index`.
    pub fn event(&self, index: u64) -> Event {
        self.sign(index, &self.author(index))
    }

    /// The event `index`, signed by `signer` instead of its own author.
    pub fn sign(&self, index: u64, signer: &Signer) -> Event {
        let mut draft = Draft::new(self.spec.kind, self.created_at(index));
        if self.spec.topics > 0 {
            draft.push_tag(&["t", &self.topic(index)]);
        }
        let mut parts = draft.parts();
        parts.pubkey = signer.pubkey();
        let mut json = Vec::with_capacity(self.spec.event_bytes);
        parts.pack().view().write_json(&mut json);
        let filler = self.spec.event_bytes.saturating_sub(json.len());
        let mut rng = Rng::new(self.spec.seed.rotate_left(17) ^ index);
        let mut content = Vec::with_capacity(filler + 8);
        while content.len() < filler {
            let mut word = rng.next_u64();
            for _ in 0..8 {
                content.push(b'a' + (word % 26) as u8);
                word >>= 8;
            }
        }
        content.truncate(filler);
        draft.set_content(&content);
        signer.sign(&draft)
    }

    /// Events `range` as JSON lines, in order, made on `threads` threads while earlier ones are
    /// written. `progress` hears how many are.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write_lines(
        &self,
        range: std::ops::Range<u64>,
        threads: usize,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<u64> {
        let chunks = range.end.saturating_sub(range.start).div_ceil(CHUNK_EVENTS);
        let threads = threads.clamp(1, 64) as u64;
        let mut bytes = 0;
        std::thread::scope(|scope| {
            // Chunk k comes from thread k mod threads; each may be two chunks ahead.
            let receivers: Vec<_> = (0..threads)
                .map(|thread| {
                    let (sender, receiver) = std::sync::mpsc::sync_channel(2);
                    let range = range.clone();
                    scope.spawn(move || {
                        for chunk in (thread..chunks).step_by(threads as usize) {
                            let first = range.start + chunk * CHUNK_EVENTS;
                            let last = (first + CHUNK_EVENTS).min(range.end);
                            if sender.send(self.lines(first..last)).is_err() {
                                return;
                            }
                        }
                    });
                    receiver
                })
                .collect();
            for chunk in 0..chunks {
                let receiver = &receivers[(chunk % threads) as usize];
                let lines = receiver.recv().expect("a signing thread ends after its last chunk");
                out.write_all(&lines)?;
                bytes += lines.len() as u64;
                progress(((chunk + 1) * CHUNK_EVENTS).min(range.end - range.start));
            }
            Ok(bytes)
        })
    }

    fn lines(&self, range: std::ops::Range<u64>) -> Vec<u8> {
        let mut lines =
            Vec::with_capacity((range.end - range.start) as usize * (self.spec.event_bytes + 8));
        for index in range {
            self.event(index).view().write_json(&mut lines);
            lines.push(b'\n');
        }
        lines
    }

    /// `make` of each index of `range`, in order, on all cores.
    pub fn in_parallel<T: Send>(
        &self,
        range: std::ops::Range<u64>,
        make: impl Fn(&Self, u64) -> T + Sync,
    ) -> Vec<T> {
        let threads = super::cpu::cores() as u64;
        let share = (range.end.saturating_sub(range.start)).div_ceil(threads).max(1);
        let make = &make;
        std::thread::scope(|scope| {
            let parts: Vec<_> = (0..threads)
                .map(|thread| {
                    let first = (range.start + thread * share).min(range.end);
                    let last = (first + share).min(range.end);
                    scope.spawn(move || {
                        (first..last).map(|index| make(self, index)).collect::<Vec<T>>()
                    })
                })
                .collect();
            let parts = parts.into_iter().map(|part| part.join().expect("signing does not panic"));
            parts.flatten().collect()
        })
    }
}

fn signer(seed: u64, rank: u64) -> Signer {
    let mut state = seed.wrapping_add(rank.wrapping_mul(0x2545_f491_4f6c_dd1d));
    Signer::from_seed(splitmix64(&mut state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_their_size_and_repeat_and_ranges_join() {
        let maker = Maker::new(Spec { topics: 7, authors: 5, ..Spec::uniform(3) });
        let mut json = Vec::new();
        maker.event(12).view().write_json(&mut json);
        assert_eq!(json.len(), 500);
        assert_eq!(maker.event(12), Maker::new(maker.spec().clone()).event(12));
        assert!(maker.event(12).view().id_is_valid());
        assert_ne!(maker.event(12), maker.event(13));
        let mut whole = Vec::new();
        maker.write_lines(0..5_000, 3, &mut whole, &mut |_| ()).unwrap();
        let mut parts = Vec::new();
        maker.write_lines(0..1_111, 1, &mut parts, &mut |_| ()).unwrap();
        maker.write_lines(1_111..5_000, 2, &mut parts, &mut |_| ()).unwrap();
        assert!(whole == parts);
        assert_eq!(whole.len(), 5_000 * 501);
        let ids = maker.in_parallel(0..5, |maker, index| maker.event(index).view().id());
        assert_eq!(ids[4], maker.event(4).view().id());
    }

    #[test]
    fn an_event_of_its_own_author_each() {
        let maker = Maker::new(Spec { authors: 0, ..Spec::uniform(3) });
        assert_ne!(maker.author(1).pubkey(), maker.author(2).pubkey());
        assert_eq!(maker.event(1).view().pubkey(), maker.author(1).pubkey());
    }
}
