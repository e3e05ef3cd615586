//! The files of `tuning/profiles` are what the program writes, and say what is.

use super::common::turnpike_bin;
use super::{finish, turnpike, turnpike_in};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn profiles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tuning/profiles")
}

fn layouts() -> Vec<PathBuf> {
    let folder = fs::read_dir(profiles().join("layouts")).unwrap();
    let files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5, "{files:?}");
    files
}

#[test]
fn the_files_for_an_image_are_what_tune_writes() {
    let image = tempfile::tempdir().unwrap();
    let root = image.path().to_str().unwrap();
    for (what, file) in [
        ("unit", "systemd/turnpike.service"),
        ("drop-in", "systemd/turnpike.service.d/90-turnpike.conf"),
        ("sysctl", "sysctl.d/90-turnpike.conf"),
        ("tmpfiles", "tmpfiles.d/90-turnpike.conf"),
    ] {
        let shown = turnpike(&["tune", "--root", root, "--show", what]).success();
        let kept = fs::read_to_string(profiles().join(file)).unwrap();
        assert_eq!(kept, shown, "tuning/profiles/{file} is not what `tune --show {what}` prints");
    }
}

#[test]
fn layouts_are_configurations_that_the_relay_takes() {
    for file in layouts() {
        let checked = turnpike(&["config", "check", file.to_str().unwrap()]);
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    }
    let broken = tempfile::NamedTempFile::new().unwrap();
    fs::write(broken.path(), "[store]\nshard = 7\n").unwrap();
    let checked = turnpike(&["config", "check", broken.path().to_str().unwrap()]);
    assert_eq!(checked.code, Some(2), "the control: an unknown key is refused");
}

/// The words of a comment that begins like this.
fn said<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix("#").map(str::trim)?.strip_prefix(beginning))
}

/// The processors of a line of the table in the head of a layout, such as `cores 0-13  executors`.
fn cores_of<'a>(text: &'a str, what: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with("#   cores ") && line.contains(what));
    line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_else(|| panic!("{what}: {text}"))
}

#[test]
fn layouts_say_what_topology_says() {
    for file in layouts() {
        let text = fs::read_to_string(&file).unwrap();
        let folder = file.parent().unwrap();
        let words = match said(&text, "turnpike topology ") {
            Some(words) => format!("topology {words}"),
            // A part of a larger machine.
            None => format!(
                "topology --cores 32 --memory-mib 65536 --config {}",
                file.file_name().unwrap().to_str().unwrap()
            ),
        };
        let words: Vec<&str> = words.split_whitespace().chain(["--json"]).collect();
        let topology: Value = serde_json::from_str(&turnpike_in(folder, &words).success()).unwrap();
        let list = |cpus: &[Value]| {
            let cpus: Vec<u64> = cpus.iter().map(|cpu| cpu.as_u64().unwrap()).collect();
            match cpus[..] {
                [one] => one.to_string(),
                _ => format!("{}-{}", cpus[0], cpus[cpus.len() - 1]),
            }
        };
        let executors = topology["executors"].as_array().unwrap();
        let pinned: Vec<Value> = executors.iter().map(|one| one["processor"].clone()).collect();
        assert_eq!(cores_of(&text, "executors"), list(&pinned), "{}", file.display());
        let interrupts = topology["interrupts"].as_array().unwrap();
        assert_eq!(cores_of(&text, "interrupts"), list(interrupts), "{}", file.display());
        assert_eq!(topology["advice"], serde_json::json!([]), "{}", file.display());
        assert_eq!(topology["warnings"], serde_json::json!([]), "{}", file.display());
        assert!(topology["budget_bytes"].is_u64(), "it fits into that memory: {}", file.display());
        let shards = topology["shards"].to_string();
        assert_eq!(said(&text, "turnpike reshard --shards "), Some(&*shards));
    }
}

/// Where systemd is installed, it judges the unit and its drop-in; elsewhere that is told.
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(profiles().join("systemd/turnpike.service")).unwrap();
    let binary = turnpike_bin();
    let binary = fs::canonicalize(binary).unwrap();
    // The program has to be there for the judge.
    let unit = unit.replace("/usr/local/bin/turnpike", binary.to_str().unwrap());
    let image = folder.path().to_str().unwrap();
    let drop_in =
        turnpike(&["tune", "--root", image, "--cpus", "0-1", "--show", "drop-in"]).success();
    let place = folder.path().join("turnpike.service");
    fs::write(&place, &unit).unwrap();
    fs::create_dir(folder.path().join("turnpike.service.d")).unwrap();
    fs::write(folder.path().join("turnpike.service.d/90-turnpike.conf"), drop_in).unwrap();
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.arg("verify").arg(&place).env("SYSTEMD_UNIT_PATH", format!("{image}:"));
        finish(&mut command)
    };
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("not run: there is no systemd-analyze here");
        return;
    }
    let judged = verify();
    assert!(!judged.stderr.contains("turnpike.service"), "{}", judged.stderr);
    // The control: it reads both files, and finds a word that it does not know.
    fs::write(&place, unit.replace("ProtectHome=", "ProtectHomes=")).unwrap();
    assert!(verify().stderr.contains("ProtectHomes"), "{}", verify().stderr);
    fs::write(&place, &unit).unwrap();
    let drop_in = folder.path().join("turnpike.service.d/90-turnpike.conf");
    fs::write(drop_in, "[Service]\nLimitNOFILES=1\n").unwrap();
    assert!(verify().stderr.contains("LimitNOFILES"), "{}", verify().stderr);
}
