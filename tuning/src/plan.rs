//! What `turnpike tune` would write: three files, and values of the running kernel.

use crate::checks::chosen;
use crate::cpus::CpuList;
use crate::host::{self, Host};
use crate::machine::{CPUS, Machine};
use crate::needs::Needs;
use crate::settings::{self, Setting};
use crate::text;
use serde_json::{Value, json};
use std::fmt::Write;

/// Kernel settings, for the next boot.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/90-turnpike.conf";
/// Values in `/sys`, for the next boot.
pub const TMPFILES_FILE: &str = "/etc/tmpfiles.d/90-turnpike.conf";
/// Limits and processors of the service.
pub const UNIT_FILE: &str = "/etc/systemd/system/turnpike.service.d/90-turnpike.conf";
/// The unit that it adds to.
const UNIT: &str = "turnpike.service";
/// Where units are found.
const UNIT_FOLDERS: [&str; 3] =
    ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/// Where files of kernel settings are found; of equal names the first counts.
const SYSCTL_FOLDERS: [&str; 4] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"];

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// What systemd gives a service anyway; a drop-in must not lower it.
const NOFILE_DEFAULT: u64 = 524_288;
/// Columns of a comment.
const COMMENT_COLUMNS: usize = 78;

const HEADER: &str =
    "# What `turnpike tune --apply` writes, and `turnpike tune --undo` takes back.\n";

/// What the operator wants beside what the machine lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Processors that the service is kept to.
    pub cpus: Option<CpuList>,
    /// Whether `kernel.io_uring_disabled` may be lifted. It is some distributions' decision about
    /// security, and not one to be undone in passing.
    pub allows_io_uring: bool,
}

/// A file as it should become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// Where.
    pub path: &'static str,
    /// What is to be in it; `None` when there is nothing to say, and what was there before stays or
    /// comes back.
    pub text: Option<String>,
}

/// A value of the running kernel as it should become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedValue {
    /// Its file.
    pub path: String,
    /// What to write.
    pub set: String,
    /// The file whose value the kernel clears when this one is written.
    pub twin: Option<String>,
}

/// What would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The files.
    pub files: Vec<PlannedFile>,
    /// The values that make it hold at once.
    pub values: Vec<PlannedValue>,
    /// What the operator should know before.
    pub notes: Vec<String>,
}

impl Plan {
    /// What is to be done on `host`, which shows each value as it was before the first plan was
    /// carried out ([`crate::journal::Baseline`]): what was good then is left alone, and a plan that
    /// has been carried out is made again the same.
    pub fn new(host: &dyn Host, machine: &Machine, needs: &Needs, wishes: &Wishes) -> Self {
        let mut unmet: Vec<Setting> = settings::all(host, machine, needs)
            .into_iter()
            .filter(|setting| match setting.is_met() {
                Some(is_met) => !is_met,
                None => !setting.is_usual,
            })
            .collect();
        let io_uring = settings::value(host, "kernel.io_uring_disabled");
        if wishes.allows_io_uring && io_uring.as_deref() != Ok("0") {
            unmet.push(Setting {
                key: "kernel.io_uring_disabled",
                is: io_uring,
                want: settings::Want::OneOf(&["0"]),
                why: "asked for with --allow-io-uring: the relay runs on it where it may".into(),
                is_usual: false,
                twin: None,
            });
        }
        let sys = sys_values(host, machine);
        // What is not there cannot be set; its line in the file is for another kernel.
        let there = unmet.iter().filter(|setting| setting.is.is_ok());
        let mut values: Vec<PlannedValue> = there.map(planned).collect();
        values.extend(sys.iter().flat_map(|one| {
            one.paths.iter().map(|path| PlannedValue {
                path: path.clone(),
                set: one.set.into(),
                twin: None,
            })
        }));
        let files = vec![
            PlannedFile { path: SYSCTL_FILE, text: sysctl_text(&unmet, needs) },
            PlannedFile { path: TMPFILES_FILE, text: tmpfiles_text(&sys) },
            PlannedFile { path: UNIT_FILE, text: Some(unit_text(machine, needs, wishes)) },
        ];
        let mut notes = overridden(host, &unmet);
        notes.extend(bad_cpus(machine, wishes));
        if !UNIT_FOLDERS.iter().any(|folder| host.read(&format!("{folder}/{UNIT}")).is_ok()) {
            notes.push(format!(
                "There is no {UNIT} yet, which {UNIT_FILE} adds to: turnpike tune --show unit prints \
                 one"
            ));
        }
        Self { files, values, notes }
    }

