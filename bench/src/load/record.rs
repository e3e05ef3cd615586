//! What was seen: counts, latency distributions and how both changed over time.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Latencies above this are recorded as this.
const LATENCY_NS_MAX: u64 = 3_600 * 1_000_000_000;
/// Significant digits of the distributions of a whole run: 0.1 %.
const DIGITS: u8 = 3;
/// Significant digits per interval, where memory counts: 1 %, about 20 KB each.
const INTERVAL_DIGITS: u8 = 2;
/// Different reasons that are told apart; further ones are counted as others.
const REASONS_MAX: usize = 32;
/// Reasons that are told apart by their whole text; after that many, by what stands before the colon:
/// some relays put an id or a number into each.
const TEXTS_MAX: usize = 16;
/// Characters of a reason that are kept.
const REASON_CHARACTERS_MAX: usize = 80;

/// A distribution of nanoseconds from 1 to an hour.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are constants")
}

fn interval_histogram() -> Histogram<u32> {
    let mut histogram = Histogram::new(INTERVAL_DIGITS).expect("the digits are a constant");
    histogram.auto(true);
    histogram
}

/// Adds `nanoseconds` to a distribution; a value beyond the bounds counts as the bound.
fn add(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram.saturating_record(nanoseconds.max(1));
}

/// Adds `nanoseconds` to an interval's distribution, which grows as far as it has to.
fn add_short(histogram: &mut Histogram<u32>, nanoseconds: u64) {
    let value = nanoseconds.clamp(1, LATENCY_NS_MAX);
    histogram.record(value).expect("the histogram resizes up to an hour");
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// How often things happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64),+ }

        impl Counts {
            /// Adds all of `other`.
            pub fn merge(&mut self, other: &Self) { $(self.$name += other.$name;)+ }

            /// What was added since `before`.
            pub fn since(&self, before: &Self) -> Self {
                Self { $($name: self.$name - before.$name),+ }
            }

            /// Names and values, in order.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }
        }
    };
}

counts! {
    /// Events sent.
    published,
    /// Events that were not sent: the relay says that it takes no message of that length.
    too_long,
    /// OK true, duplicates not among them.
    accepted,
    /// OK true with the prefix `duplicate:`.
    duplicates,
    /// OK false.
    rejected,
    /// Events and queries that had no answer when patience ended.
    unanswered,
    /// Answers lost because the connection ended before they came.
    lost,
    /// Live events received by open subscriptions.
    deliveries,
    /// Live events among them that nobody here published in this run.
    foreign,
    /// Bytes of live events.
    delivery_bytes,
    /// Queries sent.
    queries,
    /// Queries that ended with EOSE.
    answered,
    /// Stored events received.
    query_events,
    /// Bytes of their messages.
    query_bytes,
    /// Subscriptions that the relay refused or ended.
    closed,
    /// Messages for people.
    notices,
    /// Messages that are none of NIP-01's.
    malformed,
    /// Connections opened.
    connects,
    /// Attempts to connect that failed.
    connect_failures,
    /// Connections that the relay ended.
    disconnects,
    /// Verdicts and events that are not, or no longer, waited for.
    strays,
    /// Actions that this client could not buffer; any makes the run invalid.
    overflows,
    /// Bytes read from sockets.
    bytes_in,
    /// Bytes written to sockets.
    bytes_out,
}

/// What latencies are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Intended time of an event to its OK.
    PublishOk,
    /// Intended time of an event to its arrival at one subscriber.
    Delivery,
    /// Intended time of an event to its arrival at the last of its subscribers.
    LastDelivery,
    /// Intended time of a query to its EOSE.
    QueryEose,
    /// Intended time of a connection to its upgraded socket.
    Connect,
    /// Intended time of an action to when this client took it up: not the relay's, but ours.
    ClientLag,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PublishOk,
        Self::Delivery,
        Self::LastDelivery,
        Self::QueryEose,
        Self::Connect,
        Self::ClientLag,
    ];

    /// Its name in files and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::PublishOk => "publish_ok",
            Self::Delivery => "delivery",
            Self::LastDelivery => "last_delivery",
            Self::QueryEose => "query_eose",
            Self::Connect => "connect",
            Self::ClientLag => "client_lag",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::PublishOk => "publish to OK",
            Self::Delivery => "publish to delivery",
            Self::LastDelivery => "publish to last delivery",
            Self::QueryEose => "REQ to EOSE",
            Self::Connect => "connect",
            Self::ClientLag => "client lag",
        }
    }
}

