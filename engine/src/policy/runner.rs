//! The thread that speaks for one plug-in: it starts it, tells it questions, hears its answers and
//! starts it again. It may wait for nothing but its wake, so a plug-in that hangs holds up nobody.

use super::desk::{Desk, Question, Run, Settings, Unusable, Verdicts};
use crate::log::{self, Level, Throttle};
use crate::runtime::plugin::{self, Plugin, Said};
use crate::runtime::wake::Wake;
use crate::runtime::{clock, machine};
use proto::Now;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::SystemTime;

/// Orders taken in one turn.
const ORDERS_MAX: usize = 4_096;
/// Runs that have been let go and still may answer; a further one ends the oldest.
const RETIRING_MAX: usize = 4;
/// From the end of a plug-in's input to SIGTERM once it owes nothing, and from there to SIGKILL.
const GRACE_MS: u64 = 500;
/// Lines that a plug-in may write to our log at once, and one more for each interval.
const COMPLAINTS_MAX: u64 = 20;
const COMPLAINT_INTERVAL_MS: u64 = 500;
/// Characters of a plug-in's line that go to the log.
const EXCERPT_CHARS_MAX: usize = 400;
/// Longest wait, so that a lost wake is no more than a delay.
const WAIT_MS_MAX: u64 = 10_000;

/// What a runner can be told.
pub(super) enum Order<Q> {
    /// A question.
    Ask(Q),
    /// The plug-in runs from now on, asked or not.
    Begin,
    /// New settings.
    Reconfigure(Settings),
    /// The relay has begun to end.
    Hurry,
    /// Nobody asks any more.
    End,
}

/// What the other threads may know of a runner, in the order of [`Figures::values`].
#[derive(Debug, Default)]
pub struct Figures([AtomicU64; FIGURES]);

/// How many there are.
pub const FIGURES: usize = 6;

impl Figures {
    /// Timed out, unreachable, malformed, unmatched, restarts, in flight.
    pub fn values(&self) -> [u64; FIGURES] {
        std::array::from_fn(|figure| self.0[figure].load(Ordering::Relaxed))
    }
}

/// Lines left to a plug-in for our log: a bucket that fills with time.
#[derive(Debug, Default)]
struct Quota {
    used: u64,
    since_ms: u64,
    kept_back: u64,
}

impl Quota {
    /// Whether one more line may be written; `Some(n)` says how many were not since the last.
    fn take(&mut self, now_ms: u64) -> Option<u64> {
        let intervals = now_ms.saturating_sub(self.since_ms) / COMPLAINT_INTERVAL_MS;
        self.since_ms += intervals * COMPLAINT_INTERVAL_MS;
        self.used = self.used.saturating_sub(intervals);
        if self.used >= COMPLAINTS_MAX {
            self.kept_back += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.kept_back))
    }
}

/// A run that has been let go.
struct Retiring {
    run: Run,
    plugin: Plugin,
    /// When it is asked to end, then when it is killed.
    end_ms: u64,
    is_asked: bool,
}

/// Hands verdicts on to those who asked, and empties the list.
pub(super) type Deliver<Q> = Box<dyn FnMut(&mut Verdicts<Q>) + Send>;

/// Owned by its thread.
pub(super) struct Runner<Q> {
    /// How the log names it.
    name: &'static str,
    desk: Desk<Q>,
    orders: Receiver<Order<Q>>,
    wake: Wake,
    deliver: Deliver<Q>,
    figures: Arc<[Figures; 2]>,
    place: usize,
    current: Option<(Run, Plugin)>,
    retiring: Vec<Retiring>,
    /// Of the script, when it was started.
    changed_at: Option<SystemTime>,
    complaints: Quota,
    said_nonsense: Throttle,
    was_late: Throttle,
    has_left: Throttle,
    is_ending: bool,
}

impl<Q: Question> Runner<Q> {
    pub(super) fn new(
        name: &'static str,
        desk: Desk<Q>,
        (orders, wake): (Receiver<Order<Q>>, Wake),
        deliver: Deliver<Q>,
        (figures, place): (Arc<[Figures; 2]>, usize),
    ) -> Self {
        Self {
            name,
            desk,
            orders,
            wake,
            deliver,
            figures,
            place,
            current: None,
            retiring: Vec::new(),
            changed_at: None,
            complaints: Quota::default(),
            said_nonsense: Throttle::new(),
            was_late: Throttle::new(),
            has_left: Throttle::new(),
            is_ending: false,
        }
    }

