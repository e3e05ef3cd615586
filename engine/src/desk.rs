//! Between the commands of the operator and the control core: who asks what of the shards, and which
//! answer is whose. A command runs on a thread of its own, so that a long one keeps nobody else from
//! being answered; the control core only passes questions on and answers back.

use crate::control::Control;
use crate::runtime::clock;
use crate::runtime::wake::Wake;
use proto::{Event, EventId, Filter, Reason};
use shards::message::{Client, ShardStats};
use shards::{HomeInput, Reply};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Bytes of events that wait for one command, from which on the shards send it no more.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Bytes from which on they send again.
const HELD_BYTES_LOW: usize = 1 << 20;
/// Answers taken at once.
const ANSWERS_MAX: usize = 1_024;

/// What a command asks of the shards.
#[derive(Debug)]
pub enum Question {
    /// Every matching event, newest first.
    Scan(Vec<Filter>),
    /// The number of matching events.
    Count(Vec<Filter>),
    /// What every shard holds.
    Stats,
    /// Remove these events, and see to it that they never come back if it says so.
    Remove(Vec<EventId>, bool),
    /// Begin to compact the logs. Answered at once: [`Question::Stats`] tells how far that is.
    Compact,
}

/// What the shards say. [`Answer::Event`] may come often, everything else ends the question.
#[derive(Debug)]
pub enum Answer {
    /// A matching event.
    Event(Event),
    /// There are no more.
    Done,
    /// How many match.
    Count(u64),
    /// By shard.
    Stats(Vec<ShardStats>),
    /// How many were there and are gone, durably.
    Removed(u64),
    /// A shard cannot answer.
    Refused(Reason),
}

/// Whoever passes questions on to the shards. One question at a time.
pub trait Shards {
    /// Asks; what came of the question before is of no interest any more.
    fn ask(&mut self, question: Question);

    /// What has been answered since the last call; waits for up to `wait_ms` if there is nothing.
    fn answers(&mut self, wait_ms: u64) -> Vec<Answer>;

    /// Nothing more is wanted of the question.
    fn finish(&mut self);
}

/// A question as the home takes it.
fn input(client: Client, question: Question) -> HomeInput {
    match question {
        Question::Scan(filters) => HomeInput::Scan { client, filters },
        Question::Count(filters) => HomeInput::ScanCount { client, filters },
        Question::Stats => HomeInput::Stats(client),
        Question::Remove(ids, ban) => HomeInput::Remove { client, ids, ban },
        Question::Compact => HomeInput::Compact,
    }
}

/// Whose answer a reply is.
fn answer(reply: Reply) -> Option<(Client, Answer)> {
    Some(match reply {
        Reply::Stored { client, event, .. } => (client, Answer::Event(event)),
        Reply::Eose { client, .. } => (client, Answer::Done),
        Reply::Count { client, count, .. } => (client, Answer::Count(count)),
        Reply::Stats { client, shards } => (client, Answer::Stats(shards)),
        Reply::Removed { client, count, failed: None } => (client, Answer::Removed(count)),
        Reply::Removed { client, failed: Some(reason), .. } => (client, Answer::Refused(reason)),
        Reply::Closed { client, reason, .. } => (client, Answer::Refused(reason)),
        _ => return None,
    })
}

/// Asks from the thread that owns the control core: for a command that opened the store itself.
pub struct Direct<'a> {
    control: &'a mut Control,
    client: Client,
}

impl<'a> Direct<'a> {
    /// Nobody else may ask while this is in use.
    pub fn new(control: &'a mut Control) -> Self {
        // Other uses of the same control core number their clients from 0.
        Self { control, client: Client { slot: u32::MAX, generation: 0 } }
    }
}

impl Shards for Direct<'_> {
    fn ask(&mut self, question: Question) {
        // No late answer can be taken for one to this question.
        self.client.generation = self.client.generation.wrapping_add(1);
        self.control.step(clock::now(), input(self.client, question));
    }

    fn answers(&mut self, wait_ms: u64) -> Vec<Answer> {
        let replies = self.control.turn(wait_ms).into_iter().filter_map(answer);
        replies.filter(|(client, _)| *client == self.client).map(|(_, answer)| answer).collect()
    }

    fn finish(&mut self) {
        self.control.step(clock::now(), HomeInput::Gone(self.client));
    }
}

/// From a seat to the desk.
#[derive(Debug)]
enum Note {
    Ask(u32, Question),
    Finish(u32),
    Leave(u32),
}

/// A command's place at the desk, on the command's own thread. Holds at most [`HELD_BYTES_MAX`] of
/// events and what was under way when they were reached.
pub struct Seat {
    number: u32,
    notes: Sender<Note>,
    wake: Wake,
    /// Answers with the generation of the question that they belong to.
    answers: Receiver<(u32, Answer)>,
    held_bytes: Arc<AtomicUsize>,
    asked: u32,
}

impl Seat {
    fn note(&self, note: Note) {
        // A desk that is gone answers nothing; whoever waits is told by the end of the process.
        let _ = self.notes.send(note);
        self.wake.wake();
    }

