//! `turnpike tune` on machines made of files.

use super::common::{Finished, turnpike_bin};
use super::{finish, turnpike, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SYSCTL: &str = "etc/sysctl.d/90-turnpike.conf";
const UNIT: &str = "etc/systemd/system/turnpike.service.d/90-turnpike.conf";
const STATE: &str = "etc/turnpike-tune.json";

/// A machine with things to set, and with a file of somebody else's in the way of nothing.
fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("/proc/sys/net/core/somaxconn", "128\n"),
        ("/proc/sys/vm/dirty_bytes", "0\n"),
        ("/proc/sys/vm/dirty_ratio", "20\n"),
        ("/proc/meminfo", "MemTotal: 67108864 kB\n"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
        ("/sys/devices/system/cpu/online", "0-3\n"),
        ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("/etc/sysctl.d/10-other.conf", "kernel.sysrq = 0\n"),
    ] {
        write(root.path(), path, text);
    }
    root
}

/// Every file and folder with its bytes, mode and owner.
fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut what = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
            if metadata.is_dir() {
                folders.push(path.clone());
            } else {
                what.push_str(&format!(" {:?}", fs::read(&path).unwrap()));
            }
            all.insert(path.strip_prefix(root).unwrap().display().to_string(), what);
        }
    }
    all
}

fn tune(root: &Path, words: &[&str]) -> Finished {
    let words: Vec<&str> =
        ["tune", "--root", root.to_str().unwrap()].iter().chain(words).copied().collect();
    turnpike(&words)
}

#[test]
fn a_plan_is_shown_applied_once_and_taken_back() {
    let root = machine();
    let was = snapshot(root.path());
    let shown = tune(root.path(), &[]).success();
    assert!(shown.contains("+net.core.somaxconn = 4096"), "{shown}");
    assert!(shown.contains("somaxconn: 128 -> 4096"), "{shown}");
    assert_eq!(snapshot(root.path()), was, "to look changes nothing");

    let applied = tune(root.path(), &["--apply", "--now"]).success();
    assert!(
        applied.contains(&format!("wrote /{SYSCTL}")) && applied.contains("--undo"),
        "{applied}"
    );
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    assert!(read(SYSCTL).contains("\nnet.core.somaxconn = 4096\n"));
    assert!(read(UNIT).contains("\nLimitNOFILE=524288\n"));
    assert_eq!(read("proc/sys/net/core/somaxconn"), "4096\n");
    assert_eq!(read("sys/kernel/mm/transparent_hugepage/enabled"), "madvise\n");
    let now = snapshot(root.path());
    let again = tune(root.path(), &["--apply", "--now"]).success();
    assert!(again.contains("nothing to change"), "{again}");
    assert_eq!(snapshot(root.path()), now, "a second time is no change");
    let shown = tune(root.path(), &[]).success();
    assert!(shown.contains("All of it is in force"), "{shown}");

    let undone = tune(root.path(), &["--undo"]).success();
    assert!(undone.contains(&format!("restored /{SYSCTL}")), "{undone}");
    assert_eq!(snapshot(root.path()), was);
    let nothing = tune(root.path(), &["--undo"]).success();
    assert!(nothing.contains("nothing to undo"), "{nothing}");
}

