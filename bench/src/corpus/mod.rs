//! Signed events with the shape of public-relay traffic, as a function of a seed.
//!
//! The shape: kinds in the shares seen on the network, three keys in four with a single event and
//! the rest by Zipf, sizes log-normal with a heavy tail of follow lists, replies to popular
//! threads, replaceable versions that overtake one another, deletions of what was there before,
//! gift wraps, ephemeral noise. Options add the hostile parts: duplicates, bad signatures, stale
//! versions.
//!
//! Planning (everything but the signature) is sequential, because events name earlier ones by id,
//! and costs a few microseconds an event. Signing is twenty times dearer and independent per event:
//! [`Corpus::unsigned`] hands out [`Unsigned`] events that any thread may sign.

mod authors;
mod body;
pub mod jsonl;
pub mod prepared;
mod shape;
pub mod signer;
mod text;

use crate::rng::Rng;
use authors::{Author, Authors};
use proto::nip::nip01::{KindClass, class};
use proto::{Event, EventId, PublicKey, Signature};
use signer::{Draft, Signer};
use std::collections::VecDeque;

/// Events that later ones may refer to.
const RECENT_EVENTS: usize = 2_048;
/// Events that may be submitted a second time.
const REPEATABLE_EVENTS: usize = 256;
/// Popular events of which every tenth reference is one.
const POPULAR_EVENTS: usize = 16;

/// Which workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Public-relay traffic.
    Public,
    /// Kind 1 events of exactly this many bytes of JSON, by a thousand keys in turn: for figures
    /// that have to be comparable with other relays' benchmarks.
    Uniform {
        /// Bytes of the rendered event.
        event_bytes: usize,
    },
    /// Kind 30023 articles of exactly this many bytes of JSON, every one under a `d` of its own.
    Articles {
        /// Bytes of the rendered event.
        event_bytes: usize,
    },
}

/// What a corpus contains beyond its shape.
#[derive(Clone, Debug)]
pub struct CorpusOptions {
    /// `created_at` of the first event, unix seconds.
    pub base_time: u32,
    /// Seconds over which the events spread.
    pub span_s: u32,
    /// Submissions out of 1,000 that repeat an earlier one; 500 is one repeat per new event, 800
    /// is four.
    pub duplicate_per_mille: u16,
    /// Submissions out of 1,000 whose signature does not verify.
    pub bad_signature_per_mille: u16,
    /// Submissions out of 10,000 that are older than what already holds their slot.
    pub stale_per_myriad: u16,
    /// Keys that write in turn, in the shapes that are not public-relay traffic.
    pub authors: u32,
    /// Whether ephemeral kinds are among the public-relay traffic.
    pub has_ephemeral: bool,
}

impl Default for CorpusOptions {
    /// June 2025, one week, no repeats, no bad signatures, stale versions as seen on the network.
    fn default() -> Self {
        Self {
            base_time: 1_750_000_000,
            span_s: 7 * 86_400,
            duplicate_per_mille: 0,
            bad_signature_per_mille: 0,
            stale_per_myriad: 20,
            authors: 1_000,
            has_ephemeral: true,
        }
    }
}

/// What an event is in the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Seen for the first time and valid.
    Fresh,
    /// An earlier event once more.
    Duplicate,
    /// Valid but for its signature.
    BadSignature,
    /// A version older than the one that came before.
    Stale,
}

/// A signed event and what it is.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The event.
    pub event: Event,
    /// What it is.
    pub role: Role,
}

/// An event that lacks only its signature.
#[derive(Clone, Debug)]
pub struct Unsigned {
    event: Event,
    signer: Signer,
    role: Role,
}

impl Unsigned {
    /// Signs it (or, for [`Role::BadSignature`], pretends to).
    pub fn sign(&self) -> Sample {
        let mut parts = self.event.view().parts();
        parts.sig = self.signer.sign_id(&parts.id);
        if self.role == Role::BadSignature {
            parts.sig.0[63] ^= 1;
        }
        Sample { event: parts.pack(), role: self.role }
    }

