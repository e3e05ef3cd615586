//! Request heads, PROXY headers included: no panic, and the same answer at any cuts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| net::fuzzing::http_request(data));
