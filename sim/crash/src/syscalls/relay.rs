//! The same for the built relay, on a sample of its calls: it is loaded over its wire while one of its
//! system calls fails, ends or goes on, and is started again without faults.

use super::fault::{Class, Fault, Shim};
use super::{Outcome, failed_for_good};
use crate::check::{Broken, Violation};
use crate::kill::book::Book;
use crate::kill::client::{Client, event_value};
use crate::kill::load::{self, Signals, now_s};
use crate::kill::relay::{PATIENCE, Relay, RelayOptions};
use crate::marks::Mark;
use anyhow::Context;
use proto::EventId;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Which calls of a series fail.
const SAMPLED: [u64; 10] = [1, 2, 3, 5, 9, 17, 33, 65, 129, 257];
/// How long a relay is loaded, and how fast.
const LOADED: Duration = Duration::from_millis(1_300);
const PER_SECOND: u64 = 400;

/// The number of the sample after this one.
pub fn next_sample(at: u64) -> Option<u64> {
    SAMPLED.into_iter().find(|sample| *sample > at)
}

/// Lets one call of a relay fail.
///
/// # Errors
/// When the relay cannot be judged: it does not start without a fault.
pub fn one(
    binary: &Path,
    shim: &Shim,
    (class, fault, at): (Class, Fault, u64),
    folder: &Path,
) -> anyhow::Result<Outcome> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder.join("logs"))?;
    let folder = std::fs::canonicalize(folder)?;
    let (binary, marks) = (binary.to_owned(), folder.join("marks"));
    let options = RelayOptions { binary, folder: folder.clone(), shards: 1 };
    let mut book = Book::new(at ^ 0x5ca1_0000, &folder.join("logs"));
    let data_dir = options.data_dir();
    let started = options.start("epoll", |command| {
        shim.attach(command, &data_dir, &marks, class, fault, at);
    })?;
    let mut wrong = Vec::new();
    let ended_well = match started.listen()? {
        Ok(mut relay) => {
            wrong.extend(load_relay(&mut relay, &mut book)?);
            relay.process.wait()?.success()
        }
        Err((status, _)) => status.success(),
    };
    let marks = if marks.exists() { Mark::read_all(&marks)? } else { Vec::new() };
    let Some(Mark::Fault(file)) = marks.first() else {
        anyhow::ensure!(ended_well, "a relay without a fault failed");
        return Ok(Outcome::Untouched);
    };
    if ended_well && failed_for_good(class, fault, file) {
        wrong.push("it went on after a sync had failed".to_owned());
    }
    wrong.extend(book.read_log()?);
    wrong.extend(judge(&options, &mut book)?);
    let broken = wrong.into_iter().next();
    let violation = broken.map(|detail| Violation { broken: Broken::Lost, detail });
    Ok(match violation {
        Some(violation) => Outcome::Broken(Some(file.clone()), violation),
        None if ended_well => Outcome::WentOn,
        None => Outcome::Ended,
    })
}

/// Writes to a relay until it has answered everything or is gone.
fn load_relay(relay: &mut Relay, book: &mut Book) -> anyhow::Result<Vec<String>> {
    let signals = Signals::default();
    let address = relay.address;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| load::write(book, address, PER_SECOND, &signals));
        std::thread::sleep(LOADED);
        signals.is_quiet.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        let is_over = |relay: &mut Relay| -> anyhow::Result<bool> {
            Ok(signals.settled.load(Ordering::Relaxed) > 0 || relay.process.ended()?.is_some())
        };
        while Instant::now() < deadline && !is_over(relay)? && !writer.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        // A writer waits for the end of the connection.
        relay.process.interrupt()?;
        writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?
    })
}

/// What a clean start finds.
fn judge(options: &RelayOptions, book: &mut Book) -> anyhow::Result<Vec<String>> {
    let relay = match options.start("epoll", |_| {})?.listen()? {
        Ok(relay) => relay,
        Err((status, said)) => {
            return Ok(vec![format!("a clean start fails: {status}: {}", said.trim())]);
        }
    };
    let mut client = Client::connect(relay.address)?;
    let mut served = Vec::new();
    let mut wrong = Vec::new();
    for event in client.all_of(&book.author())? {
        let id = event["id"].as_str().and_then(|id| EventId::from_hex(id.as_bytes()));
        let id = id.context("an event has an id")?;
        if book.find(&id).is_some_and(|sent| event_value(&sent.event) != event) {
            wrong.push(format!("{id} is served with other bytes"));
        }
        served.push(id);
    }
    wrong.extend(book.settle(&served, now_s()));
    drop(client);
    relay.end()?;
    let scrub = options.run(&["scrub"])?;
    if !scrub.status.success() {
        let said = String::from_utf8_lossy(&scrub.stdout);
        wrong.push(format!("scrub finds {}", said.trim()));
    }
    Ok(wrong)
}