    /// The event with its id, and zeros for a signature.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// What it will be.
    pub fn role(&self) -> Role {
        self.role
    }
}

/// What later events need to know of an earlier one.
#[derive(Clone, Copy, Debug)]
struct Past {
    id: EventId,
    pubkey: PublicKey,
    kind: u16,
    created_at: u32,
    /// Number of the `d` value, for addressable kinds.
    d: u8,
}

/// A corpus in the making: an iterator over exactly `count` signed events.
#[derive(Debug)]
pub struct Corpus {
    shape: Shape,
    options: CorpusOptions,
    rng: Rng,
    count: u64,
    made: u64,
    authors: Authors,
    recent: VecDeque<Past>,
    popular: Vec<Past>,
    repeatable: VecDeque<Unsigned>,
}

impl Corpus {
    /// `count` submissions of public-relay traffic.
    pub fn public(seed: u64, count: u64, options: CorpusOptions) -> Self {
        Self::new(Shape::Public, seed, count, options)
    }

    /// The key of the regular author of `rank` (0 writes most), for whoever goes on in its name.
    pub fn signer(&mut self, rank: usize) -> Signer {
        self.authors.signer(rank)
    }

    /// `count` submissions of `shape`.
    pub fn new(shape: Shape, seed: u64, count: u64, options: CorpusOptions) -> Self {
        let authors = match shape {
            Shape::Public => Authors::zipf(seed, count),
            Shape::Uniform { .. } | Shape::Articles { .. } => Authors::even(seed, options.authors),
        };
        Self {
            shape,
            options,
            rng: Rng::new(seed),
            count,
            made: 0,
            authors,
            recent: VecDeque::with_capacity(RECENT_EVENTS),
            popular: Vec::with_capacity(POPULAR_EVENTS),
            repeatable: VecDeque::with_capacity(REPEATABLE_EVENTS),
        }
    }

    /// Submissions still to come.
    pub fn remaining(&self) -> u64 {
        self.count - self.made
    }

    /// The same events without signatures, for signing elsewhere.
    pub fn unsigned(mut self) -> impl Iterator<Item = Unsigned> {
        std::iter::from_fn(move || self.next_unsigned())
    }

    /// The same events with what each of them is.
    pub fn samples(self) -> impl Iterator<Item = Sample> {
        self.unsigned().map(|unsigned| unsigned.sign())
    }

    fn next_unsigned(&mut self) -> Option<Unsigned> {
        if self.made == self.count {
            return None;
        }
        self.made += 1;
        if !self.repeatable.is_empty()
            && self.rng.chance(u64::from(self.options.duplicate_per_mille), 1_000)
        {
            let index = self.rng.index(self.repeatable.len());
            let repeated = self.repeatable[index].clone();
            return Some(Unsigned { role: Role::Duplicate, ..repeated });
        }
        let unsigned = match self.shape {
            Shape::Public => self.public_event(),
            Shape::Uniform { event_bytes } => self.uniform_event(1, event_bytes),
            Shape::Articles { event_bytes } => self.uniform_event(30_023, event_bytes),
        };
        if unsigned.role != Role::BadSignature {
            if self.repeatable.len() == REPEATABLE_EVENTS {
                self.repeatable.pop_front();
            }
            self.repeatable.push_back(unsigned.clone());
        }
        Some(unsigned)
    }

    /// Wall time of the submission being made.
    fn clock(&self) -> u32 {
        let share = u64::from(self.options.span_s) * (self.made - 1) / self.count.max(1);
        self.options.base_time.saturating_add(share as u32)
    }

