//! Every limit of the protocol layer, with its unit. Defaults are the ones a relay starts with;
//! those an operator would change are fields of [`Limits`] and configuration keys of the engine.

/// Greatest JSON nesting depth that a message may have.
pub const JSON_DEPTH_MAX: usize = 8;
/// Longest number token, in characters.
pub const NUMBER_CHARACTERS_MAX: usize = 20;
/// Fields of an event object that are none of NIP-01's; they are skipped, and compared with each
/// other because no key may occur twice.
pub const UNKNOWN_FIELDS_MAX: usize = 32;
/// Longest subscription id, in characters (NIP-01).
pub const SUBSCRIPTION_ID_CHARACTERS_MAX: usize = 64;
/// Targets (`e` and `a` tags) of one deletion request.
pub const DELETION_TARGETS_MAX: usize = 100;

/// The limits that a relay advertises and enforces on what clients send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message, from `[` to `]`.
    pub message_bytes_max: usize,
    /// Bytes of one packed event (header, tags, content).
    pub event_bytes_max: usize,
    /// Tags of one event.
    pub tags_max: usize,
    /// Elements of one tag.
    pub tag_elements_max: usize,
    /// Filters of one REQ or COUNT.
    pub filters_max: usize,
    /// Values in all lists of one REQ or COUNT.
    pub filter_values_max: usize,
    /// Rows of a filter that names no limit.
    pub default_limit: u32,
    /// Greatest limit; a larger one is clamped.
    pub max_limit: u32,
    /// Oldest accepted `created_at`, seconds before now.
    pub created_at_past_s: u64,
    /// Newest accepted `created_at`, seconds after now.
    pub created_at_future_s: u64,
    /// Least NIP-13 difficulty, in bits.
    pub pow_bits_min: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 512 * 1024,
            event_bytes_max: 256 * 1024,
            tags_max: 5_000,
            tag_elements_max: 100,
            filters_max: 100,
            filter_values_max: 5_000,
            default_limit: 500,
            max_limit: 500,
            created_at_past_s: 94_608_000,
            created_at_future_s: 900,
            pow_bits_min: 0,
        }
    }
}
