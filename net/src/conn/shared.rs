//! What the connections of one core share.

use crate::config::ConnConfig;
use crate::counters::NetCounters;
use crate::outbox::OutboxBudget;
use crate::ws::{DecoderLimits, Deflater, Inflater, InputBudget, Workspace};
use proto::verify::Verifier;

/// What the connections of one core share. Owned by that core. Besides the budgets it holds two
/// scratch buffers of at most one message each and, once a connection agreed to compression, the
/// codecs: [`crate::ws::deflate::core_bytes_max`].
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
    pub(super) inflater: Option<Box<Inflater>>,
    pub(super) deflater: Option<Box<Deflater>>,
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
            inflater: None,
            deflater: None,
        }
    }

    /// Replaces the configuration. Open connections go by the new limits from their next message
    /// on; timers that are running keep their time.
    pub fn reload(&mut self, config: ConnConfig) {
        self.outboxes.resize(config.outbox_total_bytes_max);
        self.input.resize(config.input_bytes_max);
        self.config = config;
    }

    /// What the decoder of a connection needs; `is_deflate_agreed` on that connection.
    pub(super) fn decoding(&mut self, is_deflate_agreed: bool) -> (DecoderLimits, Workspace<'_>) {
        let limits = DecoderLimits {
            message_bytes_max: self.config.limits.message_bytes_max,
            fragments_max: self.config.fragments_max,
        };
        let inflater = is_deflate_agreed.then(|| &mut **self.inflater.get_or_insert_default());
        let work = Workspace { scratch: &mut self.scratch, budget: &mut self.input, inflater };
        (limits, work)
    }

    /// Makes the deflater, or makes it anew when another level is configured.
    pub(super) fn ready_deflater(&mut self) {
        let level = self.config.compression.level;
        if self.deflater.as_ref().is_none_or(|deflater| deflater.level() != level) {
            self.deflater = Some(Box::new(Deflater::new(level)));
        }
    }
}
