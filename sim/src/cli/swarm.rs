//! Many seeds on all cores. Each job is a process of its own, so that a panic of the product, which
//! ends a process, is one more failure and not the end of the swarm.

use super::report::{replay, say};
use super::{Less, report};
use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use sim::plan::Overrides;
use sim::pool::Pool;
use sim::run;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// One run in so many is run twice, to see that its trace is the same.
const TWICE_EVERY: u64 = 100;
/// Failures that are printed whole.
const FAILURES_SHOWN: usize = 20;

/// Marks that any swarm of some thousand runs must reach: each fault, and the branches that only a
/// fault or a race leads to.
const WANTED: &[&str] = &[
    "a core fell off the ring",
    "a ring was full with tickets out",
    "a subscription was replaced",
    "authenticated",
    "bad signature refused",
    "banned event refused",
    "bit flipped",
    "deleted event refused",
    "event accepted",
    "event of a vanished key refused",
    "event over its rate",
    "event refused by a read error",
    "exact answer",
    "expired event refused",
    "generation left alone by a scan",
    "generation opened by a scan",
    "generation sealed",
    "generations written anew",
    "index rebuilt",
    "killed at work",
    "kills left out by a rewriting",
    "no room",
    "no room for a rewrite",
    "no room for upkeep",
    "other limits after a restart",
    "ping answered",
    "power cut at work",
    "query failed by a read error",
    "sectors kept",
    "sectors lost",
    "segments rewritten",
    "shut down in order",
    "start refused because of rot",
    "stopped while sealing",
    "stopped with a ticket out",
    "stopped within a rewrite",
    "stopped within an effect",
    "storage full",
    "store behind",
    "subscription of a slow reader closed",
    "ticket answered",
    "ticket sent",
    "twins under way together",
    "wall clock ahead",
    "wall clock back",
    "write failed",
    "wrong id refused",
];
/// Runs from which on the marks are judged.
const JUDGED_FROM: u64 = 1_500;

#[derive(Args)]
pub(super) struct Swarm {
    /// How many seeds; without it the swarm goes on for `--seconds`.
    #[arg(long, value_name = "COUNT")]
    seeds: Option<u64>,
    /// For how long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The first seed; a fresh one by default, from the clock.
    #[arg(long)]
    from: Option<u64>,
    /// Processes; one per core by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop at the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Worker {
    #[arg(long)]
    from: u64,
    #[arg(long)]
    step: u64,
    #[arg(long)]
    count: u64,
}

/// A line of a worker.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Begins(u64),
    Held { marks: BTreeMap<String, u64>, ops: u64, elapsed_us: u64 },
    Broke { seed: u64, text: String },
}

impl Worker {
    /// Runs its seeds, a line before and after each.
    pub(super) fn run(&self) -> anyhow::Result<bool> {
        let pool = Pool::new();
        let none = Overrides::default();
        for number in 0..self.count {
            let seed = self.from + number * self.step;
            tell(&Line::Begins(seed))?;
            let line = match run::run(seed, &none, &pool, false) {
                Ok(outcome) => {
                    let again = seed
                        .is_multiple_of(TWICE_EVERY)
                        .then(|| run::run(seed, &none, &pool, false).map(|again| again.trace).ok());
                    if again.is_some_and(|again| again != Some(outcome.trace)) {
                        let text = format!("seed {seed} runs differently the second time");
                        Line::Broke { seed, text }
                    } else {
                        let marks = outcome.marks.0.into_iter();
                        let marks = marks.map(|(name, count)| (name.to_owned(), count)).collect();
                        Line::Held { marks, ops: outcome.ops, elapsed_us: outcome.elapsed_us }
                    }
                }
                Err(failure) => {
                    let text = report::failure(seed, &Less::default(), &failure);
                    Line::Broke { seed, text }
                }
            };
            tell(&line)?;
        }
        Ok(true)
    }
}

fn tell(line: &Line) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// What a swarm came to.
#[derive(Debug, Default, Serialize)]
struct Sum {
    seeds: u64,
    ops: u64,
    virtual_seconds: u64,
    seconds: u64,
    failed: u64,
    marks: BTreeMap<String, u64>,
    never: Vec<&'static str>,
    #[serde(skip)]
    failures: Vec<String>,
}

