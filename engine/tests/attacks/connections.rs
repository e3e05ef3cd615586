//! Attacks with connections: many, half-open, slow, silent, forged.

use crate::common::client::try_http;
use crate::common::{PATIENCE, Relay, RelayOptions, Runtime, Setup, draft, env_number};
use crate::metric;
use crate::swarm::{Member, raise_descriptors_max, text_frame};
use bench::Signer;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn options(runtime: Runtime, config: &str) -> Option<RelayOptions> {
    let setup = Setup::new(runtime, 2);
    setup.is_enabled().then(|| RelayOptions::new(setup).config(config))
}

/// Waits until a counter has reached `least`.
fn until(relay: &Relay, name: &str, label: &str, least: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let have = metric(relay, name, label);
        if have >= least {
            return;
        }
        assert!(Instant::now() < deadline, "{name} {label}: {have} of {least}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Reads to the end of the socket.
fn ends(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is closed: {error}");
        }
    }
}

/// Slowloris: thousands of heads that never end. An honest client is served beside them, and each
/// of them ends at its deadline, by name.
fn half_open_heads(runtime: Runtime) {
    raise_descriptors_max();
    let count = env_number("TURNPIKE_CONNECTIONS", 10_000) / 2;
    let config = format!(
        "[network]\nhandshake_timeout_ms = 2000\nconnections_max = {}\n\
         [memory]\nmemory_max_mib = 512\n",
        count * 2
    );
    let Some(options) = options(runtime, &config) else { return };
    let relay = options.start();
    let mut sockets: Vec<TcpStream> = Vec::new();
    for index in 0..count {
        let mut socket = TcpStream::connect(relay.address).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
        sockets.push(socket);
        if index == count / 2 {
            relay.connect().accept(&Signer::from_seed(1).sign(&draft(1)));
        }
    }
    // Dribbling does not help: the deadline is that of the head, not of its next byte.
    for socket in &mut sockets {
        let _ = socket.write_all(b"a");
    }
    relay.connect().accept(&Signer::from_seed(2).sign(&draft(1)));
    for socket in &mut sockets {
        ends(socket);
    }
    until(&relay, "evicted_total", "\"handshake_timeout\"", count);
    assert_eq!(metric(&relay, "connections", ""), 1, "only who asks is left");
}

/// A message that is begun and never finished ends with its name; what it held is given back.
fn unfinished_messages(runtime: Runtime) {
    let config = "[network]\nmessage_timeout_ms = 1000\n";
    let Some(options) = options(runtime, config) else { return };
    let relay = options.start();
    let whole =
        text_frame(&json!(["REQ", "s", {"ids": [], "#t": ["x".repeat(60_000)]}]).to_string());
    let mut slow: Vec<Member> = (0..50)
        .map(|_| {
            let mut member = Member::connect(relay.address, None);
            member.stream.write_all(&whole[..40_000]).unwrap();
            member
        })
        .collect();
    relay.connect().accept(&Signer::from_seed(1).sign(&draft(1)));
    for member in &mut slow {
        ends(&mut member.stream);
    }
    until(&relay, "evicted_total", "\"message_timeout\"", 50);
    assert_eq!(metric(&relay, "bytes_held", "\"input\""), 0);
}

/// A peer that never answers a ping is gone after two, whatever it has subscribed to.
fn zombies_with_subscriptions(runtime: Runtime) {
    let config = "[network]\nping_interval_ms = 400\n";
    let Some(options) = options(runtime, config) else { return };
    let relay = options.start();
    let mut zombies: Vec<Member> = (0..500)
        .map(|_| {
            let mut member = Member::connect(relay.address, None);
            member.say(r#"["REQ","s",{"kinds":[1],"limit":0}]"#);
            member
        })
        .collect();
    until(&relay, "subscriptions", "", 500);
    for zombie in &mut zombies {
        ends(&mut zombie.stream);
    }
    until(&relay, "evicted_total", "\"ping_timeout\"", 500);
    assert_eq!(metric(&relay, "subscriptions", ""), 0);
}

/// The length in a frame's header is enough: nothing of the body is waited for or kept.
fn oversize_by_header(runtime: Runtime) {
    let Some(options) = options(runtime, "") else { return };
    let relay = options.start();
    for length in [524_289_u64, 1 << 40, u64::MAX >> 1] {
        let mut member = Member::connect(relay.address, None);
        let mut header = vec![0x81, 0x80 | 127];
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&[0; 4]);
        member.stream.write_all(&header).unwrap();
        ends(&mut member.stream);
    }
    until(&relay, "evicted_total", "\"message_too_long\"", 3);
    assert_eq!(metric(&relay, "bytes_held", "\"input\""), 0);
}

/// A message in a thousand crumbs is refused at the sixty-fifth.
fn crumbs(runtime: Runtime) {
    let Some(options) = options(runtime, "") else { return };
    let relay = options.start();
    let mut member = Member::connect(relay.address, None);
    let mut frames = vec![0x01, 0x81, 0, 0, 0, 0, b'['];
    for _ in 0..1_000 {
        frames.extend_from_slice(&[0x00, 0x81, 0, 0, 0, 0, b' ']);
    }
    let _ = member.stream.write_all(&frames);
    ends(&mut member.stream);
    until(&relay, "evicted_total", "\"too_many_fragments\"", 1);
}

/// One address may open so many connections and so fast; a forged header changes nothing, and
/// others are not touched.
fn churn_from_one_address(runtime: Runtime) {
    let config = "[rates]\nconnections_per_second = 2\nconnections_per_address_max = 10\n";
    let Some(options) = options(runtime, config) else { return };
    let relay = options.start();
    let mut admitted = Vec::new();
    let mut refused = 0;
    for index in 0..200 {
        let mut stream = TcpStream::connect(relay.address).unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.{index}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let mut head = [0; 12];
        stream.write_all(request.as_bytes()).unwrap();
        match stream.read_exact(&mut head) {
            Ok(()) if &head == b"HTTP/1.1 101" => admitted.push(stream),
            _ => refused += 1,
        }
    }
    // Ten, a quarter more because each core counts its share, and one for rounding on each core.
    assert!(admitted.len() <= 14, "{} admitted", admitted.len());
    assert_eq!(refused, 200 - admitted.len());
    drop(admitted);
    // The burst of the rate is used up; asking for a page needs a connection, too.
    let deadline = Instant::now() + PATIENCE;
    let page = loop {
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = try_http(relay.address, request);
        match answer {
            Ok((head, body)) if head.starts_with("http/1.1 200") => break body,
            // Refused, told so or not.
            answer => assert!(Instant::now() < deadline, "{answer:?}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let counted: u64 = page
        .lines()
        .filter(|line| line.starts_with("turnpike_not_admitted_total{reason=\"address"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert!(counted >= refused as u64, "{counted} counted, {refused} seen");
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod epoll { $( #[test] fn $name() { super::$name(super::Runtime::Epoll); } )+ }
        mod io_uring { $( #[test] fn $name() { super::$name(super::Runtime::IoUring); } )+ }
    };
}

on_both!(
    half_open_heads,
    unfinished_messages,
    zombies_with_subscriptions,
    oversize_by_header,
    crumbs,
    churn_from_one_address,
);