    /// The life of the thread.
    pub(super) fn run(mut self) {
        machine::unpin_thread();
        let mut verdicts = Vec::new();
        loop {
            let now = clock::now();
            let has_more = self.take_orders(now, &mut verdicts);
            self.tick(now, &mut verdicts);
            self.converse(now, &mut verdicts);
            self.see_off(now, &mut verdicts);
            (self.deliver)(&mut verdicts);
            self.publish();
            if self.is_ending && self.current.is_none() && self.retiring.is_empty() {
                return;
            }
            let timeout_ms = if has_more { 0 } else { self.timeout_ms(now) };
            let running = self.current.iter().map(|(_, plugin)| plugin);
            let leaving = self.retiring.iter().map(|retiring| &retiring.plugin);
            plugin::wait(&self.wake, running.chain(leaving), timeout_ms);
        }
    }

    fn timeout_ms(&self, now: Now) -> u64 {
        let ends = self.retiring.iter().map(|retiring| retiring.end_ms);
        let next_ms = ends.min().unwrap_or(u64::MAX).min(self.desk.next_ms());
        next_ms.saturating_sub(now.monotonic_ms).min(WAIT_MS_MAX)
    }

    /// Returns whether there may be more.
    fn take_orders(&mut self, now: Now, verdicts: &mut Verdicts<Q>) -> bool {
        let mut has_asked = false;
        for _ in 0..ORDERS_MAX {
            match self.orders.try_recv() {
                Ok(Order::Ask(question)) => {
                    if !has_asked {
                        has_asked = true;
                        self.look_at_script(now);
                    }
                    self.desk.ask(now, question, verdicts);
                }
                Ok(Order::Begin) => self.desk.begin(),
                Ok(Order::Reconfigure(settings)) => {
                    if self.desk.reconfigure(settings, verdicts) {
                        self.retire(now);
                    }
                }
                Ok(Order::Hurry) => self.desk.hurry(now),
                Ok(Order::End) => {
                    self.desk.hurry(now);
                    self.is_ending = true;
                    self.retire(now);
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// A script that has been changed is started anew before it is asked again, as strfry does.
    fn look_at_script(&mut self, now: Now) {
        let Some(command) = self.desk.settings().command.as_deref() else { return };
        if self.current.is_none() {
            return;
        }
        let changed_at = plugin::changed_at(command);
        // One that is missing may be about to be written again.
        if changed_at.is_some() && changed_at != self.changed_at {
            log::line(Level::Info, &format!("{}: the script has changed", self.name));
            self.desk.retire();
            self.retire(now);
        }
    }

    fn tick(&mut self, now: Now, verdicts: &mut Verdicts<Q>) {
        let late = self.desk.counts().timed_out;
        self.desk.tick(now, verdicts);
        if self.desk.counts().timed_out > late {
            let text = format!("{} does not answer in time", self.name);
            self.was_late.line(now, Level::Warn, &text);
        }
        if self.desk.hangs(now)
            && let Some((run, _)) = self.current.take()
        {
            log::line(Level::Warn, &format!("{} hangs and is started anew", self.name));
            self.desk.ended(now, run, verdicts);
        }
        let Some(command) = self.desk.to_start(now).map(str::to_owned) else { return };
        self.changed_at = plugin::changed_at(&command);
        match Plugin::start(&command) {
            Ok(plugin) => {
                log::line(Level::Info, &format!("{} started: {command}", self.name));
                self.current = Some((self.desk.started(), plugin));
            }
            Err(error) => {
                let text = format!("{} cannot be started: {error}", self.name);
                self.has_left.line(now, Level::Error, &text);
                self.desk.not_started(now);
            }
        }
    }

    /// Tells the plug-in what is to be told and hears it.
    fn converse(&mut self, now: Now, verdicts: &mut Verdicts<Q>) {
        let Some((run, mut plugin)) = self.current.take() else { return };
        loop {
            let has_told = plugin.room().is_some_and(|room| self.desk.tell(now, room));
            if !has_told {
                break;
            }
        }
        plugin.flush();
        let has_left = plugin.has_left();
        self.hear(now, run, &mut plugin, verdicts);
        if !has_left {
            self.current = Some((run, plugin));
            return;
        }
        self.desk.ended(now, run, verdicts);
        let status = plugin.reap();
        let status = status.map_or_else(|| "gone".to_owned(), |status| status.to_string());
        let text = format!("{} has ended ({status}) and is started again", self.name);
        self.has_left.line(now, Level::Warn, &text);
    }

    fn hear(&mut self, now: Now, run: Run, plugin: &mut Plugin, verdicts: &mut Verdicts<Q>) {
        plugin.read(|said| match said {
            Said::Answer(line) => {
                let heard = self.desk.heard(now, run, line, verdicts);
                if heard == Err(Unusable::Malformed) {
                    let text = format!("{} wrote no answer: {}", self.name, excerpt(line));
                    self.said_nonsense.line(now, Level::Warn, &text);
                }
            }
            Said::TooLong => {
                self.desk.heard_too_much();
                let text = format!("{} wrote an answer that is too long", self.name);
                self.said_nonsense.line(now, Level::Warn, &text);
            }
            Said::Complaint(line) => match self.complaints.take(now.monotonic_ms) {
                None => {}
                Some(kept_back) => {
                    if kept_back > 0 {
                        let text = format!("{}: {kept_back} lines left out", self.name);
                        log::line(Level::Info, &text);
                    }
                    log::line(Level::Info, &format!("{}: {}", self.name, excerpt(line)));
                }
            },
        });
    }

    /// Lets the current run go.
    fn retire(&mut self, now: Now) {
        let Some((run, mut plugin)) = self.current.take() else { return };
        plugin.hang_up();
        let end_ms = now.monotonic_ms + GRACE_MS;
        self.retiring.push(Retiring { run, plugin, end_ms, is_asked: false });
    }

    /// Hears out those who have been let go, and ends them when they owe nothing.
    fn see_off(&mut self, now: Now, verdicts: &mut Verdicts<Q>) {
        let mut retiring = std::mem::take(&mut self.retiring);
        let too_many = retiring.len().saturating_sub(RETIRING_MAX);
        for mut one in retiring.drain(..too_many) {
            self.hear(now, one.run, &mut one.plugin, verdicts);
            self.desk.ended(now, one.run, verdicts);
        }
        for mut one in retiring {
            one.plugin.flush();
            let has_left = one.plugin.has_left();
            self.hear(now, one.run, &mut one.plugin, verdicts);
            // Its questions have their time-outs, so this waits for nothing endless.
            if self.desk.awaits(one.run) {
                one.end_ms = now.monotonic_ms + GRACE_MS;
            }
            let is_due = now.monotonic_ms >= one.end_ms;
            if has_left || (is_due && one.is_asked) {
                self.desk.ended(now, one.run, verdicts);
                continue;
            }
            if is_due {
                one.plugin.terminate();
                one.is_asked = true;
                one.end_ms = now.monotonic_ms + GRACE_MS;
            }
            self.retiring.push(one);
        }
    }

    fn publish(&self) {
        let counts = self.desk.counts();
        let values = [
            counts.timed_out,
            counts.unreachable,
            counts.malformed,
            counts.unmatched,
            counts.restarts,
            counts.in_flight,
        ];
        for (figure, value) in self.figures[self.place].0.iter().zip(values) {
            figure.store(value, Ordering::Relaxed);
        }
    }
}

/// The beginning of a plug-in's line, fit for a terminal.
fn excerpt(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let shown = text.trim_end().chars().take(EXCERPT_CHARS_MAX);
    shown.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gets_a_burst_and_then_a_trickle() {
        let mut quota = Quota::default();
        let start_ms = 1_000_000;
        let written = (0..1_000).filter(|_| quota.take(start_ms).is_some()).count();
        assert_eq!(written as u64, COMPLAINTS_MAX);
        assert_eq!(quota.take(start_ms + COMPLAINT_INTERVAL_MS), Some(1_000 - COMPLAINTS_MAX));
        assert_eq!(quota.take(start_ms + COMPLAINT_INTERVAL_MS), None);
        assert_eq!(quota.take(start_ms + 2 * COMPLAINT_INTERVAL_MS), Some(1));
    }

    #[test]
    fn what_goes_to_the_log_moves_no_cursor() {
        assert_eq!(excerpt(b"a\x1b[2Jb\r\n"), "a [2Jb");
        assert_eq!(excerpt(&[b'x'; 1_000]).len(), EXCERPT_CHARS_MAX);
    }
}
