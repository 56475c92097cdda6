// SPDX-License-Identifier: GPL-2.0

//! Properties of files of other tasks.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/stat.h`](srctree/include/linux/stat.h) and
//! [`include/linux/dcache.h`](srctree/include/linux/dcache.h)

use super::{
    file::BadFdError,
    RemoteFile, //
};
use crate::{
    bindings,
    error::{
        code::*,
        from_err_ptr,
        to_result,
        Error,
        Result, //
    },
    sync::{
        aref::ARef,
        atomic::{
            atomic_load,
            Relaxed, //
        }, //
    },
    task::Task, //
};
use core::{
    ffi::CStr,
    mem::MaybeUninit,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// The credentials that a file was opened with, in the user namespace of the current task.
#[derive(Clone, Copy)]
pub struct OpenedBy {
    /// Real user ID.
    pub uid: u32,
    /// Real group ID.
    pub gid: u32,
    /// Effective user ID.
    pub euid: u32,
    /// Effective group ID.
    pub egid: u32,
    /// Filesystem user ID.
    pub fsuid: u32,
    /// Filesystem group ID.
    pub fsgid: u32,
}

/// The recipient of signals for a file, as set by `F_SETOWN_EX` and `F_SETSIG`.
pub struct FileOwner {
    /// The type of `pid`: `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub owner_type: u32,
    /// The ID in the PID namespace of the current task, or 0 if it has none there.
    pub pid: i32,
    /// The real user ID of the task that set it, in the user namespace of the current task.
    pub uid: u32,
    /// The effective user ID of the task that set it.
    pub euid: u32,
    /// The signal that is sent instead of `SIGIO`, or 0.
    pub signal: i32,
}

/// The attributes that a filesystem reports for a file.
pub struct FileStat {
    /// File type and permissions.
    pub mode: u16,
    /// Number of hard links.
    pub nlink: u32,
    /// The device that contains the inode.
    pub dev: Device,
    /// The device that the file represents, if it is a device file.
    pub rdev: Device,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: i64,
}

/// A device number.
pub struct Device {
    /// Identifies the driver.
    pub major: u32,
    /// Identifies the device among those of the driver.
    pub minor: u32,
}

impl From<bindings::dev_t> for Device {
    fn from(dev: bindings::dev_t) -> Self {
        Self {
            major: dev >> bindings::MINORBITS,
            minor: dev & ((1 << bindings::MINORBITS) - 1),
        }
    }
}

/// The path of a file, as shown in `/proc/PID/fd`.
pub struct FilePath<'a> {
    /// The path as seen by the current task, or `None` if it is too long.
    pub path: Option<&'a [u8]>,
    /// Whether this is a name that does not resolve to anything, as `pipe:[1]`.
    pub is_name: bool,
    /// Whether the file has been unlinked, so that the path no longer resolves to it.
    pub is_unlinked: bool,
    /// Whether the file is outside of the root directory of the current task.
    pub is_unreachable: bool,
}

const DELETED: &[u8] = b" (deleted)";

