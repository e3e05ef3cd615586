//! A request of the operator, run inside the relay that holds the store, or over the store itself.

use super::offline::{choose_runtime, no_answer, open_cluster, open_directory};
use super::{ADMIN_SOCKET, Failure, Outcome};
use crate::admin::{self, Process, Request};
use crate::config::Config;
use crate::desk::Direct;
use crate::ops::Ops;
use crate::runtime::local;
use crate::runtime::signals::Asked;
use anyhow::{Context, anyhow};
use serde_json::Value;
use std::io::{self, BufRead, BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use store::file::directory;

/// How long an offline command lets its cores take to end.
const END_MS: u64 = 60_000;

/// What comes before the result.
pub(super) enum Heard<'a> {
    /// An event went to standard output.
    Event,
    /// So much of so much is done.
    Progress(u64, u64),
    /// Something was found that is worth a line.
    Found(&'a Value),
}

/// Runs `request` and returns its result; events go to standard output. When `asked` says that the
/// command is to end, it ends with what has been done until then.
pub(super) fn ask(
    config: &Arc<Config>,
    request: &Request,
    asked: Option<&Asked>,
    hear: &mut dyn FnMut(Heard<'_>),
) -> Result<Value, Failure> {
    let mut answer =
        Reading { out: BufWriter::new(io::stdout().lock()), result: None, hear, asked };
    let path = PathBuf::from(&config.store.data_dir);
    let holder = directory::holder(&path).context("data directory")?;
    if let Some(pid) = holder {
        let socket = path.join(ADMIN_SOCKET);
        let line = serde_json::to_string(request)?;
        let reader =
            local::ask(&socket, &line).map_err(|error| no_answer(&path, &pid, &socket, &error))?;
        answer.all_lines(reader)?;
    } else {
        offline(config, request, &mut answer)?;
    }
    answer.out.flush()?;
    answer.result.ok_or_else(|| Failure::Failed(anyhow!("the answer ended before its result")))
}

fn offline(config: &Arc<Config>, request: &Request, answer: &mut Reading<'_>) -> Outcome {
    let chosen = choose_runtime(config)?;
    let directory = open_directory(config, false)?;
    let mut cluster = open_cluster(config, directory, &chosen)?;
    cluster.start_offline()?;
    let limits = admin::operator_limits(config);
    let process = Process { runtime: None, limits: &limits, stores: None };
    let asked = answer.asked;
    let should_stop = || asked.is_some_and(Asked::to_end);
    let mut lines = Lines { reading: answer, partial: Vec::new() };
    let mut shards = Direct::new(&mut cluster.control);
    let answered =
        admin::answer(request, &mut Ops::new(&mut shards, &should_stop), process, &mut lines);
    let ended = cluster.end(END_MS);
    answered.map_err(|error| match lines.reading.failure(error) {
        Some(failure) => failure,
        None => Failure::BrokenPipe,
    })?;
    if !ended {
        return Err(Failure::Failed(anyhow!("the store did not close in time")));
    }
    Ok(())
}

/// Takes the lines of an answer.
struct Reading<'a> {
    out: BufWriter<io::StdoutLock<'static>>,
    result: Option<Value>,
    hear: &'a mut dyn FnMut(Heard<'_>),
    asked: Option<&'a Asked>,
}

impl Reading<'_> {
    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        match line.split_first() {
            Some((b'e', event)) => {
                self.out.write_all(event)?;
                self.out.write_all(b"\n")?;
                (self.hear)(Heard::Event);
            }
            Some((b'p', progress)) => {
                let (done, total) = serde_json::from_slice(progress)?;
                (self.hear)(Heard::Progress(done, total));
            }
            Some((b'f', found)) => (self.hear)(Heard::Found(&serde_json::from_slice(found)?)),
            Some((b'r', result)) => self.result = Some(serde_json::from_slice(result)?),
            Some((b'x', reason)) => {
                let reason = String::from_utf8_lossy(reason).into_owned();
                return Err(Failure::Failed(anyhow!(reason)));
            }
            _ => {}
        }
        Ok(())
    }

    /// The lines of an answer that comes through a socket. One without an end is half an event of a
    /// process that went away, and is not passed on.
    fn all_lines(&mut self, mut reader: impl BufRead) -> Result<(), Failure> {
        let mut line = Vec::new();
        loop {
            match reader.read_until(b'\n', &mut line) {
                Ok(_) => {}
                // The socket looks up now and then; what it has read of a line is kept.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.asked.is_some_and(Asked::to_end) {
                        return Err(Failure::Failed(anyhow!("interrupted")));
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            match line.split_last() {
                Some((b'\n', whole)) => self.line(whole)?,
                _ => return Ok(()),
            }
            line.clear();
        }
    }

    fn failure(&self, error: io::Error) -> Option<Failure> {
        (error.kind() != ErrorKind::BrokenPipe).then(|| Failure::Failed(anyhow::Error::from(error)))
    }
}

/// The same lines when they do not come through a socket.
struct Lines<'a, 'b> {
    reading: &'a mut Reading<'b>,
    partial: Vec<u8>,
}

impl Write for Lines<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.reading.line(&line[..end]).map_err(|failure| match failure {
                Failure::Failed(error) => io::Error::other(error),
                _ => ErrorKind::BrokenPipe.into(),
            })?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.reading.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn half_a_line_is_no_answer_and_progress_is_heard() {
        let mut heard = Vec::new();
        let mut hear = |what: Heard<'_>| {
            if let Heard::Progress(done, total) = what {
                heard.push((done, total));
            }
        };
        let out = BufWriter::new(io::stdout().lock());
        let mut reading = Reading { out, result: None, hear: &mut hear, asked: None };
        let lines = &b"p[1,2]\nr{\"count\":1}\nr{\"count\":12}"[..];
        assert!(reading.all_lines(lines).is_ok());
        assert_eq!(reading.result, Some(json!({"count": 1})));
        assert_eq!(heard, [(1, 2)]);
    }
}
