// SPDX-License-Identifier: GPL-2.0

//! Sockets, and the messages in them.

use super::Error;
use super::maker::{Maker, at};
use crate::image::{Buffers, Kind, Message, Peer, Socket};
use crate::sys;
use crate::types::{Directions, SocketKind};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags,
    SocketType, send, sendmsg, shutdown, socket_with, socketpair, sockopt,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

/// What the kernel counts for a message besides its data, in bytes, generously.
const OVERHEAD: usize = 1024;

impl Maker<'_> {
    /// Makes a socket, and its peer.
    pub fn sockets(&mut self, index: usize, socket: &Socket) -> Result<(), Error> {
        let kind = SocketType::from_raw(socket.kind.raw());
        let flags = SocketFlags::CLOEXEC;
        let (near, far) = match socket.peer {
            Peer::Nobody => (
                at(index, socket_with(AddressFamily::UNIX, kind, flags, None))?,
                None,
            ),
            _ => {
                let (near, far) = at(index, socketpair(AddressFamily::UNIX, kind, flags, None))?;
                // It may have the number of the other one.
                let far = at(index, self.make_way(far))?;
                (near, Some(far))
            }
        };
        at(index, options(near.as_fd(), socket))?;
        self.finish(index, near)?;
        match (socket.peer, far) {
            (Peer::File(peer), Some(far)) => {
                let peer = peer as usize;
                if let Kind::Socket(other) = &self.image.files[peer].kind {
                    at(peer, options(far.as_fd(), other))?;
                }
                self.finish(peer, far)
            }
            (_, Some(far)) => {
                let far = at(index, self.park(far))?;
                self.far.insert(index, far);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sends the messages that were in sockets, and shuts down what was shut down.
    pub fn messages(&mut self) -> Result<(), Error> {
        for (index, file) in self.image.files.iter().enumerate() {
            let Kind::Socket(socket) = &file.kind else {
                continue;
            };
            if !socket.queue.is_empty() && !self.given[index] {
                at(index, self.send(index, socket))?;
            }
        }
        // These could get in the way of the messages.
        for (index, file) in self.image.files.iter().enumerate() {
            let Kind::Socket(socket) = &file.kind else {
                continue;
            };
            if self.given[index] {
                continue;
            }
            for option in socket.options.iter().flatten() {
                let name = (libc::SOL_SOCKET, option.name as i32);
                at(
                    index,
                    sys::set_option(self.fd(index)?, name, &option.value.0),
                )?;
            }
            if socket.reset == Some(true) {
                // A peer resets the connection if it is closed before it receives this.
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                at(index, send(self.fd(index)?, &[0], flags))?;
            }
        }
        for (index, file) in self.image.files.iter().enumerate() {
            let Kind::Socket(socket) = &file.kind else {
                continue;
            };
            let receives = socket.shutdown.contains(Directions::RECEIVE);
            let how = match (receives, socket.shutdown.contains(Directions::SEND)) {
                (true, false) => Shutdown::Read,
                (false, true) => Shutdown::Write,
                (true, true) => Shutdown::Both,
                (false, false) => continue,
            };
            // Closing a peer shuts down as well, but for datagrams.
            let is_closed = socket.peer == Peer::Closed && socket.kind != SocketKind::Datagram;
            if socket.peer != Peer::Elsewhere && !is_closed && !self.given[index] {
                at(index, shutdown(self.fd(index)?, how))?;
            }
        }
        self.far.clear();
        Ok(())
    }

    /// The socket that sends to this one.
    fn far_of(&self, index: usize, socket: &Socket) -> Option<BorrowedFd<'_>> {
        match socket.peer {
            Peer::File(peer) => self.fd(peer as usize).ok(),
            _ => self.far.get(&index).map(|fd| fd.as_fd()),
        }
    }

    fn send(&self, index: usize, socket: &Socket) -> io::Result<()> {
        let far = self.far_of(index, socket).ok_or(Errno::NOTCONN)?;
        // The buffer of the sender may have been larger when it sent the messages.
        let size = sockopt::socket_send_buffer_size(far)?;
        let all = socket.queue.iter();
        let all: usize = all.map(|message| message.data.0.len() + OVERHEAD).sum();
        let large = all.min(i32::MAX as usize).max(size);
        if large > size {
            set_send_buffer(far, large)?;
        }
        // With it, a socket gets an address when it sends: it has sent these before.
        let passcred = sockopt::socket_passcred(far)?;
        if passcred {
            sockopt::set_socket_passcred(far, false)?;
        }
        for message in &socket.queue {
            self.send_one(far, message)?;
        }
        if passcred {
            sockopt::set_socket_passcred(far, true)?;
        }
        if large > size {
            set_send_buffer(far, size / 2)?;
        }
        Ok(())
    }

    fn send_one(&self, far: BorrowedFd<'_>, message: &Message) -> io::Result<()> {
        let files: Result<Vec<_>, Error> = message
            .files
            .iter()
            .map(|&file| self.fd(file as usize))
            .collect();
        let files = files.map_err(io::Error::other)?;
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(Errno::INVAL.into());
        }
        let data = IoSlice::new(&message.data.0);
        let sent = sendmsg(
            far,
            &[data],
            &mut control,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        if sent != message.data.0.len() {
            return Err(Errno::NOBUFS.into());
        }
        Ok(())
    }
}

/// Sets the size of a buffer, beyond the limit of the system if that is allowed. The kernel
/// doubles it.
fn set_send_buffer(fd: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    if sockopt::set_socket_send_buffer_size_force(fd, size).is_err() {
        sockopt::set_socket_send_buffer_size(fd, size)?;
    }
    Ok(())
}

/// Sets the options of a new socket.
fn options(fd: BorrowedFd<'_>, socket: &Socket) -> io::Result<()> {
    // setsockopt() doubles the size that it is given. Without CAP_NET_ADMIN, the limit
    // of the system applies.
    let Buffers { send, receive } = socket.buffers;
    let half = |size: u32| (size / 2) as usize;
    if sockopt::socket_send_buffer_size(fd)? != send as usize {
        set_send_buffer(fd, half(send))?;
    }
    if sockopt::socket_recv_buffer_size(fd)? != receive as usize
        && sockopt::set_socket_recv_buffer_size_force(fd, half(receive)).is_err()
    {
        sockopt::set_socket_recv_buffer_size(fd, half(receive))?;
    }
    if socket.passcred {
        sockopt::set_socket_passcred(fd, true)?;
    }
    Ok(())
}
