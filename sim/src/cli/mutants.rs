//! Planted bugs: each `sim/mutants/*.patch` is applied to a copy of the tree, the simulator is built
//! there, and the ordinary swarm has to find it. A patch that no longer applies fails, and so does a
//! bug that is not found in time. Which check finds it is none of this file's business: there is no
//! check that was written for one of them.

use super::report::say;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What a copy of the tree needs to build the simulator.
const COPIED: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "clippy.toml",
    "proto",
    "net",
    "store",
    "shards",
    "engine",
    "bench",
    "tuning",
    "sim",
];

#[derive(Args)]
pub(super) struct Mutants {
    /// Only these patches, by name without `.patch`.
    names: Vec<String>,
    /// As many as this, another part of them every day, instead of all.
    #[arg(long, value_name = "COUNT")]
    rotate: Option<usize>,
    /// How long one bug may stay hidden.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Processes that look for it.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Where the patches are.
    #[arg(long, default_value = "sim/mutants", value_name = "FOLDER")]
    patches: PathBuf,
    /// Print a JSON line per bug.
    #[arg(long)]
    json: bool,
}

/// What became of one planted bug.
#[derive(Debug, Serialize)]
struct Found {
    name: String,
    /// Seconds of searching; building not counted.
    seconds: u64,
    /// The check that broke first; nothing if none did.
    check: Option<String>,
}

impl Mutants {
    pub(super) fn run(&self) -> anyhow::Result<bool> {
        let all = patches(&self.patches)?;
        let chosen = self.choose(&all)?;
        let copy = Path::new("target/mutants");
        let mut hidden = 0;
        for (number, patch) in (1..).zip(&chosen) {
            let name = stem(patch);
            say(&format!("--- {number} of {}: {name}", chosen.len()));
            plant(copy, patch).with_context(|| format!("{name} does not apply or build"))?;
            let found = self.search(copy, &name)?;
            if self.json {
                say(&serde_json::to_string(&found)?);
            }
            match &found.check {
                Some(check) => say(&format!("found in {} s: {check}", found.seconds)),
                None => {
                    hidden += 1;
                    say(&format!("NOT found in {} s", found.seconds));
                }
            }
        }
        say(&format!("mutants: {} passed, {hidden} failed", chosen.len() - hidden));
        Ok(hidden == 0)
    }

    fn choose(&self, all: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        if let Some(unknown) =
            self.names.iter().find(|name| !all.iter().any(|at| stem(at) == **name))
        {
            let names: Vec<String> = all.iter().map(|path| stem(path)).collect();
            bail!("there is no patch {unknown}; there are {}", names.join(", "));
        }
        if !self.names.is_empty() {
            let named = all.iter().filter(|path| self.names.contains(&stem(path)));
            return Ok(named.cloned().collect());
        }
        let Some(count) = self.rotate else { return Ok(all.to_vec()) };
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let day = (since.as_secs() / 86_400) as usize;
        let from = day * count;
        Ok((from..from + count).map(|at| all[at % all.len()].clone()).collect())
    }

    fn search(&self, copy: &Path, name: &str) -> anyhow::Result<Found> {
        let program = copy.join("target/release/turnpike-sim");
        let began = Instant::now();
        let output = Command::new(std::fs::canonicalize(program)?)
            .args(["swarm", "--fail-fast", "--from", "1", "--seconds", &self.seconds.to_string()])
            .args(["--jobs", &self.jobs.to_string()])
            .stderr(Stdio::null())
            .output()
            .context("the planted simulator cannot be started")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().find(|line| line.starts_with("seed "));
        let check = first.map(|first| {
            let next = text.lines().skip_while(|line| *line != first).nth(1).unwrap_or_default();
            if first.contains("panic") { "a panic".to_owned() } else { next.trim().to_owned() }
        });
        Ok(Found { name: name.to_owned(), seconds: began.elapsed().as_secs(), check })
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn patches(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}: run this from the root", folder.display()))?;
    let mut patches = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            patches.push(path);
        }
    }
    ensure!(!patches.is_empty(), "there is no patch in {}", folder.display());
    patches.sort();
    Ok(patches)
}

/// Makes the copy what the tree is, plants the bug and builds. The copy keeps its own `target`, so
/// that only what a patch touches is compiled again.
fn plant(copy: &Path, patch: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(copy)?;
    let mut sync = Command::new("rsync");
    sync.args(["--archive", "--checksum", "--delete", "--exclude", "/sim/fuzz/corpus"]);
    sync.args(["--exclude", "/target", "--relative"]);
    sync.args(COPIED).arg(copy);
    call(&mut sync, "rsync")?;
    let patch = std::fs::canonicalize(patch)?;
    let mut apply = Command::new("patch");
    apply.args(["--quiet", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--input"]);
    apply.arg(&patch).current_dir(copy);
    call(&mut apply, "patch")?;
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--release", "--locked", "-p", "sim"]);
    build.args(["--target-dir", "target"]).current_dir(copy);
    call(&mut build, "cargo build")
}

fn call(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{what} cannot be started"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    bail!("{what} failed\n{told}{text}")
}
