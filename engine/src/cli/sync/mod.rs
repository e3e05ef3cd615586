//! `turnpike sync`: NIP-77 with a relay elsewhere.

mod bridge;
pub(super) mod here;
pub(super) mod messages;
pub(super) mod there;
mod transfer;
mod window;

use super::read::parse_filter;
use super::{Failure, Global, Outcome, configure};
use crate::admin;
use crate::runtime::client::{Client, wait};
use crate::runtime::clock;
use crate::runtime::signals::{self, Asked};
use crate::runtime::uplink::Gone;
use crate::runtime::wake::Wake;
use anyhow::{Context, anyhow};
use bridge::{Bridge, BridgeError, Next};
use clap::{Args, ValueEnum};
use here::Here;
use indicatif::{ProgressBar, ProgressStyle};
use messages::{Heard, hear, neg_msg, neg_open, prefix};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::PathBuf;
use there::{Address, AuthKey};
use transfer::{Send, Tally, Transfer, Ways};
use window::{Window, parse_range};

/// Bytes of a message to the relay on this machine, before it is written as hex.
const HERE_BYTES_MAX: usize = 100_000;
/// Differences that may wait before the next ones are asked about.
const BACKLOG_MAX: usize = 20_000;
/// Messages of one session: with the smallest frames, far more than two stores of a hundred million
/// events need.
const ROUNDS_MAX: u64 = 1_000_000;
/// Times in a row that a session is begun anew.
const REOPENED_MAX: u32 = 10;
/// Times that the connection to the other relay is made again.
const RECONNECTED_MAX: u32 = 32;
/// How long the relay on this machine may take to answer: a set that nobody keeps sums of is read.
const HERE_TIMEOUT_MS: u64 = 600_000;
/// How long outcomes are waited for after the wish to end.
const LAST_OUTCOMES_MS: u64 = 5_000;
/// How long one wait for messages is: so often it is looked whether the command is to end.
const TURN_MS: u64 = 100;

const HELP: &str = "\
Both relays tell each other fingerprints of their events (NIP-77), which costs
a few messages where they have the same, and only what differs is transferred.
Events that come are verified and judged as an import is; those that go are the
other relay's to judge.

Works while the relay runs on the data directory (it then goes through its
local socket, and its subscribers see what comes), and while it does not.

Private kinds (4, 1059, 21059) are never sent and their ids are never told:
move them with export and import. Those that the other relay tells about are
taken, and kept private.

Interrupted (Ctrl-C, kill, power), what was transferred stays; the same command
does the rest. A relay that refuses to reconcile so many records at once is
asked again about one half of the time after the other.

--print-missing writes a line per difference, as strfry does: have,<id> only
here, need,<id> only there. That is all that happens, unless --dir says to
transfer as well.

Examples:
  turnpike sync wss://relay.example.com
  turnpike sync wss://relay.example.com --dir down --filter '{\"kinds\":[0,3]}'
  turnpike sync wss://relay.example.com --range 7d-    younger than a week
  turnpike sync wss://relay.example.com --range 7d-2d  and older than two days
  turnpike sync wss://relay.example.com --print-missing  transfers nothing

Exit codes: 0 done (whatever was refused), 1 failed or interrupted, 2 wrong
usage, 3 the relay that holds the store does not answer.";

/// Which way events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Direction {
    /// Each relay gets what it lacks
    Both,
    /// This one gets what it lacks
    Down,
    /// The other one gets what it lacks
    Up,
    /// Nothing is transferred
    None,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Sync {
    /// The other relay: ws://... or wss://...
    #[arg(value_name = "URL")]
    url: String,
    /// Which way events go [default: both; none with --print-missing]
    #[arg(long, value_enum)]
    dir: Option<Direction>,
    /// Which events: a filter as in NIP-01, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    filter: String,
    /// Which stretch of time, older end first: 2h-, 7d-2d, -1Y (s m h d w M Y), or Unix times
    #[arg(long, value_name = "OLDER-NEWER", allow_hyphen_values = true)]
    range: Option<String>,
    /// Write the ids of what differs, and transfer nothing unless --dir is given, too
    #[arg(long)]
    print_missing: bool,
    /// Answer the other relay's AUTH with the secret key in this file (64 hex digits)
    #[arg(long, value_name = "FILE")]
    auth_key_file: Option<PathBuf>,
    /// Bytes of a message of reconciliation, before it is written as hex
    #[arg(long, value_name = "BYTES", default_value_t = 60_000,
          value_parser = clap::value_parser!(u32).range(4_096..=4_000_000))]
    frame_size_limit: u32,
    /// Seconds that the other relay may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Print the totals as a JSON object
    #[arg(long)]
    json: bool,
}

