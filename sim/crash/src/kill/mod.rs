//! The kill loop: a built relay is loaded over several connections, killed with SIGKILL at a random
//! moment, started again, and asked over its wire for everything that it owes.

pub mod book;
pub mod client;
pub mod load;
pub mod relay;

use crate::progress;
use anyhow::{Context, ensure};
use bench::rng::Rng;
use book::{Book, Certainty};
use client::{Client, event_value};
use load::{Signals, now_s};
use proto::EventId;
use relay::{PATIENCE, Relay, RelayOptions};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Kills on one directory before the next one has its turn.
const KILLS_IN_A_ROW: u64 = 5;
/// Earlier authors that are looked up again after a kill.
const LOOKED_UP: usize = 4;
/// So many looks in a row find nothing new before a relay counts as quiet.
const QUIET_LOOKS: u32 = 6;
/// Violations that are reported in full.
const REPORTED_MAX: usize = 20;

/// Options of `kill`.
#[derive(Clone, Debug, clap::Args)]
pub struct KillOptions {
    /// The relay: a built `turnpike`
    #[arg(long, value_name = "PATH")]
    pub binary: PathBuf,
    /// Kills under load
    #[arg(long, default_value_t = 50)]
    pub kills: u64,
    /// Seed of the load and of the moments
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Numbers of shards, a directory for each
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    pub shards: Vec<u16>,
    /// Runtimes, in turn; one that the machine does not allow is named and left out
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "epoll,io-uring",
        env = "TURNPIKE_RUNTIMES"
    )]
    pub runtimes: Vec<String>,
    /// Connections that write
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Events a second that each of them sends, whatever the answers
    #[arg(long, default_value_t = 250)]
    pub rate: u64,
    /// Earliest moment of a kill, in milliseconds after the load began
    #[arg(long, default_value_t = 50)]
    pub min_ms: u64,
    /// Latest moment of a kill
    #[arg(long, default_value_t = 500)]
    pub max_ms: u64,
    /// Folder for the data directories [default: the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// The result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KillReport {
    /// Kills under load.
    pub kills: u64,
    /// Kills of a relay that was starting.
    pub kills_at_start: u64,
    /// Events that were sent.
    pub sent: u64,
    /// Events that were acknowledged, or seen by a subscriber.
    pub stored: u64,
    /// Events that were refused.
    pub refused: u64,
    /// Events in flight at a kill that turned out to be stored.
    pub in_flight_stored: u64,
    /// And ones that were gone.
    pub in_flight_gone: u64,
    /// Events that came live.
    pub live: u64,
    /// Rounds in which everything acknowledged had to come live before the kill.
    pub quiet_rounds: u64,
    /// The longest time from a start to listening after a kill.
    pub restart_ms_max: u64,
    /// Runtimes that the machine does not allow.
    pub left_out: Vec<String>,
    /// Broken promises.
    pub violations: u64,
    /// The first of them.
    pub found: Vec<String>,
}

impl KillReport {
    /// Whether everything held, and there was something to hold.
    pub fn holds(&self) -> bool {
        // A loop that killed before anything was under way would prove nothing.
        self.violations == 0 && self.stored > 20 * self.kills && self.refused > self.kills / 2
    }

    fn add(&mut self, where_: &str, wrong: impl IntoIterator<Item = String>) {
        for wrong in wrong {
            self.violations += 1;
            if self.found.len() < REPORTED_MAX {
                self.found.push(format!("{where_}: {wrong}"));
            }
        }
    }
}

/// One data directory and everything that was ever sent to it.
struct Track {
    options: RelayOptions,
    books: Vec<Book>,
}

struct Loop<'a> {
    options: &'a KillOptions,
    runtimes: Vec<String>,
    rng: Rng,
    starts: usize,
    report: KillReport,
}

