//! `turnpike stream`: events as they come, between this relay and one elsewhere.

use super::read::parse_filter;
use super::sync::here::Here;
use super::sync::messages::{Heard, event_message, hear, prefix, req};
use super::sync::there::{Address, AuthKey};
use super::{Failure, Global, Outcome, RELAY_GONE, configure};
use crate::admin;
use crate::runtime::client::{Client, wait};
use crate::runtime::clock;
use crate::runtime::signals::{self, Asked};
use crate::runtime::uplink::Gone;
use crate::runtime::wake::Wake;
use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use proto::nip::nip17::is_private;
use proto::{EventId, Limits};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write};
use std::path::PathBuf;

/// Ids that are remembered, so that no event goes back to where it came from.
const RECENT_IDS: usize = 65_536;
/// Events without a verdict at either end; more of them wait.
const UNANSWERED_MAX: usize = 512;
/// Events that wait; the oldest ones are dropped beyond, and counted.
const WAITING_MAX: usize = 4_096;
/// First and longest pause between two attempts to connect.
const PAUSE_MS: (u64, u64) = (500, 60_000);
/// A connection that held for so long was a good one: the next pause is short again.
const GOOD_MS: u64 = 30_000;
/// How long one wait for messages is.
const TURN_MS: u64 = 200;
/// How long outcomes are waited for after the wish to end.
const LAST_OUTCOMES_MS: u64 = 2_000;
/// Name of both subscriptions.
const SUB: &str = "stream";

const HELP: &str = "\
Nothing stored is sent, only what comes from now on: `turnpike sync` does the
rest, before or after. No event goes back to where it came from. Events that
come are verified and judged as an import is; those that go are the other
relay's to judge. Private kinds (4, 1059, 21059) are never sent.

When the other relay goes away, the connection is made again, after longer and
longer pauses. What comes meanwhile is not sent later; `turnpike sync URL
--range 1h-` finds it.

Works while the relay runs on the data directory, and while it does not (then
events only come down). Runs until it is interrupted (Ctrl-C, kill), and then
prints its totals.

Examples:
  turnpike stream wss://relay.example.com
  turnpike stream wss://relay.example.com --dir up --filter '{\"kinds\":[0]}'

Exit codes: 0 interrupted, 1 the relay on this machine failed, 2 wrong usage, 3
the relay that holds the store does not answer.";

/// Which way events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// From the other relay to this one
    Down,
    /// From this one to the other
    Up,
    /// Both ways
    Both,
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Stream {
    /// The other relay: ws://... or wss://...
    #[arg(value_name = "URL")]
    url: String,
    /// Which way events go
    #[arg(long, value_enum, default_value = "down")]
    dir: Direction,
    /// Which events: a filter as in NIP-01, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    filter: String,
    /// Answer the other relay's AUTH with the secret key in this file (64 hex digits)
    #[arg(long, value_name = "FILE")]
    auth_key_file: Option<PathBuf>,
    /// Seconds that the other relay may take to open a connection
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    timeout: u32,
    /// Print the totals as a JSON object
    #[arg(long)]
    json: bool,
}

/// What has become of the events.
#[derive(Debug, Default)]
struct Tally {
    downloaded: u64,
    uploaded: u64,
    known: u64,
    refused_here: u64,
    refused_there: u64,
    /// Not sent, because an end took events more slowly than they came, or was away.
    dropped: u64,
    connections: u64,
}

pub(super) fn run(global: &Global, command: &Stream) -> Outcome {
    let mut filter = parse_filter(&command.filter)?;
    filter["limit"] = 0.into();
    let key = command.auth_key_file.as_deref().map(AuthKey::read).transpose()?;
    let config = configure(global)?;
    let asked = signals::listen(Wake::new()?).context("signal handlers")?;
    let timeout_ms = u64::from(command.timeout) * 1_000;
    let address = Address { url: &command.url, key: key.as_ref(), timeout_ms };
    // A URL that cannot be one, or a relay that is not there, is told at once and not tried again.
    let first = address.connect(&asked)?;
    let mut here = Here::open(&config)?;
    let mut stream = Streaming {
        down: command.dir != Direction::Up,
        up: command.dir != Direction::Down,
        filter,
        limits: admin::operator_limits(&config),
        recent: Recent::default(),
        for_here: Lane::default(),
        for_there: Lane::default(),
        tally: Tally::default(),
    };
    let streamed = stream.all(&mut here.client, first, &address, &asked);
    let tally = stream.tally;
    let ended = here.end();
    summarise(&tally, command.json)?;
    streamed?;
    ended
}

