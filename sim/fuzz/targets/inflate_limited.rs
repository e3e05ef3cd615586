//! Any bytes as a compressed message; see `net::fuzzing::inflate_limited`.

pub fn run(data: &[u8]) {
    net::fuzzing::inflate_limited(data);
}
