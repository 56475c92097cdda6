// SPDX-License-Identifier: GPL-2.0

//! Unix sockets, and what was sent to them, without receiving it.

use crate::image::{Bytes, Peer, Socket};
use crate::sys;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SocketAddrAny, getpeername, getsockname, recvmsg, sockopt,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What a kernel hands over with one message: `SCM_MAX_FD`.
const PASSED: usize = 253;

/// A message with the files that it brings.
#[derive(Debug)]
pub struct Received {
    pub data: Bytes,
    pub files: Vec<OwnedFd>,
}

/// What the socket is, as far as it can tell by itself; or why it cannot be
/// recreated.
pub fn describe(socket: BorrowedFd<'_>) -> io::Result<Result<Socket, &'static str>> {
    if sockopt::socket_domain(socket)? != AddressFamily::UNIX {
        return Ok(Err("only unix sockets can be recreated"));
    }
    if sys::socket_option(socket, libc::SO_ACCEPTCONN)? != 0 {
        return Ok(Err("it is a socket that listens"));
    }
    // Nothing but the family.
    let unnamed = |address: SocketAddrAny| address.addr_len() as usize <= size_of::<u16>();
    let peer = match getpeername(socket) {
        Err(Errno::NOTCONN | Errno::CONNRESET) => true,
        peer => peer?.is_none_or(unnamed),
    };
    if !peer || !unnamed(getsockname(socket)?) {
        return Ok(Err("it, or its peer, is a socket with an address"));
    }
    let option = |name| Ok::<_, io::Error>(sys::socket_option(socket, name)?.unsigned_abs());
    Ok(Ok(Socket {
        kind: option(libc::SO_TYPE)?,
        peer: Peer::Nobody,
        shutdown: 0,
        queue: Vec::new(),
        buffers: (option(libc::SO_SNDBUF)?, option(libc::SO_RCVBUF)?),
        passcred: option(libc::SO_PASSCRED)? != 0,
    }))
}

/// What was sent to the socket.
pub fn queue(socket: BorrowedFd<'_>) -> io::Result<Vec<Received>> {
    // Looking is to go on where it was left, rather than at the beginning.
    let before = sys::socket_option(socket, libc::SO_PEEK_OFF)?;
    let mut size = 1 << 18;
    let found = loop {
        sys::set_socket_option(socket, libc::SO_PEEK_OFF, 0)?;
        match peek(socket, size) {
            Ok(None) => size *= 2,
            Ok(Some(found)) => break Ok(found),
            Err(error) => break Err(error),
        }
    };
    sys::set_socket_option(socket, libc::SO_PEEK_OFF, before)?;
    found
}

/// The same with a buffer of this size; nothing if a message is longer.
fn peek(socket: BorrowedFd<'_>, size: usize) -> io::Result<Option<Vec<Received>>> {
    let kind = sys::socket_option(socket, libc::SO_TYPE)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; size];
    loop {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            flags,
        ) {
            Err(Errno::AGAIN | Errno::NOTCONN | Errno::INVAL) => return Ok(Some(found)),
            message => message?,
        };
        let mut files = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                files.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            // Or some of the files would be missing.
            return Err(Errno::MFILE.into());
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Ok(None);
        }
        let len = message.bytes;
        // The end; but datagrams can be empty.
        if len == 0 && kind != libc::SOCK_DGRAM {
            return Ok(Some(found));
        }
        let data = Bytes(buffer[..len].to_vec());
        found.push(Received { data, files });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, send,
        sendmsg, socketpair,
    };
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn texts(socket: &OwnedFd) -> Vec<Vec<u8>> {
        let queue = queue(socket.as_fd()).unwrap();
        queue.into_iter().map(|message| message.data.0).collect()
    }

    #[test]
    fn messages_stay_in_the_queue() {
        for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
            let (near, far) = pair(kind);
            assert!(texts(&near).is_empty());
            send(&far, b"one", SendFlags::empty()).unwrap();
            send(&far, b"two", SendFlags::empty()).unwrap();
            for _ in 0..2 {
                let found = texts(&near);
                if kind == SocketType::STREAM {
                    assert_eq!(found.concat(), b"onetwo");
                } else {
                    assert_eq!(found, [b"one", b"two"]);
                }
            }
            let mut buffer = [0; 3];
            assert_eq!(
                recv(&near, &mut buffer[..], RecvFlags::empty()).unwrap().0,
                3
            );
            assert_eq!(&buffer, b"one");
            assert!(texts(&far).is_empty());
            drop(far);
            assert_eq!(texts(&near), [b"two"]);
        }
    }

    #[test]
    fn a_long_message_is_whole() {
        let (near, far) = pair(SocketType::SEQPACKET);
        sys::set_socket_option(far.as_fd(), libc::SO_SNDBUFFORCE, 1 << 20).ok();
        let long = vec![7; 150_000];
        send(&far, &long, SendFlags::empty()).unwrap();
        assert!(peek(near.as_fd(), 1000).unwrap().is_none());
        assert_eq!(texts(&near), [long]);
    }

    #[test]
    fn files_come_along() {
        let (near, far) = pair(SocketType::STREAM);
        let (reader, _writer) = std::io::pipe().unwrap();
        for text in [b"a", b"b"] {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [reader.as_fd()];
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            sendmsg(
                &far,
                &[IoSlice::new(text)],
                &mut control,
                SendFlags::empty(),
            )
            .unwrap();
        }
        let found = queue(near.as_fd()).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|message| message.files.len() == 1));
    }

    #[test]
    fn what_has_an_address_is_refused() {
        let listener = std::os::unix::net::UnixListener::bind(
            std::env::temp_dir().join(format!("epoll-cr-{}", std::process::id())),
        )
        .unwrap();
        let path = listener
            .local_addr()
            .unwrap()
            .as_pathname()
            .unwrap()
            .to_owned();
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(describe(listener.as_fd()).unwrap().is_err());
        assert!(describe(client.as_fd()).unwrap().is_err());
        let (near, _far) = pair(SocketType::DGRAM);
        assert_eq!(
            describe(near.as_fd()).unwrap().unwrap().kind,
            libc::SOCK_DGRAM as u32
        );
    }
}
