// SPDX-License-Identifier: GPL-2.0

//! What a file of another task is.
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
    ptrace::Attach,
    sync::aref::ARef,
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

/// Who opened a file, in the user namespace of the current task.
#[derive(Clone, Copy)]
pub struct OpenedBy {
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// User for permissions.
    pub fsuid: u32,
    /// Group for permissions.
    pub fsgid: u32,
}

/// Who is sent a signal when a file is ready, as `F_SETOWN_EX` and `F_SETSIG` set it.
pub struct FileOwner {
    /// What `pid` is: `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub owner_type: u32,
    /// The number in the PID namespace of the current task, 0 if there is none.
    pub pid: i32,
    /// Real user of who set it, in the user namespace of the current task.
    pub uid: u32,
    /// Effective user of who set it.
    pub euid: u32,
    /// What is sent instead of `SIGIO`, or 0.
    pub signal: i32,
}

/// What a file system says about a file.
pub struct FileStat {
    /// Type and permissions.
    pub mode: u16,
    /// Number of links.
    pub nlink: u32,
    /// Device of the inode.
    pub dev: Device,
    /// The device that the file is, if it is one.
    pub rdev: Device,
    /// Number of the inode.
    pub ino: u64,
    /// Length.
    pub size: i64,
}

/// Number of a device.
pub struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
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

/// What `/proc/PID/fd` shows of a file.
pub struct FilePath<'a> {
    /// The path, as the current task sees it, unless it is too long.
    pub path: Option<&'a [u8]>,
    /// Whether it leads nowhere, but is the name of something that has no path.
    pub is_name: bool,
    /// Whether what the path leads to, if anything, is not this file any more.
    pub is_unlinked: bool,
    /// Whether the path begins outside of the root of the current task.
    pub is_unreachable: bool,
}

const DELETED: &[u8] = b" (deleted)";

