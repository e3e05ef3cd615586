//! Byte streams between clients and cores. A link has what a pair of kernels has: bytes on the way,
//! a bounded buffer towards a reader that does not read, and an end that comes at any time.

use serve::{Sending, SocketId};
use std::collections::{BTreeMap, VecDeque};

/// Names a link for the whole run.
pub type LinkId = u64;

/// Generations wrap like those of the engine's reactor.
const GENERATION_MASK: u32 = 0x00ff_ffff;

/// One connection. Bounded by what its client sends and its socket holds.
#[derive(Debug)]
pub struct Link {
    /// The client's place in the world.
    pub client: usize,
    /// The core that accepted it.
    pub core: u16,
    /// Its name there.
    pub socket: SocketId,
    /// The core has been told of it.
    pub is_accepted: bool,
    to_client: VecDeque<u8>,
    to_core: VecDeque<u8>,
    socket_bytes: usize,
    /// A chunk that the kernel has not taken whole.
    sending: Option<(Vec<u8>, usize)>,
    is_reading: bool,
    /// The relay will send nothing more.
    is_server_done: bool,
    /// The relay has closed it.
    is_server_closed: bool,
    /// The client will send nothing more, and whether the core has been told.
    client_done: Option<bool>,
    /// Lost, and whether the core has been told.
    reset: Option<bool>,
}

/// What a core hears of one of its links.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A new connection.
    Accepted,
    /// Bytes.
    Bytes(Vec<u8>),
    /// The chunk is with the kernel.
    Sent(Vec<u8>),
    /// The client sends no more.
    PeerClosed,
    /// Of no further use.
    Failed,
}

/// All links and each core's table of sockets.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<LinkId, Link>,
    by_socket: BTreeMap<(u16, SocketId), LinkId>,
    /// By core: generation and whether it is taken.
    sockets: BTreeMap<u16, Vec<(u32, bool)>>,
    last: LinkId,
    /// Links that have something for their client.
    pub for_clients: Vec<LinkId>,
}

impl Network {
    /// A client connects; the core hears of it in its next turn.
    pub fn connect(&mut self, client: usize, core: u16, socket_bytes: usize) -> LinkId {
        let table = self.sockets.entry(core).or_default();
        let index = table.iter().position(|(_, is_taken)| !is_taken).unwrap_or_else(|| {
            table.push((0, false));
            table.len() - 1
        });
        table[index].1 = true;
        let socket = SocketId { index: index as u32, generation: table[index].0 };
        self.last += 1;
        let link = Link {
            client,
            core,
            socket,
            is_accepted: false,
            to_client: VecDeque::new(),
            to_core: VecDeque::new(),
            socket_bytes,
            sending: None,
            is_reading: true,
            is_server_done: false,
            is_server_closed: false,
            client_done: None,
            reset: None,
        };
        self.links.insert(self.last, link);
        self.by_socket.insert((core, socket), self.last);
        self.last
    }

    /// The core of a link that is there.
    pub fn core_of(&self, link: LinkId) -> Option<u16> {
        self.links.get(&link).map(|link| link.core)
    }

    /// The client of a link that is there.
    pub fn client_of(&self, link: LinkId) -> Option<usize> {
        self.links.get(&link).map(|link| link.client)
    }

    /// A client sends bytes.
    pub fn send_to_core(&mut self, link: LinkId, bytes: &[u8]) {
        if let Some(link) = self.links.get_mut(&link).filter(|link| link.reset.is_none()) {
            link.to_core.extend(bytes);
        }
    }

