//! What a live event costs that a thousand subscribers get, and how long the last of them waits.

use super::super::table::{Bound, Row, median};
use super::super::{Session, cpu, store};
use crate::measure::client::{Client, event_frame, req_frame};
use crate::measure::cpu::{Spent, monotonic_ns};
use crate::measure::events::{Maker, Spec};
use crate::measure::relay::Relay;
use crate::measure::swarm::Swarm;
use crate::measure::units::{Cost, SendLoop};
use anyhow::ensure;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub const KEYS: &[&str] = &["fan-out", "fan-out-coalesced", "send-coalesced", "delivery"];

/// Subscribers.
const SUBSCRIBERS: usize = 1_000;
/// The kind that they subscribe to, and that nothing else here has.
const KIND: u16 = 7_777;
/// Events sent at once in the coalesced case.
const BURST_EVENTS: u64 = 64;
/// Frames of the coalesced raw loop.
const COALESCED_FRAMES: usize = 8;
/// Seconds in which neither events nor sends are coalesced.
const SINGLE_SLICES: u64 = 6;
const BURST_SLICES: u64 = 4;
/// Events whose last delivery is timed.
const TIMED_EVENTS: u64 = 200;
const SUBSCRIPTION: &str = "s";

/// Subscribers whose messages one thread counts.
struct Audience {
    received: AtomicU64,
    stop: AtomicBool,
}

impl Audience {
    fn read(&self, swarm: &mut Swarm) -> anyhow::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.received.fetch_add(swarm.drain(50)?, Ordering::Relaxed);
        }
        Ok(())
    }

    fn wait_for(&self, count: u64) -> anyhow::Result<()> {
        let give_up_ns = monotonic_ns() + 30_000_000_000;
        while self.received.load(Ordering::Relaxed) < count {
            ensure!(
                monotonic_ns() < give_up_ns,
                "of {count} deliveries only {} came",
                self.received.load(Ordering::Relaxed)
            );
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        Ok(())
    }
}

/// Work of the relay and what it cost.
#[derive(Default)]
struct Work {
    deliveries: u64,
    events: u64,
    spent: Spent,
}

impl Work {
    fn each_ns(&self) -> f64 {
        self.spent.total_ns() as f64 / self.deliveries.max(1) as f64
    }
}

pub fn measure(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let directory = store::empty(session, "fanout")?;
    let maker = Maker::new(Spec { kind: KIND, ..Spec::uniform(session.options.seed ^ 0xfa) });
    let relay = session.launch(cpu::cores() as u16).start(&directory)?;
    session.say("subscribing");
    let filter = format!("{{\"kinds\":[{KIND}]}}");
    let greeting = req_frame(SUBSCRIPTION, &filter);
    let mut swarm = Swarm::connect(relay.address, SUBSCRIBERS, &greeting)?;
    settle(&mut swarm)?;
    let raw = SendLoop::new(SUBSCRIBERS)?;
    let rows = measure_with(session, &relay, &maker, &mut swarm, raw)?;
    relay.end()?;
    store::remove(&directory)?;
    Ok(rows)
}

/// Reads what comes before the first event: EOSE, and whatever the relay greets with.
fn settle(swarm: &mut Swarm) -> anyhow::Result<()> {
    let mut greeted = 0;
    loop {
        let frames = swarm.drain(500)?;
        greeted += frames;
        if frames == 0 {
            ensure!(greeted >= SUBSCRIBERS as u64, "only {greeted} subscribers were answered");
            return Ok(());
        }
    }
}

fn measure_with(
    session: &mut Session,
    relay: &Relay,
    maker: &Maker,
    swarm: &mut Swarm,
    mut raw: SendLoop,
) -> anyhow::Result<Vec<Row>> {
    let audience = Audience { received: AtomicU64::new(0), stop: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| audience.read(swarm));
        let mut fanout = Fanout {
            publisher: Client::connect(relay.address)?,
            frame: sent_frame(maker),
            relay,
            maker,
            audience: &audience,
            next: 0,
        };
        let rows = fanout.rows(session, &mut raw);
        audience.stop.store(true, Ordering::Relaxed);
        reader.join().expect("reading does not panic")?;
        rows
    })
}

/// What the relay writes to each subscriber for an event.
fn sent_frame(maker: &Maker) -> Vec<u8> {
    let mut payload = Vec::new();
    proto::message::write_event(SUBSCRIPTION, &maker.event(0).view(), &mut payload);
    let mut frame = vec![0x81, 126];
    frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&payload);
    frame
}

struct Fanout<'a> {
    publisher: Client,
    frame: Vec<u8>,
    relay: &'a Relay,
    maker: &'a Maker,
    audience: &'a Audience,
    next: u64,
}

