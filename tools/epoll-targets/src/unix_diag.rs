// SPDX-License-Identifier: GPL-2.0

//! Peers of unix sockets, by sock_diag(7).
//!
//! Netlink crates exist; this one request takes less code than their use would.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, sendto,
    socket_with,
};
use std::collections::HashMap;
use std::io;

/// The connection of a unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
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
const UDIAG_SHOW_PEER: u32 = 4;
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
    request.extend(UDIAG_SHOW_PEER.to_ne_bytes());
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
            UNIX_DIAG_PEER => connection.peer = four(value, 0),
            UNIX_DIAG_SHUTDOWN => connection.shutdown = Shutdown::of(*value.first()?),
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some((inode, connection))
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

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&bytes, &mut HashMap::new());
        }
    }
}
