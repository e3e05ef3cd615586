//! Write-trace replay: a workload over the real store is traced call by call, and for every call the
//! states that a power cut may leave are laid out, opened as a start opens them, and judged.

mod case;
mod disk;
mod effect;
mod judge;
mod scratch;
mod strace;

use crate::check::{Broken, Checker, Violation};
use crate::marks::Mark;
use anyhow::Context;
use case::{Case, CaseOptions};
use disk::Lie;
use effect::Action;
use indicatif::ProgressBar;
use judge::Counts;
pub use judge::{JudgeOptions, judge};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Violations of one kind that are reported in full.
const REPORTED_MAX: usize = 3;
/// Effects that a judge is given at a time.
const RANGE: usize = 200;

/// Options of `trace`.
#[derive(Clone, Debug, clap::Args)]
pub struct TraceOptions {
    /// Seed of the first case; the next have the numbers after it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// States to judge at least, over as many cases as that takes
    #[arg(long, default_value_t = 20_000)]
    pub states: u64,
    /// Steps of the workload of a case
    #[arg(long, default_value_t = 120)]
    pub steps: usize,
    /// Images per system call
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    pub variants: u32,
    /// Processes that judge; 0 is one per core
    #[arg(long, default_value_t = 0)]
    pub jobs: usize,
    /// Show that flaws are found: batches without syncs, answers before their batch, a disk that lies
    /// about the index or about directories
    #[arg(long)]
    pub control: bool,
    /// Folder in memory to work in [default: /dev/shm, or the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// One violation, and where it is.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Seed of the case.
    pub seed: u64,
    /// Effect after which the power was cut.
    pub effect: usize,
    /// Which of the images.
    pub variant: u32,
    /// What is broken.
    #[serde(flatten)]
    pub violation: Violation,
}

/// What judging a case gave.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Judged {
    /// What was done.
    #[serde(flatten)]
    pub counts: Counts,
    /// How often each promise was broken.
    pub broken: BTreeMap<Broken, u64>,
    /// The first few of each.
    pub found: Vec<Found>,
}

impl Judged {
    fn add(&mut self, other: Self) {
        self.counts.add(&other.counts);
        for (broken, count) in other.broken {
            *self.broken.entry(broken).or_default() += count;
        }
        self.found.extend(other.found);
    }

    fn learn(&mut self, found: Found) {
        let count = self.broken.entry(found.violation.broken).or_default();
        *count += 1;
        if *count <= REPORTED_MAX as u64 {
            self.found.push(found);
        }
    }

    /// Broken promises of any kind.
    pub fn violations(&self) -> u64 {
        self.broken.values().sum()
    }
}

/// The result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TraceReport {
    /// Cases.
    pub cases: u64,
    /// Processes traced in them.
    pub lives: u64,
    /// Of those, ones that were killed at a system call.
    pub killed: u64,
    /// And ones that ended because a sync had failed.
    pub failed: u64,
    /// System calls traced.
    pub calls: u64,
    /// Of those, ones that did something to a file.
    pub effects: u64,
    /// What judging gave.
    #[serde(flatten)]
    pub judged: Judged,
    /// Time that judging took.
    pub judging_s: f64,
    /// Folder of the first case that broke a promise.
    pub kept: Option<PathBuf>,
    /// Flaws, with the number of violations that each led to.
    pub controls: Vec<(String, Judged)>,
}

impl TraceReport {
    /// Whether everything held, and every flaw was found.
    pub fn holds(&self) -> bool {
        self.judged.violations() == 0
            && self.controls.iter().all(|(_, judged)| judged.violations() > 0)
    }
}

/// A flaw that has to be found.
struct Control {
    name: &'static str,
    skips_syncs: bool,
    acks_early: bool,
    lie: Option<Lie>,
}

