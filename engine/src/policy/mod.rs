//! The operator's policy door: programs that say yes or no to events and reads, asked over strfry's
//! line protocol.
//!
//! **What it does not know:** what a program decides by, and what its verdicts cause; shards and
//! homes act on them. One thread per plug-in speaks for all cores ([`runner`]), by the rules of one
//! state machine ([`desk`]) and in the words of one file ([`protocol`]).

pub mod desk;
pub mod protocol;
pub mod runner;

use crate::config::Config;
use crate::runtime::wake::Wake;
use crate::runtime::{entropy, threads};
use desk::{Desk, Question, Settings, Verdicts};
use runner::{FIGURES, Figures, Order, Runner};
use shards::door::{self, Answer, Asks};
use shards::message::{CoreId, ShardId};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What homes ask about under `config`.
pub fn asks(config: &Config) -> Asks {
    let policy = &config.policy;
    let writes = !policy.write_plugin.is_empty();
    Asks {
        writes,
        imports: writes && policy.ask_imports,
        reads: !policy.read_plugin.is_empty(),
        reads_max: policy.in_flight_max,
    }
}

fn settings(config: &Config, command: &str) -> Settings {
    Settings {
        command: (!command.is_empty()).then(|| command.to_owned()),
        timeout_ms: config.policy.timeout_ms,
        when_down: config.policy.when_down,
    }
}

/// Whom an answer is for.
#[derive(Clone, Debug)]
enum Answered {
    Shard(ShardId, Answer),
    Home(Answer),
}

/// A question with the way back.
struct Asked<Q> {
    core: CoreId,
    /// `None`: the core's home asks.
    shard: Option<ShardId>,
    question: Q,
}

impl<Q: Question> Question for Asked<Q> {
    fn name(&self, number: u64) -> Box<str> {
        self.question.name(number)
    }

    fn write(&self, name: &str, received_at_s: u64, out: &mut Vec<u8>) {
        self.question.write(name, received_at_s, out);
    }
}

/// A question that has a token.
trait Tokened {
    fn token(&self) -> door::Token;
}

impl Tokened for door::Question {
    fn token(&self) -> door::Token {
        self.token
    }
}

impl Tokened for door::ReadQuestion {
    fn token(&self) -> door::Token {
        self.token
    }
}

/// The way to one runner.
struct Line<Q> {
    orders: Sender<Order<Asked<Q>>>,
    wake: Wake,
}

impl<Q> Clone for Line<Q> {
    fn clone(&self) -> Self {
        Self { orders: self.orders.clone(), wake: self.wake.clone() }
    }
}

impl<Q> Line<Q> {
    fn order(&self, order: Order<Asked<Q>>) {
        // The runner outlives the cores; when it has ended, so has the asking.
        let _ = self.orders.send(order);
        self.wake.wake();
    }
}

/// Where answers go: each core's queue and wake. A queue holds at most what the core has asked.
#[derive(Clone)]
struct Routes {
    cores: Vec<(Sender<Answered>, Wake)>,
}

impl Routes {
    fn deliver<Q: Tokened>(&self, verdicts: &mut Verdicts<Asked<Q>>) {
        let mut to_wake = vec![false; self.cores.len()];
        for (Asked { core, shard, question }, verdict) in verdicts.drain(..) {
            let answer = Answer { token: question.token(), verdict };
            let answered = match shard {
                Some(shard) => Answered::Shard(shard, answer),
                None => Answered::Home(answer),
            };
            if let Some((answers, _)) = self.cores.get(usize::from(core)) {
                // A core that has ended needs no answer.
                to_wake[usize::from(core)] |= answers.send(answered).is_ok();
            }
        }
        for ((_, wake), _) in self.cores.iter().zip(to_wake).filter(|(_, is_due)| *is_due) {
            wake.wake();
        }
    }
}

/// Both plug-ins of the relay, seen from the thread that starts and ends it. Dropped, it ends them.
pub struct Policy {
    writes: Line<door::Question>,
    reads: Line<door::ReadQuestion>,
    threads: Vec<JoinHandle<()>>,
}

/// One core's end. Owned by the core.
pub struct PolicyPort {
    core: CoreId,
    writes: Line<door::Question>,
    reads: Line<door::ReadQuestion>,
    answers: Receiver<Answered>,
    figures: Arc<[Figures; 2]>,
    has_asked: [bool; 2],
}

