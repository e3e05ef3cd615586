//! The client against the real relay: what it publishes arrives, what it asks is answered, and what
//! the relay holds back shows in the distributions.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test")]

mod relay;

use bench::load::{
    Action, Actions, Arrivals, Fleet, FleetOptions, Frames, Ledger, Metric, Op, Plan, Rate,
    Requests, SECOND_NS, Server, Settle, Target, Work,
};
use bench::{Corpus, CorpusOptions, Shape};
use relay::Relay;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;
use std::time::Duration;

fn frames(seed: u64, count: u64, options: CorpusOptions) -> Frames {
    let shape = Shape::Uniform { event_bytes: 500 };
    let events: Vec<proto::Event> = Corpus::new(shape, seed, count, options).collect();
    Frames::of_events(&events)
}

fn fleet(relay: &Relay, connections: u32) -> (Fleet, Target) {
    let target = Target::parse(&relay.url).unwrap();
    let mut options = FleetOptions::new(connections);
    options.threads = 2;
    (Fleet::open(&target, &options).unwrap().0, target)
}

#[test]
fn everything_published_is_acknowledged_delivered_and_found_again() {
    let Some(relay) = Relay::start() else { return };
    let (mut fleet, target) = fleet(&relay, 30);
    let live = vec![br#"{"kinds":[1],"limit":0}"#.to_vec()];
    let opened = fleet.subscribe(&live, 10..30);
    assert_eq!(opened.record.totals.answered, 20);
    let frames = frames(1, 600, CorpusOptions::default());
    let ledger = Ledger::new(frames.len());
    let requests = Requests::new();
    // The first ten publish, the other twenty listen.
    let plan: Plan = Arc::new(|| -> Actions {
        let arrivals = Arrivals::new(5, 0, Rate::level(600.0, SECOND_NS));
        Box::new(arrivals.zip(0..).map(|(at_ns, event)| Action {
            at_ns,
            connection: event % 10,
            op: Op::Publish(event),
        }))
    });
    let mut work = Work::open(&frames, &ledger, &requests, plan, SECOND_NS);
    work.settle = Settle::Deliveries { count: 600 * 20 };
    let mut outcome = fleet.run(&work);
    let totals = outcome.record.totals;
    assert_eq!((totals.published, totals.accepted, totals.unanswered), (600, 600, 0));
    assert_eq!((totals.deliveries, totals.foreign), (12_000, 0));
    outcome.add_last_deliveries(&ledger, work.window_ns);
    let histograms = &outcome.record.histograms;
    assert_eq!(histograms[&Metric::PublishOk].len(), 600);
    assert_eq!(histograms[&Metric::Delivery].len(), 12_000);
    assert_eq!(histograms[&Metric::LastDelivery].len(), 600);
    assert!(histograms[&Metric::LastDelivery].max() >= histograms[&Metric::Delivery].max());
    let over_time: u64 = outcome.record.intervals.iter().map(|one| one.counts.accepted).sum();
    assert_eq!(over_time, 600);
    assert!(ledger.published_in(0, u64::MAX).all(|journey| journey.deliveries == 20));

    let again = fleet.publish(&frames, &ledger, 0..600, 8, Settle::Answers);
    assert_eq!((again.record.totals.duplicates, again.record.totals.accepted), (600, 0));
    let ask: Requests = (0..50).map(|_| br#"{"kinds":[1],"limit":100}"#.to_vec()).collect();
    let answers = fleet.query(&ask, 2);
    assert_eq!(answers.record.totals.answered, 50);
    assert_eq!(answers.record.totals.query_events, 5_000);
    let server = Server::find(target.address).unwrap();
    assert_eq!(server.pid as i32, relay.pid());
}

#[test]
fn refusals_and_lost_connections_are_counted_not_waited_for() {
    let Some(mut relay) = Relay::start() else { return };
    let (mut fleet, _) = fleet(&relay, 4);
    let options = CorpusOptions { bad_signature_per_mille: 500, ..CorpusOptions::default() };
    let frames = frames(2, 200, options);
    let ledger = Ledger::new(frames.len());
    let outcome = fleet.publish(&frames, &ledger, 0..200, 16, Settle::Answers);
    let totals = outcome.record.totals;
    assert_eq!(totals.accepted + totals.rejected, 200);
    assert!(totals.rejected > 60, "{totals:?}");
    let reasons = outcome.record.reasons.iter();
    let invalid = reasons.filter(|(why, _)| why.starts_with("invalid")).map(|(_, count)| count);
    assert_eq!(invalid.sum::<u64>(), totals.rejected);
    relay.kill();
    let outcome = fleet.publish(&frames, &ledger, 0..200, 16, Settle::Answers);
    assert!(outcome.record.totals.lost > 0, "{:?}", outcome.record.totals);
    assert_eq!(outcome.record.totals.accepted, 0);
}

/// The proof that nothing is omitted: while the relay stands still for 500 ms, requests stay due.
/// A client that waited for each answer before the next would see the stall once per connection.
#[test]
fn a_stall_of_half_a_second_shows_in_the_tail() {
    let Some(relay) = Relay::start() else { return };
    let (mut fleet, _) = fleet(&relay, 4);
    let frames = frames(3, 1_200, CorpusOptions::default());
    let ledger = Ledger::new(frames.len());
    let requests = Requests::new();
    let plan: Plan = Arc::new(|| -> Actions {
        let arrivals = Arrivals::new(9, 0, Rate::level(400.0, 3 * SECOND_NS));
        Box::new(arrivals.zip(0..).map(|(at_ns, event)| Action {
            at_ns,
            connection: event % 4,
            op: Op::Publish(event),
        }))
    });
    let work = Work::open(&frames, &ledger, &requests, plan, 3 * SECOND_NS);
    let pid = Pid::from_raw(relay.pid()).unwrap();
    let stall = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1_000));
        kill_process(pid, Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        kill_process(pid, Signal::CONT).unwrap();
    });
    let outcome = fleet.run(&work);
    stall.join().unwrap();
    assert_eq!(outcome.record.totals.accepted, 1_200);
    let latencies = &outcome.record.histograms[&Metric::PublishOk];
    assert!(latencies.value_at_quantile(0.999) >= 400_000_000, "{}", latencies.max());
    // What was due during the stall waited for the rest of it: at 400 a second some 200 events,
    // spread evenly over its length. Four connections in a closed loop would have seen it four
    // times and no more.
    let waited = latencies.count_between(100_000_000, latencies.max());
    assert!(waited >= 100, "{waited} events saw the stall");
}
