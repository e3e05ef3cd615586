//! How long a publisher waits at light load, against the skeleton that only writes and syncs.

use super::super::table::{Bound, Row, median, percentile};
use super::super::{Session, cpu, store};
use crate::floor::{self, Floor};
use crate::load::frame;
use crate::measure::client::{event_frame, upgraded};
use crate::measure::events::{Maker, Spec};
use crate::measure::units::Cost;
use anyhow::{bail, ensure};
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
    let mut unread = Vec::new();
    loop {
        // Never more than is missing, so that nothing of the next frame is taken with this one.
        while frame::read(&unread)?.is_none() {
            let filled = unread.len();
            unread.resize(filled + missing_bytes(&unread)?, 0);
            reading.read_exact(&mut unread[filled..])?;
        }
        let payload = frame::read(&unread)?.map_or(&[][..], |frame| frame.payload);
        if payload.starts_with(b"[\"OK\"") {
            let accepted = payload.get(73..77) == Some(&b"true"[..]);
            ensure!(accepted, "an event was refused: {}", String::from_utf8_lossy(payload));
            return Ok(());
        }
        unread.clear();
    }
}

/// Bytes that a frame which begins so still lacks, as far as its header tells.
fn missing_bytes(begun: &[u8]) -> anyhow::Result<usize> {
    let whole = match (begun.get(1).map(|second| second & 0x7f), begun) {
        (None, _) => 2,
        (Some(126), [_, _, high, low, ..]) => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        (Some(126), _) => 4,
        (Some(127), _) => bail!("a message longer than any answer to an event"),
        (Some(length), _) => 2 + usize::from(length),
    };
    Ok(whole - begun.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_one_by_one_and_refusals_are_told() {
        let ok = |accepted: &str| {
            let payload = format!("[\"OK\",\"{}\",{accepted},\"\"]", "0".repeat(64));
            let mut frame = vec![0x81, payload.len() as u8];
            frame.extend_from_slice(payload.as_bytes());
            frame
        };
        let mut notice = vec![0x81, 126, 0, 200];
        notice.extend([b'n'; 200]);
        let stream = [notice, ok("true"), ok("true"), ok("false")].concat();
        let mut reading = stream.as_slice();
        read_ok(&mut reading).unwrap();
        assert_eq!(reading.len(), ok("true").len() + ok("false").len());
        read_ok(&mut reading).unwrap();
        assert!(read_ok(&mut reading).is_err());
    }
}
