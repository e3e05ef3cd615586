//! Frames at any cuts: no panic, and the same frames as in one piece.

pub fn run(data: &[u8]) {
    net::fuzzing::ws_frames(data);
}
