//! The server on glommio: a task per connection, streams without buffers of their own.

use super::{Announce, DELIVERY_BYTES, ECHO, MESSAGE_BYTES, SUBSCRIBE};
use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

/// Memory that the executor registers with each of its rings; sockets do not use it.
const IO_MEMORY_BYTES: usize = 64 * 1024;

type Subscribers = Rc<RefCell<Vec<TcpStream>>>;

/// Serves for as long as the process lives.
pub(super) fn serve(announce: &Announce) -> anyhow::Result<()> {
    let executor = LocalExecutorBuilder::new(Placement::Fixed(0))
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| anyhow::anyhow!("glommio does not start: {error}"))?;
    executor.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(broken)?;
        announce.send(listener.local_addr().map_err(broken)?)?;
        let subscribers = Subscribers::default();
        loop {
            let stream = listener.accept().await.map_err(broken)?;
            stream.set_nodelay(true).map_err(broken)?;
            glommio::spawn_local(connection(stream, subscribers.clone())).detach();
        }
    })
}

fn broken(error: glommio::GlommioError<()>) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

async fn read(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    poll_fn(|context| Pin::new(&mut *stream).poll_read(context, bytes)).await
}

async fn read_exact(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match read(stream, &mut bytes[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

async fn write_all(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        written += poll_fn(|context| Pin::new(&mut *stream).poll_write(context, &bytes[written..]))
            .await?;
    }
    Ok(())
}

async fn connection(mut stream: TcpStream, subscribers: Subscribers) {
    let mut purpose = [0];
    if read_exact(&mut stream, &mut purpose).await.is_err()
        || write_all(&mut stream, &purpose).await.is_err()
    {
        return;
    }
    match purpose[0] {
        ECHO => echo(stream).await,
        SUBSCRIBE => subscribers.borrow_mut().push(stream),
        _ => publish(stream, subscribers).await,
    }
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 4_096];
    while let Ok(count @ 1..) = read(&mut stream, &mut buffer).await {
        if write_all(&mut stream, &buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn publish(mut stream: TcpStream, subscribers: Subscribers) {
    let mut message = [0; MESSAGE_BYTES];
    let delivery = [b'd'; DELIVERY_BYTES];
    while read_exact(&mut stream, &mut message).await.is_ok() {
        let mut list = subscribers.take();
        for subscriber in &mut list {
            // Those who have gone are taken out when the publisher goes.
            let _ = write_all(subscriber, &delivery).await;
        }
        subscribers.borrow_mut().append(&mut list);
    }
    subscribers.borrow_mut().clear();
}
