//! Signatures that another core checks: what the store does meanwhile, and what becomes of their events.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use common::{Remembering, Setup, UNIX_S, World};
use proto::{ClientMessage, Event, Reason};
use shards::home::{HomeInput, Reply};
use shards::message::Client;

/// Two cores, of which only the first has a shard, and clients.
fn world(verifier: &Remembering) -> World {
    let setup = Setup { cores: 2, verify_slice: 1, ..Setup::new(1, 7) };
    World::new(&setup, verifier)
}

fn send(world: &mut World, slot: u32, event: &Event) {
    let client = Client { slot, generation: 1 };
    world.home(0, HomeInput::Message(client, ClientMessage::Event(event.clone())));
}

/// The outcomes by the slots of those who published.
fn outcomes(world: &mut World) -> Vec<(u32, Result<(), Reason>)> {
    let replies = std::mem::take(&mut world.replies);
    let outcome = |(_, reply)| match reply {
        Reply::Ok { client, result, .. } => Some((client.slot, result)),
        _ => None,
    };
    let mut outcomes: Vec<_> = replies.into_iter().filter_map(outcome).collect();
    outcomes.sort_by_key(|(slot, _)| *slot);
    outcomes
}

fn profile(created_at: u64, text: &str) -> Event {
    let draft = Draft::new(0, created_at as u32).content(text);
    Signer::from_seed(1).sign(&draft)
}

fn with_bad_signature(event: &Event) -> Event {
    let mut parts = event.view().parts();
    parts.sig.0[10] ^= 1;
    parts.pack()
}

/// Brings everything in the mail to the shard, which looks at it and checks one signature.
fn arrive(world: &mut World) {
    world.deliver_mail();
    world.turn_shard(0);
    while world.work(0).next().is_some() {
        world.perform_all(0, |_| true);
    }
}

#[test]
fn what_comes_back_meets_the_rules_of_the_moment() {
    let verifier = Remembering::new();
    let mut world = world(&verifier);
    let filler = Signer::from_seed(2).sign(&Draft::new(1, UNIX_S as u32).content("first"));
    let (new, old) = (profile(UNIX_S, "new"), profile(UNIX_S - 5, "old"));
    for (slot, event) in (0..).zip([&filler, &new, &old]) {
        send(&mut world, slot, event);
    }
    arrive(&mut world);
    assert_eq!(world.shards[0].unverified(), 2);
    world.help(0, 1, 1);
    assert_eq!((world.shards[0].unverified(), world.shards[0].tickets_out()), (1, 1));
    assert_eq!(world.ticketed, 1);
    // Before the ticket comes back the newer version is stored.
    world.turn_shard(0);
    while world.work(0).next().is_some() {
        world.perform_all(0, |_| true);
        world.turn_shard(0);
    }
    assert!(!world.shards[0].is_idle(), "an event is with another core");
    world.deliver_mail();
    assert_eq!(world.shards[0].tickets_out(), 0);
    world.settle();
    let expected = [(0, Ok(())), (1, Ok(())), (2, Err(Reason::DuplicateNewer))];
    assert_eq!(outcomes(&mut world), expected);
    assert!(world.shards[0].is_idle());
}

#[test]
fn a_ticket_tells_wrong_signatures_from_right_ones_and_copies_wait_for_it() {
    let verifier = Remembering::new();
    let mut world = world(&verifier);
    let note = |text| Signer::from_seed(3).sign(&Draft::new(1, UNIX_S as u32).content(text));
    let (filler, other, good) = (note("first"), note("second"), note("real"));
    let bad = with_bad_signature(&good);
    for (slot, event) in (0..).zip([&filler, &other, &bad]) {
        send(&mut world, slot, event);
    }
    arrive(&mut world);
    world.help(0, 1, 1);
    // The real one comes while a forged copy is being checked elsewhere.
    send(&mut world, 3, &good);
    arrive(&mut world);
    world.deliver_mail();
    world.settle();
    let expected = [(0, Ok(())), (1, Ok(())), (2, Err(Reason::BadSignature)), (3, Ok(()))];
    assert_eq!(outcomes(&mut world), expected);
}

#[test]
fn a_shard_keeps_its_backlog_and_stays_within_its_credit() {
    let verifier = Remembering::new();
    let mut world = world(&verifier);
    for slot in 0..12 {
        let draft = Draft::new(1, UNIX_S as u32).content(&format!("number {slot}"));
        send(&mut world, slot, &Signer::from_seed(4).sign(&draft));
    }
    arrive(&mut world);
    assert_eq!(world.shards[0].unverified(), 11);
    assert!(world.shards[0].wants_help());
    // Five signatures are what one core is trusted with at a time in these tests.
    world.help(0, 1, 100);
    assert_eq!((world.shards[0].unverified(), world.shards[0].tickets_out()), (6, 5));
    world.help(0, 1, 100);
    assert_eq!(world.shards[0].tickets_out(), 5);
    world.deliver_mail();
    assert_eq!(world.shards[0].tickets_out(), 0);
    world.help(0, 1, 100);
    assert_eq!((world.shards[0].unverified(), world.shards[0].tickets_out()), (1, 5));
    assert!(!world.shards[0].wants_help(), "one signature is kept here");
    world.settle();
    assert!(outcomes(&mut world).iter().all(|(_, result)| result.is_ok()));
}
