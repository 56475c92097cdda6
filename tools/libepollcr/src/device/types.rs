// SPDX-License-Identifier: GPL-2.0

//! What the device is asked, and what it answers.

use crate::abi;
use crate::types::{DeviceNumber, Opener, Owner, OwnerKind};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// The task whose descriptors are meant.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Process<'a> {
    /// The calling thread.
    Own,
    /// The process, or the thread, that a pidfd refers to.
    Other(BorrowedFd<'a>),
}

impl Process<'_> {
    pub(super) fn pidfd(self) -> i32 {
        match self {
            Self::Own => abi::PIDFD_SELF,
            Self::Other(pidfd) => pidfd.as_raw_fd(),
        }
    }
}

/// A target of an epoll instance: `struct epoll_cr_item`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The descriptor that the file was added by. It may be closed by now, or refer to
    /// another file.
    pub tfd: u32,
    /// How many targets with the same `tfd` precede this one.
    pub toff: u32,
    /// The events and flags (`EPOLL*`) as they were last added or modified. Only flags
    /// are left of an `EPOLLONESHOT` target that has fired.
    pub events: u32,
    /// Whether the target is on the ready list.
    pub ready: bool,
    /// What epoll_wait(2) returns with an event.
    pub data: u64,
    /// The identity of the open file description.
    pub file: u64,
}

/// The interest list of an epoll instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The number of the epoll instance: `epoll-id` in fdinfo.
    pub id: u64,
    /// All targets, by `tfd`, then by `toff`.
    pub items: Vec<Item>,
}

/// An open descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Descriptor {
    /// The descriptor.
    pub fd: u32,
    /// Whether execve(2) closes it.
    pub cloexec: bool,
    /// Whether it refers to an epoll instance.
    pub epoll: bool,
    /// The identity of the open file description.
    pub file: u64,
}

/// A descriptor table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Table {
    /// The identity of the table: the same for tasks that share one. It must not be
    /// compared with the identity of a file.
    pub id: u64,
    /// All open descriptors, ascending.
    pub descriptors: Vec<Descriptor>,
}

/// An open file description.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// Its identity.
    pub file: u64,
    /// The file position, in bytes.
    pub position: u64,
    /// The number of the epoll instance, if it is one.
    pub epoll_id: Option<u64>,
    /// Type and permissions of the inode: `st_mode` of stat(2).
    pub mode: u32,
    /// Access mode and status flags (`O_*`), as `F_GETFL` returns them.
    pub flags: u32,
    /// The user and group that opened the file, in the caller's user namespace; `None` if
    /// it was not asked of the device.
    pub opener: Option<Opener>,
    /// The receiver of its signals; `None` if nobody is, and `F_SETSIG` was not used.
    pub owner: Option<Owner>,
    /// What stat(2) returns; `None` if the file system did not tell.
    pub stat: Option<Stat>,
    /// What the link in `/proc/PID/fd` shows, without ' (deleted)'; `None` if it is
    /// longer than `PATH_MAX`.
    pub path: Option<Arc<[u8]>>,
    /// Whether the path is one, and begins at the caller's root.
    pub reachable: bool,
    /// Whether the file was unlinked at the path.
    pub unlinked: bool,
}

/// What stat(2) returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// The number of links of the inode.
    pub nlink: u32,
    /// The device that has the inode.
    pub device: DeviceNumber,
    /// The device that a device file stands for.
    pub special: DeviceNumber,
    /// The number of the inode.
    pub inode: u64,
    /// The length of a regular file, in bytes.
    pub length: u64,
}

/// A target for [`Device::restore`](super::Device::restore) to add.
#[derive(Clone, Copy, Debug)]
pub struct Add<'a> {
    /// A descriptor of the caller for the file.
    pub fd: BorrowedFd<'a>,
    /// The descriptor that the target is recorded under. It is not looked up: it may be
    /// closed, or refer to another file.
    pub tfd: u32,
    /// As in [`Item`].
    pub events: u32,
    /// As in [`Item`].
    pub ready: bool,
    /// As in [`Item`].
    pub data: u64,
}