const CONTROLS: [Control; 4] = [
    Control { name: "batches are not synced", skips_syncs: true, acks_early: false, lie: None },
    Control {
        name: "answers come before the batch",
        skips_syncs: false,
        acks_early: true,
        lie: None,
    },
    Control {
        name: "syncs of the index do nothing",
        skips_syncs: false,
        acks_early: false,
        lie: Some(Lie::Index),
    },
    Control {
        name: "syncs of directories do nothing",
        skips_syncs: false,
        acks_early: false,
        lie: Some(Lie::Directories),
    },
];

/// Runs `trace`.
///
/// # Errors
/// When nothing can be judged: strace is missing, or a trace is not understood.
pub fn run(options: &TraceOptions) -> anyhow::Result<TraceReport> {
    let work = crate::work_folder(options.work.as_deref())?;
    let mut report = TraceReport::default();
    let bar = crate::progress(options.states);
    let mut seed = options.seed;
    while report.judged.counts.states < options.states {
        bar.set_message(format!("case {seed}: recording"));
        let folder = work.path().join(format!("case-{seed}"));
        let case_options = CaseOptions { seed, steps: options.steps, ..CaseOptions::default() };
        let case = Case::record(&case_options, &folder).with_context(|| format!("case {seed}"))?;
        bar.set_message(format!("case {seed}: judging"));
        let began = std::time::Instant::now();
        let judged = judge_case(options, &case, None, work.path(), &bar)?;
        report.judging_s += began.elapsed().as_secs_f64();
        report.cases += 1;
        report.lives += case.lives.len() as u64;
        report.killed += case.killed as u64;
        report.failed += case.failed as u64;
        report.calls += case.calls as u64;
        report.effects += case.effects.len() as u64;
        let is_broken = judged.violations() > 0;
        report.judged.add(judged);
        if is_broken {
            report.kept = Some(keep(&folder)?);
            break;
        }
        std::fs::remove_dir_all(&folder)?;
        seed += 1;
    }
    bar.finish_and_clear();
    if options.control {
        controls(options, work.path(), &mut report)?;
    }
    Ok(report)
}

