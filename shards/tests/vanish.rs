//! Requests to vanish over several shards, and removal by the operator: what is gone is gone for
//! readers at once, stays gone across kill and restart, and does not come back.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use common::{Remembering, Setup, UNIX_S, World};
use proto::{ClientMessage, Event, EventId, Filter, Placement, Reason, Secret};
use shards::door::{Asks, Verdict};
use shards::home::{HomeInput, Reply};
use shards::message::Client;
use std::collections::BTreeSet;
use store::effect::StoreEffect;

const NOW: u32 = UNIX_S as u32;
const SHARDS: [u16; 4] = [1, 2, 3, 8];

fn client(slot: u32) -> Client {
    Client { slot, generation: 1 }
}

fn send(world: &mut World, core: u16, event: &Event) {
    let message = ClientMessage::Event(event.clone());
    world.home(core, HomeInput::Message(World::client(core), message));
}

fn request(signer: &Signer, at: u32) -> Event {
    signer.sign(&Draft::new(62, at).tag(&["relay", "ALL_RELAYS"]))
}

/// Everything that the operator can see, that is: everything there is.
fn everything(world: &mut World) -> BTreeSet<EventId> {
    world.replies.clear();
    let reader = client(900);
    world.home(0, HomeInput::Trusted(reader));
    let filter = Filter { limit: Some(5_000), ..Filter::default() };
    world.home(0, HomeInput::Scan { client: reader, filters: vec![filter] });
    world.settle();
    let replies = world.replies.drain(..);
    let ids = replies.filter_map(|(_, reply)| match reply {
        Reply::Stored { event, .. } => Some(event.view().id()),
        _ => None,
    });
    ids.collect()
}

fn counted(world: &mut World, filter: Filter) -> u64 {
    world.replies.clear();
    let reader = client(900);
    world.home(0, HomeInput::ScanCount { client: reader, filters: vec![filter] });
    world.settle();
    let counts = world.replies.drain(..).filter_map(|(_, reply)| match reply {
        Reply::Count { count, .. } => Some(count),
        _ => None,
    });
    counts.sum()
}

/// What a key leaves behind, and what it has nothing to do with.
struct Life {
    signer: Signer,
    mine: Vec<Event>,
    others: Vec<Event>,
}

fn life(seed: u64) -> Life {
    let signer = Signer::from_seed(seed);
    let me = signer.pubkey().to_string();
    let stranger = Signer::from_seed(seed + 1_000);
    let mut mine: Vec<Event> = (0..12)
        .map(|number| signer.sign(&Draft::new(1, NOW - 50 + number).content("mine")))
        .collect();
    mine.push(signer.sign(&Draft::new(0, NOW - 3)));
    // A deletion request goes, too.
    let gone = "0".repeat(64);
    mine.push(signer.sign(&Draft::new(5, NOW - 2).tag(&["e", &gone])));
    // Wraps to the key lie with it; wraps that it signed itself lie with their recipients.
    for number in 0..6 {
        let friend = Signer::from_seed(seed + 2_000 + number).pubkey().to_string();
        let at = NOW - 20 + number as u32;
        mine.push(signer.sign(&Draft::new(1059, at).tag(&["p", &friend])));
        let sender = Signer::from_seed(seed + 3_000 + number);
        mine.push(sender.sign(&Draft::new(1059, at).tag(&["p", &me])));
    }
    let others = vec![
        stranger.sign(&Draft::new(1, NOW - 9).tag(&["p", &me])),
        stranger.sign(&Draft::new(1059, NOW - 9).tag(&["p", &stranger.pubkey().to_string()])),
        signer.sign(&Draft::new(1, NOW + 100).content("after the request")),
    ];
    Life { signer, mine, others }
}

fn publish_all(world: &mut World, events: &[Event]) {
    for (number, event) in events.iter().enumerate() {
        let core = (number % world.homes.len()) as u16;
        assert_eq!(world.publish(core, event.clone()), Ok(()));
    }
}

fn ids(events: &[Event]) -> BTreeSet<EventId> {
    events.iter().map(|event| event.view().id()).collect()
}

