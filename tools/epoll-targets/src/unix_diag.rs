// SPDX-License-Identifier: GPL-2.0

//! Names and peers of unix sockets, by sock_diag(7).
//!
//! Netlink crates exist; this one request takes less code than their use would.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, sendto,
    socket_with,
};
use std::collections::HashMap;
use std::io;

/// The name of a unix socket, and its connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// What it was bound to: a path, or NUL and an abstract name, see unix(7).
    pub name: Option<Vec<u8>>,
    /// The inode of its peer; 0 if that was closed.
    pub peer: Option<u32>,
    /// In which directions it was shut down.
    pub shutdown: Shutdown,
}

/// Directions in which a socket was shut down, see shutdown(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// Nothing is received any more: `RCV_SHUTDOWN` of the kernel.
    pub receive: bool,
    /// Nothing is sent any more: `SEND_SHUTDOWN` of the kernel.
    pub send: bool,
}

impl Shutdown {
    /// From the bits of the kernel.
    const fn of(bits: u8) -> Self {
        Self {
            receive: bits & 1 != 0,
            send: bits & 2 != 0,
        }
    }
}

const HEAD: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
/// `struct unix_diag_msg`
const MESSAGE: usize = 16;

/// Lists all unix sockets of the caller's network namespace, by inode.
///
/// # Errors
///
/// Those of the kernel: `ENOENT` without `CONFIG_UNIX_DIAG`.
pub fn sockets() -> io::Result<HashMap<u32, Connection>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;

    // struct unix_diag_req: all states; inode and cookie are for a single one.
    let mut request = Vec::new();
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend((UDIAG_SHOW_NAME | UDIAG_SHOW_PEER).to_ne_bytes());
    request.extend([0; 8]);
    let mut message = Vec::new();
    message.extend(((HEAD + request.len()) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(request);
    sendto(
        &socket,
        &message,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;

    let mut found = HashMap::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let (got, whole) = recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
        if whole > got {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if read(&buffer[..got], &mut found)? {
            return Ok(found);
        }
    }
}

fn two(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn four(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads the messages of a datagram. Returns whether it is the last.
fn read(mut bytes: &[u8], found: &mut HashMap<u32, Connection>) -> io::Result<bool> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    while !bytes.is_empty() {
        let len = four(bytes, 0).ok_or_else(wrong)? as usize;
        let body = bytes.get(HEAD..len).ok_or_else(wrong)?;
        match two(bytes, 4).ok_or_else(wrong)? {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = four(body, 0).ok_or_else(wrong)? as i32;
                return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
            }
            SOCK_DIAG_BY_FAMILY => {
                let (inode, connection) = entry(body).ok_or_else(wrong)?;
                found.insert(inode, connection);
            }
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(false)
}

/// `struct unix_diag_msg` and its attributes.
fn entry(body: &[u8]) -> Option<(u32, Connection)> {
    let inode = four(body, 4)?;
    let mut connection = Connection::default();
    let mut rest = body.get(MESSAGE..)?;
    while rest.len() >= 4 {
        let len = usize::from(two(rest, 0)?);
        let value = rest.get(4..len)?;
        match two(rest, 2)? {
            UNIX_DIAG_NAME => connection.name = Some(name(value)),
            UNIX_DIAG_PEER => connection.peer = four(value, 0),
            UNIX_DIAG_SHUTDOWN => connection.shutdown = Shutdown::of(*value.first()?),
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some((inode, connection))
}

/// The name in a `struct sockaddr_un`. A path ends with NUL.
fn name(address: &[u8]) -> Vec<u8> {
    match address {
        [0, ..] => address,
        path => path.split(|&byte| byte == 0).next().unwrap_or_default(),
    }
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::net::socketpair;

    #[test]
    fn a_pair_knows_itself() {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let inode = |socket| rustix::fs::fstat(socket).unwrap().st_ino as u32;
        rustix::net::shutdown(&a, rustix::net::Shutdown::Write).unwrap();
        let sockets = sockets().expect("CONFIG_UNIX_DIAG, or its module");
        assert_eq!(sockets[&inode(&a)].peer, Some(inode(&b)));
        assert_eq!(sockets[&inode(&b)].peer, Some(inode(&a)));
        let shutdown = sockets[&inode(&a)].shutdown;
        assert_eq!((shutdown.receive, shutdown.send), (false, true));
    }

    #[test]
    fn names_are_exact() {
        use std::os::fd::AsFd as _;
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixListener};

        let abstract_name = format!("epoll-targets\n{}\0x", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let path = std::env::temp_dir().join(format!("epoll\ntargets {}", std::process::id()));
        let in_directory = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let sockets = sockets().expect("CONFIG_UNIX_DIAG, or its module");
        let name = |socket: &UnixListener| {
            let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino as u32;
            sockets[&inode].name.clone().unwrap()
        };
        assert_eq!(name(&listener), format!("\0{abstract_name}").as_bytes());
        assert_eq!(name(&in_directory), path.as_os_str().as_encoded_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&bytes, &mut HashMap::new());
        }
    }
}
