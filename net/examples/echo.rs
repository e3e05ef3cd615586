//! A WebSocket echo server over `net::ws`, for conformance suites run by hand
//! (`sim/conformance/README.md`).
//!
//! `echo [--deflate] [address]` serves one thread per connection until it is killed; the address is
//! printed once it listens.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a program that is not the relay: it owns its sockets and threads"
)]

#[path = "../tests/support/echo.rs"]
mod echo;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

/// How long the client may take to close after the last word.
const LINGER: Duration = Duration::from_secs(1);

fn main() -> std::io::Result<()> {
    let mut address = "127.0.0.1:9001".to_owned();
    let mut compresses = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--deflate" => compresses = true,
            _ => address = argument,
        }
    }
    let listener = TcpListener::bind(address)?;
    writeln!(std::io::stdout(), "listening ws://{}", listener.local_addr()?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        // A connection that fails is the suite's to report.
        std::thread::spawn(move || drop(serve(stream, compresses)));
    }
    Ok(())
}

fn serve(mut stream: TcpStream, compresses: bool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut echo = echo::Echo::new(compresses);
    let mut received = vec![0; 64 * 1024];
    let mut out = Vec::new();
    loop {
        let bytes = stream.read(&mut received)?;
        if bytes == 0 {
            return Ok(());
        }
        if echo.has_ended() {
            continue;
        }
        echo.receive(&received[..bytes], &mut out);
        stream.write_all(&out)?;
        out.clear();
        if echo.has_ended() {
            // Reading on until the client closes keeps the last word from being lost to a reset.
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(LINGER))?;
        }
    }
}
