//! nostr-sdk, unmodified, against a relay: publish, query, live, AUTH, COUNT, delete, replace,
//! private kinds. Ends with status 0 only if every step held.

mod sync;

use anyhow::{Context, Result, bail, ensure};
use nostr_sdk::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

/// Turns a hang into a failure; not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection, with or without a key that answers AUTH challenges.
struct Connection {
    client: Client,
    relay: nostr_sdk::Relay,
}

impl Connection {
    async fn open(url: &str, keys: Option<&Keys>) -> Result<Self> {
        let client = match keys {
            Some(keys) => Client::new(keys.clone()),
            None => Client::default(),
        };
        client.automatic_authentication(keys.is_some());
        client.add_relay(url).await?;
        client.connect().await;
        client.wait_for_connection(PATIENCE).await;
        let relay = client.relay(url).await?;
        ensure!(relay.is_connected(), "no connection to {url}");
        Ok(Self { client, relay })
    }

    async fn publish(&self, event: &Event) -> Result<(), String> {
        let sent = tokio::time::timeout(PATIENCE, self.relay.send_event(event)).await;
        let sent = sent.map_err(|_| "no OK".to_owned())?;
        sent.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn accept(&self, event: &Event) -> Result<()> {
        self.publish(event).await.map_err(|reason| anyhow::anyhow!("{reason}: {event:?}"))
    }

    async fn refuse(&self, event: &Event, prefix: &str) -> Result<()> {
        match self.publish(event).await {
            Err(reason) if reason.contains(prefix) => Ok(()),
            answer => bail!("{answer:?} instead of {prefix}: {event:?}"),
        }
    }

    async fn query(&self, filter: Filter) -> Result<Vec<Event>> {
        let policy = ReqExitPolicy::ExitOnEOSE;
        Ok(self.relay.fetch_events(filter, PATIENCE, policy).await?.into_iter().collect())
    }

    async fn ids(&self, filter: Filter) -> Result<BTreeSet<EventId>> {
        Ok(self.query(filter).await?.into_iter().map(|event| event.id).collect())
    }

    async fn count(&self, filter: Filter) -> Result<usize> {
        Ok(self.relay.count_events(filter, PATIENCE).await?)
    }
}

fn sign(keys: &Keys, kind: u16, tags: &[&[&str]], content: &str, ago_s: u64) -> Result<Event> {
    let tags: Vec<Tag> =
        tags.iter().map(|tag| Tag::parse(tag.iter().copied())).collect::<Result<_, _>>()?;
    Ok(EventBuilder::new(Kind::from(kind), content)
        .tags(tags)
        .allow_self_tagging()
        .custom_created_at(Timestamp::now() - ago_s)
        .sign_with_keys(keys)?)
}

fn set(events: &[&Event]) -> BTreeSet<EventId> {
    events.iter().map(|event| event.id).collect()
}

struct Steps {
    url: String,
    anyone: Connection,
    people: Vec<Keys>,
    notes: Vec<Event>,
}

impl Steps {
    async fn publish(&mut self) -> Result<()> {
        for keys in &self.people {
            let note = sign(keys, 1, &[&["t", "hello"]], "hello \"relay\"\n漢字 🤙 \\", 0)?;
            self.anyone.accept(&note).await?;
            self.anyone.accept(&note).await.context("a duplicate is OK true")?;
            self.notes.push(note);
        }
        Ok(())
    }

    async fn query(&self) -> Result<()> {
        let all = self.anyone.ids(Filter::new().kind(Kind::TextNote).hashtag("hello")).await?;
        ensure!(all == set(&self.notes.iter().collect::<Vec<_>>()));
        let found = self.anyone.query(Filter::new().id(self.notes[1].id)).await?;
        ensure!(found == [self.notes[1].clone()], "{found:?}");
        found[0].verify()?;
        ensure!(self.anyone.query(Filter::new().kind(Kind::TextNote).limit(5)).await?.len() == 5);
        let nobody = Filter::new().author(Keys::generate().public_key());
        ensure!(self.anyone.query(nobody).await?.is_empty());
        Ok(())
    }

    async fn live(&self) -> Result<()> {
        let reader = Connection::open(&self.url, None).await?;
        let mut notifications = reader.client.notifications();
        reader.client.subscribe(Filter::new().hashtag("live"), None).await?;
        // The subscription is in place once a query behind it on the same connection is answered.
        reader.query(Filter::new().id(self.notes[0].id)).await?;
        let mut expected = BTreeSet::new();
        for keys in &self.people {
            let event = sign(keys, 1, &[&["t", "live"]], "live", 0)?;
            self.anyone.accept(&event).await?;
            expected.insert(event.id);
        }
        let mut seen = BTreeSet::new();
        while seen != expected {
            let next = tokio::time::timeout(PATIENCE, notifications.recv()).await;
            let notification = next.context("live events are missing")??;
            if let RelayPoolNotification::Event { event, .. } = notification
                && event.content == "live"
            {
                ensure!(seen.insert(event.id), "{} came twice", event.id);
            }
        }
        reader.client.shutdown().await;
        Ok(())
    }