fn summarise(tally: &Tally, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let summary = json!({
            "downloaded": tally.downloaded,
            "uploaded": tally.uploaded,
            "known": tally.known,
            "refused_here": tally.refused_here,
            "refused_there": tally.refused_there,
            "dropped": tally.dropped,
            "connections": tally.connections,
        });
        return writeln!(out, "{summary}");
    }
    writeln!(
        out,
        "{} downloaded, {} uploaded, {} known already, {} refused here, {} refused by the other relay, \
         {} dropped, {} connections",
        tally.downloaded,
        tally.uploaded,
        tally.known,
        tally.refused_here,
        tally.refused_there,
        tally.dropped,
        tally.connections,
    )
}

/// The ids that went through last; the oldest ones are forgotten.
#[derive(Debug, Default)]
struct Recent {
    ids: BTreeSet<EventId>,
    order: VecDeque<EventId>,
}

impl Recent {
    /// `false` if the id is remembered already.
    fn insert(&mut self, id: EventId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > RECENT_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// Events on their way to one end.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<(EventId, String)>,
    unanswered: BTreeSet<EventId>,
}

impl Lane {
    /// Takes an event; how many had to make room for it.
    fn push(&mut self, id: EventId, message: String) -> u64 {
        self.waiting.push_back((id, message));
        if self.waiting.len() <= WAITING_MAX {
            return 0;
        }
        self.waiting.pop_front();
        1
    }

    fn send_to(&mut self, client: &mut Client) -> Result<(), Gone> {
        while self.unanswered.len() < UNANSWERED_MAX
            && let Some((id, message)) = self.waiting.pop_front()
        {
            client.send(message)?;
            self.unanswered.insert(id);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.unanswered.is_empty()
    }
}

/// Which end has failed.
enum Lost {
    Here(Gone),
    There(String),
}

/// Both lanes and what is known about them. Owned by the command's thread; bounded by the constants
/// above.
struct Streaming {
    down: bool,
    up: bool,
    filter: Value,
    limits: Limits,
    recent: Recent,
    for_here: Lane,
    for_there: Lane,
    tally: Tally,
}

impl Streaming {
    fn all(
        &mut self,
        here: &mut Client,
        first: Client,
        address: &Address<'_>,
        asked: &Asked,
    ) -> Outcome {
        if self.up {
            here.send(req(SUB, &self.filter)).map_err(|gone| here_gone(&gone))?;
        }
        let mut next = Some(first);
        let mut pause_ms = PAUSE_MS.0;
        while !asked.to_end() {
            let there = match next.take() {
                Some(there) => Ok(there),
                None => address.connect(asked),
            };
            let began_ms = clock::now().monotonic_ms;
            let why = match there {
                Err(Failure::Failed(error)) => error.to_string(),
                Err(failure) => return Err(failure),
                Ok(mut there) => {
                    self.tally.connections += 1;
                    say(&format!("connected to {}", address.url));
                    match self.both(here, &mut there, address, asked) {
                        Ok(()) => break,
                        Err(Lost::Here(gone)) => return Err(here_gone(&gone)),
                        Err(Lost::There(why)) => why,
                    }
                }
            };
            // What had no verdict may not have arrived.
            self.tally.dropped += self.for_there.unanswered.len() as u64;
            self.for_there.unanswered.clear();
            if clock::now().monotonic_ms - began_ms >= GOOD_MS {
                pause_ms = PAUSE_MS.0;
            }
            say(&format!("{}: {why}; trying again in {} s", address.url, pause_ms.div_ceil(1_000)));
            self.pause(here, pause_ms, asked).map_err(|gone| here_gone(&gone))?;
            pause_ms = (pause_ms * 2).min(PAUSE_MS.1);
        }
        Ok(())
    }

