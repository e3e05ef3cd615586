//! `OK true` for an event that is not stored, because a newer one is, comes only when that one is
//! durable: its author may forget the event then.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use common::{Remembering, Setup, UNIX_S, World};
use proto::{ClientMessage, Event, Reason};
use shards::home::{HomeInput, Reply};
use store::effect::StoreEffect;

fn send(world: &mut World, event: &Event) {
    let message = ClientMessage::Event(event.clone());
    world.home(0, HomeInput::Message(World::client(0), message));
}

fn outcomes(world: &mut World) -> Vec<Result<(), Reason>> {
    let replies = world.replies.drain(..);
    let results = replies.filter_map(|(_, reply)| match reply {
        Reply::Ok { result, .. } => Some(result),
        _ => None,
    });
    results.collect()
}

/// Everything that can happen, but that nothing is written to the log.
fn without_log(world: &mut World) {
    for _ in 0..50 {
        world.deliver_mail();
        world.perform_all(0, |effect| !matches!(effect, StoreEffect::Log(_)));
        world.turn_shard(0);
        world.home(0, HomeInput::Turn);
    }
}

#[test]
fn having_a_newer_version_is_said_when_that_one_is_durable() {
    let profile = |at: u64| Signer::from_seed(4).sign(&Draft::new(0, at as u32));
    let request = |at: u64| {
        let draft = Draft::new(62, at as u32).tag(&["relay", "ALL_RELAYS"]);
        Signer::from_seed(4).sign(&draft)
    };
    for [newer, older] in
        [[profile(UNIX_S), profile(UNIX_S - 1)], [request(UNIX_S), request(UNIX_S - 1)]]
    {
        let mut world = World::new(&Setup::new(1, 5), &Remembering::new());
        world.settle();
        send(&mut world, &newer);
        without_log(&mut world);
        send(&mut world, &older);
        without_log(&mut world);
        assert_eq!(outcomes(&mut world), [], "a power cut now would take both");
        world.settle();
        assert_eq!(outcomes(&mut world), [Ok(()), Err(Reason::DuplicateNewer)]);
        send(&mut world, &older);
        without_log(&mut world);
        assert_eq!(outcomes(&mut world), [Err(Reason::DuplicateNewer)]);
    }
}
