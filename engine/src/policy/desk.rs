//! The questions that one plug-in has before it: which are told to it next, which await its answer,
//! which have waited too long. Knows no process and no clock.

use super::protocol;
use proto::{Now, SeededMap, SeededState};
use serde::{Deserialize, Serialize};
use shards::door::Verdict;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Questions that may wait and be under way together; further ones get the default at once. What
/// shards and homes keep in flight stays far below it, so this bounds what their sum could become.
pub const WAITING_MAX: usize = 65_536;
/// Least time between the end of a plug-in and its next start.
const BACKOFF_MS_MIN: u64 = 100;
/// Most; it doubles for every run that ended without an answer.
const BACKOFF_MS_MAX: u64 = 30_000;
/// A plug-in that has let this many time-outs pass without any answer is started anew.
const HANG_TIMEOUTS: u64 = 3;
/// What is still unanswered this long after the relay began to end gets the default.
const HURRY_MS: u64 = 2_000;

/// What a question gets that the plug-in does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenDown {
    /// Yes.
    Accept,
    /// No, with a reason that says to try again.
    #[default]
    Reject,
}

/// What the operator has set for one plug-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Run under a shell; none: everything is accepted.
    pub command: Option<String>,
    /// From the question to its default answer.
    pub timeout_ms: u64,
    /// That default.
    pub when_down: WhenDown,
}

impl Settings {
    fn default_verdict(&self) -> Verdict {
        match self.when_down {
            WhenDown::Accept => Verdict::Accept,
            WhenDown::Reject => Verdict::Unavailable,
        }
    }
}

/// Something that a plug-in can be asked.
pub trait Question {
    /// The name by which the answer refers to it; `number` is the desk's own and never comes twice.
    fn name(&self, number: u64) -> Box<str>;
    /// Appends the request without its line end.
    fn write(&self, name: &str, received_at_s: u64, out: &mut Vec<u8>);
}

/// Names one start of the plug-in.
pub type Run = u64;

/// What happened at the desk; plain counts that only grow, but for the level `in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions without an answer in time.
    pub timed_out: u64,
    /// Questions that met no plug-in: it ended before it answered, or could not be started, or too
    /// many waited.
    pub unreachable: u64,
    /// Lines that are no answer.
    pub malformed: u64,
    /// Answers to nothing that is waiting: too late, or never asked.
    pub unmatched: u64,
    /// Times the plug-in was started after the first.
    pub restarts: u64,
    /// Questions that wait or are under way.
    pub in_flight: u64,
}

struct Waiting<Q> {
    question: Q,
    name: Box<str>,
    deadline_ms: u64,
    received_at_s: u64,
    /// The run that was told; none yet while it is `None`.
    told: Option<Run>,
}

/// Whether there is a plug-in to tell things to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not before this time.
    Down { retry_ms: u64 },
    Up {
        run: Run,
        /// Since when it has owed an answer without giving any.
        quiet_since_ms: Option<u64>,
        has_answered: bool,
    },
}

/// The verdicts that a step brought.
pub type Verdicts<Q> = Vec<(Q, Verdict)>;

/// Owned by the thread that speaks for the plug-in. Holds at most [`WAITING_MAX`] questions; an
/// event among them shares its bytes with the shard that asks.
pub struct Desk<Q> {
    settings: Settings,
    state: State,
    waiting: BTreeMap<u64, Waiting<Q>>,
    deadlines: BTreeSet<(u64, u64)>,
    untold: VecDeque<u64>,
    /// Numbers of the questions of one name that have been told, in that order.
    told: SeededMap<Box<str>, VecDeque<u64>>,
    /// How many of them each run has been told.
    owed: BTreeMap<Run, usize>,
    next_number: u64,
    backoff_ms: u64,
    runs: u64,
    has_begun: bool,
    hurry_ms: Option<u64>,
    counts: Counts,
}

impl<Q: Question> Desk<Q> {
    /// A desk without questions, and without a plug-in until it is wanted.
    pub fn new(settings: Settings, seed: SeededState) -> Self {
        Self {
            settings,
            state: State::Down { retry_ms: 0 },
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            untold: VecDeque::new(),
            told: SeededMap::with_hasher(seed),
            owed: BTreeMap::new(),
            next_number: 0,
            backoff_ms: BACKOFF_MS_MIN,
            runs: 0,
            has_begun: false,
            hurry_ms: None,
            counts: Counts::default(),
        }
    }

