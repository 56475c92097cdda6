// SPDX-License-Identifier: GPL-2.0

//! `/dev/epoll_cr`: what the module `epoll_cr` knows of descriptors and epoll sets.
//!
//! An *identity* says which open file something is. All calls on one [`Device`]
//! give one file the same identity, and different files different ones; another
//! [`Device`] gives others. Once a file is closed for good, its identity can come
//! to mean a new one: compare what was there at one time, as it is if the
//! processes were stopped.
//!
//! The errors of all calls that look into another process, besides their own:
//! `ESRCH` if it is gone, `EPERM` if the caller may not attach to it as with
//! ptrace(2), `ENOMEM`. `include/uapi/linux/epoll_cr.h` has the rest.

use crate::abi;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Where the device is.
pub const PATH: &str = "/dev/epoll_cr";

/// More often than a set or table grows while it is looked at by one that is not
/// stopped.
const ATTEMPTS: usize = 16;

/// An opening of the device.
#[derive(Debug)]
pub struct Device(fs::File);

/// What is known of open files, by the identities that a [`Device`] gives them.
///
/// Nobody who lacks the key of the device can choose or foresee those. So they are
/// not hashed once more: take another map for identities that come from a file.
pub type ByIdentity<V> = HashMap<u64, V, BuildHasherDefault<IdentityHasher>>;

/// The hasher of [`ByIdentity`].
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write_u64(&mut self, identity: u64) {
        self.0 = identity;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Whose descriptors are meant.
#[derive(Clone, Copy, Debug)]
pub enum Process<'a> {
    /// The caller's.
    Own,
    /// Those of the process, or thread, that a pidfd is for.
    Other(BorrowedFd<'a>),
}

impl Process<'_> {
    fn pidfd(self) -> i32 {
        match self {
            Self::Own => abi::PIDFD_SELF,
            Self::Other(pidfd) => pidfd.as_raw_fd(),
        }
    }
}

/// What an epoll set watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The number that the file was added by.
    pub tfd: u32,
    /// How many items of that number come before it.
    pub toff: u32,
    /// What is waited for, to the bit.
    pub events: u32,
    /// Whether it is due to be reported.
    pub ready: bool,
    /// What comes with an event.
    pub data: u64,
    /// The identity of the file.
    pub file: u64,
}

/// An epoll set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number: `epoll-id` in fdinfo.
    pub id: u64,
    /// All items, by number, then by `toff`.
    pub items: Vec<Item>,
}

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// Whether exec closes it.
    pub cloexec: bool,
    /// Whether it is an epoll set.
    pub epoll: bool,
    /// The identity of the open file.
    pub file: u64,
}

/// A table of descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its identity: tasks that share a table give the same one.
    pub id: u64,
    /// All open descriptors, ascending.
    pub descriptors: Vec<Descriptor>,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its identity.
    pub file: u64,
    /// The position.
    pub position: u64,
    /// The number of the epoll set, if it is one.
    pub epoll_id: Option<u64>,
    /// Type and permissions of the inode.
    pub mode: u32,
    /// Access mode and status flags.
    pub flags: u32,
    /// User and group for permissions, of who opened it.
    pub opener: (u32, u32),
    /// Who gets signals: kind and id.
    pub owner: Option<(u32, u32)>,
    /// Which signal instead of SIGIO, or 0.
    pub signal: u32,
    /// What stat(2) says, if the file system told.
    pub stat: Option<Stat>,
    /// What the link in `/proc` shows.
    pub path: Option<Arc<[u8]>>,
    /// The path leads to the file.
    pub reachable: bool,
    /// It was unlinked where the path leads.
    pub unlinked: bool,
}

/// What stat(2) says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// How many directory entries there are.
    pub nlink: u32,
    /// The device that it is on.
    pub device: (u32, u32),
    /// The device that it is.
    pub special: (u32, u32),
    /// The inode.
    pub inode: u64,
    /// The length of a regular file.
    pub length: u64,
}

