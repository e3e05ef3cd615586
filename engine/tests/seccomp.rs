//! A host that forbids io_uring by a seccomp filter, as container runtimes do: the relay starts,
//! says what it runs on, and works; told to use io_uring, it says why it cannot.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

mod common;

use bench::Signer;
use common::client::id_of;
use common::{RelayOptions, Runtime, Setup, draft};
use serde_json::json;

/// Installs a filter that answers `io_uring_setup` with EPERM and runs its arguments under it. In
/// Perl because every Debian has it and its `syscall` needs no unsafe code of ours.
const FORBID_IO_URING: &str = r#"
    my ($prctl, $arch) = `uname -m` =~ /aarch64/ ? (167, 0xC00000B7) : (157, 0xC000003E);
    my @program = (
        [0x20, 0, 0, 4],              # load the architecture
        [0x15, 0, 3, $arch],          # another one: allow
        [0x20, 0, 0, 0],              # load the number of the call
        [0x15, 0, 1, 425],            # not io_uring_setup: allow
        [0x06, 0, 0, 0x00050001],     # fail with EPERM
        [0x06, 0, 0, 0x7fff0000],     # allow
    );
    my $filter = join '', map { pack 'SCCL', @$_ } @program;
    my $fprog = pack 'S x6 P', scalar(@program), $filter;
    syscall($prctl, 38, 1, 0, 0, 0) == 0 or die "PR_SET_NO_NEW_PRIVS: $!";
    syscall($prctl, 22, 2, $fprog, 0, 0) == 0 or die "PR_SET_SECCOMP: $!";
    exec { $ARGV[0] } @ARGV or die "exec: $!";
"#;

fn forbidden(runtime: Runtime) -> RelayOptions {
    RelayOptions::new(Setup::new(runtime, 2)).wrapper(&["perl", "-e", FORBID_IO_URING, "--"])
}

#[test]
fn with_io_uring_forbidden_the_relay_starts_on_epoll_says_so_and_works() {
    let mut relay = forbidden(Runtime::Auto).start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.pid().as_raw_nonzero()));
    assert!(status.unwrap().contains("Seccomp:\t2"), "the filter is in force");
    assert_eq!(relay.runtime, "epoll");
    let said = relay.stdout() + &relay.stderr();
    assert!(said.contains("runtime epoll (io_uring: "), "it says why: {said}");
    let mut client = relay.connect();
    let sub = client.open(&[json!({"kinds": [1], "limit": 0})]);
    client.stored(&sub).unwrap();
    for seed in 0..16 {
        let event = client.post(&Signer::from_seed(seed), &draft(1));
        assert_eq!(client.live(&sub)["id"], id_of(&event));
    }
    assert_eq!(client.count(&[json!({"kinds": [1]})]), Ok(16));
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.stderr());
}

#[test]
fn told_to_use_io_uring_the_relay_does_not_fall_back() {
    let failed = forbidden(Runtime::IoUring).try_start().err().expect("it must not start");
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("io_uring was asked for"), "{}", failed.stderr);
    assert!(failed.stderr.contains("--runtime"), "it says what to do: {}", failed.stderr);
}

/// The control: without the filter the same start takes io_uring, where the machine has it.
#[test]
fn without_the_filter_auto_takes_io_uring() {
    if Setup::new(Runtime::IoUring, 2).is_enabled() {
        let relay = RelayOptions::new(Setup::new(Runtime::Auto, 2)).start();
        assert_eq!(relay.runtime, "io-uring");
    }
}
