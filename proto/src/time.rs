//! Time as an argument. `proto` and everything above it but the engine's runtime has no clock.

/// The two clocks of one loop turn, read once by the runtime and handed down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back; its zero means nothing.
    pub monotonic_ms: u64,
    /// Wall clock, seconds since 1970; it may jump in either direction.
    pub unix_s: u64,
}
