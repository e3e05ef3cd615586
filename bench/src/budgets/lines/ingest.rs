//! What an event costs that comes in over WebSocket: a new one, one that is known, one that is forged.

use super::super::store::{self, Prepared};
use super::super::table::{Bound, Row};
use super::super::{Session, cpu};
use crate::measure::client::Outcomes;
use crate::measure::cpu::Spent;
use crate::measure::events::{Maker, Spec};
use crate::measure::publish::{CONNECTIONS, Frames, Publishers};
use crate::measure::relay::Relay;
use crate::measure::units::Cost;
use crate::{Corpus, CorpusOptions};
use anyhow::ensure;

pub const KEYS: &[&str] = &["ingest", "shard-core", "ingest-one-shot", "ingest-public"];
pub const REFUSAL_KEYS: &[&str] = &["duplicate", "bad-signature"];

/// Events of the main measurement: each of two shards brings its index up to date four times.
const FRESH_EVENTS: u64 = 8 * 65_536;
/// First index of forged events: none of them is ever published validly, and their time is still
/// within what a relay takes.
const FORGED_FIRST: u64 = 40_000_000;
/// Events of the corpora beside it.
const BESIDE_EVENTS: u64 = 2 * 65_536;

/// The directory that ingest and disk lines are measured on.
pub(super) fn main_store(session: &Session) -> anyhow::Result<Prepared> {
    let shards = cpu::cores() as u16;
    let events = session.options.events_per_shard * u64::from(shards);
    store::prepare(session, "main", Spec::uniform(session.options.seed), events, shards)
}

/// What publishing cost.
pub(super) struct Published {
    pub outcomes: Outcomes,
    pub spent: Spent,
    pub v: Cost,
    pub wall_ns: u64,
}

impl Published {
    pub fn each_ns(&self) -> f64 {
        self.spent.total_ns() as f64 / self.outcomes.sum().max(1) as f64
    }

    pub fn in_v(&self, ns: f64) -> f64 {
        ns / self.v.each_ns()
    }

    /// What a row is made of.
    pub fn detail(&self) -> String {
        let events = self.outcomes.sum();
        format!(
            "{:.2} us of CPU per event over {events} events, V {:.2} us, {:.0} events/s; us by thread: {}",
            self.each_ns() / 1_000.0,
            self.v.each_ns() / 1_000.0,
            events as f64 * 1e9 / self.wall_ns.max(1) as f64,
            self.spent.per_operation(events),
        )
    }
}

/// Publishes all of `frames`, in slices of a second with V between. What the relay does between the
/// slices (its index) counts, too.
pub(super) fn publish_all(
    session: &mut Session,
    key: &str,
    relay: &Relay,
    frames: &Frames,
) -> anyhow::Result<Published> {
    let _profile = session.profile(key, relay)?;
    let mut publishers = Publishers::connect(relay.address, CONNECTIONS)?;
    let (mut v, mut outcomes, mut wall_ns) = (Cost::default(), Outcomes::default(), 0);
    session.bar.set_length(frames.len() as u64);
    let before = relay.threads()?;
    while publishers.remaining(frames) > 0 {
        session.v_slice(&mut v)?;
        let began_ns = cpu::monotonic_ns();
        outcomes.add(publishers.slice(frames, session.ms(1_000).max(300))?);
        wall_ns += cpu::monotonic_ns() - began_ns;
        session.bar.set_position(outcomes.sum());
    }
    session.v_slice(&mut v)?;
    let spent = relay.threads()?.since(&before);
    session.bar.set_length(0);
    Ok(Published { outcomes, spent, v, wall_ns })
}

/// The corpora: a thousand authors, authors of one event, public traffic.
pub fn measure(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let mut main = main_store(session)?;
    let mut rows = Vec::new();
    if session.wants(&["ingest", "shard-core"]) {
        session.say("signing events to publish");
        let fresh = main.take(session.count(FRESH_EVENTS))?;
        let frames = Frames::of(&main.maker, fresh, |event| event);
        let relay = session.launch(0).start(&main.directory)?;
        session.say("publishing new events");
        let published = publish_all(session, "ingest", &relay, &frames)?;
        ensure_all_accepted(&published.outcomes)?;
        relay.end()?;
        let whole = published.in_v(published.each_ns());
        let core_ns = published.spent.named_ns("core-") as f64 / published.outcomes.sum() as f64;
        rows.push(
            Row::held("ingest", "accepted event, all threads", whole, "V", Bound::AtMost(1.35))
                .made_of(published.detail()),
        );
        let core = published.in_v(core_ns);
        rows.push(
            Row::held("shard-core", "the shard cores' part of it", core, "V", Bound::AtMost(1.15))
                .made_of(format!("{:.2} us of CPU per event", core_ns / 1_000.0)),
        );
    }
    if session.wants(&["ingest-one-shot"]) {
        let seed = session.options.seed ^ main.take(1)?.start;
        let maker = Maker::new(Spec { authors: 0, ..Spec::uniform(seed) });
        let frames = Frames::of(&maker, 0..session.count(BESIDE_EVENTS), |event| event);
        let published = beside(session, "ingest-one-shot", &main, &frames)?;
        ensure_all_accepted(&published.outcomes)?;
        let value = published.in_v(published.each_ns());
        rows.push(
            Row::reported("ingest-one-shot", "  the same, every author once", value, "V")
                .made_of(published.detail()),
        );
    }
    if session.wants(&["ingest-public"]) {
        let seed = session.options.seed ^ main.take(1)?.start;
        let frames = public_frames(seed, session.count(BESIDE_EVENTS));
        let published = beside(session, "ingest-public", &main, &frames)?;
        let value = published.in_v(published.each_ns());
        let outcomes = &published.outcomes;
        let more = format!("; {} of them refused: {}", outcomes.refused, outcomes.reason);
        rows.push(
            Row::reported("ingest-public", "  the same, public corpus", value, "V")
                .made_of(published.detail() + if outcomes.refused > 0 { &more } else { "" }),
        );
    }
    Ok(rows)
}

