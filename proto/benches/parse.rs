//! Parsing an EVENT message: ours beside serde_json and simd-json, which read the same fields into
//! borrowed structs and decode the hex, but make no canonical form.

mod samples;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::id::read_hex;
use proto::{Limits, parse};
use serde::Deserialize;
use std::borrow::Cow;
use std::hint::black_box;

#[derive(Deserialize)]
struct Borrowed<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    pubkey: Cow<'a, str>,
    created_at: u64,
    kind: u16,
    #[serde(borrow)]
    tags: Vec<Vec<Text<'a>>>,
    #[serde(borrow)]
    content: Text<'a>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

/// `Cow` inside a list borrows only with the attribute, which needs a field of its own.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `["EVENT",event]`.
fn message(event: &proto::Event) -> Vec<u8> {
    let mut message = b"[\"EVENT\",".to_vec();
    event.view().write_json(&mut message);
    message.push(b']');
    message
}

type Read = ([u8; 32], [u8; 32], [u8; 64], usize);

fn fields(event: &Borrowed<'_>) -> Option<Read> {
    let texts = event.tags.iter().flatten().map(|text| text.0.len()).sum::<usize>();
    let size = texts + event.content.0.len() + event.created_at as usize + usize::from(event.kind);
    let id = read_hex(event.id.as_bytes())?;
    Some((id, read_hex(event.pubkey.as_bytes())?, read_hex(event.sig.as_bytes())?, size))
}

fn parsers(criterion: &mut Criterion) {
    let limits = Limits::default();
    for (name, event) in [("note", samples::note()), ("large", samples::large())] {
        let text = message(&event);
        let mut group = criterion.benchmark_group(format!("parse/{name}-{}B", text.len()));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("ours", |bench| {
            bench.iter(|| parse::parse_client_message(black_box(&text), &limits).is_ok());
        });
        group.bench_function("serde_json", |bench| {
            bench.iter(|| {
                let (verb, event): (&str, Borrowed<'_>) =
                    serde_json::from_slice(black_box(&text)).expect("the sample is valid");
                (verb.len(), fields(&event))
            });
        });
        let mut buffers = simd_json::Buffers::new(text.len());
        let mut copy = Vec::with_capacity(text.len());
        group.bench_function("simd-json", |bench| {
            bench.iter(|| {
                // It unescapes in place, so the bytes have to be copied first.
                copy.clear();
                copy.extend_from_slice(black_box(&text));
                let (verb, event): (&str, Borrowed<'_>) =
                    simd_json::serde::from_slice_with_buffers(&mut copy, &mut buffers)
                        .expect("the sample is valid");
                (verb.len(), fields(&event))
            });
        });
        group.finish();
    }
}

/// The same note in a spelling that has to be rewritten, and a filter of ordinary size.
fn other_inputs(criterion: &mut Criterion) {
    let limits = Limits::default();
    let note = String::from_utf8(message(&samples::note())).expect("JSON is text");
    let foreign = note.replace("[[\"t\",", "[[\"t\", ").replace("fox", "f\\u00f6x");
    criterion.bench_function("parse/note-rewritten", |bench| {
        bench.iter(|| parse::parse_client_message(black_box(foreign.as_bytes()), &limits).is_ok());
    });
    let authors: Vec<String> = (0..50).map(|key| format!("\"{:064x}\"", key * 7919)).collect();
    let request = format!(
        r##"["REQ","home",{{"kinds":[1,6,7],"authors":[{}],"limit":100}},{{"#p":["{:064x}"]}}]"##,
        authors.join(","),
        5
    );
    criterion.bench_function("parse/req-50-authors", |bench| {
        bench.iter(|| parse::parse_client_message(black_box(request.as_bytes()), &limits).is_ok());
    });
}

criterion_group!(benches, parsers, other_inputs);
criterion_main!(benches);
