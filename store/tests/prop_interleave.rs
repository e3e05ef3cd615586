//! Reads that begin, read the index and are answered at different times, while batches, checkpoints
//! and kills go on between: what they show is exactly what was durable and alive.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Draws, World, config, random_event, random_filter};
use proto::nip::nip17;
use proto::nip::nip77::{Accumulator, bucket_of};
use proto::{Event, EventId, Filter};
use std::collections::BTreeMap;
use store::effect::Answer;
use store::mem::{MemIndex, MemSegments};
use store::seam::perform;
use store::{
    Answers, KillCause, LookupKey, ScanRequest, Seq, StoreConfig, StoreEffect, StoreInput,
    StoreOutput, Token,
};

/// Everything that was ever appended.
#[derive(Default)]
struct History {
    puts: Vec<(Seq, Event)>,
    /// Victim to the record that killed it.
    kills: BTreeMap<Seq, Seq>,
}

impl History {
    /// What a reader with this horizon sees while records up to `durable` are.
    fn visible(&self, filter: &Filter, horizon: Seq, durable: Seq) -> Vec<&Event> {
        let is_alive = |seq: &Seq| self.kills.get(seq).is_none_or(|kill| *kill > durable);
        let matching = self.puts.iter().filter(|(seq, event)| {
            *seq <= horizon && is_alive(seq) && filter.matches(&event.view())
        });
        let mut found: Vec<&Event> = matching.map(|(_, event)| event).collect();
        found.sort_by_key(|event| common::position(event));
        found
    }

    /// The sums of public events as of a moment in the log.
    fn sums(&self, at: Seq) -> Vec<(u32, Accumulator)> {
        let is_alive = |seq: &Seq| self.kills.get(seq).is_none_or(|kill| *kill > at);
        let mut sums: BTreeMap<u32, Accumulator> = BTreeMap::new();
        for (_, event) in self.puts.iter().filter(|(seq, _)| *seq <= at && is_alive(seq)) {
            let event = event.view();
            if !nip17::is_private(event.kind()) {
                sums.entry(bucket_of(event.created_at())).or_default().add(&event.id());
            }
        }
        sums.into_iter().collect()
    }

    /// The event that a decision must see under an id.
    fn known(&self, id: &EventId) -> Option<Seq> {
        let of_id = |(seq, event): &&(Seq, Event)| {
            event.view().id() == *id && !self.kills.contains_key(seq)
        };
        self.puts.iter().rev().find(of_id).map(|(seq, _)| *seq)
    }
}

struct Run {
    world: World<MemIndex, MemSegments>,
    draws: Draws,
    history: History,
    asked: BTreeMap<Token, (Filter, Seq)>,
    /// What sums were asked for, and what the index had applied when it answered.
    sums_asked: BTreeMap<Token, (Seq, Seq)>,
    /// Read from the index and on the way back.
    late: Vec<StoreInput>,
    held: Vec<(EventId, Answers)>,
    rows_checked: usize,
    answers_checked: usize,
    sums_checked: usize,
    sums_overlaid: usize,
}

impl Run {
    fn append(&mut self) {
        let number = self.draws.next();
        let again = self.draws.one_in(5) && !self.history.puts.is_empty();
        let event = if again {
            let at = self.draws.below(self.history.puts.len() as u64) as usize;
            self.history.puts[at].1.clone()
        } else {
            random_event(&mut self.draws, number)
        };
        if self.history.known(&event.view().id()).is_none() {
            let seq = self.world.put(&event);
            self.history.puts.push((seq, event));
        }
        if self.draws.one_in(3) && !self.history.puts.is_empty() {
            let at = self.draws.below(self.history.puts.len() as u64) as usize;
            let victim = self.history.puts[at].0;
            if !self.history.kills.contains_key(&victim) {
                self.world.store.kill(victim, KillCause::Operator);
                self.history.kills.insert(victim, self.world.store.appended());
            }
        }
    }

    fn ask(&mut self) {
        let events: Vec<Event> = self.history.puts.iter().map(|(_, event)| event.clone()).collect();
        let filter = random_filter(&mut self.draws, &events);
        let streams = store::plan::union(std::slice::from_ref(&filter), &common::SECRET);
        let rows_max = 1 + self.draws.below(20) as u32;
        let horizon = self.world.store.durable();
        let request = ScanRequest { streams, after: None, rows_max };
        let mut fx = Vec::new();
        let token = self.world.store.scan(request, horizon, &mut fx);
        self.asked.insert(token, (filter, horizon));
        let horizon = horizon - self.draws.below(horizon.min(6) + 1);
        let token = self.world.store.sums(0, horizon, &mut fx);
        self.sums_asked.insert(token, (horizon, 0));
        if let Some((_, event)) = self.history.puts.last() {
            let at = self.draws.below(self.history.puts.len() as u64) as usize;
            let ids = [event.view().id(), self.history.puts[at].1.view().id()];
            for id in ids {
                let keys = self.world.store.unanswered([LookupKey::Id(id)]);
                if keys.is_empty() {
                    self.held.push((id, self.world.store.memory_only()));
                } else {
                    self.world.store.lookup(keys, &mut fx);
                }
            }
        }
        self.world.effects.extend(fx);
    }

