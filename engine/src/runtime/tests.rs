//! One script, all backends: what the core loop may rely on.

use super::listener::{ListenerOptions, bind_listener, bind_local, connect_local, local_address};
use super::log_thread::{LogJob, LogWrite};
use super::probe::{RuntimeChoice, choose};
use super::reactor::{Backend, Completion, Peer, Reactor, Sending};
use super::slots::SocketId;
use super::wake::Wake;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

const TURNS_MAX: usize = 20_000;
const OPTIONS: ListenerOptions = ListenerOptions { backlog: 512, user_timeout_ms: 30_000 };

/// A core that notes what it is told.
struct Bench {
    reactor: Reactor,
    wake: Wake,
    address: SocketAddr,
    accepted: Vec<SocketId>,
    local: Vec<SocketId>,
    received: BTreeMap<SocketId, Vec<u8>>,
    sent: Vec<SocketId>,
    closed: Vec<SocketId>,
    failed: Vec<SocketId>,
    logged: Vec<(u64, bool)>,
    wakes: usize,
    largest_receive: BTreeMap<SocketId, usize>,
}

impl Bench {
    fn new(backend: Backend) -> Self {
        let listener = bind_listener("127.0.0.1:0".parse().unwrap(), OPTIONS).unwrap();
        let address = local_address(&listener).unwrap();
        let wake = Wake::new().unwrap();
        let mut reactor = Reactor::new(backend, 0, wake.clone()).unwrap();
        assert_eq!(reactor.backend(), backend);
        reactor.listen(listener).unwrap();
        Self {
            reactor,
            wake,
            address,
            accepted: Vec::new(),
            local: Vec::new(),
            received: BTreeMap::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            failed: Vec::new(),
            logged: Vec::new(),
            wakes: 0,
            largest_receive: BTreeMap::new(),
        }
    }

    fn turn(&mut self, timeout_ms: u64) {
        let mut this_turn: BTreeMap<SocketId, usize> = BTreeMap::new();
        let Self {
            reactor, accepted, local, received, sent, closed, failed, logged, wakes, ..
        } = self;
        reactor
            .turn(Some(timeout_ms), &mut |completion| match completion {
                Completion::Accepted { socket, peer } => {
                    match peer {
                        Peer::Remote(address) => assert!(address.ip().is_loopback()),
                        Peer::Local => local.push(socket),
                    }
                    accepted.push(socket);
                }
                Completion::Received { socket, bytes } => {
                    assert!(!bytes.is_empty());
                    *this_turn.entry(socket).or_default() += bytes.len();
                    received.entry(socket).or_default().extend_from_slice(bytes);
                }
                Completion::PeerClosed { socket } => closed.push(socket),
                Completion::Sent { socket, buffer } => {
                    assert!(!buffer.is_empty());
                    sent.push(socket);
                }
                Completion::Failed { socket, .. } => failed.push(socket),
                Completion::Logged(done) => logged.push((done.tag, done.result.is_ok())),
                Completion::Woken => *wakes += 1,
                Completion::AcceptFailed { error } => panic!("accept failed: {error}"),
            })
            .unwrap();
        for (socket, bytes) in this_turn {
            let largest = self.largest_receive.entry(socket).or_default();
            *largest = bytes.max(*largest);
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if done(self) {
                return;
            }
            self.turn(20);
        }
        panic!("never happened: {what}");
    }

    fn connect(&mut self) -> (TcpStream, SocketId) {
        let before = self.accepted.len();
        let client = TcpStream::connect(self.address).unwrap();
        self.until("a connection is accepted", |bench| bench.accepted.len() > before);
        (client, self.accepted[before])
    }

    fn received(&self, socket: SocketId) -> &[u8] {
        self.received.get(&socket).map_or(&[], Vec::as_slice)
    }

    fn send(&mut self, socket: SocketId, bytes: Vec<u8>) {
        match self.reactor.send(socket, bytes, false) {
            Sending::Done(buffer) => {
                assert!(!buffer.is_empty());
                self.sent.push(socket);
            }
            Sending::Started => {}
            Sending::Failed => panic!("send failed"),
        }
    }
}

