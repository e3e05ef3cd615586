//! Judges folders that their names come in for, in a process of its own: opening what a fault left may
//! kill it.

use crate::check::{Broken, Checker, Depth, Violation};
use crate::marks::{Known, Mark};
use anyhow::Context;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Which plan the folders belong to.
#[derive(Clone, Debug, clap::Args)]
pub struct InspectOptions {
    /// Seed of the plan.
    #[arg(long)]
    pub seed: u64,
    /// Steps of the plan.
    #[arg(long)]
    pub steps: usize,
}

/// Reads folders from standard input, one a line, and answers each with a violation or an empty line.
/// A folder holds the marks that were made and the root that is left.
///
/// # Errors
/// When a folder has no marks.
pub fn inspect(options: &InspectOptions) -> anyhow::Result<()> {
    let checker = Checker::new(options.seed, options.steps);
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let folder = PathBuf::from(line?);
        match judge(&checker, &folder)? {
            Some(violation) => writeln!(out, "{}", serde_json::to_string(&violation)?)?,
            None => writeln!(out)?,
        }
        out.flush()?;
    }
    Ok(())
}

fn judge(checker: &Checker, folder: &Path) -> anyhow::Result<Option<Violation>> {
    let mut known = Known::default();
    for mark in Mark::read_all(&folder.join("marks"))? {
        known.learn(&mark);
        if let Mark::Decided(first, stored) = &mark
            && let Some(violation) = checker.check_decisions(*first, stored)
        {
            return Ok(Some(violation));
        }
    }
    let draw = known.sent as u64;
    Ok(checker
        .check(&folder.join("root"), &known, Depth { draw, goes_on: true, scrubs: true })
        .err())
}

/// A process that judges, begun again when it is killed.
#[derive(Debug)]
pub struct Inspector {
    options: InspectOptions,
    process: Option<(Child, ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

impl Inspector {
    /// Of a plan.
    pub fn new(options: InspectOptions) -> Self {
        Self { options, process: None }
    }

    /// Has a folder judged.
    ///
    /// # Errors
    /// When the process cannot be started or fails.
    pub fn judge(&mut self, folder: &Path) -> anyhow::Result<Option<Violation>> {
        if self.process.is_none() {
            let (seed, steps) = (self.options.seed.to_string(), self.options.steps.to_string());
            let mut child = Command::new(std::env::current_exe()?)
                .args(["inspect", "--seed", &seed, "--steps", &steps])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            let stdin = child.stdin.take().context("an inspector has an input")?;
            let stdout = child.stdout.take().context("an inspector has an output")?;
            self.process = Some((child, stdin, BufReader::new(stdout).lines()));
        }
        let (child, stdin, lines) = self.process.as_mut().context("it was just started")?;
        writeln!(stdin, "{}", folder.display())?;
        stdin.flush()?;
        match lines.next() {
            Some(Ok(line)) if line.is_empty() => Ok(None),
            Some(Ok(line)) => Ok(Some(serde_json::from_str(&line)?)),
            _ => {
                let detail = format!("opening it ended the process: {}", child.wait()?);
                self.process = None;
                Ok(Some(Violation { broken: Broken::Signal, detail }))
            }
        }
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        if let Some((mut child, stdin, _)) = self.process.take() {
            drop(stdin);
            // It ends at the end of its input; how does not matter any more.
            let _ = child.wait();
        }
    }
}
