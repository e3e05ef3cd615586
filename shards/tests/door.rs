//! The policy door: events and reads wait for the word of the operator's program, however long it
//! takes, and nobody else waits with them.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use common::{Remembering, Setup, UNIX_S, World};
use proto::{ClientMessage, Event, EventId, Filter, Reason};
use shards::door::{Asks, ReadKind, Verdict};
use shards::home::{HomeInput, Reply};
use shards::message::{Client, Origin};
use std::net::IpAddr;
use std::sync::Arc;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn asking(shards: u16, seed: u64) -> Setup {
    let mut setup = Setup::new(shards, seed);
    setup.door = Asks { writes: true, imports: false, reads: false, reads_max: 64 };
    setup
}

fn note(signer: u64, text: &str) -> Event {
    Signer::from_seed(signer).sign(&Draft::new(1, UNIX_S as u32).content(text))
}

fn forged(event: &Event) -> Event {
    let mut parts = event.view().parts();
    parts.sig.0[10] ^= 1;
    parts.pack()
}

fn client(slot: u32) -> Client {
    Client { slot, generation: 1 }
}

fn send(world: &mut World, slot: u32, event: &Event) {
    world.home(0, HomeInput::Message(client(slot), ClientMessage::Event(event.clone())));
}

type Outcome = (u32, Result<(), Reason>, Option<String>);

fn outcomes(world: &mut World) -> Vec<Outcome> {
    let replies = std::mem::take(&mut world.replies).into_iter();
    let outcomes = replies.filter_map(|(_, reply)| match reply {
        Reply::Ok { client, result, note, .. } => {
            Some((client.slot, result, note.map(|note| note.to_string())))
        }
        _ => None,
    });
    outcomes.collect()
}

fn stored(world: &mut World, filter: Filter) -> Vec<EventId> {
    world.replies.clear();
    let req = ClientMessage::Req("s".into(), vec![filter]);
    world.home(0, HomeInput::Message(client(900), req));
    world.settle();
    let replies = world.replies.drain(..);
    let ids = replies.filter_map(|(_, reply)| match reply {
        Reply::Stored { event, .. } => Some(event.view().id()),
        _ => None,
    });
    ids.collect()
}

fn answer_all(world: &mut World, verdict: &Verdict) {
    for (shard, question) in std::mem::take(&mut world.questions) {
        world.answer(shard, question.token, verdict.clone());
    }
    world.settle();
}

#[test]
fn a_thousand_wait_and_one_that_is_never_answered_costs_only_its_own_event() {
    let verifier = Remembering::new();
    let mut setup = asking(1, 1);
    setup.submit_credit = 1_024;
    let mut world = World::new(&setup, &verifier);
    let events: Vec<Event> = (0..1_000).map(|number| note(1, &format!("note {number}"))).collect();
    for (slot, event) in events.iter().enumerate() {
        send(&mut world, slot as u32, event);
    }
    world.settle();
    assert_eq!(world.questions.len(), 1_000);
    assert!(outcomes(&mut world).is_empty(), "nothing is answered before the policy is");
    assert!(stored(&mut world, Filter::default()).is_empty(), "nor stored; reads go on");
    let hanging = world.questions.remove(417);
    answer_all(&mut world, &Verdict::Accept);
    let answered = outcomes(&mut world);
    assert_eq!(answered.len(), 999);
    assert!(answered.iter().all(|(slot, result, _)| result.is_ok() && *slot != 417));
    world.answer(hanging.0, hanging.1.token, Verdict::Accept);
    world.settle();
    assert_eq!(outcomes(&mut world), [(417, Ok(()), None)]);
    // A second answer to the same question changes nothing.
    world.answer(hanging.0, hanging.1.token, Verdict::Reject("no".into()));
    world.settle();
    assert!(outcomes(&mut world).is_empty());
    let counts = world.shards[0].stats().counters.door;
    assert_eq!((counts.asked, counts.accepted, counts.rejected), (1_000, 1_000, 0));
}

