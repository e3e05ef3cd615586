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

/// Where the copy of the tree is. Its own `target` stays from one bug to the next, so that only what
/// a patch touches is compiled again.
const COPY: &str = "target/mutants";
/// What the copy does not need.
const NOT_COPIED: &[&str] = &["/target", "/.git", "/sim/fuzz/corpus", "node_modules"];

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
    /// Seconds of copying and building.
    build_seconds: u64,
    /// Seconds of searching.
    seconds: u64,
    /// The seed that found it, and the check that broke first.
    by: Option<(u64, String)>,
}

impl Mutants {
    pub(super) fn run(&self) -> anyhow::Result<bool> {
        let all = patches(&self.patches)?;
        let chosen = self.choose(&all)?;
        let copy = Path::new(COPY);
        let mut failed = 0;
        for (number, patch) in (1..).zip(&chosen) {
            let name = stem(patch);
            say(&format!("--- {number} of {}: {name}", chosen.len()));
            let began = Instant::now();
            if let Err(error) = plant(copy, patch) {
                failed += 1;
                say(&format!("FAILED: {name} does not apply or build: {error:#}"));
                continue;
            }
            let found = self.search(copy, &name, began.elapsed().as_secs())?;
            if self.json {
                say(&serde_json::to_string(&found)?);
            }
            let Some((seed, check)) = &found.by else {
                failed += 1;
                say(&format!("FAILED: not found in {} s", found.seconds));
                continue;
            };
            if !holds_unplanted(*seed)? {
                failed += 1;
                say(&format!("FAILED: seed {seed} breaks a promise without the bug, too: {check}"));
                continue;
            }
            let (built, took) = (found.build_seconds, found.seconds);
            say(&format!("found by seed {seed} in {took} s (built in {built} s): {check}"));
        }
        say(&format!("mutants: {} passed, {failed} failed", chosen.len() - failed));
        Ok(failed == 0)
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
        let count = count.min(all.len());
        Ok((from..from + count).map(|at| all[at % all.len()].clone()).collect())
    }

    fn search(&self, copy: &Path, name: &str, build_seconds: u64) -> anyhow::Result<Found> {
        let program = copy.join("target/release/turnpike-sim");
        let began = Instant::now();
        let output = Command::new(std::fs::canonicalize(program)?)
            .args(["swarm", "--fail-fast", "--from", "1", "--seconds", &self.seconds.to_string()])
            .args(["--jobs", &self.jobs.to_string()])
            .stderr(Stdio::null())
            .output()
            .context("the planted simulator cannot be started")?;
        let seconds = began.elapsed().as_secs();
        let by = first_failure(&String::from_utf8_lossy(&output.stdout));
        Ok(Found { name: name.to_owned(), build_seconds, seconds, by })
    }
}

/// The first seed that a swarm reports as failed, and the check that broke.
fn first_failure(report: &str) -> Option<(u64, String)> {
    let mut lines = report.lines().skip_while(|line| !line.starts_with("seed "));
    let first = lines.next()?;
    let seed = first.split(' ').nth(1)?.parse().ok()?;
    let check = match lines.next() {
        Some(check) if first.contains("broke a promise") => check.trim(),
        _ => first,
    };
    Some((seed, check.to_owned()))
}

/// Whether this program, which was built from the tree as it is, runs the seed without a failure: or
/// else it would be no planted bug that the swarm has found.
fn holds_unplanted(seed: u64) -> anyhow::Result<bool> {
    let status = Command::new(std::env::current_exe().context("this program has no path")?)
        .args(["run", "--seed", &seed.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("the simulator cannot be started")?;
    Ok(status.success())
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

/// Makes the copy what the tree is, plants the bug and builds.
fn plant(copy: &Path, patch: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(copy)?;
    let mut sync = Command::new("rsync");
    // A file that a patch had changed must get a new time when it is as before, or cargo takes what
    // was built from the patched one for fresh: so times are not kept.
    sync.args(["--recursive", "--links", "--perms", "--checksum", "--delete"]);
    for path in NOT_COPIED {
        sync.args(["--exclude", path]);
    }
    sync.arg("./").arg(copy);
    call(&mut sync, "rsync")?;
    lend_dependencies(copy)?;
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

/// Dependencies that are compiled already need not be compiled again: a new copy begins with them.
fn lend_dependencies(copy: &Path) -> anyhow::Result<()> {
    let (have, want) = (Path::new("target/release"), copy.join("target"));
    if want.exists() || !have.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(&want)?;
    let mut lend = Command::new("cp");
    lend.args(["--archive", "--reflink=auto"]).arg(have).arg(&want);
    call(&mut lend, "cp")
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

#[cfg(test)]
mod tests {
    use super::first_failure;

    #[test]
    fn the_first_failure_of_a_report_is_read() {
        let report = "seed 12 broke a promise at 5 us of life 1\n  E1: it is there\n  gone\n\
                      seed 9 broke a promise at 7 us of life 2\n  E2: no more\n";
        assert_eq!(first_failure(report), Some((12, "E1: it is there".to_owned())));
        let panic = "seed 3 ended the process: a panic of the product\n  at commit\n";
        let check = "seed 3 ended the process: a panic of the product".to_owned();
        assert_eq!(first_failure(panic), Some((3, check)));
        assert_eq!(first_failure("swarm: 40 passed, 0 failed\n"), None);
    }
}
