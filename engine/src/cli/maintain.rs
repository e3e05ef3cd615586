//! `turnpike compact`, `reindex`, `reshard` and `scrub`: what keeps a store small and sound.

use super::ask::{Heard, ask};
use super::offline::open_directory;
use super::{Failure, Global, Outcome, configure};
use crate::admin::{self, Request};
use crate::config::Config;
use crate::runtime::signals::{self, Asked};
use crate::runtime::wake::Wake;
use crate::runtime::{clock, entropy};
use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use proto::EventRef;
use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::StoreConfig;
use store::file::directory::{self, DataDirectory};
use store::offline::{self, OfflineError};
use store::scrub::{CheckSignature, Finding};

const COMPACT_HELP: &str = "\
What it does: events that were deleted, replaced, vanished or expired leave
their bytes in the log until its segments are written anew without them. The
relay does that by itself: when a third of a segment is dead, and at the latest
store.erase_after_h after a deletion. This does it now, for every segment with
anything dead in it, and then writes the index anew without its free pages.

When you need it: after a large `turnpike delete`, or when bytes have to be
gone today.

While the relay runs it is asked to do the log's part, and serves meanwhile;
the index is only written anew while no relay runs, because everybody would
have to wait.

Cost: reads the segments concerned and writes what is left of them. Disk: one
segment more than now (store.segment_mib for each shard), and for the index as
much again as it will have.

Interrupted (Ctrl-C, kill, power): segments that are done are done, the one
under way is dropped, and nothing is lost. Run it again. A relay that was asked
goes on by itself.

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage, 3 the relay that
holds the store does not answer.";

const REINDEX_HELP: &str = "\
What it does: rebuilds the index of every shard from its log, which alone says
what is stored. The new index is filled beside the old one and takes its place
when it is whole.

When you need it: when `turnpike scrub` says so, when index/data.mdb is damaged
or gone, or when it was restored from a backup that is older than the log.

The relay has to be down.

Cost: reads the whole log once, a shard after the other. Disk: for each shard
the new index beside the old one.

Interrupted (Ctrl-C, kill, power): the shard under way keeps its old index,
those before it have their new one. Run it again; it begins with the first
shard.

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage, 3 a process holds
the store.";

const RESHARD_HELP: &str = "\
What it does: copies everything that is stored (events, deletions, bans,
vanished keys) into another number of shards, beside those there are, and then
replaces one small file (FORMAT) that says which of them count. What is dead is
left behind.

When you need it: when the machine has got more cores, or when queries by kind
or by #p have to ask too many shards. At most one shard per core is of use.

The relay has to be down.

Cost: reads the log once and writes what lives of it, with its index. Disk: as
much again as the store holds, until the old shards are removed at the end.

Interrupted (Ctrl-C, kill, power): before FORMAT is replaced the store is as it
was, after that it is resharded; what is left over is removed at the next
start. Run it again to begin anew.

Examples:
  turnpike reshard --shards 8

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage, 3 a process holds
the store.";

const SCRUB_HELP: &str = "\
What it does: reads every segment of the log against its checksums and its
neighbours, every event against its id (and its signature with --signatures),
and the index against the log. It changes nothing. Every finding is one line.

When you need it: after a disk has failed or a machine lost power in a way you
do not trust, after restoring a backup, and now and then.

Works while the relay runs, beside its other work, and while it does not.

--accept-loss is for a store that no longer opens because its log is damaged:
it moves damaged segments aside (quarantine), keeps every record in them that
is whole, and prints what is lost: ranges of records, and the ids of the events
among them. Only while no relay runs. Save the printed ids: another relay may
have the events.

Cost: reads the whole log and the index once; --signatures takes a core for
about 50 microseconds per event more.

Interrupted (Ctrl-C, kill): a scrub leaves nothing behind; it begins anew. With
--accept-loss, what was repaired stays repaired, and the same command goes on.

Exit codes: 0 nothing is wrong (or the loss was accepted), 1 damage was found,
or it failed or was interrupted, 2 wrong usage, 3 the relay that holds the
store does not answer.";

#[derive(Debug, Args)]
#[command(after_help = COMPACT_HELP)]
pub(super) struct Compact {
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = REINDEX_HELP)]
pub(super) struct Reindex {
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = RESHARD_HELP)]
pub(super) struct Reshard {
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = SCRUB_HELP)]
pub(super) struct Scrub {
    /// Check the signature of every event, too
    #[arg(long)]
    signatures: bool,
    /// Give up what is damaged, so that the store opens again, and say what that is
    #[arg(long, conflicts_with = "signatures")]
    accept_loss: bool,
    /// Print the findings and the result as JSON objects, one per line
    #[arg(long)]
    json: bool,
}

