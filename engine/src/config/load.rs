//! Reading the configuration: file, then environment, with errors that name the key and suggest the
//! one that was meant.

use super::{Config, KEYS, SECTIONS};

/// Prefix of environment variables; `TURNPIKE_NETWORK__LISTEN` is `network.listen`.
const PREFIX: &str = "TURNPIKE_";

/// Most that a key in MiB may say, 64 TiB: a sum of budgets over all cores and shards stays far
/// within 64 bits.
const MIB_MAX: u64 = 1 << 26;
/// Most that one connection's output may be allowed to hold, 1 GiB.
const OUTBOX_HARD_KIB_MAX: u64 = 1 << 20;

/// Variables of our prefix that name no key: the file, and what the tests are told.
const OTHER_VARIABLES: &[&str] = &[
    "TURNPIKE_CONFIG",
    "TURNPIKE_RUNTIMES",
    "TURNPIKE_KILLS",
    "TURNPIKE_CORPUS",
    "TURNPIKE_REQUESTS",
    "TURNPIKE_SEED",
    "TURNPIKE_SDK_CLIENT",
    "TURNPIKE_CLIENTS_REQUIRED",
    "TURNPIKE_CONNECTIONS",
    "TURNPIKE_FLOW",
    "TURNPIKE_COMMANDS_EVENTS",
    "TURNPIKE_COMMANDS_KILLS",
    "TURNPIKE_STRFRY",
];
/// Beginning of the variables that name the binaries under test.
const BINARY_PREFIX: &str = "TURNPIKE_BIN";

/// Variables that look like ours and mean nothing, such as `TURNPIKE_NETWORK_LISTEN` with one
/// underscore. Other programs may set them, so they are worth a warning and not an error.
pub fn unknown_variables(env: &[(String, String)]) -> Vec<&str> {
    let names = env.iter().map(|(variable, _)| variable.as_str());
    names
        .filter(|name| {
            name.starts_with(PREFIX)
                && split_variable(name).is_none()
                && !name.starts_with(BINARY_PREFIX)
                && !OTHER_VARIABLES.contains(name)
        })
        .collect()
}

/// The text of a configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// TOML.
    pub text: &'a str,
    /// Its path, for messages.
    pub name: &'a str,
}

/// What is wrong with a configuration. The operator's fault, so the text says where and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is no TOML, or a value has the wrong type.
    #[error("{source_name}: {message}")]
    Malformed {
        /// File or variable.
        source_name: String,
        /// The parser's words, with line and column.
        message: String,
    },
    /// A key that does not exist.
    #[error("{source_name}: unknown key `{key}`{suggestion}")]
    UnknownKey {
        /// File (with line) or variable.
        source_name: String,
        /// As written.
        key: String,
        /// ` (did you mean …?)` or nothing.
        suggestion: String,
    },
    /// A value that cannot be.
    #[error("{key} = {value}: {message}")]
    BadValue {
        /// Full name of the key.
        key: &'static str,
        /// As given.
        value: String,
        /// What is allowed.
        message: String,
    },
}

/// Reads the configuration from a file's text and the environment's variables.
///
/// # Errors
/// [`ConfigError`] names the first key that is wrong.
pub fn load(file: Option<Source<'_>>, env: &[(String, String)]) -> Result<Config, ConfigError> {
    let mut table = match file {
        None => toml::Table::new(),
        Some(source) => read_file(source)?,
    };
    for (variable, value) in env {
        if let Some((section, key)) = split_variable(variable) {
            apply_variable(&mut table, variable, (&section, &key), value)?;
        }
    }
    let config: Config =
        table.try_into().map_err(|error: toml::de::Error| ConfigError::Malformed {
            source_name: "environment".into(),
            message: error.message().into(),
        })?;
    config.check()?;
    Ok(config)
}