    /// As long as both ends are there.
    fn both(
        &mut self,
        here: &mut Client,
        there: &mut Client,
        address: &Address<'_>,
        asked: &Asked,
    ) -> Result<(), Lost> {
        let lost = |gone: Gone| Lost::There(gone.0);
        if self.down {
            there.send(req(SUB, &self.filter)).map_err(lost)?;
        }
        let mut give_up_ms = u64::MAX;
        loop {
            if asked.to_end() {
                let now_ms = clock::now().monotonic_ms;
                give_up_ms = give_up_ms.min(now_ms + LAST_OUTCOMES_MS);
                if now_ms >= give_up_ms || (self.for_here.is_empty() && self.for_there.is_empty()) {
                    return Ok(());
                }
            }
            self.for_here.send_to(here).map_err(Lost::Here)?;
            self.for_there.send_to(there).map_err(lost)?;
            wait([&mut *here, &mut *there], TURN_MS).map_err(|(end, gone)| match end {
                0 => Lost::Here(gone),
                _ => Lost::There(gone.0),
            })?;
            while let Some(text) = here.read().map_err(Lost::Here)? {
                self.take_here(&text);
            }
            while let Some(text) = there.read().map_err(lost)? {
                if let Heard::Auth(challenge) = hear(&text)
                    && let Some(answer) = address.answer(&challenge)
                {
                    there.send(answer).map_err(lost)?;
                    continue;
                }
                self.take_there(&text).map_err(Lost::There)?;
            }
        }
    }

    /// Lets time pass while only this end is there: what it says is taken, and not kept.
    fn pause(&mut self, here: &mut Client, pause_ms: u64, asked: &Asked) -> Result<(), Gone> {
        let until_ms = clock::now().monotonic_ms + pause_ms;
        while clock::now().monotonic_ms < until_ms && !asked.to_end() {
            self.for_here.send_to(here)?;
            wait([&mut *here], TURN_MS.min(pause_ms)).map_err(|(_, gone)| gone)?;
            while let Some(text) = here.read()? {
                self.take_here(&text);
            }
            self.tally.dropped += self.for_there.waiting.len() as u64;
            self.for_there.waiting.clear();
        }
        Ok(())
    }

    fn take_here(&mut self, text: &str) {
        match hear(text) {
            Heard::Event(_, json) if self.up => {
                if let Some(id) = self.fresh(json, true) {
                    self.tally.dropped += self.for_there.push(id, event_message(json));
                }
            }
            Heard::Ok(id, is_taken, why) if self.for_here.unanswered.remove(&id) => {
                match (is_taken, prefix(&why).as_str()) {
                    (true, "duplicate") => self.tally.known += 1,
                    (true, _) => self.tally.downloaded += 1,
                    (false, _) => self.tally.refused_here += 1,
                }
            }
            _ => {}
        }
    }

    fn take_there(&mut self, text: &str) -> Result<(), String> {
        match hear(text) {
            Heard::Event(_, json) if self.down => {
                if let Some(id) = self.fresh(json, false) {
                    self.tally.dropped += self.for_here.push(id, event_message(json));
                }
            }
            Heard::Ok(id, is_taken, why) if self.for_there.unanswered.remove(&id) => {
                match (is_taken, prefix(&why).as_str()) {
                    (_, "duplicate") => self.tally.known += 1,
                    (true, _) => self.tally.uploaded += 1,
                    (false, _) => self.tally.refused_there += 1,
                }
            }
            Heard::Closed(sub, why) if sub == SUB => return Err(why),
            _ => {}
        }
        Ok(())
    }

    /// The id of an event that did not go through yet and may.
    fn fresh(&mut self, json: &str, is_up: bool) -> Option<EventId> {
        let event = proto::parse::parse_event(json.as_bytes(), &self.limits).ok()?;
        let event = event.view();
        // The operator's subscription has private events, too.
        let may_go = !(is_up && is_private(event.kind()));
        (may_go && self.recent.insert(event.id())).then(|| event.id())
    }
}

fn here_gone(gone: &Gone) -> Failure {
    Failure::Failed(anyhow!("{RELAY_GONE} ({})", gone.0))
}

fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_remembered_and_no_more() {
        let id = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            EventId(id)
        };
        let mut recent = Recent::default();
        for number in 0..RECENT_IDS {
            assert!(recent.insert(id(number)));
            assert!(!recent.insert(id(number)), "an echo");
        }
        assert!(recent.insert(id(RECENT_IDS)));
        assert!(!recent.insert(id(1)));
        assert!(recent.insert(id(0)), "the oldest one is forgotten");
        assert_eq!(recent.ids.len(), RECENT_IDS);
    }

    #[test]
    fn the_oldest_event_makes_room_when_an_end_takes_none() {
        let mut lane = Lane::default();
        let dropped: u64 = (0..WAITING_MAX + 3)
            .map(|number| lane.push(EventId([0; 32]), number.to_string()))
            .sum();
        assert_eq!(dropped, 3);
        assert_eq!(lane.waiting.front().unwrap().1, "3");
    }
}