#[test]
fn questions_are_bounded_and_the_rest_waits_in_order() {
    let verifier = Remembering::new();
    let mut setup = asking(1, 2);
    setup.door_in_flight_max = 3;
    let mut world = World::new(&setup, &verifier);
    for slot in 0..20 {
        send(&mut world, slot, &note(2, &slot.to_string()));
    }
    world.settle();
    let mut seen = Vec::new();
    while !world.questions.is_empty() {
        assert!(world.questions.len() <= 3);
        let (shard, question) = world.questions.remove(0);
        seen.push(question.event.view().id());
        world.answer(shard, question.token, Verdict::Accept);
        world.settle();
    }
    let sent: Vec<EventId> = (0..20).map(|slot| note(2, &slot.to_string()).view().id()).collect();
    assert_eq!(seen, sent);
    assert_eq!(outcomes(&mut world).len(), 20);
}

#[test]
fn each_verdict_has_its_answer_and_only_yes_stores() {
    let verifier = Remembering::new();
    let mut world = World::new(&asking(1, 3), &verifier);
    let keys = [Signer::from_seed(50).pubkey()];
    let no: Arc<str> = "blocked: not today".into();
    let verdicts =
        [Verdict::Accept, Verdict::Reject(no), Verdict::ShadowReject, Verdict::Unavailable];
    world.home(0, HomeInput::Address(client(0), ADDRESS));
    world.home(0, HomeInput::Authenticated(client(0), keys[0]));
    for number in 0..verdicts.len() {
        send(&mut world, 0, &note(3, &number.to_string()));
    }
    world.settle();
    for (number, verdict) in verdicts.into_iter().enumerate() {
        let (shard, question) = world.questions.remove(0);
        assert_eq!(question.event, note(3, &number.to_string()));
        assert_eq!(question.source.address, Some(ADDRESS));
        assert_eq!(*question.source.keys, keys);
        assert_eq!(question.source.origin, Origin::Client);
        world.answer(shard, question.token, verdict);
    }
    world.settle();
    let mut answered = outcomes(&mut world);
    answered.sort_by_key(|(_, result, note)| (*result, note.clone()));
    let expected = [
        (0, Ok(()), None),
        (0, Ok(()), None),
        (0, Err(Reason::Policy), Some("blocked: not today".to_owned())),
        (0, Err(Reason::PolicyDown), None),
    ];
    assert_eq!(answered, expected);
    assert_eq!(stored(&mut world, Filter::default()), [note(3, "0").view().id()]);
    let counts = world.shards[0].stats().counters.door;
    assert_eq!((counts.shadowed, counts.unavailable), (1, 1));
    // What was not stored may come again, and is asked about again.
    send(&mut world, 0, &note(3, "2"));
    world.settle();
    answer_all(&mut world, &Verdict::Accept);
    assert_eq!(outcomes(&mut world), [(0, Ok(()), None)]);
}

#[test]
fn a_wrong_signature_never_comes_to_the_door() {
    let verifier = Remembering::new();
    let mut world = World::new(&asking(1, 4), &verifier);
    send(&mut world, 1, &forged(&note(4, "forged")));
    world.settle();
    assert!(world.questions.is_empty());
    assert_eq!(outcomes(&mut world), [(1, Err(Reason::BadSignature), None)]);
}

#[test]
fn ephemeral_events_are_asked_about_and_passed_on_after_yes_only() {
    let verifier = Remembering::new();
    let mut world = World::new(&asking(1, 5), &verifier);
    let req = ClientMessage::Req("s".into(), vec![Filter::default()]);
    world.home(0, HomeInput::Message(client(9), req));
    let ephemeral =
        |text: &str| Signer::from_seed(5).sign(&Draft::new(20_001, UNIX_S as u32).content(text));
    let [yes, shadow] = ["yes", "shadow"].map(ephemeral);
    send(&mut world, 1, &yes);
    send(&mut world, 2, &shadow);
    world.settle();
    let passed_on = |world: &World| {
        let replies = world.replies.iter();
        replies.filter(|(_, reply)| matches!(reply, Reply::Live { .. })).count()
    };
    assert_eq!(passed_on(&world), 0);
    for (shard, question) in std::mem::take(&mut world.questions) {
        let is_yes = question.event == yes;
        let verdict = if is_yes { Verdict::Accept } else { Verdict::ShadowReject };
        world.answer(shard, question.token, verdict);
    }
    world.settle();
    assert_eq!(passed_on(&world), 1);
    assert!(outcomes(&mut world).iter().all(|(_, result, _)| result.is_ok()));
}

