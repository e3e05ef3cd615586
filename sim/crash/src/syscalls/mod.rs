//! Fail at every system call: a life over the real store is lived again and again, and each time
//! another call on its files fails, until one is lived in which no call is left to fail. Whatever
//! fails, the process either goes on or ends without another answer; then a clean start must find
//! everything that was acknowledged, and nothing else.

mod fault;
mod relay;

use crate::check::{Broken, Violation};
use crate::inspect::{InspectOptions, Inspector};
use crate::life::Work;
use crate::marks::{Known, Mark};
use crate::plan::Plan;
use crate::progress;
use anyhow::{Context, bail, ensure};
use fault::{Class, Fault, Shim};
use indicatif::ProgressBar;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

/// Violations that are reported in full.
const REPORTED_MAX: usize = 10;
/// Steps of the life that goes on after a kill.
const AFTER_KILL_STEPS: usize = 12;

/// Options of `syscalls`.
#[derive(Clone, Debug, clap::Args)]
pub struct SyscallsOptions {
    /// Seed of the workload
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Steps of the workload; a step is about two commits
    #[arg(long, default_value_t = 100)]
    pub steps: usize,
    /// Kinds of calls that fail [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub calls: Vec<Class>,
    /// A built `turnpike`: on the epoll runtime, some of its calls fail, too
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Processes at once; 0 is one per core
    #[arg(long, default_value_t = 0)]
    pub jobs: usize,
    /// Folder in memory to work in [default: /dev/shm, or the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// What is lived while calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// The directory is made and the whole workload handed in.
    FirstLife,
    /// A start after a life that ended abruptly, and some steps.
    AfterKill,
    /// `compact`.
    Compact,
    /// `reindex`.
    Reindex,
    /// `reshard`.
    Reshard,
    /// The built relay under load.
    Relay,
}

/// Runs of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Tally {
    /// Calls that were made to fail, one a run.
    pub runs: u64,
    /// Runs that went on and did all their work.
    pub went_on: u64,
    /// Runs that ended without another answer.
    pub ended: u64,
}

/// A broken promise.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    phase: Phase,
    class: Class,
    fault: Fault,
    /// Which call failed, from 1.
    at: u64,
    /// The file, as the shim named it.
    file: Option<String>,
    #[serde(flatten)]
    violation: Violation,
}

/// The result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyscallsReport {
    /// By phase, class and fault.
    pub tallies: Vec<(String, Tally)>,
    /// Runs in all.
    pub runs: u64,
    /// Promises that were broken.
    pub violations: u64,
    /// The first of them.
    pub found: Vec<Found>,
}

impl SyscallsReport {
    /// Whether everything held.
    pub fn holds(&self) -> bool {
        self.violations == 0 && self.runs > 0
    }
}

/// What a phase starts from.
struct Base {
    phase: Phase,
    what: What,
}

/// What is done while calls fail.
enum What {
    /// A life over a copy of this folder.
    Life(Work, PathBuf),
    /// The relay at this path.
    Relay(PathBuf),
}

/// Calls of one class failing in one way in one phase.
#[derive(Debug)]
struct Series {
    base: usize,
    class: Class,
    fault: Fault,
    next: u64,
    is_over: bool,
}

struct Runner<'a> {
    options: &'a SyscallsOptions,
    bases: Vec<Base>,
    shim: Shim,
    series: Mutex<Vec<Series>>,
}

/// What came of one run.
enum Outcome {
    /// There was no such call.
    Untouched,
    WentOn,
    Ended,
    Broken(Option<String>, Violation),
}

/// Runs `syscalls`.
///
/// # Errors
/// When nothing can be judged: there is no C compiler, or a life fails without a fault.
pub fn run(options: &SyscallsOptions) -> anyhow::Result<SyscallsReport> {
    let work = crate::work_folder(options.work.as_deref())?;
    let shim = Shim::build(work.path())?;
    let classes = if options.calls.is_empty() { &Class::ALL[..] } else { &options.calls[..] };
    let bases = bases(options, work.path())?;
    let mut series = Vec::new();
    for base in 0..bases.len() {
        for class in classes {
            for fault in class.faults() {
                series.push(Series { base, class: *class, fault: *fault, next: 1, is_over: false });
            }
        }
    }
    let bar = progress(series.len() as u64);
    let runner = Runner { options, bases, shim, series: Mutex::new(series) };
    let jobs = match options.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let (results, came) = channel();
    let mut report = SyscallsReport::default();
    let mut tallies = BTreeMap::<(Phase, Class, Fault), Tally>::new();
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (runner, results) = (&runner, results.clone());
            let folder = work.path().join(format!("job-{job}"));
            let bar = bar.clone();
            scope.spawn(move || {
                let worked = runner.work(&folder, &bar, &mut |key, at, outcome| {
                    // Whoever gathers lives as long as this thread.
                    let _ = results.send(Ok((key, at, outcome)));
                });
                if let Err(error) = worked {
                    let _ = results.send(Err(error));
                }
            });
        }
        drop(results);
        let mut failed = None;
        for result in came {
            match result {
                Ok((key, at, outcome)) => {
                    report.learn(key, at, outcome, tallies.entry(key).or_default())
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    })?;
    bar.finish_and_clear();
    let name =
        |(phase, class, fault): (Phase, Class, Fault)| format!("{phase:?} {class:?} {fault:?}");
    report.tallies = tallies.into_iter().map(|(key, tally)| (name(key), tally)).collect();
    Ok(report)
}

