//! Request heads, PROXY headers included: no panic, and the same answer at any cuts.

pub fn run(data: &[u8]) {
    net::fuzzing::http_request(data);
}