impl RemoteFile {
    /// Takes a reference to the file that descriptor `fd` of the current task refers to.
    ///
    /// `O_PATH` descriptors do not count as open.
    ///
    /// Context: does not sleep, but requires task context.
    #[inline]
    pub fn fget(fd: u32) -> Result<ARef<RemoteFile>, BadFdError> {
        // SAFETY: There are no requirements on `fd`.
        let file = NonNull::new(unsafe { bindings::fget(fd) }).ok_or(BadFdError)?;

        // SAFETY: `fget` took a reference, and we pass ownership of it to the `ARef`. The cast is
        // okay because `RemoteFile` is `repr(transparent)`.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Returns the file position without taking a lock. It may be changing concurrently.
    #[inline]
    pub fn position(&self) -> i64 {
        // As in `seq_show` of `fs/proc/fd.c`. Reading does not disturb a task that uses the
        // position without a lock.
        //
        // SAFETY: The file is valid because the shared reference guarantees a nonzero refcount.
        unsafe { atomic_load(&raw mut (*self.as_ptr()).f_pos, Relaxed) }
    }

    /// Returns the file type and permissions of the inode.
    #[inline]
    pub fn mode(&self) -> u16 {
        // SAFETY: As above. An open file has an inode, which does not change. `i16` has the size
        // and the alignment of the mode.
        let mode: i16 = unsafe {
            atomic_load(
                (&raw mut (*(*self.as_ptr()).f_inode).i_mode).cast(),
                Relaxed,
            )
        };

        mode as u16
    }

    /// Returns whether the file can be polled.
    #[inline]
    pub fn can_poll(&self) -> bool {
        // SAFETY: As above. The `f_op` of an open file is never `NULL` and points to operations
        // that do not change.
        unsafe {
            (*atomic_load(&raw mut (*self.as_ptr()).f_op, Relaxed))
                .poll
                .is_some()
        }
    }

    /// Returns the credentials that the file was opened with.
    pub fn opened_by(&self) -> OpenedBy {
        // SAFETY: As above. A file has credentials, which do not change. The current task has a
        // user namespace as long as it runs.
        unsafe {
            let cred = (*self.as_ptr()).f_cred;
            let ns = bindings::current_user_ns();

            OpenedBy {
                uid: bindings::from_kuid_munged(ns, (*cred).uid),
                gid: bindings::from_kgid_munged(ns, (*cred).gid),
                euid: bindings::from_kuid_munged(ns, (*cred).euid),
                egid: bindings::from_kgid_munged(ns, (*cred).egid),
                fsuid: bindings::from_kuid_munged(ns, (*cred).fsuid),
                fsgid: bindings::from_kgid_munged(ns, (*cred).fsgid),
            }
        }
    }

    /// Returns whether `other` was opened with the same `struct cred`, so that
    /// [`opened_by`](Self::opened_by) returns the same for both.
    #[inline]
    pub fn has_credentials_of(&self, other: &RemoteFile) -> bool {
        // SAFETY: As above, for both files. The pointers are only compared.
        unsafe { ptr::eq((*self.as_ptr()).f_cred, (*other.as_ptr()).f_cred) }
    }

    /// Returns the recipient of signals for the file, if one has ever been set.
    #[doc(alias = "f_getown")]
    pub fn owner(&self) -> Option<FileOwner> {
        // SAFETY: As above.
        let owner = unsafe { atomic_load(&raw mut (*self.as_ptr()).f_owner, Relaxed) };
        if owner.is_null() {
            return None;
        }

        // SAFETY: Once set, `f_owner` stays set until the file is freed. Its lock is initialized
        // and protects all fields that are read here. `pid` holds a reference to the `struct pid`,
        // and `pid_task` is called under RCU.
        unsafe {
            bindings::read_lock_irq(&raw mut (*owner).lock);
            let ns = bindings::current_user_ns();
            let pid_type = (*owner).pid_type;

            bindings::rcu_read_lock();
            let pid = if bindings::pid_task((*owner).pid, pid_type).is_null() {
                0
            } else {
                bindings::pid_vnr((*owner).pid)
            };
            bindings::rcu_read_unlock();

            let owner_type = match pid_type {
                bindings::pid_type_PIDTYPE_PID => bindings::F_OWNER_TID,
                bindings::pid_type_PIDTYPE_TGID => bindings::F_OWNER_PID,
                _ => bindings::F_OWNER_PGRP,
            };
            let result = FileOwner {
                owner_type,
                pid,
                uid: bindings::from_kuid_munged(ns, (*owner).uid),
                euid: bindings::from_kuid_munged(ns, (*owner).euid),
                signal: (*owner).signum,
            };
            bindings::read_unlock_irq(&raw mut (*owner).lock);

            Some(result)
        }
    }

    /// Returns the attributes that the filesystem reports, without synchronizing them.
    ///
    /// Most filesystems honor this. Some query a server or the other nodes of a cluster anyway.
    ///
    /// Context: may sleep.
    #[doc(alias = "vfs_getattr")]
    pub fn stat(&self) -> Result<FileStat> {
        let mut stat = MaybeUninit::uninit();

        // SAFETY: The file is valid as above, and so is its path. `stat` is valid for writes.
        to_result(unsafe {
            bindings::vfs_getattr(
                &raw const (*self.as_ptr()).__bindgen_anon_1.f_path,
                stat.as_mut_ptr(),
                bindings::STATX_BASIC_STATS,
                bindings::AT_STATX_DONT_SYNC,
            )
        })?;

        // SAFETY: `vfs_getattr` has succeeded, so it has zeroed `stat` before filling it in.
        let stat: bindings::kstat = unsafe { stat.assume_init() };

        Ok(FileStat {
            mode: stat.mode,
            nlink: stat.nlink,
            dev: stat.dev.into(),
            rdev: stat.rdev.into(),
            ino: stat.ino,
            size: stat.size,
        })
    }

    /// Returns the path shown in `/proc/PID/fd`, without ' (deleted)'.
    ///
    /// The result has no path if `buf` is too small for it, including ' (deleted)'.
    ///
    /// Context: may sleep.
    #[doc(alias = "d_path")]
    pub fn path<'a>(&self, buf: &'a mut [u8]) -> Result<FilePath<'a>> {
        let is_under_root = self.is_under_root();

        // Files that have a name instead of a path are in file systems that make up names. Some of
        // these files can be mounted, as namespaces can. One that was opened where it is mounted
        // has a path like any other file, which the caller may or may not be able to reach. The
        // condition is that of `d_path`, apart from files of failfs, which cannot be opened.
        //
        // SAFETY: The file is valid as above, and so are its path, with the mount, and its dentry.
        // The operations of a dentry and the root of a mount do not change.
        let (path, dentry, is_name) = unsafe {
            let path = &raw const (*self.as_ptr()).__bindgen_anon_1.f_path;
            let dentry = (*path).dentry;
            let d_op = (*dentry).d_op;
            let parent = atomic_load(&raw mut (*dentry).d_parent, Relaxed);
            let is_mounted = ptr::eq(parent, dentry) && ptr::eq((*(*path).mnt).mnt_root, dentry);

            (
                path,
                dentry,
                !d_op.is_null() && (*d_op).d_dname.is_some() && !is_mounted,
            )
        };
        // SAFETY: `dentry` is valid.
        let unlinked = || !is_name && unsafe { bindings::d_unlinked(dentry) } != 0;

