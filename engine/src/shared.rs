//! The few words that all cores read: the phase of the relay's life, the configuration, and the
//! cells of the metrics.
#![allow(clippy::disallowed_types, reason = "a reload, once in days, passes through one lock")]

use crate::config::Config;
use crate::metrics::Cells;
use crate::runtime::wake::Wake;
pub use serve::Phase;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by all cores; written rarely.
pub struct Shared {
    phase: AtomicU8,
    drained: AtomicUsize,
    config: Mutex<Arc<Config>>,
    config_epoch: AtomicU64,
    scrape_epoch: AtomicU64,
    cells: Box<[Cells]>,
    wakes: Arc<[Wake]>,
}

impl Shared {
    /// For `wakes.len()` cores, the control core last.
    pub fn new(config: Arc<Config>, wakes: Arc<[Wake]>) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Serving as u8),
            drained: AtomicUsize::new(0),
            config: Mutex::new(config),
            config_epoch: AtomicU64::new(0),
            scrape_epoch: AtomicU64::new(0),
            cells: wakes.iter().map(|_| Cells::default()).collect(),
            wakes,
        }
    }

    /// Every core's wake, by core.
    pub fn wakes(&self) -> &Arc<[Wake]> {
        &self.wakes
    }

    fn wake_all(&self) {
        self.wakes.iter().for_each(Wake::wake);
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Closing,
        }
    }

    /// Moves on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.wake_all();
    }

    /// One core has answered all its clients. When all have, shards may close.
    pub fn drained(&self) {
        let before = self.drained.fetch_add(1, Ordering::AcqRel);
        if before + 1 == self.wakes.len() {
            self.advance(Phase::Closing);
        }
    }

    /// The configuration in force and its epoch.
    pub fn config(&self) -> (Arc<Config>, u64) {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&config), self.config_epoch())
    }

    /// How often the configuration has changed.
    pub fn config_epoch(&self) -> u64 {
        self.config_epoch.load(Ordering::Acquire)
    }

    /// Puts a new configuration in force.
    pub fn reconfigure(&self, new: Arc<Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.config_epoch.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    /// Asks every core to publish its metrics; returns what [`Shared::is_scraped`] wants to know.
    pub fn scrape(&self) -> u64 {
        let epoch = self.scrape_epoch.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake_all();
        epoch
    }

    /// The latest scrape asked for.
    pub fn scrape_epoch(&self) -> u64 {
        self.scrape_epoch.load(Ordering::Acquire)
    }

    /// Whether every executor has published since the scrape `epoch`. The control core may be busy
    /// with a slow reader of an export; its figures are then those of its last turn.
    pub fn is_scraped(&self, epoch: u64) -> bool {
        let executors = self.cells.len() - 1;
        self.cells[..executors].iter().all(|cells| cells.published() >= epoch)
    }

    /// The metrics of each core.
    pub fn cells(&self) -> &[Cells] {
        &self.cells
    }
}