/// An item to be restored: see [`Device::restore`].
#[derive(Clone, Copy, Debug)]
pub struct Add<'a> {
    /// The file.
    pub fd: BorrowedFd<'a>,
    /// The number that it is added by, which may be closed or mean another file.
    pub tfd: u32,
    /// As in [`Item`].
    pub events: u32,
    /// As in [`Item`].
    pub ready: bool,
    /// As in [`Item`].
    pub data: u64,
}

/// Why nothing was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreError {
    /// The item because of which.
    pub bad: Option<usize>,
    /// What was wrong with it.
    pub errno: Errno,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bad {
            Some(bad) => write!(f, "item {bad} cannot be added: {}", self.errno),
            None => write!(f, "the items cannot be added: {}", self.errno),
        }
    }
}

impl std::error::Error for RestoreError {}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr().expose_provenance() as u64
}

fn address_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr().expose_provenance() as u64
}

/// The kernel counts more than there is memory for.
fn too_many() -> Errno {
    Errno::NOMEM
}

/// An array for so many, and some that may come meanwhile.
fn room<T: Clone + Default>(count: u64) -> rustix::io::Result<Vec<T>> {
    let count = usize::try_from(count).map_err(|_| too_many())?;
    let count = count.checked_add(count / 16 + 16).ok_or_else(too_many)?;
    let mut room = Vec::new();
    room.try_reserve_exact(count).map_err(|_| too_many())?;
    room.resize(count, T::default());
    Ok(room)
}

