// SPDX-License-Identifier: GPL-2.0

//! Names sockets that cannot be recreated, so that one knows which they are.

use crate::sys;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketType, getpeername, getsockname, ipproto, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// The states of a TCP socket: `TCP_*` of `linux/tcp_states.h`, from 1 on, as ss(8) has
/// them.
const STATES: [&str; 12] = [
    "established",
    "connecting",
    "being connected",
    "closing (FIN-WAIT-1)",
    "closing (FIN-WAIT-2)",
    "closed (TIME-WAIT)",
    "not connected",
    "closed by the peer",
    "closing (LAST-ACK)",
    "listening",
    "closing (CLOSING)",
    "being connected",
];

/// Says what a socket is: its family and type, its address, its peer's, and its state.
pub fn of(socket: BorrowedFd<'_>) -> String {
    try_of(socket).unwrap_or_else(|_| "socket".into())
}

fn try_of(socket: BorrowedFd<'_>) -> io::Result<String> {
    let kind = sockopt::socket_type(socket)?;
    let domain = sockopt::socket_domain(socket)?;
    let protocol = sockopt::socket_protocol(socket)?;
    let is_tcp = protocol == Some(ipproto::TCP);
    let mut name = match domain {
        AddressFamily::UNIX => "unix socket".into(),
        AddressFamily::INET | AddressFamily::INET6 if is_tcp => "TCP socket".into(),
        AddressFamily::INET | AddressFamily::INET6 if kind == SocketType::DGRAM => match protocol {
            Some(ipproto::UDP) => "UDP socket".into(),
            _ => "datagram socket".to_owned(),
        },
        AddressFamily::INET | AddressFamily::INET6 if kind == SocketType::RAW => {
            "raw socket".to_owned()
        }
        AddressFamily::NETLINK => "netlink socket".into(),
        AddressFamily::PACKET => "packet socket".into(),
        AddressFamily::VSOCK => "vsock socket".into(),
        other => format!("socket of family {}", other.as_raw()),
    };
    let local = getsockname(socket)?;
    if let Some(address) = address(&local) {
        name += &format!(" {address}");
    }
    if let Ok(Some(peer)) = getpeername(socket) {
        if let Some(address) = address(&peer) {
            name += &format!(", connected to {address}");
        }
    }
    let state = match is_tcp {
        true => Some(sys::tcp_info(socket)?.state),
        false => None,
    };
    let state = state.and_then(|state| STATES.get(usize::from(state).checked_sub(1)?));
    if sockopt::socket_acceptconn(socket)? {
        name += ", listening";
    } else if let Some(state) = state.filter(|state| **state != "established") {
        name += &format!(", {state}");
    }
    Ok(name)
}

/// An address as people write it; `None` if there is none.
fn address(address: &SocketAddrAny) -> Option<String> {
    if let Ok(internet) = SocketAddr::try_from(address.clone()) {
        return (internet.port() != 0 || !internet.ip().is_unspecified())
            .then(|| internet.to_string());
    }
    let unix = rustix::net::SocketAddrUnix::try_from(address.clone()).ok()?;
    if let Some(path) = unix.path() {
        return Some(path.to_string_lossy().into_owned());
    }
    // One without an address has an empty one.
    let name = unix.abstract_name().filter(|name| !name.is_empty())?;
    Some(format!("@{}", String::from_utf8_lossy(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    #[test]
    fn as_people_know_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(
            of(listener.as_fd()),
            format!("TCP socket {address}, listening")
        );
        let client = TcpStream::connect(address).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(
            of(server.as_fd()),
            format!("TCP socket {address}, connected to {peer}")
        );
        drop(client);
        // The end has arrived when it is read.
        std::io::Read::read(&mut &server, &mut [0]).unwrap();
        assert_eq!(
            of(server.as_fd()),
            format!("TCP socket {address}, connected to {peer}, closed by the peer")
        );
        let udp = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0"));
        let udp = udp.unwrap();
        let address = udp.local_addr().unwrap();
        assert_eq!(of(udp.as_fd()), format!("UDP socket {address}"));
    }
}