/// Runs `kill`.
///
/// # Errors
/// When nothing can be judged: the relay does not start at all.
pub fn run(options: &KillOptions) -> anyhow::Result<KillReport> {
    ensure!(options.min_ms <= options.max_ms, "--min-ms is after --max-ms");
    ensure!(!options.shards.is_empty() && !options.shards.contains(&0), "--shards needs numbers");
    let parent = options.work.clone().unwrap_or_else(std::env::temp_dir);
    let work = tempfile::Builder::new().prefix("turnpike-kill-").tempdir_in(&parent)?;
    let binary = std::fs::canonicalize(&options.binary)
        .with_context(|| format!("there is no {}", options.binary.display()))?;
    let (runtimes, left_out) = relay::allowed(&binary, work.path(), &options.runtimes)?;
    let report = KillReport { left_out, ..KillReport::default() };
    let rng = Rng::new(options.seed);
    let mut kills = Loop { options, runtimes, rng, starts: 0, report };
    let mut tracks = Vec::new();
    for shards in &options.shards {
        let folder = work.path().join(format!("shards-{shards}"));
        std::fs::create_dir_all(folder.join("logs"))?;
        let options = RelayOptions { binary: binary.clone(), folder, shards: *shards };
        tracks.push(Track { options, books: Vec::new() });
    }
    let bar = progress(options.kills);
    let mut turn = 0;
    while kills.report.kills < options.kills {
        let in_a_row = KILLS_IN_A_ROW.min(options.kills - kills.report.kills);
        let count = tracks.len();
        let track = &mut tracks[turn % count];
        bar.set_message(format!("{} shards", track.options.shards));
        kills.row(track, in_a_row, &bar)?;
        turn += 1;
    }
    bar.finish_and_clear();
    for track in &mut tracks {
        kills.audit(track)?;
    }
    if kills.report.violations > 0 {
        kills.report.found.push(format!("the directories are kept in {}", work.keep().display()));
    }
    Ok(kills.report)
}