#[test]
fn everything_of_the_key_is_gone_in_all_shards_when_the_answer_comes_and_stays_gone() {
    let verifier = Remembering::new();
    for shards in SHARDS {
        for seed in 0..8 {
            let mut setup = Setup::new(shards, seed);
            setup.checkpoint_events = 10 + 40 * (seed as usize % 3);
            let mut world = World::new(&setup, &verifier);
            let Life { signer, mine, others } = life(seed);
            publish_all(&mut world, &mine);
            publish_all(&mut world, &others);
            if shards > 1 {
                let placement = Placement::even(Secret([3; 16]), shards);
                let owners = mine.iter().map(|event| placement.owner(&event.view()));
                assert!(owners.collect::<BTreeSet<u16>>().len() > 1, "wraps lie elsewhere");
            }
            let vanish = request(&signer, NOW);
            assert_eq!(world.publish(0, vanish.clone()), Ok(()));
            // Nothing is served from now on, although next to nothing can have been removed yet.
            let mut left = ids(&others);
            left.insert(vanish.view().id());
            assert_eq!(everything(&mut world), left, "{shards} shards, seed {seed}");
            assert_eq!(counted(&mut world, Filter::default()), left.len() as u64);
            for round in 0..2 {
                for event in &mine {
                    let refused = world.publish(0, event.clone()).unwrap_err();
                    let expected = [Reason::Vanished, Reason::Deleted];
                    assert!(expected.contains(&refused), "{refused:?} round {round}");
                }
                assert_eq!(world.publish(0, vanish.clone()), Err(Reason::Duplicate));
                // The removal comes to its end, then the process is killed.
                for _ in 0..20 {
                    world.now.monotonic_ms += 60_000;
                    world.tick();
                    world.settle();
                }
                assert_eq!(everything(&mut world), left);
                world.restart(&setup, &verifier);
                assert_eq!(everything(&mut world), left);
            }
            // The key may go on afterwards.
            let later = signer.sign(&Draft::new(1, NOW + 1).content("new life"));
            assert_eq!(world.publish(0, later), Ok(()));
        }
    }
}

/// Killed anywhere between the request and the end of its removal: either it was answered and holds
/// in all shards, or a second try makes it hold.
#[test]
fn a_kill_at_any_point_leaves_a_request_that_can_be_completed() {
    let verifier = Remembering::new();
    let mut unanswered = 0;
    for seed in 0..120 {
        let shards = SHARDS[seed as usize % 4];
        let mut setup = Setup::new(shards, seed);
        setup.checkpoint_events = 20;
        let mut world = World::new(&setup, &verifier);
        let Life { signer, mine, others } = life(seed % 5);
        publish_all(&mut world, &mine);
        publish_all(&mut world, &others);
        world.settle();
        world.replies.clear();
        let vanish = request(&signer, NOW);
        send(&mut world, 0, &vanish);
        for _ in 0..seed {
            world.step();
        }
        let was_answered = world
            .replies
            .iter()
            .any(|(_, reply)| matches!(reply, Reply::Ok { result: Ok(()), .. }));
        world.restart(&setup, &verifier);
        if !was_answered {
            unanswered += 1;
            let again = world.publish(0, vanish.clone());
            assert!(matches!(again, Ok(()) | Err(Reason::Duplicate)), "{again:?}");
        }
        let mut left = ids(&others);
        left.insert(vanish.view().id());
        assert_eq!(everything(&mut world), left, "seed {seed}");
        for event in &mine {
            assert!(world.publish(0, event.clone()).is_err(), "seed {seed}");
        }
    }
    assert!((20..100).contains(&unanswered), "{unanswered} of 120 kills came before the answer");
}

/// What is under way when the request comes is covered by it, whichever is decided first.
#[test]
fn events_that_race_the_request_are_gone_in_every_order() {
    let verifier = Remembering::new();
    for seed in 0..150 {
        let setup = Setup::new(SHARDS[seed as usize % 4], seed);
        let mut world = World::new(&setup, &verifier);
        let Life { signer, mine, .. } = life(seed % 5);
        let vanish = request(&signer, NOW);
        let by_author = mine.iter().filter(|event| event.view().pubkey() == signer.pubkey());
        for (number, event) in by_author.clone().enumerate() {
            if number == seed as usize % 17 {
                send(&mut world, 0, &vanish);
            }
            let core = (number % world.homes.len()) as u16;
            send(&mut world, core, event);
            for _ in 0..seed % 7 {
                world.step();
            }
        }
        if seed % 17 >= by_author.count() as u64 {
            send(&mut world, 0, &vanish);
        }
        world.settle();
        let left = BTreeSet::from([vanish.view().id()]);
        assert_eq!(everything(&mut world), left, "seed {seed}");
        // Nor do the ids of recent events tell that it is still there.
        for event in mine.iter().filter(|event| event.view().pubkey() == signer.pubkey()) {
            assert_eq!(world.publish(0, event.clone()), Err(Reason::Vanished), "seed {seed}");
        }
    }
}

