//! The pure-Rust paths of the product, one after the other under callgrind: `instructions NAME`
//! prepares a path, then runs it some times through [`measured_work`], which callgrind is told to
//! count. `instructions` alone names the paths with their repetitions.
//!
//! Nothing here is random or looks at a clock, so the same build counts the same.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a program for one purpose, with inputs and an exit code of its own"
)]

use bench::measure::client::event_frame;
use bench::measure::events::{Maker, Spec};
use net::Pushed;
use net::outbox::{Class, Outbox, OutboxBudget, OutboxLimits};
use net::ws::{Decoder, DecoderLimits, Form, Incoming, InputBudget, Workspace};
use proto::{Event, Filter, Limits, Secret, SeededState, TagFilter, parse};
use std::hint::black_box;
use store::delta::Generation;
use store::key::EventKeys;
use store::mem::MemIndex;
use store::{Bodies, Index, Loc, ScanRequest, WorldError};

const SECRET: Secret = Secret([5; 16]);
/// Events of the small index, and of each generation that it is made from.
const INDEXED_EVENTS: u64 = 16_384;
const GENERATION_EVENTS: u64 = 4_096;

/// What callgrind counts. Called through a pointer, so that nothing of it is done in advance.
#[inline(never)]
fn measured_work(work: &mut dyn FnMut()) {
    black_box(work)();
}

/// Runs what it is given under the counter, `times` times, after once without: tables that are
/// filled on first use are not part of a path.
fn run(times: u64, work: &mut dyn FnMut()) {
    work();
    for _ in 0..times {
        measured_work(work);
    }
}