impl Loop<'_> {
    fn start(&mut self, track: &Track) -> anyhow::Result<Relay> {
        self.starts += 1;
        let runtime = self.runtimes[self.starts % self.runtimes.len()].clone();
        let began = Instant::now();
        let relay = Relay::start(&track.options, &runtime)?;
        let took_ms = began.elapsed().as_millis() as u64;
        self.report.restart_ms_max = self.report.restart_ms_max.max(took_ms);
        Ok(relay)
    }

    /// Some kills on one directory, one after another.
    fn row(
        &mut self,
        track: &mut Track,
        kills: u64,
        bar: &indicatif::ProgressBar,
    ) -> anyhow::Result<()> {
        let mut relay = self.start(track)?;
        for _ in 0..kills {
            let live = self.load(track, &mut relay)?;
            while self.rng.chance(1, 4) {
                self.kill_at_start(track)?;
            }
            relay = self.start(track)?;
            self.verify(track, &relay, live)?;
            bar.inc(1);
        }
        relay.process.kill()?;
        Ok(())
    }

    /// Loads the relay and kills it; returns the first book of the round.
    fn load(&mut self, track: &mut Track, relay: &mut Relay) -> anyhow::Result<Vec<usize>> {
        let chosen = self.choose_books(track);
        let authors: Vec<String> = chosen.iter().map(|at| track.books[*at].author()).collect();
        let (client, name) = load::listen(relay.address, &authors)?;
        let before: Vec<usize> = chosen.iter().map(|at| track.books[*at].sent.len()).collect();
        let signals = Signals::default();
        let pause =
            Duration::from_millis(self.rng.between(self.options.min_ms, self.options.max_ms));
        let is_quiet_round = self.rng.chance(1, 5);
        let (address, rate) = (relay.address, self.options.rate);
        let mut books: Vec<&mut Book> = Vec::new();
        for (at, book) in track.books.iter_mut().enumerate() {
            if chosen.contains(&at) {
                books.push(book);
            }
        }
        let writers_count = books.len();
        let (results, seen, is_complete) = std::thread::scope(|scope| {
            let signals = &signals;
            let writers: Vec<_> = books
                .into_iter()
                .map(|book| scope.spawn(move || load::write(book, address, rate, signals)))
                .collect();
            let subscriber = scope.spawn(|| load::subscribe(client, &name, signals));
            std::thread::sleep(pause);
            let mut is_complete = true;
            if is_quiet_round {
                signals.is_quiet.store(true, Ordering::Relaxed);
                is_complete = wait_until_quiet(signals, writers_count);
            }
            let killed = relay.process.kill();
            let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            (results, subscriber.join(), killed.map(|_| is_complete))
        });
        let (is_complete, place) = (is_complete?, place(track, self.report.kills));
        self.report.kills += 1;
        for result in results {
            let wrong = result.map_err(|_| anyhow::anyhow!("a writer panicked"))??;
            self.report.add(&place, wrong);
        }
        let seen = seen.map_err(|_| anyhow::anyhow!("the subscriber panicked"))??;
        self.report.add(&place, seen.wrong);
        self.report.live += seen.events.len() as u64;
        for event in &seen.events {
            self.came_live(track, &chosen, event, &place);
        }
        for at in &chosen {
            let wrong = track.books[*at].read_log()?;
            self.report.add(&place, wrong);
        }
        if is_quiet_round {
            self.report.quiet_rounds += 1;
            let wrong = (!is_complete).then(|| "the relay did not answer everything".to_owned());
            self.report.add(&place, wrong);
            self.demand_live(track, &chosen, &before, &seen.events, &place);
        }
        Ok(chosen)
    }

    /// Half of the writers are new, the others go on with what an earlier life left.
    fn choose_books(&mut self, track: &mut Track) -> Vec<usize> {
        let mut chosen = Vec::new();
        for _ in 0..self.options.connections {
            let open: Vec<usize> = (0..track.books.len())
                .filter(|at| !track.books[*at].is_closed && !chosen.contains(at))
                .collect();
            if open.is_empty() || self.rng.chance(1, 2) {
                let logs = track.options.folder.join("logs");
                track.books.push(Book::new(self.rng.next_u64(), &logs));
                chosen.push(track.books.len() - 1);
            } else {
                chosen.push(*self.rng.pick(&open));
            }
        }
        chosen.sort_unstable();
        chosen
    }

    /// What came live was stored, and is what was sent.
    fn came_live(&mut self, track: &mut Track, chosen: &[usize], event: &Value, place: &str) {
        let id = event["id"].as_str().and_then(|id| EventId::from_hex(id.as_bytes()));
        let Some(id) = id else {
            return self.report.add(place, [format!("no event came live: {event}")]);
        };
        for at in chosen {
            let book = &mut track.books[*at];
            let Some(sent) = book.find(&id) else { continue };
            if sent.is_bad || event_value(&sent.event) != *event {
                self.report.add(place, [format!("{id} came live with other bytes")]);
            }
            book.learn(&id, book::Fate::Stored);
            return;
        }
        self.report.add(place, [format!("{id} came live and was never sent")]);
    }

    /// Everything that was stored since the subscription began, and lives, has come.
    fn demand_live(
        &mut self,
        track: &Track,
        chosen: &[usize],
        before: &[usize],
        live: &[Value],
        place: &str,
    ) {
        let came: std::collections::BTreeSet<&str> =
            live.iter().filter_map(|event| event["id"].as_str()).collect();
        for (at, before) in chosen.iter().zip(before) {
            let book = &track.books[*at];
            let expected = book.expected(now_s());
            let new = book.sent.iter().skip(*before).map(|sent| sent.event.view().id());
            let missing = new.filter(|id| expected.get(id) == Some(&Certainty::Must));
            let missing = missing.filter(|id| !came.contains(id.to_hex().as_str()));
            let wrong: Vec<String> =
                missing.map(|id| format!("{id} was stored and did not come live")).collect();
            self.report.add(place, wrong);
        }
    }

    /// Starts a relay and kills it before or while it begins to listen.
    fn kill_at_start(&mut self, track: &Track) -> anyhow::Result<()> {
        let runtime = self.rng.pick(&self.runtimes).clone();
        let mut starting = track.options.start(&runtime, |_| {})?;
        std::thread::sleep(Duration::from_micros(self.rng.between(0, 40_000)));
        starting.process.kill()?;
        self.report.kills_at_start += 1;
        Ok(())
    }

    /// Asks for everything of this round's authors, and of some earlier ones.
    fn verify(
        &mut self,
        track: &mut Track,
        relay: &Relay,
        mut looked_up: Vec<usize>,
    ) -> anyhow::Result<()> {
        let fresh = looked_up.len();
        for _ in 0..LOOKED_UP {
            let at = self.rng.index(track.books.len());
            if !looked_up.contains(&at) {
                looked_up.push(at);
            }
        }
        let mut client = Client::connect(relay.address)?;
        let place = place(track, self.report.kills - 1);
        for (number, at) in looked_up.into_iter().enumerate() {
            let is_fresh = number < fresh;
            self.verify_book(&mut track.books[at], &mut client, is_fresh, &place)?;
        }
        Ok(())
    }

    fn verify_book(
        &mut self,
        book: &mut Book,
        client: &mut Client,
        is_fresh: bool,
        place: &str,
    ) -> anyhow::Result<()> {
        let all = match client.all_of(&book.author()) {
            Ok(all) => all,
            Err(error) => {
                self.report.add(place, [format!("{error:#}")]);
                return Ok(());
            }
        };
        let mut served = Vec::with_capacity(all.len());
        for event in &all {
            let id = event["id"].as_str().and_then(|id| EventId::from_hex(id.as_bytes()));
            let id = id.context("an event has an id")?;
            if let Some(sent) = book.find(&id)
                && event_value(&sent.event) != *event
            {
                self.report.add(place, [format!("{id} is served with other bytes")]);
            }
            served.push(id);
        }
        if is_fresh {
            self.count(book, &served);
        }
        let wrong = book.settle(&served, now_s());
        self.report.add(place, wrong);
        self.probe(client, &book.author(), &all, place)
    }

    fn count(&mut self, book: &Book, served: &[EventId]) {
        let served: std::collections::BTreeSet<&EventId> = served.iter().collect();
        for sent in &book.sent[book.settled()..] {
            self.report.sent += 1;
            match sent.fate {
                book::Fate::Stored | book::Fate::Superseded => self.report.stored += 1,
                book::Fate::Refused => self.report.refused += 1,
                book::Fate::InFlight if served.contains(&sent.event.view().id()) => {
                    self.report.in_flight_stored += 1;
                }
                book::Fate::InFlight => self.report.in_flight_gone += 1,
            }
        }
    }

    /// A filter over the author's events, against the same events filtered here.
    fn probe(
        &mut self,
        client: &mut Client,
        author: &str,
        all: &[Value],
        place: &str,
    ) -> anyhow::Result<()> {
        let kind = [1, 5, 7, 30_023][self.rng.index(4)];
        let limit = self.rng.between(1, 30) as usize;
        let filter = json!({"authors": [author], "kinds": [kind], "limit": limit});
        let expires = |event: &Value| event["tags"].to_string().contains("\"expiration\"");
        let found = client.query(&filter)?;
        let of_kind: Vec<&Value> = all.iter().filter(|event| event["kind"] == kind).collect();
        // What expires between the two answers may shift a limit.
        if of_kind.iter().any(|event| expires(event)) {
            return Ok(());
        }
        if !found.iter().eq(of_kind.into_iter().take(limit)) {
            self.report.add(place, [format!("{filter} finds other events than there are")]);
        }
        Ok(())
    }

    /// The last look at a directory: every author, then the whole log, offline.
    fn audit(&mut self, track: &mut Track) -> anyhow::Result<()> {
        if track.books.is_empty() {
            return Ok(());
        }
        let relay = self.start(track)?;
        let mut client = Client::connect(relay.address)?;
        let place = format!("{} shards, at the end", track.options.shards);
        let mut books = std::mem::take(&mut track.books);
        for book in &mut books {
            self.verify_book(book, &mut client, false, &place)?;
        }
        drop(client);
        if let Err(error) = relay.end() {
            self.report.add(&place, [format!("{error:#}")]);
        }
        let scrub = track.options.run(&["scrub", "--signatures"])?;
        if !scrub.status.success() {
            let said = String::from_utf8_lossy(&scrub.stdout).into_owned();
            self.report.add(&place, [format!("scrub found something: {said}")]);
        }
        self.audit_export(track, &books, &place)
    }

    /// Everything that is stored was sent, whoever made it.
    fn audit_export(&mut self, track: &Track, books: &[Book], place: &str) -> anyhow::Result<()> {
        let export = track.options.run(&["export"])?;
        ensure!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
        let mut wrong = Vec::new();
        for line in export.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line)?;
            let id = event["id"].as_str().and_then(|id| EventId::from_hex(id.as_bytes()));
            let author = event["pubkey"].as_str().unwrap_or_default();
            let book = books.iter().find(|book| book.author() == author);
            let is_sent = book.zip(id).is_some_and(|(book, id)| book.find(&id).is_some());
            if !is_sent {
                wrong.push(format!("the log holds what was never sent: {event}"));
            }
        }
        self.report.add(place, wrong);
        Ok(())
    }
}