/// One stretch of time.
#[derive(Clone, Debug)]
pub struct Interval {
    /// What happened in it.
    pub counts: Counts,
    /// Latencies of answers that came in it: publish-to-OK.
    pub publish_ok: Histogram<u32>,
    /// REQ-to-EOSE.
    pub query_eose: Histogram<u32>,
}

impl Interval {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            publish_ok: interval_histogram(),
            query_eose: interval_histogram(),
        }
    }
}

/// Where a client core writes down what it sees. Owned by that core; about 0.5 MB and 10 KB an
/// interval.
#[derive(Clone, Debug)]
pub struct Record {
    /// Everything from start to end.
    pub totals: Counts,
    /// What was completed in the measured window.
    pub steady: Counts,
    /// Distributions of what was intended in the measured window.
    pub histograms: BTreeMap<Metric, Histogram<u64>>,
    /// Everything, over time.
    pub intervals: Vec<Interval>,
    /// Prefixes of refusals and how often each occurred.
    pub reasons: BTreeMap<String, u64>,
    /// Length of an interval.
    pub interval_ns: u64,
    start_ns: u64,
    window_ns: (u64, u64),
    /// Totals at the last turn of the interval.
    mark: Counts,
}

impl Record {
    /// A record from `start_ns` on, whose distributions cover what is intended in `window_ns`
    /// (all times of the fleet's clock).
    pub(crate) fn new(start_ns: u64, window_ns: (u64, u64), interval_ns: u64) -> Self {
        Self {
            totals: Counts::default(),
            steady: Counts::default(),
            histograms: Metric::ALL.iter().map(|metric| (*metric, histogram())).collect(),
            intervals: vec![Interval::new()],
            reasons: BTreeMap::new(),
            interval_ns: interval_ns.max(1),
            start_ns,
            window_ns,
            mark: Counts::default(),
        }
    }

    /// Counts a latency of something intended at `intended_ns` that came about at `now_ns`.
    pub(crate) fn latency(&mut self, metric: Metric, intended_ns: u64, now_ns: u64) {
        let latency = now_ns.saturating_sub(intended_ns);
        if (self.window_ns.0..self.window_ns.1).contains(&intended_ns)
            && let Some(histogram) = self.histograms.get_mut(&metric)
        {
            add(histogram, latency);
        }
        let interval = self.intervals.last_mut().expect("there is always one");
        match metric {
            Metric::PublishOk => add_short(&mut interval.publish_ok, latency),
            Metric::QueryEose => add_short(&mut interval.query_eose, latency),
            _ => {}
        }
    }

    /// Adds an event's way to its last subscriber.
    pub(crate) fn add_last_delivery(&mut self, latency_ns: u64) {
        if let Some(histogram) = self.histograms.get_mut(&Metric::LastDelivery) {
            add(histogram, latency_ns);
        }
    }

    /// Counts why something was refused, by its text while there are few different ones, else by the
    /// part before the colon, as NIP-01 has it.
    pub(crate) fn reason(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let mut key: String = text.chars().take(REASON_CHARACTERS_MAX).collect();
        if self.reasons.len() >= TEXTS_MAX && !self.reasons.contains_key(&key) {
            key = text.split(':').next().unwrap_or_default().chars().take(40).collect();
        }
        if self.reasons.len() >= REASONS_MAX && !self.reasons.contains_key(&key) {
            "others".clone_into(&mut key);
        }
        *self.reasons.entry(key).or_default() += 1;
    }

    /// Begins new intervals as time passes; called at every turn of a core's loop.
    pub(crate) fn turn(&mut self, now_ns: u64) {
        let index = (now_ns.saturating_sub(self.start_ns) / self.interval_ns) as usize;
        while self.intervals.len() <= index {
            self.close_interval();
            self.intervals.push(Interval::new());
        }
    }

