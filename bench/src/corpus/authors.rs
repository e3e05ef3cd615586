//! Who writes: a Zipf head of regular authors with what they wrote before, and an endless supply of
//! keys that write once.

use super::Past;
use super::signer::Signer;
use crate::rng::{Rng, splitmix64};
use proto::PublicKey;
use proto::nip::nip01::{KindClass, class};

/// Events of one author that its deletions may name.
const AUTHOR_RECENT: usize = 6;
/// Mean events per key, in tenths: 208.6 million events of 19.7 million keys.
const EVENTS_PER_KEY_TENTHS: u64 = 106;

/// An author of one event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Author {
    pub(super) signer: Signer,
    /// Place among the regular authors; `None` for a one-shot key.
    rank: Option<usize>,
}

/// What a regular author wrote before.
#[derive(Debug, Default)]
struct History {
    recent: Vec<Past>,
    /// Newest version of each slot.
    slots: Vec<Past>,
}

/// All authors of a corpus.
#[derive(Debug)]
pub(super) struct Authors {
    seed: u64,
    /// Made when first drawn: a key costs as much as a signature.
    signers: Vec<Option<Signer>>,
    histories: Vec<History>,
    /// Running sums of the weights of the ranks.
    cumulative: Vec<u64>,
    /// Ranks that hold a slot, each once.
    with_slots: Vec<usize>,
    one_shots: u64,
}

impl Authors {
    /// A quarter of the keys that `count` events need, weighted by 1 / rank.
    pub(super) fn zipf(seed: u64, count: u64) -> Self {
        let regular = (count * 10 / EVENTS_PER_KEY_TENTHS / 4).clamp(8, 1_000_000) as usize;
        Self::new(seed, (1..=regular as u64).map(|rank| (1 << 40) / rank))
    }

    /// `count` keys of equal weight.
    pub(super) fn even(seed: u64, count: u32) -> Self {
        Self::new(seed, (0..count.max(1)).map(|_| 1))
    }

    fn new(seed: u64, weights: impl Iterator<Item = u64>) -> Self {
        let mut sum = 0;
        let cumulative: Vec<u64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        let mut histories = Vec::new();
        histories.resize_with(cumulative.len(), History::default);
        Self {
            seed,
            signers: vec![None; cumulative.len()],
            histories,
            cumulative,
            with_slots: Vec::new(),
            one_shots: 0,
        }
    }

    pub(super) fn signer(&mut self, rank: usize) -> Signer {
        let seed = self.seed;
        *self.signers[rank].get_or_insert_with(|| Signer::from_seed(mixed(seed, rank as u64)))
    }

    /// An author for the next event.
    pub(super) fn draw(&mut self, rng: &mut Rng, one_shot: bool) -> Author {
        if one_shot {
            self.one_shots += 1;
            let seed = mixed(!self.seed, self.one_shots);
            return Author { signer: Signer::from_seed(seed), rank: None };
        }
        let rank = self.draw_rank(rng);
        Author { signer: self.signer(rank), rank: Some(rank) }
    }

    fn draw_rank(&self, rng: &mut Rng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1);
        let drawn = rng.below(total);
        self.cumulative.partition_point(|sum| *sum <= drawn)
    }

    /// Somebody to mention: popular people more often.
    pub(super) fn mentioned(&self, rng: &mut Rng) -> PublicKey {
        let rank = self.draw_rank(rng);
        self.key_or_stranger(rank, rng)
    }

    /// `count` different people, for a follow list.
    pub(super) fn followed(&self, rng: &mut Rng, count: usize) -> Vec<PublicKey> {
        let known = self.signers.len();
        let first = rng.index(known);
        (0..count)
            .map(|step| match step < known {
                true => self.key_or_stranger((first + step) % known, rng),
                false => PublicKey(rng.bytes32()),
            })
            .collect()
    }

    /// The key at `rank` if it has been seen, else somebody who writes elsewhere.
    fn key_or_stranger(&self, rank: usize, rng: &mut Rng) -> PublicKey {
        self.signers[rank].map_or_else(|| PublicKey(rng.bytes32()), |signer| signer.pubkey())
    }

    /// What `author` wrote lately.
    pub(super) fn recent(&self, author: &Author) -> &[Past] {
        author.rank.map_or(&[], |rank| &self.histories[rank].recent)
    }

    /// The newest version of each of `author`'s slots.
    pub(super) fn slots(&self, author: &Author) -> &[Past] {
        author.rank.map_or(&[], |rank| &self.histories[rank].slots)
    }

    /// `created_at` of the newest version of any of `author`'s slots of `kind`; 0 if there is none.
    pub(super) fn newest(&self, author: &Author, kind: u16) -> u32 {
        let slots = self.slots(author).iter().filter(|past| past.kind == kind);
        slots.map(|past| past.created_at).max().unwrap_or(0)
    }

    /// A random slot and its owner.
    pub(super) fn draw_slot(&mut self, rng: &mut Rng) -> Option<(Author, Past)> {
        if self.with_slots.is_empty() {
            return None;
        }
        let rank = *rng.pick(&self.with_slots);
        let past = *rng.pick(&self.histories[rank].slots);
        Some((Author { signer: self.signer(rank), rank: Some(rank) }, past))
    }

    /// Notes that `author` wrote `past`.
    pub(super) fn record(&mut self, author: &Author, past: Past) {
        let Some(rank) = author.rank else { return };
        let history = &mut self.histories[rank];
        if past.kind != 5 {
            if history.recent.len() == AUTHOR_RECENT {
                history.recent.remove(0);
            }
            history.recent.push(past);
        }
        if !matches!(class(past.kind), KindClass::Replaceable | KindClass::Addressable) {
            return;
        }
        if history.slots.is_empty() {
            self.with_slots.push(rank);
        }
        let same = history.slots.iter_mut().find(|slot| slot.kind == past.kind && slot.d == past.d);
        match same {
            Some(slot) => *slot = past,
            None => history.slots.push(past),
        }
    }
}

fn mixed(seed: u64, index: u64) -> u64 {
    let mut state = seed.wrapping_add(index.wrapping_mul(0xa24b_aed4_963e_e407));
    splitmix64(&mut state)
}
