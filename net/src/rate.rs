//! Integer token buckets, owned by one core each, eight bytes per bucket.

/// Burst of a per-second rate, as a multiple of the rate.
pub const BURST_FACTOR: u32 = 10;

/// How many tokens flow in, and how many can be saved up. The rate itself is configuration; the
/// state is in [`Bucket`], so a reload changes every bucket at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    tokens: u32,
    period_ms: u32,
    burst: u32,
}

impl Rate {
    /// No limit.
    pub const OFF: Self = Self { tokens: 0, period_ms: 1, burst: 0 };

    /// `tokens` a second with a burst of ten times that; 0 switches the limit off.
    pub const fn per_second(tokens: u32) -> Self {
        Self { tokens, period_ms: 1_000, burst: tokens.saturating_mul(BURST_FACTOR) }
    }

    /// `tokens` a minute, all of which may come at once; 0 switches the limit off.
    pub const fn per_minute(tokens: u32) -> Self {
        Self { tokens, period_ms: 60_000, burst: tokens }
    }

    /// Whether there is no limit.
    pub const fn is_off(self) -> bool {
        self.tokens == 0
    }

    /// Units of one token. Counting in tokens times milliseconds keeps the arithmetic exact.
    fn units(self, tokens: u32) -> u64 {
        u64::from(tokens) * u64::from(self.period_ms)
    }

    fn capacity(self) -> u64 {
        self.units(self.burst).min(u64::from(u32::MAX))
    }
}

/// What has been spent and not yet flowed back. The default is a full bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    debt: u32,
    /// Low half of the monotonic clock. It wraps after 49 days; a bucket untouched for that long
    /// merely refills a little less.
    stamp_ms: u32,
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now_ms: u64) {
        let stamp_ms = now_ms as u32;
        let elapsed_ms = stamp_ms.wrapping_sub(self.stamp_ms);
        let back = u64::from(elapsed_ms) * u64::from(rate.tokens);
        self.debt = u64::from(self.debt).saturating_sub(back) as u32;
        self.stamp_ms = stamp_ms;
    }

    /// Takes `cost` tokens, or none and says `false`. A cost above the burst is charged as the
    /// whole burst, otherwise it could never be paid.
    pub fn take(&mut self, rate: Rate, cost: u32, now_ms: u64) -> bool {
        if rate.is_off() {
            return true;
        }
        self.refill(rate, now_ms);
        let debt = u64::from(self.debt) + rate.units(cost).min(rate.capacity());
        if debt > rate.capacity() {
            return false;
        }
        self.debt = debt as u32;
        true
    }

    /// Whether one token is there.
    pub fn has_token(&mut self, rate: Rate, now_ms: u64) -> bool {
        if rate.is_off() {
            return true;
        }
        self.refill(rate, now_ms);
        u64::from(self.debt) + rate.units(1) <= rate.capacity()
    }

    /// Whether the bucket is full, so that forgetting it changes nothing.
    pub fn is_full(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.refill(rate, now_ms);
        self.debt == 0 || rate.is_off()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::per_second(5);
        let mut bucket = Bucket::default();
        let now_ms = 1_000_000;
        assert_eq!((0..100).filter(|_| bucket.take(rate, 1, now_ms)).count(), 50);
        assert!(!bucket.has_token(rate, now_ms + 199));
        assert!(bucket.has_token(rate, now_ms + 200));
        let later = now_ms + 1_000;
        assert_eq!((0..100).filter(|_| bucket.take(rate, 1, later)).count(), 5);
        assert!(!bucket.is_full(rate, later + 9_999));
        assert!(bucket.is_full(rate, later + 10_000));
    }

    #[test]
    fn twenty_a_minute() {
        let rate = Rate::per_minute(20);
        let mut bucket = Bucket::default();
        assert_eq!((0..30).filter(|_| bucket.take(rate, 1, 7)).count(), 20);
        assert!(!bucket.take(rate, 1, 7 + 2_999));
        assert!(bucket.take(rate, 1, 7 + 3_000));
    }

    #[test]
    fn zero_is_off_and_large_costs_are_payable_once() {
        let mut bucket = Bucket::default();
        assert!((0..1_000_000).all(|_| bucket.take(Rate::per_second(0), 1, 0)));
        let rate = Rate::per_second(2);
        assert!(bucket.take(rate, 1_000, 0), "charged as the whole burst");
        assert!(!bucket.take(rate, 1, 0));
        assert!(bucket.take(rate, 1, 500));
    }

    #[test]
    fn the_clock_may_wrap_and_rates_may_be_huge() {
        let rate = Rate::per_second(u32::MAX);
        let mut bucket = Bucket::default();
        assert!(bucket.take(rate, u32::MAX, u64::from(u32::MAX) - 1));
        assert!(bucket.take(rate, 1, u64::from(u32::MAX) + 5));
    }
}
