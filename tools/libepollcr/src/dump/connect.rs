// SPDX-License-Identifier: GPL-2.0

//! Which sockets are connected to which.

use super::table::Dumper;
use crate::image::{Kind, Peer, Socket};
use crate::types::{Directions, SocketKind};
use epoll_targets::unix_diag::{self, Connection};
use std::collections::HashMap;

impl Dumper<'_, '_> {
    /// Sets the peer of each socket.
    pub fn connect(&mut self) {
        if self.sockets.is_empty() {
            return;
        }
        let all = match unix_diag::sockets() {
            Ok(all) => all,
            Err(error) => {
                for &index in self.sockets.values() {
                    let why = format!("the kernel does not tell its peer: {error}");
                    self.image.files[index as usize].kind = Kind::Other { why };
                }
                return;
            }
        };
        let of = |inode: &u32| all.get(inode);
        for (inode, &index) in &self.sockets {
            let connection = of(inode);
            let file = &mut self.image.files[index as usize];
            let Kind::Socket(socket) = &mut file.kind else {
                continue;
            };
            match peer(*inode, connection, of, &self.sockets) {
                Ok(peer) => {
                    socket.peer = peer;
                    let shut = connection.map(|known| known.shutdown).unwrap_or_default();
                    socket.shutdown.set(Directions::RECEIVE, shut.receive);
                    socket.shutdown.set(Directions::SEND, shut.send);
                    if peer == Peer::Nobody && !socket.queue.is_empty() {
                        let why = "it has messages of a socket that it is not connected to".into();
                        file.kind = Kind::Other { why };
                        continue;
                    }
                    let closed = peer == Peer::Closed && socket.kind != SocketKind::Datagram;
                    if socket.reset == Some(true) && !closed {
                        let why = "an error is pending on it, which would be lost".into();
                        file.kind = Kind::Other { why };
                    }
                }
                Err(why) => file.kind = Kind::Other { why: why.into() },
            }
        }
        // A socket whose peer cannot be restored cannot be, either.
        for &index in self.sockets.values() {
            let Kind::Socket(Socket {
                peer: Peer::File(peer),
                ..
            }) = self.image.files[index as usize].kind
            else {
                continue;
            };
            if !matches!(self.image.files[peer as usize].kind, Kind::Socket(_)) {
                let Kind::Socket(socket) = &mut self.image.files[index as usize].kind else {
                    continue;
                };
                socket.peer = Peer::Elsewhere;
            }
        }
    }
}

/// The peer of a socket, or why it is not known.
fn peer<'a>(
    inode: u32,
    connection: Option<&Connection>,
    of: impl Fn(&u32) -> Option<&'a Connection>,
    sockets: &HashMap<u32, u32>,
) -> Result<Peer, &'static str> {
    let connection = connection.ok_or("it is a socket of another network namespace")?;
    match connection.peer {
        None => Ok(Peer::Nobody),
        Some(0) => Ok(Peer::Closed),
        Some(other) => match sockets.get(&other) {
            None => Ok(Peer::Elsewhere),
            Some(&file) => match of(&other).and_then(|other| other.peer) {
                Some(back) if back == inode => Ok(Peer::File(file)),
                Some(_) => Err("its peer is connected to another socket"),
                None => Err("its peer is not connected to it any more"),
            },
        },
    }
}
