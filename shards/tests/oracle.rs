//! REQ answers against a naive relay, at 1, 2, 3 and 8 shards: the same events, the same order, the
//! same limits. The filters must be worth asking: the test prints what they were like and fails
//! when too few of them return something, hit a limit, span shards or touch what is gone.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
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
use std::collections::{BTreeMap, BTreeSet};

const QUERIES: usize = 10_000;
const EVENTS: u64 = 3_000;
/// Regular authors who ask to vanish at some time.
const LEAVER_RANKS: [usize; 4] = [2, 5, 9, 20];
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
    let mut corpus = Corpus::public(11, EVENTS, options);
    let leavers: Vec<Signer> = LEAVER_RANKS.map(|rank| corpus.signer(rank)).into();
    let mut events: Vec<Event> = corpus.collect();
    // Each of them leaves at some time, and what it wrote is published again now and then.
    for (number, leaver) in leavers.into_iter().enumerate() {
        let at = events.len() * (number + 1) / (LEAVER_RANKS.len() + 1);
        let until = events[at].view().created_at();
        let request = leaver.sign(&Draft::new(62, until).tag(&["relay", "ALL_RELAYS"]));
        let again = events[..at].iter().filter(|event| event.view().pubkey() == leaver.pubkey());
        let again: Vec<Event> = again.take(20).cloned().collect();
        events.extend(again);
        events.insert(at, request);
    }
    events
}

/// What the operator removes before the event with this number is published: some of what came
/// before, for good or not.
fn removal(events: &[Event], number: usize) -> Option<(Vec<EventId>, bool)> {
    let is_ban = number % 1_000 == 750;
    if number % 1_000 != 250 && !is_ban {
        return None;
    }
    let some = events[..number].iter().skip(number % 7).step_by(11);
    Some((some.map(|event| event.view().id()).collect(), is_ban))
}

/// What a naive relay makes of all that.
fn naive(events: &[Event]) -> Oracle {
    let mut oracle = Oracle::default();
    for (number, event) in events.iter().enumerate() {
        if let Some((ids, ban)) = removal(events, number) {
            oracle.remove(&ids, ban);
        }
        let _ = oracle.publish(event, common::UNIX_S);
    }
    oracle
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
    let mut refused = BTreeMap::new();
    for (number, event) in events.iter().enumerate() {
        let core = (number % world.homes.len()) as u16;
        if let Some((ids, ban)) = removal(events, number) {
            let count = second.remove(&ids, ban);
            world.home(core, HomeInput::Remove { client: World::client(core), ids, ban });
            world.settle();
            let removed = |reply: &(u16, Reply)| matches!(&reply.1, Reply::Removed { count: have, failed: None, .. } if *have == count);
            assert!(count > 0 && world.replies.iter().any(removed), "{count} removed");
            world.replies.clear();
        }
        let expected = second.publish(event, world.now.unix_s);
        let id = event.view().id();
        let outcome = world.publish(core, event.clone());
        if class(event.view().kind()) == KindClass::Ephemeral {
            // A relay may or may not remember that it passed one on before.
            assert!(matches!(outcome, Ok(()) | Err(Reason::Duplicate)), "{outcome:?}");
        } else {
            assert_eq!(outcome, expected, "{shards} shards, {id}");
        }
        if let Err(reason) = expected {
            *refused.entry(reason).or_insert(0) += 1;
        }
    }
    let often = [Reason::Vanished, Reason::Banned, Reason::Deleted, Reason::Duplicate];
    assert!(often.iter().all(|reason| refused.get(reason).is_some_and(|n| *n > 5)), "{refused:?}");
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
    let oracle = naive(&events);
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
