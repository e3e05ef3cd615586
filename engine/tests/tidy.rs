//! Rules about the source itself: which crate may name which, how long a file may be, which words
//! and which blocks may stand where. Each rule is a function over text, and each is shown a
//! violation that it has to find.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reads the sources and runs cargo and git"
)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines after which a file is refused.
const LINES_MAX: usize = 1_500;

/// The layers: what each crate of the workspace may name among the others. Crates that do not exist
/// yet stand here, too, so that their first dependency is already judged.
const LAYERS: [(&str, &[&str]); 11] = [
    ("proto", &[]),
    ("net", &["proto"]),
    ("store", &["proto"]),
    ("pay", &["proto"]),
    ("shards", &["proto", "store", "pay"]),
    // The part of the engine that needs no kernel, so that the simulator can run it.
    ("serve", &["proto", "net", "store", "shards"]),
    ("engine", &["proto", "net", "store", "pay", "shards", "serve", "tuning"]),
    ("bench", &["proto"]),
    ("tuning", &["proto"]),
    // The simulator links the layers below the engine, and never the engine.
    ("sim", &["proto", "net", "store", "pay", "shards", "serve", "bench"]),
    // Crash proofs take the path of a built binary; of the product they link the store alone.
    ("crash", &["proto", "store", "bench"]),
];

/// Where `unsafe` may stand, each block with its reason. The load tool's `io_uring` server is what the
/// product's backend is compared with: a reactor without anything above it.
const UNSAFE_PLACES: [&str; 6] = [
    "engine/src/runtime",
    "store/src/lmdb",
    "store/src/file",
    "proto/src/simd",
    "sim/crash",
    "bench/src/runtime/uring.rs",
];

/// Words that do not belong into a finished source, split here so that this file may pass itself.
const BANNED_WORDS: [&str; 9] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("place", "holder"),
    concat!("for ", "now"),
    concat!("in a real ", "implementation"),
    concat!("simplified ", "version"),
    concat!("not implemented ", "yet"),
    concat!("HA", "CK"),
];

/// Edges between workspace crates that the layers do not allow.
fn layer_violations(edges: &[(String, String)]) -> Vec<String> {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let mut violations = Vec::new();
    for (from, to) in edges {
        match layers.get(from.as_str()) {
            None => violations.push(format!("{from} is in no layer: add it to LAYERS")),
            Some(allowed) if !allowed.contains(&to.as_str()) => {
                violations.push(format!("{from} may not depend on {to}"));
            }
            Some(_) => {}
        }
    }
    violations
}

/// Normal and build dependencies between members of the workspace, from `cargo metadata`.
fn workspace_edges(metadata: &Value) -> Vec<(String, String)> {
    let packages = metadata["packages"].as_array().unwrap();
    let members: BTreeSet<&str> =
        packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let mut edges = Vec::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            let is_path = dependency["path"].is_string();
            if is_path && members.contains(name) && dependency["kind"] != "dev" {
                edges.push((package["name"].as_str().unwrap().to_owned(), name.to_owned()));
            }
        }
    }
    edges
}

fn length_violation(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > LINES_MAX).then(|| format!("{path} has {lines} lines, more than {LINES_MAX}"))
}

fn word_violations(path: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in BANNED_WORDS {
            if contains_word(line, word) {
                violations.push(format!("{path}:{} says {word:?}", index + 1));
            }
        }
    }
    violations
}

/// Whether `word` stands in `line` with no letter, digit or underscore next to it.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let before = line[..at].chars().next_back().is_some_and(is_part);
        let after = line[at + word.len()..].chars().next().is_some_and(is_part);
        !before && !after
    })
}

/// `unsafe` as a keyword (before a block, a function, an impl) outside the places for it. Comments do
/// not count.
fn unsafe_violations(path: &str, text: &str) -> Vec<String> {
    if UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) {
        return Vec::new();
    }
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let code = line.split("//").next().unwrap_or("");
        ["{", "fn", "impl", "trait", "extern"].iter().any(|next| {
            let keyword = format!("unsafe {next}");
            code.match_indices(&keyword).any(|(at, _)| {
                // An odd number of quotes before it: inside a string.
                code[..at].matches('"').count() % 2 == 0 && contains_word(&code[at..], "unsafe")
            })
        })
    });
    lines.map(|(index, _)| format!("{path}:{} is unsafe", index + 1)).collect()
}

