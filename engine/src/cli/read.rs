//! `turnpike export`, `scan` and `info`: inside the running relay through its admin socket, or over
//! the store itself.

use super::ask::{Heard, ask};
use super::{Failure, Global, Outcome, configure};
use crate::admin::{self, Request};
use crate::config::Config;
use anyhow::anyhow;
use clap::Args;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Filter as in NIP-01, a JSON object; give it several times for their union
    #[arg(long = "filter", value_name = "JSON")]
    filters: Vec<String>,
    /// Only events from this unix second on
    #[arg(long, value_name = "UNIX_SECONDS")]
    since: Option<u64>,
    /// Only events up to this unix second
    #[arg(long, value_name = "UNIX_SECONDS")]
    until: Option<u64>,
    /// Oldest first
    #[arg(long)]
    reverse: bool,
}

#[derive(Debug, Args)]
pub(super) struct Scan {
    /// Filter as in NIP-01, a JSON object
    filter: String,
    /// Print the number of matching events only
    #[arg(long)]
    count: bool,
    /// Print at most this many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print the count as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Info {
    /// Print only the fingerprint of the stored events: equal for equal sets, whatever the shards
    #[arg(long)]
    fingerprint: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// The filters of an export.
fn export_filters(command: &Export) -> Result<Vec<Value>, Failure> {
    let mut filters: Vec<Value> =
        command.filters.iter().map(|text| parse_filter(text)).collect::<Result<_, _>>()?;
    if command.reverse && filters.iter().any(|filter| filter.get("limit").is_some()) {
        // A limit means the newest events; oldest first they are not known before the end.
        return Err(Failure::Usage(anyhow!(
            "--reverse cannot be used with a filter that has a limit: a limit picks the newest \
             events; leave one of them out, or choose a time with --since and --until"
        )));
    }
    if filters.is_empty() {
        filters.push(json!({}));
    }
    for filter in &mut filters {
        if let Some(since) = command.since {
            let own = filter.get("since").and_then(Value::as_u64).unwrap_or(0);
            filter["since"] = since.max(own).into();
        }
        if let Some(until) = command.until {
            let own = filter.get("until").and_then(Value::as_u64).unwrap_or(u64::MAX);
            filter["until"] = until.min(own).into();
        }
    }
    Ok(filters)
}

pub(super) fn export(global: &Global, command: &Export) -> Outcome {
    let config = Arc::new(configure(global)?);
    let filters = export_filters(command)?;
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("exported {pos} events, {rate} a second, {elapsed}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.set_style(style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = write!(out, "{:.0}", state.per_sec());
    }));
    let request = Request::Scan { filters, oldest_first: command.reverse };
    let result = ask(&config, &request, None, &mut |_: Heard| bar.inc(1));
    bar.finish_and_clear();
    result.map(drop)
}

pub(super) fn scan(global: &Global, command: &Scan) -> Outcome {
    let config = Arc::new(configure(global)?);
    let mut filter = parse_filter(&command.filter)?;
    if command.count {
        let result = ask(&config, &Request::Count { filters: vec![filter] }, None, &mut |_| {})?;
        let mut out = io::stdout().lock();
        if command.json {
            writeln!(out, "{result}")?;
        } else {
            writeln!(out, "{}", result["count"])?;
        }
        return Ok(());
    }
    if let Some(limit) = command.limit {
        let own = filter.get("limit").and_then(Value::as_u64).unwrap_or(u64::MAX);
        filter["limit"] = limit.min(own).into();
    }
    let request = Request::Scan { filters: vec![filter], oldest_first: false };
    ask(&config, &request, None, &mut |_| {}).map(drop)
}

