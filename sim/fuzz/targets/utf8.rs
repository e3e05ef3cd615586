//! Text in pieces: valid exactly where the whole is, and refused with its first wrong byte.

pub fn run(data: &[u8]) {
    net::fuzzing::utf8(data);
}
