//! What a reload changes.

use super::{Config, KEYS, Reload};
use toml::Table;

fn to_table(config: &Config) -> Table {
    Table::try_from(config).expect("the configuration consists of TOML's own types")
}

/// `section.key = old -> new`, for each key that differs.
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (to_table(old), to_table(new));
    KEYS.iter()
        .map(|key| (key, &old[key.section][key.name], &new[key.section][key.name]))
        .filter(|(_, old, new)| old != new)
        .map(|(key, old, new)| format!("{}.{}: {old} -> {new}", key.section, key.name))
        .collect()
}

/// `current` with those values of `new` that need no restart.
pub fn merge_live(current: &Config, new: &Config) -> Config {
    let (mut merged, new) = (to_table(current), to_table(new));
    for key in KEYS.iter().filter(|key| key.reload == Reload::Live) {
        merged[key.section][key.name] = new[key.section][key.name].clone();
    }
    merged.try_into().expect("each value comes from the key of the same name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_live_keys_are_merged_and_each_difference_is_named() {
        let current = Config::default();
        let mut new = Config::default();
        new.rates.events_per_second = 9;
        new.network.listen = "0.0.0.0:1".into();
        let merged = merge_live(&current, &new);
        assert_eq!(merged.rates.events_per_second, 9);
        assert_eq!(merged.network.listen, current.network.listen);
        assert_eq!(differences(&current, &merged), ["rates.events_per_second: 50 -> 9"]);
        let left = differences(&merged, &new);
        assert_eq!(left, ["network.listen: \"127.0.0.1:7777\" -> \"0.0.0.0:1\""]);
    }
}
