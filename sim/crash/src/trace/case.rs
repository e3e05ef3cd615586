//! A case: one plan lived through by one process after another, each traced, over one folder. Some end
//! in order, some leave abruptly, some are killed at a system call that the seed draws, some have a
//! sync fail; between them the log is compacted, the index rebuilt, the directory resharded.

use super::disk::{Disk, Survival};
use super::effect::{Action, Effect, Interpreter, LOCKS};
use super::strace::{self, HARMLESS};
use crate::life::Work;
use crate::marks::{Known, Mark};
use crate::plan::Plan;
use crate::world::Flaw;
use anyhow::{Context, bail, ensure};
use bench::rng::{Rng, splitmix64};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lives of one case at most; the plan is over long before.
const LIVES_MAX: usize = 200;
/// Calls at which a life may be killed, with how many of them one life makes at most, about.
const DEADLY: [(&str, u64); 8] = [
    ("pwrite64", 80),
    ("pwrite64", 12),
    ("fdatasync", 16),
    ("fsync", 18),
    ("?rename,?renameat,?renameat2", 3),
    ("?unlink,?unlinkat", 4),
    ("ftruncate", 4),
    ("write,writev", 24),
];

/// What a case was made from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CaseOptions {
    /// Seed of the plan and of the lives.
    pub seed: u64,
    /// Steps of the plan.
    pub steps: usize,
    /// What is left out on purpose.
    pub skips_syncs: bool,
    /// What is said too early on purpose.
    pub acks_early: bool,
    /// The folder in which it was recorded, whose name stands in the traces; filled in by that.
    #[serde(default)]
    pub recorded_in: PathBuf,
}

impl CaseOptions {
    fn flaw(&self) -> Flaw {
        match (self.skips_syncs, self.acks_early) {
            (true, _) => Flaw::SkipSyncs,
            (_, true) => Flaw::AckEarly,
            _ => Flaw::None,
        }
    }
}

/// A recorded case, in a folder of its own.
#[derive(Debug)]
pub struct Case {
    /// What it was made from.
    pub options: CaseOptions,
    /// Where it is.
    pub folder: PathBuf,
    /// What its processes did, in order.
    pub effects: Vec<Effect>,
    /// System calls in its traces.
    pub calls: usize,
    /// Processes, each with how many of the effects there are at its end.
    pub lives: Vec<usize>,
    /// Of these, ones that were killed.
    pub killed: usize,
    /// And ones that ended because a sync had failed.
    pub failed: usize,
}

/// How one life ends.
#[derive(Clone, Debug)]
enum End {
    ByItself,
    /// Killed when it makes such a call for the so manieth time.
    Killed(&'static str, u64),
    /// That sync fails.
    SyncFails(&'static str, u64),
}

struct Recorder<'a> {
    options: &'a CaseOptions,
    folder: &'a Path,
    rng: Rng,
    lives: usize,
    shards: u16,
}

impl Case {
    /// Lives through a plan in an empty folder and reads what it left.
    ///
    /// # Errors
    /// When a process cannot be traced, the trace cannot be read, or replaying it does not give what is
    /// really in the folder: then nothing may be judged by it.
    pub fn record(options: &CaseOptions, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder.join("root"))?;
        let recorded_in = std::fs::canonicalize(folder)?;
        let options = &CaseOptions { recorded_in, ..options.clone() };
        std::fs::write(folder.join("case.json"), serde_json::to_string(options)?)?;
        let rng = Rng::new(options.seed ^ 0x11f3_5000);
        let mut recorder = Recorder { options, folder, rng, lives: 0, shards: 1 };
        recorder.run()?;
        let case = Self::load(folder)?;
        case.self_check()?;
        Ok(case)
    }

