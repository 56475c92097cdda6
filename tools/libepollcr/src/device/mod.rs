// SPDX-License-Identifier: GPL-2.0

//! `/dev/epoll_cr`, the device of the module `epoll_cr`.
//!
//! An *identity* names an open file description. All calls on one [`Device`] give one
//! description the same identity, and different descriptions different ones; another
//! [`Device`] gives others. When a description is released, its identity can be given
//! to a new one: compare only what was there at one time, for which the processes have
//! to be stopped.
//!
//! Calls that inspect another process also fail with `ESRCH` if it has ended, with
//! `EPERM` if the caller may not attach to it as with ptrace(2), and with `ENOMEM`.
//! `include/uapi/linux/epoll_cr.h` documents each call.

mod call;
mod identity;
mod types;

pub use identity::{ByIdentity, IdentityHasher};
pub use types::{Add, Description, Descriptor, Item, Process, RestoreError, Snapshot, Stat, Table};

use crate::abi;
use call::Call;
use rustix::io::Errno;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// The path of the device.
pub const PATH: &str = "/dev/epoll_cr";

/// How often a list is read again because it has outgrown its buffer: more often than
/// it grows during a call unless its process fills it on purpose.
const ATTEMPTS: usize = 16;

/// An open device.
#[derive(Debug)]
pub struct Device(fs::File);

/// The kernel counts more than there is memory for.
fn too_many() -> Errno {
    Errno::NOMEM
}

/// Reads a list of unknown length. `read` reads it into the array, and returns what the
/// device did, how long the list is, and what else it said.
fn read_list<T: Clone + Default, R>(
    mut read: impl FnMut(&mut [T]) -> (rustix::io::Result<i32>, u64, R),
) -> rustix::io::Result<(Vec<T>, R)> {
    let mut list = room(0)?;
    for _ in 0..ATTEMPTS {
        let (result, count, rest) = read(&mut list);
        match result {
            Err(Errno::NOSPC) => list = room(count)?,
            result => {
                result?;
                list.truncate(usize::try_from(count).map_err(|_| too_many())?);
                return Ok((list, rest));
            }
        }
    }
    Err(Errno::AGAIN)
}

