//! A home alone, its shards played by the test: who gets the slots, and how much one client gets
//! in one step.
#![allow(clippy::unwrap_used)]

use bench::corpus::signer::{Draft, Signer};
use proto::hash::Placement;
use proto::{ClientMessage, Event, Filter, Limits, Now, PublicKey, Secret, SeededState};
use shards::door::Asks;
use shards::home::{Home, HomeConfig, HomeEffects, HomeInput, NegConfig, Reply};
use shards::message::{
    Client, Page, PageRow, QUERY_SLOTS, Query, QueryId, QueryMode, SUBMIT_CREDIT, ShardId, ToHome,
    ToShard,
};
use store::effect::Position;

const NOW: Now = Now { monotonic_ms: 1_000_000, unix_s: 1_750_000_000 };

fn home(shards: u16) -> Home {
    Home::new(HomeConfig {
        core: 0,
        placement: Placement::even(Secret([3; 16]), shards),
        limits: Limits::default(),
        subscriptions_max: 100,
        auth_required: false,
        public_url: None,
        filter_bytes_max: 64 << 20,
        neg: NegConfig::default(),
        door: Asks::NOTHING,
        submit_credit: SUBMIT_CREDIT,
        query_slots: shards::message::QUERY_SLOTS,
        page_bytes_max: 64 << 20,
        seed: SeededState::new(Secret([7; 16])),
    })
}

fn step(home: &mut Home, input: HomeInput) -> HomeEffects {
    let mut fx = HomeEffects::default();
    home.step(NOW, input, &mut fx);
    fx
}

fn client(slot: u32) -> Client {
    Client { slot, generation: 1 }
}

fn req(home: &mut Home, slot: u32, sub: &str, filter: Filter) -> HomeEffects {
    let message = ClientMessage::Req(sub.into(), vec![filter]);
    step(home, HomeInput::Message(client(slot), message))
}

fn queries(fx: &HomeEffects) -> Vec<(ShardId, Query)> {
    let queries = fx.to_shard.iter().filter_map(|(shard, message)| match message {
        ToShard::Query(query) => Some((*shard, (**query).clone())),
        _ => None,
    });
    queries.collect()
}

fn mores(fx: &HomeEffects) -> Vec<QueryId> {
    let mores = fx.to_shard.iter().filter_map(|(_, message)| match message {
        ToShard::More { query, .. } => Some(*query),
        _ => None,
    });
    mores.collect()
}

fn is_parked(fx: &HomeEffects, slot: u32) -> bool {
    fx.replies.iter().any(|reply| matches!(reply, Reply::Park(who) if *who == client(slot)))
}

fn unparked(fx: &HomeEffects) -> Vec<u32> {
    let unparked = fx.replies.iter().filter_map(|reply| match reply {
        Reply::Unpark(client) => Some(client.slot),
        _ => None,
    });
    unparked.collect()
}

fn page(query: QueryId, rows: &[Event], is_last: bool) -> ToHome {
    let complete_to = rows.last().map(|event| {
        let view = event.view();
        Position { created_at: view.created_at(), id: view.id() }
    });
    let complete_to = if is_last { None } else { complete_to };
    let rows = rows.iter().map(|event| PageRow { event: event.clone(), matched: 1 }).collect();
    ToHome::Page { query, page: Page { rows, complete_to, left_out: false } }
}

fn note(number: u32, content: &str) -> Event {
    let draft = Draft::new(1, NOW.unix_s as u32 - number).content(content);
    Signer::from_seed(1).sign(&draft)
}

fn by(author: u64) -> Filter {
    let key: PublicKey = Signer::from_seed(author).pubkey();
    Filter { authors: Some(vec![key]), ..Filter::default() }
}

/// Queries that need every shard are served in their turn, however many small ones come after.
#[test]
fn a_query_for_all_shards_is_not_overtaken_for_ever_by_small_ones() {
    let mut home = home(8);
    let mut open = Vec::new();
    for slot in 0..QUERY_SLOTS / 8 {
        open.extend(queries(&req(&mut home, slot, "s", Filter::default())));
    }
    assert_eq!(open.len(), QUERY_SLOTS as usize);
    assert!(is_parked(&req(&mut home, 900, "s", Filter::default()), 900));
    let mut served = Vec::new();
    for (number, (shard, query)) in open.iter().take(8).enumerate() {
        let small = req(&mut home, 1_000 + number as u32, "s", by(number as u64));
        assert!(is_parked(&small, 1_000 + number as u32), "it came later and has to wait");
        let fx = step(&mut home, HomeInput::From(*shard, page(query.id, &[], true)));
        served.extend(unparked(&fx));
    }
    assert_eq!(served, [900]);
}

