//! `turnpike tune`.

use super::{Imagined, Place, Seen};
use crate::cli::{Failure, Global, Outcome, configure};
use crate::runtime::survey;
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::io::{self, ErrorKind, Write};
use tuning::cpus::CpuList;
use tuning::journal::{self, Baseline, Done, STATE_FILE, STATE_FOLDER};
use tuning::plan::{Plan, SYSCTL_FILE, TMPFILES_FILE, UNIT_FILE, Wishes};
use tuning::profiles;
use tuning::report::COLUMNS;
use tuning::wrap;

const HELP: &str = "\
What it does: without --apply it shows, as a difference, what it would write
for this machine and this configuration, and changes nothing. With --apply it
writes
  /etc/sysctl.d/90-turnpike.conf           kernel settings, for the next boot
  /etc/tmpfiles.d/90-turnpike.conf         values in /sys, for the next boot
  /etc/systemd/system/turnpike.service.d/90-turnpike.conf
                                           limits and processors of the service
and with --now it also sets the values in the running kernel. What is as it
should be already is left alone.

The way back: what was there before is kept in /etc/turnpike-tune.json, written
before the first change, and --undo restores it: contents, permissions, owner,
and absence. That works after a power cut in the middle, too, and after
applying several times: the first original counts. A file that was there and is
not this command's, or that was changed since, is named and left alone unless
--replace is given; then nothing else is done either.

It needs root for this machine, and none for --root with a folder of your own.
It starts no program: after --apply it says which commands make it hold.

Examples:
  turnpike tune                            what would be written
  sudo turnpike tune --apply --now         write it, and set it at once
  sudo turnpike tune --undo                as it was before
  sudo turnpike tune --cpus 0-13 --apply   keep the relay to 14 processors
  turnpike tune --root image --apply       for an image that is being built
  turnpike tune --show unit > /etc/systemd/system/turnpike.service

Exit codes: 0 done, 1 failed or not all of it could be done, 2 wrong usage or
configuration.";

/// A text that can be printed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Text {
    /// The hardened unit, turnpike.service
    Unit,
    /// Limits and processors of the service
    DropIn,
    /// Kernel settings
    Sysctl,
    /// Values in /sys
    Tmpfiles,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Tune {
    #[command(flatten)]
    place: Place,
    /// Write it
    #[arg(long, conflicts_with_all = ["undo", "show"])]
    apply: bool,
    /// With --apply: also set the values in the running kernel
    #[arg(long, requires = "apply")]
    now: bool,
    /// Put everything back as it was before the first --apply
    #[arg(long, conflicts_with = "show")]
    undo: bool,
    /// Also replace files that this command did not write, or that were changed since
    #[arg(long)]
    replace: bool,
    /// Keep the service to these processors, such as 0-13
    #[arg(long, value_name = "LIST", conflicts_with = "undo")]
    cpus: Option<CpuList>,
    /// Lift kernel.io_uring_disabled, which some distributions set for security
    #[arg(long, conflicts_with = "undo")]
    allow_io_uring: bool,
    /// Print one text and do nothing else
    #[arg(long, value_name = "WHAT", value_enum)]
    show: Option<Text>,
    /// Print a JSON object
    #[arg(long, conflicts_with = "show")]
    json: bool,
}

pub(in crate::cli) fn run(global: &Global, command: &Tune) -> Outcome {
    if command.show == Some(Text::Unit) {
        return print(profiles::UNIT);
    }
    if command.cpus.as_ref().is_some_and(CpuList::is_empty) {
        return Err(Failure::Usage(anyhow!("--cpus names no processor")));
    }
    if command.undo {
        return undo(command);
    }
    let config = configure(global)?;
    let seen = Seen::look(&config, global, &command.place, Imagined::default())?;
    let wishes = Wishes { cpus: command.cpus.clone(), allows_io_uring: command.allow_io_uring };
    let plan = Plan::new(&Baseline::new(&seen.tree), &seen.machine, &seen.needs, &wishes);
    match (command.show, command.apply) {
        (Some(text), _) => show(&plan, text),
        (None, true) => apply(command, &seen, &plan),
        (None, false) => preview(command, &seen, &plan),
    }
}

fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn show(plan: &Plan, text: Text) -> Outcome {
    let path = match text {
        Text::Unit => return print(profiles::UNIT),
        Text::DropIn => UNIT_FILE,
        Text::Sysctl => SYSCTL_FILE,
        Text::Tmpfiles => TMPFILES_FILE,
    };
    print(plan.text(path).unwrap_or("# Everything is as it should be already.\n"))
}

fn preview(command: &Tune, seen: &Seen, plan: &Plan) -> Outcome {
    let is_applied = journal::is_applied(&seen.tree).map_err(failed)?;
    let mut out = io::stdout().lock();
    if command.json {
        let mut json = plan.json(&seen.tree);
        json["applied"] = is_applied.into();
        writeln!(out, "{json}")?;
        return Ok(out.flush()?);
    }
    let changes = plan.describe(&seen.tree, true);
    write!(out, "{changes}")?;
    write_notes(&mut out, plan.notes.iter().chain(&seen.warnings))?;
    match (changes.is_empty(), is_applied) {
        (true, true) => writeln!(out, "All of it is in force; --undo takes it back.")?,
        (true, false) => writeln!(out, "There is nothing to change.")?,
        (false, _) => writeln!(
            out,
            "Nothing was changed. --apply writes the files, --apply --now also sets the running \
             kernel,\n--undo takes it back."
        )?,
    }
    Ok(out.flush()?)
}