impl SyscallsReport {
    fn learn(
        &mut self,
        (phase, class, fault): (Phase, Class, Fault),
        at: u64,
        outcome: Outcome,
        tally: &mut Tally,
    ) {
        match outcome {
            Outcome::Untouched => return,
            Outcome::WentOn => tally.went_on += 1,
            Outcome::Ended => tally.ended += 1,
            Outcome::Broken(file, violation) => {
                self.violations += 1;
                if self.found.len() < REPORTED_MAX {
                    self.found.push(Found { phase, class, fault, at, file, violation });
                }
            }
        }
        tally.runs += 1;
        self.runs += 1;
    }
}

/// Makes the folders that the phases start from.
fn bases(options: &SyscallsOptions, work: &Path) -> anyhow::Result<Vec<Base>> {
    let plan = Plan::new(options.seed, options.steps);
    let all = plan.entries.len();
    let killed_at = plan.steps[options.steps.saturating_sub(AFTER_KILL_STEPS + 1)].entries.end;
    let steps = |until, abrupt| Work::Steps { until, abrupt };
    let lives = [
        (Phase::FirstLife, None, steps(all, false)),
        (Phase::AfterKill, Some(steps(killed_at, true)), steps(all, false)),
        (Phase::Compact, Some(steps(all, false)), Work::Compact),
        (Phase::Reindex, Some(steps(all, false)), Work::Reindex),
        (Phase::Reshard, Some(steps(all, false)), Work::Reshard { shards: 2 }),
    ];
    let mut bases = Vec::new();
    for (phase, before, then) in lives {
        let folder = work.join(format!("base-{phase:?}"));
        std::fs::create_dir_all(folder.join("root"))?;
        std::fs::write(folder.join("marks"), "")?;
        if let Some(before) = before {
            let status = life(options, &before, &folder, &Known::default())?.status()?;
            ensure!(status.success(), "a life without faults failed: {status}");
        }
        bases.push(Base { phase, what: What::Life(then, folder) });
    }
    if let Some(binary) = &options.binary {
        let binary = std::fs::canonicalize(binary)
            .with_context(|| format!("there is no {}", binary.display()))?;
        bases.push(Base { phase: Phase::Relay, what: What::Relay(binary) });
    }
    Ok(bases)
}

/// The command of a life over what lies in a folder.
fn life(
    options: &SyscallsOptions,
    work: &Work,
    folder: &Path,
    known: &Known,
) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["life", "--root"])
        .arg(folder.join("root"))
        .arg("--marks")
        .arg(folder.join("marks"))
        .args(["--seed", &options.seed.to_string(), "--steps", &options.steps.to_string()])
        .args(["--acked", &known.acked_by_all().to_string(), "--sent", &known.sent.to_string()])
        .args(work.words());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(command)
}

fn known(folder: &Path) -> anyhow::Result<Known> {
    let mut known = Known::default();
    Mark::read_all(&folder.join("marks"))?.iter().for_each(|mark| known.learn(mark));
    Ok(known)
}

