//! The relay's own lines on standard error: life-cycle and the unexpected, never what peers say.

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How much is written.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Someone should be woken.
    Error,
    /// Something is wrong and the relay copes.
    Warn,
    /// The relay's life.
    #[default]
    Info,
    /// For whoever looks for a fault.
    Debug,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Sets what is written from now on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Writes one line, if `level` is on. A standard error that nobody reads is no reason to stop.
pub fn line(level: Level, text: &str) {
    if level as u8 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let word = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let _ = writeln!(std::io::stderr().lock(), "{word}: {text}");
}

/// A line that peers can cause: written once per [`Throttle::INTERVAL_MS`], with a count of those
/// kept back.
#[derive(Debug, Default)]
pub struct Throttle {
    next_ms: AtomicU64,
    kept_back: AtomicU64,
}

impl Throttle {
    /// Milliseconds between two lines.
    pub const INTERVAL_MS: u64 = 60_000;

    /// A throttle that lets its first line through.
    pub const fn new() -> Self {
        Self { next_ms: AtomicU64::new(0), kept_back: AtomicU64::new(0) }
    }

    /// Writes the line, or counts it.
    pub fn line(&self, now: proto::Now, level: Level, text: &str) {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        if now.monotonic_ms < next_ms {
            self.kept_back.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let after_ms = now.monotonic_ms + Self::INTERVAL_MS;
        self.next_ms.store(after_ms.max(1), Ordering::Relaxed);
        match self.kept_back.swap(0, Ordering::Relaxed) {
            0 => line(level, text),
            count => line(level, &format!("{text} ({count} more like this in the last minute)")),
        }
    }
}