/// Why no target was restored. Its source is the error of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
#[non_exhaustive]
pub struct RestoreError {
    /// The index of the target that the call failed because of, if it was one.
    pub bad: Option<usize>,
    /// The error of the kernel.
    #[source]
    pub errno: Errno,
}

impl RestoreError {
    fn message(&self) -> String {
        let what = match self.bad {
            Some(bad) => format!("the kernel refuses target {bad}"),
            None => "the kernel refuses the targets".into(),
        };
        match self.errno {
            Errno::NOSPC => what + " (raise /proc/sys/fs/epoll/max_user_watches)",
            _ => what,
        }
    }
}

impl From<&abi::Item> for Item {
    fn from(item: &abi::Item) -> Self {
        Self {
            tfd: item.tfd as u32,
            toff: item.toff,
            events: item.events,
            ready: item.flags & abi::ITEM_READY != 0,
            data: item.data,
            file: item.file,
        }
    }
}

impl From<&Add<'_>> for abi::Add {
    fn from(add: &Add<'_>) -> Self {
        Self {
            fd: add.fd.as_raw_fd(),
            // One that is too large becomes negative, and is refused.
            tfd: add.tfd as i32,
            events: add.events,
            flags: if add.ready { abi::ITEM_READY } else { 0 },
            data: add.data,
        }
    }
}

impl From<&abi::Fd> for Descriptor {
    fn from(fd: &abi::Fd) -> Self {
        Self {
            fd: fd.fd,
            cloexec: fd.flags & abi::FD_CLOEXEC != 0,
            epoll: fd.flags & abi::FD_EPOLL != 0,
            file: fd.file,
        }
    }
}

/// The owner of a file; `EPROTO` if its kind is not known here, or its id is not one.
fn owner(file: &abi::File) -> rustix::io::Result<Option<Owner>> {
    if file.owner_pid == 0 && file.owner_signal == 0 {
        return Ok(None);
    }
    Ok(Some(Owner {
        kind: OwnerKind::from_raw(file.owner_type).ok_or(Errno::PROTO)?,
        id: i32::try_from(file.owner_pid).map_err(|_| Errno::PROTO)?,
        signal: file.owner_signal,
    }))
}

impl Description {
    /// `last` is the path of the previous one: all eventfds have the same, for example.
    pub(super) fn new(
        file: &abi::File,
        paths: &[u8],
        last: &mut Option<Arc<[u8]>>,
    ) -> rustix::io::Result<Self> {
        let has = |bit| file.mask & bit != 0;
        let path = || {
            let begin = usize::try_from(file.path_offset).ok()?;
            let end = begin.checked_add(file.path_len as usize)?;
            let path = paths.get(begin..end)?;
            if last.as_deref() != Some(path) {
                *last = Some(path.into());
            }
            last.clone()
        };
        Ok(Self {
            file: file.file,
            position: file.pos,
            epoll_id: Some(file.epoll_id).filter(|&id| id != 0),
            mode: file.mode,
            flags: file.f_flags,
            opener: Some(Opener {
                uid: file.fsuid,
                gid: file.fsgid,
            }),
            owner: owner(file)?,
            stat: has(abi::FILE_STAT).then_some(Stat {
                nlink: file.nlink,
                device: DeviceNumber {
                    major: file.dev_major,
                    minor: file.dev_minor,
                },
                special: DeviceNumber {
                    major: file.rdev_major,
                    minor: file.rdev_minor,
                },
                inode: file.ino,
                length: file.length,
            }),
            path: has(abi::FILE_PATH).then(path).flatten(),
            reachable: !has(abi::FILE_NAME | abi::FILE_UNREACHABLE),
            unlinked: has(abi::FILE_UNLINKED),
        })
    }
}
