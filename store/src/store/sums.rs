//! Sums of sync sets: those of the index, with what only memory knows laid over them. See
//! [`crate::sums`].

use super::{Read, Store, StoreOutput};
use crate::effect::{Answer, Question, Seq, StoreEffect, Token, WorldError};
use crate::sums::{SumsPage, SumsRequest, bit};
use proto::Now;
use proto::nip::nip77::{Accumulator, bucket_of};
use std::collections::BTreeMap;

impl Store {
    /// Reads the sums of a sync set as of `horizon` or, if the index is further when it answers, as
    /// of what it holds then. What has expired, or what a request to vanish covers, counts until it
    /// is removed ([`Store::is_purging`] tells of the latter). Answer: [`StoreOutput::Sums`].
    pub fn sums(&mut self, set: u8, horizon: Seq, fx: &mut Vec<StoreEffect>) -> Token {
        let horizon = horizon.min(self.durable);
        let mut dead: Vec<Seq> = Vec::new();
        // What a retired generation killed is gone from the index.
        for generation in self.frozen.as_deref().into_iter().chain(Some(&self.open)) {
            let first = generation.first_seq();
            let deaths = generation.deaths();
            let deaths = deaths.filter(|(victim, death)| *victim < first && death.by <= horizon);
            dead.extend(deaths.map(|(victim, _)| victim));
        }
        dead.sort_unstable();
        dead.dedup();
        let token = self.issue(Read::Sums { set, horizon, pin: self.pin.clone() });
        let question = Question::Sums(SumsRequest { set, dead });
        fx.push(StoreEffect::Ask { token, question });
        token
    }

    /// Takes the answer to a question of either kind.
    pub(super) fn answered(
        &mut self,
        token: Token,
        read: Read,
        answer: Result<Answer, WorldError>,
        now: Now,
        fx: &mut Vec<StoreEffect>,
        out: &mut Vec<StoreOutput>,
    ) {
        match read {
            Read::Purge { pin } => {
                self.purge_page(token, answer, now, fx);
                drop(pin);
            }
            Read::Sums { set, horizon, pin } => {
                let answer = answer.map(|answer| {
                    let Answer::Sums(page) = answer else { return Vec::new() };
                    self.overlaid(set, horizon, page)
                });
                self.answer(token, answer.map(|sums| StoreOutput::Sums { token, sums }), out);
                drop(pin);
            }
            // These are never asked as questions.
            Read::Scan { .. } | Read::Lookup { .. } | Read::Fetch { .. } | Read::Expired { .. } => {
            }
        }
    }

    /// The index's sums are exact at what it had applied. Events above that up to the horizon are
    /// added from memory; `page.dead` are those that it counts and that records in between killed.
    fn overlaid(&self, set: u8, horizon: Seq, page: SumsPage) -> Vec<(u32, Accumulator)> {
        let mut sums: BTreeMap<u32, Accumulator> = page.buckets.into_iter().collect();
        if page.applied < horizon {
            let killed = |seq: Seq| {
                let mut deaths = self.generations().filter_map(|generation| generation.death(seq));
                deaths.any(|death| death.by <= horizon)
            };
            for generation in self.generations().filter(|have| have.last_seq() > page.applied) {
                let members = generation.headers().iter().filter(|header| {
                    header.loc.flags & bit(set) != 0
                        && (page.applied + 1..=horizon).contains(&header.seq)
                        && !killed(header.seq)
                });
                for header in members {
                    sums.entry(bucket_of(header.created_at)).or_default().add(&header.id);
                }
            }
            for position in page.dead {
                let sum = sums.entry(bucket_of(position.created_at)).or_default();
                sum.subtract(&position.id);
            }
        }
        sums.retain(|_, sum| sum.count() > 0);
        sums.into_iter().collect()
    }
}
