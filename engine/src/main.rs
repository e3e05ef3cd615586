//! The binary `turnpike`.
fn main() {}
