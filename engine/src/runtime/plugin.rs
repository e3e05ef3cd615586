//! A program that answers lines with lines: started under a shell, spoken to over pipes that never
//! block us, ended with its descendants, reaped here.

use super::wake::Wake;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::SystemTime;

/// Longest line taken from a plug-in; a longer one is dropped and reported.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Rendered requests that may wait for room in the pipe; one more than this may be begun.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Read from one pipe in one turn, so that a talkative plug-in leaves time for the rest.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Something that a plug-in wrote.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A line of answers, without its end.
    Answer(&'a [u8]),
    /// A line on standard error.
    Complaint(&'a [u8]),
    /// A line of answers longer than [`LINE_BYTES_MAX`].
    TooLong,
}

/// Lines put together from what a pipe gives. Bounded by [`LINE_BYTES_MAX`] and one read.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
    /// The line under way is too long: nothing of it is kept.
    is_skipping: bool,
}

impl Lines {
    /// Calls `each` with every line that `bytes` ends; `None` stands for one that was too long.
    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Option<&[u8]>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&bytes[..end], &bytes[end + 1..]);
            bytes = after;
            if std::mem::take(&mut self.is_skipping) || self.rest.len() + end > LINE_BYTES_MAX {
                each(None);
            } else if self.rest.is_empty() {
                each(Some(line));
            } else {
                self.rest.extend_from_slice(line);
                each(Some(&self.rest));
            }
            self.rest.clear();
        }
        if self.rest.len() + bytes.len() > LINE_BYTES_MAX {
            self.rest.clear();
            self.is_skipping = true;
        }
        if !self.is_skipping {
            self.rest.extend_from_slice(bytes);
        }
    }
}

/// A running plug-in. Owned by the thread that speaks for it; holds [`UNSENT_BYTES_MAX`] and one
/// request of output and two unfinished lines of input. Dropped, it kills what still runs.
pub struct Plugin {
    child: Child,
    group: Pid,
    /// Readable when the process has ended; missing on kernels before 5.3.
    ended: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    answers: Lines,
    complaints: Lines,
    unsent: Vec<u8>,
    sent_bytes: usize,
    is_hanging_up: bool,
    status: Option<ExitStatus>,
}

impl Plugin {
    /// Runs `command` under `sh -c`, in a process group of its own: it is ended by us and not by a
    /// signal to the relay's group. Of our descriptors it inherits none but its pipes.
    ///
    /// # Errors
    /// When no process can be made. A command that does not exist is found out by the shell.
    pub fn start(command: &str) -> io::Result<Self> {
        close_all_on_exec();
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let group = Pid::from_child(&child);
        let stdin = child.stdin.take().map(OwnedFd::from);
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        for pipe in [&stdin, &stdout, &stderr].into_iter().flatten() {
            // These are our ends; the plug-in's own stay blocking.
            rustix::fs::fcntl_setfl(pipe, rustix::fs::fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            child,
            group,
            ended: pidfd_open(group, PidfdFlags::empty()).ok(),
            stdin,
            stdout,
            stderr,
            answers: Lines::default(),
            complaints: Lines::default(),
            unsent: Vec::new(),
            sent_bytes: 0,
            is_hanging_up: false,
            status: None,
        })
    }

    /// The buffer to append request lines to, while it has room and the plug-in listens.
    pub fn room(&mut self) -> Option<&mut Vec<u8>> {
        let has_room = self.unsent.len() - self.sent_bytes < UNSENT_BYTES_MAX;
        (has_room && !self.is_hanging_up && self.stdin.is_some()).then_some(&mut self.unsent)
    }

    /// Gives the pipe what it takes.
    pub fn flush(&mut self) {
        while let Some(stdin) = &self.stdin
            && self.sent_bytes < self.unsent.len()
        {
            match rustix::io::write(stdin, &self.unsent[self.sent_bytes..]) {
                Ok(count) => self.sent_bytes += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // It reads no more; what it has been sent it may still answer.
                Err(_) => self.stdin = None,
            }
        }
        if self.sent_bytes == self.unsent.len() || self.stdin.is_none() {
            self.unsent.clear();
            self.sent_bytes = 0;
            // One large event must not make the buffer large for good.
            self.unsent.shrink_to(UNSENT_BYTES_MAX);
            if self.is_hanging_up {
                self.stdin = None;
            }
        }
    }

