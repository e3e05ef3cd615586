//! `turnpike-bench run`, `scenario`, `report` and `compare`.

use super::{EXIT_BROKEN, EXIT_INVALID, progress_bar, threads, unix_s};
use anyhow::{Context, bail};
use bench::corpus::prepared::Prepared;
use bench::load::{Live, Metric, Target};
use bench::report::{self, Machine, Relay, Report, ScenarioResult, figures, text};
use bench::run::{Progress, RunOptions, Stage, run_once, server};
use bench::scenario::{self, Compiled, Scenario, Sizing};
use clap::{Args, Subcommand, ValueEnum};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Put scenarios on a relay and write a report.
///
/// Works against any relay by its ws:// URL. Every event is fresh, so the same command can be given
/// again; events are dated now unless --base-time says otherwise. Writes report.html, report.json
/// and .hgrm files into --out and a summary to the terminal.
///
/// The size: --scale 1 is the published one; `auto` fits CPUs and open files of this machine. --time
/// does the same for durations.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    turnpike-bench run --all --scale auto ws://127.0.0.1:7777\n  \
    turnpike-bench run baseline broadcast --scale 1 --time 1 ws://relay.example:7777\n  \
    turnpike-bench run mixed --repeat 5 --vs ws://127.0.0.1:8888 ws://127.0.0.1:7777\n  \
    turnpike-bench run my-load.toml --corpus dump.corpus ws://127.0.0.1:7777\n\n\
    Exit codes: 0 all thresholds hold, 1 failed, 2 wrong usage, 3 a threshold is broken, 4 a run is \
    invalid because the client was the bottleneck.")]
pub struct RunArgs {
    /// Scenarios by name, or as FILE.toml, and the relay's URL, ws://HOST:PORT
    #[arg(required = true, value_name = "SCENARIO|URL")]
    words: Vec<String>,
    /// All scenarios of the binary
    #[arg(long)]
    all: bool,
    /// A second relay; runs alternate, and the report has the ratios
    #[arg(long, value_name = "URL")]
    vs: Option<String>,
    /// Factor on rates, connections and stored events, or `auto`
    #[arg(long, default_value = "auto")]
    scale: String,
    /// Factor on durations, or `auto` (a level of 15 s)
    #[arg(long, default_value = "auto")]
    time: String,
    /// Runs of each scenario on each relay; from two on, figures have confidence intervals
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Start of the random streams of events and plans
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `created_at` of the newest event, unix seconds; now by default
    #[arg(long)]
    base_time: Option<u32>,
    /// Publish events of this prepared file instead of the scenario's own
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Directory for the report
    #[arg(long, default_value = "turnpike-bench-report", value_name = "DIR")]
    out: PathBuf,
    /// Client threads; 0 is one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// CPUs that client threads are bound to, as 2,3
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    pin: Vec<usize>,
    /// Process of the relay, where it is not the one that listens on the port
    #[arg(long)]
    pid: Option<u32>,
    /// What the exit code judges
    #[arg(long, value_enum, default_value_t = Gate::All)]
    gate: Gate,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Gate {
    /// Every threshold, and that runs are valid
    All,
    /// Errors alone: for machines too noisy for latencies
    Errors,
    /// Nothing
    None,
}

/// Show the scenarios.
#[derive(Args)]
pub struct ScenarioArgs {
    #[command(subcommand)]
    command: ScenarioCommand,
}

#[derive(Subcommand)]
enum ScenarioCommand {
    /// Names and titles.
    List,
    /// The TOML of one, to copy and change.
    #[command(after_help = "Example:\n  \
        turnpike-bench scenario show mixed > my-load.toml\n  \
        turnpike-bench run my-load.toml ws://127.0.0.1:7777")]
    Show {
        /// Name of a scenario
        name: String,
    },
}

/// Render a report again from its JSON.
#[derive(Args)]
#[command(after_help = "Example:\n  turnpike-bench report turnpike-bench-report/report.json")]
pub struct ReportArgs {
    /// The report.json of a run
    file: PathBuf,
    /// The page to write; beside the file by default
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

/// Compare two reports, figure by figure.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    turnpike-bench compare before/report.json after/report.json\n\n\
    Ratios are first over second; with repeated runs they carry 95 % intervals, and only what lies \
    outside the noise is called better or worse.")]
pub struct CompareArgs {
    /// The first report.json
    first: PathBuf,
    /// The second
    second: PathBuf,
}

pub fn scenario(args: &ScenarioArgs) -> anyhow::Result<()> {
    match &args.command {
        ScenarioCommand::List => {
            for name in scenario::names() {
                println!("{name:<14} {}", scenario::load(name)?.title);
            }
        }
        ScenarioCommand::Show { name } => match scenario::source(name) {
            Some(text) => print!("{text}"),
            None => bail!(scenario::ScenarioError::Unknown(name.clone())),
        },
    }
    Ok(())
}

pub fn report(args: &ReportArgs) -> anyhow::Result<()> {
    let report = read_report(&args.file)?;
    let out = args.out.clone().unwrap_or_else(|| args.file.with_extension("html"));
    std::fs::write(&out, report::html(&report))
        .with_context(|| format!("cannot write {}", out.display()))?;
    for result in &report.scenarios {
        println!("{}", text::scenario(&report, result));
    }
    println!("{}", out.display());
    Ok(())
}

pub fn compare(args: &CompareArgs) -> anyhow::Result<()> {
    let (first, second) = (read_report(&args.first)?, read_report(&args.second)?);
    print!("{}", report::compare::reports(&first, &second));
    Ok(())
}

fn read_report(path: &Path) -> anyhow::Result<Report> {
    let name = path.display();
    let text = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let report: Report =
        serde_json::from_slice(&text).with_context(|| format!("{name} is no report"))?;
    if report.format != report::FORMAT {
        bail!("{name} has format {}, this tool reads {}", report.format, report::FORMAT);
    }
    Ok(report)
}

/// What a run needs to know of its arguments.
struct Session<'a> {
    args: &'a RunArgs,
    scenarios: Vec<Scenario>,
    targets: Vec<Target>,
    options: RunOptions,
    corpus: Option<Prepared>,
    base_time: u32,
}

type Histograms = BTreeMap<Metric, Histogram<u64>>;

pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let session = Session::new(args)?;
    let machine = Machine::here();
    let mut relays = Vec::new();
    for target in &session.targets {
        let process = server(target, &session.options);
        relays.push(Relay::ask(target, process.as_ref()));
    }
    let mut report = Report {
        format: report::FORMAT,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        started_s: unix_s(),
        seed: args.seed,
        base_time: session.base_time,
        machine,
        relays,
        scenarios: Vec::new(),
    };
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    for scenario in &session.scenarios {
        let result = session.scenario(scenario)?;
        report.scenarios.push(result);
        let last = report.scenarios.last().expect("it was just pushed");
        println!("{}", text::scenario(&report, last));
        // Written after every scenario: an interrupted run leaves what it has.
        write_report(&report, &args.out)?;
    }
    if report.relays.len() == 2 {
        print!("{}", report::compare::relays(&report));
    }
    println!("{}", args.out.join("report.html").display());
    Ok(exit_code(&report, args.gate))
}

