//! NIP-77 sessions against a naive relay: whatever a client has too little or too much of, it learns
//! exactly that, at 1, 2, 3 and 8 shards; and nobody learns of an event that it may not read.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use bench::corpus::{Corpus, CorpusOptions};
use bench::filters::FilterGenerator;
use bench::rng::Rng;
use common::oracle::Oracle;
use common::{Remembering, Setup, UNIX_S, World};
use proto::nip::nip17;
use proto::nip::nip77::{Initiator, Item, Mode, SortedItems, Step};
use proto::{ClientMessage, Event, EventId, Filter, PublicKey, Reason};
use shards::home::{HomeInput, Reply};
use shards::message::{Client, ToHome};
use std::collections::BTreeSet;
use store::effect::{Question, StoreEffect};

const EVENTS: u64 = 2_000;
const FILTERS: usize = 120;
const ASKED_AT: u64 = UNIX_S + 3 * 86_400;

type Ids = BTreeSet<EventId>;

fn item(event: &Event) -> Item {
    let view = event.view();
    Item { created_at: view.created_at(), id: view.id() }
}

/// Waits for the answer of the client's session.
fn answer(world: &mut World, client: Client) -> Result<Vec<u8>, Reason> {
    answer_while(world, client, World::step)
}

/// One step of everything but the removal of what vanishes.
fn step_but_not_remove(world: &mut World) -> bool {
    world.deliver_mail();
    for shard in 0..world.shards.len() as u16 {
        world.perform_all(shard, |effect| match effect {
            StoreEffect::Scan { .. } | StoreEffect::Fetch { .. } => true,
            StoreEffect::Ask { question, .. } => matches!(question, Question::Sums(_)),
            _ => false,
        });
        world.turn_shard(shard);
    }
    for core in 0..world.homes.len() as u16 {
        world.home(core, HomeInput::Turn);
    }
    true
}

