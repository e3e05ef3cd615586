//! The fuzz targets in one program, so that all of them are one build: the environment variable
//! `FUZZ_TARGET` says which of them runs. See `targets/mod.rs`.
#![no_main]

mod both;
mod bytes;
mod events;
mod image;

#[path = "../../../proto/tests/oracle/mod.rs"]
mod oracle;
#[path = "../../../store/tests/common/mod.rs"]
mod store_world;
#[path = "../targets/mod.rs"]
mod targets;

use std::sync::OnceLock;

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::TARGETS.iter().find(|(name, _)| *name == wanted);
    let Some((_, run)) = found else {
        let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("FUZZ_TARGET is to be one of: {}", names.join(" "));
        std::process::exit(2);
    };
    let _ = CHOSEN.set(*run);
}

libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(run) = CHOSEN.get() {
        run(data);
    }
});
