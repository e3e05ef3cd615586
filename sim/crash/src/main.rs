//! Crash proofs against the built binary and the real store.
fn main() {}
