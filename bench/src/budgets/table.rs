//! The table: what was measured, what it may cost, and whether it does.

use serde::Serialize;
use std::fmt::Write as _;

/// What a measured value is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within its budget.
    Met,
    /// Not within its budget.
    Missed,
    /// There is no budget for it; it stands there to compare with.
    Reported,
    /// It could not be measured here.
    Unmeasured,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Short name, for `--only`.
    pub key: &'static str,
    /// What was measured.
    pub path: String,
    /// The figure; absent when it could not be had.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// Its budget in the same unit.
    pub bound: Option<Bound>,
    /// What the figure is made of.
    pub detail: String,
}

impl Row {
    /// A row with a budget.
    pub fn held(
        key: &'static str,
        path: &str,
        value: f64,
        unit: &'static str,
        bound: Bound,
    ) -> Self {
        let bound = Some(bound);
        Self { key, path: path.to_owned(), value: Some(value), unit, bound, detail: String::new() }
    }

    /// A row without one.
    pub fn reported(key: &'static str, path: &str, value: f64, unit: &'static str) -> Self {
        let path = path.to_owned();
        Self { key, path, value: Some(value), unit, bound: None, detail: String::new() }
    }

    /// A row that could not be measured, and why.
    pub fn unmeasured(key: &'static str, path: &str, why: String) -> Self {
        Self { key, path: path.to_owned(), value: None, unit: "", bound: None, detail: why }
    }

    /// With what the figure is made of.
    #[must_use]
    pub fn made_of(mut self, detail: String) -> Self {
        self.detail = detail;
        self
    }

    /// How it stands.
    pub fn verdict(&self) -> Verdict {
        match (self.value, self.bound) {
            (None, _) => Verdict::Unmeasured,
            (Some(_), None) => Verdict::Reported,
            // A figure that is no number has not been shown to be within anything.
            (Some(value), Some(Bound::AtMost(most))) if value <= most => Verdict::Met,
            (Some(value), Some(Bound::AtLeast(least))) if value >= least => Verdict::Met,
            (Some(_), Some(_)) => Verdict::Missed,
        }
    }

    fn value_text(&self) -> String {
        self.value.map_or_else(|| "-".to_owned(), |value| quantity(value, self.unit))
    }

    fn bound_text(&self) -> String {
        match self.bound {
            Some(Bound::AtMost(most)) => format!("<= {}", quantity(most, self.unit)),
            Some(Bound::AtLeast(least)) => format!(">= {}", quantity(least, self.unit)),
            None => String::new(),
        }
    }

    fn verdict_text(&self) -> String {
        match (self.verdict(), self.value, self.bound) {
            (Verdict::Met, ..) => "met".to_owned(),
            (Verdict::Missed, Some(value), Some(Bound::AtMost(bound) | Bound::AtLeast(bound))) => {
                format!("MISSED, {:.2} x", value / bound)
            }
            (Verdict::Missed, ..) => "MISSED".to_owned(),
            (Verdict::Reported, ..) => String::new(),
            (Verdict::Unmeasured, ..) => "not measured".to_owned(),
        }
    }
}

/// A figure with its unit, with as many digits as mean something.
pub fn quantity(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        v if v >= 1_000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let space = if matches!(unit, "" | "%") { "" } else { " " };
    format!("{value:.digits$}{space}{unit}")
}

/// Everything that one run found out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the run was made with.
    pub setup: Vec<(String, String)>,
    /// In the order of measurement.
    pub rows: Vec<Row>,
}

