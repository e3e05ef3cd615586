//! What one live event costs a home: candidates, full match, one list of recipients.
#![allow(missing_docs, clippy::unwrap_used)]

use bench::corpus::signer::{Draft, Signer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::hash::Placement;
use proto::{ClientMessage, Event, Filter, Limits, Now, Secret, SeededState};
use shards::door::Asks;
use shards::home::{Home, HomeConfig, HomeEffects, HomeInput, NegConfig};
use shards::message::{Client, SUBMIT_CREDIT, ToHome, ToShard};
use std::hint::black_box;
use std::sync::Arc;

/// The filter of the subscription in a slot.
type DrawFilter = Box<dyn Fn(u32) -> Filter>;

fn home() -> Home {
    let secret = Secret([1; 16]);
    Home::new(HomeConfig {
        core: 0,
        placement: Placement::even(secret, 1),
        limits: Limits::default(),
        subscriptions_max: 100,
        auth_required: false,
        public_url: None,
        filter_bytes_max: 64 << 20,
        neg: NegConfig::default(),
        door: Asks::NOTHING,
        submit_credit: SUBMIT_CREDIT,
        query_slots: shards::message::QUERY_SLOTS,
        page_bytes_max: 1 << 20,
        seed: SeededState::new(secret),
    })
}

fn now() -> Now {
    Now { monotonic_ms: 1_000, unix_s: 1_750_000_000 }
}

/// Opens `count` live subscriptions whose shard has installed them.
fn subscribe(home: &mut Home, count: u32, filter: impl Fn(u32) -> Filter) {
    let mut fx = HomeEffects::default();
    for slot in 0..count {
        let client = Client { slot, generation: 1 };
        let filter = Filter { limit: Some(0), ..filter(slot) };
        let req = ClientMessage::Req("feed".into(), vec![filter]);
        home.step(now(), HomeInput::Message(client, req), &mut fx);
        for (shard, message) in std::mem::take(&mut fx.to_shard) {
            if let ToShard::Query(query) = message {
                let installed = ToHome::Installed { query: query.id, live_from: 0, next: 0 };
                home.step(now(), HomeInput::From(shard, installed), &mut fx);
            }
        }
        fx.replies.clear();
    }
}

fn fanout(c: &mut Criterion) {
    let event = Signer::from_seed(7).sign(
        &Draft::new(1, 1_750_000_000)
            .tag(&["e", &"ab".repeat(32)])
            .tag(&["p", &"cd".repeat(32)])
            .content("a note of ordinary length, as people write them all day long"),
    );
    let mut group = c.benchmark_group("fanout");
    let cases: [(&str, DrawFilter); 3] = [
        (
            "1000 subscriptions of one kind, all match",
            Box::new(|_| Filter { kinds: Some(vec![1]), ..Filter::default() }),
        ),
        (
            "1000 subscriptions of other authors, none matches",
            Box::new(|slot| {
                let author = Signer::from_seed(1_000 + u64::from(slot)).pubkey();
                Filter { authors: Some(vec![author]), ..Filter::default() }
            }),
        ),
        (
            "1000 subscriptions of other threads, none matches",
            Box::new(|slot| {
                let value = format!("{slot:064x}").into_bytes().into();
                let tags = vec![proto::TagFilter { letter: b'e', values: vec![value] }];
                Filter { tags, ..Filter::default() }
            }),
        ),
    ];
    for (name, filter) in cases {
        let mut home = home();
        subscribe(&mut home, 1_000, filter);
        let events: Arc<[Event]> = Arc::from(vec![event.clone()]);
        let mut index = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            let mut fx = HomeEffects::default();
            b.iter(|| {
                let live = ToHome::Live { first: index, events: events.clone() };
                index += 1;
                home.step(now(), HomeInput::From(0, live), &mut fx);
                black_box(&fx);
                fx.replies.clear();
                fx.to_shard.clear();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
