//! The configuration: one TOML file whose every key documents itself.
//!
//! Order of precedence: command-line flags, then `TURNPIKE_SECTION__KEY` from the environment, then
//! the file, then the defaults below.

mod ceiling;
mod load;
mod print;
mod reload;

pub use ceiling::{Ceiling, CeilingError, Machine};
pub use load::{ConfigError, Source, load, unknown_key, unknown_variables};
pub use print::print;
pub use reload::{differences, merge_live};

use crate::policy::desk::WhenDown;
use crate::runtime::probe::RuntimeChoice;
use serde::{Deserialize, Serialize};

/// Whether SIGHUP applies a changed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It does, for connections old and new.
    Live,
    /// It takes a restart.
    Restart,
}

/// What is known about one key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section.
    pub section: &'static str,
    /// Name within the section.
    pub name: &'static str,
    /// The sentences that `config print` writes above it.
    pub doc: &'static [&'static str],
    /// Whether SIGHUP applies it.
    pub reload: Reload,
}

macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])+ $reload:ident $key:ident: $type:ty = $default:expr; )+
        }
    )+) => {
        /// The whole configuration.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Config { $( $(#[doc = $section_doc])+ pub $section: $Section, )+ }

        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields, default)]
            pub struct $Section { $( $(#[doc = $doc])+ pub $key: $type, )+ }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $key: $default, )+ }
                }
            }
        )+

        /// Sections with their first sentence, in the order of the printed file.
        pub const SECTIONS: &[(&str, &[&str])] =
            &[ $( (stringify!($section), &[$($section_doc),+]), )+ ];

        /// Every key, in the order of the printed file.
        pub const KEYS: &[Key] = &[ $( $( Key {
            section: stringify!($section),
            name: stringify!($key),
            doc: &[$($doc),+],
            reload: Reload::$reload,
        }, )+ )+ ];
    };
}