fn read_file(source: Source<'_>) -> Result<toml::Table, ConfigError> {
    let malformed = |error: toml::de::Error| ConfigError::Malformed {
        source_name: source.name.into(),
        message: error.to_string(),
    };
    let table: toml::Table = source.text.parse().map_err(malformed)?;
    for (section, value) in &table {
        if !SECTIONS.iter().any(|(known, _)| known == section) {
            return Err(unknown(source, section, section));
        }
        for key in value.as_table().into_iter().flat_map(|keys| keys.keys()) {
            let full = format!("{section}.{key}");
            if !full_names().any(|known| known == full) {
                return Err(unknown(source, &full, key));
            }
        }
    }
    // With the text at hand, a wrong type is shown with its line.
    toml::from_str::<Config>(source.text).map_err(malformed)?;
    Ok(table)
}

fn unknown(source: Source<'_>, full: &str, written: &str) -> ConfigError {
    let line = source.text.lines().position(|line| {
        let line = line.trim_start().trim_start_matches('[');
        line.strip_prefix(written).is_some_and(|rest| {
            !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')
        })
    });
    let source_name = match line {
        Some(index) => format!("{}:{}", source.name, index + 1),
        None => source.name.to_owned(),
    };
    ConfigError::UnknownKey { source_name, key: full.into(), suggestion: unknown_key(full) }
}

fn full_names() -> impl Iterator<Item = String> {
    KEYS.iter().map(|key| format!("{}.{}", key.section, key.name))
}

/// The ending of an error about an unknown key: ` (did you mean …?)`, or nothing.
pub fn unknown_key(written: &str) -> String {
    let last = written.rsplit('.').next().unwrap_or(written);
    let sections = SECTIONS.iter().map(|(section, _)| (*section).to_owned());
    let candidates = full_names().chain(sections);
    let nearest = candidates
        .map(|known| {
            let known_last = known.rsplit('.').next().unwrap_or(&known);
            (distance(written, &known).min(distance(last, known_last)), known)
        })
        .min();
    match nearest {
        Some((edits, known)) if edits <= 1 + last.len() / 4 => {
            format!(" (did you mean `{known}`?)")
        }
        _ => " (`turnpike config print` lists all keys)".into(),
    }
}

/// Insertions, deletions and substitutions between two short texts.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, left_char) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, right_char) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(left_char != *right_char);
            diagonal = row[at + 1];
            row[at + 1] = substituted.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// `TURNPIKE_NETWORK__LISTEN` becomes `network`, `listen`; other variables are not ours.
fn split_variable(variable: &str) -> Option<(String, String)> {
    let (section, key) = variable.strip_prefix(PREFIX)?.split_once("__")?;
    Some((section.to_ascii_lowercase(), key.to_ascii_lowercase()))
}

fn apply_variable(
    table: &mut toml::Table,
    variable: &str,
    (section, key): (&str, &str),
    text: &str,
) -> Result<(), ConfigError> {
    let full = format!("{section}.{key}");
    if !full_names().any(|known| known == full) {
        return Err(ConfigError::UnknownKey {
            source_name: variable.into(),
            suggestion: unknown_key(&full),
            key: full,
        });
    }
    // A value may be written as TOML (`100`, `true`, `["10.0.0.0/8"]`); anything else is a string,
    // and so is everything whose key wants one.
    let parsed = format!("value = {text}").parse::<toml::Table>().ok();
    let parsed = parsed.and_then(|mut parsed| parsed.remove("value"));
    let as_string = toml::Value::String(text.into());
    let candidates = [parsed.unwrap_or_else(|| as_string.clone()), as_string];
    let mut failure = String::new();
    for value in candidates {
        let mut keys = toml::Table::new();
        keys.insert(key.into(), value.clone());
        let mut alone = toml::Table::new();
        alone.insert(section.into(), toml::Value::Table(keys));
        match alone.try_into::<Config>() {
            Ok(_) => {
                let keys =
                    table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                if let Some(keys) = keys.as_table_mut() {
                    keys.insert(key.into(), value);
                }
                return Ok(());
            }
            Err(error) => failure = error.message().trim().into(),
        }
    }
    Err(ConfigError::Malformed { source_name: variable.into(), message: failure })
}