#[test]
fn another_plan_on_top_keeps_the_first_original() {
    let root = machine();
    write(root.path(), SYSCTL, "net.core.somaxconn = 77\n");
    fs::set_permissions(root.path().join(SYSCTL), fs::Permissions::from_mode(0o600)).unwrap();
    let was = snapshot(root.path());
    let refused = tune(root.path(), &["--apply"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("was not written by turnpike tune"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--replace"), "{}", refused.stderr);
    assert_eq!(snapshot(root.path()), was, "nothing else was done either");
    tune(root.path(), &["--apply", "--replace"]).success();
    tune(root.path(), &["--apply", "--now", "--cpus", "0-1"]).success();
    let unit = fs::read_to_string(root.path().join(UNIT)).unwrap();
    assert!(unit.contains("\nCPUAffinity=0-1\n"), "{unit}");
    tune(root.path(), &["--apply", "--allow-io-uring"]).success();
    assert!(!fs::read_to_string(root.path().join(UNIT)).unwrap().contains("CPUAffinity"));
    tune(root.path(), &["--undo"]).success();
    assert_eq!(snapshot(root.path()), was);
}

#[test]
fn programs_are_told_in_json() {
    let root = machine();
    let parse =
        |finished: Finished| -> Value { serde_json::from_str(&finished.success()).unwrap() };
    let plan = parse(tune(root.path(), &["--json"]));
    assert_eq!(
        (plan["applied"].as_bool(), plan["files"][0]["before"].is_null()),
        (Some(false), true)
    );
    let done = parse(tune(root.path(), &["--apply", "--now", "--json"]));
    assert_eq!(done["files"].as_array().unwrap().len(), 3, "{done}");
    assert!(done["values"].as_array().unwrap().len() >= 4, "{done}");
    assert_eq!(parse(tune(root.path(), &["--json"]))["applied"], true);
    let undone = parse(tune(root.path(), &["--undo", "--json"]));
    assert_eq!((&undone["undone"], undone["left"].as_array().unwrap().len()), (&true.into(), 0));
}

#[test]
fn an_apply_or_undo_that_was_killed_can_be_taken_back() {
    let root = machine();
    let was = snapshot(root.path());
    let kill = |words: &[&str], after: Duration| {
        let mut command = Command::new(turnpike_bin());
        command.args(["tune", "--root"]).arg(root.path()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.current_dir(root.path()).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        // Killed in the middle is when nothing says that it was done.
        child.wait().unwrap().code().is_none()
    };
    let mut in_the_middle = 0;
    for round in 0..60_u64 {
        // The program starts in some milliseconds and works for some more.
        let after = Duration::from_micros(500 + round * 700);
        kill(&["--apply", "--now"], after);
        let half = root.path().join(STATE).exists();
        if round % 2 == 1 {
            kill(&["--undo"], after);
        }
        in_the_middle += u32::from(half);
        tune(root.path(), &["--undo"]).success();
        assert_eq!(snapshot(root.path()), was, "killed after {after:?}");
    }
    assert!(in_the_middle > 0, "no kill came after the first change");
}

#[test]
fn who_is_not_root_is_told_before_anything_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let is_root = fs::metadata(folder.path()).unwrap().uid() == 0;
    // Under a folder of root's the binary may be out of anybody else's reach.
    let binary = folder.path().join("turnpike");
    fs::copy(turnpike_bin(), &binary).unwrap();
    let state = Path::new("/").join(STATE);
    let before = fs::read(&state).ok();
    for word in ["--apply", "--undo"] {
        let mut command = Command::new(&binary);
        command.args(["tune", word]).current_dir(folder.path());
        if is_root {
            command.uid(65_534).gid(65_534);
        }
        let refused = finish(&mut command);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("only root may"), "{}", refused.stderr);
        assert!(refused.stderr.contains("sudo") && refused.stderr.contains("--root DIR"));
    }
    assert_eq!(fs::read(&state).ok(), before);
    let mut looks = Command::new(&binary);
    looks.arg("tune").current_dir(folder.path());
    if is_root {
        looks.uid(65_534).gid(65_534);
    }
    assert_eq!(finish(&mut looks).code, Some(0), "anybody may look");
}

#[test]
fn wrong_usage_is_told() {
    let root = machine();
    for words in [
        &["--now"][..],
        &["--apply", "--undo"],
        &["--cpus", "9-1"],
        &["--cpus", ""],
        &["--show", "everything"],
    ] {
        let refused = tune(root.path(), words);
        assert_eq!(refused.code, Some(2), "{words:?}: {refused:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    let refused = tune(empty.path(), &["--apply"]);
    assert!(refused.stderr.contains("there is no /etc below"), "{}", refused.stderr);
}
