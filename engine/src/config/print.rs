//! The configuration as a file that explains itself.

use super::{Config, KEYS, Reload, SECTIONS};
use std::fmt::Write;

/// The whole configuration as TOML: each key with its comment, its default where the value differs
/// from it, and a mark where a change takes a restart.
pub fn print(config: &Config) -> String {
    let values = to_table(config);
    let defaults = to_table(&Config::default());
    let mut out = String::from(
        "# Turnpike configuration. Every key is shown with its value in use; a file needs only the\n\
         # keys that differ. Flags come before the environment (TURNPIKE_SECTION__KEY), and that\n\
         # before this file. Keys marked (restart required) are read at start only, the others\n\
         # also on SIGHUP.\n",
    );
    for (section, doc) in SECTIONS {
        out.push('\n');
        write_doc(&mut out, doc);
        let _ = writeln!(out, "[{section}]");
        for key in KEYS.iter().filter(|key| key.section == *section) {
            out.push('\n');
            write_doc(&mut out, key.doc);
            let value = &values[*section][key.name];
            let default = &defaults[*section][key.name];
            let restart = if key.reload == Reload::Restart { " (restart required)" } else { "" };
            let _ = writeln!(out, "# Default: {default}{restart}");
            let _ = writeln!(out, "{} = {value}", key.name);
        }
    }
    out
}

fn to_table(config: &Config) -> toml::Table {
    // Strings, numbers, lists and booleans under fixed names: nothing that TOML cannot hold.
    toml::Table::try_from(config).expect("the configuration consists of TOML's own types")
}

fn write_doc(out: &mut String, doc: &[&str]) {
    for line in doc {
        let _ = writeln!(out, "#{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};

    #[test]
    fn what_is_printed_reads_back_equal() {
        let mut config = Config::default();
        config.network.listen = "0.0.0.0:1234".into();
        config.network.trusted_proxies = vec!["10.0.0.0/8".into()];
        config.relay.description = "says \"hello\"\nin two lines".into();
        let printed = print(&config);
        let source = Source { text: &printed, name: "printed" };
        assert_eq!(load(Some(source), &[]).unwrap(), config);
        assert!(printed.contains("# Default: \"127.0.0.1:7777\" (restart required)\nlisten = "));
        assert!(printed.contains("# Default: 100\nmessages_per_second = 100"));
    }
}
