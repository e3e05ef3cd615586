//! Reports for the terminal.

use super::{Report, ScenarioResult, figures};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Reasons of refusals that the summary of a scenario shows.
const REASONS_SHOWN: usize = 4;

/// Figures that the summary of a scenario shows, if it has them.
const SHOWN: [&str; 16] = [
    "accepted_per_s",
    "peak_accepted_per_s",
    "queries_per_s",
    "query_mbps",
    "deliveries_per_s",
    "publish_ok_p50_ms",
    "publish_ok_p99_ms",
    "publish_ok_p999_ms",
    "query_eose_p50_ms",
    "query_eose_p99_ms",
    "last_delivery_p50_ms",
    "last_delivery_p99_ms",
    "recovery_s",
    "error_percent",
    "server_cpu_us_per_operation",
    "server_rss_mib",
];

/// A number as short as its size allows.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 10_000.0 {
        let digits = format!("{:.0}", value.abs());
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return if value < 0.0 { format!("-{grouped}") } else { grouped };
    }
    match magnitude {
        1_000.0.. => format!("{value:.0}"),
        100.0.. => trim(format!("{value:.1}")),
        1.0.. => trim(format!("{value:.2}")),
        _ => trim(format!("{value:.3}")),
    }
}

fn trim(text: String) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A figure of one relay with its interval and unit; a dash if there is none.
pub fn figure(result: &ScenarioResult, relay: usize, name: &str) -> String {
    let Some(estimate) = result.estimate(relay, name) else { return "–".to_owned() };
    match estimate.interval {
        Some((low, high)) if high - low > 1e-9 => {
            format!("{} ± {}", number(estimate.mean), number((high - low) / 2.0))
        }
        _ => number(estimate.mean),
    }
}

/// The summary of one scenario.
pub fn scenario(report: &Report, result: &ScenarioResult) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} ({}; {} connections, load x {}, {} run{})",
        result.scenario.title,
        result.scenario.name,
        result.connections,
        number(result.sizing.load),
        result.runs.len(),
        if result.runs.len() == 1 { "" } else { "s" },
    );
    let known = result.figures();
    for name in SHOWN.iter().filter(|name| known.iter().any(|known| known == *name)) {
        let (title, unit) = figures::title(name);
        let mut line = format!("  {title:<30}");
        for relay in 0..report.relays.len() {
            let _ = write!(line, " {:>22}", figure(result, relay, name));
        }
        let _ = write!(line, " {unit}");
        if let Some(expected) = result.expected(name) {
            let _ = write!(line, "   (expected of a relay: {})", number(expected));
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for relay in 0..report.relays.len() {
        for verdict in result.verdicts(relay).iter().filter(|verdict| !verdict.holds) {
            let (title, unit) = figures::title(&verdict.figure);
            let value = verdict.value.map_or_else(|| "missing".to_owned(), number);
            let _ = writeln!(
                out,
                "  BROKEN {}: {title} is {value} {unit}, bound {}",
                report.relays[relay].name(),
                verdict.bound
            );
        }
    }
    for relay in 0..report.relays.len() {
        let reasons = refusals(result, relay);
        if !reasons.is_empty() {
            let _ = writeln!(out, "  refused by {}: {reasons}", report.relays[relay].name());
        }
        let runs = result.runs.iter().filter(|run| run.relay == relay);
        let too_long: u64 = runs.filter_map(|run| run.counts.get("too_long")).sum();
        if too_long > 0 {
            let name = report.relays[relay].name();
            let _ = writeln!(out, "  not sent to {name}: {too_long} events, longer than it takes");
        }
    }
    for run in result.runs.iter().filter(|run| !run.invalid.is_empty()) {
        let name = report.relays[run.relay].name();
        let _ =
            writeln!(out, "  INVALID run {} on {name}: {}", run.repeat + 1, run.invalid.join("; "));
    }
    out
}

/// Why a relay refused most of what it refused, over all runs.
fn refusals(result: &ScenarioResult, relay: usize) -> String {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for run in result.runs.iter().filter(|run| run.relay == relay) {
        for (why, count) in &run.reasons {
            *reasons.entry(why).or_default() += count;
        }
    }
    let mut reasons: Vec<(&str, u64)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| Reverse(*count));
    let left_out = reasons.len().saturating_sub(REASONS_SHOWN);
    let shown = reasons.iter().take(REASONS_SHOWN);
    let mut texts: Vec<String> =
        shown.map(|(why, count)| format!("{} x {why:?}", number(*count as f64))).collect();
    if left_out > 0 {
        texts.push(format!("{left_out} other reasons"));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_short_and_grouped() {
        let cases = [
            (0.0, "0"),
            (0.1234, "0.123"),
            (1.5, "1.5"),
            (12.345, "12.35"),
            (123.456, "123.5"),
            (1_234.5, "1234"),
            (12_345.6, "12,346"),
            (1_234_567.0, "1,234,567"),
            (-12_345.0, "-12,345"),
            (100.0, "100"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
