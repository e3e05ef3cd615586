//! Ingest under interleavings: copies of one event with good and bad signatures, replacement and
//! deletion races, subscriptions that end.
#![allow(clippy::unwrap_used)]

mod common;

use bench::corpus::signer::{Draft, Signer};
use common::{Remembering, Setup, UNIX_S, World};
use proto::{ClientMessage, Event, Filter, Reason};
use shards::home::{HomeInput, Reply};
use shards::message::Client;

fn with_bad_signature(event: &Event) -> Event {
    let mut parts = event.view().parts();
    parts.sig.0[10] ^= 1;
    parts.pack()
}

fn outcomes(world: &mut World) -> Vec<(Client, Result<(), Reason>)> {
    let replies = std::mem::take(&mut world.replies);
    replies
        .into_iter()
        .filter_map(|(_, reply)| match reply {
            Reply::Ok { client, result, .. } => Some((client, result)),
            _ => None,
        })
        .collect()
}

fn note(signer: u64, text: &str) -> Event {
    Signer::from_seed(signer).sign(&Draft::new(1, UNIX_S as u32).content(text))
}

fn send(world: &mut World, slot: u32, event: &Event) {
    let client = Client { slot, generation: 1 };
    world.home(0, HomeInput::Message(client, ClientMessage::Event(event.clone())));
}

/// Whoever sends an id with a wrong signature first must not keep the real event out.
#[test]
fn a_bad_copy_in_flight_never_shadows_the_good_one() {
    let verifier = Remembering::new();
    for seed in 0..200 {
        let mut world = World::new(&Setup::new(1 + (seed % 3) as u16, seed), &verifier);
        let good = note(seed, "real");
        let bad = with_bad_signature(&good);
        // More copies than may wait for the first one.
        for slot in 0..12 {
            send(&mut world, slot, if slot == 7 { &good } else { &bad });
        }
        world.settle();
        let outcomes = outcomes(&mut world);
        assert_eq!(outcomes.len(), 12);
        let stored: Vec<u32> = outcomes
            .iter()
            .filter(|(_, result)| result.is_ok())
            .map(|(client, _)| client.slot)
            .collect();
        assert_eq!(stored, [7], "seed {seed}");
        for (client, result) in outcomes {
            // A bad copy that comes after the good one is durable is a duplicate by its id.
            let expected = [Err(Reason::BadSignature), Err(Reason::Duplicate)];
            assert!(client.slot == 7 || expected.contains(&result), "{result:?}");
        }
    }
}

#[test]
fn a_duplicate_is_acknowledged_only_when_the_first_is_durable() {
    let verifier = Remembering::new();
    for seed in 0..100 {
        let mut world = World::new(&Setup::new(1, seed), &verifier);
        let event = note(3, &format!("twice {seed}"));
        send(&mut world, 1, &event);
        send(&mut world, 2, &event);
        loop {
            let acknowledged = world.replies.iter().any(|(_, r)| matches!(r, Reply::Ok { .. }));
            if acknowledged {
                assert!(world.shards[0].store().durable() >= 1);
            }
            if !world.step() {
                break;
            }
        }
        let results: Vec<_> = outcomes(&mut world).into_iter().map(|(_, r)| r).collect();
        assert_eq!(results.len(), 2);
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        assert!(results.contains(&Err(Reason::Duplicate)));
    }
}

/// Two versions of a slot race through verification: the newer one stays, whatever the order.
#[test]
fn the_newer_version_of_a_slot_stays_in_every_interleaving() {
    let verifier = Remembering::new();
    for seed in 0..200 {
        let mut world = World::new(&Setup::new(2, seed), &verifier);
        let signer = Signer::from_seed(seed);
        let old = signer.sign(&Draft::new(0, UNIX_S as u32).content("old"));
        let new = signer.sign(&Draft::new(0, UNIX_S as u32 + 1).content("new"));
        let order = if seed % 2 == 0 { [&old, &new] } else { [&new, &old] };
        order.iter().enumerate().for_each(|(slot, event)| send(&mut world, slot as u32, event));
        world.settle();
        world.replies.clear();
        let filter = Filter { authors: Some(vec![signer.pubkey()]), ..Filter::default() };
        let client = Client { slot: 9, generation: 1 };
        let req = ClientMessage::Req("s".into(), vec![filter]);
        world.home(0, HomeInput::Message(client, req));
        world.settle();
        let stored: Vec<_> = world
            .replies
            .drain(..)
            .filter_map(|(_, reply)| match reply {
                Reply::Stored { event, .. } => Some(event.view().id()),
                _ => None,
            })
            .collect();
        assert_eq!(stored, [new.view().id()], "seed {seed}");
    }
}

