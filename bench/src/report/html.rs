//! The report as one HTML file: no script, no network, light and dark, wide and narrow.

use super::compare;
use super::svg::{Axis, Plot, Series, escape};
use super::text::{figure, number};
use super::{Report, Run, ScenarioResult, figures};
use crate::load::Metric;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// Figures that stand large at the top of a scenario, as far as it has them.
const TILES: [&str; 12] = [
    "accepted_per_s",
    "peak_accepted_per_s",
    "queries_per_s",
    "query_mbps",
    "deliveries_per_s",
    "publish_ok_p50_ms",
    "publish_ok_p99_ms",
    "query_eose_p50_ms",
    "query_eose_p99_ms",
    "last_delivery_p99_ms",
    "recovery_s",
    "server_kib_per_connection",
];

/// Latencies that are plotted; the rest stands in the table.
const PLOTTED: [Metric; 4] =
    [Metric::PublishOk, Metric::QueryEose, Metric::LastDelivery, Metric::Connect];

/// The whole page.
pub fn render(report: &Report) -> String {
    let names: Vec<String> = report.relays.iter().map(super::Relay::name).collect();
    let title = format!("Load report: {}", names.join(" and "));
    let mut out = String::with_capacity(256 << 10);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{0}</title><style>{STYLE}</style></head><body><main><h1>{0}</h1>",
        escape(&title)
    );
    head(&mut out, report);
    overview(&mut out, report);
    for result in &report.scenarios {
        scenario(&mut out, report, result);
    }
    out.push_str(FOOTER);
    out.push_str("</main></body></html>\n");
    out
}

const FOOTER: &str = "<footer><p>Latency counts from the time at which an event or a query was \
    meant to leave, so a relay that stalls cannot hide it by slowing the client down; what was \
    never answered is recorded with the time waited for it. Figures cover the level of each \
    scenario (shaded in the plots), not its ramps. Values after ± are half the width of the 95 % \
    confidence interval over the repeated runs. A run in which the client itself was the \
    bottleneck is marked invalid. Expected values are those that the founding document gives for a \
    WebSocket relay, rates scaled with the load.</p></footer>";

fn head(out: &mut String, report: &Report) {
    let broken = report.broken();
    let invalid = report.invalid();
    let _ = write!(
        out,
        "<p class=\"soft\">{}, turnpike-bench {}</p><p>",
        date(report.started_s),
        escape(&report.tool)
    );
    match broken {
        0 => out.push_str("<span class=\"pill good\">all thresholds hold</span> "),
        broken => {
            let _ = write!(
                out,
                "<span class=\"pill bad\">scenarios with a broken threshold: {broken}</span> "
            );
        }
    }
    if invalid > 0 {
        let _ = write!(out, "<span class=\"pill warn\">invalid runs: {invalid}</span>");
    }
    out.push_str("</p><section class=\"card\"><dl class=\"facts\">");
    let machine = &report.machine;
    let mut fact = |name: &str, value: &str| {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    };
    for (index, relay) in report.relays.iter().enumerate() {
        let which = match (report.relays.len(), index) {
            (1, _) => "Relay",
            (_, 0) => "First relay",
            _ => "Second relay",
        };
        fact(which, &format!("{} at {}", relay.name(), relay.url));
        if !relay.command.is_empty() {
            let program = relay.command.split(' ').next().unwrap_or_default();
            let name = program.rsplit('/').next().unwrap_or_default();
            let arguments = relay.command.strip_prefix(program).unwrap_or_default();
            fact("Started as", &format!("{name}{arguments}"));
        }
    }
    fact("Client machine", &format!("{}, {} CPUs", machine.cpu, machine.cpus));
    fact("Memory", &format!("{} GiB", number(machine.memory_bytes as f64 / f64::from(1 << 30))));
    fact("Kernel", &machine.kernel);
    fact("Load average before", &number(machine.load_average));
    fact("Seed", &format!("{}, events up to {}", report.seed, report.base_time));
    out.push_str("</dl></section>");
}

