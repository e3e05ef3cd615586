//! What the clients do, and when they mean to do it. A plan is a function of its numbers and a
//! seed: whoever runs it, with however many threads, intends the same actions at the same times.

use crate::rng::Rng;

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// One thing that one connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// When it is meant to happen, nanoseconds after the start of the work.
    pub at_ns: u64,
    /// Which connection does it.
    pub connection: u32,
    /// What it does.
    pub op: Op,
}

/// What a connection can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opens the connection.
    Connect,
    /// Sends the event with this index among the frames.
    Publish(u32),
    /// Sends the request with this index, takes what is stored, and closes it at EOSE.
    Query(u32),
    /// Sends the request with this index and leaves it open; it is sent again after a reconnect.
    Subscribe(u32),
    /// Closes the connection, and opens another with the same subscriptions.
    Reconnect,
    /// Closes the connection for good, or until something else is to be sent over it.
    Disconnect,
}

/// A rate that rises, stays and falls: linear from 0 to `per_s` in the ramp, then level, then down
/// to 0 again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Arrivals per second at the level.
    pub per_s: f64,
    /// Rise.
    pub ramp_ns: u64,
    /// Level.
    pub steady_ns: u64,
    /// Fall.
    pub drop_ns: u64,
}

impl Rate {
    /// The same rate from start to end.
    pub fn level(per_s: f64, for_ns: u64) -> Self {
        Self { per_s, ramp_ns: 0, steady_ns: for_ns, drop_ns: 0 }
    }

    /// From the first to the last arrival.
    pub fn duration_ns(&self) -> u64 {
        self.ramp_ns + self.steady_ns + self.drop_ns
    }

    /// Arrivals in all.
    pub fn count(&self) -> u64 {
        (self.area(self.duration_ns() as f64) + 1e-6) as u64
    }

    /// Arrivals until `at_ns`.
    fn area(&self, at_ns: f64) -> f64 {
        let (ramp, steady, drop) =
            (self.ramp_ns as f64, self.steady_ns as f64, self.drop_ns as f64);
        let per_ns = self.per_s / SECOND_NS as f64;
        let in_ramp = at_ns.min(ramp);
        let mut area = if ramp > 0.0 { in_ramp * in_ramp / (2.0 * ramp) } else { 0.0 };
        area += (at_ns - ramp).clamp(0.0, steady);
        let in_drop = (at_ns - ramp - steady).clamp(0.0, drop);
        if drop > 0.0 {
            area += in_drop - in_drop * in_drop / (2.0 * drop);
        }
        area * per_ns
    }

    /// When `area` arrivals are due: the inverse of [`Rate::area`]. Only the four operations and
    /// the square root, which IEEE 754 rounds the same everywhere.
    fn time_of(&self, area: f64) -> u64 {
        let (ramp, steady, drop) =
            (self.ramp_ns as f64, self.steady_ns as f64, self.drop_ns as f64);
        let mut left = area * SECOND_NS as f64 / self.per_s;
        if left < ramp / 2.0 {
            return (2.0 * ramp * left).sqrt() as u64;
        }
        left -= ramp / 2.0;
        if left <= steady || drop == 0.0 {
            return (ramp + left) as u64;
        }
        left -= steady;
        let rest = (drop * drop - 2.0 * drop * left).max(0.0);
        (ramp + steady + drop - rest.sqrt()) as u64
    }
}

/// Arrival times of a [`Rate`]: one in each equal share of the load, at a random point of it. So
/// the rate is exact over any stretch and the gaps are irregular, as those of independent clients
/// are.
#[derive(Clone, Debug)]
pub struct Arrivals {
    rate: Rate,
    start_ns: u64,
    rng: Rng,
    index: u64,
    count: u64,
}

impl Arrivals {
    /// The arrivals of `rate`, from `start_ns` on.
    pub fn new(seed: u64, start_ns: u64, rate: Rate) -> Self {
        let count = if rate.per_s > 0.0 { rate.count() } else { 0 };
        Self { rate, start_ns, rng: Rng::new(seed), index: 0, count }
    }

    /// Arrivals to come.
    pub fn remaining(&self) -> u64 {
        self.count - self.index
    }
}

impl Iterator for Arrivals {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.index == self.count {
            return None;
        }
        // 53 bits are what a double holds exactly.
        let within = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let at = self.rate.time_of(self.index as f64 + within);
        self.index += 1;
        Some(self.start_ns + at)
    }
}

