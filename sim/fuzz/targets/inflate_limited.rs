//! Any bytes as a compressed message; see `net::fuzzing::inflate_limited`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| net::fuzzing::inflate_limited(data));