    /// Reads a case that was recorded before.
    ///
    /// # Errors
    /// When it is not there or its traces cannot be read.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let json = std::fs::read(folder.join("case.json"));
        let json = json.with_context(|| format!("{} holds no case", folder.display()))?;
        let options: CaseOptions = serde_json::from_slice(&json)?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let recorded_in = &options.recorded_in;
        let mut interpreter =
            Interpreter::new(&text(recorded_in.join("root")), &text(recorded_in.join("marks")));
        let (mut calls, mut lives, mut killed) = (0, Vec::new(), 0);
        while let Ok(trace) = std::fs::read(trace_path(folder, lives.len())) {
            let place = || format!("life {}", lives.len());
            let life = strace::parse(&trace).with_context(place)?;
            calls += life.len();
            let end = &trace[trace.len().saturating_sub(200)..];
            killed += usize::from(String::from_utf8_lossy(end).contains("killed by SIGKILL"));
            interpreter.process(&life).with_context(place)?;
            lives.push(interpreter.effects());
        }
        let mut effects = interpreter.finish();
        // What is said counts from when it began to be said.
        effects.sort_by_key(|effect| match effect.action {
            Action::Mark(_) => effect.began,
            _ => effect.returned,
        });
        ensure!(!effects.is_empty(), "the traces of {} concern no file", folder.display());
        let failed = |effect: &&Effect| matches!(effect.action, Action::Mark(Mark::Failed(_)));
        let failed = effects.iter().filter(failed).count();
        Ok(Self { options, folder: folder.to_owned(), effects, calls, lives, killed, failed })
    }

    /// Replays everything and compares what there is at the end of each life with what was really
    /// there, byte for byte.
    fn self_check(&self) -> anyhow::Result<()> {
        let mut disk = Disk::new(None);
        let mut done = 0;
        for (life, until) in self.lives.iter().enumerate() {
            for effect in &self.effects[done..*until] {
                disk.apply(effect);
            }
            done = *until;
            let image = disk.image(Survival::Everything, &mut Rng::new(0));
            let replayed = image.entries.iter().map(|entry| {
                (entry.path.clone(), entry.bytes.as_ref().map(|bytes| fingerprint(bytes)))
            });
            let replayed: Files = replayed.collect();
            let real: Files =
                serde_json::from_slice(&std::fs::read(files_path(&self.folder, life))?)?;
            let differs = |(path, content): &(&String, &_)| replayed.get(*path) != Some(content);
            let differing = real.iter().find(differs).map(|(path, _)| path);
            ensure!(
                differing.is_none(),
                "self-check, life {life}: {differing:?} is not as replayed"
            );
            let extra = replayed.keys().find(|path| !real.contains_key(*path));
            ensure!(extra.is_none(), "self-check, life {life}: {extra:?} is in the replay only");
        }
        Ok(())
    }
}

/// Files by path relative to the root, each by length and hash; directories have neither.
type Files = BTreeMap<String, Option<(u64, u64)>>;

fn fingerprint(bytes: &[u8]) -> (u64, u64) {
    let hash = bytes.chunks(8).fold(0, |hash: u64, chunk| {
        let word = chunk.iter().fold(1, |word: u64, byte| word << 8 | u64::from(*byte));
        splitmix64(&mut (hash ^ word))
    });
    (bytes.len() as u64, hash)
}

fn files_path(folder: &Path, life: usize) -> PathBuf {
    folder.join(format!("life-{life:03}.files"))
}

fn trace_path(folder: &Path, life: usize) -> PathBuf {
    folder.join(format!("life-{life:03}.trace"))
}

fn read_tree(folder: &Path, prefix: &str, into: &mut Files) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if entry.file_type()?.is_dir() {
            into.insert(path.clone(), None);
            read_tree(&entry.path(), &path, into)?;
        } else if !LOCKS.contains(&name.as_str()) {
            into.insert(path, Some(fingerprint(&std::fs::read(entry.path())?)));
        }
    }
    Ok(())
}