impl Report {
    /// How many rows stand so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict() == verdict).count()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.setup {
            let _ = writeln!(out, "{name:<10} {value}");
        }
        out.push('\n');
        let width = |text: &dyn Fn(&Row) -> String| {
            self.rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0)
        };
        let paths = width(&|row| row.path.clone());
        let values = width(&Row::value_text);
        let bounds = width(&Row::bound_text);
        for row in &self.rows {
            let (value, bound) = (row.value_text(), row.bound_text());
            let line = format!(
                "{:<paths$}  {value:>values$}  {bound:<bounds$}  {}",
                row.path,
                row.verdict_text()
            );
            let _ = writeln!(out, "{}", line.trim_end());
            if !row.detail.is_empty() {
                let _ = writeln!(out, "    [{}] {}", row.key, row.detail);
            }
        }
        let held = self.count(Verdict::Met) + self.count(Verdict::Missed);
        let _ = writeln!(out, "\n{} of {held} budgets met", self.count(Verdict::Met));
        let missed: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row.verdict() == Verdict::Missed)
            .map(|row| row.key)
            .collect();
        if !missed.is_empty() {
            let _ = writeln!(out, "missed: {}", missed.join(", "));
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let mut value = serde_json::to_value(row).expect("a row is plain data");
                value["verdict"] =
                    serde_json::to_value(row.verdict()).expect("a verdict is a word");
                value
            })
            .collect();
        let setup: serde_json::Map<_, _> =
            self.setup.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        serde_json::json!({ "setup": setup, "rows": rows, "missed": self.count(Verdict::Missed) })
    }
}

/// The middle of `values`; 0 when there are none.
pub fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value below which `percent` of `values` lie; 0 when there are none.
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_met_at_its_bound_and_missed_beyond_it() {
        let verdict = |value, bound| Row::held("k", "p", value, "V", bound).verdict();
        assert_eq!(verdict(1.35, Bound::AtMost(1.35)), Verdict::Met);
        assert_eq!(verdict(1.3501, Bound::AtMost(1.35)), Verdict::Missed);
        assert_eq!(verdict(0.75, Bound::AtLeast(0.75)), Verdict::Met);
        assert_eq!(verdict(0.74, Bound::AtLeast(0.75)), Verdict::Missed);
        assert_eq!(verdict(f64::NAN, Bound::AtMost(1.0)), Verdict::Missed);
        assert_eq!(verdict(f64::NAN, Bound::AtLeast(1.0)), Verdict::Missed);
        assert_eq!(Row::reported("k", "p", 1.0, "V").verdict(), Verdict::Reported);
        assert_eq!(Row::unmeasured("k", "p", String::new()).verdict(), Verdict::Unmeasured);
    }

    #[test]
    fn the_table_names_what_is_missed_and_the_json_says_the_same() {
        let rows = vec![
            Row::held("a", "first", 1.0, "V", Bound::AtMost(2.0)),
            Row::held("b", "second", 3.0, "V", Bound::AtMost(2.0)).made_of("x of y".to_owned()),
            Row::reported("c", "third", 12.0, "us"),
            Row::unmeasured("d", "fourth", "no io_uring".to_owned()),
        ];
        let report = Report { setup: vec![("V".to_owned(), "31 us".to_owned())], rows };
        let text = report.text();
        assert!(text.contains("1 of 2 budgets met\nmissed: b\n"), "{text}");
        assert!(text.contains("second  3.00 V  <= 2.00 V  MISSED, 1.50 x"), "{text}");
        assert!(text.contains("    [b] x of y"), "{text}");
        let json = report.json();
        assert_eq!(json["missed"], 1);
        assert_eq!(json["rows"][1]["verdict"], "missed");
        assert_eq!(json["rows"][1]["bound"]["at_most"], 2.0);
        assert_eq!(json["rows"][3]["verdict"], "unmeasured");
        assert_eq!(json["setup"]["V"], "31 us");
    }

    #[test]
    fn quantities_keep_three_digits_and_percentiles_are_values_that_occur() {
        assert_eq!(quantity(0.0412, "V"), "0.041 V");
        assert_eq!(quantity(1.349, "V"), "1.35 V");
        assert_eq!(quantity(55.0, "%"), "55.00%");
        assert_eq!(quantity(12_345.6, "us"), "12346 us");
        let mut values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&mut values), 3.0);
        assert_eq!(percentile(&mut values, 99.0), 5.0);
        assert_eq!(percentile(&mut values, 1.0), 1.0);
        assert_eq!(median(&mut []), 0.0);
    }
}