/// Printing outside binaries and tests: a library that prints cannot be simulated.
fn print_violations(path: &str, text: &str) -> Vec<String> {
    let is_shell = path.contains("/tests/")
        || path.contains("/benches/")
        || path.contains("/examples/")
        || path.contains("fuzz")
        || path.starts_with("engine/src")
        || path.starts_with("bench/src/cli/")
        || path.ends_with("/main.rs");
    if is_shell {
        return Vec::new();
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or("");
    let lines = code.lines().enumerate().filter(|(_, line)| {
        let code = line.split("//").next().unwrap_or("");
        ["println!", "eprintln!", "print!", "eprint!"].iter().any(|name| contains_word(code, name))
    });
    lines.map(|(index, _)| format!("{path}:{} prints", index + 1)).collect()
}

/// Crate roots that a reader enters by: each says what it does not know.
fn root_violation(path: &str, text: &str) -> Option<String> {
    let is_root = path.ends_with("/src/lib.rs") && path.matches('/').count() == 2;
    let says = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .any(|line| line.contains("does not know") || line.contains("does NOT know"));
    (is_root && !says).then(|| format!("{path} does not say what the crate does not know"))
}

fn root_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Tracked Rust files, by path from the root.
fn sources() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root_dir())
        .output()
        .expect("git lists the files of the repository");
    let names = String::from_utf8(output.stdout).unwrap();
    let sources: Vec<(String, String)> = names
        .lines()
        .filter_map(|name| {
            let text = std::fs::read_to_string(root_dir().join(name)).ok()?;
            Some((name.to_owned(), text))
        })
        .collect();
    assert!(sources.len() > 30, "only {} Rust files were found", sources.len());
    sources
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root_dir())
        .output()
        .expect("cargo describes the workspace");
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn crates_name_only_the_layers_below_them() {
    let metadata = metadata();
    let edges = workspace_edges(&metadata);
    assert!(edges.contains(&("engine".to_owned(), "proto".to_owned())), "{edges:?}");
    none(&layer_violations(&edges));
    let known: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    let unknown: Vec<String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .filter(|name| !known.contains(name.as_str()))
        .collect();
    none(&unknown);
}

#[test]
fn no_file_is_too_long() {
    none(
        &sources()
            .iter()
            .filter_map(|(path, text)| length_violation(path, text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_source_speaks_of_unfinished_work() {
    none(
        &sources().iter().flat_map(|(path, text)| word_violations(path, text)).collect::<Vec<_>>(),
    );
}

#[test]
fn unsafe_stands_only_where_it_may() {
    none(
        &sources()
            .iter()
            .flat_map(|(path, text)| unsafe_violations(path, text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn libraries_do_not_print() {
    none(
        &sources().iter().flat_map(|(path, text)| print_violations(path, text)).collect::<Vec<_>>(),
    );
}

#[test]
fn crate_roots_say_what_they_do_not_know() {
    none(
        &sources().iter().filter_map(|(path, text)| root_violation(path, text)).collect::<Vec<_>>(),
    );
}

#[test]
fn every_rule_finds_its_violation() {
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    for (from, to) in [
        ("proto", "net"),
        ("net", "store"),
        ("store", "net"),
        ("pay", "store"),
        ("shards", "net"),
        ("bench", "store"),
        ("sim", "engine"),
        ("net", "shards"),
        ("store", "bench"),
        ("engine", "bench"),
        ("tuning", "store"),
        ("newcomer", "proto"),
    ] {
        assert_eq!(layer_violations(&[edge(from, to)]).len(), 1, "{from} -> {to}");
    }
    let allowed = [edge("engine", "shards"), edge("shards", "pay"), edge("sim", "net")];
    assert!(layer_violations(&allowed).is_empty());
    let metadata = serde_json::json!({"packages": [
        {"name": "net", "dependencies": [
            {"name": "store", "path": "/x/store", "kind": null},
            {"name": "bench", "path": "/x/bench", "kind": "dev"},
            {"name": "itoa", "kind": null},
        ]},
        {"name": "store", "dependencies": [{"name": "bench", "path": "/x/bench", "kind": "build"}]},
        {"name": "bench", "dependencies": []},
    ]});
    assert_eq!(workspace_edges(&metadata), [edge("net", "store"), edge("store", "bench")]);

    assert!(length_violation("a.rs", &"x\n".repeat(LINES_MAX)).is_none());
    assert!(length_violation("a.rs", &"x\n".repeat(LINES_MAX + 1)).is_some());

    for word in BANNED_WORDS {
        assert_eq!(
            word_violations("a.rs", &format!("fine\n// {word}: later\n")).len(),
            1,
            "{word}"
        );
        assert!(word_violations("a.rs", &format!("let a{word}b = 1;")).is_empty(), "{word}");
    }

    let block = "let x = unsafe { y() };";
    assert_eq!(unsafe_violations("net/src/ws.rs", block).len(), 1);
    assert_eq!(unsafe_violations("engine/src/main.rs", "unsafe impl Send for X {}").len(), 1);
    assert!(unsafe_violations("engine/src/runtime/uring.rs", block).is_empty());
    assert!(unsafe_violations("store/src/lmdb.rs", block).is_empty());
    for harmless in
        ["// unsafe { }", "let s = \"unsafe fn\";", "#![forbid(unsafe_code)]", "'unsafe-inline'"]
    {
        assert!(unsafe_violations("net/src/ws.rs", harmless).is_empty(), "{harmless}");
    }

    assert_eq!(print_violations("net/src/ws.rs", "    println!(\"x\");").len(), 1);
    assert!(print_violations("net/tests/a.rs", "    println!(\"x\");").is_empty());
    assert!(print_violations("net/src/a.rs", "#[cfg(test)]\nmod t { println!(\"x\") }").is_empty());

    assert!(root_violation("net/src/lib.rs", "//! A crate.\n").is_some());
    assert!(root_violation("net/src/lib.rs", "//! **What it does not know:** files.\n").is_none());
    assert!(root_violation("net/src/ws/lib.rs", "//! A module.\n").is_none());
}