impl Device {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// `NotFound` if the module `epoll_cr` is not loaded; `PermissionDenied`.
    pub fn open() -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(PATH)
            .map(Self)
    }

    /// # Safety
    ///
    /// Addresses in `argument` must be of memory that the caller may write, as
    /// far as the call writes there; and it must be the argument that `request`
    /// takes.
    unsafe fn call<T>(&self, request: libc::Ioctl, argument: &mut T) -> rustix::io::Result<i32> {
        let fd = self.0.as_raw_fd();
        loop {
            // SAFETY: as the caller promises; `argument` itself is there during
            // the call, and the kernel knows its size.
            let ret = unsafe { libc::ioctl(fd, request, std::ptr::from_mut(argument)) };
            if ret >= 0 {
                return Ok(ret);
            }
            let error = io::Error::last_os_error();
            match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                errno => return Err(errno.unwrap_or(Errno::IO)),
            }
        }
    }

    /// All items of the epoll set that is descriptor `efd` of the process.
    ///
    /// # Errors
    ///
    /// - `EBADF`: it is not open
    /// - `EOPNOTSUPP`: it is no epoll set
    /// - `ESTALE`: it was closed meanwhile, or means another set
    /// - `EAGAIN`: it grows faster than it can be looked at
    pub fn snapshot(&self, process: Process<'_>, efd: u32) -> rustix::io::Result<Snapshot> {
        let mut room = room::<abi::Item>(0)?;
        for _ in 0..ATTEMPTS {
            let mut call = abi::Snapshot {
                size: size_of::<abi::Snapshot>() as u32,
                pidfd: process.pidfd(),
                efd,
                items: address_mut(&mut room),
                capacity: room.len() as u64,
                item_size: size_of::<abi::Item>() as u32,
                ..Default::default()
            };
            // SAFETY: `items` has `capacity` elements of `item_size`, which may
            // have any bytes in them.
            match unsafe { self.call(abi::SNAPSHOT, &mut call) } {
                Err(Errno::NOSPC) => {
                    room = self::room(call.count)?;
                    continue;
                }
                result => result?,
            };
            room.truncate(usize::try_from(call.count).map_err(|_| too_many())?);
            let items = room.iter().map(Item::from).collect();
            let id = call.epoll_id;
            return Ok(Snapshot { id, items });
        }
        Err(Errno::AGAIN)
    }

    /// All descriptors of the process.
    ///
    /// # Errors
    ///
    /// - `ESTALE`: it came to have another table meanwhile
    /// - `EAGAIN`: the table grows faster than it can be looked at
    pub fn files(&self, process: Process<'_>) -> rustix::io::Result<Table> {
        let mut room = room::<abi::Fd>(0)?;
        for _ in 0..ATTEMPTS {
            let mut call = abi::Files {
                size: size_of::<abi::Files>() as u32,
                pidfd: process.pidfd(),
                fd_size: size_of::<abi::Fd>() as u32,
                fds: address_mut(&mut room),
                capacity: room.len() as u64,
                ..Default::default()
            };
            // SAFETY: `fds` has `capacity` elements of `fd_size`, which may have
            // any bytes in them.
            match unsafe { self.call(abi::FILES, &mut call) } {
                Err(Errno::NOSPC) => {
                    room = self::room(call.count)?;
                    continue;
                }
                result => result?,
            };
            room.truncate(usize::try_from(call.count).map_err(|_| too_many())?);
            let descriptors = room.iter().map(Descriptor::from).collect();
            let id = call.table;
            return Ok(Table { id, descriptors });
        }
        Err(Errno::AGAIN)
    }

    /// The identity of the table of descriptors of a task, as in [`Table`], without
    /// what is in it.
    ///
    /// # Errors
    ///
    /// None besides those of all calls.
    pub fn table(&self, process: Process<'_>) -> rustix::io::Result<u64> {
        let mut call = abi::Files {
            size: size_of::<abi::Files>() as u32,
            pidfd: process.pidfd(),
            fd_size: size_of::<abi::Fd>() as u32,
            ..Default::default()
        };
        // SAFETY: there is no room for even one element.
        match unsafe { self.call(abi::FILES, &mut call) } {
            // It says which table that is all the same.
            Err(Errno::NOSPC) => Ok(call.table),
            result => result.map(|_| call.table),
        }
    }

    /// The open files of some descriptors of the process; nothing for those that
    /// are not open.
    ///
    /// One descriptor for each file is enough: see whether the identity is still
    /// the one that [`files`](Self::files) told.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: a descriptor is larger than `i32::MAX`
    /// - `EAGAIN`: paths become longer faster than they can be read
    pub fn describe(
        &self,
        process: Process<'_>,
        fds: &[u32],
    ) -> rustix::io::Result<Vec<Option<Description>>> {
        let mut room = vec![abi::File::default(); fds.len()];
        let mut paths = vec![0u8; 32 * fds.len()];
        for _ in 0..ATTEMPTS {
            let mut call = abi::Describe {
                size: size_of::<abi::Describe>() as u32,
                pidfd: process.pidfd(),
                file_size: size_of::<abi::File>() as u32,
                fds: address(fds),
                files: address_mut(&mut room),
                count: fds.len() as u64,
                paths: address_mut(&mut paths),
                paths_size: paths.len() as u64,
                ..Default::default()
            };
            // SAFETY: `files` has `count` elements of `file_size`, and `paths`
            // has `paths_size` bytes; both may have any bytes in them. `fds` is
            // only read.
            match unsafe { self.call(abi::DESCRIBE, &mut call) } {
                Err(Errno::NOSPC) => {
                    paths = self::room(call.paths_len)?;
                    continue;
                }
                result => result?,
            };
            let mut last = None;
            let describe = |file: &abi::File| {
                (file.file != 0).then(|| Description::new(file, &paths, &mut last))
            };
            return Ok(room.iter().map(describe).collect());
        }
        Err(Errno::AGAIN)
    }

    /// Opens a descriptor for the file of an item, close-on-exec: as
    /// pidfd_getfd(2) does, whether or not anybody has a descriptor for it.
    ///
    /// # Errors
    ///
    /// - `EBADF`, `EOPNOTSUPP`: `efd` is not open, or no epoll set
    /// - `ENOENT`: there is no such item, or its file is being closed for good
    /// - `ESTALE`: the item is for another file than `item` says
    /// - `EPERM`: besides, the file was opened by another process, or by this one with
    ///   other credentials, and the caller has no `CAP_SYS_PTRACE`
    /// - `EMFILE`, `ENFILE`: no more descriptors or files
    pub fn fetch(
        &self,
        process: Process<'_>,
        efd: u32,
        item: &Item,
    ) -> rustix::io::Result<OwnedFd> {
        let mut call = abi::Fetch {
            size: size_of::<abi::Fetch>() as u32,
            flags: 0,
            pidfd: process.pidfd(),
            efd,
            tfd: item.tfd as i32,
            toff: item.toff,
            file: item.file,
        };
        // SAFETY: there are no addresses in it.
        let fd = unsafe { self.call(abi::FETCH, &mut call) }?;
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Adds items to an epoll set of the caller just as they were, or none of
    /// them.
    ///
    /// One that was ready is reported again if one of its events is there; an
    /// edge that was reported is not. One that waits for nothing, a oneshot that
    /// has reported, goes on doing so.
    ///
    /// # Errors
    ///
    /// See [`RestoreError`]:
    ///
    /// - `EBADF`: the item's file, or the set, was opened with `O_PATH`
    /// - `EOPNOTSUPP`: the set is none
    /// - `EINVAL`: the events are such as no item has, or the item is the set
    ///   itself, or would make too many paths
    /// - `EPERM`: the file cannot be polled, or `EPOLLWAKEUP` is not allowed
    /// - `EEXIST`: the set has such an item, or it is there twice
    /// - `ELOOP`: sets would contain each other
    /// - `ENOSPC`: `/proc/sys/fs/epoll/max_user_watches` would be exceeded
    pub fn restore(&self, set: BorrowedFd<'_>, items: &[Add<'_>]) -> Result<(), RestoreError> {
        let items: Vec<_> = items.iter().map(abi::Add::from).collect();
        let mut call = abi::Restore {
            size: size_of::<abi::Restore>() as u32,
            flags: 0,
            efd: set.as_raw_fd(),
            item_size: size_of::<abi::Add>() as u32,
            items: address(&items),
            count: items.len() as u64,
            bad: items.len() as u64,
        };
        // SAFETY: `items` has `count` elements of `item_size`, and is only read.
        match unsafe { self.call(abi::RESTORE, &mut call) } {
            Ok(_) => Ok(()),
            Err(errno) => Err(RestoreError {
                bad: usize::try_from(call.bad)
                    .ok()
                    .filter(|&bad| bad < items.len()),
                errno,
            }),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wherever a descriptor for the device has been moved to.
impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
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

impl Description {
    /// `last` is the path of the one before: that of all eventfds is the same, say.
    fn new(file: &abi::File, paths: &[u8], last: &mut Option<Arc<[u8]>>) -> Self {
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
        Self {
            file: file.file,
            position: file.pos,
            epoll_id: Some(file.epoll_id).filter(|&id| id != 0),
            mode: file.mode,
            flags: file.f_flags,
            opener: (file.fsuid, file.fsgid),
            owner: Some((file.owner_type, file.owner_pid)).filter(|&(_, pid)| pid != 0),
            signal: file.owner_signal,
            stat: has(abi::FILE_STAT).then_some(Stat {
                nlink: file.nlink,
                device: (file.dev_major, file.dev_minor),
                special: (file.rdev_major, file.rdev_minor),
                inode: file.ino,
                length: file.length,
            }),
            path: has(abi::FILE_PATH).then(path).flatten(),
            reachable: !has(abi::FILE_NAME | abi::FILE_UNREACHABLE),
            unlinked: has(abi::FILE_UNLINKED),
        }
    }
}