impl Policy {
    /// Starts the threads; returns each core's end, in order of `wakes`. No plug-in runs before
    /// [`Policy::begin`] or the first question.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(config: &Config, wakes: &[Wake]) -> io::Result<(Self, Vec<PolicyPort>)> {
        let figures: Arc<[Figures; 2]> = Arc::default();
        let (senders, answers): (Vec<_>, Vec<_>) = wakes.iter().map(|_| channel()).unzip();
        let cores = senders.into_iter().zip(wakes.iter().cloned()).collect();
        let routes = Routes { cores };
        let (writes, write_thread) = start(
            "write plug-in",
            settings(config, &config.policy.write_plugin),
            routes.clone(),
            (Arc::clone(&figures), 0),
        )?;
        let (reads, read_thread) = start(
            "read plug-in",
            settings(config, &config.policy.read_plugin),
            routes,
            (Arc::clone(&figures), 1),
        )?;
        let ports = answers.into_iter().zip(0..).map(|(answers, core)| PolicyPort {
            core,
            writes: writes.clone(),
            reads: reads.clone(),
            answers,
            figures: Arc::clone(&figures),
            has_asked: [false; 2],
        });
        let ports = ports.collect();
        Ok((Self { writes, reads, threads: vec![write_thread, read_thread] }, ports))
    }

    /// Starts the plug-ins that are configured without waiting for a question, so that one that is
    /// broken is found out at once.
    pub fn begin(&self) {
        self.writes.order(Order::Begin);
        self.reads.order(Order::Begin);
    }

    /// Puts a reloaded configuration in force. To be done before the cores hear of it: a core that
    /// asks too early gets an answer from the old plug-in, one that asks too late gets a yes.
    pub fn reconfigure(&self, config: &Config) {
        self.writes.order(Order::Reconfigure(settings(config, &config.policy.write_plugin)));
        self.reads.order(Order::Reconfigure(settings(config, &config.policy.read_plugin)));
    }

    /// The relay has begun to end: who waits for a plug-in waits seconds at most from now on.
    pub fn hurry(&self) {
        self.writes.order(Order::Hurry);
        self.reads.order(Order::Hurry);
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.writes.order(Order::End);
        self.reads.order(Order::End);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn start<Q: Question + Tokened + Send + 'static>(
    name: &'static str,
    settings: Settings,
    routes: Routes,
    (figures, place): (Arc<[Figures; 2]>, usize),
) -> io::Result<(Line<Q>, JoinHandle<()>)> {
    let (orders, received) = channel();
    let line = Line { orders, wake: Wake::new()? };
    let runner = Runner::new(
        name,
        Desk::new(settings, entropy::seed()),
        (received, line.wake.clone()),
        Box::new(move |verdicts| routes.deliver(verdicts)),
        (figures, place),
    );
    let thread = threads::spawn(name.replace(' ', "-"), move || runner.run())?;
    Ok((line, thread))
}

impl PolicyPort {
    /// Asks about an event for one of this core's shards; [`PolicyPort::flush`] sends it on its way.
    pub fn ask_write(&mut self, shard: ShardId, question: door::Question) {
        let asked = Asked { core: self.core, shard: Some(shard), question };
        let _ = self.writes.orders.send(Order::Ask(asked));
        self.has_asked[0] = true;
    }

    /// Asks about a read for this core's home.
    pub fn ask_read(&mut self, question: door::ReadQuestion) {
        let asked = Asked { core: self.core, shard: None, question };
        let _ = self.reads.orders.send(Order::Ask(asked));
        self.has_asked[1] = true;
    }

    /// Wakes those who have been asked since the last call.
    pub fn flush(&mut self) {
        for (has_asked, wake) in
            self.has_asked.iter_mut().zip([&self.writes.wake, &self.reads.wake])
        {
            if std::mem::take(has_asked) {
                wake.wake();
            }
        }
    }

    /// The next answer: for a shard, or for the home.
    pub fn next_answer(&mut self) -> Option<(Option<ShardId>, Answer)> {
        Some(match self.answers.try_recv().ok()? {
            Answered::Shard(shard, answer) => (Some(shard), answer),
            Answered::Home(answer) => (None, answer),
        })
    }

    /// What happened to questions about events, and to those about reads.
    pub fn figures(&self) -> [[u64; FIGURES]; 2] {
        [self.figures[0].values(), self.figures[1].values()]
    }
}
