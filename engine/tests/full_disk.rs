//! A full disk under load: nothing crashes, nothing that was acknowledged is lost, reading goes on,
//! and writing comes back when there is room. The relay runs on a small file system of its own: ext4
//! on a loop device where this process may mount one, else a tmpfs in a user namespace.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

mod common;

use bench::Signer;
use common::client::{Client, event_value, id_of};
use common::{PATIENCE, Relay, RelayOptions, Runtime, Setup, draft};
use proto::{Event, Reason};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Size of the file system.
const DISK_MIB: u64 = 96;
/// High-water mark of the first act.
const FREE_MIN_MIB: u64 = 12;
/// Bytes of the content of each event: a few dozen of them use up what the log has set aside.
const CONTENT_BYTES: usize = 60_000;

/// A file system that lives as long as this: mounted in a mount namespace that a sleeping process
/// keeps, so that a relay that was killed finds it again.
struct Disk {
    keeper: Child,
    mount: PathBuf,
    kind: &'static str,
    _directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path().join("disk");
        std::fs::create_dir(&mount).unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(DISK_MIB << 20).unwrap();
        let loop_device = format!(
            "mkfs.ext4 -q -m 0 {0} && mount -o loop {0} {1}",
            image.display(),
            mount.display()
        );
        let memory = format!("mount -t tmpfs -o size={DISK_MIB}m tmpfs {}", mount.display());
        let ways: [(&str, &[&str], &str); 3] = [
            ("ext4", &["--mount"], &loop_device),
            ("tmpfs", &["--mount"], &memory),
            ("tmpfs in a user namespace", &["--user", "--map-root-user", "--mount"], &memory),
        ];
        let mut said = String::new();
        for (kind, namespaces, command) in ways {
            let script = format!("({command}) 1>&2 && echo ready && exec sleep 100000");
            let mut keeper = Command::new("unshare")
                .args(namespaces)
                .args(["sh", "-c", &script])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("unshare (util-linux) is there");
            let mut line = String::new();
            let mut out = std::io::BufReader::new(keeper.stdout.take().unwrap());
            std::io::BufRead::read_line(&mut out, &mut line).unwrap();
            if line.trim() == "ready" {
                return Self { keeper, mount, kind, _directory: directory };
            }
            let output = keeper.wait_with_output().unwrap();
            said.push_str(&format!("{kind}: {}\n", String::from_utf8_lossy(&output.stderr)));
        }
        panic!("no small file system can be mounted here:\n{said}");
    }

    /// The mounted directory as this process sees it.
    fn seen(&self) -> PathBuf {
        let inside = self.mount.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(inside)
    }

    fn start(&self, runtime: Runtime, free_min_mib: u64) -> Relay {
        let keeper = self.keeper.id().to_string();
        let mut wrapper = vec!["nsenter", "--target", &keeper, "--mount", "--root"];
        if self.kind.contains("user") {
            wrapper.extend(["--user", "--preserve-credentials"]);
        }
        wrapper.push("--");
        RelayOptions::new(Setup::new(runtime, 2))
            .wrapper(&wrapper)
            .data_dir(&self.mount.join("data"))
            .config(&format!(
                "[store]\nfree_min_mib = {free_min_mib}\ncheckpoint_events = 50\nsegment_mib = 8\n"
            ))
            .start()
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.seen()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Fills the disk until `leave` bytes are free, or to the last one.
    fn fill(&self, leave: u64) {
        let mut file =
            OpenOptions::new().create(true).append(true).open(self.seen().join("filler")).unwrap();
        for step in [1 << 20, 64 << 10, 4 << 10, 1] {
            while self.free_bytes() > leave && file.write_all(&vec![7; step]).is_ok() {}
        }
        // What the file system still holds back goes to whoever syncs first.
        let _ = file.sync_all();
        while self.free_bytes() > leave && file.write_all(&[7; 4 << 10]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.seen().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// What the client knows.
#[derive(Default)]
struct Book {
    stored: BTreeMap<String, Event>,
    refused: BTreeMap<String, Event>,
}

/// A writer that keeps many events under way.
struct Writer {
    client: Client,
    under_way: BTreeMap<String, Event>,
    index: u64,
    book: Book,
    signers: Vec<Signer>,
}

impl Writer {
    fn new(relay: &Relay, book: Book, index: u64) -> Self {
        let signers = (0..8).map(Signer::from_seed).collect();
        Self { client: relay.connect(), under_way: BTreeMap::new(), index, book, signers }
    }

    fn send(&mut self) {
        self.index += 1;
        let signer = &self.signers[self.index as usize % self.signers.len()];
        let content = format!("{}{}", self.index, "x".repeat(CONTENT_BYTES));
        let event = signer.sign(&draft(1).content(&content));
        self.client.send(&json!(["EVENT", event_value(&event)]));
        self.under_way.insert(id_of(&event), event);
    }

    /// Takes one answer; `true` if it was an acceptance.
    fn answer(&mut self) -> bool {
        let value = self.client.recv_where(|value| value[0] == "OK");
        let id = value[1].as_str().unwrap();
        let event = self.under_way.remove(id).expect("an answer to what was sent");
        let accepted = value[2].as_bool().unwrap();
        if accepted {
            self.book.stored.insert(id.to_owned(), event);
        } else {
            let text = value[3].as_str().unwrap();
            let expected = [Reason::StorageFull.message(), Reason::StoreBehind.message()];
            assert!(expected.contains(&text), "{text}");
            self.book.refused.insert(id.to_owned(), event);
        }
        accepted
    }

    /// Sends until an event is refused for want of room. An event may be under way meanwhile: its
    /// batch waits for room.
    fn until_refused(&mut self) {
        let refused = self.book.refused.len();
        let deadline = Instant::now() + PATIENCE;
        while self.book.refused.len() == refused {
            assert!(Instant::now() < deadline, "nothing is refused on a full disk");
            for _ in 0..8 {
                self.send();
            }
            // Those that wait for room are not answered; the others are.
            self.take_answers(Duration::from_millis(300));
        }
    }

    fn take_answers(&mut self, patience: Duration) {
        self.client.set_patience(patience);
        while !self.under_way.is_empty() && self.client.has_message() {
            self.answer();
        }
        self.client.set_patience(PATIENCE);
    }

    /// Sends until one is accepted again, and takes every answer that is due.
    fn until_accepted(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "writing does not come back");
            while !self.under_way.is_empty() {
                self.answer();
            }
            self.send();
            if self.answer() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Everything acknowledged is served, nothing refused is.
fn check(relay: &Relay, book: &Book) {
    let mut client = relay.connect();
    let ids: Vec<&String> = book.stored.keys().collect();
    for part in ids.chunks(100) {
        let stored = client.query(&json!({"ids": part}));
        assert_eq!(stored.events.len(), part.len(), "acknowledged events are missing");
        for event in stored.events {
            assert_eq!(event, event_value(&book.stored[event["id"].as_str().unwrap()]));
        }
    }
    let refused: Vec<&String> = book.refused.keys().collect();
    for part in refused.chunks(100) {
        assert!(client.query(&json!({"ids": part})).events.is_empty(), "a refused event is served");
    }
}

fn fills_up(runtime: Runtime) {
    if !Setup::new(runtime, 2).is_enabled() {
        return;
    }
    let disk = Disk::new();
    // First act: the high-water mark.
    let mut relay = disk.start(runtime, FREE_MIN_MIB);
    let mut writer = Writer::new(&relay, Book::default(), 0);
    for _ in 0..40 {
        writer.send();
    }
    writer.until_accepted();
    disk.fill((FREE_MIN_MIB << 20) / 2);
    writer.until_refused();
    check(&relay, &writer.book);
    disk.empty();
    writer.until_accepted();
    let (book, index) = (writer.book, writer.index);
    assert!(relay.terminate().success(), "{}", relay.stderr());

    // Second act: no mark, and not a byte left.
    let mut relay = disk.start(runtime, 0);
    let mut writer = Writer::new(&relay, book, index);
    writer.until_accepted();
    for _ in 0..3 {
        disk.fill(0);
        writer.until_refused();
        check(&relay, &writer.book);
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(!relay.has_ended(), "{}", relay.stderr());
        disk.empty();
        writer.until_accepted();
        check(&relay, &writer.book);
    }

    // Third act: killed on a full disk, started on a full disk.
    disk.fill(0);
    writer.until_refused();
    relay.kill();
    let (book, index) = (writer.book, writer.index);
    let relay = disk.start(runtime, 0);
    check(&relay, &book);
    let mut writer = Writer::new(&relay, book, index);
    writer.until_refused();
    check(&relay, &writer.book);
    disk.empty();
    writer.until_accepted();
    check(&relay, &writer.book);
    let Book { stored, refused } = &writer.book;
    eprintln!(
        "{} on {}: {} acknowledged, {} refused",
        runtime.flag(),
        disk.kind,
        stored.len(),
        refused.len()
    );
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing_epoll() {
    fills_up(Runtime::Epoll);
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing_io_uring() {
    fills_up(Runtime::IoUring);
}
