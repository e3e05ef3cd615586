//! From a scenario, a size and a seed to what a fleet needs: frames, requests, who subscribes to
//! what, and the plan. Equal arguments give equal bytes and equal plans.

use super::requests::{boot_requests, client_requests, live_requests};
use super::{QueryMix, Scenario, ShapeName, Sizing};
use crate::corpus::prepared::Prepared;
use crate::load::{Action, Actions, Arrivals, Merged, Op, Plan, Rate, Requests, SECOND_NS};
use crate::rng::Rng;
use crate::{Corpus, CorpusOptions, Role, Shape};
use proto::{Event, PublicKey};
use std::ops::Range;
use std::sync::Arc;

/// Seconds of `created_at` that a scenario's events spread over, ending at the base time.
const SPAN_S: u32 = 86_400;
/// Events that filters are drawn from.
const SAMPLE_EVENTS: u32 = 20_000;
/// Different queries; a longer run asks them again.
const QUERIES_MAX: u32 = 4_000;
/// Different clients that boot; a longer run boots them again.
const BOOTS_MAX: u32 = 200;
/// Requests of one client that boots.
const REQUESTS_PER_BOOT: u32 = 5;

/// A scenario ready to be run.
pub struct Compiled {
    /// What it was made from.
    pub scenario: Scenario,
    /// In which size.
    pub sizing: Sizing,
    /// Connections.
    pub connections: u32,
    /// New connections a second.
    pub connects_per_s: f64,
    /// Connections that read slowly, and how many bytes a second.
    pub slow: Option<(Range<u32>, u32)>,
    /// All events: those stored before come first.
    pub prepared: Prepared,
    /// Events stored before.
    pub preload: u32,
    /// Filters of queries and subscriptions.
    pub requests: Requests,
    /// Connection and request of every open subscription.
    pub subscriptions: Vec<(u32, u32)>,
    /// What happens when.
    pub plan: Plan,
    /// From the first action to the last.
    pub duration_ns: u64,
    /// The level.
    pub window_ns: (u64, u64),
    /// Events of the plan that a correct relay refuses.
    pub refusals: u64,
    /// Whether live events are to be expected.
    pub has_live: bool,
    /// A spike, from and to.
    pub burst_ns: Option<(u64, u64)>,
}

impl Compiled {
    /// Publishes the events of a prepared file instead, from one repetition to the next further on
    /// in it. What was planned beyond its end is published from its beginning again, and is then a
    /// duplicate.
    pub fn replace_events(&mut self, corpus: &Prepared, repeat: u32) {
        let needed = self.prepared.frames.len();
        let first = u64::from(repeat) * u64::from(needed);
        self.prepared = corpus.rotated(first, needed);
        self.refusals = refusals(&self.prepared, self.preload);
    }
}

/// Planned events that a correct relay refuses.
fn refusals(prepared: &Prepared, preload: u32) -> u64 {
    let is_refused = |role: &&Role| matches!(role, Role::BadSignature | Role::Stale);
    prepared.roles[preload as usize..].iter().filter(is_refused).count() as u64
}

/// One stream of a plan, from which it can be made again and again.
#[derive(Clone)]
struct Stream {
    seed: u64,
    start_ns: u64,
    rate: Rate,
    connections: Range<u32>,
    what: What,
}

#[derive(Clone)]
enum What {
    /// Frames from this index on.
    Publish(u32),
    /// This many requests in turn, `per_arrival` at a time.
    Query {
        count: u32,
        per_arrival: u32,
    },
    Reconnect,
}

