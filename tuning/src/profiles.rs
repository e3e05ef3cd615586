//! What of `tuning/profiles` the program carries with it.

/// The hardened unit `turnpike.service`.
pub const UNIT: &str = include_str!("../profiles/systemd/turnpike.service");