    /// Closes its input once all requests are written: it has heard everything.
    pub fn hang_up(&mut self) {
        self.is_hanging_up = true;
        self.flush();
    }

    /// Takes what it has written since the last call.
    pub fn read(&mut self, mut each: impl FnMut(Said<'_>)) {
        let answers = &mut self.answers;
        read_pipe(&mut self.stdout, |bytes| {
            answers.feed(bytes, |line| each(line.map_or(Said::TooLong, Said::Answer)));
        });
        let complaints = &mut self.complaints;
        read_pipe(&mut self.stderr, |bytes| {
            // A complaint without an end is no news worth a word.
            complaints.feed(bytes, |line| line.into_iter().for_each(|l| each(Said::Complaint(l))));
        });
    }

    /// Whether it will answer no more: it has ended, or has closed one of its pipes. What it wrote
    /// before has to be read first.
    pub fn has_left(&mut self) -> bool {
        self.stdout.is_none() || (self.stdin.is_none() && !self.is_hanging_up) || self.has_ended()
    }

    /// Whether the process has ended. Its remains stay until [`Plugin::reap`], so that its group
    /// keeps its name.
    pub fn has_ended(&self) -> bool {
        if self.status.is_some() {
            return true;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.group), options) {
            Ok(ended) => ended.is_some(),
            Err(error) => error == Errno::CHILD,
        }
    }

    /// Asks the plug-in and what it started to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        // After the reaping the number may be somebody else's.
        if self.status.is_none() {
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// Ends what is left of it and tells how it ended. Waits for a process that has been killed,
    /// which the kernel does not put off.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.signal(Signal::KILL);
            self.status = self.child.wait().ok();
        }
        self.status
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.reap();
    }
}

/// Marks every descriptor of this process that a program we start must not have: LMDB leaves that of
/// its data file open to all, and whoever started us may have left some, too. Kernels before 5.11
/// cannot; there the plug-in gets them and has no use for them.
fn close_all_on_exec() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: with this flag the call closes nothing; it sets a flag on descriptors of ours whose
    // only effect is on programs that are started, and none of those is meant to have them.
    let _ = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
}

/// Hands on what `pipe` holds; closes it at its end.
fn read_pipe(pipe: &mut Option<OwnedFd>, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    let mut read_bytes = 0;
    while let Some(fd) = &*pipe
        && read_bytes < READ_BYTES_MAX
    {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                each(&buffer[..count]);
                read_bytes += count;
            }
            Err(Errno::AGAIN) => return,
            Err(Errno::INTR) => {}
            Err(_) => *pipe = None,
        }
    }
}