impl Sync {
    /// Whoever only asks what differs, as strfry's operators do, changes nothing on either side.
    pub(super) fn direction(&self) -> Direction {
        let default = if self.print_missing { Direction::None } else { Direction::Both };
        self.dir.unwrap_or(default)
    }
}

pub(super) fn run(global: &Global, command: &Sync) -> Outcome {
    let filter = parse_filter(&command.filter)?;
    if filter.get("limit").is_some() {
        return Err(Failure::Usage(anyhow!(
            "a filter with a limit is another set at each relay; leave the limit out, or choose a time \
             with --range"
        )));
    }
    let (own, filter) = Window::of(&filter);
    let range = match &command.range {
        Some(text) => parse_range(text, clock::now().unix_s)
            .map_err(|error| Failure::Usage(anyhow!("--range: {error}")))?,
        None => Window::ALL,
    };
    let window = own.and(range);
    if window.since > window.until {
        return Err(Failure::Usage(anyhow!(
            "--range and the filter's own time have nothing in common"
        )));
    }
    let key = command.auth_key_file.as_deref().map(AuthKey::read).transpose()?;
    let config = configure(global)?;
    let asked = signals::listen(Wake::new()?).context("signal handlers")?;
    let timeout_ms = u64::from(command.timeout) * 1_000;
    // The other relay first: a store is not opened in vain.
    let address = Address { url: &command.url, key: key.as_ref(), timeout_ms };
    let there = address.connect(&asked)?;
    let mut here = Here::open(&config)?;
    let dir = command.direction();
    let ways = Ways {
        up: matches!(dir, Direction::Both | Direction::Up),
        down: matches!(dir, Direction::Both | Direction::Down),
    };
    let started_us = clock::monotonic_us();
    let now_ms = clock::now().monotonic_ms;
    let mut session = Session {
        here: &mut here.client,
        there,
        address,
        asked: &asked,
        transfer: Transfer::new(ways, admin::operator_limits(&config)),
        name: String::new(),
        answer_here: None,
        answer_there: None,
        heard_here_ms: now_ms,
        heard_there_ms: now_ms,
        notice: String::new(),
        reconnected: 0,
        frame_bytes: command.frame_size_limit as usize,
        prints_missing: command.print_missing,
        bar: spinner(),
    };
    let synced = session.all(&filter, window);
    session.bar.finish_and_clear();
    let tally = std::mem::take(&mut session.transfer.tally);
    drop(session);
    let ended = here.end();
    summarise(&tally, clock::monotonic_us() - started_us, command.json)?;
    synced?;
    ended
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn summarise(tally: &Tally, duration_us: u64, as_json: bool) -> io::Result<()> {
    let seconds = duration_us as f64 / 1e6;
    let mut out = io::stdout().lock();
    if as_json {
        let summary = json!({
            "have": tally.have,
            "need": tally.need,
            "downloaded": tally.downloaded,
            "uploaded": tally.uploaded,
            "known": tally.known,
            "withheld": tally.withheld,
            "unasked": tally.unasked,
            "refused_here": tally.refused_here,
            "refused_there": tally.refused_there,
            "sessions": tally.sessions,
            "rounds": tally.rounds,
            "seconds": seconds,
        });
        return writeln!(out, "{summary}");
    }
    writeln!(
        out,
        "{} only here, {} only there; {} downloaded, {} uploaded, {} known already, in {seconds:.1} s \
         and {} messages of reconciliation",
        tally.have, tally.need, tally.downloaded, tally.uploaded, tally.known, tally.rounds,
    )?;
    if tally.withheld > 0 {
        writeln!(out, "  {} were not given by the other relay when asked for", tally.withheld)?;
    }
    for (who, reasons) in
        [("here", &tally.refused_here), ("by the other relay", &tally.refused_there)]
    {
        for (reason, count) in reasons {
            writeln!(out, "  refused {who}, {reason}: {count}")?;
        }
    }
    Ok(())
}

/// What an end says in a session.
enum Answer {
    Message(Vec<u8>),
    Ended(String, Option<u64>),
}

/// How a window of time ended.
enum Reconciled {
    Whole,
    /// It has more records than one of the relays reconciles at once.
    TooMany(String),
}

/// The two ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Here,
    There,
}