    fn take(&self, (generation, answer): (u32, Answer), out: &mut Vec<Answer>) {
        if let Answer::Event(event) = &answer {
            let bytes = event.packed().len();
            let before = self.held_bytes.fetch_sub(bytes, Ordering::AcqRel);
            if before > HELD_BYTES_LOW && before - bytes <= HELD_BYTES_LOW {
                self.wake.wake();
            }
        }
        if generation == self.asked {
            out.push(answer);
        }
    }
}

impl Shards for Seat {
    fn ask(&mut self, question: Question) {
        self.asked = self.asked.wrapping_add(1);
        self.note(Note::Ask(self.number, question));
    }

    fn answers(&mut self, wait_ms: u64) -> Vec<Answer> {
        let mut out = Vec::new();
        match self.answers.recv_timeout(Duration::from_millis(wait_ms)) {
            Ok(first) => self.take(first, &mut out),
            Err(RecvTimeoutError::Timeout) => return out,
            Err(RecvTimeoutError::Disconnected) => {
                return vec![Answer::Refused(Reason::ShuttingDown)];
            }
        }
        while out.len() < ANSWERS_MAX
            && let Ok(next) = self.answers.try_recv()
        {
            self.take(next, &mut out);
        }
        out
    }

    fn finish(&mut self) {
        self.note(Note::Finish(self.number));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.note(Note::Leave(self.number));
    }
}

/// What the desk knows of a seat.
struct Seated {
    client: Client,
    answers: Sender<(u32, Answer)>,
    held_bytes: Arc<AtomicUsize>,
    is_paused: bool,
}

/// Owned by the control core's thread. Bounded by the number of commands that it lets in.
pub struct Desk {
    seats: BTreeMap<u32, Seated>,
    notes: Receiver<Note>,
    sender: Sender<Note>,
    wake: Wake,
    next: u32,
}

impl Desk {
    /// `wake` is the control core's.
    pub fn new(wake: Wake) -> Self {
        let (sender, notes) = channel();
        Self { seats: BTreeMap::new(), notes, sender, wake, next: 0 }
    }

    /// Commands that have a seat.
    pub fn seated(&self) -> usize {
        self.seats.len()
    }

    /// A place for one more command.
    pub fn seat(&mut self) -> Seat {
        // A number that is long in use is not given away again.
        while self.seats.contains_key(&self.next) || self.next == u32::MAX {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let (answers, answered) = channel();
        let held_bytes = Arc::new(AtomicUsize::new(0));
        let client = Client { slot: number, generation: 0 };
        let held = Arc::clone(&held_bytes);
        self.seats.insert(number, Seated { client, answers, held_bytes: held, is_paused: false });
        Seat {
            number,
            notes: self.sender.clone(),
            wake: self.wake.clone(),
            answers: answered,
            held_bytes,
            asked: 0,
        }
    }

    /// Passes on what is there, and waits up to `timeout_ms` for more.
    pub fn turn(&mut self, control: &mut Control, timeout_ms: u64) {
        self.pass_on(control);
        for reply in control.turn(timeout_ms) {
            self.hand_over(control, reply);
        }
        self.pass_on(control);
    }

    fn pass_on(&mut self, control: &mut Control) {
        while let Ok(note) = self.notes.try_recv() {
            match note {
                Note::Ask(number, question) => {
                    let Some(seated) = self.seats.get_mut(&number) else { continue };
                    seated.client.generation = seated.client.generation.wrapping_add(1);
                    seated.is_paused = false;
                    control.step(clock::now(), input(seated.client, question));
                }
                Note::Finish(number) => {
                    let Some(seated) = self.seats.get(&number) else { continue };
                    control.step(clock::now(), HomeInput::Gone(seated.client));
                }
                Note::Leave(number) => {
                    let Some(seated) = self.seats.remove(&number) else { continue };
                    control.step(clock::now(), HomeInput::Gone(seated.client));
                }
            }
        }
        for seated in self.seats.values_mut() {
            let held_bytes = seated.held_bytes.load(Ordering::Acquire);
            if seated.is_paused && held_bytes <= HELD_BYTES_LOW {
                seated.is_paused = false;
                control.step(clock::now(), HomeInput::Paused(seated.client, false));
            }
        }
    }

    fn hand_over(&mut self, control: &mut Control, reply: Reply) {
        let Some((client, answer)) = answer(reply) else { return };
        let Some(seated) = self.seats.get_mut(&client.slot) else { return };
        if seated.client != client {
            return;
        }
        let mut held_bytes = 0;
        if let Answer::Event(event) = &answer {
            let bytes = event.packed().len();
            held_bytes = seated.held_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        }
        // A command that is gone leaves in the next turn.
        let _ = seated.answers.send((client.generation, answer));
        if held_bytes >= HELD_BYTES_MAX && !seated.is_paused {
            seated.is_paused = true;
            control.step(clock::now(), HomeInput::Paused(client, true));
        }
    }
}
