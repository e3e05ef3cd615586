//! How long a publisher waits at light load, against the skeleton that only writes and syncs.

use super::super::table::{Bound, Row, median, percentile};
use super::super::{Session, cpu, store};
use crate::floor::{self, Floor};
use crate::measure::client::{event_frame, frame_lengths, upgraded};
use crate::measure::events::{Maker, Spec};
use crate::measure::units::Cost;
use anyhow::ensure;
use std::io::Read;

pub const KEYS: &[&str] = &["ok-latency"];

/// Events a second.
const PER_SECOND: u64 = 200;
/// Seconds of one slice, of the relay and of the skeleton in turn.
const SLICE_EVENTS: u64 = 400;
const SLICES: u64 = 6;

pub fn measure(session: &mut Session) -> anyhow::Result<Vec<Row>> {
    let directory = store::empty(session, "latency")?;
    let maker = Maker::new(Spec::uniform(session.options.seed ^ 0x1a7));
    let relay = session.launch(cpu::cores() as u16).start(&directory)?;
    let skeleton = Floor::start(&session.options.data_dir)?;
    let (stream, bare) = (upgraded(relay.address)?, skeleton.connect()?);
    let count = session.count(SLICE_EVENTS);
    let (mut v, mut ok_ns, mut floor_ns) = (Cost::default(), Vec::new(), Vec::new());
    session.say("publish to OK at 200 events a second");
    for slice in 0..session.count(SLICES).max(2) {
        session.v_slice(&mut v)?;
        floor_ns.extend(floor::skeleton_at_rate(&bare, PER_SECOND, count)?);
        let first = slice * count;
        let frames = maker
            .in_parallel(first..first + count, |maker, index| event_frame(&maker.event(index)));
        let message = |number: u64| frames[number as usize].clone();
        let interval_ns = 1_000_000_000 / PER_SECOND;
        ok_ns.extend(floor::at_rate(&stream, interval_ns, count, message, read_ok)?);
    }
    relay.end()?;
    store::remove(&directory)?;
    let tail = (percentile(&mut ok_ns, 99.0), percentile(&mut floor_ns, 99.0));
    let (ok_us, floor_us) = (median(&mut ok_ns) / 1_000.0, median(&mut floor_ns) / 1_000.0);
    let two_v_us = 2.0 * v.each_ns() / 1_000.0;
    let bound = Bound::AtMost(1.25 * floor_us + two_v_us);
    let path = "publish to OK, p50 at 200 events/s";
    Ok(vec![Row::held("ok-latency", path, ok_us, "us", bound).made_of(format!(
        "floor p50 {floor_us:.0} us, 2 V {two_v_us:.0} us; p99 {:.0} us against {:.0} us; wall time, so \
         mind the load",
        tail.0 / 1_000.0,
        tail.1 / 1_000.0,
    ))])
}

/// Reads one frame of the relay, which has to accept an event.
fn read_ok(reading: &mut dyn Read) -> anyhow::Result<()> {
    loop {
        let mut head = vec![0; 2];
        reading.read_exact(&mut head)?;
        let more = match head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        head.resize(2 + more, 0);
        reading.read_exact(&mut head[2..])?;
        let (_, length) = frame_lengths(&head).unwrap_or_default();
        let mut payload = vec![0; length];
        reading.read_exact(&mut payload)?;
        if payload.starts_with(b"[\"OK\"") {
            let accepted = payload.get(73..77) == Some(&b"true"[..]);
            ensure!(accepted, "an event was refused: {}", String::from_utf8_lossy(&payload));
            return Ok(());
        }
    }
}