impl Swarm {
    pub(super) fn run(&self) -> anyhow::Result<bool> {
        let jobs = self.jobs.unwrap_or_else(cores).max(1);
        let from = self.from.unwrap_or_else(fresh_seed);
        let began = Instant::now();
        let deadline = self.seeds.is_none().then(|| Duration::from_secs(self.seconds));
        let (lines, heard) = channel();
        let mut workers = Vec::new();
        for job in 0..jobs as u64 {
            // Every worker takes each `jobs`-th seed, the first ones one more than the others.
            let jobs = jobs as u64;
            let left = self.seeds.map_or(u64::MAX / 4, |seeds| (seeds + jobs - 1 - job) / jobs);
            workers.push(start(job as usize, (from + job, jobs, left), &lines)?);
        }
        drop(lines);
        let bar = progress(self.seeds, self.seconds);
        let mut sum = Sum::default();
        for (job, line) in &heard {
            match line {
                Some(Line::Begins(seed)) => workers[job].current = Some(seed),
                Some(Line::Held { marks, ops, elapsed_us }) => {
                    workers[job].current = None;
                    sum.seeds += 1;
                    sum.ops += ops;
                    sum.virtual_seconds += elapsed_us / 1_000_000;
                    for (name, count) in marks {
                        *sum.marks.entry(name).or_insert(0) += count;
                    }
                }
                Some(Line::Broke { text, .. }) => {
                    workers[job].current = None;
                    sum.broke(text);
                }
                None => {
                    if let Some(seed) = workers[job].current.take() {
                        sum.broke(format!(
                            "seed {seed} ended the process: a panic of the product\n{}",
                            replay(seed, &Less::default())
                        ));
                    }
                }
            }
            show(&bar, &sum, self.seeds.is_some(), began);
            let is_over = deadline.is_some_and(|deadline| began.elapsed() >= deadline);
            if is_over || self.fail_fast && sum.failed > 0 {
                break;
            }
        }
        for worker in &mut workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
        bar.finish_and_clear();
        sum.seconds = began.elapsed().as_secs();
        self.report(sum, from)
    }

    fn report(&self, mut sum: Sum, from: u64) -> anyhow::Result<bool> {
        if sum.seeds >= JUDGED_FROM {
            sum.never =
                WANTED.iter().copied().filter(|name| !sum.marks.contains_key(*name)).collect();
        }
        for text in sum.failures.iter().take(FAILURES_SHOWN) {
            say(text);
        }
        if self.json {
            say(&serde_json::to_string(&sum)?);
        } else {
            for (name, count) in &sum.marks {
                say(&format!("{count:>10} {name}"));
            }
            let rate = sum.seeds / sum.seconds.max(1);
            say(&format!(
                "{} seeds from {from} in {} s ({rate} a second), {} operations, {} virtual seconds",
                sum.seeds + sum.failed,
                sum.seconds,
                sum.ops,
                sum.virtual_seconds
            ));
        }
        for name in &sum.never {
            say(&format!("never reached: {name}"));
        }
        say(&format!("swarm: {} passed, {} failed", sum.seeds, sum.failed));
        Ok(sum.failed == 0 && sum.never.is_empty())
    }
}

impl Sum {
    fn broke(&mut self, text: String) {
        self.failed += 1;
        self.failures.push(text);
    }
}

struct Started {
    child: Child,
    /// The seed that it is running.
    current: Option<u64>,
}

type Heard = (usize, Option<Line>);

fn start(
    job: usize,
    (from, step, count): (u64, u64, u64),
    lines: &Sender<Heard>,
) -> anyhow::Result<Started> {
    let program = std::env::current_exe().context("this program has no path")?;
    let mut child = Command::new(program)
        .args(["worker", "--from", &from.to_string(), "--step", &step.to_string()])
        .args(["--count", &count.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("a worker cannot be started")?;
    let stdout = child.stdout.take().context("a worker has no output")?;
    listen(job, stdout, lines.clone());
    Ok(Started { child, current: None })
}

fn listen(job: usize, stdout: ChildStdout, lines: Sender<Heard>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Ok(line) = serde_json::from_str(&line)
                && lines.send((job, Some(line))).is_err()
            {
                return;
            }
        }
        let _ = lines.send((job, None));
    });
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_millis() as u64 * 1_000)
}

fn progress(seeds: Option<u64>, seconds: u64) -> ProgressBar {
    let bar = ProgressBar::new(seeds.unwrap_or(seconds));
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} [{elapsed}]");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn show(bar: &ProgressBar, sum: &Sum, by_seeds: bool, began: Instant) {
    let done = if by_seeds { sum.seeds + sum.failed } else { began.elapsed().as_secs() };
    bar.set_position(done);
    bar.set_message(format!("{} seeds held, {} broke", sum.seeds, sum.failed));
}