fn overview(out: &mut String, report: &Report) {
    out.push_str(
        "<section class=\"card\"><h2>Overview</h2><div class=\"scroll\"><table><thead><tr>\
         <th>Scenario</th>",
    );
    if report.relays.len() > 1 {
        out.push_str("<th class=\"left\">Relay</th>");
    }
    for name in ["Rate", "p50 ms", "p99 ms", "p99.9 ms", "Errors %", "Relay CPU %", "Relay MiB", ""]
    {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for result in &report.scenarios {
        for (relay, who) in report.relays.iter().enumerate() {
            let main = main_metric(result);
            let name = match relay {
                0 => format!(
                    "<a href=\"#{}\">{}</a>",
                    escape(&result.scenario.name),
                    escape(&result.scenario.title)
                ),
                _ => String::new(),
            };
            let _ = write!(out, "<tr><td>{name}</td>");
            if report.relays.len() > 1 {
                let _ = write!(out, "<td class=\"left\">{}</td>", escape(&who.name()));
            }
            let rate = match main {
                Metric::QueryEose => ("queries_per_s", "queries/s"),
                Metric::LastDelivery => ("deliveries_per_s", "deliveries/s"),
                Metric::Connect => ("connect_p50_ms", ""),
                _ => ("accepted_per_s", "events/s"),
            };
            match main {
                Metric::Connect => {
                    let _ = write!(out, "<td>{} connections</td>", result.connections);
                }
                _ => {
                    let _ = write!(out, "<td>{} {}</td>", figure(result, relay, rate.0), rate.1);
                }
            }
            let name = main.name();
            for figure_name in [
                format!("{name}_p50_ms"),
                format!("{name}_p99_ms"),
                format!("{name}_p999_ms"),
                "error_percent".to_owned(),
                "server_cpu_percent".to_owned(),
                "server_rss_mib".to_owned(),
            ] {
                let _ = write!(out, "<td>{}</td>", mean(result, relay, &figure_name));
            }
            let _ = write!(out, "<td>{}</td></tr>", status(result, relay));
        }
    }
    out.push_str("</tbody></table></div></section>");
}

/// The latency that a scenario is about.
fn main_metric(result: &ScenarioResult) -> Metric {
    let scenario = &result.scenario;
    let first = scenario.thresholds.first().map_or("", |threshold| threshold.figure.as_str());
    let all = [Metric::QueryEose, Metric::LastDelivery, Metric::Connect, Metric::PublishOk];
    all.into_iter().find(|metric| first.starts_with(metric.name())).unwrap_or(Metric::PublishOk)
}

fn mean(result: &ScenarioResult, relay: usize, name: &str) -> String {
    result.estimate(relay, name).map_or_else(|| "–".to_owned(), |estimate| number(estimate.mean))
}

fn status(result: &ScenarioResult, relay: usize) -> &'static str {
    if result.verdicts(relay).iter().any(|verdict| !verdict.holds) {
        "<span class=\"pill bad\">broken</span>"
    } else if result.runs_of(relay).any(|run| !run.invalid.is_empty()) {
        "<span class=\"pill warn\">invalid</span>"
    } else {
        "<span class=\"pill good\">holds</span>"
    }
}

fn scenario(out: &mut String, report: &Report, result: &ScenarioResult) {
    let scenario = &result.scenario;
    let _ = write!(
        out,
        "<section class=\"card\" id=\"{}\"><div class=\"head\"><h2>{}</h2><div>",
        escape(&scenario.name),
        escape(&scenario.title)
    );
    for relay in 0..report.relays.len() {
        let _ = write!(out, "{} ", status(result, relay));
    }
    let _ = write!(out, "</div></div><p>{}</p>", escape(&scenario.about));
    let _ = write!(
        out,
        "<p class=\"soft\">{} connections, {} events stored before, {} s measured, load × {}, {} \
         run{} per relay</p>",
        number(f64::from(result.connections)),
        number(f64::from(result.preload)),
        number(result.window_s.1 - result.window_s.0),
        number(result.sizing.load),
        result.runs_of(0).count(),
        if result.runs_of(0).count() == 1 { "" } else { "s" },
    );
    for run in result.runs.iter().filter(|run| !run.invalid.is_empty()) {
        let _ = write!(
            out,
            "<p class=\"note warn\">Run {} on {} is invalid: {}</p>",
            run.repeat + 1,
            escape(&report.relays[run.relay].name()),
            escape(&run.invalid.join("; "))
        );
    }
    for relay in 0..report.relays.len() {
        for verdict in result.verdicts(relay).iter().filter(|verdict| !verdict.holds) {
            let (title, unit) = figures::title(&verdict.figure);
            let value = verdict.value.map_or_else(|| "missing".to_owned(), number);
            let _ = write!(
                out,
                "<p class=\"note bad\">{}: {title} is {value} {unit}, the bound is {}</p>",
                escape(&report.relays[relay].name()),
                escape(&verdict.bound)
            );
        }
    }
    if report.relays.len() == 1 {
        tiles(out, result);
    } else {
        versus(out, report, result);
    }
    plots(out, report, result);
    tables(out, report, result);
    out.push_str("</section>");
}

