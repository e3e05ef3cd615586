//! The connections of a core without a reactor.

use crate::{Clients, Peer, SocketId};
use net::outbox::CHUNK_BYTES;
use net::{Admission, AdmissionConfig, ConnConfig, ConnCore, TrustedProxies};
use proto::verify::Secp256k1Verifier;
use proto::{Limits, Now, Placement, Secret, SeededState};
use shards::door::Asks;
use shards::home::NegConfig;
use shards::message::SUBMIT_CREDIT;
use shards::{Home, HomeConfig};

/// Clients whose outboxes may hold `outbox_bytes_max` together.
fn clients(outbox_bytes_max: usize) -> Clients {
    let seed = SeededState::new(Secret([5; 16]));
    let conn_config =
        ConnConfig { outbox_total_bytes_max: outbox_bytes_max, ..ConnConfig::default() };
    let verifier = Secp256k1Verifier::new(seed, 16);
    let net = ConnCore::new(conn_config, Box::new(verifier));
    let admission = Admission::new(AdmissionConfig::default(), seed);
    let home = Home::new(HomeConfig {
        core: 0,
        placement: Placement::even(Secret([7; 16]), 1),
        limits: Limits::default(),
        subscriptions_max: 100,
        auth_required: false,
        public_url: None,
        door: Asks::NOTHING,
        submit_credit: SUBMIT_CREDIT,
        query_slots: shards::message::QUERY_SLOTS,
        filter_bytes_max: 1 << 20,
        neg: NegConfig::default(),
        page_bytes_max: 1 << 20,
        seed,
    });
    Clients::new((net, admission, home), TrustedProxies::default(), seed, || 0)
}

#[test]
fn evicting_connections_that_are_closing_already_gives_their_memory_back() {
    let mut clients = clients(CHUNK_BYTES);
    let now = Now { monotonic_ms: 1_000, unix_s: 1_750_000_000 };
    for index in 0..4 {
        let socket = SocketId { index, generation: 1 };
        clients.accepted(now, socket, Peer::Remote("127.0.0.1:9".parse().unwrap()), [7; 16]);
        // Its answer is queued and its connection lingers: no Close frame can end it any more.
        clients.received(now, socket, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    assert!(clients.net.outboxes.held_bytes() >= 4 * CHUNK_BYTES);
    clients.evict();
    assert!(!clients.net.outboxes.is_over(), "{} bytes", clients.net.outboxes.held_bytes());
    assert!(clients.net.outboxes.held_bytes() > 0, "more were ended than had to be");
    assert_eq!(clients.open(), 4, "they are counted as closed when their sockets are");
}