/// What a command works on while no relay runs.
struct Work {
    config: Arc<Config>,
    asked: Arc<Asked>,
}

impl Work {
    fn new(global: &Global) -> Result<Self, Failure> {
        let config = Arc::new(configure(global)?);
        let asked = signals::listen(Wake::new()?).context("signal handlers")?;
        Ok(Self { config, asked })
    }

    /// The data directory, if no relay holds it.
    fn directory(&self, what: &str) -> Result<DataDirectory, Failure> {
        let path = PathBuf::from(&self.config.store.data_dir);
        if let Some(pid) = directory::holder(&path).context("data directory")? {
            return Err(Failure::Held(anyhow!(
                "{} is held by process {pid}; {what} needs it alone: end that process first \
                 (kill {pid}), and start it again afterwards",
                path.display()
            )));
        }
        open_directory(&self.config, false)
    }

    fn store_config(&self, directory: &DataDirectory, shard: u16) -> StoreConfig {
        StoreConfig {
            segment_bytes_max: self.config.store.segment_mib << 20,
            sync_filters: crate::settings::sync_filters(&self.config),
            ..StoreConfig::new(shard, directory.format().secret, entropy::seed())
        }
    }

    /// What a shard's failure means for the command.
    fn failure(&self, shard: Option<u16>, error: OfflineError, interrupted: &str) -> Failure {
        if self.asked.to_end() && matches!(error, OfflineError::Stopped) {
            return Failure::Failed(anyhow!("interrupted: {interrupted}"));
        }
        match shard {
            Some(shard) => Failure::Failed(anyhow!("shard {shard}: {error}")),
            None => Failure::Failed(error.into()),
        }
    }
}

/// A bar of bytes or pieces on standard error; silent where that is no terminal.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

const BYTES_BAR: &str = "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
const PIECES_BAR: &str = "{msg} [{bar:40}] {pos}/{len} segments, {elapsed}";

fn set(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}

fn print(result: &Value, as_json: bool, text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{result}")?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(())
}

pub(super) fn compact(global: &Global, command: &Compact) -> Outcome {
    let work = Work::new(global)?;
    let path = Path::new(&work.config.store.data_dir);
    if directory::holder(path).context("data directory")?.is_some() {
        return compact_online(&work, command);
    }
    let directory = work.directory("compacting")?;
    let bar = bar(PIECES_BAR);
    let (mut segments, mut log_bytes, mut index_bytes, mut refused) = (0, 0, 0, 0);
    for shard in 0..directory.format().shards {
        bar.set_message(format!("shard {shard}"));
        let config = work.store_config(&directory, shard);
        let mut progress = |done, total| set(&bar, done, total);
        let should_stop = || work.asked.to_end();
        let compacted =
            offline::compact(&directory, &config, &clock::now, &mut progress, &should_stop);
        let compacted = compacted.map_err(|error| {
            let state = "segments that were done stay done and nothing is lost; run it again for \
                         the rest";
            work.failure(Some(shard), error, state)
        })?;
        segments += compacted.rewrites;
        refused += compacted.refused;
        log_bytes += compacted.log_bytes_reclaimed;
        index_bytes += compacted.index_bytes_before.saturating_sub(compacted.index_bytes_after);
    }
    bar.finish_and_clear();
    let result = json!({
        "segments_written": segments,
        "segments_refused": refused,
        "log_bytes_reclaimed": log_bytes,
        "index_bytes_reclaimed": index_bytes,
    });
    let text = format!(
        "{segments} segments written anew, {log_bytes} bytes of log and {index_bytes} bytes of \
         index given back"
    );
    print(&result, command.json, &text)?;
    if refused > 0 {
        return Err(Failure::Failed(anyhow!(
            "{refused} segments could not be written anew; `turnpike scrub` says what is wrong with \
             them"
        )));
    }
    Ok(())
}

fn compact_online(work: &Work, command: &Compact) -> Outcome {
    let bar = bar(PIECES_BAR);
    bar.set_message("relay");
    let result = ask(&work.config, &Request::Compact, Some(&work.asked), &mut |heard| {
        if let Heard::Progress(done, total) = heard {
            set(&bar, done, total);
        }
    });
    bar.finish_and_clear();
    if work.asked.to_end() && result.is_err() {
        return Err(Failure::Failed(anyhow!(
            "interrupted: the relay goes on compacting by itself; nothing is lost"
        )));
    }
    let result = result?;
    let text = format!(
        "{} segments written anew, {} bytes of log given back (the index is compacted while no relay \
         runs)",
        result["segments_written"], result["log_bytes_reclaimed"]
    );
    print(&result, command.json, &text)
}

