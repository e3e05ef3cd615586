//! What the store's tests share: unsigned events, random draws, a world that performs effects.
#![allow(dead_code, clippy::unwrap_used)]

pub mod naive;

use proto::json::write_string;
use proto::{Event, EventId, EventParts, Filter, Now, PublicKey, Secret, SeededState, Signature};
use std::collections::VecDeque;
use store::seam::perform;
use store::{
    Answers, Index, LookupKey, Position, Row, ScanRequest, Segments, Seq, Store, StoreConfig,
    StoreEffect, StoreOutput,
};

pub const SECRET: Secret = Secret([5; 16]);

pub fn config() -> StoreConfig {
    StoreConfig {
        generation_events: 24,
        upkeep_rows_max: 31,
        ..StoreConfig::new(0, SECRET, SeededState::new(Secret([9; 16])))
    }
}

/// A repeatable sequence of draws.
#[derive(Clone)]
pub struct Draws(pub u64);

impl Draws {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

pub fn author(number: u64) -> PublicKey {
    let mut key = PublicKey([0x11; 32]);
    key.0[..8].copy_from_slice(&number.to_be_bytes());
    key
}

/// An event before it is packed.
#[derive(Clone, Debug)]
pub struct Draft {
    pub author: u64,
    pub kind: u16,
    pub created_at: u32,
    pub tags: Vec<Vec<String>>,
    pub content: String,
}

impl Draft {
    pub fn new(author: u64, kind: u16, created_at: u32) -> Self {
        Self { author, kind, created_at, tags: Vec::new(), content: String::new() }
    }

    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.tags.push(vec![name.to_owned(), value.to_owned()]);
        self
    }

    pub fn content(mut self, content: impl ToString) -> Self {
        self.content = content.to_string();
        self
    }

    pub fn pack(&self) -> Event {
        self.pack_as(None)
    }

    /// With an id of the test's choice: the store believes what it is told.
    pub fn pack_as(&self, id: Option<EventId>) -> Event {
        let mut tags_json = b"[".to_vec();
        for (index, tag) in self.tags.iter().enumerate() {
            tags_json.extend_from_slice(if index == 0 { b"[" } else { b",[" });
            for (index, element) in tag.iter().enumerate() {
                if index > 0 {
                    tags_json.push(b',');
                }
                write_string(element.as_bytes(), &mut tags_json);
            }
            tags_json.push(b']');
        }
        tags_json.push(b']');
        let mut content_json = Vec::new();
        write_string(self.content.as_bytes(), &mut content_json);
        let mut parts = EventParts {
            id: EventId([0; 32]),
            pubkey: author(self.author),
            sig: Signature([7; 64]),
            created_at: self.created_at,
            kind: self.kind,
            tags_json: &tags_json,
            content_json: &content_json,
        };
        parts.id = id.unwrap_or_else(|| parts.compute_id());
        parts.pack()
    }
}

pub fn position(event: &Event) -> Position {
    Position { created_at: event.view().created_at(), id: event.view().id() }
}

/// A store with the world below it. Effects wait in a queue until they are performed.
pub struct World<I, S> {
    pub config: StoreConfig,
    pub index: I,
    pub segments: S,
    pub store: Store,
    pub now: Now,
    pub effects: VecDeque<StoreEffect>,
    pub outputs: Vec<StoreOutput>,
}