    /// What is set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        Counts { in_flight: self.waiting.len() as u64, ..self.counts }
    }

    /// From now on the plug-in runs whether it is asked or not.
    pub fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Takes a question.
    pub fn ask(&mut self, now: Now, question: Q, verdicts: &mut Verdicts<Q>) {
        if self.settings.command.is_none() {
            verdicts.push((question, Verdict::Accept));
            return;
        }
        self.has_begun = true;
        let deadline_ms = self.deadline_ms(now);
        let comes_back = match self.state {
            State::Up { .. } => true,
            State::Down { retry_ms } => retry_ms < deadline_ms && self.wants_one(),
        };
        if !comes_back || self.waiting.len() >= WAITING_MAX {
            self.counts.unreachable += 1;
            verdicts.push((question, self.settings.default_verdict()));
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        let name = question.name(number);
        let received_at_s = now.unix_s;
        self.deadlines.insert((deadline_ms, number));
        self.untold.push_back(number);
        let waiting = Waiting { question, name, deadline_ms, received_at_s, told: None };
        self.waiting.insert(number, waiting);
    }

    fn deadline_ms(&self, now: Now) -> u64 {
        let deadline_ms = now.monotonic_ms.saturating_add(self.settings.timeout_ms);
        self.hurry_ms.map_or(deadline_ms, |hurry_ms| deadline_ms.min(hurry_ms))
    }

    /// Appends the next request line for the plug-in that runs; `false` when there is none.
    pub fn tell(&mut self, now: Now, out: &mut Vec<u8>) -> bool {
        let State::Up { run, quiet_since_ms, .. } = &mut self.state else { return false };
        while let Some(number) = self.untold.pop_front() {
            let Some(waiting) = self.waiting.get_mut(&number) else { continue };
            quiet_since_ms.get_or_insert(now.monotonic_ms);
            waiting.told = Some(*run);
            *self.owed.entry(*run).or_default() += 1;
            waiting.question.write(&waiting.name, waiting.received_at_s, out);
            out.push(b'\n');
            self.told.entry(waiting.name.clone()).or_default().push_back(number);
            return true;
        }
        false
    }

    /// Whether anything is left to be told.
    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// A line came from `run`. An error says what is wrong with it.
    ///
    /// # Errors
    /// [`Unusable`], which has been counted.
    pub fn heard(
        &mut self,
        now: Now,
        from: Run,
        line: &[u8],
        verdicts: &mut Verdicts<Q>,
    ) -> Result<(), Unusable> {
        let Some(answer) = protocol::parse_answer(line) else {
            self.counts.malformed += 1;
            return Err(Unusable::Malformed);
        };
        let number = self.told.get(&*answer.name).and_then(|numbers| {
            let is_from = |number: &u64| self.waiting.get(number)?.told.filter(|run| *run == from);
            numbers.iter().copied().find(|number| is_from(number).is_some())
        });
        let waiting = number.and_then(|number| self.take(number));
        // Late or not, it lives.
        if let State::Up { run, quiet_since_ms, has_answered } = &mut self.state
            && *run == from
        {
            *quiet_since_ms = self.owed.contains_key(run).then_some(now.monotonic_ms);
            *has_answered = true;
        }
        match waiting {
            Some(waiting) => {
                verdicts.push((waiting.question, answer.verdict));
                Ok(())
            }
            None => {
                self.counts.unmatched += 1;
                Err(Unusable::Unmatched)
            }
        }
    }

    /// A line came that is too long to be read.
    pub fn heard_too_much(&mut self) {
        self.counts.malformed += 1;
    }

    /// Removes a question wherever it stands.
    fn take(&mut self, number: u64) -> Option<Waiting<Q>> {
        let waiting = self.waiting.remove(&number)?;
        self.deadlines.remove(&(waiting.deadline_ms, number));
        let Some(run) = waiting.told else { return Some(waiting) };
        if let Some(numbers) = self.told.get_mut(&waiting.name) {
            numbers.retain(|told| *told != number);
            if numbers.is_empty() {
                self.told.remove(&waiting.name);
            }
        }
        if let Some(owed) = self.owed.get_mut(&run) {
            *owed -= 1;
            if *owed == 0 {
                self.owed.remove(&run);
            }
        }
        Some(waiting)
    }

    /// Gives the default to those who have waited too long.
    pub fn tick(&mut self, now: Now, verdicts: &mut Verdicts<Q>) {
        while let Some((deadline_ms, number)) = self.deadlines.first().copied()
            && deadline_ms <= now.monotonic_ms
        {
            let waiting = self.take(number);
            self.counts.timed_out += 1;
            let verdict = self.settings.default_verdict();
            verdicts.extend(waiting.map(|waiting| (waiting.question, verdict)));
        }
        // Those that were never told stay in the queue as numbers without a question.
        while self.untold.front().is_some_and(|number| !self.waiting.contains_key(number)) {
            self.untold.pop_front();
        }
    }

    /// When [`Desk::tick`] or a start has something to do.
    pub fn next_ms(&self) -> u64 {
        let deadline_ms = self.deadlines.first().map_or(u64::MAX, |(deadline_ms, _)| *deadline_ms);
        match self.state {
            State::Down { retry_ms } if self.wants_one() => deadline_ms.min(retry_ms),
            State::Down { .. } => deadline_ms,
            State::Up { quiet_since_ms, .. } => deadline_ms.min(self.hangs_at_ms(quiet_since_ms)),
        }
    }

    fn hangs_at_ms(&self, quiet_since_ms: Option<u64>) -> u64 {
        let patience_ms = self.settings.timeout_ms.saturating_mul(HANG_TIMEOUTS);
        quiet_since_ms.map_or(u64::MAX, |since_ms| since_ms.saturating_add(patience_ms))
    }

    fn wants_one(&self) -> bool {
        self.has_begun && self.settings.command.is_some() && self.hurry_ms.is_none()
    }

    /// The command to start now, if one is to be started.
    pub fn to_start(&self, now: Now) -> Option<&str> {
        let is_due = match self.state {
            State::Down { retry_ms } => retry_ms <= now.monotonic_ms,
            State::Up { .. } => false,
        };
        if is_due && self.wants_one() { self.settings.command.as_deref() } else { None }
    }

    /// It has been started; its name.
    pub fn started(&mut self) -> Run {
        let run = self.runs;
        self.runs += 1;
        self.counts.restarts += u64::from(run > 0);
        self.state = State::Up { run, quiet_since_ms: None, has_answered: false };
        run
    }

    /// It could not be started.
    pub fn not_started(&mut self, now: Now) {
        self.back_off(now, false);
    }

    fn back_off(&mut self, now: Now, has_answered: bool) {
        if has_answered {
            self.backoff_ms = BACKOFF_MS_MIN;
        }
        self.state = State::Down { retry_ms: now.monotonic_ms + self.backoff_ms };
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS_MAX);
    }

    /// Whether the plug-in has been silent for so long that it had better be started anew.
    pub fn hangs(&self, now: Now) -> bool {
        match self.state {
            State::Up { quiet_since_ms, .. } => {
                self.hangs_at_ms(quiet_since_ms) <= now.monotonic_ms
            }
            State::Down { .. } => false,
        }
    }

    /// Lets the current run go: it is told nothing more, and what it has been told it may still
    /// answer. The next may start at once.
    pub fn retire(&mut self) {
        self.state = State::Down { retry_ms: 0 };
        self.backoff_ms = BACKOFF_MS_MIN;
    }

    /// Whether something that `run` has been told is unanswered.
    pub fn awaits(&self, run: Run) -> bool {
        self.owed.contains_key(&run)
    }

    /// `run` will answer no more: what it has been told gets the default.
    pub fn ended(&mut self, now: Now, ended: Run, verdicts: &mut Verdicts<Q>) {
        let told = self.waiting.iter().filter(|(_, waiting)| waiting.told == Some(ended));
        let told: Vec<u64> = told.map(|(number, _)| *number).collect();
        for number in told {
            let waiting = self.take(number);
            self.counts.unreachable += 1;
            let verdict = self.settings.default_verdict();
            verdicts.extend(waiting.map(|waiting| (waiting.question, verdict)));
        }
        if let State::Up { run, has_answered, .. } = self.state
            && run == ended
        {
            self.back_off(now, has_answered);
        }
    }

    /// Puts new settings in force, for questions from now on. `true`: the command is another one, so
    /// the current run is to be let go.
    pub fn reconfigure(&mut self, settings: Settings, verdicts: &mut Verdicts<Q>) -> bool {
        let is_other = settings.command != self.settings.command;
        self.settings = settings;
        if is_other {
            self.retire();
        }
        if self.settings.command.is_none() {
            for number in std::mem::take(&mut self.untold) {
                let waiting = self.take(number);
                verdicts.extend(waiting.map(|waiting| (waiting.question, Verdict::Accept)));
            }
        }
        is_other
    }

    /// The relay ends: nobody waits long any more, and nothing is started again.
    pub fn hurry(&mut self, now: Now) {
        let hurry_ms = now.monotonic_ms + HURRY_MS;
        self.hurry_ms = Some(hurry_ms);
        self.deadlines.clear();
        for (number, waiting) in &mut self.waiting {
            waiting.deadline_ms = waiting.deadline_ms.min(hurry_ms);
            self.deadlines.insert((waiting.deadline_ms, *number));
        }
    }
}

/// Why a line of a plug-in settled nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is no answer.
    Malformed,
    /// It answers nothing that waits.
    Unmatched,
}

#[cfg(test)]
mod tests;
