//! Where an import's events go: into the store that the command opened itself, or to the relay that
//! holds it.

use super::super::{Failure, RELAY_GONE};
use crate::control::Control;
use crate::runtime::clock;
use crate::runtime::uplink::{Gone, Uplink};
use anyhow::anyhow;
use proto::{Event, EventId, Reason};
use serde_json::Value;
use shards::message::Client;
use shards::{HomeInput, Reply};
use std::collections::BTreeMap;

/// The one client of the control core.
const CLIENT: Client = Client { slot: 0, generation: 0 };
/// Events under way to a running relay.
const WINDOW: usize = 1_024;

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored.
    Stored,
    /// It was there, or a newer version of it.
    Known,
    /// There was no room for it now.
    Later,
    /// It is not taken.
    Rejected(Reason, String),
}

/// Takes events and says what became of them, in any order between different events and in the order
/// of submission between copies of one.
pub(super) trait Intake {
    /// Gives an event; not while [`Intake::is_full`].
    fn submit(&mut self, event: Event) -> Result<(), Failure>;

    /// Whether verdicts have to be taken first.
    fn is_full(&self) -> bool;

    /// Verdicts since the last call; waits for up to `wait_ms` if there are none.
    fn verdicts(&mut self, wait_ms: u64) -> Result<Vec<(EventId, Verdict)>, Failure>;
}

/// What a refusal means for an import. Some end it: everything that follows would be refused, too.
fn verdict(reason: Reason, text: &str) -> Result<Verdict, Failure> {
    match reason {
        Reason::StorageFull => Err(Failure::Failed(anyhow!(
            "the disk is full; make room, and the same command goes on from here"
        ))),
        Reason::ShuttingDown => Err(Failure::Failed(anyhow!(RELAY_GONE))),
        Reason::StoreBehind | Reason::VanishBusy | Reason::RateEvents | Reason::RateMessages => {
            Ok(Verdict::Later)
        }
        reason if reason.is_accepted() => Ok(Verdict::Known),
        reason => Ok(Verdict::Rejected(reason, text.to_owned())),
    }
}

/// The store is open in this process.
pub(super) struct Direct<'a> {
    pub(super) control: &'a mut Control,
    pub(super) verify: bool,
    /// The last event waits for credit.
    pub(super) is_parked: bool,
}

impl Intake for Direct<'_> {
    fn submit(&mut self, event: Event) -> Result<(), Failure> {
        let input = HomeInput::Import { client: CLIENT, event, verify: self.verify };
        self.is_parked = self.control.step(clock::now(), input);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.is_parked
    }

    fn verdicts(&mut self, wait_ms: u64) -> Result<Vec<(EventId, Verdict)>, Failure> {
        let mut verdicts = Vec::new();
        for reply in self.control.turn(wait_ms) {
            match reply {
                Reply::Ok { id, result: Ok(()), .. } => verdicts.push((id, Verdict::Stored)),
                Reply::Ok { id, result: Err(reason), .. } => {
                    verdicts.push((id, verdict(reason, reason.message())?));
                }
                Reply::Unpark(_) => self.is_parked = false,
                _ => {}
            }
        }
        Ok(verdicts)
    }
}

/// A relay holds the store: it is spoken to as a client does, on its local socket.
pub(super) struct Online {
    uplink: Uplink,
    /// Events without a verdict.
    under_way: usize,
    reasons: BTreeMap<&'static str, Reason>,
    /// What the relay said last about something that it could not read.
    notice: String,
    message: Vec<u8>,
}

impl Online {
    pub(super) fn new(uplink: Uplink) -> Self {
        let reasons = Reason::ALL.iter().map(|reason| (reason.message(), *reason)).collect();
        Self { uplink, under_way: 0, reasons, notice: String::new(), message: Vec::new() }
    }

    fn gone(&self, what: &str) -> Failure {
        let notice = if self.notice.is_empty() { what } else { &self.notice };
        Failure::Failed(anyhow!("{RELAY_GONE} ({notice})"))
    }

    /// The verdict that a message of the relay is, if it is one.
    fn read(&mut self, message: &str) -> Result<Option<(EventId, Verdict)>, Failure> {
        let Ok(Value::Array(elements)) = serde_json::from_str::<Value>(message) else {
            return Ok(None);
        };
        match elements.as_slice() {
            [
                Value::String(verb),
                Value::String(id),
                Value::Bool(accepted),
                Value::String(text),
            ] if verb == "OK" => {
                let Some(id) = EventId::from_hex(id.as_bytes()) else { return Ok(None) };
                self.under_way = self.under_way.saturating_sub(1);
                let verdict = match (accepted, self.reasons.get(text.as_str())) {
                    (true, None) => Verdict::Stored,
                    (_, Some(reason)) => verdict(*reason, text)?,
                    // Words of the operator's own plug-in.
                    (false, None) => Verdict::Rejected(Reason::Policy, text.clone()),
                };
                Ok(Some((id, verdict)))
            }
            [Value::String(verb), Value::String(text)] if verb == "NOTICE" => {
                self.notice.clone_from(text);
                Ok(None)
            }
            _ => Ok(None),
        }
    }
}

impl Intake for Online {
    fn submit(&mut self, event: Event) -> Result<(), Failure> {
        self.message.clear();
        self.message.extend_from_slice(b"[\"EVENT\",");
        event.view().write_json(&mut self.message);
        self.message.push(b']');
        self.under_way += 1;
        self.uplink.send(&self.message).map_err(|error| self.gone(&error.to_string()))
    }

    fn is_full(&self) -> bool {
        self.under_way >= WINDOW
    }

    fn verdicts(&mut self, wait_ms: u64) -> Result<Vec<(EventId, Verdict)>, Failure> {
        self.uplink.flush().map_err(|error| self.gone(&error.to_string()))?;
        let mut verdicts = Vec::new();
        let mut wait_ms = wait_ms;
        loop {
            match self.uplink.next(wait_ms) {
                Ok(Some(message)) => verdicts.extend(self.read(&message)?),
                Ok(None) => return Ok(verdicts),
                // What came before is told first.
                Err(_) if !verdicts.is_empty() => return Ok(verdicts),
                Err(Gone(what)) => return Err(self.gone(&what)),
            }
            wait_ms = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_sorted_into_those_to_try_again_those_that_end_it_and_the_rest() {
        assert_eq!(verdict(Reason::StoreBehind, "").ok(), Some(Verdict::Later));
        assert_eq!(verdict(Reason::DuplicateNewer, "").ok(), Some(Verdict::Known));
        let rejected = Verdict::Rejected(Reason::Deleted, "x".into());
        assert_eq!(verdict(Reason::Deleted, "x").ok(), Some(rejected));
        for reason in [Reason::StorageFull, Reason::ShuttingDown] {
            let Err(Failure::Failed(error)) = verdict(reason, "") else { panic!("{reason:?}") };
            assert!(error.to_string().contains("goes on from here"), "{error}");
        }
    }
}