/// While the program thinks, the store goes on: other events of the slot are stored, checkpoints
/// move them into the index and memory forgets them. The decision after the answer knows all that.
#[test]
fn after_a_long_wait_the_decision_is_made_from_what_is_true_then() {
    let verifier = Remembering::new();
    for (mine, others, expected) in [(5, 9, Err(Reason::DuplicateNewer)), (9, 5, Ok(()))] {
        let mut setup = asking(1, mine);
        setup.checkpoint_events = 1;
        let mut world = World::new(&setup, &verifier);
        let signer = Signer::from_seed(6);
        let profile = |at: u64| signer.sign(&Draft::new(0, (UNIX_S + at) as u32));
        send(&mut world, 1, &profile(mine));
        world.settle();
        let (shard, waiting) = world.questions.remove(0);
        // The version of another client overtakes it, and more follow, each with its checkpoint.
        for event in [profile(others), note(7, "a"), note(7, "b"), note(7, "c")] {
            send(&mut world, 2, &event);
            world.settle();
            answer_all(&mut world, &Verdict::Accept);
        }
        world.replies.clear();
        assert_eq!(world.shards[0].store().stats().delta_events, 0, "nothing is pinned by waiting");
        world.answer(shard, waiting.token, Verdict::Accept);
        world.settle();
        assert_eq!(outcomes(&mut world), [(1, expected, None)]);
        let newest = profile(mine.max(others)).view().id();
        let filter = Filter { kinds: Some(vec![0]), ..Filter::default() };
        assert_eq!(stored(&mut world, filter), [newest]);
    }
}

#[test]
fn a_deletion_at_the_door_ends_what_came_while_it_waited() {
    let verifier = Remembering::new();
    let mut setup = asking(1, 7);
    setup.checkpoint_events = 1;
    let mut world = World::new(&setup, &verifier);
    let signer = Signer::from_seed(8);
    let victim = signer.sign(&Draft::new(1, UNIX_S as u32).content("gone"));
    let id = victim.view().id().to_hex();
    let deletion = signer.sign(&Draft::new(5, UNIX_S as u32).tag(&["e", &id]));
    send(&mut world, 1, &deletion);
    world.settle();
    let (shard, waiting) = world.questions.remove(0);
    send(&mut world, 2, &victim);
    world.settle();
    answer_all(&mut world, &Verdict::Accept);
    assert_eq!(outcomes(&mut world), [(2, Ok(()), None)]);
    world.answer(shard, waiting.token, Verdict::Accept);
    world.settle();
    assert_eq!(outcomes(&mut world), [(1, Ok(()), None)]);
    assert_eq!(stored(&mut world, Filter::default()), [deletion.view().id()]);
}

#[test]
fn copies_join_the_one_at_the_door_and_are_asked_about_only_if_it_is_refused() {
    let verifier = Remembering::new();
    for seed in 0..60 {
        let mut world = World::new(&asking(1, seed), &verifier);
        let event = note(9, &format!("copied {seed}"));
        let forged = forged(&event);
        for slot in 0..12 {
            send(&mut world, slot, if slot % 3 == 2 { &forged } else { &event });
            for _ in 0..seed % 5 {
                world.step();
            }
        }
        world.settle();
        assert_eq!(world.questions.len(), 1, "one question for all copies (seed {seed})");
        // The first three are refused, each for itself; then the fourth is accepted for all.
        for _ in 0..3 {
            let (shard, question) = world.questions.remove(0);
            world.answer(shard, question.token, Verdict::Reject("no".into()));
            world.settle();
            assert_eq!(world.questions.len(), 1, "the next copy is asked about (seed {seed})");
        }
        answer_all(&mut world, &Verdict::Accept);
        assert!(world.questions.is_empty());
        let answered = outcomes(&mut world);
        assert_eq!(answered.len(), 12);
        let count = |wanted: Result<(), Reason>| {
            answered.iter().filter(|(_, result, _)| *result == wanted).count()
        };
        assert_eq!(count(Err(Reason::Policy)), 3);
        assert_eq!(count(Ok(())), 1);
        // A forged copy is told so, or that the event is here once it is.
        assert_eq!(count(Err(Reason::Duplicate)) + count(Err(Reason::BadSignature)), 8);
        assert!(count(Err(Reason::Duplicate)) >= 4, "seed {seed}");
        assert!(world.shards[0].is_idle());
    }
}

