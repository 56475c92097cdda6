// SPDX-License-Identifier: GPL-2.0

//! TCP sockets that wait for connections.

use super::name;
use crate::image::{Bytes, Listener, SocketOption};
use crate::sys;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, getsockname, ipproto, socket_with, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// `SO_NETNS_COOKIE`, since Linux 5.14.
const NETNS_COOKIE: (i32, i32) = (libc::SOL_SOCKET, 71);

/// Returns the state of such a socket, or why it cannot be recreated; `None` if it is
/// another one.
pub fn describe(socket: BorrowedFd<'_>) -> io::Result<Option<Result<Listener, String>>> {
    let domain = sockopt::socket_domain(socket)?;
    if !matches!(domain, AddressFamily::INET | AddressFamily::INET6)
        || sockopt::socket_protocol(socket)? != Some(ipproto::TCP)
        || !sockopt::socket_acceptconn(socket)?
    {
        return Ok(None);
    }
    let other = |why: String| Ok(Some(Err(format!("{}: {why}", name::of(socket)))));
    let info = sys::tcp_info(socket)?;
    if info.waiting > 0 {
        return other(match info.waiting {
            1 => "it has a connection that was not accepted, and would be lost".into(),
            n => format!("it has {n} connections that were not accepted, and would be lost"),
        });
    }
    if sys::has_filter(socket) {
        return other("a filter is attached to it".into());
    }
    let Ok(address) = SocketAddr::try_from(getsockname(socket)?) else {
        return other("its address is unknown".into());
    };
    let flags = SocketFlags::CLOEXEC;
    let new = socket_with(domain, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    let cookie = |socket| sys::option(socket, NETNS_COOKIE, size_of::<u64>());
    match (cookie(socket)?, cookie(new.as_fd())?) {
        (Some(theirs), Some(ours)) if theirs == ours => {}
        (None, None) => return other("its network namespace is unknown".into()),
        _ => return other("it is in another network namespace".into()),
    }
    let mut listener = Listener::new(address, info.backlog);
    for (level, name, size) in Listener::KEPT {
        let value = |socket| sys::option(socket, (level, name), size);
        let (Some(theirs), usual) = (value(socket)?, value(new.as_fd())?) else {
            continue;
        };
        if usual.is_none_or(|usual| usual != theirs) {
            let mut option = SocketOption::new(name as u32, Bytes(theirs));
            option.level = (level != libc::SOL_SOCKET).then_some(level as u32);
            listener.options.push(option);
        }
    }
    Ok(Some(Ok(listener)))
}