fn on_all(script: impl Fn(Backend)) {
    script(Backend::Epoll);
    // A host that forbids io_uring cannot run its part; the probe's reason says so in the output.
    match choose(RuntimeChoice::IoUring) {
        Ok(chosen) => {
            assert_eq!(chosen.backend, Backend::IoUring);
            script(Backend::IoUring);
        }
        Err(error) => eprintln!("io_uring part not run: {error}"),
    }
    #[cfg(feature = "glommio")]
    match choose(RuntimeChoice::Glommio) {
        Ok(chosen) => {
            assert_eq!(chosen.backend, Backend::Glommio);
            script(Backend::Glommio);
        }
        Err(error) => eprintln!("glommio part not run: {error}"),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn a_socket_of_the_directory_is_served_beside_the_network_and_known_as_such() {
    on_all(|backend| {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("relay.sock");
        let mut bench = Bench::new(backend);
        bench.reactor.listen(bind_local(&path, 16).unwrap()).unwrap();
        let (_remote, remote) = bench.connect();
        assert!(bench.local.is_empty());
        let mut client = connect_local(&path).unwrap();
        bench.until("the local connection is accepted", |bench| bench.local.len() == 1);
        let local = bench.local[0];
        assert_ne!(local, remote);
        // As much as the kernel takes from a writer that nobody reads yet.
        client.write_all(&pattern(60_000)).unwrap();
        bench.until("it has spoken", |bench| bench.received(local).len() == 60_000);
        assert_eq!(bench.received(local), pattern(60_000));
        // More than the kernel takes at once: the rest is sent while the client reads.
        bench.send(local, pattern(2_000_000));
        let reading = std::thread::spawn(move || {
            let mut echo = vec![0; 2_000_000];
            client.read_exact(&mut echo).map(|()| echo)
        });
        bench.until("everything is sent", |bench| bench.sent == [local]);
        assert_eq!(reading.join().unwrap().unwrap(), pattern(2_000_000));
        bench.until("its end is noticed", |bench| bench.closed == [local]);
        bench.reactor.close(local);
        bench.reactor.stop_listening();
        bench.turn(0);
    });
}

#[test]
fn many_connections_each_get_their_own_bytes_back() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let clients: Vec<_> = (0..200).map(|_| bench.connect()).collect();
        for (number, (client, _)) in clients.iter().enumerate() {
            let mut client = client;
            client.write_all(format!("hello {number}").as_bytes()).unwrap();
        }
        bench.until("all have spoken", |bench| {
            clients.iter().enumerate().all(|(number, (_, socket))| {
                bench.received(*socket) == format!("hello {number}").as_bytes()
            })
        });
        for (_, socket) in &clients {
            let echo = bench.received(*socket).to_vec();
            bench.send(*socket, echo);
        }
        bench.until("all are answered", |bench| bench.sent.len() == clients.len());
        for (number, (mut client, _)) in clients.into_iter().enumerate() {
            let expected = format!("hello {number}");
            let mut answer = vec![0; expected.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, expected.as_bytes());
        }
    });
}

#[test]
fn a_send_larger_than_every_buffer_is_continued() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let (mut client, socket) = bench.connect();
        let body = pattern(24 << 20);
        bench.send(socket, body.clone());
        bench.turn(0);
        assert!(bench.sent.is_empty(), "24 MiB do not fit in the kernel's buffers");
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 24 << 20];
            client.read_exact(&mut got).unwrap();
            got
        });
        bench.until("everything is sent", |bench| bench.sent == [socket]);
        assert!(reader.join().unwrap() == body);
    });
}

#[test]
fn the_end_of_the_stream_and_a_reset_are_told_apart() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let (mut client, socket) = bench.connect();
        client.write_all(b"last words").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        bench.until("the end", |bench| bench.closed == [socket]);
        assert_eq!(bench.received(socket), b"last words");
        bench.send(socket, b"answer".to_vec());
        bench.until("the answer is sent", |bench| bench.sent == [socket]);
        bench.reactor.shutdown_write(socket);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
        bench.reactor.close(socket);

        let (client, socket) = bench.connect();
        rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        bench.until("the reset", |bench| bench.failed == [socket]);
        bench.reactor.close(socket);
        // Nothing more is heard of either.
        for _ in 0..5 {
            bench.turn(1);
        }
        assert_eq!((bench.closed.len(), bench.failed.len()), (1, 1));
    });
}

#[test]
fn a_paused_socket_is_silent_until_it_is_resumed() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let (mut client, socket) = bench.connect();
        bench.reactor.pause_reading(socket);
        for _ in 0..5 {
            bench.turn(1);
        }
        client.write_all(b"wait").unwrap();
        for _ in 0..20 {
            bench.turn(1);
        }
        assert_eq!(bench.received(socket), b"");
        bench.reactor.resume_reading(socket);
        bench.until("the bytes arrive", |bench| bench.received(socket) == b"wait");
        // Pause and resume in one turn must not lose the receive.
        bench.reactor.pause_reading(socket);
        bench.reactor.resume_reading(socket);
        bench.turn(1);
        client.write_all(b" and go").unwrap();
        bench.until("more arrive", |bench| bench.received(socket) == b"wait and go");
    });
}