impl<I: Index, S: Segments> World<I, S> {
    pub fn open(config: StoreConfig, index: I, segments: S) -> Self {
        Self::try_open(config, index, segments).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_open(config: StoreConfig, index: I, segments: S) -> Result<Self, store::OpenError> {
        let now = Now { monotonic_ms: 1_000, unix_s: 1_700_000_000 };
        let mut fx = Vec::new();
        let store = store::open(config.clone(), &index, &segments, now, &mut fx)?;
        let effects = fx.into();
        Ok(Self { config, index, segments, store, now, effects, outputs: Vec::new() })
    }

    /// Kills the process and starts again on the same disk.
    pub fn restart(self) -> Self {
        Self::open(self.config, self.index, self.segments)
    }

    pub fn flush(&mut self) {
        let mut fx = Vec::new();
        self.store.flush(self.now, &mut fx);
        self.effects.extend(fx);
    }

    pub fn tick(&mut self) {
        let mut fx = Vec::new();
        self.store.tick(self.now, &mut fx);
        self.effects.extend(fx);
    }

    /// Performs the effect at `at` in the queue and gives the answer to the store.
    pub fn perform(&mut self, at: usize) {
        let effect = self.effects.remove(at).unwrap();
        let input = perform(&self.index, &self.segments, effect);
        let mut fx = Vec::new();
        self.store.step(self.now, input, &mut fx, &mut self.outputs);
        self.effects.extend(fx);
    }

    pub fn settle(&mut self) {
        while !self.effects.is_empty() {
            self.perform(0);
        }
    }

    /// Performs everything but checkpoints.
    pub fn settle_without_checkpoints(&mut self) {
        let is_other = |effect: &StoreEffect| !matches!(effect, StoreEffect::Checkpoint(_));
        while let Some(at) = self.effects.iter().position(is_other) {
            self.perform(at);
        }
    }

    pub fn commit(&mut self) {
        self.flush();
        self.settle();
    }

    pub fn put(&mut self, event: &Event) -> Seq {
        self.store.put(event.clone(), 0)
    }

    /// Asks the index what memory cannot answer.
    pub fn answers(&mut self, keys: Vec<LookupKey>) -> Answers {
        let keys = self.store.unanswered(keys);
        let mut answers = self.store.memory_only();
        if keys.is_empty() {
            return answers;
        }
        let mut fx = Vec::new();
        let wanted = self.store.lookup(keys, &mut fx);
        self.effects.extend(fx);
        self.perform(self.effects.len() - 1);
        match self.outputs.pop() {
            Some(StoreOutput::Looked { token, answers: more }) if token == wanted => {
                answers.extend(more);
                answers
            }
            other => panic!("a lookup was answered with {other:?}"),
        }
    }

    /// One page of visible rows and how far it is complete.
    pub fn page(&mut self, request: ScanRequest, horizon: Seq) -> (Vec<Row>, Option<Position>) {
        let mut fx = Vec::new();
        let wanted = self.store.scan(request, horizon, &mut fx);
        self.effects.extend(fx);
        self.perform(self.effects.len() - 1);
        match self.outputs.pop() {
            Some(StoreOutput::Rows { token, rows, complete_to, .. }) if token == wanted => {
                (rows, complete_to)
            }
            other => panic!("a scan was answered with {other:?}"),
        }
    }

    /// All visible events of a filter, page by page.
    pub fn query(&mut self, filter: &Filter, rows_max: u32) -> Vec<Event> {
        let streams = store::plan::union(std::slice::from_ref(filter), &SECRET);
        let (mut found, mut after) = (Vec::new(), None);
        let horizon = self.store.durable();
        loop {
            let request = ScanRequest { streams: streams.clone(), after, rows_max };
            let (rows, complete_to) = self.page(request, horizon);
            for row in &rows {
                assert!(after.is_none_or(|after| row.position > after), "a row came twice");
                assert!(complete_to.is_none_or(|end| row.position <= end), "a row past the end");
            }
            for row in &rows {
                let event = self.body(row);
                if filter.matches(&event.view()) && !self.store.hides(row.seq, &event.view()) {
                    found.push(event);
                }
            }
            match complete_to {
                None => return found,
                Some(end) => {
                    assert!(after.is_none_or(|after| end > after), "a page made no progress");
                    after = Some(end);
                }
            }
        }
    }

    pub fn body(&self, row: &Row) -> Event {
        let stored = store::Bodies::body(&self.segments, &row.loc).unwrap().unwrap();
        assert_eq!(position(&stored), row.position);
        assert!(row.event.as_ref().is_none_or(|hot| *hot == stored));
        stored
    }

    pub fn close(&mut self) {
        let mut fx = Vec::new();
        self.store.shutdown(self.now, &mut fx);
        self.effects.extend(fx);
        self.settle();
        assert!(self.store.is_closed());
    }
}

/// A random event among few authors, kinds, seconds and tag values, so that ties and crowds occur.
pub fn random_draft(draws: &mut Draws, number: u64) -> Draft {
    let kinds = [1u16, 1, 1, 7, 4, 1059, 30023];
    let kind = kinds[draws.below(kinds.len() as u64) as usize];
    let created_at = 1_000 + draws.below(40) as u32;
    let mut draft = Draft::new(draws.below(6), kind, created_at).content(number);
    for _ in 0..draws.below(4) {
        let letter = ["e", "p", "t", "a"][draws.below(4) as usize];
        draft = draft.tag(letter, &format!("v{}", draws.below(5)));
    }
    draft
}

/// A random event whose id shares its first bytes with others of the same second now and then.
pub fn random_event(draws: &mut Draws, number: u64) -> Event {
    let draft = random_draft(draws, number);
    if !draws.one_in(3) {
        return draft.pack();
    }
    let mut id = EventId([0xab; 32]);
    id.0[4..12].copy_from_slice(&draws.next().to_be_bytes());
    draft.pack_as(Some(id))
}

pub fn random_filter(draws: &mut Draws, events: &[Event]) -> Filter {
    let mut filter = Filter::default();
    if draws.one_in(8) && !events.is_empty() {
        let mut ids: Vec<EventId> = (0..=draws.below(4))
            .map(|_| events[draws.below(events.len() as u64) as usize].view().id())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        filter.ids = Some(ids);
    }
    if draws.one_in(3) {
        let mut authors: Vec<PublicKey> =
            (0..=draws.below(4)).map(|_| author(draws.below(7))).collect();
        authors.sort_unstable();
        authors.dedup();
        filter.authors = Some(authors);
    }
    if draws.one_in(3) {
        let mut kinds: Vec<u16> = (0..=draws.below(3))
            .map(|_| [1u16, 7, 4, 1059, 30023, 9][draws.below(6) as usize])
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        filter.kinds = Some(kinds);
    }
    for letter in [b'a', b'e', b'p', b't'] {
        if draws.one_in(5) {
            let mut values: Vec<Box<[u8]>> = (0..=draws.below(3))
                .map(|_| format!("v{}", draws.below(6)).into_bytes().into())
                .collect();
            values.sort_unstable();
            values.dedup();
            filter.tags.push(proto::TagFilter { letter, values });
        }
    }
    if draws.one_in(4) {
        filter.since = Some(1_000 + draws.below(40));
    }
    if draws.one_in(4) {
        filter.until = Some(1_000 + draws.below(40));
    }
    filter
}