/// A stream of actions in order of time.
pub type Actions = Box<dyn Iterator<Item = Action> + Send>;

/// Makes the same stream of actions as often as it is asked; each client core asks once and takes
/// the actions of its own connections.
pub type Plan = std::sync::Arc<dyn Fn() -> Actions + Send + Sync>;

/// Several streams as one, in order of time; of equal times the earlier stream goes first.
pub struct Merged {
    streams: Vec<std::iter::Peekable<Actions>>,
}

impl Merged {
    /// Merges `streams`.
    pub fn new(streams: Vec<Actions>) -> Self {
        Self { streams: streams.into_iter().map(Iterator::peekable).collect() }
    }
}

impl Iterator for Merged {
    type Item = Action;

    fn next(&mut self) -> Option<Action> {
        let mut first: Option<(usize, u64)> = None;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            if let Some(action) = stream.peek()
                && first.is_none_or(|(_, at)| action.at_ns < at)
            {
                first = Some((index, action.at_ns));
            }
        }
        self.streams[first?.0].next()
    }
}

/// A number that stands for every action of `actions`: equal plans have equal digests.
pub fn digest(actions: impl Iterator<Item = Action>) -> u64 {
    let mut crc = [0_u32, u32::MAX];
    for action in actions {
        let (op, index) = match action.op {
            Op::Publish(index) => (0_u32, index),
            Op::Query(index) => (1, index),
            Op::Subscribe(index) => (2, index),
            Op::Reconnect => (3, 0),
            Op::Disconnect => (4, 0),
            Op::Connect => (5, 0),
        };
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&action.at_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&action.connection.to_le_bytes());
        bytes[12..16].copy_from_slice(&op.to_le_bytes());
        bytes[16..].copy_from_slice(&index.to_le_bytes());
        crc[0] = crc32c::crc32c_append(crc[0], &bytes);
        // The second half is fed its own state, so that the two do not cancel out together.
        crc[1] = crc32c::crc32c_append(crc[1].rotate_left(7), &bytes[..12]);
    }
    (u64::from(crc[1]) << 32) | u64::from(crc[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_stays_and_falls() {
        let rate = Rate {
            per_s: 100.0,
            ramp_ns: 2 * SECOND_NS,
            steady_ns: 10 * SECOND_NS,
            drop_ns: SECOND_NS,
        };
        assert_eq!(rate.count(), 100 + 1_000 + 50);
        let times: Vec<u64> = Arrivals::new(3, 0, rate).collect();
        assert_eq!(times.len(), 1_150);
        assert!(times.is_sorted());
        assert!(*times.last().unwrap() <= rate.duration_ns());
        let within = |from: u64, to: u64| {
            times.iter().filter(|at| (from * SECOND_NS..to * SECOND_NS).contains(at)).count()
        };
        // A quarter of the ramp's arrivals come in its first half.
        assert!((24..=26).contains(&within(0, 1)), "{}", within(0, 1));
        for second in 2..12 {
            assert!((99..=101).contains(&within(second, second + 1)));
        }
    }

    #[test]
    fn streams_merge_in_order_of_time() {
        let stream = |connection: u32, times: Vec<u64>| -> Actions {
            Box::new(times.into_iter().map(move |at_ns| Action {
                at_ns,
                connection,
                op: Op::Reconnect,
            }))
        };
        let merged: Vec<(u64, u32)> =
            Merged::new(vec![stream(0, vec![1, 5, 9]), stream(1, vec![2, 5]), stream(2, vec![])])
                .map(|action| (action.at_ns, action.connection))
                .collect();
        assert_eq!(merged, [(1, 0), (2, 1), (5, 0), (5, 1), (9, 0)]);
    }

    #[test]
    fn a_digest_tells_plans_apart() {
        let plan = |seed| {
            Arrivals::new(seed, 0, Rate::level(50.0, SECOND_NS)).map(|at_ns| Action {
                at_ns,
                connection: 0,
                op: Op::Publish(0),
            })
        };
        assert_eq!(digest(plan(1)), digest(plan(1)));
        assert_ne!(digest(plan(1)), digest(plan(2)));
        assert_ne!(digest(plan(1).skip(1)), digest(plan(1)));
    }
}
