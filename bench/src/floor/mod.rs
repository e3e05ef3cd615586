//! The skeleton of a durable relay, which its latency is held against: a message comes in on a
//! socket, the home thread hands it to the owner thread, that writes and syncs what has gathered
//! (one file, written before), the home answers. No parsing, no signature, no index: what is left is
//! what sockets, threads and the disk cost by themselves.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measuring tools read clocks, start threads, and open sockets and files"
)]

pub mod report;

use crate::measure::cpu::{cores, monotonic_ns, thread_ns};
use crate::measure::units::pin;
use anyhow::{Context, ensure};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Bytes of a message: an event of 500 bytes with what is around it.
pub const MESSAGE_BYTES: usize = 520;
/// Bytes of an answer: an OK message.
pub const ANSWER_BYTES: usize = 80;
/// The file, written before so that no sync has to write down a new length. Used round and round.
const FILE_BYTES: u64 = 16 << 20;
const EPOLL_EVENTS: usize = 256;
/// The descriptor by which the owner rings, among the connections.
const BELL: u64 = u64::MAX;

/// A message on its way from home to owner and back: the connection that it came by.
type Ticket = u64;

/// The skeleton at work; ended when dropped.
pub struct Floor {
    address: SocketAddr,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
    cpu: Arc<[AtomicU64; 2]>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Floor {
    /// Starts it, with its file in `directory`.
    ///
    /// # Errors
    /// When the system refuses a thread, a socket or the file.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join("floor.bin");
        let file = prewritten(&path)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let stop = Arc::new(AtomicBool::new(false));
        let cpu = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (to_owner, inbox) = channel();
        let (to_home, outcomes) = channel();
        let mut home = Home {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            bell: bell.clone(),
            connections: Vec::new(),
            to_owner,
            outcomes,
        };
        home.watch_bell()?;
        let (home_stop, home_cpu) = (stop.clone(), cpu.clone());
        let home_thread = std::thread::spawn(move || {
            pin(0);
            home.run(&listener, &home_stop, &home_cpu[0])
        });
        let (owner_bell, owner_cpu) = (bell.clone(), cpu.clone());
        let owner_thread = std::thread::spawn(move || {
            pin(cores() - 1);
            own(&file, &inbox, &to_home, &owner_bell, &owner_cpu[1])
        });
        let threads = vec![home_thread, owner_thread];
        Ok(Self { address, path, stop, bell, cpu, threads })
    }