/// A deletion that races its victim: nothing that an accepted deletion covers is served in the end.
#[test]
fn a_deletion_and_its_victim_meet_in_every_order() {
    let verifier = Remembering::new();
    for seed in 0..200 {
        let mut world = World::new(&Setup::new(3, seed), &verifier);
        let signer = Signer::from_seed(seed);
        let victim = signer.sign(&Draft::new(1, UNIX_S as u32).content("gone"));
        let id = victim.view().id().to_hex();
        let deletion = signer.sign(&Draft::new(5, UNIX_S as u32).tag(&["e", &id]));
        let foreign =
            Signer::from_seed(seed + 1000).sign(&Draft::new(5, UNIX_S as u32).tag(&["e", &id]));
        let order = if seed % 2 == 0 {
            [&foreign, &victim, &deletion]
        } else {
            [&deletion, &foreign, &victim]
        };
        order.iter().enumerate().for_each(|(slot, event)| send(&mut world, slot as u32, event));
        world.settle();
        world.replies.clear();
        send(&mut world, 5, &victim);
        world.settle();
        assert_eq!(outcomes(&mut world)[0].1, Err(Reason::Deleted), "seed {seed}");
        let filter = Filter { ids: Some(vec![victim.view().id()]), ..Filter::default() };
        let client = Client { slot: 9, generation: 1 };
        let count = ClientMessage::Count("c".into(), vec![filter]);
        world.home(0, HomeInput::Message(client, count));
        world.settle();
        let counts: Vec<u64> = world
            .replies
            .drain(..)
            .filter_map(|(_, reply)| match reply {
                Reply::Count { count, .. } => Some(count),
                _ => None,
            })
            .collect();
        assert_eq!(counts, [0], "seed {seed}");
    }
}

/// Rows imported without a look at their signatures are looked at before they are served.
#[test]
fn an_unverified_import_is_proven_before_it_is_served_and_yields_to_a_real_copy() {
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 1), &verifier);
    let client = Client { slot: 1, generation: 1 };
    let liar = with_bad_signature(&note(1, "a lie"));
    let honest = note(2, "the truth");
    let contested = note(3, "contested");
    for event in [&liar, &honest, &with_bad_signature(&contested)] {
        let event = event.clone();
        world.home(0, HomeInput::Import { client, event, verify: false });
    }
    world.settle();
    assert!(outcomes(&mut world).iter().all(|(_, result)| result.is_ok()));
    send(&mut world, 2, &contested);
    world.settle();
    assert_eq!(outcomes(&mut world)[0].1, Ok(()), "the real copy takes the place of the lie");
    let req = ClientMessage::Req("s".into(), vec![Filter::default()]);
    world.home(0, HomeInput::Message(client, req));
    world.settle();
    let mut served = Vec::new();
    for (_, reply) in world.replies.drain(..) {
        if let Reply::Stored { event, .. } = reply {
            served.push(event);
        }
    }
    served.sort_by_key(|event| event.view().id());
    let mut expected = vec![honest, contested];
    expected.sort_by_key(|event| event.view().id());
    assert_eq!(served, expected);
}

/// A forged event that would replace or delete a real one is looked at even by an import that does
/// not verify.
#[test]
fn an_unverified_import_ends_nothing_by_a_forged_signature() {
    let verifier = Remembering::new();
    let mut world = World::new(&Setup::new(1, 1), &verifier);
    let signer = Signer::from_seed(5);
    let profile = signer.sign(&Draft::new(0, UNIX_S as u32).content("mine"));
    let note = signer.sign(&Draft::new(1, UNIX_S as u32).content("mine, too"));
    let id = note.view().id().to_hex();
    let replacement = signer.sign(&Draft::new(0, UNIX_S as u32 + 5).content("forged"));
    let deletion = signer.sign(&Draft::new(5, UNIX_S as u32 + 5).tag(&["e", &id]));
    let client = Client { slot: 1, generation: 1 };
    for event in [&profile, &note] {
        send(&mut world, 1, event);
    }
    world.settle();
    world.replies.clear();
    for forged in [with_bad_signature(&replacement), with_bad_signature(&deletion)] {
        world.home(0, HomeInput::Import { client, event: forged, verify: false });
    }
    world.settle();
    for (_, result) in outcomes(&mut world) {
        assert_eq!(result, Err(Reason::BadSignature));
    }
    let req = ClientMessage::Req("s".into(), vec![Filter::default()]);
    world.home(0, HomeInput::Message(client, req));
    world.settle();
    let stored = |reply: &Reply| matches!(reply, Reply::Stored { .. });
    assert_eq!(world.replies.iter().filter(|(_, reply)| stored(reply)).count(), 2);
}

/// Everything a client opened is closed everywhere when it goes.
#[test]
fn a_client_that_goes_leaves_nothing_behind() {
    let verifier = Remembering::new();
    for seed in 0..60 {
        let mut world = World::new(&Setup::new(3, seed), &verifier);
        for number in 0..40 {
            send(&mut world, 1, &note(number, "note"));
        }
        let client = Client { slot: 8, generation: 3 };
        for sub in 0..20 {
            let filter = Filter { kinds: Some(vec![1]), limit: Some(sub), ..Filter::default() };
            let req = ClientMessage::Req(sub.to_string().into(), vec![filter]);
            world.home(1, HomeInput::Message(client, req));
            for _ in 0..seed {
                world.step();
            }
        }
        world.home(1, HomeInput::Gone(client));
        world.settle();
        assert_eq!(world.homes[1].subscriptions(), 0);
        assert_eq!(world.homes[1].page_bytes(), 0);
        assert!(!world.homes[1].has_queries(), "seed {seed}");
        assert!(world.shards.iter().all(|shard| shard.open_queries() == 0), "seed {seed}");
        assert!(world.shards.iter().all(|shard| shard.interest() == 0), "seed {seed}");
    }
}