impl Stream {
    fn actions(self) -> Actions {
        let arrivals = Arrivals::new(self.seed, self.start_ns, self.rate);
        let mut rng = Rng::new(self.seed ^ 0x00c0_ffee);
        let connections = self.connections.clone();
        let mut pick = move || {
            connections.start + rng.below(u64::from(connections.end - connections.start)) as u32
        };
        match self.what {
            What::Publish(first) => Box::new(arrivals.zip(first..).map(move |(at_ns, event)| {
                Action { at_ns, connection: pick(), op: Op::Publish(event) }
            })),
            What::Query { count, per_arrival } => {
                Box::new(arrivals.enumerate().flat_map(move |(index, at_ns)| {
                    let connection = pick();
                    let first = index as u64 * u64::from(per_arrival);
                    (0..per_arrival).map(move |part| {
                        let request = ((first + u64::from(part)) % u64::from(count)) as u32;
                        Action { at_ns, connection, op: Op::Query(request) }
                    })
                }))
            }
            What::Reconnect => Box::new(arrivals.map(move |at_ns| Action {
                at_ns,
                connection: pick(),
                op: Op::Reconnect,
            })),
        }
    }
}

/// Makes a scenario ready: plans it, signs its events on `threads` threads, draws its filters.
/// `base_time` is the `created_at` of the newest event, in unix seconds.
pub fn compile(
    scenario: &Scenario,
    sizing: Sizing,
    seed: u64,
    base_time: u32,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Compiled {
    let connections = sizing.count(scenario.connections, 8);
    let preload =
        if scenario.corpus.preload == 0 { 0 } else { sizing.count(scenario.corpus.preload, 2_000) };
    let (mut streams, rate) = publish_streams(scenario, sizing, seed, connections, preload);
    let planned: u64 = streams.iter().map(|stream| stream.rate.count()).sum();
    let count = u64::from(preload) + planned;
    let prepared = sign(scenario, seed, base_time, count, threads, progress);
    let sample = sample(&prepared, if preload > 0 { preload } else { count as u32 });
    let mut requests = Requests::new();
    if let Some(stream) = query_stream(scenario, sizing, seed, rate, &sample, &mut requests) {
        streams.push(Stream { connections: asking(scenario, connections), ..stream });
    }
    let subscriptions = subscriptions(scenario, seed, connections, &sample, &mut requests);
    if let Some(churn) = scenario.churn {
        let per_s = churn.per_s * sizing.load;
        let publishers = publishers(scenario, connections);
        streams.push(Stream {
            seed: seed ^ 4,
            start_ns: 0,
            rate: Rate { per_s, ..rate },
            connections: publishers.min(connections - 1)..connections,
            what: What::Reconnect,
        });
    }
    let slow = scenario.slow.map(|slow| {
        let count = (f64::from(connections) * slow.share).ceil() as u32;
        (connections - count.min(connections)..connections, slow.bytes_per_s)
    });
    let spike = streams.iter().find(|stream| stream.start_ns > 0);
    let burst_ns = spike.map(|one| (one.start_ns, one.start_ns + one.rate.duration_ns()));
    let refusals = refusals(&prepared, preload);
    Compiled {
        scenario: scenario.clone(),
        sizing,
        connections,
        connects_per_s: scenario.connects_per_s,
        slow,
        prepared,
        preload,
        has_live: !subscriptions.is_empty(),
        requests,
        subscriptions,
        plan: Arc::new(move || -> Actions {
            Box::new(Merged::new(streams.iter().cloned().map(Stream::actions).collect()))
        }),
        duration_ns: rate.duration_ns(),
        window_ns: (rate.ramp_ns, rate.ramp_ns + rate.steady_ns),
        refusals,
        burst_ns,
    }
}

fn publishers(scenario: &Scenario, connections: u32) -> u32 {
    let share = scenario.publish.as_ref().map_or(0.0, |publish| publish.connections_share);
    ((f64::from(connections) * share).ceil() as u32).clamp(1, connections)
}

/// Connections that ask: all but the slow ones, and but those that come and go.
fn asking(scenario: &Scenario, connections: u32) -> Range<u32> {
    let slow = scenario.slow.map_or(0.0, |slow| slow.share);
    let end = (f64::from(connections) * (1.0 - slow)).floor() as u32;
    let end = if scenario.churn.is_some() { publishers(scenario, connections) } else { end };
    0..end.max(1)
}

fn publish_streams(
    scenario: &Scenario,
    sizing: Sizing,
    seed: u64,
    connections: u32,
    preload: u32,
) -> (Vec<Stream>, Rate) {
    let phases = sizing.phases(scenario.phases);
    let ns = |seconds: f64| (seconds * SECOND_NS as f64) as u64;
    let shape = Rate {
        per_s: 0.0,
        ramp_ns: ns(phases.ramp_s),
        steady_ns: ns(phases.steady_s),
        drop_ns: ns(phases.drop_s),
    };
    let Some(publish) = &scenario.publish else { return (Vec::new(), shape) };
    let publishers = 0..publishers(scenario, connections);
    let rate = Rate { per_s: (publish.per_s * sizing.load).max(1.0), ..shape };
    let mut streams = vec![Stream {
        seed: seed ^ 1,
        start_ns: 0,
        rate,
        connections: publishers.clone(),
        what: What::Publish(preload),
    }];
    if let Some(burst) = publish.burst {
        // Where it begins and how long it lasts shrink with the level they are part of.
        let shrunk = phases.steady_s / scenario.phases.steady_s;
        let at_s = phases.ramp_s + (burst.at_s - scenario.phases.ramp_s).max(0.0) * shrunk;
        let burst_rate = Rate::level(burst.per_s * sizing.load, ns(burst.for_s * shrunk));
        streams.push(Stream {
            seed: seed ^ 2,
            start_ns: ns(at_s),
            rate: burst_rate,
            connections: publishers,
            what: What::Publish(preload + rate.count() as u32),
        });
    }
    (streams, shape)
}

fn query_stream(
    scenario: &Scenario,
    sizing: Sizing,
    seed: u64,
    shape: Rate,
    sample: &[Event],
    requests: &mut Requests,
) -> Option<Stream> {
    let query = scenario.query.as_ref()?;
    let rate = Rate { per_s: (query.per_s * sizing.load).max(1.0), ..shape };
    let arrivals = rate.count().max(1);
    let per_arrival = match query.mix {
        QueryMix::Client => {
            let count = arrivals.min(u64::from(QUERIES_MAX)) as u32;
            *requests = client_requests(seed ^ 3, sample, count);
            1
        }
        QueryMix::Boot => {
            let count = arrivals.min(u64::from(BOOTS_MAX)) as u32;
            *requests = boot_requests(seed ^ 3, sample, count, query.follows);
            REQUESTS_PER_BOOT
        }
    };
    let count = requests.len() as u32;
    Some(Stream {
        seed: seed ^ 3,
        start_ns: 0,
        rate,
        connections: 0..1,
        what: What::Query { count, per_arrival },
    })
}

fn subscriptions(
    scenario: &Scenario,
    seed: u64,
    connections: u32,
    sample: &[Event],
    requests: &mut Requests,
) -> Vec<(u32, u32)> {
    let Some(part) = &scenario.subscriptions else { return Vec::new() };
    let mut authors: Vec<PublicKey> = sample.iter().map(|event| event.view().pubkey()).collect();
    authors.sort_unstable();
    authors.dedup();
    let from = (f64::from(connections) * part.from_share).ceil() as u32;
    let count = connections.saturating_sub(from) * part.per_connection;
    let first = requests.len() as u32;
    let mut rng = Rng::new(seed ^ 5);
    requests.extend(live_requests(&mut rng, &authors, part.authors, count));
    let different = requests.len() as u32 - first;
    (0..count)
        .map(|index| (from + index / part.per_connection, first + index % different))
        .collect()
}

fn sign(
    scenario: &Scenario,
    seed: u64,
    base_time: u32,
    count: u64,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Prepared {
    let part = &scenario.corpus;
    let shape = match part.shape {
        ShapeName::Public => Shape::Public,
        ShapeName::Uniform => Shape::Uniform { event_bytes: part.event_bytes },
        ShapeName::Articles => Shape::Articles { event_bytes: part.event_bytes },
    };
    let options = CorpusOptions {
        base_time: base_time.saturating_sub(SPAN_S),
        span_s: SPAN_S,
        duplicate_per_mille: part.duplicate_per_mille,
        bad_signature_per_mille: part.bad_signature_per_mille,
        authors: part.authors,
        // They are signed before the run, and relays rightly refuse ephemeral events of a minute ago.
        has_ephemeral: false,
        ..CorpusOptions::default()
    };
    let corpus = Corpus::new(shape, seed, count, options);
    Prepared::sign(corpus, seed, &scenario.name, threads, &mut |signed| progress(signed, count))
}

/// Events that filters are drawn from: some of the first `among`, evenly spread.
fn sample(prepared: &Prepared, among: u32) -> Vec<Event> {
    let among = among.min(prepared.frames.len());
    let step = (among / SAMPLE_EVENTS).max(1);
    let limits = proto::Limits::default();
    (0..among)
        .step_by(step as usize)
        .filter(|index| prepared.roles[*index as usize] == Role::Fresh)
        .filter_map(|index| proto::parse::parse_event(prepared.frames.json(index), &limits).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::digest;
    use crate::scenario::{load, names};

    const SMALL: Sizing = Sizing { load: 0.004, time: 0.01 };

    fn made(name: &str, seed: u64, threads: usize) -> Compiled {
        compile(&load(name).unwrap(), SMALL, seed, 1_760_000_000, threads, &mut |_, _| {})
    }

    #[test]
    fn a_seed_makes_the_same_frames_requests_and_plan() {
        for name in names() {
            let (one, two) = (made(name, 7, 1), made(name, 7, 3));
            assert_eq!(digest((one.plan)()), digest((two.plan)()), "{name}");
            assert_eq!(one.requests, two.requests, "{name}");
            assert_eq!(one.subscriptions, two.subscriptions, "{name}");
            let mut files = [Vec::new(), Vec::new()];
            one.prepared.write(&mut files[0]).unwrap();
            two.prepared.write(&mut files[1]).unwrap();
            assert_eq!(files[0], files[1], "{name}");
            let other = made(name, 8, 1);
            assert!(
                digest((other.plan)()) != digest((one.plan)()) || (one.plan)().next().is_none(),
                "{name}"
            );
        }
    }

    #[test]
    fn plans_stay_within_what_was_made_for_them() {
        for name in names() {
            let made = made(name, 3, 2);
            let mut last_ns = 0;
            for action in (made.plan)() {
                assert!(action.at_ns >= last_ns && action.at_ns <= made.duration_ns, "{name}");
                last_ns = action.at_ns;
                assert!(action.connection < made.connections, "{name}");
                match action.op {
                    Op::Publish(event) => {
                        assert!(
                            (made.preload..made.prepared.frames.len()).contains(&event),
                            "{name}"
                        );
                    }
                    Op::Query(request) => {
                        assert!((request as usize) < made.requests.len(), "{name}")
                    }
                    Op::Reconnect => assert!(made.scenario.churn.is_some()),
                    _ => panic!("{name}: {action:?}"),
                }
            }
            for (connection, request) in &made.subscriptions {
                assert!(
                    *connection < made.connections && (*request as usize) < made.requests.len()
                );
            }
        }
    }

    #[test]
    fn every_frame_is_published_once() {
        let made = made("burst", 3, 2);
        let mut events: Vec<u32> = (made.plan)()
            .filter_map(|action| match action.op {
                Op::Publish(event) => Some(event),
                _ => None,
            })
            .collect();
        events.sort_unstable();
        let expected: Vec<u32> = (made.preload..made.prepared.frames.len()).collect();
        assert_eq!(events, expected);
    }
}
