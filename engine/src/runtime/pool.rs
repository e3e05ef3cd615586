//! The store pool: threads for work that may wait for a disk (checkpoints, cold reads). A job
//! carries its own way to answer; the pool only runs it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// One piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send>;

/// The pool. Shared by all cores; the queue is bounded by what their stores keep outstanding.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    added: Condvar,
}

struct State {
    /// Reads go before checkpoints: a client waits for them.
    reads: VecDeque<Job>,
    checkpoints: VecDeque<Job>,
    checkpoints_running: usize,
    checkpoints_max: usize,
}

impl Pool {
    /// Starts `threads` threads. At most all but one of them run checkpoints at a time (one when
    /// there is only one), and never more than two: more would only fight for the device.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = threads.max(2);
        let state = State {
            reads: VecDeque::new(),
            checkpoints: VecDeque::new(),
            checkpoints_running: 0,
            checkpoints_max: (threads - 1).min(2),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), added: Condvar::new() });
        for index in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("store-pool-{index}"))
                .spawn(move || run(&shared))?;
        }
        Ok(Self { shared })
    }

    /// Queues a read.
    pub fn read(&self, job: Job) {
        self.shared.lock().reads.push_back(job);
        self.shared.added.notify_one();
    }

    /// Queues a checkpoint.
    pub fn checkpoint(&self, job: Job) {
        self.shared.lock().checkpoints.push_back(job);
        self.shared.added.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A poisoned lock means that a job panicked while the lock was not held; the queues are
        // whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.reads.pop_front() {
            drop(state);
            job();
            state = shared.lock();
        } else if state.checkpoints_running < state.checkpoints_max
            && let Some(job) = state.checkpoints.pop_front()
        {
            state.checkpoints_running += 1;
            drop(state);
            job();
            state = shared.lock();
            state.checkpoints_running -= 1;
            shared.added.notify_one();
        } else {
            state = shared.added.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_read_is_served_while_checkpoints_block() {
        let pool = Pool::start(2).unwrap();
        let (release, blocked) = channel::<()>();
        let (answers, answered) = channel();
        let checkpoint_answers = answers.clone();
        pool.checkpoint(Box::new(move || {
            let _ = blocked.recv();
            checkpoint_answers.send("checkpoint 1").unwrap();
        }));
        let second_answers = answers.clone();
        pool.checkpoint(Box::new(move || second_answers.send("checkpoint 2").unwrap()));
        pool.read(Box::new(move || answers.send("read").unwrap()));
        assert_eq!(answered.recv().unwrap(), "read");
        release.send(()).unwrap();
        assert_eq!(answered.recv().unwrap(), "checkpoint 1");
        assert_eq!(answered.recv().unwrap(), "checkpoint 2");
    }
}
