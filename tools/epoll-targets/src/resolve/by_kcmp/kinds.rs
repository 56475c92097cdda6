// SPDX-License-Identifier: GPL-2.0

//! What kind of file a target is, as its inode tells.

use crate::fdinfo::{Inode, Target};
use crate::proc;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{fstat, major, minor};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A socket, and its inode.
    Socket(u64),
    /// A pipe, and its inode.
    Pipe(u64),
    /// A file whose name the kernel made up, such as an eventfd.
    Anonymous,
    /// Of another file system.
    Other,
    /// The kernel does not show its inode.
    Unknown,
}

/// The devices of the kernel's own file systems, as major and minor numbers.
pub(super) struct Kinds {
    sockets: (u32, u32),
    pipes: (u32, u32),
    anonymous: (u32, u32),
}

impl Kinds {
    pub(super) fn of_this_system() -> io::Result<Self> {
        let device = |fd: &dyn AsFd| -> io::Result<(u32, u32)> {
            let device = fstat(fd.as_fd())?.st_dev;
            Ok((major(device), minor(device)))
        };
        let flags = SocketFlags::CLOEXEC;
        let (socket, _) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let (pipe, _) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self {
            sockets: device(&socket)?,
            pipes: device(&pipe)?,
            anonymous: device(&eventfd(0, EventfdFlags::CLOEXEC)?)?,
        })
    }

    pub(super) fn of(&self, target: &Target) -> Kind {
        let Some(Inode { ino, major, minor }) = target.inode else {
            return Kind::Unknown;
        };
        match (major, minor) {
            device if device == self.sockets => Kind::Socket(ino),
            device if device == self.pipes => Kind::Pipe(ino),
            device if device == self.anonymous => Kind::Anonymous,
            _ => Kind::Other,
        }
    }

    /// The number of a socket's inode, which is that of no other open file: a socket
    /// cannot be opened again, but with `O_PATH`.
    pub(super) fn socket(&self, target: &Target) -> Option<u64> {
        match self.of(target) {
            Kind::Socket(ino) => Some(ino),
            _ => None,
        }
    }

    /// Whether one of these links can be that of the target.
    pub(super) fn may_be_among(&self, target: &Target, links: &HashSet<OsString>) -> bool {
        links.iter().any(|link| self.may_be(target, link))
    }

    fn may_be(&self, target: &Target, link: &OsStr) -> bool {
        let bytes = link.as_bytes();
        let kind = self.of(target);
        match proc::linked_inode(link) {
            Some(linked) if bytes.starts_with(b"socket:[") => {
                matches!(kind, Kind::Socket(ino) if ino == linked) || kind == Kind::Unknown
            }
            Some(linked) => {
                matches!(kind, Kind::Pipe(ino) if ino == linked) || kind == Kind::Unknown
            }
            // Some file systems, such as that of pidfds, use such names as well.
            None if bytes.starts_with(b"anon_inode:") => {
                !matches!(kind, Kind::Socket(_) | Kind::Pipe(_))
            }
            None => matches!(kind, Kind::Other | Kind::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdinfo::Events;

    #[test]
    fn links_and_inodes() {
        let kinds = Kinds {
            sockets: (0, 8),
            pipes: (0, 14),
            anonymous: (0, 15),
        };
        let target = |minor, ino| Target {
            tfd: 3,
            toff: 0,
            events: Events(1),
            data: 0,
            pos: None,
            inode: Some(Inode {
                ino,
                major: 0,
                minor,
            }),
        };
        let may_be = |link: &str| {
            [target(8, 7), target(14, 7), target(15, 7), target(30, 7)]
                .map(|target| kinds.may_be(&target, OsStr::new(link)))
        };
        assert_eq!(may_be("socket:[7]"), [true, false, false, false]);
        assert_eq!(may_be("socket:[8]"), [false; 4]);
        assert_eq!(may_be("pipe:[7]"), [false, true, false, false]);
        assert_eq!(may_be("anon_inode:[eventfd]"), [false, false, true, true]);
        assert_eq!(may_be("/dev/null"), [false, false, false, true]);
        assert_eq!(kinds.socket(&target(8, 7)), Some(7));
        assert_eq!(kinds.socket(&target(14, 7)), None);
    }
}
