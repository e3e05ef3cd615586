//! The one table of kernel settings: what each is, what it should be for this relay on this machine,
//! and why. The checks judge by it, and the plan writes it.

use crate::host::{self, Host, Unreadable};
use crate::machine::Machine;
use crate::needs::Needs;

/// Least that a queue of packets which a processor has not looked at yet should hold.
const BACKLOG_PACKETS_MIN: u64 = 8_192;
/// What kernels from 5.4 on have by themselves.
const SOMAXCONN_USUAL: u64 = 4_096;
/// No less than kernels work out for themselves from the memory of a large machine.
const SYN_BACKLOG_SET: u64 = 16_384;
/// As many as kernels have on a machine of 4 GiB and more.
const CONNTRACK_SET: u64 = 262_144;
/// What kernels have by themselves.
const NR_OPEN_USUAL: u64 = 1_048_576;
/// Kernels allow far more, as their memory permits.
const FILE_MAX_SET: u64 = 16_777_216;
/// Outgoing ports that a proxy on the same machine uses up: one per client, to one address.
const PORTS_SPARE_PERCENT: u64 = 125;
/// The widest range of ports that leaves those alone on which services usually listen.
const PORTS_WIDE: (u64, u64) = (10_240, 65_535);
/// How readily the kernel may push anonymous memory out to disk.
const SWAPPINESS_MAX: u64 = 10;
/// Unwritten bytes from which the kernel begins to write by itself, and at which it makes writers
/// wait.
const DIRTY_BACKGROUND_BYTES: u64 = 128 << 20;
const DIRTY_BYTES: u64 = 1 << 30;
/// What they may be before it is worth a word.
const DIRTY_BACKGROUND_BYTES_MAX: u64 = 256 << 20;
const DIRTY_BYTES_MAX: u64 = 2 << 30;

/// What a value should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// `least` or more; else `set`, which is no less than any kernel has by itself.
    AtLeast {
        /// What is enough.
        least: u64,
        /// What to write.
        set: u64,
    },
    /// This or less.
    AtMost(u64),
    /// Two numbers at least so far apart; else `set`.
    Span {
        /// Numbers in the range.
        width: u64,
        /// What to write.
        set: (u64, u64),
    },
    /// One of these words; the first is written.
    OneOf(&'static [&'static str]),
}

/// One kernel setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Such as `net.core.somaxconn`.
    pub key: &'static str,
    /// What it is, with single spaces.
    pub is: Result<String, Unreadable>,
    /// What it should be.
    pub want: Want,
    /// Why.
    pub why: String,
    /// Kernels have enough of it by themselves: where it cannot be read, nothing is written.
    pub is_usual: bool,
    /// The setting that takes over while this one is 0, as a ratio does for bytes.
    pub twin: Option<&'static str>,
}

impl Setting {
    /// The file of the kernel that holds it.
    pub fn path(&self) -> String {
        path_of(self.key)
    }

    /// Whether it is as it should be; `None` when it cannot be read.
    pub fn is_met(&self) -> Option<bool> {
        let is = self.is.as_ref().ok()?;
        let number = || is.parse::<u64>().ok();
        Some(match &self.want {
            Want::AtLeast { least, .. } => number().is_some_and(|number| number >= *least),
            Want::AtMost(most) => number().is_some_and(|number| number <= *most),
            Want::Span { width, .. } => span(is).is_some_and(|(low, high)| high - low >= *width),
            Want::OneOf(words) => words.contains(&is.as_str()),
        })
    }

    /// What is written where it is not met.
    pub fn target(&self) -> String {
        match &self.want {
            Want::AtLeast { set: number, .. } | Want::AtMost(number) => number.to_string(),
            Want::Span { set: (low, high), .. } => format!("{low} {high}"),
            Want::OneOf(words) => words[0].to_owned(),
        }
    }

    /// The same in words.
    pub fn should(&self) -> String {
        match &self.want {
            Want::AtLeast { least, .. } => format!("at least {least}"),
            Want::AtMost(number) => format!("at most {number}"),
            Want::Span { width, .. } => format!("{width} numbers or more"),
            Want::OneOf(words) => words.join(" or "),
        }
    }
}