    /// A client closes its sending half.
    pub fn close_by_client(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.client_done.get_or_insert(false);
        }
    }

    /// The connection is lost: bytes on the way are, too, from some byte on.
    pub fn reset(&mut self, link: LinkId, kept: impl Fn(usize) -> usize) {
        let Some(link) = self.links.get_mut(&link) else { return };
        link.reset.get_or_insert(false);
        let to_client = kept(link.to_client.len());
        link.to_client.truncate(to_client);
        let to_core = kept(link.to_core.len());
        link.to_core.truncate(to_core);
        link.sending = None;
    }

    /// Whether bytes, or the end, wait for the client of a link.
    pub fn has_more_for_client(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|link| {
            let has_ended = link.is_server_done || link.is_server_closed || link.reset.is_some();
            !link.to_client.is_empty() || has_ended
        })
    }

    /// Up to `most` bytes for the client; `None` when nothing will come any more.
    pub fn read_by_client(&mut self, id: LinkId, most: usize) -> Option<Vec<u8>> {
        let link = self.links.get_mut(&id)?;
        let count = link.to_client.len().min(most);
        let bytes: Vec<u8> = link.to_client.drain(..count).collect();
        link.pump();
        if link.reset.is_some() && bytes.is_empty() {
            return None;
        }
        let is_over = link.is_server_done || link.is_server_closed;
        if bytes.is_empty() && is_over && link.sending.is_none() && link.to_client.is_empty() {
            return None;
        }
        Some(bytes)
    }

    /// The client has forgotten the link.
    pub fn forget(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.reset.get_or_insert(false);
        if link.is_server_closed {
            self.links.remove(&id);
        }
    }

    /// What a core hears of its links, each piece of bytes as long as `piece` says.
    pub fn hear(
        &mut self,
        core: u16,
        mut piece: impl FnMut(usize) -> usize,
    ) -> Vec<(LinkId, SocketId, Heard)> {
        let mut heard = Vec::new();
        let own = self.links.iter_mut().filter(|(_, link)| link.core == core);
        for (id, link) in own {
            if link.is_server_closed {
                continue;
            }
            let mut tell = |what| heard.push((*id, link.socket, what));
            if !link.is_accepted {
                link.is_accepted = true;
                tell(Heard::Accepted);
            }
            if link.is_reading && !link.to_core.is_empty() {
                let count = piece(link.to_core.len()).clamp(1, link.to_core.len());
                tell(Heard::Bytes(link.to_core.drain(..count).collect()));
            }
            if link.reset == Some(false) && link.to_core.is_empty() {
                link.reset = Some(true);
                tell(Heard::Failed);
                continue;
            }
            if let Some((chunk, sent)) = link.sending.take() {
                if sent == chunk.len() {
                    tell(Heard::Sent(chunk));
                } else {
                    link.sending = Some((chunk, sent));
                }
            }
            if link.client_done == Some(false) && link.to_core.is_empty() {
                link.client_done = Some(true);
                tell(Heard::PeerClosed);
            }
        }
        heard
    }

    /// Whether a core has something to hear.
    pub fn has_news(&self, core: u16) -> bool {
        let mut own = self.links.values().filter(|link| link.core == core);
        own.any(|link| {
            !link.is_server_closed
                && (!link.is_accepted
                    || link.is_reading && !link.to_core.is_empty()
                    || link.reset == Some(false) && link.to_core.is_empty()
                    || link.client_done == Some(false) && link.to_core.is_empty()
                    || link.sending.as_ref().is_some_and(|(chunk, sent)| *sent == chunk.len()))
        })
    }

    fn link_of(&mut self, core: u16, socket: SocketId) -> Option<(LinkId, &mut Link)> {
        let id = *self.by_socket.get(&(core, socket))?;
        self.links.get_mut(&id).map(|link| (id, link))
    }

    /// See [`serve::Machine::send`].
    pub fn send_to_client(&mut self, core: u16, socket: SocketId, chunk: Vec<u8>) -> Sending {
        let Some((id, link)) = self.link_of(core, socket) else { return Sending::Failed };
        if link.reset.is_some() || link.is_server_done {
            return Sending::Failed;
        }
        assert!(link.sending.is_none(), "one send at a time");
        link.sending = Some((chunk, 0));
        link.pump();
        let done = link.sending.take_if(|(chunk, sent)| *sent == chunk.len());
        self.for_clients.push(id);
        match done {
            Some((chunk, _)) => Sending::Done(chunk),
            None => Sending::Started,
        }
    }

    /// Stops or resumes reading.
    pub fn set_reading(&mut self, core: u16, socket: SocketId, is_reading: bool) {
        if let Some((_, link)) = self.link_of(core, socket) {
            link.is_reading = is_reading;
        }
    }

    /// The relay sends nothing more.
    pub fn shutdown_write(&mut self, core: u16, socket: SocketId) {
        if let Some((id, link)) = self.link_of(core, socket) {
            link.is_server_done = true;
            self.for_clients.push(id);
        }
    }

    /// The relay closes; what the kernel has taken still reaches the client.
    pub fn close(&mut self, core: u16, socket: SocketId) {
        let Some((id, link)) = self.link_of(core, socket) else { return };
        (link.is_server_closed, link.sending) = (true, None);
        let is_forgotten = link.reset.is_some();
        self.by_socket.remove(&(core, socket));
        if let Some(place) =
            self.sockets.get_mut(&core).and_then(|table| table.get_mut(socket.index as usize))
        {
            *place = ((place.0 + 1) & GENERATION_MASK, false);
        }
        if is_forgotten {
            self.links.remove(&id);
        } else {
            self.for_clients.push(id);
        }
    }

    /// Every connection is gone with the process that held it.
    pub fn drop_all(&mut self, kept: impl Fn(usize) -> usize) {
        for link in self.links.values_mut() {
            let kept = kept(link.to_client.len());
            link.to_client.truncate(kept);
            (link.is_server_closed, link.sending) = (true, None);
        }
        self.for_clients.extend(self.links.keys().copied());
        self.by_socket.clear();
        self.sockets.clear();
    }

    /// Takes out a link that nobody holds any more.
    pub fn remove(&mut self, id: LinkId) {
        self.links.remove(&id);
    }
}

impl Link {
    /// Moves as much of the chunk as the socket has room for.
    fn pump(&mut self) {
        let Some((chunk, sent)) = &mut self.sending else { return };
        let room = self.socket_bytes.saturating_sub(self.to_client.len());
        let count = room.min(chunk.len() - *sent);
        self.to_client.extend(&chunk[*sent..*sent + count]);
        *sent += count;
    }
}