    /// Writes what happened since the last turn into the last interval, and into the steady part
    /// if the interval lies within the window.
    pub(crate) fn close_interval(&mut self) {
        let since = self.totals.since(&self.mark);
        self.mark = self.totals;
        let index = self.intervals.len() as u64 - 1;
        let from = self.start_ns + index * self.interval_ns;
        if from >= self.window_ns.0 && from + self.interval_ns <= self.window_ns.1 {
            self.steady.merge(&since);
        }
        let interval = self.intervals.last_mut().expect("there is always one");
        interval.counts.merge(&since);
    }

    /// Seconds of the intervals that lie within the window.
    pub fn steady_s(&self) -> f64 {
        let index_from = (self.window_ns.0 - self.start_ns).div_ceil(self.interval_ns);
        let index_to = (self.window_ns.1 - self.start_ns) / self.interval_ns;
        let intervals = index_to.min(self.intervals.len() as u64).saturating_sub(index_from);
        intervals as f64 * self.interval_ns as f64 / 1e9
    }

    /// Adds the record of another core of the same work.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.totals.merge(&other.totals);
        self.steady.merge(&other.steady);
        for (metric, others) in &other.histograms {
            let own = self.histograms.entry(*metric).or_insert_with(histogram);
            own.add(others).expect("all have the same bounds");
        }
        while self.intervals.len() < other.intervals.len() {
            self.intervals.push(Interval::new());
        }
        for (own, other) in self.intervals.iter_mut().zip(&other.intervals) {
            own.counts.merge(&other.counts);
            own.publish_ok.add(&other.publish_ok).expect("interval histograms resize");
            own.query_eose.add(&other.query_eose).expect("interval histograms resize");
        }
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_cover_the_window_and_intervals_cover_all() {
        let mut record = Record::new(1_000, (1_010, 1_030), 10);
        for (at, latency) in [(1_000, 5), (1_010, 7), (1_029, 9), (1_030, 11)] {
            record.turn(at + latency);
            record.totals.accepted += 1;
            record.latency(Metric::PublishOk, at, at + latency);
        }
        record.close_interval();
        let steady = &record.histograms[&Metric::PublishOk];
        assert_eq!((steady.len(), steady.min(), steady.max()), (2, 7, 9));
        let per_interval: Vec<u64> =
            record.intervals.iter().map(|interval| interval.counts.accepted).collect();
        assert_eq!(per_interval, [1, 1, 0, 1, 1]);
        let tails: Vec<u64> =
            record.intervals.iter().map(|interval| interval.publish_ok.max()).collect();
        assert_eq!(tails, [5, 7, 0, 9, 11]);
        record.latency(Metric::PublishOk, 1_000, 2_000_000_000);
        let last = &record.intervals[4].publish_ok;
        assert!(last.max() > 1_900_000_000, "{}", last.max());
        assert_eq!(record.steady.accepted, 1);
        let mut merged = record.clone();
        merged.merge(&record);
        assert_eq!(merged.histograms[&Metric::PublishOk].len(), 4);
        assert_eq!(merged.intervals[4].publish_ok.len(), 4);
        assert_eq!(merged.intervals[1].counts.accepted, 2);
    }

    #[test]
    fn reasons_are_texts_then_prefixes_and_bounded() {
        let mut record = Record::new(0, (0, 1), 1);
        record.reason(b"blocked: you");
        record.reason(b"blocked: me");
        record.reason(b"blocked: me");
        for index in 0..100 {
            record.reason(format!("invalid: event {index}").as_bytes());
        }
        assert_eq!(record.reasons["blocked: me"], 2);
        assert_eq!(record.reasons["invalid"], 100 - (TEXTS_MAX as u64 - 2));
        for index in 0..100 {
            record.reason(format!("r{index}: x").as_bytes());
        }
        assert_eq!(record.reasons.len(), REASONS_MAX + 1);
        assert_eq!(record.reasons.values().sum::<u64>(), 203);
    }
}