/// The file of a setting.
pub fn path_of(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// The two numbers of a range.
pub(crate) fn span(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high)), None) if low <= high => Some((low, high)),
        _ => None,
    }
}

/// A value as its file has it, with single spaces.
///
/// # Errors
/// [`Unreadable`].
pub fn value(host: &dyn Host, key: &str) -> Result<String, Unreadable> {
    let text = host::text(host, &path_of(key))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether the kernel has BBR, loaded or as a module that it loads when it is asked for.
pub(crate) fn has_bbr(host: &dyn Host) -> Result<bool, Unreadable> {
    let available = value(host, "net.ipv4.tcp_available_congestion_control")?;
    if available.split(' ').any(|name| name == "bbr") {
        return Ok(true);
    }
    let release = value(host, "kernel.osrelease")?;
    let modules = format!("/lib/modules/{release}");
    let folder = host::list(host, &format!("{modules}/kernel/net/ipv4")).unwrap_or_default();
    let built_in = host::text(host, &format!("{modules}/modules.builtin")).unwrap_or_default();
    let is_bbr = |name: &str| name.starts_with("tcp_bbr.ko");
    Ok(folder.iter().any(|name| is_bbr(name)) || built_in.contains("/tcp_bbr.ko"))
}

/// Bytes of memory, as `/proc/meminfo` says.
pub(crate) fn meminfo(host: &dyn Host, field: &str) -> Result<u64, Unreadable> {
    let path = "/proc/meminfo";
    let text = host::text(host, path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| Unreadable::odd(path, &format!("no {field}")))
}

/// All settings that concern a relay with these needs. What this kernel does not have and nobody
/// misses is left out: connection tracking that is not loaded, memory nodes where there is one.
pub fn all(host: &dyn Host, machine: &Machine, needs: &Needs) -> Vec<Setting> {
    let mut settings = network(host, needs);
    settings.extend(memory(host, machine));
    settings.extend(descriptors(host, needs));
    settings
}

/// At least so much, for which `usual` is written if it is more.
fn at_least(least: u64, usual: u64) -> Want {
    Want::AtLeast { least, set: least.max(usual) }
}

struct Reader<'a>(&'a dyn Host);

impl Reader<'_> {
    fn setting(&self, key: &'static str, want: Want, why: impl Into<String>) -> Setting {
        Setting { key, is: value(self.0, key), want, why: why.into(), is_usual: false, twin: None }
    }
}

fn network(host: &dyn Host, needs: &Needs) -> Vec<Setting> {
    let read = Reader(host);
    let ports =
        (needs.connections_max * PORTS_SPARE_PERCENT / 100).min(PORTS_WIDE.1 - PORTS_WIDE.0);
    let mut settings = vec![
        read.setting(
            "net.core.somaxconn",
            at_least(needs.backlog, SOMAXCONN_USUAL),
            "the kernel cuts network.backlog down to it; a rush of clients after a restart is \
             refused beyond it",
        ),
        read.setting(
            "net.ipv4.tcp_max_syn_backlog",
            at_least(needs.backlog, SYN_BACKLOG_SET),
            "half-open connections that may wait; a rush of clients fills it first",
        ),
        read.setting(
            "net.ipv4.tcp_syncookies",
            Want::OneOf(&["1", "2"]),
            "without them a flood of half-open connections locks everybody out",
        ),
        read.setting(
            "net.core.netdev_max_backlog",
            at_least(BACKLOG_PACKETS_MIN, BACKLOG_PACKETS_MIN),
            "packets from a proxy on this machine, a container's bridge or packet steering wait \
             here for a processor; what does not fit is dropped",
        ),
        read.setting(
            "net.ipv4.ip_local_port_range",
            Want::Span { width: ports, set: PORTS_WIDE },
            "a proxy on this machine takes one of these ports per client; the range has to hold \
             network.connections_max and a quarter more",
        ),
        read.setting(
            "net.ipv4.tcp_slow_start_after_idle",
            Want::OneOf(&["0"]),
            "a subscription is silent for minutes and then gets a burst, which would begin as \
             slowly as a new connection",
        ),
    ];
    settings[0].is_usual = needs.backlog <= SOMAXCONN_USUAL;
    // In an image nothing says what its kernel can do; a kernel without BBR ignores the line.
    if has_bbr(host).unwrap_or(true) {
        settings.push(read.setting(
            "net.core.default_qdisc",
            Want::OneOf(&["fq", "fq_codel"]),
            "spreads what a connection sends over time, as BBR wants it; holds for interfaces that \
             come up after it is set",
        ));
        settings.push(read.setting(
            "net.ipv4.tcp_congestion_control",
            Want::OneOf(&["bbr"]),
            "clients on phones lose packets without congestion, and cubic takes each loss for it",
        ));
    }
    let tracked = needs.connections_max * 2;
    let conntrack = read.setting(
        "net.netfilter.nf_conntrack_max",
        at_least(tracked, CONNTRACK_SET),
        "the firewall tracks every connection, also ones that have ended; at this number it drops \
         new ones, and the kernel log says `table full`",
    );
    if conntrack.is.is_ok() {
        settings.push(conntrack);
    }
    settings
}

