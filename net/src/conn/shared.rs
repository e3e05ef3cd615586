//! What the connections of one core share.

use crate::config::ConnConfig;
use crate::counters::NetCounters;
use crate::outbox::OutboxBudget;
use crate::ws::{DecoderLimits, InputBudget};
use proto::verify::Verifier;

/// What the connections of one core share. Owned by that core. Besides the budgets it holds two
/// scratch buffers of at most one message each.
pub struct ConnCore {
    /// The configuration; [`ConnCore::reload`] replaces it.
    pub config: ConnConfig,
    /// The counters.
    pub counters: NetCounters,
    /// Chunks of all outboxes.
    pub outboxes: OutboxBudget,
    /// Bytes of unfinished messages and parked input.
    pub input: InputBudget,
    pub(super) verifier: Box<dyn Verifier + Send>,
    /// The message being looked at.
    pub(super) scratch: Vec<u8>,
    /// The reply being written.
    pub(super) reply: Vec<u8>,
}

impl std::fmt::Debug for ConnCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnCore").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl ConnCore {
    /// A core without connections. `verifier` checks the signatures of AUTH.
    pub fn new(config: ConnConfig, verifier: Box<dyn Verifier + Send>) -> Self {
        Self {
            outboxes: OutboxBudget::new(config.outbox_total_bytes_max),
            input: InputBudget::new(config.input_bytes_max),
            config,
            counters: NetCounters::default(),
            verifier,
            scratch: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// Replaces the configuration. Open connections go by the new limits from their next message
    /// on; timers that are running keep their time.
    pub fn reload(&mut self, config: ConnConfig) {
        self.outboxes.resize(config.outbox_total_bytes_max);
        self.input.resize(config.input_bytes_max);
        self.config = config;
    }

    pub(super) fn decoder_limits(&self) -> DecoderLimits {
        DecoderLimits {
            message_bytes_max: self.config.limits.message_bytes_max,
            fragments_max: self.config.fragments_max,
        }
    }
}
