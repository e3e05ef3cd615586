//! Listening sockets: one per core on the same address, so that the kernel spreads connections, and
//! those of the data directory, which only its owner can reach.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, ipproto,
    listen, socket_with, sockopt,
};
use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Who may connect to a socket of the data directory: the owner of the directory.
const LOCAL_MODE: u32 = 0o600;
/// Bytes of a path that fit into a socket's address.
const LOCAL_PATH_BYTES_MAX: usize = 107;

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

/// Listens on a unix socket at `path`, for the owner of the file only. What a dead process left there
/// is replaced: whoever calls this holds the lock of the directory. Connecting never waits, and
/// accepting does not either.
///
/// # Errors
/// What the system says.
pub fn bind_local(path: &Path, backlog: i32) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux makes the file with the mode of the socket, so there is no moment in which others may
    // connect. Where a sandbox does not, the second call corrects it.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(LOCAL_MODE))?;
    with_short_path(path, |short| Ok(bind(&socket, &SocketAddrUnix::new(short)?)?))?;
    std::fs::set_permissions(path, Permissions::from_mode(LOCAL_MODE))?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// Removes the file of a local socket: nobody can find it any more, and who waits to be accepted is
/// not told. A file that is gone already is no matter.
pub fn unbind_local(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Connects to the unix socket at `path`.
///
/// # Errors
/// What the system says: nobody listens there, or the file is not there or not ours.
pub fn connect_local(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    with_short_path(path, |short| Ok(connect(&socket, &SocketAddrUnix::new(short)?)?))?;
    Ok(UnixStream::from(socket))
}

/// Calls `use_path` with a name of `path` that fits into a socket's address: a long one is reached
/// through a descriptor of its directory.
fn with_short_path(path: &Path, use_path: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if path.as_os_str().len() <= LOCAL_PATH_BYTES_MAX {
        return use_path(path);
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    use_path(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

/// Whether `listener` is one of [`bind_local`].
pub(crate) fn is_local(listener: impl AsFd) -> bool {
    getsockname(listener).is_ok_and(|name| name.address_family() == AddressFamily::UNIX)
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
    fn a_local_socket_is_its_owners_replaces_a_stale_one_and_may_have_a_long_name() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for path in [root.path().join("relay.sock"), deep.join("relay.sock")] {
            assert!(connect_local(&path).is_err(), "nobody listens yet");
            drop(bind_local(&path, 4).unwrap());
            assert!(path.exists(), "a process that is killed leaves its socket behind");
            assert!(connect_local(&path).is_err(), "and nobody listens there");
            let listener = bind_local(&path, 4).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, LOCAL_MODE);
            assert!(is_local(&listener));
            let _client = connect_local(&path).unwrap();
            assert!(rustix::net::accept(&listener).is_ok());
        }
        let public = bind_listener("127.0.0.1:0".parse().unwrap(), OPTIONS).unwrap();
        assert!(!is_local(&public));
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