fn tiles(out: &mut String, result: &ScenarioResult) {
    out.push_str("<dl class=\"tiles\">");
    for name in TILES {
        let Some(estimate) = result.estimate(0, name) else { continue };
        let (title, unit) = figures::title(name);
        let _ = write!(
            out,
            "<div class=\"tile\"><dt>{}</dt><dd>{} <small>{unit}</small></dd>",
            escape(&title),
            number(estimate.mean)
        );
        if let Some((low, high)) = estimate.interval {
            let _ = write!(out, "<p>± {}</p>", number((high - low) / 2.0));
        }
        if let Some(expected) = result.expected(name) {
            let _ = write!(out, "<p>expected {}</p>", number(expected));
        }
        out.push_str("</div>");
    }
    out.push_str("</dl>");
}

/// The two relays side by side, with the ratio.
fn versus(out: &mut String, report: &Report, result: &ScenarioResult) {
    let _ = write!(
        out,
        "<div class=\"scroll\"><table><thead><tr><th>Figure</th><th>{}</th><th>{}</th>\
         <th>Ratio, 95 % interval</th><th></th></tr></thead><tbody>",
        escape(&report.relays[0].name()),
        escape(&report.relays[1].name())
    );
    for row in compare::rows((result, 0), (result, 1)) {
        if row.figure.starts_with("client") {
            continue;
        }
        let (title, unit) = figures::title(&row.figure);
        let mark = match row.is_better {
            Some(true) => "<span class=\"pill good\">first is better</span>",
            Some(false) => "<span class=\"pill bad\">second is better</span>",
            None => "",
        };
        let _ = write!(
            out,
            "<tr><td>{} <span class=\"soft\">{unit}</span></td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{mark}</td></tr>",
            escape(&title),
            number(row.sides.0),
            number(row.sides.1),
            escape(&compare::ratio(&row)),
        );
    }
    out.push_str("</tbody></table></div>");
}

fn plots(out: &mut String, report: &Report, result: &ScenarioResult) {
    out.push_str("<div class=\"plots\">");
    out.push_str(&percentiles(report, result).render());
    // Of repeated runs the first of each relay; all of them are in the tables.
    let firsts: Vec<(&Run, &str)> = (0..report.relays.len())
        .filter_map(|relay| {
            let suffix = match (report.relays.len(), relay) {
                (1, _) => "",
                (_, 0) => ", first relay",
                _ => ", second relay",
            };
            Some((result.runs_of(relay).next()?, suffix))
        })
        .collect();
    for plot in over_time(result, &firsts) {
        out.push_str(&plot.render());
    }
    out.push_str("</div>");
}

