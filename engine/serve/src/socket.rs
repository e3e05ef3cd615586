//! How sockets are spoken of.

use std::net::SocketAddr;

/// Names one open socket of one core. The generation changes whenever an index is given to another
/// socket, so a completion that arrives late can never be taken for the new one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// Place in the machine's table; small and dense, so it may index a table of the core's own.
    pub index: u32,
    /// How often the place has been used before, 24 bits.
    pub generation: u32,
}

/// The other end of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It came over the network.
    Remote(SocketAddr),
    /// It came through a socket in the data directory, which only the owner of the directory can
    /// reach.
    Local,
}

/// How far a send went at once.
#[derive(Debug)]
pub enum Sending {
    /// All of it; the bytes come back as they were given.
    Done(Vec<u8>),
    /// The machine says later that all of it is sent, or that the socket failed.
    Started,
    /// The socket is of no further use (or unknown).
    Failed,
}