sections! {
    /// What the relay says about itself (NIP-11).
    relay: Relay {
        /// Name of the relay.
        Live name: String = "turnpike".into();
        /// Plain text about it.
        Live description: String = String::new();
        /// URL of a square image.
        Live icon: String = String::new();
        /// URL of a wide image.
        Live banner: String = String::new();
        /// Public key of the administrator, 64 hex digits.
        Live pubkey: String = String::new();
        /// URI by which the administrator can be reached another way, such as `mailto:`.
        Live contact: String = String::new();
        /// URL of the terms of service.
        Live terms_of_service: String = String::new();
        /// URL of the software's home, if it is to be named.
        Live software: String = String::new();
        /// The URL that clients know this relay by, such as `wss://relay.example.com`. While it is
        /// empty, the Host that a client asked for counts when it authenticates.
        Live public_url: String = String::new();
    }

    /// Sockets, addresses and patience.
    network: Network {
        /// Address and port to listen on. Port 0 takes a free one; the start line names it.
        Restart listen: String = "127.0.0.1:7777".into();
        /// Connections that may wait to be accepted, per core.
        Restart backlog: u32 = 4_096;
        /// Open connections of the whole relay.
        Restart connections_max: u32 = 20_000;
        /// Addresses or CIDR blocks of proxies whose `X-Forwarded-For` or PROXY v2 header is
        /// believed.
        Live trusted_proxies: Vec<String> = Vec::new();
        /// Addresses or CIDR blocks that may read `/metrics`.
        Live metrics_allow: Vec<String> = vec!["127.0.0.0/8".into(), "::1".into()];
        /// Milliseconds that sent bytes may stay unacknowledged before the kernel gives the peer up.
        Restart tcp_user_timeout_ms: u32 = 60_000;
        /// Milliseconds from the connection to the end of the upgrade request.
        Live handshake_timeout_ms: u64 = 5_000;
        /// Milliseconds from the first byte of a message to its last.
        Live message_timeout_ms: u64 = 30_000;
        /// Milliseconds of silence before a ping.
        Live ping_interval_ms: u64 = 30_000;
        /// Pings in a row that may stay unanswered.
        Live pings_missed_max: u8 = 2;
        /// Milliseconds from our Close frame to the end of the socket.
        Live close_timeout_ms: u64 = 5_000;
        /// Milliseconds that a shutdown may take before the process ends anyway.
        Live shutdown_timeout_ms: u64 = 20_000;
    }

    /// What clients may send and ask for.
    limits: LimitsSection {
        /// Bytes of one message.
        Live message_bytes_max: usize = 524_288;
        /// Bytes of one event, packed.
        Live event_bytes_max: usize = 262_144;
        /// Tags of one event.
        Live tags_max: usize = 5_000;
        /// Elements of one tag.
        Live tag_elements_max: usize = 100;
        /// Open subscriptions of one connection.
        Live subscriptions_max: usize = 100;
        /// Filters of one REQ or COUNT (at most 128).
        Live filters_max: usize = 100;
        /// Values in all lists of one REQ or COUNT.
        Live filter_values_max: usize = 5_000;
        /// Rows for a filter that names no limit.
        Live default_limit: u32 = 500;
        /// Greatest limit; a larger one is cut to it.
        Live max_limit: u32 = 500;
        /// Oldest `created_at` that is taken, in seconds before now. Imports are exempt.
        Live created_at_past_s: u64 = 94_608_000;
        /// Newest `created_at` that is taken, in seconds after now. Imports are exempt.
        Live created_at_future_s: u64 = 900;
        /// Least proof of work of an event (NIP-13), in bits.
        Live pow_bits_min: u8 = 0;
        /// Whether a client must authenticate (NIP-42) before anything else.
        Live auth_required: bool = false;
    }

    /// Rates. Up to ten times a rate may come at once; 0 switches a rate off.
    rates: RatesSection {
        /// New connections a second from one IPv4 address or IPv6 /64.
        Live connections_per_second: u32 = 5;
        /// Open connections of one IPv4 address or IPv6 /64. Each core counts its own share, so up
        /// to a quarter more may be open when they spread evenly.
        Live connections_per_address_max: u32 = 100;
        /// Messages a second of one connection.
        Live messages_per_second: u32 = 100;
        /// Events a second of one connection.
        Live events_per_second: u32 = 50;
        /// Filters a second of one connection, in REQ and COUNT.
        Live queries_per_second: u32 = 200;
        /// Invalid messages and events a minute of one connection; beyond it the connection is
        /// closed.
        Live invalid_per_minute: u32 = 20;
    }

    /// Memory budgets. Their sum must fit into `memory_max_mib`, or the relay does not start.
    memory: Memory {
        /// MiB that all budgets together may reach. 0 takes a quarter of the machine's memory, or
        /// of the control group's.
        Restart memory_max_mib: u64 = 0;
        /// KiB of waiting output from which on a connection gets no more live events.
        Live outbox_soft_kib: u64 = 256;
        /// KiB of waiting output beyond which a connection is closed.
        Live outbox_hard_kib: u64 = 1_024;
        /// MiB of waiting output of one core's connections. 0 takes a share of the whole, at most
        /// 256.
        Restart outbox_total_mib: u64 = 0;
        /// MiB of unfinished messages of one core's connections. 0 takes a share, at most 64.
        Restart input_total_mib: u64 = 0;
        /// MiB of query answers that one core holds for clients that read slowly. 0 takes a share,
        /// at most 64.
        Restart pages_total_mib: u64 = 0;
        /// MiB of what negentropy sessions of one core know. 0 takes a share, at most 72.
        Restart sync_total_mib: u64 = 0;
        /// MiB of open filters of one core's connections. 0 takes a share, at most 16.
        Restart filters_total_mib: u64 = 0;
        /// MiB of events of one shard that are in the log and not yet in the index. 0 takes a share,
        /// at most 64.
        Restart delta_mib: u64 = 0;
        /// MiB of recently read events that one shard keeps. 0 takes a share, at most 64.
        Restart hot_mib: u64 = 0;
    }

    /// The data directory.
    store: StoreSection {
        /// The directory. It is created if it is missing.
        Restart data_dir: String = "data".into();
        /// Shards of a new directory; 0 makes one per core, at most 16. A directory keeps the number
        /// that it was made with until `turnpike reshard` gives it another; where this says one that
        /// it does not have, the relay does not start.
        Restart shards: u16 = 0;
        /// Events after which the index is brought up to date.
        Restart checkpoint_events: u32 = 65_536;
        /// Milliseconds after which the index is brought up to date.
        Restart checkpoint_interval_ms: u64 = 300_000;
        /// MiB of one log segment.
        Restart segment_mib: u32 = 64;
        /// Hours within which the bytes of an event that was deleted, or whose author vanished, are
        /// gone from the log.
        Restart erase_after_h: u32 = 24;
        /// MiB of free disk below which events are refused with `error: storage full`. Reading goes
        /// on, and writing does by itself when a tenth more than this is free again.
        Live free_min_mib: u64 = 256;
    }

    /// Negentropy (NIP-77): how others find out what they lack of what is here.
    sync: SyncSection {
        /// Whether clients may open sessions.
        Restart negentropy: bool = true;
        /// Filters, as JSON, of which fingerprints are kept at all times, so that a session over one
        /// of them (within any span of time) reads only where the two sides differ; at most 4. After
        /// a change the next start reads all events once.
        Restart filters: Vec<String> = vec!["{}".into()];
        /// Open sessions of one connection.
        Restart sessions_max: usize = 8;
        /// Events that one session may be about.
        Restart records_max: u64 = 500_000;
    }

    /// permessage-deflate. It saves bandwidth and costs processor time: a stored event is compressed
    /// for each reader.
    compression: CompressionSection {
        /// Whether it is agreed to when a client offers it.
        Live enabled: bool = false;
        /// Bytes below which a message is sent as it is.
        Live threshold_bytes: usize = 512;
        /// 1 (fast) to 9 (small).
        Live level: u8 = 3;
    }

    /// Programs of the operator's that decide who may write and read; docs/policy.md describes them.
    policy: PolicySection {
        /// Shell command of the program that is asked about every event; empty: nobody is asked. It
        /// speaks the protocol of strfry's write-policy plug-ins.
        Live write_plugin: String = String::new();
        /// Shell command of the program that is asked about every REQ, COUNT and NEG-OPEN; empty:
        /// nobody is asked.
        Live read_plugin: String = String::new();
        /// Milliseconds that a program may take for an answer.
        Live timeout_ms: u64 = 5_000;
        /// `accept` or `reject`: what becomes of an event or a read without an answer, be it that the
        /// program is slow or that it does not run.
        Live when_down: WhenDown = WhenDown::Reject;
        /// Events that one shard, and reads that one core may have asked about at once; further ones
        /// wait.
        Restart in_flight_max: usize = 1_024;
        /// Whether events that `turnpike import` brings are asked about, too.
        Live ask_imports: bool = false;
    }

    /// How the relay runs.
    runtime: RuntimeSection {
        /// `io-uring`, `epoll`, or `auto`, which takes the first that the host allows; `glommio` in a
        /// build that has it.
        Restart runtime: RuntimeChoice = RuntimeChoice::Auto;
        /// `error`, `warn`, `info` or `debug`.
        Live log_level: crate::log::Level = crate::log::Level::Info;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_keys_is_the_configuration() {
        let value = toml::Value::try_from(Config::default()).unwrap();
        let mut serialised = Vec::new();
        for (section, keys) in value.as_table().unwrap() {
            for key in keys.as_table().unwrap().keys() {
                serialised.push((section.clone(), key.clone()));
            }
        }
        serialised.sort();
        let mut listed: Vec<_> =
            KEYS.iter().map(|key| (key.section.to_owned(), key.name.to_owned())).collect();
        listed.sort();
        assert_eq!(serialised, listed);
    }

    #[test]
    fn the_defaults_of_the_limits_are_those_of_the_protocol() {
        let limits = proto::Limits::default();
        let section = LimitsSection::default();
        assert_eq!(section.message_bytes_max, limits.message_bytes_max);
        assert_eq!(section.event_bytes_max, limits.event_bytes_max);
        assert_eq!(section.tags_max, limits.tags_max);
        assert_eq!(section.tag_elements_max, limits.tag_elements_max);
        assert_eq!(section.filters_max, limits.filters_max);
        assert_eq!(section.filter_values_max, limits.filter_values_max);
        assert_eq!(section.max_limit, limits.max_limit);
        assert_eq!(section.default_limit, limits.default_limit);
        assert_eq!(section.created_at_past_s, limits.created_at_past_s);
        assert_eq!(section.created_at_future_s, limits.created_at_future_s);
    }
}