impl RemoteFile {
    /// Takes a reference to the file behind descriptor `fd` of the current task.
    ///
    /// `O_PATH` descriptors do not count as open.
    ///
    /// Context: does not sleep, but has to be a task's.
    #[inline]
    pub fn fget(fd: u32) -> Result<ARef<RemoteFile>, BadFdError> {
        // SAFETY: There are no requirements on `fd`.
        let file = NonNull::new(unsafe { bindings::fget(fd) }).ok_or(BadFdError)?;

        // SAFETY: `fget` took a reference, and we pass ownership of it to the `ARef`. The cast is
        // okay because `RemoteFile` is `repr(transparent)`.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }

    /// Returns the position, without any lock: whoever has the file may be about to change it.
    #[inline]
    pub fn position(&self) -> i64 {
        // This `read_volatile` is intended to correspond to the read in `seq_show` of
        // `fs/proc/fd.c`: who may use the position without a lock is not disturbed by it.
        //
        // SAFETY: The file is valid because the shared reference guarantees a nonzero refcount.
        unsafe { (&raw const (*self.as_ptr()).f_pos).read_volatile() }
    }

    /// Returns type and permissions of the inode.
    #[inline]
    pub fn mode(&self) -> u16 {
        // SAFETY: As above; an open file has an inode, which does not change.
        unsafe { (&raw const (*(*self.as_ptr()).f_inode).i_mode).read_volatile() }
    }

    /// Returns whether the file can be polled.
    #[inline]
    pub fn can_poll(&self) -> bool {
        // SAFETY: As above. `f_op` is never `NULL` for an open file, and points to what does not
        // change.
        unsafe {
            (*(&raw const (*self.as_ptr()).f_op).read_volatile())
                .poll
                .is_some()
        }
    }

    /// Returns who opened the file.
    pub fn opened_by(&self) -> OpenedBy {
        // SAFETY: As above; a file has credentials, which do not change. The current task has a
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

    /// Returns whether `other` was opened with the very same credentials, so that
    /// [`opened_by`](Self::opened_by) is the same, too.
    #[inline]
    pub fn has_credentials_of(&self, other: &RemoteFile) -> bool {
        // SAFETY: As above, for both files. The pointers are only compared.
        unsafe { ptr::eq((*self.as_ptr()).f_cred, (*other.as_ptr()).f_cred) }
    }

    /// Returns who is sent a signal when the file is ready, if that was ever set.
    #[doc(alias = "f_getown")]
    pub fn owner(&self) -> Option<FileOwner> {
        // This `read_volatile` is intended to correspond to the READ_ONCE in `file_f_owner`.
        //
        // SAFETY: As above.
        let owner = unsafe { (&raw const (*self.as_ptr()).f_owner).read_volatile() };
        if owner.is_null() {
            return None;
        }

        // SAFETY: Once a file has one, it has it until it is freed. Its lock is initialized, and
        // protects all that is read here; `pid` holds a reference to what it points to, and
        // `pid_task` is called under RCU.
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

    /// Asks the file system about the file, which is told to be content with what it knows.
    ///
    /// Most are; some ask a server or the other nodes of a cluster all the same.
    ///
    /// Context: may sleep.
    #[doc(alias = "vfs_getattr")]
    pub fn stat(&self) -> Result<FileStat> {
        let mut stat = MaybeUninit::uninit();

        // SAFETY: The file is valid as above, so its path is; `stat` can be written to.
        to_result(unsafe {
            bindings::vfs_getattr(
                &raw const (*self.as_ptr()).__bindgen_anon_1.f_path,
                stat.as_mut_ptr(),
                bindings::STATX_BASIC_STATS,
                bindings::AT_STATX_DONT_SYNC,
            )
        })?;

        // SAFETY: `vfs_getattr` succeeded, so it has cleared all of it before it filled it in.
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

    /// Returns what `/proc/PID/fd` would show, without what it adds if the file is unlinked.
    ///
    /// There is no path in the result if `buf` is too small for it, and for what would be added.
    ///
    /// Context: may sleep.
    #[doc(alias = "d_path")]
    pub fn path<'a>(&self, buf: &'a mut [u8]) -> Result<FilePath<'a>> {
        // SAFETY: The file is valid as above, so its path is, and both parts of it.
        let (path, dentry, mnt) = unsafe {
            let path = &raw const (*self.as_ptr()).__bindgen_anon_1.f_path;

            (path, (*path).dentry, (*path).mnt)
        };

        // As `d_path` decides it.
        //
        // SAFETY: `dentry` and `mnt` are valid, and these members of them do not change, nor does
        // `d_op`, except for `d_parent`, which is not dereferenced.
        let is_name = unsafe {
            let d_op = (*dentry).d_op;

            !d_op.is_null()
                && (*d_op).d_dname.is_some()
                && ((&raw const (*dentry).d_parent).read_volatile() != dentry
                    || dentry != (*mnt).mnt_root)
        };
        // SAFETY: `dentry` is valid.
        let unlinked = || !is_name && unsafe { bindings::d_unlinked(dentry) } != 0;

        let (start, is_unlinked) = loop {
            let is_unlinked = unlinked();

            // SAFETY: `path` is valid, and `buf` can be written to for that length.
            let name = from_err_ptr(unsafe {
                let len = i32::try_from(buf.len()).unwrap_or(i32::MAX);

                bindings::d_path(path, buf.as_mut_ptr().cast(), len)
            });
            let start = match name {
                // What `d_path` returns is a part of `buf`.
                Ok(name) => Some(name.addr() - buf.as_ptr().addr()),
                Err(ENAMETOOLONG) => None,
                Err(error) => return Err(error),
            };

            // Whether the name says so is what it was when `d_path` looked, which is not known if
            // it changed around that. A name can end like this by itself.
            if unlinked() == is_unlinked {
                break (start, is_unlinked);
            }
        };

        let name = start.and_then(|start| CStr::from_bytes_until_nul(&buf[start..]).ok());
        let path = name.map(|name| match name.to_bytes() {
            name if is_unlinked => name.strip_suffix(DELETED).unwrap_or(name),
            name => name,
        });

        Ok(FilePath {
            path,
            is_name,
            is_unlinked,
            is_unreachable: !is_name && !self.is_under_root(),
        })
    }

    /// Returns whether the current task may have the file, which it has found in an epoll set of the
    /// task that it may attach to.
    ///
    /// That permission is one for what the task has opened itself, with the credentials that it has
    /// now. What somebody else opened may have come with a set that was passed on, which gives
    /// nobody the files in it: that takes the right to attach to anybody of the opener's user
    /// namespace.
    pub fn may_be_taken(&self, attach: &Attach<'_>) -> bool {
        // This `read_volatile` is intended to correspond to the one of RCU in `__task_cred`. What is
        // read is only compared: `cred` of another task can be exchanged at any time.
        //
        // SAFETY: The file is valid because the shared reference guarantees a nonzero refcount, and
        // has credentials, which do not change. The task is valid as long as `attach` is.
        let (opener, cred) = unsafe {
            let opener = (*self.as_ptr()).f_cred;
            let cred = (&raw const (*attach.task().as_ptr()).real_cred).read_volatile();

            (opener, cred)
        };

        // A process that is made gets credentials of its own. Its threads share them until something
        // of a thread's changes, which gets other ones then. The file holds those that it was opened
        // with, so their memory was not used again.
        //
        // SAFETY: The credentials of the file are valid as above, and hold a reference to their
        // namespace. This can be asked about any capability.
        ptr::eq(opener, cred)
            || unsafe { bindings::ns_capable((*opener).user_ns, bindings::CAP_SYS_PTRACE as i32) }
    }

    /// Opens a descriptor of the current task for the file, as if it was received over a socket.
    ///
    /// `flags` may have `O_CLOEXEC`. Security modules can refuse.
    ///
    /// Fails with [`ENOENT`] if it is a unix socket that was garbage: only messages had it, of which
    /// nobody could receive it, when the reference was taken from an epoll set. Nobody else may read
    /// from it, as its queue is emptied without any lock that a reader takes.
    ///
    /// Context: may sleep.
    #[doc(alias = "unix_is_collected")]
    pub fn receive_fd(&self, flags: u32) -> Result<i32> {
        // SAFETY: The file is valid as above.
        if unsafe { bindings::unix_is_collected(self.as_ptr()) } {
            return Err(ENOENT);
        }

        // SAFETY: The file is valid as above. `NULL` is for those who want only the result.
        let fd = unsafe { bindings::receive_fd(self.as_ptr(), ptr::null_mut(), flags) };

        if fd < 0 {
            return Err(Error::from_errno(fd));
        }

        Ok(fd)
    }

    fn is_under_root(&self) -> bool {
        let mut root = bindings::path::default();

        // SAFETY: The current task has a `fs` as long as it runs. Its root comes with references,
        // which are put here. The path of the file is valid as above.
        unsafe {
            bindings::get_fs_root((*Task::current_raw()).fs, &mut root);
            let is_under =
                bindings::path_is_under(&raw const (*self.as_ptr()).__bindgen_anon_1.f_path, &root);
            bindings::path_put(&root);

            is_under
        }
    }
}
