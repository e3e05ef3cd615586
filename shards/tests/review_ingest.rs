//! Decisions that take longer than the memory they were made from lasts.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use common::{Remembering, Setup, UNIX_S, World};
use proto::{ClientMessage, Event, EventId, Filter};
use shards::home::{HomeInput, Reply};
use shards::message::Client;
use store::effect::StoreEffect;

fn send(world: &mut World, slot: u32, event: &Event) {
    let client = Client { slot, generation: 1 };
    world.home(0, HomeInput::Message(client, ClientMessage::Event(event.clone())));
}

fn stored(world: &mut World, filter: Filter) -> Vec<EventId> {
    world.replies.clear();
    let client = Client { slot: 900, generation: 1 };
    let req = ClientMessage::Req("s".into(), vec![filter]);
    world.home(0, HomeInput::Message(client, req));
    world.settle();
    let replies = world.replies.drain(..);
    let ids = replies.filter_map(|(_, reply)| match reply {
        Reply::Stored { event, .. } => Some(event.view().id()),
        _ => None,
    });
    ids.collect()
}

/// Memory alone knows who holds a slot when the newer version is first looked at; by the time its
/// signature is checked a checkpoint has moved that knowledge into the index. The older version
/// must end all the same.
#[test]
fn what_memory_answered_is_still_known_when_the_signature_has_been_checked() {
    let verifier = Remembering::new();
    let mut setup = Setup::new(1, 7);
    setup.checkpoint_events = 1;
    let mut world = World::new(&setup, &verifier);
    let signer = Signer::from_seed(1);
    let old = signer.sign(&Draft::new(0, UNIX_S as u32).content("old"));
    let new = signer.sign(&Draft::new(0, UNIX_S as u32 + 1).content("new"));
    send(&mut world, 1, &old);
    world.deliver_mail();
    world.turn_shard(0);
    world.perform_all(0, |effect| matches!(effect, StoreEffect::Log(_)));
    let checkpoints = |effect: &StoreEffect| matches!(effect, StoreEffect::Checkpoint(_));
    assert!(world.work(0).any(checkpoints), "the old version is on its way into the index");
    // More events than one turn verifies stand before the new version.
    for number in 0..20 {
        let text = format!("note {number}");
        let note = Signer::from_seed(2).sign(&Draft::new(1, UNIX_S as u32).content(&text));
        send(&mut world, 2, &note);
    }
    send(&mut world, 3, &new);
    world.deliver_mail();
    world.turn_shard(0);
    assert!(world.shards[0].has_work(), "the new version waits for its verification");
    world.perform_all(0, checkpoints);
    world.settle();
    let filter = Filter { authors: Some(vec![signer.pubkey()]), ..Filter::default() };
    assert_eq!(stored(&mut world, filter), [new.view().id()]);
}

/// An import that waits for room in the store leaves its core asleep until the checkpoint is done.
#[test]
fn an_import_that_waits_for_a_checkpoint_keeps_no_core_busy() {
    let verifier = Remembering::new();
    let mut setup = Setup::new(1, 8);
    setup.checkpoint_events = 1;
    setup.delta_bytes_max = 100;
    let mut world = World::new(&setup, &verifier);
    let client = Client { slot: 1, generation: 1 };
    let import = |world: &mut World, number: u32| {
        let event = Signer::from_seed(2).sign(&Draft::new(1, UNIX_S as u32 + number));
        world.home(0, HomeInput::Import { client, event, verify: true });
        world.deliver_mail();
        world.turn_shard(0);
    };
    import(&mut world, 1);
    world.perform_all(0, |effect| matches!(effect, StoreEffect::Log(_)));
    import(&mut world, 2);
    world.turn_shard(0);
    assert!(!world.shards[0].is_idle(), "the second waits for room");
    assert!(!world.shards[0].has_work(), "a turn gets nothing done before the checkpoint");
    world.perform_all(0, |effect| matches!(effect, StoreEffect::Checkpoint(_)));
    world.settle();
    let outcomes =
        world.replies.iter().filter(|(_, r)| matches!(r, Reply::Ok { result: Ok(()), .. }));
    assert_eq!(outcomes.count(), 2);
}

/// A row that lied about its signature is removed once, however many readers come across it.
#[test]
fn an_import_that_lied_is_removed_once() {
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 9), &verifier);
    let honest = Signer::from_seed(2).sign(&Draft::new(1, UNIX_S as u32));
    let mut parts = honest.view().parts();
    parts.sig.0[10] ^= 1;
    let client = Client { slot: 1, generation: 1 };
    world.home(0, HomeInput::Import { client, event: parts.pack(), verify: false });
    world.settle();
    for slot in 10..15 {
        let client = Client { slot, generation: 1 };
        let count = ClientMessage::Count("c".into(), vec![Filter::default()]);
        world.home(0, HomeInput::Message(client, count));
    }
    world.deliver_mail();
    world.perform_all(0, |_| true);
    world.settle();
    assert_eq!(world.shards[0].store().stats().removed, 1);
}
