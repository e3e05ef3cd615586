//! Frames at any cuts: no panic, and the same frames as in one piece.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| net::fuzzing::ws_frames(data));
