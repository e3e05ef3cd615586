//! A connection after its upgrade: no panic, and the same events and answers at any cuts.

pub fn run(data: &[u8]) {
    net::fuzzing::ws_conn(data);
}
