//! What happens to a parsed event: id, signature, match against filters, rendering.

mod samples;

use criterion::{Criterion, criterion_group, criterion_main};
use proto::parse::parse_filter;
use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
use proto::{Limits, Secret, SeededState};
use std::hint::black_box;

fn ids(criterion: &mut Criterion) {
    for (name, event) in [("note", samples::note()), ("large", samples::large())] {
        criterion.bench_function(&format!("id/{name}"), |bench| {
            bench.iter(|| black_box(event.view()).id_is_valid());
        });
    }
}

fn signatures(criterion: &mut Criterion) {
    let item = VerifyItem::of(&samples::note().view());
    let seed = SeededState::new(Secret([7; 16]));
    let mut warm = Secp256k1Verifier::new(seed, 1024);
    criterion.bench_function("verify/cached-key", |bench| {
        bench.iter(|| warm.verify(black_box(&item)));
    });
    // A cache of one entry is emptied before every verification, so the key is parsed each time.
    let mut cold = Secp256k1Verifier::new(seed, 1);
    criterion.bench_function("verify/parsed-key", |bench| {
        bench.iter(|| cold.verify(black_box(&item)));
    });
}

fn matches(criterion: &mut Criterion) {
    let (note, large) = (samples::note(), samples::large());
    let authors: Vec<String> = (0..500).map(|key| format!("\"{:064x}\"", key * 7919)).collect();
    let authors = authors.join(",");
    let author = note.view().pubkey();
    let cases = [
        ("authors-hit", &note, format!(r#"{{"authors":["{author}",{authors}],"kinds":[1]}}"#)),
        ("authors-miss", &note, format!(r#"{{"authors":[{authors}],"kinds":[1]}}"#)),
        ("tag-hit", &note, r##"{"#t":["bitcoin","nostr"]}"##.to_owned()),
        ("tag-miss-130", &large, format!(r##"{{"#p":["{}"]}}"##, "f".repeat(64))),
    ];
    for (name, event, filter) in cases {
        let filter = parse_filter(filter.as_bytes(), &Limits::default()).expect("a valid filter");
        criterion.bench_function(&format!("match/{name}"), |bench| {
            bench.iter(|| black_box(&filter).matches(&event.view()));
        });
    }
}

fn rendering(criterion: &mut Criterion) {
    for (name, event) in [("note", samples::note()), ("large", samples::large())] {
        let mut out = Vec::new();
        criterion.bench_function(&format!("write_json/{name}"), |bench| {
            bench.iter(|| {
                out.clear();
                event.view().write_json(&mut out);
                out.len()
            });
        });
    }
}

criterion_group!(benches, ids, signatures, matches, rendering);
criterion_main!(benches);