        let (start, is_unlinked) = loop {
            let is_unlinked = unlinked();

            // SAFETY: `path` is valid, and `buf` is valid for writes of that length.
            let name = from_err_ptr(unsafe {
                let len = i32::try_from(buf.len()).unwrap_or(i32::MAX);

                bindings::d_path(path, buf.as_mut_ptr().cast(), len)
            });
            let start = match name {
                // `d_path` returns a pointer into `buf`.
                Ok(name) => Some(name.addr() - buf.as_ptr().addr()),
                Err(ENAMETOOLONG) => None,
                Err(error) => return Err(error),
            };

            // `d_path` has appended ' (deleted)' if the file was unlinked when it checked, which is
            // known only if this has not changed. The suffix alone does not tell: it may be part of
            // the name.
            if unlinked() == is_unlinked {
                break (start, is_unlinked);
            }
        };

        let name = start.and_then(|start| CStr::from_bytes_until_nul(&buf[start..]).ok());
        let path = name.map(|name| match name.to_bytes() {
            // Memory files and the like have the suffix from the start.
            name if is_unlinked || is_name => name.strip_suffix(DELETED).unwrap_or(name),
            name => name,
        });

        Ok(FilePath {
            path,
            is_name,
            is_unlinked,
            is_unreachable: !is_name && !is_under_root,
        })
    }

    /// Installs the file under a new descriptor of the current task, as if it had been received
    /// over a unix socket.
    ///
    /// `flags` may contain `O_CLOEXEC`. Fails if a security module denies it, and with [`ENOENT`]
    /// if the file is a unix socket that the garbage collector has purged: only messages that
    /// nobody could receive referred to it when the reference was taken from an epitem. Such a
    /// socket must not be used, since its queue is purged without any lock that a reader takes.
    ///
    /// Context: may sleep.
    #[doc(alias = "unix_is_collected")]
    pub fn receive_fd(&self, flags: u32) -> Result<i32> {
        // SAFETY: The file is valid as above.
        if unsafe { bindings::unix_is_collected(self.as_ptr()) } {
            return Err(ENOENT);
        }

        // SAFETY: The file is valid as above. `NULL` is allowed for callers that use only the
        // result.
        let fd = unsafe { bindings::receive_fd(self.as_ptr(), ptr::null_mut(), flags) };

        if fd < 0 {
            return Err(Error::from_errno(fd));
        }

        Ok(fd)
    }

    /// Returns whether the file is below the root directory of the current task.
    fn is_under_root(&self) -> bool {
        let mut root = bindings::path::default();

        // SAFETY: The current task has an `fs` as long as it runs. `get_fs_root` takes references
        // to the root, which are dropped here. The path of the file is valid as above.
        unsafe {
            bindings::get_fs_root((*Task::current_raw()).fs, &mut root);
            let is_under =
                bindings::path_is_under(&raw const (*self.as_ptr()).__bindgen_anon_1.f_path, &root);
            bindings::path_put(&root);

            is_under
        }
    }
}

#[macros::kunit_tests(rust_fs_file_info)]
mod tests {
    use super::*;
    use crate::epoll::{
        kunit::TestInstance,
        Epitem, //
    };

    /// Whatever a module may ask a file for, it can ask those of tests for.
    #[test]
    fn files_are_complete() -> Result {
        let instance = TestInstance::new(&[(3, 0)])?;
        let guard = instance.eventpoll().lock_killable()?;
        let file = guard.items().next().and_then(Epitem::pin).ok_or(ENOENT)?;
        drop(guard);
        let mut buf = [0; 64];

        for (file, name) in [
            (&*file, c"anon_inode:[test]"),
            (&**instance.epoll_file(), c"anon_inode:[eventpoll]"),
        ] {
            assert!(file.owner().is_none());
            assert!(file.has_credentials_of(file));
            assert!(file.opened_by().uid == 0);
            assert!(file.mode() == file.stat()?.mode);
            assert!(file.path(&mut buf)?.path == Some(name.to_bytes()));
            assert!(file.position() == 0);
            assert!(file.flags() & bindings::O_RDWR != 0);
            assert!(file.can_poll());
        }

        Ok(())
    }

    /// The files of a test may even be given to programs.
    #[test]
    fn files_of_tests_in_a_descriptor_table() -> Result {
        let instance = TestInstance::new(&[(3, 0)])?;
        let fd = instance.epoll_file().receive_fd(bindings::O_CLOEXEC)?;
        let file = RemoteFile::fget(fd as u32)?;

        // SAFETY: We have just opened this descriptor.
        unsafe { bindings::close_fd(fd as u32) };
        assert!(file.identity() == instance.epoll_file().identity());
        // The instance, and what it watches, go in any order.
        drop(instance);

        Ok(())
    }
}