pub(super) fn reindex(global: &Global, command: &Reindex) -> Outcome {
    let work = Work::new(global)?;
    let directory = work.directory("rebuilding the index")?;
    let bar = bar(BYTES_BAR);
    let (mut log_bytes, shards) = (0, directory.format().shards);
    for shard in 0..shards {
        bar.set_message(format!("shard {shard}"));
        let config = work.store_config(&directory, shard);
        let mut progress = |done, total| set(&bar, done, total);
        let should_stop = || work.asked.to_end();
        let rebuilt = offline::reindex(&directory, &config, &mut progress, &should_stop);
        let rebuilt = rebuilt.map_err(|error| {
            let state = format!(
                "shard {shard} and those after it keep their old index, which is as it was; run it \
                 again"
            );
            work.failure(Some(shard), error, &state)
        })?;
        log_bytes += rebuilt.log_bytes;
    }
    bar.finish_and_clear();
    let result = json!({ "shards": shards, "log_bytes": log_bytes });
    let text = format!("{shards} shards indexed anew from {log_bytes} bytes of log");
    print(&result, command.json, &text)
}

pub(super) fn reshard(global: &Global, command: &Reshard) -> Outcome {
    let Some(shards) = global.shards else {
        return Err(Failure::Usage(anyhow!("--shards says how many shards there are to be")));
    };
    // The number that is asked for is not the one that the directory has.
    let mut alone = global.clone();
    alone.shards = None;
    let mut work = Work::new(&alone)?;
    let mut config = Config::clone(&work.config);
    let configured = std::mem::take(&mut config.store.shards);
    work.config = Arc::new(config);
    let mut directory = work.directory("resharding")?;
    let before = directory.format().shards;
    let config = work.store_config(&directory, 0);
    let bar = bar(BYTES_BAR);
    bar.set_message(format!("{before} to {shards} shards"));
    let mut progress = |done, total| set(&bar, done, total);
    let should_stop = || work.asked.to_end();
    let resharded = store::reshard::reshard(
        &mut directory,
        shards,
        &config,
        &clock::now,
        &mut progress,
        &should_stop,
    );
    bar.finish_and_clear();
    let copied = resharded.map_err(|error| match error {
        OfflineError::Directory(error @ directory::DirectoryError::Shards(_)) => {
            Failure::Usage(error.into())
        }
        error => work.failure(
            None,
            error,
            "the store is as it was, with as many shards as before; what was copied is removed at \
             the next start",
        ),
    })?;
    let result = json!({
        "shards_before": before,
        "shards": shards,
        "events": copied.events,
        "marks": copied.marks,
        "vanished": copied.vanished,
    });
    let text = format!(
        "{before} shards are now {shards}: {} events, {} deletion marks and bans, {} vanished keys",
        copied.events, copied.marks, copied.vanished
    );
    print(&result, command.json, &text)?;
    if configured != 0 && configured != shards {
        let _ = writeln!(
            io::stderr(),
            "warning: store.shards = {configured} (in the configuration file or \
             TURNPIKE_STORE__SHARDS) does not fit any more: take it out, or write {shards}; \
             until then `turnpike run` refuses to start"
        );
    }
    Ok(())
}

/// One finding.
fn say(found: &Value, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{found}")
    } else {
        let text = found["what"].as_str().unwrap_or_default();
        writeln!(out, "shard {}: {text}", found["shard"])
    }
}

pub(super) fn scrub(global: &Global, command: &Scrub) -> Outcome {
    let work = Work::new(global)?;
    if command.accept_loss {
        return accept_loss(&work, command);
    }
    let bar = bar(BYTES_BAR);
    let path = Path::new(&work.config.store.data_dir);
    let mut cures = Cures::default();
    let result = match directory::holder(path).context("data directory")? {
        Some(_) => scrub_online(&work, command, &bar, &mut cures),
        None => scrub_offline(&work, command, &bar, &mut cures),
    };
    bar.finish_and_clear();
    let result = match result {
        Err(_) if work.asked.to_end() => {
            return Err(Failure::Failed(anyhow!(
                "interrupted: a scrub changes nothing; it begins anew when it is run again"
            )));
        }
        other => other?,
    };
    let text = match result["findings"].as_u64() {
        Some(0) => format!("no damage in {} shards ({} bytes)", result["shards"], result["bytes"]),
        _ => format!("{} findings in {} shards", result["findings"], result["shards"]),
    };
    let printed = print(&result, command.json, &text);
    // Damage decides the exit code, also when nobody reads on.
    cures.conclude()?;
    printed
}