pub(super) fn info(global: &Global, command: &Info) -> Outcome {
    let config = Arc::new(configure(global)?);
    let mut out = io::stdout().lock();
    if command.fingerprint {
        let result = ask(&config, &Request::Fingerprint, None, &mut |_| {})?;
        if command.json {
            writeln!(out, "{result}")?;
        } else {
            writeln!(out, "{}", result["fingerprint"].as_str().unwrap_or_default())?;
        }
        return Ok(());
    }
    let mut result = ask(&config, &Request::Info, None, &mut |_| {})?;
    let path = Path::new(&config.store.data_dir);
    if let Some(shards) = result["shards"].as_array_mut() {
        for (number, shard) in shards.iter_mut().enumerate() {
            let folder = shard_folder(path, number);
            let (segments, log_bytes) = files(&folder.join("log"));
            shard["segments"] = segments.into();
            shard["log_bytes"] = log_bytes.into();
            shard["index_bytes"] = files(&folder.join("index")).1.into();
        }
    }
    result["version"] = super::version().into();
    result["data_dir"] = config.store.data_dir.clone().into();
    if command.json {
        writeln!(out, "{result}")?;
    } else {
        print_info(&mut out, &result)?;
    }
    Ok(())
}

fn print_info(out: &mut impl Write, info: &Value) -> io::Result<()> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    writeln!(out, "version   {}", text(&info["version"]))?;
    writeln!(out, "data      {}", text(&info["data_dir"]))?;
    match &info["runtime"] {
        Value::Null => writeln!(out, "runtime   not running")?,
        runtime => writeln!(out, "runtime   {} (process {})", text(runtime), info["pid"])?,
    }
    writeln!(out, "events    {}", info["events"])?;
    writeln!(
        out,
        "{:<8} {:>12} {:>12} {:>10} {:>14} {:>14} {:>11} {:>14}",
        "shard",
        "durable seq",
        "indexed seq",
        "segments",
        "log bytes",
        "index bytes",
        "generations",
        "memory bytes"
    )?;
    for (number, shard) in info["shards"].as_array().into_iter().flatten().enumerate() {
        writeln!(
            out,
            "{number:<8} {:>12} {:>12} {:>10} {:>14} {:>14} {:>11} {:>14}",
            text(&shard["durable_seq"]),
            text(&shard["applied_seq"]),
            text(&shard["segments"]),
            text(&shard["log_bytes"]),
            text(&shard["index_bytes"]),
            text(&shard["index_generations"]),
            text(&shard["memory_bytes"]),
        )?;
    }
    Ok(())
}

/// The folder of a shard. Behind its number stands that of the layout once the directory has been
/// resharded, and only one layout is kept.
fn shard_folder(path: &Path, number: usize) -> PathBuf {
    let name = format!("shard-{number:03}");
    let mut folders = std::fs::read_dir(path).into_iter().flatten().flatten();
    let found = folders.find(|folder| folder.file_name().to_string_lossy().starts_with(&name));
    found.map_or_else(|| path.join(&name), |folder| folder.path())
}

/// Number and bytes of the files in a folder, as the disk holds them.
fn files(folder: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512));
    sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
}

pub(super) fn parse_filter(text: &str) -> Result<Value, Failure> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Failure::Usage(anyhow!("{text} is no JSON filter: {error}")))?;
    if !value.is_object() {
        return Err(Failure::Usage(anyhow!(
            "a filter is a JSON object, such as {{\"kinds\":[1]}}"
        )));
    }
    let limits = admin::operator_limits(&Config::default());
    proto::parse::parse_filter(value.to_string().as_bytes(), &limits)
        .map_err(|reason| Failure::Usage(anyhow!("{text}: {}", reason.message())))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_first_and_a_limit_exclude_each_other() {
        let filters = vec![r#"{"kinds":[1],"limit":5}"#.to_owned()];
        let mut command = Export { filters, since: Some(3), until: None, reverse: true };
        let Err(Failure::Usage(error)) = export_filters(&command) else { panic!("it was taken") };
        assert!(error.to_string().contains("--reverse"), "{error}");
        command.reverse = false;
        let filters = export_filters(&command).ok().unwrap();
        assert_eq!(filters, [json!({"kinds": [1], "limit": 5, "since": 3})]);
    }
}