/// An array for `count` elements, and some that may be added meanwhile.
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

    /// Reads the interest list of the epoll instance that `efd` of the process is.
    ///
    /// # Errors
    ///
    /// - `EBADF`: `efd` is not open
    /// - `EOPNOTSUPP`: `efd` is not an epoll instance
    /// - `ESTALE`: `efd` was closed meanwhile, or refers to another instance
    /// - `EAGAIN`: the list grows faster than it can be read
    pub fn snapshot(&self, process: Process<'_>, efd: u32) -> rustix::io::Result<Snapshot> {
        let (items, id) = read_list::<abi::Item, _>(|items| {
            let mut call = Call::snapshot(process, efd, items);
            let result = call.run(self);
            let said = call.argument();
            (result, said.count, said.epoll_id)
        })?;
        let items = items.iter().map(Item::from).collect();
        Ok(Snapshot { id, items })
    }

    /// Lists all descriptors of the process.
    ///
    /// # Errors
    ///
    /// - `ESTALE`: the process has another descriptor table by now
    /// - `EAGAIN`: the table grows faster than it can be read
    pub fn files(&self, process: Process<'_>) -> rustix::io::Result<Table> {
        let (fds, id) = read_list::<abi::Fd, _>(|fds| {
            let mut call = Call::files(process, fds);
            let result = call.run(self);
            let said = call.argument();
            (result, said.count, said.table)
        })?;
        let descriptors = fds.iter().map(Descriptor::from).collect();
        Ok(Table { id, descriptors })
    }

    /// Returns the identity of a task's descriptor table, [`Table::id`], without its
    /// descriptors.
    ///
    /// # Errors
    ///
    /// Only those of all calls.
    pub fn table(&self, process: Process<'_>) -> rustix::io::Result<u64> {
        let mut call = Call::files(process, &mut []);
        match call.run(self) {
            // The identity is written even though no descriptor fits.
            Ok(_) | Err(Errno::NOSPC) => Ok(call.argument().table),
            Err(errno) => Err(errno),
        }
    }

    /// Describes the open files of some descriptors of the process, in their order;
    /// `None` for descriptors that are not open.
    ///
    /// One descriptor for each open file description is enough: check that the identity
    /// is still the one that [`files`](Self::files) returned.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: a descriptor is larger than `i32::MAX`
    /// - `EAGAIN`: paths grow faster than they can be read
    /// - `EPROTO`: the receiver of a file's signals is of an unknown kind
    pub fn describe(
        &self,
        process: Process<'_>,
        fds: &[u32],
    ) -> rustix::io::Result<Vec<Option<Description>>> {
        let mut room = vec![abi::File::default(); fds.len()];
        let mut paths = vec![0u8; 32 * fds.len()];
        for _ in 0..ATTEMPTS {
            let mut call = Call::describe(process, fds, &mut room, &mut paths);
            let result = call.run(self);
            let paths_len = call.argument().paths_len;
            match result {
                Err(Errno::NOSPC) => {
                    paths = self::room(paths_len)?;
                    continue;
                }
                result => result?,
            };
            let mut last = None;
            let describe = |file: &abi::File| {
                let open = file.file != 0;
                open.then(|| Description::new(file, &paths, &mut last))
                    .transpose()
            };
            return room.iter().map(describe).collect();
        }
        Err(Errno::AGAIN)
    }

    /// Opens a descriptor, close-on-exec, for the file of a target, as pidfd_getfd(2)
    /// does for a descriptor. No process need have a descriptor for it.
    ///
    /// # Errors
    ///
    /// - `EBADF`, `EOPNOTSUPP`: `efd` is not open, or not an epoll instance
    /// - `ENOENT`: there is no such target, or its file is being released
    /// - `ESTALE`: the target has another file than `item` says
    /// - `EPERM`: the process did not open the file, or opened it with other
    ///   credentials, and the caller lacks `CAP_SYS_PTRACE`
    /// - `EMFILE`, `ENFILE`: too many open descriptors or files
    pub fn fetch(
        &self,
        process: Process<'_>,
        efd: u32,
        item: &Item,
    ) -> rustix::io::Result<OwnedFd> {
        let fd = Call::fetch(process, efd, item.tfd, item.toff, item.file).run(self)?;
        // SAFETY: EPOLL_CR_FETCH has just opened this descriptor for us, and nothing
        // else knows of it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Adds targets to an epoll instance of the caller exactly as they were: all of
    /// them, or none.
    ///
    /// A target that was ready is reported again if one of its events is there; an edge
    /// that was reported is not. A oneshot that has fired stays disarmed.
    ///
    /// # Errors
    ///
    /// [`RestoreError`], with
    ///
    /// - `EBADF`: the target's file, or `instance`, is opened with `O_PATH`
    /// - `EOPNOTSUPP`: `instance` is not an epoll instance
    /// - `EINVAL`: no target has such events, or the target is `instance` itself, or it
    ///   would make too many paths
    /// - `EPERM`: the file cannot be polled, or `EPOLLWAKEUP` is not allowed
    /// - `EEXIST`: the instance has this target, or it is in `items` twice
    /// - `ELOOP`: instances would contain each other
    /// - `ENOSPC`: `/proc/sys/fs/epoll/max_user_watches` would be exceeded
    pub fn restore(&self, instance: BorrowedFd<'_>, items: &[Add<'_>]) -> Result<(), RestoreError> {
        let items: Vec<_> = items.iter().map(abi::Add::from).collect();
        let mut call = Call::restore(instance, &items);
        let result = call.run(self);
        let bad = usize::try_from(call.argument().bad);
        result.map(drop).map_err(|errno| RestoreError {
            bad: bad.ok().filter(|&bad| bad < items.len()),
            errno,
        })
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For a descriptor of the device that was moved.
impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}
