//! The floors in one table: the skeleton at light load and saturated, the raw send loop, and V, each
//! in slices between the others.

use super::{Floor, saturated, skeleton_at_rate};
use crate::budgets::table::percentile;
use crate::measure::cpu::{cores, model};
use crate::measure::events::{Maker, Spec};
use crate::measure::units::{Cost, SendLoop, Verification};
use serde::Serialize;
use std::path::Path;

/// Messages a second at light load.
const PER_SECOND: u64 = 200;
/// Connections and messages in flight of each when saturated.
const CONNECTIONS: usize = 16;
const WINDOW: usize = 32;
/// Sockets of the raw loop.
const SOCKETS: usize = 1_000;
/// Frames of its coalesced variant.
const COALESCED: u64 = 8;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What the processor calls itself.
    pub cpu: String,
    /// CPU of one verification with a parsed key, in microseconds.
    pub v_us: f64,
    /// CPU per send of a frame of 520 bytes to one of many sockets, in microseconds.
    pub s_us: f64,
    /// The same per frame when eight are written at once.
    pub s_coalesced_us: f64,
    /// The skeleton at light load: median and 99th percentile of the round trip, in microseconds.
    pub light_p50_us: f64,
    /// See `light_p50_us`.
    pub light_p99_us: f64,
    /// CPU of the home and of the owner thread per message at light load, in microseconds.
    pub light_cpu_us: (f64, f64),
    /// The same when saturated.
    pub saturated_cpu_us: (f64, f64),
    /// Messages a second when saturated (wall time).
    pub saturated_per_s: f64,
}

/// Measures for `rounds` rounds of about five seconds.
///
/// # Errors
/// When the system refuses sockets, threads or the file in `directory`.
pub fn measure(
    directory: &Path,
    rounds: u64,
    slice_ms: u64,
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<Report> {
    let maker = Maker::new(Spec::uniform(0xf1));
    let events = maker.in_parallel(0..1_000, Maker::event);
    let verification = Verification::new(&events)?;
    let mut frame = vec![0x81, 126];
    let mut payload = Vec::new();
    proto::message::write_event("s", &events[0].view(), &mut payload);
    frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&payload);
    let eight = frame.repeat(COALESCED as usize);
    let mut raw = SendLoop::new(SOCKETS)?;
    let floor = Floor::start(directory)?;
    let stream = floor.connect()?;
    let (mut v, mut s, mut s8) = (Cost::default(), Cost::default(), Cost::default());
    let (mut light, mut full) = (Threads::default(), Threads::default());
    let (mut latencies, mut wall_s) = (Vec::new(), 0.0);
    let light_count = (PER_SECOND * slice_ms / 1_000).max(10);
    for round in 0..rounds {
        let mut step = |what: &str| say(&format!("round {} of {rounds}: {what}", round + 1));
        step("V");
        v.add(verification.slice(slice_ms)?);
        step("S");
        s.add(raw.slice(&frame, 1, slice_ms)?);
        s8.add(raw.slice(&eight, COALESCED, slice_ms)?);
        step("skeleton at 200 messages a second");
        let before = floor.cpu_ns();
        latencies.extend(skeleton_at_rate(&stream, PER_SECOND, light_count)?);
        light.add(before, floor.cpu_ns(), light_count);
        step("skeleton, saturated");
        let before = floor.cpu_ns();
        let (per_s, messages) = saturated(&floor, CONNECTIONS, WINDOW, slice_ms)?;
        full.add(before, floor.cpu_ns(), messages);
        wall_s += messages as f64 / per_s;
    }
    Ok(Report {
        cpu: format!("{} x {}", cores(), model()),
        v_us: v.each_ns() / 1_000.0,
        s_us: s.each_ns() / 1_000.0,
        s_coalesced_us: s8.each_ns() / COALESCED as f64 / 1_000.0,
        light_p50_us: percentile(&mut latencies, 50.0) / 1_000.0,
        light_p99_us: percentile(&mut latencies, 99.0) / 1_000.0,
        light_cpu_us: light.each_us(),
        saturated_cpu_us: full.each_us(),
        saturated_per_s: full.messages as f64 / wall_s,
    })
}

/// CPU of the two threads over some messages.
#[derive(Default)]
struct Threads {
    home_ns: u64,
    owner_ns: u64,
    messages: u64,
}

impl Threads {
    fn add(&mut self, before: (u64, u64), after: (u64, u64), messages: u64) {
        self.home_ns += after.0 - before.0;
        self.owner_ns += after.1 - before.1;
        self.messages += messages;
    }

    fn each_us(&self) -> (f64, f64) {
        let each = |ns| ns as f64 / self.messages.max(1) as f64 / 1_000.0;
        (each(self.home_ns), each(self.owner_ns))
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "machine  {}\n\n\
             V, one verification with a parsed key            {:8.2} us of CPU\n\
             S, one frame to one of {SOCKETS} sockets              {:8.3} us of CPU\n\
             S with {COALESCED} frames a send, per frame               {:8.3} us of CPU = {:.2} S\n\
             floor at {PER_SECOND} messages/s, p50                     {:8.0} us   (p99 {:.0} us)\n\
             floor at {PER_SECOND} messages/s, home + owner            {:8.2} + {:.2} us of CPU\n\
             floor saturated, home + owner                    {:8.2} + {:.2} us of CPU per message\n\
             floor saturated, messages per second             {:8.0}   (wall time)\n",
            self.cpu,
            self.v_us,
            self.s_us,
            self.s_coalesced_us,
            self.s_coalesced_us / self.s_us,
            self.light_p50_us,
            self.light_p99_us,
            self.light_cpu_us.0,
            self.light_cpu_us.1,
            self.saturated_cpu_us.0,
            self.saturated_cpu_us.1,
            self.saturated_per_s,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_of_threads_is_spread_over_the_messages() {
        let mut threads = Threads::default();
        threads.add((100, 50), (10_100, 4_050), 4);
        threads.add((10_100, 4_050), (20_100, 8_050), 4);
        assert_eq!(threads.each_us(), (2.5, 1.0));
    }
}