fn write_notes<'a>(out: &mut impl Write, notes: impl Iterator<Item = &'a String>) -> Outcome {
    for note in notes {
        for line in wrap(&format!("note: {note}"), COLUMNS) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// Whoever changes this machine has to be root; said before anything is tried.
fn check_root(command: &Tune) -> Outcome {
    if command.place.is_here() && !survey::is_root() {
        let what = if command.undo { "--undo" } else { "--apply" };
        return Err(Failure::Failed(anyhow!(
            "{what} changes files in /etc and values in /proc and /sys, which only root may: run \
             it with sudo. Without {what} anybody may look, and --root DIR writes into a folder of \
             your own"
        )));
    }
    Ok(())
}

fn failed(error: journal::JournalError) -> Failure {
    Failure::Failed(error.into())
}

/// Holds the folder of the state, so that two of these do not run at once.
fn lock(tree: &tuning::tree::Tree, command: &Tune) -> Result<tuning::tree::Lock, Failure> {
    tree.lock(STATE_FOLDER).map_err(|error| {
        let root = command.place.root.display();
        Failure::Failed(match error.kind() {
            ErrorKind::WouldBlock => anyhow!("another `turnpike tune` is at work"),
            ErrorKind::NotFound => anyhow!("there is no {STATE_FOLDER} below {root}"),
            _ => anyhow!("{STATE_FOLDER} below {root}: {error}"),
        })
    })
}

fn apply(command: &Tune, seen: &Seen, plan: &Plan) -> Outcome {
    check_root(command)?;
    let _lock = lock(&seen.tree, command)?;
    let done = journal::apply(&seen.tree, plan, command.now, command.replace).map_err(failed)?;
    let mut out = io::stdout().lock();
    if command.json {
        let json = json!({"files": done.files, "values": done.values, "left": done.left,
            "notes": plan.notes, "state": STATE_FILE});
        writeln!(out, "{json}")?;
        out.flush()?;
        return all_done(&done);
    }
    write_done(&mut out, &done, "wrote")?;
    write_notes(&mut out, plan.notes.iter())?;
    if done.files.is_empty() && done.values.is_empty() {
        writeln!(out, "There was nothing to change.")?;
    } else {
        writeln!(
            out,
            "What was there before is in {STATE_FILE}; turnpike tune --undo restores it."
        )?;
        write_next(&mut out, command, &done)?;
    }
    out.flush()?;
    all_done(&done)
}

fn write_done(out: &mut impl Write, done: &Done, verb: &str) -> io::Result<()> {
    for path in &done.files {
        writeln!(out, "{verb} {path}")?;
    }
    for (path, before, after) in &done.values {
        writeln!(out, "set {path}: {before} -> {after}")?;
    }
    for left in &done.left {
        writeln!(out, "left: {left}")?;
    }
    Ok(())
}

/// The commands that make what was written, or taken away, hold.
fn write_next(out: &mut impl Write, command: &Tune, done: &Done) -> io::Result<()> {
    if !command.place.is_here() {
        return Ok(());
    }
    let wrote = |path: &str| done.files.iter().any(|file| file == path);
    let mut next = Vec::new();
    if wrote(UNIT_FILE) {
        next.push("systemctl daemon-reload && systemctl try-restart turnpike".to_owned());
    }
    if command.apply && !command.now && wrote(SYSCTL_FILE) {
        next.push(format!("sysctl -p {SYSCTL_FILE}   # or --apply --now, which --undo takes back"));
    }
    if command.apply && !command.now && wrote(TMPFILES_FILE) {
        next.push(format!("systemd-tmpfiles --create {TMPFILES_FILE}"));
    }
    if !next.is_empty() {
        writeln!(out, "It holds from the next boot on, or after:")?;
    }
    next.iter().try_for_each(|one| writeln!(out, "  {one}"))
}

/// An error when something was left: whoever calls this from a script should know.
fn all_done(done: &Done) -> Outcome {
    match done.left.len() {
        0 => Ok(()),
        left => Err(Failure::Failed(anyhow!(
            "{left} of the changes could not be made; the lines above that begin with `left` say why"
        ))),
    }
}

fn undo(command: &Tune) -> Outcome {
    check_root(command)?;
    let tree = command.place.tree()?;
    let _lock = lock(&tree, command)?;
    let undone = journal::undo(&tree, command.replace).map_err(failed)?;
    let mut out = io::stdout().lock();
    let done = undone.clone().unwrap_or_default();
    if command.json {
        let json = json!({"undone": undone.is_some(), "files": done.files,
            "values": done.values, "left": done.left});
        writeln!(out, "{json}")?;
    } else if undone.is_none() {
        writeln!(out, "There is nothing to undo: {STATE_FILE} is not there.")?;
    } else {
        write_done(&mut out, &done, "restored")?;
        writeln!(out, "Everything else is as it was before turnpike tune.")?;
        write_next(&mut out, command, &done)?;
    }
    out.flush()?;
    all_done(&done)
}