/// The owner has stored the request, and everybody may read it: nobody may be told no any more.
#[test]
fn a_shard_that_cannot_take_note_now_is_told_again_and_the_client_waits() {
    let verifier = Remembering::new();
    let signer = Signer::from_seed(77);
    let asked = request(&signer, NOW);
    let owner = Placement::even(Secret([3; 16]), 3).owner(&asked.view());
    let full = (0..3).find(|shard| *shard != owner).unwrap();
    for is_ending in [false, true] {
        let mut world = World::new(&Setup::new(3, 5), &verifier);
        world.low_on_space(full, true);
        send(&mut world, 0, &asked);
        let answer = |world: &World| {
            world.replies.iter().find_map(|(_, reply)| match reply {
                Reply::Ok { result, .. } => Some(*result),
                _ => None,
            })
        };
        for _ in 0..5 {
            world.settle();
            assert_eq!(answer(&world), None, "neither yes nor no");
            world.now.monotonic_ms += 1_000;
            world.home(0, HomeInput::Turn);
        }
        assert!(world.homes[0].has_submissions());
        if is_ending {
            world.home(0, HomeInput::Drain);
            world.settle();
            assert!(!world.homes[0].has_submissions(), "an ending relay does not wait for a disk");
            assert_eq!(answer(&world), None, "what is not known is not said");
            continue;
        }
        world.low_on_space(full, false);
        world.now.monotonic_ms += 1_000;
        world.home(0, HomeInput::Turn);
        world.settle();
        assert_eq!(answer(&world), Some(Ok(())));
        assert_eq!(everything(&mut world), ids(std::slice::from_ref(&asked)));
    }
}

#[test]
fn live_events_that_have_not_been_sent_yet_are_not_sent_after_the_request() {
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 1), &verifier);
    // The log has a segment already: what follows goes out as batches of its own.
    let first = Signer::from_seed(3).sign(&Draft::new(1, NOW));
    assert_eq!(world.publish(0, first), Ok(()));
    let reader = client(7);
    let req = ClientMessage::Req("s".into(), vec![Filter { limit: Some(0), ..Filter::default() }]);
    world.home(0, HomeInput::Message(reader, req));
    world.settle();
    world.replies.clear();
    let signer = Signer::from_seed(1);
    let note = signer.sign(&Draft::new(1, NOW - 1).content("regretted"));
    let other = Signer::from_seed(2).sign(&Draft::new(1, NOW).content("kept"));
    let vanish = request(&signer, NOW);
    let is_log = |effect: &StoreEffect| matches!(effect, StoreEffect::Log(_));
    // Durable one after the other, and no turn in between that would send anything.
    send(&mut world, 0, &note);
    send(&mut world, 0, &other);
    world.deliver_mail();
    world.turn_shard(0);
    send(&mut world, 0, &vanish);
    world.deliver_mail();
    world.turn_shard(0);
    let mut batches = 0;
    while world.work(0).any(is_log) {
        batches += 1;
        world.perform_one(0);
    }
    assert!(batches >= 2, "the request is in a batch of its own");
    world.settle();
    let live: Vec<EventId> = world
        .replies
        .iter()
        .filter_map(|(_, reply)| match reply {
            Reply::Live { event, .. } | Reply::Held { event, .. } => Some(event.view().id()),
            _ => None,
        })
        .collect();
    assert_eq!(live, [other.view().id(), vanish.view().id()]);
}