fn answer_while(
    world: &mut World,
    client: Client,
    step: fn(&mut World) -> bool,
) -> Result<Vec<u8>, Reason> {
    for _ in 0..1_000_000 {
        for (_, reply) in std::mem::take(&mut world.replies) {
            match reply {
                Reply::NegMsg { client: to, message, .. } if to == client => return Ok(message),
                Reply::NegErr { client: to, reason, .. } if to == client => return Err(reason),
                Reply::Park(_) | Reply::Unpark(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(step(world), "no answer");
    }
    panic!("no answer");
}

/// What a whole session tells a client that has `items`, and in how many answers.
fn reconcile(
    world: &mut World,
    core: u16,
    client: Client,
    filter: &Filter,
    items: Vec<Item>,
) -> Result<(Ids, Ids, usize), Reason> {
    let initiator = Initiator::new(SortedItems::new(items), 4_096);
    let (mut have, mut need) = (Ids::new(), Ids::new());
    let first = initiator.initiate();
    let open = ClientMessage::NegOpen("n".into(), Box::new(filter.clone()), first);
    world.home(core, HomeInput::Message(client, open));
    for rounds in 1.. {
        let step = initiator.step(&answer(world, client)?).unwrap();
        have.extend(step.have);
        need.extend(step.need);
        let Some(message) = step.message else {
            let close = ClientMessage::NegClose("n".into());
            world.home(core, HomeInput::Message(client, close));
            return Ok((have, need, rounds));
        };
        assert!(rounds < 100, "it goes on and on");
        world.home(core, HomeInput::Message(client, ClientMessage::NegMsg("n".into(), message)));
    }
    unreachable!()
}

fn corpus() -> Vec<Event> {
    let options = CorpusOptions {
        duplicate_per_mille: 50,
        stale_per_myriad: 300,
        span_s: 2 * 86_400,
        ..CorpusOptions::default()
    };
    Corpus::public(13, EVENTS, options).collect()
}

/// Readers without keys, and readers that private events name.
fn keys(rng: &mut Rng, events: &[Event]) -> Vec<PublicKey> {
    let private: Vec<&Event> =
        events.iter().filter(|event| nip17::is_private(event.view().kind())).collect();
    let event = rng.pick(&private).view();
    match rng.index(2) {
        0 => Vec::new(),
        _ => vec![proto::nip::nip59::recipient(&event).unwrap_or(event.pubkey()), event.pubkey()],
    }
}

/// Everything between two times after the first event, whose sync set is that of everything.
fn window(since_s: Option<u64>, until_s: Option<u64>) -> Filter {
    let at = |seconds: Option<u64>| seconds.map(|seconds| UNIX_S + seconds);
    Filter { since: at(since_s), until: at(until_s), ..Filter::default() }
}

fn filters(events: &[Event]) -> Vec<Filter> {
    let mut generator = FilterGenerator::new(7, events);
    let mut filters = vec![
        Filter::default(),
        Filter { limit: Some(50), ..Filter::default() },
        Filter { limit: Some(0), ..Filter::default() },
        window(Some(1_000), Some(86_000)),
        window(Some(50_000), Some(52_000)),
        window(Some(20_000), None),
        window(None, Some(40_000)),
        Filter { kinds: Some(vec![4, 1059]), ..Filter::default() },
        Filter { kinds: Some(vec![1, 4, 7, 1059]), ..Filter::default() },
    ];
    while filters.len() < FILTERS {
        filters.extend(generator.request().into_iter().take(1));
    }
    filters
}

fn check_shards(shards: u16, events: &[Event], oracle: &Oracle, filters: &[Filter]) -> [usize; 4] {
    let mut setup = Setup::new(shards, u64::from(shards) + 40);
    setup.neg.sync_sets = [Filter::default()].into();
    let mut world = World::new(&setup, &Remembering::new());
    for (number, event) in events.iter().enumerate() {
        let _ = world.publish((number % usize::from(setup.cores)) as u16, event.clone());
    }
    world.settle();
    // Part of it expires and is removed, the youngest events after their checkpoint by age.
    world.now.unix_s = ASKED_AT;
    for _ in 0..40 {
        world.now.monotonic_ms += 11_000;
        world.tick();
        world.settle();
    }
    let mut rng = Rng::new(9);
    let [mut asked, mut private, mut differing, mut sums] = [0; 4];
    for (number, filter) in filters.iter().enumerate() {
        // The first ones ask for sync sets as strangers.
        let keys = if number < 8 { Vec::new() } else { keys(&mut rng, events) };
        let core = (number % usize::from(setup.cores)) as u16;
        let client = Client { slot: 100 + number as u32, generation: 1 };
        for key in &keys {
            world.home(core, HomeInput::Authenticated(client, *key));
        }
        // What the operator's sessions say is handed on to others, so he is a stranger here.
        if keys.is_empty() && number % 2 == 1 {
            world.home(core, HomeInput::Trusted(client));
        }
        let (ids, _) = oracle.query(std::slice::from_ref(filter), &keys, ASKED_AT, usize::MAX);
        let theirs: Ids = ids.into_iter().collect();
        let visible: Vec<&Event> =
            oracle.stored.iter().filter(|event| theirs.contains(&event.view().id())).collect();
        private += visible.iter().filter(|event| nip17::is_private(event.view().kind())).count();
        let timeless = Filter { since: None, until: None, ..filter.clone() };
        if timeless == Filter::default() {
            assert!(visible.len() > 5, "{} events between two times", visible.len());
        }
        // The same set: the first answer says so, and nothing is told.
        let same = visible.iter().map(|event| item(event)).collect();
        let told = reconcile(&mut world, core, client, filter, same);
        if keys.is_empty() && nip17::asks_private_only(filter) {
            assert_eq!(told, Err(Reason::PrivateNeedsAuth));
            continue;
        }
        assert_eq!(told, Ok((Ids::new(), Ids::new(), 1)), "{shards} shards, {filter:?}");
        // One with gaps and with what the relay does not have, gone and private things included.
        let mut ours: Vec<Item> = visible.iter().map(|event| item(event)).collect();
        ours.retain(|_| rng.index(10) > 0);
        let strange = events.iter().filter(|event| !theirs.contains(&event.view().id()));
        ours.extend(strange.filter(|_| rng.index(20) == 0).map(item));
        let our_ids: Ids = ours.iter().map(|item| item.id).collect();
        let (have, need, _) = reconcile(&mut world, core, client, filter, ours).unwrap();
        let (extra, missing) = (&our_ids - &theirs, &theirs - &our_ids);
        assert_eq!((&have, &need), (&extra, &missing), "{shards} shards, {filter:?}");
        differing += have.len() + need.len();
        asked += 1;
        world.home(core, HomeInput::Gone(client));
    }
    sums += world.shards.iter().map(|shard| shard.stats().counters.sums as usize).sum::<usize>();
    for home in &world.homes {
        assert_eq!((home.neg_sessions(), home.neg_bytes(), home.filter_bytes()), (0, 0, 0));
        assert!(!home.has_queries());
    }
    [asked, private, differing, sums]
}

#[test]
fn clients_learn_exactly_what_differs_at_1_2_3_and_8_shards() {
    let events = corpus();
    let mut oracle = Oracle::default();
    for event in &events {
        let _ = oracle.publish(event, UNIX_S);
    }
    let filters = filters(&events);
    assert!(!oracle.gone.is_empty(), "nothing was deleted or replaced");
    for shards in [1, 2, 3, 8] {
        let seen = check_shards(shards, &events, &oracle, &filters);
        let [asked, private, differing, sums] = seen;
        println!("{shards} shards: {asked} sessions, {private} private events among the sets");
        assert!(asked >= 100 && private > 0 && differing > 100 && sums > 0, "{seen:?}");
    }
}

/// What an author asked to have removed is in no set and in no sum from the moment that the relay
/// has said yes, while the removal is still going on.
#[test]
fn what_vanishes_is_in_no_session() {
    let leaving = Signer::from_seed(21);
    let staying = Signer::from_seed(22);
    let note = |signer: &Signer, number: u32| {
        signer.sign(&Draft::new(1, UNIX_S as u32 - 5_000 - number * 997))
    };
    for shards in [1, 3] {
        let mut setup = Setup::new(shards, 31);
        setup.neg.sync_sets = [Filter::default()].into();
        let mut world = World::new(&setup, &Remembering::new());
        let mut kept = Vec::new();
        for number in 0..400 {
            world.publish(0, note(&leaving, number)).unwrap();
            if number % 4 == 0 {
                let event = note(&staying, number);
                kept.push(item(&event));
                world.publish(0, event).unwrap();
            }
        }
        world.settle();
        let request = Draft::new(62, UNIX_S as u32).tag(&["relay", "ALL_RELAYS"]).content("bye");
        let request = leaving.sign(&request);
        kept.push(item(&request));
        world.publish(0, request).unwrap();
        assert!(world.shards.iter().any(|shard| shard.store().is_purging()), "it is going on");
        let client = Client { slot: 70, generation: 1 };
        let initiator = Initiator::new(SortedItems::new(kept.clone()), 4_096);
        for filter in [Filter::default(), Filter { kinds: Some(vec![1, 62]), ..Filter::default() }]
        {
            let message = initiator.initiate();
            let open = ClientMessage::NegOpen("n".into(), Box::new(filter), message);
            world.home(0, HomeInput::Message(client, open));
            let answer = answer_while(&mut world, client, step_but_not_remove).unwrap();
            assert_eq!(initiator.step(&answer), Ok(Step::default()), "{shards} shards");
            assert!(world.shards.iter().any(|shard| shard.store().is_purging()));
        }
        world.home(0, HomeInput::Gone(client));
        world.settle();
        world.replies.clear();
        // And when it is over, the sums are right.
        for _ in 0..10 {
            world.now.monotonic_ms += 11_000;
            world.tick();
            world.settle();
        }
        assert!(!world.shards.iter().any(|shard| shard.store().is_purging()));
        world.replies.clear();
        let told = reconcile(&mut world, 0, client, &Filter::default(), kept);
        assert_eq!(told, Ok((Ids::new(), Ids::new(), 1)), "{shards} shards");
    }
}

/// The ids of everything, as a relay lists them to somebody who has nothing and sends an empty list.
fn listed(world: &mut World, client: Client, message: ClientMessage) -> Result<Ids, Reason> {
    world.home(0, HomeInput::Message(client, message));
    let answer = answer_while(world, client, step_but_not_remove)?;
    let ids =
        proto::nip::nip77::ranges(&answer).unwrap().filter_map(|range| match range.unwrap().mode {
            Mode::Ids(ids) => Some(ids.iter().map(|id| EventId(*id))),
            _ => None,
        });
    Ok(ids.flatten().collect())
}

/// A session that was open before a key vanished tells nothing of it from then on, gift wraps to
/// its own reader included, whether its set was read as a whole or is one of sums.
#[test]
fn open_sessions_do_not_tell_what_vanishes_meanwhile() {
    let empty = || vec![0x61, 0, 0, 2, 0];
    let leaving = Signer::from_seed(21);
    let staying = Signer::from_seed(22);
    let bystander = Signer::from_seed(23);
    let at = |number: u32| UNIX_S as u32 - 5_000 - number * 997;
    let to_leaving = leaving.pubkey().to_string();
    for shards in [1, 3] {
        let mut setup = Setup::new(shards, 31);
        setup.neg.sync_sets = [Filter::default()].into();
        setup.neg.idle_ms_max = 2_000;
        let mut world = World::new(&setup, &Remembering::new());
        let (mut gone, mut wraps, mut kept) = (Ids::new(), Ids::new(), Ids::new());
        let mut senders = Vec::new();
        for number in 0..40 {
            let note = |signer: &Signer| signer.sign(&Draft::new(1, at(number)));
            let (theirs, others) = (note(&leaving), note(&staying));
            let wrap = Draft::new(1059, at(number)).tag(&["p", &to_leaving]);
            let wrap = Signer::from_seed(50 + u64::from(number)).sign(&wrap);
            senders.push(wrap.view().pubkey());
            gone.insert(theirs.view().id());
            kept.insert(others.view().id());
            wraps.insert(wrap.view().id());
            for event in [theirs, others, wrap] {
                world.publish(0, event).unwrap();
            }
        }
        world.settle();
        world.replies.clear();
        let notes = Filter { kinds: Some(vec![1]), ..Filter::default() };
        let of_others = Filter { authors: Some(vec![staying.pubkey()]), ..Filter::default() };
        senders.sort_unstable();
        let for_reader =
            Filter { kinds: Some(vec![1059]), authors: Some(senders), ..Filter::default() };
        let public = &gone | &kept;
        let cases = [
            (Filter::default(), None, &public, &kept),
            (notes, None, &public, &kept),
            (of_others, None, &kept, &kept),
            (for_reader, Some(leaving.pubkey()), &wraps, &Ids::new()),
        ];
        for (number, (filter, key, before, _)) in cases.iter().enumerate() {
            let client = Client { slot: 70 + number as u32, generation: 1 };
            if let Some(key) = key {
                world.home(0, HomeInput::Authenticated(client, *key));
            }
            let open = ClientMessage::NegOpen("n".into(), Box::new(filter.clone()), empty());
            assert_eq!(listed(&mut world, client, open).as_ref(), Ok(*before), "{filter:?}");
        }
        let vanish = |signer: &Signer, world: &mut World| {
            let request = Draft::new(62, UNIX_S as u32).tag(&["relay", "ALL_RELAYS"]);
            let request = signer.sign(&request);
            world.publish(0, request.clone()).unwrap();
            world.replies.clear();
            request.view().id()
        };
        vanish(&leaving, &mut world);
        assert!(world.shards.iter().any(|shard| shard.store().is_purging()), "it is going on");
        for (number, (filter, _, _, after)) in cases.iter().enumerate() {
            let client = Client { slot: 70 + number as u32, generation: 1 };
            let mut told =
                listed(&mut world, client, ClientMessage::NegMsg("n".into(), empty())).unwrap();
            // What is read again may be read with what came since.
            told.retain(|id| public.contains(id) || wraps.contains(id));
            assert_eq!(told, **after, "{shards} shards, {filter:?}");
        }
        // A message that waits while key after key vanishes does not wait for ever, and is not
        // answered from what was read before.
        let client = Client { slot: 71, generation: 1 };
        for slot in [70, 72, 73] {
            world.home(0, HomeInput::Gone(Client { slot, generation: 1 }));
        }
        vanish(&bystander, &mut world);
        let message = ClientMessage::NegMsg("n".into(), empty());
        world.home(0, HomeInput::Message(client, message));
        let vanished = ToHome::Vanished { key: bystander.pubkey(), until: UNIX_S as u32 };
        world.home(0, HomeInput::From(shards - 1, vanished));
        world.now.monotonic_ms += 2_000;
        let ended = answer_while(&mut world, client, step_but_not_remove);
        assert_eq!(ended, Err(Reason::NegTimeout));
    }
}

/// A store that a peer has in full is compared by sums: what is read are the buckets in which the
/// peer's ranges happen to end.
#[test]
fn a_full_sync_of_equal_sets_does_not_scan() {
    const NOTES: u32 = 1_500;
    let signer = Signer::from_seed(3);
    let notes: Vec<Event> = (0..NOTES)
        .map(|number| signer.sign(&Draft::new(1, UNIX_S as u32 - number * 7_919)))
        .collect();
    for shards in [1, 3] {
        let mut setup = Setup::new(shards, 77);
        setup.neg.sync_sets = [Filter::default()].into();
        let mut world = World::new(&setup, &Remembering::new());
        for note in &notes {
            world.publish(0, note.clone()).unwrap();
        }
        world.settle();
        world.replies.clear();
        let scanned = |world: &World| -> u64 {
            world.shards.iter().map(|shard| shard.stats().counters.rows_scanned).sum()
        };
        let client = Client { slot: 5, generation: 1 };
        let all: Vec<Item> = notes.iter().map(item).collect();
        let before = scanned(&world);
        let told = reconcile(&mut world, 0, client, &Filter::default(), all.clone());
        assert_eq!(told, Ok((Ids::new(), Ids::new(), 1)));
        let rows = scanned(&world) - before;
        assert!(rows <= 64, "{rows} of {NOTES} rows read at {shards} shards");
        // A few differences cost a few buckets.
        let lacking: Vec<Item> = all.iter().copied().skip(3).collect();
        let (have, need, _) =
            reconcile(&mut world, 0, client, &Filter::default(), lacking).unwrap();
        assert_eq!((have.len(), need.len()), (0, 3));
        let rows = scanned(&world) - before - rows;
        assert!(rows < u64::from(NOTES) / 4, "{rows} of {NOTES} rows read for three");
        // Somebody with a key may see more than the sums are of.
        world.home(0, HomeInput::Authenticated(client, signer.pubkey()));
        let told = reconcile(&mut world, 0, client, &Filter::default(), all);
        assert_eq!(told, Ok((Ids::new(), Ids::new(), 1)));
        assert!(scanned(&world) - before > u64::from(NOTES), "everything was read for it");
    }
}