    /// Connects a client.
    ///
    /// # Errors
    /// When the system has no sockets left.
    pub fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }

    /// CPU nanoseconds of the home and of the owner thread so far.
    pub fn cpu_ns(&self) -> (u64, u64) {
        (self.cpu[0].load(Ordering::Relaxed), self.cpu[1].load(Ordering::Relaxed))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        ring(&self.bell);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn prewritten(path: &Path) -> anyhow::Result<File> {
    let context = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(context)?;
    let zeroes = vec![0; 1 << 20];
    for block in 0..FILE_BYTES / zeroes.len() as u64 {
        file.write_all_at(&zeroes, block * zeroes.len() as u64).with_context(context)?;
    }
    file.sync_all().with_context(context)?;
    Ok(file)
}

fn ring(bell: &OwnedFd) {
    // Full means that it rings already.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// One client of the home.
struct Connection {
    stream: TcpStream,
    /// Bytes of a message whose rest has not come.
    begun: usize,
    /// Answers that the socket did not take.
    unsent: VecDeque<u8>,
}

/// The home thread: sockets in, tickets out, and back.
struct Home {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
    connections: Vec<Connection>,
    to_owner: Sender<Ticket>,
    outcomes: Receiver<Ticket>,
}

impl Home {
    fn watch_bell(&self) -> anyhow::Result<()> {
        let data = epoll::EventData::new_u64(BELL);
        Ok(epoll::add(&self.epoll, &*self.bell, data, epoll::EventFlags::IN)?)
    }

    fn run(
        &mut self,
        listener: &TcpListener,
        stop: &AtomicBool,
        cpu: &AtomicU64,
    ) -> anyhow::Result<()> {
        listener.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(BELL - 1);
        epoll::add(&self.epoll, listener, data, epoll::EventFlags::IN)?;
        let mut scratch = vec![0; 64 * 1024];
        while !stop.load(Ordering::Relaxed) {
            let mut buffer = [std::mem::MaybeUninit::<epoll::Event>::uninit(); EPOLL_EVENTS];
            let ready = match epoll::wait(&self.epoll, &mut buffer, None) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in ready.iter() {
                match event.data.u64() {
                    BELL => self.answer()?,
                    index if index == BELL - 1 => self.accept(listener)?,
                    index => self.take(index as usize, &mut scratch)?,
                }
            }
            cpu.store(thread_ns(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn accept(&mut self, listener: &TcpListener) -> anyhow::Result<()> {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let data = epoll::EventData::new_u64(self.connections.len() as u64);
            epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
            self.connections.push(Connection { stream, begun: 0, unsent: VecDeque::new() });
        }
        Ok(())
    }

    fn take(&mut self, index: usize, scratch: &mut [u8]) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        match connection.stream.read(scratch) {
            Ok(0) => epoll::delete(&self.epoll, &connection.stream)?,
            Ok(count) => {
                connection.begun += count;
                while connection.begun >= MESSAGE_BYTES {
                    connection.begun -= MESSAGE_BYTES;
                    self.to_owner.send(index as Ticket).context("the owner has ended")?;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes one answer for each ticket that has come back, those of a connection at once.
    fn answer(&mut self) -> anyhow::Result<()> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
        let mut touched = Vec::new();
        while let Ok(ticket) = self.outcomes.try_recv() {
            let connection = &mut self.connections[ticket as usize];
            if connection.unsent.is_empty() {
                touched.push(ticket);
            }
            connection.unsent.extend([b'k'; ANSWER_BYTES]);
        }
        for ticket in touched {
            let connection = &mut self.connections[ticket as usize];
            let bytes = connection.unsent.make_contiguous();
            match connection.stream.write(bytes) {
                Ok(sent) => drop(connection.unsent.drain(..sent)),
                // A client that has gone is no failure of the measurement.
                Err(_) => connection.unsent.clear(),
            }
        }
        Ok(())
    }
}

/// The owner thread: waits for one ticket, takes what else is there, writes and syncs once, and
/// answers all.
fn own(
    file: &File,
    inbox: &Receiver<Ticket>,
    to_home: &Sender<Ticket>,
    bell: &OwnedFd,
    cpu: &AtomicU64,
) -> anyhow::Result<()> {
    let mut offset = 0;
    let mut tickets = Vec::new();
    let mut batch = Vec::new();
    while let Ok(first) = inbox.recv() {
        tickets.push(first);
        tickets.extend(inbox.try_iter());
        batch.resize(tickets.len() * MESSAGE_BYTES, 0x5a);
        if offset + batch.len() as u64 > FILE_BYTES {
            offset = 0;
        }
        file.write_all_at(&batch, offset)?;
        rustix::fs::fdatasync(file)?;
        offset += batch.len() as u64;
        for ticket in tickets.drain(..) {
            if to_home.send(ticket).is_err() {
                return Ok(());
            }
        }
        ring(bell);
        cpu.store(thread_ns(), Ordering::Relaxed);
    }
    Ok(())
}

/// Sends one message at each of `count` moments that are `interval_ns` apart, however late the
/// answers are; latencies from those moments, in nanoseconds.
///
/// # Errors
/// When answers do not come.
pub fn at_rate(
    stream: &TcpStream,
    interval_ns: u64,
    count: u64,
    mut message: impl FnMut(u64) -> Vec<u8> + Send,
    mut answered: impl FnMut(&mut dyn Read) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let began_ns = monotonic_ns() + interval_ns;
    let mut writing = stream.try_clone()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> std::io::Result<()> {
            for number in 0..count {
                let bytes = message(number);
                let due_ns = began_ns + number * interval_ns;
                while let Some(early_ns) = due_ns.checked_sub(monotonic_ns()).filter(|ns| *ns > 0) {
                    std::thread::sleep(Duration::from_nanos(early_ns));
                }
                writing.write_all(&bytes)?;
            }
            Ok(())
        });
        let mut reading = stream;
        let mut latencies = Vec::with_capacity(count as usize);
        for number in 0..count {
            answered(&mut reading)?;
            let due_ns = began_ns + number * interval_ns;
            latencies.push(monotonic_ns().saturating_sub(due_ns) as f64);
        }
        sender.join().expect("sending does not panic")?;
        Ok(latencies)
    })
}

/// Messages at a fixed rate through the skeleton; latencies in nanoseconds.
///
/// # Errors
/// When it fails.
pub fn skeleton_at_rate(
    stream: &TcpStream,
    per_second: u64,
    count: u64,
) -> anyhow::Result<Vec<f64>> {
    let message = |_| vec![b'm'; MESSAGE_BYTES];
    at_rate(stream, 1_000_000_000 / per_second, count, message, |reading| {
        let mut answer = [0; ANSWER_BYTES];
        Ok(reading.read_exact(&mut answer)?)
    })
}

/// Messages through the skeleton as fast as `connections` with `window` in flight each make it:
/// messages per second of wall time, and how many.
///
/// # Errors
/// When it fails.
pub fn saturated(
    floor: &Floor,
    connections: usize,
    window: usize,
    duration_ms: u64,
) -> anyhow::Result<(f64, u64)> {
    let clients: Vec<TcpStream> =
        (0..connections).map(|_| floor.connect()).collect::<Result<_, _>>()?;
    let began_ns = monotonic_ns();
    let end_ns = began_ns + duration_ms * 1_000_000;
    let work = |mut client: TcpStream| -> anyhow::Result<u64> {
        let message = vec![b'm'; MESSAGE_BYTES * window];
        let mut answers = vec![0; ANSWER_BYTES * window];
        let mut sum = 0;
        client.write_all(&message)?;
        while monotonic_ns() < end_ns {
            client.write_all(&message)?;
            client.read_exact(&mut answers)?;
            sum += window as u64;
        }
        client.read_exact(&mut answers)?;
        Ok(sum + window as u64)
    };
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            clients.into_iter().map(|client| scope.spawn(move || work(client))).collect();
        let mut sum = 0;
        for thread in threads {
            sum += thread.join().expect("a client does not panic")?;
        }
        let wall_s = (monotonic_ns() - began_ns) as f64 / 1e9;
        ensure!(sum > 0, "nothing went through");
        Ok((sum as f64 / wall_s, sum))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_through_the_skeleton_is_written_and_answered() {
        let directory = std::env::temp_dir().join(format!("turnpike-floor-{}", std::process::id()));
        let floor = Floor::start(&directory).unwrap();
        let stream = floor.connect().unwrap();
        let latencies = skeleton_at_rate(&stream, 1_000, 20).unwrap();
        assert_eq!(latencies.len(), 20);
        assert!(latencies.iter().all(|ns| *ns > 0.0));
        let (_, messages) = saturated(&floor, 3, 4, 30).unwrap();
        assert!(messages >= 12);
        let written = std::fs::read(directory.join("floor.bin")).unwrap();
        assert_eq!(written.len() as u64, FILE_BYTES);
        assert_eq!(&written[..MESSAGE_BYTES], &[0x5a; MESSAGE_BYTES][..]);
        drop(floor);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
