//! COUNT with the registers of NIP-45, against a count made by hand; and what a count may tell whom.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::{Corpus, CorpusOptions};
use bench::rng::Rng;
use common::oracle::Oracle;
use common::{Remembering, Setup, UNIX_S, World};
use proto::nip::nip17;
use proto::nip::nip45::Hll;
use proto::{ClientMessage, Event, Filter, PublicKey, Reason, TagFilter};
use shards::home::{HomeInput, Reply};
use shards::message::Client;

const EVENTS: u64 = 1_500;

type Counted = Result<(u64, bool, Option<Hll>), Reason>;

fn count(world: &mut World, core: u16, client: Client, filters: Vec<Filter>) -> Counted {
    let message = ClientMessage::Count("c".into(), filters);
    world.home(core, HomeInput::Message(client, message));
    loop {
        for (_, reply) in std::mem::take(&mut world.replies) {
            match reply {
                Reply::Count { count, approximate, hll, .. } => {
                    return Ok((count, approximate, hll.map(|hll| *hll)));
                }
                Reply::Closed { reason, .. } => return Err(reason),
                Reply::Park(_) | Reply::Unpark(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(world.step(), "no count");
    }
}

fn tagged(letter: u8, value: &[u8], kinds: Option<Vec<u16>>) -> Filter {
    let tags = vec![TagFilter { letter, values: vec![value.into()] }];
    Filter { kinds, tags, ..Filter::default() }
}

/// Filters of every shape that the events give: with registers and without.
fn questions(rng: &mut Rng, events: &[Event]) -> Vec<Vec<Filter>> {
    let mut questions = Vec::new();
    for _ in 0..60 {
        let event = rng.pick(events).view();
        for (letter, value) in event.tags().indexed().take(3) {
            questions.push(vec![tagged(letter, &value, None)]);
            questions.push(vec![tagged(letter, &value, Some(vec![1, 7]))]);
        }
        let author = Filter { authors: Some(vec![event.pubkey()]), ..Filter::default() };
        questions.push(vec![author.clone()]);
        questions.push(vec![author, Filter { kinds: Some(vec![7]), ..Filter::default() }]);
    }
    questions.push(vec![Filter::default()]);
    questions.push(vec![Filter { kinds: Some(vec![4, 1059]), ..Filter::default() }]);
    questions
}

/// The same, from the list of what is stored.
fn naive(oracle: &Oracle, filters: &[Filter], keys: &[PublicKey]) -> (u64, Option<Hll>) {
    let unlimited: Vec<Filter> =
        filters.iter().map(|filter| Filter { limit: None, ..filter.clone() }).collect();
    let (ids, _) = oracle.query(&unlimited, keys, UNIX_S, usize::MAX);
    let offset = match filters {
        [filter] => Hll::offset_of(filter),
        _ => None,
    };
    let hll = offset.map(|offset| {
        let mut hll = Hll::new();
        for event in oracle.stored.iter().filter(|event| ids.contains(&event.view().id())) {
            hll.add(offset, &event.view().pubkey());
        }
        hll
    });
    (ids.len() as u64, hll)
}

#[test]
fn counts_and_registers_are_those_of_a_naive_relay_at_1_2_3_and_8_shards() {
    let events: Vec<Event> = Corpus::public(17, EVENTS, CorpusOptions::default()).collect();
    let mut oracle = Oracle::default();
    for event in &events {
        let _ = oracle.publish(event, UNIX_S);
    }
    for shards in [1, 2, 3, 8] {
        let mut world = World::new(&Setup::new(shards, u64::from(shards)), &Remembering::new());
        for event in &events {
            let _ = world.publish(0, event.clone());
        }
        world.settle();
        world.replies.clear();
        let mut rng = Rng::new(3);
        let [mut registers, mut filled, mut private] = [0; 3];
        for (number, filters) in questions(&mut rng, &events).into_iter().enumerate() {
            let client = Client { slot: 50 + number as u32, generation: 1 };
            let mut keys = Vec::new();
            if number % 2 == 0 {
                let event = rng.pick(&events).view();
                keys.push(proto::nip::nip59::recipient(&event).unwrap_or(event.pubkey()));
                world.home(0, HomeInput::Authenticated(client, keys[0]));
            }
            let counted = count(&mut world, 0, client, filters.clone());
            if keys.is_empty() && filters.iter().any(nip17::asks_private_only) {
                assert_eq!(counted, Err(Reason::PrivateNeedsAuth));
                continue;
            }
            let (expected, hll) = naive(&oracle, &filters, &keys);
            registers += usize::from(hll.is_some());
            filled += usize::from(hll.as_ref().is_some_and(|hll| *hll != Hll::new()));
            private += usize::from(naive(&oracle, &filters, &[]).0 < expected);
            assert_eq!(counted, Ok((expected, false, hll)), "{shards} shards, {filters:?}");
        }
        assert!(registers > 60 && filled > 60 && private > 0, "{registers} {filled} {private}");
    }
}

/// A shard that runs out of time says what it has counted, and the client is told that there may be
/// more.
#[test]
fn a_count_that_runs_out_of_time_is_approximate() {
    let events: Vec<Event> = Corpus::public(18, 900, CorpusOptions::default()).collect();
    let mut world = World::new(&Setup::new(1, 5), &Remembering::new());
    for event in &events {
        let _ = world.publish(0, event.clone());
    }
    world.settle();
    world.replies.clear();
    let client = Client { slot: 9, generation: 1 };
    let filter = tagged(b'e', b"no event", None);
    let all = vec![Filter { kinds: Some(vec![0, 1, 3, 7]), ..Filter::default() }];
    let (full, _, _) = count(&mut world, 0, client, all.clone()).unwrap();
    world.home(0, HomeInput::Message(client, ClientMessage::Count("c".into(), all)));
    let before = world.shards[0].stats().counters.rows_scanned;
    while world.shards[0].stats().counters.rows_scanned == before {
        assert!(world.step());
    }
    world.now.monotonic_ms += 6_000;
    world.settle();
    let counted = world.replies.iter().find_map(|(_, reply)| match reply {
        Reply::Count { count, approximate, .. } => Some((*count, *approximate)),
        _ => None,
    });
    let (partial, approximate) = counted.expect("an answer");
    assert!(approximate && partial < full, "{partial} of {full}");
    // What was looked for in vain for so long is no zero.
    world.replies.clear();
    world.home(0, HomeInput::Message(client, ClientMessage::Count("c".into(), vec![filter])));
    world.now.monotonic_ms += 6_000;
    world.settle();
    let said: Vec<_> = world.replies.iter().map(|(_, reply)| reply).collect();
    assert!(
        matches!(said[..], [Reply::Count { count: 0, approximate: false, .. }]),
        "the sketch knows that there is none: {said:?}"
    );
}