fn place(track: &Track, kill: u64) -> String {
    format!("{} shards, kill {kill}", track.options.shards)
}

/// Waits until every answer has come and the subscriber hears nothing new for a while; whether that
/// came about.
fn wait_until_quiet(signals: &Signals, writers: usize) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let (mut seen, mut unchanged) = (usize::MAX, 0);
    while Instant::now() < deadline {
        let now = signals.seen.load(Ordering::Relaxed);
        let is_still = signals.settled.load(Ordering::Relaxed) == writers && now == seen;
        unchanged = if is_still { unchanged + 1 } else { 0 };
        if unchanged == QUIET_LOOKS {
            return true;
        }
        seen = now;
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

/// The report for people.
pub fn describe(report: &KillReport) -> String {
    let mut text = String::new();
    for runtime in &report.left_out {
        text.push_str(&format!("NOT run on {runtime}\n"));
    }
    text.push_str(&format!(
        "{} kills under load, {} while starting; {} events sent: {} acknowledged, {} refused, {} in \
         flight and stored, {} in flight and gone\n{} came live, {} rounds had to come live whole; \
         listening at most {} ms after a start\n",
        report.kills,
        report.kills_at_start,
        report.sent,
        report.stored,
        report.refused,
        report.in_flight_stored,
        report.in_flight_gone,
        report.live,
        report.quiet_rounds,
        report.restart_ms_max,
    ));
    for found in &report.found {
        text.push_str(&format!("BROKEN {found}\n"));
    }
    text.push_str(if report.holds() { "held\n" } else { "DID NOT HOLD\n" });
    text
}
