//! A connection after its upgrade: no panic, and the same events and answers at any cuts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| net::fuzzing::ws_conn(data));