#[test]
fn the_event_of_a_client_that_went_away_is_decided_all_the_same() {
    let verifier = Remembering::new();
    let mut world = World::new(&asking(1, 10), &verifier);
    let event = note(10, "left behind");
    send(&mut world, 1, &event);
    world.settle();
    world.home(0, HomeInput::Gone(client(1)));
    answer_all(&mut world, &Verdict::Accept);
    assert_eq!(stored(&mut world, Filter::default()), [event.view().id()]);
    assert!(!world.homes[0].has_submissions());
}

#[test]
fn imports_and_the_operators_own_events_are_asked_about_only_if_the_operator_wants_it() {
    let verifier = Remembering::new();
    for imports in [false, true] {
        let mut setup = asking(1, 11);
        setup.door.imports = imports;
        let mut world = World::new(&setup, &verifier);
        world.home(0, HomeInput::Trusted(client(1)));
        let wrong = forged(&note(11, "unverified"));
        for (event, verify) in [(note(11, "verified"), true), (wrong, false)] {
            world.home(0, HomeInput::Import { client: client(2), event, verify });
        }
        send(&mut world, 1, &note(11, "trusted"));
        world.settle();
        assert_eq!(world.questions.len(), if imports { 3 } else { 0 });
        let origins = world.questions.iter().map(|(_, question)| question.source.origin);
        assert!(origins.into_iter().all(|origin| origin != Origin::Client));
        answer_all(&mut world, &Verdict::Accept);
        let answered = outcomes(&mut world);
        assert_eq!(answered.iter().filter(|(_, result, _)| result.is_ok()).count(), 3);
    }
}

#[test]
fn a_trusted_client_reads_everything_and_publishes_without_windows_of_time() {
    let verifier = Remembering::new();
    let mut setup = Setup::new(2, 12);
    setup.limits.created_at_past_s = 10;
    let mut world = World::new(&setup, &verifier);
    let recipient = Signer::from_seed(99).pubkey().to_string();
    let draft = Draft::new(4, UNIX_S as u32 - 1_000).tag(&["p", &recipient]);
    let old = Signer::from_seed(12).sign(&draft);
    send(&mut world, 1, &old);
    world.settle();
    assert_eq!(outcomes(&mut world), [(1, Err(Reason::TooOld), None)]);
    world.home(0, HomeInput::Trusted(client(1)));
    let req = ClientMessage::Req("s".into(), vec![Filter::default()]);
    world.home(0, HomeInput::Message(client(1), req));
    world.settle();
    world.replies.clear();
    send(&mut world, 1, &old);
    world.settle();
    let live = world.replies.iter().filter(|(_, reply)| matches!(reply, Reply::Live { .. }));
    assert_eq!(live.count(), 1, "a private event goes to nobody but the operator");
    assert_eq!(outcomes(&mut world), [(1, Ok(()), None)]);
    assert!(stored(&mut world, Filter::default()).is_empty());
    world.home(0, HomeInput::Trusted(client(900)));
    assert_eq!(stored(&mut world, Filter::default()), [old.view().id()]);
}

fn reading(reads_max: usize) -> Setup {
    let mut setup = Setup::new(2, 13);
    setup.door = Asks { writes: false, imports: false, reads: true, reads_max };
    setup
}

fn kinds(world: &mut World) -> Vec<String> {
    let replies = std::mem::take(&mut world.replies).into_iter();
    let names = replies.map(|(_, reply)| match reply {
        Reply::Park(_) => "park".to_owned(),
        Reply::Unpark(_) => "unpark".to_owned(),
        Reply::Stored { .. } => "stored".to_owned(),
        Reply::Eose { .. } => "eose".to_owned(),
        Reply::Count { count, .. } => format!("count {count}"),
        Reply::Closed { reason, note, .. } => format!("closed {reason:?} {note:?}"),
        other => format!("{other:?}"),
    });
    names.collect()
}