/// Both connections and what goes over them. Owned by the command's thread.
struct Session<'a> {
    here: &'a mut Client,
    there: Client,
    address: Address<'a>,
    asked: &'a Asked,
    transfer: Transfer,
    /// Of the reconciliation under way.
    name: String,
    answer_here: Option<Answer>,
    answer_there: Option<Answer>,
    heard_here_ms: u64,
    heard_there_ms: u64,
    /// What the relay elsewhere said last in words.
    notice: String,
    /// Times that the connection to it was made again.
    reconnected: u32,
    frame_bytes: usize,
    prints_missing: bool,
    bar: ProgressBar,
}

impl Session<'_> {
    fn all(&mut self, filter: &Value, window: Window) -> Outcome {
        let mut windows = vec![window];
        while let Some(window) = windows.pop() {
            let Reconciled::TooMany(why) = self.reconcile(&window.narrow(filter))? else {
                continue;
            };
            let Some((early, late)) = window.halves() else {
                return Err(
                    self.failed(format!("one second of it is too much to reconcile: {why}"))
                );
            };
            windows.extend([early, late]);
        }
        while !self.transfer.is_done() {
            self.turn(TURN_MS)?;
        }
        self.print_missing()?;
        Ok(())
    }

    /// One window of time, until nothing more is to be said about it.
    fn reconcile(&mut self, filter: &Value) -> Result<Reconciled, Failure> {
        self.transfer.tally.sessions += 1;
        self.name = format!("sync-{}", self.transfer.tally.sessions);
        let mut bridge = Bridge::default();
        let (mut is_open, mut rounds, mut reopened) = ([false; 2], 0, 0);
        loop {
            while self.transfer.backlog() > BACKLOG_MAX {
                self.turn(TURN_MS)?;
            }
            let (end, message) = match bridge.next(HERE_BYTES_MAX, self.frame_bytes) {
                Next::TellHere(message) => (End::Here, message),
                Next::TellThere(message) => (End::There, message),
                Next::Done => break,
            };
            if end == End::There {
                rounds += 1;
                self.transfer.tally.rounds += 1;
                if rounds > ROUNDS_MAX {
                    return Err(self.failed("it finds differences without end"));
                }
            }
            let is_open = &mut is_open[end as usize];
            let text = match *is_open {
                true => neg_msg(&self.name, &message),
                false => neg_open(&self.name, filter, &message),
            };
            match self.ask(end, text)? {
                Answer::Message(answer) => {
                    *is_open = true;
                    reopened = 0;
                    self.hear(end, &answer, &mut bridge)?;
                }
                Answer::Ended(why, records_max) if is_too_many(&why, records_max) => {
                    self.close_sessions()?;
                    return Ok(Reconciled::TooMany(why));
                }
                Answer::Ended(why, _) => {
                    *is_open = false;
                    reopened += 1;
                    self.reopen(end, &why, reopened, &mut bridge)?;
                }
            }
        }
        self.close_sessions()?;
        Ok(Reconciled::Whole)
    }

    fn hear(&mut self, end: End, answer: &[u8], bridge: &mut Bridge) -> Outcome {
        let heard = match end {
            End::There => bridge.hear_there(answer),
            End::Here => bridge.hear_here(answer).map(|found| {
                self.transfer.tell(&found.have, &found.need);
            }),
        };
        heard.map_err(|error: BridgeError| match end {
            End::There => self.failed(error),
            End::Here => Failure::Failed(anyhow!("the relay on this machine: {error}")),
        })?;
        self.print_missing()?;
        Ok(())
    }

    /// A session ended before its time: it is begun anew where that may help.
    fn reopen(&mut self, end: End, why: &str, reopened: u32, bridge: &mut Bridge) -> Outcome {
        let may_help = matches!(prefix(why).as_str(), "closed" | "rate-limited" | "error")
            || (prefix(why) == "auth-required" && self.address.key.is_some());
        if !may_help || reopened > REOPENED_MAX {
            return Err(match (end, prefix(why).as_str()) {
                (End::Here, _) => {
                    Failure::Failed(anyhow!("the relay on this machine does not reconcile: {why}"))
                }
                (End::There, "auth-required") => self.failed(format!(
                    "it wants to know who asks ({why}); name a key with --auth-key-file"
                )),
                (End::There, _) => self.failed(format!("it does not reconcile: {why}")),
            });
        }
        let until_ms = clock::now().monotonic_ms + 250 * u64::from(reopened);
        while clock::now().monotonic_ms < until_ms {
            self.turn(TURN_MS)?;
        }
        let again = match end {
            End::Here => bridge.again_here(),
            End::There => bridge.again_there(),
        };
        again.map_err(|error| self.failed(error))
    }

    /// Sends a message of a session and waits for what comes back; events go on meanwhile.
    fn ask(&mut self, end: End, text: String) -> Result<Answer, Failure> {
        match end {
            End::Here => self.answer_here = None,
            End::There => self.answer_there = None,
        }
        self.send(end, text)?;
        let asked_ms = clock::now().monotonic_ms;
        loop {
            let answer = match end {
                End::Here => self.answer_here.take(),
                End::There => self.answer_there.take(),
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
            let waited_ms = clock::now().monotonic_ms - asked_ms;
            if end == End::There && !self.notice.is_empty() && is_about_negentropy(&self.notice) {
                let notice = std::mem::take(&mut self.notice);
                return Err(self.failed(format!("it does not speak NIP-77: {notice}")));
            }
            let timeout_ms = match end {
                End::Here => HERE_TIMEOUT_MS,
                End::There => self.address.timeout_ms,
            };
            if waited_ms > timeout_ms {
                return Err(match end {
                    End::Here => {
                        Failure::Failed(anyhow!("the relay on this machine does not answer"))
                    }
                    End::There => self.failed(format!(
                        "it did not answer within {} s; it may not speak NIP-77{}",
                        timeout_ms / 1_000,
                        if self.notice.is_empty() {
                            String::new()
                        } else {
                            format!(" ({})", self.notice)
                        }
                    )),
                });
            }
            self.turn(TURN_MS)?;
        }
    }

    fn close_sessions(&mut self) -> Outcome {
        let close = json!(["NEG-CLOSE", self.name]).to_string();
        self.name.clear();
        self.send(End::Here, close.clone())?;
        self.send(End::There, close)
    }

    fn send(&mut self, end: End, text: String) -> Outcome {
        match end {
            End::Here => self.here.send(text).map_err(|gone| here_gone(&gone.0)),
            End::There => match self.there.send(text) {
                Ok(()) => Ok(()),
                Err(gone) => self.reconnect(&gone),
            },
        }
    }

    /// The relay elsewhere hung up. What had no answer is begun again; a session, too.
    fn reconnect(&mut self, gone: &Gone) -> Outcome {
        self.reconnected += 1;
        if self.reconnected > RECONNECTED_MAX || self.asked.to_end() {
            return Err(self.failed(&gone.0));
        }
        self.there = self.address.connect(self.asked)?;
        self.heard_there_ms = clock::now().monotonic_ms;
        self.transfer.reconnected();
        self.answer_there = Some(Answer::Ended(format!("closed: {}", gone.0), None));
        Ok(())
    }

    /// Sends, waits for messages of either end and takes them.
    fn turn(&mut self, wait_ms: u64) -> Outcome {
        if self.asked.to_end() {
            return self.wind_down();
        }
        self.step(wait_ms)?;
        let now_ms = clock::now().monotonic_ms;
        if !self.transfer.waits_for_there(now_ms) {
            self.heard_there_ms = now_ms;
        }
        if !self.transfer.waits_for_here(now_ms) {
            self.heard_here_ms = now_ms;
        }
        if now_ms - self.heard_there_ms > self.address.timeout_ms {
            let seconds = self.address.timeout_ms / 1_000;
            return Err(self.failed(format!("it has said nothing for {seconds} s")));
        }
        if now_ms - self.heard_here_ms > HERE_TIMEOUT_MS {
            return Err(Failure::Failed(anyhow!("the relay on this machine does not answer")));
        }
        let tally = &self.transfer.tally;
        self.bar.set_message(format!(
            "{} only here, {} only there, {} downloaded, {} uploaded",
            tally.have, tally.need, tally.downloaded, tally.uploaded
        ));
        self.bar.tick();
        Ok(())
    }

    fn step(&mut self, wait_ms: u64) -> Outcome {
        let connection = self.reconnected;
        for send in self.transfer.go_on(clock::now().monotonic_ms) {
            match send {
                Send::Here(text) => self.send(End::Here, text)?,
                // What is lost with a connection is asked and sent again anyway.
                Send::There(text) if connection == self.reconnected => {
                    self.send(End::There, text)?
                }
                Send::There(_) => {}
            }
        }
        match wait([&mut *self.here, &mut self.there], wait_ms) {
            Err((0, gone)) => return Err(here_gone(&gone.0)),
            Err((_, gone)) => self.reconnect(&gone)?,
            Ok(()) => {}
        }
        while let Some(text) = self.here.read().map_err(|gone| here_gone(&gone.0))? {
            self.take_here(&text)?;
        }
        loop {
            match self.there.read() {
                Ok(Some(text)) => self.take_there(&text)?,
                Ok(None) => break,
                Err(gone) => self.reconnect(&gone)?,
            }
        }
        Ok(())
    }

    /// The command is to end: what is under way gets its outcome, if that does not take long.
    fn wind_down(&mut self) -> Outcome {
        self.transfer.wind_down();
        let give_up_ms = clock::now().monotonic_ms + LAST_OUTCOMES_MS;
        while self.transfer.has_events_under_way() && clock::now().monotonic_ms < give_up_ms {
            self.step(TURN_MS)?;
            self.transfer.wind_down();
        }
        Err(Failure::Failed(anyhow!(
            "interrupted; what was transferred stays, and the same command does the rest"
        )))
    }

    fn take_here(&mut self, text: &str) -> Outcome {
        let now_ms = clock::now().monotonic_ms;
        self.heard_here_ms = now_ms;
        let taken = match hear(text) {
            Heard::Event(sub, event) => {
                self.transfer.event_here(&sub, event);
                Ok(())
            }
            Heard::Eose(sub) => {
                self.transfer.eose_here(&sub);
                Ok(())
            }
            Heard::Closed(sub, why) => self.transfer.closed_here(&sub, &why),
            Heard::Ok(id, is_taken, why) => self.transfer.ok_here(now_ms, (id, is_taken, &why)),
            Heard::NegMsg(sub, message) if sub == self.name => {
                self.answer_here = Some(Answer::Message(message));
                Ok(())
            }
            Heard::NegErr(sub, why, records_max) if sub == self.name => {
                self.answer_here = Some(Answer::Ended(why, records_max));
                Ok(())
            }
            _ => Ok(()),
        };
        taken.map_err(|error| Failure::Failed(error.into()))
    }

    fn take_there(&mut self, text: &str) -> Outcome {
        let now_ms = clock::now().monotonic_ms;
        self.heard_there_ms = now_ms;
        let taken = match hear(text) {
            Heard::Event(sub, event) => {
                self.transfer.event_there(&sub, event);
                Ok(())
            }
            Heard::Eose(sub) => {
                self.transfer.eose_there(&sub);
                Ok(())
            }
            Heard::Closed(sub, why) => self.transfer.closed_there(now_ms, &sub, &why),
            Heard::Ok(id, is_taken, why) => self.transfer.ok_there(now_ms, (id, is_taken, &why)),
            Heard::NegMsg(sub, message) if sub == self.name => {
                self.answer_there = Some(Answer::Message(message));
                Ok(())
            }
            Heard::NegErr(sub, why, records_max) if sub == self.name => {
                self.answer_there = Some(Answer::Ended(why, records_max));
                Ok(())
            }
            Heard::Auth(challenge) => {
                if let Some(answer) = self.address.answer(&challenge) {
                    self.send(End::There, answer)?;
                }
                Ok(())
            }
            Heard::Notice(notice) => {
                self.notice = notice.chars().filter(|c| !c.is_control()).take(200).collect();
                Ok(())
            }
            _ => Ok(()),
        };
        taken.map_err(|error| self.failed(error))
    }

    fn print_missing(&mut self) -> io::Result<()> {
        let lines = std::mem::take(&mut self.transfer.missing);
        if self.prints_missing {
            let mut out = io::stdout().lock();
            lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        }
        Ok(())
    }

    /// The relay elsewhere is to blame.
    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::Failed(anyhow!("{}: {why}", self.address.url))
    }
}