/// Pages and held live events of a client that does not read wait at its core.
#[test]
fn what_waits_for_a_slow_reader_is_not_handed_on_after_the_request() {
    let verifier = Remembering::new();
    for shards in SHARDS {
        let mut world = World::new(&Setup::new(shards, 5), &verifier);
        let Life { signer, mine, others } = life(5);
        let (stored, live) = mine.split_at(mine.len() / 2);
        publish_all(&mut world, stored);
        publish_all(&mut world, &others);
        let reader = client(7);
        world.home(0, HomeInput::Trusted(reader));
        world.home(0, HomeInput::Paused(reader, true));
        let req = ClientMessage::Req("s".into(), vec![Filter::default()]);
        world.home(0, HomeInput::Message(reader, req));
        world.settle();
        assert!(world.homes[0].page_bytes() > 0, "rows wait");
        publish_all(&mut world, live);
        world.settle();
        let vanish = request(&signer, NOW);
        assert_eq!(world.publish(0, vanish.clone()), Ok(()));
        world.settle();
        world.replies.clear();
        world.home(0, HomeInput::Paused(reader, false));
        world.settle();
        let mut served = BTreeSet::new();
        let mut has_ended = false;
        for (_, reply) in world.replies.drain(..) {
            match reply {
                Reply::Stored { event, .. } | Reply::Held { event, .. } => {
                    served.insert(event.view().id());
                }
                Reply::Eose { .. } => has_ended = true,
                other => panic!("{other:?}"),
            }
        }
        let mut left = ids(&others);
        left.insert(vanish.view().id());
        assert_eq!(served, left, "{shards} shards");
        assert!(has_ended);
        assert_eq!(world.homes[0].page_bytes(), 0);
    }
}

#[test]
fn a_request_that_means_others_is_refused_and_one_for_this_relay_needs_its_name() {
    let verifier = Remembering::new();
    let mut setup = Setup::new(2, 3);
    let signer = Signer::from_seed(3);
    let note = signer.sign(&Draft::new(1, NOW - 5));
    let naming = |urls: &[&str], at: u32| {
        let draft = urls.iter().fold(Draft::new(62, at), |draft, url| draft.tag(&["relay", url]));
        signer.sign(&draft)
    };
    let mine = naming(&["wss://other.example", "wss://relay.example.com/"], NOW - 1);
    for (public_url, expected) in
        [(None, Err(Reason::VanishOtherRelay)), (Some("wss://Relay.example.com".into()), Ok(()))]
    {
        setup.public_url = public_url;
        let mut world = World::new(&setup, &verifier);
        assert_eq!(world.publish(0, note.clone()), Ok(()));
        assert_eq!(world.publish(0, naming(&[], NOW)), Err(Reason::VanishNoRelay));
        let elsewhere = naming(&["wss://other.example"], NOW);
        assert_eq!(world.publish(0, elsewhere.clone()), Err(Reason::VanishOtherRelay));
        // An archive may hold what was meant for others.
        let import = HomeInput::Import { client: client(5), event: elsewhere, verify: true };
        world.home(0, import);
        let refused = Err(Reason::VanishOtherRelay);
        assert!(
            matches!(&world.replies[..], [.., (_, Reply::Ok { result, .. })] if *result == refused)
        );
        assert!(everything(&mut world).contains(&note.view().id()));
        assert_eq!(world.publish(0, mine.clone()), expected);
        assert_eq!(everything(&mut world).contains(&note.view().id()), expected.is_err());
    }
}

#[test]
fn a_refused_or_forged_request_leaves_no_trace_in_any_shard() {
    let verifier = Remembering::new();
    for (seed, verdict) in
        [(1, Verdict::Reject("no".into())), (2, Verdict::ShadowReject), (3, Verdict::Unavailable)]
    {
        let mut setup = Setup::new(3, seed);
        setup.door = Asks { writes: true, imports: false, reads: false, reads_max: 1 };
        let mut world = World::new(&setup, &verifier);
        let Life { signer, mine, .. } = life(seed);
        for event in &mine {
            let event = event.clone();
            world.home(0, HomeInput::Import { client: client(5), event, verify: true });
        }
        world.settle();
        send(&mut world, 0, &request(&signer, NOW));
        world.settle();
        let (shard, question) = world.questions.remove(0);
        world.answer(shard, question.token, verdict);
        world.settle();
        assert!(!world.homes[0].has_submissions());
        assert_eq!(everything(&mut world), ids(&mine));
    }
    // Nor does one with a wrong signature, in an archive that is taken on trust.
    let mut world = World::new(&Setup::new(3, 8), &verifier);
    let Life { signer, mine, .. } = life(4);
    publish_all(&mut world, &mine);
    let real = request(&signer, NOW);
    let mut forged = real.view().parts();
    forged.sig.0[10] ^= 1;
    let event = forged.pack();
    world.home(0, HomeInput::Import { client: client(5), event, verify: false });
    world.settle();
    let refused = |(_, reply): &(u16, Reply)| {
        matches!(reply, Reply::Ok { result: Err(Reason::BadSignature), .. })
    };
    assert!(world.replies.iter().any(refused));
    assert_eq!(everything(&mut world), ids(&mine));
    // Another key's request under the id of one that is stored: its owner takes it for a copy, the
    // other shards look closer.
    let mut world = World::new(&Setup::new(3, 9), &verifier);
    let Life { signer, mine, .. } = life(4);
    publish_all(&mut world, &mine);
    for number in 0..20 {
        let real = request(&Signer::from_seed(5_000 + number), NOW);
        assert_eq!(world.publish(0, real.clone()), Ok(()));
        let mut parts = real.view().parts();
        parts.pubkey = signer.pubkey();
        let outcome = world.publish(0, parts.pack());
        assert_eq!(outcome, Err(Reason::IdMismatch));
    }
    assert!(everything(&mut world).is_superset(&ids(&mine)));
}