fn exit_code(report: &Report, gate: Gate) -> ExitCode {
    match gate {
        Gate::None => ExitCode::SUCCESS,
        Gate::Errors => {
            let is_broken = report.scenarios.iter().any(|result| {
                (0..report.relays.len()).any(|relay| {
                    let verdicts = result.verdicts(relay);
                    verdicts.iter().any(|one| one.figure == "error_percent" && !one.holds)
                })
            });
            if is_broken { ExitCode::from(EXIT_BROKEN) } else { ExitCode::SUCCESS }
        }
        Gate::All if report.broken() > 0 => ExitCode::from(EXIT_BROKEN),
        Gate::All if report.invalid() > 0 => ExitCode::from(EXIT_INVALID),
        Gate::All => ExitCode::SUCCESS,
    }
}

fn write_report(report: &Report, out: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_vec(report).context("the report is plain data")?;
    for (name, bytes) in [("report.json", json), ("report.html", report::html(report).into_bytes())]
    {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl<'a> Session<'a> {
    fn new(args: &'a RunArgs) -> anyhow::Result<Self> {
        let is_url = |word: &&String| word.contains("://");
        let urls: Vec<&String> = args.words.iter().filter(is_url).collect();
        let [url] = urls[..] else {
            bail!("one relay is needed, as ws://HOST:PORT; a second one is given with --vs");
        };
        let mut names: Vec<String> = Vec::new();
        if args.all {
            names.extend(scenario::names().map(str::to_owned));
        }
        names.extend(args.words.iter().filter(|word| !is_url(word)).cloned());
        if names.is_empty() {
            bail!("name a scenario, or give --all; `turnpike-bench scenario list` has the names");
        }
        let scenarios = names.iter().map(|name| scenario::load(name)).collect::<Result<_, _>>()?;
        let mut targets = vec![Target::parse(url)?];
        if let Some(rival) = &args.vs {
            targets.push(Target::parse(rival)?);
        }
        targets.iter_mut().for_each(Target::learn_limits);
        let corpus = match &args.corpus {
            Some(path) => Some(read_corpus(path)?),
            None => None,
        };
        Ok(Self {
            args,
            scenarios,
            targets,
            options: RunOptions { threads: args.threads, pin: args.pin.clone(), pid: args.pid },
            corpus,
            base_time: args.base_time.unwrap_or_else(|| unix_s() as u32),
        })
    }

    fn sizing(&self, scenario: &Scenario) -> anyhow::Result<Sizing> {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let auto = Sizing::auto(scenario, threads(0), files.unwrap_or(u64::MAX));
        let factor = |text: &str, auto: f64| -> anyhow::Result<f64> {
            if text == "auto" {
                return Ok(auto);
            }
            let value: f64 = text.parse().with_context(|| format!("{text} is no factor"))?;
            if !(value > 0.0 && value <= 1_000.0) {
                bail!("a factor lies between 0 and 1000");
            }
            Ok(value)
        };
        Ok(Sizing {
            load: factor(&self.args.scale, auto.load)?,
            time: factor(&self.args.time, auto.time)?,
        })
    }

    /// Runs a scenario on every relay, `repeat` times; of two relays another begins each time.
    fn scenario(&self, scenario: &Scenario) -> anyhow::Result<ScenarioResult> {
        let sizing = self.sizing(scenario)?;
        let mut result: Option<ScenarioResult> = None;
        let mut histograms: Vec<Vec<Histograms>> = vec![Vec::new(); self.targets.len()];
        for repeat in 0..self.args.repeat {
            let compiled = self.compile(scenario, sizing, repeat);
            let mut order: Vec<usize> = (0..self.targets.len()).collect();
            if repeat % 2 == 1 {
                order.reverse();
            }
            for relay in order {
                let mut bar = Bar::new(&compiled, repeat, relay);
                let finished = run_once(&compiled, &self.targets[relay], &self.options, &mut bar)
                    .with_context(|| {
                    format!("{} on {}", scenario.name, self.targets[relay].url)
                })?;
                bar.finish();
                let mut run = finished.run;
                (run.relay, run.repeat) = (relay, repeat);
                histograms[relay].push(finished.histograms);
                result.get_or_insert_with(|| empty_result(&compiled)).runs.push(run);
            }
        }
        self.write_hgrm(scenario, &histograms)?;
        Ok(result.expect("there is at least one repetition"))
    }

    fn compile(&self, scenario: &Scenario, sizing: Sizing, repeat: u32) -> Compiled {
        // Every scenario and every repetition has events of its own.
        let name = crc32c::crc32c(scenario.name.as_bytes());
        let mut state = self.args.seed ^ (u64::from(name) << 32) ^ (u64::from(repeat) << 20);
        let seed = bench::rng::splitmix64(&mut state);
        let template = format!(
            "{:<14} signing   {{bar:30}} {{human_pos}} of {{human_len}} events",
            scenario.name
        );
        let bar = progress_bar(1, &template);
        let mut compiled = scenario::compile(
            scenario,
            sizing,
            seed,
            self.base_time,
            threads(0),
            &mut |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            },
        );
        bar.finish_and_clear();
        if let Some(corpus) = &self.corpus {
            compiled.replace_events(corpus, repeat);
        }
        compiled
    }

    fn write_hgrm(&self, scenario: &Scenario, all: &[Vec<Histograms>]) -> anyhow::Result<()> {
        for (relay, histograms) in all.iter().enumerate() {
            for (metric, merged) in figures::merge_histograms(histograms) {
                let which = match (all.len(), relay) {
                    (1, _) => "",
                    (_, 0) => ".first",
                    _ => ".second",
                };
                let name = format!("{}{which}.{}.hgrm", scenario.name, metric.name());
                let path = self.args.out.join(name);
                std::fs::write(&path, report::write_hgrm(&merged))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }
}

fn read_corpus(path: &Path) -> anyhow::Result<Prepared> {
    let name = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    let prepared = Prepared::read(&mut std::io::BufReader::new(file)).with_context(|| {
        format!("{name}: `turnpike-bench corpus --format prepared` writes such files")
    })?;
    if prepared.frames.is_empty() {
        bail!("{name} holds no event");
    }
    Ok(prepared)
}

fn empty_result(compiled: &Compiled) -> ScenarioResult {
    let seconds = |ns: u64| ns as f64 / 1e9;
    ScenarioResult {
        scenario: compiled.scenario.clone(),
        sizing: compiled.sizing,
        connections: compiled.connections,
        preload: compiled.preload,
        window_s: (seconds(compiled.window_ns.0), seconds(compiled.window_ns.1)),
        runs: Vec::new(),
    }
}

/// The progress bar of one run.
struct Bar {
    bar: indicatif::ProgressBar,
    stage: Option<Stage>,
    name: String,
}

impl Bar {
    fn new(compiled: &Compiled, repeat: u32, relay: usize) -> Self {
        let bar = progress_bar(1, "{prefix} {bar:30} {msg}");
        let name = match (repeat, relay) {
            (0, 0) => compiled.scenario.name.clone(),
            _ => format!("{} {}.{}", compiled.scenario.name, repeat + 1, relay + 1),
        };
        Self { bar, stage: None, name }
    }

    fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn at(&mut self, stage: Stage, done: u64, total: u64, live: &Live) {
        if self.stage != Some(stage) {
            self.stage = Some(stage);
            let what = match stage {
                Stage::Connect => "connecting",
                Stage::Preload => "storing",
                Stage::Subscribe => "subscribing",
                Stage::Load => "loading",
            };
            self.bar.set_prefix(format!("{:<14} {what:<11}", self.name));
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        let count = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::Relaxed);
        self.bar.set_message(match stage {
            Stage::Load => format!(
                "{:.0} of {:.0} s: {} events, {} queries, {} deliveries",
                done as f64 / 1e9,
                total as f64 / 1e9,
                count(&live.answers),
                count(&live.queries),
                count(&live.deliveries),
            ),
            _ => format!("{done} of {total}"),
        });
    }
}
