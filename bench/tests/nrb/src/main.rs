//! nostr-relay-builder on LMDB, as its documentation starts it, with its limits lifted. Ends when its
//! standard input does, so that it never outlives whoever started it.

use nostr_lmdb::NostrLMDB;
use nostr_relay_builder::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let directory = std::env::args().nth(1).expect("usage: turnpike-bench-nrb DIRECTORY");
    let database = NostrLMDB::open(directory)?;
    let rates = RateLimit { max_reqs: 1_000_000, notes_per_minute: u32::MAX };
    let builder = RelayBuilder::default().database(database).rate_limit(rates);
    let relay = LocalRelay::new(builder);
    relay.run().await?;
    println!("listening {}", relay.url().await);
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;
    Ok(())
}