/// Waits until somebody wakes, a plug-in has something to say or takes more, or the time has passed.
pub fn wait<'a>(wake: &Wake, plugins: impl Iterator<Item = &'a Plugin>, timeout_ms: u64) {
    let timeout = Timespec {
        tv_sec: (timeout_ms / 1_000) as i64,
        tv_nsec: (timeout_ms % 1_000 * 1_000_000) as i64,
    };
    let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
    for plugin in plugins {
        let readable = [&plugin.stdout, &plugin.stderr, &plugin.ended].into_iter().flatten();
        fds.extend(readable.map(|fd| PollFd::new(fd, PollFlags::IN)));
        if plugin.sent_bytes < plugin.unsent.len() {
            fds.extend(plugin.stdin.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        }
    }
    // A signal ends the wait early, which is as good as a wake.
    let _ = poll(&mut fds, Some(&timeout));
    drop(fds);
    wake.drain();
}

/// When the script that `command` names was last changed. Only a command without a space names a
/// script; of others nobody knows which word is the program.
pub fn changed_at(command: &str) -> Option<SystemTime> {
    if command.contains(' ') {
        return None;
    }
    std::fs::metadata(command).and_then(|script| script.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Whatever comes takes this long at most, or never comes.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn said(plugin: &mut Plugin, count: usize) -> Vec<String> {
        let wake = Wake::new().unwrap();
        let (mut all, start) = (Vec::new(), Instant::now());
        while all.len() < count && start.elapsed() < PATIENCE {
            wait(&wake, std::iter::once(&*plugin), 100);
            plugin.flush();
            plugin.read(|said| {
                all.push(match said {
                    Said::Answer(line) => format!("out {}", String::from_utf8_lossy(line)),
                    Said::Complaint(line) => format!("err {}", String::from_utf8_lossy(line)),
                    Said::TooLong => "too long".to_owned(),
                });
            });
        }
        all
    }

    fn until_left(plugin: &mut Plugin) {
        let start = Instant::now();
        while !plugin.has_left() {
            assert!(start.elapsed() < PATIENCE, "it does not leave");
            plugin.read(|_| {});
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn lines_are_put_together_and_long_ones_dropped() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        for bytes in [&b"a\nb"[..], b"c\n", &long, b"x\nd\n", b"\n"] {
            lines.feed(bytes, |line| seen.push(line.map(|line| line.to_vec())));
        }
        let line = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(seen, [line("a"), line("bc"), None, line("d"), line("")]);
        lines.feed(&long[..LINE_BYTES_MAX], |_| panic!("no end yet"));
        lines.feed(b"\n", |whole| assert_eq!(whole.map(<[u8]>::len), Some(LINE_BYTES_MAX)));
    }

    #[test]
    fn it_answers_complains_and_leaves_when_hung_up_on() {
        let command = "while read -r line; do echo \"got $line\"; echo oops >&2; done; exit 7";
        let mut plugin = Plugin::start(command).unwrap();
        plugin.room().unwrap().extend_from_slice(b"one\ntwo\n");
        plugin.flush();
        let mut all = said(&mut plugin, 4);
        all.sort();
        assert_eq!(all, ["err oops", "err oops", "out got one", "out got two"]);
        assert!(!plugin.has_left());
        plugin.hang_up();
        assert!(plugin.room().is_none(), "it is told nothing more");
        until_left(&mut plugin);
        let start = Instant::now();
        while !plugin.has_ended() {
            assert!(start.elapsed() < PATIENCE, "it does not end");
        }
        assert_eq!(plugin.reap().unwrap().code(), Some(7));
    }

    #[test]
    fn what_it_does_not_read_is_bounded_and_blocks_nobody() {
        let mut plugin = Plugin::start("sleep 1000").unwrap();
        let mut offered_bytes = 0;
        while let Some(room) = plugin.room() {
            room.extend_from_slice(&[b'x'; 4096]);
            offered_bytes += 4096;
            plugin.flush();
            assert!(offered_bytes < 16 << 20, "somebody takes it");
        }
        assert!(plugin.unsent.len() - plugin.sent_bytes >= UNSENT_BYTES_MAX);
        plugin.terminate();
        until_left(&mut plugin);
        assert!(plugin.reap().unwrap().code().is_none(), "a signal ended it");
    }

    #[test]
    fn it_inherits_its_pipes_and_nothing_else() {
        let (open, _other_end) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
        let listed = "for fd in /proc/$$/fd/*; do readlink \"$fd\"; done; echo end";
        let mut plugin = Plugin::start(listed).unwrap();
        let mut all = Vec::new();
        while all.last().is_none_or(|last| last != "out end") {
            all.extend(said(&mut plugin, 1));
        }
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(all[..3].iter().all(|name| name.starts_with("out pipe:")), "{all:?}");
    }

    #[test]
    fn what_it_has_started_goes_with_it() {
        let mut plugin = Plugin::start("sleep 1000 & echo \"$!\"; wait").unwrap();
        let sleeper = said(&mut plugin, 1).remove(0).replace("out ", "");
        let state = || std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
        assert!(!state().is_empty(), "it runs");
        drop(plugin);
        let start = Instant::now();
        // Its new parent may take a while to reap it: a zombie is as good as gone.
        while !state().is_empty() && !state().contains(") Z") {
            assert!(start.elapsed() < PATIENCE, "the child of a dropped plug-in runs on");
        }
    }
}