fn percentiles(report: &Report, result: &ScenarioResult) -> Plot {
    let mut series = Vec::new();
    for relay in 0..report.relays.len() {
        for (colour, metric) in PLOTTED.into_iter().enumerate() {
            let Some(run) = result.runs_of(relay).next() else { continue };
            let Some(distribution) = run.distributions.get(metric.name()) else { continue };
            // One colour per latency; connecting is plotted where a scenario is about it.
            let is_about = main_metric(result) == Metric::Connect;
            if metric == Metric::Connect && !is_about || distribution.count < 2 {
                continue;
            }
            let last = (distribution.count as f64).log10();
            let points = distribution
                .curve
                .iter()
                .map(|(quantile, ns)| {
                    let nines = if *quantile >= 1.0 { last } else { -(1.0 - quantile).log10() };
                    (nines, *ns as f64 / 1e6)
                })
                .collect();
            let who = match (report.relays.len(), relay) {
                (1, _) => String::new(),
                (_, 0) => ", first relay".to_owned(),
                _ => ", second relay".to_owned(),
            };
            series.push(Series {
                name: format!("{}{who}", metric.title()),
                colour: colour + 1,
                is_dashed: relay > 0,
                points,
            });
        }
    }
    let ticks = [
        (0.0, "0"),
        (0.301, "50 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
        (5.0, "99.999 %"),
    ];
    Plot {
        title: "Latency by percentile".into(),
        x_label: "percentile".into(),
        unit: "ms".into(),
        y_axis: Axis::Log,
        x_ticks: ticks.into_iter().map(|(at, label)| (at, label.to_owned())).collect(),
        band: None,
        series,
    }
}

/// A value of each interval of a run, in the middle of the interval.
fn timeline(run: &Run, value: impl Fn(&super::Point) -> f64) -> Vec<(f64, f64)> {
    // The last interval is cut short by the end of the run.
    let whole = run.intervals.len().saturating_sub(1);
    run.intervals[..whole]
        .iter()
        .enumerate()
        .map(|(index, point)| ((index as f64 + 0.5) * run.interval_s, value(point)))
        .collect()
}

fn over_time(result: &ScenarioResult, firsts: &[(&Run, &str)]) -> Vec<Plot> {
    let plot = |title: &str, unit: &str, y_axis: Axis, series: Vec<Series>| Plot {
        title: title.into(),
        x_label: "seconds".into(),
        unit: unit.into(),
        y_axis,
        x_ticks: Vec::new(),
        band: Some(result.window_s),
        series,
    };
    let (mut rates, mut delivered, mut tails) = (vec![], vec![], vec![]);
    let (mut cpu, mut memory) = (vec![], vec![]);
    for (which, (run, who)) in firsts.iter().enumerate() {
        let add = |list: &mut Vec<Series>,
                   name: &str,
                   colour: usize,
                   is_dashed: bool,
                   points: Vec<(f64, f64)>| {
            if points.iter().any(|point| point.1 > 0.0) {
                let is_dashed = if firsts.len() > 1 { which > 0 } else { is_dashed };
                list.push(Series { name: format!("{name}{who}"), colour, is_dashed, points });
            }
        };
        let per_s = |value: u64| value as f64 / run.interval_s;
        add(&mut rates, "events sent", 4, true, timeline(run, |point| per_s(point.published)));
        add(&mut rates, "events answered", 1, false, timeline(run, |point| per_s(point.answers)));
        add(&mut rates, "queries answered", 2, false, timeline(run, |point| per_s(point.answered)));
        add(
            &mut delivered,
            "live events",
            3,
            false,
            timeline(run, |point| per_s(point.deliveries)),
        );
        add(
            &mut delivered,
            "stored events",
            2,
            false,
            timeline(run, |point| per_s(point.query_events)),
        );
        let ms = |ns: u64| ns as f64 / 1e6;
        add(&mut tails, "publish to OK p99", 1, true, timeline(run, |point| ms(point.ok_p99_ns)));
        add(&mut tails, "publish to OK p50", 1, false, timeline(run, |point| ms(point.ok_p50_ns)));
        add(&mut tails, "REQ to EOSE p99", 2, true, timeline(run, |point| ms(point.eose_p99_ns)));
        add(&mut tails, "REQ to EOSE p50", 2, false, timeline(run, |point| ms(point.eose_p50_ns)));
        let busy = run.server.iter().map(|point| (point.at_s, point.cpu_percent)).collect();
        add(&mut cpu, "all threads", 1, false, busy);
        let resident = run
            .server
            .iter()
            .map(|point| (point.at_s, point.rss_bytes as f64 / f64::from(1 << 20)))
            .collect();
        add(&mut memory, "resident", 3, false, resident);
    }
    // Seconds without an answer have no latency; on a logarithmic axis they are left out.
    for series in &mut tails {
        series.points.retain(|point| point.1 > 0.0);
    }
    vec![
        plot("Throughput", "per second", Axis::Linear, rates),
        plot("Latency over time", "ms", Axis::Log, tails),
        plot("Events received", "per second", Axis::Linear, delivered),
        plot("CPU of the relay", "% of a core", Axis::Linear, cpu),
        plot("Memory of the relay", "MiB", Axis::Linear, memory),
    ]
}

fn tables(out: &mut String, report: &Report, result: &ScenarioResult) {
    out.push_str(
        "<details><summary>All figures, distributions and counts</summary><div class=\"two\"><div>",
    );
    out.push_str("<h3>Figures</h3><div class=\"scroll\"><table><thead><tr><th></th>");
    for relay in &report.relays {
        let _ = write!(out, "<th>{}</th>", escape(&relay.name()));
    }
    out.push_str("<th>Expected</th><th>Bound</th></tr></thead><tbody>");
    for name in result.figures() {
        let (title, unit) = figures::title(&name);
        let _ = write!(out, "<tr><td>{} <span class=\"soft\">{unit}</span></td>", escape(&title));
        for relay in 0..report.relays.len() {
            let _ = write!(out, "<td>{}</td>", figure(result, relay, &name));
        }
        let expected = result.expected(&name).map_or_else(String::new, number);
        let bound = result
            .verdicts(0)
            .into_iter()
            .find(|verdict| verdict.figure == name)
            .map_or_else(String::new, |verdict| verdict.bound);
        let _ = write!(out, "<td>{expected}</td><td>{}</td></tr>", escape(&bound));
    }
    out.push_str("</tbody></table></div></div><div>");
    for (relay, who) in report.relays.iter().enumerate() {
        for run in result.runs_of(relay) {
            run_tables(out, &who.name(), run);
        }
    }
    out.push_str("</div></div></details>");
}

fn run_tables(out: &mut String, who: &str, run: &Run) {
    let _ = write!(
        out,
        "<h3>{}, run {}: latencies in ms</h3><div class=\"scroll\"><table><thead><tr><th></th>\
         <th>count</th><th>min</th><th>mean</th><th>p50</th><th>p95</th><th>p99</th><th>p99.9</th>\
         <th>max</th></tr></thead><tbody>",
        escape(who),
        run.repeat + 1
    );
    for metric in Metric::ALL {
        let Some(distribution) = run.distributions.get(metric.name()) else { continue };
        let ms = |ns: f64| number(ns / 1e6);
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            metric.title(),
            number(distribution.count as f64),
            ms(distribution.min_ns as f64),
            ms(distribution.mean_ns)
        );
        for quantile in ["p50", "p95", "p99", "p999"] {
            let name = format!("{}_{quantile}_ms", metric.name());
            let value = run.figures.get(&name).copied().unwrap_or(0.0);
            let _ = write!(out, "<td>{}</td>", number(value));
        }
        let _ = write!(out, "<td>{}</td></tr>", ms(distribution.max_ns as f64));
    }
    out.push_str("</tbody></table></div>");
    let list = |out: &mut String, title: &str, rows: Vec<(String, String)>| {
        if rows.is_empty() {
            return;
        }
        let _ = write!(out, "<h3>{title}</h3><p>");
        let parts: Vec<String> =
            rows.iter().map(|(name, value)| format!("{} {value}", escape(name))).collect();
        out.push_str(&parts.join(", "));
        out.push_str("</p>");
    };
    let counts = run
        .counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| (name.replace('_', " "), number(*count as f64)))
        .collect();
    list(out, "Counts, ramps included", counts);
    let reasons = run.reasons.iter().map(|(why, n)| (why.clone(), number(*n as f64))).collect();
    list(out, "Why the relay refused", reasons);
    let threads = run
        .threads
        .iter()
        .take(12)
        .map(|(name, cpu)| (name.clone(), format!("{} %", number(*cpu))));
    list(out, "CPU of the relay's threads", threads.collect());
}

/// A date from unix seconds (civil calendar, proleptic Gregorian).
fn date(unix_s: u64) -> String {
    let (days, seconds) = (unix_s / 86_400, unix_s % 86_400);
    let shifted = days as i64 + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_764_388_859), "2025-11-29 04:00 UTC");
    }
}
