//! A blocking Nostr client, exact about what it expects.

use super::{PATIENCE, now_s};
use bench::{Draft, Signer};
use proto::Event;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket};

/// `event` as the JSON value that stands in messages.
pub fn event_value(event: &Event) -> Value {
    let mut json = Vec::new();
    event.view().write_json(&mut json);
    serde_json::from_slice(&json).unwrap()
}

/// The id in hex.
pub fn id_of(event: &Event) -> String {
    event.view().id().to_hex()
}

/// The answer to a REQ up to EOSE.
#[derive(Debug)]
pub struct Stored {
    pub events: Vec<Value>,
    /// The NIP-67 hint.
    pub hint: Vec<String>,
}

impl Stored {
    pub fn ids(&self) -> Vec<&str> {
        self.events.iter().map(|event| event["id"].as_str().unwrap()).collect()
    }
}

/// One connection.
pub struct Client {
    socket: WebSocket<TcpStream>,
    address: SocketAddr,
    /// Messages that came while something else was awaited.
    kept: VecDeque<Value>,
    /// The last AUTH challenge.
    pub challenge: Option<String>,
    subscriptions: u64,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap(), address)
    }

    /// A client whose upgrade request has these headers, too.
    pub fn connect_with(address: SocketAddr, headers: &[(&'static str, &str)]) -> Self {
        Self::asking(TcpStream::connect(address).unwrap(), address, headers)
    }

    /// A client whose kernel takes little ahead of it, so that a pause here is a pause there. Much
    /// less than this would be below two segments of the loopback device, and TCP would crawl.
    pub fn connect_narrow(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 256 * 1024).unwrap();
        Self::over(stream, address)
    }

    fn over(stream: TcpStream, address: SocketAddr) -> Self {
        Self::asking(stream, address, &[])
    }

    fn asking(stream: TcpStream, address: SocketAddr, headers: &[(&'static str, &str)]) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let mut request = format!("ws://{address}/").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, _) =
            tungstenite::client::client_with_config(request, stream, Some(config)).unwrap();
        Self { socket, address, kept: VecDeque::new(), challenge: None, subscriptions: 0 }
    }

    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    pub fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends without waiting for the kernel to take it all at once; an error says that the relay is
    /// gone, which a test of kills expects.
    pub fn try_send_text(&mut self, text: &str) -> Result<(), tungstenite::Error> {
        self.socket.send(Message::text(text))
    }

    /// Writes bytes past the WebSocket layer.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).unwrap();
    }

    pub fn send_message(&mut self, message: Message) {
        self.socket.send(message).unwrap();
    }

    /// The next WebSocket message of any type.
    pub fn recv_message(&mut self) -> Result<Message, tungstenite::Error> {
        self.socket.read()
    }

    /// The next relay message from the socket; AUTH challenges are noted and skipped.
    pub fn try_recv(&mut self) -> Result<Value, tungstenite::Error> {
        loop {
            let message = self.socket.read()?;
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).expect("a relay sends valid JSON");
            if value[0] == "AUTH" {
                self.challenge = value[1].as_str().map(str::to_owned);
                continue;
            }
            return Ok(value);
        }
    }

    fn recv_from_socket(&mut self) -> Value {
        self.try_recv().expect("a message comes before the test loses its patience")
    }

    /// The next relay message, in the order in which they came.
    pub fn recv(&mut self) -> Value {
        match self.kept.pop_front() {
            Some(value) => value,
            None => self.recv_from_socket(),
        }
    }

    /// Makes `value` the next message again.
    pub fn put_back(&mut self, value: Value) {
        self.kept.push_front(value);
    }

    /// The first message that `wanted` accepts; others are kept for later.
    pub fn recv_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.kept.iter().position(&wanted) {
            return self.kept.remove(index).unwrap();
        }
        loop {
            let value = self.recv_from_socket();
            if wanted(&value) {
                return value;
            }
            self.kept.push_back(value);
        }
    }

    /// How long the next reads wait.
    pub fn set_patience(&mut self, patience: std::time::Duration) {
        self.socket.get_ref().set_read_timeout(Some(patience)).unwrap();
    }

    /// Whether a message is there, or comes before the patience is over.
    pub fn has_message(&mut self) -> bool {
        if !self.kept.is_empty() {
            return true;
        }
        match self.try_recv() {
            Ok(value) => {
                self.kept.push_back(value);
                true
            }
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                false
            }
            Err(error) => panic!("the relay hung up: {error}"),
        }
    }

    /// Reads until the relay closes; returns the Close frame.
    pub fn recv_close(&mut self) -> Option<CloseFrame> {
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => return frame,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends EVENT and returns what OK says.
    pub fn publish(&mut self, event: &Event) -> (bool, String) {
        self.publish_value(&event_value(event))
    }

    pub fn publish_value(&mut self, event: &Value) -> (bool, String) {
        let id = event["id"].as_str().unwrap().to_owned();
        self.send(&json!(["EVENT", event]));
        self.recv_ok(&id)
    }

    pub fn recv_ok(&mut self, id: &str) -> (bool, String) {
        let ok = self.recv_where(|value| value[0] == "OK" && value[1] == id);
        assert_eq!(ok.as_array().unwrap().len(), 4, "{ok}");
        (ok[2].as_bool().unwrap(), ok[3].as_str().unwrap().to_owned())
    }

    /// Publishes all, a window at a time, and demands `OK true ""` for each.
    pub fn accept_all(&mut self, events: &[Event]) {
        for window in events.chunks(100) {
            for event in window {
                self.send(&json!(["EVENT", event_value(event)]));
            }
            for event in window {
                assert_eq!(self.recv_ok(&id_of(event)), (true, String::new()), "{event:?}");
            }
        }
    }

    /// Publishes and demands `OK true ""`.
    pub fn accept(&mut self, event: &Event) {
        assert_eq!(self.publish(event), (true, String::new()), "{event:?}");
    }

    /// Signs, publishes, demands acceptance, returns the event.
    pub fn post(&mut self, signer: &Signer, draft: &Draft) -> Event {
        let event = signer.sign(draft);
        self.accept(&event);
        event
    }

    /// Opens a subscription under a fresh name.
    pub fn open(&mut self, filters: &[Value]) -> String {
        self.subscriptions += 1;
        let sub = format!("sub-{}", self.subscriptions);
        self.open_as(&sub, filters);
        sub
    }

    pub fn open_as(&mut self, sub: &str, filters: &[Value]) {
        let mut message = vec![json!("REQ"), json!(sub)];
        message.extend_from_slice(filters);
        self.send(&Value::Array(message));
    }

    /// Reads one subscription up to EOSE, or to the reason for which it was closed.
    pub fn stored(&mut self, sub: &str) -> Result<Stored, String> {
        let mut events = Vec::new();
        loop {
            let mut value = self.recv_where(|value| {
                value[1] == sub
                    && (value[0] == "EVENT" || value[0] == "EOSE" || value[0] == "CLOSED")
            });
            match value[0].as_str().unwrap() {
                "EVENT" => events.push(value[2].take()),
                "CLOSED" => return Err(value[2].as_str().unwrap().to_owned()),
                _ => {
                    let hint = value[2].as_array().cloned().unwrap_or_default();
                    let hint = hint.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
                    return Ok(Stored { events, hint });
                }
            }
        }
    }

    /// REQ, EOSE, CLOSE.
    pub fn query_all(&mut self, filters: &[Value]) -> Result<Stored, String> {
        let sub = self.open(filters);
        let stored = self.stored(&sub);
        self.close(&sub);
        stored
    }

    pub fn query(&mut self, filter: &Value) -> Stored {
        self.query_all(std::slice::from_ref(filter)).unwrap()
    }

    /// Ids of what `filter` returns.
    pub fn query_ids(&mut self, filter: &Value) -> Vec<String> {
        self.query(filter).ids().into_iter().map(str::to_owned).collect()
    }

    pub fn close(&mut self, sub: &str) {
        self.send(&json!(["CLOSE", sub]));
    }

    /// The next live event of `sub`, which must not be closed.
    pub fn live(&mut self, sub: &str) -> Value {
        let mut value = self
            .recv_where(|value| value[1] == sub && (value[0] == "EVENT" || value[0] == "CLOSED"));
        assert_eq!(value[0], "EVENT", "{value}");
        value[2].take()
    }

    pub fn count(&mut self, filters: &[Value]) -> Result<u64, String> {
        self.subscriptions += 1;
        let sub = format!("count-{}", self.subscriptions);
        let mut message = vec![json!("COUNT"), json!(sub)];
        message.extend_from_slice(filters);
        self.send(&Value::Array(message));
        let answer = self.recv_where(|value| {
            (value[0] == "COUNT" || value[0] == "CLOSED") && value[1] == sub.as_str()
        });
        if answer[0] == "CLOSED" {
            return Err(answer[2].as_str().unwrap().to_owned());
        }
        assert_ne!(answer[2]["approximate"], true, "{answer}");
        Ok(answer[2]["count"].as_u64().unwrap())
    }

    /// The challenge, which comes unasked on connect.
    pub fn challenge(&mut self) -> String {
        while self.challenge.is_none() {
            let value = self.socket.read().expect("the challenge comes on connect");
            let Message::Text(text) = value else { continue };
            let value: Value = serde_json::from_str(&text).unwrap();
            match value[0].as_str() {
                Some("AUTH") => self.challenge = value[1].as_str().map(str::to_owned),
                _ => self.kept.push_back(value),
            }
        }
        self.challenge.clone().unwrap()
    }

    /// The AUTH event that the relay asks `signer` for.
    pub fn auth_draft(&mut self) -> Draft {
        let challenge = self.challenge();
        Draft::new(22_242, now_s())
            .tag(&["relay", &format!("ws://{}/", self.address)])
            .tag(&["challenge", &challenge])
    }

    pub fn send_auth(&mut self, event: &Event) -> (bool, String) {
        self.send(&json!(["AUTH", event_value(event)]));
        self.recv_ok(&id_of(event))
    }

    /// Authenticates `signer` too.
    pub fn auth(&mut self, signer: &Signer) {
        let event = signer.sign(&self.auth_draft());
        assert_eq!(self.send_auth(&event), (true, String::new()));
    }

    /// Everything that came before the answer to one more round trip.
    pub fn drain(&mut self) -> Vec<Value> {
        let sub = self.open(&[json!({"ids": []})]);
        self.recv_where(|value| value[0] == "EOSE" && value[1] == sub.as_str());
        self.close(&sub);
        self.kept.drain(..).collect()
    }
}

/// One HTTP request; returns the status line with the headers in lower case, and the body.
pub fn http(address: SocketAddr, request: &str) -> (String, String) {
    try_http(address, request).unwrap()
}

/// The same for a relay that may end the connection before it has read the request: the answer is lost
/// then, because the kernel resets a connection that is closed over unread bytes.
pub fn try_http(address: SocketAddr, request: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).unwrap();
    let whole = answer.split_once("\r\n\r\n");
    let (head, body) = whole.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((head.to_lowercase(), body.to_owned()))
}
