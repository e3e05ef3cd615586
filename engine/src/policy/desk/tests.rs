//! The desk with questions that are a name, and a plug-in that is the test.

use super::*;
use proto::Secret;

const TIMEOUT_MS: u64 = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Named(&'static str, u32);

impl Question for Named {
    fn name(&self, _: u64) -> Box<str> {
        self.0.into()
    }

    fn write(&self, name: &str, received_at_s: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{name} {} {received_at_s}", self.1).as_bytes());
    }
}

fn at(monotonic_ms: u64) -> Now {
    Now { monotonic_ms, unix_s: 1_700_000_000 + monotonic_ms / 1_000 }
}

fn settings(when_down: WhenDown) -> Settings {
    Settings { command: Some("./plugin".into()), timeout_ms: TIMEOUT_MS, when_down }
}

/// A desk, the verdicts it gave, and the run in charge.
struct Bench {
    desk: Desk<Named>,
    verdicts: Verdicts<Named>,
}

impl Bench {
    fn new(when_down: WhenDown) -> Self {
        let seed = SeededState::new(Secret([3; 16]));
        Self { desk: Desk::new(settings(when_down), seed), verdicts: Vec::new() }
    }

    fn ask(&mut self, now_ms: u64, name: &'static str, mark: u32) {
        self.desk.ask(at(now_ms), Named(name, mark), &mut self.verdicts);
    }

    /// Starts the plug-in, which has to be due.
    fn start(&mut self, now_ms: u64) -> Run {
        assert_eq!(self.desk.to_start(at(now_ms)), Some("./plugin"));
        self.desk.started()
    }

    fn told(&mut self, now_ms: u64) -> Vec<String> {
        let mut out = Vec::new();
        while self.desk.tell(at(now_ms), &mut out) {}
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    fn heard(&mut self, now_ms: u64, run: Run, id: &str, action: &str) -> Result<(), Unusable> {
        let line = format!(r#"{{"id":"{id}","action":"{action}","msg":"no: {id}"}}"#);
        self.desk.heard(at(now_ms), run, line.as_bytes(), &mut self.verdicts)
    }

    fn tick(&mut self, now_ms: u64) {
        self.desk.tick(at(now_ms), &mut self.verdicts);
    }

    fn ended(&mut self, now_ms: u64, run: Run) {
        self.desk.ended(at(now_ms), run, &mut self.verdicts);
    }

    /// Marks of the questions answered since the last call, with what they got.
    fn given(&mut self) -> Vec<(u32, Verdict)> {
        self.verdicts.drain(..).map(|(Named(_, mark), verdict)| (mark, verdict)).collect()
    }
}

#[test]
fn answers_find_their_questions_in_any_order_and_the_first_of_one_name_first() {
    let mut bench = Bench::new(WhenDown::Reject);
    bench.ask(0, "a", 1);
    bench.ask(0, "b", 2);
    bench.ask(2_000, "a", 3);
    let run = bench.start(2_000);
    let told = bench.told(2_000);
    assert_eq!(told, ["a 1 1700000000", "b 2 1700000000", "a 3 1700000002"], "received when asked");
    assert_eq!(bench.heard(0, run, "b", "shadowReject"), Ok(()));
    assert_eq!(bench.heard(0, run, "a", "reject"), Ok(()));
    assert_eq!(bench.heard(0, run, "a", "accept"), Ok(()));
    let rejected = Verdict::Reject("no: a".into());
    assert_eq!(bench.given(), [(2, Verdict::ShadowReject), (1, rejected), (3, Verdict::Accept)]);
    assert_eq!(bench.heard(0, run, "a", "accept"), Err(Unusable::Unmatched));
    assert_eq!(bench.heard(0, run, "a", "maybe"), Err(Unusable::Malformed));
    let counts = bench.desk.counts();
    assert_eq!((counts.in_flight, counts.unmatched, counts.malformed), (0, 1, 1));
    assert!(bench.desk.owed.is_empty() && bench.desk.told.is_empty(), "nothing is left behind");
}

#[test]
fn a_question_waits_its_time_and_gets_the_default_told_or_not() {
    for (when_down, default) in
        [(WhenDown::Reject, Verdict::Unavailable), (WhenDown::Accept, Verdict::Accept)]
    {
        let mut bench = Bench::new(when_down);
        bench.ask(0, "a", 1);
        let run = bench.start(0);
        bench.told(0);
        bench.ask(10, "b", 2);
        bench.tick(TIMEOUT_MS - 1);
        assert_eq!(bench.given(), []);
        assert_eq!(bench.desk.next_ms(), TIMEOUT_MS);
        bench.tick(TIMEOUT_MS + 10);
        assert_eq!(bench.given(), [(1, default.clone()), (2, default)]);
        assert_eq!(bench.told(TIMEOUT_MS + 10), [""; 0], "what is settled is not told any more");
        assert_eq!(bench.heard(TIMEOUT_MS + 10, run, "a", "accept"), Err(Unusable::Unmatched));
        assert_eq!(bench.desk.counts().timed_out, 2);
    }
}

#[test]
fn a_plug_in_that_ends_costs_what_it_was_told_and_comes_back_later_each_time() {
    let mut bench = Bench::new(WhenDown::Reject);
    bench.desk.begin();
    let mut now_ms = 0;
    let mut waits_ms = Vec::new();
    for mark in 0..12 {
        let run = bench.start(now_ms);
        bench.ask(now_ms, "a", mark);
        bench.told(now_ms);
        bench.ended(now_ms, run);
        assert_eq!(bench.given(), [(mark, Verdict::Unavailable)]);
        assert_eq!(bench.desk.to_start(at(now_ms)), None, "not at once");
        waits_ms.push(bench.desk.next_ms() - now_ms);
        now_ms = bench.desk.next_ms();
    }
    assert_eq!(&waits_ms[..4], [100, 200, 400, 800]);
    assert_eq!(waits_ms.last(), Some(&BACKOFF_MS_MAX));
    // It is away for longer than anybody would wait.
    let run = bench.start(now_ms);
    bench.ended(now_ms, run);
    bench.ask(now_ms, "b", 99);
    assert_eq!(bench.given(), [(99, Verdict::Unavailable)]);
    assert_eq!(bench.desk.counts().unreachable, 13);
    // Having answered once, it is trusted again.
    now_ms = bench.desk.next_ms();
    let run = bench.start(now_ms);
    bench.ask(now_ms, "c", 100);
    bench.told(now_ms);
    assert_eq!(bench.heard(now_ms, run, "c", "accept"), Ok(()));
    bench.ended(now_ms, run);
    assert_eq!(bench.desk.next_ms() - now_ms, BACKOFF_MS_MIN);
    // What comes now waits for it.
    bench.ask(now_ms, "d", 101);
    assert_eq!(bench.given().len(), 1);
    bench.start(now_ms + BACKOFF_MS_MIN);
    assert_eq!(bench.told(now_ms + BACKOFF_MS_MIN).len(), 1);
    assert_eq!(bench.desk.counts().restarts, 14);
}

#[test]
fn one_that_owes_answers_and_gives_none_hangs_and_one_that_gives_any_does_not() {
    let mut bench = Bench::new(WhenDown::Reject);
    bench.ask(0, "a", 1);
    let run = bench.start(0);
    assert!(!bench.desk.hangs(at(1_000_000)), "it has been told nothing");
    bench.told(0);
    let hung_ms = HANG_TIMEOUTS * TIMEOUT_MS;
    bench.tick(TIMEOUT_MS);
    assert!(!bench.desk.hangs(at(hung_ms - 1)));
    assert_eq!(bench.desk.next_ms(), hung_ms);
    assert!(bench.desk.hangs(at(hung_ms)), "although nobody waits any more");
    // Even a late answer is a sign of life.
    assert_eq!(bench.heard(hung_ms, run, "a", "accept"), Err(Unusable::Unmatched));
    assert!(!bench.desk.hangs(at(hung_ms + 1_000_000)), "it owes nothing");
    bench.ask(hung_ms, "b", 2);
    bench.ask(hung_ms, "c", 3);
    bench.told(hung_ms);
    assert_eq!(bench.heard(hung_ms + 900, run, "c", "accept"), Ok(()));
    assert!(!bench.desk.hangs(at(2 * hung_ms + 899)));
    assert!(bench.desk.hangs(at(2 * hung_ms + 900)));
}

#[test]
fn a_run_that_is_let_go_answers_what_it_was_told_while_the_next_is_asked() {
    let mut bench = Bench::new(WhenDown::Reject);
    bench.ask(0, "a", 1);
    let old = bench.start(0);
    bench.told(0);
    bench.desk.retire();
    bench.ask(0, "a", 2);
    let new = bench.start(0);
    assert_eq!(bench.told(0).len(), 1);
    assert!(bench.desk.awaits(old) && bench.desk.awaits(new));
    // Each run's answer goes to what that run was asked.
    assert_eq!(bench.heard(0, new, "a", "accept"), Ok(()));
    assert_eq!(bench.given(), [(2, Verdict::Accept)]);
    assert_eq!(bench.heard(0, new, "a", "accept"), Err(Unusable::Unmatched));
    assert_eq!(bench.heard(0, old, "a", "shadowReject"), Ok(()));
    assert_eq!(bench.given(), [(1, Verdict::ShadowReject)]);
    bench.ended(0, old);
    assert_eq!(
        bench.desk.to_start(at(1_000_000)),
        None,
        "the end of the old is not that of the new"
    );
}

#[test]
fn another_command_is_another_run_and_no_command_accepts() {
    let mut bench = Bench::new(WhenDown::Reject);
    bench.ask(0, "a", 1);
    bench.start(0);
    bench.told(0);
    let slower = Settings { timeout_ms: 2 * TIMEOUT_MS, ..settings(WhenDown::Reject) };
    assert!(!bench.desk.reconfigure(slower, &mut bench.verdicts), "the same command");
    bench.ask(0, "b", 2);
    let other = Settings { command: Some("./other".into()), ..settings(WhenDown::Reject) };
    assert!(bench.desk.reconfigure(other, &mut bench.verdicts));
    assert_eq!(bench.desk.to_start(at(0)), Some("./other"));
    let none = Settings { command: None, ..settings(WhenDown::Reject) };
    assert!(bench.desk.reconfigure(none, &mut bench.verdicts));
    assert_eq!(bench.given(), [(2, Verdict::Accept)], "it would not be asked any more");
    assert_eq!(bench.desk.to_start(at(0)), None);
    bench.ask(0, "c", 3);
    assert_eq!(bench.given(), [(3, Verdict::Accept)]);
    bench.tick(TIMEOUT_MS);
    assert_eq!(
        bench.given(),
        [(1, Verdict::Unavailable)],
        "it was told, and waits as it was promised"
    );
}

#[test]
fn when_the_relay_ends_nobody_waits_long_and_nothing_is_started() {
    let mut bench = Bench::new(WhenDown::Reject);
    let slow = Settings { timeout_ms: 60_000, ..settings(WhenDown::Reject) };
    bench.desk.reconfigure(slow, &mut bench.verdicts);
    bench.ask(0, "a", 1);
    let run = bench.start(0);
    bench.told(0);
    bench.desk.hurry(at(100));
    bench.ask(200, "b", 2);
    assert_eq!(bench.desk.next_ms(), 100 + HURRY_MS);
    bench.tick(100 + HURRY_MS);
    assert_eq!(bench.given(), [(1, Verdict::Unavailable), (2, Verdict::Unavailable)]);
    bench.ended(5_000, run);
    assert_eq!(bench.desk.to_start(at(1_000_000)), None);
    bench.ask(5_000, "c", 3);
    assert_eq!(bench.given(), [(3, Verdict::Unavailable)]);
}

#[test]
fn more_than_may_wait_get_the_default_at_once() {
    let mut bench = Bench::new(WhenDown::Accept);
    for mark in 0..WAITING_MAX as u32 {
        bench.ask(0, "a", mark);
    }
    assert_eq!(bench.given(), []);
    bench.ask(0, "a", u32::MAX);
    assert_eq!(bench.given(), [(u32::MAX, Verdict::Accept)]);
}
