//! REQ answers against a naive relay, at 1, 2, 3 and 8 shards: the same events, the same order, the
//! same limits. The filters must be worth asking: the test prints what they were like and fails
//! when too few of them return something, hit a limit, span shards or touch what is gone.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::{Corpus, CorpusOptions};
use bench::filters::FilterGenerator;
use bench::rng::Rng;
use common::oracle::Oracle;
use common::{Remembering, Setup, World};
use proto::message::Completeness;
use proto::nip::nip01::{KindClass, class};
use proto::nip::nip17;
use proto::{ClientMessage, Event, EventId, Filter, Placement, PublicKey, Reason, Secret};
use shards::home::{HomeInput, Reply};
use shards::message::Client;
use std::collections::BTreeSet;

const QUERIES: usize = 10_000;
const EVENTS: u64 = 3_000;
/// Publishing happens at the corpus' start, asking when part of it has expired.
const ASKED_AT: u64 = common::UNIX_S + 3 * 86_400;

struct Question {
    filters: Vec<Filter>,
    keys: Vec<PublicKey>,
    answer: Vec<EventId>,
    cut: bool,
    touches_gone: bool,
}

fn corpus() -> Vec<Event> {
    let options = CorpusOptions {
        duplicate_per_mille: 100,
        stale_per_myriad: 300,
        span_s: 2 * 86_400,
        ..CorpusOptions::default()
    };
    Corpus::public(11, EVENTS, options).collect()
}

fn some_keys(rng: &mut Rng, events: &[Event]) -> Vec<PublicKey> {
    let count = rng.index(3);
    let mut keys = Vec::new();
    for _ in 0..count {
        let private: Vec<&Event> =
            events.iter().filter(|event| nip17::is_private(event.view().kind())).collect();
        let event = rng.pick(&private).view();
        keys.push(proto::nip::nip59::recipient(&event).unwrap_or(event.pubkey()));
        keys.push(event.pubkey());
    }
    keys
}

fn questions(oracle: &Oracle, events: &[Event], max: usize) -> Vec<Question> {
    let mut generator = FilterGenerator::new(5, events);
    let mut rng = Rng::new(6);
    let mut questions = Vec::with_capacity(QUERIES);
    while questions.len() < QUERIES {
        let filters = generator.request();
        let keys = some_keys(&mut rng, events);
        if keys.is_empty() && filters.iter().any(nip17::asks_private_only) {
            continue;
        }
        let live: Vec<Filter> =
            filters.iter().filter(|filter| !filter.matches_nothing()).cloned().collect();
        let (answer, cut) = oracle.query(&live, &keys, ASKED_AT, max);
        let touches_gone = oracle.touches_gone(&live, ASKED_AT);
        questions.push(Question { filters, keys, answer, cut, touches_gone });
    }
    questions
}

fn ask(world: &mut World, number: usize, question: &Question) -> (Vec<EventId>, Completeness) {
    let core = (number % world.homes.len()) as u16;
    let client = Client { slot: 100 + number as u32, generation: number as u32 };
    for key in &question.keys {
        world.home(core, HomeInput::Authenticated(client, *key));
    }
    let request = ClientMessage::Req("q".into(), question.filters.clone());
    world.home(core, HomeInput::Message(client, request));
    let mut ids = Vec::new();
    loop {
        let mut eose = None;
        for (_, reply) in world.replies.drain(..) {
            match reply {
                Reply::Stored { client: to, event, .. } => {
                    assert_eq!(to, client);
                    assert!(eose.is_none(), "a stored row after EOSE");
                    ids.push(event.view().id());
                }
                Reply::Eose { completeness, .. } => eose = Some(completeness),
                Reply::Closed { reason, .. } => panic!("{reason:?} for {}", brief(question)),
                Reply::Park(_) | Reply::Unpark(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        if let Some(completeness) = eose {
            world.home(core, HomeInput::Gone(client));
            return (ids, completeness);
        }
        assert!(world.step(), "no EOSE for {}", brief(question));
    }
}

fn check_shards(shards: u16, events: &[Event], oracle: &Oracle, questions: &[Question]) -> usize {
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(shards, u64::from(shards)), &verifier);
    let mut second = Oracle::default();
    for (number, event) in events.iter().enumerate() {
        let core = (number % world.homes.len()) as u16;
        let expected = second.publish(event, world.now.unix_s);
        let id = event.view().id();
        let outcome = world.publish(core, event.clone());
        if class(event.view().kind()) == KindClass::Ephemeral {
            // A relay may or may not remember that it passed one on before.
            assert!(matches!(outcome, Ok(()) | Err(Reason::Duplicate)), "{outcome:?}");
        } else {
            assert_eq!(outcome, expected, "{shards} shards, {id}");
        }
    }
    assert_eq!(second.stored.len(), oracle.stored.len());
    world.settle();
    world.now.unix_s = ASKED_AT;
    let placement = Placement::even(Secret([3; 16]), shards);
    let mut spanning = 0;
    for (number, question) in questions.iter().enumerate() {
        let (ids, completeness) = ask(&mut world, number, question);
        assert_eq!(ids, question.answer, "{shards} shards, {}", brief(question));
        let live = question.filters.iter().filter(|filter| !filter.matches_nothing());
        let limits: Vec<Option<u64>> = live.map(|filter| filter.limit).collect();
        let wants_nothing = !limits.is_empty() && limits.iter().all(|limit| *limit == Some(0));
        let expected =
            if question.cut || wants_nothing { Completeness::More } else { Completeness::Finish };
        assert_eq!(completeness, expected, "{}", brief(question));
        let owners: BTreeSet<u16> = ids
            .iter()
            .filter_map(|id| oracle.stored.iter().find(|event| event.view().id() == *id))
            .map(|event| placement.owner(&event.view()))
            .collect();
        spanning += usize::from(owners.len() > 1);
    }
    spanning
}

#[test]
fn req_answers_equal_a_naive_relays_at_1_2_3_and_8_shards() {
    let events = corpus();
    let mut oracle = Oracle::default();
    for event in &events {
        let _ = oracle.publish(event, common::UNIX_S);
    }
    let max = proto::Limits::default().max_limit as usize;
    let questions = questions(&oracle, &events, max);
    let share = |count: usize| count as f64 / QUERIES as f64;
    let returning = share(questions.iter().filter(|q| !q.answer.is_empty()).count());
    let cut = share(questions.iter().filter(|q| q.cut).count());
    let gone = share(questions.iter().filter(|q| q.touches_gone).count());
    println!(
        "{QUERIES} queries: {returning:.2} return events, {cut:.2} hit a limit, {gone:.2} touch what is gone"
    );
    assert!(returning >= 0.5 && cut >= 0.2 && gone >= 0.1);
    for shards in [1, 2, 3, 8] {
        let spanning = share(check_shards(shards, &events, &oracle, &questions));
        println!("{shards} shards: all equal, {spanning:.2} span shards");
        assert!(shards == 1 || spanning >= 0.2);
    }
}

fn brief(question: &Question) -> String {
    format!("{:.2000}", format!("{:?}", question.filters))
}