impl Runner<'_> {
    /// Does runs until none are left.
    fn work(
        &self,
        folder: &Path,
        bar: &ProgressBar,
        tell: &mut dyn FnMut((Phase, Class, Fault), u64, Outcome),
    ) -> anyhow::Result<()> {
        let SyscallsOptions { seed, steps, .. } = *self.options;
        let mut inspector = Inspector::new(InspectOptions { seed, steps });
        loop {
            let taken = {
                let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
                let open = all.iter_mut().enumerate().find(|(_, series)| !series.is_over);
                open.map(|(number, series)| {
                    let at = series.next;
                    match self.bases[series.base].what {
                        What::Life(..) => series.next += 1,
                        // The relay's calls are sampled.
                        What::Relay(_) => match relay::next_sample(at) {
                            Some(next) => series.next = next,
                            None => {
                                series.is_over = true;
                                bar.inc(1);
                            }
                        },
                    }
                    (number, series.base, series.class, series.fault, at)
                })
            };
            let Some((number, base, class, fault, at)) = taken else { return Ok(()) };
            let base = &self.bases[base];
            let failing = (class, fault, at);
            let outcome = match &base.what {
                What::Life(work, from) => self.one(work, from, failing, folder, &mut inspector),
                What::Relay(binary) => relay::one(binary, &self.shim, failing, folder),
            };
            let outcome = outcome
                .with_context(|| format!("{:?}, {class:?} number {at}, {fault:?}", base.phase))?;
            if matches!(outcome, Outcome::Untouched) {
                let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
                if !all[number].is_over {
                    all[number].is_over = true;
                    bar.inc(1);
                }
            }
            tell((base.phase, class, fault), at, outcome);
        }
    }

    fn one(
        &self,
        work: &Work,
        from: &Path,
        (class, fault, at): (Class, Fault, u64),
        folder: &Path,
        inspector: &mut Inspector,
    ) -> anyhow::Result<Outcome> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        copy(from, folder)?;
        let mut command = life(self.options, work, folder, &known(folder)?)?;
        let root = std::fs::canonicalize(folder.join("root"))?;
        let marks = folder.join("marks");
        self.shim.attach(&mut command, &root, &marks, class, fault, at);
        let output = command.output()?;
        let marks = Mark::read_all(&marks)?;
        let faulted = marks.iter().position(|mark| matches!(mark, Mark::Fault(_)));
        let Some(faulted) = faulted else {
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "a life without a fault failed: {said}");
            return Ok(Outcome::Untouched);
        };
        let after = &marks[faulted..];
        let Some(Mark::Fault(what)) = after.first() else { bail!("the mark is gone") };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let file = Some(what.clone());
        if let Some(violation) = broken_at_once(output.status, &said, class, fault, what, after) {
            return Ok(Outcome::Broken(file, violation));
        }
        if let Some(violation) = inspector.judge(folder)? {
            return Ok(Outcome::Broken(file, violation));
        }
        Ok(if output.status.success() { Outcome::WentOn } else { Outcome::Ended })
    }
}

/// What the end of the process and its last words show.
fn broken_at_once(
    status: ExitStatus,
    said: &str,
    class: Class,
    fault: Fault,
    file: &str,
    after: &[Mark],
) -> Option<Violation> {
    let last_line = said.trim_end().lines().last().unwrap_or_default();
    if let Some(signal) = status.signal() {
        let detail = format!("the process was killed by signal {signal}: {last_line}");
        return Some(Violation { broken: Broken::Signal, detail });
    }
    if !status.success() && status.code() != Some(i32::from(crate::EXIT_FAILED_LIFE)) {
        let detail = format!("the process ended with {status}: {said}");
        return Some(Violation { broken: Broken::Stuck, detail });
    }
    let answer = after
        .iter()
        .find(|mark| matches!(mark, Mark::Acked(_) | Mark::Open(_) | Mark::Made | Mark::Done));
    if failed_for_good(class, fault, file)
        && let Some(answer) = answer
    {
        let detail = format!("after a failed sync it said {}", answer.to_line().trim_end());
        return Some(Violation { broken: Broken::Lost, detail });
    }
    None
}

/// Whether nobody may be answered after such a fault: the sync of something that counts has failed.
/// What has no name yet does not count, and an interrupted sync is simply made again.
fn failed_for_good(class: Class, fault: Fault, file: &str) -> bool {
    let path = file.split_once(' ').map_or(file, |(_, path)| path);
    let is_temporary = |name: &str| {
        [".new", "index.next"].iter().any(|end| name.ends_with(end)) || name.contains(".new-")
    };
    let is_named = !path.split('/').any(is_temporary);
    class == Class::Sync && matches!(fault, Fault::Eio | Fault::Enospc) && is_named
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to).with_context(|| format!("{}", to.display()))?;
        }
    }
    Ok(())
}

/// The report for people.
pub fn describe(report: &SyscallsReport) -> String {
    let mut text = format!("{:<32} {:>7} {:>8} {:>7}\n", "", "calls", "went on", "ended");
    for (name, tally) in &report.tallies {
        let Tally { runs, went_on, ended } = tally;
        text.push_str(&format!("{name:<32} {runs:>7} {went_on:>8} {ended:>7}\n"));
    }
    text.push_str(&format!("{} system calls failed, one a run\n", report.runs));
    for found in &report.found {
        let Found { phase, class, fault, at, file, violation } = found;
        text.push_str(&format!(
            "BROKEN {phase:?}, {class:?} number {at}, {fault:?}, {}: {:?}: {}\n",
            file.as_deref().unwrap_or_default(),
            violation.broken,
            violation.detail
        ));
    }
    text.push_str(if report.holds() { "held\n" } else { "DID NOT HOLD\n" });
    text
}
