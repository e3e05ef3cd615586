//! A token bucket against exact arithmetic without its packing into eight bytes, and the promise in
//! the words of an operator: no more than the burst and what flowed back since.

use crate::bytes::Bytes;
use net::{Bucket, Rate};

/// The same in wide integers: what is owed, in thousandths of a token of a period.
struct Naive {
    tokens: u128,
    period_ms: u128,
    capacity: u128,
    debt: u128,
    last_ms: u64,
}

impl Naive {
    fn refill(&mut self, now_ms: u64) {
        self.debt = self.debt.saturating_sub(u128::from(now_ms - self.last_ms) * self.tokens);
        self.last_ms = now_ms;
    }

    fn take(&mut self, cost: u32, now_ms: u64) -> bool {
        if self.tokens == 0 {
            return true;
        }
        self.refill(now_ms);
        let debt = self.debt + (u128::from(cost) * self.period_ms).min(self.capacity);
        let is_payable = debt <= self.capacity;
        if is_payable {
            self.debt = debt;
        }
        is_payable
    }
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let tokens = bytes.edgy() as u32;
    let is_per_second = bytes.one_in(2);
    let rate = if is_per_second { Rate::per_second(tokens) } else { Rate::per_minute(tokens) };
    let (period_ms, burst) = if is_per_second {
        (1_000, tokens.saturating_mul(net::rate::BURST_FACTOR))
    } else {
        (60_000, tokens)
    };
    // A bucket cannot owe more than 32 bits say; a huge burst is cut to that.
    let capacity = (u128::from(burst) * period_ms).min(u128::from(u32::MAX));
    let mut now_ms = bytes.edgy() >> 1;
    let mut naive =
        Naive { tokens: u128::from(tokens), period_ms, capacity, debt: 0, last_ms: now_ms };
    let mut bucket = Bucket::default();
    let began_ms = now_ms;
    let mut spent = 0u128;
    while !bytes.is_over() {
        // Below 49 days at a time, beyond which a bucket refills a little less.
        now_ms = now_ms.saturating_add(bytes.edgy() & 0x7fff_ffff);
        match bytes.byte() % 4 {
            0 => {
                naive.refill(now_ms);
                let expected = tokens == 0 || naive.debt + period_ms <= capacity;
                assert_eq!(bucket.has_token(rate, now_ms), expected);
            }
            1 => {
                naive.refill(now_ms);
                assert_eq!(bucket.is_full(rate, now_ms), naive.debt == 0 || tokens == 0);
            }
            _ => {
                let cost = bytes.edgy() as u32;
                let is_taken = bucket.take(rate, cost, now_ms);
                assert_eq!(is_taken, naive.take(cost, now_ms), "{cost} of {rate:?} at {now_ms}");
                let charged = (u128::from(cost) * period_ms).min(capacity);
                spent += if is_taken { charged } else { 0 };
            }
        }
    }
    let flowed = u128::from(now_ms - began_ms) * u128::from(tokens);
    assert!(tokens == 0 || spent <= capacity + flowed, "more than the burst and what flowed back");
}
