//! What the checks found, as a table for people and as JSON for programs.

use crate::host::Unreadable;
use crate::text;
use serde::Serialize;
use std::fmt::Write;

/// Columns that the table fits into.
pub const COLUMNS: usize = 100;
/// Columns of the verdict and the title.
const VERDICT_COLUMNS: usize = 9;
const TITLE_COLUMNS: usize = 24;
const IS_COLUMNS: usize = 31;

/// What is thought of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It cannot be read; the finding says why.
    Unknown,
    /// The relay works, and would do better.
    Advice,
    /// Something that is promised does not hold: events may be lost, clients turned away, or the
    /// relay does not start.
    Problem,
}

impl Verdict {
    /// The word that is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Advice => "advice",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Names the check, such as `net.somaxconn`; never changes, so that programs can rely on it.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// What is thought of it.
    pub verdict: Verdict,
    /// What is.
    pub is: String,
    /// What should be.
    pub should: String,
    /// Why it should.
    pub why: String,
    /// What changes it: commands, or lines that begin with `#` where no command does.
    pub commands: Vec<String>,
}

impl Finding {
    /// Something that could not be read.
    pub(crate) fn unknown(
        id: &'static str,
        title: &'static str,
        unreadable: &Unreadable,
        should: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            id,
            title,
            verdict: Verdict::Unknown,
            is: unreadable.to_string(),
            should: should.into(),
            why: why.into(),
            commands: Vec::new(),
        }
    }

    fn area(&self) -> &'static str {
        match self.id.split('.').next().unwrap_or_default() {
            "kernel" => "Kernel",
            "limit" => "Limits",
            "net" => "Network",
            "cpu" => "Processors",
            "memory" => "Memory",
            "disk" => "Disk",
            _ => "Clock",
        }
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

/// The findings and how many there are of each verdict.
#[derive(Serialize)]
struct Json<'a> {
    ok: usize,
    advice: usize,
    problems: usize,
    unknown: usize,
    findings: &'a [Finding],
}

impl Report {
    /// How many findings have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// A JSON object.
    pub fn json(&self) -> serde_json::Value {
        let report = Json {
            ok: self.count(Verdict::Ok),
            advice: self.count(Verdict::Advice),
            problems: self.count(Verdict::Problem),
            unknown: self.count(Verdict::Unknown),
            findings: &self.findings,
        };
        serde_json::to_value(report).expect("text and numbers have a form in JSON")
    }

    /// A table of at most [`COLUMNS`] columns; only a command may be wider, since a broken one
    /// cannot be copied. Reasons and commands stand below what is not as it should be, or below
    /// everything with `explain`.
    pub fn table(&self, explain: bool) -> String {
        let mut out = String::new();
        let mut area = "";
        for finding in &self.findings {
            if finding.area() != area {
                area = finding.area();
                let gap = if out.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}{area}");
            }
            write_finding(&mut out, finding, explain);
        }
        let _ = writeln!(out, "\n{}", self.summary());
        out
    }

    /// How many of each, in one line.
    pub fn summary(&self) -> String {
        let count = |verdict| self.count(verdict);
        let plural = |number, one: &str, many: &str| match number {
            1 => format!("1 {one}"),
            _ => format!("{number} {many}"),
        };
        format!(
            "{} as they should be, {}, {}, {} could not be read.",
            count(Verdict::Ok),
            plural(count(Verdict::Problem), "problem", "problems"),
            plural(count(Verdict::Advice), "piece of advice", "pieces of advice"),
            count(Verdict::Unknown),
        )
    }
}

fn write_finding(out: &mut String, finding: &Finding, explain: bool) {
    let left = VERDICT_COLUMNS + TITLE_COLUMNS;
    let is = text::wrap(&finding.is, IS_COLUMNS - 1);
    let should = text::wrap(&finding.should, COLUMNS - left - IS_COLUMNS);
    let title = text::wrap(finding.title, TITLE_COLUMNS - 1);
    // What cannot be broken into its column pushes the rest onto lines of their own.
    let is_wide = is.iter().any(|line| line.chars().count() >= IS_COLUMNS);
    let verdict = finding.verdict.word();
    let lines = if is_wide { 1 } else { is.len().max(should.len()).max(title.len()) };
    for line in 0..lines {
        let part = |parts: &[String]| parts.get(line).cloned().unwrap_or_default();
        let verdict = if line == 0 { verdict } else { "" };
        let row = if is_wide {
            format!("{verdict:<VERDICT_COLUMNS$}{:<TITLE_COLUMNS$}{}", part(&title), finding.is)
        } else {
            format!(
                "{verdict:<VERDICT_COLUMNS$}{:<TITLE_COLUMNS$}{:<IS_COLUMNS$}{}",
                part(&title),
                part(&is),
                part(&should)
            )
        };
        write_wrapped(out, &row, left);
    }
    if finding.verdict == Verdict::Ok && !explain {
        return;
    }
    if is_wide {
        write_wrapped(out, &format!("{:left$}should be: {}", "", finding.should), left);
    }
    for line in text::wrap(&finding.why, COLUMNS - VERDICT_COLUMNS - 2) {
        let _ = writeln!(out, "{:VERDICT_COLUMNS$}| {line}", "");
    }
    for command in &finding.commands {
        let _ = writeln!(out, "{:VERDICT_COLUMNS$}$ {command}", "");
    }
}

/// Writes a row, broken with an indent if it is too long.
fn write_wrapped(out: &mut String, row: &str, indent: usize) {
    let row = row.trim_end();
    if row.chars().count() <= COLUMNS {
        let _ = writeln!(out, "{row}");
        return;
    }
    let head: String = row.chars().take(indent).collect();
    let tail: String = row.chars().skip(indent).collect();
    for (index, line) in text::wrap(&tail, COLUMNS - indent).iter().enumerate() {
        let head = if index == 0 { head.as_str() } else { "" };
        let _ = writeln!(out, "{head:indent$}{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict, is: &str) -> Finding {
        Finding {
            id: "net.x",
            title: "a title that is a little longer than others",
            verdict,
            is: is.into(),
            should: "at least 4096 of whatever this is, and better more of it".into(),
            why: "a reason that goes on for a while ".repeat(5),
            commands: vec!["sysctl -w a=b".into()],
        }
    }

    #[test]
    fn the_table_fits_and_explains_what_is_not_as_it_should_be() {
        let long = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor: Permission denied (os error 13)";
        let findings = vec![
            finding(Verdict::Ok, "4096"),
            finding(Verdict::Advice, "128"),
            finding(Verdict::Unknown, long),
        ];
        let report = Report { findings };
        let table = report.table(false);
        for line in table.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
            assert_eq!(line, line.trim_end());
        }
        assert_eq!(table.matches("$ sysctl").count(), 2, "{table}");
        assert_eq!(report.table(true).matches("$ sysctl").count(), 3);
        assert!(table.ends_with(
            "1 as they should be, 0 problems, 1 piece of advice, 1 could not be read.\n"
        ));
        assert!(table.starts_with("Network\nok "), "{table}");
        let json = report.json();
        assert_eq!(
            (&json["advice"], &json["findings"][1]["verdict"]),
            (&1.into(), &"advice".into())
        );
    }
}
