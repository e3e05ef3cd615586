//! The server on tokio's single-threaded runtime: a task per connection.

use super::{Announce, DELIVERY_BYTES, ECHO, MESSAGE_BYTES, SUBSCRIBE};
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Subscribers = Rc<RefCell<Vec<TcpStream>>>;

/// Serves for as long as the process lives.
pub(super) fn serve(announce: &Announce) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce.send(listener.local_addr()?)?;
        let subscribers = Subscribers::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(connection(stream, subscribers.clone()));
        }
    })
}

async fn connection(mut stream: TcpStream, subscribers: Subscribers) {
    let mut purpose = [0];
    if stream.read_exact(&mut purpose).await.is_err() || stream.write_all(&purpose).await.is_err() {
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
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn publish(mut stream: TcpStream, subscribers: Subscribers) {
    let mut message = [0; MESSAGE_BYTES];
    let delivery = [b'd'; DELIVERY_BYTES];
    while stream.read_exact(&mut message).await.is_ok() {
        let mut list = subscribers.take();
        for subscriber in &mut list {
            // Those who have gone are taken out when the publisher goes.
            let _ = subscriber.write_all(&delivery).await;
        }
        subscribers.borrow_mut().append(&mut list);
    }
    subscribers.borrow_mut().clear();
}
