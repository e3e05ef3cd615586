//! nostr-sdk's own negentropy: its client against the relay under test, and its relay for the relay
//! under test to synchronise with.

use anyhow::{Context, Result, ensure};
use nostr_relay_builder::prelude::*;
use nostr_sdk::prelude::*;
use std::collections::BTreeSet;
use std::io::BufRead;
use std::sync::Arc;

/// Events that are made.
const NOTES: u64 = 600;

/// Notes of which the relay gets those that three does not divide and the other side those that four
/// does not, and private events of both.
struct World {
    at_relay: Vec<Event>,
    elsewhere: Vec<Event>,
    private: BTreeSet<EventId>,
    public: BTreeSet<EventId>,
}

fn world() -> Result<World> {
    let (mut at_relay, mut elsewhere) = (Vec::new(), Vec::new());
    let (mut private, mut public) = (BTreeSet::new(), BTreeSet::new());
    let now = Timestamp::now();
    let people: Vec<Keys> = (0..8).map(|_| Keys::generate()).collect();
    for number in 0..NOTES {
        let keys = &people[number as usize % people.len()];
        let note = EventBuilder::text_note(format!("note {number}"))
            .custom_created_at(now - 60 * number)
            .sign_with_keys(keys)?;
        public.insert(note.id);
        if number % 3 != 0 {
            at_relay.push(note.clone());
        }
        if number % 4 != 0 || number % 3 == 0 {
            elsewhere.push(note);
        }
    }
    for number in 0..10 {
        let sealed = EventBuilder::new(Kind::from(4), "cipher?iv=AA==")
            .tag(Tag::public_key(people[1].public_key()))
            .custom_created_at(now - number)
            .sign_with_keys(&people[0])?;
        private.insert(sealed.id);
        at_relay.push(sealed);
    }
    Ok(World { at_relay, elsewhere, private, public })
}

async fn publish(url: &str, events: &[Event]) -> Result<()> {
    let client = Client::default();
    client.add_relay(url).await?;
    client.connect().await;
    for event in events {
        let output = client.send_event(event).await?;
        ensure!(output.failed.is_empty(), "{output:?}");
    }
    client.shutdown().await;
    Ok(())
}

fn ids(events: impl IntoIterator<Item = Event>) -> BTreeSet<EventId> {
    events.into_iter().map(|event| event.id).collect()
}

/// `client.sync` both ways.
pub async fn client(url: &str) -> Result<()> {
    let world = world()?;
    publish(url, &world.at_relay).await?;
    let database =
        MemoryDatabase::with_opts(MemoryDatabaseOptions { events: true, max_events: None });
    let database = Arc::new(database);
    for event in &world.elsewhere {
        database.save_event(event).await?;
    }
    let client = Client::builder().database(database.clone()).build();
    client.add_relay(url).await?;
    client.connect().await;
    let both = SyncOptions::new().direction(SyncDirection::Both);
    let output = client.sync(Filter::new(), &both).await?;
    ensure!(output.failed.is_empty(), "{output:?}");
    let told: BTreeSet<EventId> = output.remote.iter().copied().collect();
    ensure!(told.is_disjoint(&world.private), "private ids are told");
    ensure!(output.send_failures.is_empty(), "{:?}", output.send_failures);
    ensure!(
        ids(database.query(Filter::new()).await?) == world.public,
        "the client lacks something"
    );
    let again = client.sync(Filter::new(), &both).await?;
    ensure!(again.local.is_empty() && again.remote.is_empty(), "{again:?}");
    client.shutdown().await;
    println!(
        "nostr-sdk sync: {} were only at the relay, {} only here",
        output.remote.len(),
        output.local.len()
    );
    Ok(())
}

/// A relay of nostr-relay-builder: prints its URL, waits for a line, and then checks what it has.
pub async fn relay(url: &str) -> Result<()> {
    let world = world()?;
    publish(url, &world.at_relay).await?;
    let database = Arc::new(MemoryDatabase::with_opts(MemoryDatabaseOptions {
        events: true,
        max_events: None,
    }));
    for event in &world.elsewhere {
        database.save_event(event).await?;
    }
    let builder = RelayBuilder::default().database(database.clone());
    // Its usual sixty a minute would be waited for.
    let rates = RateLimit { max_reqs: 10_000, notes_per_minute: 1_000_000 };
    let relay = LocalRelay::new(builder.rate_limit(rates));
    relay.run().await?;
    println!("listening {}", relay.url().await);
    let mut line = String::new();
    tokio::task::spawn_blocking(move || std::io::stdin().lock().read_line(&mut line)).await??;
    let found = ids(database.query(Filter::new()).await?);
    ensure!(found == world.public, "{} events instead of {}", found.len(), world.public.len());
    let check = Client::default();
    check.add_relay(url).await?;
    check.connect().await;
    check.wait_for_connection(std::time::Duration::from_secs(60)).await;
    let mut at_relay = BTreeSet::new();
    // A fetch of nostr-sdk that meets the news of its own connection ends without the events that the
    // relay has sent, so what is missing is asked for again.
    for _ in 0..3 {
        let missing: Vec<EventId> = world.public.difference(&at_relay).copied().collect();
        for batch in missing.chunks(100) {
            let filter = Filter::new().ids(batch.iter().copied());
            let events = check.fetch_events(filter, std::time::Duration::from_secs(60)).await;
            at_relay.extend(ids(events.context("the relay under test answers")?));
        }
    }
    ensure!(at_relay == world.public, "{} at the relay under test", at_relay.len());
    check.shutdown().await;
    println!("both relays have all {} public events", world.public.len());
    Ok(())
}