impl Config {
    /// Refuses what types alone do not rule out.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names the first key that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        check(self)
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let limits = &config.limits;
    check_value("network.listen", &config.network.listen, "an address and port", |text| {
        text.parse::<std::net::SocketAddr>().is_ok()
    })?;
    for block in &config.network.trusted_proxies {
        check_value("network.trusted_proxies", block, "an address or CIDR block", is_block)?;
    }
    for block in &config.network.metrics_allow {
        check_value("network.metrics_allow", block, "an address or CIDR block", is_block)?;
    }
    check_value("relay.pubkey", &config.relay.pubkey, "64 lower-case hex digits", |text| {
        text.is_empty() || proto::PublicKey::from_hex(text.as_bytes()).is_some()
    })?;
    check_value("relay.public_url", &config.relay.public_url, "a ws:// or wss:// URL", |text| {
        text.is_empty() || text.starts_with("ws://") || text.starts_with("wss://")
    })?;
    check_range("limits.filters_max", limits.filters_max as u64, (1, 128))?;
    check_range("limits.subscriptions_max", limits.subscriptions_max as u64, (1, 100_000))?;
    check_range("limits.message_bytes_max", limits.message_bytes_max as u64, (1_024, 64 << 20))?;
    let event_bytes_max = limits.message_bytes_max as u64;
    check_range("limits.event_bytes_max", limits.event_bytes_max as u64, (512, event_bytes_max))?;
    check_range("limits.default_limit", limits.default_limit.into(), (0, limits.max_limit.into()))?;
    check_range("network.connections_max", config.network.connections_max.into(), (1, 10_000_000))?;
    check_range("network.ping_interval_ms", config.network.ping_interval_ms, (10, 86_400_000))?;
    for text in &config.sync.filters {
        check_value("sync.filters", text, "a filter as in REQ", |text| {
            proto::parse::parse_filter(text.as_bytes(), &proto::Limits::default()).is_ok()
        })?;
    }
    check_range("sync.filters (their number)", config.sync.filters.len() as u64, (0, 4))?;
    check_range("sync.sessions_max", config.sync.sessions_max as u64, (1, 1_000))?;
    check_range("sync.records_max", config.sync.records_max, (1, 1 << 32))?;
    check_range("compression.level", config.compression.level.into(), (1, 9))?;
    check_range("store.shards", config.store.shards.into(), (0, 256))?;
    // Recovery reads a whole segment into memory, so a larger one would need as much to start.
    check_range("store.segment_mib", config.store.segment_mib.into(), (1, 256))?;
    check_range("store.erase_after_h", config.store.erase_after_h.into(), (1, 8_760))?;
    check_range("store.checkpoint_events", config.store.checkpoint_events.into(), (1, 1 << 24))?;
    // No client waits longer than a minute, and the relay's end waits for answers, too.
    check_range("policy.timeout_ms", config.policy.timeout_ms, (10, 60_000))?;
    check_range("policy.in_flight_max", config.policy.in_flight_max as u64, (1, 16_384))?;
    let hard_kib = config.memory.outbox_hard_kib;
    check_range("memory.outbox_hard_kib", hard_kib, (16, OUTBOX_HARD_KIB_MAX))?;
    check_range("memory.outbox_soft_kib", config.memory.outbox_soft_kib, (16, hard_kib))?;
    for (key, mib) in [
        ("memory.memory_max_mib", config.memory.memory_max_mib),
        ("memory.outbox_total_mib", config.memory.outbox_total_mib),
        ("memory.input_total_mib", config.memory.input_total_mib),
        ("memory.pages_total_mib", config.memory.pages_total_mib),
        ("memory.sync_total_mib", config.memory.sync_total_mib),
        ("memory.filters_total_mib", config.memory.filters_total_mib),
        ("memory.delta_mib", config.memory.delta_mib),
        ("memory.hot_mib", config.memory.hot_mib),
    ] {
        check_range(key, mib, (0, MIB_MAX))?;
    }
    Ok(())
}

fn is_block(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max))
}

fn check_value(
    key: &'static str,
    value: &str,
    expected: &str,
    is_valid: impl Fn(&str) -> bool,
) -> Result<(), ConfigError> {
    if is_valid(value) {
        return Ok(());
    }
    let message = format!("expected {expected}");
    Err(ConfigError::BadValue { key, value: format!("{value:?}"), message })
}

