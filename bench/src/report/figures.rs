//! Figures: every number that is compared, bounded or shown, by name, computed in one place.

use super::{Distribution, Point, Run, ServerPoint};
use crate::load::{CoreUse, Metric, Outcome, SECOND_NS, Sample};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Points of a curve per factor of ten in the number of values above.
const POINTS_PER_NINE: u32 = 16;
/// A client core busier than this was the bottleneck.
const CLIENT_BUSY_MAX: f64 = 0.90;
/// Lag of the client, at 99 %, beyond which latencies say more about it than about the relay.
const CLIENT_LAG_MAX_MS: f64 = 20.0;
/// The same where latencies are short: a lag above this may not be more than a quarter of them.
const CLIENT_LAG_SMALL_MS: f64 = 5.0;
/// Quantiles with a figure of their own.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)];

/// What the figures are computed from.
pub struct Material<'a> {
    /// What the fleet saw under load.
    pub outcome: &'a Outcome,
    /// What it saw while it connected.
    pub connecting: &'a Outcome,
    /// Samples of the relay's process and when they were taken, seconds after the load's start.
    pub samples: &'a [(f64, Sample)],
    /// Before the first connection, and when all were open and subscribed.
    pub idle: Option<(Sample, Sample)>,
    /// Connections.
    pub connections: u32,
    /// The level, seconds after the load's start.
    pub window_s: (f64, f64),
    /// A spike, seconds after the load's start.
    pub burst_s: Option<(f64, f64)>,
    /// Refusals that a correct relay makes.
    pub refusals: u64,
}

/// The run that `material` amounts to, without relay and repetition.
pub fn compute(material: &Material<'_>) -> Run {
    let record = &material.outcome.record;
    let mut run = Run {
        counts: record.totals.rows().into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
        interval_s: record.interval_ns as f64 / SECOND_NS as f64,
        reasons: record.reasons.clone(),
        ..Run::default()
    };
    for metric in Metric::ALL {
        // New connections of the load itself (churn) count; else those that opened the fleet.
        let mut histogram = &record.histograms[&metric];
        if metric == Metric::Connect && histogram.is_empty() {
            histogram = &material.connecting.record.histograms[&metric];
        }
        if !histogram.is_empty() {
            run.distributions.insert(metric.name().to_owned(), distribution(histogram));
            for (name, quantile) in QUANTILES {
                let ms = histogram.value_at_quantile(quantile) as f64 / 1e6;
                run.figures.insert(format!("{}_{name}_ms", metric.name()), ms);
            }
            let max = histogram.max() as f64 / 1e6;
            run.figures.insert(format!("{}_max_ms", metric.name()), max);
        }
    }
    run.intervals = record
        .intervals
        .iter()
        .map(|interval| Point {
            published: interval.counts.published,
            answers: interval.counts.accepted
                + interval.counts.duplicates
                + interval.counts.rejected,
            answered: interval.counts.answered,
            deliveries: interval.counts.deliveries,
            query_events: interval.counts.query_events,
            ok_p50_ns: interval.publish_ok.value_at_quantile(0.5),
            ok_p99_ns: interval.publish_ok.value_at_quantile(0.99),
            eose_p50_ns: interval.query_eose.value_at_quantile(0.5),
            eose_p99_ns: interval.query_eose.value_at_quantile(0.99),
        })
        .collect();
    rates(material, &mut run);
    server(material, &mut run);
    run.figures.insert("client_busy_percent".into(), material.outcome.client_busy() * 100.0);
    let waits = material.outcome.cores.iter().map(CoreUse::waiting);
    run.figures.insert("client_wait_percent".into(), waits.fold(0.0, f64::max) * 100.0);
    run.invalid = invalid(&run);
    run
}

