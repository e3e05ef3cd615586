//! Against strfry, unmodified: runs when `TURNPIKE_STRFRY` names its program.

use super::common::{PATIENCE, RelayOptions};
use super::proxy::Proxy;
use super::world::{World, is_private, public_ids, seed, write_lines};
use super::{SETUP, sync};
use proto::nip::nip17;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A database of strfry, and its relay while it runs.
struct Strfry {
    program: PathBuf,
    dir: PathBuf,
    address: SocketAddr,
    relay: Option<Child>,
}

impl Strfry {
    /// `None`, aloud, if there is no strfry to run.
    fn new(dir: &Path) -> Option<Self> {
        let Some(program) = std::env::var_os("TURNPIKE_STRFRY").map(PathBuf::from) else {
            eprintln!(
                "!!! NOT RUN: TURNPIKE_STRFRY names no strfry, the foreign relay of this test"
            );
            return None;
        };
        std::fs::create_dir_all(dir.join("db")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "db = \"{}/db/\"\nrelay {{\n  bind = \"127.0.0.1\"\n  port = {}\n  nofiles = 0\n}}\n",
            dir.display(),
            address.port()
        );
        std::fs::write(dir.join("strfry.conf"), config).unwrap();
        Some(Self { program, dir: dir.to_owned(), address, relay: None })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.dir.join("strfry.conf"))
            .args(words)
            .current_dir(&self.dir);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn import(&self, events: &[proto::Event]) {
        let lines = self.dir.join("events.jsonl");
        write_lines(&lines, events);
        let file = std::fs::File::open(lines).unwrap();
        assert!(self.command(&["import"]).stdin(file).status().unwrap().success());
    }

    fn start(&mut self) {
        self.relay = Some(self.command(&["relay"]).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "strfry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut relay) = self.relay.take() {
            let _ = relay.kill();
            let _ = relay.wait();
        }
    }

    fn events(&self) -> Vec<Value> {
        let output = self.command(&["export"]).stdout(Stdio::piped()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn ids(&self, wants_private: bool) -> BTreeSet<String> {
        let events = self.events().into_iter().filter(|event| {
            let kind = u16::try_from(event["kind"].as_u64().unwrap()).unwrap();
            nip17::is_private(kind) == wants_private
        });
        events.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Strfry {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn strfry_as_the_relay_elsewhere() {
    let root = tempfile::tempdir().unwrap();
    let Some(mut strfry) = Strfry::new(&root.path().join("strfry")) else { return };
    let world = World::new(3_000);
    let dir = root.path().join("a");
    seed(&dir, &world.a);
    strfry.import(&world.b);
    strfry.start();
    let proxy = Proxy::start(strfry.address, false);
    let totals = sync(&dir, &[&proxy.url()]);
    eprintln!("turnpike sync to strfry: {totals}");
    let record = proxy.take();
    let ours: Vec<String> = world
        .a
        .iter()
        .filter(|event| is_private(event))
        .map(super::common::client::id_of)
        .collect();
    for text in record.up.iter().chain(&record.down) {
        assert!(!ours.iter().any(|id| text.contains(id)), "our private ids are not told");
    }
    let expected = world.public_after();
    assert_eq!(public_ids(&dir), expected);
    assert_eq!(strfry.ids(false), expected);
    let again = sync(&dir, &[&proxy.url()]);
    eprintln!("once more: {again}");
    assert_eq!((again["downloaded"].as_u64(), again["uploaded"].as_u64()), (Some(0), Some(0)));
    assert_eq!(again["have"], 0, "{again}");
}

#[test]
fn strfry_as_the_one_that_asks() {
    let root = tempfile::tempdir().unwrap();
    let Some(strfry) = Strfry::new(&root.path().join("strfry")) else { return };
    let world = World::new(3_000);
    let dir = root.path().join("a");
    seed(&dir, &world.a);
    // What strfry sends of private events is its own affair; here it has none.
    let public: Vec<proto::Event> =
        world.b.iter().filter(|event| !is_private(event)).cloned().collect();
    strfry.import(&public);
    let relay = RelayOptions::new(SETUP).data_dir(&dir).start();
    let proxy = Proxy::start(relay.address, false);
    let status = strfry.command(&["sync", &proxy.url(), "--dir", "both"]).status().unwrap();
    assert!(status.success(), "{status}");
    let record = proxy.take();
    let private = world.private_ids();
    for text in record.up.iter().chain(&record.down) {
        assert!(!private.iter().any(|id| text.contains(id)), "private ids are not told");
    }
    let expected = world.public_after();
    let (here, there) = (public_ids(&dir), strfry.ids(false));
    eprintln!("strfry sync to turnpike: {} ids here, {} at strfry", here.len(), there.len());
    assert_eq!(here, expected);
    assert_eq!(there, expected);
    assert!(strfry.ids(true).is_empty());
}
