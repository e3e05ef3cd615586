//! Listening sockets: one per core on the same address, so that the kernel spreads connections.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with,
    sockopt,
};
use std::io;
use std::net::SocketAddr;

/// What a listener is made with; accepted sockets inherit the options.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Connections that may wait to be accepted.
    pub backlog: i32,
    /// How long sent bytes may stay unacknowledged before the kernel gives the peer up.
    pub user_timeout_ms: u32,
}

/// Checks that nobody listens on `address`, whose port is not 0.
///
/// Listeners of one user may share a port by `SO_REUSEPORT`, so a second relay would silently take
/// half of the connections of the first. A socket that does not share finds that out.
///
/// # Errors
/// What the system says, with the address in the text.
pub fn check_free(address: SocketAddr, options: ListenerOptions) -> io::Result<()> {
    listener(address, options, false).map(drop).map_err(|error| named(address, error))
}

/// Binds `address` with `SO_REUSEPORT`. An IPv6 wildcard takes IPv4 connections as well.
///
/// # Errors
/// What the system says, with the address in the text.
pub fn bind_listener(address: SocketAddr, options: ListenerOptions) -> io::Result<OwnedFd> {
    listener(address, options, true).map_err(|error| named(address, error))
}

fn named(address: SocketAddr, errno: Errno) -> io::Error {
    let advice = match errno {
        Errno::ADDRINUSE => "; another process listens there, perhaps another relay",
        _ => "",
    };
    let error = io::Error::from(errno);
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{advice}"))
}

fn listener(
    address: SocketAddr,
    options: ListenerOptions,
    is_shared: bool,
) -> Result<OwnedFd, Errno> {
    let (family, is_v6) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, false),
        SocketAddr::V6(_) => (AddressFamily::INET6, true),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, is_shared)?;
    if is_v6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_tcp_user_timeout(&socket, options.user_timeout_ms)?;
    bind(&socket, &address)?;
    listen(&socket, options.backlog)?;
    Ok(socket)
}

/// Whether a failed accept is about the one connection that was to be accepted, so that the next
/// may be tried at once. Any other failure would come again at once.
pub fn is_about_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::AGAIN
            | Errno::CANCELED
            | Errno::PROTO
            // Linux hands network errors that wait on the new socket to accept.
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NONET
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            // A firewall forbade this connection.
            | Errno::PERM
            | Errno::TIMEDOUT
    )
}

/// The address that a listener was given, with the port that the kernel chose for port 0.
///
/// # Errors
/// What the system says.
pub fn local_address(listener: impl AsFd) -> io::Result<SocketAddr> {
    let address = getsockname(listener)?;
    SocketAddr::try_from(address).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ListenerOptions = ListenerOptions { backlog: 16, user_timeout_ms: 30_000 };

    #[test]
    fn accepted_sockets_inherit_the_options_and_a_port_can_be_shared() {
        let first = bind_listener("127.0.0.1:0".parse().unwrap(), OPTIONS).unwrap();
        let address = local_address(&first).unwrap();
        let second = bind_listener(address, OPTIONS).unwrap();
        assert_eq!(local_address(&second).unwrap(), address);
        drop(second);
        let error = check_free(address, OPTIONS).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another process listens there"), "{error}");
        let _client = std::net::TcpStream::connect(address).unwrap();
        let accepted = rustix::net::accept(&first).unwrap();
        assert!(sockopt::tcp_nodelay(&accepted).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 30_000);
        drop(first);
        check_free(address, OPTIONS).unwrap();
    }

    #[test]
    fn an_ipv6_wildcard_takes_ipv4() {
        let Ok(listener) = bind_listener("[::]:0".parse().unwrap(), OPTIONS) else {
            return; // This machine has no IPv6.
        };
        let port = local_address(&listener).unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(client.local_addr().is_ok());
        assert!(rustix::net::accept(&listener).is_ok());
    }
}
