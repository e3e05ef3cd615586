//! What is printed.

use super::Less;
use sim::run::Failure;
use std::io::Write;

/// Prints a line. Nobody to read it is no reason to stop.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A failure with everything that a person needs to begin.
pub(super) fn failure(seed: u64, less: &Less, failure: &Failure) -> String {
    let mut text = format!(
        "seed {seed} broke a promise at {} us of life {}\n  {}\n  {}\n",
        failure.at_us, failure.life, failure.violation.check, failure.violation.detail
    );
    for line in &failure.evidence {
        text.push_str(&format!("  | {line}\n"));
    }
    text.push_str(&replay(seed, less));
    text
}

/// The command that repeats a run.
pub(super) fn replay(seed: u64, less: &Less) -> String {
    let mut words = vec![format!("--seed {seed}")];
    words.extend(less.arguments());
    let words = words.join(" ");
    format!(
        "  at commit {}: cargo run --release -p sim --bin turnpike-sim -- run {words} --story",
        super::commit()
    )
}