fn controls(options: &TraceOptions, work: &Path, report: &mut TraceReport) -> anyhow::Result<()> {
    let bar = crate::progress(CONTROLS.len() as u64);
    for control in &CONTROLS {
        bar.set_message(format!("control: {}", control.name));
        let mut judged = Judged::default();
        // A flaw may need a case that exercises what it spoils.
        for seed in options.seed..options.seed + 4 {
            let folder = work.join("control");
            let steps = options.steps.min(60);
            let Control { skips_syncs, acks_early, .. } = *control;
            let flawed = CaseOptions { skips_syncs, acks_early, ..CaseOptions::default() };
            let case_options = CaseOptions { seed, steps, ..flawed };
            let case = Case::record(&case_options, &folder)?;
            judged.add(judge_case(options, &case, control.lie, work, &ProgressBar::hidden())?);
            std::fs::remove_dir_all(&folder)?;
            if judged.violations() > 0 {
                break;
            }
        }
        report.controls.push((control.name.to_owned(), judged));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Moves a case to where it outlives the run.
fn keep(folder: &Path) -> anyhow::Result<PathBuf> {
    let kept = tempfile::Builder::new().prefix("turnpike-crash-case-").tempdir()?.keep();
    let copied = Command::new("cp").arg("-a").arg(folder).arg(&kept).status()?;
    anyhow::ensure!(copied.success(), "the case cannot be kept in {}", kept.display());
    Ok(kept.join(folder.file_name().unwrap_or_default()))
}

/// What a judging thread reports.
enum Report {
    Broken(Found),
    Range(Counts),
    Failed(anyhow::Error),
}

fn judge_case(
    options: &TraceOptions,
    case: &Case,
    lie: Option<Lie>,
    work: &Path,
    bar: &ProgressBar,
) -> anyhow::Result<Judged> {
    let ranges: VecDeque<(usize, usize)> = (0..case.effects.len())
        .step_by(RANGE)
        .map(|from| (from, (from + RANGE).min(case.effects.len())))
        .collect();
    let ranges = Arc::new(Mutex::new(ranges));
    let jobs = match options.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let (reports, reported) = channel();
    let mut judged = Judged::default();
    let checker = Checker::new(case.options.seed, case.options.steps);
    for (effect, done) in case.effects.iter().enumerate() {
        if let Action::Mark(Mark::Decided(first, stored)) = &done.action
            && let Some(violation) = checker.check_decisions(*first, stored)
        {
            judged.learn(Found { seed: case.options.seed, effect, variant: 0, violation });
        }
    }
    std::thread::scope(|scope| {
        for number in 0..jobs {
            let ranges = Arc::clone(&ranges);
            let reports = reports.clone();
            let scratch = work.join(format!("judge-{number}"));
            let folder = scratch.clone();
            let command = move || judge_command(options, case, lie, &folder);
            let seed = case.options.seed;
            let mut worker =
                Worker { seed, reports, command: Box::new(command), scratch: scratch.clone() };
            scope.spawn(move || worker.run(&ranges));
        }
        drop(reports);
        let mut failed = None;
        for report in reported {
            match report {
                Report::Broken(found) => judged.learn(found),
                Report::Range(counts) => {
                    bar.inc(counts.states);
                    judged.counts.add(&counts);
                }
                Report::Failed(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    })?;
    Ok(judged)
}

fn judge_command(
    options: &TraceOptions,
    case: &Case,
    lie: Option<Lie>,
    scratch: &Path,
) -> anyhow::Result<Command> {
    use clap::ValueEnum;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("judge").arg("--case").arg(&case.folder).arg("--scratch").arg(scratch);
    command.args(["--variants", &options.variants.to_string()]);
    if let Some(lie) = lie.and_then(|lie| lie.to_possible_value()) {
        command.args(["--lie", lie.get_name()]);
    }
    // Opening LMDB takes two megabytes that it hardly touches; zeroed anew each time they would be the
    // dearest part of a state.
    command.env("MALLOC_MMAP_THRESHOLD_", "131072");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command)
}

/// Drives one judge process after another.
struct Worker<'a> {
    seed: u64,
    reports: Sender<Report>,
    command: Box<dyn Fn() -> anyhow::Result<Command> + Send + 'a>,
    scratch: PathBuf,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Worker<'_> {
    fn run(&mut self, ranges: &Mutex<VecDeque<(usize, usize)>>) {
        let mut process = None;
        loop {
            let range = ranges.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((from, to)) = range else { break };
            if let Err(error) = self.range(&mut process, from, to) {
                // Whoever gathers the reports lives as long as this thread.
                let _ = self.reports.send(Report::Failed(error));
                break;
            }
        }
        if let Some(Process { mut child, stdin, .. }) = process {
            drop(stdin);
            let _ = child.wait();
        }
    }

    fn start(&self) -> anyhow::Result<Process> {
        // A process that died may have left anything.
        if self.scratch.exists() {
            std::fs::remove_dir_all(&self.scratch)?;
        }
        let mut child = (self.command)()?.spawn()?;
        let stdin = child.stdin.take().context("a judge has an input")?;
        let stdout = child.stdout.take().context("a judge has an output")?;
        Ok(Process { child, stdin, lines: BufReader::new(stdout).lines() })
    }

    /// Has one range judged, by as many processes as it kills.
    fn range(&self, running: &mut Option<Process>, from: usize, to: usize) -> anyhow::Result<()> {
        let mut first = (from, 0);
        loop {
            let mut process = match running.take() {
                Some(process) => process,
                None => self.start()?,
            };
            writeln!(process.stdin, "{from} {to} {} {}", first.0, first.1)?;
            process.stdin.flush()?;
            let mut opening = None;
            let counts = self.listen(&mut process, &mut opening)?;
            if let Some(counts) = counts {
                let _ = self.reports.send(Report::Range(counts));
                *running = Some(process);
                return Ok(());
            }
            let status = process.child.wait()?;
            let Some((effect, variant)) = opening else {
                anyhow::bail!("a judge ended before it opened anything: {status}");
            };
            let Some(signal) = status.signal() else {
                anyhow::bail!("a judge failed at {effect}:{variant}: {status}");
            };
            let detail = format!("opening it ended the process with signal {signal}");
            let violation = Violation { broken: Broken::Signal, detail };
            let _ = self.reports.send(Report::Broken(Found {
                seed: self.seed,
                effect,
                variant,
                violation,
            }));
            first = (effect, variant + 1);
        }
    }

    fn listen(
        &self,
        process: &mut Process,
        opening: &mut Option<(usize, u32)>,
    ) -> anyhow::Result<Option<Counts>> {
        let place = |words: &str| -> Option<(usize, u32)> {
            let (effect, variant) = words.split_once(' ')?;
            Some((effect.parse().ok()?, variant.parse().ok()?))
        };
        for line in process.lines.by_ref() {
            let Ok(line) = line else { return Ok(None) };
            match line.split_at_checked(2) {
                Some(("@ ", rest)) => *opening = place(rest),
                Some(("! ", rest)) => {
                    let mut words = rest.splitn(3, ' ');
                    let at = (words.next(), words.next(), words.next());
                    let (Some(effect), Some(variant), Some(json)) = at else {
                        anyhow::bail!("a judge said {line}");
                    };
                    let found = Found {
                        seed: self.seed,
                        effect: effect.parse()?,
                        variant: variant.parse()?,
                        violation: serde_json::from_str(json)?,
                    };
                    let _ = self.reports.send(Report::Broken(found));
                }
                Some(("= ", rest)) => return Ok(Some(serde_json::from_str(rest)?)),
                _ => anyhow::bail!("a judge said {line}"),
            }
        }
        Ok(None)
    }
}

/// The report for people.
pub fn describe(report: &TraceReport) -> String {
    let counts = &report.judged.counts;
    let mut text = format!(
        "{} cases, {} processes ({} killed, {} ended by a failed sync), {} system calls, {} effects \
         on files\n{} states judged of {} images, {:.0} a second\n{} with a step in flight, {} with \
         a torn log, {} without a directory, {} scrubbed, {} written to and judged again\n",
        report.cases,
        report.lives,
        report.killed,
        report.failed,
        report.calls,
        report.effects,
        counts.states,
        counts.images,
        counts.states as f64 / report.judging_s.max(0.001),
        counts.in_flight,
        counts.torn,
        counts.unmade,
        counts.scrubbed,
        counts.went_on,
    );
    for (broken, count) in &report.judged.broken {
        text.push_str(&format!("BROKEN {broken:?}: {count}\n"));
    }
    for found in &report.judged.found {
        let Found { seed, effect, variant, violation } = found;
        text.push_str(&format!(
            "  seed {seed}, effect {effect}, image {variant}: {:?}: {}\n",
            violation.broken, violation.detail
        ));
    }
    for (name, judged) in &report.controls {
        let kinds: Vec<String> =
            judged.broken.iter().map(|(broken, count)| format!("{count} {broken:?}")).collect();
        let verdict = if kinds.is_empty() { "NOT FOUND".to_owned() } else { kinds.join(", ") };
        text.push_str(&format!("control: {name}: {verdict}\n"));
    }
    if let (Some(kept), Some(found)) = (&report.kept, report.judged.found.first()) {
        text.push_str(&format!(
            "to repeat: turnpike-crash judge --case {} --scratch SCRATCH --at {}:{}\n",
            kept.display(),
            found.effect,
            found.variant
        ));
    }
    text.push_str(if report.holds() { "held\n" } else { "DID NOT HOLD\n" });
    text
}