impl Fanout<'_> {
    fn rows(&mut self, session: &mut Session, raw: &mut SendLoop) -> anyhow::Result<Vec<Row>> {
        let (mut s, mut s8) = (Cost::default(), Cost::default());
        let (mut single, mut burst) = (Work::default(), Work::default());
        let eight = self.frame.repeat(COALESCED_FRAMES);
        session.say("one event to a thousand subscribers");
        let profile = session.profile("fan-out", self.relay)?;
        for _ in 0..session.count(SINGLE_SLICES) {
            s.add(raw.slice(&self.frame, 1, session.ms(1_000))?);
            self.slice(1, session.ms(1_000), &mut single)?;
        }
        drop(profile);
        session.say("bursts to a thousand subscribers");
        let profile = session.profile("fan-out-coalesced", self.relay)?;
        for _ in 0..session.count(BURST_SLICES) {
            s.add(raw.slice(&self.frame, 1, session.ms(600))?);
            s8.add(raw.slice(&eight, COALESCED_FRAMES as u64, session.ms(400))?);
            self.slice(BURST_EVENTS, session.ms(1_000), &mut burst)?;
        }
        drop(profile);
        session.say("time to the last of a thousand subscribers");
        let timed = self.timed(session.count(TIMED_EVENTS))?;
        let s_ns = s.each_ns();
        let detail = |work: &Work| {
            format!(
                "{:.3} us of CPU per delivery over {} events, S {:.3} us; us by thread: {}",
                work.each_ns() / 1_000.0,
                work.events,
                s_ns / 1_000.0,
                work.spent.per_operation(work.deliveries)
            )
        };
        let per_frame_ns = s8.each_ns() / COALESCED_FRAMES as f64;
        let bound_us = timed.ok_us + 1.5 * 1_000.0 * s_ns / 1_000.0;
        Ok(vec![
            Row::held(
                "fan-out",
                "live fan-out, per delivery",
                single.each_ns() / s_ns,
                "S",
                Bound::AtMost(1.25),
            )
            .made_of(detail(&single)),
            Row::held(
                "fan-out-coalesced",
                "live fan-out, bursts",
                burst.each_ns() / s_ns,
                "S",
                Bound::AtMost(0.5),
            )
            .made_of(detail(&burst)),
            Row::reported(
                "send-coalesced",
                "  raw loop, 8 frames a send",
                per_frame_ns / s_ns,
                "S",
            )
            .made_of(format!("{:.3} us of CPU per frame", per_frame_ns / 1_000.0)),
            Row::held(
                "delivery",
                "publish to last of 1,000, p50",
                timed.last_us,
                "us",
                Bound::AtMost(bound_us),
            )
            .made_of(format!(
                "publish to OK p50 {:.0} us ({:.0} us when it is delivered to 1,000) + 1.5 x 1,000 S ({:.0} us)",
                timed.ok_us,
                timed.heard_ok_us,
                1.5 * s_ns
            )),
        ])
    }

    /// Publishes `burst` events at once, waits until everybody has them, and again.
    fn slice(&mut self, burst: u64, duration_ms: u64, work: &mut Work) -> anyhow::Result<()> {
        let made = self.maker.in_parallel(self.next..self.next + burst * 200, |maker, index| {
            event_frame(&maker.event(index))
        });
        let mut rounds = made.chunks(burst as usize);
        let end_ns = monotonic_ns() + duration_ms * 1_000_000;
        let before = self.relay.threads()?;
        while monotonic_ns() < end_ns
            && let Some(round) = rounds.next()
        {
            self.next += burst;
            let expected =
                self.audience.received.load(Ordering::Relaxed) + burst * SUBSCRIBERS as u64;
            self.publisher.send(&round.concat())?;
            let outcomes = self.publisher.outcomes(burst)?;
            ensure!(outcomes.accepted == burst, "an event was not taken: {outcomes:?}");
            self.audience.wait_for(expected)?;
            work.events += burst;
            work.deliveries += burst * SUBSCRIBERS as u64;
        }
        work.spent.add(&self.relay.threads()?.since(&before));
        Ok(())
    }

    /// Medians, in microseconds. OK is timed with events that nobody has subscribed to: the deliveries
    /// of its event, if they hold it up, are no excuse for the last of them.
    fn timed(&mut self, count: u64) -> anyhow::Result<Timed> {
        let unheard = Maker::new(Spec { kind: KIND + 1, ..self.maker.spec().clone() });
        let (mut ok_us, mut heard_ok_us, mut last_us) = (Vec::new(), Vec::new(), Vec::new());
        for index in self.next..self.next + count {
            ok_us.push(self.publish(&event_frame(&unheard.event(index)))?.1);
            let frame = event_frame(&self.maker.event(index));
            let expected = self.audience.received.load(Ordering::Relaxed) + SUBSCRIBERS as u64;
            let (began_ns, us) = self.publish(&frame)?;
            heard_ok_us.push(us);
            // Looked at without pause: a sleep here would be in the figure.
            while self.audience.received.load(Ordering::Relaxed) < expected {
                ensure!(monotonic_ns() - began_ns < 30_000_000_000, "deliveries are missing");
                std::thread::yield_now();
            }
            last_us.push((monotonic_ns() - began_ns) as f64 / 1_000.0);
        }
        self.next += count;
        Ok(Timed {
            ok_us: median(&mut ok_us),
            heard_ok_us: median(&mut heard_ok_us),
            last_us: median(&mut last_us),
        })
    }

    /// Publishes after a pause in which everybody falls asleep; when, and how long OK took.
    fn publish(&mut self, frame: &[u8]) -> anyhow::Result<(u64, f64)> {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let began_ns = monotonic_ns();
        self.publisher.send(frame)?;
        self.publisher.outcomes(1)?;
        Ok((began_ns, (monotonic_ns() - began_ns) as f64 / 1_000.0))
    }
}

/// Medians of an event with a thousand subscribers and of one with none.
struct Timed {
    ok_us: f64,
    heard_ok_us: f64,
    last_us: f64,
}