    /// The text that a file would get.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path)?.text.as_deref()
    }

    /// What would change on `host`, for people; `with_values` also of the running kernel. Empty when
    /// nothing would.
    pub fn describe(&self, host: &dyn Host, with_values: bool) -> String {
        let mut out = String::new();
        for (file, before, after) in self.changed_files(host) {
            let state = |text: &Option<String>| if text.is_some() { "" } else { " (none)" };
            let _ = writeln!(out, "--- {}{}", file.path, state(&before));
            let _ = writeln!(out, "+++ {}{}", file.path, state(&after));
            out.push_str(&text::difference(
                before.as_deref().unwrap_or_default(),
                after.as_deref().unwrap_or_default(),
            ));
            out.push('\n');
        }
        let values = if with_values { self.changed_values(host) } else { Vec::new() };
        if !values.is_empty() {
            let _ = writeln!(out, "In the running kernel:");
            for (value, before) in values {
                let _ = writeln!(out, "  {}: {before} -> {}", value.path, value.set);
            }
            out.push('\n');
        }
        out
    }

    /// The same for programs.
    pub fn json(&self, host: &dyn Host) -> Value {
        let files: Vec<Value> = self
            .changed_files(host)
            .into_iter()
            .map(|(file, before, after)| json!({"path": file.path, "before": before, "after": after}))
            .collect();
        let values: Vec<Value> = self
            .changed_values(host)
            .into_iter()
            .map(
                |(value, before)| json!({"path": value.path, "before": before, "after": value.set}),
            )
            .collect();
        json!({"files": files, "values": values, "notes": self.notes})
    }

    /// Files that are not as planned, with what is in them and what should be.
    fn changed_files(
        &self,
        host: &dyn Host,
    ) -> Vec<(&PlannedFile, Option<String>, Option<String>)> {
        let original = crate::journal::originals(host);
        let files = self.files.iter().map(|file| {
            let before = host::text_raw(host, file.path);
            let after = file.text.clone().or_else(|| match original.get(file.path) {
                Some(original) => original.clone(),
                None => before.clone(),
            });
            (file, before, after)
        });
        files.filter(|(_, before, after)| before != after).collect()
    }

    /// Values that are not as planned, with what they are. What is not there is not set.
    fn changed_values(&self, host: &dyn Host) -> Vec<(&PlannedValue, String)> {
        let values = self.values.iter().filter_map(|value| {
            let is = host::text(host, &value.path).ok()?;
            Some((value, normal(&is)))
        });
        values.filter(|(value, is)| *is != value.set).collect()
    }
}

