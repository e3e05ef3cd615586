//! The policy door over the wire: a real relay that asks real programs, on both backends.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;

mod reads;
mod trouble;
mod verdicts;

use bench::{Draft, Signer};
use common::client::http;
use common::{Relay, RelayOptions, Setup, draft};
use proto::Event;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Runs each test function with both runtimes, on two shards.
#[macro_export]
macro_rules! on_both_runtimes {
    ($($name:ident),+ $(,)?) => {
        on_both_runtimes!(@runtime epoll, Epoll, $($name),+);
        on_both_runtimes!(@runtime io_uring, IoUring, $($name),+);
    };
    (@runtime $module:ident, $runtime:ident, $($name:ident),+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    let setup = $crate::common::Setup::new($crate::common::Runtime::$runtime, 2);
                    if setup.is_enabled() {
                        super::$name(setup);
                    }
                }
            )+
        }
    };
}

/// A plug-in that does what the content of the event, or the name of the subscription, says. In
/// Perl because every Debian has it.
///
/// Requests are taken apart with expressions, which is enough for what the tests send; that they are
/// JSON is checked where they are made. `%HELD%` is how many events with content `hold` it collects
/// before it answers them, the last first.
const OBEDIENT: &str = r#"#!/usr/bin/perl
use strict;
$| = 1;
my @held;
sub answer {
    my ($id, $action, $msg) = @_;
    print qq({"id":"$id","action":"$action") . (defined $msg ? qq(,"msg":"$msg"}\n) : "}\n");
}
print STDERR "plug-in $$ has begun\n";
while (my $line = <STDIN>) {
    my ($type) = $line =~ /^\{"type":"([a-z-]+)"/;
    my ($id) = $line =~ /"id":"([0-9a-f]+)"/;
    my ($word, $rest) = $line =~ ($type eq 'new' ? qr/"content":"([a-z]*) ?([^"]*)"/ : qr/"subId":"([a-z]*) ?([^"]*)"/);
    my ($tail) = $line =~ /("receivedAt":.*\})\}?\s*$/;
    $tail =~ s/"/\\"/g;
    if    ($word eq 'reject')  { answer($id, 'reject', $rest) }
    elsif ($word eq 'shadow')  { answer($id, 'shadowReject') }
    elsif ($word eq 'source')  { answer($id, 'reject', "blocked: {$tail") }
    elsif ($word eq 'silent')  { }
    elsif ($word eq 'die')     { print STDERR "dying\n"; exit 3 }
    elsif ($word eq 'garbage') { print "garbage\n\n{\"id\":7}\n" . ('x' x 100_000) . "\n"; answer($id, 'accept'); answer('ff', 'accept') }
    elsif ($word eq 'complain'){ print STDERR "complaint $_\e[2J\n" for 1..1000; answer($id, 'accept') }
    elsif ($word eq 'files')   { answer($id, 'reject', 'blocked: ' . join(' ', map { readlink("/proc/$$/fd/$_") // '' } 0..200)) }
    elsif ($word eq 'hold')    {
        push @held, $id;
        if (@held == %HELD%) { answer($_, 'accept') for reverse @held; @held = () }
    }
    else { answer($id, 'accept') }
}
"#;

/// A program of the operator's in a directory of its own.
struct Script {
    dir: tempfile::TempDir,
}

impl Script {
    fn new(text: &str) -> Self {
        let script = Self { dir: tempfile::tempdir().unwrap() };
        script.write(text);
        script
    }

    fn obedient(held: usize) -> Self {
        Self::new(&OBEDIENT.replace("%HELD%", &held.to_string()))
    }

    /// Replaces the program in one go, with a time of change that differs for certain.
    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        let before = std::fs::metadata(self.path()).and_then(|script| script.modified());
        if let Ok(before) = before {
            let later = before + std::time::Duration::from_secs(1);
            std::fs::File::options().write(true).open(&new).unwrap().set_modified(later).unwrap();
        }
        std::fs::rename(new, self.path()).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("plugin")
    }

    /// A relay that asks this program about events; `more` are further lines of the section.
    fn options(&self, setup: Setup, more: &str) -> RelayOptions {
        let path = self.path();
        RelayOptions::new(setup).config(&policy_toml("write_plugin", &path, more))
    }
}

fn policy_toml(key: &str, path: &Path, more: &str) -> String {
    format!("[policy]\n{key} = \"{}\"\n{more}\n", path.display())
}

/// An event of `seed` that tells the obedient plug-in what to do.
fn told(seed: u64, words: &str) -> Event {
    Signer::from_seed(seed).sign(&told_draft(words))
}

fn told_draft(words: &str) -> Draft {
    draft(1).content(words)
}

/// The figure of one line of `/metrics`.
fn metric(relay: &Relay, line: &str) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (_, text) = http(relay.address, request);
    let begin = format!("turnpike_{line} ");
    let found = text.lines().find_map(|have| have.strip_prefix(&begin));
    found.unwrap_or_else(|| panic!("no line {line} in\n{text}")).parse().unwrap()
}

/// Waits until something comes true that must.
fn until(mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it does not come true");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Whether a process is no more, or waits for its parent to take note of that.
fn is_gone(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// The process that calls itself the plug-in, the latest one.
fn plugin_pid(relay: &Relay) -> rustix::process::Pid {
    let log = relay.stderr_until(|log| log.contains("has begun"), common::PATIENCE);
    let line = log.lines().rev().find(|line| line.contains("has begun")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let at = words.iter().position(|word| *word == "has").unwrap();
    rustix::process::Pid::from_raw(words[at - 1].parse().unwrap()).unwrap()
}
