//! Where the relay's CPU time goes while a line is measured, sampled by `perf`.

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Samples a second of each thread; odd, so that it does not beat with timers.
const SAMPLES_PER_SECOND: &str = "1999";
/// Functions below this share of all samples are left out of the text.
const PERCENT_MIN: &str = "0.5";

/// A sampling under way; ends, and is written down as text, when dropped.
#[derive(Debug)]
pub struct Profile {
    perf: Child,
    samples: PathBuf,
}

impl Profile {
    /// Begins to sample the process `pid`; the result will be `directory/key.txt`, the samples with
    /// their call chains stay beside it for `perf report`.
    ///
    /// # Errors
    /// When there is no `perf`.
    pub fn begin(directory: &Path, key: &str, pid: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let samples = directory.join(format!("{key}.data"));
        let perf = Command::new("perf")
            .args(["record", "-q", "-e", "cpu-clock", "-F", SAMPLES_PER_SECOND, "-g", "-o"])
            .arg(&samples)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run perf (Debian: apt-get install linux-perf)")?;
        Ok(Self { perf, samples })
    }

    /// Functions by their own time, then by their time with all that they call. The stacks of optimised
    /// code are often cut, so the second list says most about system calls.
    fn write_text(&self) -> anyhow::Result<()> {
        let mut out = File::create(self.samples.with_extension("txt"))?;
        for (title, children) in [("own time", "--no-children"), ("with callees", "--children")] {
            writeln!(out, "### {title}")?;
            Command::new("perf")
                .args(["report", "--stdio", "-g", "none", "--percent-limit", PERCENT_MIN, children])
                .args(["--sort", "symbol", "-i"])
                .arg(&self.samples)
                .stdin(Stdio::null())
                .stdout(out.try_clone()?)
                .stderr(Stdio::null())
                .status()?;
        }
        Ok(())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // A profile that failed leaves no text, and the line is measured all the same.
        let _ = kill_process(Pid::from_child(&self.perf), Signal::INT);
        let _ = self.perf.wait();
        let _ = self.write_text();
    }
}