/// What would help.
#[derive(Debug, Default)]
struct Cures {
    reindex: u64,
    accept_loss: u64,
}

impl Cures {
    fn note(&mut self, found: &Value) {
        match found["cure"].as_str() {
            Some("reindex") => self.reindex += 1,
            _ => self.accept_loss += 1,
        }
    }

    fn conclude(&self) -> Outcome {
        match (self.accept_loss, self.reindex) {
            (0, 0) => Ok(()),
            (0, count) => Err(Failure::Failed(anyhow!(
                "the index is wrong in {count} places and the log is whole: `turnpike reindex`, with \
                 the relay down, mends it"
            ))),
            (count, _) => Err(Failure::Failed(anyhow!(
                "{count} findings are about the log. Look at the disk, and restore a backup if there \
                 is one. A store that no longer opens is opened by `turnpike scrub --accept-loss`, \
                 which names what is lost"
            ))),
        }
    }
}

fn scrub_online(
    work: &Work,
    command: &Scrub,
    bar: &ProgressBar,
    cures: &mut Cures,
) -> Result<Value, Failure> {
    bar.set_message("relay");
    let request = Request::Scrub { signatures: command.signatures };
    ask(&work.config, &request, Some(&work.asked), &mut |heard| match heard {
        Heard::Progress(done, total) => set(bar, done, total),
        Heard::Found(found) => {
            cures.note(found);
            // That nobody reads on is no reason not to count on.
            let _ = bar.suspend(|| say(found, command.json));
        }
        Heard::Event => {}
    })
}

fn scrub_offline(
    work: &Work,
    command: &Scrub,
    bar: &ProgressBar,
    cures: &mut Cures,
) -> Result<Value, Failure> {
    let directory = work.directory("a scrub")?;
    let mut verifier = Secp256k1Verifier::new(entropy::seed(), admin::VERIFIER_KEYS_MAX);
    let mut check = |event: &EventRef<'_>| verifier.verify(&VerifyItem::of(event));
    let (mut findings, mut bytes, shards) = (0_u64, 0, directory.format().shards);
    for shard in 0..shards {
        bar.set_message(format!("shard {shard}"));
        let config = work.store_config(&directory, shard);
        let check: Option<CheckSignature<'_>> = command.signatures.then_some(&mut check);
        let mut found = |one: Finding| {
            let found = admin::finding(shard, &one);
            findings += 1;
            cures.note(&found);
            let _ = bar.suspend(|| say(&found, command.json));
        };
        let mut shard_bytes = 0;
        let mut progress = |done, total| {
            shard_bytes = total;
            set(bar, done, total);
        };
        let should_stop = || work.asked.to_end();
        offline::scrub(&directory, &config, check, &mut found, &mut progress, &should_stop)
            .map_err(|error| work.failure(Some(shard), error, "a scrub changes nothing"))?;
        bytes += shard_bytes;
    }
    Ok(json!({ "findings": findings, "bytes": bytes, "shards": shards }))
}

fn accept_loss(work: &Work, command: &Scrub) -> Outcome {
    let directory = work.directory("accepting a loss")?;
    let (mut events, mut segments) = (0, 0);
    let mut said = Ok(());
    for shard in 0..directory.format().shards {
        let config = work.store_config(&directory, shard);
        let loss = offline::accept_loss(&directory, &config).map_err(|error| {
            work.failure(Some(shard), error, "what was repaired stays repaired")
        })?;
        for (segment, lost) in &loss.ranges {
            let what = format!(
                "records {} to {} are given up (segment {segment:016x})",
                lost.from, lost.to
            );
            said = said.and(say(&json!({ "shard": shard, "what": what }), command.json));
        }
        for id in &loss.events {
            let id = id.to_hex();
            let what = format!("event {id} is lost");
            let found = json!({ "shard": shard, "what": what, "event": id });
            said = said.and(say(&found, command.json));
        }
        events += loss.events.len();
        segments += loss.quarantined.len();
    }
    let result = json!({ "events_lost": events, "segments_quarantined": segments });
    let text = format!(
        "{events} events are lost; {segments} damaged segments lie in the folders named quarantine"
    );
    said.map_err(|error| {
        Failure::Failed(anyhow!(
            "{text}, but the list of them could not be written: {error}; the damaged segments have \
             what is left of them"
        ))
    })?;
    print(&result, command.json, &text)
}