fn beside(
    session: &mut Session,
    key: &str,
    main: &Prepared,
    frames: &Frames,
) -> anyhow::Result<Published> {
    let relay = session.launch(0).start(&main.directory)?;
    let published = publish_all(session, key, &relay, frames)?;
    relay.end()?;
    Ok(published)
}

/// Public traffic; what names an earlier event that it cannot find is part of it.
fn public_frames(seed: u64, count: u64) -> Frames {
    let corpus = Corpus::public(seed, count, CorpusOptions::default());
    let unsigned: Vec<_> = corpus.unsigned().collect();
    let share = unsigned.len().div_ceil(cpu::cores()).max(1);
    let frames: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let sign = |part: &[crate::corpus::Unsigned]| {
            let frame = |unsigned: &crate::corpus::Unsigned| {
                crate::measure::client::event_frame(&unsigned.sign().event)
            };
            part.iter().map(frame).collect::<Vec<_>>()
        };
        let parts: Vec<_> =
            unsigned.chunks(share).map(|part| scope.spawn(move || sign(part))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("signing does not panic")).collect()
    });
    Frames::joined(frames.iter().map(Vec::as_slice))
}

fn ensure_all_accepted(outcomes: &Outcomes) -> anyhow::Result<()> {
    ensure!(
        outcomes.accepted == outcomes.sum(),
        "of {} new events {} were duplicates and {} were refused ({}); --refill makes the directories anew",
        outcomes.sum(),
        outcomes.duplicate,
        outcomes.refused,
        outcomes.reason
    );
    Ok(())
}

/// What is refused or known.
pub fn measure_refusals(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let main = main_store(session)?;
    let mut rows = Vec::new();
    let count = session.count(BESIDE_EVENTS).min(main.events);
    let relay = session.launch(0).start(&main.directory)?;
    if session.wants(&["duplicate"]) {
        session.say("signing stored events again");
        // From all ages of the store, not from what the relay has just seen.
        let step = (main.events / count).max(1);
        let frames = main.maker.in_parallel(0..count, |maker, index| {
            crate::measure::client::event_frame(&maker.event(index * step))
        });
        let frames = Frames::joined(frames.iter().map(Vec::as_slice));
        session.say("publishing duplicates");
        let published = publish_all(session, "duplicate", &relay, &frames)?;
        let outcomes = &published.outcomes;
        ensure!(outcomes.duplicate == outcomes.sum(), "not all were duplicates: {outcomes:?}");
        let value = published.in_v(published.each_ns());
        rows.push(
            Row::held("duplicate", "duplicate of a stored event", value, "V", Bound::AtMost(0.10))
                .made_of(published.detail()),
        );
    }
    if session.wants(&["bad-signature"]) {
        session.say("forging events");
        let maker = Maker::new(main.maker.spec().clone());
        // New ids, so that nothing but the signature tells them from good ones.
        let first = FORGED_FIRST;
        let frames = Frames::of(&maker, first..first + count, |event| {
            let mut parts = event.view().parts();
            parts.sig.0[63] ^= 1;
            parts.pack()
        });
        session.say("publishing forged events");
        let published = publish_all(session, "bad-signature", &relay, &frames)?;
        let outcomes = &published.outcomes;
        ensure!(
            outcomes.refused == outcomes.sum() && outcomes.reason.contains("signature"),
            "not all were refused for their signature: {outcomes:?}"
        );
        let value = published.in_v(published.each_ns());
        let path = "event with a bad signature";
        rows.push(
            Row::held("bad-signature", path, value, "V", Bound::AtMost(1.10))
                .made_of(published.detail()),
        );
    }
    relay.end()?;
    Ok(rows)
}