type Path = (&'static str, u64, fn(u64));

const PATHS: &[Path] = &[
    ("parse-event", 200, parse_event),
    ("parse-req", 200, parse_req),
    ("id-of-event", 200, id_of_event),
    ("render-json", 200, render_json),
    ("filter-match", 1_000, filter_match),
    ("frame-in", 200, frame_in),
    ("frame-out", 320, frame_out),
    ("delta-insert", 4, delta_insert),
    ("scan-kind", 50, scan_kind),
    ("scan-author", 50, scan_author),
    ("scan-tag", 50, scan_tag),
];

fn main() {
    let asked = std::env::args().nth(1);
    match asked {
        None => PATHS.iter().for_each(|(name, times, _)| println!("{name} {times}")),
        Some(asked) => match PATHS.iter().find(|(name, ..)| *name == asked) {
            Some((_, times, path)) => path(*times),
            None => {
                eprintln!("there is no path {asked}; without a name all are listed");
                std::process::exit(2);
            }
        },
    }
}

fn maker() -> Maker {
    Maker::new(Spec { authors: 16, topics: 32, ..Spec::uniform(7) })
}

fn message(event: &Event) -> Vec<u8> {
    let mut message = b"[\"EVENT\",".to_vec();
    event.view().write_json(&mut message);
    message.push(b']');
    message
}

fn parse_event(times: u64) {
    let (text, limits) = (message(&maker().event(1)), Limits::default());
    run(times, &mut || {
        assert!(parse::parse_client_message(black_box(&text), &limits).is_ok());
    });
}

fn parse_req(times: u64) {
    let author = maker().author(1).pubkey().to_hex();
    let text = format!(
        "[\"REQ\",\"feed\",{{\"kinds\":[0,1,3,6,7],\"authors\":[\"{author}\"],\"limit\":100}},\
         {{\"#t\":[\"topic1\",\"topic2\"],\"since\":1750000000}}]"
    );
    let limits = Limits::default();
    run(times, &mut || {
        assert!(parse::parse_client_message(black_box(text.as_bytes()), &limits).is_ok());
    });
}

fn id_of_event(times: u64) {
    let event = maker().event(1);
    run(times, &mut || assert!(black_box(&event).view().id_is_valid()));
}

fn render_json(times: u64) {
    let event = maker().event(1);
    let mut out = Vec::with_capacity(1_024);
    run(times, &mut || {
        out.clear();
        black_box(&event).view().write_json(&mut out);
        assert_eq!(out.len(), 500);
    });
}

fn filter_match(times: u64) {
    let maker = maker();
    let (event, other) = (maker.event(1), maker.event(2));
    let mut authors: Vec<_> =
        (0..500_u64).map(|at| bench::Signer::from_seed(at).pubkey()).collect();
    authors.push(event.view().pubkey());
    authors.sort_unstable();
    let filter = Filter {
        authors: Some(authors),
        kinds: Some(vec![0, 1, 3, 6, 7]),
        tags: vec![TagFilter { letter: b't', values: vec![maker.topic(1).into_bytes().into()] }],
        ..Filter::default()
    };
    run(times, &mut || {
        assert!(black_box(&filter).matches(&event.view()));
        assert!(!black_box(&filter).matches(&other.view()));
    });
}

fn frame_in(times: u64) {
    let frame = event_frame(&maker().event(1));
    let limits = DecoderLimits { message_bytes_max: 512 * 1024, fragments_max: 64 };
    let (mut decoder, mut budget) = (Decoder::default(), InputBudget::new(1 << 20));
    let mut scratch = Vec::new();
    run(times, &mut || {
        let mut data = black_box(frame.as_slice());
        let mut work = Workspace { scratch: &mut scratch, budget: &mut budget, inflater: None };
        assert_eq!(decoder.next(0, &mut data, &limits, &mut work), Ok(Some(Incoming::Text)));
    });
}

fn frame_out(times: u64) {
    let mut body = Vec::new();
    maker().event(1).view().write_json(&mut body);
    let limits = OutboxLimits::default();
    let (mut outbox, mut budget) = (Outbox::default(), OutboxBudget::new(1 << 20));
    run(times, &mut || {
        let parts: [&[u8]; 3] = [b"[\"EVENT\",\"sub\",", black_box(&body), b"]"];
        let pushed = outbox.push_text_frame(Form::Plain, &parts, Class::Live, &limits, &mut budget);
        assert_eq!(pushed, Pushed::Ok);
        if outbox.pending_bytes() > 15 * 1_024 {
            while let Some(chunk) = outbox.take() {
                outbox.sent(chunk, &mut budget);
            }
        }
    });
}

fn loc(number: u64) -> Loc {
    Loc { segment: 1, offset: number as u32 * 400, length: 400, flags: 0, expires_at: 0 }
}

fn generation(maker: &Maker, from: u64, count: u64) -> Generation {
    let mut generation = Generation::new(from, SeededState::new(Secret([6; 16])));
    for number in from..from + count {
        generation.put(
            number,
            loc(number),
            &EventKeys::of(&unsigned(maker, number).view(), &SECRET),
        );
    }
    generation
}

/// The event `number` without its signature, which the index does not look at.
fn unsigned(maker: &Maker, number: u64) -> Event {
    let tags = format!("[[\"t\",\"{}\"]]", maker.topic(number));
    let mut parts = proto::EventParts {
        id: proto::EventId([0; 32]),
        pubkey: maker.author(number).pubkey(),
        sig: proto::Signature([9; 64]),
        created_at: maker.created_at(number),
        kind: 1,
        tags_json: tags.as_bytes(),
        content_json: b"\"text\"",
    };
    parts.id = parts.compute_id();
    parts.pack()
}

/// A thousand events into an empty generation.
fn delta_insert(times: u64) {
    let maker = maker();
    let keys: Vec<EventKeys> = (1..=1_000)
        .map(|number| EventKeys::of(&unsigned(&maker, number).view(), &SECRET))
        .collect();
    run(times, &mut || {
        let mut generation = Generation::new(1, SeededState::new(Secret([6; 16])));
        for (number, keys) in (1..).zip(black_box(&keys)) {
            generation.put(number, loc(number), keys);
        }
        black_box(generation.events());
    });
}

struct NoBodies;

impl Bodies for NoBodies {
    fn body(&self, _: &Loc) -> Result<Option<Event>, WorldError> {
        Ok(None)
    }
}

/// A page of 100 rows from an index in memory.
fn scan(times: u64, filter: impl Fn(&Maker) -> Filter) {
    let maker = maker();
    let index = MemIndex::new(SECRET);
    for from in (0..INDEXED_EVENTS).step_by(GENERATION_EVENTS as usize) {
        index.checkpoint(&generation(&maker, from + 1, GENERATION_EVENTS), &NoBodies).unwrap();
    }
    let streams = store::plan::union(&[filter(&maker)], &SECRET);
    let request = ScanRequest { streams, after: None, rows_max: 100 };
    run(times, &mut || {
        assert_eq!(index.scan(black_box(&request)).unwrap().rows.len(), 100);
    });
}

fn scan_kind(times: u64) {
    scan(times, |_| Filter { kinds: Some(vec![1]), ..Filter::default() });
}

fn scan_author(times: u64) {
    scan(times, |maker| Filter {
        authors: Some(vec![maker.author(1).pubkey()]),
        kinds: Some(vec![1]),
        ..Filter::default()
    });
}

fn scan_tag(times: u64) {
    scan(times, |maker| Filter {
        tags: vec![TagFilter { letter: b't', values: vec![maker.topic(1).into_bytes().into()] }],
        ..Filter::default()
    });
}