    async fn auth(&self) -> Result<()> {
        let (alice, bob) = (&self.people[0], &self.people[1]);
        let mine = sign(alice, 1, &[&["-"]], "protected", 0)?;
        self.anyone.refuse(&mine, "auth-required: ").await?;
        let connection = Connection::open(&self.url, Some(alice)).await?;
        connection.accept(&mine).await?;
        let theirs = sign(bob, 1, &[&["-"]], "not hers to publish", 0)?;
        connection.refuse(&theirs, "restricted: ").await?;
        connection.client.shutdown().await;
        Ok(())
    }

    async fn count(&self) -> Result<()> {
        let all = Filter::new().kind(Kind::TextNote).hashtag("hello");
        ensure!(self.anyone.count(all).await? == self.people.len());
        let nobody = Filter::new().author(Keys::generate().public_key());
        ensure!(self.anyone.count(nobody).await? == 0);
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        let (bob, carol) = (&self.people[1], &self.people[2]);
        let victim = sign(bob, 1, &[], "a mistake", 0)?;
        self.anyone.accept(&victim).await?;
        let id = victim.id.to_hex();
        self.anyone.accept(&sign(carol, 5, &[&["e", &id]], "", 0)?).await?;
        ensure!(self.anyone.query(Filter::new().id(victim.id)).await?.len() == 1);
        self.anyone.accept(&sign(bob, 5, &[&["e", &id], &["k", "1"]], "", 0)?).await?;
        ensure!(self.anyone.query(Filter::new().id(victim.id)).await?.is_empty());
        self.anyone.refuse(&victim, "blocked: ").await?;
        let essay = sign(bob, 30_023, &[&["d", "essay"]], "", 10)?;
        self.anyone.accept(&essay).await?;
        let coordinate = format!("30023:{}:essay", bob.public_key());
        self.anyone.accept(&sign(bob, 5, &[&["a", &coordinate]], "", 5)?).await?;
        ensure!(self.anyone.query(Filter::new().id(essay.id)).await?.is_empty());
        Ok(())
    }

    async fn replace(&self) -> Result<()> {
        let carol = &self.people[2];
        let follows = ["p", &self.people[1].public_key().to_hex()];
        let cases: [(u16, &[&[&str]]); 3] = [(0, &[]), (3, &[&follows]), (30_023, &[&["d", "x"]])];
        for (kind, tags) in cases {
            let old = sign(carol, kind, tags, "{}", 20)?;
            let newer = sign(carol, kind, tags, "{} ", 10)?;
            let stale = sign(carol, kind, tags, "{}  ", 15)?;
            for event in [&old, &newer, &stale] {
                self.anyone.accept(event).await?;
            }
            let filter = Filter::new().kind(Kind::from(kind)).author(carol.public_key());
            ensure!(self.anyone.ids(filter).await? == set(&[&newer]), "kind {kind}");
        }
        Ok(())
    }

    async fn private_kinds(&self) -> Result<()> {
        let (alice, bob, carol) = (&self.people[0], &self.people[1], &self.people[2]);
        let sealed = nip04::encrypt(alice.secret_key(), &bob.public_key(), "for bob only")?;
        let direct = sign(alice, 4, &[&["p", &bob.public_key().to_hex()]], &sealed, 0)?;
        let wrap = EventBuilder::private_msg(alice, bob.public_key(), "sealed for bob", []).await?;
        for event in [&direct, &wrap] {
            self.anyone.accept(event).await?;
        }
        let both = Filter::new().ids([direct.id, wrap.id]);
        ensure!(self.anyone.query(both.clone()).await?.is_empty(), "ids are no way around");
        let inbox = Filter::new().kinds([Kind::from(4), Kind::GiftWrap]).pubkey(bob.public_key());
        for (keys, expected) in
            [(bob, set(&[&direct, &wrap])), (carol, set(&[])), (alice, set(&[&direct]))]
        {
            let connection = Connection::open(&self.url, Some(keys)).await?;
            // Private kinds alone make the relay ask for AUTH, which the SDK answers and retries.
            let in_inbox = connection.ids(inbox.clone()).await?;
            ensure!(in_inbox == expected, "{in_inbox:?} instead of {expected:?}");
            ensure!(connection.ids(both.clone()).await? == expected);
            ensure!(connection.count(both.clone()).await? == expected.len());
            if keys.public_key() == bob.public_key() {
                let opened = connection.client.unwrap_gift_wrap(&wrap).await?;
                ensure!(opened.rumor.content == "sealed for bob");
            }
            connection.client.shutdown().await;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("RELAY_URL").context("RELAY_URL names the relay")?;
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("sync") => return sync::client(&url).await,
        Some("relay") => return sync::relay(&url).await,
        Some(other) => bail!("no steps are called {other}"),
    }
    let anyone = Connection::open(&url, None).await?;
    let people = (0..24).map(|_| Keys::generate()).collect();
    let mut steps = Steps { url, anyone, people, notes: Vec::new() };
    steps.publish().await.context("publish")?;
    steps.query().await.context("query")?;
    steps.live().await.context("live")?;
    steps.auth().await.context("AUTH")?;
    steps.count().await.context("COUNT")?;
    steps.delete().await.context("delete")?;
    steps.replace().await.context("replace")?;
    steps.private_kinds().await.context("private kinds")?;
    steps.anyone.client.shutdown().await;
    println!("all 8 steps hold");
    Ok(())
}
