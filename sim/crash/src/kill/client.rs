//! A Nostr client over one WebSocket, whose connection may break at any moment.

use super::relay::PATIENCE;
use anyhow::{Context, bail, ensure};
use proto::Event;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// Events of one answer: the relay's greatest limit.
pub const LIMIT_MAX: usize = 500;

/// `event` as the JSON value that stands in messages.
pub fn event_value(event: &Event) -> Value {
    let mut json = Vec::new();
    event.view().write_json(&mut json);
    serde_json::from_slice(&json).unwrap_or(Value::Null)
}

/// What reading gave.
#[derive(Debug)]
pub enum Read {
    /// A message of the relay.
    Message(Value),
    /// None came in time.
    Nothing,
    /// The connection is gone.
    Broken,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    socket: WebSocket<TcpStream>,
    subscriptions: u64,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When the relay is not there.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let url = format!("ws://{address}/");
        let (socket, _) = tungstenite::client::client_with_config(url, stream, Some(config))
            .map_err(|error| anyhow::anyhow!("the handshake failed: {error}"))?;
        Ok(Self { socket, subscriptions: 0 })
    }

    /// How long a read waits.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_patience(&self, patience: Duration) -> anyhow::Result<()> {
        Ok(self.socket.get_ref().set_read_timeout(Some(patience))?)
    }

    /// Sends; whether the connection is still there.
    pub fn send(&mut self, message: &Value) -> bool {
        self.socket.send(Message::text(message.to_string())).is_ok()
    }

    /// The next message.
    ///
    /// # Errors
    /// When the relay sends something that is no message.
    pub fn read(&mut self) -> anyhow::Result<Read> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let value: Value = serde_json::from_str(&text).context("no JSON")?;
                    if value[0] != "AUTH" {
                        return Ok(Read::Message(value));
                    }
                }
                Ok(Message::Close(_)) => return Ok(Read::Broken),
                Ok(_) => {}
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(Read::Nothing);
                }
                Err(_) => return Ok(Read::Broken),
            }
        }
    }

    fn message(&mut self) -> anyhow::Result<Value> {
        match self.read()? {
            Read::Message(value) => Ok(value),
            Read::Nothing => bail!("the relay does not answer"),
            Read::Broken => bail!("the relay hung up"),
        }
    }

    /// Sends REQ; returns the name of the subscription.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn subscribe(&mut self, filter: &Value) -> anyhow::Result<String> {
        self.subscriptions += 1;
        let name = format!("s{}", self.subscriptions);
        ensure!(self.send(&json!(["REQ", name, filter])), "the relay hung up");
        Ok(name)
    }

    /// The answer to one filter, up to EOSE.
    ///
    /// # Errors
    /// When there is none.
    pub fn query(&mut self, filter: &Value) -> anyhow::Result<Vec<Value>> {
        let name = self.subscribe(filter)?;
        let mut events = Vec::new();
        loop {
            let mut message = self.message()?;
            if message[1] != name.as_str() {
                continue;
            }
            match message[0].as_str() {
                Some("EVENT") => events.push(message[2].take()),
                Some("EOSE") => break,
                _ => bail!("{filter} was answered with {message}"),
            }
        }
        ensure!(self.send(&json!(["CLOSE", name])), "the relay hung up");
        Ok(events)
    }

    /// Everything of one author, newest first.
    ///
    /// # Errors
    /// When the relay does not answer, or not in order.
    pub fn all_of(&mut self, author: &str) -> anyhow::Result<Vec<Value>> {
        let mut all: Vec<Value> = Vec::new();
        let mut until = None;
        loop {
            let mut filter = json!({"authors": [author], "limit": LIMIT_MAX});
            if let Some(until) = until {
                filter["until"] = json!(until);
            }
            let page = self.query(&filter)?;
            let is_last = page.len() < LIMIT_MAX;
            let before = all.len();
            for event in page {
                let place = |event: &Value| {
                    let created_at = event["created_at"].as_u64().unwrap_or(0);
                    (std::cmp::Reverse(created_at), event["id"].as_str().map(str::to_owned))
                };
                match all.last().map(|last| place(last).cmp(&place(&event))) {
                    Some(std::cmp::Ordering::Less) | None => all.push(event),
                    // A page begins with the second that the one before ended in.
                    Some(_) if all.iter().rev().take(LIMIT_MAX).any(|have| *have == event) => {}
                    Some(_) => bail!("{filter} is answered out of order: {event}"),
                }
            }
            until = all.last().and_then(|event| event["created_at"].as_u64());
            if is_last {
                return Ok(all);
            }
            ensure!(all.len() > before, "more events in one second than an answer holds");
        }
    }
}