    fn public_event(&mut self) -> Unsigned {
        if self.rng.chance(u64::from(self.options.stale_per_myriad), 10_000)
            && let Some(stale) = self.stale_event()
        {
            return stale;
        }
        let bad = self.rng.chance(u64::from(self.options.bad_signature_per_mille), 1_000);
        let kind = loop {
            let kind = shape::kind(&mut self.rng);
            if self.options.has_ephemeral || class(kind) != KindClass::Ephemeral {
                break kind;
            }
        };
        let one_shot = self.rng.chance(u64::from(shape::one_shot_per_mille(kind)), 1_000);
        let author = self.authors.draw(&mut self.rng, one_shot);
        let now = self.clock();
        let created_at = match kind {
            // NIP-59: up to two days into the past, so that the time tells nothing.
            1059 => now - self.rng.below(172_800) as u32,
            // Clients stamp before they send; versions must still be newer than the last.
            _ => (now - self.rng.below(30) as u32).max(self.authors.newest(&author, kind) + 1),
        };
        let (draft, d) = self.body(kind, created_at, &author);
        let role = if bad { Role::BadSignature } else { Role::Fresh };
        self.finish(draft, kind, d, &author, role)
    }

    /// A version older than the newest of the same slot; `None` while no author has a slot.
    fn stale_event(&mut self) -> Option<Unsigned> {
        let (author, past) = self.authors.draw_slot(&mut self.rng)?;
        let created_at = past.created_at - 1 - self.rng.below(3_600) as u32;
        let mut draft = Draft::new(past.kind, created_at);
        if class(past.kind) == KindClass::Addressable {
            draft.push_tag(&["d", &body::d_value(past.d)]);
        }
        draft.set_content(text::prose(&mut self.rng, 80).as_bytes());
        let signer = author.signer;
        Some(Unsigned { event: without_signature(&draft, &signer), signer, role: Role::Stale })
    }

    fn body(&mut self, kind: u16, created_at: u32, author: &Author) -> (Draft, u8) {
        body::Writer {
            rng: &mut self.rng,
            authors: &self.authors,
            recent: &self.recent,
            popular: &self.popular,
            author,
        }
        .write(kind, created_at)
    }

    fn finish(&mut self, draft: Draft, kind: u16, d: u8, author: &Author, role: Role) -> Unsigned {
        let signer = author.signer;
        let event = without_signature(&draft, &signer);
        let view = event.view();
        let past =
            Past { id: view.id(), pubkey: view.pubkey(), kind, created_at: view.created_at(), d };
        if role == Role::Fresh {
            self.remember(author, past);
        }
        Unsigned { event, signer, role }
    }

    /// Keeps what later events may refer to: no ephemeral events and nothing private.
    fn remember(&mut self, author: &Author, past: Past) {
        if class(past.kind) == KindClass::Ephemeral {
            return;
        }
        self.authors.record(author, past);
        if matches!(past.kind, 4 | 5 | 1059) {
            return;
        }
        if past.kind == 1 && self.popular.len() < POPULAR_EVENTS {
            self.popular.push(past);
        } else if past.kind == 1 && self.rng.chance(1, 1_000) {
            let index = self.rng.index(POPULAR_EVENTS);
            self.popular[index] = past;
        }
        if self.recent.len() == RECENT_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(past);
    }

    fn uniform_event(&mut self, kind: u16, event_bytes: usize) -> Unsigned {
        let bad = self.rng.chance(u64::from(self.options.bad_signature_per_mille), 1_000);
        let author = self.authors.draw(&mut self.rng, false);
        let created_at = self.clock();
        let mut draft = Draft::new(kind, created_at);
        if class(kind) == KindClass::Addressable {
            draft.push_tag(&["d", &self.made.to_string()]);
        }
        let empty = without_signature(&draft, &author.signer);
        let mut json = Vec::new();
        empty.view().write_json(&mut json);
        let filler = event_bytes.saturating_sub(json.len());
        draft.set_content(&text::letters(&mut self.rng, filler));
        let role = if bad { Role::BadSignature } else { Role::Fresh };
        self.finish(draft, kind, 0, &author, role)
    }
}

impl Iterator for Corpus {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        Some(self.next_unsigned()?.sign().event)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = usize::try_from(self.remaining()).unwrap_or(usize::MAX);
        (remaining, Some(remaining))
    }
}

fn without_signature(draft: &Draft, signer: &Signer) -> Event {
    let mut parts = draft.parts();
    parts.pubkey = signer.pubkey();
    parts.sig = Signature([0; 64]);
    parts.id = parts.compute_id();
    parts.pack()
}