    /// Performs one effect that waits; the answers of reads stay under way.
    fn work(&mut self) {
        if self.world.effects.is_empty() {
            return;
        }
        let mut at = self.draws.below(self.world.effects.len() as u64) as usize;
        let is_upkeep = |effect: &StoreEffect| matches!(effect, StoreEffect::Upkeep(_));
        // It takes many steps, among many reads.
        if let Some(upkeep) = self.world.effects.iter().position(is_upkeep)
            && self.draws.one_in(2)
        {
            at = upkeep;
        }
        match &self.world.effects[at] {
            StoreEffect::Log(_) | StoreEffect::Checkpoint(_) | StoreEffect::Upkeep(_) => {
                self.world.perform(at);
            }
            _ => {
                let effect = self.world.effects.remove(at).unwrap();
                let answer = perform(&self.world.index, &self.world.segments, effect);
                if let StoreInput::Answered { token, answer: Ok(Answer::Sums(page)) } = &answer {
                    self.sums_asked.get_mut(token).unwrap().1 = page.applied;
                }
                self.late.push(answer);
            }
        }
    }

    fn arrive(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let at = self.draws.below(self.late.len() as u64) as usize;
        let input = self.late.swap_remove(at);
        let mut fx = Vec::new();
        self.world.store.step(self.world.now, input, &mut fx, &mut self.world.outputs);
        self.world.effects.extend(fx);
    }

    fn check(&mut self) {
        for output in std::mem::take(&mut self.world.outputs) {
            match output {
                StoreOutput::Durable { .. } => {}
                StoreOutput::Looked { answers, .. } => {
                    let id = self.history.puts.iter().map(|(_, event)| event.view().id());
                    let id = id.into_iter().find(|id| answers.has(&LookupKey::Id(*id)));
                    self.held.push((id.unwrap(), answers));
                }
                StoreOutput::Rows { token, rows, complete_to, .. } => {
                    let (filter, horizon) = self.asked.remove(&token).unwrap();
                    let durable = self.world.store.durable();
                    let mut expected = self.history.visible(&filter, horizon, durable);
                    expected.retain(|event| {
                        complete_to.is_none_or(|end| common::position(event) <= end)
                    });
                    let found: Vec<Event> = rows
                        .iter()
                        .map(|row| self.world.body(row))
                        .filter(|event| filter.matches(&event.view()))
                        .collect();
                    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
                    self.rows_checked += found.len();
                }
                StoreOutput::Sums { token, sums } => {
                    let (horizon, applied) = self.sums_asked.remove(&token).unwrap();
                    assert_eq!(sums, self.history.sums(horizon.max(applied)));
                    self.sums_checked += 1;
                    self.sums_overlaid += usize::from(applied < horizon && applied > 0);
                }
                other => panic!("{other:?}"),
            }
        }
        for (id, answers) in &self.held {
            let known = self.world.store.view(answers).id(id).map(|known| known.seq);
            assert_eq!(known, self.history.known(id), "{id}");
            self.answers_checked += 1;
        }
        if self.draws.one_in(4) && !self.held.is_empty() {
            let at = self.draws.below(self.held.len() as u64) as usize;
            self.held.swap_remove(at);
        }
        self.held.truncate(20);
    }
}

#[test]
fn late_answers_are_exact() {
    let (mut rows, mut answers, mut checkpoints) = (0, 0, 0);
    let (mut sums, mut overlaid, mut sealed) = (0, 0, 0);
    for seed in 0..if cfg!(miri) { 1 } else { 200 } {
        let config = StoreConfig {
            checkpoint_events: 8,
            segment_bytes_max: 5_000,
            generation_events: 5 + seed % 40,
            upkeep_rows_max: 20 + (seed % 9) as u32 * 20,
            ..config()
        };
        let world = World::open(config, MemIndex::new(common::SECRET), MemSegments::default());
        let mut run = Run {
            world,
            draws: Draws(seed),
            history: History::default(),
            asked: BTreeMap::new(),
            sums_asked: BTreeMap::new(),
            late: Vec::new(),
            held: Vec::new(),
            rows_checked: 0,
            answers_checked: 0,
            sums_checked: 0,
            sums_overlaid: 0,
        };
        for _ in 0..600 {
            match run.draws.below(7) {
                0 | 1 => run.append(),
                2 => run.world.flush(),
                3 => run.ask(),
                4 | 5 => run.work(),
                _ => run.arrive(),
            }
            run.check();
        }
        rows += run.rows_checked;
        answers += run.answers_checked;
        sums += run.sums_checked;
        overlaid += run.sums_overlaid;
        checkpoints += run.world.store.stats().checkpoints;
        sealed += run.world.store.stats().generations_sealed;
        run.held.clear();
        while !run.world.effects.is_empty() || !run.late.is_empty() {
            run.work();
            run.check();
            run.arrive();
            run.check();
            run.held.clear();
        }
        run.world.tick();
        let stats = run.world.store.stats();
        assert!(stats.delta_events <= 16, "generations are freed when nobody needs them");
    }
    assert!(rows > 0 && answers > 0 && checkpoints > 0 && sealed > 100, "{sealed} sealed");
    assert!(overlaid > 1_000 && sums > overlaid, "{overlaid} of {sums} sums");
}
