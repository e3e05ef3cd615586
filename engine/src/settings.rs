//! The configuration as the crates below want it.

use crate::config::{Ceiling, Config};
use net::info::Limitation;
use net::{
    AdmissionConfig, Cidr, CompressionConfig, ConnConfig, OutboxLimits, Pages, Rate, Rates,
    RelayDocument, Timeouts, TrustedProxies,
};
use proto::{Filter, Limits};
use shards::NegConfig;
use std::sync::Arc;

/// NIPs that are always on.
pub const SUPPORTED_NIPS: [u16; 15] = [1, 2, 4, 9, 11, 13, 17, 40, 42, 45, 59, 62, 65, 67, 70];
/// The one that can be switched off.
const NEGENTROPY_NIP: u16 = 77;
/// Version of negentropy, in the field of the NIP-11 document by which strfry announces it.
const NEGENTROPY_VERSION: u8 = 1;
/// Bytes that one record of a negentropy session counts for; see [`NegConfig`].
const SYNC_RECORD_BYTES: u64 = 37;

/// Limits of the protocol.
pub fn limits(config: &Config) -> Limits {
    let section = &config.limits;
    Limits {
        message_bytes_max: section.message_bytes_max,
        event_bytes_max: section.event_bytes_max,
        tags_max: section.tags_max,
        tag_elements_max: section.tag_elements_max,
        filters_max: section.filters_max,
        filter_values_max: section.filter_values_max,
        default_limit: section.default_limit,
        max_limit: section.max_limit,
        created_at_past_s: section.created_at_past_s,
        created_at_future_s: section.created_at_future_s,
        pow_bits_min: section.pow_bits_min,
    }
}

/// What a home takes anew on reload: limits, subscriptions per client, AUTH first.
pub fn home_limits(config: &Config) -> (Limits, usize, bool) {
    (limits(config), config.limits.subscriptions_max, config.limits.auth_required)
}

/// The sync sets; their texts were checked when the configuration was read.
pub fn sync_filters(config: &Config) -> Arc<[Filter]> {
    let parse =
        |text: &String| proto::parse::parse_filter(text.as_bytes(), &Limits::default()).ok();
    config.sync.filters.iter().filter_map(parse).collect()
}

/// Limits of a core's negentropy sessions.
pub fn negentropy(config: &Config, ceiling: &Ceiling) -> NegConfig {
    let records_core_max = ceiling.sync_core_bytes / SYNC_RECORD_BYTES;
    NegConfig {
        sessions_max: config.sync.sessions_max,
        records_max: config.sync.records_max.min(records_core_max),
        records_core_max,
        sync_sets: sync_filters(config),
        ..NegConfig::default()
    }
}

/// What this relay is called from outside, if that is known.
pub fn public_url(config: &Config) -> Option<String> {
    text(&config.relay.public_url)
}

/// Who may read the metrics.
pub fn metrics_allow(config: &Config) -> TrustedProxies {
    blocks(&config.network.metrics_allow)
}

/// Texts were checked when the configuration was read.
fn blocks(texts: &[String]) -> TrustedProxies {
    TrustedProxies(texts.iter().filter_map(|text| text.parse::<Cidr>().ok()).collect())
}

/// Who may connect to one of `cores` cores.
///
/// An address's connections fall on cores by the kernel's hash of their ports, about evenly; each
/// core takes its share and a quarter, so that an honest address is not refused for an uneven draw
/// and a greedy one gets a quarter too much at most.
pub fn admission(config: &Config, cores: usize) -> AdmissionConfig {
    let parts = cores.max(1) as u32;
    let share =
        |whole: u32| if parts == 1 { whole } else { whole.saturating_mul(5).div_ceil(parts * 4) };
    AdmissionConfig {
        open_per_address_max: share(config.rates.connections_per_address_max),
        new_per_address: Rate::per_second(share(config.rates.connections_per_second)),
        open_max: (config.network.connections_max as usize).div_ceil(cores),
    }
}

/// The configuration of a core's connections at start.
pub fn first_conn_config(config: &Config, ceiling: &Ceiling) -> ConnConfig {
    let budgets = ConnConfig {
        outbox_total_bytes_max: ceiling.outbox_core_bytes as usize,
        input_bytes_max: ceiling.input_core_bytes as usize,
        ..ConnConfig::default()
    };
    conn_config(config, &budgets)
}

/// The configuration of a core's connections; budgets, which take a restart, stay as in `before`.
pub fn conn_config(config: &Config, before: &ConnConfig) -> ConnConfig {
    let network = &config.network;
    let rates = &config.rates;
    let public_url = public_url(config);
    ConnConfig {
        limits: limits(config),
        timeouts: Timeouts {
            handshake_ms: network.handshake_timeout_ms,
            message_ms: network.message_timeout_ms,
            ping_ms: network.ping_interval_ms,
            pings_missed_max: network.pings_missed_max,
            close_ms: network.close_timeout_ms,
        },
        rates: Rates {
            messages: Rate::per_second(rates.messages_per_second),
            events: Rate::per_second(rates.events_per_second),
            queries: Rate::per_second(rates.queries_per_second),
            invalid: Rate::per_minute(rates.invalid_per_minute),
        },
        outbox: OutboxLimits {
            soft_bytes: config.memory.outbox_soft_kib as usize * 1024,
            hard_bytes: config.memory.outbox_hard_kib as usize * 1024,
        },
        auth_required: config.limits.auth_required,
        negentropy: config.sync.negentropy,
        compression: CompressionConfig {
            enabled: config.compression.enabled,
            threshold_bytes: config.compression.threshold_bytes,
            level: config.compression.level,
        },
        trusted_proxies: blocks(&network.trusted_proxies),
        pages: Pages::render(&document(config), public_url.as_deref()),
        public_url,
        ..before.clone()
    }
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// The NIP-11 document.
pub fn document(config: &Config) -> RelayDocument {
    let relay = &config.relay;
    let limits = &config.limits;
    RelayDocument {
        name: text(&relay.name),
        description: text(&relay.description),
        banner: text(&relay.banner),
        icon: text(&relay.icon),
        pubkey: text(&relay.pubkey),
        contact: text(&relay.contact),
        terms_of_service: text(&relay.terms_of_service),
        supported_nips: SUPPORTED_NIPS
            .into_iter()
            .chain(config.sync.negentropy.then_some(NEGENTROPY_NIP))
            .collect(),
        negentropy: config.sync.negentropy.then_some(NEGENTROPY_VERSION),
        software: text(&relay.software),
        version: Some(env!("CARGO_PKG_VERSION").into()),
        limitation: Limitation {
            max_message_length: Some(limits.message_bytes_max as u64),
            max_subscriptions: Some(limits.subscriptions_max as u64),
            max_limit: Some(limits.max_limit.into()),
            default_limit: Some(limits.default_limit.into()),
            max_subid_length: Some(proto::limits::SUBSCRIPTION_ID_CHARACTERS_MAX as u64),
            max_event_tags: Some(limits.tags_max as u64),
            max_content_length: Some(limits.event_bytes_max as u64),
            min_pow_difficulty: Some(limits.pow_bits_min.into()),
            auth_required: Some(limits.auth_required),
            payment_required: Some(false),
            restricted_writes: Some(limits.auth_required || limits.pow_bits_min > 0),
            created_at_lower_limit: Some(limits.created_at_past_s),
            created_at_upper_limit: Some(limits.created_at_future_s),
        },
        ..RelayDocument::default()
    }
}

/// Free disk below which events are refused.
pub fn free_min_bytes(config: &Config) -> u64 {
    config.store.free_min_mib << 20
}
