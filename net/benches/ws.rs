//! Frame in and frame out. Measured before with a prototype: 47 ns in, 11 ns out.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use net::Pushed;
use net::outbox::{Class, Outbox, OutboxBudget, OutboxLimits};
use net::ws::{
    Decoder, DecoderLimits, Deflater, Form, Incoming, Inflater, InputBudget, WindowBits, Workspace,
};
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

/// An event as JSON: half of it is hex that looks random, the rest reads like notes do.
fn note() -> Vec<u8> {
    let mut state = 1u64;
    let mut hex = |digits: usize| -> String {
        let digit = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b"0123456789abcdef"[(state >> 60) as usize])
        };
        (0..digits).map(digit).collect()
    };
    let (id, pubkey, sig, parent, author) = (hex(64), hex(64), hex(128), hex(64), hex(64));
    let content = "the relay that I use for this has been up for a year now, and it was not \
        expensive at all; https://image.example/nostr/relay.webp what do you all think?";
    format!(
        "{{\"id\":\"{id}\",\"pubkey\":\"{pubkey}\",\"created_at\":1700000000,\"kind\":1,\
         \"tags\":[[\"e\",\"{parent}\",\"wss://relay.example\",\"reply\"],[\"p\",\"{author}\"]],\
         \"content\":\"{content}\",\"sig\":\"{sig}\"}}"
    )
    .into_bytes()
}

/// What compression costs: once for each event and core, then for each subscriber, and for each
/// message that comes in compressed.
fn deflate(criterion: &mut Criterion) {
    let note = note();
    let mut group = criterion.benchmark_group("deflate");
    group.throughput(Throughput::Bytes(note.len() as u64));
    for level in [1, 3, 6, 9] {
        let mut deflater = Deflater::new(level);
        let bytes = deflater.message(&[&note], WindowBits::MAX).map_or(note.len(), <[u8]>::len);
        let name = format!("note_{}_to_{bytes}_bytes_level_{level}", note.len());
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| deflater.message(&[black_box(&note)], WindowBits::MAX).map(<[u8]>::len));
        });
    }
    let mut deflater = Deflater::new(3);
    group.bench_function("shared_note_per_subscriber", |bencher| {
        bencher.iter(|| {
            let prefix = black_box(b"[\"EVENT\",\"sub\",");
            let mut header = [0; 5];
            let parts = deflater.event(prefix, &note, WindowBits::MAX, &mut header);
            parts.is_some()
        });
    });
    let compressed = deflater.message(&[&note], WindowBits::MAX).unwrap().to_vec();
    let mut inflater = Inflater::default();
    let mut budget = InputBudget::new(1 << 20);
    let mut message = Vec::new();
    group.bench_function("inflate_note", |bencher| {
        bencher.iter(|| {
            message.clear();
            message.extend_from_slice(black_box(&compressed));
            inflater.inflate(&mut message, 1 << 20, &mut budget).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, frame_in, frame_out, deflate);
criterion_main!(benches);
