//! Makes a failing seed smaller, greedily: whatever can be taken away without the same check falling
//! silent is. Each try is a process of its own, since it may panic.

use super::report::{replay, say};
use super::{Less, Run};
use anyhow::{Context as _, bail};
use clap::Args;
use sim::plan::Fault;
use std::process::{Command, Stdio};

#[derive(Args)]
pub(super) struct Shrink {
    /// A seed that fails.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    less: Less,
}

impl Shrink {
    pub(super) fn run(&self) -> anyhow::Result<bool> {
        let Some(check) = broken(self.seed, &self.less)? else {
            bail!("seed {} holds", self.seed);
        };
        say(&format!("seed {} breaks: {check}", self.seed));
        let mut less = self.less.clone();
        for fault in Fault::ALL {
            let mut fewer = less.clone();
            fewer.without.push(fault);
            self.keep(&mut less, fewer, &check, &format!("without {}", fault.name()))?;
        }
        for clients in [1, 2, 3] {
            let fewer = Less { clients: Some(clients), ..less.clone() };
            if self.keep(&mut less, fewer, &check, &format!("{clients} clients"))? {
                break;
            }
        }
        for shards in [1, 2, 3, 4] {
            let fewer = Less { shards: Some(shards), ..less.clone() };
            if self.keep(&mut less, fewer, &check, &format!("{shards} shards"))? {
                break;
            }
        }
        let mut ops = 400;
        while ops > 4 {
            let fewer = Less { ops: Some(ops), ..less.clone() };
            self.keep(&mut less, fewer, &check, &format!("{ops} operations"))?;
            ops = ops * 3 / 4;
        }
        say(&replay(self.seed, &less));
        Ok(true)
    }

    /// Takes `fewer` for `less` if the same check still breaks.
    fn keep(&self, less: &mut Less, fewer: Less, check: &str, what: &str) -> anyhow::Result<bool> {
        let is_kept = broken(self.seed, &fewer)?.as_deref() == Some(check);
        if is_kept {
            say(&format!("still with {what}"));
            *less = fewer;
        }
        Ok(is_kept)
    }
}

/// The check that a run breaks, if it does.
fn broken(seed: u64, less: &Less) -> anyhow::Result<Option<String>> {
    let asked = Run { seed, less: less.clone(), story: false };
    let words = asked.less.arguments();
    let words = words.iter().flat_map(|pair| pair.split(' '));
    let program = std::env::current_exe().context("this program has no path")?;
    let output = Command::new(program)
        .args(["run", "--seed", &asked.seed.to_string()])
        .args(words)
        .stderr(Stdio::null())
        .output()
        .context("a run cannot be started")?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().skip_while(|line| !line.starts_with("seed "));
    lines.next();
    Ok(Some(lines.next().map_or_else(|| "a panic".to_owned(), |line| line.trim().to_owned())))
}