fn check_range(key: &'static str, value: u64, (min, max): (u64, u64)) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let message = format!("expected {min} to {max}");
    Err(ConfigError::BadValue { key, value: value.to_string(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Config, ConfigError> {
        load(Some(Source { text, name: "t.toml" }), &[])
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_one_that_was_meant() {
        let error = file("[network]\nlisten = \"127.0.0.1:1\"\nlissten = 1\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "t.toml:3: unknown key `network.lissten` (did you mean `network.listen`?)"
        );
        let error = file("[netwrk]\n").unwrap_err();
        assert_eq!(error.to_string(), "t.toml:1: unknown key `netwrk` (did you mean `network`?)");
        let error = file("[limits]\nmemory_max_mib = 5\n").unwrap_err();
        assert!(error.to_string().contains("did you mean `memory.memory_max_mib`?"), "{error}");
        let error = file("[limits]\nzzzzzzzzzzzzz = 5\n").unwrap_err();
        assert!(error.to_string().contains("config print"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_shown_with_its_line() {
        let error = file("[network]\nbacklog = \"many\"\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn values_out_of_range_name_the_key() {
        let error = file("[limits]\nfilters_max = 1000\n").unwrap_err();
        assert_eq!(error.to_string(), "limits.filters_max = 1000: expected 1 to 128");
        assert!(file("[network]\nlisten = \"localhost\"\n").is_err());
        assert!(file("[network]\ntrusted_proxies = [\"10.0.0.0/40\"]\n").is_err());
        assert!(file("[limits]\nevent_bytes_max = 1000000\n").is_err());
        assert!(file("[store]\nerase_after_h = 0\n").is_err());
        assert!(file("[store]\nerase_after_h = 8760\n").is_ok());
        assert!(file("[store]\nerase_after_h = 8761\n").is_err());
    }

    #[test]
    fn the_environment_comes_before_the_file() {
        let env = [
            ("TURNPIKE_NETWORK__LISTEN", "0.0.0.0:99"),
            ("TURNPIKE_RATES__EVENTS_PER_SECOND", "7"),
            ("TURNPIKE_NETWORK__TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"),
            ("TURNPIKE_RELAY__NAME", "42"),
            ("TURNPIKE_CONFIG", "elsewhere"),
            ("PATH", "/bin"),
        ];
        let env: Vec<_> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let text = "[rates]\nevents_per_second = 3\nmessages_per_second = 4\n";
        let config = load(Some(Source { text, name: "t" }), &env).unwrap();
        assert_eq!(config.network.listen, "0.0.0.0:99");
        assert_eq!((config.rates.events_per_second, config.rates.messages_per_second), (7, 4));
        assert_eq!(config.network.trusted_proxies, ["10.0.0.0/8"]);
        assert_eq!(config.relay.name, "42");
    }

    #[test]
    fn budgets_that_no_machine_has_are_refused() {
        for text in [
            "[memory]\noutbox_hard_kib = 18014398509481984\n",
            "[memory]\nmemory_max_mib = 17592186044416\n",
            "[memory]\noutbox_total_mib = 17592186044416\n",
            "[memory]\nhot_mib = 17592186044416\n",
        ] {
            assert!(matches!(file(text), Err(ConfigError::BadValue { .. })), "{text}");
        }
    }

    #[test]
    fn variables_that_only_look_like_ours_are_found() {
        let names = [
            "TURNPIKE_CONFIG",
            "TURNPIKE_BIN_SKIP_SYNC",
            "TURNPIKE_SEED",
            "TURNPIKE_RATES__EVENTS_PER_SECOND",
            "TURNPIKE_NETWORK_LISTEN",
            "PATH",
        ];
        let env: Vec<_> = names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        assert_eq!(unknown_variables(&env), ["TURNPIKE_NETWORK_LISTEN"]);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let env = [("TURNPIKE_NETWORK__LISSTEN".to_owned(), "x".to_owned())];
        let error = load(None, &env).unwrap_err().to_string();
        assert!(error.starts_with("TURNPIKE_NETWORK__LISSTEN: unknown key"), "{error}");
        let env = [("TURNPIKE_RATES__EVENTS_PER_SECOND".to_owned(), "many".to_owned())];
        let error = load(None, &env).unwrap_err().to_string();
        assert!(error.starts_with("TURNPIKE_RATES__EVENTS_PER_SECOND: "), "{error}");
    }
}
