//! `turnpike delete`.

use super::ask::{Heard, ask};
use super::offline::progress;
use super::read::parse_filter;
use super::{Failure, Global, Outcome, age, configure};
use crate::admin::Request;
use crate::runtime::clock;
use crate::runtime::signals;
use crate::runtime::wake::Wake;
use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::sync::Arc;

const HELP: &str = "\
At least one of --filter and --age is needed: an empty command deletes nothing.
--dry-run says how many events there are, and should come first.

What is deleted is gone for readers at once, and for good: OK to the last event
of a portion means that its end is on disk. Nothing keeps a deleted event from
coming back when somebody sends it again, unless --ban-ids is given: then its
id is refused for ever (`blocked: this event is banned by this relay's
operator`). With --ban-ids and a filter that names only ids, ids that are not
here are banned, too.

The bytes stay in the log until its segments are rewritten, which the relay
does within store.erase_after_h, and `turnpike compact` at once.

Works while the relay runs (it then asks it) and while it does not. Events go a
few thousand at a time. Interrupted (Ctrl-C, kill, power), what was deleted
stays deleted; run it again for the rest.

Examples:
  turnpike delete --age 90d --dry-run
  turnpike delete --age 90d --filter '{\"kinds\":[7]}'
  turnpike delete --filter '{\"authors\":[\"<64 hex digits>\"]}' --ban-ids

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage, 3 the relay that
holds the store does not answer.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Delete {
    /// Which events: a filter as in NIP-01, a JSON object. With a limit, only the newest so many
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Only events older than this by their own date: 90d, 2h, 1w, 6M, 3y, or seconds
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    age: Option<u64>,
    /// Say how many events there are, and delete none
    #[arg(long)]
    dry_run: bool,
    /// Refuse the deleted ids for ever
    #[arg(long)]
    ban_ids: bool,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

/// Seconds of an age such as `2h`.
fn parse_age(text: &str) -> Result<u64, String> {
    let (count, unit_s) = age::parse(text).ok_or_else(|| {
        format!(
            "{text:?} is no age; an age is a whole number and a unit, such as 90d; units are s, m, h, \
             d, w, M and y"
        )
    })?;
    count.checked_mul(unit_s.unwrap_or(1)).ok_or_else(|| format!("{text:?} is too long ago"))
}

/// The filter that the command means.
fn filter_of(command: &Delete, now_s: u64) -> Result<Value, Failure> {
    if command.filter.is_none() && command.age.is_none() {
        return Err(Failure::Usage(anyhow!(
            "neither --filter nor --age is given, and nothing is deleted; --filter '{{}}' means every \
             event"
        )));
    }
    let mut filter = command.filter.as_deref().map_or(Ok(json!({})), parse_filter)?;
    if let Some(age) = command.age {
        let until = now_s.checked_sub(age).ok_or_else(|| {
            Failure::Usage(anyhow!("nothing can be that old: --age reaches to before 1970"))
        })?;
        let own = filter.get("until").and_then(Value::as_u64).unwrap_or(u64::MAX);
        filter["until"] = until.min(own).into();
    }
    Ok(filter)
}

pub(super) fn run(global: &Global, command: &Delete) -> Outcome {
    let config = Arc::new(configure(global)?);
    let filter = filter_of(command, clock::now().unix_s)?;
    let asked = signals::listen(Wake::new()?).context("signal handlers")?;
    let request = Request::Delete { filter, ban: command.ban_ids, dry_run: command.dry_run };
    let bar = progress(0, "deleting");
    let mut done_so_far = 0;
    let result = ask(&config, &request, Some(&asked), &mut |heard| {
        if let Heard::Progress(done, total) = heard {
            done_so_far = done;
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    bar.finish_and_clear();
    if asked.to_end() && result.is_err() {
        return Err(Failure::Failed(anyhow!(
            "interrupted: {done_so_far} events or a few more are deleted and stay so; run it again \
             for the rest"
        )));
    }
    let result = result?;
    let mut out = io::stdout().lock();
    if command.json {
        writeln!(out, "{result}")?;
    } else if command.dry_run {
        writeln!(out, "{} matching, none deleted (--dry-run)", result["matched"])?;
    } else {
        let banned = if command.ban_ids { "; their ids are refused from now on" } else { "" };
        let (matched, removed) = (&result["matched"], &result["removed"]);
        writeln!(out, "{matched} matching, {removed} deleted{banned}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(filter: Option<&str>, age: Option<u64>) -> Delete {
        let filter = filter.map(str::to_owned);
        Delete { filter, age, dry_run: false, ban_ids: false, json: false }
    }

    #[test]
    fn ages_are_numbers_with_units() {
        for (text, seconds) in [
            ("90", 90),
            ("2h", 7_200),
            ("3d", 259_200),
            ("1w", 604_800),
            ("5m", 300),
            ("1y", 31_536_000),
        ] {
            assert_eq!(parse_age(text), Ok(seconds), "{text}");
        }
        for text in
            ["", "h", "-2h", "2 h", "2q", "1.5d", "99999999999999999999", "9999999999999999y"]
        {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_given_deletes_nothing_and_an_age_narrows_the_filter() {
        assert!(matches!(filter_of(&command(None, None), 100), Err(Failure::Usage(_))));
        assert!(matches!(filter_of(&command(None, Some(101)), 100), Err(Failure::Usage(_))));
        let filter = filter_of(&command(Some(r#"{"kinds":[1],"until":50}"#), Some(40)), 100);
        assert_eq!(filter.ok(), Some(json!({"kinds": [1], "until": 50})));
        let filter = filter_of(&command(None, Some(60)), 100);
        assert_eq!(filter.ok(), Some(json!({"until": 40})));
    }
}
