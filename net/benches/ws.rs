//! Frame in and frame out. Measured before with a prototype: 47 ns in, 11 ns out.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use net::Pushed;
use net::outbox::{Class, Outbox, OutboxBudget, OutboxLimits};
use net::ws::{Decoder, DecoderLimits, Form, Incoming, InputBudget, Workspace};
use std::hint::black_box;

const MESSAGE_BYTES: usize = 500;

fn masked_text() -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend_from_slice(&(MESSAGE_BYTES as u16).to_be_bytes());
    frame.extend_from_slice(&mask);
    let text = (0..MESSAGE_BYTES).map(|at| b' ' + (at % 90) as u8);
    frame.extend(text.enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

fn frame_in(criterion: &mut Criterion) {
    let frame = masked_text();
    let limits = DecoderLimits { message_bytes_max: 512 * 1024, fragments_max: 64 };
    let mut decoder = Decoder::default();
    let mut budget = InputBudget::new(1 << 20);
    let mut scratch = Vec::new();
    let mut group = criterion.benchmark_group("frame_in");
    group.throughput(Throughput::Bytes(MESSAGE_BYTES as u64));
    group.bench_function("whole_500_bytes", |bencher| {
        bencher.iter(|| {
            let mut data = black_box(frame.as_slice());
            let mut work = Workspace { scratch: &mut scratch, budget: &mut budget, inflater: None };
            let incoming = decoder.next(0, &mut data, &limits, &mut work);
            assert_eq!(incoming, Ok(Some(Incoming::Text)));
        });
    });
    group.bench_function("cut_in_two_500_bytes", |bencher| {
        bencher.iter(|| {
            let (mut head, mut tail) = black_box(frame.as_slice()).split_at(200);
            let mut work = Workspace { scratch: &mut scratch, budget: &mut budget, inflater: None };
            let incoming = decoder.next(0, &mut head, &limits, &mut work);
            assert_eq!(incoming, Ok(None));
            let incoming = decoder.next(0, &mut tail, &limits, &mut work);
            assert_eq!(incoming, Ok(Some(Incoming::Text)));
        });
    });
    group.finish();
}

fn frame_out(criterion: &mut Criterion) {
    let body = vec![b'x'; MESSAGE_BYTES];
    let limits = OutboxLimits::default();
    let mut budget = OutboxBudget::new(1 << 20);
    let mut outbox = Outbox::default();
    let mut group = criterion.benchmark_group("frame_out");
    group.throughput(Throughput::Bytes(MESSAGE_BYTES as u64));
    // Thirty-two frames fill a chunk, which then goes out and comes back, as in the engine.
    group.bench_function("event_500_bytes", |bencher| {
        bencher.iter(|| {
            let parts: [&[u8]; 3] = [b"[\"EVENT\",\"sub\",", black_box(&body), b"]"];
            let class = Class::Live;
            let pushed = outbox.push_text_frame(Form::Plain, &parts, class, &limits, &mut budget);
            assert_eq!(pushed, Pushed::Ok);
            if outbox.pending_bytes() > 15 * 1024 {
                while let Some(chunk) = outbox.take() {
                    outbox.sent(chunk, &mut budget);
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, frame_in, frame_out);
criterion_main!(benches);