fn memory(host: &dyn Host, machine: &Machine) -> Vec<Setting> {
    let read = Reader(host);
    let mut settings = Vec::new();
    let has_swap = host::text(host, "/proc/swaps").map(|text| text.lines().count() > 1);
    // Without swap it means nothing.
    if has_swap.unwrap_or(true) {
        settings.push(read.setting(
            "vm.swappiness",
            Want::AtMost(SWAPPINESS_MAX),
            "a core that waits for its memory to come back from the disk serves nobody meanwhile",
        ));
    }
    let dirty = [
        (
            "vm.dirty_background_bytes",
            "vm.dirty_background_ratio",
            (DIRTY_BACKGROUND_BYTES, DIRTY_BACKGROUND_BYTES_MAX),
            "unwritten bytes of all programs from which the kernel begins to write; where it lets \
             gigabytes gather, a backup's flood stands before the log's next sync, and OK waits",
        ),
        (
            "vm.dirty_bytes",
            "vm.dirty_ratio",
            (DIRTY_BYTES, DIRTY_BYTES_MAX),
            "unwritten bytes at which the kernel makes every writer wait",
        ),
    ];
    for (key, twin, (target, most), why) in dirty {
        let mut setting = read.setting(key, Want::AtMost(target), why);
        setting.twin = Some(twin);
        // A ratio of the memory is in force while the bytes are 0; and what is only a little
        // larger than the target is left alone.
        if let Some(effective) = effective_dirty(host, key, twin) {
            setting.is = Ok(effective.to_string());
            setting.want = if effective <= most { Want::AtMost(most) } else { setting.want };
        }
        settings.push(setting);
    }
    if machine.nodes().len() > 1 {
        settings.push(read.setting(
            "kernel.numa_balancing",
            Want::OneOf(&["0"]),
            "executors stay where they are and so does their memory; moving pages about after them \
             only costs faults",
        ));
        settings.push(read.setting(
            "vm.zone_reclaim_mode",
            Want::OneOf(&["0"]),
            "else a full node throws its page cache away while the other has room",
        ));
    }
    settings
}

/// Bytes that a limit of unwritten pages comes to; `None` when that cannot be read.
fn effective_dirty(host: &dyn Host, key: &str, twin: &str) -> Option<u64> {
    let bytes: u64 = value(host, key).ok()?.parse().ok()?;
    if bytes > 0 {
        return Some(bytes);
    }
    let ratio: u64 = value(host, twin).ok()?.parse().ok()?;
    // The kernel takes the ratio of what could be made available, which is about the memory.
    Some(meminfo(host, "MemTotal").ok()? / 100 * ratio)
}