#[test]
fn a_busy_connection_does_not_starve_the_others() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let (busy, busy_socket) = bench.connect();
        let (mut quiet, quiet_socket) = bench.connect();
        let flood = pattern(32 << 20);
        let expected = flood.clone();
        let writer = std::thread::spawn(move || {
            let mut busy = busy;
            busy.write_all(&flood).unwrap();
            busy
        });
        bench.until("the flood flows", |bench| bench.received(busy_socket).len() > 1 << 20);
        quiet.write_all(b"me too").unwrap();
        bench.until("the quiet one is heard", |bench| bench.received(quiet_socket) == b"me too");
        bench.until("the flood is in", |bench| bench.received(busy_socket).len() == expected.len());
        assert!(bench.received(busy_socket) == expected);
        let _ = writer.join().unwrap();
        // The kernel lends at most the whole ring to one socket.
        assert!(bench.largest_receive[&busy_socket] <= 1_024 * 4_096);
    });
}

#[test]
fn a_closed_socket_says_nothing_and_its_index_can_be_used_again() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let (mut client, socket) = bench.connect();
        client.write_all(b"x").unwrap();
        bench.until("it is heard", |bench| bench.received(socket) == b"x");
        bench.reactor.close(socket);
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        for _ in 0..5 {
            bench.turn(1);
        }
        assert!(matches!(bench.reactor.send(socket, b"late".to_vec(), false), Sending::Failed));
        let (mut second, second_socket) = bench.connect();
        assert_ne!(second_socket, socket);
        second.write_all(b"y").unwrap();
        bench.until("the new one is heard", |bench| bench.received(second_socket) == b"y");
        assert_eq!(bench.received(socket), b"x");
        assert!(bench.closed.is_empty() && bench.failed.is_empty());
    });
}

#[test]
fn closing_with_a_send_under_way_frees_it() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let (client, socket) = bench.connect();
        bench.send(socket, pattern(24 << 20));
        bench.turn(1);
        bench.reactor.close(socket);
        for _ in 0..10 {
            bench.turn(1);
        }
        assert!(bench.sent.is_empty());
        drop(client);
        let (mut second, second_socket) = bench.connect();
        second.write_all(b"y").unwrap();
        bench.until("the next one is heard", |bench| bench.received(second_socket) == b"y");
    });
}

#[test]
fn another_thread_wakes_a_parked_reactor() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        for round in 1..=3 {
            let wake = bench.wake.clone();
            let other = std::thread::spawn(move || wake.wake());
            bench.until("it is woken", |bench| bench.wakes >= round);
            other.join().unwrap();
        }
    });
}

#[test]
fn log_writes_are_on_disk_when_they_are_done_and_jobs_answer() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        let file =
            std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let file = Arc::new(rustix::fd::OwnedFd::from(file));
        let body = pattern(3 << 20);
        for (tag, chunk) in body.chunks(1 << 20).enumerate() {
            bench.reactor.log_write(LogWrite {
                tag: tag as u64,
                file: Arc::clone(&file),
                offset: (tag << 20) as u64,
                bytes: chunk.to_vec(),
            });
        }
        bench.until("three writes are durable", |bench| bench.logged.len() == 3);
        bench.logged.sort_unstable();
        assert_eq!(bench.logged, [(0, true), (1, true), (2, true)]);
        assert!(std::fs::read(&path).unwrap() == body);
        let failing = || Err(std::io::Error::other("no"));
        bench.reactor.log_job(LogJob { tag: 7, run: Box::new(failing) });
        bench.until("the job answers", |bench| bench.logged.last() == Some(&(7, false)));

        let read_only = std::fs::File::open(&path).unwrap();
        let file = Arc::new(rustix::fd::OwnedFd::from(read_only));
        bench.reactor.log_write(LogWrite { tag: 8, file, offset: 0, bytes: vec![1] });
        bench.until("a failed write is told", |bench| bench.logged.last() == Some(&(8, false)));
    });
}

#[test]
fn after_stop_listening_nobody_is_accepted() {
    on_all(|backend| {
        let mut bench = Bench::new(backend);
        let (mut client, socket) = bench.connect();
        bench.reactor.stop_listening();
        for _ in 0..5 {
            bench.turn(1);
        }
        assert!(TcpStream::connect(bench.address).is_err());
        client.write_all(b"still here").unwrap();
        bench.until("open ones live on", |bench| bench.received(socket) == b"still here");
    });
}

#[cfg(not(feature = "glommio"))]
#[test]
fn a_build_without_glommio_says_so() {
    let error = choose(RuntimeChoice::Glommio).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("this build lacks it"), "{error}");
}
