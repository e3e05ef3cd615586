//! The thread that performs log work which must not block a core: creating and sealing segments on
//! every backend, and on the epoll backend the writes and syncs too, as plain system calls that a
//! trace can follow.

use super::wake::Wake;
use rustix::fd::OwnedFd;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A write that counts as done when the bytes are on stable storage.
#[derive(Debug)]
pub struct LogWrite {
    /// Comes back in [`LogDone`].
    pub tag: u64,
    /// The segment.
    pub file: Arc<OwnedFd>,
    /// Where the bytes begin.
    pub offset: u64,
    /// What to write.
    pub bytes: Vec<u8>,
}

/// Other log work: a blocking function, run in order with the writes of the log thread.
pub struct LogJob {
    /// Comes back in [`LogDone`].
    pub tag: u64,
    /// The work.
    pub run: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

/// A log write is on stable storage, or a log job has run.
#[derive(Debug)]
pub struct LogDone {
    /// Of the request.
    pub tag: u64,
    /// Any error here ends the process: after a failed sync nothing in the page cache can be
    /// trusted.
    pub result: io::Result<()>,
}

enum Task {
    Write(LogWrite),
    Job(LogJob),
}

/// The core's end of its log thread. Bounded by what the core's shards keep in flight: one write
/// each.
pub(crate) struct LogThread {
    tasks: Option<Sender<Task>>,
    done: Receiver<LogDone>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LogThread {
    /// Starts the thread; `wake` is rung after each answer.
    pub(crate) fn start(name: String, wake: Wake) -> io::Result<Self> {
        let (tasks, queue) = channel();
        let (answers, done) = channel();
        let thread =
            std::thread::Builder::new().name(name).spawn(move || run(&queue, &answers, &wake))?;
        Ok(Self { tasks: Some(tasks), done, thread: Some(thread) })
    }

    pub(crate) fn write(&self, write: LogWrite) {
        self.submit(Task::Write(write));
    }

    pub(crate) fn job(&self, job: LogJob) {
        self.submit(Task::Job(job));
    }

    fn submit(&self, task: Task) {
        let tasks = self.tasks.as_ref().expect("the sender is taken only when this is dropped");
        // The thread ends only after the sender is gone; it cannot fail to take the task.
        assert!(tasks.send(task).is_ok(), "the log thread runs as long as its core");
    }

    /// The next answer, if there is one.
    pub(crate) fn next_done(&self) -> Option<LogDone> {
        self.done.try_recv().ok()
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(queue: &Receiver<Task>, answers: &Sender<LogDone>, wake: &Wake) {
    super::machine::unpin_thread();
    while let Ok(task) = queue.recv() {
        let done = match task {
            Task::Write(write) => LogDone { tag: write.tag, result: write_durably(&write) },
            Task::Job(job) => LogDone { tag: job.tag, result: (job.run)() },
        };
        if answers.send(done).is_err() {
            return;
        }
        wake.wake();
    }
}

/// Writes all bytes, then syncs them.
fn write_durably(write: &LogWrite) -> io::Result<()> {
    let mut at = 0;
    while at < write.bytes.len() {
        match rustix::io::pwrite(&*write.file, &write.bytes[at..], write.offset + at as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => at += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    sync_data(&write.file)
}

/// `fdatasync`, never repeated after a failure. The fault-control build leaves it out.
pub(crate) fn sync_data(file: &OwnedFd) -> io::Result<()> {
    if cfg!(feature = "skip-sync") {
        return Ok(());
    }
    Ok(rustix::fs::fdatasync(file)?)
}