fn descriptors(host: &dyn Host, needs: &Needs) -> Vec<Setting> {
    let read = Reader(host);
    let wanted = needs.descriptors();
    let mut settings = vec![
        read.setting(
            "fs.nr_open",
            at_least(wanted, NR_OPEN_USUAL),
            "no process can be given more descriptors than this, whatever its unit says",
        ),
        read.setting(
            "fs.file-max",
            at_least(wanted * 2, FILE_MAX_SET),
            "descriptors of all processes together",
        ),
    ];
    settings[0].is_usual = wanted <= NR_OPEN_USUAL;
    settings[1].is_usual = wanted * 2 <= FILE_MAX_SET;
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fake::{Fake, needs};

    fn setting(fake: &Fake, key: &str) -> Option<Setting> {
        let all = all(&fake.tree(), &Machine::plain(4), &needs());
        all.into_iter().find(|setting| setting.key == key)
    }

    #[test]
    fn a_setting_that_is_better_than_wanted_is_met() {
        let fake = Fake::new();
        for (value, met) in [("65535\n", true), ("4096", true), ("128", false), ("many", false)] {
            fake.write("/proc/sys/net/core/somaxconn", value);
            assert_eq!(
                setting(&fake, "net.core.somaxconn").unwrap().is_met(),
                Some(met),
                "{value}"
            );
        }
        fake.remove("/proc/sys/net/core/somaxconn");
        let absent = setting(&fake, "net.core.somaxconn").unwrap();
        assert_eq!((absent.is_met(), absent.target()), (None, "4096".to_owned()));
    }

    #[test]
    fn a_range_is_judged_by_its_width() {
        let fake = Fake::new();
        for (value, met) in
            [("32768\t60999\n", true), ("40000 60000", false), ("9 1", false), ("1", false)]
        {
            fake.write("/proc/sys/net/ipv4/ip_local_port_range", value);
            let setting = setting(&fake, "net.ipv4.ip_local_port_range").unwrap();
            assert_eq!(setting.is_met(), Some(met), "{value}");
        }
    }

    #[test]
    fn a_ratio_of_the_memory_counts_while_the_bytes_are_zero() {
        let fake = Fake::new();
        fake.write("/proc/meminfo", "MemTotal:       16777216 kB\n");
        fake.write("/proc/sys/vm/dirty_background_bytes", "0");
        fake.write("/proc/sys/vm/dirty_background_ratio", "10");
        let read = || setting(&fake, "vm.dirty_background_bytes").unwrap();
        assert_eq!(read().is_met(), Some(false), "a tenth of 16 GiB");
        assert_eq!(read().target(), (128 << 20).to_string());
        fake.write("/proc/sys/vm/dirty_background_ratio", "1");
        assert_eq!(read().is_met(), Some(true), "164 MiB are near enough");
        fake.write("/proc/sys/vm/dirty_background_bytes", "1073741824");
        assert_eq!(read().is_met(), Some(false));
    }

    #[test]
    fn what_the_kernel_does_not_have_is_left_out() {
        let fake = Fake::new();
        assert!(setting(&fake, "net.netfilter.nf_conntrack_max").is_none());
        fake.write("/proc/sys/net/netfilter/nf_conntrack_max", "16384");
        assert_eq!(setting(&fake, "net.netfilter.nf_conntrack_max").unwrap().is_met(), Some(false));
        let bbr = "net.ipv4.tcp_congestion_control";
        fake.write("/proc/sys/net/ipv4/tcp_available_congestion_control", "reno cubic\n");
        fake.write("/proc/sys/kernel/osrelease", "6.1.0\n");
        assert!(setting(&fake, bbr).is_none());
        fake.write("/lib/modules/6.1.0/kernel/net/ipv4/tcp_bbr.ko.xz", "");
        assert!(setting(&fake, bbr).is_some(), "it is loaded when it is asked for");
        fake.write("/proc/swaps", "Filename Type Size Used Priority\n");
        assert!(setting(&fake, "vm.swappiness").is_none(), "without swap it means nothing");
        assert!(setting(&fake, "kernel.numa_balancing").is_none());
        let sockets = crate::machine::tests::two_sockets(2, false);
        let all = all(&fake.tree(), &sockets, &needs());
        assert!(all.iter().any(|setting| setting.key == "kernel.numa_balancing"));
    }
}