fn rates(material: &Material<'_>, run: &mut Run) {
    let record = &material.outcome.record;
    let (steady, totals) = (&record.steady, &record.totals);
    let seconds = record.steady_s();
    let mut add = |name: &str, value: f64| run.figures.insert(name.to_owned(), value);
    if seconds > 0.0 {
        let per_s = |count: u64| count as f64 / seconds;
        let mbps = |bytes: u64| bytes as f64 * 8.0 / 1e6 / seconds;
        let answers = steady.accepted + steady.duplicates + steady.rejected;
        if totals.published > 0 {
            add("published_per_s", per_s(steady.published));
            add("accepted_per_s", per_s(steady.accepted));
            add("publish_mbps", mbps(steady.bytes_out));
        }
        if totals.queries > 0 && totals.query_events > 0 {
            add("queries_per_s", per_s(steady.answered));
            add("query_events_per_s", per_s(steady.query_events));
            add("query_mbps", mbps(steady.query_bytes));
        }
        if totals.deliveries > 0 {
            add("deliveries_per_s", per_s(steady.deliveries));
            let kb = steady.delivery_bytes as f64 / 1e3 / steady.published.max(1) as f64;
            add("delivery_kb_per_event", kb);
        }
        add("operations_per_s", per_s(answers + steady.answered));
    }
    let intervals = &record.intervals;
    let peak = intervals.iter().map(|interval| interval.counts.accepted).max().unwrap_or(0);
    if totals.published > 0 {
        add("peak_accepted_per_s", peak as f64 * SECOND_NS as f64 / record.interval_ns as f64);
    }
    let unexpected = totals.rejected.saturating_sub(material.refusals);
    let failed = unexpected
        + totals.unanswered
        + totals.lost
        + totals.overflows
        + totals.closed
        + totals.connect_failures
        + material.connecting.record.totals.connect_failures;
    let attempts = (totals.published + totals.queries).max(1);
    add("error_percent", failed as f64 * 100.0 / attempts as f64);
    if let Some(burst_s) = material.burst_s {
        let recovery = recovery_s(&run.intervals, run.interval_s, material.window_s.0, burst_s);
        run.figures.insert("recovery_s".to_owned(), recovery);
    }
}

/// Seconds without a slow one after which what follows is not of a spike's making.
const CALM_S: f64 = 5.0;

/// Seconds from the end of a spike until the tail is what it was before: at most twice that, or 20
/// ms more.
fn recovery_s(points: &[Point], interval_s: f64, from_s: f64, burst_s: (f64, f64)) -> f64 {
    let begin = |index: usize| index as f64 * interval_s;
    let mut before: Vec<u64> = points
        .iter()
        .enumerate()
        .filter(|(index, _)| begin(*index) >= from_s && begin(index + 1) <= burst_s.0)
        .map(|(_, point)| point.ok_p99_ns)
        .collect();
    before.sort_unstable();
    let usual = before.get(before.len() / 2).copied().unwrap_or(0);
    let bound = (usual * 2).max(usual + 20_000_000);
    let slow = points.iter().enumerate().filter(|(_, point)| point.ok_p99_ns > bound);
    let mut slow_until_s = burst_s.1;
    for end_s in slow.map(|(index, _)| begin(index + 1)).filter(|end_s| *end_s > burst_s.1) {
        if end_s - interval_s > slow_until_s + CALM_S {
            break;
        }
        slow_until_s = end_s;
    }
    slow_until_s - burst_s.1
}

fn server(material: &Material<'_>, run: &mut Run) {
    for pair in material.samples.windows(2) {
        let [(from_s, before), (at_s, after)] = pair else { continue };
        let seconds = (at_s - from_s).max(1e-3);
        run.server.push(ServerPoint {
            at_s: *at_s,
            cpu_percent: after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e7 / seconds,
            rss_bytes: after.rss_bytes,
            fds: after.fds,
            disk_write_per_s: after.disk_write_bytes.saturating_sub(before.disk_write_bytes) as f64
                / seconds,
            disk_read_per_s: after.disk_read_bytes.saturating_sub(before.disk_read_bytes) as f64
                / seconds,
            net_out_per_s: after.net_out_bytes.saturating_sub(before.net_out_bytes) as f64
                / seconds,
        });
    }
    let within = |sample: &&(f64, Sample)| {
        sample.0 >= material.window_s.0 - 0.02 && sample.0 <= material.window_s.1 + 0.1
    };
    let mut level = material.samples.iter().filter(within);
    let (Some((from_s, first)), Some((to_s, last))) = (level.next(), level.next_back()) else {
        return;
    };
    let seconds = (to_s - from_s).max(1e-3);
    let mut add = |name: &str, value: f64| run.figures.insert(name.to_owned(), value);
    let cpu_ns = last.cpu_ns.saturating_sub(first.cpu_ns) as f64;
    add("server_cpu_percent", cpu_ns / 1e7 / seconds);
    let record = &material.outcome.record;
    let per = |count: u64| -> Option<f64> {
        let rate = count as f64 / record.steady_s();
        (count > 0 && rate.is_finite()).then(|| cpu_ns / 1e3 / seconds / rate)
    };
    let steady = &record.steady;
    let answers = steady.accepted + steady.duplicates + steady.rejected;
    if let Some(us) = per(answers + steady.answered) {
        add("server_cpu_us_per_operation", us);
    }
    if let Some(us) = per(steady.deliveries) {
        add("server_cpu_us_per_delivery", us);
    }
    let rss = material.samples.iter().map(|(_, sample)| sample.rss_bytes).max().unwrap_or(0);
    add("server_rss_mib", rss as f64 / f64::from(1 << 20));
    let fds = material.samples.iter().map(|(_, sample)| sample.fds).max().unwrap_or(0);
    add("server_fds", fds as f64);
    let written = last.disk_write_bytes.saturating_sub(first.disk_write_bytes) as f64;
    add("server_disk_write_mb_per_s", written / 1e6 / seconds);
    if let Some((before, open)) = &material.idle {
        let grown = open.rss_bytes.saturating_sub(before.rss_bytes) as f64;
        add("server_kib_per_connection", grown / 1_024.0 / f64::from(material.connections.max(1)));
    }
    run.threads = last
        .threads_since(first)
        .into_iter()
        .map(|(name, ns)| (name, ns as f64 / 1e7 / seconds))
        .filter(|(_, percent)| *percent >= 0.05)
        .collect();
}

