//! The connections of a core without a reactor.

use super::clients::Clients;
use crate::config::Config;
use crate::runtime::reactor::Peer;
use crate::runtime::slots::SocketId;
use crate::runtime::{clock, entropy};
use crate::settings;
use net::outbox::CHUNK_BYTES;
use net::{Admission, ConnConfig, ConnCore};
use proto::verify::Secp256k1Verifier;
use proto::{Placement, Secret};
use shards::door::Asks;
use shards::home::NegConfig;
use shards::message::SUBMIT_CREDIT;
use shards::{Home, HomeConfig};

/// Clients whose outboxes may hold `outbox_bytes_max` together.
fn clients(outbox_bytes_max: usize) -> Clients {
    let config = Config::default();
    let conn_config =
        ConnConfig { outbox_total_bytes_max: outbox_bytes_max, ..ConnConfig::default() };
    let verifier = Secp256k1Verifier::new(entropy::seed(), 16);
    let net = ConnCore::new(conn_config, Box::new(verifier));
    let admission = Admission::new(settings::admission(&config, 1), entropy::seed());
    let (limits, subscriptions_max, auth_required) = settings::home_limits(&config);
    let home = Home::new(HomeConfig {
        core: 0,
        placement: Placement::even(Secret([7; 16]), 1),
        limits,
        subscriptions_max,
        auth_required,
        public_url: None,
        door: Asks::NOTHING,
        submit_credit: SUBMIT_CREDIT,
        filter_bytes_max: 1 << 20,
        neg: NegConfig::default(),
        page_bytes_max: 1 << 20,
        seed: entropy::seed(),
    });
    Clients::new(net, admission, home, settings::metrics_allow(&config), entropy::seed())
}

#[test]
fn evicting_connections_that_are_closing_already_gives_their_memory_back() {
    let mut clients = clients(CHUNK_BYTES);
    let now = clock::now();
    for index in 0..4 {
        let socket = SocketId { index, generation: 1 };
        clients.accepted(now, socket, Peer::Remote("127.0.0.1:9".parse().unwrap()));
        // Its answer is queued and its connection lingers: no Close frame can end it any more.
        clients.received(now, socket, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    assert!(clients.net.outboxes.held_bytes() >= 4 * CHUNK_BYTES);
    clients.evict();
    assert!(!clients.net.outboxes.is_over(), "{} bytes", clients.net.outboxes.held_bytes());
    assert!(clients.net.outboxes.held_bytes() > 0, "more were ended than had to be");
    assert_eq!(clients.open(), 4, "they are counted as closed when their sockets are");
}
