//! The server on plain `epoll`: level-triggered, one read and one write per readiness.

use super::{Announce, DELIVERY_BYTES, ECHO, MESSAGE_BYTES, SUBSCRIBE};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

const EVENTS_MAX: usize = 1_024;
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    /// What it said first.
    purpose: Option<u8>,
    /// Bytes of a published message whose rest has not come.
    begun: usize,
}

/// Serves for as long as the process lives.
pub(super) fn serve(announce: &Announce) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    announce.send(listener.local_addr()?)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    let delivery = [b'd'; DELIVERY_BYTES];
    loop {
        let mut buffer = [std::mem::MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        let ready = match epoll::wait(&epoll, &mut buffer, None) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in ready.iter() {
            if event.data.u64() == LISTENER {
                accept(&epoll, &listener, &mut connections)?;
                continue;
            }
            let index = event.data.u64() as usize;
            let published = receive(&mut connections[index], &mut scratch);
            for _ in 0..published {
                deliver(&mut connections, &delivery);
            }
        }
    }
}

fn accept(
    epoll: &OwnedFd,
    listener: &TcpListener,
    connections: &mut Vec<Option<Connection>>,
) -> anyhow::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let data = epoll::EventData::new_u64(connections.len() as u64);
                epoll::add(epoll, &stream, data, epoll::EventFlags::IN)?;
                connections.push(Some(Connection { stream, purpose: None, begun: 0 }));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads once; echoes, or says how many messages are to be delivered.
fn receive(slot: &mut Option<Connection>, scratch: &mut [u8]) -> usize {
    let Some(connection) = slot else { return 0 };
    let count = match connection.stream.read(scratch) {
        Ok(count) if count > 0 => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
        // The client has done with it.
        _ => {
            *slot = None;
            return 0;
        }
    };
    match connection.purpose {
        None => connection.purpose = Some(scratch[0]),
        Some(ECHO) => {}
        Some(_) => {
            connection.begun += count;
            let whole = connection.begun / MESSAGE_BYTES;
            connection.begun %= MESSAGE_BYTES;
            return whole;
        }
    }
    if connection.stream.write_all(&scratch[..count]).is_err() {
        *slot = None;
    }
    0
}

fn deliver(connections: &mut [Option<Connection>], delivery: &[u8]) {
    for slot in connections {
        let Some(connection) = slot.as_mut() else { continue };
        if connection.purpose == Some(SUBSCRIBE) && connection.stream.write_all(delivery).is_err() {
            *slot = None;
        }
    }
}