fn distribution(histogram: &Histogram<u64>) -> Distribution {
    let count = histogram.len();
    let mut curve = Vec::new();
    for step in 0.. {
        let tail = 10_f64.powf(-f64::from(step) / f64::from(POINTS_PER_NINE));
        if tail * (count as f64) < 1.0 {
            break;
        }
        let quantile = 1.0 - tail;
        curve.push((quantile, histogram.value_at_quantile(quantile)));
    }
    curve.push((1.0, histogram.max()));
    Distribution {
        count,
        min_ns: histogram.min(),
        mean_ns: histogram.mean(),
        max_ns: histogram.max(),
        curve,
    }
}

/// Why a run says more about the client than about the relay.
fn invalid(run: &Run) -> Vec<String> {
    let figure = |name: &str| run.figures.get(name).copied();
    let mut reasons = Vec::new();
    let busy = figure("client_busy_percent").unwrap_or(0.0);
    if busy > CLIENT_BUSY_MAX * 100.0 {
        reasons.push(format!("a client core computed {busy:.0} % of the time"));
    }
    let lag = figure("client_lag_p99_ms").unwrap_or(0.0);
    let latencies = ["publish_ok_p99_ms", "query_eose_p99_ms"].map(figure);
    let shortest = latencies.into_iter().flatten().fold(f64::INFINITY, f64::min);
    if lag > CLIENT_LAG_MAX_MS && lag > shortest / 10.0
        || lag > CLIENT_LAG_SMALL_MS && lag > shortest / 4.0
    {
        reasons.push(format!("the client was {lag:.1} ms late for its own plan (99 %)"));
    }
    if run.counts.get("overflows").is_some_and(|overflows| *overflows > 0) {
        reasons.push("the client had no room for what the relay did not take".to_owned());
    }
    reasons
}

/// Whether a figure is a rate of load, whose lower bounds shrink with the load.
pub fn is_rate(figure: &str) -> bool {
    figure.ends_with("_per_s") || figure.ends_with("_mbps")
}

/// Whether less of it is better; `None` where it is neither.
pub fn less_is_better(figure: &str) -> Option<bool> {
    if figure.starts_with("client_")
        || matches!(
            figure,
            "published_per_s" | "publish_mbps" | "delivery_kb_per_event" | "server_fds"
        )
    {
        return None;
    }
    Some(!is_rate(figure) || figure.starts_with("server_disk"))
}

/// Where a figure stands in tables, and its name to break ties.
pub fn order(figure: &str) -> (usize, usize, String) {
    const GROUPS: [&str; 10] = [
        "publish_ok",
        "query_eose",
        "last_delivery",
        "delivery",
        "connect",
        "recovery",
        "error",
        "server",
        "client_lag",
        "client",
    ];
    const WITHIN: [&str; 5] = ["_p50_", "_p95_", "_p99_", "_p999_", "_max_"];
    // Rates come first.
    let group =
        if is_rate(figure) && !figure.starts_with("server") || figure == "delivery_kb_per_event" {
            0
        } else {
            1 + GROUPS.iter().position(|prefix| figure.starts_with(prefix)).unwrap_or(GROUPS.len())
        };
    let within = WITHIN.iter().position(|part| figure.contains(part)).unwrap_or(0);
    (group, within, figure.to_owned())
}