#[test]
fn reads_wait_parked_for_the_word_and_then_go_their_way() {
    let verifier = Remembering::new();
    let mut world = World::new(&reading(64), &verifier);
    assert_eq!(world.publish(0, note(13, "there")), Ok(()));
    world.replies.clear();
    let everything = || vec![Filter::default()];
    let req = || ClientMessage::Req("s".into(), everything());
    let count = || ClientMessage::Count("c".into(), everything());
    let cases = [
        (req(), Verdict::Accept, vec!["park", "unpark", "stored", "eose"]),
        (req(), Verdict::ShadowReject, vec!["park", "eose", "unpark"]),
        (
            req(),
            Verdict::Reject("restricted: not you".into()),
            vec!["park", "closed Policy Some(\"restricted: not you\")", "unpark"],
        ),
        (req(), Verdict::Unavailable, vec!["park", "closed PolicyDown None", "unpark"]),
        (count(), Verdict::Accept, vec!["park", "unpark", "count 1"]),
        (count(), Verdict::ShadowReject, vec!["park", "count 0", "unpark"]),
    ];
    for (message, verdict, expected) in cases {
        let kind =
            if matches!(message, ClientMessage::Req(..)) { ReadKind::Req } else { ReadKind::Count };
        world.home(0, HomeInput::Message(client(1), message));
        world.settle();
        let (core, question) = world.read_questions.remove(0);
        assert_eq!((question.kind, question.filters.len()), (kind, 1));
        world.answer_read(core, question.token, verdict);
        world.settle();
        assert_eq!(kinds(&mut world), expected);
    }
    let counts = world.homes[0].counters().door;
    assert_eq!((counts.asked, counts.accepted, counts.shadowed), (6, 2, 2));
}

/// A refused NEG-OPEN closes what is open under its name like an accepted one: the client has been
/// told that the name is free.
#[test]
fn a_refused_neg_open_leaves_no_session_of_its_name() {
    let verifier = Remembering::new();
    let mut world = World::new(&reading(64), &verifier);
    let nothing = vec![0x61];
    let open = |name: &str| {
        let filter = Box::new(Filter { kinds: Some(vec![1]), ..Filter::default() });
        ClientMessage::NegOpen(name.into(), filter, nothing.clone())
    };
    for (name, verdict) in [
        ("other", Verdict::Accept),
        ("n", Verdict::Accept),
        ("n", Verdict::Reject("blocked: no".into())),
        ("n", Verdict::Accept),
        ("n", Verdict::Unavailable),
    ] {
        world.home(0, HomeInput::Message(client(1), open(name)));
        let (core, question) = world.read_questions.remove(0);
        assert_eq!(question.kind, ReadKind::NegOpen);
        world.answer_read(core, question.token, verdict.clone());
        world.settle();
        let is_open = verdict == Verdict::Accept;
        let open = 1 + usize::from(is_open && name == "n");
        assert_eq!(world.homes[0].neg_sessions(), open, "{name} {verdict:?}");
    }
    world.replies.clear();
    let message = ClientMessage::NegMsg("n".into(), nothing.clone());
    world.home(0, HomeInput::Message(client(1), message));
    let told = world.replies.drain(..).map(|(_, reply)| reply).next();
    assert!(matches!(told, Some(Reply::NegErr { reason: Reason::NegUnknown, .. })), "{told:?}");
}

#[test]
fn reads_asked_about_are_bounded_and_a_client_that_leaves_frees_its_place() {
    let verifier = Remembering::new();
    let mut world = World::new(&reading(2), &verifier);
    for slot in 0..6 {
        let req = ClientMessage::Req("s".into(), vec![Filter::default()]);
        world.home(0, HomeInput::Message(client(slot), req));
    }
    assert_eq!(world.read_questions.len(), 2);
    for slot in [0, 2, 3] {
        world.home(0, HomeInput::Gone(client(slot)));
    }
    let mut eose = Vec::new();
    while let Some((core, question)) = world.read_questions.pop() {
        world.answer_read(core, question.token, Verdict::Accept);
        world.settle();
        for (_, reply) in world.replies.drain(..) {
            if let Reply::Eose { client, .. } = reply {
                eose.push(client.slot);
            }
        }
    }
    eose.sort_unstable();
    assert_eq!(eose, [1, 4, 5]);
}