fn remove(world: &mut World, ids: Vec<EventId>, ban: bool) -> (u64, Option<Reason>) {
    world.replies.clear();
    world.home(0, HomeInput::Remove { client: client(5), ids, ban });
    world.settle();
    let removed = world.replies.drain(..).find_map(|(_, reply)| match reply {
        Reply::Removed { count, failed, .. } => Some((count, failed)),
        _ => None,
    });
    removed.unwrap()
}

#[test]
fn the_operator_removes_and_bans_across_shards_and_restarts() {
    let verifier = Remembering::new();
    for shards in SHARDS {
        let mut setup = Setup::new(shards, u64::from(shards));
        setup.checkpoint_events = 100;
        let mut world = World::new(&setup, &verifier);
        let note = |number: u64| {
            let draft = Draft::new(1, NOW - number as u32).content("note");
            Signer::from_seed(number % 20).sign(&draft)
        };
        let notes: Vec<Event> = (0..700).map(note).collect();
        publish_all(&mut world, &notes[..650]);
        let wanted: Vec<EventId> = notes[..600].iter().map(|event| event.view().id()).collect();
        assert_eq!(remove(&mut world, wanted[..300].to_vec(), false), (300, None));
        // Banned are what was there and what was not.
        let mut banned = wanted[290..].to_vec();
        banned.push(notes[699].view().id());
        assert_eq!(remove(&mut world, banned.clone(), true), (300, None));
        assert_eq!(world.publish(0, notes[599].clone()), Err(Reason::Banned));
        world.restart(&setup, &verifier);
        assert_eq!(everything(&mut world), ids(&notes[600..650]));
        assert_eq!(world.publish(0, notes[0].clone()), Ok(()), "what is not banned may come back");
        for banned in [&notes[290], &notes[599], &notes[699]] {
            assert_eq!(world.publish(0, banned.clone()), Err(Reason::Banned), "{shards} shards");
        }
        assert_eq!(remove(&mut world, banned, true), (0, None), "a second time changes nothing");
        assert_eq!(remove(&mut world, Vec::new(), true), (0, None));
    }
}

/// A removal is answered when it is durable, and not before.
#[test]
fn a_removal_that_was_answered_survives_a_kill() {
    let verifier = Remembering::new();
    let mut answered = 0;
    for seed in 0..60 {
        let setup = Setup::new(2, seed);
        let mut world = World::new(&setup, &verifier);
        let Life { mine, .. } = life(1);
        publish_all(&mut world, &mine);
        world.settle();
        world.replies.clear();
        let all: Vec<EventId> = ids(&mine).into_iter().collect();
        world.home(0, HomeInput::Remove { client: client(5), ids: all, ban: false });
        for _ in 0..seed / 3 {
            world.step();
        }
        let is_answered =
            world.replies.iter().any(|(_, reply)| matches!(reply, Reply::Removed { .. }));
        world.restart(&setup, &verifier);
        if is_answered {
            answered += 1;
            assert!(everything(&mut world).is_empty(), "seed {seed}");
        }
    }
    assert!((5..55).contains(&answered), "{answered} of 60 kills came after the answer");
}