fn here_gone(why: &str) -> Failure {
    Failure::Failed(anyhow!("{} ({why})", super::RELAY_GONE))
}

/// Whether a session ended because its set is too large.
fn is_too_many(why: &str, records_max: Option<u64>) -> bool {
    let why = why.to_ascii_lowercase();
    let says_so = ["too many", "too big", "too large", "results_too_big"];
    !why.contains("session")
        && (says_so.iter().any(|words| why.contains(words))
            || (records_max.is_some() && why.starts_with("blocked")))
}

/// Whether words that come instead of an answer are about the question.
fn is_about_negentropy(notice: &str) -> bool {
    let notice = notice.to_ascii_lowercase();
    ["neg", "unknown", "unrecogni", "invalid", "unsupported", "not supported", "bad msg", "parse"]
        .iter()
        .any(|words| notice.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_too_large_is_told_apart_from_other_refusals() {
        assert!(is_too_many("blocked: too many query results", None));
        assert!(is_too_many("blocked: this query is too big", Some(5)));
        assert!(is_too_many("blocked: no", Some(500_000)));
        assert!(!is_too_many("blocked: too many open sessions", None));
        assert!(!is_too_many("closed: timed out", None));
        for notice in ["ERROR: bad msg: negentropy disabled", "unknown message type NEG-OPEN"] {
            assert!(is_about_negentropy(notice), "{notice}");
        }
        assert!(!is_about_negentropy("welcome"));
    }
}
