//! `turnpike doctor`.

use super::super::offline::progress;
use super::{Imagined, Place, Seen};
use crate::cli::{Failure, Global, Outcome, configure};
use crate::runtime::{probe, survey};
use anyhow::anyhow;
use clap::Args;
use std::io::Write;
use std::path::Path;
use tuning::Measured;
use tuning::checks::{self, Subject};
use tuning::report::{COLUMNS, Verdict};
use tuning::wrap;

const HELP: &str = "\
What it does: looks at the kernel, the limits, the network, the processors, the
memory, the disk and the clock of this machine, and says for each what is, what
should be for this relay (it reads the configuration), why, and the command
that changes it. It changes nothing. `turnpike tune` writes most of it.

problem  something that is promised does not hold: events may be lost, clients
         turned away, or the relay does not start
advice   the relay works, and would do better
unknown  cannot be read, with the reason: not permitted, or not there, as much
         is in containers; run it on the host then, and as root

The disk is measured: up to 200 writes of 4 KiB into a file in the data
directory (or the nearest folder that exists), a sync after each, and then the
same by several threads. It takes a few seconds; --skip-disk leaves it out.

While a relay runs over the data directory, its limits are looked at, not those
of this shell.

Exit codes: 0 no problem (with --strict: no advice either), 1 otherwise, 2
wrong usage or configuration.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Doctor {
    #[command(flatten)]
    place: Place,
    /// Fail for advice, too
    #[arg(long)]
    strict: bool,
    /// Give reasons and commands also for what is as it should be
    #[arg(long)]
    explain: bool,
    /// Do not measure the disk
    #[arg(long)]
    skip_disk: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(global: &Global, command: &Doctor) -> Outcome {
    let config = configure(global)?;
    let seen = Seen::look(&config, global, &command.place, Imagined::default())?;
    let measured = measure(&seen, command.skip_disk);
    let report = checks::run(&Subject {
        host: &seen.tree,
        machine: &seen.machine,
        layout: &seen.layout,
        needs: &seen.needs,
        measured: &measured,
    });
    let mut out = std::io::stdout().lock();
    if command.json {
        let mut json = report.json();
        json["warnings"] = seen.warnings.clone().into();
        writeln!(out, "{json}")?;
    } else {
        write!(out, "{}", report.table(command.explain))?;
        for warning in &seen.warnings {
            for line in wrap(&format!("warning: {warning}"), COLUMNS) {
                writeln!(out, "{line}")?;
            }
        }
        if report.count(Verdict::Advice) + report.count(Verdict::Problem) > 0 {
            writeln!(
                out,
                "`turnpike tune` shows what it would write to change settings and limits."
            )?;
        }
    }
    out.flush()?;
    let (problems, advice) = (report.count(Verdict::Problem), report.count(Verdict::Advice));
    if problems > 0 || (command.strict && advice > 0) {
        return Err(Failure::Failed(anyhow!("{}", report.summary())));
    }
    Ok(())
}

fn measure(seen: &Seen, skips_disk: bool) -> Measured {
    let folder = existing(&seen.needs.data_dir);
    let syncs = match skips_disk {
        true => Err("not measured (--skip-disk)".to_owned()),
        false => {
            let bar = progress(survey::SYNCS_MAX as u64, "measuring syncs");
            let writers = usize::from(seen.needs.shards);
            let measured = survey::measure_syncs(folder, writers, || bar.inc(1));
            bar.finish_and_clear();
            measured.map_err(|error| format!("cannot be measured: {error}"))
        }
    };
    Measured {
        io_uring: probe::io_uring().map_err(|error| error.to_string()),
        syncs,
        space: survey::disk_space(folder).map_err(|error| error.to_string()),
        clock: survey::clock_state().map_err(|error| error.to_string()),
        relay_pid: seen.relay_pid,
        allowed: seen.allowed.clone(),
    }
}

/// The nearest folder that exists: where the data directory would be made.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}
