//! The seeds of the fuzz targets of this crate, replayed without a fuzzer.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests unwrap, and read files")]

fn replay(target: &str, seeds_min: usize, run: fn(&[u8])) {
    let path = format!("{}/../sim/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let seeds = std::fs::read_dir(&path).unwrap();
    let count = seeds.map(|seed| run(&std::fs::read(seed.unwrap().path()).unwrap())).count();
    assert!(count >= seeds_min, "{count} seeds in {path}");
}

#[test]
fn ws_frames() {
    replay("ws_frames", 10, net::fuzzing::ws_frames);
}

#[test]
fn utf8() {
    replay("utf8", 20, net::fuzzing::utf8);
}

#[test]
fn ws_conn() {
    replay("ws_conn", 10, net::fuzzing::ws_conn);
}

#[test]
fn http_request() {
    replay("http_request", 5, net::fuzzing::http_request);
}

#[test]
fn inflate_limited() {
    replay("inflate_limited", 11, net::fuzzing::inflate_limited);
}