/// A figure's name for people, and its unit.
pub fn title(figure: &str) -> (String, &'static str) {
    let known = [
        ("published_per_s", "events sent", "/s"),
        ("accepted_per_s", "events accepted", "/s"),
        ("peak_accepted_per_s", "events accepted, best second", "/s"),
        ("operations_per_s", "answers of all kinds", "/s"),
        ("queries_per_s", "queries answered", "/s"),
        ("query_events_per_s", "stored events received", "/s"),
        ("query_mbps", "stored events received", "Mbit/s"),
        ("publish_mbps", "sent to the relay", "Mbit/s"),
        ("deliveries_per_s", "live events delivered", "/s"),
        ("delivery_kb_per_event", "delivered per event", "KB"),
        ("error_percent", "errors", "%"),
        ("recovery_s", "recovery after the burst", "s"),
        ("preload_missing", "events of the preload that were never answered", ""),
        ("server_cpu_percent", "relay CPU", "% of a core"),
        ("server_cpu_us_per_operation", "relay CPU per answer", "µs"),
        ("server_cpu_us_per_delivery", "relay CPU per delivery", "µs"),
        ("server_rss_mib", "relay memory, most", "MiB"),
        ("server_fds", "relay open files, most", ""),
        ("server_disk_write_mb_per_s", "relay disk writes", "MB/s"),
        ("server_kib_per_connection", "relay memory per connection", "KiB"),
        ("client_busy_percent", "client CPU, busiest core", "%"),
        ("client_wait_percent", "client waited for a CPU, worst core", "%"),
    ];
    if let Some((_, title, unit)) = known.iter().find(|(name, ..)| *name == figure) {
        return ((*title).to_owned(), unit);
    }
    for metric in Metric::ALL {
        let rest = figure.strip_prefix(metric.name()).and_then(|rest| rest.strip_prefix('_'));
        let quantile = match rest {
            Some("p50_ms") => "p50",
            Some("p95_ms") => "p95",
            Some("p99_ms") => "p99",
            Some("p999_ms") => "p99.9",
            Some("max_ms") => "max",
            _ => continue,
        };
        return (format!("{}, {quantile}", metric.title()), "ms");
    }
    (figure.to_owned(), "")
}

/// The distributions of several runs as one, by metric.
pub fn merge_histograms<'a>(
    all: impl IntoIterator<Item = &'a BTreeMap<Metric, Histogram<u64>>>,
) -> BTreeMap<Metric, Histogram<u64>> {
    let mut merged: BTreeMap<Metric, Histogram<u64>> = BTreeMap::new();
    for histograms in all {
        for (metric, histogram) in histograms {
            let own = merged.entry(*metric).or_insert_with(crate::load::histogram);
            own.add(histogram).expect("all have the same bounds");
        }
    }
    merged.retain(|_, histogram| !histogram.is_empty());
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_the_time_until_the_tail_is_as_before() {
        let slow = |ms: u64| Point { ok_p99_ns: ms * 1_000_000, ..Point::default() };
        let points: Vec<Point> =
            [2, 2, 2, 2, 90, 300, 200, 80, 3, 2, 2].into_iter().map(slow).collect();
        assert_eq!(recovery_s(&points, 1.0, 0.0, (4.0, 6.0)), 2.0);
        assert_eq!(recovery_s(&points[..6], 1.0, 0.0, (4.0, 6.0)), 0.0);
        // Slow again long after: of something else's making.
        let mut later = points.clone();
        later.extend([2, 2, 2, 2, 90].map(slow));
        assert_eq!(recovery_s(&later, 1.0, 0.0, (4.0, 6.0)), 2.0);
        assert_eq!(recovery_s(&later[3..], 1.0, 0.0, (1.0, 3.0)), 2.0);
    }

    #[test]
    fn a_client_that_is_busy_or_late_spoils_a_run() {
        let run = |figures: &[(&str, f64)]| Run {
            figures: figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            ..Run::default()
        };
        assert!(invalid(&run(&[("client_busy_percent", 50.0)])).is_empty());
        assert_eq!(invalid(&run(&[("client_busy_percent", 95.0)])).len(), 1);
        let late = [("client_lag_p99_ms", 8.0), ("publish_ok_p99_ms", 10.0)];
        assert_eq!(invalid(&run(&late)).len(), 1);
        let stalled = [("client_lag_p99_ms", 8.0), ("publish_ok_p99_ms", 500.0)];
        assert!(invalid(&run(&stalled)).is_empty());
    }

    #[test]
    fn a_curve_reaches_the_maximum() {
        let mut histogram = crate::load::histogram();
        (1..=10_000).for_each(|value| histogram.record(value * 1_000).unwrap());
        let curve = distribution(&histogram).curve;
        assert!(curve.is_sorted_by(|one, other| one.0 <= other.0 && one.1 <= other.1));
        assert_eq!(curve.last(), Some(&(1.0, histogram.max())));
        assert!(curve.len() > 60);
    }
}