/// A value of the kernel with single spaces; of several to choose from, the one that is chosen.
pub(crate) fn normal(text: &str) -> String {
    chosen(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn planned(setting: &Setting) -> PlannedValue {
    PlannedValue {
        path: setting.path(),
        set: setting.target(),
        twin: setting.twin.map(settings::path_of),
    }
}

/// A value in `/sys` that is to be set.
struct SysValue {
    /// As tmpfiles takes it.
    pattern: String,
    /// The files of this machine.
    paths: Vec<String>,
    set: &'static str,
    why: &'static str,
}

/// Values in `/sys` that are not as they should be. Where there is no `/sys`, as in an image, all
/// that any machine may need.
fn sys_values(host: &dyn Host, machine: &Machine) -> Vec<SysValue> {
    let is_image = host::list(host, CPUS).is_err();
    let mut values = Vec::new();
    let pages = host::text(host, THP);
    if pages.as_ref().map_or(is_image, |pages| chosen(pages) == "always") {
        values.push(SysValue {
            pattern: THP.into(),
            paths: pages.is_ok().then(|| THP.to_owned()).into_iter().collect(),
            set: "madvise",
            why: "memory in pieces of 2 MiB only for those who ask",
        });
    }
    let governor = |cpu: usize| format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor");
    let slow: Vec<String> = machine
        .online()
        .iter()
        .map(governor)
        .filter(|path| host::text(host, path).is_ok_and(|governor| governor != "performance"))
        .collect();
    if is_image || !slow.is_empty() {
        values.push(SysValue {
            pattern: format!("{CPUS}/cpu*/cpufreq/scaling_governor"),
            paths: slow,
            set: "performance",
            why: "a core that sleeps between messages is not clocked down",
        });
    }
    values
}

fn write_comment(out: &mut String, comment: &str) {
    for line in text::wrap(comment, COMMENT_COLUMNS - 2) {
        let _ = writeln!(out, "# {line}");
    }
}

fn sysctl_text(unmet: &[Setting], needs: &Needs) -> Option<String> {
    if unmet.is_empty() {
        return None;
    }
    let mut out = String::from(HEADER);
    let connections = needs.connections_max;
    let _ = writeln!(out, "# For a relay of {connections} connections (network.connections_max).");
    for setting in unmet {
        out.push('\n');
        write_comment(&mut out, &setting.why);
        // What this kernel was not seen to have may be missing at boot, which is no failure then.
        let lenient = if setting.is.is_err() { "-" } else { "" };
        let _ = writeln!(out, "{lenient}{} = {}", setting.key, setting.target());
    }
    Some(out)
}

fn tmpfiles_text(values: &[SysValue]) -> Option<String> {
    if values.is_empty() {
        return None;
    }
    let mut out = String::from(HEADER);
    for value in values {
        out.push('\n');
        write_comment(&mut out, value.why);
        let _ = writeln!(out, "w {} - - - - {}", value.pattern, value.set);
    }
    Some(out)
}

fn unit_text(machine: &Machine, needs: &Needs, wishes: &Wishes) -> String {
    let mut out = String::from(HEADER);
    out.push_str("\n[Service]\n");
    write_comment(
        &mut out,
        &format!(
            "{} connections and the store; never less than the default.",
            needs.connections_max
        ),
    );
    let _ = writeln!(out, "LimitNOFILE={}", needs.descriptors().max(NOFILE_DEFAULT));
    write_comment(
        &mut out,
        "The rings of io_uring, 152 KiB an executor, which some kernels count against it.",
    );
    let _ = writeln!(out, "LimitMEMLOCK=64M");
    let Some(cpus) = &wishes.cpus else { return out };
    write_comment(&mut out, "Asked for with --cpus; executors are pinned within these.");
    let _ = writeln!(out, "CPUAffinity={cpus}");
    let nodes = machine.nodes();
    let home = nodes.iter().find(|(_, of_node)| cpus.is_within(of_node));
    if let (Some((node, _)), true) = (home, nodes.len() > 1) {
        write_comment(&mut out, "All of these are on one memory node.");
        let _ = writeln!(out, "NUMAPolicy=preferred\nNUMAMask={node}");
    }
    out
}

fn bad_cpus(machine: &Machine, wishes: &Wishes) -> Option<String> {
    let missing = wishes.cpus.as_ref()?.without(&machine.online());
    (!missing.is_empty()).then(|| {
        format!("Processors {missing} are not there, or not switched on; the service ignores them")
    })
}

/// Lines of other files that come after ours and set the same to something else.
fn overridden(host: &dyn Host, unmet: &[Setting]) -> Vec<String> {
    let own = SYSCTL_FILE.rsplit('/').next().unwrap_or_default();
    let mut files: Vec<(String, String)> = Vec::new();
    for folder in SYSCTL_FOLDERS {
        for name in host::list(host, folder).unwrap_or_default() {
            let is_known = files.iter().any(|(known, _)| *known == name);
            if name.ends_with(".conf") && *name > *own && !is_known {
                files.push((name.clone(), format!("{folder}/{name}")));
            }
        }
    }
    // Read last of all by sysctl --system, and on some systems at boot.
    files.push(("~".into(), "/etc/sysctl.conf".into()));
    files.sort();
    let mut notes = Vec::new();
    for (_, path) in files {
        let text = host::text(host, &path).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let Some((key, value)) = line.trim().trim_start_matches('-').split_once('=') else {
                continue;
            };
            let key = key.trim().replace('/', ".");
            let theirs = value.split_whitespace().collect::<Vec<_>>().join(" ");
            let ours = unmet.iter().find(|setting| setting.key == key);
            if let Some(ours) = ours.filter(|ours| ours.target() != theirs) {
                notes.push(format!(
                    "{path}:{} sets {key} = {theirs}, and is read after {SYSCTL_FILE}: at the next \
                     boot that counts, and not {}",
                    number + 1,
                    ours.target()
                ));
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fake::{Fake, needs};
    use crate::machine::tests::two_sockets;

    fn plan(fake: &Fake, wishes: &Wishes) -> Plan {
        Plan::new(&fake.tree(), &Machine::plain(4), &needs(), wishes)
    }

    #[test]
    fn what_is_good_already_is_left_alone() {
        let fake = Fake::good();
        fake.write("/usr/lib/systemd/system/turnpike.service", "[Service]\n");
        let plan = plan(&fake, &Wishes::default());
        assert_eq!((plan.text(SYSCTL_FILE), plan.text(TMPFILES_FILE)), (None, None));
        assert!(plan.text(UNIT_FILE).unwrap().contains("\nLimitNOFILE=524288\n"));
        assert!(plan.values.is_empty() && plan.notes.is_empty(), "{plan:?}");
    }

    #[test]
    fn what_is_not_is_written_with_its_reason() {
        let fake = Fake::good();
        fake.write("/proc/sys/net/core/somaxconn", "128\n");
        fake.write("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        fake.write("/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n");
        let plan = plan(&fake, &Wishes::default());
        let sysctl = plan.text(SYSCTL_FILE).unwrap();
        assert!(
            sysctl.contains("# the kernel cuts")
                && sysctl.contains("\nnet.core.somaxconn = 4096\n")
        );
        assert_eq!(sysctl.matches(" = ").count(), 1, "{sysctl}");
        assert_eq!(plan.text(TMPFILES_FILE).unwrap().matches("\nw /sys").count(), 2);
        let shown = plan.describe(&fake.tree(), true);
        assert!(shown.contains("+net.core.somaxconn = 4096"), "{shown}");
        assert!(shown.contains("somaxconn: 128 -> 4096"), "{shown}");
        assert!(shown.contains("enabled: always -> madvise"), "{shown}");
        assert!(!shown.contains("cpu1/") && shown.contains("cpu2/"), "{shown}");
        let json = plan.json(&fake.tree());
        assert_eq!(json["values"].as_array().unwrap().len(), 3);
        assert_eq!(json["files"][0]["before"], Value::Null);
    }

    #[test]
    fn an_image_gets_everything_and_nothing_that_fails_its_boot() {
        let plan = plan(&Fake::new(), &Wishes::default());
        let sysctl = plan.text(SYSCTL_FILE).unwrap();
        assert!(sysctl.contains("\n-net.ipv4.tcp_congestion_control = bbr\n"), "{sysctl}");
        for absent in ["conntrack", "numa", "nr_open", "file-max", "somaxconn"] {
            assert!(!sysctl.contains(absent), "it might be less than the kernel has: {sysctl}");
        }
        assert!(sysctl.lines().all(|line| line.len() <= COMMENT_COLUMNS), "{sysctl}");
        assert!(plan.text(TMPFILES_FILE).unwrap().contains("cpu*/cpufreq"));
        assert!(plan.notes.iter().any(|note| note.contains("--show unit")));
        assert_eq!(plan.values, [], "an image has no kernel that runs");
    }

    #[test]
    fn io_uring_is_allowed_only_when_asked_for() {
        let fake = Fake::good();
        fake.write("/proc/sys/kernel/io_uring_disabled", "2\n");
        assert_eq!(plan(&fake, &Wishes::default()).text(SYSCTL_FILE), None);
        let wishes = Wishes { allows_io_uring: true, ..Wishes::default() };
        let text = plan(&fake, &wishes);
        assert!(text.text(SYSCTL_FILE).unwrap().contains("\nkernel.io_uring_disabled = 0\n"));
    }

    #[test]
    fn processors_of_one_node_keep_their_memory_there() {
        let fake = Fake::good();
        let machine = two_sockets(4, false);
        let unit = |cpus: &str| {
            let wishes = Wishes { cpus: Some(cpus.parse().unwrap()), ..Wishes::default() };
            let plan = Plan::new(&fake.tree(), &machine, &needs(), &wishes);
            (plan.text(UNIT_FILE).unwrap().to_owned(), plan.notes)
        };
        let (text, _) = unit("4-7,12-15");
        assert!(text.ends_with("CPUAffinity=4-7,12-15\n# All of these are on one memory node.\nNUMAPolicy=preferred\nNUMAMask=1\n"), "{text}");
        let (text, notes) = unit("0-7,20");
        assert!(!text.contains("NUMA"), "{text}");
        assert!(notes.iter().any(|note| note.contains("Processors 20 are not there")), "{notes:?}");
    }

    #[test]
    fn a_file_that_comes_later_and_says_otherwise_is_named() {
        let fake = Fake::good();
        fake.write("/proc/sys/net/core/somaxconn", "128\n");
        fake.write("/etc/sysctl.d/10-early.conf", "net.core.somaxconn = 1\n");
        fake.write("/etc/sysctl.d/99-local.conf", "# x\nnet/core/somaxconn=  256\n");
        fake.write("/usr/lib/sysctl.d/99-local.conf", "net.core.somaxconn = 3\n");
        fake.write("/etc/sysctl.conf", "net.core.somaxconn = 4096\n");
        let notes = plan(&fake, &Wishes::default()).notes;
        let late: Vec<_> = notes.iter().filter(|note| note.contains("sets net")).collect();
        assert_eq!(late.len(), 1, "{notes:?}");
        assert!(late[0].starts_with("/etc/sysctl.d/99-local.conf:2 sets net.core.somaxconn = 256"));
    }
}