/// The slot that a query's own page gave back is for its next page and not for a new query.
#[test]
fn queries_under_way_get_slots_before_new_ones() {
    let mut home = home(1);
    let mut open = Vec::new();
    for slot in 0..QUERY_SLOTS {
        open.extend(queries(&req(&mut home, slot, "s", Filter::default())));
    }
    for slot in 600..800 {
        assert!(is_parked(&req(&mut home, slot, "s", Filter::default()), slot));
    }
    let first = open[0].1.id;
    let mut asked = Vec::new();
    for number in 0..5 {
        let rows = [note(number, "note")];
        let mut fx = step(&mut home, HomeInput::From(0, page(first, &rows, false)));
        assert!(unparked(&fx).is_empty(), "page {number}");
        asked.extend(mores(&fx));
        fx = step(&mut home, HomeInput::Turn);
        asked.extend(mores(&fx));
        assert_eq!(asked.len() as u32, number + 1, "the next page is asked for at once");
    }
}

/// Queries that have ended while they waited for a slot hold nobody up.
#[test]
fn dead_queries_do_not_use_up_the_turns_of_living_ones() {
    let mut home = home(1);
    let mut open = Vec::new();
    for slot in 0..QUERY_SLOTS {
        open.extend(queries(&req(&mut home, slot, "s", Filter::default())));
    }
    // 1 reads slowly: its page is there, the next one is not asked for.
    let slow = open[1].1.id;
    step(&mut home, HomeInput::Paused(client(1), true));
    step(&mut home, HomeInput::From(0, page(slow, &[note(1, "note")], false)));
    let taken = queries(&req(&mut home, 600, "s", Filter::default()));
    assert_eq!(taken.len(), 1, "its slot went to somebody else");
    // Its client takes turns at reading and not reading while no slot is free.
    for _ in 0..2_000 {
        step(&mut home, HomeInput::Paused(client(1), false));
        assert!(mores(&step(&mut home, HomeInput::Turn)).is_empty());
        step(&mut home, HomeInput::Paused(client(1), true));
    }
    // Another one under way finds no slot either.
    let other = open[2].1.id;
    step(&mut home, HomeInput::Paused(client(2), true));
    step(&mut home, HomeInput::From(0, page(other, &[note(2, "note")], false)));
    assert_eq!(queries(&req(&mut home, 601, "s", Filter::default())).len(), 1);
    step(&mut home, HomeInput::Paused(client(2), false));
    step(&mut home, HomeInput::Turn);
    step(&mut home, HomeInput::Gone(client(1)));
    // One slot comes back.
    let mut fx = step(&mut home, HomeInput::From(0, page(open[3].1.id, &[], true)));
    let mut asked = mores(&fx);
    while home.has_work() {
        fx = step(&mut home, HomeInput::Turn);
        asked.extend(mores(&fx));
    }
    assert_eq!(asked, [other]);
}

/// However many subscriptions a client opens at once, a step hands it no more stored rows than its
/// outbox is sure to take; the rest follows when the engine has had a look at the outbox.
#[test]
fn one_client_gets_a_bounded_number_of_bytes_per_turn() {
    const BYTES_MAX: usize = 64 * 1024 + 2_000;
    let mut home = home(1);
    let rows: Vec<Event> = (0..100).map(|number| note(number, &"x".repeat(1_000))).collect();
    let mut open = Vec::new();
    for sub in 0..30 {
        open.extend(queries(&req(&mut home, 5, &sub.to_string(), Filter::default())));
    }
    let bytes = |fx: &HomeEffects| -> usize {
        let stored = fx.replies.iter().map(|reply| match reply {
            Reply::Stored { event, .. } => event.packed().len(),
            _ => 0,
        });
        stored.sum()
    };
    let mut sum = 0;
    for (_, query) in &open {
        assert!(matches!(query.mode, QueryMode::Rows { .. }));
        sum += bytes(&step(&mut home, HomeInput::From(0, page(query.id, &rows, true))));
    }
    // Interest is installed only now, so nothing ends before.
    assert!(sum <= BYTES_MAX, "{sum} bytes before the first turn");
    let mut total = sum;
    while home.has_work() {
        let turn = bytes(&step(&mut home, HomeInput::Turn));
        assert!(turn <= BYTES_MAX, "{turn} bytes in one turn");
        total += turn;
    }
    let all: usize = rows.iter().map(|event| event.packed().len()).sum();
    assert_eq!(total, 30 * all);
    let mut ended = 0;
    for (_, query) in &open {
        let installed = ToHome::Installed { query: query.id, live_from: 0, next: 0 };
        let fx = step(&mut home, HomeInput::From(0, installed));
        ended += fx.replies.iter().filter(|reply| matches!(reply, Reply::Eose { .. })).count();
    }
    assert_eq!(ended, 30);
    assert_eq!(home.page_bytes(), 0);
}
