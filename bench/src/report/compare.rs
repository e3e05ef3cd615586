//! Two sides of a comparison: two reports, or the two relays of one. Ratios carry their intervals,
//! and what lies within the noise is called so.

use super::{Estimate, Report, ScenarioResult, figures, text};
use std::fmt::Write;

/// One figure on both sides.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the figure.
    pub figure: String,
    /// Means of both sides.
    pub sides: (f64, f64),
    /// The first over the second.
    pub ratio: Estimate,
    /// Better, worse or neither, seen from the first side; `None` without an interval that says so.
    pub is_better: Option<bool>,
}

/// All figures that two sets of runs have in common.
pub fn rows(one: (&ScenarioResult, usize), other: (&ScenarioResult, usize)) -> Vec<Row> {
    let mut rows = Vec::new();
    for figure in one.0.figures() {
        let values = |side: (&ScenarioResult, usize)| -> Vec<f64> {
            side.0.runs_of(side.1).filter_map(|run| run.figures.get(&figure).copied()).collect()
        };
        let (first, second) = (values(one), values(other));
        let pairs: Vec<(f64, f64)> = first.iter().copied().zip(second.iter().copied()).collect();
        let (Some(ratio), Some(mean_one), Some(mean_other)) =
            (Estimate::of_ratios(&pairs), Estimate::of(&first), Estimate::of(&second))
        else {
            continue;
        };
        let is_better = match figures::less_is_better(&figure) {
            Some(less) if ratio.excludes(1.0) => Some((ratio.mean < 1.0) == less),
            _ => None,
        };
        rows.push(Row { sides: (mean_one.mean, mean_other.mean), ratio, is_better, figure });
    }
    rows
}

/// A ratio with its interval.
pub fn ratio(row: &Row) -> String {
    match row.ratio.interval {
        Some((low, high)) => format!("{:.2} ({low:.2} … {high:.2})", row.ratio.mean),
        None => format!("{:.2}", row.ratio.mean),
    }
}

/// The comparison of two reports, scenario by scenario.
pub fn reports(one: &Report, other: &Report) -> String {
    let mut out = String::new();
    for result in &one.scenarios {
        let name = &result.scenario.name;
        let Some(rival) = other.scenarios.iter().find(|rival| &rival.scenario.name == name) else {
            let _ = writeln!(out, "{name}: only in the first report\n");
            continue;
        };
        if result.sizing != rival.sizing {
            let _ = writeln!(out, "{name}: ran in different sizes and does not compare\n");
            continue;
        }
        table(&mut out, &result.scenario.title, &rows((result, 0), (rival, 0)));
    }
    out
}

/// The comparison of the two relays of one report.
pub fn relays(report: &Report) -> String {
    let mut out = String::new();
    for result in &report.scenarios {
        table(&mut out, &result.scenario.title, &rows((result, 0), (result, 1)));
    }
    out
}

fn table(out: &mut String, title: &str, rows: &[Row]) {
    let _ = writeln!(out, "{title}\n  {:<34} {:>12} {:>12}  ratio", "", "first", "second");
    for row in rows {
        let (title, unit) = figures::title(&row.figure);
        let mark = match row.is_better {
            Some(true) => "better",
            Some(false) => "WORSE",
            None => "",
        };
        let line = format!(
            "  {:<34} {:>12} {:>12}  {} {mark}",
            format!("{title} {unit}"),
            text::number(row.sides.0),
            text::number(row.sides.1),
            ratio(row),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let _ = writeln!(out);
}