impl Recorder<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let entries = Plan::new(self.options.seed, self.options.steps).entries.len();
        // One half of the cases ends with more shards than one.
        let reshards_at = if self.rng.chance(1, 2) { entries * 3 / 4 } else { usize::MAX };
        while self.lives < LIVES_MAX {
            let known = self.known()?;
            let acked = known.acked_by_all();
            if acked >= entries {
                return Ok(());
            }
            let is_even = known.is_made && known.sent <= acked;
            if is_even && acked >= reshards_at && self.shards == 1 {
                let end = self.violent_end();
                if self.live(Work::Reshard { shards: 2 }, &known, false, &end)? {
                    self.shards = 2;
                }
                continue;
            }
            if is_even && acked > 0 && self.rng.chance(1, 10) {
                let work = if self.rng.chance(1, 2) { Work::Compact } else { Work::Reindex };
                let end = self.violent_end();
                self.live(work, &known, false, &end)?;
                continue;
            }
            let until = acked + self.rng.between(8, 60) as usize;
            match self.rng.below(10) {
                0..=3 => {
                    let work = Work::Steps { until, abrupt: false };
                    self.live(work, &known, true, &End::ByItself)?;
                }
                4 | 5 => {
                    let work = Work::Steps { until, abrupt: true };
                    self.live(work, &known, false, &End::ByItself)?;
                }
                _ => {
                    let work = Work::Steps { until, abrupt: false };
                    let end = self.violent_end();
                    self.live(work, &known, false, &end)?;
                }
            }
        }
        bail!("the plan was not over after {LIVES_MAX} lives")
    }

    fn known(&self) -> anyhow::Result<Known> {
        let mut known = Known::default();
        let marks = self.folder.join("marks");
        if marks.exists() {
            Mark::read_all(&marks)?.iter().for_each(|mark| known.learn(mark));
        }
        Ok(known)
    }

    fn violent_end(&mut self) -> End {
        match self.rng.below(10) {
            0 | 1 => End::ByItself,
            2 | 3 => {
                let call = *self.rng.pick(&["fdatasync", "fsync"]);
                End::SyncFails(call, self.rng.between(1, 16))
            }
            _ => {
                let (call, count) = *self.rng.pick(&DEADLY);
                End::Killed(call, self.rng.between(1, count))
            }
        }
    }

    /// One life under strace; whether it did all its work.
    fn live(
        &mut self,
        work: Work,
        known: &Known,
        threaded: bool,
        end: &End,
    ) -> anyhow::Result<bool> {
        let mut strace = Command::new("strace");
        let calls = HARMLESS.split(',').map(|call| format!("?{}", call.trim()));
        let calls = calls.collect::<Vec<_>>().join(",");
        strace
            .args(["-f", "-xx", "-X", "raw", "-s", "33554432", "-o"])
            .arg(trace_path(self.folder, self.lives))
            .args(["-e", &format!("trace=!{calls}")]);
        match end {
            End::ByItself => drop(strace.arg("--seccomp-bpf")),
            // With the filter for harmless calls strace forgets to send its signal.
            End::Killed(call, when) => {
                strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
            }
            End::SyncFails(call, when) => {
                strace.arg("--seccomp-bpf");
                strace.args(["-e", &format!("inject={call}:error=EIO:when={when}")]);
            }
        }
        strace
            .arg("--")
            .arg(std::env::current_exe()?)
            .args(self.arguments(&work, known, threaded)?);
        let output = strace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .context("strace cannot be started; install it (package `strace`)")?;
        let mut files = Files::new();
        read_tree(&self.folder.join("root"), "", &mut files)?;
        std::fs::write(files_path(self.folder, self.lives), serde_json::to_vec(&files)?)?;
        self.lives += 1;
        let marks = Mark::read_all(&self.folder.join("marks")).unwrap_or_default();
        let is_done = marks.last() == Some(&Mark::Done);
        let may_fail = !matches!(end, End::ByItself);
        if !is_done && !may_fail {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("life {} did not end by itself: {said}", self.lives - 1);
        }
        Ok(is_done)
    }

    fn arguments(&self, work: &Work, known: &Known, threaded: bool) -> anyhow::Result<Vec<String>> {
        let path = |name: &str| self.options.recorded_in.join(name).to_string_lossy().into_owned();
        let flaw = self.options.flaw();
        let flaw = flaw.to_possible_value().context("a flaw has a name")?;
        let mut words: Vec<String> = vec!["life".into(), "--root".into(), path("root")];
        words.extend(["--marks".into(), path("marks")]);
        let numbers = [
            ("--seed", self.options.seed),
            ("--steps", self.options.steps as u64),
            ("--acked", known.acked_by_all() as u64),
            ("--sent", known.sent as u64),
        ];
        for (name, number) in numbers {
            words.extend([name.to_owned(), number.to_string()]);
        }
        words.extend(["--flaw".to_owned(), flaw.get_name().to_owned()]);
        if threaded {
            words.push("--threaded".to_owned());
        }
        words.extend(work.words());
        Ok(words)
    }
}
