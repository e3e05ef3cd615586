//! The process's clocks: the only place that reads them.

use proto::Now;
use rustix::time::{ClockId, clock_gettime};

/// Both clocks of one loop turn. The monotonic one is the system's, so all threads agree.
pub fn now() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    Now { monotonic_ms: monotonic_us() / 1_000, unix_s: wall.tv_sec.max(0) as u64 }
}

/// Microseconds of the monotonic clock, for histograms.
pub fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    #[test]
    fn monotonic_time_does_not_go_back_and_wall_time_is_after_2020() {
        let first = super::now();
        let second = super::now();
        assert!(second.monotonic_ms >= first.monotonic_ms);
        assert!(first.unix_s > 1_577_836_800);
    }
}
