//! Instruction counts of the pure-Rust paths, under callgrind: the one measure of speed that is the
//! same on a busy machine, and so the one that can gate. The counts that a change may not exceed
//! stand in a file with the processor that they were made on; on another one they are printed only,
//! for libraries choose their routines by what the processor can do.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool that runs valgrind and reads and writes a file of the repository"
)]

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Function whose instructions, and those of all that it calls, are counted.
const COUNTED: &str = "*measured_work*";

/// The file with the counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// What they were counted on.
    pub cpu: String,
    /// Growth in percent from which on a path is too slow.
    pub tolerance_percent: f64,
    /// Why the counts changed last.
    pub reason: String,
    /// Instructions of one run of each path.
    pub paths: BTreeMap<String, f64>,
}

/// How a count stands to the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Within the tolerance.
    Same,
    /// More than the tolerance allows.
    Grew,
    /// So much less that the file should say so.
    Fell,
    /// Not in the file.
    New,
}

impl Recorded {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not there or not understood.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = format!(
            "# Instructions of one run of each path, counted by `turnpike-bench instructions`. A change that\n\
             # exceeds one by more than the tolerance updates this file in the same commit, with the reason:\n\
             #   turnpike-bench instructions --update --reason \"why\"\n{}",
            toml::to_string(self)?
        );
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// How `counted` stands.
    pub fn change(&self, name: &str, counted: f64) -> Change {
        let Some(recorded) = self.paths.get(name) else { return Change::New };
        let grown_percent = (counted / recorded - 1.0) * 100.0;
        if grown_percent > self.tolerance_percent {
            Change::Grew
        } else if grown_percent < -self.tolerance_percent {
            Change::Fell
        } else {
            Change::Same
        }
    }

    /// Paths in the file that nobody counts any more.
    pub fn gone<'a>(&'a self, counted: &'a BTreeMap<String, f64>) -> impl Iterator<Item = &'a str> {
        self.paths.keys().map(String::as_str).filter(|name| !counted.contains_key(*name))
    }
}

/// Counts every path of `program` (the example `instructions` of this crate); `progress` hears each
/// name before it is counted.
///
/// # Errors
/// When valgrind is not there, or the program fails under it.
pub fn count(
    program: &Path,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<BTreeMap<String, f64>> {
    let listed = Command::new(program).output().with_context(|| {
        format!(
            "cannot run {}; build it with `cargo build --release -p bench --example instructions`",
            program.display()
        )
    })?;
    ensure!(listed.status.success(), "{} does not list its paths", program.display());
    let mut counts = BTreeMap::new();
    for (name, times) in listed_paths(&String::from_utf8_lossy(&listed.stdout))? {
        progress(&name);
        let total = count_one(program, &name)?;
        // Tenths are enough for the longest, and the shortest have some.
        let each = (total as f64 / times as f64 * 10.0).round() / 10.0;
        counts.insert(name, each);
    }
    Ok(counts)
}

fn listed_paths(text: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let path = |line: &str| {
        let (name, times) = line.split_once(' ')?;
        Some((name.to_owned(), times.parse().ok().filter(|times| *times > 0)?))
    };
    let paths =
        text.lines().map(|line| path(line).with_context(|| format!("cannot read {line:?}")));
    let paths: Vec<_> = paths.collect::<Result<_, _>>()?;
    ensure!(!paths.is_empty(), "the program lists no paths");
    Ok(paths)
}

fn count_one(program: &Path, name: &str) -> anyhow::Result<u64> {
    let out =
        std::env::temp_dir().join(format!("turnpike-callgrind-{}-{name}", std::process::id()));
    let run = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg("--collect-atstart=no")
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(name)
        .output()
        .context("valgrind cannot be run; scripts/setup installs it")?;
    let counted = std::fs::read_to_string(&out);
    let _ = std::fs::remove_file(&out);
    ensure!(
        run.status.success(),
        "{name} fails under valgrind: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    match total(&counted?) {
        Some(total) if total > 0 => Ok(total),
        _ => bail!("callgrind counted nothing of {name}"),
    }
}

/// The sum in a file of callgrind's.
fn total(text: &str) -> Option<u64> {
    let sums = text
        .lines()
        .filter_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    sums.filter_map(|sum| sum.split_ascii_whitespace().next()?.parse().ok()).next_back()
}

/// The table for people, and the names that grew.
pub fn table(recorded: &Recorded, counts: &BTreeMap<String, f64>) -> (String, Vec<String>) {
    let mut out = String::new();
    let mut grew = Vec::new();
    for (name, counted) in counts {
        let before = recorded.paths.get(name).copied();
        let grown = before
            .map_or(String::new(), |before| format!("{:+.2} %", (counted / before - 1.0) * 100.0));
        let remark = match recorded.change(name, *counted) {
            Change::Same => "",
            Change::Grew => {
                grew.push(name.clone());
                "GREW"
            }
            Change::Fell => "fell; --update records it",
            Change::New => "new; --update records it",
        };
        let before = before.map_or("-".to_owned(), |before| format!("{before:.1}"));
        let line = format!("{name:<16} {counted:>12.1}  {before:>12}  {grown:>9}  {remark}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for name in recorded.gone(counts) {
        let _ = writeln!(out, "{name:<16} is recorded, but nothing counts it");
    }
    (out, grew)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Recorded {
        Recorded {
            cpu: "a CPU".to_owned(),
            tolerance_percent: 3.0,
            reason: "first counts".to_owned(),
            paths: BTreeMap::from([("a".to_owned(), 1_000.0), ("b".to_owned(), 10.0)]),
        }
    }

    #[test]
    fn a_path_may_grow_by_the_tolerance_and_not_by_more() {
        let recorded = recorded();
        assert_eq!(recorded.change("a", 1_030.0), Change::Same);
        assert_eq!(recorded.change("a", 1_030.2), Change::Grew);
        assert_eq!(recorded.change("a", 971.0), Change::Same);
        assert_eq!(recorded.change("a", 969.0), Change::Fell);
        assert_eq!(recorded.change("c", 1.0), Change::New);
    }

    #[test]
    fn the_table_names_what_grew_and_what_is_gone() {
        let counts = BTreeMap::from([("a".to_owned(), 1_100.0), ("c".to_owned(), 5.0)]);
        let (text, grew) = table(&recorded(), &counts);
        assert_eq!(grew, ["a"]);
        assert!(text.contains("+10.00 %  GREW"), "{text}");
        assert!(text.contains("b                is recorded"), "{text}");
        assert!(text.contains("new; --update"), "{text}");
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("turnpike-instr-{}.toml", std::process::id()));
        recorded().write(&path).unwrap();
        assert_eq!(Recorded::read(&path).unwrap(), recorded());
        std::fs::remove_file(&path).unwrap();
        assert!(Recorded::read(&path).is_err());
    }

    #[test]
    fn sums_and_lists_are_read_and_nonsense_is_refused() {
        assert_eq!(total("events: Ir\nfn=x\n1 5\n\ntotals: 1234\n"), Some(1_234));
        assert_eq!(total("summary: 7 8\n"), Some(7));
        assert_eq!(total("events: Ir\n"), None);
        assert_eq!(listed_paths("a 3\nb 4\n").unwrap(), [("a".to_owned(), 3), ("b".to_owned(), 4)]);
        assert!(listed_paths("").is_err());
        assert!(listed_paths("a 0\n").is_err());
        assert!(listed_paths("a\n").is_err());
    }
}
